//! Mistakes are told before the long work: what can be known from the options, from small files and from the root.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::cli::{Case, keys, listing, program, stderr};
use crate::image_tools::{self as tools, printed};
use crate::inside::{holds, packed};
use crate::roots;
use crate::shipped::{case, tree};

/// What a run says when the long work begins.
pub(crate) const LONG_WORK: &str = "compressing, measuring and signing";

/// A run that says what it does.
pub(crate) fn run(case: &Case) -> Command {
    let mut command = program(&["--stage", "build", "--target", "uki", "--compression", "zstd:1"]);
    command.arg("--root").arg(case.root()).arg("--output").arg(case.out());
    command.arg("--sb-key").arg(keys().join("db.key")).arg("--sb-cert").arg(keys().join("db.pem"));
    command.arg("--pcr-key").arg(keys().join("tpm2-pcr-private.pem"));
    command
}

/// Refused before the long work, with nothing written.
pub(crate) fn is_early(output: &Output, words: &[&str]) {
    let said = stderr(output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(!said.contains(LONG_WORK), "{said}");
    let error = said.lines().last().unwrap();
    assert!(error.starts_with("error: "), "{said}");
    for word in words {
        assert!(error.contains(word), "{word:?} is not in: {error}");
    }
}

pub(crate) fn early(case: &Case, more: &[&str], words: &[&str]) {
    let before = (listing(&case.root()), listing(&case.out()));
    is_early(&run(case).args(more).output().unwrap(), words);
    assert_eq!((listing(&case.root()), listing(&case.out())), before, "{more:?}");
}

pub(crate) fn folder(case: &Case, name: &str) -> PathBuf {
    let path = case.dir.path().join(name);
    fs::create_dir_all(&path).unwrap();
    path
}

pub(crate) fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn folders_and_files_beside_the_uki() {
    let case = case();
    let iso = |more: &[&str], words: &[&str]| early(&case, &[&["--artifact", "iso"], more].concat(), words);
    let raw = |more: &[&str], words: &[&str]| early(&case, &[&["--artifact", "raw"], more].concat(), words);
    let (good, long, taken, pipe) =
        (folder(&case, "good"), folder(&case, "long"), folder(&case, "taken"), folder(&case, "pipe"));
    fs::write(good.join("a.yaml"), "#cloud-config\n").unwrap();
    fs::write(long.join("n".repeat(254)), "x").unwrap();
    fs::write(taken.join("efiboot.img"), "x").unwrap();
    assert!(Command::new("mkfifo").arg(pipe.join("fifo")).status().unwrap().success());

    for (option, refuses) in [("--overlay-iso", &iso as &dyn Fn(&[&str], &[&str])), ("--oem", &raw)] {
        refuses(&[option, "/nowhere"], &["cannot read the folder /nowhere", "No such file"]);
        refuses(&[option, text(&good.join("a.yaml"))], &["a.yaml", "Not a directory"]);
        refuses(&[option, text(&pipe)], &[text(&pipe.join("fifo")), "a pipe"]);
        refuses(&[option, text(case.dir.path())], &["out is inside of", "--output"]);
    }
    early(&case, &["--overlay-rootfs", "/nowhere"], &["cannot read the folder /nowhere", "No such file"]);
    iso(&["--overlay-iso", text(&long)], &["nnnnnnnn", "ISO 9660", "shorten"]);
    iso(&["--overlay-iso", text(&taken)], &["/efiboot.img", "name of the boot image"]);
    let same = good.join("a.yaml");
    iso(&["--overlay-iso", text(&good), "--install-data", text(&same)], &["/a.yaml", "take its place"]);
    iso(&["--install-data", text(&taken.join("efiboot.img"))], &["/efiboot.img", "name of the boot image"]);
    iso(&["--install-data", "/nowhere/x"], &["/nowhere/x", "No such file"]);

    // As large as the partition: there is no room for it.
    let large = folder(&case, "large");
    fs::File::create(large.join("blob")).unwrap().set_len(64 << 20).unwrap();
    raw(&["--oem", text(&large)], &["ext4"]);
    raw(&["--oem", text(&good), "--oem-size", "1MiB"], &["ext4"]);
    raw(&["--persistent-size", "1"], &["ext4"]);
    raw(&["--esp-size", "32MiB"], &["FAT", "33 MiB or more"]);
    raw(&["--esp-size", "2TiB"], &["FAT", "2 TiB"]);
    raw(&["--esp-size", "34MiB"], &["FAT", "the files need"]);
}

/// Only who is not root meets files that cannot be read.
#[test]
fn files_that_cannot_be_read() {
    let case = case();
    let (beside, out) = (folder(&case, "beside"), folder(&case, "out"));
    fs::set_permissions(case.dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
    fs::set_permissions(&out, PermissionsExt::from_mode(0o777)).unwrap();
    // Larger than what is looked into for private keys.
    fs::write(beside.join("sysext.raw"), vec![1; 100 << 10]).unwrap();
    fs::set_permissions(beside.join("sysext.raw"), PermissionsExt::from_mode(0o600)).unwrap();
    let as_nobody = |more: &[&str]| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups", env!("CARGO_BIN_EXE_kairos-init")]);
        command.args(["--stage", "build", "--target", "uki", "--unsigned", "--compression", "zstd:1"]);
        command.arg("--root").arg(case.root()).arg("--output").arg(&out).args(more).output().unwrap()
    };
    let data = beside.join("sysext.raw");
    let words = [text(&data), "Permission denied", "who may do that"];
    is_early(&as_nobody(&["--artifact", "iso", "--overlay-iso", text(&beside)]), &words);
    is_early(&as_nobody(&["--artifact", "iso", "--install-data", text(&data)]), &words);
    is_early(&as_nobody(&["--artifact", "raw", "--oem", text(&beside)]), &words);
    fs::set_permissions(&beside, PermissionsExt::from_mode(0o700)).unwrap();
    is_early(&as_nobody(&["--artifact", "iso", "--overlay-iso", text(&beside)]), &[text(&beside), "Permission denied"]);
    assert_eq!(fs::read_dir(&out).unwrap().count(), 0);
}

#[test]
fn keys_to_enrol() {
    let case = case();
    let changed = |name: &str, change: &dyn Fn(&Path)| {
        let copy = folder(&case, name);
        for name in ["PK.auth", "KEK.auth", "db.auth"] {
            fs::copy(keys().join(name), copy.join(name)).unwrap();
        }
        change(&copy);
        text(&copy).to_owned()
    };
    let missing = changed("missing", &|copy| fs::remove_file(copy.join("KEK.auth")).unwrap());
    early(&case, &["--public-keys", &missing], &["KEK.auth", "No such file"]);
    let garbage = changed("garbage", &|copy| fs::write(copy.join("PK.auth"), "garbage").unwrap());
    early(&case, &["--public-keys", &garbage], &["PK.auth", "no signed update"]);
    let damaged = changed("damaged", &|copy| {
        let whole = fs::read(copy.join("db.auth")).unwrap();
        fs::write(copy.join("db.auth"), &whole[..whole.len() - 7]).unwrap();
    });
    early(&case, &["--public-keys", &damaged], &["db.auth"]);
    let swapped = changed("swapped", &|copy| {
        fs::copy(copy.join("KEK.auth"), copy.join("PK.auth")).unwrap();
    });
    early(&case, &["--public-keys", &swapped], &["PK.auth", "of KEK, not of PK"]);
    // Keys of someone else, and an image that nobody signs.
    let foreign = case.dir.path().join("foreign");
    let made = program(&["keys", "generate", "--quiet", "--output"]).arg(&foreign).output().unwrap();
    assert!(made.status.success(), "{}", stderr(&made));
    early(&case, &["--public-keys", text(&foreign)], &["do not trust this image", "db.pem", "--public-keys"]);
    let mut unsigned = program(&["--stage", "build", "--target", "uki", "--unsigned", "--public-keys"]);
    unsigned.arg(keys()).arg("--root").arg(case.root()).arg("--output").arg(case.out());
    is_early(&unsigned.output().unwrap(), &["do not trust this image", "nothing signs it"]);
    // A second signer that db trusts is enough: firmware looks for one.
    let both = run(&case)
        .args(["--sb-key", text(&foreign.join("db.key")), "--sb-cert", text(&foreign.join("db.pem"))])
        .args(["--public-keys", text(&foreign)])
        .output()
        .unwrap();
    assert!(both.status.success() && stderr(&both).contains(LONG_WORK), "{}", stderr(&both));
}

#[test]
fn names_loaders_and_limits() {
    let case = case();
    early(&case, &["--profile", "A: a", "--cmdline-layout", "profiles"], &["a loader too old", "257", "--loader"]);
    early(&case, &["--loader", text(&keys().join("db.pem"))], &["db.pem", "PE"]);
    let arm = roots::arm64().join("usr/lib/systemd/boot/efi/systemd-bootaa64.efi");
    early(&case, &["--loader", text(&arm)], &["norole.efi is for x64, and the boot manager for aa64"]);
    early(&case, &["--max-boot-ram", "100M"], &["boot takes at least", "--max-boot-ram"]);
    early(&case, &["--max-uki-size", "1MiB"], &["UKI has at least", "--max-uki-size"]);
    // What the release says is in file names and entries.
    let release = case.root().join("etc/kairos-release");
    fs::write(&release, format!("KAIROS_FLAVOR=\"{}\"\n", "n".repeat(240))).unwrap();
    early(&case, &["--artifact", "iso"], &["nnnn", "has room for", "--name"]);
    fs::write(&release, "KAIROS_RELEASE=\"v1\u{7}\"\n").unwrap();
    early(&case, &["--include-version-in-config"], &["version", "control character"]);
    fs::remove_file(release).unwrap();
    let name = "n".repeat(248);
    let long = run(&case).args(["--artifact", "iso", "--name", &name]).output().unwrap();
    assert!(long.status.code() == Some(2) && stderr(&long).contains("has room for 247"), "{}", stderr(&long));

    // No qemu-img on the way.
    let nowhere = folder(&case, "nowhere");
    let without = run(&case).args(["--artifact", "raw", "--qcow2"]).env("PATH", &nowhere).output().unwrap();
    is_early(&without, &["qemu-img", "install qemu-utils"]);
    assert!(!case.out().exists());
    // One that does not work is none.
    fs::write(nowhere.join("qemu-img"), "#!/bin/sh\necho broken >&2\nexit 3\n").unwrap();
    fs::set_permissions(nowhere.join("qemu-img"), PermissionsExt::from_mode(0o755)).unwrap();
    let broken = run(&case).args(["--artifact", "raw", "--qcow2"]).env("PATH", &nowhere).output().unwrap();
    is_early(&broken, &["qemu-img", "broken"]);

    fs::remove_file(case.root().join("usr/lib/systemd/boot/efi/systemd-bootx64.efi")).unwrap();
    for artifact in ["iso", "raw"] {
        early(&case, &["--artifact", artifact], &["systemd-bootx64.efi is missing", "install", "--loader"]);
    }
}

#[test]
fn what_is_in_the_way() {
    let case = case();
    let options = ["--artifact", "iso,raw", "--name", "box", "--qcow2"];
    let make_folder = |path: &Path| fs::create_dir(path).unwrap();
    let make_file = |path: &Path| fs::write(path, "mine").unwrap();
    let make_link = |path: &Path| symlink("/nowhere", path).unwrap();
    let make_pipe = |path: &Path| assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
    let refuses = |name: &str, make: &dyn Fn(&Path), words: &str| {
        let path = case.out().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        make(&path);
        early(&case, &options, &[text(&path), "is in the way", words, "--output"]);
        fs::remove_dir_all(case.out()).unwrap();
    };
    refuses("box.iso", &make_folder, "a folder");
    refuses("box.raw", &make_link, "a link");
    refuses("box.qcow2", &make_pipe, "a pipe");
    refuses("report.json", &make_folder, "a folder");
    refuses("SHA256SUMS", &make_link, "a link");
    refuses("uki/EFI/kairos/norole.efi", &make_link, "a link");
    refuses("uki/loader/entries", &make_link, "a link");
    refuses("uki/EFI/tools", &make_file, "it is a file, and a folder must be there");
    refuses("uki", &make_file, "it is a file, and a folder must be there");
    make_file(&case.out());
    early(&case, &options, &["out is in the way", "not a folder"]);
}

#[test]
fn lost_and_found_is_nobodys_and_old_images_are_told_of() {
    let case = case();
    let mounted = folder(&case, "mounted");
    fs::create_dir(mounted.join("lost+found")).unwrap();
    fs::set_permissions(mounted.join("lost+found"), PermissionsExt::from_mode(0o700)).unwrap();
    fs::write(mounted.join("a.yaml"), "#cloud-config\n").unwrap();
    let name = ["--name", "box"];
    let mounted_text = text(&mounted);
    let images = ["--artifact", "iso,raw", "--overlay-iso", mounted_text, "--oem", mounted_text];
    let images = [&images[..], &["--overlay-rootfs", mounted_text]].concat();
    let first = run(&case).args(name).args(images).output().unwrap();
    let said = stderr(&first);
    assert!(first.status.success() && said.contains(LONG_WORK), "{said}");
    assert_eq!(said.matches(&format!("{} is not packed", mounted.join("lost+found").display())).count(), 3, "{said}");
    assert!(!said.contains("earlier run"), "{said}");
    let (iso, to) = (case.out().join("box.iso"), case.dir.path().join("to"));
    printed("xorriso", ["-osirrox", "on", "-indev", &tools::stdio(&iso), "-extract", "/", text(&to)]);
    assert_eq!(tools::folder(&to).keys().collect::<Vec<_>>(), ["a.yaml", "efiboot.img"]);
    let report = fs::read(case.out().join("report.json")).unwrap();
    let list = packed(&case, &case.out().join("uki/EFI/kairos/norole.efi"));
    assert!(holds(&list, "a.yaml") && !list.contains("lost+found"), "{list}");

    // What this run does not write stays, and is told of: the report is about the image, and the same as before.
    let second = run(&case).args(name).output().unwrap();
    let said = stderr(&second);
    assert!(second.status.success(), "{said}");
    for image in ["box.iso", "box.raw"] {
        let path = case.out().join(image);
        let words = format!("{} is of an earlier run", path.display());
        assert!(path.is_file() && said.contains(&words), "{said}");
    }
    let of_iso = |report: &[u8]| report.windows(7).any(|window| window == b"box.iso" || window == b"lost+fo");
    assert!(!of_iso(&report) && !of_iso(&fs::read(case.out().join("report.json")).unwrap()));
    // An image of another name is someone else's.
    let third = run(&case).args(["--name", "other"]).output().unwrap();
    assert!(third.status.success() && !stderr(&third).contains("earlier run"), "{}", stderr(&third));
}

/// Of a link, a file or a folder deeper down nobody can say that it is the file system's.
#[test]
fn only_the_top_folder_is_the_file_systems() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir_all(folder.path().join("deep/lost+found")).unwrap();
    fs::create_dir_all(folder.path().join("lost+found/inside")).unwrap();
    let files = kairos_init::image::Files::scan(folder.path()).unwrap();
    let names: Vec<String> = files.iter().map(|(path, _)| path.to_string()).collect();
    assert_eq!(names, ["/deep", "/deep/lost+found"]);
    assert_eq!(files.notes().len(), 1);
    fs::remove_dir_all(folder.path().join("lost+found")).unwrap();
    fs::write(folder.path().join("lost+found"), "mine").unwrap();
    let files = kairos_init::image::Files::scan(folder.path()).unwrap();
    assert_eq!((files.iter().count(), files.notes().len()), (3, 0));
}

