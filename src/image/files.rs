//! [`Files`]: what is in an image, by path, without the content of large files.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Image, ImageError, Output};
use crate::names::TreePath;
use crate::root::sysroot::{EntryType, Sysroot, SysrootError};
use crate::root::tree::Seen;

/// What the top of an ext4 file system has for its own repair: nobody's files, and only root can look into it.
pub const LOST_AND_FOUND: &str = "lost+found";

/// What is to be said of it.
#[must_use]
pub fn not_packed(path: &Path) -> String {
    format!("{} is not packed: it belongs to the file system that is mounted there", path.display())
}

/// Where a file's bytes come from.
#[derive(Debug, Clone)]
pub enum Content {
    /// Bytes that were made.
    Bytes(Arc<[u8]>),
    /// A file on disk, as it was when it was found.
    File {
        /// The folder that was scanned.
        folder: Arc<Sysroot>,
        /// In that folder.
        path: TreePath,
        /// What the file looked like. A file that differs when it is read is an error.
        seen: Seen,
    },
    /// Another image, laid out.
    Image(Arc<dyn Image>),
}

impl Content {
    /// A file on disk, by its path: links are followed.
    ///
    /// # Errors
    /// It is not there or no regular file.
    pub fn file(path: &Path) -> Result<Self, ImageError> {
        let failed = |source| ImageError::Io { action: "read", path: path.to_owned(), source };
        let real = path.canonicalize().map_err(failed)?;
        let (Some(parent), Some(name)) = (real.parent(), real.file_name()) else {
            return Err(failed(std::io::Error::other("not a file")));
        };
        let folder = Arc::new(Sysroot::open(parent)?);
        let path = TreePath::new(std::os::unix::ffi::OsStrExt::as_bytes(name))?;
        let metadata = folder.metadata(&path)?;
        match EntryType::of(&metadata) {
            EntryType::File => Ok(Self::File { folder, path, seen: Seen::of(&metadata) }),
            _ => Err(failed(std::io::Error::other("not a regular file"))),
        }
    }

    /// Bytes.
    #[must_use]
    pub fn length(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::File { seen, .. } => seen.length,
            Self::Image(image) => image.length(),
        }
    }

    /// Writes exactly [`Content::length`] bytes.
    ///
    /// # Errors
    /// It cannot be read or is no longer as it was found; a full disk.
    pub fn write(&self, out: &mut Output<'_>) -> Result<(), ImageError> {
        match self {
            Self::Bytes(bytes) => out.write(bytes),
            Self::File { folder, path, seen } => {
                let file = folder.file(path).map_err(|error| of_folder(folder.host_path(), error))?;
                let name = || host_path(folder, path);
                let changed = || ImageError::Changed { path: name() };
                let is_same = || match rustix::fs::fstat(&file) {
                    Ok(metadata) if Seen::of(&metadata) == *seen => Ok(()),
                    _ => Err(changed()),
                };
                is_same()?;
                out.copy(&file, seen.length, &name)?;
                // What was written into it meanwhile may or may not be in the image.
                is_same()
            }
            Self::Image(image) => image.write(out),
        }
    }

    /// The bytes, of a file that is small.
    ///
    /// # Errors
    /// It cannot be read, or has more than `limit` bytes, or is an image.
    pub fn read(&self, limit: u64) -> Result<Vec<u8>, ImageError> {
        match self {
            Self::Bytes(bytes) => Ok(bytes.to_vec()),
            Self::File { folder, path, .. } => {
                folder.read(path, limit).map_err(|error| of_folder(folder.host_path(), error))
            }
            Self::Image(_) => {
                let source = std::io::Error::other("an image inside of an image is not read back");
                Err(ImageError::Io { action: "read", path: PathBuf::new(), source })
            }
        }
    }

    /// Opens the content for reading, to look into it.
    ///
    /// # Errors
    /// It cannot be opened, or is an image.
    pub fn open(&self) -> Result<Box<dyn ReadSeek + '_>, ImageError> {
        match self {
            Self::Bytes(bytes) => Ok(Box::new(std::io::Cursor::new(bytes))),
            Self::File { folder, path, .. } => {
                Ok(Box::new(folder.file(path).map_err(|error| of_folder(folder.host_path(), error))?))
            }
            Self::Image(_) => Ok(Box::new(std::io::Cursor::new(self.read(0)?))),
        }
    }
}

/// What can be read from anywhere.
pub trait ReadSeek: Read + std::io::Seek {}
impl<T: Read + std::io::Seek> ReadSeek for T {}

/// A folder that is packed is no root file system, and there may be several: what is in it is called by its whole path.
fn of_folder(folder: &Path, error: SysrootError) -> ImageError {
    match error {
        SysrootError::Root { path, source } => ImageError::Io { action: "read the folder", path, source },
        SysrootError::Path { action, path, source } => {
            ImageError::Io { action, path: folder.join(path.as_path()), source }
        }
        other => other.into(),
    }
}

fn host_path(folder: &Sysroot, path: &TreePath) -> PathBuf {
    folder.host_path().join(path.as_path())
}

