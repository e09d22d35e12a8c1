//! The output folder, written whole or not at all.
//!
//! Everything is made in a hidden folder inside the output folder (so that a rename never crosses a file system) and
//! renamed at the end. A run that fails or is interrupted leaves the output folder as it was.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};

use sha2::{Digest, Sha256};
use tempfile::TempDir;

use super::place::{check_kinds, check_writable};
use super::{ImageError, SUMS, TREE, check_file, check_folder, create_folders, mode_set};

/// A longer `SHA256SUMS` is none of ours.
const MAX_SUMS: u64 = 1 << 20;

/// An output folder in the making.
#[derive(Debug)]
pub struct Staging {
    out: PathBuf,
    staging: Option<TempDir>,
    files: Vec<String>,
    folders: Vec<String>,
    made_out: bool,
}

impl Staging {
    /// Makes the output folder where it is not there, and the hidden one in it.
    ///
    /// # Errors
    /// The folder cannot be made or written to.
    pub fn new(out: &Path) -> Result<Self, ImageError> {
        check_folder(out, Path::new(""))?;
        let made_out = !out.exists();
        create_folders(out).map_err(|source| ImageError::Io {
            action: "create the folder",
            path: out.to_owned(),
            source,
        })?;
        let staging = tempfile::Builder::new()
            .prefix(".kairos-init-")
            .tempdir_in(out)
            .map_err(|source| ImageError::Io { action: "create a folder in", path: out.to_owned(), source })?;
        Ok(Self { out: out.to_owned(), staging: Some(staging), files: Vec::new(), folders: Vec::new(), made_out })
    }

    /// Where the file `name` is while it is made.
    #[must_use]
    pub fn staged(&self, name: &str) -> PathBuf {
        self.staging.as_ref().map_or_else(|| self.out.join(name), |staging| staging.path().join(name))
    }

    /// A new file, open for reading and writing, that will be `name` in the output folder.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn create(&mut self, name: &str) -> Result<File, ImageError> {
        // A name from outside must not lead out of the folder.
        if name.is_empty() || !Path::new(name).components().all(|part| matches!(part, Component::Normal(_))) {
            let source = std::io::Error::other("a name in the output folder has no . and .. and no leading slash");
            return Err(ImageError::Io { action: "create", path: PathBuf::from(name), source });
        }
        let path = self.staged(name);
        let failed = |source| ImageError::Io { action: "create", path: self.out.join(name), source };
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(failed)?;
        }
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path).map_err(failed)?;
        self.files.push(name.to_owned());
        Ok(file)
    }

    /// A file that is needed for another one and is not put into the output folder.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn scratch(&mut self, name: &str) -> Result<File, ImageError> {
        let file = self.create(name)?;
        self.files.pop();
        Ok(file)
    }

    /// A folder that is there even if it stays empty.
    pub fn folder(&mut self, name: &str) {
        self.folders.push(name.to_owned());
    }

    /// A new file with these bytes.
    ///
    /// # Errors
    /// It cannot be made or written.
    pub fn write(&mut self, name: &str, bytes: &[u8]) -> Result<(), ImageError> {
        let mut file = self.create(name)?;
        std::io::Write::write_all(&mut file, bytes).map_err(|source| ImageError::Io {
            action: "write",
            path: self.out.join(name),
            source,
        })
    }

    /// Adds `SHA256SUMS` over all files, then puts everything in its place. Returns the files' final paths.
    ///
    /// # Errors
    /// A file cannot be read, or a name is taken by what is no regular file.
    pub fn commit(mut self) -> Result<Vec<PathBuf>, ImageError> {
        let mut names = self.files.clone();
        names.sort_unstable();
        let mut sums = String::new();
        for name in &names {
            sums.push_str(&format!("{}  {name}\n", sha256(&self.staged(name))?));
        }
        self.write(SUMS, sums.as_bytes())?;
        names.push(SUMS.to_owned());
        for name in &names {
            check_file(&self.out, Path::new(name))?;
        }
        for name in &self.folders {
            check_folder(&self.out, Path::new(name))?;
        }
        let former = self.former(&names)?;
        let mut placed = Vec::new();
        for name in &self.folders {
            let path = self.out.join(name);
            create_folders(&path).map_err(|source| ImageError::Io { action: "create the folder", path, source })?;
        }
        for name in names {
            let target = self.out.join(&name);
            let failed = |source| ImageError::Io { action: "put in its place", path: target.clone(), source };
            if let Some(parent) = target.parent() {
                create_folders(parent).map_err(failed)?;
            }
            let staged = self.staged(&name);
            // A private umask of the caller's must not make artifacts unreadable to who serves them.
            mode_set(fs::set_permissions(&staged, fs::Permissions::from_mode(0o644))).map_err(failed)?;
            fs::rename(&staged, &target).map_err(failed)?;
            placed.push(target);
        }
        for path in former {
            fs::remove_file(&path).map_err(|source| ImageError::Io {
                action: "remove what an earlier run wrote,",
                path,
                source,
            })?;
        }
        self.made_out = false;
        Ok(placed)
    }

    /// What an earlier run wrote into the ESP tree and this one does not: an entry that no longer has a UKI, say. Its `SHA256SUMS`
    /// tells what that was; what someone changed since stays. That it may be removed is asked here, when nothing has moved yet.
    fn former(&self, names: &[String]) -> Result<BTreeSet<PathBuf>, ImageError> {
        let mut text = String::new();
        if let Ok(file) = File::open(self.out.join(SUMS)) {
            // What cannot be read is no list of ours, and nothing goes.
            let _ = file.take(MAX_SUMS).read_to_string(&mut text);
        }
        let is_plain = |name: &str| Path::new(name).components().all(|part| matches!(part, Component::Normal(_)));
        let lines = text.lines().filter_map(|line| line.split_once("  "));
        let is_new = |name: &str| names.iter().any(|new| Path::new(new) == Path::new(name));
        let gone = lines.filter(|(_, name)| name.starts_with(TREE) && is_plain(name) && !is_new(name));
        let mut former = BTreeSet::new();
        for (sum, name) in gone {
            let path = self.out.join(name);
            let folder = Path::new(name).parent().unwrap_or(Path::new(""));
            let is_file = fs::symlink_metadata(&path).is_ok_and(|metadata| metadata.is_file());
            if is_file && check_kinds(&self.out, folder).is_ok() && sha256(&path)? == sum {
                check_writable(&self.out.join(folder))?;
                former.insert(path);
            }
        }
        Ok(former)
    }
}

