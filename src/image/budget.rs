//! What an image asks of a machine: room on the EFI system partition, memory to boot, and what firmware can load.
//!
//! Figures only: nothing is read or measured here. All are bytes unless a name says otherwise.
//!
//! **The EFI system partition.** An installed system has the image in four roles (active, passive, recovery, statereset). While the agent
//! installs, the source lies there as well, without a role: five of them. An upgrade puts the new image there before it
//! takes an old one away: five again. But before it begins, the agent asks for as much free room as it takes the source to be:
//! for a container image 2.5 times what the registry holds, for a folder its files, and 100 MiB in any case. So the need is
//! what is there once (boot manager, entries, UKIs without a role), four times the roles' set, and the larger of
//! that set and `2.5 x the tree + 100 MiB`, as long as the next image is as large as this one. What FAT takes for itself depends on
//! the size of its clusters, and that on the size of the partition: [`fat::least_mib`].
//!
//! **Memory.** Firmware loads the UKI; the kernel unpacks the initrd out of it, the decompressor's window on top; immucore copies
//! what was unpacked to a second tmpfs, and both stay for as long as the machine runs. Each tmpfs holds at most half of the
//! memory, which twice the root says as well. Not in the figure: what the system needs once it runs.

use serde::Serialize;

use super::esp::{FIRMWARE_LIMIT, FIRMWARE_WARNING, NOROLE};
use super::{Files, Node, fat};

/// Copies of the image on an installed system.
pub const ROLES: u64 = 4;
const MIB: u64 = 1 << 20;
/// Before a figure that is past a limit.
const UKI_HAS: &str = "UKI has";
/// The agent adds this to the size of any source.
const AGENT_EXTRA: u64 = 100 * MIB;
/// The EFI system partition that the agent makes where `install.partitions.efi.size` says nothing.
const AGENT_ESP_MIB: u64 = 15_360;

/// What an image consists of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sizes {
    /// The largest UKI.
    pub uki: u64,
    /// All files that belong to a role (`norole...`).
    pub role_set: u64,
    /// All files of the tree.
    pub tree: u64,
    /// How many files and directories the tree has.
    pub entries: u64,
    /// The root, unpacked.
    pub root: u64,
    /// The window of the initrd's compression.
    pub window: u64,
}

impl Sizes {
    /// Of a tree without roles, and of the root in its UKIs.
    #[must_use]
    pub fn of(tree: &Files, root: u64, window: u64) -> Self {
        let mut out = Self { root, window, tree: tree.bytes(), ..Self::default() };
        for (path, node) in tree.iter() {
            out.entries += 1;
            let Node::File { content, .. } = node else { continue };
            let name = path.file_name().to_ascii_lowercase();
            if name.starts_with(NOROLE.as_bytes()) {
                out.role_set = out.role_set.saturating_add(content.length());
            }
            if name.ends_with(b".efi")
                && path.parent().is_some_and(|parent| parent.file_name().eq_ignore_ascii_case(b"kairos"))
            {
                out.uki = out.uki.max(content.length());
            }
        }
        out
    }
}

/// The figures.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Budget {
    /// Bytes of the largest UKI.
    pub uki_bytes: u64,
    /// What the EFI system partition must hold: four copies, and one more while an upgrade runs.
    pub esp_bytes: u64,
    /// The fitting `install.partitions.efi.size`, MiB.
    pub esp_mib: u64,
    /// The partition that the agent makes where that is not set, MiB.
    pub agent_esp_mib: u64,
    /// Memory while the initrd is unpacked: the file, the root, the window.
    pub unpacking_bytes: u64,
    /// Memory that the root takes for good: twice.
    pub resident_bytes: u64,
    /// The least memory of a machine that boots it.
    pub boot_ram_bytes: u64,
}

/// What must not be passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Limits {
    /// `--max-uki-size`
    pub uki: Option<u64>,
    /// `--max-boot-ram`
    pub boot_ram: Option<u64>,
}

/// A budget that is not kept, or no size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BudgetError {
    /// Past a limit.
    #[error("the {what} {figure} bytes ({}), {} more than the limit of {limit} ({option}); {advice}", mib(*figure), mib(figure.saturating_sub(*limit)))]
    Exceeded {
        /// `UKI has`, `boot takes`.
        what: &'static str,
        /// How much it is.
        figure: u64,
        /// How much it may be.
        limit: u64,
        /// Where the limit is from.
        option: &'static str,
        /// What to do.
        advice: &'static str,
    },
    /// A size that cannot be read.
    #[error(
        "{0:?} is no size: write bytes, or a whole number with K, M, G or T, which are powers of 1024 (example: 512MiB)"
    )]
    Size(String),
}

