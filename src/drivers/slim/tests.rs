use std::collections::BTreeMap;

use super::*;
use crate::drivers::inventory::{Compression, Firmware, Kernel, Module, Modules};
use crate::drivers::select::{Item, Reason};
use crate::names::{KernelRelease, ModuleName, NameError};

fn paths(tree: &FileTree) -> Vec<String> {
    tree.iter().map(|(path, _)| path.to_string()).collect()
}

#[test]
fn directories_go_when_their_last_file_went() -> Result<(), NameError> {
    let mut tree = FileTree::new();
    for path in ["", "a", "a/b", "a/b/c", "a/d", "ab", "f", "f/g"] {
        tree.insert(TreePath::new(path)?, Entry::directory(0));
    }
    tree.insert(TreePath::new("a/file")?, Entry::file(vec![], 0));
    prune(&mut tree, [TreePath::new("a/b/c")?, TreePath::new("f/g")?].into(), Some(&TreePath::new("f")?));
    assert_eq!(paths(&tree), ["/", "/a", "/a/d", "/a/file", "/ab", "/f"]);
    Ok(())
}

/// A module of kernel 2 whose index names `relative`, a link to `path`.
fn module(name: &str, relative: &str, path: &str, kept: bool) -> Result<(Module, Item), NameError> {
    let path = TreePath::new(path)?;
    let module = Module {
        name: ModuleName::new(name)?,
        path: path.clone(),
        relative: relative.to_owned(),
        bytes: 1,
        compression: Compression::None,
    };
    Ok((module, Item { path, bytes: 1, kept, reason: Reason::NotAsked }))
}

#[test]
fn a_kept_module_in_another_kernels_directory_stays_and_an_alias_of_the_kernel_is_no_other() -> Result<(), NameError> {
    let mut tree = FileTree::new();
    for path in ["", "m", "m/1", "m/1/extra", "m/1/kernel", "m/2", "m/2/weak-updates"] {
        tree.insert(TreePath::new(path)?, Entry::directory(0));
    }
    for path in ["m/1/extra/stay.ko", "m/1/extra/go.ko", "m/1/kernel/x.ko", "m/1/modules.dep", "m/2/modules.dep"] {
        tree.insert(TreePath::new(path)?, Entry::file(vec![], 0));
    }
    for (path, target) in [("stay", "stay"), ("go", "go"), ("again", "stay")] {
        let target = format!("../../1/extra/{target}.ko");
        tree.insert(TreePath::new(format!("m/2/weak-updates/{path}.ko"))?, Entry::symlink(target.as_bytes(), 0));
    }
    let mut inventory = Inventory {
        kernel: Kernel { release: KernelRelease::new("2")?, image: None, modules: TreePath::new("m/2")? },
        other_kernels: Vec::new(),
        modules: Modules::default(),
        firmware: Firmware::default(),
    };
    for (release, modules) in [("1", "m/1"), ("current", "m/2")] {
        let (release, modules) = (KernelRelease::new(release)?, TreePath::new(modules)?);
        inventory.other_kernels.push(Kernel { release, image: None, modules });
    }
    let mut selection = Selection::default();
    for (module, item) in [
        module("stay", "weak-updates/stay.ko", "m/1/extra/stay.ko", true)?,
        module("go", "weak-updates/go.ko", "m/1/extra/go.ko", false)?,
        module("again", "weak-updates/again.ko", "m/1/extra/stay.ko", false)?,
    ] {
        selection.modules.insert(module.name.clone(), item);
        inventory.modules.by_name.insert(module.name.clone(), module);
    }
    apply(&mut tree, &inventory, &selection, BTreeMap::from([("modules.dep".to_owned(), b"new".to_vec())]));
    let left = [
        "/",
        "/m",
        "/m/1",
        "/m/1/extra",
        "/m/1/extra/stay.ko",
        "/m/2",
        "/m/2/modules.dep",
        "/m/2/weak-updates",
        "/m/2/weak-updates/stay.ko",
    ];
    assert_eq!(paths(&tree), left);
    let dep = tree.get(&TreePath::new("m/2/modules.dep")?).map(|entry| entry.kind.clone());
    assert_eq!(dep, Some(Kind::File(Content::Bytes(b"new".to_vec()))));
    Ok(())
}
