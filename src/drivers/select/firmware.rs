//! The fate of every firmware file and link: what the kept drivers declare, what is known of them beyond that, and what
//! nobody asks for.

use std::collections::{BTreeMap, BTreeSet};

use crate::drivers::inventory::{Firmware, FirmwareKind, Inventory, Module};
use crate::drivers::target::glob::Glob;
use crate::drivers::target::{Matcher, Target};
use crate::names::{FirmwarePath, ModuleName, TreePath};

use super::error::SelectError;
use super::pattern::Matched;
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
    /// Names that are kept and the entry that has each.
    names: BTreeMap<String, TreePath>,
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
        names: BTreeMap::new(),
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
            for (name, way) in names::find_all(&inventory.firmware, glob) {
                keeper.keep_way(&name, &way, &from, Edge::Curated, &source);
            }
        }
    }
    let items = keeper.items();
    Ok(Decided { items, missing: keeper.missing, warnings })
}

impl Keeper<'_> {
    /// A name or pattern that `module` declares.
    fn declared(&mut self, from: &str, module: &ModuleName, name: &FirmwarePath, source: &str) {
        let found = match Glob::path(name.as_str()) {
            Ok(glob) if name.is_glob() => names::find_all(self.firmware, &glob),
            _ => names::find(self.firmware, name.as_str()).map(|way| (name.to_string(), way)).into_iter().collect(),
        };
        if found.is_empty() {
            let asking = self.missing.entry(name.clone()).or_default();
            if !asking.contains(module) {
                asking.push(module.clone());
            }
        }
        for (name, way) in found {
            self.keep_way(&name, &way, from, Edge::Firmware, source);
        }
    }

    fn keep_way(&mut self, name: &str, way: &names::Way, from: &str, edge: Edge, source: &str) {
        for path in way {
            self.keep(path, from, edge, source);
        }
        if let Some(path) = way.last() {
            self.names.entry(name.to_owned()).or_insert_with(|| path.clone());
        }
    }

    /// Keeps an entry, and what its link leads to.
    fn keep(&mut self, path: &TreePath, from: &str, edge: Edge, source: &str) {
        if self.drop.firmware.contains_key(path) || self.kept.contains_key(path) {
            return;
        }
        let link = Link { from: from.to_owned(), edge, to: path.to_string(), source: source.to_owned() };
        self.kept.insert(path.clone(), link);
        if let Some(FirmwareKind::Link { chain }) = self.firmware.entries.get(path) {
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
    }

    fn items(&mut self) -> BTreeMap<TreePath, Item> {
        let mut items = BTreeMap::new();
        for (path, kind) in &self.firmware.entries {
            let bytes = if let FirmwareKind::File { bytes } = kind { *bytes } else { 0 };
            let is_microcode = names::of(self.firmware, path).any(|name| MICROCODE.iter().any(|m| name.starts_with(m)));
            let shadowed_by = || {
                names::of(self.firmware, path).find_map(|name| self.names.get(name)).filter(|other| *other != path)
            };
            let reason = if let Some(link) = self.kept.get(path) {
                Reason::Kept(link.clone())
            } else if let Some(pattern) = self.drop.firmware.get(path) {
                Reason::Dropped(pattern.as_str().to_owned())
            } else if is_microcode {
                Reason::InUcode
            } else if matches!(kind, FirmwareKind::Dangling) {
                Reason::Dangling
            } else if let Some(other) = shadowed_by() {
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
