//! Whose modules are kept: the kernel's own or somebody else's, signed by whom.
//!
//! Reading a signature means decompressing the whole file, which for all modules takes seconds. The kernel's own modules
//! were signed in one go, so a few of them tell for all; every other module is looked at.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use rayon::prelude::*;

use crate::drivers::inventory::{self, Declarations, Declared, Kernel, Module, Modules};
use crate::drivers::select::Selection;
use crate::names::ModuleName;
use crate::root::sysroot::Sysroot;

use super::certificates::Certificates;
use super::finding::{DbKeys, Enforcement, Finding, Sample};
use super::image;
use super::signature::{KeyId, MODULE_END, Signature};

/// The kernel's own modules that are looked at.
const SAMPLE: usize = 8;
/// Bytes on disk that such a module has at most, if enough are that small: some take as long as all others together.
const SAMPLE_BYTES: u64 = 16 << 10;
/// A boot image larger than this is none.
const IMAGE_LIMIT: u64 = 256 << 20;

/// The release in a module's vermagic.
fn release(declared: &Declared) -> &str {
    declared.vermagic.as_deref().and_then(|magic| magic.split(' ').next()).unwrap_or_default()
}

/// The kept modules in two heaps.
struct Heaps<'a> {
    own: Vec<&'a Module>,
    foreign: Vec<&'a Module>,
}

impl<'a> Heaps<'a> {
    fn new(kernel: &Kernel, modules: &'a Modules, selection: &Selection, declarations: &Declarations) -> Self {
        let order: HashSet<&str> = modules.order.iter().map(String::as_str).collect();
        let is_own = |module: &&Module| {
            let relative = module.relative.as_str();
            let plain = [".xz", ".zst", ".gz"].iter().find_map(|suffix| relative.strip_suffix(suffix));
            relative.starts_with("kernel/")
                && (order.is_empty() || order.contains(plain.unwrap_or(relative)))
                && declarations
                    .get(&module.name)
                    .is_none_or(|declared| declared.intree && release(declared) == kernel.release.as_str())
        };
        let is_kept = |module: &&Module| selection.modules.get(&module.name).is_some_and(|item| item.kept);
        let (own, foreign) = modules.by_name.values().filter(is_kept).partition(is_own);
        Self { own, foreign }
    }

    /// Evenly spread, small ones.
    fn sample(&self) -> Vec<&'a Module> {
        let small: Vec<&Module> = self.own.iter().filter(|module| module.bytes <= SAMPLE_BYTES).copied().collect();
        let from = if small.len() >= SAMPLE { &small } else { &self.own };
        let count = from.len().min(SAMPLE);
        (0..count).filter_map(|index| from.get(index * from.len() / count).copied()).collect()
    }
}

/// What the signatures of a selection look like.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Signatures {
    /// Kept modules of the kernel's own.
    pub own: usize,
    /// Of these, looked at.
    pub looked_at: usize,
    /// Kept modules of somebody else's; all of them are looked at.
    pub foreign: usize,
    /// The key that signed most of the kernel's own modules that were looked at: that of the kernel's build.
    pub build_key: Option<KeyId>,
    /// The certificates in the kernel image, where it had to be opened.
    pub certificates: Option<Certificates>,
}

/// What is known when the signatures are looked at.
pub(super) struct Judge<'a> {
    pub(super) root: &'a Sysroot,
    pub(super) kernel: &'a Kernel,
    pub(super) modules: &'a Modules,
    pub(super) selection: &'a Selection,
    pub(super) declarations: &'a Declarations,
    pub(super) every_signature: bool,
    pub(super) enforcement: Enforcement,
    pub(super) db: DbKeys,
    pub(super) modversions: bool,
}