impl BudgetError {
    /// The same of figures that are the least, since not everything is there yet.
    #[must_use]
    pub fn at_least(mut self) -> Self {
        if let Self::Exceeded { what, .. } = &mut self {
            *what = if *what == UKI_HAS { "UKI has at least" } else { "boot takes at least" };
        }
        self
    }
}

impl Budget {
    /// The figures of an image.
    #[must_use]
    pub fn of(sizes: &Sizes) -> Self {
        let once = sizes.tree.saturating_sub(sizes.role_set);
        // 2.5 times, in whole numbers.
        let source = sizes.tree.saturating_mul(5).div_ceil(2).saturating_add(AGENT_EXTRA);
        let roles = sizes.role_set.saturating_mul(ROLES);
        let content = once.saturating_add(roles).saturating_add(source.max(sizes.role_set));
        // The root directory is one more.
        let entries = sizes.entries.saturating_mul(ROLES + 1).saturating_add(1);
        // What FAT cannot hold is refused when it is laid out; the figure is then that of the files.
        let esp_mib = fat::least_mib(entries, content).unwrap_or(content.div_ceil(MIB));
        let agent_source_mib = sizes.tree.saturating_add(AGENT_EXTRA).div_ceil(MIB);
        let unpacking = sizes.uki.saturating_add(sizes.root).saturating_add(sizes.window);
        let resident = sizes.root.saturating_mul(2);
        Self {
            uki_bytes: sizes.uki,
            esp_bytes: esp_mib.saturating_mul(MIB),
            esp_mib,
            agent_esp_mib: AGENT_ESP_MIB.max(agent_source_mib.saturating_mul(3)),
            unpacking_bytes: unpacking,
            resident_bytes: resident,
            // The file's memory is free again when the initrd is unpacked, on most machines: it is counted beside both copies
            // all the same, as the kernel gives it back when it can, not when it must.
            boot_ram_bytes: unpacking.max(sizes.uki.saturating_add(resident)),
        }
    }

    /// Holds the figures against what firmware loads and what is allowed. What is worth a look comes back as warnings.
    ///
    /// # Errors
    /// [`BudgetError::Exceeded`].
    pub fn check(&self, limits: &Limits) -> Result<Vec<String>, BudgetError> {
        let files = "drop drivers (--hardware) or files, or raise the limit";
        let checks = [
            (UKI_HAS, self.uki_bytes, limits.uki, "--max-uki-size", files),
            (
                UKI_HAS,
                self.uki_bytes,
                Some(FIRMWARE_LIMIT - 1),
                "what firmware loads, systemd#31452",
                "drop drivers (--hardware) or files",
            ),
            ("boot takes", self.boot_ram_bytes, limits.boot_ram, "--max-boot-ram", files),
        ];
        for (what, figure, limit, option, advice) in checks {
            if let Some(limit) = limit.filter(|limit| figure > *limit) {
                return Err(BudgetError::Exceeded { what, figure, limit, option, advice });
            }
        }
        let mut warnings = Vec::new();
        if self.uki_bytes > FIRMWARE_WARNING {
            let size = mib(self.uki_bytes);
            warnings.push(format!("the UKI has {size}: some firmware fails above 1 GiB (kairos#2356, systemd#36706)"));
        }
        if self.esp_mib > self.agent_esp_mib {
            warnings.push(format!(
                "the EFI system partition needs {} MiB, and kairos-agent makes one of {} MiB: set install.partitions.efi.size to {}",
                self.esp_mib, self.agent_esp_mib, self.esp_mib
            ));
        }
        Ok(warnings)
    }

    /// Lines for people.
    #[must_use]
    pub fn text(&self) -> String {
        format!(
            "ESP       {} MiB for four copies and an upgrade (install.partitions.efi.size: {}; without it {} MiB are made)\n\
             boot RAM  {} at least: {} to unpack, {} for good\n",
            self.esp_mib,
            self.esp_mib,
            self.agent_esp_mib,
            mib(self.boot_ram_bytes),
            mib(self.unpacking_bytes),
            mib(self.resident_bytes),
        )
    }
}

fn mib(bytes: u64) -> String {
    format!("{} MiB", bytes.div_ceil(MIB))
}

