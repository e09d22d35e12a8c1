//! Signing a PE image: its digests, the PKCS#7 over each, and where they go in the file.

use std::collections::BTreeMap;
use std::io::{Read, Seek, SeekFrom, Write};

use super::pe::{ImageHasher, PeChecksum, PeLayout, padding};
use super::pkcs7::spc_pkcs7;
use super::{Hash, Identity, SignError};
use crate::cancel::Cancel;

/// Bytes read at once: in the cache of any processor, and few system calls.
const BUFFER: usize = 256 * 1024;
/// Bytes of signatures that an image may have already.
const TABLE_LIMIT: u64 = 4 << 20;

/// Who signs, and with which hash.
#[derive(Debug, Clone, Copy)]
pub struct Signing<'a> {
    /// The key and its certificates.
    pub identity: &'a Identity,
    /// Of the image and of what is signed.
    pub hash: Hash,
}

/// What becomes of signatures that an image has already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    /// It must have none.
    Refuse,
    /// New ones come after them.
    Keep,
    /// They go.
    Remove,
}

/// One pass over an image, and then its signatures: for writers that have the bytes in hand anyway.
#[derive(Debug, Clone)]
pub struct SigningPass {
    layout: PeLayout,
    hashers: BTreeMap<Hash, ImageHasher>,
    checksum: PeChecksum,
    existing: Existing,
    offset: u64,
    /// The certificate table that the image has.
    table: Vec<u8>,
}

/// What makes a signed image out of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signature {
    /// The Authenticode digest in each hash that was asked for.
    pub digests: BTreeMap<Hash, Vec<u8>>,
    /// Bytes to write, each at its offset in the file. They are ascending; the last begins where the image ends without its
    /// signatures, and the file ends with it.
    pub writes: [(u64, Vec<u8>); 3],
    /// Length of the signed file, bytes.
    pub length: u64,
}

impl SigningPass {
    /// For an image with these headers, of which these digests are wanted. The checksum field may hold anything.
    ///
    /// # Errors
    /// [`SignError::AlreadySigned`], [`SignError::Pe`] for a table of certificates that is no table.
    pub fn new(layout: PeLayout, hashes: &[Hash], existing: Existing) -> Result<Self, SignError> {
        if layout.is_signed() && existing == Existing::Refuse {
            return Err(SignError::AlreadySigned { name: layout.name().to_owned() });
        }
        if layout.certificate_table().is_some_and(|table| table.end - table.start > TABLE_LIMIT) {
            let reason = format!("it has a certificate table of more than {TABLE_LIMIT} bytes");
            return Err(SignError::Pe { name: layout.name().to_owned(), reason });
        }
        let hashers = hashes.iter().map(|hash| (*hash, ImageHasher::with(layout.clone(), *hash))).collect();
        let checksum = PeChecksum::new(&layout);
        Ok(Self { layout, hashers, checksum, existing, offset: 0, table: Vec::new() })
    }

    /// The next bytes of the file, from its very first on, in pieces of any length.
    pub fn update(&mut self, bytes: &[u8]) {
        self.hashers.values_mut().for_each(|hasher| hasher.update(bytes));
        // The directory entry will be another one, and the table comes with the signatures.
        let entry = self.layout.directory_entry_offset();
        let table = self.layout.certificate_table().map_or(u64::MAX, |table| table.start);
        let (before, rest) = cut(bytes, entry.saturating_sub(self.offset));
        self.checksum.add(self.offset, before);
        self.offset += before.len() as u64;
        let (_, rest_after) = cut(rest, (entry + 8).saturating_sub(self.offset).min(8));
        self.offset += (rest.len() - rest_after.len()) as u64;
        let (content, certificates) = cut(rest_after, table.saturating_sub(self.offset));
        self.checksum.add(self.offset, content);
        // What is beyond the limit is no table: signing refuses it.
        let (certificates, _) = cut(certificates, TABLE_LIMIT.saturating_sub(self.table.len() as u64));
        self.table.extend_from_slice(certificates);
        self.offset += rest_after.len() as u64;
    }

