//! The Secure Boot signature: certificate table, Authenticode digest, PKCS#7, and the chain to db.

use authenticode::{
    AttributeCertificate, AttributeCertificateIterator, AuthenticodeSignature, PeOffsetError, PeOffsets,
};
use cms::cert::CertificateChoices;
use cms::content_info::ContentInfo;
use cms::signed_data::{SignedData, SignerIdentifier, SignerInfo};
use const_oid::db::{rfc5911, rfc5912};
use der::asn1::{ObjectIdentifier, OctetString};
use der::{Encode, SliceReader};
use x509_cert::Certificate;

use super::image::Image;
use super::pass::{Digests, hash, scheme};
use super::report::Report;
use super::source::{Source, bytes};
use super::trust::{self, Chain, Database, name_of};
use crate::boot::pcr::Bank;

/// A certificate table larger than this is none: a signature has two or three KiB.
const TABLE_LIMIT: u64 = 1 << 20;

/// A signature as it was found, before it is held against the image.
#[derive(Debug, Clone)]
pub(super) struct Found {
    signature: AuthenticodeSignature,
    certificates: Vec<Certificate>,
    /// The hash of the image that it uses.
    pub(super) bank: Bank,
}

/// What the table says.
pub(super) type Table = Result<Vec<Found>, String>;

/// The table alone, for the `authenticode` crate's reader, which otherwise wants the whole file in memory.
struct Alone(Vec<u8>);

impl authenticode::PeTrait for Alone {
    fn data(&self) -> &[u8] {
        &self.0
    }

    fn num_sections(&self) -> usize {
        0
    }

    fn section_data_range(&self, _: usize) -> Result<std::ops::Range<usize>, PeOffsetError> {
        Err(PeOffsetError)
    }

    fn certificate_table_range(&self) -> Result<Option<std::ops::Range<usize>>, PeOffsetError> {
        Ok((!self.0.is_empty()).then_some(0..self.0.len()))
    }

    fn offsets(&self) -> Result<PeOffsets, PeOffsetError> {
        Err(PeOffsetError)
    }
}

/// Reads the certificate table; no signatures where the image has none.
pub(super) fn read(source: &dyn Source, image: &Image) -> std::io::Result<Table> {
    let (offset, size) = image.certificates;
    if (offset, size) == (0, 0) {
        return Ok(Ok(Vec::new()));
    }
    if !offset.is_multiple_of(8) {
        return Ok(Err(format!("the certificate table is at byte {offset}, not at a multiple of 8")));
    }
    if offset.checked_add(size) != Some(image.length) {
        let length = image.length;
        return Ok(Err(format!(
            "the certificate table ({size} bytes at {offset}) does not end with the file ({length})"
        )));
    }
    if size > TABLE_LIMIT {
        return Ok(Err(format!("the certificate table has {size} bytes, more than signatures take")));
    }
    let end = image.sections.iter().map(super::image::Section::raw_end).fold(image.size_of_headers, u64::max);
    if offset < end {
        return Ok(Err(format!("the certificate table begins at byte {offset}, within the sections")));
    }
    let table = Alone(bytes(source, offset, size)?);
    Ok(entries(&table))
}

fn entries(table: &Alone) -> Table {
    let damaged = |error: &dyn std::fmt::Display| format!("the certificate table is damaged: {error}");
    let Some(entries) = AttributeCertificateIterator::new(table).map_err(|error| damaged(&error))? else {
        return Err(damaged(&"it is empty"));
    };
    let mut found = Vec::new();
    for entry in entries {
        found.push(parse(&entry.map_err(|error| damaged(&error))?)?);
    }
    if found.is_empty() { Err(damaged(&"it holds no signature")) } else { Ok(found) }
}

fn parse(entry: &AttributeCertificate<'_>) -> Result<Found, String> {
    let signature = entry.get_authenticode_signature().map_err(|error| error.to_string())?;
    // The crate's own accessor panics where there are no certificates.
    let damaged = |error: der::Error| format!("the signature is damaged: {error}");
    let mut reader = SliceReader::new(entry.data).map_err(damaged)?;
    let content: ContentInfo = der::Reader::decode(&mut reader).map_err(damaged)?;
    let signed: SignedData = content.content.decode_as().map_err(damaged)?;
    let certificates = signed.certificates.iter().flat_map(|set| set.0.iter()).filter_map(|choice| match choice {
        CertificateChoices::Certificate(certificate) => Some(certificate.clone()),
        CertificateChoices::Other(_) => None,
    });
    let oid = signature.signer_info().digest_alg.oid;
    let bank =
        digest_of(oid).ok_or_else(|| format!("the signature uses the hash {oid}, which firmware does not know"))?;
    Ok(Found { certificates: certificates.collect(), signature, bank })
}

