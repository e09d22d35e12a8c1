//! PCR 11: what the stub will extend it with, predicted from the sections.
//!
//! Rule (UAPI.5, systemd's `src/boot/stub.c`): the register starts as zeros; for each present section in measurement order it
//! is extended with the hash of the name (dot and one NUL included), then with the hash of the content; then with the hash
//! of each boot phase word (without NUL). Only the sections' content matters, not where they lie in the file.

pub mod compare;
pub mod event;
pub mod eventlog;
pub mod firmware;
pub mod image;
pub mod prediction;
mod secure_boot;

use std::collections::BTreeMap;

use serde::ser::{Serialize, SerializeMap, Serializer};
use sha1::Sha1;
use sha2::{Digest, Sha256, Sha384, Sha512};

use super::pcr::{Bank, PhasePath};
use super::section::{SectionName, SectionSink};

/// The register that the stub measures sections into.
pub const PCR_UKI: u32 = 11;

/// A running hash of a bank.
#[derive(Debug, Clone)]
enum Hasher {
    Sha1(Sha1),
    Sha256(Sha256),
    Sha384(Sha384),
    Sha512(Sha512),
}

impl Hasher {
    fn new(bank: Bank) -> Self {
        match bank {
            Bank::Sha1 => Self::Sha1(Sha1::new()),
            Bank::Sha256 => Self::Sha256(Sha256::new()),
            Bank::Sha384 => Self::Sha384(Sha384::new()),
            Bank::Sha512 => Self::Sha512(Sha512::new()),
        }
    }

    fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha1(hash) => hash.update(bytes),
            Self::Sha256(hash) => hash.update(bytes),
            Self::Sha384(hash) => hash.update(bytes),
            Self::Sha512(hash) => hash.update(bytes),
        }
    }

    fn finish(self) -> Vec<u8> {
        match self {
            Self::Sha1(hash) => hash.finalize().to_vec(),
            Self::Sha256(hash) => hash.finalize().to_vec(),
            Self::Sha384(hash) => hash.finalize().to_vec(),
            Self::Sha512(hash) => hash.finalize().to_vec(),
        }
    }
}

fn hash(bank: Bank, parts: &[&[u8]]) -> Vec<u8> {
    let mut hasher = Hasher::new(bank);
    for part in parts {
        hasher.update(part);
    }
    hasher.finish()
}

/// The digests of a UKI's sections in one bank, taken as the sections are written.
#[derive(Debug)]
pub struct SectionDigests {
    bank: Bank,
    open: Option<(SectionName, Hasher, u64)>,
    digests: BTreeMap<SectionName, Vec<u8>>,
}

impl SectionDigests {
    /// Nothing measured yet.
    #[must_use]
    pub fn new(bank: Bank) -> Self {
        Self { bank, open: None, digests: BTreeMap::new() }
    }

    /// The bank.
    #[must_use]
    pub fn bank(&self) -> Bank {
        self.bank
    }

    /// PCR 11 after the stub and the words of `phases`.
    #[must_use]
    pub fn pcr11(&self, phases: &PhasePath) -> Vec<u8> {
        let mut register = vec![0; self.bank.width()];
        let mut extend = |digest: &[u8]| register = hash(self.bank, &[&register, digest]);
        for (name, digest) in &self.digests {
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
        if let Some((name, hasher, _)) = self.open.take().filter(|(_, _, length)| *length > 0) {
            self.digests.insert(name, hasher.finish());
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
    pub fn predict(digests: &[SectionDigests], paths: &[PhasePath]) -> Self {
        Self(
            digests
                .iter()
                .map(|bank| (bank.bank(), paths.iter().map(|path| (path.clone(), bank.pcr11(path))).collect()))
                .collect(),
        )
    }
}

impl Pcr11 {
    /// The values alone, in the order of the paths.
    #[must_use]
    pub fn values(&self) -> BTreeMap<Bank, Vec<Vec<u8>>> {
        self.0.iter().map(|(bank, values)| (*bank, values.iter().map(|(_, value)| value.clone()).collect())).collect()
    }
}

impl Serialize for Pcr11 {
    /// The shape of `systemd-measure calculate --json=short`: `{"sha256":[{"phase":"enter-initrd","pcr":11,"hash":"..."}]}`.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(serde::Serialize)]
        struct Value {
            phase: String,
            pcr: u32,
            hash: String,
        }
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (bank, values) in &self.0 {
            let values: Vec<Value> = values
                .iter()
                .map(|(phase, value)| Value { phase: phase.to_string(), pcr: PCR_UKI, hash: hex::encode(value) })
                .collect();
            map.serialize_entry(bank.as_str(), &values)?;
        }
        map.end()
    }
}

#[cfg(test)]
mod tests {
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
        assert_eq!(a.pcr11(&PhasePath::empty()), b.pcr11(&PhasePath::empty()));
        assert_ne!(
            a.pcr11(&PhasePath::empty()),
            digests(Bank::Sha256, &[SectionName::Linux]).pcr11(&PhasePath::empty())
        );
    }

    #[test]
    fn signatures_and_empty_sections_are_not_measured() {
        let mut with = digests(Bank::Sha512, &[SectionName::Linux, SectionName::Pcrsig]);
        with.begin(SectionName::Cmdline);
        with.end();
        let without = digests(Bank::Sha512, &[SectionName::Linux]);
        assert_eq!(with.pcr11(&PhasePath::empty()), without.pcr11(&PhasePath::empty()));
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
        assert_eq!("enter-initrd".parse().map(|path| digests.pcr11(&path)), Ok(expected));
    }
}
