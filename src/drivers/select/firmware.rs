//! The fate of every firmware file and link: what the kept drivers declare, what is known of them beyond that, what only
//! others ask for, and what nobody is known to ask for.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use rayon::prelude::*;

use crate::drivers::inventory::{Declarations, Firmware, FirmwareKind, Found, Inventory};
use crate::drivers::target::versions::Versioned;
use crate::drivers::target::{Asks, Family, FamilyFiles, Matcher, Target, Version, Versions};
use crate::names::{FirmwarePath, ModuleName, TreePath};

use super::names::{self, Names};
use super::pattern::{Matched, Pattern};
use super::{Edge, FirmwareVersions, Item, Link, Reason, SelectOptions, UnknownFirmware};

/// Directories whose files are microcode: loaded from the `.ucode` section, before there is a file system
/// (`arch/x86/kernel/cpu/microcode`).
const MICROCODE: [&str; 2] = ["intel-ucode/", "amd-ucode/"];

/// What is decided about firmware.
#[derive(Default)]
pub(super) struct Decided {
    pub(super) items: BTreeMap<TreePath, Item>,
    pub(super) missing: BTreeMap<FirmwarePath, Vec<ModuleName>>,
    pub(super) unknown: BTreeSet<TreePath>,
    pub(super) warnings: Vec<String>,
}

/// What is to be decided, and from what.
pub(super) struct Question<'a> {
    pub(super) inventory: &'a Inventory,
    pub(super) declarations: &'a Declarations,
    pub(super) target: &'a Target,
    pub(super) options: &'a SelectOptions,
    /// The kept modules.
    pub(super) kept: &'a BTreeMap<&'a ModuleName, Link>,
    /// Those of them that are never loaded, and the line that says so.
    pub(super) blocked: &'a BTreeMap<&'a ModuleName, String>,
    pub(super) keep: &'a Matched<'a>,
    pub(super) drop: &'a Matched<'a>,
}

/// A driver's part in a decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    /// Kept, and nothing stops it; or built in.
    Asks { builtin: bool },
    /// Kept, and never loaded.
    Blocked,
    /// A module that is dropped.
    Dropped,
    /// Neither a module nor built in.
    Absent,
}

/// Who would ask for an entry that no kept driver asks for.
#[derive(Default)]
struct Claims {
    blocked: Option<(ModuleName, String)>,
    dropped: BTreeSet<ModuleName>,
    absent: Option<ModuleName>,
    /// A kept driver that asks for other versions.
    other: Option<ModuleName>,
    /// Where kmod-db says that nobody asks for it.
    unasked: Option<String>,
}

/// What is known while deciding.
struct Keeper<'a> {
    question: &'a Question<'a>,
    firmware: &'a Firmware,
    kept: BTreeMap<TreePath, Link>,
    /// Entries that are never loaded, and the one that is loaded instead.
    shadowed: BTreeMap<TreePath, TreePath>,
    /// Older versions, and the one that is kept.
    older: BTreeMap<TreePath, TreePath>,
    claims: BTreeMap<TreePath, Claims>,
    missing: BTreeMap<FirmwarePath, Vec<ModuleName>>,
}

impl<'a> Question<'a> {
    /// Decides about every entry of the firmware directories.
    pub(super) fn decide(&self) -> Decided {
        let firmware = &self.inventory.firmware;
        let names = Names::new(firmware);
        let mut keeper = Keeper {
            question: self,
            firmware,
            kept: BTreeMap::new(),
            shadowed: BTreeMap::new(),
            older: BTreeMap::new(),
            claims: BTreeMap::new(),
            missing: BTreeMap::new(),
        };
        let mut warnings = Vec::new();
        self.rules(&names, &mut keeper, &mut warnings);
        for (path, pattern) in &self.keep.firmware {
            keeper.keep(path, &format!("--keep {}", pattern.as_str()), Edge::Rule, "the command line");
        }
        // Looking up is most of the work, and each look-up is for itself.
        let declared = self.declared_names();
        let (declared, families): (Vec<_>, Vec<_>) = rayon::join(
            || declared.into_par_iter().map(|asked| (asked, firmware.lookup(asked.2))).collect(),
            || self.target.families.par_iter().map(|family| (family, look_up(&names, family))).collect(),
        );
        for ((module, role, name), found) in declared {
            match role {
                Role::Asks { .. } => keeper.declared(module, role, name, found),
                _ => found.iter().for_each(|found| keeper.claim(module, role, found)),
            }
        }
        for (family, found) in families {
            keeper.family(family, found);
        }
        for unasked in &self.target.unasked {
            for (_, path) in unasked.files.iter().flat_map(|glob| names.matching(glob)) {
                let claims = keeper.claims.entry(path.clone()).or_default();
                claims.unasked.get_or_insert_with(|| unasked.source.to_string());
            }
        }
        let (items, unknown) = keeper.items();
        Decided { items, missing: keeper.missing, unknown, warnings }
    }

