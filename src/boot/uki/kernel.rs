//! What the stub demands of the kernel in `.linux`, and the kernel's release where the image tells it.
//!
//! Source: systemd's `src/boot/pe.c` (`pe_kernel_info`, `pe_kernel_check_no_relocation`) and the kernel's
//! `Documentation/arch/x86/boot.rst`.

use std::io::Cursor;

use super::UkiError;
use super::pe::{DIRECTORY_BASE_RELOCATION, NX_COMPAT, PeHeaders, u16_at};

/// A kernel image that a stub will start.
#[derive(Debug)]
pub struct Kernel<'a> {
    /// The whole image.
    pub bytes: &'a [u8],
    /// Whether it runs with memory that is either writable or executable.
    pub nx_compat: bool,
    /// Its SBAT section, empty where it has none.
    pub sbat: &'a [u8],
}

impl<'a> Kernel<'a> {
    /// Checks what the stub will check, so that a kernel that cannot start is refused here and not on the machine.
    ///
    /// # Errors
    /// No PE file; another machine than `machine`; base relocations; sections outside of the file or of their own memory;
    /// an entry point outside of the image.
    pub fn check(bytes: &'a [u8], machine: u16) -> Result<Self, UkiError> {
        if bytes.starts_with(&[0x1f, 0x8b]) || bytes.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
            return Err(UkiError::Kernel("is a compressed file, not an EFI program: unpack it first".to_owned()));
        }
        let pe = PeHeaders::read(&mut Cursor::new(bytes), "the kernel")?;
        let refuse = |problem: String| Err(UkiError::Kernel(problem));
        if pe.machine != machine {
            return refuse(format!(
                "is for machine {:#06x}, the stub for {machine:#06x}: take both from the same architecture",
                pe.machine
            ));
        }
        if pe.directory(DIRECTORY_BASE_RELOCATION).1 != 0 {
            return refuse("has base relocations, which the stub does not apply".to_owned());
        }
        if pe.entry_point >= pe.size_of_image {
            return refuse(format!(
                "starts at {:#x}, outside of its image of {:#x} bytes",
                pe.entry_point, pe.size_of_image
            ));
        }
        if let Some(section) = pe.sections.iter().find(|section| section.raw_size > section.virtual_size) {
            let name = section.name();
            return refuse(format!(
                "has a section {name} with {} bytes in the file and {} in memory",
                section.raw_size, section.virtual_size
            ));
        }
        let sbat = pe.section(".sbat").map_or(&[][..], |section| {
            let start = usize::try_from(section.raw_offset).unwrap_or(usize::MAX);
            let size = usize::try_from(section.content_size()).unwrap_or(0);
            bytes.get(start..start.saturating_add(size)).unwrap_or_default()
        });
        Ok(Self { bytes, nx_compat: pe.dll_characteristics & NX_COMPAT != 0, sbat })
    }
}

/// The release in an x86 kernel's setup header (`kernel_version`), `None` where the image has none.
#[must_use]
pub fn release_of(image: &[u8]) -> Option<String> {
    (image.get(0x202..0x206)? == b"HdrS").then_some(())?;
    let start = usize::from(u16_at(image, 0x20e)?).checked_add(0x200)?;
    let text = image.get(start..start.checked_add(128)?.min(image.len()))?;
    let release = text.split(|&b| b == b' ' || b == 0).next()?;
    let release = std::str::from_utf8(release).ok()?;
    (!release.is_empty() && release.chars().all(|c| c.is_ascii_graphic())).then(|| release.to_owned())
}
