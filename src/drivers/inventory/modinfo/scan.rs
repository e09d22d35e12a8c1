//! The search for `.modinfo` in the bytes of a module that arrive piece by piece.

use memchr::{memchr, memmem, memrchr};

/// What every list has: the first from the module's source, the others from modpost.
const ALWAYS: [&[u8]; 4] = [b"license", b"depends", b"name", b"vermagic"];
/// The keys that anyone reads (`include/linux/module.h`, `scripts/mod/modpost.c`). Others, which a driver may invent, are
/// left out: a string of the program right before the list (`codepage=%s`) looks the same.
const KNOWN: [&[u8]; 22] = [
    b"alias",
    b"author",
    b"depends",
    b"description",
    b"file",
    b"firmware",
    b"import_ns",
    b"intree",
    b"license",
    b"livepatch",
    b"name",
    b"parm",
    b"parmtype",
    b"retpoline",
    b"scmversion",
    b"softdep",
    b"srcversion",
    b"staging",
    b"supported",
    b"vermagic",
    b"version",
    b"weakdep",
];

/// What can be said of the bytes so far.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum View<'a> {
    /// Nothing yet.
    More,
    /// There is a list, but where it begins or ends cannot be told.
    Unclear,
    /// The strings of the complete list.
    List(&'a [u8]),
}

/// Where the search for the list stands, so that no byte is searched twice.
#[derive(Debug, Default)]
pub(super) struct Scan {
    /// Bytes in which `vermagic=` does not begin.
    searched: usize,
    /// Where the first string that may lie behind the list begins.
    end: usize,
}

impl Scan {
    /// What is to be said once `bytes`, all so far, are there.
    pub(super) fn look<'a>(&mut self, bytes: &'a [u8]) -> View<'a> {
        const MARK: &[u8] = b"\0vermagic=";
        loop {
            let Some(found) = memmem::find(bytes.get(self.searched..).unwrap_or_default(), MARK) else {
                self.searched = bytes.len().saturating_sub(MARK.len() - 1).max(self.searched);
                return View::More;
            };
            let mark = self.searched + found;
            self.searched = mark;
            self.end = self.end.max(mark + 1);
            if !self.reach_end(bytes) {
                return View::More;
            }
            match list_around(bytes, mark, self.end) {
                // `vermagic=` in strings of the program: look behind all of them, since each has the same list around it.
                None => self.searched = self.end.saturating_sub(1).max(mark + 1),
                Some(view) => return view,
            }
        }
    }

    /// Moves `end` behind the last string of the list; `false` where more bytes are needed to tell.
    fn reach_end(&mut self, bytes: &[u8]) -> bool {
        loop {
            let rest = bytes.get(self.end..).unwrap_or_default();
            match (key(rest), memchr(0, rest)) {
                (Key::None, _) => return true,
                (Key::Some(_), Some(nul)) => self.end += nul + 1,
                (Key::Partial, _) | (_, None) => return false,
            }
        }
    }
}

/// The list whose `vermagic=` follows the NUL at `mark`, and which ends before `end`; `None` where strings are missing that
/// every list has.
fn list_around(bytes: &[u8], mark: usize, end: usize) -> Option<View<'_>> {
    let mut start = mark + 1;
    let before = loop {
        let string_end = start.saturating_sub(1);
        let string_start = memrchr(0, bytes.get(..string_end)?).map_or(0, |nul| nul + 1);
        let string = bytes.get(string_start..string_end)?;
        if string_start == 0 || !matches!(key(string), Key::Some(_)) {
            break string;
        }
        start = string_start;
    };
    let list = bytes.get(start..end)?;
    let has = |wanted: &[u8]| list.split(|&b| b == 0).any(|s| matches!(key(s), Key::Some(k) if k == wanted));
    if !ALWAYS.iter().all(|wanted| has(wanted)) {
        return None;
    }
    // Where the section before does not end in a NUL, its last bytes stand before the first key. Where it ends in strings
    // that look like ours, these are most likely formats.
    let unclear = holds_a_key(before) || list.split(|&b| b == 0).any(|s| is_glued(s) || is_format(s));
    Some(if unclear { View::Unclear } else { View::List(list) })
}

/// Whether a string is one that has a meaning.
pub(super) fn is_known(string: &[u8]) -> bool {
    matches!(key(string), Key::Some(key) if KNOWN.contains(&key))
}

