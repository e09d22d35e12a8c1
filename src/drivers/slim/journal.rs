//! The journal of slimming in place: the complete list of changes, as text.
//!
//! One line for each change, words parted by single spaces. Bytes of a path that are not printable ASCII, and `%`, are `%XX`.
//! The last line has the digest of all others: a journal without it, or with another, is none.
//!
//! ```text
//! kairos-init slim journal 1
//! request SHA256                       of what was asked for
//! kernel PATH                          the module directory
//! time SECONDS NANOSECONDS PATH        a directory whose time is set back at the end
//! remove LENGTH SECONDS NANOSECONDS PATH
//! rmdir PATH                           if it is empty
//! index SHA256 BASE64 PATH             digest of the old file, or '-' where there was none; content of the new one
//! end SHA256
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use base64::prelude::{BASE64_STANDARD, Engine};
use sha2::{Digest, Sha256};

use crate::names::TreePath;
use crate::root::sysroot::{EntryType, Metadata};
use crate::root::writer::Mtime;

/// The first line. Another version has another number, and is refused.
const HEAD: &str = "kairos-init slim journal 1";

/// In place of a digest.
const ABSENT: &str = "-";

/// What tells a file from another that took its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mark {
    /// Bytes of a regular file, else 0.
    pub(super) length: u64,
    /// Modification time.
    pub(super) mtime: Mtime,
}

impl Mark {
    pub(super) fn of(metadata: &Metadata) -> Self {
        let length = match EntryType::of(metadata) {
            EntryType::File => u64::try_from(metadata.st_size).unwrap_or(0),
            _ => 0,
        };
        Self { length, mtime: mtime(metadata) }
    }
}

pub(super) fn mtime(metadata: &Metadata) -> Mtime {
    (metadata.st_mtime, u32::try_from(metadata.st_mtime_nsec).unwrap_or(0))
}

/// An index that is replaced, or comes in: an older depmod than ours did not write every one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Replacement {
    /// SHA-256 of the file that is there before, in hexadecimal digits; `None` where there is none.
    pub(super) old: Option<String>,
    /// The content of the new one.
    pub(super) new: Vec<u8>,
}

/// All changes of one slimming.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Journal {
    /// What was asked for, as a digest.
    pub(super) request: String,
    /// The kernel's module directory.
    pub(super) kernel: TreePath,
    /// Directories whose entries change and their times before.
    pub(super) times: BTreeMap<TreePath, Mtime>,
    /// Files, links and other entries that go.
    pub(super) removals: BTreeMap<TreePath, Mark>,
    /// Directories that go, once they are empty.
    pub(super) directories: BTreeSet<TreePath>,
    /// Indexes.
    pub(super) indexes: BTreeMap<TreePath, Replacement>,
}

/// Where a journal is wrong.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct JournalError {
    /// From 1.
    pub(super) line: usize,
    pub(super) problem: String,
}

pub(super) fn sha256(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

/// The journal in `text` as it would be written, for those who hold the parser against the writer: the fuzz targets.
///
/// # Errors
/// The line of what is wrong, from 1, and what it is.
pub fn rewritten(text: &str) -> Result<String, (usize, String)> {
    Journal::parse(text).map(|journal| journal.to_text()).map_err(|error| (error.line, error.problem))
}

impl Journal {
    /// As text.
    pub(super) fn to_text(&self) -> String {
        let mut text = format!("{HEAD}\nrequest {}\nkernel {}\n", self.request, encode(&self.kernel));
        let mut line = |line: String| {
            text.push_str(&line);
            text.push('\n');
        };
        for (path, (seconds, nanoseconds)) in &self.times {
            line(format!("time {seconds} {nanoseconds} {}", encode(path)));
        }
        for (path, Mark { length, mtime: (seconds, nanoseconds) }) in &self.removals {
            line(format!("remove {length} {seconds} {nanoseconds} {}", encode(path)));
        }
        for path in &self.directories {
            line(format!("rmdir {}", encode(path)));
        }
        for (path, Replacement { old, new }) in &self.indexes {
            let old = old.as_deref().unwrap_or(ABSENT);
            line(format!("index {old} {} {}", BASE64_STANDARD.encode(new), encode(path)));
        }
        let digest = sha256(text.as_bytes());
        text + &format!("end {digest}\n")
    }

    /// From text.
    ///
    /// # Errors
    /// Another version, a line that is none of the above, a digest that does not fit.
    pub(super) fn parse(text: &str) -> Result<Self, JournalError> {
        let lines = text.lines().count();
        let at = |line: usize, problem: &str| JournalError { line, problem: problem.to_owned() };
        let Some(body) = text.rfind("\nend ").and_then(|newline| text.get(..=newline)) else {
            return Err(at(lines.max(1), "the last line, with the digest, is missing"));
        };
        if text.get(body.len()..) != Some(&format!("end {}\n", sha256(body.as_bytes()))) {
            return Err(at(lines, "the digest in the last line does not fit"));
        }
        let mut journal = Self::default();
        for (index, line) in body.lines().enumerate() {
            let number = index.saturating_add(1);
            match (number, line) {
                (1, HEAD) => {}
                (1, _) => return Err(at(1, &format!("is not {HEAD:?}: another version"))),
                _ => journal.line(line).map_err(|problem| at(number, problem))?,
            }
        }
        if journal.request.is_empty() || journal.kernel.is_root() {
            return Err(at(lines, "what was asked for, or the kernel, is missing"));
        }
        Ok(journal)
    }

    fn line(&mut self, line: &str) -> Result<(), &'static str> {
        let words: Vec<&str> = line.split(' ').collect();
        let unique = |inserted: bool| if inserted { Ok(()) } else { Err("a second line for the same path") };
        match words.as_slice() {
            ["request", digest] if self.request.is_empty() => self.request = digest_of(digest)?,
            ["kernel", path] if self.kernel.is_root() => self.kernel = decode(path)?,
            ["time", seconds, nanoseconds, path] => {
                unique(self.times.insert(decode(path)?, time(seconds, nanoseconds)?).is_none())?;
            }
            ["remove", length, seconds, nanoseconds, path] => {
                let length = length.parse().map_err(|_| "not a length")?;
                let mark = Mark { length, mtime: time(seconds, nanoseconds)? };
                unique(self.removals.insert(decode(path)?, mark).is_none())?;
            }
            ["rmdir", path] => unique(self.directories.insert(decode(path)?))?,
            ["index", old, new, path] => {
                let new = BASE64_STANDARD.decode(new).map_err(|_| "not base64")?;
                let old = if *old == ABSENT { None } else { Some(digest_of(old)?) };
                let replacement = Replacement { old, new };
                unique(self.indexes.insert(decode(path)?, replacement).is_none())?;
            }
            _ => return Err("not a line of a journal"),
        }
        Ok(())
    }
}

