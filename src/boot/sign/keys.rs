//! RSA keys: what signs, and reading private keys in PKCS#1 and PKCS#8, PEM and DER, encrypted or not.
//!
//! Everything else (elliptic curves, OpenSSH's format) is recognised only to say clearly what it is.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use der::Decode;
use der::asn1::{AnyRef, ObjectIdentifier};
use rsa::pkcs1::{DecodeRsaPrivateKey, EncodeRsaPublicKey};
use rsa::pkcs8::{EncodePublicKey, LineEnding, PrivateKeyInfo};
use rsa::traits::PublicKeyParts;
use rsa::{RsaPrivateKey, RsaPublicKey};
use sha2::{Digest, Sha256};
use x509_cert::Certificate;
use zeroize::Zeroizing;

use super::{Hash, Passphrase, SignError};
use super::{passphrase, pem};

/// Largest key or certificate file that is read, bytes. A chain of RSA 4096 certificates takes about 2 KiB each.
const FILE_LIMIT: u64 = 256 * 1024;

/// RSA moduli that are accepted, bits.
const BITS: std::ops::RangeInclusive<usize> = 2048..=4096;

/// The public half of an RSA key of 2048 to 4096 bits, with the encodings that others ask for.
#[derive(Clone, PartialEq, Eq)]
pub struct PublicKey {
    bits: usize,
    pkcs1: Vec<u8>,
    spki: Vec<u8>,
    pem: String,
}

impl PublicKey {
    /// Checks the size and encodes the key. `name` is for messages.
    ///
    /// # Errors
    /// [`SignError::KeySize`], or [`SignError::Damaged`] if it cannot be encoded.
    pub fn new(key: &RsaPublicKey, name: &str) -> Result<Self, SignError> {
        let bits = check_bits(key.n().bits(), name)?;
        let damaged = |reason: String| SignError::Damaged { name: name.to_owned(), reason };
        let pkcs1 = key.to_pkcs1_der().map_err(|error| damaged(error.to_string()))?;
        let spki = key.to_public_key_der().map_err(|error| damaged(error.to_string()))?;
        let pem = key.to_public_key_pem(LineEnding::LF).map_err(|error| damaged(error.to_string()))?;
        Ok(Self { bits, pkcs1: pkcs1.into_vec(), spki: spki.into_vec(), pem })
    }

    /// Length of the modulus, bits.
    #[must_use]
    pub fn bits(&self) -> usize {
        self.bits
    }

    /// Length of every signature by this key, bytes.
    #[must_use]
    pub fn signature_length(&self) -> usize {
        self.bits.div_ceil(8)
    }

    /// `RSAPublicKey` of PKCS#1, DER.
    #[must_use]
    pub fn pkcs1_der(&self) -> &[u8] {
        &self.pkcs1
    }

    /// `SubjectPublicKeyInfo`, DER.
    #[must_use]
    pub fn spki_der(&self) -> &[u8] {
        &self.spki
    }

    /// `SubjectPublicKeyInfo`, PEM (`PUBLIC KEY`) with a final newline: the contents of `.pcrpkey`, and byte for byte
    /// what `openssl pkey -pubout` writes.
    #[must_use]
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// SHA-256 of [`PublicKey::pkcs1_der`]: `pkfp` in `.pcrsig` (systemd's `pubkey_fingerprint`).
    #[must_use]
    pub fn fingerprint(&self) -> [u8; 32] {
        Sha256::digest(&self.pkcs1).into()
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({} bits, {})", self.bits, hex::encode(self.fingerprint()))
    }
}

/// Something that signs with an RSA key: a key in memory, or a command that reaches a token.
pub trait Signer: Send + Sync {
    /// What the user calls the key: a path as a rule. For messages.
    fn name(&self) -> &str;

    /// The public half.
    fn public_key(&self) -> &PublicKey;

