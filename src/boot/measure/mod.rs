//! PCR 11: what the stub will extend it with, predicted from the sections.
//!
//! Rule (UAPI.5, systemd's `src/boot/stub.c`): the register starts as zeros; for each present section in measurement order it
//! is extended with the hash of the name (dot and one NUL included), then with the hash of the content; then with the hash
//! of each boot phase word (without NUL).
//!
//! The order in the file matters only for profiles: what stands before the first `.profile` belongs to all of them, what
//! follows a `.profile` to that one alone, and takes the place of the common section of the same name. Of several `.dtbauto`
//! the stub takes the one that fits the machine, or none; so for `.efifw`.

pub mod compare;
pub mod event;
pub mod eventlog;
pub mod firmware;
pub mod image;
pub mod prediction;
mod secure_boot;

use std::collections::BTreeMap;

use serde::ser::{Serialize, SerializeMap, Serializer};

use super::pcr::{Bank, Hasher, PhasePath};
use super::section::{SectionName, SectionSink};

/// The register that the stub measures sections into.
pub const PCR_UKI: u32 = 11;

fn hash(bank: Bank, parts: &[&[u8]]) -> Vec<u8> {
    let mut hasher = Hasher::new(bank);
    for part in parts {
        hasher.update(part);
    }
    hasher.finish()
}

/// The digests of a UKI's sections in one bank, taken as the sections are written.
#[derive(Debug, Clone)]
pub struct SectionDigests {
    bank: Bank,
    open: Option<(SectionName, Hasher, u64)>,
    /// A section whose digest is known before it is shown.
    known: Option<(SectionName, Vec<u8>)>,
    /// What is measured, in file order: the common sections, then those of each profile. Never empty.
    groups: Vec<Vec<(SectionName, Vec<u8>)>>,
}

/// One of the ways in which a UKI can boot: what is measured depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, serde::Serialize)]
pub struct Variant {
    /// Which profile, from 0 on. A UKI without any `.profile` has the profile 0 alone.
    pub profile: usize,
    /// Which of the profile's `.dtbauto` sections the stub chooses; `None`: it has none, or none fits the machine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dtbauto: Option<usize>,
    /// The same for `.efifw`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub efifw: Option<usize>,
}

impl SectionDigests {
    /// Nothing measured yet.
    #[must_use]
    pub fn new(bank: Bank) -> Self {
        Self { bank, open: None, known: None, groups: vec![Vec::new()] }
    }

    /// The same, for sections of which a common one need not be hashed: its digest is `digest`.
    #[must_use]
    pub fn with_known(bank: Bank, name: SectionName, digest: Vec<u8>) -> Self {
        Self { known: Some((name, digest)), ..Self::new(bank) }
    }

    /// The bank.
    #[must_use]
    pub fn bank(&self) -> Bank {
        self.bank
    }

    /// How many profiles there are: at least one.
    #[must_use]
    pub fn profiles(&self) -> usize {
        self.groups.len().saturating_sub(1).max(1)
    }

    /// The sections that a profile has, its own in the place of common ones; those that repeat may be there several times.
    fn sections(&self, profile: usize) -> Vec<&(SectionName, Vec<u8>)> {
        let common = self.groups.first().into_iter().flatten();
        let own = self.groups.get(profile.saturating_add(1)).map(Vec::as_slice).unwrap_or_default();
        let replaced = |name: SectionName| !name.may_repeat() && own.iter().any(|(other, _)| *other == name);
        common.filter(|(name, _)| !replaced(*name)).chain(own).collect()
    }

    /// The ways in which a profile can boot. The stub's choice between several device trees comes first, then none.
    #[must_use]
    pub fn variants(&self, profile: usize) -> Vec<Variant> {
        let sections = self.sections(profile);
        let choices = |wanted: SectionName| -> Vec<Option<usize>> {
            let count = sections.iter().filter(|(name, _)| *name == wanted).count();
            (0..count).map(Some).chain([None]).collect()
        };
        let (trees, firmware) = (choices(SectionName::Dtbauto), choices(SectionName::Efifw));
        let with = |dtbauto: &Option<usize>| {
            let dtbauto = *dtbauto;
            firmware.iter().map(move |efifw| Variant { profile, dtbauto, efifw: *efifw }).collect::<Vec<_>>()
        };
        trees.iter().flat_map(with).collect()
    }

