//! A root directory becomes a [`FileTree`].
//!
//! Nothing is followed and no content is read: what each file looked like is noted, and whoever packs it compares. What does
//! not belong into an image (mount points' contents, caches that a package manager makes again) is left out by one table;
//! what a newc archive cannot carry is counted and named. Hardware is none of this room's business: dropping modules and
//! firmware comes after.

use std::collections::{BTreeMap, BTreeSet};

use rustix::fs::{FileType, major, minor};

use super::sysroot::{Metadata, Sysroot, SysrootError};
use super::tree::{Content, Entry, FileTree, Kind, Seen};
use crate::cancel::{Cancel, Cancelled};
use crate::names::{NameError, TreePath};

/// Directories that are kept, with their own mode and owner, while what they hold is left out; and why.
pub const CONTENTS_LEFT_OUT: &[(&str, &str)] = &[
    ("proc", "the kernel's, mounted at boot"),
    ("sys", "the kernel's, mounted at boot"),
    ("dev", "the kernel's, mounted at boot"),
    ("run", "state of a running machine, mounted at boot"),
    ("tmp", "temporary files of the machine that made the root"),
    ("var/tmp", "temporary files of the machine that made the root"),
    ("boot", "the kernel travels beside the initrd, not in it"),
    ("var/cache/apt", "apt downloads and indexes it again"),
    ("var/lib/apt/lists", "apt update downloads it again"),
    ("var/cache/dnf", "dnf downloads it again"),
    ("var/cache/libdnf5", "dnf 5 downloads it again"),
    ("var/cache/yum", "yum and microdnf download it again"),
    ("var/cache/zypp", "zypper downloads it again"),
    ("var/cache/apk", "apk downloads it again"),
    ("var/cache/pacman/pkg", "pacman downloads it again"),
    ("var/lib/pacman/sync", "pacman -Sy downloads it again"),
];

/// Files that are left out; and why.
pub const FILES_LEFT_OUT: &[(&str, &str)] = &[
    (".dockerenv", "marks a running container: systemd would take the machine for one"),
    (".dockerinit", "left by old container engines"),
];

/// Paths kept per attribute as examples for a warning.
const EXAMPLES: usize = 3;

/// What to scan differently from the plain way.
#[derive(Debug, Clone, Default)]
pub struct ScanOptions {
    /// Device and inode numbers of files and directories that are left out entirely, with all they hold: the output folder,
    /// where it lies inside the root.
    pub exclude: BTreeSet<(u64, u64)>,
    /// The latest modification time, seconds since 1970 (`SOURCE_DATE_EPOCH`): later ones become this one.
    pub clamp_mtime: Option<i64>,
}

/// The outcome of a scan.
#[derive(Debug, Clone)]
pub struct Scan {
    /// What was found, the root directory itself included (as the empty path).
    pub tree: FileTree,
    /// What was found and cannot be carried.
    pub notes: Notes,
}

/// What a scan met that an archive cannot carry.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Notes {
    /// Extended attributes by name (`security.capability` holds file capabilities).
    pub attributes: BTreeMap<String, Paths>,
    /// Sockets: they belong to processes that no longer run.
    pub sockets: Paths,
}

/// How many paths, and the first few.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Paths {
    /// All of them.
    pub count: u64,
    /// The first three by path.
    pub examples: BTreeSet<TreePath>,
}

impl Paths {
    fn add(&mut self, path: &TreePath) {
        self.count = self.count.saturating_add(1);
        self.examples.insert(path.clone());
        if self.examples.len() > EXAMPLES {
            self.examples.pop_last();
        }
    }
}

