//! Where files are written: what keeps one of them from its place is told before the long work, and nothing has moved then. What is
//! written can be read by who serves it.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::cli::{Case, keys, listing, program, stderr};
use crate::early::{LONG_WORK, early, folder, is_early, run, text};
use crate::image_tools::{self as tools, printed};
use crate::shipped::{case, tree};

fn as_nobody() -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups", env!("CARGO_BIN_EXE_kairos-init")]);
    command
}

fn unsigned(mut command: Command, case: &Case) -> Output {
    command.args(["--stage", "build", "--target", "uki", "--unsigned", "--compression", "zstd:1"]);
    command.arg("--root").arg(case.root()).arg("--output").arg(case.out()).output().unwrap()
}

/// `build-uki` into a folder, with keys that everyone may read.
fn build_uki(mut command: Command, case: &Case, made: &Path) -> Output {
    let keys = keys_of_nobody(case);
    command.args(["build-uki", "-d", text(made), "--tpm-pcr-private-key", text(&keys.join("tpm2-pcr-private.pem"))]);
    command.arg("--sb-key").arg(keys.join("db.key")).arg("--sb-cert").arg(keys.join("db.pem"));
    command.arg(case.root()).output().unwrap()
}

fn keys_of_nobody(case: &Case) -> PathBuf {
    let copy = case.dir.path().join("keys");
    if !copy.exists() {
        printed("cp", ["-r", text(keys()), text(&copy)]);
        owned_by(65534, &copy);
    }
    copy
}

