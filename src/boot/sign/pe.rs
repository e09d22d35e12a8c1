//! Where a PE image keeps its signature, its Authenticode digest, and its checksum.
//!
//! Sources: Microsoft's "PE Format" and "Windows Authenticode Portable Executable Signature Format"; EDK2's
//! `DxeImageVerificationLib` (what firmware hashes); the checksum is that of `imagehlp`'s `CheckSumMappedFile`.
//!
//! Images whose sections leave gaps in the file, overlap, or reach past its end are refused: verifiers do not agree on
//! their digest (EDK2 hashes section by section, others the file from end to end).

use std::ops::Range;

use super::{Hash, SignError};
use crate::boot::pcr::Hasher;

/// The certificate table's place among the data directories.
const CERTIFICATE_DIRECTORY: u64 = 4;

/// The places in a PE image that a signature changes, and where its sections end. Offsets from the start of the file,
/// bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeLayout {
    name: String,
    checksum: u64,
    directory_entry: u64,
    sections_end: u64,
    certificate_table: Option<Range<u64>>,
}

impl PeLayout {
    /// Bytes from the start of the file that hold all headers of any sane image: what [`PeLayout::parse`] wants to see
    /// of a longer file.
    pub const HEADER_LIMIT: u64 = 64 * 1024;

    /// Reads the headers: PE32 or PE32+. `header` is the start of the file, all of it or
    /// [`PeLayout::HEADER_LIMIT`] bytes; `name` is for messages.
    ///
    /// # Errors
    /// [`SignError::Pe`] if the headers are damaged, or the sections leave gaps in the file or overlap.
    pub fn parse(header: &[u8], name: &str) -> Result<Self, SignError> {
        Self::parse_fields(header, name).map_err(|reason| SignError::Pe { name: name.to_owned(), reason })
    }

    fn parse_fields(header: &[u8], name: &str) -> Result<Self, String> {
        let header = Fields(header);
        if header.bytes::<2>(0)? != *b"MZ" {
            return Err("it does not begin with MZ".to_owned());
        }
        let pe = u64::from(header.u32(0x3c)?);
        if header.bytes::<4>(pe)? != *b"PE\0\0" {
            return Err(format!("there is no PE signature at offset {pe:#x}"));
        }
        let coff = pe + 4;
        let sections = u64::from(header.u16(coff + 2)?);
        let optional_size = u64::from(header.u16(coff + 16)?);
        let optional = coff + 20;
        let directories = match header.u16(optional)? {
            0x10b => optional + 96,
            0x20b => optional + 112,
            magic => return Err(format!("its optional header has the unknown magic {magic:#x}")),
        };
        // The number of directories is the field before the first of them.
        let directory_entry = directories + CERTIFICATE_DIRECTORY * 8;
        let table = optional + optional_size;
        if u64::from(header.u32(directories - 4)?) <= CERTIFICATE_DIRECTORY || directory_entry + 8 > table {
            return Err("its optional header has no room for a certificate table".to_owned());
        }
        let headers_end = u64::from(header.u32(optional + 60)?);
        if headers_end < table + sections * 40 {
            return Err(format!("SizeOfHeaders is {headers_end:#x}, and its section table ends after that"));
        }
        let mut ranges = Vec::new();
        for index in 0..sections {
            let entry = table + index * 40;
            let (size, start) = (u64::from(header.u32(entry + 16)?), u64::from(header.u32(entry + 20)?));
            if size > 0 {
                ranges.push(start..start + size);
            }
        }
        ranges.sort_by_key(|range| range.start);
        let mut sections_end = headers_end;
        for range in ranges {
            if range.start != sections_end {
                let what = if range.start > sections_end { "a gap before it" } else { "other data there already" };
                return Err(format!(
                    "the section at offset {:#x} has {what}: the data before it ends at {sections_end:#x}",
                    range.start
                ));
            }
            sections_end = range.end;
        }
        let (start, size) = (u64::from(header.u32(directory_entry)?), u64::from(header.u32(directory_entry + 4)?));
        if size == 0 && start != 0 {
            return Err(format!("its data directory names a certificate table at {start:#x} without a size"));
        }
        let certificate_table = (size > 0).then(|| start..start + size);
        if let Some(range) = certificate_table.as_ref().filter(|range| range.start < sections_end) {
            return Err(format!("its certificate table at {:#x} overlaps its sections", range.start));
        }
        Ok(Self { name: name.to_owned(), checksum: optional + 64, directory_entry, sections_end, certificate_table })
    }

