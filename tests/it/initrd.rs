//! A root with everything that is hard to carry, packed by us and unpacked by GNU cpio and zstd, is the same root again.
//!
//! Needs root (for owners and device nodes) and the programs `cpio` and `zstd`; without them these tests fail.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a test's helpers fail as tests fail"
)]

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{BufReader, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, UNIX_EPOCH};

use kairos_init::cancel::Cancel;
use kairos_init::names::TreePath;
use kairos_init::root::initrd::{Compression, InitrdError, NewcReader, build, decompress, early_microcode, write_newc};
use kairos_init::root::scan::{CONTENTS_LEFT_OUT, Scan, ScanOptions, scan};
use kairos_init::root::sysroot::Sysroot;
use kairos_init::root::tree::{Content, Entry, FileTree, Kind};
use rustix::fs::{AtFlags, FileType, Mode, Timespec, Timestamps, XattrFlags, makedev, mknodat, setxattr, utimensat};

/// Level 1: these tests are about what is packed, not how small.
const FAST: &str = "zstd:1";

fn tree_path(path: impl AsRef<[u8]>) -> TreePath {
    TreePath::new(path).unwrap()
}

fn scan_at(dir: &Path, options: &ScanOptions) -> (Sysroot, Scan) {
    let root = Sysroot::open(dir).unwrap();
    let scan = scan(&root, options, &Cancel::default()).unwrap();
    (root, scan)
}

fn pack(dir: &Path, options: &ScanOptions, compression: Compression) -> Vec<u8> {
    let (root, scan) = scan_at(dir, options);
    let mut bytes = Vec::new();
    let stats = build(&scan.tree, &root, &compression, &mut bytes, &Cancel::default(), &|_| {}).unwrap();
    assert_eq!(stats.bytes, bytes.len() as u64);
    assert_eq!(stats.entries, scan.tree.len() as u64);
    bytes
}

fn pipe(mut command: Command, input: &[u8]) -> Vec<u8> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{command:?} is needed for this test: {error}"));
    let mut stdin = child.stdin.take().unwrap();
    let output = std::thread::scope(|threads| {
        threads.spawn(move || stdin.write_all(input).unwrap());
        child.wait_with_output().unwrap()
    });
    assert!(output.status.success(), "{command:?}: {}", output.status);
    output.stdout
}

/// What GNU cpio makes of our initrd, with `zstd` as the decompressor.
fn unpack(initrd: &[u8]) -> tempfile::TempDir {
    let mut zstd = Command::new("zstd");
    zstd.args(["-d", "--long=27", "-c", "-q"]);
    let archive = pipe(zstd, initrd);
    unpack_archive(&archive)
}

fn unpack_archive(archive: &[u8]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    // Not `--no-absolute-filenames`: it makes links last, which changes the times of their directories. The names are
    // relative, and the tests would see a missing one.
    let cpio = |more: &[&OsStr]| {
        let mut cpio = Command::new("cpio");
        cpio.args(["-idmu", "--quiet"]).args(more).current_dir(dir.path());
        cpio
    };
    pipe(cpio(&[]), archive);
    // cpio sets a directory's time before it fills it. The directories alone, once more, get the archive's times.
    let all = facts(dir.path());
    let is_directory = |path: &Path| fs::symlink_metadata(dir.path().join(path)).unwrap().is_dir();
    let directories: Vec<&OsStr> = all.keys().filter(|path| is_directory(path)).map(|path| path.as_os_str()).collect();
    pipe(cpio(&directories), archive);
    dir
}

/// One entry as the standard library sees it: nothing of this comes from the code under test.
#[derive(Debug, PartialEq, Eq)]
struct Facts {
    mode: u32,
    owner: (u32, u32),
    device: u64,
    /// Links' own times are left out: GNU cpio does not restore them.
    mtime: Option<i64>,
    content: Vec<u8>,
    /// The first path of the same file, and how many there are.
    same_file: Option<(PathBuf, u64)>,
}

