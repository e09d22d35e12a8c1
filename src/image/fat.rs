//! FAT32, for EFI system partitions and for the image that firmware boots from an ISO.
//!
//! Source: Microsoft's FAT32 File System Specification 1.03 ("fatgen103"), as the UEFI specification 2.10, section 13.3,
//! takes it over. Always FAT32, whatever the size, since that is what the UEFI specification asks of a fixed disk; so the smallest
//! image is some 33 MiB, nearly all of it a hole. Sectors have 512 bytes. Files lie in one piece each. Names that are not
//! upper-case 8.3 names have a long name as well: not every firmware knows the case bits of Windows NT.
//!
//! Not here: FAT12 and FAT16, boot code, other sector sizes, access and creation times of each file.

mod directory;
mod geometry;
mod label;
mod names;
mod table;
mod time;
mod tree;

use geometry::Geometry;
pub use label::FatLabel;
use table::Allocation;
use tree::Tree;

use super::{Files, Image, ImageError, Output};

/// The format's name in messages.
const FORMAT: &str = "FAT";
/// Bytes of a sector.
const SECTOR: u32 = 512;

/// How large a file system becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FatSize {
    /// As small as the files allow, with room for so many more bytes. Not below the format's minimum of some 33 MiB; a multiple of
    /// 4 KiB.
    Fit {
        /// Bytes that stay free for what comes later.
        free: u64,
    },
    /// So many bytes, a multiple of 512.
    Exact(u64),
}

/// The least number of MiB of a file system in which `entries` files and directories with `bytes` in all have room, whoever
/// formats it: [`Fat::new`] with [`FatSize::Exact`], or `mkfs.vfat`, as kairos-agent runs it.
///
/// # Errors
/// [`ImageError::Layout`]: more than FAT32 can have, 2 TiB.
pub fn least_mib(entries: u64, bytes: u64) -> Result<u64, ImageError> {
    Geometry::least_mib(entries, bytes)
}

/// What a file system has besides its files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FatOptions {
    /// Its name.
    pub label: Option<FatLabel>,
    /// Its serial number; `/dev/disk/by-uuid/` shows it.
    pub volume_id: u32,
    /// Sectors before it on its disk: the first sector of its partition.
    pub hidden_sectors: u32,
    /// Its size.
    pub size: FatSize,
    /// Seconds since 1970 that all entries are stamped with, as UTC. What is before 1980 or after 2107 becomes the nearest time that FAT
    /// can tell.
    pub time: i64,
}

/// A FAT32 file system that is laid out.
#[derive(Debug)]
pub struct Fat {
    options: FatOptions,
    geometry: Geometry,
    tree: Tree,
    allocation: Allocation,
}

impl Fat {
    /// Lays `files` out. Modes are dropped: FAT has none.
    ///
    /// # Errors
    /// [`ImageError::Unrepresentable`] names a file that FAT cannot hold: a symbolic link, more than 4 GiB less 32 KiB, a name with
    /// characters that FAT refuses or that differs from a neighbour's in case only, a directory with too many entries.
    /// [`ImageError::Layout`]: a size in which the files have no room, or that FAT32 cannot have.
    pub fn new(files: &Files, options: &FatOptions) -> Result<Self, ImageError> {
        let mut tree = Tree::new(files, options.label.is_some())?;
        let (geometry, allocation) = match options.size {
            FatSize::Exact(bytes) => {
                let geometry = Geometry::exact(bytes)?;
                let allocation = Allocation::new(&mut tree, geometry.cluster_sectors)?;
                geometry.check_room(allocation.end)?;
                (geometry, allocation)
            }
            FatSize::Fit { free } => {
                let mut fitting = None;
                for (cluster_sectors, limit) in geometry::CLUSTER_SIZES {
                    let allocation = Allocation::new(&mut tree, cluster_sectors)?;
                    let geometry = Geometry::fit(cluster_sectors, allocation.end, free)?;
                    let is_large_enough = geometry.sectors <= limit;
                    fitting = Some((geometry, allocation));
                    if is_large_enough {
                        break;
                    }
                }
                fitting.ok_or_else(geometry::too_large)?
            }
        };
        Ok(Self { options: *options, geometry, tree, allocation })
    }

    /// Bytes of a cluster, the unit in which files have room.
    #[must_use]
    pub fn cluster_bytes(&self) -> u32 {
        self.geometry.cluster_bytes()
    }

    /// Bytes in clusters that no file has.
    #[must_use]
    pub fn free_bytes(&self) -> u64 {
        u64::from(self.free_clusters()).saturating_mul(u64::from(self.cluster_bytes()))
    }

    fn free_clusters(&self) -> u32 {
        self.geometry.clusters.saturating_sub(self.allocation.used)
    }