    /// Signs, after the whole file has gone by: one signature for each, after those that stay. Without any the image is left
    /// without signatures, or with those that stay.
    ///
    /// # Errors
    /// [`SignError::Pe`] if the file was cut short, has data behind its certificates, or would not fit 4 GiB; what
    /// [`spc_pkcs7`] gives.
    pub fn sign(self, signings: &[Signing<'_>], signing_time: Option<u64>) -> Result<Signature, SignError> {
        let Self { layout, hashers, mut checksum, existing, offset: end, table: old } = self;
        let bad = |reason: String| SignError::Pe { name: layout.name().to_owned(), reason };
        let digests: BTreeMap<Hash, Vec<u8>> = hashers
            .into_iter()
            .map(|(hash, hasher)| hasher.finish().map(|digest| (hash, digest)))
            .collect::<Result<_, _>>()?;
        let end = match layout.certificate_table() {
            None => end,
            Some(table) if table.end == end && old.len() as u64 == table.end - table.start => table.start,
            Some(table) => {
                return Err(bad(format!(
                    "its certificate table ends at {:#x} and the file at {end:#x}: what a signature covers is then disputed",
                    table.end
                )));
            }
        };
        let mut table = if existing == Existing::Keep { old } else { Vec::new() };
        if !table.is_empty() && padding(end) > 0 {
            return Err(bad(format!(
                "its certificate table begins at {end:#x}, which is no multiple of 8: use --remove"
            )));
        }
        // Some writers leave the last entry's filling out.
        table.resize(table.len().next_multiple_of(8), 0);
        let too_long = || bad("it would not fit 4 GiB".to_owned());
        for signing in signings {
            let digest = digests.get(&signing.hash).map(Vec::as_slice).unwrap_or_default();
            let pkcs7 = spc_pkcs7(signing.hash, digest, signing.identity, signing_time)?;
            table.extend(certificate_entry(&pkcs7).ok_or_else(too_long)?);
        }
        // Only what is signed must end at a multiple of 8 bytes.
        let (fill, start) = match table.is_empty() {
            true => (0, 0),
            false => (padding(end), u32::try_from(end.next_multiple_of(8)).map_err(|_| too_long())?),
        };
        let mut tail = vec![0; fill];
        let size = u32::try_from(table.len()).map_err(|_| too_long())?;
        let length =
            u32::try_from(end.saturating_add(fill as u64).saturating_add(u64::from(size))).map_err(|_| too_long())?;
        tail.extend(table);
        let entry = [start.to_le_bytes(), size.to_le_bytes()].concat();
        checksum.add(layout.directory_entry_offset(), &entry);
        checksum.add(end, &tail);
        let checksum = checksum.finish(length).to_le_bytes().to_vec();
        Ok(Signature {
            digests,
            writes: [(layout.checksum_offset(), checksum), (layout.directory_entry_offset(), entry), (end, tail)],
            length: u64::from(length),
        })
    }
}

/// The bytes before this many, and the rest.
fn cut(bytes: &[u8], count: u64) -> (&[u8], &[u8]) {
    bytes.split_at(usize::try_from(count).map_or(bytes.len(), |count| count.min(bytes.len())))
}

/// An entry of the certificate table: a `WIN_CERTIFICATE` of revision 2.0 and type `WIN_CERT_TYPE_PKCS_SIGNED_DATA`, filled up to a
/// multiple of 8 bytes. Nothing if it would not fit 4 GiB.
#[must_use]
pub fn certificate_entry(pkcs7: &[u8]) -> Option<Vec<u8>> {
    let length = u32::try_from(pkcs7.len()).ok()?.checked_add(8)?;
    let mut entry = Vec::with_capacity(pkcs7.len().saturating_add(16));
    entry.extend(length.to_le_bytes());
    entry.extend(0x0200_u16.to_le_bytes());
    entry.extend(0x0002_u16.to_le_bytes());
    entry.extend(pkcs7);
    entry.resize(entry.len().checked_next_multiple_of(8)?, 0);
    Some(entry)
}

/// Signs an image in place: one pass of reading, then the three writes of [`Signature`]; the caller cuts the file to its length
/// where signatures went. Memory does not grow with the image. Until those writes the file is as it was; should one of them fail
/// it is of no use: work on a copy. `name` is for messages.
///
/// # Errors
/// [`SignError::AlreadySigned`], [`SignError::Pe`], [`SignError::Image`], [`SignError::Cancelled`], and what the
/// signer gives.
pub fn sign_pe<F: Read + Write + Seek>(
    file: &mut F,
    name: &str,
    signings: &[Signing<'_>],
    existing: Existing,
    signing_time: Option<u64>,
    cancel: &Cancel,
) -> Result<Signature, SignError> {
    let fail = |action| move |source| SignError::Image { action, name: name.to_owned(), source };
    let hashes: Vec<Hash> = signings.iter().map(|signing| signing.hash).collect();
    let signature = digest_pe(file, name, &hashes, existing, cancel)?.sign(signings, signing_time)?;
    for (offset, bytes) in &signature.writes {
        file.seek(SeekFrom::Start(*offset)).map_err(fail("write"))?;
        file.write_all(bytes).map_err(fail("write"))?;
    }
    file.flush().map_err(fail("write"))?;
    Ok(signature)
}

/// The pass of reading alone.
///
/// # Errors
/// As [`sign_pe`].
pub fn digest_pe(
    file: &mut (impl Read + Seek),
    name: &str,
    hashes: &[Hash],
    existing: Existing,
    cancel: &Cancel,
) -> Result<SigningPass, SignError> {
    let fail = |source| SignError::Image { action: "read", name: name.to_owned(), source };
    let mut header = Vec::new();
    file.seek(SeekFrom::Start(0)).map_err(fail)?;
    Read::by_ref(file).take(PeLayout::HEADER_LIMIT).read_to_end(&mut header).map_err(fail)?;
    let mut pass = SigningPass::new(PeLayout::parse(&header, name)?, hashes, existing)?;
    pass.update(&header);
    let mut buffer = vec![0; BUFFER];
    loop {
        cancel.check()?;
        let count = match file.read(&mut buffer) {
            Ok(0) => return Ok(pass),
            Ok(count) => count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(fail(error)),
        };
        pass.update(buffer.get(..count).unwrap_or_default());
    }
}
