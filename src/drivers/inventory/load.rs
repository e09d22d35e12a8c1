//! [`load`]: an [`Inventory`] from a root. Opens the files, hands their content to the parsers, and holds what they say
//! against the files that are there.

use std::collections::{BTreeMap, BTreeSet};

use crate::names::{KernelRelease, ModuleName, TreePath};
use crate::root::sysroot::{EntryType, Metadata, Sysroot, SysrootError};

use super::depmod_d::Config;
use super::{
    AliasList, Compression, Declarations, Firmware, Inventory, InventoryError, Kernel, LineError, Module, Modules,
    indexes, kernels,
};

/// Bytes that an index may have. The largest of Debian's 6.12 has 1.4 MB.
const INDEX_LIMIT: u64 = 64 << 20;
/// Names right in a module directory that are not entered: they lead to sources.
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
    let dep = index.text("modules.dep")?.ok_or_else(no_index)?;
    let config = Config::load(root, &kernel.release)?;
    refuse_external(&config, &dep, &dep_path, kernel)?;
    let ((tree, entries), (aliases, others)) = rayon::join(
        || {
            let walk = || ModuleTree::walk(root, &kernel.modules, &config);
            rayon::join(walk, || index.parsed("modules.dep", indexes::dep(&dep)))
        },
        || rayon::join(|| index.aliases("modules.alias"), || index.others()),
    );
    let tree = tree?;
    let mut out = Modules { index_files: tree.top_files.clone(), aliases: aliases?, ..others? };
    // The paths that the index names, and where links are among them, what these lead to.
    let mut listed = BTreeSet::new();
    for entry in entries? {
        let Some((path, bytes)) = module_file(root, kernel, entry.path, &tree.files)? else {
            return Err(InventoryError::MissingModule {
                path: dep_path,
                line: entry.line,
                module: entry.path.to_owned(),
                release: kernel.release.clone(),
            });
        };
        let named = kernel.modules.join(entry.path)?;
        if entry.path.split('/').any(|name| config.excludes(name.as_bytes())) {
            let release = kernel.release.clone();
            return Err(InventoryError::Excluded { path: dep_path, line: entry.line, module: named, release });
        }
        if path != named {
            listed.extend(root.resolve(&named)?.1);
        }
        listed.extend([path.clone(), named]);
        let module = Module {
            name: entry.name.clone(),
            path,
            relative: entry.path.to_owned(),
            bytes,
            compression: Compression::of(entry.path.as_bytes()).0,
        };
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
    out.shadowed = tree.unlisted(&listed, &out.by_name, &config, kernel, &dep_path)?;
    Ok(out)
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
        let mut builtin_paths = self.optional("modules.builtin", indexes::order)?;
        builtin_paths.sort_unstable();
        Ok(Modules {
            builtin_paths,
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
    /// Links to module files, with the name, and whether there is a link that can be removed: what lies below a link to a
    /// directory is elsewhere.
    links: BTreeMap<TreePath, (ModuleName, bool)>,
    /// Module files that `depmod.d` excludes.
    excluded: BTreeSet<TreePath>,
    /// Names of the files right in the directory.
    top_files: BTreeSet<String>,
}

/// A directory to be read.
struct Pending {
    path: TreePath,
    depth: usize,
    /// depmod does not enter it.
    excluded: bool,
    /// Reached by a link.
    linked: bool,
}

impl ModuleTree {
    fn walk(root: &Sysroot, top: &TreePath, config: &Config) -> Result<Self, InventoryError> {
        let mut out = Self::default();
        // Directories that links led to: each is entered once, and none that is on the way here or is read anyway.
        let mut seen = BTreeSet::new();
        let mut pending = vec![Pending { path: top.clone(), depth: 0, excluded: false, linked: false }];
        while let Some(Pending { path: parent, depth, excluded, linked }) = pending.pop() {
            // A walk follows no link by itself: where one led here, the directory behind it is read.
            let real = if linked { root.canonical(&parent)? } else { parent.clone() };
            let directory = root.directory(&real)?;
            for entry in directory.names()? {
                if depth == 0 && NOT_MODULES.contains(&entry.as_slice()) {
                    continue;
                }
                let metadata = directory.metadata_of(&entry)?;
                let excluded = excluded || config.excludes(&entry);
                let path = parent.join(&entry)?;
                let name = ModuleName::from_file(&entry);
                match (EntryType::of(&metadata), name) {
                    (EntryType::Directory, _) if depth < DEEPEST => {
                        pending.push(Pending { path, depth: depth + 1, excluded, linked });
                    }
                    (EntryType::File, Some(_)) if excluded && linked => {}
                    (EntryType::File, Some(_)) if excluded => {
                        out.excluded.insert(path);
                    }
                    (EntryType::File, Some(name)) if linked => {
                        out.links.insert(path, (name, false));
                    }
                    (EntryType::File, Some(name)) => {
                        out.files.insert(path, (name, size(&metadata)));
                    }
                    (EntryType::File, None) if depth == 0 => out.top_files.extend(String::from_utf8(entry)),
                    (EntryType::Symlink, name) if !excluded && depth < DEEPEST => {
                        let target = match root.canonical(&path) {
                            Ok(target) => target,
                            // A link to nothing is no module.
                            Err(SysrootError::Path { .. }) => continue,
                            Err(error) => return Err(error.into()),
                        };
                        match (root.kind(&target)?, name) {
                            (Some(EntryType::File), Some(name)) => {
                                out.links.insert(path, (name, !linked));
                            }
                            (Some(EntryType::Directory), _)
                                if !target.starts_with(top) && !top.starts_with(&target) && seen.insert(target) =>
                            {
                                pending.push(Pending { path, depth: depth + 1, excluded, linked: true });
                            }
                            _ => {}
                        }
                    }
                    _ => {}
                }
            }
        }
        Ok(out)
    }

    /// Those files that no index names and that may go, since depmod prefers another file or excludes them.
    ///
    /// # Errors
    /// depmod would list one of them.
    fn unlisted(
        self,
        listed: &BTreeSet<TreePath>,
        by_name: &BTreeMap<ModuleName, Module>,
        config: &Config,
        kernel: &Kernel,
        index: &TreePath,
    ) -> Result<Vec<TreePath>, InventoryError> {
        let relative =
            |path: &TreePath| path.strip_prefix(&kernel.modules).map(String::from_utf8_lossy).map(String::from);
        let files = self.files.into_iter().map(|(path, (name, _))| (path, name, true));
        let links = self.links.into_iter().map(|(path, (name, removable))| (path, name, removable));
        let (mut shadowed, mut unlisted) = (self.excluded, BTreeSet::new());
        // A file that only a link's line stands for still competes: by its own path depmod might take it.
        for (path, name, removable) in files.chain(links) {
            let Some(winner) = by_name.get(&name) else {
                if !listed.contains(&path) {
                    unlisted.insert(path);
                }
                continue;
            };
            if relative(&path).is_some_and(|relative| config.prefers(&relative, &winner.relative)) {
                return Err(InventoryError::NotFirst {
                    path: index.clone(),
                    name,
                    listed: kernel.modules.join(&winner.relative)?,
                    better: path,
                    release: kernel.release.clone(),
                });
            }
            if removable && !listed.contains(&path) {
                shadowed.insert(path);
            }
        }
        match unlisted.first() {
            Some(first) => Err(InventoryError::Unlisted {
                path: index.clone(),
                count: unlisted.len(),
                first: first.clone(),
                release: kernel.release.clone(),
            }),
            None => Ok(shadowed.into_iter().filter(|path| !listed.contains(path)).collect()),
        }
    }
}

/// depmod lists modules of `external` directories by absolute paths, which nothing else here expects.
fn refuse_external(config: &Config, dep: &str, index: &TreePath, kernel: &Kernel) -> Result<(), InventoryError> {
    let Some((file, directory)) = config.external() else { return Ok(()) };
    match dep.lines().enumerate().find(|(_, line)| line.starts_with('/')) {
        Some((number, line)) => Err(InventoryError::External {
            path: index.clone(),
            line: number + 1,
            module: line.split(':').next().unwrap_or_default().to_owned(),
            directory: directory.clone(),
            file: file.clone(),
            release: kernel.release.clone(),
        }),
        None => Ok(()),
    }
}

/// Holds `modules.dep` against what the modules say of themselves: a module that was replaced after depmod ran may need others.
/// What is built in, or not in the root at all (no depmod would find it), is passed over.
///
/// # Errors
/// A module declares a dependency (`depends=`) on one that is there, and its line does not have it.
pub fn check_dependencies(
    kernel: &Kernel,
    modules: &Modules,
    declarations: &Declarations,
) -> Result<(), InventoryError> {
    for (name, declared) in declarations {
        let (Some(module), Some(line)) = (modules.by_name.get(name), modules.dependencies.get(name)) else { continue };
        let is_missing = |needs: &&ModuleName| {
            modules.by_name.contains_key(*needs) && !modules.builtin.contains(*needs) && !line.contains(*needs)
        };
        if let Some(needs) = declared.depends.iter().find(is_missing) {
            return Err(InventoryError::OlderThanModule {
                module: module.path.clone(),
                needs: needs.clone(),
                release: kernel.release.clone(),
            });
        }
    }
    Ok(())
}
