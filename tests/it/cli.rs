//! The program as its users run it, on a small root made of real parts: what it refuses, and what it leaves behind.

use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::roots;

const RELEASE: &str = "6.12.107-test";
/// Modules of the real kernel, by name: what Kairos must have of it and a few that go.
const MODULES: [&str; 8] = ["nvme", "nvme-core", "efivarfs", "iwlwifi", "cfg80211", "e1000e", "loop", "snd"];

/// A folder with a root, keys and an output folder that is not there yet.
pub(crate) struct Case {
    pub(crate) dir: TempDir,
}

fn find(below: &Path, name: &str) -> Option<PathBuf> {
    std::fs::read_dir(below).unwrap().map(|entry| entry.unwrap().path()).find_map(|path| match path.is_dir() {
        true => find(&path, name),
        false => path.file_name().is_some_and(|file| file == name).then_some(path),
    })
}

/// Keys are made once: that takes a second.
pub(crate) fn keys() -> &'static Path {
    static KEYS: OnceLock<TempDir> = OnceLock::new();
    let dir = KEYS.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        let output =
            program(&["keys", "generate", "--quiet", "--output"]).arg(dir.path().join("keys")).output().unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        dir
    });
    Box::leak(dir.path().join("keys").into_boxed_path())
}

pub(crate) fn program(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kairos-init"));
    command.args(arguments).env_remove("SOURCE_DATE_EPOCH");
    command
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

impl Case {
    pub(crate) fn new() -> Self {
        let case = Self { dir: tempfile::tempdir().unwrap() };
        let root = case.root();
        for directory in ["usr/lib/systemd/boot/efi", "usr/lib/firmware", "boot", "etc", "run", "tmp", "usr/bin"] {
            std::fs::create_dir_all(root.join(directory)).unwrap();
        }
        symlink("usr/lib", root.join("lib")).unwrap();
        std::fs::write(root.join("usr/lib/systemd/boot/efi/linuxx64.efi.stub"), roots::stub()).unwrap();
        std::fs::write(root.join("usr/lib/systemd/systemd"), "not really systemd").unwrap();
        std::fs::write(root.join("etc/os-release"), "ID=test\n").unwrap();
        case.kernel(RELEASE);
        case
    }

    fn kernel(&self, release: &str) {
        let modules = self.root().join("usr/lib/modules").join(release);
        std::fs::write(self.root().join("boot").join(format!("vmlinuz-{release}")), roots::kernel()).unwrap();
        std::fs::create_dir_all(modules.join("kernel")).unwrap();
        let real = roots::base().join("usr/lib/modules");
        for name in MODULES {
            let file = format!("{name}.ko.xz");
            std::fs::copy(find(&real, &file).unwrap(), modules.join("kernel").join(&file)).unwrap();
        }
        for index in ["modules.order", "modules.builtin", "modules.builtin.modinfo"] {
            std::fs::copy(find(&real, index).unwrap(), modules.join(index)).unwrap();
        }
        // Not all dependencies are there: depmod says so, and lists what is.
        let depmod = Command::new("depmod").arg("-b").arg(self.root()).arg(release).output().unwrap();
        assert!(depmod.status.success(), "{}", stderr(&depmod));
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    pub(crate) fn out(&self) -> PathBuf {
        self.dir.path().join("out")
    }

    fn modules(&self) -> PathBuf {
        self.root().join("usr/lib/modules").join(RELEASE)
    }

    fn command(&self, more: &[&str]) -> Command {
        let mut command = program(&["--stage", "build", "--target", "uki", "--quiet", "--compression", "zstd:1"]);
        command.arg("--root").arg(self.root()).arg("--output").arg(self.out());
        command.arg("--sb-key").arg(keys().join("db.key")).arg("--sb-cert").arg(keys().join("db.pem"));
        command.arg("--pcr-key").arg(keys().join("tpm2-pcr-private.pem")).args(more);
        command
    }

    pub(crate) fn builds(&self, more: &[&str]) {
        let output = self.command(more).output().unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
    }

    /// Runs, and holds what every refusal must hold: exit code 1, one line, nothing written, the root untouched.
    fn refuses(&self, more: &[&str], words: &[&str]) {
        refused(&mut self.command(more), &self.root(), &self.out(), words);
    }
}

pub(crate) fn refused(command: &mut Command, root: &Path, out: &Path, words: &[&str]) {
    let (root_before, out_before) = (listing(root), listing(out));
    let output = command.output().unwrap();
    let message = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert_eq!(message.lines().count(), 1, "{message}");
    assert!(message.starts_with("error: "), "{message}");
    for word in words {
        assert!(message.contains(word), "{word:?} is not in: {message}");
    }
    assert_eq!(listing(out), out_before, "{message}");
    assert_eq!(listing(root), root_before, "{message}");
}

/// Path -> mode, length, modification time; empty where there is nothing.
pub(crate) fn listing(path: &Path) -> BTreeMap<PathBuf, (u32, u64, i64, i64)> {
    let mut all = BTreeMap::new();
    let Ok(metadata) = std::fs::symlink_metadata(path) else { return all };
    all.insert(path.to_owned(), (metadata.mode(), metadata.len(), metadata.mtime(), metadata.mtime_nsec()));
    if metadata.is_dir() {
        // The folder that holds temporary files changes its time; what counts is what it holds.
        all.insert(path.to_owned(), (metadata.mode(), 0, 0, 0));
        for entry in std::fs::read_dir(path).unwrap() {
            all.extend(listing(&entry.unwrap().path()));
        }
    }
    all
}

#[test]
fn a_small_root_becomes_a_uki_that_the_verifiers_accept() {
    let case = Case::new();
    let before = listing(&case.root());
    case.builds(&["--hardware", "x86-generic", "--drop", "snd"]);
    assert_eq!(listing(&case.root()), before);
    let sums =
        Command::new("sha256sum").args(["-c", "--strict", "--quiet", "SHA256SUMS"]).current_dir(case.out()).output();
    assert!(sums.unwrap().status.success());
    let uki = case.out().join("uki/EFI/kairos/norole.efi");
    let verify = Command::new("sbverify").arg("--cert").arg(keys().join("db.pem")).arg(&uki).output().unwrap();
    assert!(verify.status.success() && !stderr(&verify).contains("warning"), "{}", stderr(&verify));
    let report: serde_json::Value =
        serde_json::from_slice(&std::fs::read(case.out().join("report.json")).unwrap()).unwrap();
    assert_eq!(report["schema"], 1);
    let item = |name: &str| {
        let items = report["modules"]["items"].as_array().unwrap();
        items.iter().find(|item| item["path"].as_str().unwrap().ends_with(name)).unwrap().clone()
    };
    assert_eq!(item("/nvme.ko.xz")["kept"], true);
    assert_eq!(item("/iwlwifi.ko.xz")["kept"], false);
    assert!(item("/snd.ko.xz")["reason"].as_str().unwrap().contains("--drop"));
    let measured = program(&["uki", "measure", "--json"]).arg(&uki).output().unwrap();
    let pcrs: serde_json::Value =
        serde_json::from_slice(&std::fs::read(case.out().join("pcrs.json")).unwrap()).unwrap();
    assert_eq!(serde_json::from_slice::<serde_json::Value>(&measured.stdout).unwrap(), pcrs["11"]);
}

#[test]
fn the_same_input_gives_the_same_bytes_anywhere() {
    let (a, b) = (Case::new(), tempfile::tempdir().unwrap());
    a.builds(&["--hardware", "x86-generic", "--jobs", "1"]);
    let copy = b.path().join("somewhere/else");
    std::fs::create_dir_all(copy.parent().unwrap()).unwrap();
    assert!(Command::new("cp").arg("-a").arg(a.root()).arg(&copy).status().unwrap().success());
    std::thread::sleep(Duration::from_millis(1100));
    let out = b.path().join("out");
    let mut command = program(&["--stage", "build", "--target", "uki", "--quiet", "--compression", "zstd:1"]);
    command.arg("--root").arg(&copy).arg("--output").arg(&out).args(["--hardware", "x86-generic", "--jobs", "3"]);
    command.arg("--sb-key").arg(keys().join("db.key")).arg("--sb-cert").arg(keys().join("db.pem"));
    command.arg("--pcr-key").arg(keys().join("tpm2-pcr-private.pem")).current_dir("/").env("TZ", "Asia/Tokyo");
    assert!(command.status().unwrap().success());
    for name in ["uki/EFI/kairos/norole.efi", "report.json", "pcrs.json", "SHA256SUMS"] {
        assert!(std::fs::read(a.out().join(name)).unwrap() == std::fs::read(out.join(name)).unwrap(), "{name} differs");
    }
}

#[test]
fn roots_kernels_and_stubs_that_cannot_be_used() {
    let case = Case::new();
    case.refuses(&["--kernel", "1.2.3"], &["1.2.3", RELEASE]);
    case.refuses(&["--stub", "/nowhere/stub"], &["/nowhere/stub", "No such file"]);
    case.refuses(&["--init", "/usr/bin/nothing"], &["/usr/bin/nothing", "--init"]);
    case.refuses(&["--hardware", "x86-generik"], &["x86-generik", "x86-generic"]);
    case.refuses(&["--hardware", "x86-generic", "--drop", "no_such_module"], &["no_such_module"]);
    case.refuses(&["--hardware", "x86-generic", "--drop", "efivarfs"], &["efivarfs"]);
    let signed = case.dir.path().join("signed");
    std::fs::write(&signed, roots::kernel()).unwrap();
    case.refuses(&["--stub", signed.to_str().unwrap()], &["stub", "signed already"]);
    std::fs::write(&signed, "garbage").unwrap();
    case.refuses(&["--stub", signed.to_str().unwrap()], &["stub", "PE"]);
    std::fs::remove_file(case.root().join("usr/lib/systemd/boot/efi/linuxx64.efi.stub")).unwrap();
    case.refuses(&[], &["linuxx64.efi.stub", "systemd-boot-efi"]);
    std::fs::remove_file(case.root().join(format!("boot/vmlinuz-{RELEASE}"))).unwrap();
    case.refuses(&[], &["boot image", RELEASE]);
    std::fs::remove_dir_all(case.root().join("usr/lib/modules")).unwrap();
    case.refuses(&[], &["kernel"]);
    std::fs::remove_dir_all(case.root()).unwrap();
    case.refuses(&[], &["root", "No such file"]);
    std::fs::write(case.root(), "a file").unwrap();
    case.refuses(&[], &["root", "Not a directory"]);
}

#[test]
fn keys_that_cannot_be_used() {
    let case = Case::new();
    let with = |key: &Path, cert: &Path, words: &[&str]| {
        let mut command = program(&["--stage", "build", "--target", "uki", "--quiet"]);
        command.arg("--root").arg(case.root()).arg("--output").arg(case.out());
        command.arg("--sb-key").arg(key).arg("--sb-cert").arg(cert).arg("--pcr-key").arg(key);
        refused(&mut command, &case.root(), &case.out(), words);
    };
    let (key, cert) = (keys().join("db.key"), keys().join("db.pem"));
    with(Path::new("/nowhere/db.key"), &cert, &["/nowhere/db.key"]);
    with(&cert, &cert, &["db.pem"]);
    with(&key, &keys().join("KEK.pem"), &["db.key", "KEK.pem"]);
    let garbage = case.dir.path().join("garbage.key");
    std::fs::write(&garbage, "garbage").unwrap();
    with(&garbage, &cert, &["garbage.key"]);

    let mut none = program(&["--stage", "build", "--target", "uki", "--quiet"]);
    none.arg("--root").arg(case.root()).arg("--output").arg(case.out());
    refused(&mut none, &case.root(), &case.out(), &["--sb-key", "--unsigned"]);

    // In the root under another name, and where nothing is packed.
    let inside = case.root().join("etc/forgotten");
    std::fs::copy(&key, &inside).unwrap();
    case.refuses(&[], &["db.key", "/etc/forgotten", "published"]);
    std::fs::rename(&inside, case.root().join("run/secret")).unwrap();
    case.builds(&[]);
}

#[test]
fn damaged_and_hostile_modules_and_indexes() {
    let case = Case::new();
    let nvme = case.modules().join("kernel/nvme.ko.xz");
    let whole = std::fs::read(&nvme).unwrap();
    for length in [0, 10, 500] {
        std::fs::write(&nvme, &whole[..length]).unwrap();
        case.refuses(&["--hardware", "x86-generic"], &["nvme.ko.xz"]);
    }
    let bomb = case.dir.path().join("bomb");
    let zeros = std::fs::File::create(&bomb).unwrap();
    zeros.set_len(1 << 30).unwrap();
    let packed = Command::new("xz").args(["-0", "-c"]).arg(&bomb).output().unwrap();
    std::fs::write(&nvme, packed.stdout).unwrap();
    let started = Instant::now();
    case.refuses(&["--hardware", "x86-generic"], &["nvme.ko.xz"]);
    assert!(started.elapsed() < Duration::from_secs(60));
    std::fs::write(&nvme, &whole).unwrap();

    let dep = case.modules().join("modules.dep");
    let text = std::fs::read_to_string(&dep).unwrap();
    for line in ["kernel/missing.ko.xz:", "../../../etc/passwd.ko:", "/etc/passwd.ko:", "kernel/nvme.ko.xz: ../x.ko"] {
        std::fs::write(&dep, format!("{text}{line}\n")).unwrap();
        case.refuses(&["--hardware", "x86-generic"], &["modules.dep"]);
    }
    std::fs::write(&dep, [0xff, 0xfe, 0]).unwrap();
    case.refuses(&["--hardware", "x86-generic"], &["modules.dep"]);
    std::fs::remove_file(&dep).unwrap();
    case.refuses(&["--hardware", "x86-generic"], &["depmod"]);
}

#[test]
fn firmware_links_that_loop_or_leave_the_root_do_no_harm() {
    let case = Case::new();
    let firmware = case.root().join("usr/lib/firmware");
    symlink("loop", firmware.join("loop")).unwrap();
    symlink("../../../../../../../etc/passwd", firmware.join("escape")).unwrap();
    symlink(".", firmware.join("here")).unwrap();
    case.builds(&["--hardware", "x86-generic"]);
}

#[test]
fn output_folders_that_cannot_be_used() {
    let case = Case::new();
    std::fs::write(case.out(), "a file").unwrap();
    case.refuses(&[], &["out", "not a folder"]);
    std::fs::remove_file(case.out()).unwrap();

    // A full disk.
    std::fs::create_dir(case.out()).unwrap();
    let mount = Command::new("mount").args(["-t", "tmpfs", "-o", "size=6m", "tmpfs"]).arg(case.out()).status().unwrap();
    assert!(mount.success(), "mounting a small tmpfs needs root");
    let result = std::panic::catch_unwind(|| case.refuses(&[], &["No space left"]));
    assert!(Command::new("umount").arg(case.out()).status().unwrap().success());
    result.unwrap();

    // Inside the root: it is not packed, and a second run is the same.
    let inside = case.root().join("out");
    let run = || {
        let mut command =
            program(&["--stage", "build", "--target", "uki", "--quiet", "--unsigned", "--compression", "zstd:1"]);
        let status = command.arg("--root").arg(case.root()).arg("--output").arg(&inside).status().unwrap();
        assert!(status.success());
        std::fs::read(inside.join("SHA256SUMS")).unwrap()
    };
    assert_eq!(run(), run());
}

/// A rename takes the place of whatever is there: of devices too, and as root nothing else would stop it.
#[test]
fn only_regular_files_are_replaced() {
    let case = Case::new();
    std::fs::create_dir_all(case.out().join("uki/EFI/kairos")).unwrap();
    let (device, pipe, link) = (case.out().join("device"), case.out().join("pipe"), case.out().join("link"));
    let make = |arguments: &[&str], path: &Path, end: &[&str]| {
        let status = Command::new(arguments[0]).args(&arguments[1..]).arg(path).args(end).status().unwrap();
        assert!(status.success(), "{arguments:?} needs root");
    };
    // The numbers of /dev/null, in a place of our own.
    make(&["mknod"], &device, &["c", "1", "3"]);
    make(&["mkfifo"], &pipe, &[]);
    symlink(&device, &link).unwrap();
    let linux = case.root().join(format!("boot/vmlinuz-{RELEASE}"));
    let stub = case.root().join("usr/lib/systemd/boot/efi/linuxx64.efi.stub");
    for (path, word) in [(&device, "device"), (&pipe, "pipe"), (&link, "link"), (&case.out(), "folder")] {
        let mut command = program(&["uki", "build", "--quiet", "--cmdline", "x"]);
        command.arg("--linux").arg(&linux).arg("--stub").arg(&stub).arg("--output").arg(path);
        refused(&mut command, &case.root(), &case.out(), &["in the way", word, path.to_str().unwrap()]);
    }
    let uki = case.out().join("uki/EFI/kairos/norole.efi");
    make(&["mknod"], &uki, &["c", "1", "3"]);
    case.refuses(&[], &["norole.efi", "in the way", "device"]);
    std::fs::remove_file(&uki).unwrap();
    case.builds(&[]);
    case.builds(&[]);
}

#[test]
fn a_file_that_changes_while_it_is_packed_is_named() {
    let case = Case::new();
    let path = case.root().join("etc/growing");
    std::fs::write(&path, vec![7; 1 << 20]).unwrap();
    let mut child = case.command(&[]).stderr(Stdio::piped()).spawn().unwrap();
    let mut file = std::fs::OpenOptions::new().append(true).open(&path).unwrap();
    while child.try_wait().unwrap().is_none() {
        file.write_all(b"more").unwrap();
        std::thread::sleep(Duration::from_millis(1));
    }
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("/etc/growing"), "{}", stderr(&output));
    assert!(listing(&case.out()).is_empty());
}

#[test]
fn signals_leave_nothing_behind() {
    let case = Case::new();
    // Enough to be busy with when the signal comes.
    std::fs::write(case.root().join("etc/large"), vec![1; 200 << 20]).unwrap();
    for signal in ["INT", "TERM"] {
        let mut command =
            program(&["--stage", "build", "--target", "uki", "--quiet", "--unsigned", "--compression", "zstd:19"]);
        let child = command
            .arg("--root")
            .arg(case.root())
            .arg("--output")
            .arg(case.out())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let started = Instant::now();
        while !case.out().exists() && started.elapsed() < Duration::from_secs(30) {
            std::thread::sleep(Duration::from_millis(10));
        }
        let kill = Command::new("kill").args([format!("-{signal}"), child.id().to_string()]).status().unwrap();
        assert!(kill.success());
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
        assert!(stderr(&output).contains("interrupted"), "{}", stderr(&output));
        assert!(listing(&case.out()).is_empty());
    }
}

#[test]
fn keys_are_private_and_never_overwritten() {
    let mode = |name: &str| std::fs::metadata(keys().join(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!([mode("db.key"), mode("tpm2-pcr-private.pem"), mode("db.pem")], [0o600, 0o600, 0o644]);
    let before = listing(keys());
    let again = program(&["keys", "generate", "--quiet", "--output"]).arg(keys()).output().unwrap();
    assert_eq!(again.status.code(), Some(1));
    assert!(stderr(&again).contains("db.key") || stderr(&again).contains("PK.key"), "{}", stderr(&again));
    assert_eq!(listing(keys()), before);
}

#[test]
fn what_immucore_expects() {
    let case = Case::new();
    std::fs::write(case.root().join("usr/bin/immucore"), "not really immucore").unwrap();
    case.kernel("6.12.99-test");
    case.builds(&["--extend-cmdline", "  debug   more "]);
    let uki = case.out().join("uki/EFI/kairos/norole.efi");
    let inspect = program(&["uki", "inspect", "--json"]).arg(&uki).output().unwrap();
    let sections: serde_json::Value = serde_json::from_slice(&inspect.stdout).unwrap();
    assert_eq!(
        sections[".cmdline"]["text"],
        "console=ttyS0 console=tty1 net.ifnames=1 rd.immucore.oemlabel=COS_OEM rd.immucore.oemtimeout=2 rd.immucore.uki \
         selinux=0 panic=5 rd.shell=0 systemd.crash_reboot=yes install-mode debug more"
    );
    assert_eq!(sections[".uname"]["text"], RELEASE);
    let initrd = case.dir.path().join("initrd");
    let dump = Command::new("objcopy").args(["-O", "binary", "--only-section=.initrd"]).arg(&uki).arg(&initrd).status();
    assert!(dump.unwrap().success());
    let list = Command::new("sh")
        .arg("-c")
        .arg("zstd -dc --long=27 \"$0\" | cpio -itv --quiet")
        .arg(&initrd)
        .output()
        .unwrap();
    let list = String::from_utf8_lossy(&list.stdout).into_owned();
    let has = |end: &str| list.lines().any(|line| line.ends_with(end));
    assert!(has(" init -> /usr/bin/immucore"), "{list}");
    assert!(has(" oem") && has(" efi") && has(" usr/local/cloud-config") && has(" boot"), "{list}");
    assert!(!list.contains("6.12.99-test") && !list.contains("boot/vmlinuz"), "{list}");
}
