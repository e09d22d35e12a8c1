//! What would be kept and dropped of a root.

use crate::drivers::check::{self, Finding};
use crate::drivers::inventory::{self, Declarations, Inventory};
use crate::drivers::select::pattern::Pattern;
use crate::drivers::select::{self, Evidence, Explanation, SelectOptions, Selection};
use crate::drivers::slim as slimming;
use crate::drivers::target::{self, Architecture, Target};
use crate::drivers::wishes::Wishes;
use crate::root::sysroot::Sysroot;
use crate::size::{Cost, Report};

use super::{Hardware, PipelineError, Progress, SelectRequest};

/// The target that keeps everything: nothing is slimmed unless a target is named.
const EVERYTHING: &str = "all";

/// What would be kept and dropped.
#[derive(Debug)]
pub struct Plan {
    /// The root.
    pub root: Sysroot,
    /// What it has.
    pub inventory: Inventory,
    /// What its kernel was built for; `None`: unknown here.
    pub architecture: Option<Architecture>,
    /// What its modules declare.
    pub declarations: Declarations,
    /// What the hardware needs.
    pub target: Target,
    /// What the root itself asks for.
    pub wishes: Wishes,
    /// What the command line adds.
    pub options: SelectOptions,
    /// What of that stays.
    pub selection: Selection,
    /// What the kernel's settings and the modules' signatures say of it; in the report's warnings, too.
    pub findings: Vec<Finding>,
    /// The same for people and programs.
    pub report: Report,
}

impl Plan {
    /// Answers why an item stays or goes; see [`select::explain`].
    ///
    /// # Errors
    /// Nothing has this name.
    pub fn why(&self, item: &str, firmware: bool) -> Result<Vec<Explanation>, PipelineError> {
        let evidence = Evidence {
            inventory: &self.inventory,
            declarations: &self.declarations,
            target: &self.target,
            wishes: &self.wishes,
            selection: &self.selection,
        };
        Ok(select::explain(&evidence, item, firmware)?)
    }

    /// What `--keep` of a pattern would add.
    ///
    /// # Errors
    /// The pattern cannot be used.
    pub fn cost_of(&self, pattern: &str) -> Result<Cost, PipelineError> {
        let mut options = self.options.clone();
        options.keep.extend(patterns("--keep", &[pattern.to_owned()])?);
        let with = select::select(&self.inventory, &self.declarations, &self.target, &self.wishes, &options)?;
        Ok(Cost::between(&self.selection, &with))
    }
}

/// What a selection needs, but for what the modules declare.
pub(super) struct Prepared {
    pub(super) root: Sysroot,
    pub(super) inventory: Inventory,
    pub(super) architecture: Option<Architecture>,
    pub(super) target: Target,
    pub(super) options: SelectOptions,
    /// Of the targets, as given.
    pub(super) names: Vec<String>,
}

/// Reads the root and the targets.
pub(super) fn start(request: &SelectRequest, progress: &dyn Progress) -> Result<Prepared, PipelineError> {
    progress.step("reading the root");
    let root = Sysroot::open(&request.root)?;
    slimming::refuse_interrupted(&root)?;
    let all = [Hardware::Name(EVERYTHING.to_owned())];
    let hardware = if request.hardware.is_empty() { &all[..] } else { &request.hardware };
    let requests: Vec<target::Request<'_>> = hardware.iter().map(Hardware::request).collect();
    let target = target::resolve(&requests)?;
    let options = SelectOptions {
        keep: patterns("--keep", &request.keep)?,
        drop: patterns("--drop", &request.drop)?,
        allow_empty: request.allow_empty,
        firmware_versions: request.firmware_versions,
        unknown_firmware: request.unknown_firmware,
    };
    let inventory = inventory::load(&root, request.kernel.as_ref())?;
    let architecture = architecture(&root, &inventory)?;
    if let (Some(wanted), Some(found)) = (target.architecture, architecture)
        && wanted != found
    {
        return Err(PipelineError::TargetArchitecture {
            target: target.name.clone(),
            wanted: wanted.to_string(),
            release: inventory.kernel.release.clone(),
            found: found.to_string(),
        });
    }
    let names = hardware.iter().map(|hardware| hardware.name().to_owned()).collect();
    Ok(Prepared { root, inventory, architecture, target, options, names })
}

/// Decides what is kept and dropped; changes nothing.
///
/// # Errors
/// A root, kernel, module or target that cannot be used.
pub fn plan(request: &SelectRequest, progress: &dyn Progress) -> Result<Plan, PipelineError> {
    let Prepared { root, inventory, architecture, target, options, names } = start(request, progress)?;
    progress.step("choosing drivers and firmware");
    let (declarations, cache_warnings) = match &request.cache {
        Some(directory) => super::cache::declarations(&root, &inventory, directory)?,
        None => (inventory::declarations(&root, inventory.modules.by_name.values())?, Vec::new()),
    };
    inventory::check_dependencies(&inventory.kernel, &inventory.modules, &declarations)?;
    let wishes = Wishes::load(&root)?;
    let selection = select::select(&inventory, &declarations, &target, &wishes, &options)?;
    let mut report = Report::plan(&inventory.kernel.release, &names, &selection);
    progress.step("checking the kernel's settings and the modules' signatures");
    let findings = check::check(&check::Request {
        root: &root,
        inventory: &inventory,
        selection: &selection,
        target: &target,
        declarations: &declarations,
        every_signature: request.check_signatures,
    })?
    .findings;
    report.warnings.splice(0..0, findings.iter().map(Finding::to_string).chain(cache_warnings));
    Ok(Plan { root, inventory, architecture, declarations, target, wishes, options, selection, findings, report })
}

/// Of the kernel's modules, by the smallest of them.
fn architecture(root: &Sysroot, inventory: &Inventory) -> Result<Option<Architecture>, PipelineError> {
    let smallest = inventory.modules.by_name.values().min_by_key(|module| module.bytes);
    let machine = smallest.map(|module| inventory::machine(root, module)).transpose()?;
    Ok(machine.flatten().and_then(Architecture::from_elf))
}

fn patterns(option: &'static str, texts: &[String]) -> Result<Vec<Pattern>, PipelineError> {
    let pattern = |text: &String| {
        Pattern::new(text).map_err(|source| PipelineError::Pattern { option, pattern: text.clone(), source })
    };
    texts.iter().map(pattern).collect()
}
