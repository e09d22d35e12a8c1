//! A module's own words: `.modinfo`, a list of NUL-terminated `key=value` strings.
//!
//! Decompressing is where the time goes, and `.modinfo` ends at 12 % of the median module, long before the section headers
//! at the file's end that say where it is. So compressed modules are decoded piece by piece until the finished list is
//! visible: the module's own strings (`license=` is among them), then those that the build's modpost adds (`depends=`,
//! `name=`, `vermagic=`), then a string that is no `key=value`. Wherever that view is not clear, the whole file is decoded
//! and parsed as ELF, which is also what a test holds the short cut against, on every module of a real kernel.

use std::borrow::Cow;
use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{Cursor, Read, Seek, SeekFrom};
use std::rc::Rc;

use memchr::{memchr, memmem, memrchr};
use object::read::ReadCache;
use rayon::prelude::*;

use crate::names::{FirmwarePath, ModuleName};
use crate::root::sysroot::Sysroot;

use super::decompress::{self, MODULE_LIMIT};
use super::{Compression, InventoryError, Module, ModuleFileError, elf};

/// Bytes decoded between two looks for the end of the list: half of them are decoded in vain for each module, at about
/// 15 ns each.
const STEP: usize = 2 << 10;
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

/// The `key=value` strings of a module, in the file's order, of the keys that have a meaning.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ModInfo {
    /// The strings, each with its NUL. Other keys, strings without `=` and empty ones (padding) are left out.
    strings: Vec<u8>,
}

impl ModInfo {
    /// From the bytes of a `.modinfo` section.
    #[must_use]
    pub fn from_section(section: &[u8]) -> Self {
        let mut strings = Vec::with_capacity(section.len());
        let known = |string: &&[u8]| matches!(key(string), Key::Some(key) if KNOWN.contains(&key));
        for string in section.split(|&b| b == 0).filter(known) {
            strings.extend_from_slice(string);
            strings.push(0);
        }
        Self { strings }
    }

    /// All keys and values, as bytes: authors' names are not always UTF-8.
    pub fn fields(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.strings.split(|&b| b == 0).filter_map(|string| {
            let (key, value) = string.split_at_checked(memchr(b'=', string)?)?;
            Some((key, value.get(1..)?))
        })
    }

    /// All values of one key, in order.
    pub fn values<'a>(&'a self, key: &'a str) -> impl Iterator<Item = Cow<'a, str>> {
        self.fields().filter(move |(k, _)| *k == key.as_bytes()).map(|(_, value)| String::from_utf8_lossy(value))
    }

    /// The last value: modpost's strings come behind the module's own.
    fn value(&self, key: &str) -> Option<String> {
        self.values(key).last().map(Cow::into_owned)
    }

    /// `name=`: the module's name (since Linux 4.13).
    #[must_use]
    pub fn name(&self) -> Option<ModuleName> {
        ModuleName::new(&self.value("name")?).ok()
    }

    /// `vermagic=`: the release and options of the kernel that it was built for.
    #[must_use]
    pub fn vermagic(&self) -> Option<String> {
        self.value("vermagic")
    }

    /// `intree=Y`: built with the kernel, not after it.
    #[must_use]
    pub fn intree(&self) -> bool {
        self.value("intree").is_some_and(|value| value == "Y")
    }

    /// `depends=`: the modules whose symbols it uses directly.
    #[must_use]
    pub fn depends(&self) -> Vec<ModuleName> {
        let value = self.value("depends").unwrap_or_default();
        value.split(',').filter_map(|name| ModuleName::new(name).ok()).collect()
    }

