//! The kernels of a root: module directories and the boot image that belongs to each.

use std::collections::BTreeMap;

use crate::names::{KernelRelease, TreePath};
use crate::root::sysroot::{EntryType, Sysroot, SysrootError};

use super::{InventoryError, Kernel};

/// Where module directories are; kmod looks in the first.
const MODULE_PARENTS: [&str; 2] = ["lib/modules", "usr/lib/modules"];
/// A directory that has one of these holds a kernel's modules. (A purged kernel may leave an empty directory behind.)
const SIGNS: [&str; 4] = ["modules.dep", "kernel", "modules.order", "modules.builtin"];
/// Boot images beside their modules: Fedora, openSUSE, Arch.
const BESIDE_MODULES: [&str; 3] = ["vmlinuz", "Image", "vmlinux"];
/// Boot images in a directory of all kernels, followed by `-RELEASE`: `vmlinuz` almost everywhere, `Image` on arm64 openSUSE,
/// `kernel` on Gentoo, `vmlinux` on arm64 and riscv64 of some.
const WITH_RELEASE: [&str; 4] = ["vmlinuz", "Image", "kernel", "vmlinux"];
/// Directories of all kernels.
const IMAGE_PARENTS: [&str; 2] = ["boot", "usr/lib/kernel"];

/// Every kernel of the root, oldest first.
///
/// # Errors
/// The root cannot be read. A root without a kernel gives an empty list.
pub fn kernels(root: &Sysroot) -> Result<Vec<Kernel>, InventoryError> {
    let mut found: BTreeMap<KernelRelease, TreePath> = BTreeMap::new();
    for parent in MODULE_PARENTS {
        let parent = match root.canonical(&TreePath::new(parent)?) {
            Ok(path) => path,
            Err(error) if error.is_not_found() => continue,
            Err(error) => return Err(error.into()),
        };
        for entry in root.read_dir(&parent)? {
            // A directory whose name is no release is no kernel's.
            let Some(release) = std::str::from_utf8(&entry.name).ok().and_then(|name| KernelRelease::new(name).ok())
            else {
                continue;
            };
            let directory = match entry.kind {
                EntryType::Directory => parent.join(&entry.name)?,
                EntryType::Symlink => match root.canonical(&parent.join(&entry.name)?) {
                    Ok(path) if root.kind(&path)? == Some(EntryType::Directory) => path,
                    _ => continue,
                },
                _ => continue,
            };
            if holds_modules(root, &directory)? {
                found.entry(release).or_insert(directory);
            }
        }
    }
    let releases: Vec<KernelRelease> = found.keys().cloned().collect();
    found
        .into_iter()
        .map(|(release, modules)| {
            let image = image(root, &release, &modules, &releases)?;
            Ok(Kernel { release, image, modules })
        })
        .collect()
}

