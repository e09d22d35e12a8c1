//! The signature database, as far as predicting PCR 7 needs it: which entry of db verifies an image, as EDK2's
//! `DxeImageVerificationLib` goes about it.
//!
//! Left out: dbx, time stamps, validity, and the signature over the image itself, which are verification's work; entries
//! that hold anything but certificates and SHA-256 digests of images; certificates that are not RSA with SHA-2.

use cms::cert::CertificateChoices;
use cms::content_info::ContentInfo;
use cms::signed_data::{SignedData, SignerIdentifier};
use der::{Decode, Encode};
use rsa::pkcs8::DecodePublicKey;
use rsa::{Pkcs1v15Sign, RsaPublicKey};
use sha2::{Digest, Sha256, Sha384, Sha512};
use x509_cert::Certificate;

use super::image::{LoadedImage, PredictError};
use crate::boot::pcr::Bank;

/// `EFI_CERT_X509_GUID`, as it lies in memory.
const CERT_X509: [u8; 16] =
    [0xa1, 0x59, 0xc0, 0xa5, 0xe4, 0x94, 0xa7, 0x4a, 0x87, 0xb5, 0xab, 0x15, 0x5c, 0x2b, 0xf0, 0x72];
/// `EFI_CERT_SHA256_GUID`, as it lies in memory.
const CERT_SHA256: [u8; 16] =
    [0x26, 0x16, 0xc4, 0xc1, 0x4c, 0x50, 0x92, 0x40, 0xac, 0xa9, 0x41, 0xf9, 0x36, 0x93, 0x43, 0x28];
/// Bytes of `EFI_SIGNATURE_LIST` before the entries.
const LIST_HEADER: usize = 28;
/// The owner's GUID, in front of each entry.
const OWNER: usize = 16;
/// Attributes in front of a variable in efivarfs.
const ATTRIBUTES: usize = 4;
/// Certificates from a signer up to the one that is trusted: far more than anybody has.
const MAX_CHAIN: usize = 8;

/// `UEFI_VARIABLE_DATA`: what is hashed of a variable.
pub(super) fn variable_data(vendor: &[u8; 16], name: &str, data: &[u8]) -> Vec<u8> {
    let name: Vec<u8> = name.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let length = |bytes: usize| u64::try_from(bytes).unwrap_or(u64::MAX).to_le_bytes();
    [&vendor[..], &length(name.len() / 2), &length(data.len()), &name, data].concat()
}

/// `EFI_SIGNATURE_DATA`: the owner's GUID, and a certificate or digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry<'a> {
    kind: [u8; 16],
    bytes: &'a [u8],
}

impl<'a> Entry<'a> {
    /// The owner's GUID and the content.
    pub(super) fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    fn content(&self) -> &'a [u8] {
        self.bytes.get(OWNER..).unwrap_or_default()
    }

    fn certificate(&self) -> Option<Certificate> {
        (self.kind == CERT_X509).then(|| Certificate::from_der(self.content()).ok()).flatten()
    }

    /// The subject of the certificate, or the digest.
    pub(super) fn describe(&self) -> String {
        match self.certificate() {
            Some(certificate) => {
                let subject = certificate.tbs_certificate.subject.to_string();
                format!("the certificate {subject:?}, SHA-256 {}", hex::encode(Sha256::digest(self.content())))
            }
            None => format!("the digest {}", hex::encode(self.content())),
        }
    }
}

/// A variable that holds lists of signatures.
#[derive(Debug, Clone)]
pub(super) struct Database<'a> {
    bytes: &'a [u8],
    entries: Vec<Entry<'a>>,
}

impl<'a> Database<'a> {
    /// Reads the lists, with or without the attributes that efivarfs puts in front: attributes are a small number, and
    /// the GUID of a list is none.
    pub(super) fn parse(name: &'static str, bytes: &'a [u8]) -> Result<Self, PredictError> {
        let fail = |(offset, reason)| PredictError::Variable { name, offset, reason };
        let attributes = bytes.first_chunk::<ATTRIBUTES>().map(|bytes| u32::from_le_bytes(*bytes));
        let data = match attributes {
            Some(1..=0xff) => bytes.get(ATTRIBUTES..).unwrap_or_default(),
            _ => bytes,
        };
        let entries = entries(data).map_err(fail)?;
        Ok(Self { bytes: data, entries })
    }

    /// The variable's data, without attributes.
    pub(super) fn bytes(&self) -> &'a [u8] {
        self.bytes
    }
}

