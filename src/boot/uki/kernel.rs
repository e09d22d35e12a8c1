//! What the stub demands of the kernel in `.linux`, and the kernel's release where the image tells it.
//!
//! Source: systemd's `src/boot/pe.c` (`pe_kernel_info`, `pe_kernel_check_no_relocation`) and the kernel's
//! `Documentation/arch/x86/boot.rst`.

use std::io::{Cursor, Read};

use super::UkiError;
use super::pe::{DIRECTORY_BASE_RELOCATION, NX_COMPAT, PeHeaders, u16_at, u32_at};

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

/// A kernel as an EFI program: a file that is compressed as a whole (arm64's `Image.gz`) is unpacked, anything else stays. What
/// EFI starts by itself and unpacks then (zboot) is a program.
///
/// # Errors
/// Damaged compressed data, or such that unpacks to more than `limit` bytes.
pub fn unpack(bytes: Vec<u8>, limit: u64) -> Result<Vec<u8>, UkiError> {
    if let Some(decoder) = decoder(&bytes) {
        return read_all(decoder, limit);
    }
    Ok(bytes)
}

fn read_all(decoder: std::io::Result<Box<dyn Read + '_>>, limit: u64) -> Result<Vec<u8>, UkiError> {
    let bad = |error: std::io::Error| UkiError::Kernel(format!("is compressed, and cannot be unpacked: {error}"));
    let mut out = Vec::new();
    decoder.map_err(bad)?.take(limit.saturating_add(1)).read_to_end(&mut out).map_err(bad)?;
    match out.len() as u64 > limit {
        true => Err(UkiError::Kernel(format!("is compressed, and unpacks to more than {limit} bytes"))),
        false => Ok(out),
    }
}

/// By the first bytes; `None` where they are none of a compressed file.
fn decoder(bytes: &[u8]) -> Option<std::io::Result<Box<dyn Read + '_>>> {
    Some(match bytes {
        [0x1f, 0x8b, ..] => Ok(Box::new(flate2::read::GzDecoder::new(bytes))),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => zstd::Decoder::new(bytes).map(|decoder| Box::new(decoder.single_frame()) as _),
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Ok(Box::new(xz2::read::XzDecoder::new(bytes))),
        [0x5d, 0, 0, ..] => xz2::stream::Stream::new_lzma_decoder(u64::MAX)
            .map(|stream| Box::new(xz2::read::XzDecoder::new_stream(bytes, stream)) as _)
            .map_err(std::io::Error::from),
        _ => return None,
    })
}

/// The compressed kernel in a zboot image (`drivers/firmware/efi/libstub/zboot-header.S`): offset and size at bytes 8 and 12.
fn zboot_payload(image: &[u8]) -> Option<&[u8]> {
    (image.get(..2)? == b"MZ" && image.get(4..8)? == b"zimg").then_some(())?;
    let start = usize::try_from(u32_at(image, 8)?).ok()?;
    let size = usize::try_from(u32_at(image, 12)?).ok()?;
    image.get(start..start.checked_add(size)?.min(image.len()))
}

/// The release of a kernel: what an x86 kernel's setup header says, else what the kernel would print first
/// (`Linux version ...`), unpacked where it is a zboot image. `None` where it does not tell.
#[must_use]
pub fn release_of(image: &[u8], limit: u64) -> Option<String> {
    if let Some(release) = setup_release(image) {
        return Some(release);
    }
    match zboot_payload(image).and_then(decoder) {
        Some(decoder) => read_all(decoder, limit).ok().and_then(|image| banner_release(&image)),
        None => banner_release(image),
    }
}

/// `linux_banner` (`init/version.c`): the first that has a version and a parenthesis after it; printk has formats alike.
fn banner_release(image: &[u8]) -> Option<String> {
    const BANNER: &[u8] = b"Linux version ";
    memchr::memmem::find_iter(image, BANNER).find_map(|at| {
        let rest = image.get(at + BANNER.len()..)?;
        let end = rest.iter().take(128).position(|b| *b == b' ')?;
        let release = std::str::from_utf8(rest.get(..end)?).ok()?;
        let is_release =
            release.starts_with(|c: char| c.is_ascii_digit()) && release.chars().all(|c| c.is_ascii_graphic());
        (is_release && rest.get(end + 1) == Some(&b'(')).then(|| release.to_owned())
    })
}

/// The release in an x86 kernel's setup header (`kernel_version`), `None` where the image has none.
fn setup_release(image: &[u8]) -> Option<String> {
    (image.get(0x202..0x206)? == b"HdrS").then_some(())?;
    let start = usize::from(u16_at(image, 0x20e)?).checked_add(0x200)?;
    let text = image.get(start..start.checked_add(128)?.min(image.len()))?;
    let release = text.split(|&b| b == b' ' || b == 0).next()?;
    let release = std::str::from_utf8(release).ok()?;
    (!release.is_empty() && release.chars().all(|c| c.is_ascii_graphic())).then(|| release.to_owned())
}
