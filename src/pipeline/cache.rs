//! `--cache DIR`: where a [`Pack`] of module metadata lies between runs. Whatever is wrong with it costs time and gives a
//! warning, never another result.

use std::fs::{self, File, Metadata, OpenOptions, Permissions};
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use super::PipelineError;
use crate::drivers::inventory::cache::{Cached, Pack, declarations_with};
use crate::drivers::inventory::{Declarations, Inventory, check_dependencies};
use crate::root::sysroot::Sysroot;

/// A pack larger than this is none. Debian's 6.12 has 0.8 MiB.
const LIMIT: u64 = 64 << 20;

/// What the modules declare, by way of the cache; and warnings.
///
/// # Errors
/// A module that cannot be read.
pub(super) fn declarations(
    root: &Sysroot,
    inventory: &Inventory,
    directory: &Path,
) -> Result<(Declarations, Vec<String>), PipelineError> {
    let path = directory.join(format!("modinfo-{}", inventory.kernel.release));
    let mut warnings = Vec::new();
    let mut usable = true;
    let pack = read(directory, &path).and_then(|bytes| bytes.map(|bytes| Pack::parse(&bytes)).transpose());
    let pack = pack.unwrap_or_else(|problem| {
        usable = !problem.starts_with(UNTRUSTED);
        let advice = if usable { "it is made anew" } else { "nothing is read or written there" };
        warnings.push(format!("--cache: {} is not used: {problem}; {advice}", path.display()));
        None
    });
    let modules = || inventory.modules.by_name.values();
    let mut cached = declarations_with(root, modules(), &pack.unwrap_or_default())?;
    // What contradicts modules.dep may be the pack's fault.
    let (kernel, given) = (&inventory.kernel, &cached.declarations);
    if cached.used > 0 && check_dependencies(kernel, &inventory.modules, given).is_err() {
        let own = declarations_with(root, modules(), &Pack::default())?;
        let wrong = own.declarations.iter().find(|(name, declared)| given.get(*name) != Some(declared));
        cached = Cached { wrong: wrong.map(|(name, _)| name.clone()), ..own };
    }
    if let Some(module) = &cached.wrong {
        warnings.push(format!(
            "--cache: {} says something else of {module} than the module itself: none of it was used, and it is made anew; find \
             out who could write it",
            path.display()
        ));
    }
    if let Some(fresh) = cached.fresh.filter(|_| usable)
        && let Err(error) = write(directory, &path, &fresh.to_bytes())
    {
        warnings.push(format!("--cache: cannot write {}: {error}; the next run will be as slow", path.display()));
    }
    Ok((cached.declarations, warnings))
}

/// How a problem with who may write begins.
const UNTRUSTED: &str = "others could have changed it";

/// The bytes of a pack; `None` where there is none yet.
fn read(directory: &Path, path: &Path) -> Result<Option<Vec<u8>>, String> {
    let absent = |error: &std::io::Error| error.kind() == std::io::ErrorKind::NotFound;
    match fs::metadata(directory) {
        Ok(metadata) if !metadata.is_dir() => return Err(format!("{} is not a folder", directory.display())),
        Ok(metadata) => trusted(&metadata, directory)?,
        Err(error) if absent(&error) => return Ok(None),
        Err(error) => return Err(error.to_string()),
    }
    let no_follow = i32::try_from(rustix::fs::OFlags::NOFOLLOW.bits() | rustix::fs::OFlags::NONBLOCK.bits());
    let file = OpenOptions::new().read(true).custom_flags(no_follow.unwrap_or_default()).open(path);
    let file = match file {
        Ok(file) => file,
        Err(error) if absent(&error) => return Ok(None),
        Err(error) => return Err(error.to_string()),
    };
    let metadata = file.metadata().map_err(|error| error.to_string())?;
    if !metadata.is_file() || metadata.len() > LIMIT {
        return Err("it is no file of a size that it could have".to_owned());
    }
    trusted(&metadata, path)?;
    let mut bytes = Vec::new();
    File::take(file, LIMIT).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    Ok(Some(bytes))
}

/// Only root and the user may be able to write it.
fn trusted(metadata: &Metadata, path: &Path) -> Result<(), String> {
    let (owner, mode) = (metadata.uid(), metadata.mode());
    let path = path.display();
    if owner != 0 && owner != rustix::process::geteuid().as_raw() {
        return Err(format!("{UNTRUSTED}: {path} belongs to user {owner}"));
    }
    if mode & 0o022 != 0 {
        return Err(format!("{UNTRUSTED}: {path} has the mode {:04o}; chmod go-w it", mode & 0o7777));
    }
    Ok(())
}

/// Whole or not at all, readable for everybody.
fn write(directory: &Path, path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    if !directory.is_dir() {
        fs::create_dir_all(directory)?;
        fs::set_permissions(directory, Permissions::from_mode(0o755))?;
    }
    let mut file = tempfile::NamedTempFile::new_in(directory)?;
    file.write_all(bytes)?;
    file.as_file().set_permissions(Permissions::from_mode(0o644))?;
    file.persist(path).map(drop).map_err(|error| error.error)
}
