//! The blobs of the table `Packages` in rpm's `rpmdb.sqlite`: as much of SQLite as that needs (<https://sqlite.org/fileformat2.html>).
//!
//! Table b-trees with overflow pages and the write-ahead log are read; indexes, other encodings of text and all of SQL are not. The
//! file is hostile: no page is visited twice, so a file costs no more time than its length, and a payload no more memory than
//! [`MAX_BLOB`].

use super::wal::Log;
use super::{Bytes, Each, MAX_BLOB, bytes, damaged, failed};
use crate::names::TreePath;
use crate::root::packages::PackagesError;

/// Deepest b-tree; SQLite's own limit is 20.
const MAX_DEPTH: usize = 20;
/// Of the file, before the first page's own header.
const FILE_HEADER: usize = 100;
const INTERIOR: u8 = 5;
const LEAF: u8 = 13;

struct Database<'a> {
    file: &'a dyn Bytes,
    log: Option<(&'a dyn Bytes, Log)>,
    path: &'a TreePath,
    page: u32,
    /// Bytes of a page without its reserved end.
    usable: usize,
    pages: u32,
    visited: Vec<bool>,
}

/// A record: the columns that are wanted, by the serial types of SQLite's record format.
enum Value<'a> {
    Integer(u64),
    Bytes(&'a [u8]),
    Other,
}

/// Gives each blob of `Packages`, with the offset of the page that begins it. `log` is the write-ahead log, which holds pages.
pub(in crate::root::packages) fn blobs(
    file: &dyn Bytes,
    log: Option<(&dyn Bytes, Log)>,
    path: &TreePath,
    each: &mut Each<'_>,
) -> Result<(), PackagesError> {
    // SQLite puts something into the database before it begins a log, and deletes the log of an empty one.
    match (file.length(), &log) {
        (0, None) => return Ok(()),
        (0, Some(_)) => return Err(damaged(path, 0, "it is empty, and the log of its changes beside it is not")),
        _ => {}
    }
    let mut database = Database::open(file, log, path)?;
    let mut table = None;
    database.walk(1, &mut |payload, at| {
        let [kind, name, _, page, _] =
            record(payload).ok_or_else(|| damaged(path, at, "a record of the schema is broken"))?;
        if let (Value::Bytes(b"table"), Value::Bytes(b"Packages"), Value::Integer(page)) = (kind, name, page) {
            table = u32::try_from(page).ok();
        }
        Ok(())
    })?;
    let table = table.ok_or_else(|| damaged(path, 0, "it has no table Packages"))?;
    database.walk(table, &mut |payload, at| match record(payload) {
        Some([_, Value::Bytes(blob)]) => each(blob, at),
        _ => Err(damaged(path, at, "a record of the table Packages is broken")),
    })
}

