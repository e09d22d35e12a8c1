//! EFI signature lists (`.esl`): what the variables PK, KEK, db and dbx hold.
//!
//! Source: UEFI 2.10, section 32.4.1. Certificates are written as `cert-to-efi-sig-list` writes them: a list of its own
//! for each, since all entries of a list have the same length. Left out: lists with a header of their own, which the
//! specification knows and nobody writes; they are read, and the header is skipped.

use super::SignError;
use super::guid::Guid;
use super::variables::{EFIVARFS_ATTRIBUTES, authentication_length};

/// `EFI_CERT_X509_GUID`.
const X509: Guid = Guid::new(0xa5c0_59a1, 0x94e4, 0x4aa7, [0x87, 0xb5, 0xab, 0x15, 0x5c, 0x2b, 0xf0, 0x72]);
/// `EFI_CERT_SHA256_GUID`.
const SHA256: Guid = Guid::new(0xc1c4_1626, 0x504c, 0x4092, [0xac, 0xa9, 0x41, 0xf9, 0x36, 0x93, 0x43, 0x28]);
/// `EFI_SIGNATURE_LIST`: type, length of the list, of its header, of each entry.
const HEADER: usize = 16 + 3 * 4;
/// Before the data of each entry: whose it is.
const OWNER: usize = 16;

/// One entry of PK, KEK, db or dbx.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignatureEntry {
    /// Who put it there, by their own word: for people, firmware does not look at it.
    pub owner: Guid,
    /// What is trusted, or not trusted any more.
    pub signature: Signature,
}

/// What an entry holds.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Signature {
    /// A certificate: DER, as it was read. Whether it is one is not checked here.
    X509(Vec<u8>),
    /// The SHA-256 Authenticode digest of an image.
    Sha256([u8; 32]),
    /// Anything else, such as the digest of a revoked certificate.
    Other {
        /// What it is.
        kind: Guid,
        /// The entry without its owner.
        data: Vec<u8>,
    },
}

impl Signature {
    fn kind(&self) -> Guid {
        match self {
            Self::X509(_) => X509,
            Self::Sha256(_) => SHA256,
            Self::Other { kind, .. } => *kind,
        }
    }

    fn data(&self) -> &[u8] {
        match self {
            Self::X509(data) | Self::Other { data, .. } => data,
            Self::Sha256(digest) => digest,
        }
    }
}

/// Reads and writes `EFI_SIGNATURE_LIST`s, one behind the other.
#[derive(Debug)]
pub struct SignatureList;

impl SignatureList {
    /// Whether the bytes begin as signature lists of certificates or digests do, with or without what efivarfs puts
    /// before them.
    #[must_use]
    pub fn is_one(bytes: &[u8]) -> bool {
        [0, 4].into_iter().any(|start| {
            let kind = bytes.get(start..).and_then(<[u8]>::first_chunk);
            kind.is_some_and(|kind| [X509, SHA256].contains(&Guid::from_bytes(*kind)))
        })
    }

    /// Reads all entries of all lists, in their order. Three forms are known by their first bytes: plain lists (`.esl`),
    /// a signed update (`.auth`), whose signature is skipped and not checked, and a file of efivarfs, which begins with
    /// the variable's attributes. No bytes are no entries. `name` is for messages.
    ///
    /// # Errors
    /// [`SignError::Damaged`] with the offset where the lists do not hold.
    pub fn parse(bytes: &[u8], name: &str) -> Result<Vec<SignatureEntry>, SignError> {
        let damaged = |reason: String| SignError::Damaged { name: name.to_owned(), reason };
        let skipped = match bytes.first_chunk() {
            // No type of a list begins with so small a number, and no year of a signed update is so early.
            Some(attributes) if EFIVARFS_ATTRIBUTES.contains(&u32::from_le_bytes(*attributes)) => 4,
            _ => authentication_length(bytes).map_err(damaged)?.unwrap_or(0),
        };
        let mut entries = Vec::new();
        let mut offset = skipped;
        let mut rest = bytes.get(skipped..).unwrap_or_default();
        while !rest.is_empty() {
            let length = parse_list(rest, &mut entries)
                .map_err(|reason| damaged(format!("the signature list at offset {offset} {reason}")))?;
            rest = rest.get(length..).unwrap_or_default();
            offset += length;
        }
        Ok(entries)
    }

