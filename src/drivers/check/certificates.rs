//! The certificates inside a kernel: the keys that it was built to trust.
//!
//! The kernel build puts them, DER behind DER, into `system_certificate_list`, whose place no header tells. So everything
//! in the kernel that is a whole X.509 certificate counts. That may be more than the list (certificates that the kernel
//! was built to *refuse*, those of its self tests), never less: who asks about a key that signed a module is not led to a
//! false alarm.

use std::collections::BTreeMap;
use std::io::Read;

use der::{Decode, Encode};
use memchr::memchr_iter;
use x509_cert::certificate::{CertificateInner, Raw};
use x509_cert::ext::pkix::SubjectKeyIdentifier;

use super::signature::KeyId;

/// Bytes that a certificate may have.
const LARGEST: usize = 16 << 10;
/// Bytes of a kernel that are searched at once.
const STEP: usize = 1 << 20;
/// Places that are tried: a real kernel has a few dozen; a hostile one may be made of them.
const MOST_TRIES: usize = 20_000;

/// The keys of the certificates in a kernel, by each name that a signature may have for them, with the subject.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Certificates {
    keys: BTreeMap<KeyId, String>,
    /// Whether the search was given up.
    pub incomplete: bool,
}

impl Certificates {
    /// Every certificate in a kernel's plain bytes.
    ///
    /// # Errors
    /// The reader's.
    pub fn scan(mut kernel: &mut dyn Read) -> std::io::Result<Self> {
        let mut out = Self::default();
        let mut window = Vec::with_capacity(STEP + LARGEST);
        let mut tries = 0;
        loop {
            let read = (&mut kernel).take(STEP as u64).read_to_end(&mut window)?;
            // What begins in the last bytes may end in the next step.
            let settled = if read == 0 { window.len() } else { window.len().saturating_sub(LARGEST) };
            for at in memchr_iter(0x30, window.get(..settled).unwrap_or_default()) {
                let Some(der) = window.get(at..).and_then(framed) else { continue };
                tries += 1;
                if tries > MOST_TRIES {
                    out.incomplete = true;
                    return Ok(out);
                }
                out.add(der);
            }
            if read == 0 {
                return Ok(out);
            }
            window.drain(..settled);
        }
    }

    fn add(&mut self, der: &[u8]) {
        let Ok(certificate) = CertificateInner::<Raw>::from_der(der) else { return };
        let tbs = &certificate.tbs_certificate;
        let Ok(issuer) = tbs.issuer.to_der() else { return };
        let subject: String = tbs.subject.to_string().chars().take(200).collect();
        self.keys.insert(KeyId::Certificate { issuer, serial: tbs.serial_number.as_bytes().to_vec() }, subject.clone());
        if let Ok(Some((_, id))) = tbs.get::<SubjectKeyIdentifier>() {
            self.keys.insert(KeyId::SubjectKey(id.0.as_bytes().to_vec()), subject);
        }
    }

    /// Whether a key's certificate is there.
    #[must_use]
    pub fn holds(&self, key: &KeyId) -> bool {
        self.keys.contains_key(key)
    }

    /// The names of the keys and their certificates' subjects; a certificate with a subject key identifier stands twice.
    pub fn iter(&self) -> impl Iterator<Item = (&KeyId, &str)> {
        self.keys.iter().map(|(id, subject)| (id, subject.as_str()))
    }
}

/// The bytes of a SEQUENCE that begins with a SEQUENCE that begins with a version or a serial number: the outline of a
/// certificate.
fn framed(bytes: &[u8]) -> Option<&[u8]> {
    let (header, length) = sequence(bytes)?;
    let content = bytes.get(header..header.checked_add(length)?)?;
    let (inner, inner_length) = sequence(content)?;
    let first = content.get(inner)?;
    let fits = inner.checked_add(inner_length)? < content.len() && matches!(first, 0xa0 | 0x02);
    fits.then(|| bytes.get(..header.checked_add(length)?))?
}

/// Bytes of the header and of the content of a SEQUENCE of 128 bytes to [`LARGEST`].
fn sequence(bytes: &[u8]) -> Option<(usize, usize)> {
    let (header, length) = match *bytes {
        [0x30, 0x82, a, b, ..] => (4, usize::from(u16::from_be_bytes([a, b]))),
        [0x30, 0x81, a, ..] => (3, usize::from(a)),
        _ => return None,
    };
    (length >= 128 && header + length <= LARGEST).then_some((header, length))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_outlines_are_tried() {
        let mut good = vec![0x30, 0x82, 1, 0, 0x30, 0x81, 0x80, 0xa0];
        good.resize(4 + 256, 0);
        assert_eq!(framed(&good).map(<[u8]>::len), Some(260));
        assert_eq!(framed(&good[..259]), None);
        assert_eq!(framed(b"\x30\x82\xff\xff\x30\x82\xff\xff"), None);
        assert_eq!(framed(b"\x30"), None);
    }

    #[test]
    fn a_kernel_made_of_outlines_is_given_up() -> std::io::Result<()> {
        let mut hostile = Vec::new();
        for _ in 0..=MOST_TRIES {
            hostile.extend_from_slice(&[0x30, 0x82, 1, 0, 0x30, 0x81, 0x80, 0xa0]);
        }
        hostile.resize(hostile.len() + 512, 0);
        let found = Certificates::scan(&mut hostile.as_slice())?;
        assert!(found.incomplete && found.iter().next().is_none());
        Ok(())
    }
}
