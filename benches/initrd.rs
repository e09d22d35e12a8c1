//! Scanning a root and writing its archive: generated input, warm page cache. Run with `cargo bench --bench initrd`.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "input is generated here")]

use std::fs;

use divan::counter::{BytesCount, ItemsCount};
use kairos_init::cancel::Cancel;
use kairos_init::names::TreePath;
use kairos_init::root::initrd::{Compression, build, write_newc};
use kairos_init::root::scan::{ScanOptions, scan};
use kairos_init::root::sysroot::Sysroot;
use kairos_init::root::tree::{Entry, FileTree};

fn main() {
    divan::main();
}

/// As a root has them: many small files, a few large ones. Directories times 100 files.
fn files(directories: usize) -> impl Iterator<Item = (String, Vec<u8>)> {
    let mut state = 1_u32;
    (0..directories * 100).map(move |number| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let length = if number % 100 == 0 { 1 << 20 } else { (state >> 18) as usize };
        let line = format!("line {state} of file {number}\n").into_bytes();
        (format!("dir-{}/file-{number}", number / 100), line.into_iter().cycle().take(length).collect())
    })
}

fn in_memory(directories: usize) -> FileTree {
    let mut tree = FileTree::new();
    for (path, content) in files(directories) {
        let path = TreePath::new(path).unwrap();
        tree.insert(path.parent().unwrap(), Entry::directory(0));
        tree.insert(path, Entry::file(content, 0));
    }
    tree
}

fn on_disk(directories: usize) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (path, content) in files(directories) {
        let path = dir.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    dir
}

#[divan::bench(sample_count = 20)]
fn scan_10_000_files(bencher: divan::Bencher<'_, '_>) {
    let dir = on_disk(100);
    let root = Sysroot::open(dir.path()).unwrap();
    bencher
        .counter(ItemsCount::new(10_000_u32))
        .bench(|| scan(&root, &ScanOptions::default(), &Cancel::default()).unwrap());
}

#[divan::bench(sample_count = 20)]
fn cpio_from_disk(bencher: divan::Bencher<'_, '_>) {
    let dir = on_disk(100);
    let root = Sysroot::open(dir.path()).unwrap();
    let tree = scan(&root, &ScanOptions::default(), &Cancel::default()).unwrap().tree;
    let write = || write_newc(&tree, &root, &mut std::io::sink(), &Cancel::default()).unwrap();
    bencher.counter(BytesCount::new(write().bytes)).bench(write);
}

#[divan::bench(sample_count = 20)]
fn cpio_from_memory(bencher: divan::Bencher<'_, '_>) {
    let tree = in_memory(100);
    let root = Sysroot::open(std::path::Path::new("/")).unwrap();
    let write = || write_newc(&tree, &root, &mut std::io::sink(), &Cancel::default()).unwrap();
    bencher.counter(BytesCount::new(write().bytes)).bench(write);
}

#[divan::bench(args = ["zstd:3", "zstd:12"], sample_count = 3)]
fn initrd_from_memory(bencher: divan::Bencher<'_, '_>, compression: &str) {
    let tree = in_memory(50);
    let root = Sysroot::open(std::path::Path::new("/")).unwrap();
    let compression: Compression = compression.parse().unwrap();
    let write =
        || build(&tree, &root, &compression.with_workers(2), std::io::sink(), &Cancel::default(), &|_| {}).unwrap();
    bencher.counter(BytesCount::new(write().uncompressed_bytes)).bench(write);
}
