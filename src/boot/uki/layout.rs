//! Where everything lies in the finished file: a pure function from lengths to headers.
//!
//! Sections stand in the file one behind the other without gaps (sbsign and some firmware complain of them), their
//! addresses ascend by the *stub's* section alignment, and `VirtualSize` is the exact length, since that is what the stub
//! measures. A full header table grows, an oversized `.sbat` moves to the end of the table.

use super::UkiError;
use super::pe::{self, NX_COMPAT, PeHeaders, SECTION_HEADER, SectionHeader, field, put, u16_at, u32_at};
use super::stub::{DEBUG_ENTRY, Stub};
use crate::boot::section::SectionName;

/// EFI programs of 2 GiB and more do not load (systemd#31452).
const MAX_IMAGE: u64 = (1 << 31) - 1;
/// `IMAGE_SCN_CNT_CODE | IMAGE_SCN_MEM_READ`: what ukify gives to `.linux`.
const CODE: u32 = 0x4000_0020;
/// `IMAGE_SCN_CNT_INITIALIZED_DATA | IMAGE_SCN_MEM_READ`.
const DATA: u32 = 0x4000_0040;

/// A laid out image.
#[derive(Debug, Clone)]
pub struct Layout {
    /// The file from its first byte to the end of the stub's own sections: final headers included.
    pub head: Vec<u8>,
    /// Where `.sbat` lies in `head`: offset and length; `None` where it is among `sections`.
    pub sbat: Option<(usize, usize)>,
    /// The UKI's sections in file order.
    pub sections: Vec<(SectionName, SectionHeader)>,
    /// Bytes of the file, before a signature.
    pub file_size: u64,
}

impl Layout {
    /// Whether this SBAT data fits where the stub has its own; else it is a section like the others.
    #[must_use]
    pub fn has_room_for(stub: &Stub, sbat: &[u8]) -> bool {
        let mut after = stub.sections.iter().map(|(header, _)| header).skip_while(|header| header.name() != ".sbat");
        let Some(own) = after.next() else { return false };
        let end = after.next().map_or(u32::MAX, |next| next.virtual_address);
        sbat.len() as u64 <= u64::from(end.saturating_sub(own.virtual_address))
    }

    /// Lays out `sections` (in file order, with their lengths in bytes) behind the stub. `sbat` takes the place of the stub's
    /// own, which goes where there is none: it must then be among `sections`.
    ///
    /// Offsets of a section do not depend on the lengths of later ones: a file can be begun before all lengths are known.
    ///
    /// # Errors
    /// A section given twice in one profile, more headers than fit before the first section, an image of 2 GiB or more.
    pub fn new(
        stub: &Stub,
        sbat: Option<&[u8]>,
        sections: &[(SectionName, u64)],
        nx_compat: bool,
    ) -> Result<Self, UkiError> {
        let pe = &stub.pe;
        let too_large = |bytes: u64| UkiError::TooLarge { bytes };
        let mut stub_sections: Vec<(SectionHeader, Vec<u8>)> = Vec::new();
        for (header, content) in &stub.sections {
            match (header.name() == ".sbat", sbat) {
                (false, _) => stub_sections.push((header.clone(), content.clone())),
                (true, Some(sbat)) => {
                    let mut header = header.clone();
                    header.virtual_size = u32::try_from(sbat.len()).map_err(|_| too_large(sbat.len() as u64))?;
                    let mut content = sbat.to_vec();
                    content
                        .resize(align(content.len() as u64, pe.file_alignment).try_into().unwrap_or(content.len()), 0);
                    stub_sections.push((header, content));
                }
                (true, None) => {}
            }
        }
        let ours = sections.to_vec();
        refuse_duplicates(stub, &ours)?;

        let count = stub_sections.len() + ours.len();
        let headers_size = headers_size(pe, &stub_sections, count)?;
        let mut offset = headers_size;
        for (header, content) in &mut stub_sections {
            header.raw_size = u32::try_from(content.len()).map_err(|_| too_large(content.len() as u64))?;
            header.raw_offset =
                if content.is_empty() { 0 } else { u32::try_from(offset).map_err(|_| too_large(offset))? };
            offset = align(offset + content.len() as u64, pe.file_alignment);
        }
        let head_size = offset;
        let mut address = stub_sections
            .iter()
            .map(|(s, _)| u64::from(s.virtual_address) + u64::from(s.virtual_size))
            .max()
            .unwrap_or(0);
        let mut placed = Vec::new();
        for (name, length) in ours {
            address = align(address, pe.section_alignment);
            let raw_size = align(length, pe.file_alignment);
            let narrow = |value: u64| u32::try_from(value).ok().filter(|_| value <= MAX_IMAGE);
            let header = (|| {
                Some(SectionHeader {
                    name: padded(name.as_str()),
                    virtual_size: narrow(length)?,
                    virtual_address: narrow(address)?,
                    raw_size: narrow(raw_size)?,
                    raw_offset: narrow(offset)?,
                    characteristics: if name == SectionName::Linux { CODE } else { DATA },
                })
            })();
            placed.push((name, header.ok_or_else(|| too_large(offset.saturating_add(raw_size)))?));
            offset = offset.saturating_add(raw_size);
            address = address.saturating_add(length);
        }
        let image_size = align(address, pe.section_alignment);
        if offset > MAX_IMAGE || image_size > MAX_IMAGE {
            return Err(too_large(offset.max(image_size)));
        }

        let mut head = headers(pe, headers_size, image_size, nx_compat, &stub_sections, &placed)?;
        fix_debug_directory(stub, &mut stub_sections);
        for (_, content) in &stub_sections {
            head.extend_from_slice(content);
            head.resize(align(head.len() as u64, pe.file_alignment).try_into().unwrap_or(head.len()), 0);
        }
        debug_assert_eq!(head.len() as u64, head_size);
        let sbat = stub_sections.iter().find(|(header, _)| header.name() == ".sbat").and_then(|(header, _)| {
            Some((usize::try_from(header.raw_offset).ok()?, usize::try_from(header.virtual_size).ok()?))
        });
        Ok(Self { head, sbat, sections: placed, file_size: offset })
    }
}