/// Reads a size: bytes, or with K, M, G, T, KiB, MiB, GiB or TiB in any case, all of them powers of 1024.
///
/// # Errors
/// [`BudgetError::Size`]: no whole number, another unit (MB could mean either), more than 64 bits.
pub fn parse_size(text: &str) -> Result<u64, BudgetError> {
    let bad = || BudgetError::Size(text.to_owned());
    let trimmed = text.trim();
    let digits = trimmed.find(|c: char| !c.is_ascii_digit()).unwrap_or(trimmed.len());
    let (number, unit) = trimmed.split_at_checked(digits).ok_or_else(bad)?;
    let shift = match unit.trim_start().to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kib" => 10,
        "m" | "mib" => 20,
        "g" | "gib" => 30,
        "t" | "tib" => 40,
        _ => return Err(bad()),
    };
    number.parse::<u64>().ok().and_then(|number| number.checked_mul(1 << shift)).ok_or_else(bad)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZES: Sizes =
        Sizes { uki: 200 * MIB, role_set: 200 * MIB, tree: 201 * MIB, entries: 8, root: 500 * MIB, window: 128 * MIB };

    #[test]
    fn the_figures_of_an_image() {
        let budget = Budget::of(&SIZES);
        // Once 1, four times 200, 2.5 times 201 and 100 more: 1403.5; 41 clusters of 8 KiB; two tables of 4 bytes for 4 KiB: 2.7.
        assert_eq!(budget.esp_mib, 1407);
        assert_eq!(budget.agent_esp_mib, 15_360);
        assert_eq!(budget.unpacking_bytes, 828 * MIB);
        assert_eq!(budget.resident_bytes, 1000 * MIB);
        assert_eq!(budget.boot_ram_bytes, 1200 * MIB);
        assert_eq!(budget.check(&Limits::default()), Ok(Vec::new()));
        // A root that packs badly: the window counts.
        let sizes = Sizes { uki: 500 * MIB, root: 100 * MIB, ..SIZES };
        assert_eq!(Budget::of(&sizes).boot_ram_bytes, 728 * MIB);
    }

    #[test]
    fn five_sets_and_the_agents_free_room_fit() {
        for uki in [1, 50, 500, 2047_u64] {
            let sizes = Sizes { uki: uki * MIB, role_set: uki * MIB, tree: (uki + 1) * MIB, ..SIZES };
            let budget = Budget::of(&sizes);
            assert!(budget.esp_bytes >= sizes.tree + 4 * sizes.role_set, "{uki}");
            // With four copies there, what the agent takes a container's size for is free.
            let free = budget.esp_bytes - (sizes.tree - sizes.role_set) - 4 * sizes.role_set;
            assert!(free >= sizes.tree * 5 / 2 + 100 * MIB, "{uki}");
            assert!(
                budget.esp_mib <= budget.agent_esp_mib,
                "the agent's own rule holds up to what firmware loads: {uki}"
            );
        }
    }

    #[test]
    fn limits_are_kept() {
        let over = |limits| Budget::of(&SIZES).check(&limits).unwrap_err().to_string();
        let text = over(Limits { uki: Some(150 * MIB), boot_ram: None });
        assert!(
            text.contains("209715200 bytes (200 MiB), 50 MiB more than the limit of 157286400 (--max-uki-size)"),
            "{text}"
        );
        let text = over(Limits { uki: None, boot_ram: Some(1 << 30) });
        assert!(text.contains("176 MiB more than the limit of 1073741824 (--max-boot-ram)"), "{text}");
        assert!(Budget::of(&SIZES).check(&Limits { uki: Some(200 * MIB), boot_ram: Some(1200 * MIB) }).is_ok());
    }

    #[test]
    fn firmware_has_limits_of_its_own() {
        let of = |uki| Budget::of(&Sizes { uki, ..SIZES }).check(&Limits::default());
        assert_eq!(of(1 << 30), Ok(Vec::new()));
        assert!(of((1 << 30) + 1).unwrap().join("").contains("above 1 GiB"));
        assert!(of((2 << 30) - 1).is_ok());
        assert!(of(2 << 30).unwrap_err().to_string().contains("systemd#31452"));
    }

    #[test]
    fn a_partition_that_the_agent_makes_too_small_is_told() {
        let sizes = Sizes { role_set: 3000 * MIB, tree: 3001 * MIB, ..SIZES };
        let warnings = Budget::of(&sizes).check(&Limits::default()).unwrap().join("");
        assert!(warnings.contains("install.partitions.efi.size"), "{warnings}");
    }

    #[test]
    fn sizes_are_binary() {
        for (text, bytes) in [
            ("0", 0),
            ("512", 512),
            ("512B", 512),
            ("4k", 4096),
            ("512MiB", 512 * MIB),
            ("512 MIB", 512 * MIB),
            ("2G", 2 << 30),
            ("1TiB", 1 << 40),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for text in ["", "MiB", "1MB", "1.5G", "-1", "1 M x", "16777216T", "99999999999999999999", "1µ"] {
            assert_eq!(parse_size(text), Err(BudgetError::Size(text.to_owned())), "{text}");
        }
    }

    #[test]
    fn nothing_overflows() {
        let max = u64::MAX;
        let budget = Budget::of(&Sizes { uki: max, role_set: max, tree: max, entries: max, root: max, window: max });
        assert_eq!((budget.esp_bytes, budget.boot_ram_bytes), (max, max));
        assert!(!budget.text().is_empty());
    }
}
