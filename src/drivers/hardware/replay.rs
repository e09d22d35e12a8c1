//! A captured machine against a kernel before and after slimming: which drivers each of its devices binds, and which are lost.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::drivers::inventory::{AliasList, Inventory, Modules};
use crate::drivers::target::Capture;
use crate::names::{FirmwarePath, ModuleName};

use super::AliasIndex;
use super::class::Class;

/// Who answers to a modalias.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Driver<'a> {
    Module(&'a ModuleName),
    /// Part of the kernel image: it cannot be lost.
    Builtin(&'a ModuleName),
}

/// What is there after slimming.
#[derive(Debug)]
pub enum Slimmed<'a> {
    /// The modules that a selection keeps: their aliases are those of before.
    Kept(BTreeSet<&'a ModuleName>),
    /// Indexes of their own: those in a UKI.
    Indexes {
        /// Of `modules.alias`.
        aliases: &'a AliasList,
        /// The modules of `modules.dep`.
        modules: &'a BTreeSet<ModuleName>,
    },
}

/// Answers what captured machines lose.
#[derive(Debug)]
pub struct Replay<'a> {
    before: AliasIndex<'a, Driver<'a>>,
    classes: HashMap<&'a ModuleName, Class>,
    after: After<'a>,
    /// Names that kept drivers ask for and the root does not have, by driver.
    missing: BTreeMap<&'a ModuleName, Vec<&'a FirmwarePath>>,
}

#[derive(Debug)]
enum After<'a> {
    Kept(BTreeSet<&'a ModuleName>),
    Index(AliasIndex<'a, &'a ModuleName>, &'a BTreeSet<ModuleName>),
}

/// What one machine loses in a class.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Loss {
    /// The drivers that are gone.
    pub drivers: BTreeSet<String>,
    /// The devices that they drove.
    pub devices: BTreeSet<String>,
    /// Whether that keeps the machine from booting, unlocking or being reached.
    pub vital: bool,
}

/// What becomes of one machine.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Verdict {
    /// Its devices.
    pub devices: usize,
    /// Those that the whole kernel has a driver for.
    pub driven: usize,
    /// Those of them that have all their drivers after slimming.
    pub kept: usize,
    /// What is lost, by class, the worst first.
    pub lost: BTreeMap<Class, Loss>,
    /// Drivers of its TPM that are modules: under Trusted Boot they come too late.
    pub tpm_modules: BTreeSet<String>,
    /// Firmware that its kept drivers ask for and the root does not have, by driver.
    pub missing_firmware: BTreeMap<String, Vec<String>>,
}

impl Verdict {
    /// Whether the machine would not boot, unlock or be reached.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.lost.values().any(|loss| loss.vital)
    }
}

impl<'a> Replay<'a> {
    /// `missing` is what a selection says of firmware.
    #[must_use]
    pub fn new(
        inventory: &'a Inventory,
        slimmed: Slimmed<'a>,
        missing: &'a BTreeMap<FirmwarePath, Vec<ModuleName>>,
    ) -> Self {
        let modules = &inventory.modules;
        let files = modules.aliases.iter().map(|(pattern, module)| (pattern, Driver::Module(module)));
        let builtin = modules.builtin_aliases.iter().map(|(pattern, name)| (pattern, Driver::Builtin(name)));
        let mut by_driver: BTreeMap<&ModuleName, Vec<&FirmwarePath>> = BTreeMap::new();
        for (name, drivers) in missing {
            drivers.iter().for_each(|driver| by_driver.entry(driver).or_default().push(name));
        }
        Self {
            before: AliasIndex::new(files.chain(builtin)),
            classes: classes(modules),
            after: match slimmed {
                Slimmed::Kept(kept) => After::Kept(kept),
                Slimmed::Indexes { aliases, modules } => After::Index(AliasIndex::new(aliases), modules),
            },
            missing: by_driver,
        }
    }

