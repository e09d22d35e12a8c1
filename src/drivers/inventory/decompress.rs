//! Plain bytes of a module or firmware file, whatever its compression. Memory is bounded by the decoders' windows; how
//! many bytes come out is the caller's to bound.

use std::cell::Cell;
use std::io::{BufRead, BufReader, Read};
use std::rc::Rc;

use super::{Compression, InventoryError, Module, ModuleFileError, elf};
use crate::root::sysroot::Sysroot;

/// Bytes that a module may have when decompressed. The largest of Debian's 6.12 has 21 MiB.
pub(super) const MODULE_LIMIT: u64 = 256 << 20;
/// Memory that an xz decoder may take. The kernel build uses a dictionary of 1 MiB, `xz -9` needs 65 MiB.
const XZ_MEMORY: u64 = 128 << 20;
/// Largest zstd window, as a power of two: 128 MiB, what `zstd -d` takes without being asked.
const ZSTD_WINDOW_LOG: u32 = 27;
/// Bytes of an ELF header.
const ELF_HEADER: u64 = 64;
/// Bytes read from a file at once. Half of all modules are smaller.
const INPUT_BUFFER: usize = 16 << 10;

/// A module's or firmware file's plain bytes.
pub(super) fn reader<'a>(input: impl Read + 'a, compression: Compression) -> std::io::Result<Box<dyn Read + 'a>> {
    counted(input, compression, Rc::default())
}

/// As [`reader`]; `taken` is told how many bytes of the file the decoder took: what came out follows from these alone.
pub(super) fn counted<'a>(
    input: impl Read + 'a,
    compression: Compression,
    taken: Rc<Cell<u64>>,
) -> std::io::Result<Box<dyn Read + 'a>> {
    let input = Counted { input: BufReader::with_capacity(INPUT_BUFFER, input), taken };
    Ok(match compression {
        Compression::None => Box::new(input),
        Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(input)),
        Compression::Xz => {
            let stream = xz2::stream::Stream::new_stream_decoder(XZ_MEMORY, 0)?;
            Box::new(xz2::bufread::XzDecoder::new_stream(input, stream))
        }
        Compression::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(input)?;
            decoder.window_log_max(ZSTD_WINDOW_LOG)?;
            Box::new(decoder)
        }
    })
}

/// Counts what its reader takes.
struct Counted<R> {
    input: R,
    taken: Rc<Cell<u64>>,
}

impl<R: BufRead> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.input.read(buffer)?;
        self.taken.set(self.taken.get().saturating_add(read as u64));
        Ok(read)
    }
}

impl<R: BufRead> BufRead for Counted<R> {
    fn fill_buf(&mut self) -> std::io::Result<&[u8]> {
        self.input.fill_buf()
    }

    fn consume(&mut self, bytes: usize) {
        self.taken.set(self.taken.get().saturating_add(bytes as u64));
        self.input.consume(bytes);
    }
}

/// Appends what is left of `reader`, so that `out` holds at most `limit` bytes.
///
/// # Errors
/// The reader's; more than `limit` bytes.
pub(super) fn read_rest(reader: &mut dyn Read, out: &mut Vec<u8>, limit: u64) -> Result<(), ModuleFileError> {
    let room = limit.saturating_sub(out.len() as u64);
    let read = reader.take(room.saturating_add(1)).read_to_end(out)?;
    if read as u64 > room { Err(ModuleFileError::TooLarge { limit }) } else { Ok(()) }
}

/// The architecture that a module was built for: `e_machine` of its ELF header; `None` where it has none.
///
/// # Errors
/// The file cannot be read or decompressed.
pub fn machine(root: &Sysroot, module: &Module) -> Result<Option<u16>, InventoryError> {
    let mut start = Vec::new();
    let file = root.file(&module.path)?;
    let read = reader(file, module.compression).and_then(|reader| reader.take(ELF_HEADER).read_to_end(&mut start));
    match read {
        Ok(_) => Ok(elf::machine(&start)),
        Err(source) => Err(InventoryError::Module { path: module.path.clone(), source: source.into() }),
    }
}

/// All bytes of a module, decompressed, in place of what `out` holds.
pub(in crate::drivers) fn read_module(
    root: &Sysroot,
    module: &Module,
    out: &mut Vec<u8>,
) -> Result<(), InventoryError> {
    out.clear();
    let file = root.file(&module.path)?;
    let read = reader(file, module.compression)
        .map_err(ModuleFileError::from)
        .and_then(|mut reader| read_rest(&mut *reader, out, MODULE_LIMIT));
    read.map_err(|source| InventoryError::Module { path: module.path.clone(), source })
}
