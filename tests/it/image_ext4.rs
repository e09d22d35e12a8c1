//! ext4 file systems, held against e2fsck, debugfs and resize2fs. Without these programs the tests fail.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a test's helpers fail as tests fail"
)]

use std::ffi::OsStr;
use std::fs;
use std::path::Path;

use kairos_init::image::ext4::{Ext4, Ext4Options};
use kairos_init::image::{DEFAULT_TIME, Files, ImageError, Node};

use crate::image_tools::{Listing, allocated, folder, insert, listed, path, printed, run, try_write, write};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

pub(crate) fn options(length: u64) -> Ext4Options {
    Ext4Options {
        label: "COS_PERSISTENT".to_owned(),
        uuid: *b"\x01\x23\x45\x67\x89\xab\x8d\xef\x81\x23\x45\x67\x89\xab\xcd\xef",
        length,
        grows_to: 8 << 40,
        time: DEFAULT_TIME,
    }
}

/// e2fsck has nothing to say: five passes and a summary.
pub(crate) fn check(image: &Path) {
    let said = printed("e2fsck", ["-f".as_ref(), "-n".as_ref(), image.as_os_str()]);
    let is_known = |line: &str| line.starts_with("Pass ") || line.starts_with("e2fsck ") || line.contains(" blocks");
    let said: Vec<_> = said.lines().filter(|line| !is_known(line)).collect();
    assert!(said.is_empty(), "e2fsck complains: {said:#?}");
}

/// What debugfs takes out of an image, without `lost+found`.
pub(crate) fn dumped(image: &Path, scratch: &Path) -> Listing {
    let to = scratch.join("dumped");
    let _ = fs::remove_dir_all(&to);
    fs::create_dir(&to).unwrap();
    let command = format!("rdump / {}", to.display());
    printed("debugfs", ["-R".as_ref(), OsStr::new(&command), image.as_os_str()]);
    let mut found = folder(&to);
    found.remove("lost+found/").expect("lost+found");
    found
}

fn config() -> Files {
    let mut files = Files::new();
    insert(&mut files, "90_custom.yaml", "#cloud-config\nusers: []\n");
    insert(&mut files, "empty", "");
    insert(&mut files, "folder/below/large", vec![3; 5 << 20]);
    insert(&mut files, &"n".repeat(255), "long");
    insert(&mut files, "Ünïcode 名前", "text");
    for number in 0..800 {
        insert(&mut files, &format!("many/configuration number {number}.yaml"), format!("{number}"));
    }
    files.insert(path("nothing"), Node::Directory).unwrap();
    files
}

#[test]
fn a_file_system_is_clean_and_reads_back() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("oem.img");
    for (length, files) in [
        (16 * MIB, Files::new()),
        (64 * MIB, config()),
        (64 * MIB + 513, config()),
        // A last group that has room for its tables, hardly, and not.
        (128 * MIB, config()),
        (128 * MIB + 1500 * 4096, config()),
        (128 * MIB + 1539 * 4096, Files::new()),
        (128 * MIB + 1604 * 4096, Files::new()),
        (GIB, config()),
        (10 * GIB, config()),
        (100 * GIB, Files::new()),
    ] {
        let ext4 = Ext4::new(&files, &options(length)).unwrap();
        write(&ext4, &image);
        check(&image);
        assert_eq!(dumped(&image, dir.path()), listed(&files), "{length}");
        assert!(allocated(&image) < 24 * MIB, "{length}: {}", allocated(&image));
        let blkid = printed("blkid", ["-p".as_ref(), "-o".as_ref(), "export".as_ref(), image.as_os_str()]);
        assert!(blkid.contains("UUID=01234567-89ab-8def-8123-456789abcdef"), "{blkid}");
        assert!(blkid.contains("LABEL=COS_PERSISTENT") && blkid.contains("TYPE=ext4"), "{blkid}");
    }
}

#[test]
fn modes_links_and_times_are_what_they_should_be() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("oem.img");
    let mut files = config();
    files.insert(path("short"), Node::Symlink(b"90_custom.yaml".to_vec())).unwrap();
    files.insert(path("limit"), Node::Symlink(vec![b'x'; 59])).unwrap();
    files.insert(path("long"), Node::Symlink(vec![b'y'; 60])).unwrap();
    let Node::File { content, .. } = Node::bytes("#!/bin/sh\n") else { panic!("a file") };
    files.insert(path("script"), Node::File { content, executable: true }).unwrap();
    write(&Ext4::new(&files, &Ext4Options { time: 951_827_696, ..options(64 * MIB) }).unwrap(), &image);
    check(&image);
    let stat =
        |name: &str| printed("debugfs", ["-R".as_ref(), OsStr::new(&format!("stat /{name}")), image.as_os_str()]);
    for (name, parts) in [
        ("script", &["Type: regular", "Mode:  0700", "User:     0   Group:     0", "Links: 1"][..]),
        ("90_custom.yaml", &["Mode:  0600", "Size: 24", "Tue Feb 29 12:34:56 2000"]),
        ("folder", &["Type: directory", "Mode:  0700", "Links: 3"]),
        ("short", &["Type: symlink", "Fast link dest: \"90_custom.yaml\""]),
        ("limit", &["Fast link dest: \"xxxx", "Size: 59"]),
        ("long", &["Type: symlink", "Size: 60", "EXTENTS"]),
        ("lost+found", &["Mode:  0700", "Size: 16384"]),
    ] {
        let stat = stat(name);
        assert!(parts.iter().all(|part| stat.contains(part)), "{name}: {stat}");
    }
    let cat = printed("debugfs", ["-R".as_ref(), "cat /long".as_ref(), image.as_os_str()]);
    assert!(cat.contains(&"y".repeat(60)), "{cat}");
}

