//! The `hardware` commands: captured machines and the population beside a plan, targets beside each other.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde::Serialize;

use super::plan::{Prepared, start};
use super::shipped::Shipped;
use super::{PipelineError, Plan, Progress, SelectRequest, plan};
use crate::drivers::hardware::class::Class;
use crate::drivers::hardware::coverage::{self, Coverage};
use crate::drivers::hardware::replay::{Replay, Slimmed, Verdict, lost};
use crate::drivers::inventory::Declarations;
use crate::drivers::select::{self, SelectOptions, Selection};
use crate::drivers::target::{self, Capture, CaptureError, Target};
use crate::drivers::wishes::Wishes;
use crate::names::{KernelRelease, ModuleName};

/// Bytes that a capture or dump may have. `lspci -vvnn` of a large server has 1 MB.
const CAPTURE_LIMIT: u64 = 8 << 20;
/// Endings of the files of a folder that are read.
const ENDINGS: [&str; 3] = ["capture", "lspci", "lsusb"];
/// Depth of folders that are read.
const DEEPEST: usize = 16;

/// A machine that was captured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    /// The file without its ending, and without the folder that was named.
    pub name: String,
    /// Its devices.
    pub capture: Capture,
}

/// A machine and what becomes of it.
#[derive(Debug, Clone, Serialize)]
pub struct Checked {
    /// The machine.
    pub machine: String,
    /// Whether it would not boot, unlock or be reached.
    pub is_lost: bool,
    /// What it loses.
    #[serde(flatten)]
    pub verdict: Verdict,
}

/// What becomes of captured machines.
#[derive(Debug, Clone, Serialize)]
pub struct CheckReport {
    /// Version of this form.
    pub schema: u32,
    /// The kernel.
    pub kernel: KernelRelease,
    /// The targets, or the UKI.
    pub target: Vec<String>,
    /// Machines that would not boot, unlock or be reached.
    pub lost: usize,
    /// Each machine.
    pub machines: Vec<Checked>,
}

/// Reads captures and dumps: files, and all files of folders that end in `.capture`, `.lspci` or `.lsusb`. Files with the same name
/// but for these endings are one machine.
///
/// # Errors
/// A path that cannot be read, a file that is no capture, a folder without one.
pub fn captures(paths: &[PathBuf]) -> Result<Vec<Machine>, PipelineError> {
    let mut files = BTreeMap::new();
    for path in paths {
        if !path.is_dir() {
            files.insert(path.clone(), path.file_name().map_or_else(|| path.clone(), PathBuf::from));
            continue;
        }
        let mut found = BTreeMap::new();
        collect(path, path, 0, &mut found)?;
        if found.is_empty() {
            return Err(PipelineError::NoCaptures { path: path.clone() });
        }
        files.extend(found);
    }
    let files: Vec<_> = files.into_iter().collect();
    let read = |(path, name): &(PathBuf, PathBuf)| {
        let bytes = super::read_input("capture", path, CAPTURE_LIMIT)?;
        // Names of devices in a dump may be in any encoding; ids are ASCII.
        let text = String::from_utf8_lossy(&bytes);
        let file = path.display().to_string();
        let capture = Capture::parse(&text, &file).map_err(target::TargetError::from)?;
        Ok::<_, PipelineError>((without_ending(path), without_ending(name).display().to_string(), capture))
    };
    let read: Vec<_> = files.par_iter().map(read).collect();
    // By the whole path: two machines of the same name in two folders are two.
    let mut machines: BTreeMap<PathBuf, Machine> = BTreeMap::new();
    for one in read {
        let (path, name, capture) = one?;
        let machine = machines.entry(path).or_insert_with(|| Machine { name, capture: Capture::default() });
        machine.capture.unite(capture);
    }
    Ok(machines.into_values().collect())
}

/// A path without the ending of a capture. (`box.example` is all name.)
fn without_ending(path: &Path) -> PathBuf {
    let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
    if ENDINGS.contains(&ending) { path.with_extension("") } else { path.to_owned() }
}

