//! What the root itself asks for: modules that its configuration loads, options and aliases that it gives, file systems that
//! it mounts. Each with file and line, since each is a rule of the selection ([`super::select`]).
//!
//! | where | what |
//! |---|---|
//! | `modules-load.d` (modules-load.d(5)), `/etc/modules`, `/etc/initramfs-tools/modules` | modules by name |
//! | `modprobe.d` (modprobe.d(5)) | `alias`, `softdep`, `weakdep`, `install`, `options`, `blacklist` |
//! | `/etc/fstab`, `.mount` units (systemd.mount(5)) | file systems; `modprobe@NAME.service` of such units |
//! | `dracut.conf`, `dracut.conf.d` (dracut.conf(5)) | `add_drivers`, `force_drivers`, `filesystems` |
//!
//! The parsers take text; [`load`] finds the files. A line that a file's own program would ignore is ignored here. Left out:
//! what a running machine adds (`/proc/cmdline`), drop-ins of mount units.

pub mod lists;
pub mod modprobe;
pub mod mounts;

use std::collections::BTreeMap;

use crate::drivers::target::Source;
use crate::names::TreePath;
use crate::root::sysroot::{EntryType, Sysroot, SysrootError};

pub use modprobe::Modprobe;

/// A configuration file larger than this is none.
const LIMIT: u64 = 1 << 20;
/// Directories of configuration files, first wins (`conf_files_list` of systemd, `conf_files_get` of kmod).
const PARENTS: [&str; 5] = ["etc", "run", "usr/local/lib", "usr/lib", "lib"];

/// What is wished for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// A module's name, or an alias, as modprobe takes it.
    Module(String),
    /// A file system type: a module's alias `fs-TYPE`, or its name.
    Filesystem(String),
    /// All modules below a directory of the module tree: dracut's `=drivers/hid`.
    Directory(String),
}

/// One wish and where it is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wish {
    /// What is wished for.
    pub wanted: Wanted,
    /// The kind of file: `modules-load.d`, `fstab`, ...
    pub by: &'static str,
    /// File and line.
    pub source: Source,
}

/// Everything that a root asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wishes {
    /// Modules and file systems, in the order of the table above.
    pub wishes: Vec<Wish>,
    /// What `modprobe.d` says.
    pub modprobe: Modprobe,
}

impl Wishes {
    /// Reads the root's configuration. A root without any gives an empty value.
    ///
    /// # Errors
    /// A file that is there cannot be read, or is over 1 MiB.
    pub fn load(root: &Sysroot) -> Result<Self, SysrootError> {
        let mut out = Self::default();
        for (path, text) in files(root, "modules-load.d", ".conf")? {
            out.wishes.extend(lists::modules_load(&text, &path));
        }
        for (path, by) in [("etc/modules", "/etc/modules"), ("etc/initramfs-tools/modules", "initramfs-tools")] {
            if let Some(text) = text(root, &TreePath::new(path)?)? {
                out.wishes.extend(lists::modules(&text, &format!("/{path}"), by));
            }
        }
        if let Some(text) = text(root, &TreePath::new("etc/fstab")?)? {
            out.wishes.extend(mounts::fstab(&text, "/etc/fstab"));
        }
        for (path, text) in files(root, "systemd/system", ".mount")? {
            out.wishes.extend(mounts::unit(&text, &path));
        }
        let mut dracut = files_in(root, &["etc/dracut.conf.d", "usr/lib/dracut/dracut.conf.d"], ".conf")?;
        if let Some(text) = text(root, &TreePath::new("etc/dracut.conf")?)? {
            dracut.insert(0, ("/etc/dracut.conf".to_owned(), text));
        }
        for (path, text) in dracut {
            out.wishes.extend(lists::dracut(&text, &path));
        }
        for (path, text) in files(root, "modprobe.d", ".conf")? {
            out.modprobe.add(&text, &path);
        }
        Ok(out)
    }
}

/// The files of a kind of configuration directory, by name: of several of one name the first directory's.
fn files(root: &Sysroot, directory: &str, suffix: &str) -> Result<Vec<(String, String)>, SysrootError> {
    let all: Vec<String> = PARENTS.iter().map(|parent| format!("{parent}/{directory}")).collect();
    files_in(root, &all.iter().map(String::as_str).collect::<Vec<_>>(), suffix)
}

fn files_in(root: &Sysroot, directories: &[&str], suffix: &str) -> Result<Vec<(String, String)>, SysrootError> {
    let mut found: BTreeMap<Vec<u8>, TreePath> = BTreeMap::new();
    for directory in directories {
        let directory = TreePath::new(directory)?;
        let entries = match root.read_dir(&directory) {
            Ok(entries) => entries,
            Err(error) if error.is_not_found() => continue,
            Err(error) => return Err(error),
        };
        for entry in entries.into_iter().filter(|entry| entry.name.ends_with(suffix.as_bytes())) {
            let path = directory.join(&entry.name)?;
            found.entry(entry.name).or_insert(path);
        }
    }
    let mut out = Vec::new();
    for path in found.into_values() {
        if let Some(text) = text(root, &path)? {
            out.push((path.to_string(), text));
        }
    }
    Ok(out)
}

/// A file's text, bytes that are not UTF-8 replaced; `None` where there is no regular file: a link to `/dev/null` masks one.
fn text(root: &Sysroot, path: &TreePath) -> Result<Option<String>, SysrootError> {
    let resolved = match root.canonical(path) {
        Ok(resolved) => resolved,
        // Nothing, a link to nothing, or a loop: for the programs that read these files there is none.
        Err(SysrootError::Path { .. }) => return Ok(None),
        Err(error) => return Err(error),
    };
    match root.kind(&resolved)? {
        Some(EntryType::File) => Ok(Some(String::from_utf8_lossy(&root.read(&resolved, LIMIT)?).into_owned())),
        _ => Ok(None),
    }
}

fn source(file: &str, line: usize) -> Source {
    Source { file: file.to_owned(), line }
}

#[cfg(test)]
mod tests;
