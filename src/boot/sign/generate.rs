//! New RSA keys with self-signed certificates, as Secure Boot wants them, and PCR keys, which need no certificate.
//!
//! Left out: certificate authorities and requests. Who has a key infrastructure brings keys from there.

use const_oid::AssociatedOid;
use const_oid::db::{rfc4519, rfc5912};
use der::asn1::{Any, BitString, OctetString, PrintableStringRef, SetOfVec, Utf8StringRef};
use der::pem::LineEnding;
use der::{Decode, Encode};
use rand_core::CryptoRngCore;
use rsa::RsaPrivateKey;
use rsa::pkcs8::EncodePrivateKey;
use sha1::Sha1;
use sha2::{Digest, Sha256};
use spki::SubjectPublicKeyInfoOwned;
use x509_cert::attr::AttributeTypeAndValue;
use x509_cert::certificate::{Certificate, TbsCertificate, Version};
use x509_cert::ext::Extension;
use x509_cert::ext::pkix::{AuthorityKeyIdentifier, BasicConstraints, KeyUsage, KeyUsages, SubjectKeyIdentifier};
use x509_cert::name::{Name, RdnSequence, RelativeDistinguishedName};
use x509_cert::serial_number::SerialNumber;
use x509_cert::time::Validity;
use zeroize::Zeroizing;

use super::asn1::{algorithm, time};
use super::{PublicKey, RsaSigner, SignError, Signer};

/// Length of a new key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub enum KeySize {
    /// 2048 bits: what all firmware knows.
    #[default]
    Rsa2048,
    /// 3072 bits.
    Rsa3072,
    /// 4096 bits.
    Rsa4096,
}

impl KeySize {
    /// Length of the modulus, bits.
    #[must_use]
    pub const fn bits(self) -> usize {
        match self {
            Self::Rsa2048 => 2048,
            Self::Rsa3072 => 3072,
            Self::Rsa4096 => 4096,
        }
    }

    /// The size of so many bits.
    ///
    /// # Errors
    /// [`SignError::Request`] for anything but 2048, 3072 and 4096.
    pub fn from_bits(bits: usize) -> Result<Self, SignError> {
        [Self::Rsa2048, Self::Rsa3072, Self::Rsa4096]
            .into_iter()
            .find(|size| size.bits() == bits)
            .ok_or_else(|| request(format!("{bits} bits are not offered: use 2048, 3072 or 4096")))
    }
}

/// What a new certificate shall say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateRequest {
    /// The common name, 1 to 64 characters.
    pub common_name: String,
    /// The organization, 1 to 64 characters.
    pub organization: Option<String>,
    /// The country: two letters (ISO 3166).
    pub country: Option<String>,
    /// Length of the key.
    pub size: KeySize,
    /// From when on it is valid: seconds since 1970, UTC. The caller reads the clock.
    pub not_before: u64,
    /// For how many days, at least 1. Firmware does not look at this; other verifiers do.
    pub days: u32,
}

/// A new key with its certificate. Debug prints nothing of the key.
pub struct KeyPair {
    /// The private key: PKCS#8, PEM. Wiped when dropped.
    pub key_pem: Zeroizing<String>,
    /// The certificate, PEM.
    pub certificate_pem: String,
    /// The certificate, DER.
    pub certificate_der: Vec<u8>,
}

impl std::fmt::Debug for KeyPair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeyPair").field("certificate_pem", &self.certificate_pem).finish_non_exhaustive()
    }
}

/// A new key without a certificate. Debug prints nothing of the key.
pub struct PcrKey {
    /// The private key: PKCS#8, PEM. Wiped when dropped.
    pub private_pem: Zeroizing<String>,
    /// The public key: `SubjectPublicKeyInfo`, PEM.
    pub public_pem: String,
}

impl std::fmt::Debug for PcrKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PcrKey").field("public_pem", &self.public_pem).finish_non_exhaustive()
    }
}

/// Makes a key and its self-signed certificate.
///
/// # Errors
/// [`SignError::Request`] if the request cannot be met, [`SignError::Encoding`].
pub fn generate(request: &CertificateRequest, rng: &mut impl CryptoRngCore) -> Result<KeyPair, SignError> {
    let (subject, validity) = (subject(request)?, validity(request)?);
    let (signer, key_pem) = new_key(request.size, rng)?;
    let certificate_der = certificate(subject, validity, &serial(rng), &signer)?;
    let certificate_pem = der::pem::encode_string("CERTIFICATE", LineEnding::LF, &certificate_der)
        .map_err(|error| encoding(error.into()))?;
    Ok(KeyPair { key_pem, certificate_pem, certificate_der })
}

/// Makes a key that signs PCR policies.
///
/// # Errors
/// [`SignError::Request`] if no key can be made.
pub fn pcr_key(size: KeySize, rng: &mut impl CryptoRngCore) -> Result<PcrKey, SignError> {
    let (signer, private_pem) = new_key(size, rng)?;
    Ok(PcrKey { private_pem, public_pem: signer.public_key().pem().to_owned() })
}

