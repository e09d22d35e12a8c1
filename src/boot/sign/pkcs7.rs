//! PKCS#7 signatures: the Authenticode one over the digest of a PE image, shaped as `sbsign` makes it, for that is what
//! firmware has always met; and the detached one of a signed update of a Secure Boot variable.
//!
//! Sources: "Windows Authenticode Portable Executable Signature Format", RFC 2315. Two things differ from `sbsign`:
//! the time of signing is left out unless it is given, and the list of ciphers that OpenSSL adds (S/MIME capabilities)
//! is left out: the same input gives the same bytes.

use cms::cert::IssuerAndSerialNumber;
use cms::content_info::CmsVersion;
use cms::signed_data::{EncapsulatedContentInfo, SignerIdentifier, SignerInfo};
use const_oid::db::{rfc5911, rfc5912};
use der::asn1::{Any, BitString, ObjectIdentifier, OctetString, SetOfVec};
use der::{Decode, Encode, Reader, Sequence, SliceReader, Tag, TagNumber};
use rsa::pkcs8::DecodePublicKey;
use rsa::{Pkcs1v15Sign, RsaPublicKey};
use sha2::{Digest, Sha256};
use spki::AlgorithmIdentifierOwned;
use x509_cert::Certificate;
use x509_cert::attr::Attribute;

use super::asn1::{algorithm, time};
use super::keys::{bits, check_bits};
use super::{Hash, Identity, SignError};

/// `SPC_INDIRECT_DATA_OBJID`.
const SPC_INDIRECT_DATA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.311.2.1.4");
/// `SPC_PE_IMAGE_DATAOBJ`.
const SPC_PE_IMAGE_DATA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.311.2.1.15");

/// Signs the Authenticode digest of an image, taken with `hash`. The result is DER of a PKCS#7 `ContentInfo`: what the certificate
/// table of the image holds. `signing_time` in seconds since 1970, UTC; it may come from `SOURCE_DATE_EPOCH`.
///
/// # Errors
/// [`SignError::Encoding`], or what the signer gives.
pub fn spc_pkcs7(
    hash: Hash,
    digest: &[u8],
    identity: &Identity,
    signing_time: Option<u64>,
) -> Result<Vec<u8>, SignError> {
    let content = spc_indirect_data(hash, digest).map_err(encoding)?;
    let attributes = signed_attributes(hash, &content, signing_time).map_err(encoding)?;
    // Signed is the DER of the attributes as a SET, not with the tag that they have in place (RFC 5652, 5.4).
    let digest = hash.digest(&attributes.to_der().map_err(encoding)?);
    let signature = identity.signer().sign(hash, &digest)?;
    let content = EncapsulatedContentInfo { econtent_type: SPC_INDIRECT_DATA, econtent: Some(content) };
    let content_info = |signed: &SignedData| {
        let content = Any::encode_from(signed)?;
        cms::content_info::ContentInfo { content_type: rfc5911::ID_SIGNED_DATA, content }.to_der()
    };
    signed_data(hash, content, Some(attributes), signature, identity)
        .and_then(|signed| content_info(&signed))
        .map_err(encoding)
}

/// The digest that the key signs for an image with this Authenticode digest: for a key that is elsewhere.
///
/// # Errors
/// [`SignError::Encoding`].
pub fn to_be_signed(hash: Hash, digest: &[u8], signing_time: Option<u64>) -> Result<Vec<u8>, SignError> {
    let content = spc_indirect_data(hash, digest).map_err(encoding)?;
    let attributes = signed_attributes(hash, &content, signing_time).map_err(encoding)?;
    Ok(hash.digest(&attributes.to_der().map_err(encoding)?))
}

/// Signs the digest of data that lie elsewhere, without signed attributes: what the signed update of a variable holds
/// (UEFI 2.10, section 8.2.2). The result is DER of `SignedData`, without a `ContentInfo` around it.
///
/// # Errors
/// [`SignError::Encoding`], or what the signer gives.
pub(super) fn detached_pkcs7(digest: &[u8; 32], identity: &Identity) -> Result<Vec<u8>, SignError> {
    let signature = identity.signer().sign_sha256(digest)?;
    let content = EncapsulatedContentInfo { econtent_type: rfc5911::ID_DATA, econtent: None };
    signed_data(Hash::Sha256, content, None, signature, identity)
        .and_then(|signed| signed.to_der())
        .map_err(|source| SignError::Encoding { what: "the signature of the update", source })
}

