//! From a real root to a selection, step by step: the inventory, what the modules declare (cold, by a cache, and beside the
//! decompression alone), the selection, and all of it with a warm cache.
//!
//! `KAIROS_INIT_TEST_ROOT` names the root; `tests/run.sh` makes it. `cold` beside `decompression`, and `warm`, have bars:
//! `benches/peers.sh` holds them against these.

// A bench has nobody to hand an error to.
#![allow(clippy::expect_used)]

use std::io::Read;
use std::path::PathBuf;

use divan::{Bencher, black_box};
use kairos_init::drivers::inventory::cache::{Pack, declarations_with};
use kairos_init::drivers::inventory::{Inventory, Module, declarations, load};
use kairos_init::drivers::select::{SelectOptions, select};
use kairos_init::drivers::target::{Request, Target, resolve};
use kairos_init::drivers::wishes::Wishes;
use kairos_init::root::sysroot::Sysroot;
use object::{Object, ObjectSection};
use rayon::prelude::*;

fn main() {
    divan::main();
}

fn root() -> Sysroot {
    let path = std::env::var_os("KAIROS_INIT_TEST_ROOT")
        .map_or_else(|| PathBuf::from("/var/cache/kairos-init-tests/base"), PathBuf::from);
    Sysroot::open(&path).expect("run tests/run.sh, which makes the root")
}

fn inventory(root: &Sysroot) -> Inventory {
    load(root, None).expect("a sound root")
}

fn target() -> Target {
    resolve(&[Request::Name("x86-generic")]).expect("a target")
}

/// A cache of all modules, as it lies on the disk.
fn pack(root: &Sysroot, inventory: &Inventory) -> Vec<u8> {
    let cold = declarations_with(root, inventory.modules.by_name.values(), &Pack::default()).expect("sound modules");
    cold.fresh.expect("a pack").to_bytes()
}

/// A decoder of one file, by its suffix: the libraries as they are.
fn decoder(path: &str, file: std::fs::File) -> Box<dyn Read> {
    match path.rsplit('.').next() {
        Some("xz") => Box::new(xz2::read::XzDecoder::new(file)),
        Some("zst") => Box::new(zstd::Decoder::new(file).expect("a zstd file")),
        Some("gz") => Box::new(flate2::read::GzDecoder::new(file)),
        _ => Box::new(file),
    }
}

/// Where `.modinfo` ends in the decompressed module, by its section headers.
fn end(root: &Sysroot, module: &Module) -> u64 {
    let mut bytes = Vec::new();
    decoder(&module.relative, root.file(&module.path).expect("a file")).read_to_end(&mut bytes).expect("a module");
    let file = object::File::parse(bytes.as_slice()).expect("an ELF file");
    let (start, length) = file.section_by_name(".modinfo").and_then(|section| section.file_range()).expect("a module");
    start + length
}

#[divan::bench(sample_count = 20, sample_size = 1)]
fn inventory_only(bencher: Bencher) {
    let root = root();
    bencher.bench_local(|| inventory(&root));
}

/// What a cold run must do at least: every module, decompressed up to the end of its `.modinfo`.
#[divan::bench(sample_count = 10, sample_size = 1)]
fn decompression(bencher: Bencher) {
    let root = root();
    let inventory = inventory(&root);
    let ends: Vec<_> = inventory.modules.by_name.values().map(|module| (module, end(&root, module))).collect();
    bencher.bench_local(|| {
        ends.par_iter().for_each_init(Vec::new, |buffer, (module, end)| {
            buffer.clear();
            let file = root.file(&module.path).expect("a file");
            decoder(&module.relative, file).take(*end).read_to_end(buffer).expect("a module");
            black_box(buffer);
        });
    });
}

#[divan::bench(sample_count = 10, sample_size = 1)]
fn cold(bencher: Bencher) {
    let root = root();
    let inventory = inventory(&root);
    bencher.bench_local(|| declarations(&root, inventory.modules.by_name.values()).expect("sound modules"));
}

#[divan::bench(sample_count = 20, sample_size = 1)]
fn cached(bencher: Bencher) {
    let root = root();
    let inventory = inventory(&root);
    let pack = pack(&root, &inventory);
    bencher.bench_local(|| {
        let pack = Pack::parse(&pack).expect("a pack");
        declarations_with(&root, inventory.modules.by_name.values(), &pack).expect("sound modules")
    });
}

#[divan::bench(sample_count = 20, sample_size = 1)]
fn selection(bencher: Bencher) {
    let root = root();
    let inventory = inventory(&root);
    let declarations = declarations(&root, inventory.modules.by_name.values()).expect("sound modules");
    let target = target();
    bencher.bench_local(|| {
        select(&inventory, &declarations, &target, &Wishes::default(), &SelectOptions::default()).expect("a selection")
    });
}

/// From an open root and the bytes of a cache to the selection.
#[divan::bench(sample_count = 20, sample_size = 1)]
fn warm(bencher: Bencher) {
    let root = root();
    let pack = pack(&root, &inventory(&root));
    let target = target();
    bencher.bench_local(|| {
        let inventory = inventory(&root);
        let pack = Pack::parse(&pack).expect("a pack");
        let declared =
            declarations_with(&root, inventory.modules.by_name.values(), &pack).expect("sound modules").declarations;
        select(&inventory, &declared, &target, &Wishes::default(), &SelectOptions::default()).expect("a selection")
    });
}
