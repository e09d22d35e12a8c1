//! `Inventory` x `Target` -> [`Selection`]: what stays, what goes, and why.
//!
//! Pure over values: what the modules say of themselves is read before. The steps are the files: [`pattern`] (the command line's wishes), `closure` (modules), `firmware`, and
//! [`chain()`] and [`explain()`], which read the result backwards. Nothing is removed here: that is `slim`'s work.

mod aliases;
mod chain;
mod closure;
mod configured;
mod error;
mod explain;
mod firmware;
mod names;
pub mod pattern;
mod reason;

use std::collections::{BTreeMap, BTreeSet};

use crate::drivers::inventory::{Declarations, Inventory, Module};
use crate::drivers::target::Target;
use crate::drivers::wishes::Wishes;
use crate::names::{FirmwarePath, ModuleName, TreePath};

pub use chain::{ItemRef, chain};
pub use error::SelectError;
pub use explain::{Evidence, Explanation, ItemKind, explain};
pub use pattern::Pattern;

use aliases::Aliases;
use closure::{Graph, Paths};
use configured::Configured;
use pattern::Matched;

/// Where an edge of the graph comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Edge {
    /// A rule of the target names it.
    Rule,
    /// `modules.dep`.
    Depends,
    /// `modules.softdep`.
    Softdep,
    /// `modules.weakdep`.
    Weakdep,
    /// An alias that a soft or weak dependency names.
    Alias,
    /// An `install` line of `modprobe.d`.
    Install,
    /// A `request_module()` family: asked for by alias at run time.
    Request,
    /// A driver's `firmware=`.
    Firmware,
    /// An entry of kmod-db that no metadata knows.
    Curated,
}

/// One step of the chain that keeps an item: `from` is a rule, a module or a firmware name.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Link {
    /// Who asks.
    pub from: String,
    /// How.
    pub edge: Edge,
    /// For whom.
    pub to: String,
    /// Where that is written: a file of kmod-db, `modules.softdep`, ...
    pub source: String,
}

/// Why an item stays or goes.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reason {
    /// The link that keeps it; the chain to a rule follows from link to link.
    Kept(Link),
    /// Nothing in the target asks for it.
    NotAsked,
    /// A module of a kernel that is not the image's.
    OtherKernel,
    /// Firmware that only dropped drivers ask for, by declaration or as kmod-db knows.
    DriverDropped(BTreeSet<ModuleName>),
    /// Firmware of a kept driver that a line of `modprobe.d` keeps from being loaded: the driver and the line.
    DriverBlacklisted(ModuleName, String),
    /// Firmware of drivers that this kernel does not have.
    DriverAbsent(ModuleName),
    /// An older version of a file that is kept.
    OlderVersion(TreePath),
    /// A version that its driver, which is kept, does not ask for.
    OtherVersion(ModuleName),
    /// A link to a file that is kept, by a name that no driver asks for.
    OtherName(TreePath),
    /// Firmware that no driver asks for by this name, as the named entry of kmod-db says.
    Unasked(String),
    /// Firmware that no driver of this kernel declares and kmod-db does not know.
    Unknown,
    /// A second form (plain, `.zst`, `.xz`) of a file that is kept, or one behind another search directory: never loaded.
    Shadowed(TreePath),
    /// A link that points to nothing.
    Dangling,
    /// Microcode: it travels in the `.ucode` section.
    InUcode,
    /// Dropped on the command line: the pattern of `--drop`.
    Dropped(String),
}

/// A module or a firmware file (or link) and its fate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// Where it is in the root.
    pub path: TreePath,
    /// Bytes on disk; 0 for a link.
    pub bytes: u64,
    /// Whether it stays.
    pub kept: bool,
    /// Why.
    pub reason: Reason,
}

/// The decision about every module and every firmware file of a root.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selection {
    /// Every module of the chosen kernel.
    pub modules: BTreeMap<ModuleName, Item>,
    /// Every firmware file and link by its path in the root.
    pub firmware: BTreeMap<TreePath, Item>,
    /// Firmware that kept drivers ask for and the root does not have: name and the modules that ask.
    pub missing_firmware: BTreeMap<FirmwarePath, Vec<ModuleName>>,
    /// Firmware of which nothing can be said, kept or dropped by `--unknown-firmware`.
    pub unknown_firmware: BTreeSet<TreePath>,
    /// Rules that matched neither a module nor a built-in, and the like.
    pub warnings: Vec<String>,
}

