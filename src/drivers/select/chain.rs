//! [`chain`]: from an item back to the rule that keeps it, for `why` and `report.json`.

use crate::names::{ModuleName, TreePath};

use super::{Edge, Link, Reason, Selection};

/// A module or a firmware entry of a selection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ItemRef<'a> {
    /// A module.
    Module(&'a ModuleName),
    /// A firmware file or link.
    Firmware(&'a TreePath),
}

/// The links from a rule to `item`, the rule's first; empty where the item is not kept. A chain starts at a rule, or at a
/// module that is built in (`from` is then `built-in NAME`).
#[must_use]
pub fn chain(selection: &Selection, item: ItemRef<'_>) -> Vec<Link> {
    let mut links = Vec::new();
    let mut next = match item {
        ItemRef::Module(name) => selection.modules.get(name),
        ItemRef::Firmware(path) => selection.firmware.get(path),
    };
    // No chain is longer than the items are many: a selection made by hand may hold a circle.
    let limit = selection.modules.len().saturating_add(selection.firmware.len());
    while let Some(item) = next
        && let Reason::Kept(link) = &item.reason
        && links.len() < limit
    {
        links.push(link.clone());
        next = match link.edge {
            Edge::Rule => None,
            _ if link.from.starts_with('/') => TreePath::new(&link.from).ok().and_then(|p| selection.firmware.get(&p)),
            _ => selection.modules.get(link.from.as_str()),
        };
    }
    links.reverse();
    links
}
