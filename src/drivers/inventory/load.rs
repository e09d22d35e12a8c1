//! [`load`]: an [`Inventory`] from a root. Opens the files, hands their content to the parsers, and holds what they say
//! against the files that are there.

use std::collections::{BTreeMap, BTreeSet};

use crate::names::{KernelRelease, ModuleName, TreePath};
use crate::root::sysroot::{EntryType, Metadata, Sysroot, SysrootError};

use super::{Compression, Firmware, Inventory, InventoryError, Kernel, LineError, Module, Modules, indexes, kernels};

/// Bytes that an index may have. The largest of Debian's 6.12 has 1.4 MB.
const INDEX_LIMIT: u64 = 64 << 20;
/// Names in a module directory that depmod does not enter: they lead to sources.
const NOT_MODULES: [&[u8]; 2] = [b"build", b"source"];
/// Directories in directories: deeper is a damaged or hostile tree.
const DEEPEST: usize = 64;

/// What the root has. `choice` names the kernel; without it the newest is taken.
///
/// # Errors
/// No kernel, or not the one that was asked for; no `modules.dep`; an index with a wrong line, with a module that is not
/// there, or without one that is; a root that cannot be read.
pub fn load(root: &Sysroot, choice: Option<&KernelRelease>) -> Result<Inventory, InventoryError> {
    let mut kernels = kernels::kernels(root)?;
    let kernel = match choice {
        None => kernels.pop().ok_or(InventoryError::NoKernel)?,
        Some(release) => match kernels.iter().position(|kernel| kernel.release == *release) {
            Some(index) => kernels.remove(index),
            None if kernels.is_empty() => return Err(InventoryError::NoKernel),
            None => {
                let found = kernels.into_iter().map(|kernel| kernel.release).collect();
                return Err(InventoryError::UnknownKernel { asked: release.clone(), found });
            }
        },
    };
    let (modules, firmware) = rayon::join(|| modules(root, &kernel), || Firmware::load(root, &kernel.release));
    Ok(Inventory { modules: modules?, firmware: firmware?, kernel, other_kernels: kernels })
}

fn modules(root: &Sysroot, kernel: &Kernel) -> Result<Modules, InventoryError> {
    let index = Index { root, kernel };
    let dep_path = kernel.modules.join("modules.dep")?;
    let no_index = || InventoryError::NoIndex { path: dep_path.clone(), release: kernel.release.clone() };
    let dep = index.read("modules.dep")?.ok_or_else(no_index)?;
    let tree = ModuleTree::walk(root, &kernel.modules)?;

    let mut out = Modules { index_files: tree.top_files, ..Modules::default() };
    let mut listed = BTreeSet::new();
    for entry in index.parsed("modules.dep", indexes::dep(&dep))? {
        let Some((path, bytes)) = module_file(root, kernel, entry.path, &tree.files)? else {
            return Err(InventoryError::MissingModule {
                path: dep_path,
                line: entry.line,
                module: entry.path.to_owned(),
                release: kernel.release.clone(),
            });
        };
        let module = Module {
            name: entry.name.clone(),
            path,
            relative: entry.path.to_owned(),
            bytes,
            compression: Compression::of(entry.path.as_bytes()).0,
        };
        listed.insert(kernel.modules.join(entry.path)?);
        if out.by_name.insert(entry.name.clone(), module).is_some() {
            return Err(InventoryError::DuplicateModule {
                path: dep_path,
                line: entry.line,
                module: entry.path.to_owned(),
                name: entry.name,
                release: kernel.release.clone(),
            });
        }
        out.dependencies.insert(entry.name, entry.needs);
    }
    let mut unlisted = Vec::new();
    for (path, (name, _)) in tree.files.into_iter().filter(|(path, _)| !listed.contains(path)) {
        // Of several files of one name depmod lists the first by its search order; kmod never loads the others.
        if out.by_name.contains_key(&name) { out.shadowed.push(path) } else { unlisted.push(path) }
    }
    if let Some(first) = unlisted.first() {
        return Err(InventoryError::Unlisted {
            path: dep_path,
            count: unlisted.len(),
            first: first.clone(),
            release: kernel.release.clone(),
        });
    }

    out.soft = index.optional("modules.softdep", indexes::softdep)?;
    out.weak = index.optional("modules.weakdep", indexes::weakdep)?;
    out.aliases = index.optional("modules.alias", indexes::alias)?;
    out.builtin = index.optional("modules.builtin", indexes::builtin)?;
    out.devnames = index.optional("modules.devname", indexes::devname)?;
    out.order = index.optional("modules.order", indexes::order)?;
    let info = match index.bytes("modules.builtin.modinfo")? {
        Some(bytes) => index.parsed("modules.builtin.modinfo", indexes::builtin_modinfo(&bytes))?,
        None => indexes::BuiltinInfo::default(),
    };
    (out.builtin_aliases, out.builtin_firmware) = (info.aliases, info.firmware);
    Ok(out)
}

