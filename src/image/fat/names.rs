//! Names: what FAT can hold, and the 8.3 name that stands beside each long one.
//!
//! fatgen103, "Naming Conventions": the short name of a long one has the characters that short names may have, and a
//! number after a tilde where that lost something or where the name is taken. The numbers go by the order of the names, so
//! that the same files have the same names always.

use std::collections::{BTreeMap, BTreeSet};

use super::tree::unrepresentable;
use crate::image::ImageError;
use crate::names::TreePath;

/// Most UTF-16 units of a name, and of a path: 260 (fatgen103) less the separator before and the NUL after it.
const MOST_UNITS: usize = 255;
const MOST_PATH_UNITS: usize = 258;
/// Units of a long name in one entry.
pub(super) const UNITS_PER_ENTRY: usize = 13;

/// A short name: eight characters and three, padded with spaces.
pub(super) type Short = [u8; 11];

/// A name as a directory holds it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Name {
    pub(super) short: Short,
    /// UTF-16, where the short name does not say it all.
    pub(super) long: Option<Vec<u16>>,
}

impl Name {
    /// Entries that it takes.
    pub(super) fn slots(&self) -> u32 {
        let long = self.long.as_ref().map_or(0, |long| long.len().div_ceil(UNITS_PER_ENTRY));
        u32::try_from(long).unwrap_or(u32::MAX).saturating_add(1)
    }
}

/// Whether a byte may be in a short name.
pub(super) fn is_short(byte: u8) -> bool {
    byte.is_ascii_uppercase() || byte.is_ascii_digit() || b"$%'-_@~`!(){}^#&".contains(&byte)
}

/// The names of one directory.
#[derive(Debug, Default)]
pub(super) struct Namer {
    names: Vec<(TreePath, String)>,
    /// By what they are when case does not count.
    folded: BTreeMap<String, TreePath>,
}

impl Namer {
    /// Checks a path's last name.
    pub(super) fn add(&mut self, path: &TreePath) -> Result<(), ImageError> {
        let failed = |problem: &str| Err(unrepresentable(path, problem));
        let (Ok(name), Ok(whole)) = (std::str::from_utf8(path.file_name()), std::str::from_utf8(path.as_bytes()))
        else {
            return failed("its name is not UTF-8, and FAT's names are Unicode; rename it");
        };
        let is_refused = |c: char| c < ' ' || "\"*/:<>?\\|\u{ffff}".contains(c);
        if let Some(character) = name.chars().find(|&c| is_refused(c)) {
            let problem = format!("its name has the character {character:?}, which FAT does not have; rename it");
            return failed(&problem);
        }
        if name.ends_with(['.', ' ']) {
            return failed("its name ends with a dot or a space, which readers of FAT drop; rename it");
        }
        if name.encode_utf16().count() > MOST_UNITS {
            return failed("its name has more than 255 characters (UTF-16 units); shorten it");
        }
        if whole.encode_utf16().count() > MOST_PATH_UNITS {
            return failed("its path has more than 258 characters (UTF-16 units); shorten it");
        }
        if let Some(other) = self.folded.insert(fold(name), path.clone()) {
            let problem =
                format!("to FAT it is the same name as {other}: upper and lower case do not count; rename one");
            return failed(&problem);
        }
        self.names.push((path.clone(), name.to_owned()));
        Ok(())
    }

    /// The names as a directory holds them, in the order in which they came.
    pub(super) fn finish(self) -> Result<Vec<Name>, ImageError> {
        // Names that are short as they are (but for case) have their own short names, whatever else there is.
        let bases: Vec<_> = self.names.iter().map(|(_, name)| Basis::new(name)).collect();
        let mut taken: BTreeSet<Short> =
            bases.iter().filter(|basis| !basis.is_lossy).map(|basis| basis.short(None)).collect();
        let mut next = BTreeMap::new();
        let mut names = Vec::with_capacity(bases.len());
        for ((path, name), basis) in self.names.iter().zip(bases) {
            let short = match basis.is_lossy {
                false => basis.short(None),
                true => basis.numbered(&mut taken, &mut next).ok_or_else(|| {
                    unrepresentable(path, "too many names in its directory begin alike; use several directories")
                })?,
            };
            let is_short = !basis.is_lossy && !name.bytes().any(|byte| byte.is_ascii_lowercase());
            names.push(Name { short, long: (!is_short).then(|| name.encode_utf16().collect()) });
        }
        Ok(names)
    }
}

/// A name without its case: as Windows and Linux compare, character by character.
fn fold(name: &str) -> String {
    let upper = |c: char| {
        let mut upper = c.to_uppercase();
        match (upper.next(), upper.next()) {
            (Some(upper), None) => upper,
            _ => c,
        }
    };
    name.chars().map(upper).collect()
}

/// What a short name is made of.
#[derive(Debug)]
struct Basis {
    base: Vec<u8>,
    extension: Vec<u8>,
    /// Whether it says less than the name, case aside.
    is_lossy: bool,
}

