//! Slimming in place: what goes and what stays, kill -9, hostile journals, running machines.
//!
//! The roots are parts of the real one, copied; where a test needs many of them they are hard links to one copy, which slimming
//! must not change: it removes names and renames new files into place.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};
use tempfile::TempDir;

use crate::roots;

const OTHER: &str = "6.1.0-1-other";
const JOURNAL: &str = "usr/lib/modules/.kairos-init-slim.journal";

fn program(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kairos-init"));
    command.args(arguments).env_remove("SOURCE_DATE_EPOCH").stdin(Stdio::null());
    command
}

fn slim(root: &Path, more: &[&str]) -> Command {
    let mut command = program(&["slim", "--quiet", "--root"]);
    command.arg(root).args(more);
    command
}

const TARGET: [&str; 2] = ["--hardware", "x86-generic"];

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn succeeds(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout)
}

/// Exit code 1, one line, nothing changed in `root`.
fn refused(command: &mut Command, root: &Path, words: &[&str]) {
    let before = tree(root);
    let output = command.output().unwrap();
    fails(&output, words);
    same(&tree(root), &before);
}

fn fails(output: &Output, words: &[&str]) {
    let message = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert_eq!(message.lines().count(), 1, "{message}");
    for word in words {
        assert!(message.contains(word), "{word:?} is not in: {message}");
    }
}

/// Everything below `root`: kind, mode, owner, modification time, content. Of files that nobody writes anew, the inode stands for
/// the content.
fn tree(root: &Path) -> BTreeMap<PathBuf, String> {
    let mut all = BTreeMap::new();
    let mut pending = vec![root.to_owned()];
    while let Some(path) = pending.pop() {
        let metadata = std::fs::symlink_metadata(&path).unwrap();
        let content = if metadata.is_dir() {
            pending.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            String::new()
        } else if metadata.is_symlink() {
            std::fs::read_link(&path).unwrap().display().to_string()
        } else if metadata.nlink() == 1
            && path.file_name().is_some_and(|name| text(name.as_bytes()).starts_with("modules."))
        {
            hex::encode(Sha256::digest(std::fs::read(&path).unwrap()))
        } else {
            format!("inode {} of {} bytes", metadata.ino(), metadata.len())
        };
        let (uid, gid, mtime) = (metadata.uid(), metadata.gid(), (metadata.mtime(), metadata.mtime_nsec()));
        let entry = format!("{:o} {uid}:{gid} {mtime:?} {content}", metadata.mode());
        all.insert(path.strip_prefix(root).unwrap().to_owned(), entry);
    }
    all
}

fn same(a: &BTreeMap<PathBuf, String>, b: &BTreeMap<PathBuf, String>) {
    let (a, b): (BTreeSet<_>, BTreeSet<_>) = (a.iter().collect(), b.iter().collect());
    let differing: Vec<_> = a.symmetric_difference(&b).take(8).collect();
    assert!(differing.is_empty(), "{differing:#?}");
}

fn release() -> String {
    let modules = roots::base().join("usr/lib/modules");
    let mut releases: Vec<_> =
        std::fs::read_dir(modules).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    releases.sort();
    releases.pop().unwrap()
}

/// A second root of the same files, for removing names: they are hard links.
fn link_copy(from: &Path, to: &Path) {
    assert!(Command::new("cp").arg("-al").arg(from).arg(to).status().unwrap().success(), "{}", from.display());
}

/// A real copy: a link to a file of the real root would change that file's ctime under those who pack it just now.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to.parent().unwrap()).unwrap();
    assert!(Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap().success(), "{}", from.display());
}

fn depmod(root: &Path, release: &str) {
    let output = Command::new("depmod").arg("-b").arg(root).arg(release).output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
}

