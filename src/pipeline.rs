//! The whole run: a request in, an output folder out. The only file that knows every room.

mod cache;
mod error;
pub mod hardware;
mod keys;
mod plan;
mod request;
mod shipped;
mod slim;
mod upgrade;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

pub use error::PipelineError;
pub use keys::{ExternalSigner, KeyFiles, Keys, PcrKey, load_keys};
pub use plan::{Plan, plan};
pub use request::{BuildRequest, Hardware, PolicyRequest, SelectRequest, SlimRequest};
pub use slim::{SlimOutcome, slim};
pub use upgrade::{LostDriver, lost_drivers};

use crate::boot::build::{self, BuildError, Profile, UkiRequest};
use crate::boot::measure::Predictions;
use crate::boot::section::SectionName;
use crate::boot::uki::assemble::Payload;
use crate::boot::uki::kernel::unpack;
use crate::boot::uki::profile::{self, ProfileSpec};
use crate::boot::uki::stub::{MAX_STUB, Stub};
use crate::cancel::Cancel;
use crate::drivers::check::Finding;
use crate::drivers::inventory::{self, Inventory};
use crate::drivers::select::Selection;
use crate::drivers::{depmod, slim as slimming};
use crate::image::{self, ImageError, Staging};
use crate::names::{ModuleName, TreePath};
use crate::root::initrd::{self, InitrdStats};
use crate::root::scan::{self, ScanOptions};
use crate::root::sysroot::Sysroot;
use crate::root::tree::{Entry, FileTree, Kind};
use crate::size::{self, Report};

/// A kernel image larger than this is none.
const MAX_KERNEL: u64 = 256 << 20;
/// An `os-release` larger than this is none.
const MAX_OS_RELEASE: u64 = 64 << 10;
/// First systemd whose stub hands a `.ucode` section to the kernel; older ones would neither load nor measure it.
const STUB_WITH_UCODE: u32 = 256;
/// Directories that immucore mounts on and that must be there, since it remounts `/` read-only (kairos.md, section 1.1).
const KAIROS_DIRECTORIES: [&str; 3] = ["oem", "efi", "usr/local/cloud-config"];
/// Kairos' command line, as AuroraBoot writes it: its words are looked for as a literal prefix.
const KAIROS_CMDLINE: &str = "console=ttyS0 console=tty1 net.ifnames=1 rd.immucore.oemlabel=COS_OEM rd.immucore.oemtimeout=2 \
     rd.immucore.uki selinux=0 panic=5 rd.shell=0 systemd.crash_reboot=yes install-mode";
/// The command line where there is no immucore: the kernel speaks on the serial line and on the screen.
const PLAIN_CMDLINE: &str = "console=ttyS0 console=tty1";
/// Kairos' init in a UKI.
const IMMUCORE: &str = "/usr/bin/immucore";
/// The init of a root without immucore.
const SYSTEMD: &str = "/usr/lib/systemd/systemd";

/// Told what the run is doing.
pub trait Progress {
    /// The next step begins.
    fn step(&self, text: &str);
    /// So many of so many bytes of the step are done.
    fn bytes(&self, done: u64, total: u64);
}

/// What a run made.
#[derive(Debug)]
pub struct Outcome {
    /// Sizes and reasons.
    pub report: Report,
    /// Predicted PCR 11.
    pub predictions: Predictions,
    /// The files in the output folder.
    pub files: Vec<PathBuf>,
}

