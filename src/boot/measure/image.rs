//! What firmware measures of a program that it loads: the Authenticode digest in every bank, and what its signatures are.
//!
//! Sources: EDK2's `DxeTpm2MeasureBootLib` (PCR 4) and `DxeImageVerificationLib` (PCR 7).

use std::io::{Read, Seek, SeekFrom};

use super::event::Digests;
use crate::boot::pcr::{Bank, Hasher};
use crate::boot::sign::SignError;
use crate::boot::sign::pe::PeLayout;

/// Bytes of the largest certificate table that is read: a signature is 2 KiB as a rule.
const MAX_CERTIFICATES: u64 = 1 << 20;
/// `WIN_CERTIFICATE.wCertificateType` of Authenticode.
const PKCS_SIGNED_DATA: u16 = 2;

/// Why an image's or a variable's events cannot be predicted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PredictError {
    /// Reading failed.
    #[error("cannot read {name}: {source}")]
    Read {
        /// What the user calls the file.
        name: String,
        /// What the system says.
        source: std::io::Error,
    },
    /// The file is no PE image that firmware would load.
    #[error(transparent)]
    Image(#[from] SignError),
    /// The image's certificate table is damaged.
    #[error("{name} has a damaged certificate table: {reason}")]
    Certificates {
        /// What the user calls the file.
        name: String,
        /// What is wrong.
        reason: String,
    },
    /// The variable's data is no list of signatures.
    #[error("the variable {name} is no list of EFI signatures: at offset {offset:#x}, {reason}")]
    Variable {
        /// The variable's name.
        name: &'static str,
        /// Where in its data, bytes.
        offset: usize,
        /// What is wrong.
        reason: String,
    },
    /// With Secure Boot on, firmware would refuse to start the image, and nothing is measured of it.
    #[error(
        "no entry of db verifies {name}: firmware would refuse it; sign it with a key whose certificate is in db, or add that certificate"
    )]
    NotVerified {
        /// What the user calls the file.
        name: String,
    },
}

/// A program that firmware loads on the way: its digests, and its signatures.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadedImage {
    name: String,
    digests: Digests,
    signatures: Vec<Vec<u8>>,
}

impl LoadedImage {
    /// Takes what is known of an image: `name` is what the user calls it, `digests` its Authenticode digests,
    /// `signatures` its PKCS#7 signatures in DER, in the order of its certificate table.
    #[must_use]
    pub fn new(name: &str, digests: Digests, signatures: Vec<Vec<u8>>) -> Self {
        Self { name: name.to_owned(), digests, signatures }
    }

    /// Reads an image in one pass.
    ///
    /// Firmware measures the file as it lies there: a length that is no multiple of 8 is not filled up, as signing does.
    ///
    /// # Errors
    /// [`PredictError::Read`], [`PredictError::Image`], [`PredictError::Certificates`].
    pub fn read(file: &mut (impl Read + Seek), name: &str) -> Result<Self, PredictError> {
        let read = |source| PredictError::Read { name: name.to_owned(), source };
        file.rewind().map_err(read)?;
        let mut header = Vec::new();
        file.by_ref().take(PeLayout::HEADER_LIMIT).read_to_end(&mut header).map_err(read)?;
        let layout = PeLayout::parse(&header, name)?;
        let table = layout.certificate_table().map_or((0, 0), |table| (table.start, table.end - table.start));
        let length = file.seek(SeekFrom::End(0)).map_err(read)?;
        let certificates = |reason: String| PredictError::Certificates { name: name.to_owned(), reason };
        if length < layout.sections_end() {
            let reason = format!("it ends at {length:#x}, and its sections at {:#x}", layout.sections_end());
            return Err(SignError::Pe { name: name.to_owned(), reason }.into());
        }
        if table.1 > 0 && table.0.checked_add(table.1).is_none_or(|end| end > length) {
            return Err(certificates(format!("it begins at {:#x} and reaches past the end of the file", table.0)));
        }
        if table.1 > MAX_CERTIFICATES {
            return Err(certificates(format!("{} bytes, more than {MAX_CERTIFICATES}", table.1)));
        }
        let digests = digest(file, &layout, table).map_err(read)?;
        let mut bytes = Vec::new();
        file.seek(SeekFrom::Start(table.0)).map_err(read)?;
        file.by_ref().take(table.1).read_to_end(&mut bytes).map_err(read)?;
        let signatures = signatures(&bytes).map_err(certificates)?;
        Ok(Self { name: name.to_owned(), digests, signatures })
    }

    /// What the user calls the image.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its Authenticode digests.
    #[must_use]
    pub fn digests(&self) -> &Digests {
        &self.digests
    }

    /// Its PKCS#7 signatures, DER.
    pub fn signatures(&self) -> impl Iterator<Item = &[u8]> {
        self.signatures.iter().map(Vec::as_slice)
    }
}

/// Hashes all of the file except the checksum, the directory entry of the certificate table and that table.
fn digest(file: &mut (impl Read + Seek), layout: &PeLayout, table: (u64, u64)) -> std::io::Result<Digests> {
    let mut hashers = Bank::ALL.map(|bank| (bank, Hasher::new(bank)));
    let skipped = [(layout.checksum_offset(), 4), (layout.directory_entry_offset(), 8), table];
    let mut buffer = vec![0; 256 << 10];
    let mut at = 0;
    for (start, size) in skipped.into_iter().chain([(u64::MAX, 0)]) {
        if size == 0 && start != u64::MAX {
            continue;
        }
        file.seek(SeekFrom::Start(at))?;
        let mut part = file.by_ref().take(start.saturating_sub(at));
        loop {
            let count = part.read(&mut buffer)?;
            let bytes = buffer.get(..count).unwrap_or_default();
            if bytes.is_empty() {
                break;
            }
            hashers.iter_mut().for_each(|(_, hasher)| hasher.update(bytes));
        }
        at = start.saturating_add(size);
    }
    let digests = hashers.into_iter().map(|(bank, hasher)| (bank, hasher.finish())).collect();
    Digests::new(digests).map_err(std::io::Error::other)
}

/// The Authenticode signatures in a certificate table; other kinds are passed over, as EDK2 does.
fn signatures(mut table: &[u8]) -> Result<Vec<Vec<u8>>, String> {
    let mut signatures = Vec::new();
    while !table.is_empty() {
        let Some([a, b, c, d, _, _, low, high]) = table.first_chunk() else {
            return Err(format!("its last {} bytes are no certificate", table.len()));
        };
        let length = usize::try_from(u32::from_le_bytes([*a, *b, *c, *d])).unwrap_or(usize::MAX);
        let Some(contents) = table.get(8..length) else {
            return Err(format!("a certificate of {length} bytes, where {} are left", table.len()));
        };
        if u16::from_le_bytes([*low, *high]) == PKCS_SIGNED_DATA {
            signatures.push(contents.to_vec());
        }
        table = table.get(length.next_multiple_of(8)..).unwrap_or_default();
    }
    Ok(signatures)
}