/// Every tenth module with all it depends on, some firmware, another kernel.
fn small_root() -> TempDir {
    // On a disk, also where temporary files are in memory: so fast, few of the runs that are to be killed can be caught.
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let (base, root, release) = (roots::base(), dir.path().join("root"), release());
    let (real, modules) = (base.join("usr/lib/modules").join(&release), root.join("usr/lib/modules").join(&release));
    let dep = std::fs::read_to_string(real.join("modules.dep")).unwrap();
    let wanted = ["/nvme.ko", "/ahci.ko", "/e1000e.ko", "/iwlwifi.ko", "/i915.ko", "/efivarfs.ko", "/amdgpu.ko"];
    let chosen = dep.lines().enumerate().filter(|(i, line)| {
        let (path, _) = line.split_once(':').unwrap();
        i % 40 == 0 || wanted.iter().any(|name| path.contains(name))
    });
    let files: BTreeSet<&str> =
        chosen.flat_map(|(_, line)| line.split_whitespace().map(|path| path.trim_end_matches(':'))).collect();
    let mut cp = Command::new("cp");
    std::fs::create_dir_all(&modules).unwrap();
    cp.args(["-a", "--parents", "-t"]).arg(&modules).args(&files).current_dir(&real);
    assert!(cp.status().unwrap().success());
    for index in ["modules.order", "modules.builtin", "modules.builtin.modinfo"] {
        copy(&real.join(index), &modules.join(index));
        copy(&real.join(index), &root.join("usr/lib/modules").join(OTHER).join(index));
    }
    std::fs::create_dir_all(root.join("usr/lib/modules").join(OTHER).join("kernel/empty")).unwrap();
    let extra = root.join("usr/lib/modules").join(OTHER).join("kernel/x.ko.xz");
    copy(&real.join(files.first().unwrap()), &extra);
    // Beside the one that depmod lists: it looks into updates/ first.
    let nvme = files.iter().find(|file| file.contains("/nvme.ko")).unwrap();
    copy(&real.join(nvme), &modules.join("updates/nvme.ko.xz"));
    symlink("usr/lib", root.join("lib")).unwrap();
    symlink("/usr/src/nowhere", modules.join("build")).unwrap();
    depmod(&root, &release);
    std::fs::set_permissions(modules.join("modules.alias"), std::fs::Permissions::from_mode(0o640)).unwrap();
    for name in ["i915", "rtl_nic", "intel-ucode", "bnx2x", "e100", "qed", "ti-connectivity", "yamaha"] {
        if base.join("usr/lib/firmware").join(name).exists() {
            copy(&base.join("usr/lib/firmware").join(name), &root.join("usr/lib/firmware").join(name));
        }
    }
    std::fs::create_dir_all(root.join("boot")).unwrap();
    std::fs::write(root.join("boot").join(format!("vmlinuz-{OTHER}")), "a kernel").unwrap();
    // Old enough that no time in the tree is that of a run.
    let mut find = Command::new("find");
    find.arg(&root).args(["-type", "d", "-exec", "touch", "-d", "2020-02-02 02:02:02.123456789", "{}", "+"]);
    assert!(find.status().unwrap().success());
    dir
}

