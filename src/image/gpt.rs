//! The GUID partition table: what stands in the first and the last sectors of a disk (UEFI 2.10, section 5).
//!
//! Only tables of 128 entries of 128 bytes, on sectors of 512 bytes; tables are made here and never read.

use super::ImageError;
use crate::boot::sign::Guid;

/// Bytes of a sector; the unit of every `lba`.
pub const SECTOR: u64 = 512;
/// Sectors of [`Gpt::head`]: MBR, header, entries. The first that a partition may use.
pub const HEAD: u64 = 2 + ENTRY_SECTORS;
/// Sectors of [`Gpt::tail`]: entries, header.
pub const TAIL: u64 = 1 + ENTRY_SECTORS;

/// The type of an EFI system partition.
pub const ESP: Guid = Guid::new(0xc12a_7328, 0xf81f, 0x11d2, [0xba, 0x4b, 0x00, 0xa0, 0xc9, 0x3e, 0xc9, 0x3b]);
/// The type of a partition that other systems may mount: "basic data".
pub const BASIC_DATA: Guid = Guid::new(0xebd0_a0a2, 0xb9e5, 0x4433, [0x87, 0xc0, 0x68, 0xb6, 0xb7, 0x26, 0x99, 0xc7]);
/// The type of a file system of Linux.
pub const LINUX: Guid = Guid::new(0x0fc6_3daf, 0x8483, 0x4772, [0x8e, 0x79, 0x3d, 0x69, 0xd8, 0x47, 0x7d, 0xe4]);

const ENTRIES: u8 = 128;
const ENTRY: u8 = 128;
/// Bytes of all entries, and the sectors that they fill.
const BYTES: usize = 16_384;
const ENTRY_SECTORS: u64 = 32;
/// UTF-16 units of a partition's name.
const NAME: usize = 36;

/// A GUID that is the same for the same seed and purpose: version 8 of RFC 9562, from the SHA-256 of both. For all that other
/// tools take from the clock or at random: identifiers of disks, partitions, file systems.
#[must_use]
pub fn guid_from(seed: &[u8; 32], purpose: &str) -> Guid {
    Guid::derived(&[seed, purpose.as_bytes()].concat())
}

/// One partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    /// What it is for, [`ESP`] for example.
    pub type_guid: Guid,
    /// Its own identifier (`PARTUUID`).
    pub guid: Guid,
    /// The first sector.
    pub first_lba: u64,
    /// The last sector, which belongs to it.
    pub last_lba: u64,
    /// At most 36 units of UTF-16.
    pub name: String,
    /// UEFI 2.10, table 5.8; 0 for none.
    pub attributes: u64,
}

/// A partition table, checked.
#[derive(Debug, Clone)]
pub struct Gpt {
    disk_guid: Guid,
    sectors: u64,
    entries: Vec<u8>,
    mbr: [u8; 512],
}

impl Gpt {
    /// Of a disk of `length` bytes. The entries stand in the order of `partitions`.
    ///
    /// # Errors
    /// The length is no whole number of sectors or too small; more than 128 partitions; a partition that lies outside of what
    /// the table leaves, overlaps another, has another's identifier, no type, or a name that is too long.
    pub fn new(disk_guid: Guid, length: u64, partitions: &[Partition]) -> Result<Self, ImageError> {
        let sectors = length / SECTOR;
        if !length.is_multiple_of(SECTOR) || sectors <= HEAD + TAIL {
            return Err(wrong(format!(
                "a disk of {length} bytes holds no table: it must be a multiple of {SECTOR} and more than {}",
                (HEAD + TAIL) * SECTOR
            )));
        }
        if partitions.len() > usize::from(ENTRIES) {
            return Err(wrong(format!("{} partitions where {ENTRIES} fit; use fewer", partitions.len())));
        }
        check(sectors, partitions)?;
        let mut entries = Vec::with_capacity(BYTES);
        for partition in partitions {
            entries.extend_from_slice(partition.type_guid.as_bytes());
            entries.extend_from_slice(partition.guid.as_bytes());
            for number in [partition.first_lba, partition.last_lba, partition.attributes] {
                entries.extend_from_slice(&number.to_le_bytes());
            }
            let units: Vec<u16> = partition.name.encode_utf16().collect();
            if units.len() > NAME || units.contains(&0) {
                return Err(wrong(format!(
                    "partition name {:?} has {} units of UTF-16; at most {NAME} without NUL fit",
                    partition.name,
                    units.len()
                )));
            }
            for unit in units.iter().copied().chain(std::iter::repeat(0)).take(NAME) {
                entries.extend_from_slice(&unit.to_le_bytes());
            }
        }
        entries.resize(BYTES, 0);
        Ok(Self { disk_guid, sectors, entries, mbr: protective_mbr(sectors) })
    }

