//! Directory trees with their links, walked once, so that following a link asks the system nothing in most cases.

use std::collections::BTreeMap;

use crate::names::TreePath;
use crate::root::sysroot::{EntryType, Metadata, Sysroot, SysrootError};

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

/// The search directories as they were walked, so that following a link asks the system nothing in most cases.
pub(super) struct Tree<'a> {
    pub(super) root: &'a Sysroot,
    pub(super) nodes: BTreeMap<TreePath, Node>,
}

impl Tree<'_> {
    pub(super) fn walk(&mut self, top: &TreePath) -> Result<(), InventoryError> {
        let mut pending = vec![top.clone()];
        while let Some(path) = pending.pop() {
            let directory = self.root.directory(&path)?;
            for name in directory.names()? {
                let node = node_of(&directory.metadata_of(&name)?, || directory.link_target(&name))?;
                let entry = path.join(&name)?;
                if node == Node::Directory {
                    pending.push(entry.clone());
                }
                self.nodes.insert(entry, node);
            }
            self.nodes.insert(path, Node::Directory);
            if self.nodes.len() > MOST {
                return Err(InventoryError::TooManyFiles { path: top.clone(), limit: MOST });
            }
        }
        Ok(())
    }

    pub(super) fn node(&self, path: &TreePath) -> Result<Option<Node>, InventoryError> {
        match self.nodes.get(path) {
            Some(node) => Ok(Some(node.clone())),
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
