//! What Rock Ridge adds to a directory record: true names, modes, links (IEEE P1282, draft 1.12), in the entries of SUSP
//! (IEEE P1281, draft 1.12), which go on elsewhere where a record has no room.

use super::BLOCK;
use super::volume::{Dates, both32};

/// Bytes of a record; it has one byte for its length, which must be even.
const RECORD: usize = 254;
/// Bytes of the entry that says where it goes on.
const CE: usize = 28;
/// Bytes of a name that fit into one entry.
const TEXT: usize = 250;
/// Bytes of components in one entry of a link.
const FIELD: usize = 250;

/// Flags of a link's component: the next is of the same name; `.`; `..`; `/` in front.
const GOES_ON: u8 = 1;
const HERE: u8 = 2;
const ABOVE: u8 = 4;
const ROOT: u8 = 8;

/// Of a file's mode.
const DIRECTORY: u32 = 0o040_755;
const FILE: u32 = 0o100_644;
const PROGRAM: u32 = 0o100_755;
const SYMLINK: u32 = 0o120_777;

/// What the entries of one record say.
#[derive(Debug, Clone, Copy)]
pub(super) struct Attributes<'a> {
    pub(super) kind: Kind<'a>,
    /// `None` for `.` and `..`.
    pub(super) name: Option<&'a [u8]>,
    pub(super) links: u32,
    pub(super) serial: u32,
}

/// What a record is of.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kind<'a> {
    /// The root's own: says that there is Rock Ridge.
    Root,
    Directory,
    File,
    Program,
    Symlink(&'a [u8]),
}

/// The entries of one record, each at most 255 bytes.
pub(super) fn entries(attributes: &Attributes<'_>, dates: &Dates) -> Vec<Vec<u8>> {
    let mut out = Vec::new();
    if let Kind::Root = attributes.kind {
        // SUSP 5.3; nothing is to be skipped.
        out.push(entry(b"SP", &[0xbe, 0xef, 0]));
    }
    let mode = match attributes.kind {
        Kind::Root | Kind::Directory => DIRECTORY,
        Kind::File => FILE,
        Kind::Program => PROGRAM,
        Kind::Symlink(_) => SYMLINK,
    };
    // RRIP 4.1.1: mode, links, owner, group, serial number.
    let numbers = [mode, attributes.links, 0, 0, attributes.serial];
    out.push(entry(b"PX", numbers.map(both32).as_flattened()));
    // RRIP 4.1.6: changed, read, attributes changed.
    out.push(entry(b"TF", &[&[0x0e][..], &dates.short, &dates.short, &dates.short].concat()));
    if let Some(name) = attributes.name {
        let chunks = name.chunks(TEXT);
        let last = chunks.len().saturating_sub(1);
        // RRIP 4.1.4: flag 1 says that the name goes on.
        out.extend(chunks.enumerate().map(|(n, text)| entry(b"NM", &[&[u8::from(n < last)], text].concat())));
    }
    if let Kind::Symlink(target) = attributes.kind {
        out.extend(link(target));
    }
    if let Kind::Root = attributes.kind {
        out.push(extension());
    }
    out
}

/// SUSP 4: signature, length, version, data.
fn entry(signature: &[u8; 2], data: &[u8]) -> Vec<u8> {
    // Callers keep to 250 bytes of text, or 251 with a flag.
    let length = u8::try_from(data.len().saturating_add(4)).unwrap_or(u8::MAX);
    [signature, &[length, 1][..], data].concat()
}

/// SUSP 5.5, with the texts of RRIP 4.3.
fn extension() -> Vec<u8> {
    let id = b"IEEE_P1282";
    let description = b"THE IEEE P1282 PROTOCOL PROVIDES SUPPORT FOR POSIX FILE SYSTEM SEMANTICS";
    let source = b"PLEASE CONTACT THE IEEE STANDARDS DEPARTMENT, PISCATAWAY, NJ, USA FOR THE P1282 SPECIFICATION";
    let lengths = [id.len(), description.len(), source.len()].map(|length| u8::try_from(length).unwrap_or(0));
    entry(b"ER", &[&lengths[..], &[1], id, description, source].concat())
}

