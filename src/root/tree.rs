//! [`FileTree`]: the sorted manifest of what goes into an image, without the content of large files.
//!
//! The manifest says where content is to be read from and how long it is; whoever writes it out fails if the length
//! changed. Memory grows with the number of entries, never with their bytes.

use std::collections::BTreeMap;

use crate::names::TreePath;

/// Where a regular file's bytes come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// A file of the root, as it was when the tree was scanned.
    Root {
        /// Where in the root; not always the entry's own path.
        path: TreePath,
        /// What the file looked like. A file that differs when it is read is an error.
        seen: Seen,
    },
    /// Bytes that were made, an index of kept modules for example.
    Bytes(Vec<u8>),
}

/// What identifies a file's content between the scan and the read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// Device number of the file system.
    pub device: u64,
    /// Inode number.
    pub inode: u64,
    /// Bytes.
    pub length: u64,
    /// Modification time: seconds and nanoseconds.
    pub mtime: (i64, u32),
    /// Time of the last change of the inode: seconds and nanoseconds.
    pub ctime: (i64, u32),
}

impl Content {
    /// Bytes.
    #[must_use]
    pub fn length(&self) -> u64 {
        match self {
            Self::Root { seen, .. } => seen.length,
            Self::Bytes(bytes) => bytes.len() as u64,
        }
    }
}

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A directory.
    Directory,
    /// A regular file.
    File(Content),
    /// One more name of a regular file: the path that stands first in the tree and carries the content.
    HardLink(TreePath),
    /// A symbolic link and its target, byte for byte.
    Symlink(Vec<u8>),
    /// A character device: major and minor number.
    CharDevice(u32, u32),
    /// A block device: major and minor number.
    BlockDevice(u32, u32),
    /// A named pipe.
    Fifo,
}

/// One entry of the tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// What it is.
    pub kind: Kind,
    /// Permission bits with setuid, setgid and sticky: 12 bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Modification time, seconds since 1970.
    pub mtime: i64,
}

impl Entry {
    /// A directory that we make: root's, mode 0755.
    #[must_use]
    pub fn directory(mtime: i64) -> Self {
        Self { kind: Kind::Directory, mode: 0o755, uid: 0, gid: 0, mtime }
    }

    /// A file that we make: root's, mode 0644.
    #[must_use]
    pub fn file(bytes: Vec<u8>, mtime: i64) -> Self {
        Self { kind: Kind::File(Content::Bytes(bytes)), mode: 0o644, uid: 0, gid: 0, mtime }
    }

    /// A symbolic link that we make.
    #[must_use]
    pub fn symlink(target: &[u8], mtime: i64) -> Self {
        Self { kind: Kind::Symlink(target.to_vec()), mode: 0o777, uid: 0, gid: 0, mtime }
    }
}

/// The manifest: entries by path, parents before children. The root directory itself is the empty path.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FileTree {
    entries: BTreeMap<TreePath, Entry>,
}

impl FileTree {
    /// An empty tree.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds or replaces an entry. A hard link's target is not followed: see [`FileTree::remove`].
    pub fn insert(&mut self, path: TreePath, entry: Entry) -> Option<Entry> {
        self.entries.insert(path, entry)
    }

    /// The entry at `path`.
    #[must_use]
    pub fn get(&self, path: &TreePath) -> Option<&Entry> {
        self.entries.get(path)
    }

    /// The entry at `path`, to change it.
    pub fn get_mut(&mut self, path: &TreePath) -> Option<&mut Entry> {
        self.entries.get_mut(path)
    }

    /// Removes one entry. Where it carried the content of hard links, the first of them takes the content over.
    pub fn remove(&mut self, path: &TreePath) -> Option<Entry> {
        let removed = self.entries.remove(path)?;
        if let Kind::File(content) = &removed.kind {
            let names = |entry: &Entry| matches!(&entry.kind, Kind::HardLink(to) if to == path);
            let mut heir: Option<TreePath> = None;
            for (name, entry) in self.entries.iter_mut().filter(|(_, entry)| names(entry)) {
                match &heir {
                    None => {
                        entry.kind = Kind::File(content.clone());
                        heir = Some(name.clone());
                    }
                    Some(first) => entry.kind = Kind::HardLink(first.clone()),
                }
            }
        }
        Some(removed)
    }

    /// All entries in path order: a directory stands before what it holds.
    pub fn iter(&self) -> impl Iterator<Item = (&TreePath, &Entry)> {
        self.entries.iter()
    }

    /// All entries below `dir` (without `dir` itself), in path order.
    pub fn below<'a>(&'a self, dir: &'a TreePath) -> impl Iterator<Item = (&'a TreePath, &'a Entry)> {
        self.entries
            .range(dir..)
            .filter(move |(path, _)| *path != dir)
            .take_while(move |(path, _)| path.as_bytes().starts_with(dir.as_bytes()))
            .filter(move |(path, _)| path.strip_prefix(dir).is_some())
    }

    /// Number of entries.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is no entry.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}