fn facts(dir: &Path) -> BTreeMap<PathBuf, Facts> {
    let mut all = BTreeMap::new();
    let mut pending = vec![PathBuf::new()];
    while let Some(path) = pending.pop() {
        let full = dir.join(&path);
        let metadata = fs::symlink_metadata(&full).unwrap();
        let kind = metadata.file_type();
        let content = if kind.is_file() {
            fs::read(&full).unwrap()
        } else if kind.is_symlink() {
            fs::read_link(&full).unwrap().as_os_str().as_bytes().to_vec()
        } else {
            Vec::new()
        };
        if kind.is_dir() {
            pending.extend(fs::read_dir(&full).unwrap().map(|entry| path.join(entry.unwrap().file_name())));
        }
        let facts = Facts {
            mode: metadata.mode(),
            owner: (metadata.uid(), metadata.gid()),
            device: metadata.rdev(),
            mtime: (!kind.is_symlink()).then(|| metadata.mtime()),
            content,
            same_file: None,
        };
        all.insert(path, ((metadata.dev(), metadata.ino(), metadata.nlink(), kind.is_dir()), facts));
    }
    // The root itself is nothing that GNU cpio would touch: see `the_root_directory_keeps_its_own_mode_and_owner`.
    all.remove(Path::new(""));
    let mut first: BTreeMap<(u64, u64), PathBuf> = BTreeMap::new();
    for (path, ((device, inode, ..), _)) in &all {
        first.entry((*device, *inode)).or_insert_with(|| path.clone());
    }
    let same = |(device, inode, links, is_dir): (u64, u64, u64, bool)| {
        (!is_dir).then(|| (first[&(device, inode)].clone(), links))
    };
    all.into_iter().map(|(path, (identity, facts))| (path, Facts { same_file: same(identity), ..facts })).collect()
}

fn assert_same(expected: &BTreeMap<PathBuf, Facts>, found: &BTreeMap<PathBuf, Facts>) {
    assert_eq!(expected.keys().collect::<Vec<_>>(), found.keys().collect::<Vec<_>>());
    for (path, facts) in expected {
        let other = &found[path];
        assert!(facts.content == other.content, "content of {path:?} differs");
        assert_eq!(Facts { content: vec![], ..*clone(facts) }, Facts { content: vec![], ..*clone(other) }, "{path:?}");
    }
}

fn clone(facts: &Facts) -> Box<Facts> {
    Box::new(Facts { content: Vec::new(), same_file: facts.same_file.clone(), ..*facts })
}

fn mknod(dir: &Path, name: &str, kind: FileType, mode: u32, device: u64) {
    let fd = File::open(dir).unwrap();
    mknodat(fd, name, kind, Mode::from_raw_mode(mode), device).unwrap();
    fs::set_permissions(dir.join(name), fs::Permissions::from_mode(mode)).unwrap();
}