impl<'a> Database<'a> {
    fn open(file: &'a dyn Bytes, log: Option<(&'a dyn Bytes, Log)>, path: &'a TreePath) -> Result<Self, PackagesError> {
        let mut database = Self { file, log, path, page: 512, usable: 512, pages: 1, visited: Vec::new() };
        if let Some((_, log)) = &database.log {
            database.page = log.page;
        }
        let header = database.read(1)?;
        let half = |at| bytes(&header, at).map_or(0, u16::from_be_bytes);
        let page = match half(16) {
            1 => 65536,
            page => u32::from(page),
        };
        let reserved = header.get(20).copied().unwrap_or(0);
        let usable = page.saturating_sub(u32::from(reserved));
        let is_readable = matches!(header.get(19), Some(1 | 2)) && matches!(header.get(56..60), Some([0, 0, 0, 1]));
        if header.get(..16) != Some(b"SQLite format 3\0") || !page.is_power_of_two() || page < 512 || usable < 480 {
            return Err(damaged(path, 0, "it is no SQLite database"));
        }
        if !is_readable || database.log.as_ref().is_some_and(|(_, log)| log.page != page) {
            return Err(damaged(path, 0, "it is no SQLite database in a form that rpm writes"));
        }
        let pages = match &database.log {
            Some((_, log)) => log.pages,
            None => u32::try_from(file.length() / u64::from(page)).unwrap_or(u32::MAX),
        };
        // A bit for each page that may be there: the file's and the log's, whatever the log says of their number.
        let most =
            file.length() / u64::from(page) + database.log.as_ref().map_or(0, |(_, log)| log.offsets.len() as u64);
        database.visited = vec![false; usize::try_from(most.min(u64::from(pages))).unwrap_or(0).saturating_add(1)];
        Ok(Self { page, usable: usize::try_from(usable).unwrap_or(0), pages, ..database })
    }

    fn offset(&self, number: u32) -> u64 {
        u64::from(number).saturating_sub(1).saturating_mul(u64::from(self.page))
    }

    fn read(&self, number: u32) -> Result<Vec<u8>, PackagesError> {
        let offset = self.offset(number);
        let mut page = vec![0; usize::try_from(self.page).unwrap_or(0)];
        let in_log = self.log.as_ref().and_then(|(file, log)| log.offsets.get(&number).map(|offset| (*file, *offset)));
        let (file, from) = in_log.unwrap_or((self.file, offset));
        match file.read_at(from, &mut page) {
            Ok(()) => Ok(page),
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
                Err(damaged(self.path, offset, format!("page {number} is not there")))
            }
            Err(source) => Err(failed(self.path, source)),
        }
    }

    /// A page that was not visited before.
    fn visit(&mut self, number: u32) -> Result<Vec<u8>, PackagesError> {
        let seen = usize::try_from(number).ok().and_then(|number| self.visited.get_mut(number));
        let seen = seen.filter(|_| number > 0 && number <= self.pages).map(|seen| std::mem::replace(seen, true));
        match seen {
            Some(false) => self.read(number),
            Some(true) => Err(damaged(self.path, self.offset(number), format!("page {number} is in two places"))),
            None => Err(damaged(self.path, 0, format!("it names page {number} of {}", self.pages))),
        }
    }

    /// Gives the payload of each cell of the table whose root is page `number`, in the order of their keys.
    fn walk(&mut self, number: u32, each: &mut Each<'_>) -> Result<(), PackagesError> {
        // Pages that are left, the next one last, with their depth.
        let mut pending = vec![(number, 0)];
        while let Some((number, depth)) = pending.pop() {
            let at = self.offset(number);
            let broken = |problem| damaged(self.path, at, problem);
            if depth > MAX_DEPTH {
                return Err(broken("the table is deeper than any"));
            }
            let page = self.visit(number)?;
            let broken = |problem| damaged(self.path, at, problem);
            let start = if number == 1 { FILE_HEADER } else { 0 };
            let kind = page.get(start).copied().unwrap_or(0);
            let cells = bytes(&page, start.saturating_add(3)).map_or(0, u16::from_be_bytes);
            let pointers = match kind {
                INTERIOR => start.saturating_add(12),
                LEAF => start.saturating_add(8),
                _ => return Err(broken("a page is no part of a table")),
            };
            let end = pointers.saturating_add(usize::from(cells) * 2);
            let pointers = page.get(pointers..end).ok_or_else(|| broken("a page has more cells than room"))?;
            let pointers =
                pointers.chunks_exact(2).map(|pair| usize::from(bytes(pair, 0).map_or(0, u16::from_be_bytes)));
            if kind == LEAF {
                for cell in pointers {
                    let payload = self.payload(&page, cell, at)?;
                    each(&payload, at)?;
                }
                continue;
            }
            let child = |cell| bytes(&page, cell).map(u32::from_be_bytes).ok_or_else(|| broken("a cell lies outside"));
            pending.push((child(start.saturating_add(8))?, depth + 1));
            for cell in pointers.rev() {
                pending.push((child(cell)?, depth + 1));
            }
        }
        Ok(())
    }

    /// The payload of a leaf's cell ("Cell Payload Overflow Pages").
    fn payload(&mut self, page: &[u8], cell: usize, at: u64) -> Result<Vec<u8>, PackagesError> {
        let broken = |problem: &str| damaged(self.path, at, problem);
        let page = page.get(..self.usable).unwrap_or_default();
        let rest = page.get(cell..).ok_or_else(|| broken("a cell lies outside of its page"))?;
        let sizes = varint(rest).and_then(|(length, rest)| Some((length, varint(rest)?.1)));
        let (length, rest) = sizes.ok_or_else(|| broken("a cell does not end"))?;
        if length > u64::from(MAX_BLOB) {
            return Err(broken("a record is larger than any package's header"));
        }
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        let (most, least) = (self.usable - 35, (self.usable - 12) * 32 / 255 - 23);
        let local = match least + length.saturating_sub(least) % (self.usable - 4) {
            _ if length <= most => length,
            local if local <= most => local,
            _ => least,
        };
        let mut payload = rest.get(..local).ok_or_else(|| broken("a cell ends outside of its page"))?.to_vec();
        let mut next = bytes(rest, local).map_or(0, u32::from_be_bytes);
        while payload.len() < length {
            let page = self.visit(next)?;
            next = bytes(&page, 0).map_or(0, u32::from_be_bytes);
            let content = page.get(4..self.usable).unwrap_or_default();
            payload.extend_from_slice(content.get(..length - payload.len()).unwrap_or(content));
        }
        Ok(payload)
    }
}