fn collect(
    top: &Path,
    folder: &Path,
    depth: usize,
    files: &mut BTreeMap<PathBuf, PathBuf>,
) -> Result<(), PipelineError> {
    let failed = |source| PipelineError::Input { what: "folder of captures", path: folder.to_owned(), source };
    for entry in fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let (path, kind) = (entry.path(), entry.file_type().map_err(failed)?);
        let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
        if kind.is_dir() && depth < DEEPEST {
            collect(top, &path, depth + 1, files)?;
        } else if kind.is_file() && ENDINGS.contains(&ending) {
            let name = path.strip_prefix(top).unwrap_or(&path).to_owned();
            files.insert(path, name);
        }
    }
    Ok(())
}

/// Replays captured machines against the plan of a root, or against a UKI that was made of the root.
///
/// # Errors
/// A root, target, UKI or capture that cannot be used; a capture of another architecture than the kernel's.
pub fn check(
    request: &SelectRequest,
    uki: Option<&Path>,
    paths: &[PathBuf],
    progress: &dyn Progress,
) -> Result<CheckReport, PipelineError> {
    progress.step("reading captures");
    let machines = captures(paths)?;
    let plan = plan(request, progress)?;
    same_architecture(&plan, &machines)?;
    let shipped = uki.map(|path| Shipped::load(path, &plan.inventory)).transpose()?;
    let missing = shipped.as_ref().map(|shipped| shipped.missing_firmware(&plan)).transpose()?;
    let slimmed = match &shipped {
        Some(Shipped { aliases, modules, .. }) => Slimmed::Indexes { aliases, modules },
        None => Slimmed::Kept(kept(&plan.selection)),
    };
    progress.step("replaying machines");
    let replay = Replay::new(&plan.inventory, slimmed, missing.as_ref().unwrap_or(&plan.selection.missing_firmware));
    let one = |machine: &Machine| {
        let verdict = replay.check(&machine.capture);
        Checked { machine: machine.name.clone(), is_lost: verdict.is_lost(), verdict }
    };
    let machines: Vec<Checked> = machines.par_iter().map(one).collect();
    Ok(CheckReport {
        schema: 1,
        kernel: plan.inventory.kernel.release.clone(),
        target: uki.map_or_else(|| plan.report.target.clone(), |path| vec![path.display().to_string()]),
        lost: machines.iter().filter(|machine| machine.is_lost).count(),
        machines,
    })
}

fn kept(selection: &Selection) -> BTreeSet<&ModuleName> {
    selection.modules.iter().filter(|(_, item)| item.kept).map(|(name, _)| name).collect()
}

fn same_architecture(plan: &Plan, machines: &[Machine]) -> Result<(), PipelineError> {
    let Some(kernel) = plan.architecture else { return Ok(()) };
    let other = |machine: &&Machine| machine.capture.architecture.is_some_and(|own| own != kernel);
    match machines.iter().find(other) {
        None => Ok(()),
        Some(machine) => Err(PipelineError::OtherArchitecture {
            machine: machine.name.clone(),
            found: machine.capture.architecture.map_or_else(String::new, |own| own.to_string()),
            release: plan.inventory.kernel.release.clone(),
            kernel: kernel.to_string(),
        }),
    }
}

/// What of each class of devices is driven.
#[derive(Debug, Clone, Serialize)]
pub struct CoverageReport {
    /// Version of this form.
    pub schema: u32,
    /// The kernel.
    pub kernel: KernelRelease,
    /// The targets.
    pub target: Vec<String>,
    /// By class, as the population names it.
    pub classes: BTreeMap<&'static str, Coverage>,
}

/// Holds a selection against the devices that people have. What the modules declare beyond the indexes is about firmware, so they
/// are not read.
///
/// # Errors
/// As [`plan`].
pub fn coverage(request: &SelectRequest, progress: &dyn Progress) -> Result<CoverageReport, PipelineError> {
    let Prepared { root, inventory, target, options, names, .. } = start(request, progress)?;
    let wishes = Wishes::load(&root)?;
    let selection = select::select(&inventory, &Declarations::new(), &target, &wishes, &options)?;
    let classes = coverage::coverage(&inventory.modules, &kept(&selection));
    Ok(CoverageReport { schema: 1, kernel: inventory.kernel.release, target: names, classes })
}

