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

/// The names of the undefined symbols in the order of the symbol table, then those that only `__versions` has.
///
/// # Errors
/// No ELF file, parts outside of the file.
pub(super) fn undefined(data: &[u8]) -> Result<Vec<&[u8]>, ModuleFileError> {
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
    // The first is none.
    for symbol in symbols.iter().skip(1) {
        if symbol.st_shndx(endian) != SHN_UNDEF || has_registers && symbol.st_type() == SPARC_REGISTER {
            continue;
        }
        out.push(symbol.name(endian, symbols.strings()).map_err(elf)?);
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
pub(super) fn exported(data: &[u8]) -> Result<Vec<&[u8]>, ModuleFileError> {
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
    for symbol in symbols.iter().skip(1) {
        let name = symbol.name(endian, symbols.strings()).map_err(elf)?;
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

fn until_nul(bytes: &[u8]) -> Option<&[u8]> {
    bytes.split(|&byte| byte == 0).next()
}

fn elf(error: object::read::Error) -> ModuleFileError {
    ModuleFileError::Elf(error.to_string().to_lowercase())
}
