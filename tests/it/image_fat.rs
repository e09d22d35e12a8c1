//! FAT file systems, held against fsck.fat and read back by mtools. Needs `fsck.fat`, `mcopy`, `minfo`, `mdir`; without them
//! these tests fail.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a test's helpers fail as tests fail"
)]

use std::fs;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use kairos_init::image::fat::{Fat, FatLabel, FatOptions, FatSize};
use kairos_init::image::{Content, DEFAULT_TIME, Files, Image, ImageError, Node};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::image_tools::{
    Holes, Listing, allocated, digest, folder, insert, listed, path, printed, run, try_write, write,
};

fn options(size: FatSize) -> FatOptions {
    FatOptions { label: None, volume_id: 0x1234_abcd, hidden_sectors: 2048, size, time: DEFAULT_TIME }
}

const FIT: FatSize = FatSize::Fit { free: 0 };

/// fsck.fat has nothing to say. Gives its report.
fn check(image: &Path) -> String {
    let report = printed("fsck.fat", ["-n".as_ref(), "-v".as_ref(), image.as_os_str()]);
    let known = |line: &str| {
        [
            "fsck.fat ",
            "Checking we can access",
            "Boot sector contents:",
            "System ID ",
            "Media byte ",
            "     ",
            "First FAT starts",
            "Root directory start",
            "Data area starts",
            "Checking for unused",
            "Reclaiming unconnected",
            "Checking free cluster",
        ]
        .iter()
        .any(|start| line.trim_start_matches(' ').starts_with(start.trim_start()) || line.starts_with(start))
            || line.contains(" files, ")
            || line.trim().is_empty()
    };
    let said: Vec<_> = report.lines().filter(|line| !known(line)).collect();
    // Numbers with an explanation ("       512 bytes per logical sector") are all that is left.
    let said: Vec<_> =
        said.into_iter().filter(|line| !line.trim_start().starts_with(|c: char| c.is_ascii_digit())).collect();
    assert!(said.is_empty(), "fsck.fat complains: {said:#?}\n{report}");
    report
}

/// What mtools copies out of an image.
fn copied(image: &Path, scratch: &Path) -> Listing {
    let to = scratch.join("copied");
    let _ = fs::remove_dir_all(&to);
    fs::create_dir(&to).unwrap();
    let arguments =
        ["-i".as_ref(), image.as_os_str(), "-s".as_ref(), "-n".as_ref(), "-m".as_ref(), "::*".as_ref(), to.as_os_str()];
    printed("mcopy", arguments);
    folder(&to)
}

/// What the crate fatfs reads: it knows characters beyond 16 bits, which mtools does not.
fn read(image: &Path) -> Listing {
    let file = fs::File::options().read(true).write(true).open(image).unwrap();
    let volume = fatfs::FileSystem::new(file, fatfs::FsOptions::new()).unwrap();
    let mut found = Listing::new();
    let mut pending = vec![(String::new(), volume.root_dir())];
    while let Some((prefix, directory)) = pending.pop() {
        for entry in directory.iter() {
            let entry = entry.unwrap();
            let name = format!("{prefix}{}", entry.file_name());
            if entry.is_dir() {
                if entry.file_name() != "." && entry.file_name() != ".." {
                    found.insert(format!("{name}/"), digest(b""));
                    pending.push((format!("{name}/"), entry.to_dir()));
                }
            } else {
                let mut bytes = Vec::new();
                entry.to_file().read_to_end(&mut bytes).unwrap();
                found.insert(name, digest(&bytes));
            }
        }
    }
    found
}

/// An ESP as Kairos has it.
fn esp() -> Files {
    let mut files = Files::new();
    let bytes = |count: usize, seed: usize| (0..count).map(|at| ((at * 31 + seed) % 251) as u8).collect::<Vec<_>>();
    insert(&mut files, "EFI/BOOT/BOOTX64.EFI", bytes(123_456, 1));
    insert(&mut files, "EFI/kairos/norole.efi", bytes(3_000_001, 2));
    insert(&mut files, "EFI/kairos/active.efi.extra.d/tool.sysext.raw", bytes(65_536, 3));
    insert(&mut files, "loader/entries/norole.conf", "title Kairos\nefi /EFI/kairos/norole.efi\n");
    insert(&mut files, "loader/loader.conf", "default norole*\n");
    insert(&mut files, "loader/keys/auto/db.auth", bytes(4096, 4));
    insert(&mut files, "empty", "");
    insert(&mut files, "Ünïcode 名前.yaml", "a: b\n");
    insert(&mut files, &"n".repeat(255), "long");
    files.insert(path("nothing"), Node::Directory).unwrap();
    files
}

