//! Reading the headers of a PE file: every field checked, nothing trusted.
//!
//! Source: Microsoft "PE Format". Only PE32+ (64 bit), which is all that UEFI on x86-64, arm64 and riscv64 has.

use std::io::{Read, Seek, SeekFrom};

use super::UkiError;

/// Headers larger than this are no headers of an EFI program.
const MAX_HEADERS: u32 = 1 << 20;
/// Bytes of one entry of the section table.
pub const SECTION_HEADER: usize = 40;
/// Index of the base relocation directory.
pub const DIRECTORY_BASE_RELOCATION: usize = 5;
/// Index of the certificate table's directory entry.
pub const DIRECTORY_SECURITY: usize = 4;
/// Index of the debug directory.
pub const DIRECTORY_DEBUG: usize = 6;
/// `IMAGE_DLLCHARACTERISTICS_NX_COMPAT`.
pub const NX_COMPAT: u16 = 0x0100;

/// Offsets in the optional header (PE32+).
pub(crate) mod field {
    pub(crate) const SIZE_OF_INITIALIZED_DATA: usize = 8;
    pub(crate) const ENTRY_POINT: usize = 16;
    pub(crate) const SECTION_ALIGNMENT: usize = 32;
    pub(crate) const FILE_ALIGNMENT: usize = 36;
    pub(crate) const MAJOR_IMAGE_VERSION: usize = 44;
    pub(crate) const SIZE_OF_IMAGE: usize = 56;
    pub(crate) const SIZE_OF_HEADERS: usize = 60;
    pub(crate) const CHECKSUM: usize = 64;
    pub(crate) const DLL_CHARACTERISTICS: usize = 70;
    pub(crate) const NUMBER_OF_DIRECTORIES: usize = 108;
    pub(crate) const DIRECTORIES: usize = 112;
}

/// One entry of the section table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SectionHeader {
    /// The 8 bytes of the name, zero padded.
    pub name: [u8; 8],
    /// Bytes in memory: for a UKI's own sections the exact length of the content.
    pub virtual_size: u32,
    /// Address in memory, relative to the image's base.
    pub virtual_address: u32,
    /// Bytes in the file, padded to the file alignment.
    pub raw_size: u32,
    /// Offset in the file.
    pub raw_offset: u32,
    /// Flags.
    pub characteristics: u32,
}

impl SectionHeader {
    /// The name up to the padding, bytes that are no text replaced.
    #[must_use]
    pub fn name(&self) -> String {
        let end = self.name.iter().position(|&b| b == 0).unwrap_or(self.name.len());
        String::from_utf8_lossy(self.name.get(..end).unwrap_or_default()).into_owned()
    }

    /// Bytes of the content that are in the file.
    #[must_use]
    pub fn content_size(&self) -> u32 {
        self.virtual_size.min(self.raw_size)
    }

    /// As the 40 bytes of the table; relocation and line number fields are zero, as in every image.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; SECTION_HEADER] {
        let mut out = [0; SECTION_HEADER];
        let fields =
            [self.virtual_size, self.virtual_address, self.raw_size, self.raw_offset, 0, 0, 0, self.characteristics];
        for (target, byte) in
            out.iter_mut().zip(self.name.into_iter().chain(fields.into_iter().flat_map(u32::to_le_bytes)))
        {
            *target = byte;
        }
        out
    }
}

/// The headers of a PE32+ file.
#[derive(Debug, Clone)]
pub struct PeHeaders {
    /// The first `SizeOfHeaders` bytes of the file.
    pub bytes: Vec<u8>,
    /// Bytes of the whole file.
    pub file_size: u64,
    /// Offset of `PE\0\0`.
    pub pe_offset: usize,
    /// Offset of the section table.
    pub table_offset: usize,
    /// `IMAGE_FILE_HEADER.Machine`.
    pub machine: u16,
    /// The entry point, relative to the image's base.
    pub entry_point: u32,
    /// Alignment of sections in memory, a power of two.
    pub section_alignment: u32,
    /// Alignment of sections in the file, a power of two.
    pub file_alignment: u32,
    /// `MajorImageVersion`.
    pub major_image_version: u16,
    /// `SizeOfImage`.
    pub size_of_image: u32,
    /// `DllCharacteristics`.
    pub dll_characteristics: u16,
    /// Data directories: address (a file offset for the certificate table) and size.
    pub directories: Vec<(u32, u32)>,
    /// The section table.
    pub sections: Vec<SectionHeader>,
}

pub(crate) fn u16_at(bytes: &[u8], offset: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(offset..offset.checked_add(2)?)?.try_into().ok()?))
}

pub(crate) fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(offset..offset.checked_add(4)?)?.try_into().ok()?))
}

/// Overwrites bytes that are there; `None` where `offset` lies outside.
pub(crate) fn put(bytes: &mut [u8], offset: usize, value: &[u8]) -> Option<()> {
    bytes.get_mut(offset..offset.checked_add(value.len())?)?.copy_from_slice(value);
    Some(())
}

