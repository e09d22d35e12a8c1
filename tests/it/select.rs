//! Selection on a real root's metadata: Debian's kernel and firmware, as `tests/run.sh` makes them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::OnceLock;

use kairos_init::drivers::inventory::{self, FirmwareKind, Inventory};
use kairos_init::drivers::select::{
    Edge, ItemRef, Pattern, Reason, SelectError, SelectOptions, Selection, chain, select,
};
use kairos_init::drivers::target::{self, Matcher, Request, Target};
use kairos_init::names::ModuleName;
use kairos_init::root::sysroot::Sysroot;

/// A root with all of a distribution's firmware.
struct Real {
    root: Sysroot,
    inventory: Inventory,
    generic: Selection,
}

fn real() -> &'static Real {
    static REAL: OnceLock<Real> = OnceLock::new();
    REAL.get_or_init(|| {
        let path = std::env::var_os("KAIROS_INIT_TEST_ROOT")
            .map_or_else(|| PathBuf::from("/var/cache/kairos-init-tests/base"), PathBuf::from);
        assert!(path.join("usr/lib/modules").is_dir(), "no test root at {}: run tests/run.sh, which makes it", path.display());
        let root = Sysroot::open(&path).unwrap();
        let inventory = inventory::load(&root, None).unwrap();
        let generic = run(&root, &inventory, &target("x86-generic"), &SelectOptions::default()).unwrap();
        Real { root, inventory, generic }
    })
}

fn target(name: &str) -> Target {
    target::resolve(&[Request::Name(name)]).unwrap()
}

fn run(
    root: &Sysroot,
    inventory: &Inventory,
    target: &Target,
    options: &SelectOptions,
) -> Result<Selection, SelectError> {
    select(inventory, target, options, &|modules| Ok(inventory::firmware_of(root, modules)?))
}

/// Without reading a module: for what concerns modules only.
fn dry(options: &SelectOptions) -> Result<Selection, SelectError> {
    select(&real().inventory, &target("x86-generic"), options, &|_| Ok(BTreeMap::new()))
}

fn options(keep: &[&str], drop: &[&str]) -> SelectOptions {
    let patterns = |texts: &[&str]| texts.iter().map(|text| Pattern::new(text).unwrap()).collect();
    SelectOptions { keep: patterns(keep), drop: patterns(drop) }
}

fn name(name: &str) -> ModuleName {
    ModuleName::new(name).unwrap()
}

#[test]
fn explore() {
    let real = real();
    let kept: Vec<_> = real.generic.modules.values().filter(|i| i.kept).collect();
    let fw: Vec<_> = real.generic.firmware.values().filter(|i| i.kept).collect();
    println!("modules {}/{} bytes {}", kept.len(), real.generic.modules.len(), kept.iter().map(|i| i.bytes).sum::<u64>());
    println!("firmware {}/{} bytes {}", fw.len(), real.generic.firmware.len(), fw.iter().map(|i| i.bytes).sum::<u64>());
    for w in &real.generic.warnings {
        println!("warning {w}");
    }
    for (m, who) in &real.generic.missing_firmware {
        println!("missing {m} {who:?}");
    }
    let mut list = String::new();
    for i in kept.iter().chain(&fw) {
        list += &i.path.to_string()[1..];
        list.push('\n');
    }
    std::fs::write("/tmp/h-select-kept.list", list).unwrap();
    let mut why = String::new();
    for (n, i) in &real.generic.modules {
        if i.kept {
            let c = chain(&real.generic, ItemRef::Module(n));
            why += &format!("{} {} {}\n", i.bytes, i.path, c.iter().map(|l| format!("{} -{:?}-> {}", l.from, l.edge, l.to)).collect::<Vec<_>>().join(" | "));
        }
    }
    for (n, i) in &real.generic.firmware {
        if i.kept {
            let c = chain(&real.generic, ItemRef::Firmware(n));
            why += &format!("{} {} {}\n", i.bytes, i.path, c.iter().map(|l| format!("{} -{:?}-> {}", l.from, l.edge, l.to)).collect::<Vec<_>>().join(" | "));
        }
    }
    std::fs::write("/tmp/h-select-why.list", why).unwrap();
}
