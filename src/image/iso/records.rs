//! Directories and path tables as bytes (ECMA-119, sections 9.1 and 9.4).

use super::rock_ridge::{self, Attributes, Continuation};
use super::tree::{Directory, Entry, Kind, Tree};
use super::volume::{Dates, block, both16, both32};
use super::{BLOCK, add, layout};
use crate::image::ImageError;

/// Bytes of a record before its identifier.
const FIXED: usize = 33;
/// Bytes of one section of a file; a larger file is one of several (ECMA-119, 6.5.1), each but the last of whole blocks.
const SECTION: u64 = 0xffff_f800;

const IS_DIRECTORY: u8 = 2;
const GOES_ON: u8 = 0x80;

/// Gives every directory its place, from block `lba` on; returns the first block behind them.
pub(super) fn place_directories(tree: &mut Tree, dates: &Dates, lba: u64) -> Result<u64, ImageError> {
    let mut sizes = Vec::with_capacity(tree.directories().len());
    for directory in tree.directories() {
        // How long it is does not depend on where things are.
        let made = Encoder::new(tree, dates).directory(directory)?;
        sizes.push((made.records.len() as u64, made.continuation.len() as u64));
    }
    let mut next = lba;
    for (directory, (records, continuation)) in tree.directories_mut().iter_mut().zip(sizes) {
        directory.lba = next;
        directory.length = records;
        next = add(next, records.saturating_add(continuation) / BLOCK)?;
    }
    Ok(next)
}

/// Bytes of one path table.
pub(super) fn path_table_length(tree: &Tree) -> u64 {
    tree.directories().iter().map(|directory| 8 + (directory.identifier.len() as u64).next_multiple_of(2)).sum()
}

/// A path table in one of the byte orders.
pub(super) fn path_table(tree: &Tree, big_endian: bool) -> Result<Vec<u8>, ImageError> {
    let mut out = Vec::new();
    for directory in tree.directories() {
        let length = u8::try_from(directory.identifier.len()).map_err(|_| too_long())?;
        let parent =
            directory.parent.checked_add(1).and_then(|parent| u16::try_from(parent).ok()).ok_or_else(too_long)?;
        let lba = block(directory.lba)?;
        let (lba, parent) = match big_endian {
            true => (lba.to_be_bytes(), parent.to_be_bytes()),
            false => (lba.to_le_bytes(), parent.to_le_bytes()),
        };
        out.extend_from_slice(&[length, 0]);
        out.extend_from_slice(&lba);
        out.extend_from_slice(&parent);
        out.extend_from_slice(&directory.identifier);
        if !directory.identifier.len().is_multiple_of(2) {
            out.push(0);
        }
    }
    Ok(out)
}

fn too_long() -> ImageError {
    layout("a directory cannot be counted".to_owned())
}

/// What a record points at.
#[derive(Debug, Clone, Copy)]
struct Extent {
    lba: u64,
    length: u64,
    flags: u8,
}

/// A directory as bytes.
#[derive(Debug)]
pub(super) struct Encoded {
    records: Vec<u8>,
    continuation: Vec<u8>,
}

impl Encoded {
    pub(super) fn bytes(mut self) -> Vec<u8> {
        self.records.append(&mut self.continuation);
        self.records
    }
}

/// Makes directories of a tree.
#[derive(Debug, Clone, Copy)]
pub(super) struct Encoder<'a> {
    tree: &'a Tree,
    dates: &'a Dates,
}

impl<'a> Encoder<'a> {
    pub(super) fn new(tree: &'a Tree, dates: &'a Dates) -> Self {
        Self { tree, dates }
    }

    /// The record in the volume descriptor: 34 bytes.
    pub(super) fn root_record(&self) -> Result<Vec<u8>, ImageError> {
        let root = self.tree.directory(0)?;
        self.record(&[0], extent_of(root), &[])
    }

    /// Records in whole blocks, none of which crosses into the next, and what continues them.
    pub(super) fn directory(&self, directory: &Directory) -> Result<Encoded, ImageError> {
        let continued = add(directory.lba, directory.length / BLOCK)?;
        let mut out = Records { bytes: Vec::new(), continuation: Continuation::new(block(continued)?) };
        let parent = self.tree.directory(directory.parent)?;
        let is_root = directory.identifier == [0];
        let kind = if is_root { rock_ridge::Kind::Root } else { rock_ridge::Kind::Directory };
        out.push(self, &[0], extent_of(directory), &attributes_of(directory, kind))?;
        out.push(self, &[1], extent_of(parent), &attributes_of(parent, rock_ridge::Kind::Directory))?;
        for entry in &directory.entries {
            self.entry(entry, &mut out)?;
        }
        let length = out.bytes.len().next_multiple_of(2048);
        out.bytes.resize(length, 0);
        Ok(Encoded { records: out.bytes, continuation: out.continuation.finish() })
    }

