//! Where a file is to be written: whether it can be there, asked before the work and again before the rename; and what of its mode.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::ImageError;

/// Whether a file may be renamed to `path`: nothing is there, or a regular file. A rename would silently take the place of
/// anything else, of a device node as well (`--output /dev/null`, as root), or of a link that someone made on purpose.
///
/// # Errors
/// [`ImageError::InTheWay`] for what is no regular file; a path that cannot be looked at.
pub fn check_replaceable(path: &Path) -> Result<(), ImageError> {
    let problem = match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_file() => return Ok(()),
        Ok(metadata) if metadata.is_dir() => "it is a folder",
        Ok(metadata) if metadata.is_symlink() => "it is a link, which would be replaced and not followed",
        Ok(_) => "it is a device, a pipe or a socket, which would be replaced and not written to",
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(ImageError::Io { action: "look at", path: path.to_owned(), source }),
    };
    Err(ImageError::InTheWay { path: path.to_owned(), problem })
}

/// Refuses an output that is what it is made of, under whatever name.
///
/// # Errors
/// [`ImageError::Same`].
pub fn check_another(output: &Path, input: &Path) -> Result<(), ImageError> {
    let identity = |path: &Path| fs::metadata(path).ok().map(|metadata| (metadata.dev(), metadata.ino()));
    match identity(output).is_some_and(|output| identity(input) == Some(output)) {
        true => Err(ImageError::Same { output: output.to_owned(), input: input.to_owned() }),
        false => Ok(()),
    }
}

/// Whether `name` can be a folder inside of `folder`: what is there of it is one, and no link that leads elsewhere.
///
/// # Errors
/// [`ImageError::InTheWay`].
pub fn check_folder(folder: &Path, name: &Path) -> Result<(), ImageError> {
    let in_the_way = |path: &Path, problem| Err(ImageError::InTheWay { path: path.to_owned(), problem });
    if fs::metadata(folder).is_ok_and(|metadata| !metadata.is_dir()) {
        return in_the_way(folder, "it is not a folder");
    }
    for part in name.ancestors().filter(|part| !part.as_os_str().is_empty()) {
        let path = folder.join(part);
        match fs::symlink_metadata(&path) {
            Ok(metadata) if metadata.is_symlink() => {
                return in_the_way(&path, "it is a link, and what is written would be elsewhere");
            }
            Ok(metadata) if !metadata.is_dir() => {
                return in_the_way(&path, "it is a file, and a folder must be there");
            }
            // What cannot be looked at is told of when it is written to.
            Ok(_) | Err(_) => {}
        }
    }
    Ok(())
}

/// Whether `name` can be a file inside of `folder`, with folders that lead to it.
///
/// # Errors
/// As [`check_folder`] and [`check_replaceable`].
pub fn check_file(folder: &Path, name: &Path) -> Result<(), ImageError> {
    check_folder(folder, name.parent().unwrap_or(Path::new("")))?;
    check_replaceable(&folder.join(name))
}

/// Refuses an output, which need not be there yet, inside of a folder that it is made of: the next one would hold it.
///
/// # Errors
/// [`ImageError::Inside`]; a folder that is not there.
pub fn check_outside(output: &Path, folder: &Path) -> Result<(), ImageError> {
    let real = |path: &Path| {
        path.canonicalize().map_err(|source| ImageError::Io {
            action: "read the folder",
            path: path.to_owned(),
            source,
        })
    };
    let there = output.ancestors().find(|path| path.exists()).unwrap_or(Path::new("."));
    match real(there)?.starts_with(real(folder)?) {
        true => Err(ImageError::Inside { output: output.to_owned(), folder: folder.to_owned() }),
        false => Ok(()),
    }
}

/// What became of setting a file's mode, where it is no error that the file system has none: FAT, exFAT and shares of other systems
/// ignore a mode or refuse it, and how they are mounted says who may read.
///
/// # Errors
/// All others.
pub fn mode_set(result: std::io::Result<()>) -> std::io::Result<()> {
    use rustix::io::Errno;
    match result {
        // The file is our own, so that it is not us who may not.
        Err(error) if matches!(Errno::from_io_error(&error), Some(Errno::PERM | Errno::NOSYS | Errno::OPNOTSUPP)) => {
            Ok(())
        }
        other => other,
    }
}
