//! Writing the indexes for x86-generic's modules of a real root, from the inventory and the selection.
//!
//! `KAIROS_INIT_TEST_ROOT` names the root; `tests/run.sh` makes it.

// A bench has nobody to hand an error to.
#![allow(clippy::expect_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use divan::Bencher;
use kairos_init::drivers::depmod;
use kairos_init::drivers::inventory::{Inventory, load};
use kairos_init::drivers::select::{SelectOptions, select};
use kairos_init::drivers::target::{Request, resolve};
use kairos_init::names::ModuleName;
use kairos_init::root::sysroot::Sysroot;

fn main() {
    divan::main();
}

fn given() -> (Sysroot, Inventory, BTreeSet<ModuleName>) {
    let path = std::env::var_os("KAIROS_INIT_TEST_ROOT")
        .map_or_else(|| PathBuf::from("/var/cache/kairos-init-tests/base"), PathBuf::from);
    let root = Sysroot::open(&path).expect("run tests/run.sh, which makes the root");
    let inventory = load(&root, None).expect("a sound root");
    let target = resolve(&[Request::Name("x86-generic")]).expect("a target");
    let selection =
        select(&inventory, &target, &SelectOptions::default(), &|_| Ok(BTreeMap::new())).expect("a selection");
    let kept = selection.modules.iter().filter(|(_, item)| item.kept).map(|(name, _)| name.clone()).collect();
    (root, inventory, kept)
}

#[divan::bench(sample_count = 20, sample_size = 1)]
fn indexes(bencher: Bencher) {
    let (root, inventory, kept) = given();
    bencher.bench_local(|| depmod::indexes(&root, &inventory, &kept).expect("a sound root"));
}
