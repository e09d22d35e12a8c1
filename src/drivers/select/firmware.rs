//! The fate of every firmware file and link: what the kept drivers declare, what is known of them beyond that, and what
//! nobody asks for.

use std::collections::{BTreeMap, BTreeSet};

use crate::drivers::inventory::{Firmware, FirmwareKind, Found, Inventory, Module};
use crate::drivers::target::{Matcher, Target};
use crate::names::{FirmwarePath, ModuleName, TreePath};

use super::error::SelectError;
use super::pattern::{Matched, Pattern};
use super::{Edge, FirmwareOf, Item, Link, Reason, names};

/// Directories whose files are microcode: loaded from the `.ucode` section, before there is a file system
/// (`arch/x86/kernel/cpu/microcode`).
const MICROCODE: [&str; 2] = ["intel-ucode/", "amd-ucode/"];

/// What is decided about firmware.
#[derive(Default)]
pub(super) struct Decided {
    pub(super) items: BTreeMap<TreePath, Item>,
    pub(super) missing: BTreeMap<FirmwarePath, Vec<ModuleName>>,
    pub(super) warnings: Vec<String>,
}

/// What is known while deciding.
struct Keeper<'a> {
    firmware: &'a Firmware,
    drop: &'a Matched<'a>,
    kept: BTreeMap<TreePath, Link>,
    /// Entries that are never loaded, and the one that is loaded instead.
    shadowed: BTreeMap<TreePath, TreePath>,
    missing: BTreeMap<FirmwarePath, Vec<ModuleName>>,
}

/// Decides about every entry of the firmware directories.
///
/// # Errors
/// `firmware_of` fails.
pub(super) fn decide(
    inventory: &Inventory,
    target: &Target,
    (keep, drop): (&Matched<'_>, &Matched<'_>),
    kept_modules: &[&Module],
    firmware_of: FirmwareOf<'_>,
) -> Result<Decided, SelectError> {
    let mut keeper = Keeper {
        firmware: &inventory.firmware,
        drop,
        kept: BTreeMap::new(),
        shadowed: BTreeMap::new(),
        missing: BTreeMap::new(),
    };
    let mut warnings = Vec::new();
    for rule in &target.rules {
        let Matcher::Firmware(glob) = &rule.matcher else { continue };
        let (from, source) = (rule.matcher.to_string(), rule.source.to_string());
        let mut matched = false;
        for path in inventory.firmware.entries.keys() {
            let mut all = names::of(&inventory.firmware, path);
            if all.any(|name| glob.matches(name) && !rule.except.iter().any(|except| except.matches(name))) {
                matched = true;
                keeper.keep(path, &from, Edge::Rule, &source);
            }
        }
        if !matched && rule.is_expected_in(&inventory.kernel.release) {
            warnings.push(format!("{source}: {from} matches no firmware of the root"));
        }
    }
    for (path, pattern) in &keep.firmware {
        keeper.keep(path, &format!("--keep {}", pattern.as_str()), Edge::Rule, "the command line");
    }
    let declared = firmware_of(kept_modules).map_err(SelectError::Firmware)?;
    for (module, wanted) in &declared {
        for name in wanted {
            keeper.declared(module.as_str(), module, name, ".modinfo of the module");
        }
    }
    for (module, wanted) in &inventory.modules.builtin_firmware {
        for name in wanted {
            keeper.declared(&format!("built-in {module}"), module, name, "modules.builtin.modinfo");
        }
    }
    let kept_names: BTreeSet<_> = kept_modules.iter().map(|module| &module.name).collect();
    for family in &target.families {
        let source = family.source.to_string();
        let driver = family.drivers.iter().find(|driver| kept_names.contains(driver)).map(ToString::to_string);
        let builtin = || family.drivers.iter().find(|driver| inventory.modules.builtin.contains(*driver));
        let Some(from) = driver.or_else(|| builtin().map(|driver| format!("built-in {driver}"))) else { continue };
        for glob in &family.files {
            let Ok(name) = FirmwarePath::new(glob.as_str()) else { continue };
            for found in inventory.firmware.lookup(&name) {
                keeper.keep_found(found, &from, Edge::Curated, &source);
            }
        }
    }
    let items = keeper.items();
    Ok(Decided { items, missing: keeper.missing, warnings })
}

