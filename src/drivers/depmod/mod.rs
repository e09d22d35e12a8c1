//! depmod's indexes for the kept modules, text and binary: what the newest kmod writes in the slimmed tree.
//!
//! What a module says of itself (aliases, symbols, soft dependencies) does not change when its neighbours go, so most text
//! indexes are the root's own without the lines of the others, and the binary files are made from those lines. modprobe
//! prefers the binary files: stale ones would name modules that are gone. What does change:
//!
//! - The order within the lines of `modules.dep` depends on all modules: see `order`.
//! - Where two modules export the same symbol (one of them built after the kernel), the later one has it; if that goes, the
//!   other one has it: see `duplicates`.
//! - Versions of kmod before 34 wrote other headings, no `modules.weakdep`, and binary files in another layout.
//!
//! `modules.order`, `modules.builtin` and `modules.builtin.modinfo` are the kernel build's and stay as they are (depmod skips
//! what of `modules.order` is not there).

pub mod binary;
mod builtin;
mod dep;
mod duplicates;
mod order;
pub mod symbols;
mod text;

use std::collections::{BTreeMap, BTreeSet};

use rayon::prelude::*;

use crate::drivers::inventory::{Inventory, InventoryError, LineError, read_modinfo};
use crate::names::{ModuleName, NameError, TreePath};
use crate::root::sysroot::{Sysroot, SysrootError};

use binary::Entry;
pub use binary::IndexError;
use dep::Tree;
use text::{File, Numbers};

/// Bytes that an index may have. The largest of Debian's 6.12 has 1.4 MB.
const INDEX_LIMIT: u64 = 64 << 20;

/// Making the indexes failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DepmodError {
    /// The root cannot be read.
    #[error(transparent)]
    Root(#[from] SysrootError),
    /// A name that no path can hold.
    #[error(transparent)]
    Name(#[from] NameError),
    /// A line of an index is wrong.
    #[error("{path} {source}; the file is damaged: run depmod inside the root")]
    Line {
        /// The index.
        path: TreePath,
        /// Line and problem.
        source: LineError,
    },
    /// A kept module needs one that is not kept.
    #[error("the module {module} is kept without {needs}, which it needs to load: keep both, or none")]
    NotClosed {
        /// Kept.
        module: ModuleName,
        /// Not kept.
        needs: ModuleName,
    },
    /// A module is to be kept that `modules.dep` does not have.
    #[error("the module {0} is to be kept, but {1} does not list it: run depmod inside the root")]
    Unknown(ModuleName, TreePath),
    /// Modules that could never be loaded.
    #[error(
        "the module {0} needs itself by way of others, says {1}: no order of loading does; run depmod inside the root"
    )]
    Cycle(ModuleName, TreePath),
    /// A module whose symbols or `.modinfo` count cannot be read.
    #[error(transparent)]
    Module(#[from] InventoryError),
    /// An index that cannot be written.
    #[error("cannot write {file}: {source}")]
    Binary {
        /// `modules.alias.bin`, ...
        file: &'static str,
        /// Why.
        source: IndexError,
    },
}

/// The indexes of the module directory for the modules in `kept`, by file name, as depmod of kmod 34 would write them there:
/// `modules.dep`, `.alias`, `.symbols`, `.softdep`, `.weakdep`, `.devname`, `.dep.bin`, `.alias.bin`, `.symbols.bin`,
/// `.builtin.bin` and `.builtin.alias.bin`. Files that a root has no source for are left out (`modules.builtin.bin` where there
/// is no `modules.builtin`). They replace the root's files of these names.
///
/// Reads those modules whose order in `modules.dep` cannot be known otherwise, a small part of them.
///
/// # Errors
/// `kept` is not closed under dependencies or names a module that is not there; an index cannot be read or has a wrong line;
/// a module that must be read is damaged.
pub fn indexes(
    root: &Sysroot,
    inventory: &Inventory,
    kept: &BTreeSet<ModuleName>,
) -> Result<BTreeMap<String, Vec<u8>>, DepmodError> {
    for module in kept {
        let needs = inventory.modules.dependencies.get(module).map(Vec::as_slice).unwrap_or_default();
        if let Some(needs) = needs.iter().find(|needs| !kept.contains(*needs)) {
            return Err(DepmodError::NotClosed { module: module.clone(), needs: needs.clone() });
        }
    }
    let source = Source { root, directory: &inventory.kernel.modules };
    let dep = source.text("modules.dep")?.unwrap_or_default();
    let tree = Tree::new(inventory, &dep, kept).map_err(|error| source.wrong("modules.dep", error))?;
    if let Some(unknown) = kept.iter().find(|module| tree.number(module.as_str()).is_none()) {
        return Err(DepmodError::Unknown(unknown.clone(), source.path("modules.dep")?));
    }
    let symbols = source.text("modules.symbols")?;
    let (of_modules, (dependencies, of_build)) = rayon::join(
        || -> Result<Vec<_>, _> {
            File::ALL.into_par_iter().map(|file| source.of_modules(file, &tree, symbols.as_deref())).collect()
        },
        || rayon::join(|| source.dependencies(&tree, symbols.as_deref().unwrap_or_default()), || source.of_build()),
    );
    let all = of_modules?.into_iter().flatten().chain(dependencies?).chain(of_build?);
    Ok(all.map(|(name, bytes)| (name.to_owned(), bytes)).collect())
}

