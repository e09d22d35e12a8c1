//! The `.modinfo` section of an ELF file: 32 and 64 bits, both byte orders. Reads the headers and that section only.

use object::elf::{FileHeader32, FileHeader64};
use object::read::ReadRef;
use object::read::elf::{FileHeader, SectionHeader};
use object::{Endianness, FileKind};

use super::ModuleFileError;

/// Bytes that a `.modinfo` may have. The largest of Debian's 6.12 has 40 KiB.
const MODINFO_LIMIT: u64 = 16 << 20;

/// The bytes of `.modinfo`.
///
/// # Errors
/// No ELF file, parts outside of the file, no such section.
pub(super) fn modinfo_section<'data, R: ReadRef<'data>>(data: R) -> Result<&'data [u8], ModuleFileError> {
    match FileKind::parse(data).map_err(elf)? {
        FileKind::Elf32 => section::<FileHeader32<Endianness>, R>(data),
        FileKind::Elf64 => section::<FileHeader64<Endianness>, R>(data),
        other => Err(ModuleFileError::Elf(format!("it is a file of the kind {other:?}"))),
    }
}

/// `e_machine` of an ELF file, from its first bytes; `None` of what is none.
pub(super) fn machine(start: &[u8]) -> Option<u16> {
    let bytes = [*start.get(18)?, *start.get(19)?];
    match (start.get(..4)?, start.get(5)?) {
        (b"\x7fELF", 1) => Some(u16::from_le_bytes(bytes)),
        (b"\x7fELF", 2) => Some(u16::from_be_bytes(bytes)),
        _ => None,
    }
}

fn section<'data, Header, R>(data: R) -> Result<&'data [u8], ModuleFileError>
where
    Header: FileHeader<Endian = Endianness>,
    R: ReadRef<'data>,
{
    let header = Header::parse(data).map_err(elf)?;
    let endian = header.endian().map_err(elf)?;
    let sections = header.sections(endian, data).map_err(elf)?;
    let (_, section) = sections.section_by_name(endian, b".modinfo").ok_or(ModuleFileError::NoModinfo)?;
    let size: u64 = section.sh_size(endian).into();
    if size > MODINFO_LIMIT {
        return Err(ModuleFileError::Elf(format!(".modinfo has {size} bytes, more than {MODINFO_LIMIT}")));
    }
    section.data(endian, data).map_err(elf)
}

fn elf(error: object::read::Error) -> ModuleFileError {
    ModuleFileError::Elf(error.to_string().to_lowercase())
}
