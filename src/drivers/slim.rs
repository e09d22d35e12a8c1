//! A [`Selection`] applied to the manifest of a root: what is dropped leaves, indexes of the kept modules come in.

use std::collections::{BTreeMap, BTreeSet};

use super::inventory::Inventory;
use super::select::Selection;
use crate::names::TreePath;
use crate::root::tree::{Content, Entry, FileTree, Kind};

/// Takes the dropped modules, firmware and kernels out of `tree`, with the directories that are empty then, and puts the
/// indexes in place of those that the root has.
///
/// An index keeps the owner, mode and time of the file that it replaces. Nothing but module and firmware files, module
/// directories of other kernels and indexes is touched.
pub fn apply(tree: &mut FileTree, inventory: &Inventory, selection: &Selection, indexes: BTreeMap<String, Vec<u8>>) {
    let dropped = selection.modules.values().chain(selection.firmware.values()).filter(|item| !item.kept);
    let mut emptied = BTreeSet::new();
    for item in dropped {
        tree.remove(&item.path);
        emptied.extend(item.path.parent());
    }
    // No index names them: depmod found another file of the same name first.
    for path in &inventory.modules.shadowed {
        tree.remove(path);
        emptied.extend(path.parent());
    }
    for kernel in &inventory.other_kernels {
        let all: Vec<TreePath> = tree.below(&kernel.modules).map(|(path, _)| path.clone()).collect();
        for path in all {
            tree.remove(&path);
        }
        tree.remove(&kernel.modules);
    }
    prune(tree, emptied);
    for (name, bytes) in indexes {
        let Ok(path) = inventory.kernel.modules.join(&name) else { continue };
        if let Some(entry) = tree.remove(&path) {
            tree.insert(path, Entry { kind: Kind::File(Content::Bytes(bytes)), ..entry });
        }
    }
}

/// Removes directories that hold nothing any more, upwards from `candidates`.
fn prune(tree: &mut FileTree, mut candidates: BTreeSet<TreePath>) {
    // The last in path order is the deepest of its branch.
    while let Some(directory) = candidates.pop_last() {
        let is_directory = tree.get(&directory).is_some_and(|entry| entry.kind == Kind::Directory);
        if is_directory && !directory.is_root() && tree.below(&directory).next().is_none() {
            tree.remove(&directory);
            candidates.extend(directory.parent());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_go_when_their_last_file_went() -> Result<(), crate::names::NameError> {
        let mut tree = FileTree::new();
        for path in ["", "a", "a/b", "a/b/c", "a/d", "ab"] {
            tree.insert(TreePath::new(path)?, Entry::directory(0));
        }
        tree.insert(TreePath::new("a/file")?, Entry::file(vec![], 0));
        prune(&mut tree, [TreePath::new("a/b/c")?].into());
        let left: Vec<String> = tree.iter().map(|(path, _)| path.to_string()).collect();
        assert_eq!(left, ["/", "/a", "/a/d", "/a/file", "/ab"]);
        Ok(())
    }
}