    /// The digest of each section that is measured, in measurement order.
    #[must_use]
    pub fn measured(&self, variant: Variant) -> Vec<(SectionName, &[u8])> {
        let mut chosen = Vec::new();
        let (mut trees, mut firmware) = (0, 0);
        for (name, digest) in self.sections(variant.profile) {
            let (seen, wanted) = match name {
                SectionName::Dtbauto => (&mut trees, variant.dtbauto),
                SectionName::Efifw => (&mut firmware, variant.efifw),
                _ => {
                    chosen.push((*name, digest.as_slice()));
                    continue;
                }
            };
            if wanted == Some(*seen) {
                chosen.push((*name, digest.as_slice()));
            }
            *seen += 1;
        }
        chosen.sort_by_key(|(name, _)| *name);
        chosen
    }

    /// [`SectionDigests::measured`], by the names that the stub writes into the event log.
    #[must_use]
    pub fn measured_names(&self, variant: Variant) -> Vec<(&'static str, &[u8])> {
        let known = |name: SectionName| SectionName::ALL.iter().find(|other| **other == name).map(SectionName::as_str);
        self.measured(variant).into_iter().filter_map(|(name, digest)| Some((known(name)?, digest))).collect()
    }

    /// PCR 11 after the stub and the words of `phases`.
    #[must_use]
    pub fn pcr11(&self, variant: Variant, phases: &PhasePath) -> Vec<u8> {
        let mut register = vec![0; self.bank.width()];
        let mut extend = |digest: &[u8]| register = hash(self.bank, &[&register, digest]);
        for (name, digest) in self.measured(variant) {
            extend(&hash(self.bank, &[name.as_str().as_bytes(), &[0]]));
            extend(digest);
        }
        for word in phases.words() {
            extend(&hash(self.bank, &[word.as_bytes()]));
        }
        register
    }
}

impl SectionSink for SectionDigests {
    fn begin(&mut self, name: SectionName) {
        if name == SectionName::Profile {
            self.groups.push(Vec::new());
        }
        // What is known is of the common section; a profile's own of the same name is another.
        if let [common] = self.groups.as_mut_slice()
            && let Some((known, digest)) = self.known.take_if(|(known, _)| *known == name)
        {
            self.open = None;
            common.push((known, digest));
            return;
        }
        self.open = name.is_measured().then(|| (name, Hasher::new(self.bank), 0));
    }

    fn data(&mut self, bytes: &[u8]) {
        if let Some((_, hasher, length)) = &mut self.open {
            hasher.update(bytes);
            *length += bytes.len() as u64;
        }
    }

    fn end(&mut self) {
        // The stub leaves out what is empty.
        if let Some((name, hasher, _)) = self.open.take().filter(|(_, _, length)| *length > 0)
            && let Some(group) = self.groups.last_mut()
        {
            group.push((name, hasher.finish()));
        }
    }

    fn outside(&mut self, _bytes: &[u8]) {}
}

/// Predicted values of PCR 11: for each bank the value at each phase path, in the order asked for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Pcr11(pub BTreeMap<Bank, Vec<(PhasePath, Vec<u8>)>>);

impl Pcr11 {
    /// Predicts for all `digests` and `paths`.
    #[must_use]
    pub fn predict(digests: &[SectionDigests], variant: Variant, paths: &[PhasePath]) -> Self {
        Self(
            digests
                .iter()
                .map(|bank| (bank.bank(), paths.iter().map(|path| (path.clone(), bank.pcr11(variant, path))).collect()))
                .collect(),
        )
    }
}

/// A value as systemd-measure prints it.
#[derive(serde::Serialize)]
struct Value {
    phase: String,
    pcr: u32,
    hash: String,
}

impl Pcr11 {
    fn of_bank(&self, bank: Bank) -> Vec<Value> {
        let values = self.0.get(&bank).into_iter().flatten();
        values
            .map(|(phase, value)| Value { phase: phase.to_string(), pcr: PCR_UKI, hash: hex::encode(value) })
            .collect()
    }
}

impl Serialize for Pcr11 {
    /// The shape of `systemd-measure calculate --json=short`: `{"sha256":[{"phase":"enter-initrd","pcr":11,"hash":"..."}]}`.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for bank in self.0.keys() {
            map.serialize_entry(bank.as_str(), &self.of_bank(*bank))?;
        }
        map.end()
    }
}

/// What PCR 11 will be, for one way in which a UKI can boot.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct VariantPcrs {
    /// Which profile, which device tree.
    #[serde(flatten)]
    pub variant: Variant,
    /// What the profile calls itself; empty where it has no name.
    pub title: String,
    /// The values.
    pub pcrs: Pcr11,
}

/// Predictions for all ways in which a UKI can boot, the default profile's first.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Predictions(pub Vec<VariantPcrs>);

