//! Where a file is to be written: whether it can be there, asked before the work and again before the rename; and what of its mode.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Access, AtFlags, CWD, StatxFlags};
use rustix::io::Errno;

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

/// Device and inode, links followed: what a file is under whatever name. Nothing where it is not there.
#[must_use]
pub fn identity(path: &Path) -> Option<(u64, u64)> {
    fs::metadata(path).ok().map(|metadata| (metadata.dev(), metadata.ino()))
}

/// The nearest folder that is there: `path` itself, or one that leads to it.
#[must_use]
pub fn nearest(path: &Path) -> &Path {
    path.ancestors().find(|path| path.is_dir()).unwrap_or(Path::new("."))
}

/// Refuses an output that is what it is made of, under whatever name.
///
/// # Errors
/// [`ImageError::Same`].
pub fn check_another(output: &Path, input: &Path) -> Result<(), ImageError> {
    match identity(output).is_some_and(|output| identity(input) == Some(output)) {
        true => Err(ImageError::Same { output: output.to_owned(), input: input.to_owned() }),
        false => Ok(()),
    }
}

/// Whether files can be renamed into `folder`/`name` once the folders that are not there yet are made: what is there is a folder, no
/// link that leads elsewhere, on the file system that `folder` is on, and may be written to.
///
/// # Errors
/// [`ImageError::InTheWay`]; a folder that may not be written to.
pub fn check_folder(folder: &Path, name: &Path) -> Result<(), ImageError> {
    check_kinds(folder, name)?;
    if let Some(path) = elsewhere(folder, name) {
        return in_the_way(&path, "it is a mount or a file system of its own, and no file can be renamed into it");
    }
    // Without a slash at the end, which would follow a link.
    let whole: PathBuf = folder.join(name).components().collect();
    let there = whole.ancestors().find(|path| fs::symlink_metadata(path).is_ok()).unwrap_or(Path::new("."));
    match fs::metadata(there) {
        Ok(metadata) if metadata.is_dir() => check_writable(there),
        Ok(_) => in_the_way(there, "it is not a folder"),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            in_the_way(there, "it is a link, and what it leads to is not there")
        }
        Err(source) => Err(ImageError::Io { action: "look at", path: there.to_owned(), source }),
    }
}

fn in_the_way(path: &Path, problem: &'static str) -> Result<(), ImageError> {
    Err(ImageError::InTheWay { path: path.to_owned(), problem })
}

/// Whether what is there of `folder`/`name` are folders, and no link leads elsewhere.
pub(super) fn check_kinds(folder: &Path, name: &Path) -> Result<(), ImageError> {
    if fs::metadata(folder).is_ok_and(|metadata| !metadata.is_dir()) {
        return in_the_way(folder, "it is not a folder");
    }
    for part in parts(name) {
        let path = folder.join(part);
        match fs::symlink_metadata(&path) {
            Ok(metadata) if metadata.is_symlink() => {
                return in_the_way(&path, "it is a link, and what is written would be elsewhere");
            }
            Ok(metadata) if !metadata.is_dir() => {
                return in_the_way(&path, "it is a file, and a folder must be there");
            }
            Ok(_) | Err(_) => {}
        }
    }
    Ok(())
}

/// The folders that lead to `name`, and itself, from the deepest on.
fn parts(name: &Path) -> impl Iterator<Item = &Path> {
    name.ancestors().filter(|part| !part.as_os_str().is_empty())
}

/// The topmost part of `name` that no file of `folder` can be renamed into.
fn elsewhere(folder: &Path, name: &Path) -> Option<PathBuf> {
    let here = mount(folder)?;
    let paths = parts(name).map(|part| folder.join(part));
    paths.filter(|path| mount(path).is_some_and(|there| there != here)).last()
}

/// What no rename leads out of: the file system, and the mount of it, which the kernel tells since Linux 5.8. Two mounts of one file
/// system are two for a rename.
fn mount(path: &Path) -> Option<(u64, Option<u64>)> {
    let device = fs::metadata(path).ok()?.dev();
    let told = rustix::fs::statx(CWD, path, AtFlags::empty(), StatxFlags::MNT_ID).ok();
    let told = told.filter(|told| told.stx_mask & StatxFlags::MNT_ID.bits() != 0);
    Some((device, told.map(|told| told.stx_mnt_id)))
}

/// Whether files may be made, renamed and removed in this folder.
pub(super) fn check_writable(folder: &Path) -> Result<(), ImageError> {
    match rustix::fs::accessat(CWD, folder, Access::WRITE_OK | Access::EXEC_OK, AtFlags::EACCESS) {
        Err(errno @ (Errno::ACCESS | Errno::PERM | Errno::ROFS)) => {
            Err(ImageError::Io { action: "write to the folder", path: folder.to_owned(), source: errno.into() })
        }
        // Where the kernel cannot be asked, writing tells.
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Makes a folder, and those that lead to it, so that everyone may read what is in them, as files are: a private umask of the caller's
/// must not keep who serves them away. Folders that are there stay as they are.
///
/// # Errors
/// A folder cannot be made.
pub fn create_folders(path: &Path) -> std::io::Result<()> {
    let missing = path.ancestors().take_while(|path| !path.as_os_str().is_empty() && !path.exists());
    for folder in missing.collect::<Vec<_>>().into_iter().rev() {
        match fs::create_dir(folder) {
            Ok(()) => {
                // What else the system gave it stays: the group that it inherits, what the umask leaves to the group.
                let mode = fs::metadata(folder)?.permissions().mode() | 0o755;
                mode_set(fs::set_permissions(folder, PermissionsExt::from_mode(mode)))?;
            }
            // Made by someone else in the meantime.
            Err(_) if folder.is_dir() => {}
            Err(error) => return Err(error),
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

/// Whether `path`, which need not be there yet, is inside of `folder`, or is it.
///
/// # Errors
/// A folder that is not there.
pub fn is_inside(path: &Path, folder: &Path) -> Result<bool, ImageError> {
    let real = |path: &Path| {
        path.canonicalize().map_err(|source| ImageError::Io {
            action: "read the folder",
            path: path.to_owned(),
            source,
        })
    };
    Ok(real(nearest(path))?.starts_with(real(folder)?))
}

/// Refuses an output, which need not be there yet, inside of a folder that it is made of: the next one would hold it.
///
/// # Errors
/// [`ImageError::Inside`]; a folder that is not there.
pub fn check_outside(output: &Path, folder: &Path) -> Result<(), ImageError> {
    match is_inside(output, folder)? {
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
    match result {
        // The file is our own, so that it is not us who may not.
        Err(error) if matches!(Errno::from_io_error(&error), Some(Errno::PERM | Errno::NOSYS | Errno::OPNOTSUPP)) => {
            Ok(())
        }
        other => other,
    }
}
