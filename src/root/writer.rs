//! [`RootWriter`]: the one place that changes a root.
//!
//! As hostile as the root may be, and whatever changes in it meanwhile: every change names one entry of an open directory,
//! the directory was opened without following a link (`openat2` with `RESOLVE_IN_ROOT` and `RESOLVE_NO_SYMLINKS`), and the
//! kernel does not follow a last link when it removes or renames. Nothing is written in place: a file is made whole under
//! another name and renamed, so that other names of the same file (hard links) keep their content.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use rustix::fs::{
    Access, AtFlags, CWD, FlockOperation, Mode, OFlags, ResolveFlags, StatxAttributes, StatxFlags, Timespec,
    Timestamps, UTIME_OMIT, XattrFlags,
};
use rustix::io::Errno;

use super::sysroot::{Metadata, Sysroot, SysrootError};
use crate::names::TreePath;

/// Longest list of attribute names and longest attribute that the kernel hands out (`XATTR_LIST_MAX`, `XATTR_SIZE_MAX`).
const MAX_ATTRIBUTE: usize = 64 << 10;

/// A modification time: seconds since 1970 and nanoseconds.
pub type Mtime = (i64, u32);

/// Whether changes may reach file systems that are mounted inside the root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mounts {
    /// They are refused (`EXDEV`): a container's `/lib/modules` may be the running machine's.
    Refuse,
    /// They are part of the root.
    Enter,
}

/// A root file system, open for changes.
#[derive(Debug, Clone, Copy)]
pub struct RootWriter<'a> {
    root: &'a Sysroot,
    resolve: ResolveFlags,
}

impl<'a> RootWriter<'a> {
    /// A writer for `root`.
    #[must_use]
    pub fn new(root: &'a Sysroot, mounts: Mounts) -> Self {
        let resolve = match mounts {
            Mounts::Refuse => ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV,
            Mounts::Enter => ResolveFlags::NO_SYMLINKS,
        };
        Self { root, resolve }
    }

    /// The same root, for reading.
    #[must_use]
    pub fn root(&self) -> &'a Sysroot {
        self.root
    }

    /// Opens the directory `path` for changes; no link is followed, in no component.
    ///
    /// # Errors
    /// It does not exist, is no directory, lies behind a link or (with [`Mounts::Refuse`]) on another file system.
    pub fn directory(&self, path: &TreePath) -> Result<WritableDirectory, SysrootError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
        let directory = self.root.open_with(path, flags, self.resolve, "change")?;
        Ok(WritableDirectory { directory, path: path.clone() })
    }
}

/// An open directory of a root whose entries can be changed. Names are single components.
#[derive(Debug)]
pub struct WritableDirectory {
    directory: OwnedFd,
    path: TreePath,
}

impl WritableDirectory {
    /// Where in the root.
    #[must_use]
    pub fn path(&self) -> &TreePath {
        &self.path
    }

    /// Whether entries can be added and removed.
    ///
    /// # Errors
    /// They cannot: missing rights, a file system that is mounted read-only.
    pub fn check_writable(&self) -> Result<(), SysrootError> {
        rustix::fs::accessat(&self.directory, ".", Access::WRITE_OK | Access::EXEC_OK, AtFlags::EACCESS)
            .map_err(|errno| self.failed("write to", errno))
    }

    /// Whether the entry `name` can be removed as far as the file itself is concerned; one that is not there can.
    ///
    /// # Errors
    /// It is marked immutable or append-only, or something is mounted on it.
    pub fn check_removable(&self, name: &[u8]) -> Result<(), SysrootError> {
        let name = self.component(name)?;
        match rustix::fs::statx(&self.directory, name, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::TYPE) {
            Ok(statx) => {
                let has = |attribute| statx.stx_attributes.contains(attribute);
                if has(StatxAttributes::IMMUTABLE) || has(StatxAttributes::APPEND) {
                    let source = std::io::Error::other("it is marked as immutable or append-only (lsattr, chattr)");
                    return Err(self.failed_at("remove", name, source));
                }
                if has(StatxAttributes::MOUNT_ROOT) {
                    return Err(self.failed_at("remove", name, std::io::Error::other("something is mounted on it")));
                }
                Ok(())
            }
            Err(Errno::NOENT | Errno::NOSYS) => Ok(()),
            Err(errno) => Err(self.failed_at("find", name, errno)),
        }
    }

    /// What the entry `name` is, a link not followed; `None` where there is nothing.
    ///
    /// # Errors
    /// It cannot be reached.
    pub fn metadata_of(&self, name: &[u8]) -> Result<Option<Metadata>, SysrootError> {
        let name = self.component(name)?;
        match rustix::fs::statat(&self.directory, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(metadata) => Ok(Some(metadata)),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(self.failed_at("find", name, errno)),
        }
    }

