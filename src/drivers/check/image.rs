//! The kernel inside a boot image, as a stream of plain bytes.
//!
//! Sources: `Documentation/arch/x86/boot.rst` (`payload_offset`, since protocol 2.08), `drivers/firmware/efi/libstub/zboot-header.S`,
//! `Documentation/arch/arm64/booting.rst`. An x86 image packs the ELF file `vmlinux`; arm64's `Image` is the kernel itself,
//! as it is, in gzip, or in an EFI program that unpacks it ("zboot").

use std::io::Read;

/// Memory that an xz or lzma decoder may take. `xz -9` needs 65 MiB.
const XZ_MEMORY: u64 = 160 << 20;
/// Largest zstd window, as a power of two; the kernel build packs with `zstd --ultra -22`: 128 MiB.
const ZSTD_WINDOW_LOG: u32 = 27;
/// More plain bytes than a kernel has.
const KERNEL_LIMIT: u64 = 1 << 30;
/// Where an x86 image counts sectors of setup code (`setup_sects`), and how many 0 stands for.
const SETUP_SECTORS: usize = 0x1f1;
const DEFAULT_SETUP_SECTORS: u8 = 4;

/// Why the kernel in an image cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// Not a form that is known.
    #[error("it is neither an x86 bzImage, an arm64 or riscv Image, a zboot image, nor ELF")]
    Unknown,
    /// A place outside of the file.
    #[error("its header names {length} bytes at {offset:#x}, outside of the file")]
    Outside {
        /// From the file's begin.
        offset: u64,
        /// Bytes.
        length: u64,
    },
    /// A compression without a decoder here.
    #[error("its kernel is compressed with {0}, for which there is no decoder here")]
    Unsupported(String),
    /// Decompressing failed.
    #[error("its kernel cannot be decompressed: {0}")]
    Read(#[from] std::io::Error),
}

/// A kernel's plain bytes.
pub type Plain<'a> = Box<dyn Read + 'a>;

/// The plain bytes of the kernel in `image`; at most 1 GiB.
///
/// # Errors
/// A form or a compression that is not known, a header that points out of the file.
pub fn open(image: &[u8]) -> Result<Plain<'_>, ImageError> {
    let plain =
        |bytes: &[u8]| bytes.starts_with(b"\x7fELF") || matches!(bytes.get(0x38..0x3c), Some(b"ARM\x64" | b"RSC\x05"));
    let payload = if plain(image) {
        return Ok(Box::new(image));
    } else if image.get(0x202..0x206) == Some(b"HdrS") {
        let sectors = match image.get(SETUP_SECTORS).copied().unwrap_or(0) {
            0 => DEFAULT_SETUP_SECTORS,
            sectors => sectors,
        };
        let setup = (u64::from(sectors) + 1) * 512;
        part(image, setup + u64::from(u32_at(image, 0x248)), u32_at(image, 0x24c).into())?
    } else if image.starts_with(b"MZ") && image.get(4..8) == Some(b"zimg") {
        part(image, u32_at(image, 8).into(), u32_at(image, 12).into())?
    } else if image.starts_with(&[0x1f, 0x8b]) {
        image
    } else {
        return Err(ImageError::Unknown);
    };
    Ok(Box::new(decoder(payload)?.take(KERNEL_LIMIT)))
}

fn part(image: &[u8], offset: u64, length: u64) -> Result<&[u8], ImageError> {
    let outside = ImageError::Outside { offset, length };
    let (Ok(start), Ok(size)) = (usize::try_from(offset), usize::try_from(length)) else { return Err(outside) };
    start.checked_add(size).and_then(|end| image.get(start..end)).ok_or(outside)
}

/// 0 where the file ends before.
fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |four| u32::from_le_bytes(*four))
}

