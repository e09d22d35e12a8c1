//! The ISO 9660 image that a machine boots from and installs.
//!
//! ECMA-119 at interchange level 3 with the names, modes and links of Rock Ridge (IEEE P1282 in SUSP 1.12), and a boot image
//! for UEFI (El Torito 1.0; UEFI 2.10, section 13.3.2.1). The boot image is a file of the tree and lies at a whole MiB, so
//! that a partition table in the system area can point at it when the image is written to a USB stick.
//!
//! | file | holds |
//! |---|---|
//! | `tree` | directories and files in the order of the path table |
//! | `names` | the short names of ISO 9660 |
//! | `records` | directories and path tables as bytes |
//! | `rock_ridge` | what Rock Ridge adds to a directory record |
//! | `volume` | volume descriptors and dates |
//! | `boot` | the El Torito catalogue; MBR or GPT over the boot image |
//!
//! Left out: Joliet and UDF, boot by a BIOS, hard links, relocation of deep directories (Linux reads any depth).

mod boot;
mod names;
mod records;
mod rock_ridge;
mod tree;
mod volume;

pub use boot::PartitionTable;
use boot::SystemArea;
use records::Encoder;
use tree::{Place, Tree};

use super::{Content, Files, Image, ImageError, Output};
use crate::names::TreePath;

const FORMAT: &str = "ISO 9660";
/// Bytes of a logical sector and block; the unit of every `lba`.
const BLOCK: u64 = 2048;
/// The system area, where a partition table may be.
const SYSTEM_AREA: u64 = 16;
/// A whole MiB, as partition tools want it: where the boot image begins.
const BOOT_ALIGNMENT: u64 = (1 << 20) / BLOCK;
/// Large files begin at a page of memory, which lets file systems share their blocks with the source's instead of copying.
const PAGE: u64 = 4096 / BLOCK;
const LARGE: u64 = 64 << 10;
/// Blocks of zeros at the end. The last blocks of a disc that was written track at once cannot be read, and readers that read
/// ahead would fail on what is before them.
const PADDING: u64 = 150;

/// What an image is to hold. Nothing in it comes from elsewhere.
#[derive(Debug)]
pub struct IsoRequest {
    /// What is in it. Owner is root; modes are 0755 for directories and programs, 0644 for other files.
    pub files: Files,
    /// The volume's name, which becomes `/dev/disk/by-label/...`: 1 to 32 of `A-Z a-z 0-9 _ - .`.
    pub label: String,
    /// The file, a FAT file system, that UEFI boots from.
    pub boot_image: Option<TreePath>,
    /// How firmware finds the boot image on a USB stick. Nothing is written without a boot image.
    pub table: PartitionTable,
    /// Time of everything, in seconds since 1970, UTC.
    pub time: i64,
    /// What the identifiers of disk and partition are made of.
    pub seed: [u8; 32],
}

/// An ISO 9660 image, laid out.
#[derive(Debug)]
pub struct Iso {
    tree: Tree,
    dates: volume::Dates,
    label: String,
    catalogue: Option<boot::Catalogue>,
    system_area: SystemArea,
    blocks: u64,
}

/// Where everything before the first directory is.
#[derive(Debug, Clone, Copy)]
struct Places {
    path_table: u64,
    path_table_length: u64,
    /// The path table of big-endian numbers.
    second_path_table: u64,
    catalogue: u64,
    end: u64,
}

impl Iso {
    /// Lays the image out. Memory grows with the number of entries.
    ///
    /// # Errors
    /// A label or time that cannot be; a name that Linux would not show whole, or another entry that Rock Ridge cannot
    /// hold; a boot image that is no file or empty; more than 65,535 directories or 8 TiB.
    pub fn new(request: IsoRequest) -> Result<Self, ImageError> {
        let IsoRequest { files, label, boot_image, table, time, seed } = request;
        volume::check_label(&label)?;
        let dates = volume::Dates::new(time)?;
        boot_image.as_ref().map_or(Ok(()), |path| check_boot_image(&files, path))?;
        let mut tree = Tree::new(&files)?;

        let places = Places::new(&tree, boot_image.is_some());
        let mut next = records::place_directories(&mut tree, &dates, places.end)?;
        let mut boot_place = None;
        if let Some(place) = boot_image.as_ref().and_then(|path| tree.place_of(path)) {
            next = next.next_multiple_of(BOOT_ALIGNMENT);
            next = place_file(place, next)?;
            boot_place = Some(place.clone());
        }
        for place in tree.places() {
            if place.lba == 0 {
                let step = if place.length() >= LARGE { PAGE } else { 1 };
                next = place_file(place, next.next_multiple_of(step))?;
            }
        }
        let tail = if boot_place.is_some() { table.tail_blocks() } else { 0 };
        let blocks = add(next, PADDING + tail)?;

        let catalogue = boot_place.as_ref().map(boot::Catalogue::new).transpose()?;
        let system_area = match &boot_place {
            Some(place) => SystemArea::new(table, place, blocks.saturating_mul(BLOCK), &seed)?,
            None => SystemArea::default(),
        };
        Ok(Self { tree, dates, label, catalogue, system_area, blocks })
    }

