//! X.509 certificates in PEM and DER, and the proof that a key and a certificate belong together.
//!
//! Left out: whether a certificate is still valid or who vouches for it. Firmware does not ask the one, and decides the
//! other by its own lists.

use std::fmt;
use std::path::Path;

use der::{Decode, Encode};
use rsa::RsaPublicKey;
use rsa::pkcs8::{DecodePublicKey, PrivateKeyInfo};
use x509_cert::Certificate;

use super::keys::{bits, check_bits, check_rsa, describe, read};
use super::pem;
use super::{PublicKey, SignError, Signer};

/// Reads a certificate file; [`CertificateChain::parse`] says which.
///
/// # Errors
/// [`SignError::Read`], [`SignError::TooLarge`], and what [`CertificateChain::parse`] gives.
pub fn load_certificate(path: &Path) -> Result<CertificateChain, SignError> {
    let (bytes, _) = read(path, "certificates")?;
    CertificateChain::parse(&bytes, &path.display().to_string())
}

/// Reads a public key: `PUBLIC KEY` of PEM, `SubjectPublicKeyInfo` of DER, or that in a certificate.
///
/// # Errors
/// [`SignError::Read`], [`SignError::TooLarge`], [`SignError::Damaged`], and what [`CertificateChain::parse`] gives.
pub fn load_public_key(path: &Path) -> Result<PublicKey, SignError> {
    let (bytes, _) = read(path, "a public key")?;
    parse_public_key(&bytes, &path.display().to_string())
}

/// [`load_public_key`], of bytes; `name` is for messages.
///
/// # Errors
/// As [`load_public_key`].
pub fn parse_public_key(bytes: &[u8], name: &str) -> Result<PublicKey, SignError> {
    let damaged = |reason: String| SignError::Damaged { name: name.to_owned(), reason };
    let block = |block: pem::Block| block.contents.map_err(damaged).map(|der| der.to_vec());
    let spki = match pem::is_pem(bytes) {
        true => pem::blocks(bytes).into_iter().find(|block| block.label == "PUBLIC KEY").map(block).transpose()?,
        false => RsaPublicKey::from_public_key_der(bytes).is_ok().then(|| bytes.to_vec()),
    };
    let Some(spki) = spki else {
        return Ok(CertificateChain::parse(bytes, name)?.public);
    };
    let key =
        RsaPublicKey::from_public_key_der(&spki).map_err(|error| damaged(format!("no RSA public key: {error}")))?;
    PublicKey::new(&key, name)
}

/// The signer's certificate, and those that vouch for it if the file had more.
#[derive(Debug, Clone)]
pub struct CertificateChain {
    name: String,
    signer: Certificate,
    public: PublicKey,
    ders: Vec<Vec<u8>>,
}

impl CertificateChain {
    /// Reads certificates: DER holds one, PEM any number, of which the first is the signer's and the others are
    /// carried along in every signature. `name` is for messages.
    ///
    /// # Errors
    /// [`SignError::Unexpected`], [`SignError::Algorithm`], [`SignError::KeySize`], [`SignError::Damaged`].
    pub fn parse(bytes: &[u8], name: &str) -> Result<Self, SignError> {
        let ders = cut(bytes, name)?;
        let certificates = parse_all(&ders, name)?;
        let Some(signer) = certificates.into_iter().next() else {
            return Err(not_a_certificate(name, "nothing (it is empty)".to_owned()));
        };
        let spki = &signer.tbs_certificate.subject_public_key_info;
        check_rsa(spki.algorithm.oid, name)?;
        let damaged = |reason: String| SignError::Damaged { name: name.to_owned(), reason };
        if let Some(raw) = spki.subject_public_key.as_bytes() {
            let key = rsa::pkcs1::RsaPublicKey::from_der(raw).map_err(|error| damaged(error.to_string()))?;
            check_bits(bits(key.modulus.as_bytes()), name)?;
        }
        let spki = spki.to_der().map_err(|error| damaged(error.to_string()))?;
        let key = RsaPublicKey::from_public_key_der(&spki).map_err(|error| damaged(error.to_string()))?;
        Ok(Self { name: name.to_owned(), public: PublicKey::new(&key, name)?, signer, ders })
    }

