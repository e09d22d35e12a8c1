//! Which clusters are whose, and the table that says so.

use super::SECTOR;
use super::geometry;
use super::tree::Tree;
use crate::image::{ImageError, Output};

/// The root directory's first cluster, and the first of all.
pub(super) const ROOT: u32 = 2;
/// The medium: a fixed disk.
pub(super) const MEDIA: u8 = 0xf8;
/// The end of a chain of clusters.
const END: u32 = 0x0fff_ffff;
/// The first two entries: the medium; neither dirty nor with read errors.
const HEAD: [u32; 2] = [0x0fff_ff00 | MEDIA as u32, END];
/// Bytes of table that are made at a time.
const BUFFER: usize = 64 << 10;
/// Files from so many bytes begin at a multiple of 4 KiB, so that the system can copy whole pages; smaller ones are not worth the
/// room.
const ALIGNED_FROM: u32 = 64 << 10;
/// Sectors of 4 KiB.
const ALIGNMENT: u32 = 8;

/// Runs of clusters, each a directory or a file.
#[derive(Debug)]
pub(super) struct Allocation {
    /// First cluster and number of clusters, in order.
    runs: Vec<(u32, u32)>,
    /// The first cluster behind all.
    pub(super) end: u32,
    /// Number of clusters in runs.
    pub(super) used: u32,
}

impl Allocation {
    /// Gives each directory and each file of `tree` its clusters: directories first, so that a reader finds them close together.
    pub(super) fn new(tree: &mut Tree, cluster_sectors: u8) -> Result<Self, ImageError> {
        let spc = u32::from(cluster_sectors);
        let cluster = spc.saturating_mul(SECTOR);
        let mut allocation = Self { runs: Vec::new(), end: ROOT, used: 0 };
        for directory in &mut tree.directories {
            directory.first = allocation.take(directory.bytes().div_ceil(cluster))?;
        }
        for file in tree.files.iter_mut().filter(|file| file.length > 0) {
            if file.length >= ALIGNED_FROM {
                let clusters = ALIGNMENT.div_ceil(spc);
                let from = allocation.end.saturating_sub(ROOT).next_multiple_of(clusters);
                allocation.end = from.checked_add(ROOT).ok_or_else(geometry::too_large)?;
            }
            file.first = allocation.take(file.length.div_ceil(cluster))?;
        }
        Ok(allocation)
    }

    fn take(&mut self, clusters: u32) -> Result<u32, ImageError> {
        let first = self.end;
        self.end = first.checked_add(clusters).filter(|end| *end <= END).ok_or_else(geometry::too_large)?;
        self.used = self.used.saturating_add(clusters);
        self.runs.push((first, clusters));
        Ok(first)
    }

    /// Writes a table up to its last entry in use.
    pub(super) fn write(&self, out: &mut Output<'_>) -> Result<(), ImageError> {
        let mut buffer = Vec::with_capacity(BUFFER);
        let mut put = |entry: u32| -> Result<(), ImageError> {
            buffer.extend_from_slice(&entry.to_le_bytes());
            if buffer.len() >= BUFFER {
                out.write(&buffer)?;
                buffer.clear();
            }
            Ok(())
        };
        let mut cluster = 0;
        for entry in HEAD {
            put(entry)?;
            cluster += 1;
        }
        for (first, clusters) in &self.runs {
            while cluster < *first {
                put(0)?;
                cluster += 1;
            }
            let last = first.saturating_add(*clusters).saturating_sub(1);
            while cluster < last {
                cluster += 1;
                put(cluster)?;
            }
            put(END)?;
            cluster += 1;
        }
        out.write(&buffer)
    }
}
