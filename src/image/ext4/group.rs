//! Groups of blocks: where their metadata is, which blocks are in use, and their descriptors (kernel:
//! `ext4/blockgroup.rst`, `group_descr.rst`, `bitmaps.rst`).

use super::crc::crc32c;
use super::{BLOCK, failed};
use crate::image::ImageError;

/// Blocks of a group: as many as the bits of a block.
pub(super) const GROUP_BLOCKS: u32 = 32_768;
/// Inodes of a group, one for 16 KiB as mke2fs has it, and the blocks of its table. Of small file systems too, since they grow.
pub(super) const GROUP_INODES: u32 = 8192;
pub(super) const TABLE_BLOCKS: u32 = GROUP_INODES * super::inode::INODE / BLOCK;
/// Bytes of a descriptor.
pub(super) const DESCRIPTOR: u32 = 64;

/// Flags of a group's descriptor: its inode table is all zeros (`INODE_ZEROED`); none of its inodes is used (`INODE_UNINIT`).
const TABLE_ZEROED: u16 = 4;
const INODES_UNUSED: u16 = 1;
const LEAST: u64 = 16 << 20;
const MOST: u64 = 4 << 40;
/// Blocks that can be kept for descriptors: as many as a block has numbers of blocks.
const MOST_RESERVED: u32 = BLOCK / 4;
/// A last group with less than this beside its metadata is left out.
const WORTHWHILE: u32 = 64;

/// Sizes, in blocks.
#[derive(Debug)]
pub(super) struct Geometry {
    pub(super) blocks: u32,
    pub(super) groups: u32,
    pub(super) descriptor_blocks: u32,
    pub(super) reserved: u32,
    /// First block of the first group that is free; all before are in use.
    used: u32,
    /// Inodes in use.
    inodes: u32,
    directories: u32,
}

/// Whether a group has copies of superblock and descriptors (`sparse_super`): 0, 1, and powers of 3, 5 and 7.
pub(super) fn has_superblock(group: u32) -> bool {
    let is_power = |base: u32| {
        let mut rest = group;
        while rest > 1 && rest.is_multiple_of(base) {
            rest /= base;
        }
        rest == 1
    };
    group == 0 || is_power(3) || is_power(5) || is_power(7)
}

impl Geometry {
    pub(super) fn new(length: u64, grows_to: u64) -> Result<Self, ImageError> {
        if !(LEAST..=MOST).contains(&length) {
            return Err(failed(format!("{length} bytes are not between 16 MiB and 4 TiB; choose another size")));
        }
        let blocks = u32::try_from(length / u64::from(BLOCK)).map_err(|_| failed("it has too many blocks"))?;
        let groups = blocks.div_ceil(GROUP_BLOCKS);
        let per_block = BLOCK / DESCRIPTOR;
        let descriptor_blocks = groups.div_ceil(per_block);
        let grown = grows_to.div_ceil(u64::from(BLOCK) * u64::from(GROUP_BLOCKS) * u64::from(per_block));
        let reserved =
            u32::try_from(grown).unwrap_or(u32::MAX).saturating_sub(descriptor_blocks).clamp(1, MOST_RESERVED);
        let mut geometry = Self { blocks, groups, descriptor_blocks, reserved, used: 0, inodes: 0, directories: 0 };
        let last = groups.saturating_sub(1);
        if last > 0 && geometry.blocks_of(last) < geometry.metadata_of(last).saturating_add(WORTHWHILE) {
            geometry.groups = last;
            geometry.blocks = geometry.start_of(last);
        }
        Ok(geometry)
    }

    /// Blocks of a journal, by size as mke2fs has it, up to 64 MiB.
    pub(super) fn journal_blocks(&self) -> u32 {
        match self.blocks {
            0..32_768 => 1024,
            32_768..262_144 => 4096,
            _ => 16_384,
        }
    }

    pub(super) fn start_of(&self, group: u32) -> u32 {
        group.saturating_mul(GROUP_BLOCKS)
    }

    fn blocks_of(&self, group: u32) -> u32 {
        self.blocks.saturating_sub(self.start_of(group)).min(GROUP_BLOCKS)
    }

    fn head_of(&self, group: u32) -> u32 {
        if has_superblock(group) { 1 + self.descriptor_blocks + self.reserved } else { 0 }
    }

    fn metadata_of(&self, group: u32) -> u32 {
        self.head_of(group) + 2 + TABLE_BLOCKS
    }

    /// The block of pointers to what is kept for descriptors, and with it what is no group's own metadata.
    pub(super) fn data_start(&self) -> u32 {
        self.metadata_of(0)
    }

    /// The place of `reserved` among its kind in the first group, and in each copy.
    fn reserved_block(&self, reserved: u32) -> u32 {
        1 + self.descriptor_blocks + reserved
    }