/// Walks `EFI_SIGNATURE_LIST`s: type, size of the list, of its header and of each entry, header, entries.
fn entries(data: &[u8]) -> Result<Vec<Entry<'_>>, (usize, String)> {
    let mut found = Vec::new();
    let mut rest = data;
    while !rest.is_empty() {
        let at = data.len() - rest.len();
        let number = |offset: usize| -> Option<usize> {
            usize::try_from(u32::from_le_bytes(*rest.get(offset..)?.first_chunk()?)).ok()
        };
        let (Some(kind), Some(size), Some(header), Some(each)) =
            (rest.first_chunk::<16>(), number(16), number(20), number(24))
        else {
            return Err((at, format!("{} bytes are left, too few for a list", rest.len())));
        };
        let Some(list) = rest.get(..size).filter(|list| list.len() >= LIST_HEADER) else {
            return Err((at, format!("a list has the size {size}, and {} bytes are left", rest.len())));
        };
        let Some(body) = header.checked_add(LIST_HEADER).and_then(|start| list.get(start..)) else {
            return Err((at, format!("a list of {size} bytes has a header of {header}")));
        };
        if each <= OWNER || body.len() % each != 0 {
            return Err((at, format!("entries of {each} bytes do not fill a list of {} bytes", body.len())));
        }
        found.extend(body.chunks_exact(each).map(|bytes| Entry { kind: *kind, bytes }));
        rest = rest.get(size..).unwrap_or_default();
    }
    Ok(found)
}

/// The entry of db that verifies the image: for its signatures in order, the first certificate of db that the signer's
/// leads to; then the image's own digest.
pub(super) fn authority<'a>(db: &Database<'a>, image: &LoadedImage) -> Option<Entry<'a>> {
    let signed = image.signatures().find_map(|signature| {
        let chain = chain(signature)?;
        let trusted = |entry: &&Entry<'_>| {
            entry
                .certificate()
                .is_some_and(|certificate| chain.iter().any(|link| *link == certificate || issued(&certificate, link)))
        };
        db.entries.iter().find(trusted).copied()
    });
    let by_digest = || {
        let listed = |entry: &&Entry<'_>| {
            entry.kind == CERT_SHA256 && Some(entry.content()) == image.digests().get(Bank::Sha256)
        };
        db.entries.iter().find(listed).copied()
    };
    signed.or_else(by_digest)
}

/// The signer's certificate, and those in the signature that vouch for it, one after the other.
fn chain(signature: &[u8]) -> Option<Vec<Certificate>> {
    // The table's padding belongs to the last certificate in it: DER says by itself where it ends.
    let mut reader = der::SliceReader::new(signature).ok()?;
    let info = ContentInfo::decode(&mut reader).ok()?;
    let signed: SignedData = info.content.decode_as().ok()?;
    let held: Vec<Certificate> = signed
        .certificates?
        .0
        .iter()
        .filter_map(|choice| match choice {
            CertificateChoices::Certificate(certificate) => Some(certificate.clone()),
            _ => None,
        })
        .collect();
    let signer = signed.signer_infos.0.iter().next()?;
    let SignerIdentifier::IssuerAndSerialNumber(id) = &signer.sid else { return None };
    let first = held.iter().find(|certificate| {
        let tbs = &certificate.tbs_certificate;
        tbs.issuer == id.issuer && tbs.serial_number == id.serial_number
    })?;
    let mut chain = vec![first.clone()];
    while chain.len() < MAX_CHAIN {
        let next = chain
            .last()
            .and_then(|last| held.iter().find(|certificate| !chain.contains(certificate) && issued(certificate, last)));
        let Some(next) = next.cloned() else { break };
        chain.push(next);
    }
    Some(chain)
}

/// Whether the first certificate's key signed the second.
fn issued(issuer: &Certificate, certificate: &Certificate) -> bool {
    if issuer.tbs_certificate.subject != certificate.tbs_certificate.issuer {
        return false;
    }
    let spki = issuer.tbs_certificate.subject_public_key_info.to_der();
    let key = spki.ok().and_then(|spki| RsaPublicKey::from_public_key_der(&spki).ok());
    let parts = (key, certificate.tbs_certificate.to_der(), certificate.signature.as_bytes());
    let (Some(key), Ok(signed), Some(signature)) = parts else { return false };
    let (padding, digest) = match certificate.signature_algorithm.oid {
        const_oid::db::rfc5912::SHA_256_WITH_RSA_ENCRYPTION => {
            (Pkcs1v15Sign::new::<Sha256>(), Sha256::digest(signed).to_vec())
        }
        const_oid::db::rfc5912::SHA_384_WITH_RSA_ENCRYPTION => {
            (Pkcs1v15Sign::new::<Sha384>(), Sha384::digest(signed).to_vec())
        }
        const_oid::db::rfc5912::SHA_512_WITH_RSA_ENCRYPTION => {
            (Pkcs1v15Sign::new::<Sha512>(), Sha512::digest(signed).to_vec())
        }
        _ => return false,
    };
    key.verify(padding, &digest, signature).is_ok()
}