    /// Takes the lock of this directory, until the value is dropped or the process ends, however it ends. `false` where another
    /// process has it. A file system without locks counts as locked.
    ///
    /// # Errors
    /// The system fails otherwise.
    pub fn lock(&self) -> Result<bool, SysrootError> {
        match rustix::fs::flock(&self.directory, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) | Err(Errno::NOSYS | Errno::OPNOTSUPP | Errno::NOLCK | Errno::INVAL) => Ok(true),
            Err(Errno::WOULDBLOCK) => Ok(false),
            Err(errno) => Err(self.failed("lock", errno)),
        }
    }

    /// Makes the file `name` (mode 0600) with all its content at once, on the disk: whoever looks sees no file or all of it.
    /// The directory's time does not change before the file is there, where the file system has unnamed files (`O_TMPFILE`);
    /// elsewhere the file is first called `temporary`.
    ///
    /// # Errors
    /// There is such a file, or it cannot be made; nothing is left then.
    pub fn create_whole(&self, name: &[u8], temporary: &[u8], bytes: &[u8]) -> Result<(), SysrootError> {
        let name = self.component(name)?;
        let io = |source: std::io::Error| self.failed_at("create", name, source);
        let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
        match rustix::fs::openat(&self.directory, ".", flags, Mode::RUSR | Mode::WUSR) {
            Ok(fd) => {
                let mut file = File::from(fd);
                file.write_all(bytes).and_then(|()| file.sync_all()).map_err(io)?;
                let unnamed = format!("/proc/self/fd/{}", file.as_raw_fd());
                match rustix::fs::linkat(CWD, unnamed, &self.directory, name, AtFlags::SYMLINK_FOLLOW) {
                    Ok(()) => return self.sync(),
                    // Without /proc the other way is left.
                    Err(Errno::NOENT) => {}
                    Err(errno) => return Err(io(errno.into())),
                }
            }
            // What kernels say of file systems that cannot: `open(2)`.
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::NOENT | Errno::INVAL) => {}
            Err(errno) => return Err(io(errno.into())),
        }
        if self.metadata_of(name)?.is_some() {
            return Err(io(Errno::EXIST.into()));
        }
        let written = self.create(temporary).and_then(|mut file| {
            file.write_all(bytes).and_then(|()| file.sync_all()).map_err(io)?;
            self.rename(temporary, name)
        });
        if written.is_err() {
            self.remove_file(temporary)?;
        }
        written?;
        self.sync()
    }

    /// Writes `bytes` to the new file `temporary`, with owner, mode, extended attributes (as far as they can be set) and
    /// modification time of the regular file `like`. What an earlier, interrupted call left under that name goes.
    ///
    /// # Errors
    /// `like` is no regular file; the new file cannot be written, and is not there then.
    pub fn stage(&self, temporary: &[u8], like: &[u8], bytes: &[u8]) -> Result<(), SysrootError> {
        let original = self.open_file(like)?;
        let staged = self.create(temporary).and_then(|file| {
            fill(&file, &original, bytes).map_err(|source| self.failed_at("write the new form of", like, source))
        });
        if staged.is_err() {
            self.remove_file(temporary)?;
        }
        staged
    }

    /// The content of the regular file `name`, of at most `limit` bytes; a link is not followed.
    ///
    /// # Errors
    /// It is no regular file, is larger, or cannot be read.
    pub fn read(&self, name: &[u8], limit: u64) -> Result<Vec<u8>, SysrootError> {
        let file = self.open_file(name)?;
        let mut bytes = Vec::new();
        let io = |source| self.failed_at("read", name, source);
        file.take(limit.saturating_add(1)).read_to_end(&mut bytes).map_err(io)?;
        match bytes.len() as u64 > limit {
            true => Err(SysrootError::TooLarge { path: self.path.join(name)?, bytes: bytes.len() as u64, limit }),
            false => Ok(bytes),
        }
    }

    /// Renames `from` to `to`, in this directory; a file `to` is replaced at once.
    ///
    /// # Errors
    /// The system refuses it.
    pub fn rename(&self, from: &[u8], to: &[u8]) -> Result<(), SysrootError> {
        let (from, to) = (self.component(from)?, self.component(to)?);
        rustix::fs::renameat(&self.directory, from, &self.directory, to)
            .map_err(|errno| self.failed_at("replace", to, errno))
    }

    /// Removes the file, link or other entry `name` that is no directory; `false` where it is not there.
    ///
    /// # Errors
    /// It is a directory, or the system refuses it.
    pub fn remove_file(&self, name: &[u8]) -> Result<bool, SysrootError> {
        let name = self.component(name)?;
        match rustix::fs::unlinkat(&self.directory, name, AtFlags::empty()) {
            Ok(()) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(errno) => Err(self.failed_at("remove", name, errno)),
        }
    }

    /// Removes the directory `name`; `false` where it is not there or not empty.
    ///
    /// # Errors
    /// It is no directory, or the system refuses it.
    pub fn remove_directory(&self, name: &[u8]) -> Result<bool, SysrootError> {
        let name = self.component(name)?;
        match rustix::fs::unlinkat(&self.directory, name, AtFlags::REMOVEDIR) {
            Ok(()) => Ok(true),
            Err(Errno::NOENT | Errno::NOTEMPTY | Errno::EXIST) => Ok(false),
            Err(errno) => Err(self.failed_at("remove", name, errno)),
        }
    }

    /// Sets the modification time of the directory itself.
    ///
    /// # Errors
    /// The system refuses it.
    pub fn set_mtime(&self, (seconds, nanoseconds): Mtime) -> Result<(), SysrootError> {
        let times = Timestamps {
            last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
            last_modification: Timespec { tv_sec: seconds, tv_nsec: nanoseconds.into() },
        };
        rustix::fs::futimens(&self.directory, &times).map_err(|errno| self.failed("set the time of", errno))
    }

    /// The extended attribute `name` of the directory itself; `None` where it has none.
    ///
    /// # Errors
    /// It is longer than 1 KiB, or cannot be read.
    pub fn attribute(&self, name: &str) -> Result<Option<Vec<u8>>, SysrootError> {
        let mut value = vec![0; 1 << 10];
        match rustix::fs::fgetxattr(&self.directory, name, value.as_mut_slice()) {
            Ok(length) => Ok(value.get(..length).map(<[u8]>::to_vec)),
            Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(None),
            Err(errno) => Err(self.failed("read an attribute of", errno)),
        }
    }

    /// Sets (or with `None` removes) the extended attribute `name` of the directory itself, which does not change the
    /// directory's time. `false` where the file system, or the rights of this process, do not allow it.
    ///
    /// # Errors
    /// The system fails otherwise.
    pub fn set_attribute(&self, name: &str, value: Option<&[u8]>) -> Result<bool, SysrootError> {
        let result = match value {
            Some(value) => rustix::fs::fsetxattr(&self.directory, name, value, XattrFlags::empty()),
            None => rustix::fs::fremovexattr(&self.directory, name),
        };
        match result {
            Ok(()) => Ok(true),
            Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::PERM | Errno::ACCESS) => Ok(false),
            Err(errno) => Err(self.failed("set an attribute of", errno)),
        }
    }

    /// Waits until what was changed in the directory is on the disk.
    ///
    /// # Errors
    /// The disk fails.
    pub fn sync(&self) -> Result<(), SysrootError> {
        match rustix::fs::fsync(&self.directory) {
            // File systems for which there is nothing to wait for.
            Ok(()) | Err(Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
            Err(errno) => Err(self.failed("write", errno)),
        }
    }

    /// A new, empty file; one that is there already is removed first.
    fn create(&self, name: &[u8]) -> Result<File, SysrootError> {
        self.remove_file(name)?;
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match rustix::fs::openat(&self.directory, self.component(name)?, flags, Mode::RUSR | Mode::WUSR) {
            Ok(fd) => Ok(File::from(fd)),
            Err(errno) => Err(self.failed_at("create", name, errno)),
        }
    }

    fn open_file(&self, name: &[u8]) -> Result<File, SysrootError> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&self.directory, self.component(name)?, flags, Mode::empty())
            .map_err(|errno| self.failed_at("open", name, errno))?;
        let file = File::from(fd);
        match file.metadata() {
            Ok(metadata) if metadata.is_file() => Ok(file),
            Ok(_) => Err(self.failed_at("read", name, std::io::Error::other("not a regular file"))),
            Err(source) => Err(self.failed_at("read", name, source)),
        }
    }

    /// A name with a slash would be resolved by the kernel, links and all.
    fn component<'n>(&self, name: &'n [u8]) -> Result<&'n [u8], SysrootError> {
        match name {
            b"" | b"." | b".." => Err(self.failed("change", Errno::INVAL)),
            _ if name.contains(&b'/') => Err(self.failed("change", Errno::INVAL)),
            _ => Ok(name),
        }
    }

    fn failed(&self, action: &'static str, source: impl Into<std::io::Error>) -> SysrootError {
        SysrootError::Path { action, path: self.path.clone(), source: source.into() }
    }

    fn failed_at(&self, action: &'static str, name: &[u8], source: impl Into<std::io::Error>) -> SysrootError {
        match self.path.join(name) {
            Ok(path) => SysrootError::Path { action, path, source: source.into() },
            Err(error) => error.into(),
        }
    }
}

