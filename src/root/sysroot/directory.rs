//! [`Directory`]: one open directory of a root, for a walk that looks at every entry.
//!
//! Names are looked up relative to the open directory, one component at a time and without following links, so that a walk
//! cannot be led out of the root and does not pay for resolving a whole path per entry.

use std::fs::File;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, RawDir, SeekFrom};
use rustix::io::Errno;

use super::{DirEntry, EntryType, Metadata, SysrootError};
use crate::names::TreePath;

/// Bytes of directory entries read at once: what most directories have.
const ENTRIES_BUFFER: usize = 16 << 10;
/// Longest list of attribute names that the kernel hands out (`XATTR_LIST_MAX`).
const MAX_ATTRIBUTE_LIST: usize = 64 << 10;

/// An open directory of a root.
#[derive(Debug)]
pub struct Directory {
    directory: OwnedFd,
    path: TreePath,
    /// The same directory as a path of this process: there is no `listxattrat` before Linux 6.13.
    by_proc: Vec<u8>,
}

impl Directory {
    pub(super) fn new(directory: OwnedFd, path: TreePath) -> Self {
        let by_proc = format!("/proc/self/fd/{}/", directory.as_raw_fd()).into_bytes();
        Self { directory, path, by_proc }
    }

    /// Where in the root.
    #[must_use]
    pub fn path(&self) -> &TreePath {
        &self.path
    }

    /// What the directory itself is.
    ///
    /// # Errors
    /// The system cannot tell.
    pub fn metadata(&self) -> Result<Metadata, SysrootError> {
        rustix::fs::fstat(&self.directory).map_err(|errno| failed("find", self.path.clone(), errno))
    }

    /// The names in the directory, sorted by bytes, without `.` and `..`.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn names(&self) -> Result<Vec<Vec<u8>>, SysrootError> {
        let list_failed = |errno| failed("list", self.path.clone(), errno);
        let mut names = Vec::new();
        for entry in Dir::read_from(&self.directory).map_err(list_failed)? {
            let entry = entry.map_err(list_failed)?;
            match entry.file_name().to_bytes() {
                b"." | b".." => {}
                name => names.push(name.to_vec()),
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    /// The entries with their types, in the file system's order, without `.` and `..`: cheaper than [`Directory::names`] and a
    /// look at each.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn entries(&self) -> Result<Vec<DirEntry>, SysrootError> {
        let list_failed = |errno| failed("list", self.path.clone(), errno);
        rustix::fs::seek(&self.directory, SeekFrom::Start(0)).map_err(list_failed)?;
        let mut buffer = [MaybeUninit::uninit(); ENTRIES_BUFFER];
        let mut raw = RawDir::new(&self.directory, &mut buffer);
        let mut entries = Vec::new();
        while let Some(entry) = raw.next() {
            let entry = entry.map_err(list_failed)?;
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            let kind = match entry.file_type() {
                FileType::Unknown => EntryType::of(&self.metadata_of(name)?),
                FileType::Directory => EntryType::Directory,
                FileType::RegularFile => EntryType::File,
                FileType::Symlink => EntryType::Symlink,
                _ => EntryType::Other,
            };
            entries.push(DirEntry { name: name.to_vec(), kind });
        }
        Ok(entries)
    }

    /// Opens the file `name` for reading; a link is not followed. Never blocks on a named pipe.
    ///
    /// # Errors
    /// It does not exist any more or cannot be opened.
    pub fn file(&self, name: &[u8]) -> Result<File, SysrootError> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        match rustix::fs::openat(&self.directory, name, flags, Mode::empty()) {
            Ok(file) => Ok(file.into()),
            Err(errno) => Err(self.failed_at("open", name, errno)),
        }
    }

    /// What the entry `name` is; a link is not followed.
    ///
    /// # Errors
    /// It does not exist any more or cannot be reached.
    pub fn metadata_of(&self, name: &[u8]) -> Result<Metadata, SysrootError> {
        rustix::fs::statat(&self.directory, name, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|errno| self.failed_at("find", name, errno))
    }

    /// The target of the link `name`, byte for byte.
    ///
    /// # Errors
    /// It is no link any more or cannot be read.
    pub fn link_target(&self, name: &[u8]) -> Result<Vec<u8>, SysrootError> {
        match rustix::fs::readlinkat(&self.directory, name, Vec::new()) {
            Ok(target) => Ok(target.into_bytes()),
            Err(errno) => Err(self.failed_at("read the link", name, errno)),
        }
    }

    /// The names of the extended attributes of the entry `name` (of the directory itself: the empty name); a link is not
    /// followed. None where the file system has no such attributes.
    ///
    /// # Errors
    /// They cannot be read; `/proc`, through which they are read, is not mounted.
    pub fn attributes(&self, name: &[u8]) -> Result<Vec<Vec<u8>>, SysrootError> {
        let mut path = Vec::with_capacity(self.by_proc.len().saturating_add(name.len()).saturating_add(2));
        path.extend_from_slice(&self.by_proc);
        path.extend_from_slice(if name.is_empty() { b"." } else { name });
        let mut few = [0_u8; 512];
        let mut many = Vec::new();
        let list = match rustix::fs::llistxattr(path.as_slice(), &mut few) {
            Ok(length) => few.get(..length),
            Err(Errno::OPNOTSUPP) => None,
            Err(Errno::RANGE) => {
                many.resize(MAX_ATTRIBUTE_LIST, 0);
                match rustix::fs::llistxattr(path.as_slice(), &mut many) {
                    Ok(length) => many.get(..length),
                    Err(errno) => return Err(self.failed_at("list the attributes of", name, errno)),
                }
            }
            Err(errno) => return Err(self.failed_at("list the attributes (through /proc) of", name, errno)),
        };
        let names = list.unwrap_or_default().split(|&b| b == 0).filter(|attribute| !attribute.is_empty());
        Ok(names.map(<[u8]>::to_vec).collect())
    }

    fn failed_at(&self, action: &'static str, name: &[u8], errno: Errno) -> SysrootError {
        match self.path.join(name) {
            Ok(path) => failed(action, path, errno),
            Err(error) => error.into(),
        }
    }
}

fn failed(action: &'static str, path: TreePath, errno: Errno) -> SysrootError {
    SysrootError::Path { action, path, source: errno.into() }
}