/// One of each in what is common, and in each profile; what the stub chooses from may repeat. The stub's own sections stay.
fn refuse_duplicates(stub: &Stub, sections: &[(SectionName, u64)]) -> Result<(), UkiError> {
    let mut seen = Vec::new();
    for (name, _) in sections {
        if *name == SectionName::Profile {
            seen.clear();
        }
        let of_the_stub = matches!(name, SectionName::Other(_)) && stub.pe.section(name.as_str()).is_some();
        if of_the_stub || (seen.contains(name) && !name.may_repeat()) {
            return Err(UkiError::Duplicate(*name));
        }
        seen.push(*name);
    }
    Ok(())
}

/// Rounds up to a power of two, saturating.
pub(super) fn align(value: u64, alignment: u32) -> u64 {
    value.checked_next_multiple_of(u64::from(alignment)).unwrap_or(u64::MAX)
}

fn padded(name: &str) -> [u8; 8] {
    let mut out = [0; 8];
    for (target, byte) in out.iter_mut().zip(name.bytes()) {
        *target = byte;
    }
    out
}

/// `SizeOfHeaders` for `count` sections: the stub's own where the table fits, else as much as is needed.
fn headers_size(pe: &PeHeaders, stub_sections: &[(SectionHeader, Vec<u8>)], count: usize) -> Result<u64, UkiError> {
    let needed = (pe.table_offset + count * SECTION_HEADER) as u64;
    let size = align(needed.max(pe.bytes.len() as u64), pe.file_alignment);
    let first = stub_sections.iter().map(|(section, _)| u64::from(section.virtual_address)).min().unwrap_or(u64::MAX);
    match size <= first {
        true => Ok(size),
        false => Err(UkiError::Headers { sections: count, needed, available: first }),
    }
}

fn headers(
    pe: &PeHeaders,
    size: u64,
    image_size: u64,
    nx_compat: bool,
    stub_sections: &[(SectionHeader, Vec<u8>)],
    placed: &[(SectionName, SectionHeader)],
) -> Result<Vec<u8>, UkiError> {
    let damaged = || UkiError::Stub("has headers that cannot be rewritten: it is damaged".to_owned());
    let mut head = pe.bytes.clone();
    head.resize(usize::try_from(size).map_err(|_| damaged())?, 0);
    let optional = pe.optional_offset();
    let initialized = u32_at(&head, optional + field::SIZE_OF_INITIALIZED_DATA).ok_or_else(damaged)?;
    let added: u64 = placed.iter().map(|(_, section)| u64::from(section.virtual_size)).sum();
    let initialized = u32::try_from(u64::from(initialized).saturating_add(added)).map_err(|_| damaged())?;
    let mut flags = u16_at(&head, optional + field::DLL_CHARACTERISTICS).ok_or_else(damaged)?;
    if !nx_compat {
        flags &= !NX_COMPAT;
    }
    let count = u16::try_from(stub_sections.len() + placed.len()).map_err(|_| damaged())?;
    let image_size = u32::try_from(image_size).map_err(|_| damaged())?;
    let size = u32::try_from(size).map_err(|_| damaged())?;
    let fields: [(usize, &[u8]); 7] = [
        (pe.pe_offset + 6, &count.to_le_bytes()),
        // A COFF symbol table would lie behind the sections; images do not need one.
        (pe.pe_offset + 12, &[0; 8]),
        (optional + field::SIZE_OF_INITIALIZED_DATA, &initialized.to_le_bytes()),
        (optional + field::SIZE_OF_IMAGE, &image_size.to_le_bytes()),
        (optional + field::SIZE_OF_HEADERS, &size.to_le_bytes()),
        (optional + field::CHECKSUM, &[0; 4]),
        (optional + field::DLL_CHARACTERISTICS, &flags.to_le_bytes()),
    ];
    for (offset, value) in fields {
        put(&mut head, offset, value).ok_or_else(damaged)?;
    }
    let table = stub_sections.iter().map(|(section, _)| section).chain(placed.iter().map(|(_, section)| section));
    for (index, section) in table.enumerate() {
        put(&mut head, pe.table_offset + index * pe::SECTION_HEADER, &section.to_bytes()).ok_or_else(damaged)?;
    }
    Ok(head)
}

/// The debug directory's entries hold file offsets beside addresses: they follow their sections.
fn fix_debug_directory(stub: &Stub, sections: &mut [(SectionHeader, Vec<u8>)]) {
    let Some((index, offset, entries)) = stub.debug_directory() else { return };
    let headers: Vec<SectionHeader> = sections.iter().map(|(header, _)| header.clone()).collect();
    // The index counts the stub's sections; .sbat may have left the list.
    let Some(name) = stub.sections.get(index).map(|(header, _)| header.name) else { return };
    let Some((_, content)) = sections.iter_mut().find(|(header, _)| header.name == name) else { return };
    for entry in 0..entries {
        let at = offset + entry * DEBUG_ENTRY;
        let address = content.get(at..).and_then(|entry| Stub::debug_address(entry, 0));
        if let Some(moved) = address.and_then(|address| Stub::offset_of(&headers, address)) {
            // The field is there: the directory's bounds were checked against this content.
            let _ = put(content, at + 24, &moved.to_le_bytes());
        }
    }
}
