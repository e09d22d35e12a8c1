//! The directories and files of a [`Files`] as FAT sees them, every name checked.

use std::collections::BTreeMap;

use super::FORMAT;
use super::directory::ENTRY;
use super::names::{Name, Namer};
use crate::image::{Content, Files, ImageError, Node};
use crate::names::TreePath;

/// Most entries of a directory (fatgen103: a directory has at most 65536 × 32 bytes).
const MOST_ENTRIES: u32 = 65_536;
/// Most bytes of a file: 4 GiB less the largest cluster. The format has room for a few more, but fsck.fat 4.2 takes the clusters
/// of a file that fill 4 GiB for none, and empties it.
const LARGEST: u32 = u32::MAX - (32 << 10) + 1;

/// All of an image.
#[derive(Debug)]
pub(super) struct Tree {
    /// The root directory first, then by path.
    pub(super) directories: Vec<Directory>,
    /// By path.
    pub(super) files: Vec<File>,
}

/// A directory.
#[derive(Debug)]
pub(super) struct Directory {
    /// Place of the directory that holds it; `None` for the root directory.
    pub(super) parent: Option<usize>,
    /// What it holds, by name.
    pub(super) children: Vec<(Name, Child)>,
    /// Entries of 32 bytes, those of long names, `.`, `..` and the label included.
    slots: u32,
    /// Its first cluster.
    pub(super) first: u32,
}

impl Directory {
    /// Bytes of its entries, at least one.
    pub(super) fn bytes(&self) -> u32 {
        self.slots.max(1).saturating_mul(ENTRY)
    }
}

/// An entry's place.
#[derive(Debug, Clone, Copy)]
pub(super) enum Child {
    Directory(usize),
    File(usize),
}

/// A file.
#[derive(Debug)]
pub(super) struct File {
    pub(super) path: TreePath,
    pub(super) content: Content,
    pub(super) length: u32,
    /// Its first cluster; 0 where it is empty.
    pub(super) first: u32,
}

impl Tree {
    /// Takes all files over.
    pub(super) fn new(files: &Files, has_label: bool) -> Result<Self, ImageError> {
        let root = Directory { parent: None, children: Vec::new(), slots: u32::from(has_label), first: 0 };
        let mut tree = Self { directories: vec![root], files: Vec::new() };
        let mut places = BTreeMap::from([(TreePath::root(), 0)]);
        let mut names: Vec<Vec<(TreePath, Child)>> = vec![Vec::new()];
        for (path, node) in files.iter() {
            let failed = |problem: &str| unrepresentable(path, problem);
            // `Files` makes the directories that lead to a path.
            let parent = path.parent().and_then(|parent| places.get(&parent)).copied();
            let Some((place, siblings)) = parent.and_then(|place| Some((place, names.get_mut(place)?))) else {
                return Err(failed("its directory is not in the image; add it"));
            };
            match node {
                Node::Directory => {
                    let child = tree.directories.len();
                    siblings.push((path.clone(), Child::Directory(child)));
                    places.insert(path.clone(), child);
                    names.push(Vec::new());
                    tree.directories.push(Directory { parent: Some(place), children: Vec::new(), slots: 2, first: 0 });
                }
                Node::File { content, .. } => {
                    let length = u32::try_from(content.length()).ok().filter(|length| *length <= LARGEST);
                    let length = length.ok_or_else(|| {
                        failed("it has more than 4 GiB less 32 KiB, the most that FAT has; split it, or leave it out")
                    })?;
                    siblings.push((path.clone(), Child::File(tree.files.len())));
                    tree.files.push(File { path: path.clone(), content: content.clone(), length, first: 0 });
                }
                Node::Symlink(_) => {
                    return Err(failed("it is a symbolic link, which FAT does not have; put the file itself there"));
                }
            }
        }
        for (directory, names) in tree.directories.iter_mut().zip(names) {
            directory.fill(names)?;
        }
        Ok(tree)
    }
}

impl Directory {
    fn fill(&mut self, children: Vec<(TreePath, Child)>) -> Result<(), ImageError> {
        let mut namer = Namer::default();
        for (path, _) in &children {
            namer.add(path)?;
        }
        let names = namer.finish()?;
        for ((path, child), name) in children.into_iter().zip(names) {
            self.slots = self.slots.saturating_add(name.slots());
            if self.slots > MOST_ENTRIES {
                return Err(unrepresentable(
                    &path,
                    "its directory has more entries than FAT's 65536 (a long name takes several); use several directories",
                ));
            }
            self.children.push((name, child));
        }
        Ok(())
    }
}

pub(super) fn unrepresentable(path: &TreePath, problem: impl Into<String>) -> ImageError {
    ImageError::Unrepresentable { path: path.clone(), format: FORMAT, problem: problem.into() }
}
