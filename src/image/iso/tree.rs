//! Directories in the order of the path table, with what they hold in the order of their records.

use std::collections::{BTreeMap, VecDeque};

use super::names::{Identifier, identifiers};
use super::{FORMAT, layout};
use crate::image::{Content, Files, ImageError, Node};
use crate::names::TreePath;

/// Bytes of the longest name that Linux shows whole: `get_rock_ridge_filename` of `fs/isofs/rock.c` drops the rest of what
/// reaches 254.
const LONGEST_NAME: usize = 253;
/// A target that Linux can read: a page with a NUL (`PATH_MAX`).
const LONGEST_TARGET: usize = 4095;

/// One directory.
#[derive(Debug)]
pub(super) struct Directory {
    /// Index of the directory that holds it; the root's is its own.
    pub(super) parent: usize,
    /// The root's is a byte 0.
    pub(super) identifier: Vec<u8>,
    pub(super) serial: u32,
    /// Sorted by identifier (ECMA-119, 9.3).
    pub(super) entries: Vec<Entry>,
    pub(super) lba: u64,
    /// Bytes of its records: whole blocks. What continues them follows.
    pub(super) length: u64,
}

impl Directory {
    /// What `stat` says of its links: itself, its name, and the `..` of those in it.
    pub(super) fn links(&self) -> u32 {
        let count = self.entries.iter().filter(|entry| matches!(entry.kind, Kind::Directory(_))).count();
        u32::try_from(count).unwrap_or(u32::MAX).saturating_add(2)
    }
}

/// One entry of a directory.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) identifier: Identifier,
    pub(super) path: TreePath,
    pub(super) serial: u32,
    pub(super) kind: Kind,
}

/// What an entry is.
#[derive(Debug)]
pub(super) enum Kind {
    /// By index.
    Directory(usize),
    File {
        /// Index of [`Tree::place`].
        place: usize,
        executable: bool,
    },
    Symlink(Vec<u8>),
}

/// A file's content and where it is; the block is 0 as long as it has no place.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub(super) content: Content,
    pub(super) lba: u64,
}

impl Place {
    pub(super) fn length(&self) -> u64 {
        self.content.length()
    }
}

/// All that is in the image.
#[derive(Debug)]
pub(super) struct Tree {
    directories: Vec<Directory>,
    places: Vec<Place>,
    by_path: BTreeMap<TreePath, usize>,
}

/// A directory while its entries are collected.
#[derive(Debug, Default)]
struct Found {
    entries: Vec<(TreePath, u32, Kind)>,
}

impl Tree {
    pub(super) fn new(files: &Files) -> Result<Self, ImageError> {
        let mut indexes = BTreeMap::from([(TreePath::root(), 0)]);
        let mut found = vec![Found::default()];
        let (mut places, mut by_path) = (Vec::new(), BTreeMap::new());
        // 1 is the root.
        let mut serial = 1_u32;
        for (path, node) in files.iter() {
            check_name(path)?;
            serial = serial.checked_add(1).ok_or_else(|| layout("more than 2^32 entries".to_owned()))?;
            let kind = match node {
                Node::Directory => {
                    indexes.insert(path.clone(), found.len());
                    found.push(Found::default());
                    Kind::Directory(found.len().saturating_sub(1))
                }
                Node::File { content, executable } => {
                    by_path.insert(path.clone(), places.len());
                    places.push(Place { content: content.clone(), lba: 0 });
                    Kind::File { place: places.len().saturating_sub(1), executable: *executable }
                }
                Node::Symlink(target) => {
                    check_target(path, target)?;
                    Kind::Symlink(target.clone())
                }
            };
            let parent = path.parent().and_then(|parent| indexes.get(&parent).copied());
            match parent.and_then(|parent| found.get_mut(parent)) {
                Some(parent) => parent.entries.push((path.clone(), serial, kind)),
                None => return Err(unrepresentable(path, "what leads to it is no directory of the tree")),
            }
        }
        if found.len() > usize::from(u16::MAX) {
            return Err(layout(format!("{} directories; at most {} can be counted", found.len(), u16::MAX)));
        }
        Ok(Self { directories: in_path_table_order(found)?, places, by_path })
    }