    fn entry(&self, entry: &Entry, out: &mut Records) -> Result<(), ImageError> {
        let identifier = entry.identifier.bytes();
        let name = Some(entry.path.file_name());
        let attributes = |kind, links| Attributes { kind, name, links, serial: entry.serial };
        match &entry.kind {
            Kind::Directory(index) => {
                let directory = self.tree.directory(*index)?;
                let attributes = attributes(rock_ridge::Kind::Directory, directory.links());
                out.push(self, &identifier, extent_of(directory), &attributes)
            }
            Kind::Symlink(target) => {
                let nothing = Extent { lba: 0, length: 0, flags: 0 };
                out.push(self, &identifier, nothing, &attributes(rock_ridge::Kind::Symlink(target), 1))
            }
            Kind::File { place, executable } => {
                let place = self.tree.place(*place)?;
                let kind = if *executable { rock_ridge::Kind::Program } else { rock_ridge::Kind::File };
                let mut extent = Extent { lba: place.lba, length: place.length(), flags: 0 };
                while extent.length > SECTION {
                    let section = Extent { length: SECTION, flags: GOES_ON, ..extent };
                    out.push(self, &identifier, section, &attributes(kind, 1))?;
                    extent.lba = extent.lba.saturating_add(SECTION / BLOCK);
                    extent.length = extent.length.saturating_sub(SECTION);
                }
                out.push(self, &identifier, extent, &attributes(kind, 1))
            }
        }
    }

    /// ECMA-119, 9.1.
    fn record(&self, identifier: &[u8], extent: Extent, system_use: &[u8]) -> Result<Vec<u8>, ImageError> {
        let padding = usize::from(identifier.len().is_multiple_of(2));
        let length = FIXED.saturating_add(identifier.len()).saturating_add(padding).saturating_add(system_use.len());
        let byte = |length: usize| u8::try_from(length).map_err(|_| layout("a record is too long".to_owned()));
        let mut out = vec![byte(length)?, 0];
        out.extend_from_slice(&both32(block(extent.lba)?));
        out.extend_from_slice(&both32(
            u32::try_from(extent.length).map_err(|_| super::too_large(extent.length / BLOCK))?,
        ));
        out.extend_from_slice(&self.dates.short);
        // Not interleaved; of the first volume.
        out.extend_from_slice(&[extent.flags, 0, 0]);
        out.extend_from_slice(&both16(1));
        out.push(byte(identifier.len())?);
        out.extend_from_slice(identifier);
        out.resize(out.len().saturating_add(padding), 0);
        out.extend_from_slice(system_use);
        Ok(out)
    }
}

/// A directory's records while they are made.
#[derive(Debug)]
struct Records {
    bytes: Vec<u8>,
    continuation: Continuation,
}

impl Records {
    fn push(
        &mut self,
        encoder: &Encoder<'_>,
        identifier: &[u8],
        extent: Extent,
        attributes: &Attributes<'_>,
    ) -> Result<(), ImageError> {
        let fixed = FIXED.saturating_add(identifier.len()).next_multiple_of(2);
        let entries = rock_ridge::entries(attributes, encoder.dates);
        let packed = self.continuation.pack(fixed, entries);
        let record = encoder.record(identifier, extent, &packed.in_record)?;
        let left = 2048_usize.saturating_sub(self.bytes.len() % 2048);
        if record.len() > left {
            self.bytes.resize(self.bytes.len().saturating_add(left), 0);
        }
        self.bytes.extend(record);
        Ok(())
    }
}

fn extent_of(directory: &Directory) -> Extent {
    Extent { lba: directory.lba, length: directory.length, flags: IS_DIRECTORY }
}

fn attributes_of<'a>(directory: &Directory, kind: rock_ridge::Kind<'a>) -> Attributes<'a> {
    Attributes { kind, name: None, links: directory.links(), serial: directory.serial }
}