/// One entry of an image.
#[derive(Debug, Clone)]
pub enum Node {
    /// A directory.
    Directory,
    /// A regular file.
    File {
        /// Its bytes.
        content: Content,
        /// Whether its mode is 0755 and not 0644, where the format has modes. Owner is root, always.
        executable: bool,
    },
    /// A symbolic link and its target, byte for byte.
    Symlink(Vec<u8>),
}

impl Node {
    /// A file that is no program.
    #[must_use]
    pub fn bytes(bytes: impl Into<Vec<u8>>) -> Self {
        Self::plain(Content::Bytes(bytes.into().into()))
    }

    /// A file that is no program.
    #[must_use]
    pub fn plain(content: Content) -> Self {
        Self::File { content, executable: false }
    }
}

/// The files of an image, by path: directories stand before what they hold. The root directory is not listed.
#[derive(Debug, Clone, Default)]
pub struct Files {
    nodes: BTreeMap<TreePath, Node>,
    left_out: Vec<PathBuf>,
}

impl Files {
    /// Nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// All that a folder holds. Links are not followed; sockets, devices and pipes are refused. `lost+found` of a mounted file
    /// system is left out, which [`Files::notes`] tells.
    ///
    /// # Errors
    /// A folder that cannot be read; what cannot be in an image.
    pub fn scan(folder: &Path) -> Result<Self, ImageError> {
        let failed = |error| of_folder(folder, error);
        let (host, folder) = (folder, Arc::new(Sysroot::open(folder).map_err(failed)?));
        let mut files = Self::new();
        let mut pending = vec![TreePath::root()];
        while let Some(directory) = pending.pop() {
            for entry in folder.read_dir(&directory).map_err(failed)? {
                let path = directory.join(&entry.name)?;
                let metadata = folder.metadata(&path).map_err(failed)?;
                let node = match EntryType::of(&metadata) {
                    EntryType::Directory if directory.is_root() && entry.name == LOST_AND_FOUND.as_bytes() => {
                        files.left_out.push(host.join(path.as_path()));
                        continue;
                    }
                    EntryType::Directory => {
                        pending.push(path.clone());
                        Node::Directory
                    }
                    EntryType::File => Node::File {
                        content: Content::File {
                            folder: folder.clone(),
                            path: path.clone(),
                            seen: Seen::of(&metadata),
                        },
                        executable: metadata.st_mode & 0o111 != 0,
                    },
                    EntryType::Symlink => Node::Symlink(folder.read_link(&path).map_err(failed)?),
                    EntryType::Other => {
                        let source = std::io::Error::other(
                            "it is a device, a pipe or a socket, which no image holds; remove it",
                        );
                        return Err(ImageError::Io { action: "pack", path: host_path(&folder, &path), source });
                    }
                };
                files.nodes.insert(path, node);
            }
        }
        Ok(files)
    }

    /// What is to be said of the folders that were read.
    #[must_use]
    pub fn notes(&self) -> Vec<String> {
        self.left_out.iter().map(|path| not_packed(path)).collect()
    }

    /// Adds or replaces an entry; directories that lead to it are made.
    ///
    /// # Errors
    /// What leads to it is no directory.
    pub fn insert(&mut self, path: TreePath, node: Node) -> Result<(), ImageError> {
        let mut parent = path.parent();
        while let Some(directory) = parent.filter(|directory| !directory.is_root()) {
            match self.nodes.get(&directory) {
                None => drop(self.nodes.insert(directory.clone(), Node::Directory)),
                Some(Node::Directory) => break,
                Some(_) => {
                    let source = std::io::Error::other(format!("{directory} is a file, and {path} would be below it"));
                    return Err(ImageError::Io { action: "pack", path: directory.as_path().to_owned(), source });
                }
            }
            parent = directory.parent();
        }
        self.nodes.insert(path, node);
        Ok(())
    }

    /// Lays `other` over these: its files take the place of those with the same path.
    ///
    /// # Errors
    /// A file where the other has a directory, or the other way round.
    pub fn overlay(&mut self, other: Self) -> Result<(), ImageError> {
        self.left_out.extend(other.left_out);
        for (path, node) in other.nodes {
            let is_directory = |node: &Node| matches!(node, Node::Directory);
            match self.nodes.get(&path) {
                Some(old) if is_directory(old) != is_directory(&node) => {
                    let source = std::io::Error::other("it is a folder in one place and a file in the other");
                    return Err(ImageError::Io { action: "overlay", path: path.as_path().to_owned(), source });
                }
                _ => self.insert(path, node)?,
            }
        }
        Ok(())
    }

    /// The entry at `path`.
    #[must_use]
    pub fn get(&self, path: &TreePath) -> Option<&Node> {
        self.nodes.get(path)
    }

    /// Removes an entry, not what is below it.
    pub fn remove(&mut self, path: &TreePath) -> Option<Node> {
        self.nodes.remove(path)
    }

    /// All entries in path order (bytes): a directory stands before what it holds.
    pub fn iter(&self) -> impl Iterator<Item = (&TreePath, &Node)> {
        self.nodes.iter()
    }

    /// Bytes of all files.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let length = |node: &Node| match node {
            Node::File { content, .. } => content.length(),
            Node::Directory | Node::Symlink(_) => 0,
        };
        self.nodes.values().map(length).sum()
    }
}
