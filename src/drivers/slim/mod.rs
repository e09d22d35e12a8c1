//! A [`Selection`] applied: what is dropped leaves, indexes of the kept modules come in. Either to the manifest of a root,
//! for an image ([`apply`]), or to the root itself ([`Changes`]), which is the first applied to the root's own directories and the
//! difference written down in a journal, then done.
//!
//! Nothing but module and firmware files, module directories of other kernels, directories that are empty then, and indexes
//! is touched: not `modules.order` and `modules.builtin*`, not the boot images of other kernels.

mod changes;
mod error;
mod journal;
mod places;
mod replay;

use std::collections::{BTreeMap, BTreeSet};

use super::inventory::Inventory;
use super::select::Selection;
use crate::names::TreePath;
use crate::root::tree::{Content, Entry, FileTree, Kind};

pub use changes::{Changes, Summary};
pub use error::SlimError;
pub use journal::rewritten as rewritten_journal;
pub use replay::{Interrupted, Lock, refuse_interrupted};

/// Takes the dropped modules, firmware and kernels out of `tree`, with the directories that are empty then, and puts the
/// indexes in.
///
/// An index keeps the owner, mode and time of the file that it replaces; one that the root's depmod was too old to write has
/// those of `modules.dep`. A file that is kept under one name stays, whoever
/// else would drop it.
pub fn apply(tree: &mut FileTree, inventory: &Inventory, selection: &Selection, indexes: BTreeMap<String, Vec<u8>>) {
    let mut kept = BTreeSet::new();
    let mut dropped = Vec::new();
    for (name, item) in &selection.modules {
        // Where the index names a link (`weak-updates/`), the item is its target.
        let listed = inventory.modules.by_name.get(name);
        let link = listed.and_then(|module| inventory.kernel.modules.join(&module.relative).ok());
        let paths = [item.path.clone()].into_iter().chain(link);
        if item.kept { kept.extend(paths) } else { dropped.extend(paths) }
    }
    for item in selection.firmware.values() {
        if item.kept {
            kept.insert(item.path.clone());
        } else {
            dropped.push(item.path.clone());
        }
    }
    // No index names them: depmod found another file of the same name first.
    dropped.extend(inventory.modules.shadowed.iter().cloned());

    let mut emptied = BTreeSet::new();
    for kernel in &inventory.other_kernels {
        // A link beside the chosen kernel's directory (`current -> 6.12`) is no other kernel.
        let (other, chosen) = (&kernel.modules, &inventory.kernel.modules);
        if other.starts_with(chosen) || chosen.starts_with(other) {
            continue;
        }
        for (path, entry) in tree.below(other) {
            match entry.kind {
                Kind::Directory => emptied.extend([path.clone()]),
                _ => dropped.push(path.clone()),
            }
        }
        emptied.insert(other.clone());
    }
    for path in dropped.iter().filter(|path| !kept.contains(*path)) {
        tree.remove(path);
        emptied.extend(path.parent());
    }
    // The firmware directory itself stays, as the one of all kernels' modules does: packages expect it.
    prune(tree, emptied, inventory.firmware.directories.last());
    let in_kernel = |name: &str| inventory.kernel.modules.join(name).ok();
    let like = in_kernel("modules.dep").and_then(|path| tree.get(&path).cloned());
    for (name, bytes) in indexes {
        let Some(path) = in_kernel(&name) else { continue };
        if let Some(entry) = tree.remove(&path).or_else(|| like.clone()) {
            tree.insert(path, Entry { kind: Kind::File(Content::Bytes(bytes)), ..entry });
        }
    }
}

/// Removes directories that hold nothing any more, upwards from `candidates`, but not `stays`.
fn prune(tree: &mut FileTree, mut candidates: BTreeSet<TreePath>, stays: Option<&TreePath>) {
    // The last in path order is the deepest of its branch.
    while let Some(directory) = candidates.pop_last() {
        let is_directory = tree.get(&directory).is_some_and(|entry| entry.kind == Kind::Directory);
        let may_go = is_directory && !directory.is_root() && Some(&directory) != stays;
        if may_go && tree.below(&directory).next().is_none() {
            tree.remove(&directory);
            candidates.extend(directory.parent());
        }
    }
}

#[cfg(test)]
mod tests;