#[test]
fn images_of_a_tree() {
    let (case, tree) = tree();
    let (oem, nowhere) = (folder(&case, "oem"), folder(&case, "nowhere"));
    let refuses = |kind: &str, output: &Path, more: &[&str], words: &[&str]| {
        let before = listing(output.parent().unwrap());
        let mut command = program(&["image", kind]);
        let output = command.arg(&tree).arg("-o").arg(output).args(more).env("PATH", &nowhere).output().unwrap();
        is_early(&output, words);
        before
    };
    let inside = oem.join("disk.raw");
    let before = refuses("raw", &inside, &["--oem", text(&oem)], &["disk.raw is inside of", "--output"]);
    assert_eq!(listing(&oem), before);
    refuses("iso", &inside, &["--overlay-iso", text(&oem)], &["disk.raw is inside of", "--output"]);
    // That qemu-img is not there is known before the disk is laid out at all, which fails as well.
    let outside = case.dir.path().join("disk.qcow2");
    refuses("raw", &outside, &["--qcow2", "--esp-size", "1"], &["qemu-img", "install"]);
    refuses("raw", &outside, &["--oem", "/nowhere"], &["/nowhere", "No such file"]);
    assert!(!outside.exists());
    fs::create_dir(oem.join("lost+found")).unwrap();
    let made = program(&["image", "raw", "--oem", text(&oem)]).arg(&tree).arg("-o").arg(&outside).output().unwrap();
    assert!(made.status.success() && stderr(&made).contains("lost+found is not packed"), "{}", stderr(&made));
}

