//! Keys and signatures: what turns a measured image into one that firmware and TPM trust.
//!
//! | file | holds |
//! |---|---|
//! | [`keys`] | [`Signer`], and RSA keys read from PEM and DER |
//! | [`command`] | keys that live elsewhere, behind a command |
//! | [`certificate`] | certificates; [`Identity`]: a key with the certificate that was made for it |
//! | [`policy`] | TPM2 policies over PCR 11 and the `.pcrsig` section that signs them |
//! | [`pe`] | where a PE file's signature belongs, its Authenticode digest and its checksum |
//! | [`pkcs7`] | the signature itself: a PKCS#7 `SignedData` over that digest |
//! | [`authenticode`] | the three put together: signing a PE file in one pass |
//! | [`generate`] | new keys with self-signed certificates |
//! | [`keyset`] | the set of key files that `keys generate` writes |
//!
//! Left out: Secure Boot variables (`.esl`, `.auth`), verification, keys that live outside of this program (they will
//! implement [`Signer`]). Only RSA: firmware that knows elliptic curves is rare, and the PCR policies of systemd are RSA.

mod asn1;
pub mod authenticode;
pub mod certificate;
pub mod command;
mod error;
pub mod generate;
mod hash;
pub mod keys;
pub mod keyset;
pub mod pe;
mod pem;
pub mod pkcs7;
pub mod policy;

pub use certificate::{CertificateChain, Identity};
pub use error::SignError;
pub use hash::Hash;
pub use keys::{PublicKey, RsaSigner, Signer};
