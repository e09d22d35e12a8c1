//! The whole run: a request in, an output folder out. The only file that knows every room.

mod cache;
mod contents;
mod error;
pub mod hardware;
mod inputs;
mod keys;
mod plan;
mod request;
mod ship;
mod shipped;
mod slim;
mod ukis;
mod upgrade;

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use error::PipelineError;
use inputs::{IMMUCORE, Packed, init, kernel_image, os_release, read_input, stub};
pub use keys::{ExternalSigner, KeyFiles, Keys, PcrKey, load_keys};
pub use plan::{Plan, plan};
pub use request::{
    Artifact, BootEntry, BuildRequest, Destination, DiskShape, Hardware, IsoContents, PolicyRequest, SelectRequest,
    ShipRequest, SlimRequest,
};
pub use ship::{beside_boot_image, disk_parts, esp_warning};
pub use slim::{SlimOutcome, slim};
pub use upgrade::{LostDriver, lost_drivers};

use crate::boot::build::{self, BuiltUki};
use crate::boot::measure::Predictions;
use crate::boot::uki::assemble::Payload;
use crate::cancel::Cancel;
use crate::drivers::check::Finding;
use crate::drivers::inventory::{self, Inventory};
use crate::drivers::select::Selection;
use crate::drivers::{depmod, slim as slimming};
use crate::image::esp::{BASE_CMDLINE, INSTALL_MODE, Menu, PlannedUki};
use crate::image::{self, ImageError, Staging, sbom};
use crate::names::{ModuleName, TreePath};
use crate::root::initrd::{self, InitrdStats};
use crate::root::scan::{self, ScanOptions};
use crate::root::sysroot::{Sysroot, SysrootError};
use crate::root::tree::{Entry, FileTree, Kind};
use crate::size::{self, Report};

/// First systemd whose stub hands a `.ucode` section to the kernel; older ones would neither load nor measure it.
const STUB_WITH_UCODE: u32 = 256;
/// Directories that immucore mounts on and that must be there, since it remounts `/` read-only (kairos.md, section 1.1).
const KAIROS_DIRECTORIES: [&str; 3] = ["oem", "efi", "usr/local/cloud-config"];
/// The command line where there is no immucore: the kernel speaks on the serial line and on the screen.
const PLAIN_CMDLINE: &str = "console=ttyS0 console=tty1";

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

