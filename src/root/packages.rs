//! The packages of a root, as its package manager's own database lists them: dpkg, rpm, apk and pacman.
//!
//! No package manager runs: the databases are files, and the root may be another architecture's. They are hostile input like all of
//! a root. A list that silently lacks packages is worse than none: what is damaged is an error with its place, what is in a form
//! that is not read is a warning that names it. Not here: what came into the root without a package manager, language
//! packages, Flatpak, Snap.
//!
//! A package is *in the image* while a file of it is. [`installed_in`] asks for each path that a package lists, and sets a
//! package apart of which only documentation is left ([`Packages::gone`]): the firmware package whose files were all dropped.

mod apk;
mod contained;
mod dpkg;
mod pacman;
mod rpm;

use std::fmt;

use contained::Places;

use super::sysroot::{EntryType, Sysroot, SysrootError};
use crate::names::{NameError, TreePath};

/// A text database larger than this is none: dpkg's status of a full desktop has 5 MiB, Alpine's file with all paths 20.
const TEXT_LIMIT: u64 = 64 << 20;
/// More packages than any root has.
const MAX_PACKAGES: usize = 200_000;
/// Longest name, version or architecture, in bytes.
const MAX_WORD: usize = 1024;

/// Who installed a package.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Manager {
    /// Debian and what derives from it.
    Dpkg,
    /// Fedora, RHEL, SUSE and what derives from them.
    Rpm,
    /// Alpine and what derives from it.
    Apk,
    /// Arch Linux and what derives from it.
    Pacman,
}

impl Manager {
    /// `dpkg`, `rpm`, `apk`, `pacman`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Dpkg => "dpkg",
            Self::Rpm => "rpm",
            Self::Apk => "apk",
            Self::Pacman => "pacman",
        }
    }
}

impl fmt::Display for Manager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a package was built from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Source {
    /// Of the source package.
    pub name: String,
    /// Of the source package, where the database tells it.
    pub version: Option<String>,
}

/// A package that is installed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// Whole, as the package manager compares it: `[EPOCH:]VERSION[-RELEASE]`.
    pub version: String,
    /// As the package manager names it: `amd64`, `x86_64`, `all`, `noarch`.
    pub architecture: Option<String>,
    /// Who installed it.
    pub manager: Manager,
    /// What it was built from, where the database tells it.
    pub source: Option<Source>,
    /// As the database has it: an SPDX expression, or whatever the packager wrote.
    pub license: Option<String>,
    /// The project's page, as the database has it.
    pub homepage: Option<String>,
    /// The maintainer (dpkg, apk, pacman) or the vendor (rpm), as the database has it.
    pub supplier: Option<String>,
}

/// What a root's databases list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Packages {
    /// Sorted by name, version, architecture; none twice.
    pub packages: Vec<Package>,
    /// Packages that the database lists and of which nothing but documentation is in the image. Sorted.
    pub gone: Vec<Package>,
    /// What was read.
    pub databases: Vec<(Manager, TreePath)>,
    /// What the user must know: a database that is not read, a package that is half installed, no database at all.
    pub warnings: Vec<String>,
}

/// A form of database, for [`parse`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// dpkg's `status`.
    Dpkg,
    /// apk's `installed`.
    Apk,
    /// rpm's `rpmdb.sqlite`.
    RpmSqlite,
    /// rpm's `Packages.db`.
    RpmNdb,
    /// A package's `desc` of pacman.
    Pacman,
}

/// The list of packages cannot be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PackagesError {
    /// A database is not what it should be.
    #[error(
        "{path} in the root is damaged at {place}: {problem}; the list of packages would not be whole: repair the database"
    )]
    Damaged {
        /// In the root.
        path: TreePath,
        /// Where.
        place: Place,
        /// What is wrong.
        problem: String,
    },
    /// A database that is in the midst of a change.
    #[error("{path} in the root holds a change that was not finished: {advice}")]
    Unfinished {
        /// In the root.
        path: TreePath,
        /// What to do.
        advice: &'static str,
    },
    /// A database cannot be read.
    #[error(transparent)]
    Root(#[from] SysrootError),
    /// A name in a database that cannot be.
    #[error(transparent)]
    Name(#[from] NameError),
}

/// A place in a database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Counted from 1.
    Line(usize),
    /// Counted from 0.
    Byte(u64),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Line(line) => write!(f, "line {line}"),
            Self::Byte(offset) => write!(f, "byte {offset}"),
        }
    }
}