impl Predictions {
    /// For all profiles, with what they call themselves.
    #[must_use]
    pub fn new(digests: &[SectionDigests], titles: &[String], paths: &[PhasePath]) -> Self {
        let Some(first) = digests.first() else { return Self::default() };
        let variants = (0..first.profiles()).flat_map(|profile| first.variants(profile));
        let one = |variant: Variant| VariantPcrs {
            variant,
            title: titles.get(variant.profile).cloned().unwrap_or_default(),
            pcrs: Pcr11::predict(digests, variant, paths),
        };
        Self(variants.map(one).collect())
    }
}

impl Serialize for Predictions {
    /// The values of the first in the shape of [`Pcr11`], so that nothing changes for who knows one profile only; where there are
    /// several ways to boot, all of them under `variants`.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        if let Some(first) = self.0.first() {
            for bank in first.pcrs.0.keys() {
                map.serialize_entry(bank.as_str(), &first.pcrs.of_bank(*bank))?;
            }
        }
        if self.0.len() > 1 {
            map.serialize_entry("variants", &self.0)?;
        }
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use sha2::{Digest, Sha256};

    use super::*;

    fn digests(bank: Bank, order: &[SectionName]) -> SectionDigests {
        let mut digests = SectionDigests::new(bank);
        for name in order {
            digests.begin(*name);
            digests.data(b"content of ");
            digests.data(name.as_str().as_bytes());
            digests.end();
        }
        digests
    }

    #[test]
    fn file_order_does_not_matter() {
        let a = digests(Bank::Sha256, &[SectionName::Osrel, SectionName::Linux, SectionName::Pcrpkey]);
        let b = digests(Bank::Sha256, &[SectionName::Pcrpkey, SectionName::Linux, SectionName::Osrel]);
        assert_eq!(a.pcr11(Variant::default(), &PhasePath::empty()), b.pcr11(Variant::default(), &PhasePath::empty()));
        assert_ne!(
            a.pcr11(Variant::default(), &PhasePath::empty()),
            digests(Bank::Sha256, &[SectionName::Linux]).pcr11(Variant::default(), &PhasePath::empty())
        );
    }

    #[test]
    fn signatures_and_empty_sections_are_not_measured() {
        let mut with = digests(Bank::Sha512, &[SectionName::Linux, SectionName::Pcrsig]);
        with.begin(SectionName::Cmdline);
        with.end();
        let without = digests(Bank::Sha512, &[SectionName::Linux]);
        assert_eq!(
            with.pcr11(Variant::default(), &PhasePath::empty()),
            without.pcr11(Variant::default(), &PhasePath::empty())
        );
    }

    /// A profile may have an initrd of its own: that one is hashed.
    #[test]
    fn a_known_digest_is_that_of_the_common_section_alone() {
        let show = |digests: &mut SectionDigests, sections: &[(SectionName, &[u8])]| {
            for (name, content) in sections {
                digests.begin(*name);
                digests.data(content);
                digests.end();
            }
        };
        let sections: [(SectionName, &[u8]); 6] = [
            (SectionName::Linux, b"kernel"),
            (SectionName::Initrd, b"common"),
            (SectionName::Profile, b"ID=main"),
            (SectionName::Profile, b"ID=own"),
            (SectionName::Initrd, b"own"),
            (SectionName::Cmdline, b"x"),
        ];
        let mut hashed = SectionDigests::new(Bank::Sha384);
        show(&mut hashed, &sections);
        let mut known = SectionDigests::with_known(Bank::Sha384, SectionName::Initrd, hash(Bank::Sha384, &[b"common"]));
        show(&mut known, &sections);
        for profile in 0..2 {
            let variant = Variant { profile, ..Variant::default() };
            assert_eq!(known.pcr11(variant, &PhasePath::empty()), hashed.pcr11(variant, &PhasePath::empty()));
        }
    }

    /// `printf 'one' > k; systemd-measure calculate --linux=k --phase=enter-initrd --bank=sha256` (systemd 257).
    #[test]
    fn one_section_by_hand() {
        let mut digests = SectionDigests::new(Bank::Sha256);
        digests.begin(SectionName::Linux);
        digests.data(b"one");
        digests.end();
        let extend =
            |register: &[u8], value: &[u8]| Sha256::digest([register, &Sha256::digest(value)[..]].concat()).to_vec();
        let expected = extend(&extend(&extend(&[0; 32], b".linux\0"), b"one"), b"enter-initrd");
        assert_eq!("enter-initrd".parse().map(|path| digests.pcr11(Variant::default(), &path)), Ok(expected));
    }
}
