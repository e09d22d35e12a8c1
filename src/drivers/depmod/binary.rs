//! kmod's binary index, a trie in a file (`libkmod/libkmod-index.c`): writer and reader.
//!
//! Everything is big-endian. The file begins with a magic number, a version and the root's offset. An offset has flags in
//! its high four bits, which say what the node there has:
//!
//! ```text
//! prefix (flag 8):    characters, NUL
//! children (flag 2):  first u8, last u8, then an offset for each character from first to last (0: none)
//! values (flag 4):    count u32, then for each: priority u32, characters, NUL
//! ```
//!
//! The character that leads to a child is not repeated in the child's prefix. The writer lays nodes out in pre-order with
//! the root behind the header, as kmod does since version 34; the reader takes any order.

use std::collections::BTreeSet;

/// First four bytes.
const MAGIC: u32 = 0xB007_F457;
/// Version 2.1, kmod's own since 2008.
const VERSION: u32 = 0x0002_0001;
/// Bytes of magic, version and root offset.
const HEADER: usize = 12;
const HAS_PREFIX: u32 = 0x8000_0000;
const HAS_VALUES: u32 = 0x4000_0000;
const HAS_CHILDREN: u32 = 0x2000_0000;
/// The part of an offset that is a position.
const POSITION: u32 = 0x0FFF_FFFF;
/// Characters of a key. The kernel's own limit for a device's alias is 2048, modules' patterns have 100; the depth of the
/// trie is bounded by this.
const LONGEST_KEY: usize = 1024;

/// Memory of entries for each byte of the file. Keys have much in common: real indexes reach 8.
const MOST_MEMORY: usize = 64;
/// That any file may take: what [`write`] makes of a long key with many values is denser than that.
const FREE_MEMORY: usize = 1 << 20;

/// One value under a key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    /// 7-bit text without NUL.
    pub key: String,
    /// Lower comes first.
    pub priority: u32,
    /// 7-bit text without NUL.
    pub value: String,
}

/// An index cannot be written or read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IndexError {
    /// A key or a value that the format cannot hold.
    #[error("{0:?} is not 7-bit text")]
    Text(String),
    /// A key that no module has.
    #[error("a key of {0} characters, more than {LONGEST_KEY}")]
    LongKey(usize),
    /// More than an offset can say.
    #[error("more than {POSITION} bytes")]
    TooLarge,
    /// Not this format.
    #[error("not an index of kmod's version 2.1: it begins with {0:02x?}")]
    Header(Vec<u8>),
    /// The file ends within a node.
    #[error("truncated at byte {0}")]
    Truncated(usize),
    /// A node that is wrong in itself, or that was there before.
    #[error("{problem} at byte {offset}")]
    Node {
        /// Where.
        offset: usize,
        /// What is wrong.
        problem: &'static str,
    },
}

/// The index of `entries`. The values of a key are sorted by priority; of equal ones, the later entry comes first (as kmod
/// inserts them).
///
/// # Errors
/// A key or value is not 7-bit text; more than 256 MiB.
pub fn write(mut entries: Vec<Entry>) -> Result<Vec<u8>, IndexError> {
    for Entry { key, value, .. } in &entries {
        for text in [key, value] {
            if !text.is_ascii() || text.contains('\0') {
                return Err(IndexError::Text(text.clone()));
            }
        }
        if key.len() > LONGEST_KEY {
            return Err(IndexError::LongKey(key.len()));
        }
    }
    entries.reverse();
    entries.sort_by(|a, b| (&a.key, a.priority).cmp(&(&b.key, b.priority)));
    let mut out = Vec::new();
    put(&mut out, MAGIC);
    put(&mut out, VERSION);
    put(&mut out, 0);
    let root = node(&mut out, &entries, 0)?;
    patch(&mut out, HEADER - 4, root)?;
    Ok(out)
}