impl Keeper<'_> {
    /// A name or pattern that `module` declares.
    fn declared(&mut self, from: &str, module: &ModuleName, name: &FirmwarePath, source: &str) {
        let found = self.firmware.lookup(name);
        if found.is_empty() {
            let asking = self.missing.entry(name.clone()).or_default();
            if !asking.contains(module) {
                asking.push(module.clone());
            }
        }
        for found in found {
            self.keep_found(found, from, Edge::Firmware, source);
        }
    }

    /// Keeps what one name needs: the entry that has it, and every link on the way.
    fn keep_found(&mut self, found: Found, from: &str, edge: Edge, source: &str) {
        if found.keep.iter().any(|path| self.drop.firmware.contains_key(path)) {
            return;
        }
        self.keep(&found.path, from, edge, source);
        for path in &found.keep {
            if self.firmware.entries.contains_key(path) && !self.kept.contains_key(path) {
                let (from, to) = (found.path.to_string(), path.to_string());
                let link = Link { from, edge: Edge::Firmware, to, source: "a link on the way".to_owned() };
                self.kept.insert(path.clone(), link);
            }
        }
        for path in found.shadowed {
            self.shadowed.entry(path).or_insert_with(|| found.path.clone());
        }
    }

    /// Keeps an entry, and what its link leads to.
    fn keep(&mut self, path: &TreePath, from: &str, edge: Edge, source: &str) {
        let chain = match self.firmware.entries.get(path) {
            Some(FirmwareKind::Link { chain }) => chain.as_slice(),
            _ => &[],
        };
        // A link whose end is dropped would be left dangling: it goes too.
        if self.kept.contains_key(path) || chain.iter().chain([path]).any(|p| self.drop.firmware.contains_key(p)) {
            return;
        }
        let link = Link { from: from.to_owned(), edge, to: path.to_string(), source: source.to_owned() };
        self.kept.insert(path.clone(), link);
        let mut from = path.to_string();
        for next in chain {
            // What lies outside of the firmware directories is not ours to drop.
            if self.firmware.entries.contains_key(next) && !self.kept.contains_key(next) {
                let link = Link { from, edge: Edge::Firmware, to: next.to_string(), source: "a link".to_owned() };
                self.kept.insert(next.clone(), link);
            }
            from = next.to_string();
        }
    }

    /// The pattern that takes away an entry, or what its link leads to.
    fn dropped(&self, path: &TreePath, kind: &FirmwareKind) -> Option<&Pattern> {
        let chain = if let FirmwareKind::Link { chain } = kind { chain.as_slice() } else { &[] };
        [path].into_iter().chain(chain).find_map(|path| self.drop.firmware.get(path).copied())
    }

    fn items(&self) -> BTreeMap<TreePath, Item> {
        let mut items = BTreeMap::new();
        for (path, kind) in &self.firmware.entries {
            let bytes = if let FirmwareKind::File { bytes } = kind { *bytes } else { 0 };
            let is_microcode = names::of(self.firmware, path).any(|name| MICROCODE.iter().any(|m| name.starts_with(m)));
            let reason = if let Some(link) = self.kept.get(path) {
                Reason::Kept(link.clone())
            } else if let Some(pattern) = self.dropped(path, kind) {
                Reason::Dropped(pattern.as_str().to_owned())
            } else if is_microcode {
                Reason::InUcode
            } else if matches!(kind, FirmwareKind::Dangling) {
                Reason::Dangling
            } else if let Some(other) = self.shadowed.get(path) {
                Reason::Shadowed(other.clone())
            } else {
                Reason::NoDriver
            };
            let kept = matches!(reason, Reason::Kept(_));
            items.insert(path.clone(), Item { path: path.clone(), bytes, kept, reason });
        }
        items
    }
}
