//! Disk images in less room: compressed, or in QEMU's own format.

use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::path::Path;
use std::process::Command;

use super::ImageError;
use crate::cancel::Cancel;

/// What is large in a disk image is compressed already: a higher level takes longer for nothing.
const LEVEL: i32 = 3;
/// Bytes read at a time.
const BUFFER: usize = 1 << 20;

/// Compresses a file by zstd into `out`, an empty one; `path` is that one's, for messages. The bytes do not depend on `jobs`.
///
/// # Errors
/// `from` cannot be read; a full disk; asked to stop.
pub fn compress(from: &Path, out: &File, path: &Path, jobs: usize, cancel: &Cancel) -> Result<(), ImageError> {
    let failed = |source| ImageError::Io { action: "compress", path: path.to_owned(), source };
    let mut reader = File::open(from).map_err(failed)?;
    let mut encoder = zstd::Encoder::new(BufWriter::new(out), LEVEL).map_err(failed)?;
    // At least one worker: without any, zstd makes other bytes.
    encoder.multithread(u32::try_from(jobs.max(1)).unwrap_or(1)).map_err(failed)?;
    encoder.include_checksum(true).map_err(failed)?;
    let mut buffer = vec![0; BUFFER];
    loop {
        cancel.check()?;
        match reader.read(&mut buffer).map_err(failed)? {
            0 => break,
            count => encoder.write_all(buffer.get(..count).unwrap_or_default()).map_err(failed)?,
        }
    }
    encoder.finish().and_then(|mut out| out.flush()).map_err(failed)
}

/// Whether qemu-img is there, before an image is made that needs it.
///
/// # Errors
/// [`ImageError::Qcow2`].
pub fn check_qemu_img() -> Result<(), ImageError> {
    run(Command::new("qemu-img").arg("--version"))
}

/// Converts a raw image to qcow2 by qemu-img, where that is installed: the format is QEMU's own, and so is its best writer.
///
/// # Errors
/// [`ImageError::Qcow2`].
pub fn qcow2(raw: &Path, target: &Path) -> Result<(), ImageError> {
    let mut command = Command::new("qemu-img");
    // A path that looks like a protocol (`nbd:...`) is one for qemu-img, unless it begins with a slash or `file:`.
    let plain = |path: &Path| {
        let mut text = std::ffi::OsString::from("file:");
        text.push(path);
        text
    };
    run(command.args(["convert", "-f", "raw", "-O", "qcow2"]).args([plain(raw), plain(target)]))
}

fn run(command: &mut Command) -> Result<(), ImageError> {
    let output =
        command.output().map_err(|error| ImageError::Qcow2 { problem: format!("it cannot be run: {error}") })?;
    match output.status.success() {
        true => Ok(()),
        false => {
            let said = String::from_utf8_lossy(&output.stderr);
            let last = said.trim_end().lines().last().unwrap_or("it said nothing").to_owned();
            Err(ImageError::Qcow2 { problem: format!("{}: {last}", output.status) })
        }
    }
}
