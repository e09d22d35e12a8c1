//! The signature at the end of a module file, and whose it is.
//!
//! Sources: the kernel's `include/linux/module_signature.h`, `kernel/module_signature.c` and `scripts/sign-file.c`. Behind the
//! ELF file come a PKCS#7 message without certificates, a structure of 12 bytes with the message's length, and a line of
//! text that says so. Whether the message fits the file is not computed here: that takes the key.

use std::collections::BTreeSet;
use std::fmt;

use cms::content_info::ContentInfo;
use cms::signed_data::{SignedData, SignerIdentifier};
use const_oid::db::{DB, rfc5911};
use der::{Decode, Encode};

/// The end of a signed module.
const MARKER: &[u8] = b"~Module signature appended~\n";
/// `struct module_signature`.
const STRUCT: usize = 12;
/// `PKEY_ID_PKCS7`, the only kind that the kernel takes.
const PKCS7: u8 = 2;
/// Bytes of a module's end in which every signature lies whole; one of an RSA key of 4096 bits has about 700.
pub const MODULE_END: usize = 16 << 10;

/// By what a signature names the key that made it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum KeyId {
    /// Issuer (a DER `Name`) and serial number of its certificate.
    Certificate {
        /// DER of the issuer's name.
        issuer: Vec<u8>,
        /// The serial number's bytes.
        serial: Vec<u8>,
    },
    /// The subject key identifier of its certificate.
    SubjectKey(Vec<u8>),
}

impl fmt::Display for KeyId {
    /// `"CN=Name" (serial 1bf8...)`; the name comes from the file, so what a terminal would obey is escaped.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Certificate { issuer, serial } => {
                let name = x509_cert::name::Name::from_der(issuer).map(|name| name.to_string()).unwrap_or_default();
                write!(f, "\"{}\" (serial {})", printable(&name), short_hex(serial))
            }
            Self::SubjectKey(id) => write!(f, "the key {}", short_hex(id)),
        }
    }
}

/// Without what a terminal would obey. Backslashes are the name's own way to write such.
fn printable(name: &str) -> String {
    let shown = |c: char| match c {
        '\\' | '\'' => c.to_string(),
        c => c.escape_debug().to_string(),
    };
    name.chars().take(100).map(shown).collect()
}

/// A serial number has at most 20 bytes, unless it is hostile.
fn short_hex(bytes: &[u8]) -> String {
    hex::encode(bytes.get(..20).unwrap_or(bytes))
}

/// What the end of a module says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Signature {
    /// Nothing: the module is not signed.
    None,
    /// A message that the kernel will look at.
    Signed {
        /// The keys that signed; one, as a rule.
        keys: BTreeSet<KeyId>,
        /// The digest's name as the kernel build calls it: `id-sha256`, or its number.
        digest: String,
    },
    /// A signature that the kernel refuses for its form.
    Damaged(String),
}

impl Signature {
    /// Reads the end of a module's plain bytes: the last [`MODULE_END`], or all of a shorter file.
    #[must_use]
    pub fn of_end(end: &[u8]) -> Self {
        match end.strip_suffix(MARKER) {
            None => Self::None,
            Some(before) => match signed(before) {
                Ok((keys, digest)) => Self::Signed { keys, digest },
                Err(problem) => Self::Damaged(problem),
            },
        }
    }
}

fn signed(before: &[u8]) -> Result<(BTreeSet<KeyId>, String), String> {
    let (rest, info) = before.split_last_chunk::<STRUCT>().ok_or("it is cut off")?;
    let [algorithm, hash, kind, signer, key, pad @ .., a, b, c, d] = *info;
    if kind != PKCS7 {
        return Err(format!("it is of kind {kind}; the kernel takes PKCS#7 ({PKCS7}) only"));
    }
    // `mod_check_sig` refuses them.
    if [algorithm, hash, signer, key].iter().chain(&pad).any(|&byte| byte != 0) {
        return Err("fields that must be zero are not".to_owned());
    }
    let length = u32::from_be_bytes([a, b, c, d]);
    let start = usize::try_from(length).ok().and_then(|length| rest.len().checked_sub(length));
    let message = start.and_then(|start| rest.get(start..));
    let message = message.ok_or_else(|| format!("its length of {length} bytes cannot be"))?;
    let content = ContentInfo::from_der(message).map_err(|error| format!("it is no PKCS#7 message: {error}"))?;
    if content.content_type != rfc5911::ID_SIGNED_DATA {
        return Err("its PKCS#7 message is not signed data".to_owned());
    }
    let data: SignedData =
        content.content.decode_as().map_err(|error| format!("its PKCS#7 message is damaged: {error}"))?;
    let mut keys = BTreeSet::new();
    let mut digest = None;
    for info in data.signer_infos.0.iter() {
        digest = digest.or(Some(info.digest_alg.oid));
        keys.insert(match &info.sid {
            SignerIdentifier::IssuerAndSerialNumber(id) => KeyId::Certificate {
                issuer: id.issuer.to_der().map_err(|error| format!("its signer's name is damaged: {error}"))?,
                serial: id.serial_number.as_bytes().to_vec(),
            },
            SignerIdentifier::SubjectKeyIdentifier(id) => KeyId::SubjectKey(id.0.as_bytes().to_vec()),
        });
    }
    let digest = digest.ok_or("nobody signed its PKCS#7 message")?;
    Ok((keys, DB.by_oid(&digest).map_or_else(|| digest.to_string(), str::to_owned)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ending(info: [u8; STRUCT], message: &[u8]) -> Vec<u8> {
        [b"\x7fELF", message, &info, MARKER].concat()
    }

    fn problem(end: &[u8]) -> String {
        match Signature::of_end(end) {
            Signature::Damaged(problem) => problem,
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn ends_that_the_kernel_refuses_are_told_apart() {
        assert_eq!(Signature::of_end(b"\x7fELF"), Signature::None);
        assert_eq!(Signature::of_end(b""), Signature::None);
        assert_eq!(problem(MARKER), "it is cut off");
        assert_eq!(
            problem(&ending([0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0], b"")),
            "it is of kind 1; the kernel takes PKCS#7 (2) only"
        );
        assert_eq!(problem(&ending([1, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0], b"")), "fields that must be zero are not");
        assert_eq!(problem(&ending([0, 0, 2, 0, 0, 0, 0, 1, 0, 0, 0, 0], b"")), "fields that must be zero are not");
        assert_eq!(
            problem(&ending([0, 0, 2, 0, 0, 0, 0, 0, 255, 255, 255, 255], b"")),
            "its length of 4294967295 bytes cannot be"
        );
        assert!(problem(&ending([0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 3], b"abc")).starts_with("it is no PKCS#7 message"));
        assert!(problem(&ending([0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0], b"")).starts_with("it is no PKCS#7 message"));
    }
}
