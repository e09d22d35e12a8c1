//! Platform Configuration Registers: banks and boot phases.

use std::fmt;
use std::str::FromStr;

use sha1::Sha1;
use sha2::{Digest, Sha256, Sha384, Sha512};

/// A bank of PCRs: the hash that its registers are extended with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Bank {
    /// SHA-1.
    Sha1,
    /// SHA-256.
    Sha256,
    /// SHA-384.
    Sha384,
    /// SHA-512.
    Sha512,
}

impl Bank {
    /// All banks, in the order of the report and of `.pcrsig`.
    pub const ALL: [Self; 4] = [Self::Sha1, Self::Sha256, Self::Sha384, Self::Sha512];

    /// The name that systemd uses: `sha256`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sha1 => "sha1",
            Self::Sha256 => "sha256",
            Self::Sha384 => "sha384",
            Self::Sha512 => "sha512",
        }
    }

    /// `TPM_ALG_ID` of the hash (TCG Algorithm Registry).
    #[must_use]
    pub const fn tpm_algorithm(self) -> u16 {
        match self {
            Self::Sha1 => 0x0004,
            Self::Sha256 => 0x000b,
            Self::Sha384 => 0x000c,
            Self::Sha512 => 0x000d,
        }
    }

    /// Width of the register in bytes.
    #[must_use]
    pub const fn width(self) -> usize {
        match self {
            Self::Sha1 => 20,
            Self::Sha256 => 32,
            Self::Sha384 => 48,
            Self::Sha512 => 64,
        }
    }
}

impl fmt::Display for Bank {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Bank {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|bank| bank.as_str() == text)
            .ok_or_else(|| format!("unknown PCR bank {text:?}: use sha1, sha256, sha384 or sha512"))
    }
}

/// A running hash of a bank.
#[derive(Debug, Clone)]
pub(super) enum Hasher {
    Sha1(Sha1),
    Sha256(Sha256),
    Sha384(Sha384),
    Sha512(Sha512),
}

impl Hasher {
    pub(super) fn new(bank: Bank) -> Self {
        match bank {
            Bank::Sha1 => Self::Sha1(Sha1::new()),
            Bank::Sha256 => Self::Sha256(Sha256::new()),
            Bank::Sha384 => Self::Sha384(Sha384::new()),
            Bank::Sha512 => Self::Sha512(Sha512::new()),
        }
    }

    pub(super) fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha1(hash) => hash.update(bytes),
            Self::Sha256(hash) => hash.update(bytes),
            Self::Sha384(hash) => hash.update(bytes),
            Self::Sha512(hash) => hash.update(bytes),
        }
    }

    pub(super) fn finish(self) -> Vec<u8> {
        match self {
            Self::Sha1(hash) => hash.finalize().to_vec(),
            Self::Sha256(hash) => hash.finalize().to_vec(),
            Self::Sha384(hash) => hash.finalize().to_vec(),
            Self::Sha512(hash) => hash.finalize().to_vec(),
        }
    }
}

/// A path of boot phases, extended one word after the other: `enter-initrd:leave-initrd`; may be empty.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct PhasePath(Vec<String>);

impl PhasePath {
    /// The phases that systemd extends on the way to a running system, in order.
    pub const WORDS: [&'static str; 4] = ["enter-initrd", "leave-initrd", "sysinit", "ready"];

    /// The empty path: PCR 11 as the stub leaves it, before any phase word.
    #[must_use]
    pub const fn empty() -> Self {
        Self(Vec::new())
    }

    /// The default paths that policies are signed for: the four prefixes of [`PhasePath::WORDS`].
    #[must_use]
    pub fn signed_by_default() -> Vec<Self> {
        (1..=Self::WORDS.len())
            .map(|n| Self(Self::WORDS.iter().take(n).map(|word| (*word).to_owned()).collect()))
            .collect()
    }

    /// The words.
    pub fn words(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }

    /// Whether no word is extended.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromStr for PhasePath {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Ok(Self::empty());
        }
        let words: Vec<String> = text.split(':').map(str::to_owned).collect();
        match words.iter().find(|word| word.is_empty() || word.contains(char::is_whitespace)) {
            Some(word) => Err(format!(
                "phase path {text:?} has the word {word:?}: separate words by one colon, without white space"
            )),
            None => Ok(Self(words)),
        }
    }
}

impl fmt::Display for PhasePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join(":"))
    }
}