    fn rules(&self, names: &Names<'_>, keeper: &mut Keeper<'_>, warnings: &mut Vec<String>) {
        for rule in &self.target.rules {
            let Matcher::Firmware(glob) = &rule.matcher else { continue };
            let (from, source) = (rule.matcher.to_string(), rule.source.to_string());
            let mut matched = false;
            for (name, path) in names.matching(glob) {
                if !rule.except.iter().any(|except| except.matches(name)) {
                    matched = true;
                    keeper.keep(path, &from, Edge::Rule, &source);
                }
            }
            if !matched && rule.is_expected_in(&self.inventory.kernel.release) {
                warnings.push(format!("{source}: {from} matches no firmware of the root"));
            }
        }
    }

    fn role(&self, module: &ModuleName) -> Role {
        let modules = &self.inventory.modules;
        match () {
            () if self.blocked.contains_key(module) => Role::Blocked,
            () if self.kept.contains_key(module) => Role::Asks { builtin: false },
            () if modules.by_name.contains_key(module) => Role::Dropped,
            () if modules.builtin.contains(module) => Role::Asks { builtin: true },
            () => Role::Absent,
        }
    }

    /// What modules declare, those that are built in last, without what is one of several versions: about that its family
    /// decides.
    fn declared_names(&self) -> Vec<(&'a ModuleName, Role, &'a FirmwarePath)> {
        let mut versions: HashMap<&ModuleName, Vec<&Versions>> = HashMap::new();
        for family in &self.target.families {
            for files in &family.files {
                let FamilyFiles::Versions(files) = files else { continue };
                family.drivers.iter().for_each(|driver| versions.entry(driver).or_default().push(files));
            }
        }
        let files = self.declarations.iter().map(|(module, declared)| (module, self.role(module), &declared.firmware));
        let builtin = self.inventory.modules.builtin_firmware.iter();
        let builtin = builtin.map(|(module, firmware)| (module, Role::Asks { builtin: true }, firmware));
        let names = files.chain(builtin).flat_map(|(module, role, firmware)| {
            let versions = versions.get(module).map(Vec::as_slice).unwrap_or_default();
            let is_versioned = |name: &&FirmwarePath| versions.iter().any(|files| files.parse(name.as_str()).is_some());
            firmware.iter().filter(move |name| !is_versioned(name)).map(move |name| (module, role, name))
        });
        names.collect()
    }

    /// What a module declares, be it a file or built in.
    fn declared(&self, module: &ModuleName) -> &[FirmwarePath] {
        let file = self.declarations.get(module).map(|declared| declared.firmware.as_slice());
        file.or_else(|| self.inventory.modules.builtin_firmware.get(module).map(Vec::as_slice)).unwrap_or_default()
    }
}

