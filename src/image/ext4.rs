//! ext4, for partitions that begin with little or nothing in them: a root directory, `lost+found`, and a few small files.
//!
//! Source: the kernel's `Documentation/filesystems/ext4/`. The features are those of a mke2fs of today, where they serve: a journal,
//! extents, checksums of all metadata, room for the descriptors of what the file system may grow into (`resize_inode`). Left out are
//! `flex_bg`, since metadata that stays in its group lets the image be written from its first byte to its last, and large
//! directories' hash trees, which the kernel makes when it needs them. All blocks have 4 KiB; all files lie in the first group
//! of 128 MiB, so they are few.
//!
//! Tables of inodes and the journal are holes, and are declared zeroed, as mke2fs does in a file: who copies the image to a
//! disk copies the zeros too.

mod crc;
mod group;
mod inode;
mod superblock;
mod tree;

use group::Geometry;
use tree::Tree;

use super::{Files, Image, ImageError, Output};

/// The format's name in messages.
const FORMAT: &str = "ext4";
/// Bytes of a block.
const BLOCK: u32 = 4096;

/// What a file system has besides its files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ext4Options {
    /// Its name, of 16 bytes at most; empty for none.
    pub label: String,
    /// Its identifier, in the order in which it is read. The seeds of its checksums and of its directories' hashes come of it.
    pub uuid: [u8; 16],
    /// Its size in bytes, 16 MiB to 4 TiB; what is beyond whole blocks of 4 KiB is not used.
    pub length: u64,
    /// Bytes that it can grow to while it is mounted, at most 8 TiB; the kernel finds other means beyond that. 4 KiB for each 8 GiB
    /// are taken for it, in the first group and in each with a copy of the descriptors.
    pub grows_to: u64,
    /// Seconds since 1970 that all entries are stamped with.
    pub time: i64,
}

/// An ext4 file system that is laid out.
#[derive(Debug)]
pub struct Ext4 {
    options: Ext4Options,
    geometry: Geometry,
    tree: Tree,
}

impl Ext4 {
    /// Lays `files` out. Owner is root; modes are 0755 and 0644.
    ///
    /// # Errors
    /// [`ImageError::Unrepresentable`] names a file whose name has more than 255 bytes, or a link of more than 4095.
    /// [`ImageError::Layout`]: a size in which the files have no room, or that is out of range.
    pub fn new(files: &Files, options: &Ext4Options) -> Result<Self, ImageError> {
        if options.label.len() > 16 || options.label.contains('\0') {
            return Err(failed(format!("the label {:?} is longer than 16 bytes; shorten it", options.label)));
        }
        let mut geometry = Geometry::new(options.length, options.grows_to)?;
        let mut tree = Tree::new(files)?;
        let journal = geometry.journal_blocks();
        let end = tree.place(geometry.data_start(), journal)?;
        geometry.set_used(end, tree.inodes(), tree.directories())?;
        Ok(Self { options: options.clone(), geometry, tree })
    }

    fn seed(&self) -> u32 {
        crc::crc32c(!0, &self.options.uuid)
    }

    /// Superblock, descriptors, and the blocks that are kept for more of them.
    fn write_head(&self, group: u32, descriptors: &[u8], out: &mut Output<'_>) -> Result<(), ImageError> {
        let superblock = superblock::superblock(&self.options, &self.geometry, &self.tree, group);
        let mut block = vec![0; if group == 0 { 1024 } else { 0 }];
        block.extend_from_slice(&superblock);
        block.resize(BLOCK as usize, 0);
        out.write(&block)?;
        out.write(descriptors)?;
        for reserved in 0..self.geometry.reserved {
            let backups = self.geometry.backups_of(reserved);
            if group != 0 || backups.is_empty() {
                out.zeros(u64::from(BLOCK))?;
                continue;
            }
            // In the first group each is a block of pointers to its own copies: part of inode 7, which keeps them all.
            let mut block: Vec<u8> = backups.iter().flat_map(|block| block.to_le_bytes()).collect();
            block.resize(BLOCK as usize, 0);
            out.write(&block)?;
        }
        Ok(())
    }
}

fn failed(problem: impl Into<String>) -> ImageError {
    ImageError::Layout { format: FORMAT, problem: problem.into() }
}

impl Image for Ext4 {
    fn length(&self) -> u64 {
        self.options.length
    }

    fn write(&self, out: &mut Output<'_>) -> Result<(), ImageError> {
        let start = out.position();
        let at = |block: u32| start.saturating_add(u64::from(block).saturating_mul(u64::from(BLOCK)));
        let inodes = inode::Inodes { seed: self.seed(), time: self.options.time };
        let descriptors = self.geometry.descriptors(self.seed());
        for group in 0..self.geometry.groups {
            out.zeros_to(at(self.geometry.start_of(group)))?;
            if group::has_superblock(group) {
                self.write_head(group, &descriptors, out)?;
            }
            out.write(&self.geometry.block_bitmap(group))?;
            // Those of other groups are not read before a file is there.
            if group == 0 {
                out.write(&self.geometry.inode_bitmap())?;
                self.tree.write_inodes(&inodes, &self.geometry, out)?;
                out.zeros_to(at(self.geometry.data_start()))?;
                out.write(&self.geometry.resize_pointers())?;
                self.tree.write_content(&inodes, start, out)?;
                out.zeros_to(at(self.tree.journal.first))?;
                out.write(&superblock::journal(&self.options, self.tree.journal.blocks))?;
            }
        }
        out.zeros_to(start.saturating_add(self.options.length))
    }
}
