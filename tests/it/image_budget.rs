//! The size that is printed for the EFI system partition, held against file systems of that size: this program's own, and those that
//! `mkfs.vfat` makes as kairos-agent runs it. Needs `mkfs.vfat`, `fsck.fat`, `mcopy`, `mdir`; without them these tests fail.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test's helpers fail as tests fail")]

use std::fs::{self, File};
use std::path::Path;
use std::sync::Arc;

use kairos_init::image::budget::{Budget, Sizes};
use kairos_init::image::esp::installed;
use kairos_init::image::fat::{Fat, FatOptions, FatSize};
use kairos_init::image::{Content, DEFAULT_TIME, Files, Image, Node};

use crate::image_tools::{Holes, insert, path, printed};

const MIB: u64 = 1 << 20;

fn holes(files: &mut Files, at: &str, bytes: u64) {
    let image: Arc<dyn Image> = Arc::new(Holes(bytes));
    files.insert(path(at), Node::plain(Content::Image(image))).unwrap();
}

/// A tree with a UKI of so many bytes, and so many small files of each role.
fn tree(uki: u64, small: u64) -> Files {
    let mut files = Files::new();
    insert(&mut files, "EFI/BOOT/BOOTX64.EFI", vec![1; 130_001]);
    holes(&mut files, "EFI/kairos/norole.efi", uki);
    files.insert(path("EFI/tools"), Node::Directory).unwrap();
    insert(&mut files, "loader/loader.conf", "default norole*\n");
    insert(&mut files, "loader/entries/norole.conf", "title Kairos\nefi /EFI/kairos/norole.efi\n");
    for name in ["PK", "KEK", "db"] {
        insert(&mut files, &format!("loader/keys/auto/{name}.auth"), vec![2; 5000]);
    }
    for number in 0..small {
        insert(&mut files, &format!("EFI/kairos/norole with a name of more than an entry {number}.efi"), vec![3; 513]);
    }
    files
}

/// What the agent wants to find free before it upgrades to a container image (kairos.md 2.3, 2.4).
fn wanted(tree: &Files) -> u64 {
    tree.bytes() * 5 / 2 + 100 * MIB
}

fn need(tree: &Files) -> u64 {
    Budget::of(&Sizes::of(tree, 0, 0)).esp_mib
}

/// UKIs around the sizes at which FAT's clusters grow (a partition of 260 MiB, 8, 16, 32 GiB), and the usual ones between.
fn ukis() -> Vec<u64> {
    let around = |uki: u64| (0..6).map(move |step| uki + step * 150_001);
    let mut sizes: Vec<u64> = (1..60).map(|count| count * MIB).collect();
    for uki in [17, 20, 22, 23, 24, 25] {
        sizes.extend(around(uki * MIB));
    }
    sizes.extend([100, 200, 500, 900, 1023, 1024, 1240, 1243, 1245, 1250, 1500, 2000, 2047].map(|uki| uki * MIB));
    // 8 GiB less 100 MiB, in six and a half copies.
    sizes.extend((0..40).map(|step| (8092 + step) * MIB * 2 / 13));
    sizes
}

#[test]
fn the_room_that_is_asked_for_is_enough_on_our_own_file_system() {
    for small in [0, 1, 60, 700] {
        for uki in ukis() {
            let tree = tree(uki, small);
            let need = need(&tree);
            let options = FatOptions {
                label: None,
                volume_id: 1,
                hidden_sectors: 2048,
                size: FatSize::Exact(need * MIB),
                time: DEFAULT_TIME,
            };
            let four = installed(&tree).unwrap();
            let free = Fat::new(&four, &options).unwrap().free_bytes();
            let told = format!("a UKI of {uki} bytes with {small} small files: {need} MiB");
            assert!(free >= wanted(&tree), "{told}: {free} bytes are free and {} are wanted", wanted(&tree));
            // An upgrade puts the next image there before it takes one away.
            let mut five = four.clone();
            five.overlay(tree.clone()).unwrap();
            Fat::new(&five, &options).unwrap();
            // And it is no more than that: two clusters a file, and 1/64 where clusters have a sector.
            let files = (need * MIB).abs_diff(four.bytes() + wanted(&tree));
            let spare = 3 * MIB + need * MIB / 60 + (small + 12) * 5 * (33 << 10);
            assert!(files <= spare, "{told}: {files} bytes beyond the files, {spare} are fair");
        }
    }
}