impl PeHeaders {
    /// Reads the headers of `file`; `what` names it in errors.
    ///
    /// # Errors
    /// Anything that is no PE32+ image, or whose section table does not fit its own headers or the file.
    pub fn read(file: &mut (impl Read + Seek), what: &str) -> Result<Self, UkiError> {
        let bad = |problem: String| UkiError::Pe { what: what.to_owned(), problem };
        let file_size = file.seek(SeekFrom::End(0))?;
        file.seek(SeekFrom::Start(0))?;
        // The fixed part lies in the first page of every EFI program; SizeOfHeaders then tells how much there is.
        let mut bytes = Vec::new();
        file.by_ref().take(4096).read_to_end(&mut bytes)?;
        let fixed = Fixed::parse(&bytes).ok_or_else(|| bad("its headers are truncated or not PE32+".to_owned()))?;
        if fixed.size_of_headers > MAX_HEADERS {
            return Err(bad(format!("SizeOfHeaders is {}", fixed.size_of_headers)));
        }
        file.seek(SeekFrom::Start(0))?;
        bytes.clear();
        file.by_ref().take(u64::from(fixed.size_of_headers)).read_to_end(&mut bytes)?;
        Self::parse(bytes, file_size, &fixed).map_err(bad)
    }

    fn parse(bytes: Vec<u8>, file_size: u64, fixed: &Fixed) -> Result<Self, String> {
        let optional = fixed.optional_offset;
        let get32 =
            |offset| u32_at(&bytes, optional + offset).ok_or_else(|| "its optional header is truncated".to_owned());
        let get16 =
            |offset| u16_at(&bytes, optional + offset).ok_or_else(|| "its optional header is truncated".to_owned());
        let section_alignment = get32(field::SECTION_ALIGNMENT)?;
        let file_alignment = get32(field::FILE_ALIGNMENT)?;
        for (name, value) in [("SectionAlignment", section_alignment), ("FileAlignment", file_alignment)] {
            if !value.is_power_of_two() {
                return Err(format!("{name} {value} is no power of two"));
            }
        }
        let count = get32(field::NUMBER_OF_DIRECTORIES)?;
        let room = usize::from(fixed.optional_size).saturating_sub(field::DIRECTORIES) / 8;
        if usize::try_from(count).map_or(true, |count| count > room) {
            return Err(format!("it names {count} data directories, its optional header holds {room}"));
        }
        let mut directories = Vec::new();
        for index in 0..usize::try_from(count).unwrap_or(0) {
            directories.push((get32(field::DIRECTORIES + index * 8)?, get32(field::DIRECTORIES + index * 8 + 4)?));
        }
        let table_offset = optional + usize::from(fixed.optional_size);
        let mut sections = Vec::new();
        for index in 0..usize::from(fixed.sections) {
            let at = table_offset + index * SECTION_HEADER;
            let entry = bytes
                .get(at..at + SECTION_HEADER)
                .ok_or_else(|| format!("section header {index} lies outside of SizeOfHeaders"))?;
            let word = |offset| u32_at(entry, offset).unwrap_or(0);
            let section = SectionHeader {
                name: entry.get(..8).and_then(|name| name.try_into().ok()).unwrap_or_default(),
                virtual_size: word(8),
                virtual_address: word(12),
                raw_size: word(16),
                raw_offset: word(20),
                characteristics: word(36),
            };
            let end = u64::from(section.raw_offset) + u64::from(section.raw_size);
            if section.raw_size != 0 && end > file_size {
                return Err(format!("section {} ends at byte {end}, the file at {file_size}", section.name()));
            }
            if section.virtual_address.checked_add(section.virtual_size).is_none() {
                return Err(format!("section {} ends past 4 GiB of address space", section.name()));
            }
            sections.push(section);
        }
        Ok(Self {
            file_size,
            pe_offset: fixed.pe_offset,
            table_offset,
            machine: fixed.machine,
            entry_point: get32(field::ENTRY_POINT)?,
            section_alignment,
            file_alignment,
            major_image_version: get16(field::MAJOR_IMAGE_VERSION)?,
            size_of_image: get32(field::SIZE_OF_IMAGE)?,
            dll_characteristics: get16(field::DLL_CHARACTERISTICS)?,
            directories,
            sections,
            bytes,
        })
    }

    /// Offset of the optional header.
    #[must_use]
    pub fn optional_offset(&self) -> usize {
        self.pe_offset + 24
    }

    /// A data directory; `(0, 0)` where the file has none of this index.
    #[must_use]
    pub fn directory(&self, index: usize) -> (u32, u32) {
        self.directories.get(index).copied().unwrap_or_default()
    }

    /// The first section with this name.
    #[must_use]
    pub fn section(&self, name: &str) -> Option<&SectionHeader> {
        self.sections.iter().find(|section| section.name() == name)
    }
}

struct Fixed {
    pe_offset: usize,
    optional_offset: usize,
    optional_size: u16,
    machine: u16,
    sections: u16,
    size_of_headers: u32,
}

impl Fixed {
    fn parse(bytes: &[u8]) -> Option<Self> {
        (bytes.get(..2)? == b"MZ").then_some(())?;
        let pe_offset = usize::try_from(u32_at(bytes, 0x3c)?).ok()?;
        (bytes.get(pe_offset..pe_offset.checked_add(4)?)? == b"PE\0\0").then_some(())?;
        let optional_offset = pe_offset + 24;
        (u16_at(bytes, optional_offset)? == 0x20b).then_some(())?;
        let optional_size = u16_at(bytes, pe_offset + 20)?;
        (usize::from(optional_size) >= field::DIRECTORIES).then_some(())?;
        Some(Self {
            pe_offset,
            optional_offset,
            optional_size,
            machine: u16_at(bytes, pe_offset + 4)?,
            sections: u16_at(bytes, pe_offset + 6)?,
            size_of_headers: u32_at(bytes, optional_offset + field::SIZE_OF_HEADERS)?,
        })
    }
}