    /// What the user calls the image.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Offset of the `CheckSum` field, 4 bytes.
    #[must_use]
    pub fn checksum_offset(&self) -> u64 {
        self.checksum
    }

    /// Offset of the certificate table's data directory entry, 8 bytes: offset and size of the table.
    #[must_use]
    pub fn directory_entry_offset(&self) -> u64 {
        self.directory_entry
    }

    /// Where the last section's data ends: the file must not be shorter.
    #[must_use]
    pub fn sections_end(&self) -> u64 {
        self.sections_end
    }

    /// Whether the image has a certificate table: it is signed.
    #[must_use]
    pub fn is_signed(&self) -> bool {
        self.certificate_table.is_some()
    }

    /// Where the certificate table lies, if there is one.
    #[must_use]
    pub fn certificate_table(&self) -> Option<Range<u64>> {
        self.certificate_table.clone()
    }

    /// What the digest does not cover, ascending.
    fn not_hashed(&self) -> impl Iterator<Item = Range<u64>> + use<> {
        let fixed = [self.checksum..self.checksum + 4, self.directory_entry..self.directory_entry + 8];
        fixed.into_iter().chain(self.certificate_table.clone())
    }
}

/// Checked access to little-endian fields.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn bytes<const N: usize>(&self, offset: u64) -> Result<[u8; N], String> {
        usize::try_from(offset)
            .ok()
            .and_then(|offset| self.0.get(offset..)?.first_chunk::<N>().copied())
            .ok_or_else(|| format!("its headers are cut short: there is nothing at offset {offset:#x}"))
    }

    fn u16(&self, offset: u64) -> Result<u16, String> {
        self.bytes(offset).map(u16::from_le_bytes)
    }

    fn u32(&self, offset: u64) -> Result<u32, String> {
        self.bytes(offset).map(u32::from_le_bytes)
    }
}

/// Takes the Authenticode digest of an image while its bytes go by.
#[derive(Debug, Clone)]
pub struct ImageHasher {
    layout: PeLayout,
    offset: u64,
    hash: Hasher,
}

impl ImageHasher {
    /// SHA-256, for an image with these headers.
    #[must_use]
    pub fn new(layout: PeLayout) -> Self {
        Self::with(layout, Hash::Sha256)
    }

    /// For an image with these headers.
    #[must_use]
    pub fn with(layout: PeLayout, hash: Hash) -> Self {
        Self { layout, offset: 0, hash: Hasher::new(hash.bank()) }
    }

    /// The next bytes of the file, from its very first on, in pieces of any length. The fields that a signature
    /// changes, and a certificate table, may have any contents.
    pub fn update(&mut self, mut bytes: &[u8]) {
        for skipped in self.layout.not_hashed() {
            bytes = self.hash_until(skipped.start, bytes);
            if self.offset >= skipped.start && self.offset < skipped.end {
                let (_, rest) = bytes.split_at(within(skipped.end - self.offset, bytes));
                self.offset += length(bytes) - length(rest);
                bytes = rest;
            }
        }
        self.hash_until(u64::MAX, bytes);
    }

