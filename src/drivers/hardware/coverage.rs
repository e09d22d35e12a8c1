//! How much of what people have a kernel drives before and after slimming: PCI devices by class, weighted by how often they were
//! seen.
//!
//! The population is linuxhw/DevicePopulation (2023-03-12), by the users of linux-hardware.org, CC BY 4.0. It tells a device's
//! class by lspci's name, vendor and device, not subsystem and interface: a pattern that asks for these is taken to fit. Of the
//! drivers of a whole class, which go by the interface (xHCI, EHCI, OHCI, UHCI), a device needs one.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::drivers::inventory::Modules;
use crate::names::ModuleName;

/// The embedded population.
const POPULATION: &str = include_str!("../../../kmod-db/pci-population.tsv");

/// A device that people have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen<'a> {
    /// lspci's name of its class, as the population has it: `net/ethernet`.
    pub class: &'a str,
    /// PCI vendor.
    pub vendor: u32,
    /// PCI device.
    pub device: u32,
    /// On how many machines it was seen.
    pub count: u64,
}

/// What of a class is driven; devices, and how often they were seen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Coverage {
    /// All.
    pub devices: u64,
    /// How often.
    pub seen: u64,
    /// Those that the whole kernel has a driver for.
    pub driven: u64,
    /// How often.
    pub driven_seen: u64,
    /// Those of them that keep all their drivers.
    pub kept: u64,
    /// How often.
    pub kept_seen: u64,
}

impl Coverage {
    /// The share of what the whole kernel drives that is driven still, by how often it was seen: 0 to 1; 1 where there is nothing.
    #[must_use]
    pub fn share(&self) -> f64 {
        if self.driven_seen == 0 { 1.0 } else { self.kept_seen as f64 / self.driven_seen as f64 }
    }
}

/// The embedded population, in its order.
pub fn population() -> impl Iterator<Item = Seen<'static>> {
    POPULATION.lines().filter_map(|line| {
        let mut fields = line.split('\t');
        let (class, vendor, device, count) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
        let hex = |text| u32::from_str_radix(text, 16).ok();
        Some(Seen { class, vendor: hex(vendor)?, device: hex(device)?, count: count.parse().ok()? })
    })
}

/// Coverage by class.
#[must_use]
pub fn coverage(modules: &Modules, kept: &BTreeSet<&ModuleName>) -> BTreeMap<&'static str, Coverage> {
    let drivers = Drivers::new(modules);
    let mut out: BTreeMap<&str, Coverage> = BTreeMap::new();
    for seen in population() {
        let sum = out.entry(seen.class).or_default();
        sum.devices += 1;
        sum.seen += seen.count;
        let (own, of_class) = drivers.of(&seen);
        if own.is_empty() && of_class.is_empty() {
            continue;
        }
        sum.driven += 1;
        sum.driven_seen += seen.count;
        let is_kept = |driver: &Driver<'_>| driver.is_none_or(|module| kept.contains(module));
        if own.iter().all(is_kept) && (of_class.is_empty() || of_class.iter().any(is_kept)) {
            sum.kept += 1;
            sum.kept_seen += seen.count;
        }
    }
    out
}

/// A pattern of `modules.alias` for PCI, its fields that are numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Pattern {
    vendor: Option<u32>,
    device: Option<u32>,
    base: Option<u32>,
    sub: Option<u32>,
}

impl Pattern {
    /// `pci:v00008086d00001533sv*sd*bc*sc*i*`.
    fn new(alias: &str) -> Option<Self> {
        let mut rest = alias.strip_prefix("pci:")?;
        let mut fields = [None; 7];
        for (key, field) in ["v", "d", "sv", "sd", "bc", "sc", "i"].iter().zip(&mut fields) {
            rest = rest.strip_prefix(key)?;
            let end = rest.find(|c: char| c.is_ascii_lowercase()).unwrap_or(rest.len());
            let (value, tail) = rest.split_at_checked(end)?;
            *field = match value.trim_end_matches('*') {
                "" => None,
                digits => Some(u32::from_str_radix(digits, 16).ok()?),
            };
            rest = tail;
        }
        let [vendor, device, _, _, base, sub, _] = fields;
        Some(Self { vendor, device, base, sub })
    }
}

/// The drivers of PCI devices: a module, or `None` for a built-in one.
type Driver<'a> = Option<&'a ModuleName>;

