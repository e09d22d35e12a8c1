//! What a run reads besides drivers: kernel, stub, boot manager, init, microcode, release.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use super::PipelineError;
use crate::boot::build::{self, BuildError};
use crate::boot::uki::kernel::unpack;
use crate::boot::uki::stub::{MAX_STUB, Stub};
use crate::drivers::inventory::{self, Inventory};
use crate::image::esp::{Loader, MAX_LOADER};
use crate::names::TreePath;
use crate::root::initrd;
use crate::root::sysroot::Sysroot;
use crate::root::tree::{Content, FileTree, Kind};
use crate::size::Report;

/// A kernel image larger than this is none.
const MAX_KERNEL: u64 = 256 << 20;
/// An `os-release` larger than this is none.
const MAX_OS_RELEASE: u64 = 64 << 10;
/// As many as the kernel follows.
const MAX_LINKS: usize = 40;
/// What has systemd's stub and boot manager.
const PACKAGES: &str = "install systemd-boot-efi (Debian, Ubuntu) or systemd-boot-unsigned (Fedora)";
/// Kairos' init in a UKI.
pub(super) const IMMUCORE: &str = "/usr/bin/immucore";
/// The init of a root without immucore.
const SYSTEMD: &str = "/usr/lib/systemd/systemd";

pub(super) fn read_input(what: &'static str, path: &Path, limit: u64) -> Result<Vec<u8>, PipelineError> {
    let failed = |source| PipelineError::Input { what, path: path.to_owned(), source };
    let file = File::open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    if !metadata.is_file() || metadata.len() > limit {
        let problem = if metadata.is_file() {
            format!("it has {} bytes, more than {limit}", metadata.len())
        } else {
            "it is not a file".to_owned()
        };
        return Err(failed(std::io::Error::other(problem)));
    }
    let mut bytes = Vec::new();
    file.take(limit).read_to_end(&mut bytes).map_err(failed)?;
    Ok(bytes)
}

pub(super) fn write_microcode(
    root: &Sysroot,
    out: &mut dyn std::io::Write,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let microcode = inventory::microcode(root)?;
    let archive = initrd::early_microcode(microcode.intel, microcode.amd)?;
    Ok(out.write_all(&archive.unwrap_or_default())?)
}

pub(super) fn kernel_image(root: &Sysroot, inventory: &Inventory) -> Result<Vec<u8>, PipelineError> {
    let kernel = &inventory.kernel;
    match &kernel.image {
        Some(image) => Ok(unpack(root.read(image, MAX_KERNEL)?, MAX_KERNEL).map_err(BuildError::from)?),
        None => Err(PipelineError::Missing {
            what: format!("the boot image of kernel {}", kernel.release),
            advice: format!(
                "install the kernel's package whole (/boot/vmlinuz-{} or {}/vmlinuz), or choose another with --kernel",
                kernel.release, kernel.modules
            ),
        }),
    }
}

pub(super) fn stub(root: &Sysroot, given: Option<&Path>, kernel: &[u8]) -> Result<Stub, PipelineError> {
    let bytes = match given {
        Some(path) => read_input("the stub", path, MAX_STUB)?,
        None => {
            let arch = build::efi_architecture(kernel)?;
            let path = TreePath::new(format!("usr/lib/systemd/boot/efi/linux{arch}.efi.stub"))?;
            match root.read(&path, MAX_STUB) {
                Ok(bytes) => bytes,
                Err(error) if error.is_not_found() => {
                    let advice = format!("{PACKAGES} in the root, or name one with --stub");
                    return Err(PipelineError::Missing { what: format!("the systemd stub {path}"), advice });
                }
                Err(error) => return Err(error.into()),
            }
        }
    };
    Ok(Stub::parse(&bytes).map_err(BuildError::from)?)
}

pub(super) fn init(packed: &Packed<'_>, given: Option<&str>, kairos: bool) -> Result<String, PipelineError> {
    let init = given.unwrap_or(if kairos { IMMUCORE } else { SYSTEMD });
    let found = packed.has(&TreePath::new(init)?);
    match (found, given) {
        (true, _) => Ok(format!("/{}", init.trim_start_matches('/'))),
        (false, Some(_)) => Err(PipelineError::Missing {
            what: format!("{init} (--init)"),
            advice: "name a program that is in the root".to_owned(),
        }),
        (false, None) => Err(PipelineError::Missing {
            what: format!("an init: neither {IMMUCORE} nor {SYSTEMD}"),
            advice: "install systemd in the root, or name a program with --init".to_owned(),
        }),
    }
}

