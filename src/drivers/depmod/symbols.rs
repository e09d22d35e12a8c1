//! The symbols that a module takes from others and those that it gives, from its whole (decompressed) ELF file: 32 and 64
//! bits, both byte orders. What counts is what kmod reads (`libkmod/libkmod-elf.c`).

use object::elf::{EM_SPARC, EM_SPARCV9, FileHeader32, FileHeader64, SHN_UNDEF, SHT_SYMTAB};
use object::read::elf::{FileHeader, SectionHeader, SectionTable, Sym};
use object::{Endianness, FileKind};

use crate::drivers::inventory::ModuleFileError;

/// Bytes of an entry of `__versions`: a checksum of the word's size, then a name, padded.
const VERSION: usize = 64;
/// `STT_REGISTER`: a register that the program reserves, an undefined symbol in form only.
const SPARC_REGISTER: u8 = 13;

/// Bytes of all names read for each byte of the file. Names may share their ends; real modules stay below 1.
const MOST_NAMES: usize = 4;

/// The names of the undefined symbols in the order of the symbol table, then those that only `__versions` has.
///
/// # Errors
/// No ELF file, parts outside of the file.
pub fn undefined(data: &[u8]) -> Result<Vec<&[u8]>, ModuleFileError> {
    match FileKind::parse(data).map_err(elf)? {
        FileKind::Elf32 => undefined_of::<FileHeader32<Endianness>>(data),
        FileKind::Elf64 => undefined_of::<FileHeader64<Endianness>>(data),
        other => Err(ModuleFileError::Elf(format!("it is a file of the kind {other:?}"))),
    }
}

fn undefined_of<Header: FileHeader<Endian = Endianness>>(data: &[u8]) -> Result<Vec<&[u8]>, ModuleFileError> {
    let header = Header::parse(data).map_err(elf)?;
    let endian = header.endian().map_err(elf)?;
    let sections = header.sections(endian, data).map_err(elf)?;
    let symbols = sections.symbols(endian, data, SHT_SYMTAB).map_err(elf)?;
    let has_registers = matches!(header.e_machine(endian), EM_SPARC | EM_SPARCV9);
    let mut out = Vec::new();
    let mut room = data.len().saturating_mul(MOST_NAMES);
    // The first is none.
    for symbol in symbols.iter().skip(1) {
        if symbol.st_shndx(endian) != SHN_UNDEF || has_registers && symbol.st_type() == SPARC_REGISTER {
            continue;
        }
        let name = symbol.name(endian, symbols.strings()).map_err(elf)?;
        room = left(room, name)?;
        out.push(name);
    }
    let checksum = if header.is_type_64() { 8 } else { 4 };
    let versions = section(&sections, endian, data, b"__versions")?;
    // Names that were there before do no harm: where a module is named first is what counts.
    out.extend(versions.chunks_exact(VERSION).filter_map(|entry| until_nul(entry.get(checksum..)?)));
    out.retain(|name| !name.is_empty());
    Ok(out)
}

/// The names of the symbols that the module exports.
///
/// # Errors
/// As [`undefined`].
pub fn exported(data: &[u8]) -> Result<Vec<&[u8]>, ModuleFileError> {
    match FileKind::parse(data).map_err(elf)? {
        FileKind::Elf32 => exported_of::<FileHeader32<Endianness>>(data),
        FileKind::Elf64 => exported_of::<FileHeader64<Endianness>>(data),
        other => Err(ModuleFileError::Elf(format!("it is a file of the kind {other:?}"))),
    }
}

fn exported_of<Header: FileHeader<Endian = Endianness>>(data: &[u8]) -> Result<Vec<&[u8]>, ModuleFileError> {
    let header = Header::parse(data).map_err(elf)?;
    let endian = header.endian().map_err(elf)?;
    let sections = header.sections(endian, data).map_err(elf)?;
    let symbols = sections.symbols(endian, data, SHT_SYMTAB).map_err(elf)?;
    let mut out = Vec::new();
    let mut room = data.len().saturating_mul(MOST_NAMES);
    for symbol in symbols.iter().skip(1) {
        let name = symbol.name(endian, symbols.strings()).map_err(elf)?;
        room = left(room, name)?;
        out.extend(name.strip_prefix(b"__crc_"));
    }
    // A kernel without checksums of symbols.
    if out.is_empty() {
        let strings = section(&sections, endian, data, b"__ksymtab_strings")?;
        out.extend(strings.split(|&byte| byte == 0).filter(|name| !name.is_empty()));
    }
    Ok(out)
}

/// The bytes of a section; none where it is not there.
fn section<'data, Header: FileHeader<Endian = Endianness>>(
    sections: &SectionTable<'data, Header>,
    endian: Endianness,
    data: &'data [u8],
    name: &[u8],
) -> Result<&'data [u8], ModuleFileError> {
    match sections.section_by_name(endian, name) {
        Some((_, section)) => section.data(endian, data).map_err(elf),
        None => Ok(&[]),
    }
}

/// What is left of `room` behind a name. Symbols may all have one name that is as long as the file: reading them all would
/// take the square of its length.
fn left(room: usize, name: &[u8]) -> Result<usize, ModuleFileError> {
    let too_long =
        || ModuleFileError::Elf(format!("its symbols have names of more than {MOST_NAMES} times its length"));
    room.checked_sub(name.len()).ok_or_else(too_long)
}

fn until_nul(bytes: &[u8]) -> Option<&[u8]> {
    bytes.split(|&byte| byte == 0).next()
}

fn elf(error: object::read::Error) -> ModuleFileError {
    ModuleFileError::Elf(error.to_string().to_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A 64-bit file with `count` undefined symbols that share one name of `length` bytes.
    fn sharing(count: usize, length: usize) -> Vec<u8> {
        let strings = [b"\0", "n".repeat(length).as_bytes(), b"\0.symtab\0.strtab\0"].concat();
        let table_at = 64 + strings.len().next_multiple_of(8);
        let table_length = 24 * (count + 1);
        let word = |value: usize| u64::try_from(value).unwrap().to_le_bytes();
        let half = |value: usize| u32::try_from(value).unwrap().to_le_bytes();
        let mut out = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x01\0\x3e\0\x01\0\0\0".to_vec();
        out.extend([word(0), word(0), word(table_at + table_length)].concat());
        out.extend(b"\0\0\0\0\x40\0\0\0\0\0\x40\0\x03\0\x02\0");
        out.extend(&strings);
        out.resize(table_at + 24, 0);
        for _ in 0..count {
            out.extend([&half(1)[..], &[0x10, 0, 0, 0], &[0; 16]].concat());
        }
        let section = |name: usize, kind: usize, at: usize, length: usize, link: usize, entry: usize| {
            let places = [word(0), word(0), word(at), word(length)].concat();
            [&half(name)[..], &half(kind), &places, &half(link), &half(1), &word(1), &word(entry)].concat()
        };
        out.extend([0; 64]);
        out.extend(section(length + 2, 2, table_at, table_length, 2, 24));
        out.extend(section(length + 10, 3, 64, strings.len(), 0, 0));
        out
    }

    #[test]
    fn a_name_that_all_symbols_share_is_not_read_for_ever() {
        let sound = sharing(3, 20);
        assert_eq!(undefined(&sound).unwrap(), [&[b'n'; 20][..]; 3]);
        assert!(exported(&sound).unwrap().is_empty());
        let hostile = sharing(2000, 60_000);
        assert!(undefined(&hostile).unwrap_err().to_string().contains("4 times its length"));
        assert!(exported(&hostile).is_err());
    }
}