    /// Signs a digest: RSASSA-PKCS1-v1_5 (RFC 8017, section 8.2), big-endian, [`PublicKey::signature_length`] bytes. The same
    /// digest gives the same bytes.
    ///
    /// # Errors
    /// [`SignError::Signing`].
    fn sign(&self, hash: Hash, digest: &[u8]) -> Result<Vec<u8>, SignError>;

    /// Signs a SHA-256 digest.
    ///
    /// # Errors
    /// [`SignError::Signing`].
    fn sign_sha256(&self, digest: &[u8; 32]) -> Result<Vec<u8>, SignError> {
        self.sign(Hash::Sha256, digest)
    }
}

/// A private key in memory. Wiped when dropped; never printed.
pub struct RsaSigner {
    name: String,
    key: RsaPrivateKey,
    public: PublicKey,
}

impl RsaSigner {
    /// Takes a key that is in memory already. `name` is for messages.
    ///
    /// # Errors
    /// [`SignError::KeySize`].
    pub fn new(key: RsaPrivateKey, name: &str) -> Result<Self, SignError> {
        let public = PublicKey::new(&key.to_public_key(), name)?;
        Ok(Self { name: name.to_owned(), key, public })
    }

    /// Reads a private key that is not encrypted: PKCS#1 or PKCS#8, PEM or DER. Of a PEM file the first private key
    /// counts. `name` is for messages.
    ///
    /// # Errors
    /// [`SignError::Unexpected`], [`SignError::Encrypted`], [`SignError::Algorithm`], [`SignError::KeySize`],
    /// [`SignError::Damaged`]: each says what was found.
    pub fn parse(bytes: &[u8], name: &str) -> Result<Self, SignError> {
        Self::parse_with(bytes, name, None).map(|(signer, _)| signer)
    }

    /// [`RsaSigner::parse`], also of an encrypted key (PKCS#8 with PBES2), and whether it was encrypted. The passphrase
    /// of a key that is not encrypted is not used.
    ///
    /// # Errors
    /// What [`RsaSigner::parse`] gives; [`SignError::Passphrase`], [`SignError::Encryption`].
    pub fn parse_with(bytes: &[u8], name: &str, passphrase: Option<&Passphrase>) -> Result<(Self, bool), SignError> {
        if !pem::is_pem(bytes) {
            return Self::parse_der(bytes, name, passphrase);
        }
        let blocks = pem::blocks(bytes);
        let Some(block) = blocks.iter().find(|block| block.label.ends_with("PRIVATE KEY")) else {
            let found = blocks.first().map_or_else(|| "no PEM block".to_owned(), |block| describe(&block.label));
            return Err(not_a_key(name, found));
        };
        match block.label.as_str() {
            _ if block.encrypted => Err(SignError::Encryption {
                name: name.to_owned(),
                way: "OpenSSL's old form, Proc-Type: 4,ENCRYPTED".to_owned(),
            }),
            "EC PRIVATE KEY" => Err(algorithm(name, "EC (elliptic curve)")),
            "DSA PRIVATE KEY" => Err(algorithm(name, "DSA")),
            "RSA PRIVATE KEY" | "PRIVATE KEY" | "ENCRYPTED PRIVATE KEY" => match &block.contents {
                Ok(contents) => Self::parse_der(contents, name, passphrase),
                Err(reason) => Err(SignError::Damaged { name: name.to_owned(), reason: reason.clone() }),
            },
            label => Err(not_a_key(name, describe(label))),
        }
    }

