//! What the root's own kmod can decompress: it carries the list that `kmod --version` prints.

use crate::drivers::inventory::Compression;
use crate::names::TreePath;
use crate::root::sysroot::Sysroot;

use super::finding::KmodSupport;

/// Bytes that the program may have: kmod has 170 KB, a busybox 2 MB.
const LIMIT: u64 = 16 << 20;
/// Where distributions have it; `modprobe` is a link to it, or another program (busybox).
const PLACES: [&str; 4] = ["usr/sbin/modprobe", "sbin/modprobe", "usr/bin/modprobe", "usr/bin/kmod"];

/// The words of the list, `+XZ -ZLIB`; empty where there is none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Kmod(Vec<String>);

impl Kmod {
    /// Of the program that the root would run. A root without one says nothing.
    pub(super) fn of(root: &Sysroot) -> Self {
        let programs = PLACES.iter().filter_map(|place| root.read(&TreePath::new(place).ok()?, LIMIT).ok());
        programs.map(|bytes| Self::parse(&bytes)).next().unwrap_or_default()
    }

    fn parse(program: &[u8]) -> Self {
        let is_word = |word: &str| {
            let name = word.strip_prefix(['+', '-']).unwrap_or_default();
            !name.is_empty() && name.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit())
        };
        for at in memchr::memmem::find_iter(program, b"ZLIB ") {
            let before = program.get(..at).unwrap_or_default();
            let start = memchr::memrchr(0, before).map_or(0, |nul| nul + 1);
            let string = program.get(start..).unwrap_or_default();
            let end = memchr::memchr(0, string).unwrap_or(string.len());
            let Some(text) = string.get(..end).and_then(|text| std::str::from_utf8(text).ok()) else { continue };
            // The `--version` text holds the list as a line of its own or as a string of its own.
            let Some(line) = text.lines().find(|line| line.contains("ZLIB ")) else { continue };
            let words: Vec<&str> = line.split_ascii_whitespace().collect();
            if words.iter().all(|word| is_word(word)) {
                return Self(words.into_iter().map(str::to_owned).collect());
            }
        }
        Self::default()
    }

    /// `None` where it can decompress `form`.
    pub(super) fn lacks(&self, form: Compression) -> Option<KmodSupport> {
        let name = match form {
            Compression::None => return None,
            Compression::Gzip => "ZLIB",
            Compression::Xz => "XZ",
            Compression::Zstd => "ZSTD",
        };
        let has = |sign: char| self.0.iter().any(|word| word.strip_prefix(sign) == Some(name));
        // A list without the word is of a version that did not know the form.
        match (has('+'), has('-'), self.0.is_empty()) {
            (true, ..) => None,
            (false, false, true) => Some(KmodSupport::Unknown),
            _ => Some(KmodSupport::No),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_found_among_other_strings() {
        let kmod = Kmod::parse(b"\x7fELF\0ZLIB error\0kmod version 34\n\0+ZSTD +XZ -ZLIB +OPENSSL\0x");
        assert_eq!(kmod.lacks(Compression::Xz), None);
        assert_eq!(kmod.lacks(Compression::Zstd), None);
        assert_eq!(kmod.lacks(Compression::Gzip), Some(KmodSupport::No));
        assert_eq!(Kmod::parse(b"\0+XZ -ZLIB -EXPERIMENTAL\0").lacks(Compression::Zstd), Some(KmodSupport::No));
        assert_eq!(Kmod::parse(b"busybox").lacks(Compression::Xz), Some(KmodSupport::Unknown));
        assert_eq!(Kmod::parse(b"ZLIB ").lacks(Compression::Xz), Some(KmodSupport::Unknown));
    }
}