/// A target and what it would keep of a root.
#[derive(Debug, Clone, Serialize)]
pub struct Sized {
    /// The name.
    pub name: String,
    /// One sentence.
    pub description: String,
    /// What it keeps; nothing where no root was given.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub kept: Option<Kept>,
}

/// What a target keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Kept {
    /// Modules.
    pub modules: usize,
    /// Bytes of them.
    pub module_bytes: u64,
    /// Firmware files.
    pub firmware: usize,
    /// Bytes of them.
    pub firmware_bytes: u64,
}

impl Kept {
    fn of(selection: &Selection) -> Self {
        let sum = |items: &mut dyn Iterator<Item = &select::Item>| {
            items
                .filter(|item| item.kept)
                .fold((0, 0_u64), |(n, bytes), item| (n + 1, bytes.saturating_add(item.bytes)))
        };
        let (modules, module_bytes) = sum(&mut selection.modules.values());
        let (firmware, firmware_bytes) = sum(&mut selection.firmware.values());
        Self { modules, module_bytes, firmware, firmware_bytes }
    }

    /// All bytes.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.module_bytes.saturating_add(self.firmware_bytes)
    }
}

/// A root's plan, on which targets can be tried one after the other.
struct Trial {
    plan: Plan,
    options: SelectOptions,
}

impl Trial {
    fn new(request: &SelectRequest, progress: &dyn Progress) -> Result<Self, PipelineError> {
        let request = SelectRequest { hardware: Vec::new(), ..request.clone() };
        let plan = plan(&request, progress)?;
        Ok(Self { options: plan.options.clone(), plan })
    }

    /// Whether a target is for this kernel.
    fn fits(&self, target: &Target) -> bool {
        target.architecture.zip(self.plan.architecture).is_none_or(|(wanted, found)| wanted == found)
    }

    fn select(&self, target: &Target) -> Result<Selection, PipelineError> {
        let Plan { inventory, declarations, wishes, .. } = &self.plan;
        Ok(select::select(inventory, declarations, target, wishes, &self.options)?)
    }
}

/// The built-in targets and features; with what they keep of a root where one is given.
///
/// # Errors
/// As [`plan`].
pub fn list(
    request: Option<&SelectRequest>,
    progress: &dyn Progress,
) -> Result<(Vec<Sized>, Vec<Sized>), PipelineError> {
    let trial = request.map(|request| Trial::new(request, progress)).transpose()?;
    let sized = |name: &str, description: String| {
        let target = target::resolve(&[target::Request::Name(name)])?;
        let kept = trial.as_ref().filter(|trial| trial.fits(&target)).map(|trial| trial.select(&target)).transpose()?;
        Ok::<_, PipelineError>(Sized { name: name.to_owned(), description, kept: kept.as_ref().map(Kept::of) })
    };
    let targets = target::targets()?.into_iter().map(|(name, text)| sized(name, text)).collect::<Result<_, _>>()?;
    let bare = |(name, description): (&str, String)| Sized { name: name.to_owned(), description, kept: None };
    Ok((targets, target::features()?.into_iter().map(bare).collect()))
}

/// The smallest built-in target for some machines.
#[derive(Debug, Clone, Serialize)]
pub struct Suggestion {
    /// Version of this form.
    pub schema: u32,
    /// The kernel.
    pub kernel: KernelRelease,
    /// For `--hardware`.
    pub hardware: String,
    /// What it keeps.
    #[serde(flatten)]
    pub kept: Kept,
    /// The same of everything.
    pub all: Kept,
}

