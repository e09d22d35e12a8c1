//! [`load`]: an [`Inventory`] from a root. Opens the files, hands their content to the parsers, and holds what they say
//! against the files that are there.

use std::collections::{BTreeSet, HashMap};

use crate::names::{KernelRelease, ModuleName, TreePath};
use crate::root::sysroot::{EntryType, Metadata, Sysroot, SysrootError};

use super::links::{self, Node};
use super::{
    AliasList, Compression, Firmware, Inventory, InventoryError, Kernel, LineError, Module, Modules, indexes, kernels,
};

/// Bytes that an index may have. The largest of Debian's 6.12 has 1.4 MB.
const INDEX_LIMIT: u64 = 64 << 20;
/// Names in a module directory that depmod does not enter: they lead to sources.
const NOT_MODULES: [&[u8]; 2] = [b"build", b"source"];

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
    let dep = index.text("modules.dep")?.ok_or_else(no_index)?;
    let ((tree, listed), (aliases, rest)) = rayon::join(
        || rayon::join(|| ModuleTree::walk(root, &kernel.modules), || index.parsed("modules.dep", indexes::dep(&dep))),
        || rayon::join(|| index.aliases("modules.alias"), || index.others()),
    );
    let mut out = files(&index, &dep_path, listed?, tree?)?;
    let rest = rest?;
    out.aliases = aliases?;
    (out.soft, out.weak, out.builtin) = (rest.soft, rest.weak, rest.builtin);
    (out.devnames, out.order) = (rest.devnames, rest.order);
    (out.builtin_aliases, out.builtin_firmware) = (rest.builtin_aliases, rest.builtin_firmware);
    Ok(out)
}

/// The lines of `modules.dep` held against the files of the module directory.
fn files(
    index: &Index<'_>,
    dep_path: &TreePath,
    listed: Vec<indexes::Dependency<'_>>,
    tree: ModuleTree,
) -> Result<Modules, InventoryError> {
    let Index { root, kernel } = index;
    let mut places: HashMap<&[u8], usize> = HashMap::with_capacity(tree.files.len());
    for (place, (path, _)) in tree.files.iter().enumerate() {
        places.extend(path.strip_prefix(&kernel.modules).map(|relative| (relative, place)));
    }
    let mut is_listed = vec![false; tree.files.len()];
    let mut modules = Vec::with_capacity(listed.len());
    let mut dependencies = Vec::with_capacity(listed.len());
    let mut lines = HashMap::with_capacity(listed.len());
    for entry in listed {
        let normal = || kernel.modules.join(entry.path);
        let mut place = places.get(entry.path.as_bytes()).copied();
        if place.is_none() {
            // Written in another way, such as with two slashes.
            place = normal()?.strip_prefix(&kernel.modules).and_then(|relative| places.get(relative)).copied();
        }
        let found = match place.and_then(|place| Some((place, tree.files.get(place)?))) {
            Some((place, (path, bytes))) => {
                if let Some(listed) = is_listed.get_mut(place) {
                    *listed = true;
                }
                Some((path.clone(), *bytes))
            }
            None => behind_links(root, &normal()?)?,
        };
        let (line, release) = (entry.line, kernel.release.clone());
        let Some((path, bytes)) = found else {
            let (path, module) = (dep_path.clone(), entry.path.to_owned());
            return Err(InventoryError::MissingModule { path, line, module, release });
        };
        if lines.insert(entry.name.clone(), line).is_some() {
            let (path, module) = (dep_path.clone(), entry.path.to_owned());
            return Err(InventoryError::DuplicateModule { path, line, module, name: entry.name, release });
        }
        let module = Module {
            name: entry.name.clone(),
            path,
            relative: entry.path.to_owned(),
            bytes,
            compression: Compression::of(entry.path.as_bytes()).0,
        };
        modules.push((entry.name.clone(), module));
        dependencies.push((entry.name, entry.needs));
    }
    // Maps are built of all at once: that is cheaper than a search for each.
    let mut out = Modules {
        by_name: modules.into_iter().collect(),
        dependencies: dependencies.into_iter().collect(),
        index_files: tree.top_files,
        ..Modules::default()
    };
    let mut unlisted = Vec::new();
    let others = tree.files.into_iter().zip(is_listed).filter(|(_, listed)| !listed).map(|((path, _), _)| path);
    for path in others {
        let Some(name) = ModuleName::from_file(path.as_bytes()) else { continue };
        // Of several files of one name depmod lists the first by its search order; kmod never loads the others.
        if out.by_name.contains_key(&name) { out.shadowed.push(path) } else { unlisted.push(path) }
    }
    match unlisted.first() {
        None => Ok(out),
        Some(first) => Err(InventoryError::Unlisted {
            path: dep_path.clone(),
            count: unlisted.len(),
            first: first.clone(),
            release: kernel.release.clone(),
        }),
    }
}