#[test]
fn ignored_options_are_wrong_usage() {
    let case = case();
    let usage = |more: &[&str], words: &[&str]| {
        let output = run(&case).args(more).output().unwrap();
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(words.iter().all(|word| said.contains(word)), "{said}");
        assert!(!case.out().exists());
    };
    usage(&["--overlay-iso", "x"], &["--overlay-iso is for the ISO", "add --artifact iso"]);
    usage(&["--artifact", "iso", "--qcow2"], &["--qcow2 is for the disk image", "add --artifact raw"]);
    usage(&["--dry-run"], &["--dry-run is for slimming in place"]);
    // In the environment it is for whoever wants it.
    let mut slim = program(&["--stage", "build", "--target", "uki", "--dry-run", "--hardware", "x86-generic"]);
    slim.arg("--root").arg(case.root()).env("SOURCE_DATE_EPOCH", "1");
    let output = slim.output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let signed = slim.arg("--sb-key").arg(keys().join("db.key")).output().unwrap();
    assert!(signed.status.code() == Some(2) && stderr(&signed).contains("add --output DIR"), "{}", stderr(&signed));
}

/// `build-uki` names its own flags, and takes a boot manager and a stub from elsewhere.
#[test]
fn build_uki_is_told_early_in_its_own_words() {
    let case = case();
    let made = case.dir.path().join("made");
    let build = |more: &[&str]| {
        let mut command = program(&["build-uki", "-d", text(&made), "--tpm-pcr-private-key"]);
        command.arg(keys().join("tpm2-pcr-private.pem")).arg("--sb-key").arg(keys().join("db.key"));
        command.arg("--sb-cert").arg(keys().join("db.pem")).args(more).arg(case.root()).output().unwrap()
    };
    let refuses = |more: &[&str], words: &[&str]| {
        let before = listing(&made);
        let output = build(more);
        is_early(&output, words);
        let said = stderr(&output);
        let others = ["--output;", "--output\n", "--output ", "--cmdline-layout", "--hardware", "--pcr-key"];
        assert!(others.iter().all(|option| !said.contains(option)), "{said}");
        assert_eq!(listing(&made), before);
    };
    fs::create_dir_all(made.join("kairos-uki.iso")).unwrap();
    refuses(&["-t", "iso"], &["kairos-uki.iso is in the way", "a folder", "--output-dir"]);
    fs::create_dir_all(made.join("EFI/kairos/norole.efi")).unwrap();
    refuses(&[], &["made/EFI/kairos/norole.efi is in the way", "--output-dir"]);
    fs::remove_dir_all(&made).unwrap();
    fs::write(&made, "a file").unwrap();
    refuses(&[], &["made is in the way", "not a folder", "--output-dir"]);
    fs::remove_file(&made).unwrap();
    refuses(&["-t", "iso", "-i", text(case.dir.path())], &["made is inside of", "--output-dir"]);
    refuses(&["-t", "iso", "-n", "a/b"], &["--name", "--output-dir"]);
    refuses(&["--cmd-lines-v2", "-c", "a"], &["a loader too old", "no --cmd-lines-v2"]);

    let boot = case.root().join("usr/lib/systemd/boot/efi");
    fs::remove_file(boot.join("systemd-bootx64.efi")).unwrap();
    refuses(&[], &["systemd-bootx64.efi is missing", "--loader"]);
    fs::remove_file(boot.join("linuxx64.efi.stub")).unwrap();
    refuses(&[], &["linuxx64.efi.stub is missing", "--stub"]);
    let (loader, stub) = (case.dir.path().join("loader.efi"), case.dir.path().join("stub.efi"));
    fs::write(&loader, roots::loader("forky")).unwrap();
    fs::write(&stub, roots::stub()).unwrap();
    let output = build(&["--cmd-lines-v2", "-c", "a", "--loader", text(&loader), "--stub", text(&stub)]);
    assert!(output.status.success() && stderr(&output).contains(LONG_WORK), "{}", stderr(&output));
    let names = tools::folder(&made);
    assert!(names.contains_key("EFI/BOOT/BOOTX64.EFI") && names.contains_key("EFI/tools/"), "{names:?}");
    assert!(names.contains_key("loader/entries/norole-profile1.conf"), "{names:?}");
}