/// An index's name and content.
type Index = (&'static str, Vec<u8>);

/// The module directory of a root.
#[derive(Clone, Copy)]
struct Source<'a> {
    root: &'a Sysroot,
    directory: &'a TreePath,
}

impl Source<'_> {
    fn path(self, name: &str) -> Result<TreePath, NameError> {
        self.directory.join(name)
    }

    fn bytes(self, name: &str) -> Result<Option<Vec<u8>>, DepmodError> {
        match self.root.read(&self.path(name)?, INDEX_LIMIT) {
            Ok(content) => Ok(Some(content)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn text(self, name: &str) -> Result<Option<String>, DepmodError> {
        match self.root.read_text(&self.path(name)?, INDEX_LIMIT) {
            Ok(content) => Ok(Some(content)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn wrong(self, name: &str, source: LineError) -> DepmodError {
        match self.path(name) {
            Ok(path) => DepmodError::Line { path, source },
            Err(error) => error.into(),
        }
    }

    /// A text file with the lines of the kept modules, and its binary form where there is one.
    fn of_modules(self, file: File, tree: &Tree<'_>, symbols: Option<&str>) -> Result<Vec<Index>, DepmodError> {
        let number: Numbers<'_> = &|name| tree.number(name);
        let content = match file {
            File::Symbols => symbols.map(|symbols| duplicates::settled(self.root, tree, symbols)).transpose()?,
            _ => self.text(file.name())?.map(Into::into),
        };
        let lines = match (content, file.field()) {
            (Some(content), _) => {
                text::kept_lines(file, &content, number).map_err(|error| self.wrong(file.name(), error))?
            }
            (None, Some(field)) => self.lines_of_modules(file, field, tree)?,
            (None, None) => return Ok(Vec::new()),
        };
        let binary = match file {
            File::Alias => Some(written("modules.alias.bin", text::alias_entries(&lines, number))?),
            File::Symbols => Some(written("modules.symbols.bin", text::symbol_entries(&lines, number))?),
            File::Softdep | File::Weakdep | File::Devname => None,
        };
        Ok([(file.name(), lines.into_bytes())].into_iter().chain(binary).collect())
    }

    /// What the root's depmod did not write yet: from the modules themselves.
    fn lines_of_modules(self, file: File, field: &str, tree: &Tree<'_>) -> Result<String, DepmodError> {
        let modules: Vec<_> = tree.kept().collect();
        let lines = modules.into_par_iter().map(|module| {
            let info = read_modinfo(self.root, module)?;
            Ok(info.values(field).map(|value| format!("{field} {} {value}\n", module.name)).collect::<String>())
        });
        let lines: Vec<String> = lines.collect::<Result<_, InventoryError>>()?;
        Ok(std::iter::once(file.heading().to_owned()).chain(lines).collect())
    }

    fn dependencies(self, tree: &Tree<'_>, symbols: &str) -> Result<[Index; 2], DepmodError> {
        let places = tree.places(self.root, symbols)?;
        let lines = match tree.lines(&places) {
            Ok(lines) => lines,
            Err(module) => return Err(DepmodError::Cycle(module, self.path("modules.dep")?)),
        };
        let mut text = String::new();
        for line in &lines {
            text.push_str(&line.value);
            text.push('\n');
        }
        Ok([("modules.dep", text.into_bytes()), written("modules.dep.bin", lines)?])
    }

    /// The binary indexes of what the kernel has built in.
    fn of_build(self) -> Result<Vec<Index>, DepmodError> {
        let names = self.text("modules.builtin")?.map(|text| ("modules.builtin.bin", builtin::names(&text)));
        let modinfo = self.bytes("modules.builtin.modinfo")?;
        let aliases = modinfo.map(|bytes| ("modules.builtin.alias.bin", builtin::aliases(&bytes)));
        names.into_iter().chain(aliases).map(|(file, entries)| written(file, entries)).collect()
    }
}

fn written(file: &'static str, entries: Vec<Entry>) -> Result<Index, DepmodError> {
    binary::write(entries).map(|bytes| (file, bytes)).map_err(|source| DepmodError::Binary { file, source })
}
