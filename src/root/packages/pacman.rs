//! pacman's database: `var/lib/pacman/local/NAME-VERSION/desc`, and `files` beside it.
//!
//! The form that libalpm's `be_local.c` reads: `%FIELD%` on a line, its values on the lines that follow, an empty line at the end.

use super::contained::Places;
use super::{Manager, Package, Packages, PackagesError, Place, Source, TEXT_LIMIT, existing, line, word};
use crate::names::TreePath;
use crate::root::sysroot::{EntryType, Sysroot, SysrootError};

const LOCAL: &str = "var/lib/pacman/local";

pub(super) fn read(
    root: &Sysroot,
    mut places: Option<&mut Places<'_>>,
    out: &mut Packages,
) -> Result<(), PackagesError> {
    for local in existing(root, &[LOCAL], EntryType::Directory)? {
        for entry in root.read_dir(&local)? {
            if entry.kind != EntryType::Directory {
                continue;
            }
            let directory = local.join(&entry.name)?;
            let path = directory.join("desc")?;
            // A folder without `desc` is an error too: pacman itself would take the package for damaged.
            let package = parse(&root.read(&path, TEXT_LIMIT)?, &path)?;
            let gone = match &mut places {
                Some(places) => is_gone(root, &directory, places)?,
                None => false,
            };
            out.add(package, gone, &path)?;
        }
        out.databases.push((Manager::Pacman, local));
    }
    Ok(())
}

fn is_gone(root: &Sysroot, directory: &TreePath, places: &mut Places<'_>) -> Result<bool, PackagesError> {
    let list = match root.read(&directory.join("files")?, TEXT_LIMIT) {
        Ok(list) => list,
        Err(SysrootError::Path { .. }) => return Ok(false),
        Err(error) => return Err(error.into()),
    };
    let lines = list.split(|&b| b == b'\n');
    places.is_gone(lines.skip_while(|line| *line != b"%FILES%").skip(1).take_while(|line| !line.is_empty()))
}

/// The package of one `desc`.
pub(super) fn parse(bytes: &[u8], path: &TreePath) -> Result<Package, PackagesError> {
    let damaged =
        |number, problem: String| PackagesError::Damaged { path: path.clone(), place: Place::Line(number), problem };
    let text = String::from_utf8_lossy(bytes);
    let mut field = "";
    let [mut name, mut version, mut base, mut architecture] = [None, None, None, None];
    let [mut homepage, mut packager] = [None, None];
    let mut licenses = Vec::new();
    for (number, content) in (1..).zip(text.lines()) {
        match content {
            "" => field = "",
            _ if field.is_empty() => match content.strip_prefix('%').and_then(|rest| rest.strip_suffix('%')) {
                Some(begins) if !begins.is_empty() => field = begins,
                _ => return Err(damaged(number, format!("{content:?} is no field"))),
            },
            _ => {
                let slot = match field {
                    "NAME" => &mut name,
                    "VERSION" => &mut version,
                    "BASE" => &mut base,
                    "ARCH" => &mut architecture,
                    "URL" => &mut homepage,
                    "PACKAGER" => &mut packager,
                    "LICENSE" => {
                        licenses.push(content);
                        continue;
                    }
                    _ => continue,
                };
                if slot.replace(content).is_some() {
                    return Err(damaged(number, format!("the field {field} has two values")));
                }
            }
        }
    }
    let make = || -> Result<Package, String> {
        let version = word(version.unwrap_or_default(), "version")?;
        let source = match base {
            Some(base) => Some(Source { name: word(base, "base")?, version: Some(version.clone()) }),
            None => None,
        };
        Ok(Package {
            name: word(name.unwrap_or_default(), "name")?,
            version,
            architecture: architecture.map(|architecture| word(architecture, "architecture")).transpose()?,
            manager: Manager::Pacman,
            source,
            // Of several nobody says whether all of them hold or any.
            license: line(&licenses.join(", ")),
            homepage: homepage.and_then(line),
            supplier: packager.and_then(line),
        })
    };
    make().map_err(|problem| damaged(1, problem))
}