/// Finds the smallest built-in target, with features, that loses nothing of what the whole kernel drives in these machines.
///
/// # Errors
/// As [`check`].
pub fn suggest(
    request: &SelectRequest,
    paths: &[PathBuf],
    progress: &dyn Progress,
) -> Result<Suggestion, PipelineError> {
    progress.step("reading captures");
    let machines = captures(paths)?;
    let trial = Trial::new(request, progress)?;
    let inventory = &trial.plan.inventory;
    same_architecture(&trial.plan, &machines)?;
    let none = BTreeMap::new();
    let replay = Replay::new(inventory, Slimmed::Kept(BTreeSet::new()), &none);
    let devices: BTreeSet<&String> = machines.iter().flat_map(|machine| &machine.capture.devices).collect();
    let wanted: BTreeSet<_> = devices.iter().map(|device| replay.drivers(device)).collect();
    progress.step("trying targets");
    let missing = |selection: &Selection| -> BTreeSet<&ModuleName> {
        let is_kept = |name: &ModuleName| selection.modules.get(name).is_some_and(|item| item.kept);
        wanted.iter().flat_map(|drivers| lost(drivers, &is_kept)).map(|(module, _)| module).collect()
    };
    let mut bases = Vec::new();
    for (name, _) in target::targets()? {
        let target = target::resolve(&[target::Request::Name(name)])?;
        if trial.fits(&target) {
            bases.push((name.to_owned(), trial.select(&target)?));
        }
    }
    // What loses nothing as it is comes first, so that what is larger than that is not tried with features.
    bases.sort_by_cached_key(|(_, selection)| (missing(selection).len(), Kept::of(selection).bytes()));
    // What a feature brings does not depend on the target: the smallest one shows it.
    let smallest = bases.iter().min_by_key(|(_, selection)| Kept::of(selection).bytes()).map(|(name, _)| name.clone());
    let mut features = Vec::new();
    for (feature, _) in target::features()? {
        let with = format!("{}+{feature}", smallest.as_deref().unwrap_or("all"));
        features.push((feature, trial.select(&target::resolve(&[target::Request::Name(&with)])?)?));
    }
    let mut best: Option<(String, Kept)> = None;
    for (mut hardware, mut selection) in bases {
        for _ in 0..=features.len() {
            let (missing, kept) = (missing(&selection), Kept::of(&selection));
            if best.as_ref().is_some_and(|(_, smallest)| kept.bytes() >= smallest.bytes()) {
                break;
            }
            if missing.is_empty() {
                best = Some((hardware.clone(), kept));
                break;
            }
            // Greedy: of the features the one that brings back most, and of these the smallest.
            let brings = |with: &Selection| {
                missing.iter().filter(|name| with.modules.get(**name).is_some_and(|item| item.kept)).count()
            };
            let choice =
                features.iter().map(|(name, with)| (brings(with), std::cmp::Reverse(Kept::of(with).bytes()), *name));
            let Some((_, _, feature)) = choice.filter(|(brings, ..)| *brings > 0).max() else { break };
            hardware = format!("{hardware}+{feature}");
            selection = trial.select(&target::resolve(&[target::Request::Name(&hardware)])?)?;
        }
    }
    let all = Kept::of(&trial.plan.selection);
    let (hardware, kept) = best.unwrap_or_else(|| ("all".to_owned(), all));
    Ok(Suggestion { schema: 1, kernel: inventory.kernel.release.clone(), hardware, kept, all })
}

/// The devices of a sysfs tree.
///
/// # Errors
/// It cannot be read, or names no device.
pub fn capture(sys: &Path) -> Result<Capture, PipelineError> {
    let root = crate::root::sysroot::Sysroot::open(sys)?;
    let capture = crate::drivers::hardware::sysfs::capture(&root)?;
    match capture.devices.is_empty() {
        true => {
            let error = CaptureError::Empty { file: sys.display().to_string() };
            Err(target::TargetError::from(error).into())
        }
        false => Ok(capture),
    }
}

/// The classes in which machines lose drivers, the worst first, each with how many machines.
#[must_use]
pub fn lost_classes(machines: &[Checked]) -> BTreeMap<Class, usize> {
    let mut out = BTreeMap::new();
    for class in machines.iter().flat_map(|machine| machine.verdict.lost.keys()) {
        *out.entry(*class).or_default() += 1;
    }
    out
}
