//! rpm's database, in the forms that are in use: SQLite (Fedora, RHEL 9 and later, Amazon Linux) and ndb (SUSE).
//!
//! Both hold one header of each package as a blob. Berkeley DB (RHEL 8 and before) is not read: a warning says how to convert it.
//! gpg-pubkey, the keys that rpm keeps among the packages, is left out. Indexes, signatures and digests are not looked at.

mod header;
pub(super) mod ndb;
pub(super) mod sqlite;
mod wal;

use std::fs::File;
use std::os::unix::fs::FileExt;

use header::Header;

use super::contained::Places;
use super::{Manager, Package, Packages, PackagesError, Place, Source, existing, line, word};
use crate::names::TreePath;
use crate::root::sysroot::{EntryType, Sysroot};

const DIRECTORIES: [&str; 3] = ["usr/lib/sysimage/rpm", "usr/share/rpm", "var/lib/rpm"];
/// One header larger than this is none: a kernel with all its modules has 2 MiB, a package with 100,000 files 15.
const MAX_BLOB: u32 = 32 << 20;

/// Takes a header, or a record, and its offset in the database.
pub(super) type Each<'a> = dyn FnMut(&[u8], u64) -> Result<(), PackagesError> + 'a;

/// Bytes that can be read from anywhere.
pub(super) trait Bytes {
    fn length(&self) -> u64;
    /// Fills `into`, or fails.
    fn read_at(&self, offset: u64, into: &mut [u8]) -> std::io::Result<()>;
}