#[test]
fn what_goes_and_what_stays() {
    let dir = small_root();
    let (root, release) = (dir.path().join("root"), release());
    let modules = root.join("usr/lib/modules").join(&release);
    let before = tree(&root);

    refused(&mut slim(&root, &[]), &root, &["--hardware"]);
    let dry = succeeds(slim(&root, &["--dry-run"]).args(TARGET));
    assert!(dry.contains("would go ") && dry.contains("modules by directory"), "{dry}");
    same(&tree(&root), &before);

    let out = succeeds(slim(&root, &["--json"]).args(TARGET));
    let report: serde_json::Value = serde_json::from_str(&out).unwrap();
    let after = tree(&root);
    assert_eq!(report["schema"], 1);
    assert_eq!(report["slim"]["other_kernels"], serde_json::json!([OTHER]));
    assert!(report.get("finished").is_none());
    let mut gone = 0;
    for class in ["modules", "firmware"] {
        assert!(report[class]["kept"].as_u64() > Some(20) && report[class]["dropped"].as_u64() > Some(20), "{class}");
        for item in report[class]["items"].as_array().unwrap() {
            let path = item["path"].as_str().unwrap().trim_start_matches('/');
            assert_eq!(after.contains_key(Path::new(path)), item["kept"] == true, "{item}");
            gone += u64::from(item["kept"] == false);
        }
    }
    // The other kernel's, and the nvme that updates/ hides.
    assert_eq!(report["slim"]["removed"].as_u64(), Some(gone + 4 + 1));
    assert!(after.keys().any(|path| path.starts_with("usr/lib/firmware/intel-ucode")));
    assert!(!after.contains_key(&Path::new("usr/lib/modules").join(OTHER)));
    assert!(after.contains_key(&Path::new("boot").join(format!("vmlinuz-{OTHER}"))));
    // Nothing but what stays has changed, and of that only indexes: their owner, mode and time are the old ones. The depmod of
    // this machine was too old to write one of them.
    let of = |entry: &str| entry.rsplit_once(") ").unwrap().0.to_owned();
    let in_modules = |name: &str| Path::new("usr/lib/modules").join(&release).join(name);
    assert!(!before.contains_key(&in_modules("modules.weakdep")) && after.contains_key(&in_modules("modules.weakdep")));
    for (path, entry) in &after {
        let known = if path.ends_with("modules.weakdep") { in_modules("modules.dep") } else { path.clone() };
        let old = before.get(&known).unwrap_or_else(|| panic!("{} is new", path.display()));
        if old != entry {
            let name = path.file_name().unwrap().to_str().unwrap();
            assert!(path.parent() == Some(Path::new("usr/lib/modules").join(&release).as_path()), "{path:?}");
            assert!(name.starts_with("modules.") && of(old) == of(entry), "{name}: {old} {entry}");
        }
    }
    for index in ["modules.order", "modules.builtin", "modules.builtin.modinfo"] {
        let path = Path::new("usr/lib/modules").join(&release).join(index);
        assert_eq!(after.get(&path), before.get(&path), "{index}");
    }
    // No directory is empty, none was before.
    assert!(after.iter().filter(|(_, entry)| entry.starts_with('4')).all(|(directory, _)| {
        after.keys().any(|path| path.parent() == Some(directory)) || directory == Path::new("")
    }));
    // Real modprobe finds what stays, through the new indexes.
    let show = Command::new("modprobe").arg("-d").arg(&root).args(["-S", &release, "--show-depends", "nvme"]).output();
    let show = show.unwrap();
    assert!(show.status.success() && text(&show.stdout).contains("updates/nvme.ko.xz"), "{}", text(&show.stderr));

    // Once more: nothing to do, nothing changed. A narrower wish goes on from there.
    assert!(succeeds(&mut slim(&root, &TARGET)).contains("removed   nothing"));
    same(&tree(&root), &after);
    succeeds(slim(&root, &["--drop", "e1000e"]).args(TARGET));
    assert!(!modules.join("kernel/drivers/net/ethernet/intel/e1000e").exists());
    assert!(!std::fs::read_to_string(modules.join("modules.dep")).unwrap().contains("e1000e.ko"));
}

struct Random(u64);

impl Random {
    fn below(&mut self, limit: Duration) -> Duration {
        // Knuth's MMIX; the high bits are good enough to spread delays.
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        limit.mul_f64((self.0 >> 11) as f64 / (1_u64 << 53) as f64)
    }
}

/// Waits until `reached`, or the child's end.
fn wait_until(child: &mut std::process::Child, reached: &dyn Fn() -> bool) {
    while !reached() && child.try_wait().unwrap().is_none() {
        std::thread::sleep(Duration::from_micros(20));
    }
}

