//! What firmware trusts and what it refuses: db and dbx, and the chain from a signer to them.

use std::collections::BTreeSet;
use std::path::Path;

use der::asn1::ObjectIdentifier;
use der::{Decode, Encode};
use rsa::RsaPublicKey;
use rsa::pkcs8::DecodePublicKey;
use x509_cert::Certificate;
use x509_cert::ext::pkix::BasicConstraints;

use super::pass::{hash, scheme};
use super::report::shown;
use crate::boot::pcr::Bank;
use crate::boot::sign::keys::read;
use crate::boot::sign::{CertificateChain, SignError, Signature, SignatureList};

/// Certificates that lead on to certificates, at most: more than anybody has.
const DEPTH: usize = 8;
/// A list of hashes is no larger than this.
const LIST_LIMIT: u64 = 4 << 20;

/// A database of firmware: certificates, and digests of single images.
#[derive(Debug, Clone, Default)]
pub struct Database {
    /// X.509 certificates.
    pub certificates: Vec<Certificate>,
    /// Authenticode SHA-256 digests.
    pub hashes: BTreeSet<[u8; 32]>,
}

impl Database {
    /// Adds what another holds.
    pub fn extend(&mut self, other: Self) {
        self.certificates.extend(other.certificates);
        self.hashes.extend(other.hashes);
    }

    /// Whether firmware with this db starts what the first of these certificates has signed, with the others in the signature.
    #[must_use]
    pub fn trusts(&self, signer: &CertificateChain) -> bool {
        let carried: Vec<_> = signer.ders().filter_map(|der| Certificate::from_der(der).ok()).collect();
        matches!(chain(signer.signer(), &carried, self, &Self::default()), Chain::Trusted(..))
    }

    fn holds(&self, certificate: &Certificate) -> bool {
        self.certificates.contains(certificate)
    }
}

/// Reads a database file: certificates in PEM or DER, signature lists (`.esl`, a file of efivarfs), a signed update (`.auth`), or a
/// text with a SHA-256 digest of an image (64 hexadecimal digits) at
/// the start of each line.
///
/// # Errors
/// A file that cannot be read, or is none of these.
pub fn load_database(path: &Path) -> Result<Database, SignError> {
    if let Some(hashes) = read_hashes(path) {
        return Ok(Database { certificates: Vec::new(), hashes });
    }
    let (bytes, _) = read(path, "certificates")?;
    let name = path.display().to_string();
    if SignatureList::is_one(&bytes) || path.extension().is_some_and(|ending| ending == "auth") {
        return from_lists(&bytes, &name);
    }
    let chain = CertificateChain::parse(&bytes, &name)?;
    let damaged =
        |error: der::Error| SignError::Damaged { name: path.display().to_string(), reason: error.to_string() };
    let certificates = chain.ders().map(|der| Certificate::from_der(der).map_err(damaged)).collect::<Result<_, _>>()?;
    Ok(Database { certificates, hashes: BTreeSet::new() })
}

/// What a machine's variable holds, or a signed update of it.
fn from_lists(bytes: &[u8], name: &str) -> Result<Database, SignError> {
    let (mut certificates, mut hashes) = (Vec::new(), BTreeSet::new());
    for entry in SignatureList::parse(bytes, name)? {
        match entry.signature {
            Signature::X509(der) => {
                certificates.push(Certificate::from_der(&der).map_err(|error| SignError::Damaged {
                    name: name.to_owned(),
                    reason: format!("it has a certificate that is none: {error}"),
                })?)
            }
            Signature::Sha256(digest) => drop(hashes.insert(digest)),
            // Other kinds firmware of today does not hold an image against.
            Signature::Other { .. } => {}
        }
    }
    Ok(Database { certificates, hashes })
}

fn read_hashes(path: &Path) -> Option<BTreeSet<[u8; 32]>> {
    use std::io::Read;
    let mut text = String::new();
    std::fs::File::open(path).ok()?.take(LIST_LIMIT).read_to_string(&mut text).ok()?;
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let hashes: BTreeSet<[u8; 32]> =
        lines.map(|line| hex::decode(line.get(..64)?).ok()?.try_into().ok()).collect::<Option<_>>()?;
    (!hashes.is_empty()).then_some(hashes)
}

