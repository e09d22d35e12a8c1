//! Unpacks an initrd as the kernel would, without writing anything: `init/initramfs.c` and its decompressors.
//!
//! Archives one after the other, plain or compressed, zeros between them. Own code, not the reader of `root/initrd`, which
//! reads what this program writes: one archive in one stream.

use std::io::{BufRead, BufReader, ErrorKind, Read};

use super::listing::Listing;
use super::source::{Part, Source};

/// The kernel's `ZSTD_WINDOWSIZE_MAX`.
const WINDOW_LIMIT: u64 = 128 << 20;
const PATH_MAX: u64 = 4096;
const HEADER: usize = 110;
/// Memory that an xz stream may ask for, its dictionary above all.
const XZ_LIMIT: u64 = 128 << 20;
/// More than any machine unpacks; a small file could ask for weeks of work.
const BYTES_LIMIT: u64 = 64 << 30;
/// Parts that are named in the report.
const PARTS: usize = 8;

/// What an initrd unpacks to.
#[derive(Debug, Default)]
pub(super) struct Unpacked {
    /// Compressions, in order: `zstd`, `gzip`, `xz`, `cpio` for plain archives.
    pub(super) parts: Vec<&'static str>,
    /// Bytes of files and directories in memory: whole pages.
    pub(super) bytes: u64,
    /// The largest window or dictionary, bytes.
    pub(super) window: u64,
    /// What was found of the paths that matter.
    pub(super) listing: Listing,
}

impl Unpacked {
    /// Each change of the compression once.
    fn part(&mut self, name: &'static str) {
        if self.parts.last() != Some(&name) && self.parts.len() < PARTS {
            self.parts.push(name);
        }
    }
}

/// Why an initrd cannot be unpacked.
#[derive(Debug)]
pub(super) enum Trouble {
    /// The kernel would stop here.
    Refused(String),
    /// This program cannot tell.
    Unknown(String),
    /// The system cannot read the file.
    Io(std::io::Error),
}

fn refused<T>(problem: impl Into<String>) -> Result<T, Trouble> {
    Err(Trouble::Refused(problem.into()))
}

/// Unpacks `length` bytes at `offset`.
pub(super) fn unpack(source: &dyn Source, offset: u64, length: u64) -> Result<Unpacked, Trouble> {
    let mut input =
        Counted { inner: BufReader::with_capacity(128 << 10, Part::new(source, offset, length)), position: 0 };
    let mut out = Unpacked::default();
    while let Some(first) = input.peek()? {
        match first {
            0 => input.consume(1),
            b'0' if input.position.is_multiple_of(4) => {
                out.part("cpio");
                archive(&mut input, &mut out)?;
            }
            _ => compressed(&mut input, &mut out)?,
        }
    }
    if out.parts.is_empty() { refused("it holds nothing") } else { Ok(out) }
}

/// One compressed part: whole archives and zeros.
fn compressed<R: Read>(input: &mut Counted<BufReader<R>>, out: &mut Unpacked) -> Result<(), Trouble> {
    let position = input.position;
    let head = input.fill_buf().map_err(Trouble::Io)?;
    if head.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        let window = zstd_window(head).unwrap_or(0);
        if window > WINDOW_LIMIT {
            return refused(format!(
                "its zstd window is {} MiB, more than the {} MiB that the kernel takes: use --long=27",
                window >> 20,
                WINDOW_LIMIT >> 20
            ));
        }
        out.part("zstd");
        out.window = out.window.max(window);
        let mut decoder = zstd::Decoder::with_buffer(input).map_err(Trouble::Io)?.single_frame();
        decoder.window_log_max(27).map_err(Trouble::Io)?;
        return content(decoder, "zstd", out);
    }
    if head.starts_with(&[0x1f, 0x8b]) {
        out.part("gzip");
        return content(flate2::bufread::GzDecoder::new(input), "gzip", out);
    }
    if head.starts_with(&[0xfd, b'7', b'z', b'X', b'Z', 0]) {
        // Stream flags, RFC-less but stable: the low four bits of the eighth byte name the check.
        if head.get(7).is_some_and(|flags| flags & 0x0f > 1) {
            return refused(
                "its xz stream has another check than CRC32, which the kernel does not know: use --check=crc32",
            );
        }
        out.part("xz");
        let stream = xz2::stream::Stream::new_stream_decoder(XZ_LIMIT, 0);
        let stream = stream.map_err(|error| Trouble::Unknown(format!("xz: {error}")))?;
        return content(xz2::bufread::XzDecoder::new_stream(input, stream), "xz", out);
    }
    for (magic, name) in
        [(&b"BZh"[..], "bzip2"), (&[0x5d, 0], "lzma"), (&[0x89, b'L', b'Z', b'O'], "lzo"), (&[2, 0x21], "lz4")]
    {
        if head.starts_with(magic) {
            return Err(Trouble::Unknown(format!("{name} is not read here")));
        }
    }
    refused(format!("at byte {position} there is neither an archive nor a compression that the kernel knows"))
}

