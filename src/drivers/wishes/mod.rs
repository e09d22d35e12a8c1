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

use crate::drivers::target::Source;
use crate::names::TreePath;
use crate::root::conf_files::{files, files_in, text};
use crate::root::sysroot::{Sysroot, SysrootError};

pub use modprobe::Modprobe;

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

fn source(file: &str, line: usize) -> Source {
    Source { file: file.to_owned(), line }
}

#[cfg(test)]
mod tests;
