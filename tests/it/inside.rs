//! What lies in the root and is not of it; what is laid over it.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

use crate::cli::{Case, keys, program, stderr};
use crate::early::text;
use crate::image_tools::{digest, printed};
use crate::shipped::case;

const UKI: &str = "EFI/kairos/norole.efi";

fn run(root: &Path, out: &Path, more: &[&str]) -> Output {
    let mut command = program(&["--stage", "build", "--target", "uki", "--quiet", "--compression", "zstd:1"]);
    command.arg("--root").arg(root).arg("--output").arg(out);
    command.arg("--sb-key").arg(keys().join("db.key")).arg("--sb-cert").arg(keys().join("db.pem"));
    command.arg("--pcr-key").arg(keys().join("tpm2-pcr-private.pem")).args(more).output().unwrap()
}

fn builds(root: &Path, out: &Path, more: &[&str]) {
    let output = run(root, out, more);
    assert!(output.status.success(), "{}", stderr(&output));
}

fn refuses(output: &Output, words: &[&str]) {
    let said = stderr(output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(words.iter().all(|word| said.contains(word)), "{said}");
}

fn build_uki(root: &Path, to: &Path, more: &[&str]) -> Output {
    let mut command = program(&["build-uki", "-d", text(to), "--tpm-pcr-private-key"]);
    command.arg(keys().join("tpm2-pcr-private.pem")).arg("--sb-key").arg(keys().join("db.key"));
    command.arg("--sb-cert").arg(keys().join("db.pem")).arg("--public-keys").arg(keys()).args(more);
    command.arg(format!("dir:{}", root.display())).output().unwrap()
}

/// What GNU cpio lists of the initrd.
pub(crate) fn packed(case: &Case, uki: &Path) -> String {
    let initrd = case.dir.path().join("initrd");
    printed("objcopy", ["-O", "binary", "--only-section=.initrd", text(uki), text(&initrd)]);
    printed("sh", ["-c", "zstd -dc --long=27 \"$0\" | cpio -itv --quiet", text(&initrd)])
}

/// Whether it lists `path`.
pub(crate) fn holds(list: &str, path: &str) -> bool {
    list.lines().any(|line| line.split_whitespace().nth(8) == Some(path))
}

fn copied(case: &Case, name: &str) -> std::path::PathBuf {
    let copy = case.dir.path().join(name);
    let status = Command::new("cp").arg("-a").arg(case.root()).arg(&copy).status().unwrap();
    assert!(status.success());
    copy
}

/// As in a container build, where all is in the root: `--output /out`.
#[test]
fn an_output_in_the_root_changes_nothing_in_the_image() {
    let case = case();
    let (first, second) = (copied(&case, "first"), copied(&case, "second"));
    builds(&case.root(), &case.out(), &[]);
    builds(&first, &first.join("out"), &[]);
    std::thread::sleep(std::time::Duration::from_millis(1100));
    builds(&second, &second.join("out"), &["--cache", text(&case.dir.path().join("cache"))]);
    let made = [case.out(), first.join("out"), second.join("out")]
        .map(|out| ["uki/EFI/kairos/norole.efi", "report.json"].map(|file| digest(&fs::read(out.join(file)).unwrap())));
    assert!(made[0] == made[1] && made[1] == made[2], "{made:?}");
    // What is there of an earlier run, and what was remembered of modules, is not packed.
    builds(&second, &second.join("out"), &["--cache", text(&second.join("var/remembered"))]);
    builds(&second, &second.join("out"), &["--cache", text(&second.join("var/remembered"))]);
    assert!(fs::read_dir(second.join("var/remembered")).unwrap().count() > 0);
    let list = packed(&case, &second.join("out/uki").join(UKI));
    assert!(holds(&list, "var") && !holds(&list, "out") && !list.contains("remembered"), "{list}");
}

#[test]
fn an_output_that_is_the_root_is_refused() {
    let case = case();
    let (root, over) = (case.root(), case.dir.path().join("over"));
    fs::create_dir(&over).unwrap();
    let link = case.dir.path().join("link");
    symlink(&root, &link).unwrap();
    for out in [&root, &link] {
        refuses(&run(&root, out, &[]), &["which it is made of", "choose another --output"]);
        refuses(&build_uki(&root, out, &[]), &["which it is made of", "choose another --output-dir"]);
    }
    refuses(&run(&root, &over, &["--overlay-rootfs", text(&over)]), &["which it is made of"]);
    assert!(!root.join("uki").exists() && fs::read_dir(&over).unwrap().count() == 0);
    assert!(fs::read_dir(&root).unwrap().all(|entry| !text(&entry.unwrap().path()).contains(".kairos-init")));

    // In a folder of the root: left out, and not packed by the next run.
    let made = root.join("made");
    for _ in 0..2 {
        let output = build_uki(&root, &made, &[]);
        assert!(output.status.success(), "{}", stderr(&output));
        let list = packed(&case, &made.join(UKI));
        assert!(holds(&list, "usr") && !holds(&list, "made") && !list.contains(".kairos-init"), "{list}");
    }
}

#[test]
fn an_input_is_not_replaced() {
    let case = case();
    let out = case.out();
    fs::create_dir(&out).unwrap();
    let iso = out.join("box.iso");
    fs::write(&iso, "mine").unwrap();
    let options = ["--artifact", "iso", "--name", "box", "--install-data", text(&iso)];
    refuses(&run(&case.root(), &out, &options), &["box.iso", "which it is made of", "choose another --output"]);
    builds(&case.root(), &case.dir.path().join("tree"), &[]);
    let mut image = program(&["image", "iso", "--install-data", text(&iso), "--output", text(&iso)]);
    refuses(&image.arg(case.dir.path().join("tree/uki")).output().unwrap(), &["box.iso", "which it is made of"]);
    assert_eq!(fs::read(&iso).unwrap(), b"mine");
}

/// What the image is called and how it starts is read from what is packed, overlays included.
#[test]
fn an_overlay_counts_for_the_whole_image() {
    let case = case();
    let over = case.dir.path().join("over");
    for folder in ["etc", "usr/lib", "usr/bin"] {
        fs::create_dir_all(over.join(folder)).unwrap();
    }
    // In the root it is a link, which leads to the overlay's file.
    let _absent = fs::remove_file(case.root().join("etc/os-release"));
    symlink("../usr/lib/os-release", case.root().join("etc/os-release")).unwrap();
    fs::write(over.join("usr/lib/os-release"), "ID=laid-over\n").unwrap();
    let release = "KAIROS_FLAVOR=\"overlaid\"\nKAIROS_RELEASE=\"v9\"\nKAIROS_VERSION=\"v9\"\n";
    fs::write(over.join("etc/kairos-release"), release).unwrap();
    fs::write(over.join("usr/bin/immucore"), "#!/bin/sh\n").unwrap();
    let options = ["--overlay-rootfs", text(&over), "--artifact", "iso", "--include-version-in-config"];
    builds(&case.root(), &case.out(), &options);

    assert!(case.out().join("kairos-overlaid-v9-uki.iso").is_file());
    let entry = fs::read_to_string(case.out().join("uki/loader/entries/norole.conf")).unwrap();
    assert!(entry.contains("version v9\n"), "{entry}");
    let uki = case.out().join("uki").join(UKI);
    let inspected = program(&["uki", "inspect", "--json"]).arg(&uki).output().unwrap();
    let sections: Value = serde_json::from_slice(&inspected.stdout).unwrap();
    assert_eq!(sections[".osrel"]["text"], "ID=laid-over\n");
    assert!(sections[".cmdline"]["text"].as_str().unwrap().contains("rd.immucore.uki"), "{sections}");
    let list = packed(&case, &uki);
    assert!(list.lines().any(|line| line.ends_with(" init -> /usr/bin/immucore")), "{list}");
}

/// Whoever adds a boot manager later would enrol them.
#[test]
fn foreign_keys_are_refused_without_a_boot_manager_too() {
    let case = case();
    fs::remove_file(case.root().join("usr/lib/systemd/boot/efi/systemd-bootx64.efi")).unwrap();
    let foreign = case.dir.path().join("foreign");
    let made = program(&["keys", "generate", "--quiet", "--output"]).arg(&foreign).output().unwrap();
    assert!(made.status.success(), "{}", stderr(&made));
    let output = run(&case.root(), &case.out(), &["--public-keys", text(&foreign)]);
    refuses(&output, &["do not trust this image", "--public-keys"]);
    assert!(!case.out().exists());
    builds(&case.root(), &case.out(), &["--public-keys", text(keys())]);
}

/// Container builds pass empty variables on.
#[test]
fn an_empty_time_in_the_environment_is_none() {
    let (case, folder) = (case(), tempfile::tempdir().unwrap());
    let made = |epoch: &str, out: &str| {
        let mut command = program(&["--stage", "build", "--target", "uki", "--unsigned", "--quiet", "--output"]);
        command.arg(folder.path().join(out)).arg("--root").arg(case.root()).env("SOURCE_DATE_EPOCH", epoch);
        command.output().unwrap()
    };
    let uki = |out: &str| digest(&fs::read(folder.path().join(out).join("uki").join(UKI)).unwrap());
    for (epoch, out) in [("", "empty"), ("1000000000", "set")] {
        let output = made(epoch, out);
        assert!(output.status.success(), "{}", stderr(&output));
    }
    assert_ne!(uki("empty"), uki("set"));
    refuses(&made("yesterday", "bad"), &["SOURCE_DATE_EPOCH", "no number of seconds"]);
    assert!(!folder.path().join("bad").exists());
    // A command that has no time does not ask.
    let mut show = program(&["keys", "show"]);
    assert!(show.arg(keys().join("db.pem")).env("SOURCE_DATE_EPOCH", "yesterday").output().unwrap().status.success());
}