/// The whole run: root to signed UKIs, and to images of them.
///
/// # Errors
/// Anything that keeps the image from being whole; the output folder is then as it was.
pub fn run(request: &BuildRequest, progress: &dyn Progress, cancel: &Cancel) -> Result<Outcome, PipelineError> {
    let keys = load_keys(&request.keys)?;
    // A mistake in the options is told before any work.
    keys.policies(&request.policies)?;
    let given = ship::Given::read(request)?;
    let splash = ukis::splash(request.splash.as_deref())?;
    let Plan { root, inventory, mut selection, mut report, findings, .. } = plan(&request.select, progress)?;
    refuse_unbootable(&inventory, &findings)?;
    report.warnings.extend(keys.warnings.iter().cloned());
    cancel.check()?;

    let kernel = kernel_image(&root, &inventory)?;
    let stub = stub(&root, request.stub.as_deref(), &kernel)?;
    let loader = inputs::loader(&root, request.ship.loader.as_deref(), request.ship.must_boot(), &kernel)?;
    let version = loader.as_ref().map(|(loader, _)| loader.version.clone()).unwrap_or_default();
    let layout = request.ship.layout.decide(&version)?;

    progress.step("listing files");
    // Before the output folder is made: where that is in the root, the folder that it is in would have another time in each run.
    let options = ScanOptions { exclude: left_out(request), clamp_mtime: request.source_date_epoch };
    let scanned = scan::scan(&root, &options, cancel)?;
    report.warnings.extend(scanned.notes.warnings());
    let mut tree = scanned.tree;

    let has_ucode = match stub.version() {
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
    let mut notes = Vec::new();
    for folder in &request.overlays {
        notes.extend(overlay(&mut tree, folder, options.clone(), cancel, &mut report)?);
    }
    let packed = Packed { root: &root, tree: &tree };
    let is_kairos = packed.has(&TreePath::new(IMMUCORE)?);
    let init = init(&packed, request.init.as_deref(), is_kairos)?;
    let (os_release, release) = (os_release(&packed, &mut report)?, inputs::release(&packed)?);
    let menu = Menu {
        branding: request.ship.branding.clone(),
        cmdline: cmdline(request, is_kairos),
        extra: ukis::extras(&request.entries),
        single: request.ship.single.clone(),
        layout,
    };
    let (planned, menu_warnings) = menu.plan()?;
    prepare(&mut tree, &init, request.source_date_epoch)?;
    keys::refuse_keys(&root, &tree, &request.keys)?;
    let rootfs = rootfs(&tree);
    let common = ukis::Common {
        request,
        keys: &keys,
        root: &root,
        stub: &stub,
        kernel,
        os_release,
        uname: inventory.kernel.release.as_str().as_bytes().to_vec(),
        has_ucode,
        splash,
        cancel,
    };
    let loader = ship::signed_loader(loader, &keys, request, cancel)?;
    let shipping = ship::Shipping { request, keys: &keys, release, loader, given, cancel };
    shipping.rehearse(&planned, common.stand_in(&planned)?, rootfs.bytes)?;
    let mut staging = staging(request)?;

    progress.step("listing packages");
    let parts = contents::Contents {
        root: &root,
        tree: &tree,
        inventory: &inventory,
        selection: &selection,
        os_release: &common.os_release,
        release: &shipping.release,
    };
    let sbom = parts.sbom(request, &mut report, cancel)?;
    drop((inventory, selection));

    progress.step("compressing, measuring and signing");
    let mut initrd_stats: Option<InitrdStats> = None;
    let initrd = Payload::Producer(Box::new(|out| {
        let progress = |done| progress.bytes(done, rootfs.bytes);
        initrd_stats = Some(initrd::build(&tree, &root, &request.compression, out, cancel, &progress)?);
        Ok(())
    }));
    let built = common.build(&planned, initrd, &mut staging)?;
    let first = built.first().cloned().unwrap_or_default();

    report.rootfs = Some(rootfs);
    let unpacked = initrd_stats.as_ref().map_or(0, |stats| stats.uncompressed_bytes);
    report.initrd = initrd_stats.map(|stats| size::Initrd {
        bytes: stats.bytes,
        uncompressed_bytes: stats.uncompressed_bytes,
        level: request.compression.level,
        digests: first.initrd_digests.iter().map(|(bank, digest)| (bank.to_string(), hex::encode(digest))).collect(),
    });
    report.uki = Some(size::Uki {
        bytes: first.bytes,
        sections: first
            .sections
            .iter()
            .map(|(name, bytes)| size::Section { name: name.to_string(), bytes: *bytes })
            .collect(),
    });
    let pcrs = pcrs(&planned, &built);
    report.warnings.splice(0..0, menu_warnings);
    let shipped = shipping.ship(planned, unpacked, &mut staging, progress)?;
    // First: what is said of drivers is long, and only the first lines are shown.
    report.warnings.splice(0..0, shipped.warnings);
    report.budget = Some(shipped.budget);
    staging.write(sbom::SBOM, sbom.as_bytes())?;
    staging.write(image::REPORT, json(&report)?.as_bytes())?;
    staging.write(image::PCRS, json(&pcrs)?.as_bytes())?;
    cancel.check()?;
    let files = staging.commit()?;
    report.warnings.splice(0..0, notes.into_iter().chain(shipped.notes));
    Ok(Outcome { report, predictions: first.predictions, files })
}

/// Device and inode of what lies in the root and is not of it: what earlier runs wrote, and what they remember.
fn left_out(request: &BuildRequest) -> BTreeSet<(u64, u64)> {
    let outputs = [request.output.as_path(), request.destination.folder(&request.output)];
    outputs.into_iter().chain(request.select.cache.as_deref()).filter_map(image::identity).collect()
}

/// The output folder. Where it is made in the root, the folder that it is in keeps its time: the root is not changed, and what the
/// next run packs is the same.
fn staging(request: &BuildRequest) -> Result<Staging, PipelineError> {
    let parent = image::nearest(&request.output);
    let is_kept = parent != request.output && image::is_inside(parent, &request.select.root)?;
    let before = std::fs::metadata(parent).and_then(|folder| folder.modified());
    let staging = Staging::new(&request.output)?;
    if let (true, Ok(modified)) = (is_kept, before) {
        // Who may write there and is not its owner cannot; the image is right all the same.
        let times = std::fs::FileTimes::new().set_modified(modified);
        let _kept = std::fs::File::open(parent).and_then(|folder| folder.set_times(times));
    }
    Ok(staging)
}

/// PCR 11 of the default UKI, and of each other by its name.
fn pcrs(planned: &[PlannedUki], built: &[BuiltUki]) -> serde_json::Value {
    let all = || planned.iter().zip(built);
    let mut out = serde_json::Map::new();
    if let Some((_, first)) = all().next() {
        out.insert("11".to_owned(), serde_json::json!(first.predictions));
    }
    let others: serde_json::Map<_, _> = all()
        .skip(1)
        .map(|(uki, built)| (format!("{}.efi", uki.name), serde_json::json!({ "11": built.predictions })))
        .collect();
    if !others.is_empty() {
        out.insert("ukis".to_owned(), others.into());
    }
    out.into()
}

/// Lays a folder over the tree. What is to be said of the folder itself comes back.
fn overlay(
    tree: &mut FileTree,
    folder: &Path,
    mut options: ScanOptions,
    cancel: &Cancel,
    report: &mut Report,
) -> Result<Option<String>, PipelineError> {
    let lost = folder.join(image::LOST_AND_FOUND);
    let lost = std::fs::symlink_metadata(&lost).ok().filter(std::fs::Metadata::is_dir).map(|metadata| {
        options.exclude.insert((metadata.dev(), metadata.ino()));
        image::not_packed(&lost)
    });
    let layer = Sysroot::open(folder).map_err(|error| match error {
        // It need not be a root file system.
        SysrootError::Root { path, source } => PipelineError::Input { what: "the folder", path, source },
        other => other.into(),
    })?;
    let layer = Arc::new(layer);
    let scanned = scan::scan(&layer, &options, cancel)?;
    report.warnings.extend(scanned.notes.warnings());
    match tree.lay_over(&layer, scanned.tree) {
        None => Ok(lost),
        Some(path) => Err(PipelineError::Overlay { folder: folder.to_owned(), path }),
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

fn cmdline(request: &BuildRequest, is_kairos: bool) -> String {
    let kairos = [BASE_CMDLINE, INSTALL_MODE].join(" ");
    let default = if is_kairos { &kairos } else { PLAIN_CMDLINE };
    let text = [request.cmdline.as_deref().unwrap_or(default), request.extend_cmdline.as_deref().unwrap_or_default()]
        .join(" ");
    build::collapse_white_space(&text)
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