    /// The modules that a device's modalias loads, in the whole kernel: what `modprobe -R` says. Each with what it is for.
    #[must_use]
    pub fn drivers(&self, modalias: &str) -> BTreeMap<&'a ModuleName, Class> {
        let modules = self.before.lookup(modalias).into_iter().filter_map(|driver| match driver {
            Driver::Module(module) => Some((module, self.class(module))),
            Driver::Builtin(_) => None,
        });
        modules.collect()
    }

    fn class(&self, module: &ModuleName) -> Class {
        self.classes.get(module).copied().unwrap_or(Class::Other)
    }

    /// What becomes of a machine.
    #[must_use]
    pub fn check(&self, capture: &Capture) -> Verdict {
        let mut out = Verdict { devices: capture.devices.len(), ..Verdict::default() };
        let (mut wired, mut wireless) = (false, false);
        for device in &capture.devices {
            let before = self.before.lookup(device);
            if before.is_empty() {
                continue;
            }
            out.driven += 1;
            let after = match &self.after {
                After::Index(index, _) => Some(index.lookup(device)),
                After::Kept(_) => None,
            };
            let is_kept = |module: &ModuleName| match (&self.after, &after) {
                (After::Index(_, modules), Some(found)) => found.contains(module) && modules.contains(module),
                (After::Kept(kept), _) => kept.contains(module),
                (After::Index(..), None) => false,
            };
            let modules = before.iter().filter_map(|driver| match driver {
                Driver::Module(module) => Some((*module, self.class(module))),
                Driver::Builtin(_) => None,
            });
            let drivers: BTreeMap<&ModuleName, Class> = modules.collect();
            let lost = lost(&drivers, &is_kept);
            for (module, class) in &lost {
                let loss = out.lost.entry(*class).or_default();
                loss.drivers.insert(module.to_string());
                loss.devices.insert(device.clone());
            }
            let builtin = before.iter().filter_map(|driver| match driver {
                Driver::Module(_) => None,
                Driver::Builtin(module) => Some(self.class(module)),
            });
            let kept = drivers.iter().filter(|(module, _)| is_kept(module));
            for class in builtin.chain(kept.clone().map(|(_, class)| *class)) {
                wired |= class == Class::Network;
                wireless |= class == Class::Wireless;
            }
            for (module, class) in kept {
                if *class == Class::Tpm {
                    out.tpm_modules.insert(module.to_string());
                }
                if let Some(names) = self.missing.get(module) {
                    let names = names.iter().map(ToString::to_string).collect();
                    out.missing_firmware.insert(module.to_string(), names);
                }
            }
            out.kept += usize::from(lost.is_empty());
        }
        for (class, loss) in &mut out.lost {
            // Without a wire the machine is reached through the air, or not at all.
            loss.vital = class.is_vital() || (*class == Class::Wireless && !wired && !wireless);
        }
        out
    }
}

/// What each module and each built-in one is for.
fn classes(modules: &Modules) -> HashMap<&ModuleName, Class> {
    let files = modules.by_name.values().map(|module| (&module.name, Class::of_module(&module.relative)));
    let builtin = modules.builtin_paths.iter().filter_map(|path| {
        let name = ModuleName::from_file(path.rsplit('/').next()?.as_bytes())?;
        Some((modules.builtin.get(&name)?, Class::of_module(path)))
    });
    files.chain(builtin).collect()
}

/// The drivers of a device that are gone and missed. Where the device keeps another driver of the same class, the loss of one is
/// none (`matroxfb_base` beside `mgag200`), but where the machine depends on the class nobody guesses which of them is right.
pub fn lost<'a>(
    drivers: &BTreeMap<&'a ModuleName, Class>,
    is_kept: &dyn Fn(&ModuleName) -> bool,
) -> Vec<(&'a ModuleName, Class)> {
    let has_other = |class: Class| drivers.iter().any(|(module, own)| *own == class && is_kept(module));
    let gone = drivers.iter().filter(|(module, _)| !is_kept(module));
    gone.filter(|(_, class)| class.is_vital() || !has_other(**class)).map(|(module, class)| (*module, *class)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drivers::inventory::{Compression, Firmware, Kernel, Module};
    use crate::names::{KernelRelease, TreePath};

    /// A kernel with wireless as a module, and wired network built in.
    fn inventory() -> Inventory {
        let name = |name: &str| ModuleName::new(name).unwrap();
        let relative = "kernel/drivers/net/wireless/air.ko".to_owned();
        let air = Module {
            name: name("air"),
            path: TreePath::new("m/air.ko").unwrap(),
            relative,
            bytes: 1,
            compression: Compression::None,
        };
        let mut modules = Modules {
            by_name: [(name("air"), air)].into(),
            builtin: [name("wire")].into(),
            builtin_paths: vec!["kernel/drivers/net/ethernet/wire.ko".to_owned()],
            ..Modules::default()
        };
        modules.aliases.push(("pci:air*".to_owned(), name("air")));
        modules.builtin_aliases.push(("pci:wire*".to_owned(), name("wire")));
        let release = KernelRelease::new("6.12").unwrap();
        let kernel = Kernel { release, image: None, modules: TreePath::new("m").unwrap() };
        Inventory { kernel, other_kernels: Vec::new(), modules, firmware: Firmware::default() }
    }

    #[test]
    fn without_a_wire_the_air_is_vital() {
        let (inventory, missing) = (inventory(), BTreeMap::new());
        let replay = Replay::new(&inventory, Slimmed::Kept(BTreeSet::new()), &missing);
        let check = |devices: &[&str]| {
            let mut capture = Capture::default();
            devices.iter().for_each(|device| capture.add(device));
            replay.check(&capture)
        };
        let (tablet, box_) = (check(&["pci:air1"]), check(&["pci:air1", "pci:wire1"]));
        assert!(tablet.is_lost() && tablet.lost[&Class::Wireless].vital);
        assert!(!box_.is_lost() && box_.lost.contains_key(&Class::Wireless), "a built-in driver is a wire");
        assert_eq!((box_.devices, box_.driven, box_.kept), (2, 2, 1));
    }

    #[test]
    fn one_of_two_drivers_is_a_loss_only_where_the_machine_depends_on_it() {
        let names = [ModuleName::new("a").unwrap(), ModuleName::new("b").unwrap()];
        let gone = |class| {
            let drivers = names.iter().map(|name| (name, class)).collect();
            lost(&drivers, &|name| name.as_str() == "a").len()
        };
        assert_eq!((gone(Class::Graphics), gone(Class::Storage)), (0, 1));
    }
}
