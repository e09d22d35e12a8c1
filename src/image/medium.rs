//! From an ESP tree to what a machine boots: the FAT image, the ISO around it, the disk.
//!
//! Identifiers (serial numbers, GUIDs) are made of what is in the image, so that the same image is the same every day, and another UKI gives
//! others.

use std::fs::File;
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::disk::{Disk, DiskRequest};
use super::fat::{Fat, FatOptions, FatSize};
use super::iso::{Iso, IsoRequest, PartitionTable};
use super::{Content, Files, Image, ImageError, Node, Output};
use crate::boot::reserve::Reserve;
use crate::cancel::Cancel;
use crate::names::TreePath;

/// What immucore looks for first: `/dev/disk/by-label/UKI_ISO_INSTALL` (kairos.md 1.5).
pub const ISO_LABEL: &str = "UKI_ISO_INSTALL";
/// What immucore mounts of it.
pub const BOOT_IMAGE: &str = "efiboot.img";
/// Of a file longer than twice this, beginning and end count for the [`seed`]: a signed program has a checksum of all of it in the one and
/// signatures in the other, and reading all would take as long as writing the image.
const SAMPLE: u64 = 64 << 10;

/// What identifiers are made of: names, lengths and content of files, of large ones beginning and end.
///
/// # Errors
/// A file that cannot be read.
pub fn seed(files: &Files) -> Result<[u8; 32], ImageError> {
    let mut hash = Sha256::new();
    for (path, node) in files.iter() {
        hash.update((path.as_bytes().len() as u64).to_le_bytes());
        hash.update(path.as_bytes());
        match node {
            Node::Directory => hash.update(b"d"),
            Node::Symlink(target) => {
                hash.update(b"l");
                hash.update((target.len() as u64).to_le_bytes());
                hash.update(target);
            }
            Node::File { content: Content::Image(image), .. } => hash.update(image.length().to_le_bytes()),
            // Not whether it is executable: a tree that lies on FAT has nothing else.
            Node::File { content, .. } => {
                hash.update(b"f\0");
                hash.update(content.length().to_le_bytes());
                sample(path, content, &mut hash)?;
            }
        }
    }
    Ok(hash.finalize().into())
}

fn sample(path: &TreePath, content: &Content, hash: &mut Sha256) -> Result<(), ImageError> {
    let failed = |source| ImageError::Io { action: "read", path: path.as_path().to_owned(), source };
    let mut file = content.open()?;
    let mut bytes = Vec::new();
    let end = content.length().saturating_sub(SAMPLE).max(SAMPLE);
    for start in [0, end] {
        bytes.clear();
        file.seek(SeekFrom::Start(start)).map_err(failed)?;
        file.by_ref().take(SAMPLE).read_to_end(&mut bytes).map_err(failed)?;
        hash.update(&bytes);
    }
    Ok(())
}

/// The FAT file system of an ESP tree, as it is on an ISO: no larger than it must be, without a label, like AuroraBoot's.
///
/// # Errors
/// As [`Fat::new`].
pub fn boot_image(esp: &Files, time: i64) -> Result<Fat, ImageError> {
    let [a, b, c, d, ..] = seed(esp)?;
    let volume_id = u32::from_le_bytes([a, b, c, d]);
    let size = FatSize::Fit { free: 0 };
    Fat::new(esp, &FatOptions { label: None, volume_id, hidden_sectors: 0, size, time })
}

/// What an ISO has besides the ESP tree.
#[derive(Debug, Clone)]
pub struct IsoParts {
    /// Files beside the boot image.
    pub more: Files,
    /// The volume's name.
    pub label: String,
    /// How firmware finds the boot image on a USB stick.
    pub table: PartitionTable,
}

/// An ISO that UEFI boots from, as optical disc and as USB stick.
///
/// # Errors
/// As [`Fat::new`] and [`Iso::new`]; another file that is called as the boot image.
pub fn iso(esp: &Files, parts: IsoParts, time: i64) -> Result<Iso, ImageError> {
    let path = TreePath::new(BOOT_IMAGE)?;
    let mut files = parts.more;
    if files.get(&path).is_some() {
        let problem = "it is the name of the boot image; give the file another".to_owned();
        return Err(ImageError::Unrepresentable { path, format: "ISO 9660", problem });
    }
    let mut seed_of = Sha256::new_with_prefix(seed(esp)?);
    seed_of.update(seed(&files)?);
    files.insert(path.clone(), Node::plain(Content::Image(Arc::new(boot_image(esp, time)?))))?;
    Iso::new(IsoRequest {
        files,
        label: parts.label,
        boot_image: Some(path),
        table: parts.table,
        time,
        seed: seed_of.finalize().into(),
    })
}

/// What a disk has besides the ESP tree.
#[derive(Debug, Clone)]
pub struct DiskParts {
    /// Bytes of the EFI system partition.
    pub esp_length: u64,
    /// The files of the OEM partition.
    pub oem: Files,
    /// Bytes of the OEM partition.
    pub oem_length: u64,
    /// Bytes of the persistent partition.
    pub persistent_length: u64,
}

/// A disk that boots as an installed system. `esp` is what the agent's installation would leave.
///
/// # Errors
/// As [`Disk::new`].
pub fn disk(esp: &Files, parts: &DiskParts, time: i64) -> Result<Disk, ImageError> {
    let too_large = || ImageError::Layout {
        format: "GPT",
        problem: format!("an EFI system partition of {} bytes is larger than any disk", parts.esp_length),
    };
    let esp_length = parts.esp_length.checked_next_multiple_of(1 << 20).ok_or_else(too_large)?;
    let mut seed_of = Sha256::new_with_prefix(seed(esp)?);
    seed_of.update(seed(&parts.oem)?);
    Disk::new(&DiskRequest {
        esp,
        esp_size: FatSize::Exact(esp_length),
        oem: &parts.oem,
        oem_length: parts.oem_length,
        persistent_length: parts.persistent_length,
        seed: seed_of.finalize().into(),
        time,
    })
}

/// How an image lies on the disk that it is written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Room {
    /// Its room is reserved before the first byte, holes included: for what has few.
    Reserved,
    /// Holes take no room.
    Sparse,
}

/// Writes an image into an empty file. `path` is for messages.
///
/// # Errors
/// As [`Image::write`].
pub fn write(image: &dyn Image, room: Room, file: &File, path: &Path, cancel: &Cancel) -> Result<(), ImageError> {
    let mut out = Output::new(file, path, cancel);
    out.check_length(image.length())?;
    if room == Room::Reserved {
        let failed = |source| ImageError::Io { action: "write", path: path.to_owned(), source };
        let mut file = file;
        Reserve::reserve(&mut file, image.length()).map_err(failed)?;
    }
    let full = |error| match error {
        ImageError::Io { action, path, source } if source.kind() == ErrorKind::StorageFull => {
            let text = format!(
                "no room is left for its {} bytes; on file systems without holes (FAT, exFAT) zeros take room as well",
                image.length()
            );
            ImageError::Io { action, path, source: std::io::Error::new(ErrorKind::StorageFull, text) }
        }
        other => other,
    };
    image.write(&mut out).map_err(full)?;
    match out.position() == image.length() {
        true => out.finish().map_err(full),
        false => {
            let problem = format!("{} bytes were written and {} laid out", out.position(), image.length());
            Err(ImageError::Layout { format: "image", problem })
        }
    }
}