/// A hundred kills: half of them at any time in the run, a quarter when the journal is just there, a quarter when one file or
/// another has just gone.
#[test]
fn a_killed_run_is_finished_by_the_next() {
    let dir = small_root();
    let template = dir.path().join("root");
    let fresh = |name: &str| {
        let root = dir.path().join(name);
        link_copy(&template, &root);
        root
    };
    let clean = fresh("clean");
    let started = Instant::now();
    succeeds(&mut slim(&clean, &TARGET));
    let whole = started.elapsed();
    let (before, expected) = (tree(&template), tree(&clean));
    let gone: Vec<_> = before.keys().filter(|path| !expected.contains_key(*path)).collect();
    assert!(!expected.contains_key(Path::new(JOURNAL)) && gone.len() > 100);

    let (mut random, mut journals, mut refusals) = (Random(20_260_101), 0, 0);
    for number in 0..100 {
        let root = fresh("killed");
        let mut child = slim(&root, &TARGET).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        match number % 4 {
            1 => {
                wait_until(&mut child, &|| root.join(JOURNAL).exists());
                std::thread::sleep(random.below(Duration::from_millis(5)));
            }
            3 => {
                let one = root.join(gone[random.below(Duration::from_secs(1)).as_nanos() as usize % gone.len()]);
                wait_until(&mut child, &|| !one.exists());
            }
            _ => std::thread::sleep(random.below(whole)),
        }
        child.kill().unwrap();
        child.wait().unwrap();
        let left = root.join(JOURNAL).exists();
        journals += usize::from(left);
        if left && refusals < 3 {
            refusals += 1;
            // Neither is packed nor planned with what is neither the old nor the new root.
            refused(program(&["plan", "--quiet", "--root"]).arg(&root), &root, &["interrupted", "slim", "again"]);
            refused(&mut slim(&root, &["--dry-run", "--drop", "loop"]), &root, &["interrupted"]);
        }
        if left && number % 4 == 1 {
            // The run that finishes it can be killed as well.
            let mut child = slim(&root, &TARGET).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
            std::thread::sleep(random.below(whole / 4));
            child.kill().unwrap();
            child.wait().unwrap();
        }
        let left = root.join(JOURNAL).exists();
        let out = succeeds(&mut slim(&root, &TARGET));
        assert_eq!(out.contains("finished  an interrupted slimming"), left, "{out}");
        same(&tree(&root), &expected);
        std::fs::remove_dir_all(&root).unwrap();
    }
    println!("100 kills in runs of {whole:?}: {journals} left a journal");
    assert!(journals >= 34, "only {journals} of 100 kills hit the critical part");
}

/// Finished first, whatever is asked for; and a `--drop` of what is gone by then is no error of the same request.
#[test]
fn a_killed_run_and_other_arguments() {
    let dir = small_root();
    let template = dir.path().join("root");
    let (clean, killed) = (dir.path().join("clean"), dir.path().join("killed"));
    link_copy(&template, &clean);
    link_copy(&template, &killed);
    let first = ["--hardware", "x86-generic", "--drop", "e1000e"];
    succeeds(&mut slim(&clean, &first));
    let once = tree(&clean);
    succeeds(&mut slim(&clean, &["--drop", "ahci"]));
    let twice = tree(&clean);

    let journal = killed_with_journal(&killed, &first);
    link_copy(&killed, &dir.path().join("copy"));
    let out = succeeds(&mut slim(&killed, &first));
    assert!(out.contains("finished  an interrupted") && out.contains("removed   nothing"), "{out}");
    same(&tree(&killed), &once);

    let copy = dir.path().join("copy");
    assert!(journal.contains("kairos-init slim journal 1"));
    let out = succeeds(&mut slim(&copy, &["--drop", "ahci"]));
    assert!(out.contains("finished  an interrupted") && !out.contains("removed   nothing"), "{out}");
    same(&tree(&copy), &twice);
}

