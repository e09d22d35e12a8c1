//! The systemd stub: the EFI program that a UKI's sections are added to.

use std::fmt;
use std::io::{Cursor, Read, Seek, SeekFrom};

use super::UkiError;
use super::pe::{DIRECTORY_DEBUG, DIRECTORY_SECURITY, PeHeaders, SECTION_HEADER, SectionHeader, field, put, u32_at};
use crate::boot::section::SectionName;

/// A stub is about 100 KiB; anything this large is something else.
pub const MAX_STUB: u64 = 16 << 20;
/// Bytes of an entry of the debug directory, the only place with file offsets besides the section table.
pub(super) const DEBUG_ENTRY: usize = 28;

/// A stub, taken apart so that headers and sections can be placed anew.
#[derive(Clone)]
pub struct Stub {
    pub(super) pe: PeHeaders,
    /// The sections with their bytes in the file, in table order.
    pub(super) sections: Vec<(SectionHeader, Vec<u8>)>,
    version: Option<u32>,
    kind: StubKind,
}

/// What a stub is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StubKind {
    /// A whole UKI (`linuxx64.efi.stub`).
    Uki,
    /// An addon, which a UKI loads (`addonx64.efi.stub`).
    Addon,
}

impl fmt::Debug for Stub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Stub({} sections, systemd {:?})", self.sections.len(), self.version)
    }
}

impl Stub {
    /// Takes a stub apart.
    ///
    /// # Errors
    /// No PE file, a signed one, one with sections of a UKI already in it, or one without `.sdmagic` or `.sbat`.
    pub fn parse(bytes: &[u8]) -> Result<Self, UkiError> {
        let refuse = |problem: &str| Err(UkiError::Stub(problem.to_owned()));
        let pe = PeHeaders::read(&mut Cursor::new(bytes), "the stub")?;
        if pe.directory(DIRECTORY_SECURITY) != (0, 0) {
            return refuse("is signed already, its signature would break: give the unsigned stub");
        }
        if pe.section(".linux").is_some() {
            return refuse("has a kernel in it, it is a whole UKI: give the bare stub (linuxx64.efi.stub)");
        }
        let mut sections = Vec::new();
        for section in &pe.sections {
            let start = usize::try_from(section.raw_offset).unwrap_or(usize::MAX);
            let size = usize::try_from(section.raw_size).unwrap_or(usize::MAX);
            let content = bytes.get(start..start.saturating_add(size)).unwrap_or_default();
            sections.push((section.clone(), content.to_vec()));
        }
        let ascending = sections.windows(2).all(|pair| match pair {
            [(a, _), (b, _)] => {
                u64::from(a.virtual_address) + u64::from(a.virtual_size) <= u64::from(b.virtual_address)
            }
            _ => true,
        });
        if !ascending {
            return refuse("has sections that overlap or are out of order");
        }
        let stub = Self { version: None, kind: StubKind::Uki, pe, sections };
        let Some(magic) = stub.content(".sdmagic") else {
            return refuse(
                "has no .sdmagic section: it is not systemd's stub (linuxx64.efi.stub of package systemd-boot-efi)",
            );
        };
        let says = |name: &[u8]| magic.windows(name.len()).any(|window| window == name);
        let kind = match (says(b"systemd-stub"), says(b"systemd-addon")) {
            (true, _) => StubKind::Uki,
            (_, true) => StubKind::Addon,
            _ => {
                return refuse(
                    "is another program of systemd's (its .sdmagic says so): give linuxx64.efi.stub, or addonx64.efi.stub for an addon",
                );
            }
        };
        if kind == StubKind::Uki && stub.content(".sbat").is_none() {
            return refuse("has no .sbat section: firmware with a shim would refuse it");
        }
        let version = version_of(magic);
        Ok(Self { version, kind, ..stub })
    }