/// Reads and parses one kernel's indexes, saying in errors which file it was.
struct Index<'a> {
    root: &'a Sysroot,
    kernel: &'a Kernel,
}

impl Index<'_> {
    /// The small ones, and `modules.order`.
    fn others(&self) -> Result<Modules, InventoryError> {
        let info = match self.bytes("modules.builtin.modinfo")? {
            Some(bytes) => self.parsed("modules.builtin.modinfo", indexes::builtin_modinfo(&bytes))?,
            None => indexes::BuiltinInfo::default(),
        };
        Ok(Modules {
            soft: self.optional("modules.softdep", indexes::softdep)?,
            weak: self.optional("modules.weakdep", indexes::weakdep)?,
            builtin: self.optional("modules.builtin", indexes::builtin)?,
            devnames: self.optional("modules.devname", indexes::devname)?,
            order: self.optional("modules.order", indexes::order)?,
            builtin_aliases: info.aliases,
            builtin_firmware: info.firmware,
            ..Modules::default()
        })
    }

    fn bytes(&self, name: &str) -> Result<Option<Vec<u8>>, InventoryError> {
        absent(self.root.read(&self.kernel.modules.join(name)?, INDEX_LIMIT))
    }

    fn text(&self, name: &str) -> Result<Option<String>, InventoryError> {
        absent(self.root.read_text(&self.kernel.modules.join(name)?, INDEX_LIMIT))
    }

    fn parsed<T>(&self, name: &str, result: Result<T, LineError>) -> Result<T, InventoryError> {
        let path = self.kernel.modules.join(name)?;
        result.map_err(|source| InventoryError::Line { path, release: self.kernel.release.clone(), source })
    }

    fn aliases(&self, name: &str) -> Result<AliasList, InventoryError> {
        match self.text(name)? {
            Some(text) => self.parsed(name, indexes::alias(text)),
            None => Ok(AliasList::default()),
        }
    }

    /// Older versions of kmod and some kernels do not have every file.
    fn optional<T: Default>(&self, name: &str, parse: fn(&str) -> Result<T, LineError>) -> Result<T, InventoryError> {
        match self.text(name)? {
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

/// The resolved path and the bytes of what was not met as a file: a link, or below one. `None` where there is no regular file.
fn behind_links(root: &Sysroot, path: &TreePath) -> Result<Option<(TreePath, u64)>, InventoryError> {
    match absent(root.canonical(path))? {
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
struct ModuleTree {
    /// Module files by path, with their bytes; links to them not followed.
    files: Vec<(TreePath, u64)>,
    /// Names of the files right in the directory.
    top_files: BTreeSet<String>,
}

impl ModuleTree {
    fn walk(root: &Sysroot, top: &TreePath) -> Result<Self, InventoryError> {
        let mut out = Self { files: Vec::new(), top_files: BTreeSet::new() };
        let enter = |path: &TreePath| !path.strip_prefix(top).is_some_and(|relative| NOT_MODULES.contains(&relative));
        for (path, node) in links::walk(root, top, enter)? {
            let Node::File(bytes) = node else { continue };
            if ModuleName::from_file(path.as_bytes()).is_some() {
                out.files.push((path, bytes));
            } else if let Some(name) = path.strip_prefix(top).and_then(|name| std::str::from_utf8(name).ok())
                && !name.contains('/')
            {
                out.top_files.insert(name.to_owned());
            }
        }
        Ok(out)
    }
}
