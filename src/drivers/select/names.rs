//! Firmware names -> entries of the firmware directories. The seam to the inventory: all that selection knows of the
//! kernel's search order is here.

use std::collections::BTreeMap;

use crate::drivers::inventory::{Firmware, FirmwareKind};
use crate::drivers::target::glob::Glob;
use crate::names::TreePath;

/// Forms of a file in the order in which the kernel tries them, each in all directories
/// (`drivers/base/firmware_loader/main.c`, `_request_firmware`).
const FORMS: [&str; 3] = ["", ".zst", ".xz"];

/// Links that are followed on the way to a file before it counts as a loop (the kernel's own limit).
const MAX_LINKS: usize = 40;

/// Names by which a driver may ask for the entry at `path`: several where one search directory lies in another.
pub(super) fn of<'a>(firmware: &'a Firmware, path: &'a TreePath) -> impl Iterator<Item = &'a str> {
    firmware.directories.iter().filter_map(|directory| {
        let name = std::str::from_utf8(path.strip_prefix(directory)?).ok()?;
        Some(plain(name))
    })
}

/// A file's name without the suffix of its compressed form.
fn plain(name: &str) -> &str {
    name.strip_suffix(".zst").or_else(|| name.strip_suffix(".xz")).unwrap_or(name)
}

/// The entries that have to stay so that one name works: the links to directories on the way first, last the entry that has
/// the name itself (a file or a link).
pub(super) type Way = Vec<TreePath>;

/// Where the kernel finds `name`, a name without wildcards; `None` where it is missing or only a broken link is there.
pub(super) fn find(firmware: &Firmware, name: &str) -> Option<Way> {
    FORMS.iter().find_map(|form| {
        firmware.directories.iter().find_map(|directory| walk(firmware, directory.join(format!("{name}{form}")).ok()?))
    })
}

/// Follows links to directories in the middle of `path` until an entry stands there.
fn walk(firmware: &Firmware, mut path: TreePath) -> Option<Way> {
    let mut way = Vec::new();
    for _ in 0..MAX_LINKS {
        match firmware.entries.get(&path) {
            Some(FirmwareKind::File { .. } | FirmwareKind::Link { .. }) => {
                way.push(path);
                return Some(way);
            }
            Some(_) => return None,
            None => {}
        }
        let ancestors = std::iter::successors(path.parent(), TreePath::parent);
        let (link, target) = ancestors.filter(|dir| !dir.is_root()).find_map(|dir| match firmware.entries.get(&dir) {
            Some(FirmwareKind::DirectoryLink { target }) => Some((dir, target)),
            _ => None,
        })?;
        path = target.join(path.strip_prefix(&link)?).ok()?;
        way.push(link);
    }
    None
}

/// All names that `glob` matches, with where the kernel finds them. Names through one link to a directory count too.
pub(super) fn find_all(firmware: &Firmware, glob: &Glob) -> BTreeMap<String, Way> {
    let mut found = BTreeMap::new();
    let mut add = |name: &str| {
        if glob.matches(name)
            && !found.contains_key(name)
            && let Some(way) = find(firmware, name)
        {
            found.insert(name.to_owned(), way);
        }
    };
    for (path, kind) in &firmware.entries {
        for name in of(firmware, path) {
            add(name);
            let FirmwareKind::DirectoryLink { target } = kind else { continue };
            // A link above itself would only repeat names.
            if path.starts_with(target) {
                continue;
            }
            let below = firmware.entries.range(target..).take_while(|(path, _)| path.starts_with(target));
            for tail in below.filter_map(|(path, _)| std::str::from_utf8(path.strip_prefix(target)?).ok()) {
                add(plain(&format!("{name}/{tail}")));
            }
        }
    }
    found
}