fn set_mtime(path: &Path, seconds: i64) {
    let time = Timespec { tv_sec: seconds, tv_nsec: 123_456_789 };
    let times = Timestamps { last_access: time, last_modification: time };
    utimensat(rustix::fs::CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

/// Bytes that compress, but not to nothing; the same for the same seed.
fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    std::iter::repeat_with(|| b"etaoin shrdlu\n\0\x7f"[(next() % 16) as usize]).take(length).collect()
}

/// A root with everything that is hard to carry.
fn hard_root() -> tempfile::TempDir {
    assert!(rustix::process::geteuid().is_root(), "this test makes device nodes and foreign owners: run it as root");
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path();
    let write = |name: &[u8], content: &[u8]| {
        let path = dir.join(OsStr::from_bytes(name));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        path
    };
    let mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    let owner = |path: &Path, uid, gid| std::os::unix::fs::lchown(path, Some(uid), Some(gid)).unwrap();

    let su = write(b"usr/bin/su", b"#!");
    owner(&su, 0, 42);
    mode(&su, 0o4755);
    let wall = write(b"usr/bin/wall", b"#!!");
    owner(&wall, 12, 5);
    mode(&wall, 0o2751);
    let secret = write(b"etc/shadow", b"root:*:");
    owner(&secret, 4_000_000_000, 65_534);
    mode(&secret, 0o000);
    fs::create_dir_all(dir.join("var/mail")).unwrap();
    owner(&dir.join("var/mail"), 8, 8);
    mode(&dir.join("var/mail"), 0o3777);

    // Three names over two directories; the first by path is not the first that was made. And an empty file with two.
    write(b"usr/share/z/third", b"one file, three names");
    fs::create_dir_all(dir.join("usr/share/a")).unwrap();
    fs::hard_link(dir.join("usr/share/z/third"), dir.join("usr/share/a/first")).unwrap();
    fs::hard_link(dir.join("usr/share/z/third"), dir.join("usr/share/a/second")).unwrap();
    write(b"usr/share/empty-1", b"");
    fs::hard_link(dir.join("usr/share/empty-1"), dir.join("usr/share/empty-2")).unwrap();

    symlink("nowhere/at all", dir.join("dangling")).unwrap();
    symlink("/usr/bin", dir.join("bin")).unwrap();
    symlink("../../../../etc/shadow", dir.join("etc/climbs")).unwrap();
    symlink(OsStr::from_bytes(b"new\nline \xff"), dir.join("etc/odd target")).unwrap();
    owner(&dir.join("etc/odd target"), 77, 78);

    fs::create_dir(dir.join("nodes")).unwrap();
    mknod(&dir.join("nodes"), "null", FileType::CharacterDevice, 0o666, makedev(1, 3));
    mknod(&dir.join("nodes"), "disk", FileType::BlockDevice, 0o660, makedev(259, 70_000));
    mknod(&dir.join("nodes"), "pipe", FileType::Fifo, 0o640, 0);

    write(b"names/latin-\xe9", b"not UTF-8");
    write(b"names/with space and\nnewline", b"x");
    write(b"names/-rf", b"x");
    write(b"names-between", b"sorts before what names/ holds");
    // Would end the archive, were it written by its plain name.
    write(b"TRAILER!!!", b"not the end");
    write(b"usr/lib/empty", b"");
    for length in 1..5 {
        write(format!("usr/lib/padding-{length}").as_bytes(), &vec![b'x'; length]);
    }
    write(b"usr/lib/large", &noise(5 << 20, 1));
    let sparse = File::create(dir.join("usr/lib/sparse")).unwrap();
    sparse.set_len(3 << 20).unwrap();
    drop(sparse);

    let ping = write(b"usr/bin/ping", b"#!");
    // VFS_CAP_REVISION_2 with the effective flag; cap_net_raw permitted.
    let capability = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    setxattr(&ping, "security.capability", &capability, XattrFlags::empty()).unwrap();
    setxattr(&su, "user.note", b"hello", XattrFlags::empty()).unwrap();
    setxattr(dir.join("etc"), "user.note", b"directory", XattrFlags::empty()).unwrap();

    let mut time = 1_500_000_000;
    let mut paths: Vec<PathBuf> = facts(dir).into_keys().collect();
    paths.reverse();
    for path in paths {
        time += 61;
        set_mtime(&dir.join(path), time);
    }
    temp
}

#[test]
fn gnu_cpio_unpacks_the_same_root() {
    let root = hard_root();
    let initrd = pack(root.path(), &ScanOptions::default(), FAST.parse().unwrap());
    let unpacked = unpack(&initrd);
    assert_same(&facts(root.path()), &facts(unpacked.path()));
}

#[test]
fn the_root_directory_keeps_its_own_mode_and_owner() {
    let dir = hard_root();
    std::os::unix::fs::lchown(dir.path(), Some(3), Some(4)).unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o751)).unwrap();
    set_mtime(dir.path(), 1_500_000_000);
    let (root, scan) = scan_at(dir.path(), &ScanOptions::default());
    let mut archive = Vec::new();
    write_newc(&scan.tree, &root, &mut archive, &Cancel::default()).unwrap();
    let mut cpio = Command::new("cpio");
    cpio.args(["-itvn", "--quiet"]).env("TZ", "UTC").env("LC_ALL", "C");
    let listing = String::from_utf8_lossy(&pipe(cpio, &archive)).into_owned();
    let first: Vec<&str> = listing.lines().next().unwrap().split_whitespace().collect();
    assert_eq!(first, ["drwxr-x--x", "2", "3", "4", "0", "Jul", "14", "2017", "."]);
}