/// Kills runs until one leaves its journal, and says what is in it.
fn killed_with_journal(root: &Path, arguments: &[&str]) -> String {
    let mut child = slim(root, arguments).stdout(Stdio::null()).spawn().unwrap();
    while !root.join(JOURNAL).exists() {
        assert!(child.try_wait().unwrap().is_none(), "the run ended before it could be killed");
        std::thread::sleep(Duration::from_micros(20));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    std::fs::read_to_string(root.join(JOURNAL)).unwrap()
}

fn sealed(body: &str) -> String {
    format!("{body}end {}\n", hex::encode(Sha256::digest(body)))
}

#[test]
fn a_planted_journal_does_nothing() {
    let dir = small_root();
    let (root, release) = (dir.path().join("root"), release());
    std::fs::create_dir_all(root.join("etc")).unwrap();
    std::fs::write(root.join("etc/passwd"), "root").unwrap();
    symlink("/etc", root.join("usr/lib/firmware/link")).unwrap();
    let kernel = format!("usr/lib/modules/{release}");
    let head = format!("kairos-init slim journal 1\nrequest {}\nkernel /{kernel}\n", "0".repeat(64));
    let digest = "0".repeat(64);
    let plant = |body: &str, words: &[&str]| {
        std::fs::write(root.join(JOURNAL), body).unwrap();
        refused(&mut slim(&root, &TARGET), &root, words);
    };
    for (line, item) in [
        ("remove 4 0 0 /etc/passwd".to_owned(), "/etc/passwd"),
        (format!("remove 4 0 0 /{kernel}/modules.order"), "modules.order"),
        ("remove 4 0 0 /usr/lib/modules/x".to_owned(), "/usr/lib/modules/x"),
        ("remove 4 0 0 /usr/lib/modulesx/y/x.ko".to_owned(), "modulesx"),
        ("rmdir /etc".to_owned(), "/etc"),
        ("rmdir /usr/lib/modules".to_owned(), "/usr/lib/modules"),
        (format!("rmdir /{kernel}"), "kernel's own"),
        ("time 0 0 /etc".to_owned(), "/etc"),
        (format!("index {digest} AAAA /etc/passwd"), "/etc/passwd"),
        (format!("index {digest} AAAA /{kernel}/modules.builtin"), "modules.builtin"),
        (format!("index {digest} AAAA /{kernel}/vmlinuz"), "vmlinuz"),
        (format!("index {digest} AAAA /usr/lib/modules/{OTHER}/modules.order"), "modules.order"),
    ] {
        plant(&sealed(&format!("{head}{line}\n")), &["did not write this journal", item]);
    }
    plant(&sealed(&head.replace(&kernel, "etc")), &["did not write this journal", "/etc"]);
    // Below a link that leads out of the directory; a file that is not the one that was meant.
    plant(
        &sealed(&format!("{head}remove 4 0 0 /usr/lib/firmware/link/passwd\n")),
        &["firmware/link", "nothing was changed"],
    );
    let some = "usr/lib/firmware/link";
    plant(&sealed(&format!("{head}remove 4 0 0 /{some}\n")), &["was changed after"]);
    plant(
        &sealed(&format!("{head}index {digest} AAAA /{kernel}/modules.dep\n")),
        &["modules.dep", "was changed after"],
    );
    // No journals.
    for (body, word) in [
        (String::new(), "digest"),
        ("\u{1b}[2J".to_owned(), "digest"),
        (head.clone(), "digest"),
        (sealed(&format!("{head}rmdir /usr/../etc\n")), "line 4"),
        (sealed(&format!("{head}\u{1b}[31m\n")), "line 4"),
        (sealed(&head.replace("journal 1", "journal 9")), "version"),
    ] {
        plant(&body, &["journal", word]);
    }
    std::fs::remove_file(root.join(JOURNAL)).unwrap();
    symlink("/etc/passwd", root.join(JOURNAL)).unwrap();
    refused(&mut slim(&root, &TARGET), &root, &[".kairos-init-slim.journal"]);
    std::fs::remove_file(root.join(JOURNAL)).unwrap();
    std::fs::create_dir(root.join(JOURNAL)).unwrap();
    refused(&mut slim(&root, &TARGET), &root, &[".kairos-init-slim.journal"]);
}

#[test]
fn a_root_that_changed_after_the_kill_is_left_alone() {
    let dir = small_root();
    let root = dir.path().join("root");
    let journal = killed_with_journal(&root, &TARGET);
    let line = journal.lines().rfind(|line| line.starts_with("remove ") && line.contains("/firmware/")).unwrap();
    let path = root.join(line.rsplit_once(" /").unwrap().1);
    let _gone_or_not = std::fs::remove_file(&path);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, "a newer firmware").unwrap();
    refused(&mut slim(&root, &TARGET), &root, &[path.file_name().unwrap().to_str().unwrap(), "was changed after"]);
}

