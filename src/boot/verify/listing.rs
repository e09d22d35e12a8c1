//! What is remembered of an initrd: modules, and the few paths that immucore and the agent ask for. Memory does not grow
//! with the initrd beyond the names of its modules.

use std::collections::{BTreeMap, BTreeSet};

/// More modules than any kernel has.
const MODULES: usize = 1 << 15;
/// More kernels than any image has.
const RELEASES: usize = 8;
/// Longer names than the kernel takes of modules (`MODULE_NAME_LEN`) and releases (`__NEW_UTS_LEN`).
const NAME_LIMIT: usize = 64;

/// Paths whose existence is asked for.
const PATHS: [&str; 36] = [
    "bin",
    "bin/bash",
    "bin/init",
    "bin/sh",
    "efi",
    "etc/kairos-release",
    "init",
    "lib",
    "lib/systemd/systemd-udevd",
    "oem",
    "sbin",
    "sbin/init",
    "system/discovery/kcrypt-discovery-challenger",
    "system/oem",
    "usr/bin/bash",
    "usr/bin/blkid",
    "usr/bin/cp",
    "usr/bin/immucore",
    "usr/bin/init",
    "usr/bin/kairos",
    "usr/bin/kairos-agent",
    "usr/bin/lsblk",
    "usr/bin/mount",
    "usr/bin/rsync",
    "usr/bin/sh",
    "usr/bin/udevadm",
    "usr/lib/systemd/systemd-cryptenroll",
    "usr/lib/systemd/systemd-cryptsetup",
    "usr/bin/systemd-cryptenroll",
    "usr/lib/systemd/systemd-udevd",
    "usr/local/cloud-config",
    "usr/sbin",
    "usr/sbin/blkid",
    "usr/sbin/depmod",
    "usr/sbin/init",
    "usr/sbin/modprobe",
];

/// What there is at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Item {
    pub(super) mode: u32,
    pub(super) length: u64,
    /// A link's target.
    pub(super) target: Vec<u8>,
}

impl Item {
    pub(super) fn is_directory(&self) -> bool {
        self.mode & 0o170_000 == 0o040_000
    }
}

/// The findings of one initrd.
#[derive(Debug, Clone, Default)]
pub(super) struct Listing {
    /// Entries of the archives.
    pub(super) entries: u64,
    /// The paths of [`PATHS`] that are there; the last entry of a path wins, as in the kernel.
    pub(super) items: BTreeMap<&'static str, Item>,
    /// Names of modules, `_` for `-`, by kernel release.
    pub(super) modules: BTreeMap<String, BTreeSet<String>>,
    /// `modules.builtin`, by kernel release.
    pub(super) builtin: BTreeMap<String, BTreeSet<String>>,
    /// `etc/kairos-release`.
    pub(super) kairos_release: Vec<u8>,
    /// Whether there is microcode where the kernel looks for it.
    pub(super) microcode: bool,
}

impl Listing {
    /// How much of this file's content is kept, bytes: files of text that are looked into.
    pub(super) fn wants(path: &[u8]) -> u64 {
        match module_file(path) {
            Some((_, "modules.builtin")) => 4 << 20,
            None if path == b"etc/kairos-release" => 64 << 10,
            _ => 0,
        }
    }

    pub(super) fn add(&mut self, path: Vec<u8>, mode: u32, length: u64, content: Vec<u8>) {
        self.entries = self.entries.saturating_add(1);
        self.microcode |= path.starts_with(b"kernel/x86/microcode/");
        if let Some((release, file)) = module_file(&path) {
            if file == "modules.builtin" {
                if self.builtin.len() < RELEASES {
                    let names = String::from_utf8_lossy(&content);
                    let names = names.lines().filter_map(module_name).take(MODULES).collect();
                    self.builtin.insert(release.to_owned(), names);
                }
            } else if let Some(name) = module_name(file)
                && (self.modules.contains_key(release) || self.modules.len() < RELEASES)
            {
                let names = self.modules.entry(release.to_owned()).or_default();
                if names.len() < MODULES {
                    names.insert(name);
                }
            }
            return;
        }
        let Some(known) = PATHS.iter().find(|known| known.as_bytes() == path) else { return };
        if *known == "etc/kairos-release" {
            self.kairos_release.clone_from(&content);
        }
        let is_link = mode & 0o170_000 == 0o120_000;
        let target = if is_link { content } else { Vec::new() };
        self.items.insert(known, Item { mode, length, target });
    }

    /// What is at the first of these paths that there is.
    pub(super) fn first(&self, paths: &[&'static str]) -> Option<&Item> {
        paths.iter().find_map(|path| self.items.get(path))
    }

    /// Whether a module is there or built in, for some kernel.
    pub(super) fn drives(&self, name: &str) -> bool {
        self.modules.values().chain(self.builtin.values()).any(|names| names.contains(name))
    }

    /// Names of all modules.
    pub(super) fn module_names(&self) -> BTreeSet<&str> {
        self.modules.values().flatten().map(String::as_str).collect()
    }
}

/// The release and what is below its directory.
fn module_file(path: &[u8]) -> Option<(&str, &str)> {
    let path = std::str::from_utf8(path).ok()?;
    let below = path.strip_prefix("usr/").unwrap_or(path).strip_prefix("lib/modules/")?;
    let (release, file) = below.split_once('/')?;
    is_name(release).then_some((release, file))
}

/// The name of a module by its file: without directory, `.ko` and compression, `_` for `-`.
fn module_name(path: &str) -> Option<String> {
    let file = path.rsplit('/').next()?;
    let stem = ["", ".zst", ".xz", ".gz"].iter().find_map(|end| file.strip_suffix(end)?.strip_suffix(".ko"))?;
    is_name(stem).then(|| stem.replace('-', "_"))
}

/// Whether a kernel could have a module or a release of this name; what else there is would only fill memory and terminals.
fn is_name(text: &str) -> bool {
    !text.is_empty() && text.len() <= NAME_LIMIT && text.bytes().all(|byte| byte.is_ascii_graphic())
}