#[test]
fn our_reader_agrees_with_the_tree() {
    let dir = hard_root();
    let (root, scan) = scan_at(dir.path(), &ScanOptions::default());
    let initrd = pack(dir.path(), &ScanOptions::default(), FAST.parse().unwrap());
    let mut reader = NewcReader::new(BufReader::new(decompress(initrd.as_slice()).unwrap()));
    let mut inodes = BTreeMap::new();
    for (number, (path, expected)) in scan.tree.iter().enumerate() {
        let entry = reader.next_entry().unwrap().unwrap();
        assert_eq!(&entry.path, path);
        assert_eq!((entry.mode & 0o7777, entry.uid, entry.gid), (expected.mode, expected.uid, expected.gid), "{path}");
        assert_eq!(i64::from(entry.mtime), expected.mtime, "{path}");
        let inode = match &expected.kind {
            Kind::HardLink(to) => inodes[to],
            _ => u32::try_from(number + 1).unwrap(),
        };
        assert_eq!(entry.inode, inode, "{path}");
        inodes.insert(path.clone(), inode);
        let names = [b"usr/share/a/first".as_slice(), b"usr/share/a/second", b"usr/share/z/third"];
        if names.contains(&path.as_bytes()) {
            // Content stands with the last name.
            assert_eq!((entry.links, entry.length), (3, if path.as_bytes() == names[2] { 21 } else { 0 }), "{path}");
        }
        let mut content = Vec::new();
        let mut buffer = [0; 70_000];
        loop {
            match reader.read_content(&mut buffer).unwrap() {
                0 => break,
                count => content.extend_from_slice(&buffer[..count]),
            }
        }
        if let Kind::File(Content::Root { path: from, .. }) = &expected.kind
            && scan.tree.names_of(path).count() == 0
        {
            assert!(content == root.read(from, 10 << 20).unwrap(), "content of {path}");
        }
    }
    assert!(reader.next_entry().unwrap().is_none());
    let mut rest = Vec::new();
    reader.into_inner().read_to_end(&mut rest).unwrap();
    assert!(rest.is_empty(), "{} bytes after the trailer", rest.len());
}

#[test]
fn what_newc_cannot_carry_is_named() {
    let dir = hard_root();
    let socket = std::os::unix::net::UnixListener::bind(dir.path().join("etc/socket")).unwrap();
    let (_, scan) = scan_at(dir.path(), &ScanOptions::default());
    assert!(fs::symlink_metadata(dir.path().join("etc/socket")).unwrap().file_type().is_socket());
    assert_eq!(scan.tree.get(&tree_path("etc/socket")), None);
    // A machine with SELinux adds a label to every file.
    let mut notes = scan.notes;
    notes.attributes.remove("security.selinux");
    assert_eq!(
        notes.warnings(),
        [
            "the initrd cannot carry 3 extended attributes: security.capability on /usr/bin/ping; \
             user.note on /etc, /usr/bin/su",
            "1 sockets are left out: /etc/socket",
        ]
    );
    drop(socket);
}

#[test]
fn directories_stay_and_their_contents_go() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path();
    let mut expected = Vec::new();
    for (number, (path, _)) in CONTENTS_LEFT_OUT.iter().enumerate() {
        let full = dir.join(path);
        fs::create_dir_all(full.join("sub/dir")).unwrap();
        fs::write(full.join("sub/file"), "x").unwrap();
        let mode = 0o1700 + u32::try_from(number).unwrap();
        fs::set_permissions(&full, fs::Permissions::from_mode(mode)).unwrap();
        expected.push((*path, mode));
    }
    fs::write(dir.join(".dockerenv"), "").unwrap();
    fs::create_dir_all(dir.join("out/uki")).unwrap();
    fs::write(dir.join("out/uki/key"), "secret").unwrap();
    fs::write(dir.join("one-file"), "secret").unwrap();
    fs::create_dir_all(dir.join("home/boot")).unwrap();
    fs::write(dir.join("home/boot/kept"), "").unwrap();
    let identity = |name| fs::metadata(dir.join(name)).map(|m| (m.dev(), m.ino())).unwrap();
    let exclude = [identity("out"), identity("one-file")].into();
    let options = ScanOptions { exclude, ..ScanOptions::default() };
    let unpacked = unpack(&pack(dir, &options, FAST.parse().unwrap()));
    for (path, mode) in expected {
        let full = unpacked.path().join(path);
        assert_eq!(fs::metadata(&full).unwrap().mode() & 0o7777, mode, "{path}");
        assert_eq!(fs::read_dir(&full).unwrap().count(), 0, "{path}");
    }
    for gone in [".dockerenv", "out", "one-file"] {
        assert!(!unpacked.path().join(gone).exists(), "{gone}");
    }
    assert!(unpacked.path().join("home/boot/kept").exists());
}

