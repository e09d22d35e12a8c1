//! What is shipped: the ESP tree, and the images that carry it.
//!
//! An image is laid out before its first byte is written: [`Image::length`] is known, [`Image::write`] is one pass from the first
//! byte to the last, and files travel from disk to disk without passing through memory. So an image can be a file of
//! another one (the FAT file system inside of the ISO, or in a partition of a disk), and nothing is ever held whole.

pub mod budget;
pub mod disk;
pub mod esp;
pub mod ext4;
pub mod fat;
mod files;
pub mod gpt;
pub mod iso;
pub mod medium;
mod output;
pub mod packed;
pub mod sbom;
mod staging;

use std::fs;
use std::path::{Path, PathBuf};

pub use files::{Content, Files, Node};
pub use output::Output;
pub use staging::Staging;

use crate::cancel::Cancelled;
use crate::names::{NameError, TreePath};
use crate::root::sysroot::SysrootError;

/// The time stamp of everything in an image where `SOURCE_DATE_EPOCH` says nothing: 1980-01-01, the first that FAT can tell.
pub const DEFAULT_TIME: i64 = 315_532_800;

/// An image that is laid out: all that is left is to write it.
pub trait Image: std::fmt::Debug + Send + Sync {
    /// Bytes that [`Image::write`] will write, holes included.
    fn length(&self) -> u64;

    /// Writes it, in one pass.
    ///
    /// # Errors
    /// Content that cannot be read or is no longer as it was laid out; a full disk.
    fn write(&self, out: &mut Output<'_>) -> Result<(), ImageError>;
}

/// The UKI in the output folder: the name that Kairos' agent expects of an image without a role.
pub const UKI: &str = "uki/EFI/kairos/norole.efi";
/// The ESP tree in the output folder.
pub const TREE: &str = "uki/";
/// What was kept and dropped, and why.
pub const REPORT: &str = "report.json";
/// Predicted PCR values.
pub const PCRS: &str = "pcrs.json";
/// Checksums of all the other files, for `sha256sum -c`.
pub const SUMS: &str = "SHA256SUMS";

/// The base name of an image, as it may be given: one component, not hidden.
///
/// # Errors
/// Why it cannot be, and what to do.
pub fn parse_name(text: &str) -> Result<String, String> {
    match text.is_empty() || text.starts_with('.') || text.contains('/') || text.chars().any(char::is_control) {
        true => Err("a name is not empty, has no slash and does not begin with a dot; folders are named with --output"
            .to_owned()),
        false => Ok(text.to_owned()),
    }
}

/// Refuses private keys among files that are published: any small file with a PEM private key in it.
///
/// # Errors
/// [`ImageError::PrivateKey`]; a file that cannot be read.
pub fn refuse_private_keys(files: &Files) -> Result<(), ImageError> {
    const LIMIT: u64 = 64 << 10;
    for (path, node) in files.iter() {
        let Node::File { content, .. } = node else { continue };
        if content.length() <= LIMIT && memchr::memmem::find(&content.read(LIMIT)?, b"PRIVATE KEY-----").is_some() {
            return Err(ImageError::PrivateKey { path: path.clone() });
        }
    }
    Ok(())
}

/// The output folder cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// A file or folder could not be made or renamed.
    #[error("cannot {action} {path}: {source}{}", advice(source))]
    Io {
        /// "create", "rename", ...
        action: &'static str,
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The output folder is a file, or one of the artifacts' names is taken by what is no regular file.
    #[error("{path} is in the way: {problem}; move it away or choose another --output")]
    InTheWay {
        /// Which.
        path: PathBuf,
        /// Why it cannot be replaced.
        problem: &'static str,
    },
    /// A file cannot be in this kind of image under its name, or at all.
    #[error("{path} cannot be in a {format} image: {problem}")]
    Unrepresentable {
        /// Which.
        path: TreePath,
        /// `FAT`, `ISO 9660`.
        format: &'static str,
        /// Why, and what to do.
        problem: String,
    },
    /// A file is not what it was when the image was laid out.
    #[error(
        "{path} was changed while the image was written; nothing was written; let nobody write there, and run again"
    )]
    Changed {
        /// Which.
        path: PathBuf,
    },
    /// The image would be larger or smaller than its format can be.
    #[error("cannot lay out the {format} image: {problem}")]
    Layout {
        /// `FAT`, `ISO 9660`, `GPT`.
        format: &'static str,
        /// Why, and what to do.
        problem: String,
    },
    /// A private key would be published.
    #[error("{path} is a private key, which would be published in the image; take it out of that folder")]
    PrivateKey {
        /// Its path in the image.
        path: TreePath,
    },
    /// qemu-img does not do it.
    #[error(
        "qemu-img cannot make the qcow2 image: {problem}; install qemu-utils (Debian) or qemu-img (Fedora), or take the raw image"
    )]
    Qcow2 {
        /// Why.
        problem: String,
    },
    /// A folder that is packed cannot be read.
    #[error(transparent)]
    Source(#[from] SysrootError),
    /// A name that cannot be.
    #[error(transparent)]
    Name(#[from] NameError),
    /// Asked to stop.
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
}

/// What to do about an I/O error, as the end of a message.
#[must_use]
pub fn advice(error: &std::io::Error) -> &'static str {
    match error.kind() {
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
            "; make room there, or choose another --output"
        }
        std::io::ErrorKind::PermissionDenied => "; run as a user who may write there",
        std::io::ErrorKind::ReadOnlyFilesystem => "; choose another --output",
        _ => "",
    }
}

/// What became of setting a file's mode, where it is no error that the file system has none: FAT, exFAT and shares of other systems
/// ignore a mode or refuse it, and how they are mounted says who may read.
///
/// # Errors
/// All others.
pub fn mode_set(result: std::io::Result<()>) -> std::io::Result<()> {
    use rustix::io::Errno;
    match result {
        // The file is our own, so that it is not us who may not.
        Err(error) if matches!(Errno::from_io_error(&error), Some(Errno::PERM | Errno::NOSYS | Errno::OPNOTSUPP)) => {
            Ok(())
        }
        other => other,
    }
}

/// Whether a file may be renamed to `path`: nothing is there, or a regular file. A rename would silently take the place of
/// anything else, of a device node as well (`--output /dev/null`, as root), or of a link that someone made on purpose.
///
/// # Errors
/// [`ImageError::InTheWay`] for what is no regular file; a path that cannot be looked at.
pub fn check_replaceable(path: &Path) -> Result<(), ImageError> {
    let problem = match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_file() => return Ok(()),
        Ok(metadata) if metadata.is_dir() => "it is a folder",
        Ok(metadata) if metadata.is_symlink() => "it is a link, which would be replaced and not followed",
        Ok(_) => "it is a device, a pipe or a socket, which would be replaced and not written to",
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(ImageError::Io { action: "look at", path: path.to_owned(), source }),
    };
    Err(ImageError::InTheWay { path: path.to_owned(), problem })
}
