//! A disk as Kairos' agent lays it out when it installs a UKI: an EFI system partition, `oem` for configuration, `persistent` for
//! all that shall stay.
//!
//! Partitions begin and end at whole MiB. `persistent` is the last, so that it can grow to the end of the disk that the image is copied
//! to; the first boot does that. Every identifier comes from a seed, nothing from a clock or at random.

use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::ext4::{Ext4, Ext4Options};
use super::fat::{Fat, FatLabel, FatOptions, FatSize};
use super::gpt::{self, Gpt, Partition};
use super::{Files, Image, ImageError, Output};
use crate::boot::sign::Guid;

/// The alignment of partitions, and the room before the first and behind the last.
const MIB: u64 = 1 << 20;
/// Bytes of `oem` where nobody says otherwise: what Kairos' agent takes.
pub const OEM_LENGTH: u64 = 64 * MIB;
/// What the file systems can grow to while they are mounted.
const OEM_GROWS_TO: u64 = 8 << 30;
const PERSISTENT_GROWS_TO: u64 = 8 << 40;

/// What a disk is made of.
#[derive(Debug, Clone)]
pub struct DiskRequest<'a> {
    /// What is on the EFI system partition.
    pub esp: &'a Files,
    /// Its size. Later upgrades need room: the agent itself gives 15 GiB, for four times the UKI and more.
    pub esp_size: FatSize,
    /// What is on `oem`: cloud-config files.
    pub oem: &'a Files,
    /// Its length in bytes, [`OEM_LENGTH`] for example; rounded up to MiB.
    pub oem_length: u64,
    /// The length of `persistent` in bytes, at least 16 MiB; rounded up to MiB.
    pub persistent_length: u64,
    /// Where identifiers come from: the SHA-256 of the content, for example.
    pub seed: [u8; 32],
    /// Seconds since 1970 that all files are stamped with.
    pub time: i64,
}

/// A partition that is laid out.
#[derive(Debug, Clone)]
pub struct DiskPartition {
    /// Its name, `efi` for example.
    pub name: &'static str,
    /// Its first byte on the disk.
    pub offset: u64,
    /// Its bytes; its file system may have less.
    pub length: u64,
    /// What is in it.
    pub content: Arc<dyn Image>,
}

/// A disk that is laid out.
#[derive(Debug)]
pub struct Disk {
    length: u64,
    table: Gpt,
    partitions: Vec<DiskPartition>,
}

impl Disk {
    /// Lays the disk out.
    ///
    /// # Errors
    /// As [`Fat::new`], [`Ext4::new`] and [`Gpt::new`].
    pub fn new(request: &DiskRequest<'_>) -> Result<Self, ImageError> {
        let DiskRequest { seed, time, .. } = *request;
        let options = FatOptions {
            label: Some(FatLabel::new("COS_GRUB")?),
            volume_id: volume_id(&seed),
            hidden_sectors: u32::try_from(MIB / gpt::SECTOR).unwrap_or(0),
            size: request.esp_size,
            time,
        };
        let esp = Fat::new(request.esp, &options)?;
        let ext4 = |files: &Files, label: &str, name: &str, length: u64, grows_to: u64| {
            let uuid = uuid(&seed, &format!("{name} file system"));
            let length = round(length)?;
            Ext4::new(files, &Ext4Options { label: label.to_owned(), uuid, length, grows_to, time })
        };
        let oem = ext4(request.oem, "COS_OEM", "oem", request.oem_length, OEM_GROWS_TO)?;
        let persistent = (request.persistent_length, PERSISTENT_GROWS_TO);
        let persistent = ext4(&Files::new(), "COS_PERSISTENT", "persistent", persistent.0, persistent.1)?;
        let contents: [(&'static str, Guid, Arc<dyn Image>); 3] = [
            ("efi", gpt::ESP, Arc::new(esp)),
            ("oem", gpt::LINUX, Arc::new(oem)),
            ("persistent", gpt::LINUX, Arc::new(persistent)),
        ];
        let mut end = MIB;
        let (mut partitions, mut entries) = (Vec::new(), Vec::new());
        for (name, type_guid, content) in contents {
            let (offset, length) = (end, round(content.length())?);
            end = offset.checked_add(length).ok_or_else(too_large)?;
            entries.push(Partition {
                type_guid,
                guid: gpt::guid_from(&seed, &format!("{name} partition")),
                first_lba: offset / gpt::SECTOR,
                last_lba: (end / gpt::SECTOR).saturating_sub(1),
                name: name.to_owned(),
                attributes: 0,
            });
            partitions.push(DiskPartition { name, offset, length, content });
        }
        let length = end.checked_add(MIB).ok_or_else(too_large)?;
        let table = Gpt::new(gpt::guid_from(&seed, "disk"), length, &entries)?;
        Ok(Self { length, table, partitions })
    }

    /// Its partitions, in their order on the disk.
    #[must_use]
    pub fn partitions(&self) -> &[DiskPartition] {
        &self.partitions
    }
}

fn round(length: u64) -> Result<u64, ImageError> {
    length.checked_next_multiple_of(MIB).ok_or_else(too_large)
}

fn too_large() -> ImageError {
    ImageError::Layout { format: "disk", problem: "its partitions are too large; choose smaller ones".to_owned() }
}

/// A version-8 UUID (RFC 9562) in the order of its text, of a file system.
fn uuid(seed: &[u8; 32], purpose: &str) -> [u8; 16] {
    let [a, b, c, d, e, f, g, h, rest @ ..] = *gpt::guid_from(seed, purpose).as_bytes();
    let [i, j, k, l, m, n, o, p] = rest;
    [d, c, b, a, f, e, h, g, i, j, k, l, m, n, o, p]
}

fn volume_id(seed: &[u8; 32]) -> u32 {
    let digest = Sha256::new().chain_update(seed).chain_update("efi file system").finalize();
    digest.iter().take(4).fold(0, |id, byte| id << 8 | u32::from(*byte))
}

impl Image for Disk {
    fn length(&self) -> u64 {
        self.length
    }

    fn write(&self, out: &mut Output<'_>) -> Result<(), ImageError> {
        let start = out.position();
        out.write(&self.table.head())?;
        for partition in &self.partitions {
            out.zeros_to(start.saturating_add(partition.offset))?;
            partition.content.write(out)?;
        }
        let tail = self.table.tail();
        out.zeros_to(start.saturating_add(self.length.saturating_sub(tail.len() as u64)))?;
        out.write(&tail)
    }
}
