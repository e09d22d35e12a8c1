//! Slimming a root in place: what an earlier run left is finished, then the plan is done.

use serde::Serialize;
use sha2::{Digest, Sha256};

use super::{Hardware, PipelineError, Plan, Progress, SelectRequest, SlimRequest, indexes, plan};
use crate::cancel::Cancel;
use crate::drivers::slim::{Changes, Interrupted, Lock, SlimError, Summary};
use crate::root::host::HostFacts;
use crate::root::sysroot::Sysroot;
use crate::root::writer::{Mounts, RootWriter};
use crate::size::Report;

/// What slimming in place did.
#[derive(Debug, Serialize)]
pub struct SlimOutcome {
    /// Reasons and sizes, as of a plan of the root before this run changed it.
    #[serde(flatten)]
    pub report: Report,
    /// What this run changed, or would.
    pub slim: Summary,
    /// What it finished before that, of a run that was killed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub finished: Option<Summary>,
}

/// Slims a root in place. A run that was killed is finished first; the same request has nothing left to do then.
///
/// Microcode stays, since nothing carries it elsewhere: the UKI that is made of this root takes it from there.
///
/// # Errors
/// A running machine's root; a root, kernel, module or target that cannot be used; a root that cannot be changed.
pub fn slim(request: &SlimRequest, progress: &dyn Progress, cancel: &Cancel) -> Result<SlimOutcome, PipelineError> {
    if request.dry_run {
        let (plan, changes) = changes(&request.select, progress)?;
        return Ok(outcome(plan, changes, None));
    }
    let root = Sysroot::open(&request.select.root)?;
    if !request.allow_host
        && let Some(evidence) = HostFacts::gather(&root).evidence()
    {
        return Err(SlimError::RunningHost { evidence }.into());
    }
    let mounts = if request.allow_host { Mounts::Enter } else { Mounts::Refuse };
    let writer = RootWriter::new(&root, mounts);
    let _lock = Lock::take(&writer)?;
    let mut select = request.select.clone();
    let (mut finished, mut same) = (None, false);
    if let Some(interrupted) = Interrupted::find(&writer)? {
        progress.step("finishing the slimming that was interrupted");
        interrupted.finish(&writer)?;
        same = interrupted.request() == digest(&request.select);
        if same {
            // They are gone, and a pattern that matches nothing would be an error.
            select.drop.clear();
        }
        finished = Some(interrupted.summary);
    }
    let (mut plan, mut changes) = changes(&select, progress)?;
    cancel.check()?;
    if same && !changes.summary.is_empty() {
        // One clean run would have stopped here as well.
        let left = changes.summary.removed;
        plan.report.warnings.push(format!(
            "the interrupted slimming is finished, but a new plan for the same request would remove {left} more files: they stay; run it once more to remove them"
        ));
        changes.summary = Summary::default();
    } else {
        progress.step("slimming the root");
        changes.commit(&writer)?;
    }
    Ok(outcome(plan, changes, finished))
}

fn changes(select: &SelectRequest, progress: &dyn Progress) -> Result<(Plan, Changes), PipelineError> {
    let mut plan = plan(select, progress)?;
    plan.selection.keep_microcode("slim", "the UKI takes it from the root");
    let report = Report::plan(&plan.inventory.kernel.release, &plan.report.target, &plan.selection);
    plan.report = Report { warnings: plan.report.warnings, ..report };
    let indexes = indexes(&plan.root, &plan.inventory, &plan.selection)?;
    let changes = Changes::new(&plan.root, &plan.inventory, &plan.selection, indexes, &digest(select))?;
    Ok((plan, changes))
}

fn outcome(plan: Plan, changes: Changes, finished: Option<Summary>) -> SlimOutcome {
    let mut report = plan.report;
    report.warnings.extend(changes.warnings);
    SlimOutcome { report, slim: changes.summary, finished }
}

/// What tells one request from another: everything that the plan depends on but the root, the program's version included.
fn digest(request: &SelectRequest) -> String {
    let mut hash = Sha256::new();
    // With the length of each, so that no two requests give the same bytes.
    let mut add = |kind: &str, text: &str| {
        hash.update(format!("{kind} {} {text}", text.len()));
    };
    add("version", env!("CARGO_PKG_VERSION"));
    for hardware in &request.hardware {
        match hardware {
            Hardware::Name(name) => add("name", name),
            Hardware::File { text, .. } => add("file", text),
        }
    }
    request.keep.iter().for_each(|pattern| add("keep", pattern));
    request.drop.iter().for_each(|pattern| add("drop", pattern));
    if let Some(kernel) = &request.kernel {
        add("kernel", kernel.as_str());
    }
    hex::encode(hash.finalize())
}
