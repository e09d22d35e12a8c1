//! Checksums of the files that an SBOM lists: SHA-1, which SPDX 2.3 demands of each file, and SHA-256.

use std::collections::BTreeSet;
use std::io::Read;

use rayon::prelude::*;
use sha1::Sha1;
use sha2::{Digest, Sha256};

use crate::cancel::Cancel;
use crate::image::ImageError;
use crate::names::TreePath;
use crate::root::sysroot::{Sysroot, SysrootError};
use crate::root::tree::{Content, FileTree, Kind, Seen};

/// Bytes read at a time, by each thread.
const BUFFER: usize = 128 << 10;

/// A file of an image with its checksums.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct HashedFile {
    /// In the image.
    pub path: TreePath,
    /// Bytes.
    pub bytes: u64,
    /// SHA-1 of the content.
    pub sha1: [u8; 20],
    /// SHA-256 of the content.
    pub sha256: [u8; 32],
}

/// Reads the files of `tree` that `paths` name, several at a time, each in small pieces. Hard links count as files; directories,
/// symbolic links and what is not in the tree are left out. Sorted by path, each once.
///
/// # Errors
/// A file that cannot be read, or is not what it was when the tree was scanned; asked to stop.
pub fn hash<'a>(
    root: &Sysroot,
    tree: &FileTree,
    paths: impl IntoIterator<Item = &'a TreePath>,
    cancel: &Cancel,
) -> Result<Vec<HashedFile>, ImageError> {
    let paths: BTreeSet<&TreePath> = paths.into_iter().collect();
    let content = |path| match &tree.get(path)?.kind {
        Kind::File(content) => Some(content),
        Kind::HardLink(to) => match &tree.get(to)?.kind {
            Kind::File(content) => Some(content),
            _ => None,
        },
        _ => None,
    };
    let found: Vec<_> = paths.into_iter().filter_map(|path| Some((path, content(path)?))).collect();
    found.into_par_iter().map(|(path, content)| hash_one(root, path, content, cancel)).collect()
}

fn hash_one(root: &Sysroot, path: &TreePath, content: &Content, cancel: &Cancel) -> Result<HashedFile, ImageError> {
    let (mut sha1, mut sha256) = (Sha1::new(), Sha256::new());
    let source = match content {
        Content::Bytes(bytes) => {
            sha1.update(bytes);
            sha256.update(bytes);
            None
        }
        Content::Root { path, seen } => Some((root, path, seen)),
        Content::Layer { layer, path, seen } => Some((&*layer.0, path, seen)),
    };
    if let Some((root, from, seen)) = source {
        let changed = || ImageError::Changed { path: root.host_path().join(from.as_path()) };
        let failed = |source| SysrootError::Path { action: "read", path: from.clone(), source };
        let mut file = match root.file(from) {
            Err(error) if error.is_not_found() => return Err(changed()),
            file => file?,
        };
        let is_same = |file: &std::fs::File| match rustix::fs::fstat(file) {
            Ok(metadata) if Seen::of(&metadata) == *seen => Ok(()),
            _ => Err(changed()),
        };
        is_same(&file)?;
        let mut buffer = vec![0; BUFFER];
        let mut left = seen.length;
        loop {
            cancel.check()?;
            let count = match file.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(source) => return Err(failed(source).into()),
            };
            left = left.checked_sub(count as u64).ok_or_else(changed)?;
            let bytes = buffer.get(..count).unwrap_or_default();
            sha1.update(bytes);
            sha256.update(bytes);
        }
        if left > 0 {
            return Err(changed());
        }
        is_same(&file)?;
    }
    Ok(HashedFile {
        path: path.clone(),
        bytes: content.length(),
        sha1: sha1.finalize().into(),
        sha256: sha256.finalize().into(),
    })
}