/// Fills a new file so that it can take the place of `original`.
fn fill(mut file: &File, original: &File, bytes: &[u8]) -> std::io::Result<()> {
    file.write_all(bytes)?;
    let (metadata, own) = (original.metadata()?, file.metadata()?);
    if (metadata.uid(), metadata.gid()) != (own.uid(), own.gid()) {
        std::os::unix::fs::fchown(file, Some(metadata.uid()), Some(metadata.gid()))?;
    }
    // After the owner: a change of it takes bits away.
    file.set_permissions(std::fs::Permissions::from_mode(metadata.mode() & 0o7777))?;
    copy_attributes(original, file);
    file.set_modified(metadata.modified()?)?;
    file.sync_all()
}

/// Labels of a security module above all. What cannot be read or set here (another name space, a file system without) is set by
/// whoever labels the image.
fn copy_attributes(from: &File, to: &File) {
    let mut list = vec![0; MAX_ATTRIBUTE];
    let length = rustix::fs::flistxattr(from, list.as_mut_slice()).unwrap_or(0);
    let mut value = vec![0; MAX_ATTRIBUTE];
    for name in list.get(..length).unwrap_or_default().split(|&b| b == 0).filter(|name| !name.is_empty()) {
        if let Ok(length) = rustix::fs::fgetxattr(from, name, value.as_mut_slice()) {
            let value = value.get(..length).unwrap_or_default();
            let _may_fail = rustix::fs::fsetxattr(to, name, value, XattrFlags::empty());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    type Outcome = Result<(), Box<dyn std::error::Error>>;

    #[test]
    fn no_link_leads_a_change_elsewhere() -> Outcome {
        let (dir, outside) = (tempfile::tempdir()?, tempfile::tempdir()?);
        std::fs::write(outside.path().join("file"), "precious")?;
        std::fs::create_dir(dir.path().join("a"))?;
        symlink(outside.path(), dir.path().join("a/link"))?;
        symlink("a", dir.path().join("b"))?;
        let root = Sysroot::open(dir.path())?;
        let writer = RootWriter::new(&root, Mounts::Refuse);
        for path in ["a/link", "b"] {
            assert!(writer.directory(&TreePath::new(path)?).is_err(), "{path}");
        }
        let a = writer.directory(&TreePath::new("a")?)?;
        for name in [&b"../a/link"[..], b"link/file", b"..", b""] {
            assert!(a.remove_file(name).is_err());
        }
        assert!(a.stage(b"new", b"link", b"x").is_err());
        assert!(a.remove_file(b"link")? && !a.remove_file(b"link")?);
        assert_eq!(std::fs::read(outside.path().join("file"))?, b"precious");
        Ok(())
    }

    #[test]
    fn a_replaced_file_keeps_what_it_was_but_its_content() -> Outcome {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("file");
        std::fs::write(&path, "old")?;
        std::fs::hard_link(&path, dir.path().join("other"))?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640))?;
        let time = std::time::UNIX_EPOCH + std::time::Duration::new(1_000_000_000, 123);
        File::options().write(true).open(&path)?.set_modified(time)?;
        let root = Sysroot::open(dir.path())?;
        let top = RootWriter::new(&root, Mounts::Refuse).directory(&TreePath::root())?;
        top.stage(b"new", b"file", b"longer")?;
        top.rename(b"new", b"file")?;
        let metadata = std::fs::metadata(&path)?;
        assert_eq!((metadata.mode() & 0o7777, metadata.modified()?, metadata.nlink()), (0o640, time, 1));
        assert_eq!(
            (std::fs::read(&path)?, std::fs::read(dir.path().join("other"))?),
            (b"longer".into(), b"old".into())
        );
        Ok(())
    }

    #[test]
    fn a_whole_file_or_none() -> Outcome {
        let dir = tempfile::tempdir()?;
        let root = Sysroot::open(dir.path())?;
        let top = RootWriter::new(&root, Mounts::Refuse).directory(&TreePath::root())?;
        top.create_whole(b"name", b"name.new", b"content")?;
        assert!(top.create_whole(b"name", b"name.new", b"other").is_err());
        assert_eq!(top.read(b"name", 100)?, b"content");
        assert!(top.read(b"name", 3).is_err());
        assert_eq!(std::fs::read_dir(dir.path())?.count(), 1);
        Ok(())
    }
}
