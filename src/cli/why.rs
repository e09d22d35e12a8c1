//! `why`: the chain that keeps an item, or why it is dropped and what keeps it.

use anyhow::Result;
use kairos_init::drivers::select::{Edge, Explanation, ItemKind, Link};
use kairos_init::pipeline::{self, Plan};
use kairos_init::size::{Cost, human};

use super::args::{GlobalArgs, WhyArgs};
use super::render::{self, Reporter, count};

pub(super) fn run(args: &WhyArgs, global: &GlobalArgs) -> Result<()> {
    let request = super::select_request(&args.select)?;
    let reporter = Reporter::new(global);
    let plan = pipeline::plan(&request, &reporter);
    reporter.finish();
    let plan = plan?;
    let mut answers = Vec::new();
    for item in &args.items {
        answers.extend(plan.why(item, args.firmware)?);
    }
    if global.json {
        return answers.iter().try_for_each(render::print_json);
    }
    let answers: Vec<_> = answers.iter().map(|answer| text(&plan, answer)).collect();
    render::print(&answers.join("\n"))
}

fn text(plan: &Plan, answer: &Explanation) -> String {
    let fate = match (answer.kind, answer.kept) {
        (ItemKind::Builtin, _) => "built in",
        (_, true) => "kept",
        (_, false) => "dropped",
    };
    let mut out = format!("{}: {fate}", answer.item);
    if let Some(path) = &answer.path {
        out += &format!(", {path}, {}", human(answer.bytes));
    }
    if let Some(alias) = &answer.alias {
        out += &format!(", answers to {alias}");
    }
    out.push('\n');
    for link in &answer.chain {
        out += &format!("  {}\n", step(link));
    }
    if answer.chain.is_empty() {
        out += &format!("  {}\n", answer.reason);
    }
    for note in &answer.notes {
        out += &format!("  {note}\n");
    }
    if let Some(option) = &answer.keep_with {
        out += &format!("  to keep it: {option}{}\n", cost(plan, option));
    }
    out
}

/// One link of a chain, read from the rule to the item.
fn step(Link { from, edge, to, source }: &Link) -> String {
    match edge {
        Edge::Rule => format!("{from} keeps {to} ({source})"),
        Edge::Depends => format!("{from} depends on {to} ({source})"),
        Edge::Softdep => format!("{from} has the soft dependency {to} ({source})"),
        Edge::Weakdep => format!("{from} has the weak dependency {to} ({source})"),
        Edge::Alias => format!("{from} asks for {to} by alias ({source})"),
        Edge::Install => format!("{from} is loaded with {to} ({source})"),
        Edge::Request => format!("{from} asks for {to} at run time ({source})"),
        Edge::Firmware => format!("{from} asks for {to} ({source})"),
        Edge::Curated => format!("{from} needs {to} without saying so ({source})"),
        other => format!("{from} brings {to} ({other:?}, {source})"),
    }
}

/// What `--keep NAME` adds; nothing where the option is another.
fn cost(plan: &Plan, option: &str) -> String {
    let pattern = option.strip_prefix("--keep ").and_then(|rest| rest.split(',').next());
    let Some(Cost { modules, firmware, bytes }) = pattern.and_then(|pattern| plan.cost_of(pattern).ok()) else {
        return String::new();
    };
    let noun =
        |number: u64, one: &str, many: &str| format!("{} {}", count(number), if number == 1 { one } else { many });
    let (modules, firmware) = (noun(modules, "module", "modules"), noun(firmware, "firmware file", "firmware files"));
    format!(" ({modules} and {firmware} more, {})", human(bytes))
}
