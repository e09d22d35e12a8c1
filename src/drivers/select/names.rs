//! Firmware names of entries, by which rules and `--keep` see them. Where the kernel finds a name is the inventory's
//! business: [`Firmware::lookup`].

use crate::drivers::inventory::Firmware;
use crate::names::TreePath;

/// Names by which a driver may ask for the entry at `path`: several where one search directory lies in another.
pub(super) fn of<'a>(firmware: &'a Firmware, path: &'a TreePath) -> impl Iterator<Item = &'a str> {
    firmware.directories.iter().filter_map(|directory| {
        let name = std::str::from_utf8(path.strip_prefix(directory)?).ok()?;
        Some(name.strip_suffix(".zst").or_else(|| name.strip_suffix(".xz")).unwrap_or(name))
    })
}