    /// Writes the entries: a list for each certificate, and one for neighbours of any other type and the same length.
    ///
    /// # Errors
    /// [`SignError::Request`] if an entry or a list is longer than 4 GiB.
    pub fn encode(entries: &[SignatureEntry]) -> Result<Vec<u8>, SignError> {
        let mut bytes = Vec::new();
        for group in entries.chunk_by(|one, next| {
            let (one, next) = (&one.signature, &next.signature);
            one.kind() != X509 && one.kind() == next.kind() && one.data().len() == next.data().len()
        }) {
            encode_list(group, &mut bytes).ok_or_else(|| SignError::Request {
                what: "the signature list",
                reason: "it is larger than 4 GiB".to_owned(),
            })?;
        }
        Ok(bytes)
    }
}

/// Reads one list from the start of the bytes; gives back its length, or what is wrong with it.
fn parse_list(bytes: &[u8], entries: &mut Vec<SignatureEntry>) -> Result<usize, String> {
    let Some((header, _)) = bytes.split_first_chunk::<HEADER>() else {
        return Err(format!("is cut short: {} bytes are left, its header has {HEADER}", bytes.len()));
    };
    let (kind, numbers) = header.split_at(16);
    let kind = Guid::from_bytes(kind.try_into().unwrap_or_default());
    let mut numbers =
        numbers.chunks_exact(4).map(|number| u32::from_le_bytes(number.try_into().unwrap_or_default()) as usize);
    let mut next = || numbers.next().unwrap_or_default();
    let (length, header, size) = (next(), next(), next());
    if length < HEADER || length > bytes.len() {
        return Err(format!("says that it has {length} bytes, and {} are there", bytes.len()));
    }
    let Some(body) = header.checked_add(HEADER).and_then(|start| bytes.get(start..length)) else {
        return Err(format!("has {length} bytes and says that {header} of them are its header"));
    };
    if body.is_empty() {
        return Ok(length);
    }
    if size <= OWNER || !body.len().is_multiple_of(size) {
        return Err(format!("has entries of {size} bytes, which do not fill its {} bytes", body.len()));
    }
    if kind == SHA256 && size != OWNER + 32 {
        return Err(format!("has SHA-256 entries of {size} bytes, not {}", OWNER + 32));
    }
    for entry in body.chunks_exact(size) {
        let (owner, data) = entry.split_at(OWNER);
        let signature = match kind {
            X509 => Signature::X509(data.to_vec()),
            SHA256 => Signature::Sha256(data.try_into().unwrap_or_default()),
            kind => Signature::Other { kind, data: data.to_vec() },
        };
        entries.push(SignatureEntry { owner: Guid::from_bytes(owner.try_into().unwrap_or_default()), signature });
    }
    Ok(length)
}

/// Appends one list of entries of the same type and length; nothing if a number does not fit.
fn encode_list(entries: &[SignatureEntry], bytes: &mut Vec<u8>) -> Option<()> {
    let Some(SignatureEntry { signature, .. }) = entries.first() else { return Some(()) };
    let size = OWNER.checked_add(signature.data().len())?;
    let length = size.checked_mul(entries.len())?.checked_add(HEADER)?;
    bytes.extend(signature.kind().as_bytes());
    bytes.extend(u32::try_from(length).ok()?.to_le_bytes());
    bytes.extend(0_u32.to_le_bytes());
    bytes.extend(u32::try_from(size).ok()?.to_le_bytes());
    for entry in entries {
        bytes.extend(entry.owner.as_bytes());
        bytes.extend(entry.signature.data());
    }
    Some(())
}
