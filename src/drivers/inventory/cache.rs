//! [`Pack`]: what the modules of a kernel declare, kept from one run to the next, since decompressing is where the time goes.
//!
//! What a module declares follows from the first bytes of its file, as far as they had to be decoded. An entry holds a SHA-256
//! of just these bytes, and is used only where the file still begins with them: the key is the very input that the value was
//! made from, so that a module that was replaced (of the same size, with the same times) is found.
//!
//! A pack is hostile input. What is found: a torn or changed file (it ends in a SHA-256 over itself), an entry for another
//! file (its key), wrong dependencies (they are held against `modules.dep` like all declarations), and any other wrong value
//! sooner or later: a few entries, others in each run, are decoded all the same, and one that differs discards the pack. What
//! is not found at once: a wrong list of firmware under a right key, written by somebody who may write the pack. So whoever
//! reads one from a disk sees to it that only trusted users can write it.
//!
//! Plain `.ko` files have no entry: to look into them costs no more than to read a key.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::io::Read;

use rayon::prelude::*;
use sha2::{Digest, Sha256};

use crate::names::{FirmwarePath, ModuleName};
use crate::root::sysroot::{Directory, Sysroot};

use super::modinfo::{self, Declarations, Declared};
use super::{Compression, InventoryError, Module};

/// First line of a pack: the form, and the program whose decoder made it.
const HEADER: &str = concat!("kairos-init modinfo 1 ", env!("CARGO_PKG_VERSION"));
/// Begins the last line.
const SUM: &str = "sha256 ";
/// Between fields, and between the items of a field: neither is in any of them.
const FIELD: char = '\x1f';
const ITEM: char = '\x1e';
/// One of so many entries is decoded although its key fits.
const PROBE: u64 = 512;
/// Bytes of a file that an entry may be keyed by: more is no saving.
const LONGEST_KEY: u64 = 4 << 20;
/// Modules that a thread reads one after the other.
const TOGETHER: usize = 64;

/// What is known of one module file.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    /// Bytes of the file that were decoded.
    length: u64,
    /// SHA-256 of them.
    digest: [u8; 32],
    declared: Declared,
}

/// A pack of a kernel's modules, by their paths below the module directory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pack {
    entries: HashMap<String, Entry>,
}

/// What came of reading modules by way of a pack.
#[derive(Debug, Clone)]
pub struct Cached {
    /// What the modules declare: the same as without a pack.
    pub declarations: Declarations,
    /// A pack for the next run; `None` where the given one is as good.
    pub fresh: Option<Pack>,
    /// Modules whose entry was used.
    pub used: usize,
    /// An entry of the pack was wrong, so that none was used: the module.
    pub wrong: Option<ModuleName>,
}

/// What came of one module.
struct ReadModule<'a> {
    module: &'a Module,
    declared: Declared,
    /// The first bytes of the file that were decoded and their SHA-256, where it was decoded and can have an entry.
    key: Option<(u64, [u8; 32])>,
    /// The entry's key fitted.
    used: bool,
    /// The entry's key fitted, and what it says is not what the module says.
    wrong: bool,
}

impl Pack {
    /// Reads a pack.
    ///
    /// # Errors
    /// In words: not of this form, of another version of this program, torn, changed.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let text = std::str::from_utf8(bytes).map_err(|_| "it is not text".to_owned())?;
        let (body, sum) = text.rsplit_once(SUM).ok_or("it is torn")?;
        if hex::encode(Sha256::digest(body)) != sum.trim_end() {
            return Err("it was torn or changed".to_owned());
        }
        let mut lines = body.strip_suffix('\n').unwrap_or(body).split('\n');
        if lines.next() != Some(HEADER) {
            return Err("another version wrote it".to_owned());
        }
        let lines: Vec<_> = lines.collect();
        let entries: Option<Vec<_>> = lines.into_par_iter().map(entry).collect();
        Ok(Self { entries: entries.ok_or("it has a line of another form")?.into_iter().collect() })
    }

    /// The bytes of a pack, the same for the same entries.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut lines: Vec<_> = self.entries.iter().map(|(path, entry)| line(path, entry)).collect();
        lines.sort_unstable();
        let body = [&[HEADER.to_owned()], lines.as_slice(), &[String::new()]].concat().join("\n");
        let sum = hex::encode(Sha256::digest(&body));
        format!("{body}{SUM}{sum}\n").into_bytes()
    }
}