    fn backups(&self) -> impl Iterator<Item = u32> + '_ {
        (1..self.groups).filter(|group| has_superblock(*group))
    }

    /// Copies of a block that is kept.
    pub(super) fn backups_of(&self, reserved: u32) -> Vec<u32> {
        self.backups().map(|group| self.start_of(group).saturating_add(self.reserved_block(reserved))).collect()
    }

    /// Blocks of inode 7: its pointers, and what is kept in all groups.
    pub(super) fn resize_blocks(&self) -> u32 {
        let copies = u32::try_from(self.backups().count()).unwrap_or(u32::MAX);
        copies.saturating_add(1).saturating_mul(self.reserved).saturating_add(1)
    }

    /// The block of pointers of inode 7, by the number of the block among all of descriptors.
    pub(super) fn resize_pointers(&self) -> Vec<u8> {
        let mut pointers = vec![0_u32; MOST_RESERVED as usize];
        for reserved in 0..self.reserved {
            let place = (self.descriptor_blocks + reserved) % MOST_RESERVED;
            if let Some(pointer) = pointers.get_mut(place as usize) {
                *pointer = self.reserved_block(reserved);
            }
        }
        pointers.iter().flat_map(|pointer| pointer.to_le_bytes()).collect()
    }

    /// Takes what the files need.
    pub(super) fn set_used(&mut self, end: u32, inodes: u32, directories: u32) -> Result<(), ImageError> {
        if end > self.blocks_of(0) {
            return Err(failed(format!(
                "its files and its own tables need {} bytes, and {} are there; choose a larger size (what is beyond 128 MiB \
                 cannot be filled here), or leave something out",
                u64::from(end) * u64::from(BLOCK),
                u64::from(self.blocks_of(0)) * u64::from(BLOCK)
            )));
        }
        if inodes > GROUP_INODES {
            return Err(failed(format!("{inodes} files and directories are more than {GROUP_INODES}; use fewer")));
        }
        (self.used, self.inodes, self.directories) = (end, inodes, directories);
        Ok(())
    }

    fn used_of(&self, group: u32) -> u32 {
        if group == 0 { self.used } else { self.metadata_of(group) }
    }

    pub(super) fn free_blocks(&self) -> u32 {
        (0..self.groups).map(|group| self.blocks_of(group).saturating_sub(self.used_of(group))).sum()
    }

    pub(super) fn all_inodes(&self) -> u32 {
        self.groups.saturating_mul(GROUP_INODES)
    }

    pub(super) fn free_inodes(&self) -> u32 {
        self.all_inodes().saturating_sub(self.inodes)
    }

    /// Blocks in use, and those that are not there.
    pub(super) fn block_bitmap(&self, group: u32) -> Vec<u8> {
        bitmap(self.used_of(group), self.blocks_of(group))
    }

    /// Inodes in use in the first group.
    pub(super) fn inode_bitmap(&self) -> Vec<u8> {
        bitmap(self.inodes, GROUP_INODES)
    }

    /// The descriptors of all groups, in whole blocks: 2 MiB for the largest file system.
    pub(super) fn descriptors(&self, seed: u32) -> Vec<u8> {
        let mut out = Vec::new();
        for group in 0..self.groups {
            let own = self.start_of(group).saturating_add(self.head_of(group));
            let unused = if group == 0 { GROUP_INODES - self.inodes } else { GROUP_INODES };
            let directories = if group == 0 { self.directories } else { 0 };
            let free = self.blocks_of(group).saturating_sub(self.used_of(group));
            let (flags, inodes_checksum) = match group {
                // Of the bits that stand for inodes only.
                0 => (
                    TABLE_ZEROED,
                    crc32c(seed, self.inode_bitmap().get(..GROUP_INODES as usize / 8).unwrap_or_default()),
                ),
                _ => (TABLE_ZEROED | INODES_UNUSED, 0),
            };
            let blocks_checksum = crc32c(seed, &self.block_bitmap(group));
            let halves = |value: u32| {
                let [a, b, c, d] = value.to_le_bytes();
                ([a, b], [c, d])
            };
            let (blocks_low, blocks_high) = halves(blocks_checksum);
            let (inodes_low, inodes_high) = halves(inodes_checksum);
            let mut bytes = Vec::new();
            for block in [own, own.saturating_add(1), own.saturating_add(2)] {
                bytes.extend_from_slice(&block.to_le_bytes());
            }
            for count in [free, unused, directories] {
                bytes.extend_from_slice(&halves(count).0);
            }
            bytes.extend_from_slice(&flags.to_le_bytes());
            bytes.extend_from_slice(&[0; 4]);
            for half in [blocks_low, inodes_low, halves(unused).0, [0, 0]] {
                bytes.extend_from_slice(&half);
            }
            // The upper halves; all counts are below 2^16.
            bytes.resize(0x38, 0);
            bytes.extend_from_slice(&blocks_high);
            bytes.extend_from_slice(&inodes_high);
            bytes.resize(DESCRIPTOR as usize, 0);
            let checksum = halves(crc32c(crc32c(seed, &group.to_le_bytes()), &bytes)).0;
            bytes.iter_mut().skip(0x1e).zip(checksum).for_each(|(to, byte)| *to = byte);
            out.extend_from_slice(&bytes);
        }
        out.resize(self.descriptor_blocks as usize * BLOCK as usize, 0);
        out
    }
}

/// A block of bits: ones up to `used`, zeros up to `all`, ones again.
fn bitmap(used: u32, all: u32) -> Vec<u8> {
    let byte = |byte: u32| (0..8).filter(|bit| !(used..all).contains(&(byte * 8 + bit))).map(|bit| 1_u8 << bit).sum();
    (0..BLOCK).map(byte).collect()
}
