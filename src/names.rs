//! The names that every room shares: paths in a root, module names, kernel releases, firmware names.
//!
//! Each type's constructor is the proof that the value is well formed: nothing behind it checks again.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::ffi::OsStr;
use std::fmt::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

/// Why a name was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NameError {
    /// A path with a `..` component, which could lead out of the root.
    #[error("path {0:?} has a '..' component")]
    DotDot(String),
    /// A name with a NUL byte, which no file system can hold.
    #[error("name {0:?} has a NUL byte")]
    Nul(String),
    /// A name without a character.
    #[error("empty name")]
    Empty,
    /// A character that the kind of name cannot hold.
    #[error("{kind} {name:?} has the character {character:?}")]
    Character {
        /// What the name should have been: "kernel release", "module name".
        kind: &'static str,
        /// The name as given.
        name: String,
        /// The first character that is refused.
        character: char,
    },
}

/// A path inside a root or an image: bytes, relative, without empty, `.` or `..` components. The root itself is the empty
/// path. Ordered by bytes, so that a directory stands before what it holds.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct TreePath(Arc<[u8]>);

impl TreePath {
    /// Normalises `path`: leading, doubled and trailing slashes and `.` components go away.
    ///
    /// # Errors
    /// `..` components and NUL bytes are refused.
    pub fn new(path: impl AsRef<[u8]>) -> Result<Self, NameError> {
        let bytes = path.as_ref();
        if bytes.contains(&0) {
            return Err(NameError::Nul(String::from_utf8_lossy(bytes).into_owned()));
        }
        let mut out = Vec::with_capacity(bytes.len());
        for component in bytes.split(|&b| b == b'/') {
            match component {
                b"" | b"." => {}
                b".." => return Err(NameError::DotDot(String::from_utf8_lossy(bytes).into_owned())),
                _ => {
                    if !out.is_empty() {
                        out.push(b'/');
                    }
                    out.extend_from_slice(component);
                }
            }
        }
        Ok(Self(out.into()))
    }

    /// The root itself.
    #[must_use]
    pub fn root() -> Self {
        Self::default()
    }

    /// The bytes, without a leading slash.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// As a relative path of the standard library; `.` for the root itself.
    #[must_use]
    pub fn as_path(&self) -> &Path {
        if self.0.is_empty() { Path::new(".") } else { Path::new(OsStr::from_bytes(&self.0)) }
    }

    /// Whether this is the root itself.
    #[must_use]
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// This path with `tail` below it.
    ///
    /// # Errors
    /// As [`TreePath::new`].
    pub fn join(&self, tail: impl AsRef<[u8]>) -> Result<Self, NameError> {
        let tail = tail.as_ref();
        let mut bytes = Vec::with_capacity(self.0.len().saturating_add(tail.len()).saturating_add(1));
        bytes.extend_from_slice(&self.0);
        if !bytes.is_empty() {
            bytes.push(b'/');
        }
        bytes.extend_from_slice(tail);
        // Most tails are a name from a directory or a path from an index, with nothing to normalise.
        let is_normal = |component: &[u8]| !matches!(component, b"" | b"." | b"..");
        match tail.split(|&b| b == b'/').all(is_normal) && !tail.contains(&0) {
            true => Ok(Self(bytes.into())),
            false => Self::new(bytes),
        }
    }

    /// The directory that holds this path; `None` for the root itself.
    #[must_use]
    pub fn parent(&self) -> Option<Self> {
        if self.0.is_empty() {
            return None;
        }
        let end = self.0.iter().rposition(|&b| b == b'/').unwrap_or(0);
        Some(Self(self.0.get(..end).unwrap_or_default().into()))
    }

    /// The last component; empty for the root itself.
    #[must_use]
    pub fn file_name(&self) -> &[u8] {
        self.0.rsplit(|&b| b == b'/').next().unwrap_or_default()
    }

    /// What follows `dir` and a slash; `None` where this path is not below `dir`.
    #[must_use]
    pub fn strip_prefix(&self, dir: &Self) -> Option<&[u8]> {
        if dir.is_root() {
            return Some(&self.0);
        }
        let rest = self.0.strip_prefix(&*dir.0)?;
        rest.strip_prefix(b"/")
    }

    /// Whether this path is `dir` or lies below it.
    #[must_use]
    pub fn starts_with(&self, dir: &Self) -> bool {
        self == dir || self.strip_prefix(dir).is_some()
    }
}