/// What each of `modules` declares, by the entries of `pack` where they fit. The result does not depend on the pack.
///
/// # Errors
/// As [`modinfo::read_modinfo`], for the first module by path that fails.
pub fn declarations_with<'a>(
    root: &Sysroot,
    modules: impl IntoIterator<Item = &'a Module>,
    pack: &Pack,
) -> Result<Cached, InventoryError> {
    let mut modules: Vec<&Module> = modules.into_iter().collect();
    modules.sort_unstable_by(|a, b| a.path.cmp(&b.path));
    let mut all = read(root, &modules, pack)?;
    let wrong = all.iter().find(|one| one.wrong).map(|one| one.module.name.clone());
    if wrong.is_some() {
        all = read(root, &modules, &Pack::default())?;
    }
    let used = all.iter().filter(|one| one.used).count();
    // As good: every entry was used, and there are no others.
    let is_as_good = pack.entries.len() == used && all.iter().all(|one| one.used || one.key.is_none());
    let fresh = (!is_as_good).then(|| Pack { entries: all.iter().filter_map(|one| one.entry(pack)).collect() });
    let declarations = all.into_iter().map(|one| (one.module.name.clone(), one.declared)).collect();
    Ok(Cached { declarations, fresh, used, wrong })
}

/// Reads `modules`, which are sorted by path, on all threads.
fn read<'a>(root: &Sysroot, modules: &[&'a Module], pack: &Pack) -> Result<Vec<ReadModule<'a>>, InventoryError> {
    // Other entries in each run; the result does not depend on it.
    let probes = RandomState::new();
    let some = |modules: &[&'a Module]| {
        let (mut keys, mut buffer) = (Keys { root, directory: None }, Vec::new());
        let one = |module: &&'a Module| {
            let entry = pack.entries.get(&module.relative);
            let probe = probes.hash_one(&module.relative).is_multiple_of(PROBE);
            read_one(&mut keys, module, entry, probe, &mut buffer)
        };
        modules.iter().map(one).collect::<Vec<_>>()
    };
    modules.par_chunks(TOGETHER).flat_map_iter(some).collect::<Vec<_>>().into_iter().collect()
}

fn read_one<'a>(
    keys: &mut Keys<'_>,
    module: &'a Module,
    entry: Option<&Entry>,
    probe: bool,
    buffer: &mut Vec<u8>,
) -> Result<ReadModule<'a>, InventoryError> {
    let is_packed = module.compression != Compression::None;
    let known = entry.filter(|entry| is_packed && keys.of(module, entry.length, buffer) == Some(entry.digest));
    let one = |declared, key, used, wrong| ReadModule { module, declared, key, used, wrong };
    if let Some(entry) = known.filter(|_| !probe) {
        return Ok(one(entry.declared.clone(), None, true, false));
    }
    let (info, decoded) = modinfo::read_counted(keys.root, module, buffer)?;
    let declared = Declared::from(&info);
    let wrong = known.is_some_and(|entry| entry.declared != declared);
    let length = decoded.filter(|_| is_plain(&module.relative, &declared));
    let key = length.and_then(|length| Some((length, keys.of(module, length, buffer)?)));
    Ok(one(declared, key, known.is_some(), wrong))
}

impl ReadModule<'_> {
    /// Its entry in a new pack; `old` is where it was found, if it was.
    fn entry(&self, old: &Pack) -> Option<(String, Entry)> {
        let entry = match self.key {
            Some((length, digest)) => Entry { length, digest, declared: self.declared.clone() },
            None => old.entries.get(&self.module.relative).filter(|_| self.used)?.clone(),
        };
        Some((self.module.relative.clone(), entry))
    }
}

/// Reads keys. Most of the time goes into finding files: of modules in one directory, it is opened once.
struct Keys<'a> {
    root: &'a Sysroot,
    directory: Option<Directory>,
}