fn digest_of(oid: ObjectIdentifier) -> Option<Bank> {
    Some(match oid {
        rfc5912::ID_SHA_256 => Bank::Sha256,
        rfc5912::ID_SHA_384 => Bank::Sha384,
        rfc5912::ID_SHA_512 => Bank::Sha512,
        _ => return None,
    })
}

impl Found {
    /// The certificate that the signature names as its signer's.
    fn named_signer(&self) -> Option<&Certificate> {
        let SignerIdentifier::IssuerAndSerialNumber(id) = &self.signature.signer_info().sid else { return None };
        self.certificates.iter().find(|certificate| {
            certificate.tbs_certificate.issuer == id.issuer
                && certificate.tbs_certificate.serial_number == id.serial_number
        })
    }

    /// The certificate of db that it leads to, by its own word: nothing is held against the image. Without db the signer's.
    pub(super) fn anchor(&self, db: Option<&Database>) -> Option<Certificate> {
        let signer = self.named_signer()?;
        match db {
            None => Some(signer.clone()),
            Some(db) => match trust::chain(signer, &self.certificates, db, &Database::default()) {
                Chain::Trusted(by, _) => Some(*by),
                _ => None,
            },
        }
    }

    /// The signer's certificate, if the signature holds: the image's digest, the attributes, the RSA signature.
    fn signer(&self, digests: &Digests) -> Result<&Certificate, String> {
        let info = self.signature.signer_info();
        let digest = digests.image.get(&self.bank).ok_or("the image has no digest")?;
        if self.signature.digest() != digest {
            return Err(format!(
                "the image was changed after it was signed: its Authenticode {} is {}, signed was {}",
                self.bank,
                hex::encode(digest),
                hex::encode(self.signature.digest())
            ));
        }
        let content = self.signature.encapsulated_content().ok_or("the signature has no content")?;
        let algorithm = authenticode_algorithm(content)?;
        if digest_of(algorithm) != Some(self.bank) {
            return Err("the signature names two hashes for the image".to_owned());
        }
        check_attributes(info, &hash(self.bank, &[content]))?;
        let signer = self.named_signer();
        let signer = signer.ok_or("the signature does not carry its signer's certificate")?;
        let algorithm = info.signature_algorithm.oid;
        let is_rsa = algorithm == rfc5912::RSA_ENCRYPTION || trust::rsa_digest(algorithm) == Some(self.bank);
        // RFC 8017 wants NULL; some leave it out.
        let parameters = info.signature_algorithm.parameters.as_ref();
        if !is_rsa || parameters.is_some_and(|value| !value.is_null()) {
            return Err(format!("the signature's algorithm is {algorithm}: only RSA can be checked here"));
        }
        let attributes = info.signed_attrs.as_ref().ok_or("the signature has no signed attributes")?;
        let attributes = attributes.to_der().map_err(|error| error.to_string())?;
        trust::public_key(signer)?
            .verify(scheme(self.bank), &hash(self.bank, &[&attributes]), info.signature.as_bytes())
            .map_err(|_| format!("the signature is not by the key of {}", name_of(signer)))?;
        Ok(signer)
    }
}

fn authenticode_algorithm(content: &[u8]) -> Result<ObjectIdentifier, String> {
    // The content's octets without the outer tag: an attribute and the digest's description.
    let wrong = |error: der::Error| format!("the signature's content is damaged: {error}");
    let mut reader = SliceReader::new(content).map_err(wrong)?;
    let _: authenticode::SpcAttributeTypeAndOptionalValue = der::Reader::decode(&mut reader).map_err(wrong)?;
    let digest: authenticode::DigestInfo = der::Reader::decode(&mut reader).map_err(wrong)?;
    Ok(digest.digest_algorithm.oid)
}

fn check_attributes(info: &SignerInfo, digest: &[u8]) -> Result<(), String> {
    let one = |oid: ObjectIdentifier| {
        let mut all = info.signed_attrs.iter().flat_map(|set| set.iter()).filter(|attribute| attribute.oid == oid);
        let value = all.next().filter(|attribute| attribute.values.len() == 1).and_then(|attr| attr.values.get(0));
        value.filter(|_| all.next().is_none())
    };
    let kind = one(rfc5911::ID_CONTENT_TYPE).and_then(|value| value.decode_as::<ObjectIdentifier>().ok());
    if kind != Some(authenticode::SPC_INDIRECT_DATA_OBJID) {
        return Err("the signed attributes name another content".to_owned());
    }
    let signed = one(rfc5911::ID_MESSAGE_DIGEST).and_then(|value| value.decode_as::<OctetString>().ok());
    if signed.as_ref().map(OctetString::as_bytes) != Some(digest) {
        return Err("the signed attributes are of another content".to_owned());
    }
    Ok(())
}

