//! Signing a PE image: its digest, the PKCS#7 over it, and where both go in the file.

use std::io::{Read, Seek, SeekFrom, Write};

use super::pe::{ImageHasher, PeChecksum, PeLayout, padding};
use super::pkcs7::spc_pkcs7;
use super::{Identity, SignError};
use crate::cancel::Cancel;

/// Bytes read at once: in the cache of any processor, and few system calls.
const BUFFER: usize = 256 * 1024;

/// One pass over an unsigned image, and then its signature: for writers that have the bytes in hand anyway.
#[derive(Debug, Clone)]
pub struct SigningPass {
    layout: PeLayout,
    hasher: ImageHasher,
    checksum: PeChecksum,
}

/// What makes a signed image out of an unsigned one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signature {
    /// The Authenticode digest, SHA-256.
    pub digest: [u8; 32],
    /// Bytes to write, each at its offset in the file. They are ascending; the last extends the file, and begins right
    /// at its end.
    pub writes: [(u64, Vec<u8>); 3],
    /// Length of the signed file, bytes.
    pub length: u64,
}

impl SigningPass {
    /// For an image with these headers. Its directory entry for the certificate table must be zero; the checksum field
    /// may hold anything.
    ///
    /// # Errors
    /// [`SignError::AlreadySigned`].
    pub fn new(layout: PeLayout) -> Result<Self, SignError> {
        if layout.is_signed() {
            return Err(SignError::AlreadySigned { name: layout.name().to_owned() });
        }
        let (hasher, checksum) = (ImageHasher::new(layout.clone()), PeChecksum::new(&layout));
        Ok(Self { layout, hasher, checksum })
    }

    /// The next bytes of the file, from its very first on, in pieces of any length.
    pub fn update(&mut self, bytes: &[u8]) {
        self.checksum.add(self.hasher.offset(), bytes);
        self.hasher.update(bytes);
    }

    /// Signs, after the whole file has gone by.
    ///
    /// # Errors
    /// [`SignError::Pe`] if the file was cut short or would not fit 4 GiB; what [`spc_pkcs7`] gives.
    pub fn sign(self, identity: &Identity, signing_time: Option<u64>) -> Result<Signature, SignError> {
        let Self { layout, hasher, mut checksum } = self;
        let end = hasher.offset();
        let digest = hasher.finish()?;
        let too_long = || SignError::Pe { name: layout.name().to_owned(), reason: "it would not fit 4 GiB".to_owned() };
        let table = certificate_table(&spc_pkcs7(&digest, identity, signing_time)?).ok_or_else(too_long)?;
        let mut tail = vec![0; padding(end)];
        let start = u32::try_from(end).ok().and_then(|end| end.checked_next_multiple_of(8)).ok_or_else(too_long)?;
        let size = u32::try_from(table.len()).map_err(|_| too_long())?;
        let length = start.checked_add(size).ok_or_else(too_long)?;
        tail.extend(table);
        let entry = [start.to_le_bytes(), size.to_le_bytes()].concat();
        checksum.add(layout.directory_entry_offset(), &entry);
        checksum.add(end, &tail);
        let checksum = checksum.finish(length).to_le_bytes().to_vec();
        Ok(Signature {
            digest,
            writes: [(layout.checksum_offset(), checksum), (layout.directory_entry_offset(), entry), (end, tail)],
            length: u64::from(length),
        })
    }
}

/// The certificate table with this one signature: a `WIN_CERTIFICATE` of revision 2.0 and type
/// `WIN_CERT_TYPE_PKCS_SIGNED_DATA`, filled up to a multiple of 8 bytes. Nothing if it would not fit 4 GiB.
#[must_use]
pub fn certificate_table(pkcs7: &[u8]) -> Option<Vec<u8>> {
    let length = u32::try_from(pkcs7.len()).ok()?.checked_add(8)?;
    let mut table = Vec::with_capacity(pkcs7.len().saturating_add(16));
    table.extend(length.to_le_bytes());
    table.extend(0x0200_u16.to_le_bytes());
    table.extend(0x0002_u16.to_le_bytes());
    table.extend(pkcs7);
    table.resize(table.len().checked_next_multiple_of(8)?, 0);
    Some(table)
}

/// Signs an image in place: one pass of reading, then the three writes of [`Signature`]. Memory does not grow with the
/// image. Until those writes the file is as it was; should one of them fail it is of no use: work on a copy. `name` is
/// for messages.
///
/// # Errors
/// [`SignError::AlreadySigned`], [`SignError::Pe`], [`SignError::Image`], [`SignError::Cancelled`], and what the
/// signer gives.
pub fn sign_pe<F: Read + Write + Seek>(
    file: &mut F,
    name: &str,
    identity: &Identity,
    signing_time: Option<u64>,
    cancel: &Cancel,
) -> Result<Signature, SignError> {
    let fail = |action| move |source| SignError::Image { action, name: name.to_owned(), source };
    let mut header = Vec::new();
    file.seek(SeekFrom::Start(0)).map_err(fail("read"))?;
    Read::by_ref(file).take(PeLayout::HEADER_LIMIT).read_to_end(&mut header).map_err(fail("read"))?;
    let mut pass = SigningPass::new(PeLayout::parse(&header, name)?)?;
    pass.update(&header);
    let mut buffer = vec![0; BUFFER];
    loop {
        cancel.check()?;
        let count = match file.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(fail("read")(error)),
        };
        pass.update(buffer.get(..count).unwrap_or_default());
    }
    let signature = pass.sign(identity, signing_time)?;
    for (offset, bytes) in &signature.writes {
        file.seek(SeekFrom::Start(*offset)).map_err(fail("write"))?;
        file.write_all(bytes).map_err(fail("write"))?;
    }
    file.flush().map_err(fail("write"))?;
    Ok(signature)
}
