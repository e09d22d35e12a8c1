//! How firmware finds the boot image: the El Torito catalogue on a disc, a partition table on a USB stick.

use super::BLOCK;
use super::tree::Place;
use super::volume::block;
use crate::image::ImageError;
use crate::image::gpt::{self, Gpt, Partition, SECTOR, guid_from};

/// Sectors of 512 bytes in a block.
const SECTORS: u64 = BLOCK / SECTOR;
/// UEFI, as a platform of the catalogue (UEFI 2.10, section 13.3.2.1), and as the type of an MBR partition (5.2.2).
const EFI: u8 = 0xef;

/// What stands in the system area, for firmware that looks for a partition on a USB stick. On a disc it is never looked at,
/// as its sectors have 2048 bytes.
///
/// EDK2, from which most firmware is made, looks for a GPT first, then for El Torito (on sticks as well), then for an MBR. The
/// difference matters to Kairos: when the image is booted from a GPT partition, systemd-boot sets `LoaderDevicePartUUID`, which
/// immucore takes for an installed disk: the installer does not start. By El Torito or from an MBR partition the variable is
/// not set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PartitionTable {
    /// None: on a USB stick only firmware that knows El Torito there finds the boot image.
    None,
    /// An MBR with one partition of type 0xEF over the boot image.
    #[default]
    Mbr,
    /// A GPT with an EFI system partition over the boot image, and its backup at the end.
    Gpt,
}

impl PartitionTable {
    /// Blocks at the end of the image.
    pub(super) fn tail_blocks(self) -> u64 {
        match self {
            Self::Gpt => gpt::TAIL.div_ceil(SECTORS),
            Self::None | Self::Mbr => 0,
        }
    }
}

/// What stands before the first volume descriptor and at the end of the image.
#[derive(Debug, Default)]
pub(super) struct SystemArea {
    head: Vec<u8>,
    tail: Vec<u8>,
}

impl SystemArea {
    /// For an image of `length` bytes.
    pub(super) fn new(table: PartitionTable, boot: &Place, length: u64, seed: &[u8; 32]) -> Result<Self, ImageError> {
        let first = boot.lba.saturating_mul(SECTORS);
        // Files are filled up to a block, so the last sector is whole.
        let sectors = boot.length().div_ceil(SECTOR);
        match table {
            PartitionTable::None => Ok(Self::default()),
            PartitionTable::Mbr => Ok(Self { head: mbr(first, sectors, seed)?, tail: Vec::new() }),
            PartitionTable::Gpt => {
                let partition = Partition {
                    type_guid: gpt::ESP,
                    guid: guid_from(seed, "ISO 9660 boot partition"),
                    first_lba: first,
                    last_lba: first.saturating_add(sectors).saturating_sub(1),
                    name: "EFI".to_owned(),
                    attributes: 0,
                };
                let gpt = Gpt::new(guid_from(seed, "ISO 9660 disk"), length, &[partition])?;
                Ok(Self { head: gpt.head(), tail: gpt.tail() })
            }
        }
    }

    pub(super) fn head(&self) -> &[u8] {
        &self.head
    }

    pub(super) fn tail(&self) -> &[u8] {
        &self.tail
    }
}

/// UEFI 2.10, section 5.2.1.
fn mbr(first: u64, sectors: u64, seed: &[u8; 32]) -> Result<Vec<u8>, ImageError> {
    let number = |number: u64| {
        u32::try_from(number).map_err(|_| {
            let problem = "the boot image lies beyond 2 TiB, where no MBR reaches; make it smaller".to_owned();
            ImageError::Layout { format: "MBR", problem }
        })
    };
    let mut out = vec![0; 440];
    // The disk's signature, of which systems make the partition's identifier; 0 would be none.
    let signature = guid_from(seed, "ISO 9660 disk").as_bytes().iter().take(4).copied().collect::<Vec<_>>();
    out.extend(signature.iter().enumerate().map(|(n, byte)| if n == 0 { byte | 1 } else { *byte }));
    out.extend_from_slice(&[0, 0]);
    // Not active; CHS that says "use the sectors", type, CHS.
    out.extend_from_slice(&[0, 0xfe, 0xff, 0xff, EFI, 0xfe, 0xff, 0xff]);
    out.extend_from_slice(&number(first)?.to_le_bytes());
    out.extend_from_slice(&number(sectors)?.to_le_bytes());
    out.resize(510, 0);
    out.extend_from_slice(&[0x55, 0xaa]);
    Ok(out)
}

/// The El Torito boot catalogue: one entry, for UEFI.
#[derive(Debug, Clone, Copy)]
pub(super) struct Catalogue {
    lba: u32,
    sectors: u16,
}

impl Catalogue {
    pub(super) fn new(boot: &Place) -> Result<Self, ImageError> {
        // 0 is "up to the end of the disc" (UEFI 2.10, section 13.3.2.1), for what cannot be counted: 32 MiB and more. The
        // file system in the image says itself where it ends.
        let sectors = u16::try_from(boot.length().div_ceil(SECTOR)).unwrap_or(0);
        Ok(Self { lba: block(boot.lba)?, sectors })
    }

    /// El Torito 1.0, figures 2 and 3.
    pub(super) fn bytes(self) -> Vec<u8> {
        let mut validation = vec![1, EFI];
        validation.resize(28, 0);
        let checksum = |bytes: &[u8]| {
            let words = bytes.chunks_exact(2).map(|pair| match pair {
                [low, high] => u16::from_le_bytes([*low, *high]),
                _ => 0,
            });
            words.fold(0_u16, u16::wrapping_add).wrapping_neg()
        };
        let sum = checksum(&[&validation[..], &[0, 0, 0x55, 0xaa]].concat());
        validation.extend_from_slice(&sum.to_le_bytes());
        validation.extend_from_slice(&[0x55, 0xaa]);
        // Bootable, no emulation, no segment, no system type.
        let mut out = validation;
        out.extend_from_slice(&[0x88, 0, 0, 0, 0, 0]);
        out.extend_from_slice(&self.sectors.to_le_bytes());
        out.extend_from_slice(&self.lba.to_le_bytes());
        out.resize(2048, 0);
        out
    }
}
