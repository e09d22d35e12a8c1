//! The initrd: a [`FileTree`] as a newc archive, compressed with zstd, in one stream.
//!
//! [`build`] is the whole way; [`write_newc`] the archive alone; [`early_microcode`] the small archive that the kernel reads
//! before it has a decompressor. [`NewcReader`] and [`decompress`] read the result back. Not here: what belongs into the
//! tree (`root/scan.rs` and `drivers/`), and where the result goes (any `Write`).

mod compress;
mod cpio;
mod reader;
mod ucode;

use std::io::Write;

pub use compress::{Compression, CompressionError, decompress};
pub use cpio::{Stats, write_newc};
pub use reader::{ArchiveEntry, ArchiveError, NewcReader};
pub use ucode::early_microcode;

use super::sysroot::{Sysroot, SysrootError};
use super::tree::FileTree;
use crate::cancel::{Cancel, Cancelled};
use crate::names::TreePath;

/// Writing an initrd failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InitrdError {
    /// A file cannot be read.
    #[error(transparent)]
    Root(#[from] SysrootError),
    /// A file is not what it was when the root was scanned, or changed under the reader.
    #[error("{path} changed while it was packed; stop what writes to the root and run again")]
    Changed {
        /// In the root.
        path: TreePath,
    },
    /// A file over 4 GiB.
    #[error("{path} has {bytes} bytes, but a newc archive holds files below 4 GiB only; remove it from the root")]
    TooLarge {
        /// In the tree.
        path: TreePath,
        /// Found.
        bytes: u64,
    },
    /// A path or a link's target that the kernel would skip.
    #[error(
        "the path or the link target of {path} has more than {limit} bytes, which the kernel would not unpack; shorten it"
    )]
    TooLong {
        /// In the tree.
        path: TreePath,
        /// Bytes allowed.
        limit: usize,
    },
    /// More than 2^32 entries.
    #[error("the tree has more entries than a newc archive can number (2^32)")]
    TooManyEntries,
    /// An entry whose directory is not in the tree: the kernel would not unpack it.
    #[error("{path} is to be packed, but the directory that holds it is not; keep the directory or drop the entry")]
    NoDirectory {
        /// In the tree.
        path: TreePath,
    },
    /// A hard link to something that is no file of the tree, or that stands after it.
    #[error("{path} is a hard link to {to}, which is no regular file that stands before it in the tree")]
    HardLink {
        /// The link.
        path: TreePath,
        /// What it names.
        to: TreePath,
    },
    /// Content of a root in an archive that is made without one.
    #[error("{path} is to be read from a root, but the archive is made without one")]
    NoRoot {
        /// In the root.
        path: TreePath,
    },
    /// The output cannot be written, or the compressor failed.
    #[error("cannot write the initrd: {0}; is the disk full?")]
    Write(#[source] std::io::Error),
    /// Interrupted.
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
}

/// What was built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InitrdStats {
    /// Compressed bytes.
    pub bytes: u64,
    /// Bytes of the archive.
    pub uncompressed_bytes: u64,
    /// Entries of the archive, the trailer not counted.
    pub entries: u64,
}

/// Packs and compresses `tree` into `out`, as a stream: memory depends on `compression`, not on the tree's bytes. The bytes
/// written depend on the tree, the files and `compression` without its workers. `progress` is told the bytes of the archive
/// so far.
///
/// # Errors
/// As [`write_newc`]. What `out` holds after an error is of no use.
pub fn build(
    tree: &FileTree,
    root: &Sysroot,
    compression: &Compression,
    out: impl Write,
    cancel: &Cancel,
    progress: &dyn Fn(u64),
) -> Result<InitrdStats, InitrdError> {
    let mut encoder = compression.encoder(Counted { out, bytes: 0, tell: &|_| {} }).map_err(InitrdError::Write)?;
    let archive = write_newc(tree, root, &mut Counted { out: &mut encoder, bytes: 0, tell: progress }, cancel)?;
    let mut counted = encoder.finish().map_err(InitrdError::Write)?;
    counted.flush().map_err(InitrdError::Write)?;
    Ok(InitrdStats { bytes: counted.bytes, uncompressed_bytes: archive.bytes, entries: archive.entries })
}

/// Counts what goes through, and tells the count.
struct Counted<'a, W> {
    out: W,
    bytes: u64,
    tell: &'a dyn Fn(u64),
}

impl<W: Write> Write for Counted<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let count = self.out.write(bytes)?;
        self.bytes = self.bytes.saturating_add(count as u64);
        (self.tell)(self.bytes);
        Ok(count)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.out.flush()
    }
}