#[test]
fn times_are_clamped_to_the_epoch_and_to_the_format() {
    let temp = tempfile::tempdir().unwrap();
    for (name, time) in [("before", -5), ("early", 999_999_999), ("late", 1_000_000_001), ("far", (1_i64 << 32) + 10)] {
        fs::write(temp.path().join(name), "").unwrap();
        set_mtime(&temp.path().join(name), time);
    }
    let times = |options: &ScanOptions| {
        let unpacked = unpack(&pack(temp.path(), options, FAST.parse().unwrap()));
        ["before", "early", "late", "far"].map(|name| fs::metadata(unpacked.path().join(name)).unwrap().mtime())
    };
    assert_eq!(times(&ScanOptions::default()), [0, 999_999_999, 1_000_000_001, i64::from(u32::MAX)]);
    let clamped = ScanOptions { clamp_mtime: Some(1_000_000_000), ..ScanOptions::default() };
    assert_eq!(times(&clamped), [0, 999_999_999, 1_000_000_000, 1_000_000_000]);
}

#[test]
fn the_same_bytes_for_any_number_of_workers_in_any_folder() {
    let dir = hard_root();
    // Several jobs of 16 MiB.
    fs::write(dir.path().join("usr/lib/larger"), noise(40 << 20, 7)).unwrap();
    set_mtime(&dir.path().join("usr/lib"), 1_600_000_000);
    set_mtime(&dir.path().join("usr/lib/larger"), 1_600_000_000);
    let copies = tempfile::tempdir().unwrap();
    let copy = copies.path().join("another folder");
    assert!(Command::new("cp").arg("-a").arg(dir.path()).arg(&copy).status().unwrap().success());
    let compression: Compression = "zstd:3".parse().unwrap();
    let one = pack(dir.path(), &ScanOptions::default(), compression);
    assert!(one.len() > 2 << 20, "{} bytes do not tell jobs apart", one.len());
    for workers in [2, 3] {
        let other = pack(dir.path(), &ScanOptions::default(), compression.with_workers(workers));
        assert!(one == other, "{workers} workers give other bytes than one");
    }
    assert!(one == pack(&copy, &ScanOptions::default(), compression.with_workers(2)), "a copy gives other bytes");
}

#[test]
fn a_file_that_changes_is_an_error_that_names_it() {
    type Change = fn(&Path);
    let changes: [(&str, Change); 8] = [
        ("grown", |path| fs::OpenOptions::new().append(true).open(path).unwrap().write_all(b"more").unwrap()),
        ("cut", |path| fs::OpenOptions::new().write(true).open(path).unwrap().set_len(3).unwrap()),
        ("touched", |path| {
            File::options().write(true).open(path).unwrap().set_modified(UNIX_EPOCH + Duration::from_secs(9)).unwrap();
        }),
        ("same length and time", |path| {
            let time = fs::metadata(path).unwrap().modified().unwrap();
            let mut file = File::options().write(true).open(path).unwrap();
            file.write_all(b"C").unwrap();
            file.set_modified(time).unwrap();
        }),
        ("replaced", |path| {
            fs::copy(path, path.with_extension("new")).unwrap();
            fs::rename(path.with_extension("new"), path).unwrap();
        }),
        ("removed", |path| fs::remove_file(path).unwrap()),
        ("now a link", |path| {
            fs::rename(path, path.with_extension("moved")).unwrap();
            symlink(path.with_extension("moved").file_name().unwrap(), path).unwrap();
        }),
        ("now a pipe", |path| {
            fs::remove_file(path).unwrap();
            mknodat(rustix::fs::CWD, path, FileType::Fifo, Mode::from_raw_mode(0o644), 0).unwrap();
        }),
    ];
    for (what, change) in changes {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("etc")).unwrap();
        let path = dir.path().join("etc/file");
        fs::write(&path, "content").unwrap();
        let (root, scan) = scan_at(dir.path(), &ScanOptions::default());
        // The kernel's clock for files ticks every few milliseconds.
        std::thread::sleep(Duration::from_millis(20));
        change(&path);
        let error = write_newc(&scan.tree, &root, &mut Vec::new(), &Cancel::default()).expect_err(what).to_string();
        assert!(error.contains("/etc/file") && !error.contains('\n'), "{what}: {error}");
        let is_regular = what != "now a pipe";
        assert_eq!(error.contains("changed while it was packed"), is_regular, "{what}: {error}");
    }
}

/// Changes a file as soon as anything is written: in the middle of its copy.
struct Meddler {
    file: PathBuf,
    change: fn(&File),
}