/// The digest that a signature algorithm of RSA with PKCS#1 padding uses; `None` for other algorithms.
pub(super) fn rsa_digest(oid: ObjectIdentifier) -> Option<Bank> {
    use const_oid::db::rfc5912 as db;
    Some(match oid {
        db::SHA_1_WITH_RSA_ENCRYPTION => Bank::Sha1,
        db::SHA_256_WITH_RSA_ENCRYPTION => Bank::Sha256,
        db::SHA_384_WITH_RSA_ENCRYPTION => Bank::Sha384,
        db::SHA_512_WITH_RSA_ENCRYPTION => Bank::Sha512,
        _ => return None,
    })
}

/// The RSA key of a certificate, of at most 4096 bits.
pub(super) fn public_key(certificate: &Certificate) -> Result<RsaPublicKey, String> {
    let spki = certificate.tbs_certificate.subject_public_key_info.to_der().map_err(|error| error.to_string())?;
    RsaPublicKey::from_public_key_der(&spki)
        .map_err(|_| format!("the key of {} is not RSA of at most 4096 bits", name_of(certificate)))
}

/// The subject, for messages.
pub(super) fn name_of(certificate: &Certificate) -> String {
    shown(certificate.tbs_certificate.subject.to_string().as_bytes())
}

/// Whether `issuer` has signed `certificate`.
fn is_issuer(issuer: &Certificate, certificate: &Certificate) -> bool {
    if issuer.tbs_certificate.subject != certificate.tbs_certificate.issuer || !may_issue(issuer) {
        return false;
    }
    // The algorithm stands in a certificate twice, once signed and once not.
    let algorithm = &certificate.signature_algorithm;
    let Some(bank) = rsa_digest(algorithm.oid).filter(|_| *algorithm == certificate.tbs_certificate.signature) else {
        return false;
    };
    let (Ok(key), Ok(body)) = (public_key(issuer), certificate.tbs_certificate.to_der()) else { return false };
    let signature = certificate.signature.raw_bytes();
    key.verify(scheme(bank), &hash(bank, &[&body]), signature).is_ok()
}

/// Whether it may vouch for others: what says that it is no authority may not; what says nothing (X.509 v1) may.
fn may_issue(certificate: &Certificate) -> bool {
    match certificate.tbs_certificate.get::<BasicConstraints>() {
        Ok(Some((_, constraints))) => constraints.ca,
        Ok(None) => certificate.tbs_certificate.extensions.is_none(),
        Err(_) => false,
    }
}

/// How far the chain of a signer leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Chain {
    /// To this certificate of db: the signer's own or one that vouches for it. How many steps it took.
    Trusted(Box<Certificate>, usize),
    /// A certificate on the way is in dbx.
    Revoked(Box<Certificate>),
    /// Nowhere.
    Unknown,
}

/// Walks from the signer to db, over certificates that the signature carries. Firmware does not ask for dates.
pub(super) fn chain(signer: &Certificate, carried: &[Certificate], db: &Database, dbx: &Database) -> Chain {
    let mut current = signer;
    let mut found = None;
    for step in 0..DEPTH {
        if dbx.holds(current) {
            return Chain::Revoked(Box::new(current.clone()));
        }
        if found.is_none() {
            if db.holds(current) {
                found = Some(Chain::Trusted(Box::new(current.clone()), step));
            } else if let Some(anchor) = db.certificates.iter().find(|anchor| is_issuer(anchor, current)) {
                if dbx.holds(anchor) {
                    return Chain::Revoked(Box::new(anchor.clone()));
                }
                found = Some(Chain::Trusted(Box::new(anchor.clone()), step + 1));
            }
        }
        if let Some(revoked) = dbx.certificates.iter().find(|revoked| is_issuer(revoked, current)) {
            return Chain::Revoked(Box::new(revoked.clone()));
        }
        match carried.iter().find(|other| *other != current && is_issuer(other, current)) {
            Some(issuer) => current = issuer,
            None => break,
        }
    }
    found.unwrap_or(Chain::Unknown)
}
