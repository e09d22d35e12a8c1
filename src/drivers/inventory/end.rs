//! The last bytes of a module's plain form, where its signature is.

use std::io::{Read, Seek, SeekFrom};

use crate::root::sysroot::Sysroot;

use super::{Compression, InventoryError, Module, ModuleFileError, decompress};

/// Plain bytes of a module file; a larger one is none.
const MODULE_LIMIT: u64 = 256 << 20;
/// Bytes decoded at once.
const STEP: usize = 64 << 10;

/// The last `length` plain bytes of a module, or all of a shorter one. A compressed file is decoded whole: there is no
/// other way to its end.
///
/// # Errors
/// The file is truncated, not in the form that its name says, or over 256 MiB when decompressed.
pub fn module_end(root: &Sysroot, module: &Module, length: usize) -> Result<Vec<u8>, InventoryError> {
    let file = root.file(&module.path)?;
    end(file, module.compression, length).map_err(|source| InventoryError::Module { path: module.path.clone(), source })
}

fn end(mut file: std::fs::File, compression: Compression, length: usize) -> Result<Vec<u8>, ModuleFileError> {
    let mut kept = Vec::new();
    if compression == Compression::None {
        let start = file.metadata()?.len().saturating_sub(length as u64);
        file.seek(SeekFrom::Start(start))?;
        file.take(length as u64).read_to_end(&mut kept)?;
        return Ok(kept);
    }
    let mut reader = decompress::reader(file, compression)?;
    let mut total = 0u64;
    loop {
        let read = reader.by_ref().take(STEP as u64).read_to_end(&mut kept)? as u64;
        total = total.saturating_add(read);
        if total > MODULE_LIMIT {
            return Err(ModuleFileError::TooLarge { limit: MODULE_LIMIT });
        }
        // Little is moved: `length` bytes for each step.
        kept.drain(..kept.len().saturating_sub(length));
        if read == 0 {
            return Ok(kept);
        }
    }
}
