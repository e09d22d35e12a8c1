//! Sizes: sectors, clusters and tables.

use super::{FORMAT, SECTOR};
use crate::image::ImageError;

/// Number of tables, all alike.
pub(super) const TABLES: u8 = 2;
/// Where FSInfo, and the copies of the boot sector and FSInfo are (fatgen103 names no other sector for the copy).
pub(super) const INFO_SECTOR: u16 = 1;
pub(super) const BACKUP_SECTOR: u16 = 6;
/// A geometry for those who still ask for one.
pub(super) const TRACK_SECTORS: u16 = 32;
pub(super) const HEADS: u16 = 64;

/// Sectors of a cluster, and the largest volume in sectors that is formatted with it (fatgen103, `DskTableFAT32`).
pub(super) const CLUSTER_SIZES: [(u8, u32); 5] =
    [(1, 532_480), (8, 16_777_216), (16, 33_554_432), (32, 67_108_864), (64, u32::MAX)];

/// What has fewer clusters than 65525 is FAT16; fatgen103 advises to keep 16 clusters away from it, since many implementations
/// are off by a few.
const FEWEST: u32 = 65_525 + 16;
/// 28 bits, less the numbers with a meaning of their own.
const MOST: u32 = 0x0fff_fff5;
/// Reserved sectors before the tables, as others format; more where the alignment asks for it.
const RESERVED: u32 = 32;
/// Sectors of 4 KiB, to which the clusters are aligned.
const ALIGNMENT: u32 = 8;
/// Entries of a table in a sector.
const ENTRIES: u32 = SECTOR / 4;

/// Sectors of a MiB.
const MIB_SECTORS: u64 = 2048;
/// `mkfs.vfat` makes FAT16 of less than 512 MiB unless it is told otherwise: smaller tables, and clusters of up to this.
const FAT16_CLUSTER: u64 = 8 << 10;
/// A directory's entries for one name: the longest takes 21 of 32 bytes.
const NAME_BYTES: u64 = 21 * 32;
/// What `mkfs.vfat` (dosfstools 4.2) leaves unused and [`Geometry::fit`] does not: reserved sectors and two tables begin and
/// end at clusters, of at most 64 sectors, and the volume at whole tracks, of at most 63.
const MKFS_SECTORS: u64 = 3 * 64 + 63;

/// Where everything lies, in sectors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Geometry {
    pub(super) sectors: u32,
    pub(super) cluster_sectors: u8,
    pub(super) reserved: u16,
    pub(super) table_sectors: u32,
    /// Number of clusters; the first has number 2.
    pub(super) clusters: u32,
}

pub(super) fn too_large() -> ImageError {
    failed("the files and the free space need more than 2 TiB, the most that FAT32 can have; leave something out")
}

fn failed(problem: impl Into<String>) -> ImageError {
    ImageError::Layout { format: FORMAT, problem: problem.into() }
}

impl Geometry {
    /// For clusters 2 up to `end` (exclusive), and so many free bytes.
    pub(super) fn fit(cluster_sectors: u8, end: u32, free: u64) -> Result<Self, ImageError> {
        let spc = u32::from(cluster_sectors);
        let free = free.div_ceil(u64::from(spc.saturating_mul(SECTOR)));
        let needed = u64::from(end.saturating_sub(2)).checked_add(free).ok_or_else(too_large)?;
        let clusters = needed.max(u64::from(FEWEST)).next_multiple_of(u64::from(ALIGNMENT.div_ceil(spc)));
        let clusters = u32::try_from(clusters).ok().filter(|&clusters| clusters <= MOST).ok_or_else(too_large)?;
        let table_sectors = clusters.saturating_add(2).div_ceil(ENTRIES);
        let reserved = reserved(table_sectors);
        let sectors = clusters
            .checked_mul(spc)
            .and_then(|sectors| sectors.checked_add(table_sectors.checked_mul(u32::from(TABLES))?))
            .and_then(|sectors| sectors.checked_add(u32::from(reserved)))
            .ok_or_else(too_large)?;
        Ok(Self { sectors, cluster_sectors, reserved, table_sectors, clusters })
    }

    /// Of a given size.
    pub(super) fn exact(bytes: u64) -> Result<Self, ImageError> {
        if !bytes.is_multiple_of(u64::from(SECTOR)) {
            return Err(failed(format!("{bytes} bytes are no multiple of 512, its sectors; round the size")));
        }
        let sectors = u32::try_from(bytes / u64::from(SECTOR)).map_err(|_| {
            failed(format!("{bytes} bytes are more than FAT32 can have, 2 TiB less a sector; choose a smaller size"))
        })?;
        let cluster_sectors = CLUSTER_SIZES.iter().find(|(_, limit)| sectors <= *limit).map_or(64, |size| size.0);
        let spc = u32::from(cluster_sectors);
        let too_small =
            || failed(format!("{bytes} bytes are less than FAT32 can have; choose a size of 33 MiB or more"));
        // A sector of each table is for 128 clusters, the first two entries are for none.
        let shared = u64::from(sectors.checked_sub(RESERVED).ok_or_else(too_small)?) + 2 * u64::from(spc);
        let table_sectors = shared.div_ceil(u64::from(ENTRIES * spc + u32::from(TABLES)));
        let table_sectors = u32::try_from(table_sectors).map_err(|_| too_small())?;
        let reserved = reserved(table_sectors);
        let clusters = table_sectors
            .checked_mul(u32::from(TABLES))
            .and_then(|tables| tables.checked_add(u32::from(reserved)))
            .and_then(|before| sectors.checked_sub(before))
            .map(|data| data / spc)
            .filter(|&clusters| clusters >= FEWEST)
            .ok_or_else(too_small)?;
        Ok(Self { sectors, cluster_sectors, reserved, table_sectors, clusters })
    }

