//! Configuration that is spread over directories: `/etc/NAME.d`, `/run/NAME.d`, `/usr/lib/NAME.d`, as kmod and systemd read it.

use std::collections::BTreeMap;

use super::sysroot::{EntryType, Sysroot, SysrootError};
use crate::names::TreePath;

/// A configuration file larger than this is none.
const LIMIT: u64 = 1 << 20;
/// Directories of configuration files, first wins (`conf_files_list` of systemd, `conf_files_get` of kmod).
const PARENTS: [&str; 5] = ["etc", "run", "usr/local/lib", "usr/lib", "lib"];

/// The files of a kind of configuration directory, path and text, by name: of several of one name the first directory's.
///
/// # Errors
/// A file that is there cannot be read, or is over 1 MiB.
pub fn files(root: &Sysroot, directory: &str, suffix: &str) -> Result<Vec<(String, String)>, SysrootError> {
    let all: Vec<String> = PARENTS.iter().map(|parent| format!("{parent}/{directory}")).collect();
    files_in(root, &all.iter().map(String::as_str).collect::<Vec<_>>(), suffix)
}

/// As [`files`], of directories that are named whole.
///
/// # Errors
/// As [`files`].
pub fn files_in(root: &Sysroot, directories: &[&str], suffix: &str) -> Result<Vec<(String, String)>, SysrootError> {
    let mut found: BTreeMap<Vec<u8>, TreePath> = BTreeMap::new();
    for directory in directories {
        let directory = TreePath::new(directory)?;
        let entries = match root.read_dir(&directory) {
            Ok(entries) => entries,
            Err(error) if error.is_not_found() => continue,
            Err(error) => return Err(error),
        };
        for entry in entries.into_iter().filter(|entry| entry.name.ends_with(suffix.as_bytes())) {
            let path = directory.join(&entry.name)?;
            found.entry(entry.name).or_insert(path);
        }
    }
    let mut out = Vec::new();
    for path in found.into_values() {
        if let Some(text) = text(root, &path)? {
            out.push((path.to_string(), text));
        }
    }
    Ok(out)
}

/// A file's text, bytes that are not UTF-8 replaced; `None` where there is no regular file: a link to `/dev/null` masks one.
///
/// # Errors
/// As [`files`].
pub fn text(root: &Sysroot, path: &TreePath) -> Result<Option<String>, SysrootError> {
    let resolved = match root.canonical(path) {
        Ok(resolved) => resolved,
        // Nothing, a link to nothing, or a loop: for the programs that read these files there is none.
        Err(SysrootError::Path { .. }) => return Ok(None),
        Err(error) => return Err(error),
    };
    match root.kind(&resolved)? {
        Some(EntryType::File) => Ok(Some(String::from_utf8_lossy(&root.read(&resolved, LIMIT)?).into_owned())),
        _ => Ok(None),
    }
}