    /// The same with another first sector than the protective MBR, for a disk that others are to see differently.
    #[must_use]
    pub fn with_mbr(self, mbr: [u8; 512]) -> Self {
        Self { mbr, ..self }
    }

    /// What stands at the beginning of the disk: [`HEAD`] sectors.
    #[must_use]
    pub fn head(&self) -> Vec<u8> {
        let mut out = self.mbr.to_vec();
        out.extend_from_slice(&self.header(1, self.sectors.saturating_sub(1), 2));
        out.extend_from_slice(&self.entries);
        out
    }

    /// What stands at the end of the disk, up to its last byte: [`TAIL`] sectors.
    #[must_use]
    pub fn tail(&self) -> Vec<u8> {
        let mut out = self.entries.clone();
        out.extend_from_slice(&self.header(self.sectors.saturating_sub(1), 1, self.sectors.saturating_sub(TAIL)));
        out
    }

    /// UEFI 2.10, table 5.5.
    fn header(&self, own: u64, other: u64, entries: u64) -> Vec<u8> {
        let make = |checksum: u32| {
            let mut out = b"EFI PART".to_vec();
            // Revision 1.0, bytes of the header, its checksum, reserved.
            for number in [0x0001_0000, 92, checksum, 0] {
                out.extend_from_slice(&u32::to_le_bytes(number));
            }
            for number in [own, other, HEAD, last_usable(self.sectors)] {
                out.extend_from_slice(&number.to_le_bytes());
            }
            out.extend_from_slice(self.disk_guid.as_bytes());
            out.extend_from_slice(&entries.to_le_bytes());
            for number in [u32::from(ENTRIES), u32::from(ENTRY), crc32fast::hash(&self.entries)] {
                out.extend_from_slice(&number.to_le_bytes());
            }
            out
        };
        let mut out = make(crc32fast::hash(&make(0)));
        out.resize(512, 0);
        out
    }
}

/// The protective MBR (UEFI 2.10, section 5.2.3): one partition over everything, so that tools that know no GPT see no room.
fn protective_mbr(sectors: u64) -> [u8; 512] {
    let size = u32::try_from(sectors.saturating_sub(1)).unwrap_or(u32::MAX);
    let mut out = [0; 512];
    // Not active; CHS 0/0/2; type; CHS of the end, which is beyond what CHS can say; first sector; sectors.
    let entry = [0x00, 0x00, 0x02, 0x00, 0xee, 0xff, 0xff, 0xff].into_iter();
    let entry = entry.chain(1_u32.to_le_bytes()).chain(size.to_le_bytes());
    out.iter_mut().skip(446).zip(entry).for_each(|(to, byte)| *to = byte);
    out.iter_mut().skip(510).zip([0x55, 0xaa]).for_each(|(to, byte)| *to = byte);
    out
}

fn last_usable(sectors: u64) -> u64 {
    sectors.saturating_sub(TAIL).saturating_sub(1)
}

fn check(sectors: u64, partitions: &[Partition]) -> Result<(), ImageError> {
    let last = last_usable(sectors);
    let mut sorted: Vec<&Partition> = partitions.iter().collect();
    sorted.sort_by_key(|partition| partition.first_lba);
    let mut guids = std::collections::BTreeSet::new();
    let mut before: Option<&Partition> = None;
    for partition in sorted {
        let Partition { name, first_lba: first, last_lba, type_guid, guid, .. } = partition;
        if first > last_lba || *first < HEAD || *last_lba > last {
            return Err(wrong(format!(
                "partition {name:?} is at {first} to {last_lba}; only {HEAD} to {last} are free"
            )));
        }
        if let Some(other) = before.filter(|other| other.last_lba >= *first) {
            return Err(wrong(format!("partition {name:?} begins at {first}, inside of partition {:?}", other.name)));
        }
        if type_guid.as_bytes() == &[0; 16] || guid.as_bytes() == &[0; 16] {
            return Err(wrong(format!("partition {name:?} has an empty type or identifier")));
        }
        if !guids.insert(guid) {
            return Err(wrong(format!("partition {name:?} has the identifier of another one, {guid}")));
        }
        before = Some(partition);
    }
    Ok(())
}