pub(super) fn time(seconds: &str, nanoseconds: &str) -> Result<Mtime, &'static str> {
    let seconds = seconds.parse().map_err(|_| "not a time")?;
    match nanoseconds.parse() {
        Ok(nanoseconds @ 0..=999_999_999) => Ok((seconds, nanoseconds)),
        _ => Err("not a time"),
    }
}

fn digest_of(text: &str) -> Result<String, &'static str> {
    match text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        true => Ok(text.to_owned()),
        false => Err("not a SHA-256 digest"),
    }
}

fn encode(path: &TreePath) -> String {
    let mut text = String::with_capacity(path.as_bytes().len().saturating_add(1));
    text.push('/');
    for byte in path.as_bytes() {
        match byte {
            b'%' | ..=b' ' | 0x7f.. => {
                // Writing to a string does not fail.
                let _ok = write!(text, "%{byte:02X}");
            }
            byte => text.push(char::from(*byte)),
        }
    }
    text
}

fn decode(text: &str) -> Result<TreePath, &'static str> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let mut digit = || rest.next().and_then(|digit| char::from(digit).to_digit(16)).ok_or("not a path");
                let value = digit()?.saturating_mul(16).saturating_add(digit()?);
                u8::try_from(value).map_err(|_| "not a path")?
            }
            byte => byte,
        });
    }
    match TreePath::new(&bytes) {
        Ok(path) if !path.is_root() => Ok(path),
        _ => Err("not a path in the root"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Journal {
        let path = |bytes: &[u8]| TreePath::new(bytes).unwrap();
        Journal {
            request: sha256(b"request"),
            kernel: path(b"usr/lib/modules/6.1"),
            times: [(path(b"usr/lib/modules"), (-1, 999_999_999))].into(),
            removals: [(path(b"usr/lib/firmware/a b%\n\xff"), Mark { length: 7, mtime: (5, 0) })].into(),
            directories: [path(b"usr/lib/firmware/x")].into(),
            indexes: [("modules.dep", Some(sha256(b""))), ("modules.weakdep", None)]
                .map(|(name, old)| {
                    let new = vec![0, 255];
                    (path(format!("usr/lib/modules/6.1/{name}").as_bytes()), Replacement { old, new })
                })
                .into(),
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let text = sample().to_text();
        assert!(text.is_ascii() && text.contains(" /usr/lib/firmware/a%20b%25%0A%FF\n"), "{text}");
        assert_eq!(Journal::parse(&text), Ok(sample()));
    }

    #[test]
    fn half_a_journal_is_none_and_neither_is_a_changed_one() {
        let text = sample().to_text();
        for end in 0..text.len() {
            assert!(Journal::parse(text.get(..end).unwrap()).is_err(), "{end}");
        }
        assert!(Journal::parse(&text.replace("modules.dep", "modules.alias")).is_err());
        assert!(Journal::parse(&(text.clone() + "x")).is_err());
    }

    #[test]
    fn lines_that_are_none() {
        for line in [
            "remove 1 2 /a",
            "remove x 1 1 /usr/a",
            "time 1 1000000000 /usr",
            "rmdir /a/../b",
            "rmdir /a%00b",
            "rmdir /",
            "rmdir /a%2",
            "rmdir /a%zz",
            "rmdir /usr/lib/firmware/x",
            "index x AA== /usr/a",
            "index -- AA== /usr/a",
            "kernel /usr/lib/modules/7",
            "delete /usr/a",
            "",
        ] {
            let text = sample().to_text();
            let body = text.split("end ").next().unwrap().to_owned() + line + "\n";
            let text = format!("{body}end {}\n", sha256(body.as_bytes()));
            assert!(Journal::parse(&text).is_err(), "{line:?}");
        }
        let head =
            format!("{}end ", sample().to_text().replace("journal 1", "journal 2").split("end ").next().unwrap());
        let body = head.strip_suffix("end ").unwrap();
        let other = Journal::parse(&format!("{body}end {}\n", sha256(body.as_bytes()))).unwrap_err();
        assert!(other.line == 1 && other.problem.contains("version"), "{other:?}");
    }
}
