//! The hashes that images are signed with.

use std::fmt;
use std::str::FromStr;

use const_oid::db::rfc5912;
use der::asn1::ObjectIdentifier;
use rsa::Pkcs1v15Sign;
use sha2::{Sha256, Sha384, Sha512};

use crate::boot::pcr::{Bank, Hasher};

/// A hash of the SHA-2 family. What firmware knows for sure is SHA-256.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub enum Hash {
    /// SHA-256.
    #[default]
    Sha256,
    /// SHA-384.
    Sha384,
    /// SHA-512.
    Sha512,
}

impl Hash {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Sha256, Self::Sha384, Self::Sha512];

    /// The name that tools use: `sha256`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha384 => "sha384",
            Self::Sha512 => "sha512",
        }
    }

    /// Its object identifier.
    #[must_use]
    pub const fn oid(self) -> ObjectIdentifier {
        match self {
            Self::Sha256 => rfc5912::ID_SHA_256,
            Self::Sha384 => rfc5912::ID_SHA_384,
            Self::Sha512 => rfc5912::ID_SHA_512,
        }
    }

    /// The PCR bank of the same hash.
    #[must_use]
    pub const fn bank(self) -> Bank {
        match self {
            Self::Sha256 => Bank::Sha256,
            Self::Sha384 => Bank::Sha384,
            Self::Sha512 => Bank::Sha512,
        }
    }

    /// The digest of these bytes.
    #[must_use]
    pub fn digest(self, bytes: &[u8]) -> Vec<u8> {
        let mut hasher = Hasher::new(self.bank());
        hasher.update(bytes);
        hasher.finish()
    }

    /// How RSASSA-PKCS1-v1_5 signs a digest of this hash.
    pub(super) fn padding(self) -> Pkcs1v15Sign {
        match self {
            Self::Sha256 => Pkcs1v15Sign::new::<Sha256>(),
            Self::Sha384 => Pkcs1v15Sign::new::<Sha384>(),
            Self::Sha512 => Pkcs1v15Sign::new::<Sha512>(),
        }
    }

    /// What stands before the digest in a `DigestInfo` (RFC 8017, section 9.2, note 1).
    #[must_use]
    pub const fn digest_info_prefix(self) -> [u8; 19] {
        let (total, last, length) = match self {
            Self::Sha256 => (0x31, 0x01, 0x20),
            Self::Sha384 => (0x41, 0x02, 0x30),
            Self::Sha512 => (0x51, 0x03, 0x40),
        };
        [
            0x30, total, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, last, 0x05, 0x00,
            0x04, length,
        ]
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Hash {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|hash| hash.as_str() == text)
            .ok_or_else(|| format!("unknown hash {text:?}: use sha256, sha384 or sha512"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rsa::pkcs1v15::Pkcs1v15Sign;

    /// The crate that signs keeps the same prefixes.
    #[test]
    fn prefixes_are_those_of_the_padding() {
        for hash in Hash::ALL {
            let Pkcs1v15Sign { prefix, .. } = hash.padding();
            assert_eq!(*prefix, hash.digest_info_prefix(), "{hash}");
        }
    }
}