fn read_input(what: &'static str, path: &Path, limit: u64) -> Result<Vec<u8>, PipelineError> {
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

/// Refuses a kernel that would not start from the UKI.
fn refuse_unbootable(inventory: &Inventory, findings: &[Finding]) -> Result<(), PipelineError> {
    let problems: Vec<String> =
        findings.iter().filter(|finding| finding.keeps_from_booting()).map(Finding::to_string).collect();
    match problems.is_empty() {
        true => Ok(()),
        false => {
            Err(PipelineError::Kernel { release: inventory.kernel.release.clone(), problems: problems.join("; ") })
        }
    }
}

/// The indexes of what stays; none where no module goes: the root's own are right.
fn indexes(
    root: &Sysroot,
    inventory: &Inventory,
    selection: &Selection,
) -> Result<BTreeMap<String, Vec<u8>>, PipelineError> {
    let kept: BTreeSet<ModuleName> =
        selection.modules.iter().filter(|(_, item)| item.kept).map(|(name, _)| name.clone()).collect();
    Ok(match kept.len() == inventory.modules.by_name.len() {
        true => BTreeMap::new(),
        false => depmod::indexes(root, inventory, &kept)?,
    })
}

/// The whole run: root to signed UKI.
///
/// # Errors
/// Anything that keeps the image from being whole; the output folder is then as it was.
pub fn run(request: &BuildRequest, progress: &dyn Progress, cancel: &Cancel) -> Result<Outcome, PipelineError> {
    let keys = load_keys(&request.keys)?;
    // A mistake in the options is told before any work.
    keys.policies(&request.policies)?;
    let Plan { root, inventory, mut selection, mut report, findings, .. } = plan(&request.select, progress)?;
    refuse_unbootable(&inventory, &findings)?;
    report.warnings.extend(keys.warnings.iter().cloned());
    cancel.check()?;

    let kernel = kernel_image(&root, &inventory)?;
    let stub = stub(&root, request.stub.as_deref(), &kernel)?;
    let kairos = root.kind(&TreePath::new(IMMUCORE)?)?.is_some();
    let init = init(&root, request.init.as_deref(), kairos)?;
    let cmdline = cmdline(request, kairos);

    progress.step("listing files");
    let mut staging = Staging::new(&request.output)?;
    let options =
        ScanOptions { exclude: BTreeSet::from([staging.identity()?]), clamp_mtime: request.source_date_epoch };
    let scanned = scan::scan(&root, &options, cancel)?;
    report.warnings.extend(scanned.notes.warnings());
    let mut tree = scanned.tree;

    let ucode = match stub.version() {
        Some(version) if version < STUB_WITH_UCODE => {
            report.warnings.push(format!("the stub (systemd {version}) does not load microcode from a UKI: it stays in the root, where only a late load finds it; use a stub of systemd {STUB_WITH_UCODE} or later"));
            selection.keep_microcode(&format!("systemd-stub {version}"), "the stub's version");
            let plan = Report::plan(&inventory.kernel.release, &report.target, &selection);
            report = Report { warnings: report.warnings, ..plan };
            false
        }
        _ => inventory::has_microcode(&root)?,
    };
    let indexes = indexes(&root, &inventory, &selection)?;
    slimming::apply(&mut tree, &inventory, &selection, indexes);
    prepare(&mut tree, &init, request.source_date_epoch)?;
    keys::refuse_keys(&root, &tree, &request.keys)?;
    let rootfs = rootfs(&tree);
    let uname = inventory.kernel.release.as_str().as_bytes().to_vec();
    drop((inventory, selection));

    progress.step("compressing, measuring and signing");
    let os_release = os_release(&root, &mut report)?;
    let mut initrd_stats: Option<InitrdStats> = None;
    let initrd = Payload::Producer(Box::new(|out| {
        let progress = |done| progress.bytes(done, rootfs.bytes);
        initrd_stats = Some(initrd::build(&tree, &root, &request.compression, out, cancel, &progress)?);
        Ok(())
    }));
    let mut file = staging.create(image::UKI)?;
    let built = build::build(
        UkiRequest {
            os_release,
            profiles: profiles(&request.profiles, &cmdline)?,
            cmdline: cmdline.into_bytes(),
            uname,
            initrd: Some(initrd),
            // Read when it is written: it need not lie in memory beside the compressor's window.
            ucode: ucode.then(|| Payload::Producer(Box::new(|out| write_microcode(&root, out)))),
            policies: keys.policies(&request.policies)?,
            signings: keys.signings(request.hash),
            jobs: request.jobs,
            ..UkiRequest::new(&stub, kernel)
        },
        &mut file,
    )
    .map_err(|error| unwrap_cancelled(error, cancel))?;
    drop(file);

    report.rootfs = Some(rootfs);
    report.initrd = initrd_stats.map(|stats| size::Initrd {
        bytes: stats.bytes,
        uncompressed_bytes: stats.uncompressed_bytes,
        level: request.compression.level,
        digests: built.initrd_digests.iter().map(|(bank, digest)| (bank.to_string(), hex::encode(digest))).collect(),
    });
    report.uki = Some(size::Uki {
        bytes: built.bytes,
        sections: built
            .sections
            .iter()
            .map(|(name, bytes)| size::Section { name: name.to_string(), bytes: *bytes })
            .collect(),
    });
    staging.write(image::REPORT, json(&report)?.as_bytes())?;
    staging.write(image::PCRS, json(&serde_json::json!({ "11": built.predictions }))?.as_bytes())?;
    cancel.check()?;
    let files = staging.commit()?;
    Ok(Outcome { report, predictions: built.predictions, files })
}

/// Ctrl-C arrives as the error of whatever was being written: it is reported as what it is.
fn unwrap_cancelled(error: BuildError, cancel: &Cancel) -> PipelineError {
    match cancel.check() {
        Err(cancelled) => cancelled.into(),
        Ok(()) => error.into(),
    }
}

fn json(value: &impl serde::Serialize) -> Result<String, PipelineError> {
    let text = serde_json::to_string_pretty(value).map_err(|error| ImageError::Io {
        action: "write",
        path: PathBuf::from(image::REPORT),
        source: error.into(),
    })?;
    Ok(text + "\n")
}

fn write_microcode(
    root: &Sysroot,
    out: &mut dyn std::io::Write,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let microcode = inventory::microcode(root)?;
    let archive = initrd::early_microcode(microcode.intel, microcode.amd)?;
    Ok(out.write_all(&archive.unwrap_or_default())?)
}

fn kernel_image(root: &Sysroot, inventory: &Inventory) -> Result<Vec<u8>, PipelineError> {
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

fn stub(root: &Sysroot, given: Option<&Path>, kernel: &[u8]) -> Result<Stub, PipelineError> {
    let bytes = match given {
        Some(path) => read_input("the stub", path, MAX_STUB)?,
        None => {
            let arch = build::efi_architecture(kernel)?;
            let path = TreePath::new(format!("usr/lib/systemd/boot/efi/linux{arch}.efi.stub"))?;
            match root.read(&path, MAX_STUB) {
                Ok(bytes) => bytes,
                Err(error) if error.is_not_found() => {
                    let advice = "install systemd-boot-efi (Debian, Ubuntu) or systemd-boot-unsigned (Fedora) in the root, or name one with --stub".to_owned();
                    return Err(PipelineError::Missing { what: format!("the systemd stub {path}"), advice });
                }
                Err(error) => return Err(error.into()),
            }
        }
    };
    Ok(Stub::parse(&bytes).map_err(BuildError::from)?)
}

fn init(root: &Sysroot, given: Option<&str>, kairos: bool) -> Result<String, PipelineError> {
    let init = given.unwrap_or(if kairos { IMMUCORE } else { SYSTEMD });
    let found = root.canonical(&TreePath::new(init)?).is_ok();
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

/// What the common sections are for first, then one for each entry; nothing where there are no further ones.
///
/// # Errors
/// As [`profile::entries`].
pub fn profiles(specs: &[ProfileSpec], cmdline: &str) -> Result<Vec<Profile<'static>>, PipelineError> {
    if specs.is_empty() {
        return Ok(Vec::new());
    }
    let main = Profile { text: profile::main_text().into_bytes(), sections: Vec::new() };
    let entries = profile::entries(specs, cmdline).map_err(BuildError::from)?;
    let further = entries.into_iter().map(|(text, cmdline)| Profile {
        text: text.into_bytes(),
        sections: vec![(SectionName::Cmdline, Payload::Bytes(cmdline.into_bytes()))],
    });
    Ok(std::iter::once(main).chain(further).collect())
}

fn cmdline(request: &BuildRequest, kairos: bool) -> String {
    let default = if kairos { KAIROS_CMDLINE } else { PLAIN_CMDLINE };
    let text = [request.cmdline.as_deref().unwrap_or(default), request.extend_cmdline.as_deref().unwrap_or_default()]
        .join(" ");
    build::collapse_white_space(&text)
}

fn os_release(root: &Sysroot, report: &mut Report) -> Result<Vec<u8>, PipelineError> {
    for path in ["etc/os-release", "usr/lib/os-release"] {
        match root.read(&TreePath::new(path)?, MAX_OS_RELEASE) {
            Ok(bytes) => return Ok(bytes),
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error.into()),
        }
    }
    report.warnings.push("the root has no /etc/os-release: the boot menu will not know the system's name".to_owned());
    Ok(Vec::new())
}

/// What a Kairos UKI's root must have, whatever the distribution.
fn prepare(tree: &mut FileTree, init: &str, source_date_epoch: Option<i64>) -> Result<(), PipelineError> {
    // What this run adds carries the root directory's time: no clock, and the same for the same root.
    let mtime = source_date_epoch.unwrap_or_else(|| tree.get(&TreePath::root()).map_or(0, |root| root.mtime));
    for directory in KAIROS_DIRECTORIES {
        let mut path = TreePath::root();
        for component in directory.split('/') {
            path = path.join(component)?;
            // A link (`/oem -> ...`) that the root made on purpose stays.
            if tree.get(&path).is_none() {
                tree.insert(path.clone(), Entry::directory(mtime));
            }
        }
    }
    tree.insert(TreePath::new("init")?, Entry::symlink(init.as_bytes(), mtime));
    Ok(())
}

fn rootfs(tree: &FileTree) -> size::Rootfs {
    let bytes = tree.iter().map(|(_, entry)| match &entry.kind {
        Kind::File(content) => content.length(),
        _ => 0,
    });
    size::Rootfs { files: tree.len() as u64, bytes: bytes.sum() }
}