    /// `alias=`: the patterns, raw.
    pub fn aliases(&self) -> impl Iterator<Item = Cow<'_, str>> {
        self.values("alias")
    }

    /// `softdep=`: as written, `pre: a b post: c`.
    pub fn softdeps(&self) -> impl Iterator<Item = Cow<'_, str>> {
        self.values("softdep")
    }

    /// `weakdep=`: as written.
    pub fn weakdeps(&self) -> impl Iterator<Item = Cow<'_, str>> {
        self.values("weakdep")
    }

    /// `firmware=`: names or patterns, without repetition. A value that is no firmware name (absolute, with `..`; kernels
    /// freed of binary files say `/*(DEBLOBBED)*/`) names nothing that could be kept and is left out.
    #[must_use]
    pub fn firmware(&self) -> Vec<FirmwarePath> {
        let mut seen = BTreeSet::new();
        let mut names = Vec::new();
        for value in self.values("firmware") {
            match FirmwarePath::new(&value) {
                Ok(name) if seen.insert(name.clone()) => names.push(name),
                Ok(_) => {}
                Err(error) => tracing::debug!(%error, "a module declares firmware that cannot be"),
            }
        }
        names
    }
}

/// Reads a module's `.modinfo`, decoding no more of the file than needed.
///
/// # Errors
/// The file is truncated, not in the form that its name says, no module, or over 256 MiB when decompressed.
pub fn read_modinfo(root: &Sysroot, module: &Module) -> Result<ModInfo, InventoryError> {
    read(root, module, &mut Vec::new(), true)
}

/// As [`read_modinfo`], but always by the ELF headers, decoding the whole file: the oracle of the short cut.
///
/// # Errors
/// As [`read_modinfo`].
pub fn read_modinfo_fully(root: &Sysroot, module: &Module) -> Result<ModInfo, InventoryError> {
    read(root, module, &mut Vec::new(), false)
}

/// What a module says of itself that its kernel's indexes do not have, or that they are held against.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Declared {
    /// `depends=`: direct dependencies.
    pub depends: Vec<ModuleName>,
    /// `firmware=`: names and patterns.
    pub firmware: Vec<FirmwarePath>,
    /// `weakdep=`: targets as written. Older kmod makes no index of them.
    pub weak: Vec<String>,
    /// `intree=Y`: built with the kernel, not after it.
    pub intree: bool,
    /// `vermagic=`.
    pub vermagic: Option<String>,
}

impl From<&ModInfo> for Declared {
    fn from(info: &ModInfo) -> Self {
        let weak =
            info.weakdeps().flat_map(|list| list.split_ascii_whitespace().map(str::to_owned).collect::<Vec<_>>());
        Self {
            depends: info.depends(),
            firmware: info.firmware(),
            weak: weak.collect(),
            intree: info.intree(),
            vermagic: info.vermagic(),
        }
    }
}

/// What each module of a kernel declares.
pub type Declarations = BTreeMap<ModuleName, Declared>;

/// What each of `modules` declares, on all threads.
///
/// # Errors
/// As [`read_modinfo`], for the first module that fails in the given order.
pub fn declarations<'a>(
    root: &Sysroot,
    modules: impl IntoIterator<Item = &'a Module>,
) -> Result<Declarations, InventoryError> {
    let modules: Vec<&Module> = modules.into_iter().collect();
    let read: Vec<_> = modules
        .par_iter()
        .map_init(Vec::new, |buffer, module| {
            Ok((module.name.clone(), Declared::from(&read(root, module, buffer, true)?)))
        })
        .collect();
    read.into_iter().collect()
}

fn read(root: &Sysroot, module: &Module, buffer: &mut Vec<u8>, short_cut: bool) -> Result<ModInfo, InventoryError> {
    let file = root.file(&module.path)?;
    match from_reader(file, module.compression, buffer, short_cut) {
        Ok((info, _)) => Ok(info),
        Err(source) => Err(InventoryError::Module { path: module.path.clone(), source }),
    }
}

/// As [`read_modinfo`], with how many bytes of a compressed file that took; `None` of one that is not compressed.
pub(super) fn read_counted(
    root: &Sysroot,
    module: &Module,
    buffer: &mut Vec<u8>,
) -> Result<(ModInfo, Option<u64>), InventoryError> {
    let file = root.file(&module.path)?;
    from_reader(file, module.compression, buffer, true)
        .map_err(|source| InventoryError::Module { path: module.path.clone(), source })
}

