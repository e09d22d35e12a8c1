//! What can go wrong with keys and signatures.

use std::path::PathBuf;

use crate::boot::pcr::Bank;
use crate::cancel::Cancelled;

/// Failures of this room. `name` is what the caller calls the input: a path as a rule.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SignError {
    /// A key or certificate file cannot be read.
    #[error("cannot read {path}: {source}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is larger than a key or certificate file can sensibly be.
    #[error("{name} is larger than {limit} bytes: this is not a file of {wanted}")]
    TooLarge {
        /// The input.
        name: String,
        /// What was looked for.
        wanted: &'static str,
        /// The limit, bytes.
        limit: u64,
    },
    /// The input holds something else than what was looked for.
    #[error("{name} holds {found}, not {wanted}: {advice}")]
    Unexpected {
        /// The input.
        name: String,
        /// What was looked for, with its article.
        wanted: &'static str,
        /// What was found, with its article.
        found: String,
        /// What to do.
        advice: &'static str,
    },
    /// The private key is protected by a passphrase, and none was given.
    #[error("{name} is encrypted: give its passphrase with --key-passphrase file:PATH, fd:NUMBER or env:NAME")]
    Encrypted {
        /// The input.
        name: String,
    },
    /// The private key is encrypted in a way that is not read here.
    #[error(
        "{name} is encrypted in a way that is not read here ({way}): encrypt it anew with `openssl pkcs8 -topk8 -v2 \
         aes-256-cbc -in {name} -out new.key` and give new.key"
    )]
    Encryption {
        /// The input.
        name: String,
        /// How it is encrypted.
        way: String,
    },
    /// The passphrase does not open the key.
    #[error("the passphrase does not open {name}: it is not the one of this key, or the file is damaged")]
    Passphrase {
        /// The input.
        name: String,
    },
    /// The passphrase cannot be had.
    #[error("cannot read the passphrase from {from}: {reason}")]
    NoPassphrase {
        /// Where it was looked for, as it was named.
        from: String,
        /// Why.
        reason: String,
    },
    /// The key is not RSA.
    #[error("{name} has a key of type {algorithm}: only RSA keys of 2048 to 4096 bits are supported")]
    Algorithm {
        /// The input.
        name: String,
        /// The key's algorithm: a name, or the object identifier where it has none here.
        algorithm: String,
    },
    /// The key is too short to be safe or too long for firmware.
    #[error("{name} has an RSA key of {bits} bits: only 2048 to 4096 bits are supported")]
    KeySize {
        /// The input.
        name: String,
        /// Length of the modulus, bits.
        bits: usize,
    },
    /// The input looks like what was looked for, and is damaged.
    #[error("{name} is damaged: {reason}")]
    Damaged {
        /// The input.
        name: String,
        /// What does not hold.
        reason: String,
    },
    /// Key and certificate do not belong together.
    #[error(
        "{key} and {certificate} do not belong together: the public key of the one has SHA-256 {key_sha256}, of the \
         other {certificate_sha256}; give the certificate that was made for this key"
    )]
    Mismatch {
        /// The private key.
        key: String,
        /// The certificate.
        certificate: String,
        /// SHA-256 of the key's PKCS#1 public half, hexadecimal.
        key_sha256: String,
        /// The same of the certificate's key.
        certificate_sha256: String,
    },
    /// A new key, certificate or update was asked for that cannot be made.
    #[error("cannot make {what}: {reason}")]
    Request {
        /// What was asked for.
        what: &'static str,
        /// What was wrong with the request.
        reason: String,
    },
    /// The file to be written is there already.
    #[error("{path} exists already: keys are never overwritten, choose another folder", path = path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// A key file cannot be written.
    #[error("cannot write {path}: {source}; no key was written", path = path.display())]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not a PE image that can be signed.
    #[error("{name} is not a PE image that can be signed: {reason}")]
    Pe {
        /// The image.
        name: String,
        /// What does not hold, with the offset or section.
        reason: String,
    },
    /// The image carries a signature.
    #[error(
        "{name} is signed already: give the unsigned file, or say what becomes of its signatures with --append or --remove of \
         `kairos-init uki sign`"
    )]
    AlreadySigned {
        /// The image.
        name: String,
    },
    /// The image cannot be read or written.
    #[error("cannot {action} {name}: {source}")]
    Image {
        /// "read" or "write".
        action: &'static str,
        /// The image.
        name: String,
        /// Why.
        source: std::io::Error,
    },
    /// A PCR value has the wrong length for its bank.
    #[error("a PCR value of {length} bytes was given for the bank {bank}, whose registers have {} bytes", bank.width())]
    PcrWidth {
        /// The bank.
        bank: Bank,
        /// Length of the value, bytes.
        length: usize,
    },
    /// The signer failed.
    #[error("cannot sign with {name}: {reason}")]
    Signing {
        /// The key.
        name: String,
        /// What the signer said.
        reason: String,
    },
    /// A signature or certificate cannot be encoded.
    #[error("cannot encode {what}: {source}")]
    Encoding {
        /// What was to be encoded.
        what: &'static str,
        /// Why.
        source: der::Error,
    },
    /// Someone asked to stop.
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
}