/// Writes the node of `entries`, which are sorted and whose keys have their first `depth` characters in common, and those
/// below it.
/// Gives its offset with flags.
fn node(out: &mut Vec<u8>, entries: &[Entry], depth: usize) -> Result<u32, IndexError> {
    let position = u32::try_from(out.len()).ok().filter(|at| *at <= POSITION).ok_or(IndexError::TooLarge)?;
    let (Some(first), Some(last)) = (entries.first(), entries.last()) else { return Ok(position) };
    let first = first.key.as_bytes().get(depth..).unwrap_or_default();
    let last = last.key.as_bytes().get(depth..).unwrap_or_default();
    // The root never has a prefix, since kmod begins with an empty one.
    let is_root = out.len() == HEADER;
    let common = first.iter().zip(last).take_while(|(a, b)| !is_root && a == b).count();
    let prefix = first.get(..common).unwrap_or_default();
    let end = depth + common;
    let mut offset = position;
    if !prefix.is_empty() {
        offset |= HAS_PREFIX;
        out.extend_from_slice(prefix);
        out.push(0);
    }
    let (values, longer) = entries.split_at(entries.partition_point(|entry| entry.key.len() == end));
    let arc = |entry: &Entry| entry.key.as_bytes().get(end).copied().unwrap_or_default();
    let children = longer.chunk_by(|a, b| arc(a) == arc(b));
    let mut slots = out.len();
    if let (Some(low), Some(high)) = (longer.first().map(arc), longer.last().map(arc)) {
        offset |= HAS_CHILDREN;
        out.extend_from_slice(&[low, high]);
        slots = out.len();
        out.resize(slots + 4 * (usize::from(high - low) + 1), 0);
    }
    if !values.is_empty() {
        offset |= HAS_VALUES;
        put(out, u32::try_from(values.len()).map_err(|_| IndexError::TooLarge)?);
        for Entry { priority, value, .. } in values {
            put(out, *priority);
            out.extend_from_slice(value.as_bytes());
            out.push(0);
        }
    }
    let low = longer.first().map(arc).unwrap_or_default();
    for child in children {
        let slot = child.first().map(arc).unwrap_or_default() - low;
        let offset = node(out, child, end + 1)?;
        patch(out, slots + 4 * usize::from(slot), offset)?;
    }
    Ok(offset)
}

fn put(out: &mut Vec<u8>, number: u32) {
    out.extend_from_slice(&number.to_be_bytes());
}

fn patch(out: &mut [u8], at: usize, number: u32) -> Result<(), IndexError> {
    out.get_mut(at..at + 4).ok_or(IndexError::Truncated(at))?.copy_from_slice(&number.to_be_bytes());
    Ok(())
}

/// All entries of an index, sorted by key; the values of a key in the file's order.
///
/// # Errors
/// The bytes are no index, end too early, or hold a node twice (a loop, or a file made to multiply).
pub fn read(bytes: &[u8]) -> Result<Vec<Entry>, IndexError> {
    let mut header = Cursor { bytes, at: 0 };
    if (header.number(), header.number()) != (Ok(MAGIC), Ok(VERSION)) {
        return Err(IndexError::Header(bytes.iter().take(8).copied().collect()));
    }
    let mut out = Vec::new();
    let mut seen = BTreeSet::new();
    // Depth first, so that the parent's key is still there when a child's turn comes: its length is enough.
    let mut key: Vec<u8> = Vec::new();
    let mut pending = vec![(header.number()?, 0, None)];
    let mut room = bytes.len().saturating_mul(MOST_MEMORY).saturating_add(FREE_MEMORY);
    while let Some((offset, parent, character)) = pending.pop() {
        // Four bits of flags and a position: below 2^28, so it fits.
        let at = usize::try_from(offset & POSITION).unwrap_or(usize::MAX);
        let wrong = |problem| IndexError::Node { offset: at, problem };
        key.truncate(parent);
        key.extend(character);
        if offset & (HAS_PREFIX | HAS_VALUES | HAS_CHILDREN) == 0 {
            continue;
        }
        if !seen.insert(at) {
            return Err(wrong("a node that was there before"));
        }
        let mut cursor = Cursor { bytes, at };
        if offset & HAS_PREFIX != 0 {
            key.extend_from_slice(cursor.text()?);
        }
        if key.len() > LONGEST_KEY {
            return Err(wrong("a key that is too long"));
        }
        if offset & HAS_CHILDREN != 0 {
            let (low, high) = (cursor.byte()?, cursor.byte()?);
            // A NUL ends a text, so that no key can hold one.
            if low == 0 || low > high || high >= 0x80 {
                return Err(wrong("children of characters that cannot be"));
            }
            for character in low..=high {
                match cursor.number()? {
                    0 => {}
                    child => pending.push((child, key.len(), Some(character))),
                }
            }
            if pending.len() > bytes.len() {
                return Err(wrong("more children than the file can hold"));
            }
        }
        if offset & HAS_VALUES != 0 {
            let key = text(&key).ok_or_else(|| wrong("a key that is not 7-bit text"))?;
            for _ in 0..cursor.number()? {
                let priority = cursor.number()?;
                let value = text(cursor.text()?).ok_or_else(|| wrong("a value that is not 7-bit text"))?;
                let used = size_of::<Entry>() + key.len() + value.len();
                room = room.checked_sub(used).ok_or_else(|| wrong("more text than an index of this size has"))?;
                out.push(Entry { key: key.clone(), priority, value });
            }
        }
    }
    out.sort_by(|a, b| a.key.cmp(&b.key));
    Ok(out)
}

fn text(bytes: &[u8]) -> Option<String> {
    bytes.is_ascii().then(|| String::from_utf8_lossy(bytes).into_owned())
}

struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], IndexError> {
        let end = self.at.checked_add(count).ok_or(IndexError::Truncated(self.at))?;
        let taken = self.bytes.get(self.at..end).ok_or(IndexError::Truncated(self.at))?;
        self.at = end;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8, IndexError> {
        let at = self.at;
        self.take(1)?.first().copied().ok_or(IndexError::Truncated(at))
    }

    fn number(&mut self) -> Result<u32, IndexError> {
        let at = self.at;
        let bytes = self.take(4)?.try_into().map_err(|_| IndexError::Truncated(at))?;
        Ok(u32::from_be_bytes(bytes))
    }

    fn text(&mut self) -> Result<&'a [u8], IndexError> {
        let rest = self.bytes.get(self.at..).ok_or(IndexError::Truncated(self.at))?;
        let length = memchr::memchr(0, rest).ok_or(IndexError::Truncated(self.at))?;
        let taken = self.take(length)?;
        self.at += 1;
        Ok(taken)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entry(key: &str, priority: u32, value: &str) -> Entry {
        Entry { key: key.into(), priority, value: value.into() }
    }

    #[test]
    fn the_bytes_are_the_documented_ones() {
        let bytes = write(vec![entry("xab", 1, "x"), entry("xad", 2, "y")]).unwrap();
        let mut expected = vec![0xb0, 0x07, 0xf4, 0x57, 0, 2, 0, 1, 0x20, 0, 0, 0x0c];
        expected.extend(b"xx\xa0\0\0\x12");
        expected.extend(b"a\0bd");
        expected.extend([0x40, 0, 0, 0x22, 0, 0, 0, 0, 0x40, 0, 0, 0x2c]);
        expected.extend([0, 0, 0, 1, 0, 0, 0, 1, b'x', 0]);
        expected.extend([0, 0, 0, 1, 0, 0, 0, 2, b'y', 0]);
        assert_eq!(bytes, expected);
    }

    #[test]
    fn values_are_sorted_by_priority_and_later_ones_go_first() {
        let bytes = write(vec![entry("k", 2, "c"), entry("k", 1, "a"), entry("k", 1, "b")]).unwrap();
        assert_eq!(read(&bytes).unwrap(), [entry("k", 1, "b"), entry("k", 1, "a"), entry("k", 2, "c")]);
        assert_eq!(read(&write(Vec::new()).unwrap()).unwrap(), []);
    }

    #[test]
    fn what_the_format_cannot_hold_is_refused() {
        assert!(matches!(write(vec![entry("\u{e9}", 0, "")]), Err(IndexError::Text(_))));
        assert!(matches!(write(vec![entry("a", 0, "b\0")]), Err(IndexError::Text(_))));
        assert_eq!(write(vec![entry(&"a".repeat(2000), 0, "")]), Err(IndexError::LongKey(2000)));
    }

    #[test]
    fn loops_are_found() {
        let mut bytes = write(vec![entry("a", 0, "x"), entry("b", 0, "y")]).unwrap();
        // Both children lead to the root.
        let root: [u8; 4] = bytes[8..12].try_into().unwrap();
        bytes[14..18].copy_from_slice(&root);
        assert!(matches!(read(&bytes), Err(IndexError::Node { offset: 12, .. })));
        assert!(matches!(read(b"nothing"), Err(IndexError::Header(_))));
    }

    #[test]
    fn a_long_key_may_have_many_values() {
        let entries: Vec<_> = (0..400).map(|priority| entry(&"k".repeat(1000), priority, "")).collect();
        assert_eq!(read(&write(entries.clone()).unwrap()), Ok(entries));
    }

    #[test]
    fn no_key_holds_a_nul() {
        let mut bytes = write(vec![entry("a", 0, "x"), entry("b", 0, "y")]).unwrap();
        // The root's first child becomes that of NUL.
        bytes[12] = 0;
        assert!(matches!(read(&bytes), Err(IndexError::Node { offset: 12, .. })));
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(mut entries in prop::collection::vec(
            ("[a-c*\\[]{1,6}", 0..9_u32, "[x-z]{0,3}").prop_map(|(key, priority, value)| Entry { key, priority, value }),
            0..60,
        )) {
            let mut found = read(&write(entries.clone()).unwrap()).unwrap();
            prop_assert!(found.is_sorted_by(|a, b| (&a.key, a.priority) <= (&b.key, b.priority)));
            found.sort();
            entries.sort();
            prop_assert_eq!(found, entries);
        }

        #[test]
        fn a_changed_or_shortened_file_never_panics(change in (0..200_usize, any::<u8>()), length in 0..200_usize) {
            let mut bytes = write(vec![entry("abc", 0, "x"), entry("abd", 1, "y"), entry("q", 2, "z")]).unwrap();
            if let Some(byte) = bytes.get_mut(change.0) {
                *byte = change.1;
            }
            bytes.truncate(length);
            let _ = read(&bytes);
        }
    }
}