impl Write for Meddler {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        (self.change)(&File::options().append(true).open(&self.file)?);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_file_that_changes_under_the_reader_is_an_error() {
    type Change = fn(&File);
    let changes: [(&str, Change); 3] = [
        ("grows", |mut file| file.write_all(b"more").unwrap()),
        ("shrinks", |file| file.set_len(1 << 20).unwrap()),
        ("is touched", |file| file.set_modified(UNIX_EPOCH).unwrap()),
    ];
    for (what, change) in changes {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, noise(3 << 20, 3)).unwrap();
        let (root, scan) = scan_at(dir.path(), &ScanOptions::default());
        let result = write_newc(&scan.tree, &root, &mut Meddler { file, change }, &Cancel::default());
        assert!(matches!(result, Err(InitrdError::Changed { path }) if path == tree_path("file")), "{what}");
    }
}

#[test]
fn what_newc_cannot_hold_is_an_error_before_anything_is_read() {
    let dir = tempfile::tempdir().unwrap();
    File::create(dir.path().join("huge")).unwrap().set_len(1 << 32).unwrap();
    let (root, scan) = scan_at(dir.path(), &ScanOptions::default());
    let error = write_newc(&scan.tree, &root, &mut Vec::new(), &Cancel::default()).unwrap_err();
    assert!(matches!(&error, InitrdError::TooLarge { bytes: 4_294_967_296, .. }), "{error}");
    assert!(error.to_string().contains("/huge"));

    let fails = |path: &[u8], entry| {
        let mut tree = FileTree::new();
        tree.insert(TreePath::root(), Entry::directory(0));
        tree.insert(tree_path(path), entry);
        write_newc(&tree, &root, &mut Vec::new(), &Cancel::default()).unwrap_err()
    };
    assert!(matches!(fails(&[b'a'; 4096], Entry::file(vec![], 0)), InitrdError::TooLong { .. }));
    assert!(matches!(fails(b"link", Entry::symlink(&[b'a'; 4096], 0)), InitrdError::TooLong { .. }));
    assert!(matches!(fails(b"none/file", Entry::file(vec![], 0)), InitrdError::NoDirectory { .. }));
    let link = Entry { kind: Kind::HardLink(tree_path("none")), ..Entry::file(vec![], 0) };
    assert!(matches!(fails(b"name", link), InitrdError::HardLink { .. }));
}

#[test]
fn a_full_disk_and_a_cancelled_run_are_errors() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("file"), noise(1 << 20, 5)).unwrap();
    let (root, scan) = scan_at(dir.path(), &ScanOptions::default());
    let compression = FAST.parse().unwrap();
    let full = File::options().write(true).open("/dev/full").unwrap();
    let error = build(&scan.tree, &root, &compression, full, &Cancel::default(), &|_| {}).unwrap_err();
    assert!(error.to_string().contains("disk full"), "{error}");
    let cancel = Cancel::default();
    cancel.cancel();
    let result = build(&scan.tree, &root, &compression, Vec::new(), &cancel, &|_| {});
    assert!(matches!(result, Err(InitrdError::Cancelled(_))));
}

#[test]
fn the_microcode_archive_is_what_the_kernel_looks_into() {
    assert_eq!(early_microcode(vec![], vec![]).unwrap(), None);
    let archive = early_microcode(b"intel blobs".to_vec(), b"amd".to_vec()).unwrap().unwrap();
    let unpacked = unpack_archive(&archive);
    let found = facts(unpacked.path());
    let names: Vec<_> = found.keys().map(|path| path.to_str().unwrap()).collect();
    let expected = [
        "kernel",
        "kernel/x86",
        "kernel/x86/microcode",
        "kernel/x86/microcode/AuthenticAMD.bin",
        "kernel/x86/microcode/GenuineIntel.bin",
    ];
    assert_eq!(names, expected);
    assert_eq!(found[Path::new(expected[3])].content, b"amd");
    assert_eq!(found[Path::new(expected[4])].content, b"intel blobs");
    assert_eq!(archive, early_microcode(b"intel blobs".to_vec(), b"amd".to_vec()).unwrap().unwrap());
    let intel_only = early_microcode(b"x".to_vec(), vec![]).unwrap().unwrap();
    assert_eq!(facts(unpack_archive(&intel_only).path()).len(), 4);
}
