//! dpkg's database: `status`, and `status.d/` where an image was made without dpkg (distroless).
//!
//! Stanzas of fields as deb-control(5) and dpkg's `lib/dpkg/parse.c` have them; the words of `Status` are in dpkg(1). A package whose
//! files are unpacked counts, configured or not. The lists of files are `info/NAME.list` or `info/NAME:ARCHITECTURE.list`.

use super::contained::Places;
use super::{Manager, Package, Packages, PackagesError, Place, Source, TEXT_LIMIT, existing, line, word};
use crate::names::TreePath;
use crate::root::sysroot::{EntryType, Sysroot, SysrootError};

const STATUS: &str = "var/lib/dpkg/status";
const STATUS_D: &str = "var/lib/dpkg/status.d";
const INFO: &str = "var/lib/dpkg/info";

pub(super) fn read(
    root: &Sysroot,
    mut places: Option<&mut Places<'_>>,
    out: &mut Packages,
) -> Result<(), PackagesError> {
    for path in existing(root, &[STATUS], EntryType::File)? {
        read_file(root, &path, &mut places, out)?;
        out.databases.push((Manager::Dpkg, path));
    }
    for directory in existing(root, &[STATUS_D], EntryType::Directory)? {
        let mut any = false;
        for entry in root.read_dir(&directory)? {
            if entry.name.ends_with(b".md5sums") || entry.name.starts_with(b".") {
                continue;
            }
            read_file(root, &directory.join(&entry.name)?, &mut places, out)?;
            any = true;
        }
        if any {
            out.databases.push((Manager::Dpkg, directory));
        }
    }
    Ok(())
}

fn read_file(
    root: &Sysroot,
    path: &TreePath,
    places: &mut Option<&mut Places<'_>>,
    out: &mut Packages,
) -> Result<(), PackagesError> {
    let bytes = root.read(path, TEXT_LIMIT)?;
    let mut warnings = parse(&bytes, path, &mut |package, _| {
        let gone = match places {
            Some(places) => is_gone(root, &package, places)?,
            None => false,
        };
        out.add(package, gone, path)
    })?;
    out.warnings.append(&mut warnings);
    Ok(())
}

fn is_gone(root: &Sysroot, package: &Package, places: &mut Places<'_>) -> Result<bool, PackagesError> {
    let Package { name, architecture, .. } = package;
    let architecture = architecture.as_deref().unwrap_or_default();
    for (directory, file) in [
        (INFO, format!("{name}:{architecture}.list")),
        (INFO, format!("{name}.list")),
        (STATUS_D, format!("{name}.md5sums")),
    ] {
        // A name of dpkg has no slash; one that has is looked for nowhere.
        if file.contains('/') {
            return Ok(false);
        }
        let list = match root.read(&TreePath::new(directory)?.join(&file)?, TEXT_LIMIT) {
            Ok(list) => list,
            Err(error) if error.is_not_found() => continue,
            Err(SysrootError::Path { .. }) => continue,
            Err(error) => return Err(error.into()),
        };
        let sums = directory == STATUS_D;
        return places.is_gone(list.split(|&b| b == b'\n').filter(|line| !line.is_empty()).map(|line| match sums {
            // 32 digits, two spaces, the path.
            true => line.get(34..).unwrap_or_default(),
            false => line,
        }));
    }
    Ok(false)
}

/// The fields of a stanza that count here, each with its line.
#[derive(Default)]
struct Stanza {
    begins: usize,
    fields: [Option<String>; FIELDS.len()],
}

const FIELDS: [&str; 7] = ["package", "status", "version", "architecture", "source", "maintainer", "homepage"];

/// Gives each package, with its line, and returns warnings.
pub(super) fn parse(
    bytes: &[u8],
    path: &TreePath,
    each: &mut dyn FnMut(Package, usize) -> Result<(), PackagesError>,
) -> Result<Vec<String>, PackagesError> {
    let damaged =
        |number, problem: String| PackagesError::Damaged { path: path.clone(), place: Place::Line(number), problem };
    let mut warnings = Vec::new();
    let mut stanza = Stanza::default();
    let mut end = |stanza: Stanza| -> Result<(), PackagesError> {
        let begins = stanza.begins;
        if begins == 0 {
            return Ok(());
        }
        let (package, half) = match package(stanza).map_err(|problem| damaged(begins, problem))? {
            Some(found) => found,
            None => return Ok(()),
        };
        if let Some(state) = half {
            warnings
                .push(format!("{path}: {} {} is {state}: not all of it may be there", package.name, package.version));
        }
        each(package, begins)
    };
    for (number, content) in (1..).zip(bytes.split(|&b| b == b'\n')) {
        // People's names in other encodings are no reason to list nothing. Line by line, so that the text is not there twice.
        let content = String::from_utf8_lossy(content);
        if content.trim().is_empty() {
            end(std::mem::take(&mut stanza))?;
            continue;
        }
        if stanza.begins == 0 {
            stanza.begins = number;
        }
        if content.starts_with([' ', '\t']) {
            continue;
        }
        let Some((name, value)) = content.split_once(':') else {
            return Err(damaged(number, format!("{content:?} is no field")));
        };
        let place = FIELDS.iter().position(|field| field.eq_ignore_ascii_case(name));
        if let Some(field) = place.and_then(|at| stanza.fields.get_mut(at))
            && field.replace(value.trim().to_owned()).is_some()
        {
            return Err(damaged(number, format!("the field {name} is there twice")));
        }
    }
    end(stanza)?;
    Ok(warnings)
}

/// The package of a stanza, and its state where that is neither whole nor nothing.
fn package(stanza: Stanza) -> Result<Option<(Package, Option<String>)>, String> {
    let [name, status, version, architecture, source, maintainer, homepage] =
        stanza.fields.each_ref().map(Option::as_deref);
    let mut half = None;
    // Without `Status` in the folder of a distroless image only; there is what is there.
    if let Some(status) = status {
        match status.split_ascii_whitespace().nth(2) {
            Some("installed" | "triggers-awaited" | "triggers-pending") => {}
            Some("not-installed" | "config-files") => return Ok(None),
            Some(state @ ("half-installed" | "unpacked" | "half-configured")) => half = Some(state.to_owned()),
            _ => return Err(format!("the status {status:?} is none of dpkg's")),
        }
    }
    let version = word(version.unwrap_or_default(), "version")?;
    let source = match source.map(|source| source.split_once('(').unwrap_or((source, ""))) {
        Some((name, version)) => {
            let version = version.trim_end().trim_end_matches(')').trim();
            let version = (!version.is_empty()).then(|| word(version, "version of the source")).transpose()?;
            Some(Source { name: word(name.trim(), "source")?, version })
        }
        None => None,
    };
    let package = Package {
        name: word(name.unwrap_or_default(), "name")?,
        version,
        architecture: architecture.map(|architecture| word(architecture, "architecture")).transpose()?,
        manager: Manager::Dpkg,
        source,
        license: None,
        homepage: homepage.and_then(line),
        supplier: maintainer.and_then(line),
    };
    Ok(Some((package, half)))
}
