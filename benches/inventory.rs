//! The inventory of a real root, and the firmware of the modules that a server might keep.
//!
//! `KAIROS_INIT_TEST_ROOT` names the root; `tests/run.sh` makes it.

// A bench has nobody to hand an error to.
#![allow(clippy::expect_used)]

use std::path::PathBuf;

use divan::Bencher;
use kairos_init::drivers::inventory::{Inventory, Module, declarations, load};
use kairos_init::root::sysroot::Sysroot;

fn main() {
    divan::main();
}

fn root() -> Sysroot {
    let path = std::env::var_os("KAIROS_INIT_TEST_ROOT")
        .map_or_else(|| PathBuf::from("/var/cache/kairos-init-tests/base"), PathBuf::from);
    Sysroot::open(&path).expect("run tests/run.sh, which makes the root")
}

/// About 1,800 of Debian's 4,200 modules.
const KEPT: [&str; 17] = [
    "drivers/ata/",
    "drivers/scsi/",
    "drivers/nvme/",
    "drivers/net/ethernet/",
    "drivers/usb/",
    "drivers/md/",
    "drivers/block/",
    "drivers/mmc/",
    "drivers/char/",
    "drivers/hid/",
    "drivers/input/",
    "drivers/virtio/",
    "drivers/xen/",
    "drivers/hv/",
    "fs/",
    "net/",
    "crypto/",
];

fn kept(inventory: &Inventory) -> Vec<&Module> {
    let wanted = |module: &&Module| {
        let below = module.relative.strip_prefix("kernel/").unwrap_or_default();
        KEPT.iter().any(|directory| below.starts_with(directory)) || below.starts_with("lib/")
    };
    inventory.modules.by_name.values().filter(wanted).collect()
}

#[divan::bench(sample_count = 10, sample_size = 1)]
fn load_only(bencher: Bencher) {
    let root = root();
    bencher.bench_local(|| load(&root, None).expect("a sound root"));
}

#[divan::bench(sample_count = 10, sample_size = 1)]
fn declarations_only(bencher: Bencher) {
    let root = root();
    let inventory = load(&root, None).expect("a sound root");
    let modules = kept(&inventory);
    bencher.bench_local(|| declarations(&root, modules.iter().copied()).expect("sound modules"));
}

#[divan::bench(sample_count = 10, sample_size = 1)]
fn load_and_declarations(bencher: Bencher) {
    let root = root();
    bencher.bench_local(|| {
        let inventory = load(&root, None).expect("a sound root");
        declarations(&root, kept(&inventory)).expect("sound modules")
    });
}
