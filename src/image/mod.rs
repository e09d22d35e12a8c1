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
mod place;
pub mod sbom;
mod staging;

use std::path::PathBuf;

pub use files::{Content, Files, LOST_AND_FOUND, Node, not_packed};
pub use output::Output;
pub use place::{
    check_another, check_file, check_folder, check_outside, check_replaceable, create_folders, identity, is_inside,
    mode_set, nearest,
};
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

/// Bytes of a base name: a file's name has at most 255, and the longest ending is `.raw.zst`.
const LONGEST_NAME: usize = 255 - ".raw.zst".len();

/// The base name of an image, as it may be given: one component, not hidden, with room for an ending.
///
/// # Errors
/// Why it cannot be, and what to do.
pub fn parse_name(text: &str) -> Result<String, String> {
    if text.is_empty() || text.starts_with('.') || text.contains('/') || text.chars().any(char::is_control) {
        return Err("a name is not empty, has no slash and does not begin with a dot; folders are named with --output"
            .to_owned());
    }
    match text.len() {
        0..=LONGEST_NAME => Ok(text.to_owned()),
        length => {
            Err(format!("it has {length} bytes, and a file's name has room for {LONGEST_NAME}; choose a shorter one"))
        }
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
    /// What is written would be among what it is made of.
    #[error(
        "{output} is inside of {folder}, which it is made of: the next image would hold this one; choose another --output"
    )]
    Inside {
        /// Where it is written.
        output: PathBuf,
        /// What is packed.
        folder: PathBuf,
    },
    /// The output is what it is made of.
    #[error("{output} is {input}, which it is made of and would replace or be packed into; choose another --output")]
    Same {
        /// Where it is written.
        output: PathBuf,
        /// What is packed.
        input: PathBuf,
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
        std::io::ErrorKind::PermissionDenied => "; run as a user who may do that",
        std::io::ErrorKind::ReadOnlyFilesystem => "; choose another --output",
        _ => "",
    }
}
