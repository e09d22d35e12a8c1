//! The size report: what an image is made of, what was kept and dropped, and why. `report.json`, schema 1.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::drivers::select::{Edge, Item, ItemRef, Link, Selection, chain};
use crate::image::budget::Budget;
use crate::names::{FirmwarePath, KernelRelease, ModuleName, TreePath};

/// Version of `report.json`'s shape.
pub const SCHEMA: u32 = 1;

/// The whole report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Release of the kernel in the image.
    pub kernel: KernelRelease,
    /// Hardware targets, as given; `all` where nothing is slimmed.
    pub target: Vec<String>,
    /// Modules of that kernel.
    pub modules: Class,
    /// Firmware files and links.
    pub firmware: Class,
    /// Firmware that kept drivers declare and the root does not have: name and the modules that declare it. Most of it is
    /// for hardware or versions that nobody has; a machine that needs one of them will say so in its log.
    pub missing_firmware: BTreeMap<FirmwarePath, Vec<ModuleName>>,
    /// Firmware that no driver declares and kmod-db does not know.
    pub unknown_firmware: UnknownFirmware,
    /// What each rule keeps, most bytes first. An item counts for the rule at the beginning of its chain.
    pub rules: Vec<RuleSum>,
    /// The root file system as packed; not in a plan.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rootfs: Option<Rootfs>,
    /// The initrd; not in a plan.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub initrd: Option<Initrd>,
    /// The UKI; not in a plan.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uki: Option<Uki>,
    /// What the image asks of a machine; not in a plan.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub budget: Option<Budget>,
    /// What the user should know.
    pub warnings: Vec<String>,
}

/// Modules or firmware.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Class {
    /// Items that stay.
    pub kept: u64,
    /// Their bytes in the root, as the files are compressed there.
    pub kept_bytes: u64,
    /// Items that go.
    pub dropped: u64,
    /// Their bytes in the root.
    pub dropped_bytes: u64,
    /// Every item, by path.
    pub items: Vec<ReportItem>,
}

/// One module or firmware file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ReportItem {
    /// In the root, with a leading slash.
    pub path: String,
    /// Bytes in the root; 0 for a link.
    pub bytes: u64,
    /// Whether it stays.
    pub kept: bool,
    /// Why.
    pub reason: String,
}

/// A rule, and what it keeps with all that follows from it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RuleSum {
    /// The rule as its chain tells it: `path kernel/drivers/nvme/**`, `--keep nvme`, `modules-load.d br_netfilter`,
    /// `built-in fat`.
    pub rule: String,
    /// Where it is written.
    pub source: String,
    /// Modules.
    pub modules: u64,
    /// Their bytes.
    pub module_bytes: u64,
    /// Firmware files and links.
    pub firmware: u64,
    /// Their bytes.
    pub firmware_bytes: u64,
}

/// What one selection keeps more than another.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Cost {
    /// Modules.
    pub modules: u64,
    /// Firmware files and links.
    pub firmware: u64,
    /// Bytes of both.
    pub bytes: u64,
}

impl Cost {
    /// What `with` keeps and `without` does not.
    #[must_use]
    pub fn between(without: &Selection, with: &Selection) -> Self {
        let mut cost = Self::default();
        for (name, item) in with.modules.iter().filter(|(_, item)| item.kept) {
            if without.modules.get(name).is_none_or(|item| !item.kept) {
                cost.modules += 1;
                cost.bytes += item.bytes;
            }
        }
        for (path, item) in with.firmware.iter().filter(|(_, item)| item.kept) {
            if without.firmware.get(path).is_none_or(|item| !item.kept) {
                cost.firmware += 1;
                cost.bytes += item.bytes;
            }
        }
        cost
    }
}

/// Firmware of which nothing can be said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct UnknownFirmware {
    /// Whether it stays (`--unknown-firmware`).
    pub kept: bool,
    /// Bytes of all.
    pub bytes: u64,
    /// The files and links, by path.
    pub items: Vec<TreePath>,
}

/// The packed root.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Rootfs {
    /// Entries, directories and links included.
    pub files: u64,
    /// Bytes of the regular files, each hard-linked file once.
    pub bytes: u64,
}

/// The initrd.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Initrd {
    /// Compressed bytes.
    pub bytes: u64,
    /// Bytes of the cpio archive.
    pub uncompressed_bytes: u64,
    /// zstd's compression level.
    pub level: i32,
    /// Digests of the compressed initrd by PCR bank, hexadecimal: for `uki build --reuse-initrd`.
    pub digests: BTreeMap<String, String>,
}

