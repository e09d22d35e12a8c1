//! [`Output`]: the file that an image is written into, from its first byte to its last, with holes.

use std::fs::File;
use std::io::{Error, ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::ImageError;
use crate::cancel::Cancel;

/// Bytes that travel before someone may interrupt, and of the buffer where the system cannot copy by itself.
const STEP: usize = 8 << 20;
const BUFFER: usize = 1 << 20;

/// A new, empty file that an image is written into. What [`Output::zeros`] leaves out is a hole; on a file system without holes
/// it reads as zeros all the same.
#[derive(Debug)]
pub struct Output<'a> {
    file: &'a File,
    path: &'a Path,
    position: u64,
    cancel: &'a Cancel,
}

impl<'a> Output<'a> {
    /// Writes into `file`, an empty one; `path` is for messages.
    #[must_use]
    pub fn new(file: &'a File, path: &'a Path, cancel: &'a Cancel) -> Self {
        Self { file, path, position: 0, cancel }
    }

    /// Bytes so far, holes included.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.position
    }

    fn failed(&self, action: &'static str) -> impl Fn(std::io::Error) -> ImageError {
        let path = self.path.to_owned();
        move |source| ImageError::Io { action, path: path.clone(), source }
    }

    /// Writes bytes.
    ///
    /// # Errors
    /// A full disk; asked to stop.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), ImageError> {
        self.cancel.check()?;
        self.file.write_all(bytes).map_err(self.failed("write"))?;
        self.position += bytes.len() as u64;
        Ok(())
    }

    /// Leaves out so many zeros.
    ///
    /// # Errors
    /// The file cannot be moved in.
    pub fn zeros(&mut self, count: u64) -> Result<(), ImageError> {
        let Some(end) = self.position.checked_add(count) else {
            return Err(self.failed("write")(too_long(u64::MAX)));
        };
        self.seek(end)?;
        self.position = end;
        Ok(())
    }

    /// Whether the file system can hold a file of so many bytes (FAT cannot from 4 GiB on): better known before the work.
    ///
    /// # Errors
    /// It cannot.
    pub fn check_length(&self, length: u64) -> Result<(), ImageError> {
        self.seek(length)?;
        self.seek(self.position)
    }

    fn seek(&self, position: u64) -> Result<(), ImageError> {
        let mut file = self.file;
        let sought = file.seek(SeekFrom::Start(position)).map(drop);
        // Linux calls a place beyond the largest file that a file system can hold an invalid argument.
        let sought = sought.map_err(|error| match error.kind() {
            ErrorKind::InvalidInput => too_long(position),
            _ => error,
        });
        sought.map_err(self.failed("write"))
    }

    /// Leaves out zeros up to `position`, counted from the beginning of the file.
    ///
    /// # Errors
    /// More was written than that already; the file cannot be moved in.
    pub fn zeros_to(&mut self, position: u64) -> Result<(), ImageError> {
        match position.checked_sub(self.position) {
            Some(count) => self.zeros(count),
            None => {
                let problem = format!("{} bytes were written where {position} were laid out", self.position);
                Err(ImageError::Layout { format: "disk", problem })
            }
        }
    }

    /// Copies `length` bytes of another file from its current position, inside of the system where that can do it.
    ///
    /// # Errors
    /// The file ends early ([`ImageError::Changed`]) or cannot be read; a full disk; asked to stop.
    pub fn copy(&mut self, from: &File, length: u64, name: &dyn Fn() -> PathBuf) -> Result<(), ImageError> {
        let mut left = length;
        let mut buffer = Vec::new();
        while left > 0 {
            self.cancel.check()?;
            let step = usize::try_from(left).unwrap_or(usize::MAX).min(STEP);
            let count = if buffer.is_empty() {
                match rustix::fs::copy_file_range(from, None, self.file, None, step) {
                    // Some file systems answer 0 for what they cannot copy: a read tells whether the file ends here.
                    Ok(0) => 0,
                    Ok(count) => count,
                    Err(rustix::io::Errno::NOSPC) => return Err(self.failed("write")(ErrorKind::StorageFull.into())),
                    // Across file systems, of file systems that cannot, of files that are none.
                    Err(_) => 0,
                }
            } else {
                0
            };
            let count = match count {
                0 => {
                    buffer.resize(BUFFER, 0);
                    let wanted = buffer.get_mut(..step.min(BUFFER)).unwrap_or_default();
                    let mut reader = from;
                    let count = match reader.read(wanted) {
                        Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                        read => read.map_err(|source| ImageError::Io { action: "read", path: name(), source })?,
                    };
                    if count == 0 {
                        return Err(ImageError::Changed { path: name() });
                    }
                    let mut file = self.file;
                    file.write_all(buffer.get(..count).unwrap_or_default()).map_err(self.failed("write"))?;
                    count
                }
                count => count,
            };
            self.position += count as u64;
            left -= count as u64;
        }
        Ok(())
    }

    /// Gives the file its length, which a hole at the end does not.
    ///
    /// # Errors
    /// A full disk, or a file system that cannot hold so large a file.
    pub fn finish(self) -> Result<(), ImageError> {
        self.file.set_len(self.position).map_err(self.failed("write"))
    }
}

fn too_long(length: u64) -> Error {
    let text = format!("the file system cannot hold a file of {length} bytes; choose another --output");
    Error::new(ErrorKind::FileTooLarge, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_too_long_for_the_file_system_is_said_to_be() {
        let file = tempfile::tempfile().unwrap();
        let cancel = Cancel::default();
        let mut out = Output::new(&file, Path::new("disk.raw"), &cancel);
        out.write(b"some").unwrap();
        out.check_length(1 << 30).unwrap();
        // No file system of Linux holds as much.
        let told = "cannot write disk.raw: the file system cannot hold a file of 9223372036854775808 bytes";
        let error = out.check_length(1 << 63).unwrap_err().to_string();
        assert!(error.starts_with(told), "{error}");
        let error = out.zeros((1 << 63) - 4).unwrap_err().to_string();
        assert!(error.starts_with(told), "{error}");
        assert!(out.zeros(u64::MAX).unwrap_err().to_string().contains("cannot hold a file"));
        // Where it was is where it is.
        out.write(b"thing").unwrap();
        out.finish().unwrap();
        let mut text = String::new();
        let mut reader = &file;
        reader.rewind().unwrap();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "something");
    }
}
