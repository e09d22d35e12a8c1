//! SQLite's write-ahead log: pages that are newer than the ones in the database ("WAL File Format", <https://sqlite.org/fileformat2.html>).
//!
//! rpm copies the log into the database when it ends; a root may hold one all the same, of an rpm that was killed or that ran
//! without the right to write.

use std::collections::BTreeMap;

use super::{Bytes, bytes, damaged, failed};
use crate::names::TreePath;
use crate::root::packages::PackagesError;

const HEADER: usize = 32;
const FRAME: usize = 24;

/// The valid part of a log.
#[derive(Default)]
pub(in crate::root::packages) struct Log {
    /// Bytes of a page.
    pub(super) page: u32,
    /// Pages of the database after the last commit; 0 where the log holds none.
    pub(super) pages: u32,
    /// Where in the log the newest content of a page lies.
    pub(super) offsets: BTreeMap<u32, u64>,
    /// Why more may have been in it than is used. SQLite leaves it out as well, and says nothing.
    pub(super) problem: Option<&'static str>,
}

/// Reads up to the last commit, as SQLite does.
pub(super) fn read(file: &dyn Bytes, path: &TreePath) -> Result<Log, PackagesError> {
    let mut log = Log::default();
    let mut header = [0; HEADER];
    if file.length() <= HEADER as u64 {
        return Ok(log);
    }
    file.read_at(0, &mut header).map_err(|source| failed(path, source))?;
    let number = |buffer: &[u8], at| bytes(buffer, at).map_or(0, u32::from_be_bytes);
    let (magic, version, page) = (number(&header, 0), number(&header, 4), number(&header, 8));
    let big_endian = magic & 1 == 1;
    let mut sum = checksum((0, 0), header.get(..24).unwrap_or_default(), big_endian);
    let is_whole = sum == (number(&header, 24), number(&header, 28));
    if magic & !1 != 0x377f_0682 || !page.is_power_of_two() || !(512..=65536).contains(&page) || !is_whole {
        log.problem = Some("its header is damaged, and nothing in it is used");
        return Ok(log);
    }
    if version != 3_007_000 {
        return Err(damaged(path, 4, format!("a log of version {version} is not known; SQLite 3 writes 3007000")));
    }
    log.page = page;
    let mut frame = vec![0; FRAME + usize::try_from(page).unwrap_or(0)];
    let mut pending = BTreeMap::new();
    let mut offset = HEADER as u64;
    while offset.saturating_add(frame.len() as u64) <= file.length() {
        file.read_at(offset, &mut frame).map_err(|source| failed(path, source))?;
        let (head, content) = frame.split_at(FRAME);
        sum = checksum(sum, head.get(..8).unwrap_or_default(), big_endian);
        sum = checksum(sum, content, big_endian);
        // Frames of an earlier round have other salts; the rest is what was there before.
        if head.get(8..16) != header.get(16..24) {
            break;
        }
        if number(head, 0) == 0 || sum != (number(head, 16), number(head, 20)) {
            log.problem = Some("it is damaged, and what follows the damage is not used");
            break;
        }
        pending.insert(number(head, 0), offset.saturating_add(FRAME as u64));
        let pages = number(head, 4);
        if pages != 0 {
            log.pages = pages;
            log.offsets.append(&mut pending);
        }
        offset = offset.saturating_add(frame.len() as u64);
    }
    if log.problem.is_none() && offset < file.length() && file.length() - offset < frame.len() as u64 {
        log.problem = Some("it ends in the midst of a page, which is not used");
    }
    Ok(log)
}

fn checksum(sum: (u32, u32), data: &[u8], big_endian: bool) -> (u32, u32) {
    let word = |pair: &[u8], at| {
        let word = bytes(pair, at).unwrap_or_default();
        if big_endian { u32::from_be_bytes(word) } else { u32::from_le_bytes(word) }
    };
    data.chunks_exact(8).fold(sum, |(first, second), pair| {
        let first = first.wrapping_add(word(pair, 0)).wrapping_add(second);
        (first, second.wrapping_add(word(pair, 4)).wrapping_add(first))
    })
}
