//! The headers of a PE image, read with the `object` crate, and the sections of its profiles as the stub finds them.
//!
//! Nothing here is shared with what writes UKIs (`boot/uki`): a mistake there must not be repeated here.

use object::LittleEndian as LE;
use object::pe::{
    IMAGE_DIRECTORY_ENTRY_BASERELOC, IMAGE_DIRECTORY_ENTRY_SECURITY, IMAGE_NT_OPTIONAL_HDR64_MAGIC, ImageDosHeader,
    ImageNtHeaders32, ImageNtHeaders64,
};
use object::read::pe::{ImageNtHeaders, ImageOptionalHeader, optional_header_magic};

use crate::boot::section::SectionName;

/// Bytes of headers that are read: the stubs have less than one page, Windows programs little more.
pub(super) const HEADER_LIMIT: u64 = 64 << 10;

/// A section's header.
#[derive(Debug, Clone)]
pub(super) struct Section {
    pub(super) name: String,
    pub(super) virtual_address: u64,
    pub(super) virtual_size: u64,
    pub(super) raw_offset: u64,
    pub(super) raw_size: u64,
}

impl Section {
    pub(super) fn known(&self) -> Option<SectionName> {
        SectionName::parse(&self.name)
    }

    /// Where its content is in the file; `None` where the file or the section does not hold it all.
    pub(super) fn content(&self, length: u64) -> Option<(u64, u64)> {
        let end = self.raw_offset.checked_add(self.virtual_size)?;
        (self.virtual_size <= self.raw_size && end <= length).then_some((self.raw_offset, end))
    }

    /// First byte behind its data in the file.
    pub(super) fn raw_end(&self) -> u64 {
        self.raw_offset.saturating_add(self.raw_size)
    }

    /// First byte behind it in memory.
    pub(super) fn virtual_end(&self) -> u64 {
        self.virtual_address.saturating_add(self.virtual_size)
    }
}

/// The headers.
#[derive(Debug, Clone)]
pub(super) struct Image {
    /// Bytes of the file.
    pub(super) length: u64,
    pub(super) machine: u16,
    pub(super) subsystem: u16,
    pub(super) entry: u64,
    pub(super) section_alignment: u64,
    pub(super) file_alignment: u64,
    pub(super) size_of_image: u64,
    pub(super) size_of_headers: u64,
    pub(super) checksum: u32,
    pub(super) checksum_offset: u64,
    pub(super) dll_characteristics: u16,
    pub(super) major_image_version: u16,
    pub(super) symbols: u32,
    /// Where the directory entry of the certificate table is; `None` where there is none.
    pub(super) certificate_entry: Option<u64>,
    /// Offset and size of the certificate table; zeros where it is not signed.
    pub(super) certificates: (u64, u64),
    /// Address and size of the base relocations.
    pub(super) relocations: (u64, u64),
    /// First byte behind the section table.
    pub(super) table_end: u64,
    pub(super) sections: Vec<Section>,
}

impl Image {
    /// Reads the headers from the first bytes of a file (or section) of `length` bytes.
    pub(super) fn parse(header: &[u8], length: u64) -> Result<Self, String> {
        let wrong = |error: object::read::Error| error.to_string();
        let dos = ImageDosHeader::parse(header).map_err(wrong)?;
        let offset = u64::from(dos.nt_headers_offset());
        match optional_header_magic(header).map_err(wrong)? {
            IMAGE_NT_OPTIONAL_HDR64_MAGIC => Self::read::<ImageNtHeaders64>(header, offset, 112, length),
            _ => Self::read::<ImageNtHeaders32>(header, offset, 96, length),
        }
    }