    /// What the user calls it: a path as a rule.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The signer's certificate.
    #[must_use]
    pub fn signer(&self) -> &Certificate {
        &self.signer
    }

    /// The public key in the signer's certificate.
    #[must_use]
    pub fn public_key(&self) -> &PublicKey {
        &self.public
    }

    /// All certificates as they were read, DER, the signer's first.
    pub fn ders(&self) -> impl Iterator<Item = &[u8]> {
        self.ders.iter().map(Vec::as_slice)
    }
}

/// Reads certificates with keys of any kind: DER holds one, PEM any number. `name` is for messages.
///
/// # Errors
/// [`SignError::Unexpected`], [`SignError::Damaged`].
pub(super) fn parse_certificates(bytes: &[u8], name: &str) -> Result<Vec<Vec<u8>>, SignError> {
    let ders = cut(bytes, name)?;
    parse_all(&ders, name)?;
    Ok(ders)
}

fn parse_all(ders: &[Vec<u8>], name: &str) -> Result<Vec<Certificate>, SignError> {
    let parse = |(index, der): (usize, &Vec<u8>)| {
        Certificate::from_der(der).map_err(|error| SignError::Damaged {
            name: name.to_owned(),
            reason: format!("certificate {} is not X.509: {error}", index + 1),
        })
    };
    ders.iter().enumerate().map(parse).collect()
}

/// Cuts the input into certificates.
fn cut(bytes: &[u8], name: &str) -> Result<Vec<Vec<u8>>, SignError> {
    if bytes.is_empty() {
        return Err(not_a_certificate(name, "nothing (it is empty)".to_owned()));
    }
    if !pem::is_pem(bytes) {
        return match Certificate::from_der(bytes) {
            Ok(_) => Ok(vec![bytes.to_vec()]),
            Err(_) if PrivateKeyInfo::from_der(bytes).is_ok() => Err(not_a_certificate(name, describe("PRIVATE KEY"))),
            Err(_) if rsa::pkcs1::RsaPrivateKey::from_der(bytes).is_ok() => {
                Err(not_a_certificate(name, describe("PRIVATE KEY")))
            }
            Err(_) => Err(not_a_certificate(name, "neither PEM nor DER that is known here".to_owned())),
        };
    }
    let blocks = pem::blocks(bytes);
    let mut ders = Vec::new();
    for block in blocks.iter().filter(|block| matches!(block.label.as_str(), "CERTIFICATE" | "X509 CERTIFICATE")) {
        match &block.contents {
            Ok(der) => ders.push(der.to_vec()),
            Err(reason) => return Err(SignError::Damaged { name: name.to_owned(), reason: reason.clone() }),
        }
    }
    if ders.is_empty() {
        let found = blocks.first().map_or_else(|| "no PEM block".to_owned(), |block| describe(&block.label));
        return Err(not_a_certificate(name, found));
    }
    Ok(ders)
}

/// A key and the certificate that was made for it. That this value exists proves that they belong together.
pub struct Identity {
    signer: Box<dyn Signer>,
    chain: CertificateChain,
}

impl Identity {
    /// Puts the two together.
    ///
    /// # Errors
    /// [`SignError::Mismatch`] if their public keys differ.
    pub fn new(signer: Box<dyn Signer>, chain: CertificateChain) -> Result<Self, SignError> {
        if signer.public_key() != chain.public_key() {
            return Err(SignError::Mismatch {
                key: signer.name().to_owned(),
                certificate: chain.name.clone(),
                key_sha256: hex::encode(signer.public_key().fingerprint()),
                certificate_sha256: hex::encode(chain.public_key().fingerprint()),
            });
        }
        Ok(Self { signer, chain })
    }

    /// The key.
    #[must_use]
    pub fn signer(&self) -> &dyn Signer {
        self.signer.as_ref()
    }

    /// The certificates.
    #[must_use]
    pub fn chain(&self) -> &CertificateChain {
        &self.chain
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("key", &self.signer.name()).field("certificate", &self.chain.name).finish()
    }
}

fn not_a_certificate(name: &str, found: String) -> SignError {
    SignError::Unexpected {
        name: name.to_owned(),
        wanted: "a certificate",
        found,
        advice: "give an X.509 certificate in PEM or DER",
    }
}
