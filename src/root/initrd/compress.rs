//! zstd, set so that the same input gives the same bytes on every machine.
//!
//! The library's own multi-threading is used even for one worker: it cuts the input into jobs of a fixed size, so that the
//! number of workers does not show in the output (without workers it would). The frame carries a checksum (the kernel checks
//! it while unpacking; 4 bytes) and no content size (the archive is streamed). The window of 128 MiB is the largest that the
//! kernel's decompressor and `zstd -d --long=27` take.

use std::io::{BufRead, Read, Write};
use std::str::FromStr;

use zstd::stream::raw::CParameter;

/// The least memory that [`Compression::capped_by_memory`] plans with, whatever the machine has: two workers at level 12.
const LEAST_BUDGET: u64 = 400 << 20;

/// How to compress. The bytes of the result depend on all fields but `workers`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Compression {
    /// zstd's level, 1 to 22.
    pub level: i32,
    /// Logarithm of the window's bytes.
    pub window_log: u32,
    /// Bytes of input per job.
    pub job_bytes: u32,
    /// Whether long repetitions are sought in the whole window, beyond what the level's own tables reach. Measured at level
    /// 12: a Debian root with all its firmware got 5 % smaller, without modules and firmware 0.3 % larger, and both took a
    /// fifth less time, since what one thread finds here the workers need not search for.
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

    /// An upper estimate of the memory that compressing takes, in bytes. Measured at level 12 over 1.5 GB: 273, 351, 470 and 703
    /// MiB for 1, 2, 4 and 8 workers, where this says 304, 384, 544 and 864.
    #[must_use]
    pub fn memory(&self) -> u64 {
        let job = u64::from(self.job_bytes);
        // The match finder's tables of one worker: zstd's `lib/compress/clevels.h`, hash and chain logarithms, rounded up.
        let tables: u64 = match self.level {
            ..=8 => 8 << 20,
            9..=11 => 24 << 20,
            12 => 48 << 20,
            13..=15 => 64 << 20,
            16..=19 => 88 << 20,
            20 => 168 << 20,
            21 => 328 << 20,
            _ => 648 << 20,
        };
        // Each worker: the tables, a job's input, its output. All together: the window, jobs that wait on both sides of the
        // workers, the table of long distances.
        let worker = tables.saturating_add(job.saturating_mul(2));
        let window = 1_u64.checked_shl(self.window_log).unwrap_or(u64::MAX);
        window
            .saturating_add(job.saturating_mul(5))
            .saturating_add(16 << 20)
            .saturating_add(worker.saturating_mul(u64::from(self.workers.max(1))))
    }

    /// The same with as many of the workers as a quarter of `machine_bytes` (or 400 MiB, where that is more) has room for,
    /// and at least one.
    #[must_use]
    pub fn capped_by_memory(mut self, machine_bytes: u64) -> Self {
        let budget = LEAST_BUDGET.max(machine_bytes / 4);
        self.workers = self.workers.max(1);
        while self.workers > 1 && self.memory() > budget {
            self.workers = self.workers.saturating_sub(1);
        }
        self
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compressions_are_read_strictly() {
        assert_eq!("zstd".parse(), Ok(Compression::default()));
        assert_eq!("zstd:19".parse(), Ok(Compression { level: 19, ..Compression::default() }));
        for text in
            ["", "zstd:", "zstd:0", "zstd:23", "zstd:+3", "zstd:-1", "zstd:3x", "xz", "xz:3", "zstd:99999999999"]
        {
            assert_eq!(text.parse::<Compression>(), Err(CompressionError(text.to_owned())));
        }
    }

    #[test]
    fn memory_caps_the_workers() {
        let capped = |level, workers, machine: u64| {
            let compression = Compression { level, workers, ..Compression::default() };
            compression.capped_by_memory(machine << 20).workers
        };
        assert_eq!(capped(12, 2, 0), 2);
        assert_eq!(capped(12, 64, 1 << 10), 2);
        assert_eq!(capped(12, 8, 24 << 10), 8);
        assert_eq!(capped(12, 64, 4 << 10), 10);
        assert_eq!(capped(22, 64, 4 << 10), 1);
        assert_eq!(capped(3, 0, 0), 1);
        assert_eq!(capped(12, u32::MAX, u64::MAX >> 20), u32::MAX);
    }

    #[test]
    fn what_is_not_compressed_is_handed_through() {
        let read = |bytes: &[u8]| {
            let mut all = Vec::new();
            decompress(bytes).and_then(|mut input| input.read_to_end(&mut all)).map(|_| all).map_err(|e| e.kind())
        };
        assert_eq!(read(b"070701"), Ok(b"070701".to_vec()));
        assert_eq!(read(b""), Ok(vec![]));
        let mut encoder = Compression::default().encoder(Vec::new()).unwrap();
        encoder.write_all(b"some bytes").unwrap();
        let mut bytes = encoder.finish().unwrap();
        assert_eq!(read(&bytes), Ok(b"some bytes".to_vec()));
        // The checksum is there and is checked.
        *bytes.last_mut().unwrap() ^= 1;
        assert!(read(&bytes).is_err());
    }
}
