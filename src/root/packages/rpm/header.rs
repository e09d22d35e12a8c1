//! A header as rpm keeps it in its database: two counts, an index of tags, and the data (rpm's `lib/header.c`, `docs/manual/format.md`).
//!
//! All numbers are big-endian. Each entry of the index has 16 bytes: tag, type, offset in the data, count. What is asked for is
//! bounds-checked when it is asked for; the rest is not looked at.

use super::bytes;

pub(super) const NAME: u32 = 1000;
pub(super) const VERSION: u32 = 1001;
pub(super) const RELEASE: u32 = 1002;
pub(super) const EPOCH: u32 = 1003;
pub(super) const VENDOR: u32 = 1011;
pub(super) const LICENSE: u32 = 1014;
pub(super) const URL: u32 = 1020;
pub(super) const ARCH: u32 = 1022;
pub(super) const SOURCERPM: u32 = 1044;
const FILEFLAGS: u32 = 1037;
const DIRINDEXES: u32 = 1116;
const BASENAMES: u32 = 1117;
const DIRNAMES: u32 = 1118;

/// A file that the package owns and does not bring (`RPMFILE_GHOST`).
const GHOST: u32 = 1 << 6;

const INT32: u32 = 4;
const STRING: u32 = 6;
const STRING_ARRAY: u32 = 8;
const I18N_STRING: u32 = 9;
const ENTRY: usize = 16;
/// As rpm's own `hdrchkTags`.
const MAX_ENTRIES: u32 = 1 << 16;

/// A header.
pub(super) struct Header<'a> {
    index: &'a [u8],
    data: &'a [u8],
}

/// A tag's type, its data and all that follows, and its count.
type Found<'a> = (u32, &'a [u8], u32);

impl<'a> Header<'a> {
    pub(super) fn parse(blob: &'a [u8]) -> Result<Self, &'static str> {
        let count = |at| bytes(blob, at).map(u32::from_be_bytes).ok_or("a header ends before its counts");
        let (entries, data) = (count(0)?, count(4)?);
        if entries == 0 || entries >= MAX_ENTRIES {
            return Err("a header's count of tags is wrong");
        }
        let index = usize::try_from(entries).unwrap_or(usize::MAX).saturating_mul(ENTRY).saturating_add(8);
        let end = index.saturating_add(usize::try_from(data).unwrap_or(usize::MAX));
        match (blob.get(8..index), blob.get(index..end), blob.len() == end) {
            (Some(index), Some(data), true) => Ok(Self { index, data }),
            _ => Err("a header has another length than it says"),
        }
    }

    /// The last entry of a tag: what was added later takes the place of what the package brought.
    fn find(&self, tag: u32) -> Result<Option<Found<'a>>, &'static str> {
        let field = |entry, at| bytes(entry, at).map_or(0, u32::from_be_bytes);
        let Some(entry) = self.index.chunks_exact(ENTRY).rfind(|entry| field(entry, 0) == tag) else { return Ok(None) };
        let data = usize::try_from(field(entry, 8)).ok().and_then(|offset| self.data.get(offset..));
        Ok(Some((field(entry, 4), data.ok_or("a tag's data lies outside of the header")?, field(entry, 12))))
    }

    /// A string; of several the first.
    pub(super) fn text(&self, tag: u32) -> Result<Option<&'a [u8]>, &'static str> {
        match self.find(tag)? {
            Some((STRING | I18N_STRING, data, _)) => strings(data).next().ok_or("a string does not end").map(Some),
            Some(_) => Err("a tag is of another type than it should be"),
            None => Ok(None),
        }
    }

    pub(super) fn numbers(&self, tag: u32) -> Result<Option<impl Iterator<Item = u32> + use<'a>>, &'static str> {
        match self.find(tag)? {
            Some((INT32, data, count)) => {
                let length = usize::try_from(count).ok().and_then(|count| count.checked_mul(4));
                let data =
                    length.and_then(|length| data.get(..length)).ok_or("a tag's data ends outside of the header")?;
                Ok(Some(data.chunks_exact(4).map(|word| bytes(word, 0).map_or(0, u32::from_be_bytes))))
            }
            Some(_) => Err("a tag is of another type than it should be"),
            None => Ok(None),
        }
    }

    fn array(&self, tag: u32) -> Result<Vec<&'a [u8]>, &'static str> {
        match self.find(tag)? {
            Some((STRING_ARRAY, data, count)) => {
                let count = usize::try_from(count).unwrap_or(usize::MAX);
                let found: Vec<_> = strings(data).take(count).collect();
                if found.len() == count { Ok(found) } else { Err("a list of strings ends outside of the header") }
            }
            Some(_) => Err("a tag is of another type than it should be"),
            None => Ok(Vec::new()),
        }
    }

    /// The paths of all files that the package brings.
    pub(super) fn files(&self) -> Result<Vec<Vec<u8>>, &'static str> {
        let (names, directories) = (self.array(BASENAMES)?, self.array(DIRNAMES)?);
        let indexes = self.numbers(DIRINDEXES)?.into_iter().flatten();
        let flags = self.numbers(FILEFLAGS)?.into_iter().flatten().chain(std::iter::repeat(0));
        let mut files = Vec::new();
        let mut left = names.len();
        // A hostile header could repeat a long directory for each of many names.
        let mut room = 4 * self.data.len() + (1 << 20);
        for ((name, index), flags) in names.into_iter().zip(indexes).zip(flags) {
            left = left.saturating_sub(1);
            let directory = usize::try_from(index).ok().and_then(|index| directories.get(index));
            let directory = directory.ok_or("a file lies in a directory that is not listed")?;
            let length = directory.len().saturating_add(name.len());
            room = room.checked_sub(length.min(4096)).ok_or("the paths of a package are longer than any package's")?;
            if flags & GHOST == 0 && length <= 4096 {
                files.push([*directory, name].concat());
            }
        }
        if left == 0 { Ok(files) } else { Err("a package lists names without directories") }
    }
}

