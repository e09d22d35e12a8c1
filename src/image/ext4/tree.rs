//! Directories, files and links with their inodes and blocks.

use std::collections::BTreeMap;

use super::group::Geometry;
use super::inode::{Blocks, INODE, Inode, Inodes, Run, SHORT_LINK, directory_blocks};
use super::{BLOCK, FORMAT, failed};
use crate::image::{Content, Files, ImageError, Node, Output};
use crate::names::TreePath;

/// Inodes with a meaning; the first without is `lost+found`.
const ROOT: u32 = 2;
const RESIZE: u32 = 7;
pub(super) const JOURNAL: u32 = 8;
pub(super) const FIRST: u32 = 11;
const LOST: &[u8] = b"lost+found";
/// Blocks of `lost+found`, so that e2fsck need not find any.
const LOST_BLOCKS: u32 = 4;

/// Types in directories, and in modes.
const FILE: (u8, u16) = (1, 0o100_000);
const DIRECTORY: (u8, u16) = (2, 0o040_000);
const LINK: (u8, u16) = (7, 0o120_000);

/// One entry.
#[derive(Debug)]
struct Item {
    path: TreePath,
    /// Inode of the directory that holds it.
    parent: u32,
    number: u32,
    kind: (u8, u16),
    permissions: u16,
    length: u64,
    run: Run,
    content: Held,
}

#[derive(Debug)]
enum Held {
    /// Inode, type and path of what is in it.
    Directory(Vec<(u32, (u8, u16), TreePath)>),
    File(Content),
    Link(Vec<u8>),
}

/// All of an image.
#[derive(Debug)]
pub(super) struct Tree {
    /// Root, `lost+found`, then by path.
    items: Vec<Item>,
    /// The block of pointers of inode 7.
    resize: u32,
    pub(super) journal: Run,
}

impl Tree {
    pub(super) fn new(files: &Files) -> Result<Self, ImageError> {
        let lost = TreePath::new(LOST)?;
        let directory = |path: &TreePath, parent, number, permissions| Item {
            path: path.clone(),
            parent,
            number,
            kind: DIRECTORY,
            permissions,
            length: 0,
            run: Run::default(),
            content: Held::Directory(Vec::new()),
        };
        let mut items = vec![directory(&TreePath::root(), ROOT, ROOT, 0o755), directory(&lost, ROOT, FIRST, 0o700)];
        let mut children: BTreeMap<u32, Vec<_>> = BTreeMap::from([(ROOT, vec![(FIRST, DIRECTORY, lost.clone())])]);
        let mut numbers = BTreeMap::from([(TreePath::root(), ROOT)]);
        for (number, (path, node)) in (FIRST + 1..).zip(files.iter()) {
            let refused = |problem: &str| ImageError::Unrepresentable {
                path: path.clone(),
                format: FORMAT,
                problem: problem.to_owned(),
            };
            if *path == lost {
                return Err(refused("every ext4 file system has a directory of its own there; rename it"));
            }
            if path.file_name().len() > 255 {
                return Err(refused("its name has more than 255 bytes; shorten it"));
            }
            let Some(parent) = path.parent().and_then(|parent| numbers.get(&parent)).copied() else {
                return Err(refused("its directory is not in the image; add it"));
            };
            let item = match node {
                Node::Directory => {
                    numbers.insert(path.clone(), number);
                    directory(path, parent, number, 0o700)
                }
                Node::File { content, executable } => Item {
                    kind: FILE,
                    // Cloud-configs hold tokens and password hashes: they are nobody's but root's.
                    permissions: if *executable { 0o700 } else { 0o600 },
                    length: content.length(),
                    content: Held::File(content.clone()),
                    ..directory(path, parent, number, 0)
                },
                Node::Symlink(target) => {
                    if target.is_empty() || target.len() >= BLOCK as usize {
                        return Err(refused("its target does not have 1 to 4095 bytes"));
                    }
                    Item {
                        kind: LINK,
                        permissions: 0o777,
                        length: target.len() as u64,
                        content: Held::Link(target.clone()),
                        ..directory(path, parent, number, 0)
                    }
                }
            };
            children.entry(parent).or_default().push((number, item.kind, path.clone()));
            items.push(item);
        }
        for item in &mut items {
            if let (Held::Directory(held), Some(children)) = (&mut item.content, children.remove(&item.number)) {
                *held = children;
            }
        }
        Ok(Self { items, resize: 0, journal: Run::default() })
    }

