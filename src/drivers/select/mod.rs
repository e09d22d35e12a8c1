//! `Inventory` x `Target` -> [`Selection`]: what stays, what goes, and why.

use std::collections::BTreeMap;

use crate::names::{FirmwarePath, ModuleName, TreePath};

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
    /// An alias that a soft dependency or a rule names.
    Alias,
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
    /// Firmware that only built-in or kept drivers could ask for, and none does.
    NoDriver,
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
    /// Rules that matched neither a module nor a built-in, and the like.
    pub warnings: Vec<String>,
}