impl Keys<'_> {
    /// SHA-256 of the first `length` bytes of a module's file; `None` where that cannot be had, since whoever decodes the file
    /// then says why.
    fn of(&mut self, module: &Module, length: u64, buffer: &mut Vec<u8>) -> Option<[u8; 32]> {
        let length = usize::try_from(length).ok().filter(|_| length <= LONGEST_KEY.min(module.bytes))?;
        let parent = module.path.parent()?;
        let directory = match self.directory.take().filter(|directory| *directory.path() == parent) {
            Some(directory) => directory,
            None => self.root.directory(&parent).ok()?,
        };
        let file = self.directory.insert(directory).file(module.path.file_name());
        buffer.resize(length, 0);
        file.ok()?.read_exact(buffer).ok()?;
        Some(Sha256::digest(&*buffer).into())
    }
}

/// Whether a pack's line can hold it.
fn is_plain(relative: &str, declared: &Declared) -> bool {
    let strings = declared.weak.iter().chain(&declared.vermagic).map(String::as_str).chain([relative]);
    let names = declared.firmware.iter().map(FirmwarePath::as_str);
    strings.chain(names).all(|text| !text.chars().any(char::is_control))
}

fn line(path: &str, Entry { length, digest, declared }: &Entry) -> String {
    fn list<'a>(items: impl Iterator<Item = &'a str>) -> String {
        items.collect::<Vec<_>>().join(&ITEM.to_string())
    }
    [
        path.to_owned(),
        length.to_string(),
        hex::encode(digest),
        declared.vermagic.clone().map_or_else(String::new, |magic| format!("={magic}")),
        String::from(if declared.intree { "Y" } else { "" }),
        list(declared.depends.iter().map(ModuleName::as_str)),
        list(declared.firmware.iter().map(FirmwarePath::as_str)),
        list(declared.weak.iter().map(String::as_str)),
    ]
    .join(&FIELD.to_string())
}

fn entry(line: &str) -> Option<(String, Entry)> {
    let mut fields = line.split(FIELD);
    let (path, length, digest) = (fields.next()?, fields.next()?.parse().ok()?, fields.next()?);
    let (vermagic, intree) = (fields.next()?.strip_prefix('=').map(str::to_owned), fields.next()? == "Y");
    let mut items = || fields.next().map(|field| field.split(ITEM).filter(|item| !item.is_empty()));
    let depends = items()?.map(|name| ModuleName::new(name).ok()).collect::<Option<_>>()?;
    let firmware = items()?.map(|name| FirmwarePath::new(name).ok()).collect::<Option<_>>()?;
    let weak = items()?.map(str::to_owned).collect();
    let mut bytes = [0; 32];
    hex::decode_to_slice(digest, &mut bytes).ok()?;
    let declared = Declared { depends, firmware, weak, intree, vermagic };
    is_plain(path, &declared).then_some(())?;
    Some((path.to_owned(), Entry { length, digest: bytes, declared }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pack() -> Pack {
        let declared = Declared {
            depends: vec![ModuleName::new("a").unwrap(), ModuleName::new("b").unwrap()],
            firmware: vec![FirmwarePath::new("x/y z.bin").unwrap()],
            weak: Vec::new(),
            intree: true,
            vermagic: Some("6.12 SMP".to_owned()),
        };
        let entry = Entry { length: 7, digest: [9; 32], declared };
        let bare = Entry { declared: Declared::default(), ..entry.clone() };
        Pack { entries: [("kernel/x.ko.xz".to_owned(), entry), ("kernel/y.ko.zst".to_owned(), bare)].into() }
    }

    #[test]
    fn what_is_written_is_read() {
        let bytes = pack().to_bytes();
        assert_eq!(Pack::parse(&bytes), Ok(pack()));
        assert_eq!(Pack::parse(&Pack::default().to_bytes()).map(|pack| pack.entries.len()), Ok(0));
    }

    #[test]
    fn every_changed_or_lost_byte_is_found() {
        let bytes = pack().to_bytes();
        for at in 0..bytes.len() - 1 {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            assert!(Pack::parse(&changed).is_err(), "byte {at}");
            assert!(Pack::parse(&bytes[..at]).is_err(), "{at} bytes");
        }
    }
}