/// By the first bytes, as the kernel's own tools do. Behind the compressed bytes some forms carry the plain length.
fn decoder(payload: &[u8]) -> Result<Plain<'_>, ImageError> {
    let unsupported = |name: &str| Err(ImageError::Unsupported(name.to_owned()));
    let xz = |stream: Result<xz2::stream::Stream, xz2::stream::Error>| -> Result<Plain<'_>, ImageError> {
        Ok(Box::new(xz2::bufread::XzDecoder::new_stream(payload, stream.map_err(std::io::Error::from)?)))
    };
    match payload {
        [0x7f, b'E', b'L', b'F', ..] => Ok(Box::new(payload)),
        [0x1f, 0x8b, ..] => Ok(Box::new(flate2::bufread::GzDecoder::new(payload))),
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => xz(xz2::stream::Stream::new_stream_decoder(XZ_MEMORY, 0)),
        [0x5d, 0, 0, ..] => xz(xz2::stream::Stream::new_lzma_decoder(XZ_MEMORY)),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(payload)?.single_frame();
            decoder.window_log_max(ZSTD_WINDOW_LOG)?;
            Ok(Box::new(decoder))
        }
        [0x02, 0x21, 0x4c, 0x18, ..] => unsupported("lz4"),
        [0x89, b'L', b'Z', b'O', ..] => unsupported("lzo"),
        [b'B', b'Z', b'h', ..] => unsupported("bzip2"),
        other => unsupported(&format!("something that begins with {}", hex::encode(other.get(..4).unwrap_or(other)))),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    const KERNEL: &[u8] = b"\x7fELF the kernel";

    fn bzimage(payload: &[u8]) -> Vec<u8> {
        let mut image = vec![0; 1024];
        image[SETUP_SECTORS] = 1;
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x248..0x24c].copy_from_slice(&16u32.to_le_bytes());
        image[0x24c..0x250].copy_from_slice(&u32::try_from(payload.len()).unwrap_or(0).to_le_bytes());
        image.extend_from_slice(&[0xcc; 16]);
        image.extend_from_slice(payload);
        image.extend_from_slice(&[0xcc; 16]);
        image
    }

    fn zboot(payload: &[u8]) -> Vec<u8> {
        let mut image = b"MZ\0\0zimg".to_vec();
        image.extend_from_slice(&64u32.to_le_bytes());
        image.extend_from_slice(&u32::try_from(payload.len()).unwrap_or(0).to_le_bytes());
        image.resize(64, 0);
        image.extend_from_slice(payload);
        image
    }

    fn read(image: &[u8]) -> Result<Vec<u8>, String> {
        let mut out = Vec::new();
        open(image).map_err(|error| error.to_string())?.read_to_end(&mut out).map_err(|error| error.to_string())?;
        Ok(out)
    }

    #[test]
    fn every_form_gives_the_same_kernel() -> std::io::Result<()> {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(KERNEL)?;
        let gzip = gzip.finish()?;
        let mut xz = xz2::write::XzEncoder::new(Vec::new(), 0);
        xz.write_all(KERNEL)?;
        let xz = xz.finish()?;
        let zstd = zstd::encode_all(KERNEL, 1)?;
        let options = xz2::stream::LzmaOptions::new_preset(0)?;
        let mut lzma = xz2::write::XzEncoder::new_stream(Vec::new(), xz2::stream::Stream::new_lzma_encoder(&options)?);
        lzma.write_all(KERNEL)?;
        let lzma = lzma.finish()?;
        for (name, payload) in
            [("plain", KERNEL.to_vec()), ("gzip", gzip.clone()), ("xz", xz), ("zstd", zstd), ("lzma", lzma)]
        {
            // What the kernel build appends for the boot code.
            let sized = if name == "plain" { payload } else { [&payload[..], &15u32.to_le_bytes()].concat() };
            assert_eq!(read(&bzimage(&sized)).as_deref(), Ok(KERNEL), "{name}");
            assert_eq!(read(&zboot(&sized)).as_deref(), Ok(KERNEL), "{name}");
        }
        assert_eq!(read(&gzip).as_deref(), Ok(KERNEL));
        let mut arm = vec![0; 64];
        arm[..2].copy_from_slice(b"MZ");
        arm[0x38..0x3c].copy_from_slice(b"ARM\x64");
        assert_eq!(read(&arm).as_ref(), Ok(&arm));
        Ok(())
    }

    #[test]
    fn images_that_cannot_be_read_say_why() {
        let problem = |image: &[u8]| read(image).err().unwrap_or_default();
        assert!(problem(b"").starts_with("it is neither"));
        assert!(problem(&bzimage(b"\x02\x21\x4c\x18....")).contains("compressed with lz4"));
        assert!(problem(&bzimage(b"??")).contains("begins with 3f3f"));
        assert!(problem(&bzimage(b"")).contains("begins with "));
        let mut far = zboot(b"");
        far[8..12].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(problem(&far), "its header names 0 bytes at 0xffffffff, outside of the file");
    }
}
