//! zstd, set so that the same input gives the same bytes on every machine.
//!
//! The library's own multi-threading is used even for one worker: it cuts the input into jobs of a fixed size, so that the
//! number of workers does not show in the output (without workers it would). The frame carries a checksum (the kernel checks
//! it while unpacking; 4 bytes) and no content size (the archive is streamed). The window of 128 MiB is the largest that the
//! kernel's decompressor and `zstd -d --long=27` take.

use std::io::{BufRead, Read, Write};
use std::str::FromStr;

use zstd::stream::raw::CParameter;

/// How to compress. The bytes of the result depend on all fields but `workers`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Compression {
    /// zstd's level, 1 to 22.
    pub level: i32,
    /// Logarithm of the window's bytes.
    pub window_log: u32,
    /// Bytes of input per job.
    pub job_bytes: u32,
    /// Whether repetitions are sought in the whole window, beyond what the level's own tables reach.
    pub long_distance: bool,
    /// Threads; 0 counts as 1.
    pub workers: u32,
}

impl Default for Compression {
    /// Level 12, a window of 128 MiB, jobs of 16 MiB, one worker.
    fn default() -> Self {
        Self { level: 12, window_log: 27, job_bytes: 16 << 20, long_distance: true, workers: 1 }
    }
}

/// A compression that is not known.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown compression {0:?}; give zstd or zstd:LEVEL with a level from 1 to 22")]
pub struct CompressionError(String);

impl FromStr for Compression {
    type Err = CompressionError;

    /// `zstd` or `zstd:LEVEL`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let level = match text.split_once(':') {
            None if text == "zstd" => Some(Self::default().level),
            Some(("zstd", level)) if level.bytes().all(|b| b.is_ascii_digit()) => level.parse().ok(),
            _ => None,
        };
        match level.filter(|level| (1..=22).contains(level)) {
            Some(level) => Ok(Self { level, ..Self::default() }),
            None => Err(CompressionError(text.to_owned())),
        }
    }
}

impl Compression {
    /// The same with `workers` threads.
    #[must_use]
    pub fn with_workers(self, workers: u32) -> Self {
        Self { workers, ..self }
    }

    /// An encoder that writes to `out`.
    pub(super) fn encoder<W: Write>(&self, out: W) -> std::io::Result<zstd::Encoder<'static, W>> {
        let mut encoder = zstd::Encoder::new(out, self.level)?;
        encoder.set_parameter(CParameter::WindowLog(self.window_log))?;
        encoder.set_parameter(CParameter::EnableLongDistanceMatching(self.long_distance))?;
        encoder.set_parameter(CParameter::ChecksumFlag(true))?;
        encoder.set_parameter(CParameter::NbWorkers(self.workers.max(1)))?;
        encoder.set_parameter(CParameter::JobSize(self.job_bytes))?;
        Ok(encoder)
    }
}

/// The archive in `input`: decompressed where it is zstd (windows up to 128 MiB), as it is otherwise.
///
/// # Errors
/// Input that cannot be read. What is damaged shows when the result is read.
pub fn decompress<'a>(mut input: impl BufRead + 'a) -> std::io::Result<Box<dyn Read + 'a>> {
    const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
    if !input.fill_buf()?.starts_with(&ZSTD) {
        return Ok(Box::new(input));
    }
    let mut decoder = zstd::Decoder::with_buffer(input)?;
    decoder.window_log_max(27)?;
    Ok(Box::new(decoder))
}
