//! What a root has: kernels, the chosen kernel's modules with depmod's indexes, and firmware files.
//!
//! Reading is cheap: the text indexes and the directories. A module's own `.modinfo` (its firmware above all) is read
//! on demand, since decompressing is where the time goes: see [`modinfo`].
//!
//! This file has the types; [`load`] fills them. Nothing here decides what stays.

mod aliases;
pub mod cache;
mod decompress;
pub mod depmod_d;
mod elf;
mod end;
mod error;
pub mod firmware;
mod glob;
pub mod indexes;
mod kernels;
mod links;
mod load;
mod microcode;
pub mod modinfo;

use std::collections::{BTreeMap, BTreeSet};

use crate::names::{FirmwarePath, KernelRelease, ModuleName, TreePath};

pub use aliases::AliasList;
pub use decompress::machine;
pub(in crate::drivers) use decompress::read_module;
pub use end::module_end;
pub use error::{InventoryError, ModuleFileError};
pub use firmware::Found;
pub use indexes::LineError;
pub use kernels::kernels;
pub use load::{check_dependencies, load};
pub use microcode::{Microcode, has_microcode, microcode};
pub use modinfo::{Declarations, Declared, ModInfo, declarations, read_modinfo};

/// A kernel in the root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kernel {
    /// Its release, the name of its module directory.
    pub release: KernelRelease,
    /// Its boot image (`/boot/vmlinuz-RELEASE`, `/usr/lib/modules/RELEASE/vmlinuz`, ...), resolved; `None` where only modules are there.
    pub image: Option<TreePath>,
    /// Its module directory, resolved: `usr/lib/modules/RELEASE`.
    pub modules: TreePath,
}

/// How a module or a firmware file is compressed, from its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Compression {
    /// Not at all.
    None,
    /// `.gz` (modules only).
    Gzip,
    /// `.xz`.
    Xz,
    /// `.zst`.
    Zstd,
}

impl Compression {
    /// By the suffix of a name, and the name without it.
    #[must_use]
    pub fn of(name: &[u8]) -> (Self, &[u8]) {
        for (suffix, compression) in [(&b".gz"[..], Self::Gzip), (b".xz", Self::Xz), (b".zst", Self::Zstd)] {
            if let Some(plain) = name.strip_suffix(suffix) {
                return (compression, plain);
            }
        }
        (Self::None, name)
    }
}

/// A module file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Module {
    /// Its name.
    pub name: ModuleName,
    /// Where the file is in the root, resolved. Where the index names a link (`weak-updates/`), this is the link's target;
    /// the link itself is `relative` below the module directory, and both must be kept.
    pub path: TreePath,
    /// The path below the module directory as the indexes have it: `kernel/drivers/nvme/host/nvme.ko.xz`.
    pub relative: String,
    /// Bytes on disk.
    pub bytes: u64,
    /// How the file is compressed.
    pub compression: Compression,
}

/// When a soft dependency is loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SoftKind {
    /// `pre:`, before the module.
    Pre,
    /// `post:`, after the module.
    Post,
    /// A token without a kind (cifs has such): ignored by kmod, kept by us.
    Bare,
}

/// The modules of one kernel and what depmod's text files say of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Modules {
    /// Module files by name.
    pub by_name: BTreeMap<ModuleName, Module>,
    /// `modules.dep`: all (transitive) dependencies, in the file's order.
    pub dependencies: BTreeMap<ModuleName, Vec<ModuleName>>,
    /// `modules.softdep`: targets are module names or aliases, as written.
    pub soft: BTreeMap<ModuleName, Vec<(SoftKind, String)>>,
    /// `modules.weakdep` (kmod 33 and later): targets as written.
    pub weak: BTreeMap<ModuleName, Vec<String>>,
    /// `modules.alias`: pattern and module, in the file's order.
    pub aliases: AliasList,
    /// `modules.builtin`: names of built-in modules.
    pub builtin: BTreeSet<ModuleName>,
    /// Their paths, sorted: `kernel/fs/fuse/fuse.ko`.
    pub builtin_paths: Vec<String>,
    /// `alias=` of `modules.builtin.modinfo`: pattern and built-in module.
    pub builtin_aliases: AliasList,
    /// `firmware=` of `modules.builtin.modinfo`.
    pub builtin_firmware: BTreeMap<ModuleName, Vec<FirmwarePath>>,
    /// `modules.devname`: module and device node name.
    pub devnames: Vec<(ModuleName, String)>,
    /// `modules.order`: relative paths without the compression suffix (`kernel/.../x.ko`), in load order.
    pub order: Vec<String>,
    /// Module files, and links to such, that `modules.dep` does not list since another file of the same name wins
    /// (`updates/` before `kernel/`) or since `depmod.d` excludes them: never loaded.
    pub shadowed: Vec<TreePath>,
    /// Files of the module directory itself (indexes, `vmlinuz`, links `build` and `source` excluded) by name.
    pub index_files: BTreeSet<String>,
}

/// A file or link below a firmware directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FirmwareKind {
    /// A regular file: bytes on disk.
    File {
        /// Bytes on disk.
        bytes: u64,
    },
    /// A link to a file. All of the chain must be kept for the name to work.
    Link {
        /// The links behind this one (those in the middle of a path included) and last the final file, all resolved; without
        /// this entry itself.
        chain: Vec<TreePath>,
    },
    /// A link to a directory.
    DirectoryLink {
        /// The directory, resolved.
        target: TreePath,
        /// Further links on the way to it, resolved: they must be kept too.
        links: Vec<TreePath>,
    },
    /// A link to nothing, or a loop.
    Dangling,
}

/// What the firmware directories hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Firmware {
    /// The search directories that exist, resolved, in the kernel's order (`updates/RELEASE`, `updates`, `RELEASE`, plain).
    pub directories: Vec<TreePath>,
    /// Links that must be kept for a search directory to be found at all (`updates` -> elsewhere); mostly empty.
    pub directory_links: BTreeSet<TreePath>,
    /// Every file and link below them by its path in the root. A file *outside* of them that a directory link leads to
    /// stands under its name through that link, as a [`FirmwareKind::Link`]: there is nothing to drop at that path.
    pub entries: BTreeMap<TreePath, FirmwareKind>,
}

/// Everything that selection asks of a root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inventory {
    /// The kernel of the image.
    pub kernel: Kernel,
    /// The other kernels of the root, which do not go into the image.
    pub other_kernels: Vec<Kernel>,
    /// The chosen kernel's modules.
    pub modules: Modules,
    /// The root's firmware.
    pub firmware: Firmware,
}