    /// In the order of the path table: the root is the first.
    pub(super) fn directories(&self) -> &[Directory] {
        &self.directories
    }

    pub(super) fn directories_mut(&mut self) -> &mut [Directory] {
        &mut self.directories
    }

    pub(super) fn directory(&self, index: usize) -> Result<&Directory, ImageError> {
        self.directories.get(index).ok_or_else(|| layout("a directory is missing".to_owned()))
    }

    pub(super) fn place(&self, index: usize) -> Result<&Place, ImageError> {
        self.places.get(index).ok_or_else(|| layout("a file is missing".to_owned()))
    }

    pub(super) fn place_of(&mut self, path: &TreePath) -> Option<&mut Place> {
        let index = *self.by_path.get(path)?;
        self.places.get_mut(index)
    }

    pub(super) fn places(&mut self) -> &mut [Place] {
        &mut self.places
    }

    /// As they follow each other in the image.
    pub(super) fn places_by_lba(&self) -> Vec<&Place> {
        let mut out: Vec<_> = self.places.iter().filter(|place| place.length() > 0).collect();
        out.sort_by_key(|place| place.lba);
        out
    }
}

/// By depth, then by the directory that holds them, then by identifier (ECMA-119, 6.9.1): breadth first.
fn in_path_table_order(mut found: Vec<Found>) -> Result<Vec<Directory>, ImageError> {
    let mut queue = VecDeque::from([(0_usize, 0_usize, vec![0_u8], 1_u32)]);
    let mut directories: Vec<Directory> = Vec::with_capacity(found.len());
    // Directories are numbered when they are put into the queue, which is the order in which they leave it.
    let mut count = 1_usize;
    while let Some((index, parent, identifier, serial)) = queue.pop_front() {
        let entries = found.get_mut(index).map(std::mem::take).unwrap_or_default().entries;
        let own = directories.len();
        let named = entries.iter().map(|(path, _, kind)| (path, matches!(kind, Kind::Directory(_))));
        let identifiers = identifiers(named)?;
        let mut entries: Vec<Entry> = (entries.into_iter().zip(identifiers))
            .map(|((path, serial, kind), identifier)| Entry { identifier, path, serial, kind })
            .collect();
        entries.sort_by(|a, b| a.identifier.cmp(&b.identifier));
        for entry in &mut entries {
            if let Kind::Directory(index) = &mut entry.kind {
                queue.push_back((*index, own, entry.identifier.bytes(), entry.serial));
                *index = count;
                count = count.saturating_add(1);
            }
        }
        directories.push(Directory { parent, identifier, serial, entries, lba: 0, length: 0 });
    }
    Ok(directories)
}

fn check_name(path: &TreePath) -> Result<(), ImageError> {
    match path.file_name().len() {
        1..=LONGEST_NAME => Ok(()),
        length => {
            let problem = format!("its name has {length} bytes, and Linux shows at most {LONGEST_NAME}; shorten it");
            Err(unrepresentable(path, &problem))
        }
    }
}

fn check_target(path: &TreePath, target: &[u8]) -> Result<(), ImageError> {
    match target.len() {
        0 => Err(unrepresentable(path, "it is a link to nothing; remove it")),
        1..=LONGEST_TARGET if !target.contains(&0) => Ok(()),
        1..=LONGEST_TARGET => Err(unrepresentable(path, "the target of the link has a NUL byte; remove it")),
        length => {
            let problem = format!("the target of the link has {length} bytes; at most {LONGEST_TARGET} can be read");
            Err(unrepresentable(path, &problem))
        }
    }
}

pub(super) fn unrepresentable(path: &TreePath, problem: &str) -> ImageError {
    ImageError::Unrepresentable { path: path.clone(), format: FORMAT, problem: problem.to_owned() }
}