/// Bytes of a cluster and number of clusters, as fsck.fat tells them.
fn clusters(image: &Path) -> (u64, u64) {
    let report = printed("fsck.fat", ["-n".as_ref(), "-v".as_ref(), image.as_os_str()]);
    let number = |what: &str| {
        let line = report.lines().find(|line| line.contains(what)).unwrap();
        line.split_whitespace().next().unwrap().parse::<u64>().unwrap()
    };
    (number("bytes per cluster"), number("data clusters"))
}

/// An empty file system of `mib` MiB, as the agent makes it, which names no size of FAT; or of a named one.
fn mkfs(image: &Path, mib: u64, options: &[&str]) {
    let _ = fs::remove_file(image);
    File::create(image).unwrap().set_len(mib * MIB).unwrap();
    let arguments = ["-n", "COS_GRUB"].iter().chain(options).map(AsRef::as_ref);
    printed("mkfs.vfat", arguments.chain([image.as_os_str()]));
}

#[test]
fn the_room_that_is_asked_for_is_enough_on_what_mkfs_makes() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("esp.img");
    let mut seen = std::collections::BTreeSet::new();
    for small in [0, 60] {
        for uki in ukis().into_iter().step_by(2) {
            let tree = tree(uki, small);
            let need = need(&tree);
            let four = installed(&tree).unwrap();
            for options in [&[][..], &["-F", "32"]] {
                mkfs(&image, need, options);
                let (bytes, count) = clusters(&image);
                seen.insert(bytes);
                // Directories here have one cluster, or what 21 entries for each name take.
                let used: u64 = four
                    .iter()
                    .map(|(_, node)| match node {
                        Node::File { content, .. } => content.length().div_ceil(bytes),
                        _ => (21 * 32 * 4 * (small + 8)).div_ceil(bytes),
                    })
                    .sum();
                let told = format!("a UKI of {uki} bytes with {small} small files: {need} MiB, mkfs.vfat {options:?}");
                let free = count.saturating_sub(used) * bytes;
                assert!(free >= wanted(&tree), "{told}: {free} bytes are free and {} are wanted", wanted(&tree));
            }
        }
    }
    assert!(seen.is_superset(&[512, 4096, 8192].into()), "clusters of {seen:?} bytes were made");
}

/// The same by copying, at the size for which an earlier version asked for too little.
#[test]
fn four_copies_are_put_there_and_what_an_upgrade_wants_is_free() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("esp.img");
    let tree = tree(23 * MIB + 750_005, 0);
    let folder = dir.path().join("files");
    for (path, node) in installed(&tree).unwrap().iter() {
        let to = folder.join(path.as_path());
        match node {
            Node::File { content, .. } => {
                fs::create_dir_all(to.parent().unwrap()).unwrap();
                File::create(to).unwrap().set_len(content.length()).unwrap();
            }
            _ => fs::create_dir_all(to).unwrap(),
        }
    }
    for options in [&[][..], &["-F", "32"]] {
        mkfs(&image, need(&tree), options);
        let copy = ["-s".as_ref(), "-i".as_ref(), image.as_os_str()];
        let from = ["EFI", "loader"].map(|name| folder.join(name));
        printed("mcopy", copy.into_iter().chain(from.iter().map(|path| path.as_os_str())).chain(["::".as_ref()]));
        let listing = printed("mdir", ["-i".as_ref(), image.as_os_str(), "::".as_ref()]);
        let line = listing.lines().find(|line| line.contains("bytes free")).unwrap();
        let free: u64 = line.chars().filter(char::is_ascii_digit).collect::<String>().parse().unwrap();
        assert!(free >= wanted(&tree), "{options:?}: {free} bytes are free and {} are wanted", wanted(&tree));
        assert!(free < wanted(&tree) + 8 * MIB, "{options:?}: far too much is free, {free} bytes");
    }
}
