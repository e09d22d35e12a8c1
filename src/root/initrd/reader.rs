//! The newc reader: for listings and tests. The archive is hostile input.
//!
//! Memory is bounded by the longest name and link target (4 KiB each), whatever the headers say. Names that lead out of the
//! root are errors. Hard links are left to the caller, by inode number. Reads one archive: what follows its trailer (padding,
//! more archives) stays in the input.

use std::io::Read;

use super::cpio::{HEADER, MAGIC, PATH_MAX, TRAILER};
use crate::names::{NameError, TreePath};

/// An archive cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ArchiveError {
    /// The input cannot be read, or ends too early.
    #[error("cannot read the archive at byte {offset}: {source}")]
    Read {
        /// In the uncompressed archive.
        offset: u64,
        /// What the system or the decompressor said.
        source: std::io::Error,
    },
    /// A header that is none.
    #[error("the archive is damaged: {problem} in the header at byte {offset}")]
    Header {
        /// Of the header, in the uncompressed archive.
        offset: u64,
        /// What is wrong.
        problem: &'static str,
    },
    /// A name that no tree can hold.
    #[error("the archive is damaged or hostile: {source}, in the header at byte {offset}")]
    Name {
        /// Of the header, in the uncompressed archive.
        offset: u64,
        /// What is wrong with it.
        source: NameError,
    },
}

/// One entry's header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArchiveEntry {
    /// The name; the root directory (`.`) is the empty path.
    pub path: TreePath,
    /// Inode number: hard links share it.
    pub inode: u32,
    /// File type and permission bits, as `st_mode`.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Number of names.
    pub links: u32,
    /// Modification time, seconds since 1970.
    pub mtime: u32,
    /// Bytes of content that follow.
    pub length: u32,
    /// Major and minor number of the device that the entry stands for.
    pub device: (u32, u32),
    /// A symbolic link's target; empty for everything else.
    pub target: Vec<u8>,
}

/// Reads an archive entry by entry.
#[derive(Debug)]
pub struct NewcReader<R> {
    input: R,
    offset: u64,
    /// Content of the current entry that nobody has read, and the padding after it.
    remaining: u64,
    padding: u64,
}

impl<R: Read> NewcReader<R> {
    /// Reads the uncompressed archive `input`. Many small reads: hand in something buffered.
    pub fn new(input: R) -> Self {
        Self { input, offset: 0, remaining: 0, padding: 0 }
    }

    /// The next entry, or `None` at the trailer. What is left of the last entry's content is skipped.
    ///
    /// # Errors
    /// Input that is cut off, no newc archive, or hostile.
    pub fn next_entry(&mut self) -> Result<Option<ArchiveEntry>, ArchiveError> {
        let skip = self.remaining.saturating_add(self.padding);
        let skipped = std::io::copy(&mut self.input.by_ref().take(skip), &mut std::io::sink());
        if self.advance(skipped)? < skip {
            return Err(self.cut_off());
        }
        (self.remaining, self.padding) = (0, 0);

        let offset = self.offset;
        let damaged = |problem| ArchiveError::Header { offset, problem };
        let header = self.take(HEADER)?;
        let digits = header.strip_prefix(MAGIC).ok_or_else(|| damaged("no newc magic (070701)"))?;
        let mut fields = [0_u32; 13];
        for (field, digits) in fields.iter_mut().zip(digits.chunks_exact(8)) {
            *field = std::str::from_utf8(digits)
                .ok()
                .filter(|text| text.bytes().all(|digit| digit.is_ascii_hexdigit()))
                .and_then(|text| u32::from_str_radix(text, 16).ok())
                .ok_or_else(|| damaged("no hexadecimal number"))?;
        }
        let [inode, mode, uid, gid, links, mtime, length, _, _, major, minor, name_length, _] = fields;
        let name_length = usize::try_from(name_length).unwrap_or(usize::MAX);
        if !(2..=PATH_MAX).contains(&name_length) {
            return Err(damaged("a name that is empty or longer than 4095 bytes"));
        }
        let mut name = self.take(name_length)?;
        if name.pop() != Some(0) {
            return Err(damaged("a name without its NUL"));
        }
        self.pad()?;
        if name == TRAILER {
            return Ok(None);
        }
        let path = TreePath::new(&name).map_err(|source| ArchiveError::Name { offset, source })?;
        let mut target = Vec::new();
        if mode & 0o170_000 == 0o120_000 {
            let bytes = usize::try_from(length).unwrap_or(usize::MAX);
            if bytes >= PATH_MAX {
                return Err(damaged("a link target longer than 4095 bytes"));
            }
            target = self.take(bytes)?;
            self.pad()?;
        } else {
            self.remaining = u64::from(length);
            self.padding = self.remaining.next_multiple_of(4).saturating_sub(self.remaining);
        }
        let device = (major, minor);
        Ok(Some(ArchiveEntry { path, inode, mode, uid, gid, links, mtime, length, device, target }))
    }

