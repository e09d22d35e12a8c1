//! Whether anything of a package is in the image.

use std::collections::{BTreeMap, BTreeSet};

use super::PackagesError;
use crate::names::TreePath;
use crate::root::sysroot::{EntryType, Sysroot};

/// What a package also brings: where nothing else of it is left, the package is not in the image. Links by build ID only name files
/// that lie elsewhere.
const DOCUMENTATION: [&str; 13] = [
    "usr/lib/.build-id",
    "usr/share/bug",
    "usr/share/doc",
    "usr/share/doc-base",
    "usr/share/gtk-doc",
    "usr/share/help",
    "usr/share/info",
    "usr/share/licenses",
    "usr/share/lintian",
    "usr/share/locale",
    "usr/share/man",
    "usr/share/metainfo",
    "usr/share/reportbug",
];

/// Directories remembered; a hostile list could name millions.
const MAX_DIRECTORIES: usize = 100_000;

/// Files looked at of one package; the largest of distributions have a tenth. Of more, nothing is said.
const MAX_FILES: usize = 500_000;

/// The question, with the directories that were resolved already: a database names `/lib/x` where the root has `/usr/lib/x`.
pub(super) struct Places<'a> {
    root: &'a Sysroot,
    contained: &'a dyn Fn(&TreePath) -> bool,
    directories: BTreeMap<TreePath, TreePath>,
}

impl<'a> Places<'a> {
    pub(super) fn new(root: &'a Sysroot, contained: &'a dyn Fn(&TreePath) -> bool) -> Self {
        Self { root, contained, directories: BTreeMap::new() }
    }

    /// Whether files are listed that are no documentation, and none of them is in the image. Directories in the list are passed
    /// over where something is listed below them. A package that lists more than [`MAX_FILES`] stays.
    pub(super) fn is_gone<'b>(&mut self, listed: impl Iterator<Item = &'b [u8]>) -> Result<bool, PackagesError> {
        // What no path can be is not in the image either.
        let mut paths = listed.filter_map(|path| TreePath::new(path).ok());
        let listed: BTreeSet<TreePath> = paths.by_ref().take(MAX_FILES).collect();
        if paths.next().is_some() {
            return Ok(false);
        }
        let parents: BTreeSet<TreePath> = listed.iter().filter_map(TreePath::parent).collect();
        let mut asked = false;
        for path in listed.difference(&parents).filter(|path| !path.is_root()) {
            let parent = self.directory(&path.parent().unwrap_or_default(), 0)?;
            let path = parent.join(path.file_name())?;
            if is_documentation(&path) {
                continue;
            }
            asked = true;
            if (self.contained)(&path) {
                return Ok(false);
            }
        }
        Ok(asked)
    }

    /// The directory with its links resolved; as it is named where it is no longer there.
    fn directory(&mut self, path: &TreePath, depth: usize) -> Result<TreePath, PackagesError> {
        if path.is_root() || depth > 64 {
            return Ok(path.clone());
        }
        if let Some(known) = self.directories.get(path) {
            return Ok(known.clone());
        }
        let parent = self.directory(&path.parent().unwrap_or_default(), depth.saturating_add(1))?;
        let named = parent.join(path.file_name())?;
        let resolved = match self.root.kind(&named) {
            // A link that leads nowhere, or in a circle, holds no file.
            Ok(Some(EntryType::Symlink)) => self.root.canonical(&named).unwrap_or(named),
            _ => named,
        };
        if self.directories.len() < MAX_DIRECTORIES {
            self.directories.insert(path.clone(), resolved.clone());
        }
        Ok(resolved)
    }
}

fn is_documentation(path: &TreePath) -> bool {
    DOCUMENTATION
        .iter()
        .any(|directory| path.as_bytes().strip_prefix(directory.as_bytes()).is_some_and(|rest| rest.starts_with(b"/")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_package_with_too_many_files_nothing_is_said() {
        let directory = tempfile::tempdir().unwrap();
        let root = Sysroot::open(directory.path()).unwrap();
        let is_gone = |files: usize| {
            let names: Vec<String> = (0..files).map(|number| format!("/usr/lib/{number}")).collect();
            Places::new(&root, &|_| false).is_gone(names.iter().map(String::as_bytes)).unwrap()
        };
        assert!(is_gone(1) && is_gone(MAX_FILES));
        assert!(!is_gone(MAX_FILES + 1));
    }
}