fn content(decoder: impl Read, name: &'static str, out: &mut Unpacked) -> Result<(), Trouble> {
    let mut input = Counted { inner: BufReader::with_capacity(128 << 10, decoder), position: 0 };
    let mut archives = 0;
    let broken = |trouble| match trouble {
        // A decoder's own words for damaged input arrive as errors of reading.
        Trouble::Io(error) => Trouble::Refused(format!("its {name} stream is damaged or cut short: {error}")),
        other => other,
    };
    loop {
        match input.peek().map_err(broken)? {
            None if archives == 0 => return refused(format!("its {name} stream holds no archive")),
            None => return Ok(()),
            Some(0) => input.consume(1),
            Some(b'0') if input.position.is_multiple_of(4) => {
                archive(&mut input, out).map_err(broken)?;
                archives += 1;
            }
            Some(_) => return refused(format!("there is junk at byte {} of its {name} stream", input.position)),
        }
    }
}

/// One archive, to its trailer.
fn archive(input: &mut impl Input, out: &mut Unpacked) -> Result<(), Trouble> {
    loop {
        let offset = input.position();
        let cut = || format!("the archive is cut short: no trailer behind byte {offset}");
        let mut header = [0; HEADER];
        fill(input, &mut header, cut)?;
        let Some(digits) = header.strip_prefix(b"070701").or_else(|| header.strip_prefix(b"070702")) else {
            return refused(format!("there is no header of a newc archive at byte {offset}"));
        };
        let mut fields = [0_u64; 13];
        for (field, digits) in fields.iter_mut().zip(digits.chunks_exact(8)) {
            let text =
                std::str::from_utf8(digits).ok().filter(|text| text.bytes().all(|digit| digit.is_ascii_hexdigit()));
            match text.and_then(|text| u64::from_str_radix(text, 16).ok()) {
                Some(value) => *field = value,
                None => return refused(format!("the header at byte {offset} has a field that is no number")),
            }
        }
        let [_, mode, _, _, _, _, length, _, _, _, _, name_length, _] = fields;
        if !(2..=PATH_MAX).contains(&name_length) {
            return refused(format!("the header at byte {offset} has a name of {name_length} bytes"));
        }
        let mut name = vec![0; usize::try_from(name_length).unwrap_or(0)];
        fill(input, &mut name, cut)?;
        if name.pop() != Some(0) || name.contains(&0) {
            return refused(format!("the header at byte {offset} has a name that does not end where it says"));
        }
        align(input, cut)?;
        if name == b"TRAILER!!!" {
            return Ok(());
        }
        let is_link = mode & 0o170_000 == 0o120_000;
        if is_link && length > PATH_MAX {
            return refused(format!("the link at byte {offset} has a target of {length} bytes"));
        }
        let path: Vec<u8> =
            name.strip_prefix(b"./").unwrap_or(&name).iter().copied().skip_while(|byte| *byte == b'/').collect();
        let keep = is_link || length <= Listing::wants(&path);
        let mut kept = Vec::new();
        let count = match keep {
            true => input.by_ref().take(length).read_to_end(&mut kept).map(|count| count as u64),
            false => std::io::copy(&mut input.by_ref().take(length), &mut std::io::sink()),
        };
        if count.map_err(Trouble::Io)? < length {
            return refused(cut());
        }
        align(input, cut)?;
        // What tmpfs takes: whole pages for what has content.
        let pages = if is_link { 0 } else { length.div_ceil(4096).saturating_mul(4096) };
        out.bytes = out.bytes.saturating_add(pages);
        if out.bytes > BYTES_LIMIT {
            return refused(format!("it unpacks to more than {} GiB", BYTES_LIMIT >> 30));
        }
        out.listing.add(path, u32::try_from(mode).unwrap_or(0), length, kept);
    }
}

fn fill(input: &mut impl Input, bytes: &mut [u8], cut: impl Fn() -> String) -> Result<(), Trouble> {
    input.read_exact(bytes).map_err(|error| match error.kind() {
        ErrorKind::UnexpectedEof => Trouble::Refused(cut()),
        _ => Trouble::Io(error),
    })
}

fn align(input: &mut impl Input, cut: impl Fn() -> String) -> Result<(), Trouble> {
    let padding = input.position().next_multiple_of(4).saturating_sub(input.position());
    let mut bytes = [0; 4];
    fill(input, bytes.get_mut(..usize::try_from(padding).unwrap_or(0)).unwrap_or_default(), cut)
}

/// Something that knows how far it was read.
trait Input: Read {
    fn position(&self) -> u64;
}

struct Counted<R> {
    inner: R,
    position: u64,
}