fn wrong(problem: String) -> ImageError {
    ImageError::Layout { format: "GPT", problem }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    const MIB: u64 = 1 << 20;

    fn partition(name: &str, first_lba: u64, last_lba: u64) -> Partition {
        let guid = guid_from(&[7; 32], name);
        Partition { type_guid: ESP, guid, first_lba, last_lba, name: name.to_owned(), attributes: 0 }
    }

    /// A sparse disk with the table; what the program says of it.
    fn ask(gpt: &Gpt, length: u64, program: &str, arguments: &[&str]) -> String {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::os::unix::fs::FileExt::write_all_at(file.as_file(), &gpt.head(), 0).unwrap();
        let tail = gpt.tail();
        std::os::unix::fs::FileExt::write_all_at(file.as_file(), &tail, length - tail.len() as u64).unwrap();
        let output = Command::new(program).args(arguments).arg(file.path()).output().expect(program);
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    #[test]
    fn sgdisk_and_sfdisk_read_what_was_written() {
        for length in [4 * MIB, 3 << 40] {
            let last = length / SECTOR - TAIL - 1;
            let partitions = [
                partition("zweite ä😀", 4096, (last - 1) / 2048 * 2048 - 1),
                partition("EFI system partition", 2048, 4095),
            ];
            let gpt = Gpt::new(guid_from(&[7; 32], "disk"), length, &partitions).unwrap();
            let said = ask(&gpt, length, "/usr/sbin/sgdisk", &["-v"]);
            assert!(said.contains("No problems found"), "{said}");
            // It says these on standard output and ends well all the same.
            assert!(!said.contains("Caution") && !said.contains("Warning"), "{said}");
            let table: serde_json::Value =
                serde_json::from_str(&ask(&gpt, length, "/usr/sbin/sfdisk", &["--json"])).unwrap();
            let table = &table["partitiontable"];
            assert_eq!(table["label"], "gpt");
            assert_eq!(table["id"], guid_from(&[7; 32], "disk").to_string().to_uppercase());
            assert_eq!(table["firstlba"], HEAD);
            assert_eq!(table["lastlba"], last);
            for (partition, read) in partitions.iter().zip(table["partitions"].as_array().unwrap()) {
                assert_eq!(read["name"], partition.name);
                assert_eq!(read["start"], partition.first_lba);
                assert_eq!(read["size"], partition.last_lba - partition.first_lba + 1);
                assert_eq!(read["type"], ESP.to_string().to_uppercase());
                assert_eq!(read["uuid"], partition.guid.to_string().to_uppercase());
            }
        }
    }

    #[test]
    fn the_backup_alone_is_enough() {
        let gpt = Gpt::new(guid_from(&[1; 32], "disk"), MIB, &[partition("a", 34, 40)]).unwrap();
        let (head, tail) = (gpt.head(), gpt.tail());
        assert_eq!((head.len() as u64, tail.len() as u64), (HEAD * SECTOR, TAIL * SECTOR));
        assert_eq!(head[1024..], tail[..32 * 512], "the entries are the same");
        assert_eq!(tail[32 * 512 + 24..][..16], [2047_u64.to_le_bytes(), 1_u64.to_le_bytes()].concat());
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let refused = |length, partitions: &[Partition], why: &str| {
            let error = Gpt::new(guid_from(&[1; 32], "disk"), length, partitions).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        };
        refused(MIB + 1, &[], "multiple of 512");
        refused(67 * 512, &[], "more than");
        refused(MIB, &[partition("a", 33, 40)], "only 34 to 2014 are free");
        refused(MIB, &[partition("a", 34, 2015)], "only 34 to 2014 are free");
        refused(MIB, &[partition("a", 50, 49)], "only 34 to 2014 are free");
        refused(MIB, &[partition("a", 40, 50), partition("b", 34, 40)], "inside of partition \"b\"");
        refused(MIB, &[partition(&"x".repeat(37), 34, 40)], "37 units");
        refused(MIB, &[partition(&"😀".repeat(19), 34, 40)], "38 units");
        refused(
            MIB,
            &[partition("a", 34, 40), Partition { first_lba: 41, last_lba: 41, ..partition("a", 0, 0) }],
            "identifier",
        );
        refused(MIB, &[Partition { type_guid: Guid::from_bytes([0; 16]), ..partition("a", 34, 40) }], "empty type");
        let many: Vec<_> = (0..129).map(|n| partition(&n.to_string(), 100 + n, 100 + n)).collect();
        refused(MIB, &many, "129 partitions");
        assert!(Gpt::new(guid_from(&[1; 32], "disk"), MIB, &many[..128]).is_ok());
    }

    #[test]
    fn identifiers_depend_on_seed_and_purpose() {
        assert_eq!(guid_from(&[1; 32], "disk"), guid_from(&[1; 32], "disk"));
        assert_ne!(guid_from(&[1; 32], "disk"), guid_from(&[2; 32], "disk"));
        assert_ne!(guid_from(&[1; 32], "disk"), guid_from(&[1; 32], "esp"));
        assert_eq!(guid_from(&[1; 32], "disk").to_string().as_bytes()[14], b'8');
    }
}