    /// Fills `buffer` with the next bytes of the current entry's content: as many as fit, 0 at its end.
    ///
    /// # Errors
    /// Input that is cut off.
    pub fn read_content(&mut self, buffer: &mut [u8]) -> Result<usize, ArchiveError> {
        if self.remaining == 0 || buffer.is_empty() {
            return Ok(0);
        }
        let count = self.input.by_ref().take(self.remaining).read(buffer);
        let count = self.advance(count.map(|count| count as u64))?;
        if count == 0 {
            return Err(self.cut_off());
        }
        self.remaining = self.remaining.saturating_sub(count);
        Ok(usize::try_from(count).unwrap_or(usize::MAX))
    }

    /// The input, behind what was read: after the trailer, whatever follows it.
    pub fn into_inner(self) -> R {
        self.input
    }

    /// `count` bytes, which the caller has bounded.
    fn take(&mut self, count: usize) -> Result<Vec<u8>, ArchiveError> {
        let mut bytes = vec![0; count];
        let read = self.input.read_exact(&mut bytes).map(|()| count as u64);
        self.advance(read)?;
        Ok(bytes)
    }

    fn pad(&mut self) -> Result<(), ArchiveError> {
        let padding = self.offset.next_multiple_of(4).saturating_sub(self.offset);
        self.take(usize::try_from(padding).unwrap_or(0)).map(|_| ())
    }

    fn advance(&mut self, read: std::io::Result<u64>) -> Result<u64, ArchiveError> {
        let count = read.map_err(|source| ArchiveError::Read { offset: self.offset, source })?;
        self.offset = self.offset.saturating_add(count);
        Ok(count)
    }

    fn cut_off(&self) -> ArchiveError {
        ArchiveError::Read { offset: self.offset, source: std::io::ErrorKind::UnexpectedEof.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(fields: [u32; 13], name: &[u8]) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        for field in fields {
            bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        bytes.extend_from_slice(name);
        bytes
    }

    fn first(bytes: &[u8]) -> Result<Option<ArchiveEntry>, ArchiveError> {
        NewcReader::new(bytes).next_entry()
    }

    fn file(length: u32, name_length: u32) -> [u32; 13] {
        [1, 0o100_644, 0, 0, 1, 0, length, 0, 0, 0, 0, name_length, 0]
    }

    #[test]
    fn hostile_headers_are_errors_without_large_allocations() {
        assert!(matches!(first(b""), Err(ArchiveError::Read { .. })));
        assert!(matches!(first(&[b'0'; 110]), Err(ArchiveError::Header { .. })));
        assert!(matches!(first(&header(file(0, u32::MAX), b"a\0")), Err(ArchiveError::Header { .. })));
        assert!(matches!(first(&header(file(0, 0), b"")), Err(ArchiveError::Header { .. })));
        assert!(matches!(first(&header(file(0, 2), b"ab")), Err(ArchiveError::Header { .. })));
        assert!(matches!(first(&header(file(0, 8), b"../etc/\0\0\0")), Err(ArchiveError::Name { .. })));
        let mut link = file(u32::MAX, 2);
        link[1] = 0o120_777;
        assert!(matches!(first(&header(link, b"a\0")), Err(ArchiveError::Header { .. })));
        let mut signed = header(file(0, 2), b"a\0");
        signed[6..14].copy_from_slice(b"+0000001");
        assert!(matches!(first(&signed), Err(ArchiveError::Header { .. })));
    }

    #[test]
    fn content_that_is_cut_off_is_an_error() {
        let bytes = header(file(4_000_000_000, 2), b"a\0");
        let mut reader = NewcReader::new(bytes.as_slice());
        assert_eq!(reader.next_entry().unwrap().unwrap().length, 4_000_000_000);
        assert!(reader.read_content(&mut [0; 16]).is_err());
        assert!(reader.next_entry().is_err());
    }
}