/// A detached signature that was read.
#[derive(Debug, Clone)]
pub(super) struct DetachedSignature {
    /// The signer's certificate.
    pub(super) certificate: Certificate,
    /// Of some signers: what is signed in place of the data, with their digest among it.
    attributes: Option<SetOfVec<Attribute>>,
    /// RSASSA-PKCS1-v1_5.
    signature: Vec<u8>,
}

impl DetachedSignature {
    /// Reads `SignedData`, with or without a `ContentInfo` around it (`sbvarsign` and some vendors write one). Says what
    /// is wrong, fitting behind "its signature".
    pub(super) fn parse(der: &[u8]) -> Result<Self, String> {
        let unreadable = |error: der::Error| format!("is not PKCS#7: {error}");
        let signed = match cms::content_info::ContentInfo::from_der(der) {
            Ok(outer) => outer.content.decode_as::<SignedData>().map_err(unreadable)?,
            Err(_) => SignedData::from_der(der).map_err(unreadable)?,
        };
        let [signer] = signed.signer_infos.as_slice() else {
            return Err(format!("has {} signers, not one", signed.signer_infos.len()));
        };
        if signer.digest_alg.oid != rfc5912::ID_SHA_256 {
            return Err(format!("has a digest of type {}, not SHA-256", signer.digest_alg.oid));
        }
        let mut certificates = SliceReader::new(signed.certificates.value()).map_err(unreadable)?;
        while !certificates.is_finished() {
            let certificate = Certificate::decode(&mut certificates).map_err(unreadable)?;
            let tbs = &certificate.tbs_certificate;
            let identifier = SignerIdentifier::IssuerAndSerialNumber(IssuerAndSerialNumber {
                issuer: tbs.issuer.clone(),
                serial_number: tbs.serial_number.clone(),
            });
            if identifier == signer.sid {
                let (attributes, signature) = (signer.signed_attrs.clone(), signer.signature.as_bytes().to_vec());
                return Ok(Self { certificate, attributes, signature });
            }
        }
        Err("does not hold its signer's certificate".to_owned())
    }

    /// The key of the signer's certificate. Says what is wrong, fitting behind "its signer's key".
    pub(super) fn key(&self) -> Result<RsaPublicKey, String> {
        let spki = &self.certificate.tbs_certificate.subject_public_key_info;
        if let Some(raw) = spki.subject_public_key.as_bytes()
            && let Ok(key) = rsa::pkcs1::RsaPublicKey::from_der(raw)
        {
            // Before any arithmetic, so that a hostile modulus costs nothing.
            check_bits(bits(key.modulus.as_bytes()), "it").map_err(|error| format!("is refused: {error}"))?;
        }
        let der = spki.to_der().map_err(|error| format!("cannot be read: {error}"))?;
        RsaPublicKey::from_public_key_der(&der).map_err(|error| format!("is not RSA: {error}"))
    }

    /// Whether this is a signature over data with this digest, by this key.
    pub(super) fn holds(&self, key: &RsaPublicKey, digest: &[u8; 32]) -> bool {
        let signed = match &self.attributes {
            None => *digest,
            Some(attributes) => {
                let of_data = attributes.iter().find(|attribute| attribute.oid == rfc5911::ID_MESSAGE_DIGEST);
                let values = of_data.map(|attribute| attribute.values.as_slice());
                match (values, attributes.to_der()) {
                    (Some([value]), Ok(der)) if value.value() == digest => Sha256::digest(der).into(),
                    _ => return false,
                }
            }
        };
        key.verify(Pkcs1v15Sign::new::<Sha256>(), &signed, &self.signature).is_ok()
    }
}

fn encoding(source: der::Error) -> SignError {
    SignError::Encoding { what: "the Authenticode signature", source }
}

/// `SignedData` of RFC 2315, with the certificates as they were read: encoding them anew could change them.
#[derive(Sequence)]
struct SignedData {
    version: CmsVersion,
    digest_algorithms: SetOfVec<AlgorithmIdentifierOwned>,
    content_info: EncapsulatedContentInfo,
    /// `[0] IMPLICIT`, the signer's first.
    certificates: Any,
    signer_infos: SetOfVec<SignerInfo>,
}