/// Kairos lets `persistent` grow at the first boot; resize2fs does here what the kernel does there.
#[test]
fn a_file_system_grows() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("persistent.img");
    for (from, steps) in [(64 * MIB, [200 * MIB, 20 * GIB]), (GIB, [3 * GIB, 60 * GIB])] {
        write(&Ext4::new(&config(), &options(from)).unwrap(), &image);
        for length in steps {
            fs::File::options().write(true).open(&image).unwrap().set_len(length).unwrap();
            printed("resize2fs", ["-f".as_ref(), image.as_os_str()]);
            check(&image);
            assert_eq!(dumped(&image, dir.path()), listed(&config()));
            let summary = printed("dumpe2fs", ["-h".as_ref(), image.as_os_str()]);
            assert!(summary.contains(&format!("Block count:              {}\n", length / 4096)), "{summary}");
            assert!(summary.contains("resize_inode") && !summary.contains("meta_bg"), "{summary}");
        }
    }
}

#[test]
fn features_are_those_of_a_file_system_of_today() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("oem.img");
    write(&Ext4::new(&Files::new(), &options(GIB)).unwrap(), &image);
    let summary = printed("dumpe2fs", ["-h".as_ref(), image.as_os_str()]);
    for part in [
        "has_journal ext_attr resize_inode dir_index filetype extent 64bit sparse_super large_file huge_file dir_nlink \
         extra_isize metadata_csum\n",
        "Filesystem state:         clean",
        "Total journal size:       64M",
        "Journal start:            0",
        "Checksum type:            crc32c",
        "Reserved GDT blocks:      1023",
    ] {
        assert!(summary.contains(part), "{part}\n{summary}");
    }
}

#[test]
fn the_same_files_give_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let mut reversed = Files::new();
    let files = config();
    for (path, node) in files.iter().collect::<Vec<_>>().into_iter().rev() {
        reversed.insert(path.clone(), node.clone()).unwrap();
    }
    let bytes = |files: &Files, name: &str| {
        write(&Ext4::new(files, &options(64 * MIB)).unwrap(), &dir.path().join(name));
        fs::read(dir.path().join(name)).unwrap()
    };
    assert!(bytes(&files, "one") == bytes(&reversed, "two"));
}

#[test]
fn what_cannot_be_is_named() {
    let error = |files: &Files, options: &Ext4Options| Ext4::new(files, options).unwrap_err().to_string();
    let small = options(16 * MIB);
    assert!(error(&config(), &small).contains("choose a larger size"));
    assert!(error(&Files::new(), &options(16 * MIB - 1)).contains("16 MiB and 4 TiB"));
    assert!(error(&Files::new(), &options((4 << 40) + 1)).contains("16 MiB and 4 TiB"));
    let label = Ext4Options { label: "x".repeat(17), ..options(64 * MIB) };
    assert!(error(&Files::new(), &label).contains("16 bytes"));
    for (at, node, part) in [
        ("lost+found", Node::Directory, "/lost+found cannot be in a ext4 image"),
        (&*"n".repeat(256), Node::bytes(""), "more than 255 bytes"),
        ("link", Node::Symlink(vec![b'x'; 4096]), "4095"),
    ] {
        let mut files = Files::new();
        files.insert(path(at), node).unwrap();
        let error = error(&files, &options(64 * MIB));
        assert!(error.contains(part), "{error}");
    }
    let mut files = Files::new();
    for number in 0..8200 {
        insert(&mut files, &format!("{number}"), "");
    }
    assert!(error(&files, &options(GIB)).contains("8192"));
}

#[test]
fn a_file_that_changed_stops_the_image() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("files");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("config"), "as it was").unwrap();
    let ext4 = Ext4::new(&Files::scan(&folder).unwrap(), &options(64 * MIB)).unwrap();
    fs::write(folder.join("config"), "longer than it was").unwrap();
    let error = try_write(&ext4, &dir.path().join("oem.img")).unwrap_err();
    assert!(matches!(error, ImageError::Changed { .. }), "{error}");
}

#[test]
fn e2fsck_sees_what_is_wrong() {
    // The oracle can say no: one byte of the table of inodes is another one.
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("oem.img");
    write(&Ext4::new(&config(), &options(64 * MIB)).unwrap(), &image);
    let mut bytes = fs::read(&image).unwrap();
    let table = (1 + 1 + 1023 + 2) * 4096;
    bytes[table + 256 + 8] ^= 1;
    fs::write(&image, bytes).unwrap();
    let ran = run("e2fsck", ["-f".as_ref(), "-n".as_ref(), image.as_os_str()]);
    assert!(!ran.status.success(), "{ran:?}");
}