fn holds_modules(root: &Sysroot, directory: &TreePath) -> Result<bool, InventoryError> {
    for sign in SIGNS {
        if root.kind(&directory.join(sign)?)?.is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

fn image(
    root: &Sysroot,
    release: &KernelRelease,
    modules: &TreePath,
    all: &[KernelRelease],
) -> Result<Option<TreePath>, InventoryError> {
    let mut candidates = Vec::new();
    for parent in IMAGE_PARENTS {
        for name in WITH_RELEASE {
            candidates.push(TreePath::new(format!("{parent}/{name}-{release}"))?);
        }
    }
    for name in BESIDE_MODULES {
        candidates.push(modules.join(name)?);
    }
    // Alpine names images by flavour: `/boot/vmlinuz-lts` for `6.12.1-0-lts`. That says whose it is only where one kernel
    // has the flavour.
    let flavour = |release: &KernelRelease| release.as_str().rsplit('-').next().map(str::to_owned);
    if all.iter().filter(|other| flavour(other) == flavour(release)).count() == 1
        && let Some(flavour) = flavour(release)
    {
        candidates.push(TreePath::new(format!("boot/vmlinuz-{flavour}"))?);
    }
    for candidate in candidates {
        if let Some(path) = file(root, &candidate)? {
            return Ok(Some(path));
        }
    }
    // A name without a release: right if it leads to a file that has this release in its name, or if there is one kernel.
    for name in WITH_RELEASE {
        if let Some(path) = file(root, &TreePath::new(format!("boot/{name}"))?)? {
            let named = path.file_name().ends_with(format!("-{release}").as_bytes());
            if named || all.len() == 1 {
                return Ok(Some(path));
            }
        }
    }
    Ok(None)
}

/// `path` resolved, if it leads to a regular file.
fn file(root: &Sysroot, path: &TreePath) -> Result<Option<TreePath>, SysrootError> {
    match root.canonical(path) {
        Ok(path) => Ok((root.kind(&path)? == Some(EntryType::File)).then_some(path)),
        // A link to nothing or in a loop is no image; the search goes on.
        Err(SysrootError::Path { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    type Outcome = Result<(), Box<dyn std::error::Error>>;

    fn root_of(
        files: &[&str],
        links: &[(&str, &str)],
    ) -> Result<(tempfile::TempDir, Sysroot), Box<dyn std::error::Error>> {
        let dir = tempfile::tempdir()?;
        for file in files {
            let path = dir.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap())?;
            std::fs::write(path, "x")?;
        }
        for (name, target) in links {
            symlink(target, dir.path().join(name))?;
        }
        let root = Sysroot::open(dir.path())?;
        Ok((dir, root))
    }

    fn found(root: &Sysroot) -> Result<Vec<(String, Option<String>)>, InventoryError> {
        Ok(kernels(root)?.into_iter().map(|k| (k.release.to_string(), k.image.map(|i| i.to_string()))).collect())
    }

    #[test]
    fn kernels_are_found_once_and_in_order() -> Outcome {
        let (_dir, root) = root_of(
            &[
                "usr/lib/modules/6.1.0-31/modules.dep",
                "usr/lib/modules/6.1.0-9/modules.order",
                "usr/lib/modules/6.1.0-9/vmlinuz",
                "usr/lib/modules/empty/x",
                "boot/vmlinuz-6.1.0-31",
            ],
            &[("lib", "usr/lib"), ("boot/vmlinuz", "vmlinuz-6.1.0-31")],
        )?;
        let expected = [
            ("6.1.0-9".to_owned(), Some("/usr/lib/modules/6.1.0-9/vmlinuz".to_owned())),
            ("6.1.0-31".to_owned(), Some("/boot/vmlinuz-6.1.0-31".to_owned())),
        ];
        assert_eq!(found(&root)?, expected);
        Ok(())
    }

    #[test]
    fn images_without_a_release_belong_to_the_only_kernel_or_to_the_named_one() -> Outcome {
        let (_dir, root) = root_of(&["lib/modules/6.12.1-0-lts/modules.dep", "boot/vmlinuz-lts"], &[])?;
        assert_eq!(found(&root)?, [("6.12.1-0-lts".to_owned(), Some("/boot/vmlinuz-lts".to_owned()))]);
        let (_dir, root) = root_of(&["lib/modules/1/modules.dep", "lib/modules/2/modules.dep", "boot/vmlinuz"], &[])?;
        assert!(found(&root)?.iter().all(|(_, image)| image.is_none()));
        let (_dir, root) = root_of(
            &["lib/modules/1/modules.dep", "lib/modules/2/modules.dep", "boot/custom-2"],
            &[("boot/vmlinuz", "custom-2"), ("boot/vmlinuz-1", "vmlinuz-1")],
        )?;
        assert_eq!(found(&root)?, [("1".to_owned(), None), ("2".to_owned(), Some("/boot/custom-2".to_owned()))]);
        Ok(())
    }
}