impl fmt::Display for TreePath {
    /// With a leading slash, as a user writes a path in a root; control characters (a hostile root's names would reach the
    /// terminal) and bytes that are not UTF-8 as `\xNN`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("/")?;
        for chunk in self.0.utf8_chunks() {
            for character in chunk.valid().chars() {
                match character.is_control() {
                    true => write!(f, "\\x{:02x}", u32::from(character))?,
                    false => f.write_char(character)?,
                }
            }
            for byte in chunk.invalid() {
                write!(f, "\\x{byte:02x}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for TreePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl serde::Serialize for TreePath {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

macro_rules! text_name {
    ($name:ident) => {
        impl $name {
            /// The text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }
    };
}

/// A module's name as the kernel knows it: `-` is `_` (kmod compares them as equal, `modname_normalize`). Shared, since a
/// kernel's indexes name each module many times.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ModuleName(Arc<str>);
text_name!(ModuleName);

impl ModuleName {
    /// Normalises a name; ASCII letters, digits and `_-.+` only.
    ///
    /// # Errors
    /// An empty name, or a character that no module name has (slashes among them).
    pub fn new(name: &str) -> Result<Self, NameError> {
        if name.is_empty() {
            return Err(NameError::Empty);
        }
        if let Some(character) =
            name.chars().find(|c| !(c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '+')))
        {
            return Err(NameError::Character { kind: "module name", name: name.to_owned(), character });
        }
        Ok(Self(if name.contains('-') { name.replace('-', "_").into() } else { name.into() }))
    }

    /// The name of a module file: `kernel/drivers/nvme/host/nvme-core.ko.xz` -> `nvme_core`; `None` where the name does
    /// not end in `.ko`, `.ko.gz`, `.ko.xz` or `.ko.zst`.
    #[must_use]
    pub fn from_file(path: &[u8]) -> Option<Self> {
        let name = std::str::from_utf8(path.rsplit(|&b| b == b'/').next()?).ok()?;
        let stem = [".ko", ".ko.xz", ".ko.zst", ".ko.gz"].iter().find_map(|suffix| name.strip_suffix(suffix))?;
        Self::new(stem).ok()
    }
}

/// A kernel release as `uname -r` prints it: one path component. Ordered by version (`6.8.0-100` after `6.8.0-31`).
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct KernelRelease(Box<str>);
text_name!(KernelRelease);

impl KernelRelease {
    /// # Errors
    /// An empty release, `.` or `..`, white space, a slash or a control character.
    pub fn new(release: &str) -> Result<Self, NameError> {
        match release {
            "" => return Err(NameError::Empty),
            "." | ".." => return Err(NameError::DotDot(release.to_owned())),
            _ => {}
        }
        if let Some(character) = release.chars().find(|c| *c == '/' || c.is_whitespace() || c.is_control()) {
            return Err(NameError::Character { kind: "kernel release", name: release.to_owned(), character });
        }
        Ok(Self(release.into()))
    }
}

impl Ord for KernelRelease {
    /// Runs of digits by their value, other runs by text; `~` before everything, the end of the text included (`6.12~rc1` is
    /// older than `6.12`), as `strverscmp` with Debian's and RPM's tilde does. Equal versions (`1.0`, `1.00`) by text.
    fn cmp(&self, other: &Self) -> Ordering {
        compare_versions(&self.0, &other.0).then_with(|| self.0.cmp(&other.0))
    }
}

impl PartialOrd for KernelRelease {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

fn compare_versions(a: &str, b: &str) -> Ordering {
    let (mut a, mut b) = (a.as_bytes(), b.as_bytes());
    loop {
        let (text_a, rest_a) = a.split_at(a.iter().take_while(|c| !c.is_ascii_digit()).count());
        let (text_b, rest_b) = b.split_at(b.iter().take_while(|c| !c.is_ascii_digit()).count());
        let weight = |text: &[u8], rest: &[u8], i: usize| match text.get(i) {
            Some(b'~') => 0,
            // The end of everything comes before any character but `~`; a number that follows comes after it.
            None if rest.is_empty() => 1,
            None => 2,
            Some(c) => 3 + u16::from(*c),
        };
        for i in 0..text_a.len().max(text_b.len()) {
            match weight(text_a, rest_a, i).cmp(&weight(text_b, rest_b, i)) {
                Ordering::Equal => {}
                unequal => return unequal,
            }
        }
        let (digits_a, next_a) = rest_a.split_at(rest_a.iter().take_while(|c| c.is_ascii_digit()).count());
        let (digits_b, next_b) = rest_b.split_at(rest_b.iter().take_while(|c| c.is_ascii_digit()).count());
        let significant = |digits: &[u8]| digits.iter().position(|&d| d != b'0').map_or(digits.len(), |zeros| zeros);
        let value_a = digits_a.get(significant(digits_a)..).unwrap_or_default();
        let value_b = digits_b.get(significant(digits_b)..).unwrap_or_default();
        match value_a.len().cmp(&value_b.len()).then_with(|| value_a.cmp(value_b)) {
            Ordering::Equal => {}
            unequal => return unequal,
        }
        // `1.` and `1.0`: one has a number where the other ends.
        match digits_a.is_empty().cmp(&digits_b.is_empty()) {
            Ordering::Equal => {}
            unequal => return unequal.reverse(),
        }
        if next_a.is_empty() && next_b.is_empty() {
            return Ordering::Equal;
        }
        (a, b) = (next_a, next_b);
    }
}

/// A firmware name as a driver asks for it, relative to the firmware directories: `i915/kbl_dmc_ver1_04.bin`. May be a
/// pattern (`*`, `?`, `[...]`), since `firmware=` in `.modinfo` may. Never with the suffix of a compressed form.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FirmwarePath(Box<str>);
text_name!(FirmwarePath);

impl FirmwarePath {
    /// # Errors
    /// An empty or absolute name, a `..` component, a control character.
    pub fn new(name: &str) -> Result<Self, NameError> {
        if name.is_empty() {
            return Err(NameError::Empty);
        }
        if name.starts_with('/') {
            return Err(NameError::Character { kind: "firmware name", name: name.to_owned(), character: '/' });
        }
        if name.split('/').any(|component| component == "..") {
            return Err(NameError::DotDot(name.to_owned()));
        }
        if let Some(character) = name.chars().find(|c| c.is_control()) {
            return Err(NameError::Character { kind: "firmware name", name: name.to_owned(), character });
        }
        Ok(Self(name.into()))
    }

    /// Whether the name is a pattern.
    #[must_use]
    pub fn is_glob(&self) -> bool {
        self.0.contains(['*', '?', '['])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tree_paths_are_normalised_and_never_leave_the_root() {
        assert_eq!(TreePath::new("//usr/./lib//x/").map(|p| p.to_string()), Ok("/usr/lib/x".to_owned()));
        assert_eq!(TreePath::new("/"), Ok(TreePath::root()));
        assert!(matches!(TreePath::new("usr/../etc"), Err(NameError::DotDot(_))));
        assert!(matches!(TreePath::new("a\0b"), Err(NameError::Nul(_))));
        assert_eq!(TreePath::new(b"a\xff").map(|p| p.to_string()), Ok("/a\\xff".to_owned()));
        assert_eq!(TreePath::new(b"a\x1b[2J\n").map(|p| p.to_string()), Ok("/a\\x1b[2J\\x0a".to_owned()));
    }

    #[test]
    fn parents_and_prefixes() -> Result<(), NameError> {
        let path = TreePath::new("usr/lib/modules")?;
        assert_eq!(path.parent(), Some(TreePath::new("usr/lib")?));
        assert_eq!(TreePath::new("usr")?.parent(), Some(TreePath::root()));
        assert_eq!(TreePath::root().parent(), None);
        assert_eq!(path.strip_prefix(&TreePath::new("usr")?), Some(&b"lib/modules"[..]));
        assert_eq!(TreePath::new("usrlocal/x")?.strip_prefix(&TreePath::new("usr")?), None);
        Ok(())
    }

    #[test]
    fn module_names_come_from_file_names() {
        let name = |path: &str| ModuleName::from_file(path.as_bytes()).map(|n| n.to_string());
        assert_eq!(name("kernel/drivers/nvme/host/nvme-core.ko.xz"), Some("nvme_core".into()));
        assert_eq!(name("x.ko"), Some("x".into()));
        assert_eq!(name("x.ko.zst"), Some("x".into()));
        assert_eq!(name("x.ko.lz4"), None);
        assert_eq!(name(".ko"), None);
    }

    #[test]
    fn releases_are_ordered_as_people_read_them() -> Result<(), NameError> {
        let ordered = [
            "5.14.0-70.el9.x86_64",
            "5.14.0-427.13.1.el9_4.x86_64",
            "6.1.0-9-amd64",
            "6.1.0-31-amd64",
            "6.8.0-31-generic",
            "6.8.0-100-generic",
            "6.12~rc1",
            "6.12",
            "6.12.1",
            "6.12.10",
            "6.12.107+deb13-amd64",
        ];
        for (i, a) in ordered.iter().enumerate() {
            for (j, b) in ordered.iter().enumerate() {
                assert_eq!(KernelRelease::new(a)?.cmp(&KernelRelease::new(b)?), i.cmp(&j), "{a} against {b}");
            }
        }
        Ok(())
    }

    #[test]
    fn firmware_names_stay_below_the_firmware_directory() {
        assert!(FirmwarePath::new("i915/kbl_dmc_ver1_04.bin").is_ok());
        assert!(FirmwarePath::new("../../etc/shadow").is_err());
        assert!(FirmwarePath::new("/etc/shadow").is_err());
        assert!(FirmwarePath::new("amdgpu/*.bin").is_ok_and(|f| f.is_glob()));
    }
}