/// Holds the signatures against image, db and dbx. The rules are EDK2's `DxeImageVerificationLib`: one good signature is
/// enough, one revoked is too many. Here all must be whole as well: a half-damaged table is nobody's intention.
pub(super) fn check(
    id: &'static str,
    table: &Table,
    digests: &Digests,
    db: Option<&Database>,
    dbx: &Database,
    report: &mut Report,
) {
    if let Some(digest) = digests.image.get(&Bank::Sha256)
        && dbx.hashes.iter().any(|hash| hash.as_slice() == digest.as_slice())
    {
        report.fail(id, format!("the image is revoked: dbx holds its SHA-256 {}", hex::encode(digest)));
    }
    let found = match table {
        Err(problem) => {
            report.fail(id, problem.clone());
            return;
        }
        Ok(found) => found,
    };
    let by_hash = digests
        .image
        .get(&Bank::Sha256)
        .zip(db)
        .is_some_and(|(digest, db)| db.hashes.iter().any(|hash| hash.as_slice() == digest.as_slice()));
    if by_hash {
        report.pass(id, "db holds the image's SHA-256");
    }
    match (found.is_empty(), db) {
        (true, Some(_)) if !by_hash => report.fail(id, "it is not signed: firmware with this db refuses it"),
        (true, None) => report.warn(id, "it is not signed: firmware with Secure Boot refuses it"),
        _ => {}
    }
    let mut trusted = by_hash;
    let mut problems = 0;
    let empty = Database::default();
    for signature in found {
        let signer = match signature.signer(digests) {
            Ok(signer) => signer,
            Err(problem) => {
                report.fail(id, problem);
                problems += 1;
                continue;
            }
        };
        let name = name_of(signer);
        match (trust::chain(signer, &signature.certificates, db.unwrap_or(&empty), dbx), db) {
            (Chain::Revoked(by), _) => {
                report.fail(id, format!("signed by {name}, which is revoked: dbx holds {}", name_of(&by)));
                problems += 1;
            }
            (_, None) => {
                report.pass(id, format!("whole, {}, signed by {name}", signature.bank));
                report.skip("db", "no --db given: whether firmware trusts the signer is not known");
            }
            (Chain::Trusted(_, 0), _) => {
                report.pass(id, format!("whole, {}, signed by {name}, which is in db", signature.bank));
                trusted = true;
            }
            (Chain::Trusted(by, _), _) => {
                let by_name = name_of(&by);
                report.pass(
                    id,
                    format!("whole, {}, signed by {name}, for which {by_name} of db vouches", signature.bank),
                );
                trusted = true;
            }
            (Chain::Unknown, Some(_)) => {
                if found.len() == 1 {
                    report.fail(id, format!("signed by {name}, for which nothing in db vouches"));
                } else {
                    report.warn(id, format!("one signature is by {name}, for which nothing in db vouches"));
                }
            }
        }
    }
    if found.len() > 1 && db.is_some() && !trusted && problems == 0 {
        report.fail(id, "none of its signatures is by a signer that db vouches for");
    }
}

/// The agent's own check of an upgrade (kairos-sdk): SHA-256 with RSA, and a certificate in db with the signer's issuer and
/// serial number.
pub(super) fn check_agent(table: &Table, db: Option<&Database>, report: &mut Report) {
    let Ok(found) = table else { return };
    let Some(first) = found.first() else { return };
    if first.bank != Bank::Sha256 {
        report.warn(
            "agent",
            format!("signed with {}: kairos-agent refuses it as an upgrade, it wants SHA-256", first.bank),
        );
        return;
    }
    let SignerIdentifier::IssuerAndSerialNumber(id) = &first.signature.signer_info().sid else { return };
    let Some(db) = db else {
        report.skip("agent", "no --db given: kairos-agent wants the signer's own certificate in db");
        return;
    };
    let same = |certificate: &Certificate| {
        certificate.tbs_certificate.issuer == id.issuer && certificate.tbs_certificate.serial_number == id.serial_number
    };
    if db.certificates.iter().any(same) {
        report.pass("agent", "SHA-256 with RSA by a certificate of db: kairos-agent takes it as an upgrade");
    } else {
        report.warn(
            "agent",
            "the signer's own certificate is not in db: it boots, but kairos-agent refuses it as an upgrade",
        );
    }
}