fn signed_data(
    hash: Hash,
    content_info: EncapsulatedContentInfo,
    signed_attrs: Option<SetOfVec<Attribute>>,
    signature: Vec<u8>,
    identity: &Identity,
) -> der::Result<SignedData> {
    let certificate = &identity.chain().signer().tbs_certificate;
    let signer = SignerInfo {
        version: CmsVersion::V1,
        sid: SignerIdentifier::IssuerAndSerialNumber(IssuerAndSerialNumber {
            issuer: certificate.issuer.clone(),
            serial_number: certificate.serial_number.clone(),
        }),
        digest_alg: algorithm(hash.oid()),
        signed_attrs,
        signature_algorithm: algorithm(rfc5912::RSA_ENCRYPTION),
        signature: OctetString::new(signature)?,
        unsigned_attrs: None,
    };
    let certificates: Vec<u8> = identity.chain().ders().flatten().copied().collect();
    Ok(SignedData {
        // CMS would ask for version 3 with Authenticode's content type; firmware and sbverify know PKCS#7's 1.
        version: CmsVersion::V1,
        digest_algorithms: SetOfVec::try_from([algorithm(hash.oid())])?,
        content_info,
        certificates: Any::new(context(TagNumber::N0, true), certificates)?,
        signer_infos: SetOfVec::try_from([signer])?,
    })
}

/// contentType, signingTime if given, messageDigest: in this order by the rules of DER.
fn signed_attributes(hash: Hash, content: &Any, signing_time: Option<u64>) -> der::Result<SetOfVec<Attribute>> {
    // The content's octets without its tag and length.
    let digest = hash.digest(content.value());
    let mut attributes = SetOfVec::new();
    attributes.insert(attribute(rfc5911::ID_CONTENT_TYPE, Any::encode_from(&SPC_INDIRECT_DATA)?)?)?;
    attributes.insert(attribute(rfc5911::ID_MESSAGE_DIGEST, Any::new(Tag::OctetString, digest.as_slice())?)?)?;
    if let Some(seconds) = signing_time {
        attributes.insert(attribute(rfc5911::ID_SIGNING_TIME, Any::encode_from(&time(seconds)?)?)?)?;
    }
    Ok(attributes)
}

fn attribute(oid: ObjectIdentifier, value: Any) -> der::Result<Attribute> {
    Ok(Attribute { oid, values: SetOfVec::try_from([value])? })
}

const fn context(number: TagNumber, constructed: bool) -> Tag {
    Tag::ContextSpecific { number, constructed }
}

#[derive(Sequence)]
struct SpcIndirectData {
    data: SpcAttribute,
    message_digest: DigestInfo,
}

#[derive(Sequence)]
struct SpcAttribute {
    kind: ObjectIdentifier,
    value: SpcPeImageData,
}

#[derive(Sequence)]
struct SpcPeImageData {
    flags: BitString,
    /// `[0] EXPLICIT SpcLink`.
    file: Any,
}

#[derive(Sequence)]
struct DigestInfo {
    algorithm: AlgorithmIdentifierOwned,
    digest: OctetString,
}

fn spc_indirect_data(hash: Hash, digest: &[u8]) -> der::Result<Any> {
    // SpcLink is a choice: `[2] EXPLICIT SpcString`, and that another: `[0] IMPLICIT BMPString`, UTF-16 big-endian.
    let obsolete: Vec<u8> = "<<<Obsolete>>>".encode_utf16().flat_map(u16::to_be_bytes).collect();
    let string = Any::new(context(TagNumber::N0, false), obsolete)?;
    let link = Any::new(context(TagNumber::N2, true), string.to_der()?)?;
    let content = SpcIndirectData {
        data: SpcAttribute {
            kind: SPC_PE_IMAGE_DATA,
            value: SpcPeImageData {
                flags: BitString::new(0, Vec::new())?,
                file: Any::new(context(TagNumber::N0, true), link.to_der()?)?,
            },
        },
        message_digest: DigestInfo { algorithm: algorithm(hash.oid()), digest: OctetString::new(digest)? },
    };
    Any::from_der(&content.to_der()?)
}