/// Reads and parses one kernel's indexes, saying in errors which file it was.
struct Index<'a> {
    root: &'a Sysroot,
    kernel: &'a Kernel,
}

impl Index<'_> {
    fn bytes(&self, name: &str) -> Result<Option<Vec<u8>>, InventoryError> {
        absent(self.root.read(&self.kernel.modules.join(name)?, INDEX_LIMIT))
    }

    fn read(&self, name: &str) -> Result<Option<String>, InventoryError> {
        absent(self.root.read_text(&self.kernel.modules.join(name)?, INDEX_LIMIT))
    }

    fn parsed<T>(&self, name: &str, result: Result<T, LineError>) -> Result<T, InventoryError> {
        let path = self.kernel.modules.join(name)?;
        result.map_err(|source| InventoryError::Line { path, release: self.kernel.release.clone(), source })
    }

    /// Older versions of kmod and some kernels do not have every file.
    fn optional<T: Default>(&self, name: &str, parse: fn(&str) -> Result<T, LineError>) -> Result<T, InventoryError> {
        match self.read(name)? {
            Some(text) => self.parsed(name, parse(&text)),
            None => Ok(T::default()),
        }
    }
}

fn absent<T>(result: Result<T, SysrootError>) -> Result<Option<T>, InventoryError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// The resolved path and the bytes of a line's file; `None` where there is no regular file.
fn module_file(
    root: &Sysroot,
    kernel: &Kernel,
    relative: &str,
    files: &BTreeMap<TreePath, (ModuleName, u64)>,
) -> Result<Option<(TreePath, u64)>, InventoryError> {
    let path = kernel.modules.join(relative)?;
    if let Some((_, bytes)) = files.get(&path) {
        return Ok(Some((path, *bytes)));
    }
    // Not met as a file: a link, or below one.
    match absent(root.canonical(&path))? {
        Some(target) if root.kind(&target)? == Some(EntryType::File) => {
            let bytes = size(&root.metadata(&target)?);
            Ok(Some((target, bytes)))
        }
        _ => Ok(None),
    }
}

fn size(metadata: &Metadata) -> u64 {
    u64::try_from(metadata.st_size).unwrap_or(0)
}

/// The files of a module directory.
#[derive(Default)]
struct ModuleTree {
    /// Module files by path, with name and bytes; links to them not followed.
    files: BTreeMap<TreePath, (ModuleName, u64)>,
    /// Names of the files right in the directory.
    top_files: BTreeSet<String>,
}

impl ModuleTree {
    fn walk(root: &Sysroot, top: &TreePath) -> Result<Self, InventoryError> {
        let mut out = Self::default();
        let mut pending = vec![(top.clone(), 0)];
        while let Some((path, depth)) = pending.pop() {
            let directory = root.directory(&path)?;
            for entry in directory.names()? {
                let metadata = directory.metadata_of(&entry)?;
                match EntryType::of(&metadata) {
                    EntryType::Directory if depth == 0 && NOT_MODULES.contains(&entry.as_slice()) => {}
                    EntryType::Directory if depth < DEEPEST => pending.push((path.join(&entry)?, depth + 1)),
                    EntryType::File => {
                        if let Some(name) = ModuleName::from_file(&entry) {
                            out.files.insert(path.join(&entry)?, (name, size(&metadata)));
                        } else if depth == 0
                            && let Ok(name) = String::from_utf8(entry)
                        {
                            out.top_files.insert(name);
                        }
                    }
                    _ => {}
                }
            }
        }
        Ok(out)
    }
}