/// RRIP 4.1.3: a link's target by components, each with a flag and a length.
fn link(target: &[u8]) -> Vec<Vec<u8>> {
    let mut fields: Vec<Vec<u8>> = vec![Vec::new()];
    let mut put = |flag: u8, text: &[u8]| {
        // What is put is at most 244 bytes of text: the length does not fail.
        let component = [&[flag, u8::try_from(text.len()).unwrap_or(u8::MAX)], text].concat();
        match fields.last_mut() {
            Some(field) if field.len().saturating_add(component.len()) <= FIELD => field.extend(component),
            _ => fields.push(component),
        }
    };
    let rest = match target.strip_prefix(b"/") {
        Some(rest) => {
            put(ROOT, b"");
            rest
        }
        None => target,
    };
    // A name that is empty is put as well, so that `a//b` and `a/` come back as they were.
    let names = rest.split(|byte| *byte == b'/').filter(|_| !rest.is_empty());
    for name in names {
        match name {
            b"." => put(HERE, b""),
            b".." => put(ABOVE, b""),
            _ => {
                let chunks = name.chunks(FIELD - 2);
                let last = chunks.len().saturating_sub(1);
                if name.is_empty() {
                    put(0, b"");
                }
                chunks.enumerate().for_each(|(n, text)| put(if n < last { GOES_ON } else { 0 }, text));
            }
        }
    }
    let last = fields.len().saturating_sub(1);
    fields.iter().enumerate().map(|(n, field)| entry(b"SL", &[&[u8::from(n < last)], &field[..]].concat())).collect()
}

/// Entries of one record, divided into what stands in it and what follows elsewhere.
#[derive(Debug)]
pub(super) struct Packed {
    /// With the pointer to what follows, if something does.
    pub(super) in_record: Vec<u8>,
}

/// Where a directory's records go on: whole blocks behind it.
#[derive(Debug)]
pub(super) struct Continuation {
    lba: u32,
    bytes: Vec<u8>,
}

impl Continuation {
    pub(super) fn new(lba: u32) -> Self {
        Self { lba, bytes: Vec::new() }
    }

    /// Fills up the last block.
    pub(super) fn finish(mut self) -> Vec<u8> {
        let length = self.bytes.len().next_multiple_of(BLOCK_BYTES);
        self.bytes.resize(length, 0);
        self.bytes
    }

    /// Divides the entries of a record that has `fixed` bytes besides them.
    pub(super) fn pack(&mut self, fixed: usize, entries: Vec<Vec<u8>>) -> Packed {
        let mut parts = divide(entries, RECORD.saturating_sub(fixed)).into_iter();
        let mut in_record = parts.next().unwrap_or_default();
        let rest: Vec<_> = parts.collect();
        let last = rest.len().saturating_sub(1);
        // Each part is in one block, as Linux reads it.
        let mut places = Vec::new();
        let mut end = self.bytes.len();
        for (n, part) in rest.iter().enumerate() {
            let length = part.len().saturating_add(if n < last { CE } else { 0 });
            let left = BLOCK_BYTES.saturating_sub(end % BLOCK_BYTES);
            if length > left {
                end = end.saturating_add(left);
            }
            places.push((end, length));
            end = end.saturating_add(length);
        }
        let mut pointers = places.iter().map(|(start, length)| self.pointer(*start, *length)).collect::<Vec<_>>();
        pointers.push(Vec::new());
        let mut pointers = pointers.into_iter();
        in_record.extend(pointers.next().unwrap_or_default());
        for (part, (start, _)) in rest.iter().zip(places) {
            self.bytes.resize(start, 0);
            self.bytes.extend_from_slice(part);
            self.bytes.extend(pointers.next().unwrap_or_default());
        }
        if !in_record.len().is_multiple_of(2) {
            in_record.push(0);
        }
        Packed { in_record }
    }

    /// SUSP 5.1: block, offset, length.
    fn pointer(&self, start: usize, length: usize) -> Vec<u8> {
        let number = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        let block = self.lba.saturating_add(number(start / BLOCK_BYTES));
        entry(b"CE", [block, number(start % BLOCK_BYTES), number(length)].map(both32).as_flattened())
    }
}

const BLOCK_BYTES: usize = 2048;
const _: () = assert!(BLOCK_BYTES as u64 == BLOCK);

/// Parts that fit: the first into `room` bytes, the others into a block, each with room for a pointer where another follows.
fn divide(entries: Vec<Vec<u8>>, room: usize) -> Vec<Vec<u8>> {
    let mut parts = Vec::new();
    let mut part = Vec::new();
    let mut room = room;
    let mut left: usize = entries.iter().map(Vec::len).sum();
    for entry in entries {
        let whole_rest_fits = part.len().saturating_add(left) <= room;
        if !whole_rest_fits && part.len().saturating_add(entry.len()).saturating_add(CE) > room {
            parts.push(std::mem::take(&mut part));
            room = BLOCK_BYTES;
        }
        left = left.saturating_sub(entry.len());
        part.extend(entry);
    }
    parts.push(part);
    parts
}
