//! [`FileTree`]: the sorted manifest of what goes into an image, without the content of large files.
//!
//! The manifest says where content is to be read from and how long it is; whoever writes it out fails if the length
//! changed. Memory grows with the number of entries, never with their bytes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::sysroot::{Metadata, Sysroot};
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
    /// A file of a folder that is laid over the root, as it was when that was scanned.
    Layer {
        /// The folder.
        layer: Layer,
        /// Where in that folder.
        path: TreePath,
        /// What the file looked like.
        seen: Seen,
    },
    /// Bytes that were made, an index of kept modules for example.
    Bytes(Vec<u8>),
}

/// A folder that is laid over the root. Two are equal if they are the same.
#[derive(Debug, Clone)]
pub struct Layer(pub Arc<Sysroot>);

impl PartialEq for Layer {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Layer {}

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

impl Seen {
    /// What `metadata` says of a regular file.
    #[must_use]
    pub fn of(metadata: &Metadata) -> Self {
        let nanoseconds = |n| u32::try_from(n).unwrap_or(u32::MAX);
        Self {
            device: metadata.st_dev,
            inode: metadata.st_ino,
            length: u64::try_from(metadata.st_size).unwrap_or(0),
            mtime: (metadata.st_mtime, nanoseconds(metadata.st_mtime_nsec)),
            ctime: (metadata.st_ctime, nanoseconds(metadata.st_ctime_nsec)),
        }
    }
}

impl Content {
    /// Bytes.
    #[must_use]
    pub fn length(&self) -> u64 {
        match self {
            Self::Root { seen, .. } | Self::Layer { seen, .. } => seen.length,
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
    /// The further names of each file that has any: what [`Kind::HardLink`] says, the other way round.
    names: BTreeMap<TreePath, BTreeSet<TreePath>>,
}

impl FileTree {
    /// An empty tree.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds or replaces an entry. A new entry is a new file: further names of the one that it replaces keep the old content.
    pub fn insert(&mut self, path: TreePath, entry: Entry) -> Option<Entry> {
        let replaced = self.remove(&path);
        if let Kind::HardLink(to) = &entry.kind {
            self.names.entry(to.clone()).or_default().insert(path.clone());
        }
        self.entries.insert(path, entry);
        replaced
    }

    /// Lays another tree over this one, as it was scanned from `layer`: its files and links take the places of those with the
    /// same path, its directories give theirs mode and owner. Gives the first path that is a directory in one and something
    /// else in the other: such a tree is not laid over.
    pub fn lay_over(&mut self, layer: &Arc<Sysroot>, other: Self) -> Option<TreePath> {
        let is_directory = |entry: &Entry| matches!(entry.kind, Kind::Directory);
        for (path, entry) in &other.entries {
            if self.get(path).is_some_and(|old| is_directory(old) != is_directory(entry)) {
                return Some(path.clone());
            }
        }
        for (path, mut entry) in other.entries {
            // The folder's own mode and owner are nobody's wish.
            if path.is_root() {
                continue;
            }
            if let Kind::File(Content::Root { path, seen }) = entry.kind {
                entry.kind = Kind::File(Content::Layer { layer: Layer(layer.clone()), path, seen });
            }
            self.insert(path, entry);
        }
        None
    }

    /// The entry at `path`.
    #[must_use]
    pub fn get(&self, path: &TreePath) -> Option<&Entry> {
        self.entries.get(path)
    }

    /// The entry at `path`, to change its mode, owner or time. To make it something else, use [`FileTree::insert`].
    pub fn get_mut(&mut self, path: &TreePath) -> Option<&mut Entry> {
        self.entries.get_mut(path)
    }

    /// Removes one entry. Where it carried the content of hard links, the first of them takes the content over.
    pub fn remove(&mut self, path: &TreePath) -> Option<Entry> {
        let removed = self.entries.remove(path)?;
        if let Kind::HardLink(to) = &removed.kind
            && let Some(names) = self.names.get_mut(to)
        {
            names.remove(path);
            if names.is_empty() {
                self.names.remove(to);
            }
        }
        let mut names = self.names.remove(path).unwrap_or_default();
        if let Some(heir) = names.pop_first() {
            for name in &names {
                if let Some(entry) = self.entries.get_mut(name) {
                    entry.kind = Kind::HardLink(heir.clone());
                }
            }
            if let Some(entry) = self.entries.get_mut(&heir) {
                entry.kind = removed.kind.clone();
            }
            if !names.is_empty() {
                self.names.insert(heir, names);
            }
        }
        Some(removed)
    }

    /// The further names of the file at `path`, sorted: the hard links that point to it.
    pub fn names_of(&self, path: &TreePath) -> impl DoubleEndedIterator<Item = &TreePath> {
        self.names.get(path).into_iter().flatten()
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

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> TreePath {
        TreePath::new(text).unwrap()
    }

    fn three_names() -> FileTree {
        let mut tree = FileTree::new();
        tree.insert(path("a"), Entry::file(b"content".to_vec(), 0));
        for name in ["b", "c"] {
            tree.insert(path(name), Entry { kind: Kind::HardLink(path("a")), ..Entry::file(Vec::new(), 0) });
        }
        tree
    }

    #[test]
    fn the_next_name_inherits_the_content() {
        let mut tree = three_names();
        tree.remove(&path("a"));
        assert_eq!(tree.get(&path("b")).map(|e| &e.kind), Some(&Kind::File(Content::Bytes(b"content".to_vec()))));
        assert_eq!(tree.get(&path("c")).map(|e| &e.kind), Some(&Kind::HardLink(path("b"))));
        tree.remove(&path("c"));
        assert_eq!(tree.names_of(&path("b")).count(), 0);
    }

    #[test]
    fn a_replaced_file_does_not_change_its_other_names() {
        let mut tree = three_names();
        tree.insert(path("a"), Entry::file(b"new".to_vec(), 0));
        assert_eq!(tree.get(&path("b")).map(|e| &e.kind), Some(&Kind::File(Content::Bytes(b"content".to_vec()))));
        assert_eq!(tree.names_of(&path("b")).collect::<Vec<_>>(), [&path("c")]);
        assert_eq!(tree.names_of(&path("a")).count(), 0);
    }
}