/// The `.modinfo` of a module that is at hand as bytes: what [`read_modinfo`] does with a file, for those who have none, the
/// fuzz targets above all. Without the `short_cut` as [`read_modinfo_fully`].
///
/// # Errors
/// As [`read_modinfo`].
pub fn from_bytes(bytes: &[u8], compression: Compression, short_cut: bool) -> Result<ModInfo, ModuleFileError> {
    from_reader(Cursor::new(bytes), compression, &mut Vec::new(), short_cut).map(|(info, _)| info)
}

fn from_reader(
    mut input: impl Read + Seek,
    compression: Compression,
    buffer: &mut Vec<u8>,
    short_cut: bool,
) -> Result<(ModInfo, Option<u64>), ModuleFileError> {
    if compression == Compression::None {
        if input.seek(SeekFrom::End(0))? > MODULE_LIMIT {
            return Err(ModuleFileError::TooLarge { limit: MODULE_LIMIT });
        }
        return elf::modinfo_section(&ReadCache::new(input)).map(|section| (ModInfo::from_section(section), None));
    }
    buffer.clear();
    let taken = Rc::new(Cell::new(0));
    let mut reader = decompress::counted(input, compression, Rc::clone(&taken))?;
    if short_cut && let Some(info) = until_list_ends(&mut *reader, buffer)? {
        return Ok((info, Some(taken.get())));
    }
    decompress::read_rest(&mut *reader, buffer, MODULE_LIMIT)?;
    elf::modinfo_section(buffer.as_slice()).map(|section| (ModInfo::from_section(section), Some(taken.get())))
}

/// Decodes until the list is complete; `None` where it never clearly is. What was decoded stays in `buffer`.
fn until_list_ends(reader: &mut dyn Read, buffer: &mut Vec<u8>) -> Result<Option<ModInfo>, ModuleFileError> {
    let mut scan = Scan::default();
    loop {
        let before = buffer.len();
        if before as u64 > MODULE_LIMIT {
            return Err(ModuleFileError::TooLarge { limit: MODULE_LIMIT });
        }
        buffer.resize(before + STEP, 0);
        let read = reader.read(buffer.get_mut(before..).unwrap_or_default());
        buffer.truncate(before + read.as_ref().map_or(0, |read| *read));
        match read {
            Ok(0) => return Ok(None),
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error.into()),
        }
        match scan.look(buffer) {
            View::More => {}
            View::Unclear => return Ok(None),
            View::List(list) => return Ok(Some(ModInfo::from_section(list))),
        }
    }
}

/// What can be said of the bytes so far.
#[derive(Debug, PartialEq, Eq)]
enum View<'a> {
    /// Nothing yet.
    More,
    /// There is a list, but where it begins or ends cannot be told.
    Unclear,
    /// The strings of the complete list.
    List(&'a [u8]),
}

/// Where the search for the list stands, so that no byte is searched twice.
#[derive(Debug, Default)]
struct Scan {
    /// Bytes in which `vermagic=` does not begin.
    searched: usize,
    /// Where the first string that may lie behind the list begins.
    end: usize,
}

impl Scan {
    fn look<'a>(&mut self, bytes: &'a [u8]) -> View<'a> {
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

    #[test]
    fn fields_are_read() {
        let info = ModInfo::from_section(LIST);
        assert_eq!(info.firmware(), [FirmwarePath::new("a/b.bin").unwrap()]);
        assert_eq!(info.depends().iter().map(ModuleName::as_str).collect::<Vec<_>>(), ["x", "y_z"]);
        assert_eq!(info.vermagic().as_deref(), Some("6.1 SMP"));
        assert_eq!(info.name().map(|n| n.to_string()).as_deref(), Some("m"));
        assert!(!info.intree());
    }

    #[test]
    fn hostile_firmware_names_are_left_out() {
        let info = ModInfo::from_section(b"firmware=/*(DEBLOBBED)*/\0firmware=../x\0firmware=ok\0firmware=ok\0");
        assert_eq!(info.firmware(), [FirmwarePath::new("ok").unwrap()]);
    }
}