impl Bytes for &[u8] {
    fn length(&self) -> u64 {
        self.len() as u64
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> std::io::Result<()> {
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        match self.get(start..start.saturating_add(into.len())) {
            Some(bytes) => into.copy_from_slice(bytes),
            None => return Err(std::io::ErrorKind::UnexpectedEof.into()),
        }
        Ok(())
    }
}

/// A file, with the length that it had when it was opened.
struct Disk {
    file: File,
    length: u64,
}

impl Disk {
    fn open(root: &Sysroot, path: &TreePath) -> Result<Self, PackagesError> {
        let file = root.file(path)?;
        let length = file.metadata().map_err(|source| failed(path, source))?.len();
        Ok(Self { file, length })
    }
}

impl Bytes for Disk {
    fn length(&self) -> u64 {
        self.length
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> std::io::Result<()> {
        self.file.read_exact_at(into, offset)
    }
}

fn failed(path: &TreePath, source: std::io::Error) -> PackagesError {
    crate::root::sysroot::SysrootError::Path { action: "read", path: path.clone(), source }.into()
}

fn damaged(path: &TreePath, offset: u64, problem: impl Into<String>) -> PackagesError {
    PackagesError::Damaged { path: path.clone(), place: Place::Byte(offset), problem: problem.into() }
}

/// `N` bytes of a buffer, from `at`; `None` where it ends before.
fn bytes<const N: usize>(buffer: &[u8], at: usize) -> Option<[u8; N]> {
    buffer.get(at..at.checked_add(N)?)?.try_into().ok()
}

pub(super) fn read(
    root: &Sysroot,
    mut places: Option<&mut Places<'_>>,
    out: &mut Packages,
) -> Result<(), PackagesError> {
    for directory in existing(root, &DIRECTORIES, EntryType::Directory)? {
        let is_file = |name: &str| -> Result<bool, PackagesError> {
            let path = directory.join(name)?;
            Ok(root.kind(&path)? == Some(EntryType::File))
        };
        let (sqlite, ndb, bdb) = (is_file("rpmdb.sqlite")?, is_file("Packages.db")?, is_file("Packages")?);
        let mut other = |name: &str, used: &str| {
            let warning =
                format!("{directory}/{name} is another rpm database beside {used}, which is the one that is read");
            out.warnings.push(warning);
        };
        if sqlite && ndb {
            other("Packages.db", "rpmdb.sqlite");
        }
        if bdb && (sqlite || ndb) {
            other("Packages", if sqlite { "rpmdb.sqlite" } else { "Packages.db" });
        }
        if sqlite {
            let path = directory.join("rpmdb.sqlite")?;
            check_journal(root, &directory)?;
            let (disk, log) = (Disk::open(root, &path)?, directory.join("rpmdb.sqlite-wal")?);
            let log_disk = match is_file("rpmdb.sqlite-wal")? {
                true => Some(Disk::open(root, &log)?),
                false => None,
            };
            let pages = log_disk.as_ref().map(|disk| wal::read(disk, &log)).transpose()?.unwrap_or_default();
            if let Some(problem) = pages.problem {
                out.warnings.push(format!(
                    "{log}, the newest changes of {path}: {problem}, so that packages may be listed as they were before \
                     (rpm does not see the changes either); install again what was installed last"
                ));
            }
            let log = log_disk.as_ref().filter(|_| pages.pages != 0).map(|disk| (disk as &dyn Bytes, pages));
            sqlite::blobs(&disk, log, &path, &mut |blob, at| add(blob, at, &path, places.as_deref_mut(), out))?;
            out.databases.push((Manager::Rpm, path));
        } else if ndb {
            let path = directory.join("Packages.db")?;
            ndb::blobs(&Disk::open(root, &path)?, &path, &mut |blob, at| {
                add(blob, at, &path, places.as_deref_mut(), out)
            })?;
            out.databases.push((Manager::Rpm, path));
        } else if bdb {
            out.warnings.push(format!(
                "{directory}/Packages is an rpm database in the form of Berkeley DB, which is not read: its packages are not \
                 listed; convert it with 'rpmdb --root ROOT --rebuilddb' of an rpm 4.16 or later"
            ));
        }
    }
    Ok(())
}

/// A rollback journal with its magic in place belongs to a change that was interrupted; SQLite would undo it.
fn check_journal(root: &Sysroot, directory: &TreePath) -> Result<(), PackagesError> {
    let path = directory.join("rpmdb.sqlite-journal")?;
    if root.kind(&path)? != Some(EntryType::File) {
        return Ok(());
    }
    let disk = Disk::open(root, &path)?;
    let mut magic = [0; 8];
    if disk.read_at(0, &mut magic).is_ok() && magic == [0xd9, 0xd5, 0x05, 0xf9, 0x20, 0xa1, 0x63, 0xd7] {
        let advice = "run 'rpm --root ROOT -qa' once, which undoes it";
        return Err(PackagesError::Unfinished { path, advice });
    }
    Ok(())
}

/// Adds the package of a header. `at` is where it lies in the database.
pub(super) fn add(
    blob: &[u8],
    at: u64,
    path: &TreePath,
    places: Option<&mut Places<'_>>,
    out: &mut Packages,
) -> Result<(), PackagesError> {
    let broken = |problem: String| damaged(path, at, problem);
    let header = Header::parse(blob).map_err(|problem| broken(problem.to_owned()))?;
    let text = |tag, what: &str| {
        let text = header.text(tag).map_err(|problem| broken(format!("{problem} ({what})")))?;
        Ok::<_, PackagesError>(text.map(String::from_utf8_lossy))
    };
    let required = |tag, what: &str| word(&text(tag, what)?.unwrap_or_default(), what).map_err(broken);
    let name = required(header::NAME, "name")?;
    if name == "gpg-pubkey" {
        return Ok(());
    }
    let (version, release) = (required(header::VERSION, "version")?, required(header::RELEASE, "release")?);
    let epoch = header.numbers(header::EPOCH).map_err(|problem| broken(problem.to_owned()))?;
    let version = match epoch.and_then(|mut epoch| epoch.next()) {
        Some(epoch) => format!("{epoch}:{version}-{release}"),
        None => format!("{version}-{release}"),
    };
    let some_line = |tag, what: &str| Ok::<_, PackagesError>(text(tag, what)?.as_deref().and_then(line));
    let package = Package {
        name,
        version,
        architecture: text(header::ARCH, "architecture")?
            .map(|text| word(&text, "architecture").map_err(broken))
            .transpose()?,
        manager: Manager::Rpm,
        source: some_line(header::SOURCERPM, "source")?.and_then(|file| source(&file)),
        license: some_line(header::LICENSE, "license")?,
        homepage: some_line(header::URL, "URL")?,
        supplier: some_line(header::VENDOR, "vendor")?,
    };
    let gone = match places {
        Some(places) => {
            let files = header.files().map_err(|problem| broken(problem.to_owned()))?;
            places.is_gone(files.iter().map(Vec::as_slice))?
        }
        None => false,
    };
    out.add(package, gone, path)
}

/// `NAME-VERSION-RELEASE.src.rpm`; `nosrc` where the sources may not be passed on.
fn source(file: &str) -> Option<Source> {
    let stem = file.strip_suffix(".src.rpm").or_else(|| file.strip_suffix(".nosrc.rpm"))?;
    let mut parts = stem.rsplitn(3, '-');
    let (release, version, name) = (parts.next()?, parts.next()?, parts.next()?);
    Some(Source { name: word(name, "source").ok()?, version: word(&format!("{version}-{release}"), "source").ok() })
}
