//! Images on file systems without holes, modes and owners, as USB sticks have them: exFAT by FUSE, and the kernel's own FAT where it
//! has that. Each is mounted in a mount namespace of its own, from a file through a loop device. Needs root, `/dev/fuse`,
//! `mount.exfat-fuse`, `mkfs.exfat`, `mkfs.vfat`, `strace`; without them these tests fail.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::cli::keys;
use crate::image_tools::{allocated, printed};
use crate::shipped::tree;

/// What each kind of image is asked for: few holes, so that this takes seconds.
const RAW: &[&str] = &["--esp-size", "140MiB", "--oem-size", "16MiB", "--persistent-size", "16MiB"];
const KINDS: [(&str, &[&str]); 3] = [("esp", &[]), ("iso", &[]), ("raw", RAW)];

/// A file system in a file.
struct Stick {
    kind: &'static str,
    image: PathBuf,
    at: PathBuf,
}

/// FAT of the kernel, where it has that.
const VFAT: &str = "vfat";

impl Stick {
    fn new(kind: &'static str, dir: &Path, mib: u64) -> Self {
        let (image, at) = (dir.join("stick.img"), dir.join("stick"));
        let _ = fs::remove_file(&image);
        fs::create_dir_all(&at).unwrap();
        File::create(&image).unwrap().set_len(mib << 20).unwrap();
        let program = if kind == "exfat" { "mkfs.exfat" } else { "mkfs.vfat" };
        printed(program, [&image]);
        Self { kind, image, at }
    }

    /// Runs a shell script in the mounted stick, with `$0` the program under test and `$1`, `$2`, ... the arguments.
    fn run(&self, script: &str, arguments: &[&str]) -> Output {
        let mount = match self.kind {
            VFAT => r#"mount -t vfat -o loop "$image" "$at""#,
            // The loop device goes with the mount.
            _ => {
                r#"loop=$(losetup --find --show "$image") && mount.exfat-fuse "$loop" "$at" >/dev/null 2>&1; mounted=$?
                losetup --detach "$loop"; [ $mounted = 0 ]"#
            }
        };
        // The script must not end the shell, which unmounts.
        let script = format!(
            "set -e; {mount}\n[ \"$(stat -c %d \"$at\")\" != \"$(stat -c %d \"$at/..\")\" ] || {{ echo not mounted >&2; exit 99; }}\n\
             cd \"$at\"; set +e; {script}\ndone=$?; cd /; umount \"$at\"; exit $done"
        );
        let output = Command::new("unshare")
            .args(["--mount", "sh", "-c", &script, env!("CARGO_BIN_EXE_kairos-init")])
            .args(arguments)
            .env("image", &self.image)
            .env("at", &self.at)
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        let what = "root, loop devices, /dev/fuse and the packages of tests/run.sh are needed";
        assert_ne!(output.status.code(), Some(99), "{} cannot be mounted: {said}: {what}", self.kind);
        output
    }
}

/// The file systems that this machine can mount.
fn kinds() -> Vec<&'static str> {
    let mut kinds = vec!["exfat"];
    let _ = Command::new("modprobe").args(["--quiet", "vfat"]).status();
    match fs::read_to_string("/proc/filesystems").unwrap().lines().any(|line| line.trim() == VFAT) {
        true => kinds.push(VFAT),
        // Past the test runner, which keeps what a test that passes prints.
        false => {
            let told = "NOT TRIED: this kernel has no vfat; exFAT by FUSE is, and vfat in tests/boot.sh media\n";
            std::io::stderr().write_all(told.as_bytes()).unwrap();
        }
    }
    kinds
}

#[test]
fn images_are_the_same_on_a_file_system_without_holes() {
    let (case, tree) = tree();
    let tree = tree.to_str().unwrap();
    let mut usual = Vec::new();
    for (kind, more) in KINDS {
        let to = case.dir.path().join(kind);
        printed(
            env!("CARGO_BIN_EXE_kairos-init"),
            ["image", kind, tree, "-o", to.to_str().unwrap()].iter().chain(more),
        );
        usual.push((kind, to, more));
    }
    let raw = &usual[2].1;
    assert!(allocated(raw) < fs::metadata(raw).unwrap().len(), "the disk image has no holes: this shows nothing");
    for stick in kinds() {
        let stick = Stick::new(stick, case.dir.path(), 400);
        for (kind, usual, more) in &usual {
            let usual = usual.to_str().unwrap();
            // Into a folder, in the place of an older one; the bytes are those after the file system was written out.
            let script = r#"kind=$1 tree=$2 usual=$3; shift 3; mkdir -p images && echo older >images/"$kind" &&
                "$0" image "$kind" "$tree" -o images/"$kind" "$@" >/dev/null && sync &&
                cmp images/"$kind" "$usual" && [ "$(ls -A images)" = "$kind" ] && rm images/"$kind""#;
            let arguments: Vec<&str> = [*kind, tree, usual].into_iter().chain(more.iter().copied()).collect();
            let output = stick.run(script, &arguments);
            let said = [output.stdout, output.stderr].concat();
            assert!(output.status.success(), "{kind} on {}: {}", stick.kind, String::from_utf8_lossy(&said));
        }
        // The whole run's way of writing, too: an output folder.
        let script = r#""$0" --root "$1" --output made --stage build --target uki --unsigned --compression zstd:1 --quiet >/dev/null &&
            cd made && sha256sum --check --quiet --strict SHA256SUMS && ls uki/EFI/kairos/norole.efi"#;
        let output = stick.run(script, &[case.root().to_str().unwrap()]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "the whole run on {}: {said}", stick.kind);
    }
}