    fn write_descriptors(&self, places: Places, out: &mut Output<'_>) -> Result<(), ImageError> {
        let root = Encoder::new(&self.tree, &self.dates).root_record()?;
        out.write(&volume::primary(&volume::Primary {
            label: &self.label,
            blocks: self.blocks,
            path_table: places.path_table,
            second_path_table: places.second_path_table,
            path_table_length: places.path_table_length,
            root,
            dates: &self.dates,
        })?)?;
        if self.catalogue.is_some() {
            out.write(&volume::boot_record(places.catalogue)?)?;
        }
        out.write(&volume::terminator())
    }
}

impl Image for Iso {
    fn length(&self) -> u64 {
        self.blocks.saturating_mul(BLOCK)
    }

    fn write(&self, out: &mut Output<'_>) -> Result<(), ImageError> {
        let base = out.position();
        let at = |lba: u64| base.saturating_add(lba.saturating_mul(BLOCK));
        out.write(self.system_area.head())?;
        out.zeros_to(at(SYSTEM_AREA))?;
        let places = Places::new(&self.tree, self.catalogue.is_some());
        self.write_descriptors(places, out)?;
        for big_endian in [false, true] {
            out.write(&records::path_table(&self.tree, big_endian)?)?;
            out.zeros_to(at(if big_endian { places.catalogue } else { places.second_path_table }))?;
        }
        if let Some(catalogue) = &self.catalogue {
            out.write(&catalogue.bytes())?;
            out.zeros_to(at(places.end))?;
        }
        let encoder = Encoder::new(&self.tree, &self.dates);
        for directory in self.tree.directories() {
            out.zeros_to(at(directory.lba))?;
            out.write(&encoder.directory(directory)?.bytes())?;
        }
        for place in self.tree.places_by_lba() {
            out.zeros_to(at(place.lba))?;
            write_exactly(&place.content, out)?;
        }
        let tail = self.system_area.tail();
        let end = base.saturating_add(self.length());
        out.zeros_to(end.saturating_sub(tail.len() as u64))?;
        if !tail.is_empty() {
            out.write(tail)?;
        }
        Ok(())
    }
}

impl Places {
    fn new(tree: &Tree, boots: bool) -> Self {
        // Behind the volume descriptors: the primary one, the boot record, the terminator.
        let path_table = SYSTEM_AREA + if boots { 3 } else { 2 };
        let path_table_length = records::path_table_length(tree);
        let second_path_table = path_table.saturating_add(path_table_length.div_ceil(BLOCK));
        let catalogue = second_path_table.saturating_add(path_table_length.div_ceil(BLOCK));
        let end = catalogue.saturating_add(u64::from(boots));
        Self { path_table, path_table_length, second_path_table, catalogue, end }
    }
}

/// Content is another's code as well: what it wrote is what was laid out, or the rest would be in the wrong place.
fn write_exactly(content: &Content, out: &mut Output<'_>) -> Result<(), ImageError> {
    let (before, length) = (out.position(), content.length());
    content.write(out)?;
    match out.position().checked_sub(before) {
        Some(written) if written == length => Ok(()),
        written => {
            let written = written.unwrap_or(0);
            Err(layout(format!("{written} bytes were written where {length} were laid out")))
        }
    }
}

fn check_boot_image(files: &Files, path: &TreePath) -> Result<(), ImageError> {
    let problem = match files.get(path) {
        Some(super::Node::File { content, .. }) if content.length() > 0 => return Ok(()),
        Some(super::Node::File { .. }) => "it is empty",
        Some(_) => "it is no regular file",
        None => "it is not in the tree",
    };
    Err(layout(format!("the boot image {path} cannot be booted from: {problem}")))
}

/// Gives a file its place; returns the first block behind it.
fn place_file(place: &mut Place, lba: u64) -> Result<u64, ImageError> {
    place.lba = lba;
    add(lba, place.length().div_ceil(BLOCK))
}

fn add(lba: u64, blocks: u64) -> Result<u64, ImageError> {
    let end = lba.saturating_add(blocks);
    if end > u64::from(u32::MAX) { Err(too_large(end)) } else { Ok(end) }
}

fn too_large(blocks: u64) -> ImageError {
    layout(format!(
        "it would have {blocks} blocks of {BLOCK} bytes; at most {} can be counted; leave files out",
        u32::MAX
    ))
}

fn layout(problem: String) -> ImageError {
    ImageError::Layout { format: FORMAT, problem }
}
