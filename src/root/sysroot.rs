//! [`Sysroot`]: the escape-proof view of a root file system. The one place that opens files below a root.
//!
//! The root is hostile input: its symbolic links may be absolute, may climb with `..`, may loop. Every path is resolved by
//! the kernel *inside* the root (`openat2` with `RESOLVE_IN_ROOT`, Linux 5.6), so that `/etc/passwd` in a link is the root's
//! own. This view only reads; what changes a root is [`RootWriter`](super::writer::RootWriter).

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Stat};

use crate::names::{NameError, TreePath};

mod directory;
pub use directory::Directory;

/// Links followed before a path counts as a loop (the kernel's own limit).
const MAX_LINKS: usize = 40;

/// Reading a root failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SysrootError {
    /// The root directory itself cannot be opened.
    #[error("cannot open the root {path}: {source}; name a directory that holds an unpacked root file system")]
    Root {
        /// As given.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A path in the root cannot be used.
    #[error("cannot {action} {path} in the root: {source}")]
    Path {
        /// "open", "read", ...
        action: &'static str,
        /// In the root.
        path: TreePath,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file is larger than what is sensible for its kind.
    #[error(
        "{path} in the root has {bytes} bytes, more than the {limit} that such a file may have; the root is damaged or hostile"
    )]
    TooLarge {
        /// In the root.
        path: TreePath,
        /// Found.
        bytes: u64,
        /// Allowed.
        limit: u64,
    },
    /// A text file is not UTF-8.
    #[error("{path} in the root is not UTF-8 text (byte {offset})")]
    NotText {
        /// In the root.
        path: TreePath,
        /// First bad byte.
        offset: usize,
    },
    /// A name in the root cannot be represented.
    #[error(transparent)]
    Name(#[from] NameError),
}

impl SysrootError {
    /// Whether the path just does not exist.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Path { source, .. } if matches!(source.raw_os_error(), Some(2 | 20)))
    }
}

/// What a path is, without following a last link.
pub type Metadata = Stat;

/// A directory entry: name and type (`None` where the file system does not tell).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct DirEntry {
    /// The name, one component.
    pub name: Vec<u8>,
    /// Whether it is a directory, a link, a regular file.
    pub kind: EntryType,
}

/// The types that callers tell apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum EntryType {
    /// A directory.
    Directory,
    /// A regular file.
    File,
    /// A symbolic link.
    Symlink,
    /// Anything else.
    Other,
}

impl EntryType {
    /// The type that `metadata` tells.
    #[must_use]
    pub fn of(metadata: &Metadata) -> Self {
        Self::from_mode(metadata.st_mode)
    }

    fn from_mode(mode: u32) -> Self {
        match FileType::from_raw_mode(mode) {
            FileType::Directory => Self::Directory,
            FileType::RegularFile => Self::File,
            FileType::Symlink => Self::Symlink,
            _ => Self::Other,
        }
    }
}

/// A root file system, open for reading.
#[derive(Debug)]
pub struct Sysroot {
    directory: OwnedFd,
    path: PathBuf,
}

impl Sysroot {
    /// Opens the directory `path` as a root.
    ///
    /// # Errors
    /// It does not exist, is no directory, or cannot be read.
    pub fn open(path: &Path) -> Result<Self, SysrootError> {
        let open = || rustix::fs::open(path, OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
        match open() {
            Ok(directory) => Ok(Self { directory, path: path.to_owned() }),
            Err(errno) => Err(SysrootError::Root { path: path.to_owned(), source: errno.into() }),
        }
    }

    /// The root's own path on this machine, for messages.
    #[must_use]
    pub fn host_path(&self) -> &Path {
        &self.path
    }

    /// The root directory, for file descriptors relative to it.
    #[must_use]
    pub fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.directory.as_fd()
    }

    fn open_at(&self, path: &TreePath, flags: OFlags, action: &'static str) -> Result<OwnedFd, SysrootError> {
        self.open_with(path, flags, ResolveFlags::empty(), action)
    }

    pub(super) fn open_with(
        &self,
        path: &TreePath,
        flags: OFlags,
        resolve: ResolveFlags,
        action: &'static str,
    ) -> Result<OwnedFd, SysrootError> {
        // EAGAIN: a rename somewhere in the tree raced with `..`; the kernel asks to try again.
        for _ in 0..16 {
            match rustix::fs::openat2(
                &self.directory,
                path.as_path(),
                flags | OFlags::CLOEXEC,
                Mode::empty(),
                ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | resolve,
            ) {
                Ok(fd) => return Ok(fd),
                Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(SysrootError::Path { action, path: path.clone(), source: errno.into() }),
            }
        }
        Err(SysrootError::Path { action, path: path.clone(), source: rustix::io::Errno::AGAIN.into() })
    }