#[test]
fn a_file_system_is_clean_and_reads_back() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("esp.img");
    let files = esp();
    for (size, label) in [
        (FIT, None),
        (FatSize::Fit { free: 50 << 20 }, Some("COS_GRUB")),
        (FatSize::Exact(33 << 20), Some("EFI")),
        (FatSize::Exact(34_567 * 1024 + 512), Some("A B-C")),
        // Clusters of 4, 8, 16 and 32 KiB.
        (FatSize::Exact(300 << 20), Some("COS_GRUB")),
        (FatSize::Exact(9 << 30), None),
        (FatSize::Exact(15_360 << 20), Some("COS_GRUB")),
        (FatSize::Exact(20 << 30), None),
        (FatSize::Exact((40 << 30) + 512), None),
    ] {
        let options = FatOptions { label: label.map(|label| FatLabel::new(label).unwrap()), ..options(size) };
        let fat = Fat::new(&files, &options).unwrap();
        write(&fat, &image);
        let report = check(&image);
        assert_eq!(copied(&image, dir.path()), listed(&files), "{size:?}");
        assert_eq!(read(&image), listed(&files), "{size:?}");
        match size {
            FatSize::Fit { free } => {
                assert!(fat.free_bytes() >= free);
                assert!(fat.length() < (34 << 20) + free, "{}", fat.length());
            }
            FatSize::Exact(bytes) => assert_eq!(fat.length(), bytes),
        }
        // fsck.fat: "N files, M/K clusters".
        let counts = report.lines().find_map(|line| line.split_once(" files, ")).unwrap().1;
        let (used, all) = counts.trim_end_matches(" clusters").split_once('/').unwrap();
        let (used, all): (u64, u64) = (used.parse().unwrap(), all.parse().unwrap());
        assert!(all >= 65_525);
        // It counts clusters of files and directories.
        assert_eq!((all - used) * u64::from(fat.cluster_bytes()), fat.free_bytes(), "{report}");
        // Most of it is holes.
        assert!(allocated(&image) < 8 << 20, "{} of {}", allocated(&image), fat.length());
        let info = printed("minfo", ["-i".as_ref(), image.as_os_str(), "::".as_ref()]);
        assert!(info.contains("serial number: 1234ABCD"), "{info}");
        assert!(info.contains("disk type=\"FAT32   \""), "{info}");
        assert!(info.contains("hidden sectors: 2048"), "{info}");
        let listing = printed("mdir", ["-i".as_ref(), image.as_os_str(), "::".as_ref()]);
        match label {
            Some(label) => assert!(listing.contains(&format!("is {label}")), "{listing}"),
            None => assert!(listing.contains("has no label"), "{listing}"),
        }
        let blkid = printed("blkid", ["-p".as_ref(), "-o".as_ref(), "export".as_ref(), image.as_os_str()]);
        assert!(blkid.contains("UUID=1234-ABCD") && blkid.contains("VERSION=FAT32"), "{blkid}");
    }
}

#[test]
fn a_file_system_has_no_more_than_it_needs() {
    let mut files = Files::new();
    insert(&mut files, "large", vec![7; 60 << 20]);
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("esp.img");
    let fat = Fat::new(&files, &options(FIT)).unwrap();
    write(&fat, &image);
    check(&image);
    assert!(fat.free_bytes() <= 4096, "{}", fat.free_bytes());
    assert!(fat.length() < 61 << 20);
    // The same with as much room as it says, and with a cluster less.
    let exact = |bytes| Fat::new(&files, &options(FatSize::Exact(bytes)));
    exact(fat.length()).unwrap();
    let error = exact(fat.length() - 8192).unwrap_err().to_string();
    assert!(error.contains("choose a larger size"), "{error}");
}

