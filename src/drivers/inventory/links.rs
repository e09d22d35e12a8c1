//! Directory trees with their links, walked once, so that following a link asks the system nothing in most cases.

use rayon::prelude::*;

use crate::names::TreePath;
use crate::root::sysroot::{DirEntry, EntryType, Metadata, Sysroot, SysrootError};

use super::InventoryError;

/// Paths below the walked directories: far over any distribution's firmware (5,000), and a bound for hostile trees.
pub(super) const MOST: usize = 500_000;
/// Links of one path before it counts as a loop (the kernel's own limit).
const MAX_LINKS: usize = 40;

/// What a path is, a last link not followed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Node {
    Directory,
    File(u64),
    Link(Vec<u8>),
    Other,
}

/// Everything below `top` except what lies in directories that `enter` (given the directory's path) refuses, sorted by path;
/// no link is followed. Each level's directories are read on all threads.
pub(super) fn walk(
    root: &Sysroot,
    top: &TreePath,
    enter: impl Fn(&TreePath) -> bool + Sync,
) -> Result<Vec<(TreePath, Node)>, InventoryError> {
    let list = |path: &TreePath| -> Result<Vec<(TreePath, Node)>, InventoryError> {
        let directory = root.directory(path)?;
        let entry = |DirEntry { name, kind }| {
            let node = match kind {
                EntryType::Directory => Node::Directory,
                EntryType::Symlink => Node::Link(directory.link_target(&name)?),
                EntryType::File | EntryType::Other => {
                    node_of(&directory.metadata_of(&name)?, || directory.link_target(&name))?
                }
            };
            Ok((path.join(&name)?, node))
        };
        directory.entries()?.into_iter().map(entry).collect()
    };
    let mut out = Vec::new();
    let mut level = vec![top.clone()];
    while !level.is_empty() {
        // Few at a time: a thread that finds nothing more to take costs more than reading a directory.
        let found: Vec<_> = level.par_iter().with_min_len(4).map(list).collect::<Result<_, _>>()?;
        level.clear();
        for (path, node) in found.into_iter().flatten() {
            if node == Node::Directory && enter(&path) {
                level.push(path.clone());
            }
            out.push((path, node));
        }
        if out.len() > MOST {
            return Err(InventoryError::TooManyFiles { path: top.clone(), limit: MOST });
        }
    }
    out.par_sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
    Ok(out)
}

/// The search directories as they were walked, so that following a link asks the system nothing in most cases.
pub(super) struct Tree<'a> {
    pub(super) root: &'a Sysroot,
    /// Sorted by path.
    pub(super) nodes: Vec<(TreePath, Node)>,
}

impl<'a> Tree<'a> {
    /// Walks the directories, those that lie in others once.
    pub(super) fn walk<'t>(
        root: &'a Sysroot,
        tops: impl IntoIterator<Item = &'t TreePath>,
    ) -> Result<Self, InventoryError> {
        let mut walked: Vec<&TreePath> = Vec::new();
        let mut nodes = Vec::new();
        for top in tops {
            if !walked.iter().any(|before| top.starts_with(before)) {
                nodes.extend(walk(root, top, |_| true)?);
                nodes.push((top.clone(), Node::Directory));
                walked.push(top);
            }
        }
        nodes.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        nodes.dedup_by(|(a, _), (b, _)| a == b);
        Ok(Self { root, nodes })
    }

    pub(super) fn node(&self, path: &TreePath) -> Result<Option<Node>, InventoryError> {
        match self.nodes.binary_search_by(|(at, _)| at.cmp(path)).ok().and_then(|place| self.nodes.get(place)) {
            Some((_, node)) => Ok(Some(node.clone())),
            None => match self.root.metadata(path) {
                Ok(metadata) => Ok(Some(node_of(&metadata, || self.root.read_link(path))?)),
                Err(error) if error.is_not_found() => Ok(None),
                Err(error) => Err(error.into()),
            },
        }
    }

    /// Where the link at `path` (whose directory is resolved) leads: what is there, its path, the further links on the way.
    /// `None` for nothing or a loop.
    pub(super) fn follow(
        &self,
        path: &TreePath,
        target: &[u8],
    ) -> Result<Option<(Node, TreePath, Vec<TreePath>)>, InventoryError> {
        let mut at = path.parent().unwrap_or_default();
        let mut node = Node::Directory;
        let mut links = Vec::new();
        let mut pending = Vec::new();
        let mut target = target.to_vec();
        loop {
            if target.starts_with(b"/") {
                at = TreePath::root();
            }
            pending.extend(target.split(|&b| b == b'/').rev().map(<[u8]>::to_vec));
            target = loop {
                let Some(component) = pending.pop() else { return Ok(Some((node, at, links))) };
                match component.as_slice() {
                    b"" | b"." => continue,
                    _ if node != Node::Directory => return Ok(None),
                    b".." => {
                        at = at.parent().unwrap_or_default();
                        continue;
                    }
                    _ => {}
                }
                let next = at.join(&component)?;
                match self.node(&next)? {
                    None => return Ok(None),
                    Some(Node::Link(target)) => {
                        links.push(next);
                        break target;
                    }
                    Some(other) => (node, at) = (other, next),
                }
            };
            if links.len() > MAX_LINKS {
                return Ok(None);
            }
        }
    }
}

fn node_of(metadata: &Metadata, target: impl Fn() -> Result<Vec<u8>, SysrootError>) -> Result<Node, SysrootError> {
    Ok(match EntryType::of(metadata) {
        EntryType::Directory => Node::Directory,
        EntryType::File => Node::File(u64::try_from(metadata.st_size).unwrap_or(0)),
        EntryType::Symlink => Node::Link(target()?),
        EntryType::Other => Node::Other,
    })
}
