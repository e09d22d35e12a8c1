//! Keys and signatures: what turns a measured image into one that firmware and TPM trust.
//!
//! | file | holds |
//! |---|---|
//! | [`keys`] | [`Signer`], and RSA keys read from PEM and DER |
//! | [`command`] | keys that live elsewhere, behind a command |
//! | [`passphrase`] | the passphrase of an encrypted key |
//! | [`certificate`] | certificates; [`Identity`]: a key with the certificate that was made for it |
//! | [`policy`] | TPM2 policies over PCR 11 and the `.pcrsig` section that signs them |
//! | [`pe`] | where a PE file's signature belongs, its Authenticode digest and its checksum |
//! | [`pkcs7`] | the signature itself: a PKCS#7 `SignedData` over that digest, or over a variable's update |
//! | [`authenticode`] | the three put together: signing a PE file in one pass |
//! | [`generate`] | new keys with self-signed certificates |
//! | [`guid`] | GUIDs as UEFI writes them |
//! | [`signature_list`] | EFI signature lists (`.esl`): what PK, KEK, db and dbx hold, read and written |
//! | [`variables`] | signed updates (`.auth`) of these variables |
//! | [`microsoft`] | Microsoft's certificates, which option ROMs need in db |
//! | [`enrolment`] | what goes into PK, KEK and db beside the keys made here, and the files that enrol it |
//! | [`keyset`] | the set of key files that `keys generate` writes |
//!
//! Left out: verification of images, keys that live outside of this program (they will implement [`Signer`]). Only RSA: firmware that knows elliptic curves is rare, and the PCR policies of systemd are RSA.

mod asn1;
pub mod authenticode;
pub mod certificate;
pub mod command;
pub mod enrolment;
mod error;
pub mod generate;
pub mod guid;
mod hash;
pub mod keys;
pub mod keyset;
pub mod microsoft;
pub mod passphrase;
pub mod pe;
mod pem;
pub mod pkcs7;
pub mod policy;
pub mod signature_list;
pub mod variables;

pub use certificate::{CertificateChain, Identity};
pub use error::SignError;
pub use guid::Guid;
pub use hash::Hash;
pub use keys::{PublicKey, RsaSigner, Signer};
pub use passphrase::Passphrase;
pub use signature_list::{Signature, SignatureEntry, SignatureList};
