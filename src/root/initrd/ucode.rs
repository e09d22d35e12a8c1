//! The microcode archive: the kernel looks into it by name before anything else runs, so it is not compressed.
//!
//! Paths and content are the kernel's (`Documentation/arch/x86/microcode.rst`): the vendors' files one after another, each
//! file being a complete blob with its own header. Which files, in which order, is the caller's choice (sorted by name).

use super::InitrdError;
use super::cpio::write_tree;
use crate::cancel::Cancel;
use crate::names::{NameError, TreePath};
use crate::root::tree::{Entry, FileTree};

/// An uncompressed archive with the microcode of Intel (the files of `intel-ucode/`) and of AMD (`amd-ucode/*.bin`), each
/// joined and not compressed; `None` where there is neither. Times are 0.
///
/// # Errors
/// More than 4 GiB of microcode.
pub fn early_microcode(intel: Vec<u8>, amd: Vec<u8>) -> Result<Option<Vec<u8>>, InitrdError> {
    if intel.is_empty() && amd.is_empty() {
        return Ok(None);
    }
    let tree = tree(intel, amd).map_err(|error| InitrdError::Root(error.into()))?;
    let mut archive = Vec::new();
    write_tree(&tree, None, &mut archive, &Cancel::default())?;
    Ok(Some(archive))
}

fn tree(intel: Vec<u8>, amd: Vec<u8>) -> Result<FileTree, NameError> {
    let mut tree = FileTree::new();
    for directory in ["kernel", "kernel/x86", "kernel/x86/microcode"] {
        tree.insert(TreePath::new(directory)?, Entry::directory(0));
    }
    for (name, blobs) in [("GenuineIntel.bin", intel), ("AuthenticAMD.bin", amd)] {
        if !blobs.is_empty() {
            tree.insert(TreePath::new("kernel/x86/microcode")?.join(name)?, Entry::file(blobs, 0));
        }
    }
    Ok(tree)
}