impl Judge<'_> {
    pub(super) fn judge(&self) -> (Vec<Finding>, Signatures) {
        let heaps = Heaps::new(self.kernel, self.modules, self.selection, self.declarations);
        let mut findings: Vec<_> = self.other_kernels(&heaps.foreign).into_iter().collect();
        let mut summary = Signatures { own: heaps.own.len(), foreign: heaps.foreign.len(), ..Signatures::default() };
        if self.enforcement == Enforcement::Never {
            findings.push(Finding::SignaturesNotChecked);
            return (findings, summary);
        }
        let own = if self.every_signature { heaps.own.clone() } else { heaps.sample() };
        summary.looked_at = own.len();
        let sample = Sample { looked_at: own.len(), of: heaps.own.len() };
        let sample_of = |modules: &[ModuleName]| {
            let own_among = own.iter().any(|module| modules.contains(&module.name));
            (own_among && sample.looked_at < sample.of).then_some(sample)
        };

        let signatures = self.signatures(own.iter().chain(&heaps.foreign).copied());
        let (mut unsigned, mut damaged) = (Vec::new(), Vec::new());
        // Groups by key: few, whatever the number of modules. The kernel is content with one key of several.
        let mut groups: BTreeMap<BTreeSet<KeyId>, Vec<ModuleName>> = BTreeMap::new();
        let mut own_keys: BTreeMap<KeyId, usize> = BTreeMap::new();
        for (index, (name, signature)) in signatures.into_iter().enumerate() {
            match signature {
                Signature::None => unsigned.push(name),
                Signature::Damaged(problem) => damaged.push((name, problem)),
                Signature::Signed { keys, .. } => {
                    for key in keys.iter().filter(|_| index < own.len()) {
                        *own_keys.entry(key.clone()).or_default() += 1;
                    }
                    groups.entry(keys).or_default().push(name);
                }
            }
        }
        if !damaged.is_empty() {
            damaged.sort();
            findings.push(Finding::DamagedSignature { modules: damaged });
        }
        if !unsigned.is_empty() {
            unsigned.sort();
            let sample = sample_of(&unsigned);
            findings.push(Finding::Unsigned { modules: unsigned, enforcement: self.enforcement, sample });
        }

        summary.build_key = own_keys.into_iter().max_by_key(|(_, count)| *count).map(|(key, _)| key);
        let is_build_key = |keys: &BTreeSet<KeyId>| summary.build_key.as_ref().is_some_and(|key| keys.contains(key));
        // Opening the image means decompressing it: only where a key is not the build's, or where everything is asked for.
        if groups.keys().all(is_build_key) && (!self.every_signature || groups.is_empty()) {
            return (findings, summary);
        }
        match self.certificates() {
            Ok(certificates) => {
                groups.retain(|keys, _| !keys.iter().any(|key| certificates.holds(key)));
                for (keys, mut modules) in groups {
                    let Some(key) = keys.into_iter().next() else { continue };
                    modules.sort();
                    let (enforcement, db, sample) = (self.enforcement, self.db, sample_of(&modules));
                    findings.push(Finding::ForeignKey { key, modules, enforcement, db, sample });
                }
                summary.certificates = Some(certificates);
            }
            Err(problem) => {
                // The kernel's own modules are not all named: where nothing else is there, their key is.
                groups.retain(|keys, _| !is_build_key(keys));
                let mut keys: BTreeSet<KeyId> = groups.keys().flatten().cloned().collect();
                if keys.is_empty() {
                    keys.extend(summary.build_key.clone());
                }
                let mut modules: Vec<ModuleName> = groups.into_values().flatten().collect();
                modules.sort();
                findings.push(Finding::NotJudged { keys: keys.into_iter().collect(), modules, problem });
            }
        }
        (findings, summary)
    }

    /// Foreign modules that were built for another kernel.
    fn other_kernels(&self, foreign: &[&Module]) -> Option<Finding> {
        let modules = foreign.iter().filter_map(|module| {
            let declared = self.declarations.get(&module.name)?;
            let fits = release(declared) == self.kernel.release.as_str();
            (!fits).then(|| (module.name.clone(), declared.vermagic.clone().unwrap_or_default()))
        });
        let modules: Vec<_> = modules.collect();
        let modversions = self.modversions;
        (!modules.is_empty()).then_some(Finding::OtherKernel { modules, modversions })
    }

    /// A file whose end cannot be read has no signature that the kernel could take.
    fn signatures<'m>(&self, modules: impl Iterator<Item = &'m Module>) -> Vec<(ModuleName, Signature)> {
        let modules: Vec<&Module> = modules.collect();
        let read = |module: &&Module| {
            let signature = match inventory::module_end(self.root, module, MODULE_END) {
                Ok(end) => Signature::of_end(&end),
                Err(error) => Signature::Damaged(error.to_string()),
            };
            (module.name.clone(), signature)
        };
        // One at a time: a few of them take most of the time.
        modules.par_iter().with_max_len(1).map(read).collect()
    }

    /// The certificates in the kernel's boot image.
    fn certificates(&self) -> Result<Certificates, String> {
        let release = &self.kernel.release;
        let path =
            self.kernel.image.as_ref().ok_or_else(|| format!("the root has no boot image of kernel {release}"))?;
        let image = self.root.read(path, IMAGE_LIMIT).map_err(|error| error.to_string())?;
        certificates_of(&image).map_err(|problem| format!("{path}: {problem}"))
    }
}

/// The certificates in a boot image: the keys that its kernel was built to trust.
///
/// # Errors
/// In words: a form or compression that cannot be read, no certificate at all.
pub fn certificates_of(image: &[u8]) -> Result<Certificates, String> {
    let mut kernel = image::open(image).map_err(|error| error.to_string())?;
    let found = Certificates::scan(&mut *kernel).map_err(|error| image::ImageError::Read(error).to_string())?;
    if found.incomplete {
        return Err("it holds more that looks like a certificate than any kernel does".to_owned());
    }
    if found.iter().next().is_none() {
        return Err("no certificate was found in it".to_owned());
    }
    Ok(found)
}