    /// Gives everything its blocks, from `start` on: pointers, directories, files, the journal. Gives the end.
    pub(super) fn place(&mut self, start: u32, journal: u32) -> Result<u32, ImageError> {
        let mut next = start;
        let mut take = |blocks: u32| -> Result<Run, ImageError> {
            let run = Run { first: next, blocks };
            next = next.checked_add(blocks).ok_or_else(|| failed("its files are too large; leave something out"))?;
            Ok(run)
        };
        self.resize = take(1)?.first;
        for item in &mut self.items {
            let blocks = match &item.content {
                Held::Directory(held) => {
                    let names = held.iter().map(|(_, _, path)| path.file_name());
                    let least = if item.number == FIRST { LOST_BLOCKS } else { 1 };
                    let blocks = directory_blocks([b".".as_slice(), b".."].into_iter().chain(names)).max(least);
                    item.length = u64::from(blocks).saturating_mul(u64::from(BLOCK));
                    blocks
                }
                Held::Link(target) if target.len() < SHORT_LINK => 0,
                Held::File(_) | Held::Link(_) => {
                    u32::try_from(item.length.div_ceil(u64::from(BLOCK))).unwrap_or(u32::MAX)
                }
            };
            item.run = take(blocks)?;
        }
        self.journal = take(journal)?;
        Ok(next)
    }

    /// Inodes in use, all up to the last.
    pub(super) fn inodes(&self) -> u32 {
        self.items.iter().map(|item| item.number).max().unwrap_or(FIRST)
    }

    pub(super) fn directories(&self) -> u32 {
        let count = self.items.iter().filter(|item| item.kind == DIRECTORY).count();
        u32::try_from(count).unwrap_or(u32::MAX)
    }

    /// Writes the table up to the last inode in use.
    pub(super) fn write_inodes(
        &self,
        inodes: &Inodes,
        geometry: &Geometry,
        out: &mut Output<'_>,
    ) -> Result<(), ImageError> {
        let start = out.position();
        let at = |number: u32| start.saturating_add(u64::from(number.saturating_sub(1)) * u64::from(INODE));
        let hidden = |number, size, blocks| Inode { number, mode: FILE.1 | 0o600, links: 1, size, blocks };
        // As if it had all blocks that a double indirect block can lead to; that is how e2fsck knows it.
        let pointers = u64::from(BLOCK / 4);
        let size = (pointers * pointers + pointers + 12) * u64::from(BLOCK);
        let resize = Run { first: self.resize, blocks: geometry.resize_blocks() };
        let journal = u64::from(self.journal.blocks) * u64::from(BLOCK);
        let hidden =
            [hidden(RESIZE, size, Blocks::Resize(resize)), hidden(JOURNAL, journal, Blocks::Run(self.journal))];
        let (root, others) = self.items.split_at(1);
        let visible = |item| self.inode(item);
        let all = root.iter().map(visible).chain(hidden).chain(others.iter().map(visible));
        for inode in all {
            out.zeros_to(at(inode.number))?;
            out.write(&inodes.bytes(&inode))?;
        }
        Ok(())
    }

    fn inode<'a>(&'a self, item: &'a Item) -> Inode<'a> {
        let links = match &item.content {
            Held::Directory(held) => 2 + held.iter().filter(|(_, kind, _)| *kind == DIRECTORY).count(),
            Held::File(_) | Held::Link(_) => 1,
        };
        let blocks = match &item.content {
            Held::Link(target) if target.len() < SHORT_LINK => Blocks::Target(target),
            _ => Blocks::Run(item.run),
        };
        Inode {
            number: item.number,
            mode: item.kind.1 | item.permissions,
            // At most as many as there are inodes.
            links: u16::try_from(links).unwrap_or(1),
            size: item.length,
            blocks,
        }
    }

    /// Writes directories, files and long links. `start` is where the file system begins.
    pub(super) fn write_content(&self, inodes: &Inodes, start: u64, out: &mut Output<'_>) -> Result<(), ImageError> {
        for item in self.items.iter().filter(|item| item.run.blocks > 0) {
            let at = start.saturating_add(u64::from(item.run.first) * u64::from(BLOCK));
            out.zeros_to(at)?;
            match &item.content {
                Held::Directory(held) => {
                    let own = [(item.number, DIRECTORY.0, b".".as_slice()), (item.parent, DIRECTORY.0, b"..")];
                    let held = held.iter().map(|(number, kind, path)| (*number, kind.0, path.file_name()));
                    out.write(&inodes.directory(item.number, item.run.blocks, own.into_iter().chain(held)))?;
                }
                Held::Link(target) => out.write(target)?,
                Held::File(content) => content.write(out)?,
            }
            if out.position() != at.saturating_add(item.length) {
                return Err(ImageError::Changed { path: item.path.as_path().to_owned() });
            }
        }
        Ok(())
    }
}