    /// Opens the directory `path` for a walk: no link is followed, in no component.
    ///
    /// # Errors
    /// It does not exist, is no directory, lies behind a link, or cannot be read.
    pub fn directory(&self, path: &TreePath) -> Result<Directory, SysrootError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
        Ok(Directory::new(self.open_with(path, flags, ResolveFlags::NO_SYMLINKS, "list")?, path.clone()))
    }

    /// Opens a regular file for reading; links are followed inside the root. Never blocks on a named pipe.
    ///
    /// # Errors
    /// It does not exist, is no regular file, or cannot be read.
    pub fn file(&self, path: &TreePath) -> Result<File, SysrootError> {
        let fd = self.open_at(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY, "open")?;
        let stat = rustix::fs::fstat(&fd).map_err(|errno| SysrootError::Path {
            action: "read",
            path: path.clone(),
            source: errno.into(),
        })?;
        if EntryType::from_mode(stat.st_mode) != EntryType::File {
            let source = std::io::Error::other("not a regular file");
            return Err(SysrootError::Path { action: "read", path: path.clone(), source });
        }
        Ok(File::from(fd))
    }

    /// Reads a whole file of at most `limit` bytes.
    ///
    /// # Errors
    /// As [`Sysroot::file`]; a file over the limit.
    pub fn read(&self, path: &TreePath, limit: u64) -> Result<Vec<u8>, SysrootError> {
        let file = self.file(path)?;
        let failed = |source| SysrootError::Path { action: "read", path: path.clone(), source };
        let length = file.metadata().map_err(failed)?.len();
        if length > limit {
            return Err(SysrootError::TooLarge { path: path.clone(), bytes: length, limit });
        }
        let mut bytes = Vec::with_capacity(usize::try_from(length).unwrap_or(0));
        file.take(limit.saturating_add(1)).read_to_end(&mut bytes).map_err(failed)?;
        match bytes.len() as u64 > limit {
            true => Err(SysrootError::TooLarge { path: path.clone(), bytes: bytes.len() as u64, limit }),
            false => Ok(bytes),
        }
    }

    /// Reads a whole UTF-8 file of at most `limit` bytes.
    ///
    /// # Errors
    /// As [`Sysroot::read`]; text that is not UTF-8.
    pub fn read_text(&self, path: &TreePath, limit: u64) -> Result<String, SysrootError> {
        let bytes = self.read(path, limit)?;
        String::from_utf8(bytes)
            .map_err(|error| SysrootError::NotText { path: path.clone(), offset: error.utf8_error().valid_up_to() })
    }

    /// What `path` is; a last link is not followed.
    ///
    /// # Errors
    /// It does not exist or cannot be reached.
    pub fn metadata(&self, path: &TreePath) -> Result<Metadata, SysrootError> {
        let fd = self.open_at(path, OFlags::PATH | OFlags::NOFOLLOW, "find")?;
        rustix::fs::fstat(&fd).map_err(|errno| SysrootError::Path {
            action: "find",
            path: path.clone(),
            source: errno.into(),
        })
    }

    /// The type of `path` (a last link not followed), or `None` where there is nothing.
    ///
    /// # Errors
    /// It cannot be reached for another reason than that it does not exist.
    pub fn kind(&self, path: &TreePath) -> Result<Option<EntryType>, SysrootError> {
        match self.metadata(path) {
            Ok(stat) => Ok(Some(EntryType::from_mode(stat.st_mode))),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The names in a directory, sorted; links to the directory are followed inside the root.
    ///
    /// # Errors
    /// It does not exist, is no directory, or cannot be read.
    pub fn read_dir(&self, path: &TreePath) -> Result<Vec<DirEntry>, SysrootError> {
        let failed =
            |errno: rustix::io::Errno| SysrootError::Path { action: "list", path: path.clone(), source: errno.into() };
        let fd = self.open_at(path, OFlags::RDONLY | OFlags::DIRECTORY, "list")?;
        let mut entries = Vec::new();
        for entry in Dir::read_from(&fd).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            let kind = match entry.file_type() {
                FileType::Directory => EntryType::Directory,
                FileType::RegularFile => EntryType::File,
                FileType::Symlink => EntryType::Symlink,
                FileType::Unknown => EntryType::from_mode(
                    rustix::fs::statat(&fd, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW).map_err(failed)?.st_mode,
                ),
                _ => EntryType::Other,
            };
            entries.push(DirEntry { name: name.to_vec(), kind });
        }
        entries.sort();
        Ok(entries)
    }

    /// The target of the link at `path`, byte for byte.
    ///
    /// # Errors
    /// It does not exist or is no link.
    pub fn read_link(&self, path: &TreePath) -> Result<Vec<u8>, SysrootError> {
        let fd = self.open_at(path, OFlags::PATH | OFlags::NOFOLLOW, "find")?;
        match rustix::fs::readlinkat(&fd, "", Vec::new()) {
            Ok(target) => Ok(target.into_bytes()),
            Err(errno) => Err(SysrootError::Path { action: "read the link", path: path.clone(), source: errno.into() }),
        }
    }

    /// Resolves every link of `path` inside the root, the last component included.
    ///
    /// # Errors
    /// A component does not exist, or more than 40 links were followed.
    pub fn canonical(&self, path: &TreePath) -> Result<TreePath, SysrootError> {
        Ok(self.resolve(path)?.0)
    }

    /// As [`Sysroot::canonical`], with the links that were followed, in order, each by its own resolved path.
    ///
    /// # Errors
    /// As [`Sysroot::canonical`].
    pub fn resolve(&self, path: &TreePath) -> Result<(TreePath, Vec<TreePath>), SysrootError> {
        let mut pending: Vec<Vec<u8>> = path.as_bytes().split(|&b| b == b'/').rev().map(<[u8]>::to_vec).collect();
        let mut done = TreePath::root();
        let mut links = Vec::new();
        while let Some(component) = pending.pop() {
            match component.as_slice() {
                b"" | b"." => continue,
                b".." => {
                    done = done.parent().unwrap_or_default();
                    continue;
                }
                _ => {}
            }
            let next = done.join(&component)?;
            if EntryType::from_mode(self.metadata(&next)?.st_mode) != EntryType::Symlink {
                done = next;
                continue;
            }
            let target = self.read_link(&next)?;
            links.push(next);
            if links.len() > MAX_LINKS {
                let source = rustix::io::Errno::LOOP.into();
                return Err(SysrootError::Path { action: "follow the links of", path: path.clone(), source });
            }
            if target.starts_with(b"/") {
                done = TreePath::root();
            }
            pending.extend(target.split(|&b| b == b'/').rev().map(<[u8]>::to_vec));
        }
        Ok((done, links))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    type Outcome = Result<(), Box<dyn std::error::Error>>;

    fn sample() -> Result<(tempfile::TempDir, Sysroot), Box<dyn std::error::Error>> {
        let dir = tempfile::tempdir()?;
        std::fs::create_dir_all(dir.path().join("usr/lib/modules/6.1"))?;
        std::fs::write(dir.path().join("usr/lib/modules/6.1/modules.dep"), "x\n")?;
        symlink("usr/lib", dir.path().join("lib"))?;
        symlink("/lib/modules/6.1/../6.1", dir.path().join("current"))?;
        symlink("../../../../../../etc/hostname", dir.path().join("escape"))?;
        symlink("loop", dir.path().join("loop"))?;
        let root = Sysroot::open(dir.path())?;
        Ok((dir, root))
    }

    #[test]
    fn links_resolve_inside_the_root() -> Outcome {
        let (_dir, root) = sample()?;
        assert_eq!(root.read_text(&TreePath::new("current/modules.dep")?, 10)?, "x\n");
        assert_eq!(
            root.canonical(&TreePath::new("current/modules.dep")?)?,
            TreePath::new("usr/lib/modules/6.1/modules.dep")?
        );
        let (_, links) = root.resolve(&TreePath::new("current")?)?;
        assert_eq!(links, [TreePath::new("current")?, TreePath::new("lib")?]);
        Ok(())
    }

    #[test]
    fn nothing_outside_the_root_is_read() -> Outcome {
        let (_dir, root) = sample()?;
        assert!(root.read(&TreePath::new("escape")?, 100).is_err_and(|error| error.is_not_found()));
        assert!(root.canonical(&TreePath::new("loop")?).is_err());
        assert!(root.file(&TreePath::new("loop")?).is_err());
        Ok(())
    }

    #[test]
    fn limits_hold_and_directories_are_no_files() -> Outcome {
        let (_dir, root) = sample()?;
        assert!(matches!(
            root.read(&TreePath::new("current/modules.dep")?, 1),
            Err(SysrootError::TooLarge { bytes: 2, limit: 1, .. })
        ));
        assert!(root.file(&TreePath::new("usr")?).is_err());
        assert_eq!(root.kind(&TreePath::new("none")?)?, None);
        assert_eq!(root.kind(&TreePath::new("lib")?)?, Some(EntryType::Symlink));
        Ok(())
    }
}