impl std::fmt::Display for Paths {
    /// `/usr/bin/ping, /usr/bin/x and 12 more`
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (i, path) in self.examples.iter().enumerate() {
            write!(f, "{}{path}", if i == 0 { "" } else { ", " })?;
        }
        match self.count.saturating_sub(self.examples.len() as u64) {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

impl Notes {
    /// One line for each kind of loss, for people; none where nothing is lost.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        let mut lines = Vec::new();
        let all = self.attributes.values().fold(0_u64, |sum, paths| sum.saturating_add(paths.count));
        if all > 0 {
            let named: Vec<String> = self.attributes.iter().map(|(name, paths)| format!("{name} on {paths}")).collect();
            let noun = if all == 1 { "attribute" } else { "attributes" };
            lines.push(format!("the initrd cannot carry {all} extended {noun}: {}", named.join("; ")));
        }
        if self.sockets.count > 0 {
            lines.push(format!("{} sockets are left out: {}", self.sockets.count, self.sockets));
        }
        lines
    }
}

/// A scan failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ScanError {
    /// The root cannot be read.
    #[error("{0}; packing a root needs the rights to read all of it: run as root, on a root that nothing else changes")]
    Root(#[from] SysrootError),
    /// A file type that no Linux file system has.
    #[error("{path} in the root has the unknown file type {mode:#o}; the file system is damaged")]
    Type {
        /// In the root.
        path: TreePath,
        /// The mode as the system gave it.
        mode: u32,
    },
    /// A name that cannot be represented.
    #[error(transparent)]
    Name(#[from] NameError),
    /// Interrupted.
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
}

/// Walks the root without following links. Mounts inside it are part of it, as a container's `/etc/resolv.conf` is.
///
/// # Errors
/// Anything that cannot be read; an entry that vanishes meanwhile.
pub fn scan(root: &Sysroot, options: &ScanOptions, cancel: &Cancel) -> Result<Scan, ScanError> {
    let mut walk = Walk { options, tree: FileTree::new(), notes: Notes::default(), linked: BTreeMap::new() };
    let mut left_out = BTreeSet::new();
    for (path, _) in CONTENTS_LEFT_OUT {
        left_out.insert(TreePath::new(path)?);
    }
    let mut pending = vec![TreePath::root()];
    while let Some(path) = pending.pop() {
        cancel.check()?;
        walk.directory(root, path, &left_out, &mut pending)?;
    }
    Ok(walk.finish())
}

/// What is known halfway.
struct Walk<'a> {
    options: &'a ScanOptions,
    tree: FileTree,
    notes: Notes,
    /// Names of the files that have several, by device and inode.
    linked: BTreeMap<(u64, u64), BTreeSet<TreePath>>,
}

impl Walk<'_> {
    /// Adds the directory at `path` and all it holds but directories, which go to `pending`.
    fn directory(
        &mut self,
        root: &Sysroot,
        path: TreePath,
        left_out: &BTreeSet<TreePath>,
        pending: &mut Vec<TreePath>,
    ) -> Result<(), ScanError> {
        let directory = root.directory(&path)?;
        let metadata = directory.metadata()?;
        if self.options.exclude.contains(&(metadata.st_dev, metadata.st_ino)) && !path.is_root() {
            return Ok(());
        }
        self.note_attributes(&path, directory.attributes(b"")?);
        self.tree.insert(path.clone(), self.entry(&metadata, Kind::Directory));
        if left_out.contains(&path) {
            return Ok(());
        }
        for name in directory.names()? {
            let path = path.join(&name)?;
            if FILES_LEFT_OUT.iter().any(|(file, _)| file.as_bytes() == path.as_bytes()) {
                continue;
            }
            let metadata = directory.metadata_of(&name)?;
            let identity = (metadata.st_dev, metadata.st_ino);
            if self.options.exclude.contains(&identity) {
                continue;
            }
            let kind = match FileType::from_raw_mode(metadata.st_mode) {
                FileType::Directory => {
                    pending.push(path);
                    continue;
                }
                FileType::Socket => {
                    self.notes.sockets.add(&path);
                    continue;
                }
                FileType::RegularFile => {
                    if metadata.st_nlink > 1 {
                        self.linked.entry(identity).or_default().insert(path.clone());
                    }
                    Kind::File(Content::Root { path: path.clone(), seen: Seen::of(&metadata) })
                }
                FileType::Symlink => Kind::Symlink(directory.link_target(&name)?),
                FileType::CharacterDevice => Kind::CharDevice(major(metadata.st_rdev), minor(metadata.st_rdev)),
                FileType::BlockDevice => Kind::BlockDevice(major(metadata.st_rdev), minor(metadata.st_rdev)),
                FileType::Fifo => Kind::Fifo,
                FileType::Unknown => return Err(ScanError::Type { path, mode: metadata.st_mode }),
            };
            self.note_attributes(&path, directory.attributes(&name)?);
            self.tree.insert(path, self.entry(&metadata, kind));
        }
        Ok(())
    }

    fn entry(&self, metadata: &Metadata, kind: Kind) -> Entry {
        let mtime = match self.options.clamp_mtime {
            Some(latest) => metadata.st_mtime.min(latest),
            None => metadata.st_mtime,
        };
        Entry { kind, mode: metadata.st_mode & 0o7777, uid: metadata.st_uid, gid: metadata.st_gid, mtime }
    }

    fn note_attributes(&mut self, path: &TreePath, names: Vec<Vec<u8>>) {
        for name in names {
            let name = name.escape_ascii().to_string();
            self.notes.attributes.entry(name).or_default().add(path);
        }
    }

    /// Makes hard links of all names but the first of a file. A file's names outside the tree do not count.
    fn finish(mut self) -> Scan {
        for names in self.linked.into_values() {
            let mut names = names.into_iter();
            let Some(first) = names.next() else { continue };
            for name in names {
                if let Some(entry) = self.tree.get(&name).cloned() {
                    self.tree.insert(name, Entry { kind: Kind::HardLink(first.clone()), ..entry });
                }
            }
        }
        Scan { tree: self.tree, notes: self.notes }
    }
}
