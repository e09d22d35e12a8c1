//! Firmware names of entries, by which rules, families and `--keep` see them. Where the kernel finds a name is the inventory's
//! business: [`Firmware::lookup`].

use std::collections::BTreeMap;

use crate::drivers::inventory::{Firmware, Found};
use crate::drivers::target::FamilyFiles;
use crate::drivers::target::glob::Glob;
use crate::names::{FirmwarePath, TreePath};

/// Names by which a driver may ask for the entry at `path`: several where one search directory lies in another.
pub(super) fn of<'a>(firmware: &'a Firmware, path: &'a TreePath) -> impl Iterator<Item = &'a str> {
    firmware.directories.iter().filter_map(|directory| {
        let name = std::str::from_utf8(path.strip_prefix(directory)?).ok()?;
        Some(name.strip_suffix(".zst").or_else(|| name.strip_suffix(".xz")).unwrap_or(name))
    })
}

/// All names, sorted, so that a pattern looks only at what begins as it does.
pub(super) struct Names<'a> {
    firmware: &'a Firmware,
    sorted: Vec<(&'a str, &'a TreePath)>,
}

impl<'a> Names<'a> {
    pub(super) fn new(firmware: &'a Firmware) -> Self {
        let named = |path| of(firmware, path).map(move |name| (name, path));
        let mut sorted: Vec<_> = firmware.entries.keys().flat_map(named).collect();
        sorted.sort_unstable();
        Self { firmware, sorted }
    }

    /// The names that begin with `start`, with their entries.
    fn below<'b>(&'b self, start: &'b str) -> impl Iterator<Item = (&'a str, &'a TreePath)> + 'b {
        let from = self.sorted.partition_point(|(name, _)| *name < start);
        let near = self.sorted.get(from..).unwrap_or_default().iter();
        near.take_while(move |(name, _)| name.starts_with(start)).copied()
    }

    /// The names that a pattern matches, with their entries.
    pub(super) fn matching<'b>(&'b self, glob: &'b Glob) -> impl Iterator<Item = (&'a str, &'a TreePath)> + 'b {
        self.below(glob.literal()).filter(|(name, _)| glob.matches(name))
    }

    /// Everything that a family's pattern means, by name.
    pub(super) fn look_up(&self, files: &FamilyFiles) -> Vec<Found> {
        let lookup = |name: &str| FirmwarePath::new(name).map(|name| self.firmware.lookup(&name)).unwrap_or_default();
        // `**` is not in the kernel's language: each name that it covers is looked up.
        let each = |names: &mut dyn Iterator<Item = &str>| {
            let found = names.flat_map(lookup).map(|found| (found.name.clone(), found));
            found.collect::<BTreeMap<_, _>>().into_values().collect()
        };
        match files {
            FamilyFiles::Versions(versions) if versions.as_str().contains("**") => each(
                &mut self.below(versions.literal()).map(|(name, _)| name).filter(|name| versions.parse(name).is_some()),
            ),
            FamilyFiles::Versions(versions) => {
                let found = lookup(versions.any()).into_iter();
                found.filter(|found| versions.parse(found.name.as_str()).is_some()).collect()
            }
            FamilyFiles::All(glob) if glob.as_str().contains("**") => {
                each(&mut self.matching(glob).map(|(name, _)| name))
            }
            FamilyFiles::All(glob) => lookup(glob.as_str()),
        }
    }
}