fn new_key(size: KeySize, rng: &mut impl CryptoRngCore) -> Result<(RsaSigner, Zeroizing<String>), SignError> {
    let key = RsaPrivateKey::new(rng, size.bits()).map_err(|error| request(error.to_string()))?;
    let pem = key.to_pkcs8_pem(LineEnding::LF).map_err(|error| request(error.to_string()))?;
    Ok((RsaSigner::new(key, "the new key")?, pem))
}

/// A random number of 16 bytes, positive and never with a leading zero: all serial numbers have the same length.
fn serial(rng: &mut impl CryptoRngCore) -> [u8; 16] {
    let mut bytes = [0; 16];
    rng.fill_bytes(&mut bytes);
    let [first, ..] = &mut bytes;
    *first = *first & 0x3f | 0x40;
    bytes
}

/// Country, organization, common name: from the wide to the narrow, as everyone writes them.
fn subject(wanted: &CertificateRequest) -> Result<Name, SignError> {
    let mut names = Vec::new();
    if let Some(country) = &wanted.country {
        if country.len() != 2 || !country.bytes().all(|byte| byte.is_ascii_uppercase()) {
            return Err(request(format!("the country {country:?} must be two capital letters, such as DE")));
        }
        // RFC 5280, appendix A: a country is a PrintableString.
        let value = PrintableStringRef::new(country).and_then(|text| Any::encode_from(&text));
        names.push((rfc4519::COUNTRY_NAME, value));
    }
    let given = wanted.organization.as_deref().map(|text| (rfc4519::ORGANIZATION_NAME, "organization", text));
    for (oid, what, text) in given.into_iter().chain([(rfc4519::COMMON_NAME, "name", wanted.common_name.as_str())]) {
        // RFC 5280, ub-common-name and ub-organization-name.
        if !(1..=64).contains(&text.chars().count()) || text.chars().any(char::is_control) {
            return Err(request(format!("the {what} {text:?} must have 1 to 64 characters and no control characters")));
        }
        names.push((oid, Utf8StringRef::new(text).and_then(|text| Any::encode_from(&text))));
    }
    let relative = |(oid, value): (_, der::Result<Any>)| {
        SetOfVec::try_from([AttributeTypeAndValue { oid, value: value? }]).map(RelativeDistinguishedName)
    };
    names.into_iter().map(relative).collect::<Result<_, _>>().map(RdnSequence).map_err(encoding)
}

fn validity(wanted: &CertificateRequest) -> Result<Validity, SignError> {
    let end = wanted.not_before.checked_add(u64::from(wanted.days) * 24 * 60 * 60);
    match (time(wanted.not_before), end.map(time)) {
        (Ok(not_before), Some(Ok(not_after))) if wanted.days > 0 => Ok(Validity { not_before, not_after }),
        _ => Err(request(format!(
            "{} days from second {} on is no span of time before the year 10000",
            wanted.days, wanted.not_before
        ))),
    }
}

fn certificate(subject: Name, validity: Validity, serial: &[u8], signer: &RsaSigner) -> Result<Vec<u8>, SignError> {
    let signature_algorithm = algorithm(rfc5912::SHA_256_WITH_RSA_ENCRYPTION);
    let tbs_certificate = TbsCertificate {
        version: Version::V3,
        serial_number: SerialNumber::new(serial).map_err(encoding)?,
        signature: signature_algorithm.clone(),
        issuer: subject.clone(),
        validity,
        subject,
        subject_public_key_info: SubjectPublicKeyInfoOwned::from_der(signer.public_key().spki_der())
            .map_err(encoding)?,
        issuer_unique_id: None,
        subject_unique_id: None,
        extensions: Some(extensions(signer.public_key()).map_err(encoding)?),
    };
    let signature = signer.sign_sha256(&Sha256::digest(tbs_certificate.to_der().map_err(encoding)?).into())?;
    let signature = BitString::from_bytes(&signature).map_err(encoding)?;
    Certificate { tbs_certificate, signature_algorithm, signature }.to_der().map_err(encoding)
}

/// The key signs images (sbverify asks for `digitalSignature`) and its own certificate, so it is also its own
/// authority: osslsigncode and `openssl verify` then take it as a trust anchor.
fn extensions(key: &PublicKey) -> der::Result<Vec<Extension>> {
    // RFC 5280, 4.2.1.2, method 1; nothing secret depends on it.
    let identifier = OctetString::new(Sha1::digest(key.pkcs1_der()).as_slice())?;
    let authority = AuthorityKeyIdentifier { key_identifier: Some(identifier.clone()), ..Default::default() };
    Ok(vec![
        extension(true, &BasicConstraints { ca: true, path_len_constraint: None })?,
        extension(true, &KeyUsage(KeyUsages::DigitalSignature | KeyUsages::KeyCertSign))?,
        extension(false, &SubjectKeyIdentifier(identifier))?,
        extension(false, &authority)?,
    ])
}

fn extension<T: AssociatedOid + Encode>(critical: bool, value: &T) -> der::Result<Extension> {
    Ok(Extension { extn_id: T::OID, critical, extn_value: OctetString::new(value.to_der()?)? })
}

fn request(reason: String) -> SignError {
    SignError::Request { what: "the key", reason }
}

fn encoding(source: der::Error) -> SignError {
    SignError::Encoding { what: "the certificate", source }
}
