//! CPU microcode: the files that the kernel loads before anything else, and therefore not from the file system of the
//! initrd but from an uncompressed cpio or the UKI's `.ucode` section
//! (<https://docs.kernel.org/arch/x86/microcode.html>).

use std::collections::BTreeSet;

use crate::names::TreePath;
use crate::root::sysroot::{EntryType, Sysroot};

use super::{Compression, InventoryError, decompress};

/// Bytes that a vendor's microcode may have, plain. Intel's has 15 MB.
const LIMIT: u64 = 128 << 20;

/// The microcode of a root.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Microcode {
    /// `intel-ucode/*` put together in the order of their names: `kernel/x86/microcode/GenuineIntel.bin`.
    pub intel: Vec<u8>,
    /// `amd-ucode/*` likewise: `kernel/x86/microcode/AuthenticAMD.bin`.
    pub amd: Vec<u8>,
    /// Every file and link that is in the above, resolved directory and name.
    pub paths: Vec<TreePath>,
}

/// Reads the microcode of a root, decompressed. A vendor that the root has nothing of is empty.
///
/// # Errors
/// A file cannot be read or decompressed; more than 128 MiB of a vendor.
pub fn microcode(root: &Sysroot) -> Result<Microcode, InventoryError> {
    let mut out = Microcode::default();
    for (directory, wanted, bytes) in [(INTEL, is_intel as Wanted, &mut out.intel), (AMD, is_amd, &mut out.amd)] {
        let files = files(root, directory, wanted)?;
        for file in files.wanted {
            let failed = |source| InventoryError::Microcode { path: file.path.clone(), source };
            let opened = root.file(&file.target)?;
            let mut reader = decompress::reader(opened, file.compression).map_err(|error| failed(error.into()))?;
            decompress::read_rest(&mut *reader, bytes, LIMIT).map_err(failed)?;
        }
        out.paths.extend(files.paths);
    }
    Ok(out)
}

/// Whether [`microcode`] would find any, without reading it.
///
/// # Errors
/// A directory cannot be read.
pub fn has_microcode(root: &Sysroot) -> Result<bool, InventoryError> {
    Ok(!files(root, INTEL, is_intel)?.wanted.is_empty() || !files(root, AMD, is_amd)?.wanted.is_empty())
}

type Wanted = fn(&[u8]) -> bool;

const INTEL: &str = "lib/firmware/intel-ucode";
const AMD: &str = "lib/firmware/amd-ucode";

/// `06-8e-09`: family, model and stepping. Debian adds `.initramfs` to those that are only good before the kernel has
/// started its other processors, which is where this goes. (Beside them lie readme files and such.)
fn is_intel(name: &[u8]) -> bool {
    let name = name.strip_suffix(b".initramfs").unwrap_or(name);
    let parts: Vec<_> = name.split(|&b| b == b'-').collect();
    parts.len() == 3 && parts.iter().all(|part| part.len() == 2 && part.iter().all(u8::is_ascii_hexdigit))
}

/// `microcode_amd_fam17h.bin`. (Beside them lie their `.asc` signatures.)
fn is_amd(name: &[u8]) -> bool {
    name.ends_with(b".bin")
}

/// The files of a vendor.
#[derive(Default)]
struct Files {
    /// Those to be read, in order.
    wanted: Vec<Blob>,
    /// All names, links and second forms included.
    paths: Vec<TreePath>,
}

struct Blob {
    path: TreePath,
    target: TreePath,
    compression: Compression,
}

fn files(root: &Sysroot, directory: &str, wanted: Wanted) -> Result<Files, InventoryError> {
    let mut out = Files::default();
    let directory = match root.canonical(&TreePath::new(directory)?) {
        Ok(directory) if root.kind(&directory)? == Some(EntryType::Directory) => directory,
        Ok(_) => return Ok(out),
        Err(error) if error.is_not_found() => return Ok(out),
        Err(error) => return Err(error.into()),
    };
    let (mut names, mut targets) = (BTreeSet::new(), BTreeSet::new());
    // Sorted, so that a plain file comes before its compressed form, as in the kernel's search.
    for entry in root.read_dir(&directory)? {
        let (compression, plain) = Compression::of(&entry.name);
        if !wanted(plain) {
            continue;
        }
        let path = directory.join(&entry.name)?;
        let target = match root.canonical(&path) {
            Ok(target) if root.kind(&target)? == Some(EntryType::File) => target,
            Ok(_) => continue,
            // A link to nothing.
            Err(error) if error.is_not_found() => continue,
            Err(error) => return Err(error.into()),
        };
        out.paths.push(path.clone());
        // A second name or form of what is there already would only cost memory at every boot.
        if names.insert(plain.to_vec()) && targets.insert(target.clone()) {
            out.wanted.push(Blob { path, target, compression });
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn files_are_put_together_once_each_and_in_order() -> Result<(), Box<dyn std::error::Error>> {
        let dir = tempfile::tempdir()?;
        let ucode = dir.path().join("usr/lib/firmware/intel-ucode");
        std::fs::create_dir_all(&ucode)?;
        symlink("usr/lib", dir.path().join("lib"))?;
        std::fs::write(ucode.join("06-8e-0a"), "second")?;
        std::fs::write(ucode.join("06-8e-09.zst"), zstd::encode_all(&b"first."[..], 1)?)?;
        std::fs::write(ucode.join("README"), "no")?;
        symlink("06-8e-0a", ucode.join("06-8e-0b"))?;
        symlink("nothing", ucode.join("06-8e-0c"))?;
        let found = microcode(&Sysroot::open(dir.path())?)?;
        assert_eq!((found.intel.as_slice(), found.amd.as_slice()), (&b"first.second"[..], &b""[..]));
        let names: Vec<_> = found.paths.iter().map(|path| path.to_string()).collect();
        let below = |name: &str| format!("/usr/lib/firmware/intel-ucode/{name}");
        assert_eq!(names, [below("06-8e-09.zst"), below("06-8e-0a"), below("06-8e-0b")]);
        Ok(())
    }
}