#[test]
fn the_same_files_give_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let files = esp();
    // In another order, and from two folders on disk, the files of the second made the other way round.
    let mut reversed = Files::new();
    let nodes: Vec<_> = files.iter().collect();
    for (path, node) in nodes.iter().rev() {
        reversed.insert((*path).clone(), (*node).clone()).unwrap();
    }
    let mut images = vec![Fat::new(&files, &options(FIT)).unwrap(), Fat::new(&reversed, &options(FIT)).unwrap()];
    for (name, is_reversed) in [("one", false), ("two", true)] {
        let folder = dir.path().join(name);
        let mut list: Vec<_> = listed(&files).into_iter().collect();
        if is_reversed {
            list.reverse();
        }
        for (name, _) in list {
            let to = folder.join(name.trim_end_matches('/'));
            match name.ends_with('/') {
                true => fs::create_dir_all(to).unwrap(),
                false => {
                    fs::create_dir_all(to.parent().unwrap()).unwrap();
                    let Some(Node::File { content, .. }) = files.get(&path(&name)) else { panic!("{name}") };
                    fs::write(to, content.read(u64::MAX).unwrap()).unwrap();
                }
            }
        }
        images.push(Fat::new(&Files::scan(&folder).unwrap(), &options(FIT)).unwrap());
    }
    let mut all = Vec::new();
    for (number, image) in images.iter().enumerate() {
        let to = dir.path().join(format!("{number}.img"));
        write(image, &to);
        check(&to);
        all.push(fs::read(to).unwrap());
    }
    assert!(all.iter().all(|bytes| *bytes == all[0]));
}

#[test]
fn times_are_those_that_were_given() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("esp.img");
    let mut files = Files::new();
    insert(&mut files, "directory/file", "x");
    let options = FatOptions { time: 951_827_696, label: Some(FatLabel::new("EFI").unwrap()), ..options(FIT) };
    write(&Fat::new(&files, &options).unwrap(), &image);
    check(&image);
    for (what, entries) in [("::", 1), ("::directory", 3)] {
        let listing = printed("mdir", ["-i".as_ref(), image.as_os_str(), what.as_ref()]);
        assert_eq!(listing.matches("2000-02-29  12:34").count(), entries, "{listing}");
    }
}

#[test]
fn large_directories_are_clean() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("esp.img");
    let mut files = Files::new();
    for number in 0..5000 {
        insert(&mut files, &format!("many/configuration number {number}.conf"), format!("{number}"));
    }
    let mut deep = String::from("deep");
    while deep.len() < 250 {
        deep.push_str("/deeper");
    }
    insert(&mut files, &deep, "bottom");
    write(&Fat::new(&files, &options(FIT)).unwrap(), &image);
    check(&image);
    assert_eq!(copied(&image, dir.path()), listed(&files));
}

fn refused(result: Result<Fat, ImageError>) -> String {
    result.map(|_| ()).expect_err("FAT cannot have this").to_string()
}

#[test]
fn what_fat_cannot_hold_is_named() {
    let one = |at: &str, node: Node| {
        let mut files = Files::new();
        files.insert(path(at), node).unwrap();
        refused(Fat::new(&files, &options(FIT)))
    };
    let error = one("a/link", Node::Symlink(b"target".to_vec()));
    assert!(error.contains("/a/link cannot be in a FAT image: it is a symbolic link"), "{error}");
    let error = one("EFI/what?.efi", Node::bytes(""));
    assert!(error.contains("/EFI/what?.efi cannot be in a FAT image: its name has the character '?'"), "{error}");
    let large: Arc<dyn Image> = Arc::new(Holes(LARGEST + 1));
    let error = one("EFI/large", Node::plain(Content::Image(large)));
    assert!(error.contains("/EFI/large cannot be in a FAT image: it has more than 4 GiB less 32 KiB"), "{error}");

    let mut files = Files::new();
    for number in 0..33_000 {
        insert(&mut files, &format!("many/{number:05}.conf"), "");
    }
    let error = refused(Fat::new(&files, &options(FIT)));
    assert!(error.contains("/many/32767.conf") && error.contains("65536"), "{error}");

    let mut files = Files::new();
    for number in 0..513 {
        let large: Arc<dyn Image> = Arc::new(Holes(LARGEST));
        files.insert(path(format!("{number}")), Node::plain(Content::Image(large))).unwrap();
    }
    let error = refused(Fat::new(&files, &options(FIT)));
    assert!(error.contains("2 TiB"), "{error}");

    for label in ["", "too long label", "efi", " EFI", "É"] {
        let error = FatLabel::new(label).unwrap_err().to_string();
        assert!(error.contains("the label"), "{error}");
    }
}

/// The largest file: see `src/image/fat/tree.rs`.
const LARGEST: u64 = (4 << 30) - (32 << 10);

