//! The superblock, and that of the journal (kernel: `ext4/super.rst`, `ext4/journal.rst`).

use sha2::{Digest, Sha256};

use super::crc::crc32c;
use super::group::{DESCRIPTOR, GROUP_BLOCKS, GROUP_INODES, Geometry};
use super::inode::{EXTRA, INODE, extents};
use super::tree::{FIRST, JOURNAL, Tree};
use super::{BLOCK, Ext4Options};

/// Journal, extended attributes, `resize_inode`, `dir_index`.
const COMPATIBLE: u32 = 0x4 | 0x8 | 0x10 | 0x20;
/// Types in directories, extents, 64 bits.
const INCOMPATIBLE: u32 = 0x2 | 0x40 | 0x80;
/// `sparse_super`, large and huge files, many subdirectories, larger inodes, checksums.
const READ_ONLY: u32 = 0x1 | 0x2 | 0x8 | 0x20 | 0x40 | 0x400;

/// The superblock as it is in `group`: 1024 bytes.
pub(super) fn superblock(options: &Ext4Options, geometry: &Geometry, tree: &Tree, group: u32) -> Vec<u8> {
    let time = u32::try_from(options.time.clamp(0, i64::from(u32::MAX))).unwrap_or(0);
    let free = geometry.free_blocks();
    // A twentieth is left to root, as mke2fs leaves it.
    let kept = geometry.blocks / 20;
    let mut out = Fields(Vec::with_capacity(1024));
    out.u32s(&[geometry.all_inodes(), geometry.blocks, kept, free, geometry.free_inodes(), 0, 2, 2]);
    out.u32s(&[GROUP_BLOCKS, GROUP_BLOCKS, GROUP_INODES, 0, time]);
    // Mounted never, and no check by the count of mounts; the magic number; clean; go on after errors; minor revision.
    out.u16s(&[0, 0xffff, 0xef53, 1, 1, 0]);
    // Checked now, by no schedule; Linux; revision 1.
    out.u32s(&[time, 0, 0, 1]);
    out.u16s(&[0, 0]);
    out.u32s(&[FIRST]);
    out.u16s(&[u16::try_from(INODE).unwrap_or(0), u16::try_from(group).unwrap_or(0)]);
    out.u32s(&[COMPATIBLE, INCOMPATIBLE, READ_ONLY]);
    out.0.extend_from_slice(&options.uuid);
    out.0.extend_from_slice(options.label.as_bytes());
    out.to(0xce);
    out.u16s(&[u16::try_from(geometry.reserved).unwrap_or(0)]);
    out.to(0xe0);
    out.u32s(&[JOURNAL]);
    out.to(0xec);
    // The seed of directories' hashes.
    out.0.extend(Sha256::digest(options.uuid).iter().take(16));
    // Half MD4; the journal's place is kept below.
    out.0.extend_from_slice(&[1, 1]);
    out.u16s(&[u16::try_from(DESCRIPTOR).unwrap_or(0)]);
    // Mounted with extended attributes of users, and access control lists.
    out.u32s(&[0xc, 0, time]);
    out.0.extend_from_slice(&extents(tree.journal));
    out.u32s(&[0, tree.journal.blocks.saturating_mul(BLOCK), 0, 0, 0]);
    out.u16s(&[EXTRA, EXTRA]);
    // Hashes of names take bytes as signed.
    out.u32s(&[1]);
    out.to(0x175);
    // CRC-32C.
    out.0.push(1);
    out.to(1020);
    out.u32s(&[crc32c(!0, &out.0)]);
    out.0
}

/// The first block of an empty journal; numbers are big-endian there.
pub(super) fn journal(options: &Ext4Options, blocks: u32) -> Vec<u8> {
    let mut out = Vec::new();
    // Magic number, kind (a superblock of version 2), sequence; bytes of a block, blocks, first block of the log; sequence;
    // nothing to replay; no error; no features.
    for field in [0xc03b_3998, 4, 0, BLOCK, blocks, 1, 1, 0, 0, 0, 0, 0] {
        out.extend_from_slice(&u32::to_be_bytes(field));
    }
    out.extend_from_slice(&options.uuid);
    out.extend_from_slice(&1_u32.to_be_bytes());
    out.resize(BLOCK as usize, 0);
    out
}

/// Little-endian fields in a row.
struct Fields(Vec<u8>);

impl Fields {
    fn u32s(&mut self, fields: &[u32]) {
        self.0.extend(fields.iter().flat_map(|field| field.to_le_bytes()));
    }

    fn u16s(&mut self, fields: &[u16]) {
        self.0.extend(fields.iter().flat_map(|field| field.to_le_bytes()));
    }

    fn to(&mut self, offset: usize) {
        self.0.resize(offset, 0);
    }
}
