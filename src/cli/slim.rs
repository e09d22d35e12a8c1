//! `slim`: the plan, done in the root itself; and the whole run without `--output`, which is the same.

use anyhow::{Result, bail};
use kairos_init::drivers::slim::Summary;
use kairos_init::pipeline::{self, SlimRequest};
use kairos_init::size::human;

use super::args::{GlobalArgs, InPlaceArgs, SelectArgs, SlimArgs};
use super::render::{self, Reporter, count};

pub(super) fn run(args: &SlimArgs, global: &GlobalArgs) -> Result<()> {
    slim(&args.select, &args.in_place, global)
}

pub(super) fn slim(select: &SelectArgs, in_place: &InPlaceArgs, global: &GlobalArgs) -> Result<()> {
    if select.hardware.is_empty() && select.drop.is_empty() {
        bail!("nothing is slimmed unless it is said for which hardware: give --hardware (x86-generic, ...), or --drop");
    }
    let request = SlimRequest {
        select: super::select_request(select)?,
        allow_host: in_place.allow_host,
        dry_run: in_place.dry_run,
    };
    let cancel = super::cancel_on_signal()?;
    let reporter = Reporter::new(global);
    let outcome = pipeline::slim(&request, &reporter, &cancel);
    reporter.finish();
    let outcome = outcome?;
    if global.json {
        return render::print_json(&outcome);
    }
    render::warn(&outcome.report.warnings);
    let mut text = render::summary(&outcome.report);
    if request.dry_run {
        text += &super::plan::tables(&outcome.report);
        text.push('\n');
    }
    if let Some(finished) = &outcome.finished {
        text += &format!("finished  an interrupted slimming: {}\n", amount(finished));
    }
    let word = if request.dry_run { "would go " } else { "removed  " };
    text += &match outcome.slim.is_empty() {
        true => format!("{word} nothing: the root is as slim as that already\n"),
        false => format!("{word} {}\n", amount(&outcome.slim)),
    };
    for release in &outcome.slim.other_kernels {
        text += &format!("kernel    {release}: all modules; its boot image in /boot stays\n");
    }
    render::print(&text)
}

fn amount(summary: &Summary) -> String {
    format!(
        "{} files, {}; {} empty directories; {} indexes made anew",
        count(summary.removed),
        human(summary.removed_bytes),
        count(summary.directories),
        count(summary.indexes)
    )
}