impl Keeper<'_> {
    /// A name or pattern that `module`, which is kept, declares, and what it means.
    fn declared(&mut self, module: &ModuleName, role: Role, name: &FirmwarePath, found: Vec<Found>) {
        let builtin = role == (Role::Asks { builtin: true });
        let source = if builtin { "modules.builtin.modinfo" } else { ".modinfo of the module" };
        if found.is_empty() {
            self.miss(module, name);
        }
        for found in found {
            self.keep_found(found, &name_of(module, role), Edge::Firmware, source);
        }
    }

    fn miss(&mut self, module: &ModuleName, name: &FirmwarePath) {
        let asking = self.missing.entry(name.clone()).or_default();
        if !asking.contains(module) {
            asking.push(module.clone());
        }
    }

    /// A family of firmware, and what each of its patterns means: kept with its drivers, claimed by them where they are not.
    fn family(&mut self, family: &Family, found: Vec<Vec<Found>>) {
        let roles: Vec<_> = family.drivers.iter().map(|driver| (driver, self.question.role(driver))).collect();
        let asking = roles.iter().find(|(_, role)| matches!(role, Role::Asks { .. }));
        let source = family.source.to_string();
        for (files, found) in family.files.iter().zip(found) {
            match (files, asking) {
                (FamilyFiles::Versions(versions), Some(_)) => self.versions(versions, found, &roles, &source),
                (FamilyFiles::All(_), Some((driver, role))) => {
                    let from = name_of(driver, *role);
                    for found in found {
                        self.keep_found(found, &from, Edge::Curated, &source);
                    }
                }
                (_, None) => {
                    for found in found {
                        for (driver, role) in &roles {
                            self.claim(driver, *role, &found);
                        }
                    }
                }
            }
        }
    }

    /// Files of which the drivers load one version each.
    fn versions(&mut self, versions: &Versions, found: Vec<Found>, roles: &[(&ModuleName, Role)], source: &str) {
        let asking: Vec<_> = roles.iter().filter(|(_, role)| matches!(role, Role::Asks { .. })).collect();
        // Of each group: the versions that are declared, with who declares them.
        let mut declared: BTreeMap<String, BTreeMap<Version, (FirmwarePath, &ModuleName, Role)>> = BTreeMap::new();
        for (driver, role) in &asking {
            for name in self.question.declared(driver) {
                if let Some(Versioned { group, version }) = versions.parse(name.as_str()) {
                    declared.entry(group).or_default().insert(version, (name.clone(), *driver, *role));
                }
            }
        }
        let mut installed: BTreeMap<String, BTreeMap<Version, Found>> = BTreeMap::new();
        for found in found {
            if let Some(Versioned { group, version }) = versions.parse(found.name.as_str()) {
                installed.entry(group).or_default().insert(version, found);
            }
        }
        let Some((first, first_role)) = asking.first().map(|(driver, role)| (*driver, *role)) else { return };
        for (group, names) in &declared {
            let asked = |version: &Version| asks(versions, names, version);
            let there = installed.get(group).is_some_and(|found| found.keys().any(asked));
            if let Some((_, (name, driver, _))) = names.last_key_value().filter(|_| !there) {
                self.miss(driver, name);
            }
        }
        let none = BTreeMap::new();
        for (group, found) in installed {
            let names = declared.get(&group).unwrap_or(&none);
            let mut newest: Option<TreePath> = None;
            for (version, found) in found.into_iter().rev() {
                let (driver, role) =
                    names.get(&version).map_or((first, first_role), |(_, driver, role)| (*driver, *role));
                if !asks(versions, names, &version) {
                    for path in &found.keep {
                        self.claims.entry(path.clone()).or_default().other.get_or_insert_with(|| driver.clone());
                    }
                    continue;
                }
                // Where a driver counts down from is known by what it declares; without that, the newest may be too new.
                let known = versions.asks() != Asks::Older || !names.is_empty();
                match &newest {
                    Some(newer) if known && self.question.options.firmware_versions == FirmwareVersions::Newest => {
                        for path in found.keep {
                            self.older.entry(path).or_insert_with(|| newer.clone());
                        }
                    }
                    _ => {
                        let path = found.path.clone();
                        let edge = if names.contains_key(&version) { Edge::Firmware } else { Edge::Curated };
                        self.keep_found(found, &name_of(driver, role), edge, source);
                        // What --drop takes away is not the version that the driver gets.
                        if self.kept.contains_key(&path) {
                            newest.get_or_insert(path);
                        }
                    }
                }
            }
        }
    }

    fn claim(&mut self, driver: &ModuleName, role: Role, found: &Found) {
        for path in found.keep.iter().chain(&found.shadowed) {
            let claims = self.claims.entry(path.clone()).or_default();
            match role {
                Role::Asks { .. } => {}
                Role::Blocked => {
                    let line = self.question.blocked.get(driver).cloned().unwrap_or_default();
                    claims.blocked.get_or_insert_with(|| (driver.clone(), line));
                }
                Role::Dropped => _ = claims.dropped.insert(driver.clone()),
                Role::Absent => _ = claims.absent.get_or_insert_with(|| driver.clone()),
            }
        }
    }

    /// Keeps what one name needs: the entry that has it, and every link on the way.
    fn keep_found(&mut self, found: Found, from: &str, edge: Edge, source: &str) {
        if found.keep.iter().any(|path| self.question.drop.firmware.contains_key(path)) {
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
        if self.kept.contains_key(path)
            || chain.iter().chain([path]).any(|path| self.question.drop.firmware.contains_key(path))
        {
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
        [path].into_iter().chain(chain_of(kind)).find_map(|path| self.question.drop.firmware.get(path).copied())
    }

    /// Why an entry stays out that nothing kept asks for. A further name of a file is as well known as the file.
    fn not_asked(&self, path: &TreePath, kind: &FirmwareKind) -> Reason {
        let end = match kind {
            FirmwareKind::DirectoryLink { target, .. } => {
                self.claims.range(target.clone()..).map(|(path, _)| path).find(|path| path.starts_with(target))
            }
            _ => chain_of(kind).last(),
        };
        match self.claims.get(path).or_else(|| self.claims.get(end?)).map(Claims::reason) {
            Some(reason) => reason,
            None => match end.filter(|end| self.kept.contains_key(*end)) {
                Some(end) => Reason::OtherName(end.clone()),
                None => Reason::Unknown,
            },
        }
    }

    fn items(&mut self) -> (BTreeMap<TreePath, Item>, BTreeSet<TreePath>) {
        let firmware = self.firmware;
        let mut unknown = BTreeSet::new();
        let mut reasons: BTreeMap<&TreePath, Reason> = BTreeMap::new();
        for (path, kind) in firmware.entries.iter().filter(|(path, _)| !self.kept.contains_key(*path)) {
            let is_microcode = names::of(firmware, path).any(|name| MICROCODE.iter().any(|m| name.starts_with(m)));
            let reason = if let Some(pattern) = self.dropped(path, kind) {
                Reason::Dropped(pattern.as_str().to_owned())
            } else if is_microcode {
                Reason::InUcode
            } else if matches!(kind, FirmwareKind::Dangling) {
                Reason::Dangling
            } else if let Some(other) = self.shadowed.get(path) {
                Reason::Shadowed(other.clone())
            } else if let Some(newer) = self.older.get(path) {
                Reason::OlderVersion(newer.clone())
            } else {
                let reason = self.not_asked(path, kind);
                if reason == Reason::Unknown {
                    unknown.insert(path.clone());
                }
                reason
            };
            reasons.insert(path, reason);
        }
        if self.question.options.unknown_firmware == UnknownFirmware::Keep {
            for path in &unknown {
                self.keep(path, "--unknown-firmware keep", Edge::Rule, "the command line");
            }
        }
        let item = |(path, kind): (&TreePath, &FirmwareKind)| {
            let bytes = if let FirmwareKind::File { bytes } = kind { *bytes } else { 0 };
            let kept = self.kept.get(path).map(|link| Reason::Kept(link.clone()));
            let reason = kept.or_else(|| reasons.remove(path)).unwrap_or(Reason::Unknown);
            let kept = matches!(reason, Reason::Kept(_));
            (path.clone(), Item { path: path.clone(), bytes, kept, reason })
        };
        (firmware.entries.iter().map(item).collect(), unknown)
    }
}

impl Claims {
    /// The reason that says most of what a user could do about it.
    fn reason(&self) -> Reason {
        match self {
            Self { other: Some(driver), .. } => Reason::OtherVersion(driver.clone()),
            Self { blocked: Some((driver, line)), .. } => Reason::DriverBlacklisted(driver.clone(), line.clone()),
            Self { dropped, .. } if !dropped.is_empty() => Reason::DriverDropped(dropped.clone()),
            Self { absent: Some(driver), .. } => Reason::DriverAbsent(driver.clone()),
            Self { unasked: Some(source), .. } => Reason::Unasked(source.clone()),
            _ => Reason::Unknown,
        }
    }
}

/// What each of a family's patterns means.
fn look_up(names: &Names<'_>, family: &Family) -> Vec<Vec<Found>> {
    family.files.iter().map(|files| names.look_up(files)).collect()
}

/// Whether a driver that declares `names` of a group asks for `version`.
fn asks<T>(versions: &Versions, names: &BTreeMap<Version, T>, version: &Version) -> bool {
    match versions.asks() {
        Asks::Any => true,
        Asks::Declared => names.contains_key(version),
        Asks::Older => names.last_key_value().is_none_or(|(newest, _)| version <= newest),
    }
}

fn name_of(driver: &ModuleName, role: Role) -> String {
    if role == (Role::Asks { builtin: true }) { format!("built-in {driver}") } else { driver.to_string() }
}

/// The entries behind a link.
fn chain_of(kind: &FirmwareKind) -> &[TreePath] {
    if let FirmwareKind::Link { chain } = kind { chain } else { &[] }
}
