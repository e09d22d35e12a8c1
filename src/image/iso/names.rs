//! The short names of ISO 9660, for readers that know no Rock Ridge: 30 characters of `A-Z 0-9 _` and a dot (ECMA-119, 7.5
//! and 7.6, at levels 2 and 3), each once in its directory, the same for the same directory.

use std::collections::{BTreeMap, BTreeSet};

use super::tree::unrepresentable;
use crate::image::ImageError;
use crate::names::TreePath;

/// Characters of a file's name and extension together; of a directory's name, one less than it might have.
const LONGEST: usize = 30;
/// Characters of an extension that are kept.
const LONGEST_EXTENSION: usize = 8;

/// A file's or directory's identifier. Compared as records are sorted: shorter names count as filled up with spaces, which
/// stand before every character that may be in one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Identifier {
    name: Vec<u8>,
    extension: Vec<u8>,
    is_directory: bool,
}

impl Identifier {
    /// As it stands in a record.
    pub(super) fn bytes(&self) -> Vec<u8> {
        if self.is_directory {
            return self.name.clone();
        }
        [&self.name, &b"."[..], &self.extension, b";1"].concat()
    }

    fn of(name: &[u8], is_directory: bool) -> Self {
        // A dot in front is part of the name, as of `.profile`.
        let dot = name.iter().rposition(|byte| *byte == b'.').filter(|dot| *dot > 0 && !is_directory);
        let (name, extension) = match dot.and_then(|dot| name.split_at_checked(dot)) {
            Some((name, extension)) => (name, extension.get(1..).unwrap_or_default()),
            None => (name, &[][..]),
        };
        let mut extension = characters(extension);
        extension.truncate(LONGEST_EXTENSION);
        let mut name = characters(name);
        name.truncate(LONGEST.saturating_sub(extension.len()));
        Self { name, extension, is_directory }
    }

    /// The same with a number at the end of its name.
    fn numbered(&self, number: u64) -> Self {
        let number = format!("_{number}");
        let mut name = self.name.clone();
        name.truncate(LONGEST.saturating_sub(self.extension.len()).saturating_sub(number.len()));
        name.extend_from_slice(number.as_bytes());
        Self { name, ..self.clone() }
    }

    /// What may be in a directory only once, whether it is a file or a directory.
    fn key(&self) -> (Vec<u8>, Vec<u8>) {
        (self.name.clone(), self.extension.clone())
    }
}

fn characters(name: &[u8]) -> Vec<u8> {
    let character = |byte: &u8| if byte.is_ascii_alphanumeric() { byte.to_ascii_uppercase() } else { b'_' };
    name.iter().map(character).collect()
}

/// The identifiers of what is in one directory, in the order of `entries` (name, and whether it is a directory). The first of
/// those that would have the same has it; the others get numbers.
pub(super) fn identifiers<'a>(
    entries: impl Iterator<Item = (&'a TreePath, bool)>,
) -> Result<Vec<Identifier>, ImageError> {
    let mut taken = BTreeSet::new();
    let mut numbers: BTreeMap<_, u64> = BTreeMap::new();
    let mut out = Vec::new();
    for (path, is_directory) in entries {
        let wanted = Identifier::of(path.file_name(), is_directory);
        let mut identifier = wanted.clone();
        if taken.contains(&wanted.key()) {
            let number = numbers.entry(wanted.key()).or_default();
            loop {
                *number = number.checked_add(1).ok_or_else(|| unrepresentable(path, "too many names are alike"))?;
                identifier = wanted.numbered(*number);
                if !taken.contains(&identifier.key()) {
                    break;
                }
            }
        }
        taken.insert(identifier.key());
        out.push(identifier);
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(names: &[&str]) -> Vec<String> {
        let paths: Vec<_> = names.iter().map(|name| TreePath::new(name.trim_end_matches('/')).unwrap()).collect();
        let entries = paths.iter().zip(names).map(|(path, name)| (path, name.ends_with('/')));
        let identifiers = identifiers(entries).unwrap();
        identifiers.iter().map(|identifier| String::from_utf8(identifier.bytes()).unwrap()).collect()
    }

    #[test]
    fn are_short_and_each_is_there_once() {
        assert_eq!(
            named(&["efiboot.img", "EFI/", "a.b.c", ".profile", "x"]),
            ["EFIBOOT.IMG;1", "EFI", "A_B.C;1", "_PROFILE.;1", "X.;1"]
        );
        assert_eq!(named(&["a-b", "a_b", "a b/", "A_B"]), ["A_B.;1", "A_B_1.;1", "A_B_2", "A_B_3.;1"]);
        assert_eq!(named(&["a_b", "a_b_1", "a-b"]), ["A_B.;1", "A_B_1.;1", "A_B_2.;1"]);
        let long = "x".repeat(200);
        let other = format!("{long}y.conf-file-long");
        let read = named(&[&long, &format!("{long}y"), &other, &format!("{long}/")]);
        assert_eq!(read[0], format!("{}.;1", "X".repeat(30)));
        assert_eq!(read[1], format!("{}_1.;1", "X".repeat(28)));
        assert_eq!(read[2], format!("{}.CONF_FIL;1", "X".repeat(22)));
        assert_eq!(read[3], format!("{}_2", "X".repeat(28)));
    }
}