#[test]
fn roots_that_cannot_be_changed_are_not() {
    let dir = small_root();
    let (root, release) = (dir.path().join("root"), release());
    let mount = |arguments: &[&str], at: &Path| {
        let status = Command::new("mount").args(arguments).arg(at).status().unwrap();
        assert!(status.success(), "mounting needs root");
    };
    let unmounted = |at: &Path, test: &dyn Fn()| {
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(test));
        assert!(Command::new("umount").arg(at).status().unwrap().success());
        result.unwrap();
    };
    // A folder of the machine's, as in `docker run -v /lib/modules:/lib/modules`.
    let firmware = root.join("usr/lib/firmware");
    mount(&["--bind", firmware.to_str().unwrap()], &firmware);
    unmounted(&firmware, &|| {
        refused(&mut slim(&root, &TARGET), &root, &["/usr/lib/firmware", "mounted", "--allow-host"])
    });
    // Read-only.
    mount(&["--bind", root.to_str().unwrap()], &root);
    mount(&["-o", "remount,bind,ro"], &root);
    unmounted(&root, &|| {
        refused(&mut slim(&root, &TARGET), &root, &["Read-only file system", "nothing was changed"]);
    });
    // An index that is a link, a firmware directory that is none.
    let alias = root.join("usr/lib/modules").join(&release).join("modules.alias");
    std::fs::rename(&alias, root.join("boot/alias")).unwrap();
    symlink("/boot/alias", &alias).unwrap();
    refused(&mut slim(&root, &TARGET), &root, &["modules.alias", "no regular file"]);
    std::fs::remove_file(&alias).unwrap();
    std::fs::rename(root.join("boot/alias"), &alias).unwrap();
    std::fs::rename(&firmware, root.join("etc")).unwrap();
    symlink("/etc", &firmware).unwrap();
    refused(&mut slim(&root, &TARGET), &root, &["/lib/firmware", "/etc", "not touched"]);
    std::fs::remove_file(&firmware).unwrap();
    std::fs::rename(root.join("etc"), &firmware).unwrap();
    // Somebody else at work.
    let lock = std::fs::File::open(root.join("usr/lib/modules")).unwrap();
    lock.lock().unwrap();
    refused(&mut slim(&root, &TARGET), &root, &["another kairos-init"]);
    drop(lock);
    succeeds(&mut slim(&root, &TARGET));
}

/// As in a container build: the root is layers, of which only the topmost can be written.
#[test]
fn a_root_of_layers() {
    let dir = small_root();
    let lower = dir.path().join("root");
    let [upper, work, merged, plain] = ["upper", "work", "merged", "plain"].map(|name| dir.path().join(name));
    for path in [&upper, &work, &merged] {
        std::fs::create_dir(path).unwrap();
    }
    copy(&lower, &plain);
    let before = tree(&lower);
    let options = format!("lowerdir={},upperdir={},workdir={}", lower.display(), upper.display(), work.display());
    let mount = Command::new("mount").args(["-t", "overlay", "-o", &options, "overlay"]).arg(&merged).status().unwrap();
    assert!(mount.success(), "mounting an overlay needs root");
    let result = std::panic::catch_unwind(|| {
        killed_with_journal(&merged, &TARGET);
        succeeds(&mut slim(&merged, &TARGET));
        succeeds(&mut slim(&plain, &TARGET));
        // Inodes differ, and the top directory is the upper layer's.
        let without = |mut tree: BTreeMap<PathBuf, String>| -> BTreeMap<PathBuf, String> {
            let entry = |entry: String| entry.split(" inode ").next().unwrap().to_owned();
            tree.remove(Path::new(""));
            tree.into_iter().map(|(path, text)| (path, entry(text))).collect()
        };
        same(&without(tree(&merged)), &without(tree(&plain)));
    });
    assert!(Command::new("umount").arg(&merged).status().unwrap().success());
    result.unwrap();
    same(&tree(&lower), &before);
}

#[test]
fn a_full_disk_changes_nothing() {
    let dir = small_root();
    let full = dir.path().join("full");
    link_copy(&dir.path().join("root"), &dir.path().join("killed"));
    let journal = killed_with_journal(&dir.path().join("killed"), &TARGET).len() as u64;
    std::fs::create_dir(&full).unwrap();
    let root = dir.path().join("root");
    let used = Command::new("du").args(["-sk", "--apparent-size"]).arg(&root).output().unwrap();
    let kibibytes: u64 = text(&used.stdout).split_whitespace().next().unwrap().parse().unwrap();
    let size = format!("size={}k", kibibytes + 20_000);
    let mount = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(&full).status().unwrap();
    assert!(mount.success(), "mounting a small tmpfs needs root");
    let test = || {
        let root = full.join("root");
        assert!(Command::new("cp").arg("-a").arg(dir.path().join("root")).arg(&root).status().unwrap().success());
        let filler = full.join("filler");
        // Until nothing more goes in; then room for nothing, and for the journal but not for all of the indexes.
        for room in [0, journal + (64 << 10)] {
            let mut file = std::fs::File::create(&filler).unwrap();
            let _full = std::io::copy(&mut std::io::repeat(1), &mut file);
            let length = file.metadata().unwrap().len();
            file.set_len(length.saturating_sub(room)).unwrap();
            refused(&mut slim(&root, &TARGET), &root, &["No space left", "make room", "nothing was changed"]);
        }
        std::fs::remove_file(&filler).unwrap();
        succeeds(&mut slim(&root, &TARGET));
    };
    let result = std::panic::catch_unwind(test);
    assert!(Command::new("umount").arg(&full).status().unwrap().success());
    result.unwrap();
}