#[test]
fn the_largest_file_is_a_hole_that_costs_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("esp.img");
    let mut files = esp();
    let large: Arc<dyn Image> = Arc::new(Holes(LARGEST));
    files.insert(path("EFI/large"), Node::plain(Content::Image(large))).unwrap();
    let fat = Fat::new(&files, &options(FIT)).unwrap();
    write(&fat, &image);
    check(&image);
    assert!(allocated(&image) < 16 << 20, "{}", allocated(&image));
}

#[test]
fn a_file_that_changed_stops_the_image() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("files");
    fs::create_dir(&folder).unwrap();
    for change in ["longer than it was", "short", "another"] {
        fs::write(folder.join("config"), "as it was").unwrap();
        let fat = Fat::new(&Files::scan(&folder).unwrap(), &options(FIT)).unwrap();
        // A file system's clock may tick slowly.
        std::thread::sleep(std::time::Duration::from_millis(20));
        fs::write(folder.join("config"), change).unwrap();
        let error = try_write(&fat, &dir.path().join("esp.img")).unwrap_err();
        assert!(matches!(error, ImageError::Changed { .. }), "{error}");
    }
}

/// Names of all kinds that FAT can hold, and short ones that collide.
fn name() -> impl Strategy<Value = String> {
    prop_oneof![
        "[A-Z0-9_-]{1,8}(\\.[A-Z0-9]{1,3})?",
        "[a-c]{1,3}\\.[a-c]{1,4}",
        "(LONGNA|longna)~[1-3](\\.txt)?",
        "longname [a-z]{1,3}\\.txt",
        "\\.?[ a-zA-Z0-9+,;=\\[\\]._-]{0,40}[a-z0-9]",
        "[a-zäöüßéñ名前ファイルкирилл]{1,30}",
        "[a-z]{20}",
        "[a-c😀🚀]{1,3}",
        "[a-z]{240,255}",
    ]
    .prop_filter("device names are special to mtools", |name| {
        let base = name.split('.').next().unwrap_or_default().trim().to_uppercase();
        !["CON", "AUX", "PRN", "NUL", "COM1", "LPT1"].contains(&base.as_str())
    })
    .prop_filter("leading spaces are not for mtools", |name| !name.starts_with(' '))
}

#[test]
fn trees_of_any_names_read_back() {
    let list = prop::collection::vec((prop::collection::vec(name(), 1..4), 0_usize..70_000), 1..40);
    let tree = (any::<bool>(), list);
    let mut runner = TestRunner::new_with_rng(
        Config { cases: 24, failure_persistence: None, ..Config::default() },
        proptest::test_runner::TestRng::deterministic_rng(proptest::test_runner::RngAlgorithm::ChaCha),
    );
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("esp.img");
    let (written, copies) = (std::cell::Cell::new(0), std::cell::Cell::new(0));
    runner
        .run(&tree, |(is_wide, list)| {
            let mut files = Files::new();
            for (components, length) in list {
                let mut at = components.join("/");
                if !is_wide {
                    at = at.replace(['😀', '🚀'], "é");
                }
                if at.encode_utf16().count() > 258 {
                    continue;
                }
                let mut more = files.clone();
                // A file where a directory is, or the other way round; names that differ in case only.
                let is_new = more.get(&path(&at)).is_none();
                if is_new
                    && more.insert(path(&at), Node::bytes(vec![length as u8; length])).is_ok()
                    && Fat::new(&more, &options(FIT)).is_ok()
                {
                    files = more;
                }
            }
            written.set(written.get() + files.iter().count());
            write(&Fat::new(&files, &options(FIT)).unwrap(), &image);
            check(&image);
            prop_assert_eq!(read(&image), listed(&files));
            if files.iter().all(|(path, _)| path.to_string().chars().all(|c| c <= '\u{ffff}')) {
                copies.set(copies.get() + 1);
                prop_assert_eq!(copied(&image, dir.path()), listed(&files));
            }
            Ok(())
        })
        .unwrap();
    assert!(copies.get() > 5, "only {} trees were read by mtools", copies.get());
    assert!(written.get() > 500, "only {} entries were written", written.get());
}

#[test]
fn fsck_fat_sees_what_is_wrong() {
    // The oracle can say no: one byte of a table is another one.
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("esp.img");
    write(&Fat::new(&esp(), &options(FIT)).unwrap(), &image);
    let mut bytes = fs::read(&image).unwrap();
    let table = usize::from(u16::from_le_bytes([bytes[14], bytes[15]])) * 512;
    bytes[table + 4 * 50] ^= 1;
    fs::write(&image, bytes).unwrap();
    assert!(!run("fsck.fat", ["-n".as_ref(), image.as_os_str()]).status.success());
}
