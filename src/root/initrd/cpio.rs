//! The newc writer: what the kernel unpacks as its first root file system.
//!
//! The format is the kernel's `Documentation/driver-api/early-userspace/buffer-format.rst`, read as `init/initramfs.c` reads
//! it: a header of 6 bytes of magic and 13 fields of 8 hexadecimal digits, the name with its NUL, the content, name and
//! content each padded to 4 bytes, and an entry named `TRAILER!!!` at the end. What the kernel would skip without a word
//! (names and link targets over `PATH_MAX`) is an error here.
//!
//! Hard links share an inode number; the content stands with the last name, as SVR4 and GNU cpio write it. Times before
//! 1970 and after 2106 do not fit and become the nearest that does. Not here: compression, extended attributes (newc has
//! none), checksums of the `070702` form.

use std::io::{BufWriter, Read, Write};

use super::InitrdError;
use crate::cancel::Cancel;
use crate::names::TreePath;
use crate::root::sysroot::{Sysroot, SysrootError};
use crate::root::tree::{Content, Entry, FileTree, Kind, Seen};

/// Magic of every header.
pub(super) const MAGIC: &[u8; 6] = b"070701";
/// Bytes of a header.
pub(super) const HEADER: usize = 110;
/// The name that ends an archive.
pub(super) const TRAILER: &[u8] = b"TRAILER!!!";
/// Longest name with its NUL, and longest link target with a NUL, that the kernel takes (`PATH_MAX`).
pub(super) const PATH_MAX: usize = 4096;

/// Bytes moved at a time.
const BUFFER: usize = 256 << 10;

/// What was written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Entries, the trailer not counted.
    pub entries: u64,
    /// Bytes, a multiple of 4.
    pub bytes: u64,
}

/// Writes `tree` as a newc archive. Inode numbers count the entries in path order from 1, device numbers are 0.
///
/// # Errors
/// A file that is not what it was when the tree was scanned, or that newc cannot hold; an entry whose directory is not in
/// the tree; a write that fails; a request to stop.
pub fn write_newc(
    tree: &FileTree,
    root: &Sysroot,
    out: &mut impl Write,
    cancel: &Cancel,
) -> Result<Stats, InitrdError> {
    write_tree(tree, Some(root), out, cancel)
}

/// As [`write_newc`]; without a root every content must be [`Content::Bytes`].
pub(super) fn write_tree(
    tree: &FileTree,
    root: Option<&Sysroot>,
    out: &mut impl Write,
    cancel: &Cancel,
) -> Result<Stats, InitrdError> {
    let mut archive = Archive { out: BufWriter::with_capacity(BUFFER, out), position: 0, buffer: vec![0; BUFFER] };
    let mut inodes = std::collections::BTreeMap::new();
    let mut directory = TreePath::root();
    let mut entries = 0_u32;
    for (path, entry) in tree.iter() {
        cancel.check()?;
        entries = entries.checked_add(1).ok_or(InitrdError::TooManyEntries)?;
        match path.parent() {
            Some(parent) if parent != directory && !parent.is_root() => {
                if !tree.get(&parent).is_some_and(|entry| entry.kind == Kind::Directory) {
                    return Err(InitrdError::NoDirectory { path: path.clone() });
                }
                directory = parent;
            }
            _ => {}
        }
        // One inode has one owner and one mode: those of the name that carries the content.
        let (carrier, inode) = match &entry.kind {
            Kind::HardLink(to) => {
                let carrier = tree.get(to).filter(|carrier| matches!(carrier.kind, Kind::File(_)));
                match (carrier, inodes.get(to)) {
                    (Some(carrier), Some(inode)) => (carrier, *inode),
                    _ => return Err(InitrdError::HardLink { path: path.clone(), to: to.clone() }),
                }
            }
            _ => (entry, entries),
        };
        let first = if let Kind::HardLink(to) = &entry.kind { to } else { path };
        let links = tree.names_of(first).count();
        let last = tree.names_of(first).next_back().unwrap_or(first);
        if links > 0 && first == path {
            inodes.insert(path, inode);
        }
        let links = u32::try_from(links).ok().and_then(|n| n.checked_add(1)).ok_or(InitrdError::TooManyEntries)?;
        let content = match &carrier.kind {
            Kind::File(content) if last == path => Some(content),
            _ => None,
        };
        archive.entry(path, carrier, Numbers { inode, links }, content)?;
        match content {
            Some(Content::Bytes(bytes)) => archive.put(bytes)?,
            Some(Content::Root { path: from, seen }) => {
                let root = root.ok_or_else(|| InitrdError::NoRoot { path: from.clone() })?;
                archive.copy(root, from, seen, cancel)?;
            }
            Some(Content::Layer { layer, path: from, seen }) => archive.copy(&layer.0, from, seen, cancel)?,
            None => {}
        }
        archive.pad()?;
    }
    Ok(Stats { entries: u64::from(entries), bytes: archive.finish()? })
}

/// What stands in a header and is known only of the whole tree.
struct Numbers {
    inode: u32,
    links: u32,
}

