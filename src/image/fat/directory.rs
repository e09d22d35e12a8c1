//! A directory's entries, of 32 bytes each (fatgen103, "FAT Directory Structure" and "Long Directory Entries").

use super::label::FatLabel;
use super::names::{Short, UNITS_PER_ENTRY};
use super::time::Stamp;
use super::tree::{Child, Directory, Tree};
use crate::image::{ImageError, Output};

/// Bytes of an entry.
pub(super) const ENTRY: u32 = 32;

/// Attributes.
const VOLUME: u8 = 0x08;
const DIRECTORY: u8 = 0x10;
const ARCHIVE: u8 = 0x20;
const LONG_NAME: u8 = 0x0f;
/// In the number of the entry that ends a long name, which is the first on the disk.
const LAST: u8 = 0x40;

/// Writes a directory's entries. A directory has 2 MiB at most.
pub(super) fn write(
    tree: &Tree,
    directory: &Directory,
    label: Option<FatLabel>,
    stamp: Stamp,
    out: &mut Output<'_>,
) -> Result<(), ImageError> {
    let mut bytes = Vec::new();
    match directory.parent {
        None => {
            if let Some(label) = label {
                short(&mut bytes, &label.bytes(), VOLUME, stamp, 0, 0);
            }
        }
        Some(parent) => {
            // The root directory is 0 there, whatever its cluster is.
            let above = tree.directories.get(parent).filter(|above| above.parent.is_some());
            short(&mut bytes, b".          ", DIRECTORY, stamp, directory.first, 0);
            short(&mut bytes, b"..         ", DIRECTORY, stamp, above.map_or(0, |above| above.first), 0);
        }
    }
    for (name, child) in &directory.children {
        if let Some(units) = &name.long {
            long(&mut bytes, units, &name.short);
        }
        match child {
            Child::Directory(place) => {
                let first = tree.directories.get(*place).map_or(0, |child| child.first);
                short(&mut bytes, &name.short, DIRECTORY, stamp, first, 0);
            }
            Child::File(place) => {
                let (first, length) = tree.files.get(*place).map_or((0, 0), |file| (file.first, file.length));
                short(&mut bytes, &name.short, ARCHIVE, stamp, first, length);
            }
        }
    }
    out.write(&bytes)
}

fn short(bytes: &mut Vec<u8>, name: &Short, attributes: u8, stamp: Stamp, first: u32, length: u32) {
    let [c0, c1, c2, c3] = first.to_le_bytes();
    let (date, time) = (stamp.date.to_le_bytes(), stamp.time.to_le_bytes());
    bytes.extend_from_slice(name);
    bytes.extend_from_slice(&[attributes, 0, stamp.rest]);
    // Made; read (a day only); written.
    for field in [time, date, date, [c2, c3], time, date, [c0, c1]] {
        bytes.extend_from_slice(&field);
    }
    bytes.extend_from_slice(&length.to_le_bytes());
}

/// The entries of a long name, its end first. The checksum ties them to the short name's entry, which follows.
fn long(bytes: &mut Vec<u8>, units: &[u16], name: &Short) {
    let checksum = checksum(name);
    for (number, part) in (1_u8..).zip(units.chunks(UNITS_PER_ENTRY)).collect::<Vec<_>>().into_iter().rev() {
        let is_last = usize::from(number) * UNITS_PER_ENTRY >= units.len();
        // A name that does not fill its last entry has a 0 at its end, and ones after it.
        let padded = part.iter().copied().chain([0]).chain(std::iter::repeat(0xffff)).take(UNITS_PER_ENTRY);
        bytes.push(if is_last { number | LAST } else { number });
        for (place, unit) in padded.enumerate() {
            match place {
                5 => bytes.extend_from_slice(&[LONG_NAME, 0, checksum]),
                11 => bytes.extend_from_slice(&[0, 0]),
                _ => {}
            }
            bytes.extend_from_slice(&unit.to_le_bytes());
        }
    }
}

fn checksum(name: &Short) -> u8 {
    name.iter().fold(0_u8, |sum, byte| sum.rotate_right(1).wrapping_add(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_names_are_laid_out_as_in_the_specification() {
        let units: Vec<u16> = "The quick brown.fox".encode_utf16().collect();
        let mut bytes = Vec::new();
        long(&mut bytes, &units, b"THEQUI~1FOX");
        assert_eq!(bytes.len(), 64);
        let (second, first) = bytes.split_at(32);
        let text = |entry: &[u8]| -> Vec<u16> {
            let pair = |range: std::ops::Range<usize>| {
                entry[range].chunks(2).map(|b| u16::from_le_bytes([b[0], b[1]])).collect::<Vec<_>>()
            };
            [pair(1..11), pair(14..26), pair(28..32)].concat()
        };
        assert_eq!((second[0], first[0]), (0x42, 0x01));
        assert_eq!(String::from_utf16(&text(first)).unwrap(), "The quick bro");
        assert_eq!(text(second)[..6], "wn.fox".encode_utf16().collect::<Vec<_>>()[..]);
        assert_eq!(text(second)[6..], [0, 0xffff, 0xffff, 0xffff, 0xffff, 0xffff, 0xffff]);
        assert!(
            [first, second].iter().all(|entry| entry[11] == 0x0f && entry[12] == 0 && entry[13] == 0x07),
            "{bytes:x?}"
        );
    }
}