    fn parse_der(der: &[u8], name: &str, passphrase: Option<&Passphrase>) -> Result<(Self, bool), SignError> {
        if der.is_empty() {
            return Err(not_a_key(name, "nothing (it is empty)".to_owned()));
        }
        if let Ok(info) = PrivateKeyInfo::from_der(der) {
            return Ok((Self::parse_pkcs8(&info, name)?, false));
        }
        if rsa::pkcs1::RsaPrivateKey::from_der(der).is_ok() {
            return Ok((Self::parse_pkcs1(der, name)?, false));
        }
        if Certificate::from_der(der).is_ok() {
            return Err(not_a_key(name, describe("CERTIFICATE")));
        }
        match first_two_tags(der) {
            // EncryptedPrivateKeyInfo (RFC 5958): an algorithm, then an octet string.
            Some((der::Tag::Sequence, der::Tag::OctetString)) => {
                let opened = passphrase::open(der, name, passphrase)?;
                let info = PrivateKeyInfo::from_der(&opened)
                    .map_err(|error| SignError::Damaged { name: name.to_owned(), reason: error.to_string() })?;
                Ok((Self::parse_pkcs8(&info, name)?, true))
            }
            // ECPrivateKey (RFC 5915): a version, then an octet string.
            Some((der::Tag::Integer, der::Tag::OctetString)) => Err(algorithm(name, "EC (elliptic curve)")),
            _ => Err(not_a_key(name, "neither PEM nor DER that is known here".to_owned())),
        }
    }

    fn parse_pkcs8(info: &PrivateKeyInfo<'_>, name: &str) -> Result<Self, SignError> {
        check_rsa(info.algorithm.oid, name)?;
        Self::parse_pkcs1(info.private_key, name)
    }

    fn parse_pkcs1(der: &[u8], name: &str) -> Result<Self, SignError> {
        let damaged = |reason: String| SignError::Damaged { name: name.to_owned(), reason };
        let parts = rsa::pkcs1::RsaPrivateKey::from_der(der).map_err(|error| damaged(error.to_string()))?;
        // Asked before any arithmetic, so that a hostile modulus costs nothing.
        check_bits(bits(parts.modulus.as_bytes()), name)?;
        if bits(parts.private_exponent.as_bytes()) > *BITS.end() {
            return Err(damaged("the private exponent is longer than the modulus".to_owned()));
        }
        let key = RsaPrivateKey::from_pkcs1_der(der)
            .map_err(|_| damaged("its numbers do not make an RSA key of two primes".to_owned()))?;
        Self::new(key, name)
    }
}

impl fmt::Debug for RsaSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RsaSigner").field("name", &self.name).field("public", &self.public).finish_non_exhaustive()
    }
}

impl Signer for RsaSigner {
    fn name(&self) -> &str {
        &self.name
    }

    fn public_key(&self) -> &PublicKey {
        &self.public
    }

    fn sign(&self, hash: Hash, digest: &[u8]) -> Result<Vec<u8>, SignError> {
        // The random numbers only blind the computation (RUSTSEC-2023-0071); the signature does not depend on them.
        self.key
            .sign_with_rng(&mut rand_core::OsRng, hash.padding(), digest)
            .map_err(|error| SignError::Signing { name: self.name.clone(), reason: error.to_string() })
    }
}

/// A key file as it was found on disk.
#[derive(Debug)]
pub struct KeyFile {
    /// The key.
    pub signer: RsaSigner,
    /// Whether every user of this machine may read the file: worth a warning.
    pub world_readable: bool,
    /// Whether it takes a passphrase to read the key.
    pub encrypted: bool,
}

/// Reads a private key file that is not encrypted; [`RsaSigner::parse`] says which. Pipes work too.
///
/// # Errors
/// [`SignError::Read`], [`SignError::TooLarge`], and what [`RsaSigner::parse`] gives.
pub fn load_key(path: &Path) -> Result<KeyFile, SignError> {
    load_key_with(path, None)
}

/// [`load_key`], also of an encrypted key.
///
/// # Errors
/// [`SignError::Read`], [`SignError::TooLarge`], and what [`RsaSigner::parse_with`] gives.
pub fn load_key_with(path: &Path, passphrase: Option<&Passphrase>) -> Result<KeyFile, SignError> {
    let (bytes, mode) = read(path, "a private key")?;
    let (signer, encrypted) = RsaSigner::parse_with(&bytes, &path.display().to_string(), passphrase)?;
    Ok(KeyFile { signer, world_readable: mode & 0o004 != 0, encrypted })
}