fn owned_by(user: u32, path: &Path) {
    printed("chown", ["-R", &format!("{user}:{user}"), text(path)]);
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

/// Mounted while `test` runs, and no longer, whatever comes of it.
fn mounted(options: &[&str], at: &Path, test: impl FnOnce() + std::panic::UnwindSafe) {
    fs::create_dir_all(at).unwrap();
    let mount = Command::new("mount").args(options).arg(at).status().unwrap();
    assert!(mount.success(), "mounting needs root");
    let result = std::panic::catch_unwind(test);
    assert!(Command::new("umount").arg(at).status().unwrap().success());
    result.unwrap();
}

/// An earlier run under sudo made some of the folders.
#[test]
fn folders_of_another_user() {
    let case = case();
    fs::set_permissions(case.dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let first = unsigned(program(&[]), &case);
    assert!(first.status.success(), "{}", stderr(&first));
    let refused = |command: &dyn Fn() -> Output, out: &Path, is_told: &dyn Fn(&Output, &[&str]), root: &Path| {
        owned_by(65534, out);
        owned_by(0, root);
        let before = listing(out);
        is_told(&command(), &[text(root), "cannot write to the folder", "Permission denied", "who may do that"]);
        assert_eq!(listing(out), before, "{}", root.display());
    };
    let out = case.out();
    for name in ["uki/EFI/BOOT", "uki/loader/entries", "uki"] {
        refused(&|| unsigned(as_nobody(), &case), &out, &is_early, &out.join(name));
    }
    // Nothing new is in this one: what an earlier run wrote there would have to go.
    owned_by(65534, &out);
    let (old, sums) = (out.join("uki/EFI/old"), out.join("SHA256SUMS"));
    fs::create_dir(&old).unwrap();
    fs::write(old.join("a.efi"), "").unwrap();
    let sum = printed("sh", ["-c", "cd \"$0\" && sha256sum uki/EFI/old/a.efi", text(&out)]);
    // Twice is once.
    fs::write(&sums, fs::read_to_string(&sums).unwrap() + &sum + &sum).unwrap();
    let is_told = |output: &Output, words: &[&str]| {
        let said = stderr(output);
        assert!(output.status.code() == Some(1) && words.iter().all(|word| said.contains(word)), "{said}");
    };
    refused(&|| unsigned(as_nobody(), &case), &out, &is_told, &old);
    owned_by(65534, &out);
    let last = unsigned(as_nobody(), &case);
    assert!(last.status.success() && !old.join("a.efi").exists(), "{}", stderr(&last));

    let made = case.dir.path().join("made");
    let first = build_uki(program(&[]), &case, &made);
    assert!(first.status.success(), "{}", stderr(&first));
    refused(&|| build_uki(as_nobody(), &case, &made), &made, &is_early, &made.join("loader"));
}

/// A rename leads neither to another file system nor to another mount of the same.
#[test]
fn mounts_inside_of_the_output() {
    let case = case();
    let words = ["a mount or a file system of its own", "--output"];
    let at = case.out().join("uki");
    mounted(&["-t", "tmpfs", "-o", "size=1m", "tmpfs"], &at, || {
        fs::create_dir_all(at.join("EFI/BOOT")).unwrap();
        early(&case, &[], &[&[&*format!("{} is in the way", at.display())], &words[..]].concat());
    });
    let (made, other) = (folder(&case, "made"), folder(&case, "other"));
    let at = made.join("loader");
    mounted(&["--bind", text(&other)], &at, || {
        let before = listing(&made);
        let output = build_uki(program(&[]), &case, &made);
        is_early(&output, &[&[&*format!("{} is in the way", at.display())], &words[..]].concat());
        assert_eq!(listing(&made), before);
    });
    // The whole output on a mount is an output like any other.
    mounted(&["--bind", text(&other)], &case.out(), || {
        let output = run(&case).output().unwrap();
        assert!(output.status.success() && stderr(&output).contains(LONG_WORK), "{}", stderr(&output));
    });
}

#[test]
fn a_link_to_what_is_not_there() {
    let case = case();
    let words = ["is in the way", "a link, and what it leads to is not there", "--output"];
    symlink("nowhere", case.out()).unwrap();
    early(&case, &[], &words);
    let link = text(&case.out()).to_owned();
    for made in [link.clone(), format!("{link}/"), format!("{link}/deeper")] {
        is_early(&build_uki(program(&[]), &case, Path::new(&made)), &words);
    }
    assert!(!case.dir.path().join("nowhere").exists());
}

#[test]
fn a_private_umask_keeps_nobody_away() {
    let case = case();
    fs::set_permissions(case.dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let mine = folder(&case, "mine");
    fs::set_permissions(&mine, PermissionsExt::from_mode(0o700)).unwrap();
    let private = || {
        let mut command = Command::new("sh");
        command.args(["-c", "umask 077; exec \"$@\"", "sh", env!("CARGO_BIN_EXE_kairos-init")]);
        command
    };
    let outputs = [unsigned(private(), &case), build_uki(private(), &case, &mine.join("a/b"))];
    for output in outputs {
        assert!(output.status.success(), "{}", stderr(&output));
    }
    for (top, count) in [(case.out(), 12), (mine.join("a"), 8)] {
        let all = tools::folder(&top);
        assert!(all.len() > count, "{all:?}");
        for name in all.keys().map(String::as_str).chain([""]) {
            let path = top.join(name);
            assert_eq!(mode(&path), if path.is_dir() { 0o755 } else { 0o644 }, "{}", path.display());
        }
    }
    // What was there stays as it was.
    assert_eq!(mode(&mine), 0o700);
    // A group that is inherited stays as well.
    let shared = folder(&case, "shared");
    fs::set_permissions(&shared, PermissionsExt::from_mode(0o2775)).unwrap();
    kairos_init::image::create_folders(&shared.join("a")).unwrap();
    assert_eq!(mode(&shared.join("a")) & 0o2755, 0o2755);
}

/// No message shows the name of a temporary file.
#[test]
fn a_folder_that_is_not_there() {
    let (case, tree) = tree();
    let nope = case.dir.path().join("nope");
    let (output, nope) = (nope.join("x"), text(&nope));
    let words = [&*format!("the folder {nope} is not there"), &*format!("mkdir -p {nope}")];
    let uki = case.dir.path().join("norole.efi");
    fs::write(&uki, crate::roots::stub()).unwrap();
    let (key, certificate) = (keys().join("db.key"), keys().join("db.pem"));
    let commands: [&[&str]; 5] = [
        &["image", "esp", text(&tree)],
        &["image", "iso", text(&tree)],
        &["image", "raw", text(&tree), "--compress", "zstd"],
        &["uki", "sign", text(&uki), "--sb-key", text(&key), "--sb-cert", text(&certificate)],
        &["keys", "variable", "db", text(&certificate)],
    ];
    for arguments in commands {
        let output = program(arguments).arg("--output").arg(&output).output().unwrap();
        is_early(&output, &words);
        assert!(!stderr(&output).contains(".kairos-init-"), "{}", stderr(&output));
    }
    // Nor where it is there, and not the caller's.
    fs::set_permissions(case.dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let theirs = folder(&case, "theirs");
    let command = as_nobody().args(["image", "iso", text(&tree), "-o"]).arg(theirs.join("x.iso")).output().unwrap();
    is_early(&command, &[text(&theirs), "Permission denied", "who may do that"]);
    assert!(!stderr(&command).contains(".kairos-init-"), "{}", stderr(&command));
}