impl Basis {
    fn new(name: &str) -> Self {
        let visible: String = name.chars().filter(|&c| c != ' ').collect();
        let visible = visible.trim_start_matches('.');
        let mut is_lossy = visible.len() != name.len();
        let mut convert = |part: &str, length: usize| -> Vec<u8> {
            let mut bytes = Vec::new();
            for c in part.chars().filter(|&c| c != '.') {
                let byte = u8::try_from(c.to_ascii_uppercase()).ok().filter(|&byte| is_short(byte));
                is_lossy |= byte.is_none() || bytes.len() == length;
                if bytes.len() < length {
                    bytes.push(byte.unwrap_or(b'_'));
                }
            }
            is_lossy |= part.contains('.');
            bytes
        };
        let (base, extension) = visible.rsplit_once('.').unwrap_or((visible, ""));
        let (base, extension) = (convert(base, 8), convert(extension, 3));
        Self { base, extension, is_lossy }
    }

    /// With a number of so many digits, or without.
    fn short(&self, number: Option<u32>) -> Short {
        let tail = number.map_or_else(String::new, |number| format!("~{number}"));
        let base = self.base.iter().take(8_usize.saturating_sub(tail.len())).copied().chain(tail.bytes());
        let mut short = [b' '; 11];
        for (to, from) in short.iter_mut().zip(base) {
            *to = from;
        }
        for (to, from) in short.iter_mut().skip(8).zip(&self.extension) {
            *to = *from;
        }
        short
    }

    /// With the first number that is free. `next` remembers where to look for names that begin alike, so that a directory of tens
    /// of thousands of them is no matter.
    fn numbered(&self, taken: &mut BTreeSet<Short>, next: &mut BTreeMap<Short, u32>) -> Option<Short> {
        for digits in 1..=6 {
            let from = 10_u32.pow(digits - 1);
            // The lowest number of its length stands for all.
            let number = next.entry(self.short(Some(from))).or_insert(from);
            while *number < from * 10 {
                let short = self.short(Some(*number));
                *number += 1;
                if taken.insert(short) {
                    return Some(short);
                }
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Result<Vec<Name>, ImageError> {
        let mut namer = Namer::default();
        for name in names {
            namer.add(&TreePath::new(name).unwrap())?;
        }
        namer.finish()
    }

    fn shorts(list: &[&str]) -> Vec<String> {
        let names = names(list).unwrap();
        names.iter().map(|name| String::from_utf8(name.short.to_vec()).unwrap()).collect()
    }

    #[test]
    fn short_names_are_those_of_the_specification() {
        assert_eq!(shorts(&["BOOTX64.EFI", "bootx64.conf"]), ["BOOTX64 EFI", "BOOTX6~1CON"]);
        assert_eq!(
            shorts(&["loader.conf", ".dot", "a.b.c", "a b", "ö", "EFI"]),
            ["LOADER~1CON", "DOT~1      ", "AB~1    C  ", "AB~1       ", "_~1        ", "EFI        "]
        );
        // A name that is another one's short name keeps it.
        assert_eq!(shorts(&["The quick.txt", "THEQUI~1.TXT"]), ["THEQUI~2TXT", "THEQUI~1TXT"]);
        assert_eq!(shorts(&["The quick.txt", "thequi~1.txt"]), ["THEQUI~2TXT", "THEQUI~1TXT"]);
    }

    #[test]
    fn only_what_is_not_upper_case_has_a_long_name() {
        let names = names(&["EFI", "BOOT.EFI", "efi2", "Boot2.EFI"]).unwrap();
        let is_long: Vec<_> = names.iter().map(|name| name.long.is_some()).collect();
        assert_eq!(is_long, [false, false, true, true]);
    }

    #[test]
    fn many_names_that_begin_alike_have_short_names_of_their_own() {
        let list: Vec<_> = (0..20_000).map(|number| format!("configuration-{number}.conf")).collect();
        let list: Vec<_> = list.iter().map(String::as_str).collect();
        let shorts = shorts(&list);
        assert_eq!(shorts.iter().collect::<BTreeSet<_>>().len(), 20_000);
        assert_eq!([&*shorts[0], &*shorts[9], &*shorts[19_999]], ["CONFIG~1CON", "CONFI~10CON", "CO~20000CON"]);
    }

    #[test]
    fn names_that_fat_does_not_have_are_refused() {
        for (list, part) in [
            (&["a:b"][..], "':'"),
            (&["a\nb"], "'\\n'"),
            (&["a."], "dot or a space"),
            (&["a "], "dot or a space"),
            (&["a", "A"], "same name as /a:"),
            (&["É", "é"], "same name as /É:"),
            (&["a\u{ffff}"], "'\\u{ffff}'"),
        ] {
            let message = names(list).unwrap_err().to_string();
            assert!(message.contains(part), "{message}");
        }
        let long = "x".repeat(256);
        assert!(names(&[&long]).unwrap_err().to_string().contains("255"));
        // 130 characters, of two units each.
        let long = "😀".repeat(130);
        assert!(names(&[&long]).unwrap_err().to_string().contains("255"));
        let long = "x".repeat(255);
        assert_eq!(names(&[&long]).unwrap()[0].slots(), 21);
        let deep = format!("{}/x", "directory/".repeat(26));
        assert!(names(&[&deep]).unwrap_err().to_string().contains("258"));
    }

    #[test]
    fn bytes_that_are_no_text_are_refused() {
        let mut namer = Namer::default();
        let error = namer.add(&TreePath::new(b"a\xff").unwrap()).unwrap_err();
        assert!(error.to_string().contains("UTF-8"), "{error}");
    }
}
