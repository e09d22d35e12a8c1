//! Where slimming in place may change a root, and what there. One law for what is planned and for what a journal asks for.

use crate::names::{ModuleName, TreePath};
use crate::root::sysroot::{EntryType, Sysroot};

use super::SlimError;

/// Where modules are, as the inventory looks for them.
const MODULES: [&str; 2] = ["lib/modules", "usr/lib/modules"];
/// Where firmware is.
const FIRMWARE: &str = "lib/firmware";
/// Indexes that speak of the kernel's build: depmod reads them and does not write them.
const NOT_INDEXES: [&[u8]; 3] = [b"modules.order", b"modules.builtin", b"modules.builtin.modinfo"];

/// The directories of a root that hold modules and firmware, resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Places {
    modules: Vec<TreePath>,
    firmware: Vec<TreePath>,
}

impl Places {
    /// # Errors
    /// There is no module directory; one of the names leads to a directory that is called otherwise (`/lib/firmware -> /etc`).
    pub(super) fn find(root: &Sysroot) -> Result<Self, SlimError> {
        let resolved = |name: &str, last: &[u8]| -> Result<Option<TreePath>, SlimError> {
            let name = TreePath::new(name)?;
            let path = match root.canonical(&name) {
                Ok(path) => path,
                Err(error) if error.is_not_found() => return Ok(None),
                Err(error) => return Err(error.into()),
            };
            match root.kind(&path)? {
                Some(EntryType::Directory) if path.file_name() == last => Ok(Some(path)),
                _ => Err(SlimError::Elsewhere { name, path }),
            }
        };
        let mut places = Self { modules: Vec::new(), firmware: Vec::new() };
        for name in MODULES {
            if let Some(path) = resolved(name, b"modules")?
                && !places.modules.contains(&path)
            {
                places.modules.push(path);
            }
        }
        places.firmware.extend(resolved(FIRMWARE, b"firmware")?);
        Ok(places)
    }

    /// All of them, none below another.
    pub(super) fn all(&self) -> Vec<&TreePath> {
        let all: Vec<_> = self.modules.iter().chain(&self.firmware).collect();
        let below = |path: &TreePath| all.iter().any(|other| *other != path && path.starts_with(other));
        all.iter().filter(|path| !below(path)).copied().collect()
    }

    /// The names of the directories that can hold a journal.
    pub(super) fn journal_names() -> [&'static str; 2] {
        MODULES
    }

    /// Directories that can hold the journal; it is in the first.
    pub(super) fn journals(&self) -> &[TreePath] {
        &self.modules
    }

    /// Whether `path` lies in one of them.
    pub(super) fn hold(&self, path: &TreePath) -> bool {
        self.modules.iter().chain(&self.firmware).any(|place| path.strip_prefix(place).is_some())
    }

    /// The kernel's directory, `/usr/lib/modules/RELEASE`.
    pub(super) fn permit_kernel(&self, path: &TreePath) -> Result<(), &'static str> {
        match path.parent().is_some_and(|parent| self.modules.contains(&parent)) {
            true => Ok(()),
            false => Err("is no directory of a kernel in /lib/modules"),
        }
    }

    /// A file, link or other entry that goes.
    pub(super) fn permit_removal(&self, path: &TreePath, kernel: &TreePath) -> Result<(), &'static str> {
        if self.firmware.iter().any(|place| path.strip_prefix(place).is_some()) {
            return Ok(());
        }
        if !self.modules.iter().any(|place| path.strip_prefix(place).is_some_and(|below| below.contains(&b'/'))) {
            return Err("is neither below /lib/modules nor below /lib/firmware");
        }
        match !path.starts_with(kernel) || ModuleName::from_file(path.file_name()).is_some() {
            true => Ok(()),
            false => Err("is no module"),
        }
    }

    /// A directory that goes once it is empty.
    pub(super) fn permit_directory_removal(&self, path: &TreePath, kernel: &TreePath) -> Result<(), &'static str> {
        match self.hold(path) && !kernel.starts_with(path) {
            true => Ok(()),
            false => Err("is no directory below /lib/modules or /lib/firmware, or is the kernel's own"),
        }
    }

    /// A directory whose time is set back.
    pub(super) fn permit_time(&self, path: &TreePath) -> Result<(), &'static str> {
        match self.hold(path) || self.modules.contains(path) || self.firmware.contains(path) {
            true => Ok(()),
            false => Err("is no directory below /lib/modules or /lib/firmware"),
        }
    }

    /// An index that is replaced.
    pub(super) fn permit_index(path: &TreePath, kernel: &TreePath) -> Result<(), &'static str> {
        let name = path.file_name();
        let is_index = name.starts_with(b"modules.") && !NOT_INDEXES.contains(&name);
        match is_index && path.parent().as_ref() == Some(kernel) {
            true => Ok(()),
            false => Err("is no index of the kernel's modules"),
        }
    }
}