    /// `directories`: where the data directories are in the optional header.
    fn read<Pe: ImageNtHeaders>(header: &[u8], start: u64, directories: u64, length: u64) -> Result<Self, String> {
        let wrong = |error: object::read::Error| error.to_string();
        let mut offset = start;
        let (nt, table) = Pe::parse(header, &mut offset).map_err(wrong)?;
        let (file, optional) = (nt.file_header(), nt.optional_header());
        let sections = nt.sections(header, offset).map_err(wrong)?;
        let optional_start = start.saturating_add(24);
        let directory = |index| {
            let entry = table.get(index);
            entry.map_or((0, 0), |entry| (u64::from(entry.virtual_address.get(LE)), u64::from(entry.size.get(LE))))
        };
        let entry = (table.len() > IMAGE_DIRECTORY_ENTRY_SECURITY)
            .then(|| optional_start.saturating_add(directories).saturating_add(4 * 8));
        Ok(Self {
            length,
            machine: file.machine.get(LE),
            subsystem: optional.subsystem(),
            entry: optional.address_of_entry_point().into(),
            section_alignment: optional.section_alignment().into(),
            file_alignment: optional.file_alignment().into(),
            size_of_image: optional.size_of_image().into(),
            size_of_headers: optional.size_of_headers().into(),
            checksum: optional.check_sum(),
            checksum_offset: optional_start.saturating_add(64),
            dll_characteristics: optional.dll_characteristics(),
            major_image_version: optional.major_image_version(),
            symbols: file.pointer_to_symbol_table.get(LE),
            certificate_entry: entry,
            certificates: directory(IMAGE_DIRECTORY_ENTRY_SECURITY),
            relocations: directory(IMAGE_DIRECTORY_ENTRY_BASERELOC),
            table_end: offset.saturating_add(u64::try_from(sections.len()).unwrap_or(0).saturating_mul(40)),
            sections: sections
                .iter()
                .map(|section| Section {
                    name: String::from_utf8_lossy(section.raw_name()).into_owned(),
                    virtual_address: section.virtual_address.get(LE).into(),
                    virtual_size: section.virtual_size.get(LE).into(),
                    raw_offset: section.pointer_to_raw_data.get(LE).into(),
                    raw_size: section.size_of_raw_data.get(LE).into(),
                })
                .collect(),
        })
    }

    /// The first section with this name, base and profiles alike: for what has to be there once.
    pub(super) fn named(&self, name: &str) -> Option<&Section> {
        self.sections.iter().find(|section| section.name == name)
    }

    /// The bytes that firmware hashes, as long as the file has no gaps: all in front of the certificate table.
    pub(super) fn hashed_end(&self) -> u64 {
        if self.certificates.1 == 0 { self.length } else { self.certificates.0.min(self.length) }
    }

    /// What the stub may be asked to start: the base alone, or each profile over the base. Numbers are indexes into
    /// `sections`. The stub takes profile 0 where nothing else is asked for: with profiles the bare base is never used.
    pub(super) fn profiles(&self) -> Vec<Profile> {
        let heads: Vec<usize> = (0..self.sections.len())
            .filter(|&index| self.sections.get(index).and_then(Section::known) == Some(SectionName::Profile))
            .collect();
        let known = |range: std::ops::Range<usize>| -> Vec<(SectionName, usize)> {
            // What is empty is, for the stub, not there.
            let there = |index: usize| self.sections.get(index).filter(|section| section.virtual_size > 0);
            range.filter_map(|index| Some((there(index)?.known()?, index))).collect()
        };
        let Some(&first) = heads.first() else {
            return vec![Profile { number: None, own: known(0..self.sections.len()), base: Vec::new() }];
        };
        let ends = heads.iter().skip(1).copied().chain([self.sections.len()]);
        let own = heads.iter().zip(ends).map(|(&start, end)| known(start..end));
        own.enumerate().map(|(number, own)| Profile { number: Some(number), own, base: known(0..first) }).collect()
    }
}

/// One choice of the boot menu: its own sections win over the base's.
#[derive(Debug, Clone)]
pub(super) struct Profile {
    /// `None` in an image without profiles.
    pub(super) number: Option<usize>,
    pub(super) own: Vec<(SectionName, usize)>,
    pub(super) base: Vec<(SectionName, usize)>,
}

impl Profile {
    /// The section that counts.
    pub(super) fn get(&self, name: SectionName) -> Option<usize> {
        self.all(name).first().copied()
    }

    /// All sections of the name that may be chosen, for names that may repeat.
    pub(super) fn all(&self, name: SectionName) -> Vec<usize> {
        let of = |list: &[(SectionName, usize)]| -> Vec<usize> {
            list.iter().filter(|(other, _)| *other == name).map(|(_, index)| *index).collect()
        };
        let own = of(&self.own);
        if own.is_empty() { of(&self.base) } else { own }
    }

    /// For messages: nothing in an image without profiles.
    pub(super) fn title(&self) -> String {
        self.number.map_or_else(String::new, |number| format!("profile {number}: "))
    }
}