/// What the command line adds to a target.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SelectOptions {
    /// `--keep`: stays over and above the target.
    pub keep: Vec<Pattern>,
    /// `--drop`: goes although the target asks for it.
    pub drop: Vec<Pattern>,
    /// `--allow-empty`: a pattern that matches nothing is a warning, not an error.
    pub allow_empty: bool,
    /// `--firmware-versions`.
    pub firmware_versions: FirmwareVersions,
    /// `--unknown-firmware`.
    pub unknown_firmware: UnknownFirmware,
}

/// What stays of firmware that exists in several versions, of which the driver loads one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum FirmwareVersions {
    /// The newest installed one that the driver can ask for.
    #[default]
    Newest,
    /// All that the driver can ask for.
    All,
}

/// What becomes of firmware of which nothing can be said.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum UnknownFirmware {
    /// It stays: that nobody is known to ask for it does not show that nobody does.
    #[default]
    Keep,
    /// It goes.
    Drop,
}

/// Decides about every module and every firmware file of `inventory`.
///
/// Rules make roots in their order, then `--keep`; the closure over dependencies follows breadth first; then the firmware of
/// what is kept. `--keep` and `--drop` of the same item: the exact name wins over a pattern with wildcards. The result does
/// not depend on anything but the arguments.
///
/// # Errors
/// A pattern that matches nothing; `--drop` of what Kairos cannot boot without, of what is built in, or of what a kept module
/// depends on; a dependency that does not exist.
pub fn select(
    inventory: &Inventory,
    declarations: &Declarations,
    target: &Target,
    wishes: &Wishes,
    options: &SelectOptions,
) -> Result<Selection, SelectError> {
    let (aliases, paths) =
        rayon::join(|| Aliases::new(&inventory.modules, &wishes.modprobe), || Paths::new(&inventory.modules));
    let mut warnings = Vec::new();
    let mut matched = |option, patterns| {
        let (matched, empty) = Matched::new(option, patterns, inventory, &aliases, options.allow_empty)?;
        warnings.extend(empty);
        Ok::<_, SelectError>(matched)
    };
    let mut keep = matched("--keep", &options.keep)?;
    let mut drop = matched("--drop", &options.drop)?;
    keep.settle(&mut drop)?;
    let graph =
        Graph { inventory, declarations, target, wishes, aliases: &aliases, paths: &paths, keep: &keep, drop: &drop };
    let closure = graph.close()?;
    let configured = Configured::new(inventory, wishes, &closure);
    let firmware = firmware::Question {
        inventory,
        declarations,
        target,
        options,
        kept: &closure.kept,
        blocked: &configured.blocked,
        keep: &keep,
        drop: &drop,
    };
    let firmware = firmware.decide();
    let item = |module: &Module| {
        let reason = match (closure.kept.get(&module.name), drop.modules.get(&module.name)) {
            (Some(link), _) => Reason::Kept(link.clone()),
            (None, Some(pattern)) => Reason::Dropped(pattern.as_str().to_owned()),
            (None, None) => Reason::NotAsked,
        };
        let kept = matches!(reason, Reason::Kept(_));
        (module.name.clone(), Item { path: module.path.clone(), bytes: module.bytes, kept, reason })
    };
    warnings.extend(closure.warnings.iter().cloned());
    warnings.extend(configured.warnings);
    warnings.extend(firmware.warnings);
    Ok(Selection {
        modules: inventory.modules.by_name.values().map(item).collect(),
        firmware: firmware.items,
        missing_firmware: firmware.missing,
        unknown_firmware: firmware.unknown,
        warnings,
    })
}

impl Selection {
    /// Keeps the microcode files in the root: for a stub that hands no `.ucode` section to the kernel, and for a root whose UKI
    /// is built later. `from` and `source` say so.
    pub fn keep_microcode(&mut self, from: &str, source: &str) {
        for item in self.firmware.values_mut().filter(|item| item.reason == Reason::InUcode) {
            item.kept = true;
            item.reason = Reason::Kept(Link {
                from: from.to_owned(),
                edge: Edge::Curated,
                to: item.path.to_string(),
                source: source.to_owned(),
            });
        }
    }
}

/// The path that rules see: below the module directory, without the suffix of a compressed form.
fn module_path(module: &Module) -> &str {
    let path = module.relative.as_str();
    [".xz", ".zst", ".gz"].iter().find_map(|suffix| path.strip_suffix(suffix)).unwrap_or(path)
}

#[cfg(test)]
mod tests;