    /// The boot sector, which says where everything is (fatgen103, "Boot Sector and BPB").
    fn boot_sector(&self) -> Vec<u8> {
        let geometry = &self.geometry;
        let mut sector = Vec::with_capacity(512);
        // A jump over what follows. The code: ask the BIOS for the next boot device, and stop.
        sector.extend_from_slice(&[0xeb, 0x58, 0x90]);
        sector.extend_from_slice(b"KAIROS  ");
        sector.extend_from_slice(&512_u16.to_le_bytes());
        sector.push(geometry.cluster_sectors);
        sector.extend_from_slice(&geometry.reserved.to_le_bytes());
        sector.push(geometry::TABLES);
        // No fixed root directory, no 16-bit count of sectors; a fixed disk; no 16-bit size of tables.
        sector.extend_from_slice(&[0, 0, 0, 0, table::MEDIA, 0, 0]);
        // Sectors of a track and heads, of which nothing depends since disks are addressed by block.
        sector.extend_from_slice(&geometry::TRACK_SECTORS.to_le_bytes());
        sector.extend_from_slice(&geometry::HEADS.to_le_bytes());
        sector.extend_from_slice(&self.options.hidden_sectors.to_le_bytes());
        sector.extend_from_slice(&geometry.sectors.to_le_bytes());
        sector.extend_from_slice(&geometry.table_sectors.to_le_bytes());
        // Both tables are kept alike; version 0.0.
        sector.extend_from_slice(&[0, 0, 0, 0]);
        sector.extend_from_slice(&table::ROOT.to_le_bytes());
        sector.extend_from_slice(&geometry::INFO_SECTOR.to_le_bytes());
        sector.extend_from_slice(&geometry::BACKUP_SECTOR.to_le_bytes());
        sector.extend_from_slice(&[0; 12]);
        // First hard disk; the three fields that follow are there.
        sector.extend_from_slice(&[0x80, 0, 0x29]);
        sector.extend_from_slice(&self.options.volume_id.to_le_bytes());
        sector.extend_from_slice(&self.options.label.map_or(*b"NO NAME    ", FatLabel::bytes));
        sector.extend_from_slice(b"FAT32   ");
        sector.extend_from_slice(&[0xcd, 0x18, 0xf4, 0xeb, 0xfd]);
        signed(sector)
    }

    /// The FSInfo sector: how much is free, and where to look for it.
    fn info_sector(&self) -> Vec<u8> {
        let mut sector = b"RRaA".to_vec();
        sector.resize(484, 0);
        sector.extend_from_slice(b"rrAa");
        sector.extend_from_slice(&self.free_clusters().to_le_bytes());
        let next = match self.allocation.end <= self.geometry.last_cluster() {
            true => self.allocation.end,
            false => table::ROOT,
        };
        sector.extend_from_slice(&next.to_le_bytes());
        signed(sector)
    }
}

/// A sector with its signature.
fn signed(mut sector: Vec<u8>) -> Vec<u8> {
    sector.resize(510, 0);
    sector.extend_from_slice(&[0x55, 0xaa]);
    sector
}

impl Image for Fat {
    fn length(&self) -> u64 {
        u64::from(self.geometry.sectors).saturating_mul(u64::from(SECTOR))
    }

    fn write(&self, out: &mut Output<'_>) -> Result<(), ImageError> {
        let start = out.position();
        let at = |sector: u32| start.saturating_add(u64::from(sector).saturating_mul(u64::from(SECTOR)));
        let (boot, info) = (self.boot_sector(), self.info_sector());
        out.write(&boot)?;
        out.write(&info)?;
        out.zeros_to(at(u32::from(geometry::BACKUP_SECTOR)))?;
        out.write(&boot)?;
        out.write(&info)?;
        let mut table = u32::from(self.geometry.reserved);
        for _ in 0..geometry::TABLES {
            out.zeros_to(at(table))?;
            self.allocation.write(out)?;
            table = table.saturating_add(self.geometry.table_sectors);
        }
        let cluster = |number: u32| {
            let clusters = u64::from(number.saturating_sub(table::ROOT));
            at(table).saturating_add(clusters.saturating_mul(u64::from(self.cluster_bytes())))
        };
        let stamp = time::Stamp::new(self.options.time);
        for directory in &self.tree.directories {
            out.zeros_to(cluster(directory.first))?;
            directory::write(&self.tree, directory, self.options.label, stamp, out)?;
        }
        for file in self.tree.files.iter().filter(|file| file.length > 0) {
            out.zeros_to(cluster(file.first))?;
            file.content.write(out)?;
            if out.position() != cluster(file.first).saturating_add(u64::from(file.length)) {
                return Err(ImageError::Changed { path: file.path.as_path().to_owned() });
            }
        }
        out.zeros_to(start.saturating_add(self.length()))
    }
}