    /// Hashes what lies before this offset; gives back the rest.
    fn hash_until<'a>(&mut self, end: u64, bytes: &'a [u8]) -> &'a [u8] {
        let (hashed, rest) = bytes.split_at(within(end.saturating_sub(self.offset), bytes));
        self.hash.update(hashed);
        self.offset += length(hashed);
        rest
    }

    /// Bytes of the file that have gone by.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The digest, after the whole file has gone by. A length that is no multiple of 8 counts as filled up with zeros:
    /// signing writes them.
    ///
    /// # Errors
    /// [`SignError::Pe`] if the file was shorter than its sections.
    pub fn finish(mut self) -> Result<Vec<u8>, SignError> {
        if self.offset < self.layout.sections_end {
            return Err(SignError::Pe {
                name: self.layout.name,
                reason: format!(
                    "it ends at {:#x}, and its sections at {:#x}: it is cut short",
                    self.offset, self.layout.sections_end
                ),
            });
        }
        // What signatures cover ends where their table begins.
        let end = self.layout.certificate_table.as_ref().map_or(self.offset, |table| table.start);
        let (zeros, _) = [0; 8].split_at(padding(end));
        self.hash.update(zeros);
        Ok(self.hash.finish())
    }
}

/// The checksum of a PE image: the ones' complement sum of its 16-bit words, plus its length.
///
/// A sum does not care for order, so parts may be added in any order, once each. The checksum field itself counts as
/// zero, whatever it holds.
#[derive(Debug, Clone)]
pub struct PeChecksum {
    field: u64,
    sum: u64,
}

impl PeChecksum {
    /// For an image with these headers.
    #[must_use]
    pub fn new(layout: &PeLayout) -> Self {
        Self { field: layout.checksum, sum: 0 }
    }

    /// Adds the bytes that stand at this offset of the file.
    pub fn add(&mut self, offset: u64, bytes: &[u8]) {
        let (before, rest) = bytes.split_at(within(self.field.saturating_sub(offset), bytes));
        self.add_words(offset, before);
        let offset = offset + length(before);
        let (_, after) = rest.split_at(within((self.field + 4).saturating_sub(offset), rest));
        self.add_words(offset + length(rest) - length(after), after);
    }

    fn add_words(&mut self, offset: u64, bytes: &[u8]) {
        // 2^16 and 2^32 are both 1 modulo 2^16 - 1, so words of 32 bits have the same sum. Pieces keep it from
        // overflowing; a piece that starts in the middle of a word is summed as if it did not, its bytes swapped then.
        let swapped = offset % 2 == 1;
        for piece in bytes.chunks(1 << 20) {
            let (words, rest) = piece.as_chunks::<4>();
            let mut last = [0; 4];
            last.iter_mut().zip(rest).for_each(|(to, from)| *to = *from);
            let sum: u64 = words.iter().chain([&last]).map(|word| u64::from(u32::from_le_bytes(*word))).sum();
            let folded = fold(sum);
            self.sum += u64::from(if swapped { folded.swap_bytes() } else { folded });
        }
    }

    /// The checksum of a file of this length, bytes.
    #[must_use]
    pub fn finish(&self, length: u32) -> u32 {
        u32::from(fold(self.sum)).wrapping_add(length)
    }
}

/// The ones' complement sum of the number's four words.
fn fold(mut sum: u64) -> u16 {
    loop {
        let [a, b, c, d, e, f, g, h] = sum.to_le_bytes();
        let words = [[a, b], [c, d], [e, f], [g, h]].map(u16::from_le_bytes);
        let folded = words.into_iter().map(u64::from).sum();
        if folded == sum {
            let [low, _, _, _] = words;
            return low;
        }
        sum = folded;
    }
}

/// Zeros that fill a length up to a multiple of 8, where a certificate table begins and ends.
pub(super) fn padding(length: u64) -> usize {
    usize::try_from(length.wrapping_neg() % 8).unwrap_or(0)
}

/// The count, but at most the length of the bytes.
fn within(count: u64, bytes: &[u8]) -> usize {
    usize::try_from(count).map_or(bytes.len(), |count| count.min(bytes.len()))
}

fn length(bytes: &[u8]) -> u64 {
    // Never fails: no address space is larger.
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