#[test]
fn too_little_room_is_said_and_nothing_is_left() {
    let (case, tree) = tree();
    let tree = tree.to_str().unwrap();
    for stick in kinds() {
        // More than one UKI and less than an image.
        let stick = Stick::new(stick, case.dir.path(), 34);
        for (kind, more) in KINDS {
            // FUSE keeps a file that was removed while it was open under another name, until a moment after it is closed.
            let script = r#"kind=$1 tree=$2; shift 2; echo older >image; "$0" image "$kind" "$tree" -o image "$@"; status=$?
                for _ in $(seq 50); do case $(ls -A) in *.fuse_hidden*) sleep 0.1 ;; esac; done
                [ "$(ls -A)" = image ] && [ "$(cat image)" = older ] || { ls -A >&2; status=98; }
                (exit $status)"#;
            let arguments: Vec<&str> = [kind, tree].into_iter().chain(more.iter().copied()).collect();
            let output = stick.run(script, &arguments);
            let said = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(1), "{kind} on {}: {said}", stick.kind);
            let lines: Vec<&str> = said.lines().filter(|line| line.starts_with("error: ")).collect();
            assert!(
                matches!(&lines[..], [only] if only.starts_with("error: cannot write image: ")
                    && only.contains(" bytes") && only.ends_with("; make room there, or choose another --output")),
                "{kind} on {}: {said}",
                stick.kind
            );
        }
    }
}

/// FAT holds no file of 4 GiB: known before anything is written.
#[test]
fn an_image_that_the_file_system_cannot_hold_is_refused_at_once() {
    let kinds = kinds();
    if !kinds.contains(&VFAT) {
        // FUSE passes every length on; src/image/output.rs has the message.
        return;
    }
    let (case, tree) = tree();
    let stick = Stick::new(VFAT, case.dir.path(), 400);
    let script =
        r#""$0" image raw "$1" -o image --persistent-size 5GiB; status=$?; [ -z "$(ls -A)" ] && (exit $status)"#;
    let output = stick.run(script, &[tree.to_str().unwrap()]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(1) && said.contains("the file system cannot hold a file of"), "{said}");
}

/// Some file systems refuse a mode (shares of other systems, FAT by FUSE): the file is written all the same.
#[test]
fn a_file_system_without_modes_is_no_error() {
    let (case, tree) = tree();
    let (image, signed, made) = ("image", "signed.efi", "made");
    let (root, uki) = (case.root(), tree.join("EFI/kairos/norole.efi"));
    let (key, cert) = (keys().join("db.key"), keys().join("db.pem"));
    let [tree, root, uki, key, cert] = [&tree, &root, &uki, &key, &cert].map(|path| path.to_str().unwrap());
    let run = ["--root", root, "--output", made, "--stage", "build", "--target", "uki", "--unsigned", "--quiet"];
    for error in ["EPERM", "ENOSYS", "EOPNOTSUPP"] {
        for (wanted, arguments) in [
            (image, &["image", "esp", tree, "-o", image][..]),
            (signed, &["uki", "sign", uki, "--append", "--sb-key", key, "--sb-cert", cert, "-o", signed]),
            ("made/report.json", &[&run[..], &["--compression", "zstd:1"]].concat()),
        ] {
            let dir = tempfile::tempdir().unwrap();
            let output = Command::new("strace")
                .args(["-f", "-qq", "--seccomp-bpf", "-o", "trace", "-e", "trace=chmod,fchmod,fchmodat,?fchmodat2"])
                .args(["-e", &format!("inject=chmod,fchmod,fchmodat,?fchmodat2:error={error}")])
                .arg(env!("CARGO_BIN_EXE_kairos-init"))
                .args(arguments)
                .current_dir(dir.path())
                .output()
                .unwrap();
            assert!(output.status.success(), "{wanted}, {error}: {}", String::from_utf8_lossy(&output.stderr));
            assert!(dir.path().join(wanted).is_file(), "{wanted}, {error}");
            let trace = fs::read_to_string(dir.path().join("trace")).unwrap();
            assert!(trace.contains("(INJECTED)"), "no mode was set: this shows nothing: {trace}");
        }
    }
    // What cannot be written is an error as ever.
    let output = Command::new("strace")
        .args(["-f", "-qq", "--seccomp-bpf", "-o", "/dev/null", "-e", "inject=fchmod:error=EIO"])
        .args([env!("CARGO_BIN_EXE_kairos-init"), "image", "esp", tree, "-o", image])
        .current_dir(case.dir.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(1) && said.contains("cannot write image"), "{said}");
}
