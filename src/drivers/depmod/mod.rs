//! depmod's indexes for the kept modules, text and binary.
//!
//! What a module says of itself (aliases, symbols, dependencies) does not change when its neighbours go, so the indexes of
//! the kept modules are the root's own text files without the lines of the others, and the binary files are made from
//! those lines. modprobe prefers the binary files: stale ones would name modules that are gone.
//!
//! `modules.order`, `modules.builtin`, `modules.builtin.modinfo`, `modules.builtin.bin` and `modules.builtin.alias.bin` speak
//! of the kernel's build, not of what is installed. They stay as they are (depmod skips what of `modules.order` is not
//! there), and are not among the results here.

pub mod binary;
mod text;

use std::collections::{BTreeMap, BTreeSet};

use crate::drivers::inventory::{Inventory, LineError};
use crate::names::{ModuleName, NameError, TreePath};
use crate::root::sysroot::{Sysroot, SysrootError};

pub use binary::IndexError;

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
    /// An index that cannot be written.
    #[error("cannot write {file}: {source}")]
    Binary {
        /// `modules.alias.bin`, ...
        file: &'static str,
        /// Why.
        source: IndexError,
    },
}

/// The indexes of the module directory for the modules in `kept`, by file name: those of `modules.dep`, `.alias`, `.symbols`,
/// `.softdep`, `.weakdep` and `.devname` that the root has, and `modules.dep.bin`, `modules.alias.bin`, `modules.symbols.bin`.
/// They replace the root's files of these names.
///
/// # Errors
/// `kept` is not closed under dependencies or names a module that is not there; an index cannot be read or has a wrong line.
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
    let mut out = BTreeMap::new();
    for name in text::FILES {
        let path = inventory.kernel.modules.join(name)?;
        let content = match root.read_text(&path, INDEX_LIMIT) {
            Ok(content) => content,
            Err(error) if error.is_not_found() => continue,
            Err(error) => return Err(error.into()),
        };
        let lines = text::kept_lines(name, &content, kept).map_err(|source| DepmodError::Line { path, source })?;
        out.insert(name.to_owned(), lines.into_bytes());
    }

    let line_of = |name: &str| out.get(name).and_then(|bytes| std::str::from_utf8(bytes).ok()).unwrap_or_default();
    let dep = line_of("modules.dep");
    // depmod's number of a module is its place in modules.order, and modules.dep has that order.
    let numbers = text::numbers(dep).map_err(|source| {
        let path = inventory.kernel.modules.clone();
        DepmodError::Line { path, source }
    })?;
    if let Some(unknown) = kept.iter().find(|module| !numbers.contains_key(*module)) {
        return Err(DepmodError::Unknown(unknown.clone(), inventory.kernel.modules.join("modules.dep")?));
    }
    let binaries = [
        ("modules.dep.bin", text::dep_entries(dep, &numbers)),
        ("modules.alias.bin", text::alias_entries(line_of("modules.alias"), &numbers)),
        ("modules.symbols.bin", text::symbol_entries(line_of("modules.symbols"), &numbers)),
    ];
    for (file, entries) in binaries {
        let bytes = binary::write(entries).map_err(|source| DepmodError::Binary { file, source })?;
        out.insert(file.to_owned(), bytes);
    }
    Ok(out)
}