impl<R: BufRead> Counted<R> {
    fn peek(&mut self) -> Result<Option<u8>, Trouble> {
        loop {
            match self.inner.fill_buf() {
                Ok(bytes) => return Ok(bytes.first().copied()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(Trouble::Io(error)),
            }
        }
    }
}

impl<R: BufRead> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.position = self.position.saturating_add(count as u64);
        Ok(count)
    }
}

impl<R: BufRead> BufRead for Counted<R> {
    fn fill_buf(&mut self) -> std::io::Result<&[u8]> {
        self.inner.fill_buf()
    }

    fn consume(&mut self, count: usize) {
        self.position = self.position.saturating_add(count as u64);
        self.inner.consume(count);
    }
}

impl<R: BufRead> Input for Counted<R> {
    fn position(&self) -> u64 {
        self.position
    }
}

/// The window that a zstd frame asks for (RFC 8878, 3.1.1.1).
fn zstd_window(frame: &[u8]) -> Option<u64> {
    let descriptor = *frame.get(4)?;
    if descriptor & 0x20 == 0 {
        let byte = u64::from(*frame.get(5)?);
        let base = 1_u64 << (10 + (byte >> 3));
        return Some(base + base / 8 * (byte & 7));
    }
    // One segment: the window is the content.
    let start = 5 + [0, 1, 2, 4].get(usize::from(descriptor & 3))?;
    let number = |length: usize| -> Option<u64> {
        let bytes = frame.get(start..start + length)?;
        Some(bytes.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte)))
    };
    match descriptor >> 6 {
        0 => number(1),
        1 => number(2).map(|value| value + 256),
        2 => number(4),
        _ => number(8),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn entry(name: &str, mode: u32, content: &[u8]) -> Vec<u8> {
        let mut out = b"070701".to_vec();
        let length = u32::try_from(content.len()).unwrap();
        for field in [1, mode, 0, 0, 1, 0, length, 0, 0, 0, 0, u32::try_from(name.len() + 1).unwrap(), 0] {
            out.extend(format!("{field:08x}").bytes());
        }
        out.extend(name.bytes().chain([0]));
        out.resize(out.len().next_multiple_of(4), 0);
        out.extend(content);
        out.resize(out.len().next_multiple_of(4), 0);
        out
    }

    fn whole(name: &str) -> Vec<u8> {
        [entry(name, 0o100_644, b"x"), entry("TRAILER!!!", 0, b"")].concat()
    }

    fn zstd(bytes: &[u8], window: u32) -> Vec<u8> {
        let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
        encoder.set_parameter(zstd::stream::raw::CParameter::WindowLog(window)).unwrap();
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn xz(bytes: &[u8], check: xz2::stream::Check) -> Vec<u8> {
        let stream = xz2::stream::Stream::new_easy_encoder(1, check).unwrap();
        let mut encoder = xz2::write::XzEncoder::new_stream(Vec::new(), stream);
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn parts(bytes: &[u8]) -> Result<Vec<&'static str>, String> {
        match unpack(&bytes, 0, bytes.len() as u64) {
            Ok(unpacked) => Ok(unpacked.parts),
            Err(Trouble::Refused(problem)) => Err(problem),
            Err(other) => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_the_kernel_reads_is_read() {
        let (a, b) = (whole("a"), whole("b"));
        assert_eq!(parts(&a), Ok(vec!["cpio"]));
        assert_eq!(parts(&[&a[..], &[0; 512], &b].concat()), Ok(vec!["cpio"]));
        let mixed = [&a[..], &zstd(&b, 20), &gzip(&a), &[0; 7], &xz(&b, xz2::stream::Check::Crc32)].concat();
        assert_eq!(parts(&mixed), Ok(vec!["cpio", "zstd", "gzip", "xz"]));
        assert_eq!(parts(&zstd(&[&a[..], &[0; 512], &b, &[0; 3]].concat(), 20)), Ok(vec!["zstd"]));
    }

    #[test]
    fn what_the_kernel_refuses_is_refused() {
        let a = whole("a");
        let problem = |bytes: &[u8]| parts(bytes).unwrap_err();
        assert!(problem(&[]).contains("nothing"));
        assert!(problem(&[0; 64]).contains("nothing"));
        for length in 1..a.len() {
            assert!(parts(&a[..length]).is_err(), "{length}");
        }
        for part in [zstd(&a, 20), gzip(&a), xz(&a, xz2::stream::Check::Crc32)] {
            for length in 1..part.len() {
                assert!(parts(&part[..length]).is_err(), "{length} of {}", part.len());
            }
        }
        assert!(problem(&[&a[..], b"junk"].concat()).contains("neither"));
        assert!(problem(&zstd(&[&a[..], b"junk"].concat(), 20)).contains("junk"));
        // An archive at an odd place.
        assert!(problem(&[&a[..], &[0; 3], &a].concat()).contains("neither"));
        assert!(problem(&xz(&a, xz2::stream::Check::Crc64)).contains("CRC32"));
        assert!(problem(&zstd(&a, 28)).contains("window"));
    }
}