fn sha256(path: &Path) -> Result<String, ImageError> {
    let failed = |source| ImageError::Io { action: "read", path: path.to_owned(), source };
    let mut file = File::open(path).map_err(failed)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer).map_err(failed)? {
            0 => return Ok(hex::encode(hash.finalize())),
            count => hash.update(buffer.get(..count).unwrap_or_default()),
        }
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // The hidden folder goes first: then a folder that this run made is empty, unless someone else put something in.
        self.staging = None;
        if self.made_out {
            let _ = fs::remove_dir(&self.out);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::{PCRS, REPORT, UKI};

    #[test]
    fn nothing_is_left_of_a_run_that_failed() -> Result<(), Box<dyn std::error::Error>> {
        let dir = tempfile::tempdir()?;
        let out = dir.path().join("a/out");
        let mut staging = Staging::new(&out)?;
        staging.write(REPORT, b"{}")?;
        drop(staging);
        assert!(!out.exists());
        Ok(())
    }

    #[test]
    fn a_finished_folder_checks_itself() -> Result<(), Box<dyn std::error::Error>> {
        let dir = tempfile::tempdir()?;
        let mut staging = Staging::new(dir.path())?;
        staging.write(UKI, b"MZ")?;
        staging.write(REPORT, b"{}")?;
        staging.commit()?;
        let check = std::process::Command::new("sha256sum")
            .args(["--check", "--strict", SUMS])
            .current_dir(dir.path())
            .output()?;
        assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stderr));
        let names: Vec<_> =
            fs::read_dir(dir.path())?.map(|entry| entry.map(|entry| entry.file_name())).collect::<Result<_, _>>()?;
        assert_eq!(names.len(), 3, "{names:?}");
        Ok(())
    }

    #[test]
    fn a_folder_in_the_way_is_named_before_anything_moves() -> Result<(), Box<dyn std::error::Error>> {
        let dir = tempfile::tempdir()?;
        fs::create_dir(dir.path().join(REPORT))?;
        let mut staging = Staging::new(dir.path())?;
        staging.write(PCRS, b"{}")?;
        staging.write(REPORT, b"{}")?;
        assert!(matches!(staging.commit(), Err(ImageError::InTheWay { .. })));
        assert!(!dir.path().join(PCRS).exists());
        Ok(())
    }
}
