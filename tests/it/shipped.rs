//! What the whole run ships, `image` and `build-uki`, as their users run them: read back by other programs, the same bytes
//! everywhere, and nothing half written.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use kairos_init::image::Files;
use serde_json::Value;
use tempfile::TempDir;

use crate::cli::{Case, keys, program, refused, stderr};
use crate::image_tools::{self as tools, printed};
use crate::roots;

const NOROLE: &str = "uki/EFI/kairos/norole.efi";

/// A root with a boot manager and a package database.
pub(crate) fn case() -> Case {
    let case = Case::new();
    fs::write(case.root().join("usr/lib/systemd/boot/efi/systemd-bootx64.efi"), roots::base_loader()).unwrap();
    fs::create_dir_all(case.root().join("var/lib/dpkg")).unwrap();
    let status =
        "Package: base-files\nStatus: install ok installed\nArchitecture: amd64\nVersion: 13.8\nMaintainer: A <a@b>\n";
    fs::write(case.root().join("var/lib/dpkg/status"), status).unwrap();
    case
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

fn inspect(uki: &Path) -> Value {
    let output = program(&["uki", "inspect", "--json"]).arg(uki).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The files of a FAT file system inside of a file, as mtools see them.
fn fat(image: &Path, offset: u64) -> tools::Listing {
    let to = tempfile::tempdir().unwrap();
    let drive = format!("{}@@{offset}", image.display());
    printed("mcopy", ["-s", "-n", "-Q", "-i", &drive, "::/", &to.path().display().to_string()]);
    tools::folder(to.path())
}

fn names(listing: &tools::Listing, below: &str) -> Vec<String> {
    listing.keys().filter_map(|name| name.strip_prefix(below)).map(str::to_owned).collect()
}

#[test]
fn a_run_ships_a_tree_an_iso_and_a_disk() {
    let case = case();
    let beside = case.dir.path().join("beside");
    fs::create_dir_all(beside.join("bundles")).unwrap();
    fs::write(beside.join("bundles/run.sh"), "#!/bin/sh\n").unwrap();
    fs::set_permissions(beside.join("bundles/run.sh"), PermissionsExt::from_mode(0o700)).unwrap();
    let data = case.dir.path().join("cloud_config.yaml");
    fs::write(&data, "#cloud-config\n").unwrap();
    let over = case.dir.path().join("over");
    fs::create_dir_all(over.join("etc")).unwrap();
    fs::write(over.join("etc/os-overlay"), "overlaid").unwrap();
    let (beside, data, over) = (beside.to_str().unwrap(), data.to_str().unwrap(), over.to_str().unwrap());
    case.builds(&[
        "--hardware",
        "x86-generic",
        "--artifact",
        "uki,iso,raw",
        "--name",
        "box",
        "--public-keys",
        keys().to_str().unwrap(),
        "--profile",
        "Debug: debug",
        "--overlay-iso",
        beside,
        "--install-data",
        data,
        "--overlay-rootfs",
        over,
        "--oem",
        beside,
        "--include-cmdline-in-config",
    ]);
    let out = case.out();
    let sums = Command::new("sha256sum").args(["-c", "--strict", "--quiet", "SHA256SUMS"]).current_dir(&out).output();
    assert!(sums.unwrap().status.success());

    // The tree, to the letter: this loader's entries have no profiles, so the other command line has a UKI of its own.
    let tree = tools::folder(&out.join("uki"));
    let expected = [
        "EFI/",
        "EFI/BOOT/",
        "EFI/BOOT/BOOTX64.EFI",
        "EFI/kairos/",
        "EFI/kairos/norole.efi",
        "EFI/kairos/norole_debug.efi",
        "EFI/tools/",
        "loader/",
        "loader/entries/",
        "loader/entries/norole.conf",
        "loader/entries/norole_debug.conf",
        "loader/keys/",
        "loader/keys/auto/",
        "loader/keys/auto/KEK.auth",
        "loader/keys/auto/PK.auth",
        "loader/keys/auto/db.auth",
        "loader/loader.conf",
    ];
    let found: BTreeSet<_> = tree.keys().map(|name| name.as_str()).collect();
    let expected: BTreeSet<_> = expected.into_iter().collect();
    assert_eq!(found, expected);
    for program in ["uki/EFI/BOOT/BOOTX64.EFI", NOROLE] {
        let file = out.join(program).display().to_string();
        printed("sbverify", ["--cert", &keys().join("db.pem").display().to_string(), &file]);
    }
    let others: Vec<_> = names(&tree, "EFI/kairos/").into_iter().filter(|name| name.starts_with("norole_")).collect();
    let (main, other) = (inspect(&out.join(NOROLE)), inspect(&out.join("uki/EFI/kairos").join(&others[0])));
    assert_eq!(main[".initrd"], other[".initrd"]);
    assert_eq!(main[".cmdline"]["text"], "console=ttyS0 console=tty1");
    assert_eq!(other[".cmdline"]["text"], "console=ttyS0 console=tty1 debug");
    let pcrs = json(&out.join("pcrs.json"));
    let measured =
        program(&["uki", "measure", "--json"]).arg(out.join("uki/EFI/kairos").join(&others[0])).output().unwrap();
    assert_eq!(serde_json::from_slice::<Value>(&measured.stdout).unwrap(), pcrs["ukis"][&others[0]]["11"]);

    // What the ISO carries.
    let iso = tools::stdio(&out.join("box.iso"));
    let report = printed("xorriso", ["-indev", &iso, "-pvd_info", "-report_el_torito", "plain"]);
    assert!(report.contains("Volume Id    : UKI_ISO_INSTALL"), "{report}");
    let to = case.dir.path().join("extracted");
    printed("xorriso", ["-osirrox", "on", "-indev", &iso, "-extract", "/", &to.display().to_string()]);
    let on_iso = tools::folder(&to);
    assert_eq!(on_iso.keys().collect::<Vec<_>>(), ["bundles/", "bundles/run.sh", "cloud_config.yaml", "efiboot.img"]);
    let boot_image = to.join("efiboot.img");
    assert_eq!(fat(&boot_image, 0), tree);
    printed("fsck.fat", ["-n", &boot_image.display().to_string()]);

    // The disk, as the agent would have left it.
    let raw = out.join("box.raw");
    assert!(printed("sgdisk", ["-v", &raw.display().to_string()]).contains("No problems found"));
    let installed = fat(&raw, 1 << 20);
    let entries = names(&installed, "loader/entries/");
    for role in ["active", "passive", "recovery", "statereset"] {
        assert!(entries.iter().any(|name| name.starts_with(role) && name.ends_with(".conf")), "{role}: {entries:?}");
        assert_eq!(installed[&format!("EFI/kairos/{role}.efi")], tree["EFI/kairos/norole.efi"], "{role}");
    }
    assert!(!installed.keys().any(|name| name.contains("norole")), "{entries:?}");
    let seen = tools::allocated(&raw);
    assert!(seen < 2 * fs::metadata(out.join(NOROLE)).unwrap().len() * 9, "{seen} bytes are no sparse file");

    // What it asks of machines, and the list of what is inside.
    let report = json(&out.join("report.json"));
    let (uki, unpacked) =
        (fs::metadata(out.join(NOROLE)).unwrap().len(), report["initrd"]["uncompressed_bytes"].as_u64().unwrap());
    let budget = &report["budget"];
    assert!(budget["esp_bytes"].as_u64().unwrap() > 4 * uki, "{budget}");
    assert_eq!(budget["resident_bytes"].as_u64().unwrap(), 2 * unpacked);
    assert!(budget["boot_ram_bytes"].as_u64().unwrap() >= uki + unpacked + (128 << 20), "{budget}");
    let sbom = out.join("sbom.spdx.json");
    printed(roots::spdx_tool("pyspdxtools").to_str().unwrap(), ["-i", sbom.to_str().unwrap()]);
    let text = fs::read_to_string(sbom).unwrap();
    for word in ["pkg:deb/test/base-files@13.8?arch=amd64", "nvme.ko.xz", "6.12.107-test", env!("CARGO_PKG_VERSION")] {
        assert!(text.contains(word), "{word} is not in the SBOM");
    }
    assert!(!text.contains("iwlwifi.ko.xz"), "a dropped driver is listed");
}

#[test]
fn what_an_earlier_run_left_in_the_tree_goes() {
    let case = case();
    case.builds(&["--profile", "Debug: debug"]);
    let entries = || fs::read_dir(case.out().join("uki/loader/entries")).unwrap().count();
    assert_eq!(entries(), 2);
    fs::write(case.out().join("uki/loader/entries/mine.conf"), "title mine\n").unwrap();
    let edited = case.out().join("uki/loader/entries/norole_debug.conf");
    let text = fs::read_to_string(&edited).unwrap();
    fs::write(&edited, format!("{text}# edited\n")).unwrap();
    case.builds(&[]);
    assert_eq!(entries(), 3, "what someone edited is gone");
    fs::write(&edited, text).unwrap();
    fs::remove_file(&edited).unwrap();
    // A folder that leads elsewhere is not written to.
    let elsewhere = case.dir.path().join("elsewhere");
    fs::rename(case.out().join("uki/loader/entries"), &elsewhere).unwrap();
    symlink(&elsewhere, case.out().join("uki/loader/entries")).unwrap();
    let before = tools::folder(&elsewhere);
    let base = ["--stage", "build", "--target", "uki", "--quiet", "--unsigned", "--compression", "zstd:1"];
    let output = program(&base).arg("--root").arg(case.root()).arg("--output").arg(case.out()).output().unwrap();
    assert!(output.status.code() == Some(1) && stderr(&output).contains("it is a link"), "{}", stderr(&output));
    assert_eq!(tools::folder(&elsewhere), before);
    fs::remove_file(case.out().join("uki/loader/entries")).unwrap();
    fs::rename(&elsewhere, case.out().join("uki/loader/entries")).unwrap();
    // Who wrote mine.conf is not known: it stays.
    assert_eq!(entries(), 2);
    assert!(!case.out().join("uki/EFI/kairos/norole_debug.efi").exists());
}

#[test]
fn runs_that_must_not_ship() {
    let case = case();
    let folder = |name: &str| {
        let path = case.dir.path().join(name);
        fs::create_dir_all(&path).unwrap();
        path
    };
    let (keyed, taken, odd) = (folder("keyed"), folder("taken"), folder("odd"));
    fs::copy(keys().join("db.key"), keyed.join("innocent.txt")).unwrap();
    fs::write(taken.join("efiboot.img"), "x").unwrap();
    fs::write(odd.join("usr"), "a file where the root has a folder").unwrap();
    let refuses = |more: &[&str], words: &[&str]| {
        let base = ["--stage", "build", "--target", "uki", "--quiet", "--compression", "zstd:1"];
        let mut command = program(&base);
        command.arg("--root").arg(case.root()).arg("--output").arg(case.out());
        command.arg("--sb-key").arg(keys().join("db.key")).arg("--sb-cert").arg(keys().join("db.pem"));
        command.arg("--pcr-key").arg(keys().join("tpm2-pcr-private.pem")).args(more);
        refused(&mut command, &case.root(), &case.out(), words);
    };
    let text = |path: &PathBuf| path.to_str().unwrap().to_owned();
    refuses(&["--max-uki-size", "1MiB"], &["UKI has", "--max-uki-size", "--hardware"]);
    refuses(&["--max-boot-ram", "100M"], &["boot takes", "--max-boot-ram"]);
    for option in ["--overlay-iso", "--overlay-rootfs", "--oem"] {
        refuses(&["--artifact", "iso,raw", option, &text(&keyed)], &["db.key", "innocent.txt", "published"]);
    }
    // Keys of others that are secret all the same, and keys that do not trust the image.
    let foreign = case.dir.path().join("foreign");
    let made = program(&["keys", "generate", "--quiet", "--output"]).arg(&foreign).output().unwrap();
    assert!(made.status.success(), "{}", stderr(&made));
    let secret = folder("secret");
    fs::copy(foreign.join("PK.key"), secret.join("PK.key")).unwrap();
    refuses(&["--artifact", "iso", "--overlay-iso", &text(&secret)], &["/PK.key", "private key"]);
    refuses(&["--public-keys", &text(&foreign)], &["do not trust this image", "db.pem", "--public-keys"]);
    refuses(&["--overlay-rootfs", &text(&odd)], &["/usr", "folder"]);
    refuses(&["--artifact", "iso", "--overlay-iso", &text(&taken)], &["/efiboot.img", "name of the boot image"]);
    refuses(&["--artifact", "iso", "--install-data", "/nowhere/x.raw"], &["/nowhere/x.raw", "No such file"]);
    refuses(&["--public-keys", &text(&odd)], &["PK.auth", "No such file"]);
    refuses(&["--loader", "/nowhere/boot.efi"], &["/nowhere/boot.efi"]);
    refuses(&["--loader", &text(&case.root().join("usr/lib/systemd/boot/efi/linuxx64.efi.stub"))], &["stub"]);
    refuses(&["--profile", "A: a", "--cmdline-layout", "profiles"], &["a loader too old", "257", "259", "--loader"]);
    refuses(&["--boot-branding", "two\nlines"], &["title", "two"]);
    for name in ["../out", "a/b", "", ".hidden"] {
        let wrong = program(&["--stage", "build", "--target", "uki", "--unsigned", "--name", name]).output().unwrap();
        assert!(wrong.status.code() == Some(2) && stderr(&wrong).contains("--output"), "{}", stderr(&wrong));
    }
    fs::remove_file(case.root().join("usr/lib/systemd/boot/efi/systemd-bootx64.efi")).unwrap();
    refuses(&["--artifact", "iso"], &["the boot manager", "systemd-bootx64.efi is missing", "--loader"]);
}

#[test]
fn a_newer_loader_shows_profiles_of_one_uki() {
    let case = case();
    let loader = case.dir.path().join("loader.efi");
    fs::write(&loader, roots::loader("forky")).unwrap();
    case.builds(&["--loader", loader.to_str().unwrap(), "--profile", "Debug: debug"]);
    let tree = tools::folder(&case.out().join("uki"));
    assert_eq!(names(&tree, "EFI/kairos/"), ["", "norole.efi"]);
    assert_eq!(names(&tree, "loader/entries/"), ["", "norole-profile1.conf", "norole.conf"]);
    let entry = fs::read_to_string(case.out().join("uki/loader/entries/norole-profile1.conf")).unwrap();
    assert_eq!(entry, "title Kairos (Debug)\nsort-key norole-1\nuki /EFI/kairos/norole.efi\nprofile 1\n");
}

/// A tree around a small UKI, made once for each test that wants one.
pub(crate) fn tree() -> (Case, PathBuf) {
    let case = case();
    case.builds(&["--public-keys", keys().to_str().unwrap()]);
    let tree = case.out().join("uki");
    (case, tree)
}

#[test]
fn images_are_the_same_for_everyone_everywhere() {
    let (case, tree) = tree();
    let elsewhere = tempfile::tempdir().unwrap();
    fs::set_permissions(elsewhere.path(), PermissionsExt::from_mode(0o777)).unwrap();
    let copy = elsewhere.path().join("a copy");
    // In reverse order, so that folders list otherwise; with other times, modes of the umask.
    for (path, _) in Files::scan(&tree).unwrap().iter().collect::<Vec<_>>().into_iter().rev() {
        let (from, to) = (tree.join(path.as_path()), copy.join(path.as_path()));
        fs::create_dir_all(if from.is_dir() { &to } else { to.parent().unwrap() }).unwrap();
        if from.is_file() {
            fs::write(&to, fs::read(&from).unwrap()).unwrap();
            // As on FAT, where all is executable.
            fs::set_permissions(&to, PermissionsExt::from_mode(0o555)).unwrap();
        }
    }
    for kind in ["esp", "iso", "raw"] {
        let (one, two) = (case.dir.path().join(kind), elsewhere.path().join(kind));
        let output = program(&["image", kind]).arg(&tree).arg("--output").arg(&one).output().unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        let other = Command::new("setpriv")
            .args(["--reuid=65534", "--regid=65534", "--clear-groups", env!("CARGO_BIN_EXE_kairos-init")])
            .args(["image", kind, "a copy", "--jobs", "1", "-o", kind])
            .current_dir(elsewhere.path())
            .env("TZ", "Asia/Tokyo")
            .env("HOME", "/nonexistent")
            .output()
            .unwrap();
        assert!(other.status.success(), "{}", stderr(&other));
        let same = Command::new("cmp").arg(&one).arg(&two).output().unwrap();
        assert!(same.status.success(), "{kind}: {}", String::from_utf8_lossy(&same.stdout));
    }
    // In less room, the same disk.
    let raw = case.dir.path().join("raw");
    for option in [&["--compress", "zstd"][..], &["--qcow2"]] {
        let (packed, back) = (case.dir.path().join("packed"), case.dir.path().join("back"));
        let output = program(&["image", "raw"]).arg(&tree).arg("-o").arg(&packed).args(option).output().unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        let (from, to) = (packed.to_str().unwrap(), back.to_str().unwrap());
        match option.len() {
            2 => printed("zstd", ["-d", "-q", "-f", "-o", to, from]),
            _ => {
                assert!(printed("qemu-img", ["check", from]).contains("No errors"));
                printed("qemu-img", ["convert", "-O", "raw", from, to])
            }
        };
        assert!(fs::metadata(&packed).unwrap().len() < fs::metadata(&raw).unwrap().len() / 2, "{option:?}");
        let same = Command::new("cmp").arg(&raw).arg(&back).output().unwrap();
        assert!(same.status.success(), "{option:?}: {}", String::from_utf8_lossy(&same.stdout));
    }
    // Another time stamp, another image: the option is heard.
    let later = case.dir.path().join("later");
    let output =
        program(&["image", "esp", "--source-date-epoch", "1700000000"]).arg(&tree).arg("-o").arg(&later).output();
    assert!(output.unwrap().status.success());
    assert_ne!(fs::read(later).unwrap(), fs::read(case.dir.path().join("esp")).unwrap());
}

#[test]
fn images_that_are_not_made() {
    let (case, tree) = tree();
    let out = case.dir.path().join("images");
    fs::create_dir(&out).unwrap();
    let image = out.join("image");
    let refuses = |kind: &str, tree: &Path, more: &[&str], words: &[&str]| {
        let mut command = program(&["image", kind]);
        command.arg(tree).arg("--output").arg(&image).args(more);
        refused(&mut command, tree, &out, words);
    };
    let changed = |name: &str, change: &dyn Fn(&Path)| {
        let copy = case.dir.path().join(name);
        assert!(Command::new("cp").arg("-a").arg(&tree).arg(&copy).status().unwrap().success());
        change(&copy);
        copy
    };
    let nothing = changed("nothing", &|copy| fs::remove_dir_all(copy.join("EFI/kairos")).unwrap());
    let silent = changed("silent", &|copy| fs::remove_dir_all(copy.join("EFI/BOOT")).unwrap());
    let asking = changed("asking", &|copy| {
        let entry = copy.join("loader/entries/norole.conf");
        fs::write(&entry, fs::read_to_string(&entry).unwrap().replace("efi /", "uki /")).unwrap();
    });
    let linked = changed("linked", &|copy| symlink("/etc/shadow", copy.join("EFI/tools/link")).unwrap());
    let colon = changed("colon", &|copy| fs::write(copy.join("EFI/tools/a:b"), "x").unwrap());
    let twice = changed("twice", &|copy| {
        fs::write(copy.join("EFI/tools/NAME"), "x").unwrap();
        fs::write(copy.join("EFI/tools/name"), "x").unwrap();
    });
    for kind in ["esp", "iso", "raw"] {
        refuses(kind, &nothing, &[], &["a tree without a UKI"]);
        refuses(kind, &silent, &[], &["without a boot manager"]);
        refuses(kind, &asking, &[], &["a loader too old for the entries asked for", "257"]);
        refuses(kind, &linked, &[], &["/EFI/tools/link", "FAT"]);
        refuses(kind, &colon, &[], &["/EFI/tools/a:b", "FAT"]);
        refuses(kind, &twice, &[], &["/EFI/tools/name", "one name"]);
        let other = TempDir::new().unwrap();
        let made = program(&["keys", "generate", "--quiet", "--output"]).arg(other.path().join("k")).output().unwrap();
        assert!(made.status.success());
        let db = other.path().join("k/db.pem");
        refuses(kind, &tree, &["--db", db.to_str().unwrap()], &["is not signed by the db given"]);
        refuses(kind, Path::new("/nowhere"), &[], &["/nowhere", "No such file"]);
    }
    let leaking = changed("leaking", &|copy| {
        fs::copy(keys().join("PK.key"), copy.join("loader/keys/auto/PK.key")).unwrap();
    });
    refuses("iso", &leaking, &[], &["/loader/keys/auto/PK.key", "private key"]);
    let mut inside = program(&["image", "iso"]);
    inside.arg(&tree).arg("-o").arg(tree.join("EFI/tools/a.iso"));
    refused(&mut inside, &tree, &out, &["is inside of", "--output"]);
    let small = program(&["image", "raw", "--esp-size", "128MiB"])
        .arg(&tree)
        .arg("-o")
        .arg(out.join("small"))
        .output()
        .unwrap();
    assert!(small.status.success() && stderr(&small).contains("cannot be upgraded"), "{}", stderr(&small));
    fs::remove_file(out.join("small")).unwrap();
    refuses("iso", &tree, &["--label", "a label of more than thirty-two letters"], &["label"]);
    let long = case.dir.path().join("long");
    fs::create_dir(&long).unwrap();
    fs::write(long.join("n".repeat(255)), "x").unwrap();
    refuses("iso", &tree, &["--overlay-iso", long.to_str().unwrap()], &["nnnnnnnn", "ISO 9660"]);
    refuses("raw", &tree, &["--esp-size", "1MiB"], &["FAT"]);
    refuses("raw", &tree, &["--persistent-size", "1"], &["ext4"]);
    fs::create_dir(&image).unwrap();
    refuses("iso", &tree, &[], &["in the way", "folder"]);
    fs::remove_dir(&image).unwrap();
    // The same tree with the right keys is an image.
    let db = keys().join("db.pem");
    let good =
        program(&["image", "iso", "--db", db.to_str().unwrap()]).arg(&tree).arg("-o").arg(&image).output().unwrap();
    assert!(good.status.success(), "{}", stderr(&good));
}

#[test]
fn a_full_disk_leaves_nothing_and_says_so() {
    let (case, tree) = tree();
    let small = case.dir.path().join("small");
    fs::create_dir(&small).unwrap();
    let script = r#"mount -t tmpfs -o size=8m none "$1" && cd "$1" &&
        for kind in esp iso raw; do "$2" image $kind "$3" --output "$1/image" && exit 9; ls -A "$1" | grep . && exit 8; done; exit 0"#;
    let output = Command::new("unshare")
        .args(["--mount", "sh", "-c", script, "sh"])
        .args([&small, Path::new(env!("CARGO_BIN_EXE_kairos-init")), &tree])
        .output()
        .unwrap();
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(0), "{said}{}", String::from_utf8_lossy(&output.stdout));
    assert_eq!(said.matches("make room there").count(), 3, "{said}");
}

#[test]
fn auroraboots_build_uki() {
    let case = case();
    fs::write(
        case.root().join("etc/kairos-release"),
        "KAIROS_FLAVOR=\"debian\"\nKAIROS_VERSION=\"v1.2\"\nKAIROS_RELEASE=\"v1.2\"\n",
    )
    .unwrap();
    let build = |more: &[&str]| {
        let mut command = program(&["build-uki", "-d", "made", "--tpm-pcr-private-key"]);
        command.arg(keys().join("tpm2-pcr-private.pem")).arg("--sb-key").arg(keys().join("db.key"));
        command.arg("--sb-cert").arg(keys().join("db.pem")).arg("--public-keys").arg(keys()).args(more);
        let output =
            command.arg(format!("dir:{}", case.root().display())).current_dir(case.dir.path()).output().unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
    };
    build(&["-c", "foo=bar", "-s", "My Entry: one", "--include-version-in-config", "--include-cmdline-in-config"]);
    let made = tools::folder(&case.dir.path().join("made"));
    assert_eq!(names(&made, "EFI/kairos/"), ["", "my_entry.efi", "norole.efi", "norole_foo_bar.efi"]);
    let entry = fs::read_to_string(case.dir.path().join("made/loader/entries/norole_foo_bar.conf")).unwrap();
    assert_eq!(
        entry,
        "title Kairos\nsort-key norole_foo_bar-0\nefi /EFI/kairos/norole_foo_bar.efi\nversion v1.2\ncmdline foo=bar\n"
    );
    assert_eq!(made.keys().filter(|name| !name.starts_with("EFI/") && !name.starts_with("loader/")).count(), 0);

    let loader = case.root().join("usr/lib/systemd/boot/efi/systemd-bootx64.efi");
    fs::remove_file(&loader).unwrap();
    let mut without = program(&["build-uki", "-d", "none", "--tpm-pcr-private-key"]);
    without.arg(keys().join("tpm2-pcr-private.pem")).arg("--sb-key").arg(keys().join("db.key"));
    without.arg("--sb-cert").arg(keys().join("db.pem")).arg(case.root()).current_dir(case.dir.path());
    let output = without.output().unwrap();
    assert!(
        output.status.code() == Some(1) && stderr(&output).contains("systemd-bootx64.efi is missing"),
        "{}",
        stderr(&output)
    );
    assert!(!case.dir.path().join("none").exists());
    fs::write(loader, roots::base_loader()).unwrap();

    fs::remove_dir_all(case.dir.path().join("made")).unwrap();
    build(&["-t", "iso"]);
    let made = tools::folder(&case.dir.path().join("made"));
    assert_eq!(made.keys().collect::<Vec<_>>(), ["kairos-debian-v1.2-uki.iso"]);
}