/// The strings that end with a NUL.
fn strings(data: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = data;
    std::iter::from_fn(move || {
        let (text, after) = rest.split_at_checked(memchr::memchr(0, rest)?)?;
        rest = after.get(1..).unwrap_or_default();
        Some(text)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A header of entries (tag, type, offset, count) and data.
    fn header(entries: &[[u32; 4]], data: &[u8]) -> Vec<u8> {
        let counts = [u32::try_from(entries.len()).unwrap(), u32::try_from(data.len()).unwrap()];
        let words = counts.iter().chain(entries.iter().flatten()).flat_map(|word| word.to_be_bytes());
        words.chain(data.iter().copied()).collect()
    }

    #[test]
    fn what_is_asked_for_lies_inside() {
        let blob = header(&[[NAME, STRING, 0, 1], [EPOCH, INT32, 4, 1], [NAME, STRING, 8, 1]], b"old\0\0\0\0\x07new\0");
        let found = Header::parse(&blob).unwrap();
        assert_eq!(found.text(NAME), Ok(Some(&b"new"[..])), "the last entry of a tag counts");
        assert_eq!(found.numbers(EPOCH).unwrap().unwrap().collect::<Vec<_>>(), [7]);
        assert_eq!(found.text(VERSION), Ok(None));
        assert!(found.text(EPOCH).is_err() && found.numbers(NAME).is_err(), "of another type");
        for length in 0..blob.len() {
            assert!(Header::parse(&blob[..length]).is_err(), "{length} bytes");
        }
        for entry in [[NAME, STRING, 4, 1], [NAME, STRING, u32::MAX, 1], [NAME, STRING, 0, 1]] {
            let blob = header(&[entry], b"open");
            assert!(Header::parse(&blob).unwrap().text(NAME).is_err(), "{entry:?}");
        }
        let blob = header(&[[EPOCH, INT32, 0, u32::MAX]], &[0; 8]);
        assert!(Header::parse(&blob).unwrap().numbers(EPOCH).is_err());
    }

    #[test]
    fn files_are_in_directories_that_are_listed() {
        let data = b"a\0b\0/x/\0\0\0\0\0\0\0\0\0\0\0";
        let entries =
            |index| [[BASENAMES, STRING_ARRAY, 0, 2], [DIRNAMES, STRING_ARRAY, 4, 1], [DIRINDEXES, INT32, index, 2]];
        let blob = header(&entries(8), data);
        assert_eq!(Header::parse(&blob).unwrap().files(), Ok(vec![b"/x/a".to_vec(), b"/x/b".to_vec()]));
        // The index of a directory is made of its name.
        let blob = header(&entries(4), data);
        assert!(Header::parse(&blob).unwrap().files().is_err());
        let blob = header(&entries(8)[..2], data);
        assert!(Header::parse(&blob).unwrap().files().is_err());
    }
}