    /// The least number of MiB in which `entries` files and directories with `bytes` in all have room, whoever formats it:
    /// [`Geometry::exact`], or `mkfs.vfat` without an option about sizes.
    pub(super) fn least_mib(entries: u64, bytes: u64) -> Result<u64, ImageError> {
        let mut smaller = 0;
        for (cluster_sectors, limit) in CLUSTER_SIZES {
            let cluster = (u64::from(cluster_sectors) * u64::from(SECTOR)).max(FAT16_CLUSTER);
            let spare = entries.checked_mul(cluster + NAME_BYTES).ok_or_else(too_large)?;
            let geometry = Self::fit(cluster_sectors, 2, bytes.checked_add(spare).ok_or_else(too_large)?)?;
            let sectors = u64::from(geometry.sectors) + MKFS_SECTORS;
            // What has room with large clusters only must not be so small that its clusters would be small ones.
            let mib = sectors.div_ceil(MIB_SECTORS).max(smaller + 1);
            smaller = u64::from(limit) / MIB_SECTORS;
            if mib <= smaller {
                return Ok(mib);
            }
        }
        Err(too_large())
    }

    /// Whether clusters up to `end` (exclusive) are there.
    pub(super) fn check_room(&self, end: u32) -> Result<(), ImageError> {
        if end.saturating_sub(2) <= self.clusters {
            return Ok(());
        }
        let bytes = |clusters: u32| u64::from(clusters).saturating_mul(u64::from(self.cluster_bytes()));
        Err(failed(format!(
            "the files need {} bytes, and {} bytes are there; choose a larger size, or leave something out",
            bytes(end.saturating_sub(2)),
            bytes(self.clusters)
        )))
    }

    /// Bytes of a cluster.
    pub(super) fn cluster_bytes(&self) -> u32 {
        u32::from(self.cluster_sectors).saturating_mul(SECTOR)
    }

    /// The last cluster's number.
    pub(super) fn last_cluster(&self) -> u32 {
        self.clusters.saturating_add(1)
    }
}

/// Reserved sectors, so many that the first cluster begins at a multiple of 4 KiB.
fn reserved(table_sectors: u32) -> u16 {
    let tables = (table_sectors % ALIGNMENT) * u32::from(TABLES);
    u16::try_from(RESERVED + (ALIGNMENT - tables % ALIGNMENT) % ALIGNMENT).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(geometry: Geometry) {
        let Geometry { sectors, cluster_sectors, reserved, table_sectors, clusters } = geometry;
        let spc = u64::from(cluster_sectors);
        let data = u64::from(reserved) + 2 * u64::from(table_sectors);
        assert!(data.is_multiple_of(8), "{geometry:?}");
        assert!(u64::from(clusters) + 2 <= u64::from(table_sectors) * 128, "{geometry:?}");
        assert!((u64::from(clusters) + 2).div_ceil(128) + 1 >= u64::from(table_sectors), "{geometry:?}");
        assert!((65_541..=MOST).contains(&clusters), "{geometry:?}");
        let left = u64::from(sectors) - data - u64::from(clusters) * spc;
        assert!(left < spc, "{geometry:?}");
    }

    #[test]
    fn every_size_has_room_for_its_tables() {
        let mut sizes = vec![68_000_u32, u32::MAX, u32::MAX - 1];
        for (_, limit) in CLUSTER_SIZES {
            sizes.extend((0..40).map(|more| limit.saturating_sub(20).saturating_add(more)));
        }
        sizes.extend((0..3000).map(|step| 67_000 + step * 37));
        for sectors in sizes {
            check(Geometry::exact(u64::from(sectors) * 512).unwrap());
        }
        for (spc, _) in CLUSTER_SIZES {
            for end in [2, 65_000, 65_540, 65_541, 65_542, 100_001, 60_000_000] {
                let geometry = Geometry::fit(spc, end, 12_345).unwrap();
                check(geometry);
                assert!(geometry.sectors.is_multiple_of(8), "{geometry:?}");
                assert!(geometry.check_room(end).is_ok());
            }
        }
    }

    #[test]
    fn what_fat32_cannot_have_is_refused() {
        let message = |result: Result<Geometry, ImageError>| result.unwrap_err().to_string();
        assert!(message(Geometry::exact(33 << 20 | 1)).contains("multiple of 512"));
        assert!(message(Geometry::exact(0)).contains("33 MiB or more"));
        assert!(message(Geometry::exact(32 << 20)).contains("33 MiB or more"));
        assert!(Geometry::exact(33 << 20).is_ok());
        assert!(message(Geometry::exact(1 << 41)).contains("2 TiB"));
        assert!(message(Geometry::fit(64, 2, u64::MAX)).contains("2 TiB"));
        assert!(message(Geometry::fit(64, 2, 1 << 41)).contains("2 TiB"));
        assert!(message(Geometry::fit(1, u32::MAX, 0)).contains("2 TiB"));
    }
}