/// The bytes of a file that may hold a private key, at most 256 KiB, and its mode (0 for a pipe); wiped when dropped.
/// `wanted` is what the caller looks for, for messages.
///
/// # Errors
/// [`SignError::Read`], [`SignError::TooLarge`].
pub fn read(path: &Path, wanted: &'static str) -> Result<(Zeroizing<Vec<u8>>, u32), SignError> {
    let fail = |source| SignError::Read { path: path.to_owned(), source };
    let file = File::open(path).map_err(fail)?;
    let metadata = file.metadata().map_err(fail)?;
    // Room for all at once: a vector that grows leaves copies of the key behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(usize::try_from(FILE_LIMIT).unwrap_or(0).saturating_add(64)));
    file.take(FILE_LIMIT + 1).read_to_end(&mut bytes).map_err(fail)?;
    match u64::try_from(bytes.len()) {
        Ok(length) if length <= FILE_LIMIT => {
            let mode = if metadata.is_file() { metadata.mode() } else { 0 };
            Ok((bytes, mode))
        }
        _ => Err(SignError::TooLarge { name: path.display().to_string(), wanted, limit: FILE_LIMIT }),
    }
}

/// Length of a big-endian number, bits.
pub(super) fn bits(number: &[u8]) -> usize {
    match number.iter().position(|byte| *byte != 0) {
        None => 0,
        Some(start) => {
            let first = number.get(start).map_or(0, |byte| byte.leading_zeros());
            (number.len() - start).saturating_mul(8).saturating_sub(usize::try_from(first).unwrap_or(0))
        }
    }
}

pub(super) fn check_bits(bits: usize, name: &str) -> Result<usize, SignError> {
    if BITS.contains(&bits) { Ok(bits) } else { Err(SignError::KeySize { name: name.to_owned(), bits }) }
}

pub(super) fn check_rsa(oid: ObjectIdentifier, name: &str) -> Result<(), SignError> {
    if oid == rsa::pkcs1::ALGORITHM_OID {
        return Ok(());
    }
    Err(match oid.to_string().as_str() {
        "1.2.840.10045.2.1" => algorithm(name, "EC (elliptic curve)"),
        "1.2.840.113549.1.1.10" => algorithm(name, "RSASSA-PSS"),
        "1.2.840.10040.4.1" => algorithm(name, "DSA"),
        "1.3.101.112" => algorithm(name, "Ed25519"),
        "1.3.101.113" => algorithm(name, "Ed448"),
        other => algorithm(name, other),
    })
}

fn algorithm(name: &str, algorithm: &str) -> SignError {
    SignError::Algorithm { name: name.to_owned(), algorithm: algorithm.to_owned() }
}

fn not_a_key(name: &str, found: String) -> SignError {
    SignError::Unexpected {
        name: name.to_owned(),
        wanted: "a private key",
        found,
        advice: "give an RSA private key in PEM or DER (PKCS#1 or PKCS#8)",
    }
}

/// The label of a PEM block in words.
pub(super) fn describe(label: &str) -> String {
    match label {
        "CERTIFICATE" | "X509 CERTIFICATE" => "a certificate".to_owned(),
        "CERTIFICATE REQUEST" | "NEW CERTIFICATE REQUEST" => "a certificate request".to_owned(),
        "PUBLIC KEY" | "RSA PUBLIC KEY" => "a public key".to_owned(),
        "OPENSSH PRIVATE KEY" => "a key in OpenSSH's own format".to_owned(),
        label if label.ends_with("PRIVATE KEY") => "a private key".to_owned(),
        label => format!("a PEM block {label:?}"),
    }
}

/// The tags of the first two members of a sequence.
fn first_two_tags(der: &[u8]) -> Option<(der::Tag, der::Tag)> {
    use der::{Reader, SliceReader, Tagged};
    let outer = AnyRef::from_der(der).ok()?;
    if outer.tag() != der::Tag::Sequence {
        return None;
    }
    let mut reader = SliceReader::new(outer.value()).ok()?;
    let first: AnyRef<'_> = reader.decode().ok()?;
    let second: AnyRef<'_> = reader.decode().ok()?;
    Some((first.tag(), second.tag()))
}
