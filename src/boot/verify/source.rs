//! Where the image is read from, at any place and by several threads at once.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::FileExt;

/// Bytes that can be read at any place.
pub trait Source: Sync {
    /// Bytes in all.
    ///
    /// # Errors
    /// What the system says.
    fn length(&self) -> std::io::Result<u64>;

    /// Reads at `offset` what is there, at most as much as fits; 0 behind the end.
    ///
    /// # Errors
    /// What the system says.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> std::io::Result<usize>;
}

impl Source for File {
    fn length(&self) -> std::io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> std::io::Result<usize> {
        FileExt::read_at(self, buffer, offset)
    }
}

impl Source for &[u8] {
    fn length(&self) -> std::io::Result<u64> {
        Ok(self.len() as u64)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> std::io::Result<usize> {
        let rest = usize::try_from(offset).ok().and_then(|offset| self.get(offset..)).unwrap_or_default();
        let count = rest.len().min(buffer.len());
        if let (Some(to), Some(from)) = (buffer.get_mut(..count), rest.get(..count)) {
            to.copy_from_slice(from);
        }
        Ok(count)
    }
}

/// A part of a source, in order.
pub(super) struct Part<'a> {
    source: &'a dyn Source,
    position: u64,
    end: u64,
}

impl<'a> Part<'a> {
    pub(super) fn new(source: &'a dyn Source, offset: u64, length: u64) -> Self {
        Self { source, position: offset, end: offset.saturating_add(length) }
    }
}

impl Read for Part<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let left = usize::try_from(self.end.saturating_sub(self.position)).unwrap_or(usize::MAX);
        let room = left.min(buffer.len());
        let count = loop {
            match self.source.read_at(buffer.get_mut(..room).unwrap_or_default(), self.position) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                other => break other?,
            }
        };
        self.position = self.position.saturating_add(count as u64);
        Ok(count)
    }
}

/// `length` bytes at `offset`, which the caller has bounded; less where the source ends.
pub(super) fn bytes(source: &dyn Source, offset: u64, length: u64) -> std::io::Result<Vec<u8>> {
    let mut out = Vec::new();
    Part::new(source, offset, length).read_to_end(&mut out)?;
    Ok(out)
}