struct Drivers<'a> {
    by_device: HashMap<(u32, u32), Vec<(Pattern, Driver<'a>)>>,
    /// Patterns that leave the vendor or the device open.
    open: Vec<(Pattern, Driver<'a>)>,
}

impl<'a> Drivers<'a> {
    fn new(modules: &'a Modules) -> Self {
        let mut out = Self { by_device: HashMap::new(), open: Vec::new() };
        let files = modules.aliases.iter().map(|(pattern, module)| (pattern, Some(module)));
        for (alias, driver) in files.chain(modules.builtin_aliases.iter().map(|(pattern, _)| (pattern, None))) {
            let Some(pattern) = Pattern::new(alias) else { continue };
            match (pattern.vendor, pattern.device) {
                (Some(vendor), Some(device)) => {
                    out.by_device.entry((vendor, device)).or_default().push((pattern, driver));
                }
                _ => out.open.push((pattern, driver)),
            }
        }
        out
    }

    /// Those for this very device, and those for its class.
    fn of(&self, seen: &Seen<'_>) -> (BTreeSet<Driver<'a>>, BTreeSet<Driver<'a>>) {
        let class = class(seen.class);
        let fits = |pattern: &Pattern| {
            let in_class = match (pattern.base, class) {
                (None, _) => true,
                (Some(base), Some((own, subs))) => {
                    base == own && pattern.sub.is_none_or(|sub| subs.is_empty() || subs.contains(&sub))
                }
                // A name that no class has: only what asks for this very device is known to fit.
                (Some(_), None) => pattern.device.is_some(),
            };
            in_class
                && pattern.vendor.is_none_or(|vendor| vendor == seen.vendor)
                && pattern.device.is_none_or(|device| device == seen.device)
        };
        let own = self.by_device.get(&(seen.vendor, seen.device)).into_iter().flatten();
        let fitting = |patterns: &mut dyn Iterator<Item = &(Pattern, Driver<'a>)>| {
            patterns.filter(|(pattern, _)| fits(pattern)).map(|(_, driver)| *driver).collect()
        };
        (fitting(&mut own.into_iter()), fitting(&mut self.open.iter()))
    }
}

/// Base class and subclasses that a name of the population may mean (<https://pci-ids.ucw.cz>, list of classes); no subclass: any.
fn class(name: &str) -> Option<(u32, &'static [u32])> {
    Some(match name {
        "storage/scsi" => (1, &[0]),
        "storage/ide" => (1, &[1]),
        "storage/raid" => (1, &[4]),
        "storage/ata" => (1, &[5, 6]),
        "storage/sas" => (1, &[7]),
        "storage/nvme" => (1, &[8]),
        "storage/other" => (1, &[0x80]),
        "net/ethernet" | "ethernet controller" => (2, &[0]),
        "net/wireless" | "net/other" => (2, &[0x80]),
        "graphics card" => (3, &[]),
        "multimedia controller" => (4, &[0, 0x80]),
        "sound" => (4, &[1, 3]),
        "memory controller" => (5, &[]),
        "flash memory" => (5, &[1]),
        "bridge" => (6, &[]),
        "serial controller" => (7, &[0]),
        "parallel controller" => (7, &[1]),
        "multiport serial controller" => (7, &[2]),
        "modem" => (7, &[3]),
        "communication controller" => (7, &[0x80]),
        "pic" => (8, &[0]),
        "dma controller" => (8, &[1]),
        "sd host controller" => (8, &[5]),
        "iommu" => (8, &[6]),
        "system peripheral" => (8, &[0x80]),
        "input device controller" => (9, &[0, 1, 2, 3, 4, 0x80]),
        "docking station" => (0xa, &[]),
        "co-processor" => (0xb, &[0x40]),
        "firewire controller" => (0xc, &[0]),
        "usb controller" => (0xc, &[3]),
        "smbus" => (0xc, &[5]),
        "ipmi smic interface" => (0xc, &[7]),
        "canbus" => (0xc, &[9]),
        "serial bus controller" => (0xc, &[0x80]),
        "bluetooth" => (0xd, &[0x11]),
        "encryption controller" => (0x10, &[]),
        "signal processing controller" | "performance counters" => (0x11, &[]),
        "processing accelerators" => (0x12, &[]),
        "non-essential instrumentation" => (0x13, &[]),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_population_is_whole() {
        let lines = POPULATION.lines().filter(|line| !line.starts_with('#')).count();
        assert_eq!(population().count(), lines);
        assert!(lines > 8000, "{lines}");
    }

    #[test]
    fn patterns_by_field() {
        let pattern = Pattern::new("pci:v00008086d00001533sv*sd*bc*sc*i*").unwrap();
        assert_eq!(pattern, Pattern { vendor: Some(0x8086), device: Some(0x1533), base: None, sub: None });
        let class = Pattern::new("pci:v*d*sv*sd*bc0Csc03i30*").unwrap();
        assert_eq!((class.vendor, class.base, class.sub), (None, Some(0xc), Some(3)));
        assert_eq!(Pattern::new("usb:v1p2"), None);
    }
}