/// Never with a request that could slim this machine: the kernel that is asked for exists nowhere.
#[test]
fn a_running_machine_is_refused() {
    const NONE: [&str; 4] = ["--hardware", "x86-generic", "--kernel", "0.0.0-none"];
    let dir = small_root();
    let root = dir.path().join("root");
    // A script called systemd is process 1 of its own name space, and has this very root.
    let script = dir.path().join("systemd");
    let program = env!("CARGO_BIN_EXE_kairos-init");
    let body = format!("#!/bin/sh\n{program} slim --quiet --root \"$1\" {}\n", NONE.join(" "));
    std::fs::write(&script, body).unwrap();
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    let as_init = |root: &Path| {
        let mut unshare = Command::new("unshare");
        unshare.args(["--pid", "--fork", "--mount-proc"]).arg(&script).arg(root).output().unwrap()
    };
    for path in ["/", "/proc/1/root", "/proc/self/root/usr/.."] {
        fails(&as_init(Path::new(path)), &["running machine's", "process 1 is systemd", "--allow-host"]);
    }
    // A folder on such a machine is none; neither is an archive of one, unpacked.
    std::fs::create_dir_all(root.join("run/systemd/system")).unwrap();
    fails(&as_init(&root), &["0.0.0-none"]);
    fails(&slim(&root, &NONE).output().unwrap(), &["0.0.0-none"]);
    // In a chroot it is what cli.md says: refused, unless it is meant.
    std::fs::create_dir_all(root.join("usr/bin")).unwrap();
    std::fs::copy(program, root.join("usr/bin/kairos-init")).unwrap();
    let in_chroot = |more: &[&str]| {
        let mut chroot = Command::new("chroot");
        chroot.arg(&root).args(["/usr/bin/kairos-init", "slim", "--quiet"]).args(NONE).args(more).output().unwrap()
    };
    fails(&in_chroot(&[]), &["running machine's", "/run/systemd/system", "--allow-host"]);
    fails(&in_chroot(&["--allow-host"]), &["0.0.0-none"]);
    std::fs::remove_dir_all(root.join("run")).unwrap();
    fails(&in_chroot(&[]), &["0.0.0-none"]);
    // The last line of a Dockerfile, without /proc even.
    let mut chroot = Command::new("chroot");
    chroot.arg(&root).args(["/usr/bin/kairos-init", "--stage", "build", "--target", "uki", "--quiet"]).args(TARGET);
    assert!(succeeds(&mut chroot).contains("removed  "));
}

/// The UKI of a slimmed root is the one that is made of the whole root for the same hardware.
#[test]
fn slimming_first_gives_the_same_uki() {
    let dir = small_root();
    let root = dir.path().join("root");
    std::fs::create_dir_all(root.join("usr/lib/systemd")).unwrap();
    std::fs::write(root.join("usr/lib/systemd/systemd"), "not really systemd").unwrap();
    std::fs::write(root.join("boot").join(format!("vmlinuz-{}", release())), roots::kernel()).unwrap();
    let stub = dir.path().join("stub");
    std::fs::write(&stub, roots::stub()).unwrap();
    let build = |name: &str| {
        let out = dir.path().join(name);
        let mut command = program(&["--stage", "build", "--target", "uki", "--quiet", "--unsigned"]);
        command.args(["--compression", "zstd:1"]).args(TARGET).arg("--stub").arg(&stub).arg("--root").arg(&root);
        succeeds(command.arg("--output").arg(&out));
        std::fs::read(out.join("uki/EFI/kairos/norole.efi")).unwrap()
    };
    let whole = build("whole");
    succeeds(&mut slim(&root, &TARGET));
    assert!(whole == build("slimmed"), "the UKIs differ");
}