    /// The stub in a UKI that was made of it: the UKI's headers and the sections that are not its own. `.sbat` is the merged one.
    ///
    /// # Errors
    /// No UKI, or one whose stub is larger than any.
    pub fn of_uki(file: &mut (impl Read + Seek), what: &str) -> Result<Self, UkiError> {
        let pe = PeHeaders::read(file, what)?;
        let bad = |problem: &str| UkiError::Pe { what: what.to_owned(), problem: problem.to_owned() };
        let first = pe
            .sections
            .iter()
            .position(|section| SectionName::parse(&section.name()).is_some_and(|name| name != SectionName::Sbat));
        let first = first.ok_or_else(|| bad("it has no sections of a UKI"))?;
        let (own, added) = pe.sections.split_at(first);
        let end =
            own.iter().map(|section| u64::from(section.raw_offset) + u64::from(section.raw_size)).max().unwrap_or(0);
        if end > MAX_STUB {
            return Err(bad("what comes before its first section is larger than any stub"));
        }
        let added_bytes: u32 = added.iter().fold(0, |sum, section| sum.saturating_add(section.virtual_size));
        let count = u16::try_from(first).map_err(|_| bad("it has too many sections"))?;
        let mut bytes = vec![0; usize::try_from(end).unwrap_or(0)];
        file.seek(SeekFrom::Start(0))?;
        file.read_exact(&mut bytes)?;
        // As before the sections came: their headers, what they added to SizeOfInitializedData, and the signature go.
        let table_end = pe.table_offset + first * SECTION_HEADER;
        if let Some(rest) = bytes.get_mut(table_end..pe.bytes.len()) {
            rest.fill(0);
        }
        let optional = pe.optional_offset();
        let initialized = u32_at(&bytes, optional + field::SIZE_OF_INITIALIZED_DATA).unwrap_or(0);
        let security = optional + field::DIRECTORIES + DIRECTORY_SECURITY * 8;
        let fields: [(usize, &[u8]); 3] = [
            (pe.pe_offset + 6, &count.to_le_bytes()),
            (optional + field::SIZE_OF_INITIALIZED_DATA, &initialized.saturating_sub(added_bytes).to_le_bytes()),
            (security, &[0; 8]),
        ];
        for (offset, value) in fields {
            put(&mut bytes, offset, value).ok_or_else(|| bad("its headers are cut short"))?;
        }
        Self::parse(&bytes)
    }

    /// What it is for.
    #[must_use]
    pub fn kind(&self) -> StubKind {
        self.kind
    }

    /// The machine it runs on: `IMAGE_FILE_HEADER.Machine`.
    #[must_use]
    pub fn machine(&self) -> u16 {
        self.pe.machine
    }

    /// systemd's version, 257 for `257.13-1~deb13u1`; `None` where it does not tell.
    #[must_use]
    pub fn version(&self) -> Option<u32> {
        self.version
    }

    /// Its SBAT data.
    #[must_use]
    pub fn sbat(&self) -> &[u8] {
        self.content(".sbat").unwrap_or_default()
    }

    fn content(&self, name: &str) -> Option<&[u8]> {
        let (header, content) = self.sections.iter().find(|(header, _)| header.name() == name)?;
        content.get(..usize::try_from(header.content_size()).ok()?)
    }

    /// Where the debug directory's entries lie: index of the section, offset in it, number of entries.
    pub(super) fn debug_directory(&self) -> Option<(usize, usize, usize)> {
        let (address, size) = self.pe.directory(DIRECTORY_DEBUG);
        let index = self.sections.iter().position(|(header, content)| {
            address >= header.virtual_address
                && u64::from(address - header.virtual_address) + u64::from(size) <= content.len() as u64
        })?;
        let offset = usize::try_from(address - self.sections.get(index)?.0.virtual_address).ok()?;
        let entries = usize::try_from(size).ok()? / DEBUG_ENTRY;
        (entries > 0).then_some((index, offset, entries))
    }

    /// The file offset that belongs to an address, for sections placed as in `placed`.
    pub(super) fn offset_of(placed: &[SectionHeader], address: u32) -> Option<u32> {
        let section =
            placed.iter().find(|s| address >= s.virtual_address && address - s.virtual_address < s.raw_size)?;
        section.raw_offset.checked_add(address - section.virtual_address)
    }

    /// The address that an entry of the debug directory describes.
    pub(super) fn debug_address(content: &[u8], entry: usize) -> Option<u32> {
        u32_at(content, entry + 20)
    }
}

/// Of `.sdmagic`: `#### LoaderInfo: systemd-stub 257.13-1~deb13u1 ####` -> 257.
#[must_use]
pub fn version_of(magic: &[u8]) -> Option<u32> {
    let text = String::from_utf8_lossy(magic).into_owned();
    let (_, after) = text.split_once("systemd-stub ")?;
    after.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_the_magic() {
        assert_eq!(version_of(b"#### LoaderInfo: systemd-stub 257.13-1~deb13u1 ####"), Some(257));
        assert_eq!(version_of(b"#### LoaderInfo: systemd-stub 252 ####\0"), Some(252));
        assert_eq!(version_of(b"#### LoaderInfo: systemd-boot 252 ####"), None);
    }

    #[test]
    fn other_files_are_refused() {
        for bytes in [&b""[..], b"MZ", &[0; 4096]] {
            assert!(matches!(Stub::parse(bytes), Err(UkiError::Pe { .. })));
        }
    }
}