/// An archive that grows.
struct Archive<W: Write> {
    out: BufWriter<W>,
    position: u64,
    buffer: Vec<u8>,
}

impl<W: Write> Archive<W> {
    fn put(&mut self, bytes: &[u8]) -> Result<(), InitrdError> {
        self.out.write_all(bytes).map_err(InitrdError::Write)?;
        self.position = self.position.saturating_add(bytes.len() as u64);
        Ok(())
    }

    fn pad(&mut self) -> Result<(), InitrdError> {
        while !self.position.is_multiple_of(4) {
            self.put(&[0])?;
        }
        Ok(())
    }

    /// Writes the header, the name, and a link's target.
    fn entry(
        &mut self,
        path: &TreePath,
        entry: &Entry,
        numbers: Numbers,
        content: Option<&Content>,
    ) -> Result<(), InitrdError> {
        let too_long = || InitrdError::TooLong { path: path.clone(), limit: PATH_MAX.saturating_sub(1) };
        let name: &[u8] = match path.as_bytes() {
            b"" => b".",
            // By its own name it would end the archive.
            b"TRAILER!!!" => b"./TRAILER!!!",
            bytes => bytes,
        };
        let name_length = u32::try_from(name.len().saturating_add(1)).map_err(|_| too_long())?;
        let mut length = content.map_or(0, Content::length);
        let mut links = numbers.links;
        let (kind, device) = match &entry.kind {
            Kind::Directory => {
                // Nothing reads it; 2 is what the kernel's own gen_init_cpio writes.
                links = 2;
                (0o040_000, (0, 0))
            }
            Kind::File(_) | Kind::HardLink(_) => (0o100_000, (0, 0)),
            Kind::Symlink(target) => {
                length = target.len() as u64;
                (0o120_000, (0, 0))
            }
            Kind::CharDevice(major, minor) => (0o020_000, (*major, *minor)),
            Kind::BlockDevice(major, minor) => (0o060_000, (*major, *minor)),
            Kind::Fifo => (0o010_000, (0, 0)),
        };
        let target = if let Kind::Symlink(target) = &entry.kind { target.as_slice() } else { b"" };
        if name.len() >= PATH_MAX || target.len() >= PATH_MAX {
            return Err(too_long());
        }
        let length = u32::try_from(length).map_err(|_| InitrdError::TooLarge { path: path.clone(), bytes: length })?;
        let fields = [
            numbers.inode,
            kind | (entry.mode & 0o7777),
            entry.uid,
            entry.gid,
            links,
            // Never fails after the clamp.
            u32::try_from(entry.mtime.clamp(0, i64::from(u32::MAX))).unwrap_or(0),
            length,
            0,
            0,
            device.0,
            device.1,
            name_length,
            0,
        ];
        let mut header = Vec::with_capacity(HEADER);
        header.extend_from_slice(MAGIC);
        for field in fields {
            write!(header, "{field:08X}").map_err(InitrdError::Write)?;
        }
        self.put(&header)?;
        self.put(name)?;
        self.put(&[0])?;
        self.pad()?;
        self.put(target)
    }

    /// Copies a file of the root, which must be and stay what it was.
    fn copy(&mut self, root: &Sysroot, path: &TreePath, seen: &Seen, cancel: &Cancel) -> Result<(), InitrdError> {
        let changed = || InitrdError::Changed { path: path.clone() };
        let failed = |source| SysrootError::Path { action: "read", path: path.clone(), source };
        let still = |file: &std::fs::File| match rustix::fs::fstat(file) {
            Ok(metadata) if Seen::of(&metadata) == *seen => Ok(()),
            Ok(_) => Err(changed()),
            Err(errno) => Err(failed(errno.into()).into()),
        };
        let mut file = match root.file(path) {
            Ok(file) => file,
            Err(error) if error.is_not_found() => return Err(changed()),
            Err(error) => return Err(error.into()),
        };
        still(&file)?;
        let mut missing = seen.length;
        loop {
            cancel.check()?;
            let count = match file.read(&mut self.buffer) {
                Ok(count) => count,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(failed(error).into()),
            };
            if count == 0 {
                break;
            }
            missing = missing.checked_sub(count as u64).ok_or_else(changed)?;
            let bytes = self.buffer.get(..count).unwrap_or_default();
            self.out.write_all(bytes).map_err(InitrdError::Write)?;
            self.position = self.position.saturating_add(count as u64);
        }
        if missing > 0 {
            return Err(changed());
        }
        still(&file)
    }

    /// Writes the trailer; gives the length of the archive.
    fn finish(mut self) -> Result<u64, InitrdError> {
        let mut header = MAGIC.to_vec();
        // All zero but the number of links and the length of the name, as GNU cpio has it.
        for field in [0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, TRAILER.len().saturating_add(1), 0] {
            write!(header, "{field:08X}").map_err(InitrdError::Write)?;
        }
        self.put(&header)?;
        self.put(TRAILER)?;
        self.put(&[0])?;
        self.pad()?;
        // Not `flush`, which a compressor would take as a request to end a block.
        self.out.into_inner().map_err(|error| InitrdError::Write(error.into_error()))?;
        Ok(self.position)
    }
}
