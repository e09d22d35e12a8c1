//! A module's own words: `.modinfo`, a list of NUL-terminated `key=value` strings.
//!
//! Decompressing is where the time goes, and `.modinfo` ends at 12 % of the median module, long before the section headers
//! at the file's end that say where it is. So compressed modules are decoded piece by piece until the finished list is
//! visible: the module's own strings (`license=` is among them), then those that the build's modpost adds (`depends=`,
//! `name=`, `vermagic=`), then a string that is no `key=value`. Wherever that view is not clear, the whole file is decoded
//! and parsed as ELF, which is also what a test holds the short cut against, on every module of a real kernel.

mod scan;

use std::borrow::Cow;
use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{Cursor, Read, Seek, SeekFrom};
use std::rc::Rc;

use memchr::memchr;
use object::read::ReadCache;
use rayon::prelude::*;

use crate::names::{FirmwarePath, ModuleName};
use crate::root::sysroot::Sysroot;

use self::scan::{Scan, View};
use super::decompress::{self, MODULE_LIMIT};
use super::{Compression, InventoryError, Module, ModuleFileError, elf};

/// Bytes decoded between two looks for the end of the list: half of them are decoded in vain for each module, at about
/// 15 ns each.
const STEP: usize = 2 << 10;

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
        for string in section.split(|&b| b == 0).filter(|string| scan::is_known(string)) {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_read() {
        let info = ModInfo::from_section(b"license=GPL\0firmware=a/b.bin\0depends=x,y-z\0name=m\0vermagic=6.1 SMP\0");
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
