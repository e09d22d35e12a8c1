//! A machine from its sysfs: the `modalias` files below `/sys/devices`. Needs no rights, changes nothing.

use crate::drivers::target::{Architecture, Capture};
use crate::names::TreePath;
use crate::root::sysroot::{EntryType, Sysroot, SysrootError};

/// Bytes that a `modalias` file may have: a page.
const LIMIT: u64 = 4096;
/// Directories that are looked into. A server has 30,000.
const MOST: usize = 1_000_000;
/// Where devices are.
const DEVICES: &str = "devices";

/// The devices in a sysfs tree: `/sys` itself, or a copy of one.
///
/// # Errors
/// There is no `devices` directory, or it cannot be read; below it, what cannot be read is passed over: devices come and go.
pub fn capture(sys: &Sysroot) -> Result<Capture, SysrootError> {
    let mut out = Capture::default();
    let top = TreePath::new(DEVICES)?;
    sys.directory(&top)?;
    let mut pending = vec![top];
    let mut seen = 0_usize;
    while let Some(path) = pending.pop() {
        seen += 1;
        if seen > MOST {
            break;
        }
        let Ok(entries) = sys.directory(&path).and_then(|directory| directory.entries()) else { continue };
        for entry in entries {
            match entry.kind {
                EntryType::Directory => pending.push(path.join(&entry.name)?),
                EntryType::File if entry.name == b"modalias" => {
                    if let Ok(text) = sys.read_text(&path.join(&entry.name)?, LIMIT) {
                        out.add(&text);
                    }
                }
                _ => {}
            }
        }
    }
    out.architecture = out.devices.iter().find_map(|device| match device.strip_prefix("cpu:type:")? {
        cpu if cpu.starts_with("x86") => Some(Architecture::X86_64),
        cpu if cpu.starts_with("aarch64") => Some(Architecture::Aarch64),
        _ => None,
    });
    Ok(out)
}