/// All packages that the databases of `root` list.
///
/// # Errors
/// A database that cannot be read, is damaged, or is in the midst of a change.
pub fn installed(root: &Sysroot) -> Result<Packages, PackagesError> {
    read(root, None)
}

/// As [`installed`], with the packages of which nothing is in the image set apart. `contained` is asked for paths of the root with all
/// links of their directories resolved, files and links alike. A package is gone if the database lists files of it that are no
/// documentation (`usr/share/doc`, manual pages, translations, licences, ...), and `contained` says no to each of them. A package
/// without a list of files stays.
///
/// # Errors
/// As [`installed`].
pub fn installed_in(root: &Sysroot, contained: &dyn Fn(&TreePath) -> bool) -> Result<Packages, PackagesError> {
    read(root, Some(contained))
}

/// The packages in the bytes of one database. `path` is for messages.
///
/// # Errors
/// It is damaged.
pub fn parse(form: Form, bytes: &[u8], path: &TreePath) -> Result<Packages, PackagesError> {
    let mut out = Packages::default();
    match form {
        Form::Dpkg => dpkg::parse(bytes, path, &mut |package, _| out.add(package, false, path))?
            .into_iter()
            .for_each(|warning| out.warnings.push(warning)),
        Form::Apk => apk::parse(bytes, path, &mut |package, _| out.add(package, false, path))?,
        Form::Pacman => out.add(pacman::parse(bytes, path)?, false, path)?,
        Form::RpmSqlite => {
            rpm::sqlite::blobs(&bytes, None, path, &mut |blob, at| rpm::add(blob, at, path, None, &mut out))?;
        }
        Form::RpmNdb => rpm::ndb::blobs(&bytes, path, &mut |blob, at| rpm::add(blob, at, path, None, &mut out))?,
    }
    out.sort();
    Ok(out)
}

fn read(root: &Sysroot, contained: Option<&dyn Fn(&TreePath) -> bool>) -> Result<Packages, PackagesError> {
    let mut out = Packages::default();
    let mut places = contained.map(|contained| Places::new(root, contained));
    dpkg::read(root, places.as_mut(), &mut out)?;
    rpm::read(root, places.as_mut(), &mut out)?;
    apk::read(root, places.as_mut(), &mut out)?;
    pacman::read(root, places.as_mut(), &mut out)?;
    if out.databases.is_empty() && out.warnings.is_empty() {
        let warning = "the root has no package database (dpkg, rpm, apk, pacman): no packages are listed";
        out.warnings.push(warning.to_owned());
    }
    out.sort();
    Ok(out)
}

impl Packages {
    fn add(&mut self, package: Package, gone: bool, path: &TreePath) -> Result<(), PackagesError> {
        if self.packages.len().saturating_add(self.gone.len()) >= MAX_PACKAGES {
            let problem = format!("it lists more than {MAX_PACKAGES} packages");
            return Err(PackagesError::Damaged { path: path.clone(), place: Place::Byte(0), problem });
        }
        match gone {
            true => self.gone.push(package),
            false => self.packages.push(package),
        }
        Ok(())
    }

    fn sort(&mut self) {
        for list in [&mut self.packages, &mut self.gone] {
            list.sort();
            list.dedup();
        }
    }
}

/// The databases that are there, each once, whatever links lead to it.
fn existing(root: &Sysroot, candidates: &[&str], kind: EntryType) -> Result<Vec<TreePath>, PackagesError> {
    let mut found = Vec::new();
    for candidate in candidates {
        let path = match root.canonical(&TreePath::new(candidate)?) {
            Ok(path) => path,
            Err(error) if error.is_not_found() => continue,
            Err(error) => return Err(error.into()),
        };
        if root.kind(&path)? == Some(kind) && !found.contains(&path) {
            found.push(path);
        }
    }
    Ok(found)
}

/// A name, version or architecture: one word that can be printed.
fn word(text: &str, what: &str) -> Result<String, String> {
    match text {
        "" => Err(format!("a package has no {what}")),
        _ if text.len() > MAX_WORD => Err(format!("a package's {what} has more than {MAX_WORD} bytes")),
        _ if text.chars().any(|c| c.is_whitespace() || c.is_control() || c == char::REPLACEMENT_CHARACTER) => {
            Err(format!("a package's {what} is {text:?}, which is no {what}"))
        }
        _ => Ok(text.to_owned()),
    }
}

/// A line of text for people: `None` where there is none.
fn line(text: &str) -> Option<String> {
    let text: String = text.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).take(4096).collect();
    (!text.is_empty()).then_some(text)
}