/// Whether `key=` of a known key stands anywhere in these bytes.
fn holds_a_key(bytes: &[u8]) -> bool {
    memchr::memchr_iter(b'=', bytes).any(|at| {
        let head = bytes.get(..at).unwrap_or_default();
        KNOWN.iter().any(|known| head.ends_with(known))
    })
}

/// Whether a string of another key holds a known one: bytes of the section before may stand in front of it.
fn is_glued(string: &[u8]) -> bool {
    matches!(key(string), Key::Some(key) if !KNOWN.contains(&key)) && holds_a_key(string)
}

/// Whether a string that should be a name or a pattern may be a format of the program's.
fn is_format(string: &[u8]) -> bool {
    const PROSE: [&[u8]; 4] = [b"author", b"description", b"license", b"parm"];
    matches!(key(string), Key::Some(key) if KNOWN.contains(&key) && !PROSE.contains(&key))
        && memchr(b'%', string).is_some()
}

/// What stands before the first `=` of a string.
enum Key<'a> {
    /// No key.
    None,
    /// Maybe a key: the bytes end before its `=`.
    Partial,
    /// A key.
    Some(&'a [u8]),
}

/// Keys are C identifiers; the prefix of a parameter's may have more.
fn key(bytes: &[u8]) -> Key<'_> {
    const LONGEST: usize = 64;
    let is_key = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
    let length = bytes.iter().take(LONGEST).take_while(|b| is_key(b)).count();
    match (length, bytes.get(length)) {
        (0, Some(_)) | (LONGEST, _) => Key::None,
        (_, None) => Key::Partial,
        (_, Some(b'=')) => bytes.get(..length).map_or(Key::None, Key::Some),
        (_, Some(_)) => Key::None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &[u8] = b"license=GPL\0firmware=a/b.bin\0depends=x,y-z\0name=m\0vermagic=6.1 SMP\0";

    fn look(before: &[u8], after: &[u8]) -> Vec<u8> {
        let mut bytes = before.to_vec();
        bytes.extend_from_slice(LIST);
        bytes.extend_from_slice(after);
        // The same answer however the bytes arrive.
        let whole = match Scan::default().look(&bytes) {
            View::List(list) => list.to_vec(),
            View::More => b"more".to_vec(),
            View::Unclear => b"unclear".to_vec(),
        };
        let mut scan = Scan::default();
        let stepwise = (0..=bytes.len()).find_map(|n| match scan.look(&bytes[..n]) {
            View::List(list) => Some(list.to_vec()),
            View::More => None,
            View::Unclear => Some(b"unclear".to_vec()),
        });
        assert_eq!(stepwise.unwrap_or(b"more".to_vec()), whole);
        whole
    }

    #[test]
    fn the_list_is_seen_as_soon_as_it_is_over() {
        assert_eq!(look(b"\x7fELF\0", b"\0"), LIST);
        assert_eq!(look(b"\0uid=%u\0", b"\0"), [b"uid=%u\0", LIST].concat());
        assert_eq!(look(b"%s: failed\n\0", b"\x01rest"), LIST);
        assert_eq!(look(b"\0", b""), b"more");
        assert_eq!(look(b"\0", b"partial"), b"more");
        // A string of the program before the list does no harm, nor does a `vermagic=` in it.
        assert_eq!(look(b"\0x\0vermagic=\0y\0", b"\0"), LIST);
    }

    #[test]
    fn a_list_without_a_clear_beginning_is_not_believed() {
        assert_eq!(look(b"\0\x01\x02firmware=x\0", b"\0"), b"unclear");
        assert_eq!(look(b"\0xalias=x\0", b"\0"), b"unclear");
        assert_eq!(look(b"\0f=<x\x01alias=y\0", b"\0"), b"unclear");
        assert_eq!(look(b"\0name=%s\0", b"\0"), b"unclear");
        // Without its `license=` the list is none, and nothing better follows.
        assert_eq!(look(b"\0\x01", b"\0"), b"more");
    }

    #[test]
    fn a_file_of_marks_takes_linear_time() {
        let marks = b"\0vermagic=".repeat(200_000);
        assert_eq!(look_once(&marks), View::More);
        let both = [&marks, &b"\0.\0"[..], LIST, b"\0"].concat();
        assert_eq!(look_once(&both), View::List(LIST));
    }

    fn look_once(bytes: &[u8]) -> View<'_> {
        Scan::default().look(bytes)
    }
}
