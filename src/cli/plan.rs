//! `plan`: what would be kept and dropped.

use std::collections::BTreeMap;

use anyhow::Result;
use kairos_init::pipeline;
use kairos_init::size::{Class, Report, RuleSum, human};

use super::args::{GlobalArgs, PlanArgs};
use super::render::{self, Reporter, count};

/// Directories listed of each kind.
const DIRECTORIES: usize = 20;

pub(super) fn run(args: &PlanArgs, global: &GlobalArgs) -> Result<()> {
    let mut request = super::select_request(&args.select)?;
    request.check_signatures = args.check_signatures;
    let reporter = Reporter::new(global);
    let plan = pipeline::plan(&request, &reporter);
    reporter.finish();
    let plan = plan?;
    if global.json {
        return render::print_json(&plan.report);
    }
    render::warn(&plan.report.warnings);
    render::print(&(render::summary(&plan.report) + &tables(&plan.report)))
}

/// What is kept by rule, and what is kept and dropped by directory.
pub(super) fn tables(report: &Report) -> String {
    let mut text =
        format!("\nkept by rule, with all that follows from it\n  {:>18}   {:>18}   rule\n", "modules", "firmware");
    text += &rules(&report.rules);
    for (title, class) in [("modules", &report.modules), ("firmware", &report.firmware)] {
        text += &format!("\n{:<30} {:>18}   {:>18}\n", format!("{title} by directory"), "kept", "dropped");
        text += &directories(class);
        if class.dropped > 0 {
            text += &format!("\n{title}, why dropped\n");
            text += &dropped(class);
        }
    }
    text
}

#[derive(Default)]
struct Sum {
    kept: (u64, u64),
    dropped: (u64, u64),
}

fn directories(class: &Class) -> String {
    let mut sums: BTreeMap<String, Sum> = BTreeMap::new();
    for item in &class.items {
        let below = item.path.split_once("/modules/").or_else(|| item.path.split_once("/firmware/"));
        // The release and `kernel/` say nothing; two levels tell classes of drivers apart.
        let below = below
            .map_or(item.path.as_str(), |(_, below)| below.split_once("/kernel/").map_or(below, |(_, kernel)| kernel));
        let parts: Vec<&str> = below.split('/').collect();
        let depth = parts.len().saturating_sub(1).min(2);
        let directory = parts.iter().take(depth).copied().collect::<Vec<_>>().join("/");
        let sum = sums.entry(if directory.is_empty() { "(top)".to_owned() } else { directory }).or_default();
        let side = if item.kept { &mut sum.kept } else { &mut sum.dropped };
        side.0 += 1;
        side.1 += item.bytes;
    }
    let mut sums: Vec<_> = sums.into_iter().collect();
    sums.sort_by_key(|(name, sum)| (std::cmp::Reverse(sum.kept.1 + sum.dropped.1), name.clone()));
    let mut text = String::new();
    for (name, Sum { kept, dropped }) in sums.iter().take(DIRECTORIES) {
        text += &format!(
            "  {name:<28} {:>6} {:>11}   {:>6} {:>11}\n",
            count(kept.0),
            human(kept.1),
            count(dropped.0),
            human(dropped.1)
        );
    }
    if sums.len() > DIRECTORIES {
        text += &format!("  ... and {} more (--json lists every item)\n", sums.len() - DIRECTORIES);
    }
    text
}

/// What each rule keeps with all that follows from it.
fn rules(rules: &[RuleSum]) -> String {
    let mut text = String::new();
    for sum in rules.iter().take(DIRECTORIES) {
        text += &format!(
            "  {:>6} {:>11}   {:>6} {:>11}   {} ({})\n",
            count(sum.modules),
            human(sum.module_bytes),
            count(sum.firmware),
            human(sum.firmware_bytes),
            sum.rule,
            sum.source
        );
    }
    if rules.len() > DIRECTORIES {
        text += &format!("  ... and {} more rules (--json lists all)\n", rules.len() - DIRECTORIES);
    }
    text
}

/// Why items go.
fn dropped(class: &Class) -> String {
    let mut sums: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    for item in class.items.iter().filter(|item| !item.kept) {
        let sum = sums.entry(item.reason.as_str()).or_default();
        sum.0 += 1;
        sum.1 += item.bytes;
    }
    let mut sums: Vec<_> = sums.into_iter().collect();
    sums.sort_by_key(|(reason, (_, bytes))| (std::cmp::Reverse(*bytes), *reason));
    let mut text = String::new();
    for (reason, (number, bytes)) in sums.iter().take(DIRECTORIES) {
        text += &format!("  {:>6} {:>11}   {reason}\n", count(*number), human(*bytes));
    }
    if sums.len() > DIRECTORIES {
        text += &format!("  ... and {} more reasons (--json lists every item)\n", sums.len() - DIRECTORIES);
    }
    text
}
