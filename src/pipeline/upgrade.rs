//! Captured machines and two UKIs: the drivers that a machine has with the old one and loses with the new one.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::PipelineError;
use super::hardware::Machine;
use super::shipped::{self, content};
use crate::drivers::hardware::AliasIndex;
use crate::drivers::hardware::class::Class;
use crate::drivers::hardware::replay::lost;
use crate::drivers::inventory::{AliasList, indexes};
use crate::names::ModuleName;
use crate::root::initrd::NewcReader;

/// What the indexes in a UKI say; of several kernels together.
#[derive(Debug, Default)]
struct Drivers {
    aliases: Vec<AliasList>,
    modules: BTreeMap<ModuleName, Class>,
    builtin: BTreeSet<ModuleName>,
}

/// A driver that a machine loses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LostDriver {
    /// The machine.
    pub machine: String,
    /// The driver.
    pub driver: String,
    /// The device that it drove.
    pub device: String,
    /// Whether that keeps the machine from booting, unlocking or being reached.
    pub vital: bool,
    /// What the machine cannot do any more.
    pub consequence: &'static str,
}

/// Each machine's losses from the one UKI to the other. What became part of the kernel image is not lost.
///
/// # Errors
/// A UKI without modules, or one that cannot be read.
pub fn lost_drivers(old: &Path, new: &Path, machines: &[Machine]) -> Result<Vec<LostDriver>, PipelineError> {
    let (old, new) = (Drivers::of_uki(old)?, Drivers::of_uki(new)?);
    let before = AliasIndex::new(old.aliases.iter().flatten());
    let after = AliasIndex::new(new.aliases.iter().flatten());
    let mut out = Vec::new();
    for machine in machines {
        for device in &machine.capture.devices {
            let found = after.lookup(device);
            let class = |module: &ModuleName| old.modules.get(module).copied();
            let had = before.lookup(device).into_iter().filter_map(|module| Some((module, class(module)?)));
            let had: BTreeMap<&ModuleName, Class> = had.collect();
            let is_kept = |module: &ModuleName| {
                new.builtin.contains(module) || (new.modules.contains_key(module) && found.contains(module))
            };
            out.extend(lost(&had, &is_kept).into_iter().map(|(module, class)| LostDriver {
                machine: machine.name.clone(),
                driver: module.to_string(),
                device: device.clone(),
                vital: class.is_vital() || class == Class::Wireless,
                consequence: class.consequence(),
            }));
        }
    }
    Ok(out)
}

impl Drivers {
    fn of_uki(path: &Path) -> Result<Self, PipelineError> {
        let wrong = |problem: String| PipelineError::Uki { path: path.to_owned(), problem };
        let line = |error: indexes::LineError| wrong(error.to_string());
        let mut reader = NewcReader::new(shipped::initrd(path)?);
        let mut out = Self::default();
        while let Some(entry) = reader.next_entry().map_err(|error| wrong(error.to_string()))? {
            let name = entry.path.file_name().to_vec();
            let text = entry.path.to_string();
            let wanted = text.contains("/lib/modules/")
                && [&b"modules.alias"[..], b"modules.dep", b"modules.builtin"].contains(&name.as_slice());
            if !wanted || entry.length == 0 {
                continue;
            }
            let text = content(&mut reader, &entry, path)?;
            match name.as_slice() {
                b"modules.alias" => out.aliases.push(indexes::alias(text).map_err(line)?),
                b"modules.builtin" => out.builtin.extend(indexes::builtin(&text).map_err(line)?),
                _ => {
                    let entries = indexes::dep(&text).map_err(line)?;
                    out.modules.extend(entries.into_iter().map(|entry| {
                        let class = Class::of_module(entry.path);
                        (entry.name, class)
                    }));
                }
            }
        }
        if out.aliases.is_empty() || out.modules.is_empty() {
            return Err(wrong(
                "its initrd has no modules.alias and modules.dep: it tells nothing of drivers".to_owned(),
            ));
        }
        Ok(out)
    }
}