/// What will be packed, as the system that boots it sees it: the root, with what is laid over it.
pub(super) struct Packed<'a> {
    pub(super) root: &'a Sysroot,
    pub(super) tree: &'a FileTree,
}

impl Packed<'_> {
    /// Whether there is something at `path`, links followed.
    pub(super) fn has(&self, path: &TreePath) -> bool {
        self.resolve(path).is_some()
    }

    /// The first of these files that is there; nothing where there is none.
    fn read_first(&self, paths: [&str; 2], limit: u64) -> Result<Option<Vec<u8>>, PipelineError> {
        for path in paths {
            let Some(entry) = self.resolve(&TreePath::new(path)?).and_then(|path| self.tree.get(&path)) else {
                continue;
            };
            return Ok(Some(match &entry.kind {
                Kind::File(Content::Root { path, .. }) => self.root.read(path, limit)?,
                Kind::File(Content::Layer { layer, path, .. }) => layer.0.read(path, limit)?,
                Kind::File(Content::Bytes(bytes)) => bytes.clone(),
                _ => continue,
            }));
        }
        Ok(None)
    }

    /// Where `path` leads to; nothing where it leads nowhere, or in a circle.
    fn resolve(&self, path: &TreePath) -> Option<TreePath> {
        let parts = |path: &[u8]| path.split(|&b| b == b'/').rev().map(<[u8]>::to_vec).collect::<Vec<_>>();
        let (mut at, mut pending, mut links) = (TreePath::root(), parts(path.as_bytes()), 0);
        while let Some(part) = pending.pop() {
            match part.as_slice() {
                b"" | b"." => continue,
                b".." => at = at.parent().unwrap_or_default(),
                name => {
                    let next = at.join(name).ok()?;
                    match &self.tree.get(&next)?.kind {
                        Kind::Symlink(target) => {
                            links += 1;
                            if links > MAX_LINKS {
                                return None;
                            }
                            if target.starts_with(b"/") {
                                at = TreePath::root();
                            }
                            pending.extend(parts(target));
                        }
                        _ => at = next,
                    }
                }
            }
        }
        Some(at)
    }
}

/// os-release, for `.osrel`; a warning where there is none.
pub(super) fn os_release(packed: &Packed<'_>, report: &mut Report) -> Result<Vec<u8>, PipelineError> {
    Ok(packed.read_first(["etc/os-release", "usr/lib/os-release"], MAX_OS_RELEASE)?.unwrap_or_else(|| {
        report
            .warnings
            .push("the root has no /etc/os-release: the boot menu will not know the system's name".to_owned());
        Vec::new()
    }))
}

/// The boot manager: the one that is named, else the root's, if it has one.
///
/// # Errors
/// One that is named and cannot be read; what is no boot manager; none where it is needed.
pub(super) fn loader(
    root: &Sysroot,
    given: Option<&Path>,
    is_needed: bool,
    kernel: &[u8],
) -> Result<Option<(Loader, Vec<u8>)>, PipelineError> {
    let (bytes, what) = match given {
        Some(path) => (read_input("the boot manager", path, MAX_LOADER)?, path.display().to_string()),
        None => {
            let arch = build::efi_architecture(kernel)?;
            let path = TreePath::new(format!("usr/lib/systemd/boot/efi/systemd-boot{arch}.efi"))?;
            match root.read(&path, MAX_LOADER) {
                Ok(bytes) => (bytes, path.to_string()),
                Err(error) if error.is_not_found() && is_needed => {
                    let advice = format!("{PACKAGES} in the root, or name one with --loader");
                    return Err(PipelineError::Missing { what: format!("the boot manager {path}"), advice });
                }
                Err(error) if error.is_not_found() => return Ok(None),
                Err(error) => return Err(error.into()),
            }
        }
    };
    let loader = Loader::read(&mut std::io::Cursor::new(&bytes), &what)?;
    Ok(Some((loader, bytes)))
}

/// The assignments of Kairos' release file, or of os-release: `KEY="VALUE"` at the beginning of a line, with double quotes, as AuroraBoot
/// reads them.
pub(super) fn release(packed: &Packed<'_>) -> Result<BTreeMap<String, String>, PipelineError> {
    let bytes = packed.read_first(["etc/kairos-release", "etc/os-release"], MAX_OS_RELEASE)?.unwrap_or_default();
    let pair = |line: &str| {
        let (key, value) = line.split_once('=')?;
        let value = value.trim_end().strip_prefix('"')?.strip_suffix('"')?;
        key.starts_with("KAIROS_").then(|| (key.to_owned(), value.to_owned()))
    };
    Ok(String::from_utf8_lossy(&bytes).lines().filter_map(pair).collect())
}
