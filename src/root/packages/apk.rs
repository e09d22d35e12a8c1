//! apk's database: `lib/apk/db/installed`, in newer releases below `/usr`.
//!
//! The text form that apk-tools' `src/database.c` and `src/package.c` write: a letter, a colon and a value on each line, an empty
//! line between packages. After `F:` (a directory) each `R:` is a file in it.

use super::contained::Places;
use super::{Manager, Package, Packages, PackagesError, Place, Source, TEXT_LIMIT, existing, line, word};
use crate::names::TreePath;
use crate::root::sysroot::{EntryType, Sysroot};

const INSTALLED: [&str; 2] = ["usr/lib/apk/db/installed", "lib/apk/db/installed"];

pub(super) fn read(
    root: &Sysroot,
    mut places: Option<&mut Places<'_>>,
    out: &mut Packages,
) -> Result<(), PackagesError> {
    for path in existing(root, &INSTALLED, EntryType::File)? {
        let bytes = root.read(&path, TEXT_LIMIT)?;
        parse(&bytes, &path, &mut |package, files| {
            let gone = match &mut places {
                Some(places) => places.is_gone(files.iter().map(Vec::as_slice))?,
                None => false,
            };
            out.add(package, gone, &path)
        })?;
        out.databases.push((Manager::Apk, path));
    }
    Ok(())
}

/// The fields of a package that count here.
#[derive(Default)]
struct Entry {
    begins: usize,
    name: Option<String>,
    version: Option<String>,
    architecture: Option<String>,
    license: Option<String>,
    homepage: Option<String>,
    maintainer: Option<String>,
    origin: Option<String>,
    directory: Vec<u8>,
    files: Vec<Vec<u8>>,
    /// Bytes of `files`.
    bytes: u64,
}

/// Takes a package and its files.
type Each<'a> = dyn FnMut(Package, &[Vec<u8>]) -> Result<(), PackagesError> + 'a;

/// Gives each package with its files.
pub(super) fn parse(bytes: &[u8], path: &TreePath, each: &mut Each<'_>) -> Result<(), PackagesError> {
    let damaged =
        |number, problem: String| PackagesError::Damaged { path: path.clone(), place: Place::Line(number), problem };
    let mut entry = Entry::default();
    let mut end = |mut entry: Entry| -> Result<(), PackagesError> {
        if entry.begins == 0 {
            return Ok(());
        }
        let (begins, files) = (entry.begins, std::mem::take(&mut entry.files));
        each(package(entry).map_err(|problem| damaged(begins, problem))?, &files)
    };
    // File by file the text of a whole system is large: a path of it is never copied unless it is one package's.
    for (number, content) in (1..).zip(bytes.split(|&b| b == b'\n')) {
        if content.is_empty() {
            end(std::mem::take(&mut entry))?;
            continue;
        }
        if entry.begins == 0 {
            entry.begins = number;
        }
        let (letter, value) = match content {
            [letter, b':', value @ ..] => (*letter, value),
            _ => {
                let problem = format!("{:?} is no field", String::from_utf8_lossy(content));
                return Err(damaged(number, problem));
            }
        };
        let field = match letter {
            b'P' => &mut entry.name,
            b'V' => &mut entry.version,
            b'A' => &mut entry.architecture,
            b'L' => &mut entry.license,
            b'U' => &mut entry.homepage,
            b'm' => &mut entry.maintainer,
            b'o' => &mut entry.origin,
            b'F' => {
                entry.directory = value.to_vec();
                continue;
            }
            b'R' => {
                let file = [entry.directory.as_slice(), b"/", value].concat();
                entry.bytes = entry.bytes.saturating_add(file.len() as u64);
                if entry.bytes > TEXT_LIMIT {
                    let problem = format!("the paths of the package's files have more than {TEXT_LIMIT} bytes");
                    return Err(damaged(number, problem));
                }
                entry.files.push(file);
                continue;
            }
            _ => continue,
        };
        if field.replace(String::from_utf8_lossy(value).into_owned()).is_some() {
            return Err(damaged(number, format!("the field {} is there twice", char::from(letter))));
        }
    }
    end(entry)
}

fn package(entry: Entry) -> Result<Package, String> {
    let version = word(&entry.version.unwrap_or_default(), "version")?;
    Ok(Package {
        name: word(&entry.name.unwrap_or_default(), "name")?,
        architecture: entry.architecture.map(|architecture| word(&architecture, "architecture")).transpose()?,
        manager: Manager::Apk,
        // All packages of an origin are built together and have its version.
        source: match entry.origin {
            Some(origin) => Some(Source { name: word(&origin, "origin")?, version: Some(version.clone()) }),
            None => None,
        },
        version,
        license: entry.license.as_deref().and_then(line),
        homepage: entry.homepage.as_deref().and_then(line),
        supplier: entry.maintainer.as_deref().and_then(line),
    })
}
