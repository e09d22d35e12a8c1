//! rpm's own database, `Packages.db` (rpm's `lib/backend/ndb/rpmpkg.c`): a header, pages of slots, and blobs in units of 16 bytes.
//!
//! All numbers are little-endian. A blob stands between a head and a tail that repeat its length. The Adler-32 sum in the tail is
//! not checked, as rpm does not where it reads a package.

use super::{Bytes, Each, MAX_BLOB, bytes, damaged, failed};
use crate::names::TreePath;
use crate::root::packages::PackagesError;

const BLOCK: u64 = 16;
const PAGE: usize = 4096;
const SLOT: usize = 16;
/// Of the file: as large as two slots, whose place it takes.
const HEADER: usize = 32;
const HEAD: u32 = 16;
const TAIL: u32 = 12;
/// More than rpm itself makes room for in any system: 4 million packages.
const MAX_PAGES: u32 = 1 << 14;

/// Gives each header, with its offset in the file.
pub(in crate::root::packages) fn blobs(
    file: &dyn Bytes,
    path: &TreePath,
    each: &mut Each<'_>,
) -> Result<(), PackagesError> {
    let number = |buffer: &[u8], at| bytes(buffer, at).map_or(0, u32::from_le_bytes);
    let read = |offset, into: &mut [u8]| match file.read_at(offset, into) {
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
            Err(damaged(path, offset, "the file ends here, where there should be more"))
        }
        read => read.map_err(|source| failed(path, source)),
    };
    // rpm makes the file before it writes the first page.
    if file.length() == 0 {
        return Ok(());
    }
    let mut header = [0; HEADER];
    read(0, &mut header)?;
    let (magic, version, pages) = (header.get(..4), number(&header, 4), number(&header, 12));
    if magic != Some(b"RpmP") || version != 0 {
        return Err(damaged(path, 0, "it is no ndb database of version 0"));
    }
    if pages == 0 || pages > MAX_PAGES {
        return Err(damaged(path, 12, format!("it says that it has {pages} pages of slots")));
    }
    let mut blob = Vec::new();
    let mut left = file.length();
    for page in 0..pages {
        let mut slots = [0; PAGE];
        let at = u64::from(page) * PAGE as u64;
        read(at, &mut slots)?;
        for (slot, at) in
            slots.chunks_exact(SLOT).zip((at..).step_by(SLOT)).skip(if page == 0 { HEADER / SLOT } else { 0 })
        {
            if slot.get(..4) != Some(b"Slot") {
                return Err(damaged(path, at, "a slot has no magic"));
            }
            let (index, block, blocks) = (number(slot, 4), number(slot, 8), number(slot, 12));
            if block == 0 {
                continue;
            }
            let (offset, size) = (u64::from(block) * BLOCK, u64::from(blocks) * BLOCK);
            // Blobs do not overlap: all of them together are no larger than the file. So a small file costs little time.
            left = left.checked_sub(size).ok_or_else(|| damaged(path, at, "its packages are larger than the file"))?;
            if index == 0 || offset < u64::from(pages) * PAGE as u64 {
                return Err(damaged(path, at, "a slot's numbers are wrong"));
            }
            let mut head = [0; HEAD as usize];
            read(offset, &mut head)?;
            let length = number(&head, 12);
            if length > MAX_BLOB {
                return Err(damaged(path, offset, format!("a package has a header of {length} bytes")));
            }
            let needed = u64::from(length + HEAD + TAIL).div_ceil(BLOCK) * BLOCK;
            if head.get(..4) != Some(b"BlbS") || number(&head, 4) != index || needed != size {
                return Err(damaged(path, offset, "a package's head is not what its slot says"));
            }
            let mut tail = [0; TAIL as usize];
            read(offset.saturating_add(size).saturating_sub(u64::from(TAIL)), &mut tail)?;
            if number(&tail, 4) != length || tail.get(8..) != Some(b"BlbE") {
                return Err(damaged(path, offset, "a package's tail is not what its head says"));
            }
            blob.resize(usize::try_from(length).unwrap_or(0), 0);
            read(offset + u64::from(HEAD), &mut blob)?;
            each(&blob, offset)?;
        }
    }
    Ok(())
}