/// The UKI.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Uki {
    /// Bytes of the file, signature included.
    pub bytes: u64,
    /// Sections in file order.
    pub sections: Vec<Section>,
}

/// A section of the UKI.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Section {
    /// With its dot.
    pub name: String,
    /// Bytes of the content.
    pub bytes: u64,
}

impl Class {
    /// Sums up items.
    #[must_use]
    pub fn new<'a>(items: impl Iterator<Item = &'a Item>) -> Self {
        let mut class = Self { kept: 0, kept_bytes: 0, dropped: 0, dropped_bytes: 0, items: Vec::new() };
        for item in items {
            let (count, bytes) = match item.kept {
                true => (&mut class.kept, &mut class.kept_bytes),
                false => (&mut class.dropped, &mut class.dropped_bytes),
            };
            *count += 1;
            *bytes += item.bytes;
            class.items.push(ReportItem {
                path: item.path.to_string(),
                bytes: item.bytes,
                kept: item.kept,
                reason: item.reason.to_string(),
            });
        }
        class.items.sort_by(|a, b| a.path.cmp(&b.path));
        class
    }
}

impl Report {
    /// The part that a plan knows.
    #[must_use]
    pub fn plan(kernel: &KernelRelease, target: &[String], selection: &Selection) -> Self {
        Self {
            schema: SCHEMA,
            kernel: kernel.clone(),
            target: target.to_vec(),
            modules: Class::new(selection.modules.values()),
            firmware: Class::new(selection.firmware.values()),
            missing_firmware: selection.missing_firmware.clone(),
            unknown_firmware: unknown(selection),
            rules: rules(selection),
            rootfs: None,
            initrd: None,
            uki: None,
            budget: None,
            warnings: selection.warnings.clone(),
        }
    }
}

fn unknown(selection: &Selection) -> UnknownFirmware {
    let items = selection.unknown_firmware.iter().filter_map(|path| selection.firmware.get(path));
    let (mut kept, mut bytes) = (false, 0);
    for item in items {
        kept |= item.kept;
        bytes += item.bytes;
    }
    UnknownFirmware { kept, bytes, items: selection.unknown_firmware.iter().cloned().collect() }
}

fn rules(selection: &Selection) -> Vec<RuleSum> {
    let mut sums: BTreeMap<(String, String), RuleSum> = BTreeMap::new();
    let modules = selection.modules.iter().map(|(name, item)| (ItemRef::Module(name), item));
    let firmware = selection.firmware.iter().map(|(path, item)| (ItemRef::Firmware(path), item));
    for (reference, item) in modules.chain(firmware).filter(|(_, item)| item.kept) {
        let Some(Link { from, source, edge, .. }) = chain(selection, reference).into_iter().next() else { continue };
        // A built-in's chain begins with the edge's source, which is not where the built-in is written.
        let source = if edge == Edge::Rule { source } else { "the kernel".to_owned() };
        let sum = sums.entry((from.clone(), source.clone())).or_insert_with(|| RuleSum {
            rule: from,
            source,
            modules: 0,
            module_bytes: 0,
            firmware: 0,
            firmware_bytes: 0,
        });
        match reference {
            ItemRef::Module(_) => {
                sum.modules += 1;
                sum.module_bytes += item.bytes;
            }
            ItemRef::Firmware(_) => {
                sum.firmware += 1;
                sum.firmware_bytes += item.bytes;
            }
        }
    }
    let mut sums: Vec<_> = sums.into_values().collect();
    // Stable: of equal bytes the order of the text.
    sums.sort_by_key(|sum| std::cmp::Reverse(sum.module_bytes + sum.firmware_bytes));
    sums
}

/// Bytes as people read them: `512 B`, `1.5 KiB`, `138.2 MiB`.
#[must_use]
pub fn human(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    // Tenths of the unit, rounded; integers only, so that no platform rounds differently.
    let mut tenths = u128::from(bytes) * 10 / 1024;
    let mut unit = 0;
    while tenths >= 10_240 && unit + 1 < UNITS.len() {
        tenths /= 1024;
        unit += 1;
    }
    format!("{}.{} {}", tenths / 10, tenths % 10, UNITS.get(unit).unwrap_or(&"TiB"))
}

#[cfg(test)]
mod tests {
    use super::human;

    #[test]
    fn sizes_are_readable() {
        for (bytes, text) in
            [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (138 << 20, "138.0 MiB"), (5 << 40, "5.0 TiB")]
        {
            assert_eq!(human(bytes), text);
        }
    }
}