/// The first `N` columns of a record; `None` where it is none.
fn record<const N: usize>(payload: &[u8]) -> Option<[Value<'_>; N]> {
    let (length, _) = varint(payload)?;
    let (header, mut body) = payload.split_at_checked(usize::try_from(length).ok()?)?;
    let (_, mut types) = varint(header)?;
    let mut values = [const { Value::Other }; N];
    for value in &mut values {
        let (kind, rest) = varint(types)?;
        types = rest;
        let length = match kind {
            0 | 8 | 9 => 0,
            1..=4 => kind,
            5 => 6,
            6 | 7 => 8,
            12.. => (kind - 12) / 2,
            _ => return None,
        };
        let (content, rest) = body.split_at_checked(usize::try_from(length).ok()?)?;
        body = rest;
        *value = match kind {
            1..=6 => Value::Integer(content.iter().fold(0, |value, byte| value << 8 | u64::from(*byte))),
            8 | 9 => Value::Integer(kind - 8),
            12.. => Value::Bytes(content),
            _ => Value::Other,
        };
    }
    Some(values)
}

/// A number of one to nine bytes, seven bits in each of the first eight, and what follows.
fn varint(data: &[u8]) -> Option<(u64, &[u8])> {
    let mut value = 0;
    for (count, byte) in (1_usize..=9).zip(data) {
        if count == 9 {
            return Some((value << 8 | u64::from(*byte), data.get(9..)?));
        }
        value = value << 7 | u64::from(byte & 0x7f);
        if byte & 0x80 == 0 {
            return Some((value, data.get(count..)?));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_one_to_nine_bytes() {
        let cases: [(&[u8], Option<u64>); 7] = [
            (&[0x7f], Some(127)),
            (&[0x81, 0x00], Some(128)),
            (&[0xff, 0x7f], Some(16383)),
            (&[0xff; 9], Some(u64::MAX)),
            (&[0x80; 9], Some(0x80)),
            (&[0xff; 8], None),
            (&[], None),
        ];
        for (data, value) in cases {
            assert_eq!(varint(data).map(|(value, _)| value), value, "{data:?}");
        }
    }

    #[test]
    fn a_record_never_reads_beyond_its_end() {
        // Two columns: nothing, and four bytes.
        let whole = [3, 0, 20, 1, 2, 3, 4];
        assert!(matches!(record(&whole), Some([Value::Other, Value::Bytes([1, 2, 3, 4])])));
        for length in 0..whole.len() {
            assert!(record::<2>(&whole[..length]).is_none(), "{length} bytes");
        }
        // Three columns are wanted, a type is reserved, a length is larger than memory.
        assert!(record::<3>(&whole).is_none());
        assert!(record::<1>(&[2, 10]).is_none());
        assert!(record::<1>(&[10, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]).is_none());
    }
}
