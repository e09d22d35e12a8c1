//! `hardware ...`: targets, captured machines, coverage.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use kairos_init::drivers::hardware::coverage::Coverage;
use kairos_init::drivers::hardware::replay::Loss;
use kairos_init::drivers::target::{Capture, Target};
use kairos_init::names::KernelRelease;
use kairos_init::pipeline::SelectRequest;
use kairos_init::pipeline::hardware::{self, CheckReport, Checked, CoverageReport, Sized, Suggestion};
use kairos_init::size::human;
use serde_json::json;

use super::args::{
    GlobalArgs, HardwareCaptureArgs, HardwareCheckArgs, HardwareCommand, HardwareListArgs, HardwareSuggestArgs,
    SelectArgs,
};
use super::render::{self, Reporter, count};

/// Bytes of a dump.
const DUMP_LIMIT: u64 = 8 << 20;
/// Machines listed; all of them stand in the JSON.
const MACHINES: usize = 100;
/// Drivers named of a loss.
const DRIVERS: usize = 6;

pub(super) fn run(command: HardwareCommand, global: &GlobalArgs) -> Result<()> {
    match command {
        HardwareCommand::List(args) => list(args, global),
        HardwareCommand::Show { name } => show(&name, global),
        HardwareCommand::Capture(args) => capture(&args),
        HardwareCommand::Check(args) => check(&args, global),
        HardwareCommand::Coverage { select } => coverage(&select, global),
        HardwareCommand::Suggest(args) => suggest(args, global),
    }
}

fn kernel(release: Option<&str>) -> Result<Option<KernelRelease>> {
    release.map(KernelRelease::new).transpose().context("--kernel")
}

fn list(args: HardwareListArgs, global: &GlobalArgs) -> Result<()> {
    let release = kernel(args.kernel.as_deref())?;
    let request = args.root.map(|root| SelectRequest { kernel: release, ..SelectRequest::whole(root) });
    let reporter = Reporter::new(global);
    let listed = hardware::list(request.as_ref(), &reporter);
    reporter.finish();
    let (targets, features) = listed?;
    if global.json {
        return render::print_json(&json!({ "schema": 1, "targets": targets, "features": features }));
    }
    let line = |sized: &Sized| {
        let size = sized.kept.map_or_else(String::new, |kept| {
            format!(
                " {:>6} modules {:>10}, {:>5} firmware {:>10}",
                count(kept.modules as u64),
                human(kept.module_bytes),
                count(kept.firmware as u64),
                human(kept.firmware_bytes)
            )
        });
        format!("  {:<24}{size}  {}\n", sized.name, sized.description)
    };
    let lines = |sized: &[Sized]| sized.iter().map(line).collect::<String>();
    render::print(&format!("targets\n{}features, behind a target and +\n{}", lines(&targets), lines(&features)))
}

fn show(name: &str, global: &GlobalArgs) -> Result<()> {
    let target: Target = super::hardware_of(name)?.resolve()?;
    if global.json {
        let rules = target.rules.iter().map(|rule| {
            json!({
                "key": rule.matcher.key(),
                "pattern": rule.matcher.pattern(),
                "except": rule.except.iter().map(|glob| glob.as_str()).collect::<Vec<_>>(),
                "required": rule.required,
                "optional": rule.optional,
                "evidence": rule.evidence,
                "source": rule.source.to_string(),
            })
        });
        return render::print_json(&json!({ "schema": 1, "target": target.name, "rules": rules.collect::<Vec<_>>() }));
    }
    let mut text = format!("{}\n", target.name);
    let mut last = None;
    for rule in &target.rules {
        // One entry may have many patterns.
        if last.replace(&rule.source) != Some(&rule.source) {
            text += &format!("\n{}{}\n", rule.source, if rule.required { ", required by Kairos" } else { "" });
            text += &format!("  {}\n", rule.evidence);
            for except in &rule.except {
                text += &format!("  without {}\n", except.as_str());
            }
        }
        text += &format!("  {}\n", rule.matcher);
    }
    render::print(&text)
}

fn capture(args: &HardwareCaptureArgs) -> Result<()> {
    let mut capture = Capture::default();
    for path in args.from_lspci.iter().chain(&args.from_lsusb) {
        capture.unite(dump(path)?);
    }
    if args.from_lspci.is_empty() && args.from_lsusb.is_empty() {
        capture = hardware::capture(&args.sys)?;
    }
    let text = capture.to_string();
    let Some(path) = &args.output else { return render::print(&text) };
    let file = OpenOptions::new().write(true).create_new(true).open(path);
    let written = file.and_then(|mut file| file.write_all(text.as_bytes()));
    written.with_context(|| format!("cannot write {}", path.display()))
}

fn dump(path: &Path) -> Result<Capture> {
    let bytes = super::read(path, DUMP_LIMIT)?;
    // Names of devices may be in any encoding; ids are ASCII.
    Ok(Capture::parse(&String::from_utf8_lossy(&bytes), &path.display().to_string())?)
}

fn check(args: &HardwareCheckArgs, global: &GlobalArgs) -> Result<()> {
    let request = super::select_request(&args.select)?;
    let reporter = Reporter::new(global);
    let report = hardware::check(&request, args.uki.as_deref(), &args.captures, &reporter);
    reporter.finish();
    let report = report?;
    if global.json {
        render::print_json(&report)?;
    } else {
        render::print(&checked(&report))?;
    }
    match lost(&report) {
        None => Ok(()),
        Some(what) => bail!("{what}"),
    }
}

/// The first loss that matters, in a sentence; `None` where none does.
fn lost(report: &CheckReport) -> Option<String> {
    let (machine, class, loss) = report.machines.iter().find_map(|machine| {
        let (class, loss) = machine.verdict.lost.iter().find(|(_, loss)| loss.vital)?;
        Some((machine, class, loss))
    })?;
    let more = match report.lost {
        0 | 1 => String::new(),
        lost => format!(" ({} machines of {} are lost)", count(lost as u64), count(report.machines.len() as u64)),
    };
    Some(format!(
        "{} {}: {} of its {class} drivers would be dropped, {}; keep them with --keep, or take a wider target (hardware suggest){more}",
        machine.machine,
        class.consequence(),
        loss.drivers.len(),
        drivers(loss)
    ))
}

fn drivers(loss: &Loss) -> String {
    let named: Vec<_> = loss.drivers.iter().take(DRIVERS).map(String::as_str).collect();
    let more = loss.drivers.len() - named.len();
    let rest = if more == 0 { String::new() } else { format!(" and {more} more") };
    format!("{}{rest}", named.join(", "))
}

fn checked(report: &CheckReport) -> String {
    let mut text = format!("kernel    {}\ntarget    {}\n", report.kernel, report.target.join(" + "));
    let (all, lost) = (count(report.machines.len() as u64), count(report.lost as u64));
    text += &format!("machines  {all}, {lost} of them would not boot, unlock or be reached\n\n");
    let classes = hardware::lost_classes(&report.machines);
    if !classes.is_empty() {
        text += "class         machines that lose a driver\n";
        for (class, machines) in &classes {
            text += &format!("{:<12} {:>9}\n", class.to_string(), count(*machines as u64));
        }
        text.push('\n');
    }
    text += &format!("{:<36} {:>7} {:>7} {:>7}   verdict\n", "machine", "devices", "driven", "kept");
    // The lost ones first: the list may be long.
    let (bad, good): (Vec<_>, Vec<_>) = report.machines.iter().partition(|machine| machine.is_lost);
    for machine in bad.iter().chain(&good).take(MACHINES) {
        text += &row(machine);
    }
    if report.machines.len() > MACHINES {
        text +=
            &format!("... and {} more machines (--json lists all)\n", count((report.machines.len() - MACHINES) as u64));
    }
    text
}

fn row(Checked { machine, is_lost, verdict }: &Checked) -> String {
    let word = match (is_lost, verdict.lost.is_empty()) {
        (true, _) => "LOST",
        (false, true) => "whole",
        (false, false) => "works",
    };
    let mut text = format!("{machine:<36} {:>7} {:>7} {:>7}   {word}\n", verdict.devices, verdict.driven, verdict.kept);
    for (class, loss) in &verdict.lost {
        let what = if loss.vital { format!("; the machine {}", class.consequence()) } else { String::new() };
        text += &format!("    loses {class}: {}{what}\n", drivers(loss));
    }
    if !verdict.tpm_modules.is_empty() {
        let names: Vec<_> = verdict.tpm_modules.iter().map(String::as_str).collect();
        text += &format!(
            "    its TPM is driven by the module {}, which comes too late for Trusted Boot: take a kernel that has it built in\n",
            names.join(", ")
        );
    }
    for (driver, names) in &verdict.missing_firmware {
        text += &format!("    {driver} asks for firmware that is not there: {}\n", names.join(", "));
    }
    text
}

fn coverage(select: &SelectArgs, global: &GlobalArgs) -> Result<()> {
    let request = super::select_request(select)?;
    let reporter = Reporter::new(global);
    let report = hardware::coverage(&request, &reporter);
    reporter.finish();
    let report = report?;
    if global.json {
        return render::print_json(&report);
    }
    render::print(&covered(&report))
}

fn covered(CoverageReport { kernel, target, classes, .. }: &CoverageReport) -> String {
    let mut text = format!("kernel    {kernel}\ntarget    {}\n\n", target.join(" + "));
    text += "PCI devices that Linux users have (linux-hardware.org, CC BY 4.0), by how often they were seen\n";
    text += &format!("{:<32} {:>10} {:>10} {:>10} {:>8}\n", "class", "seen", "driven", "kept", "share");
    let mut classes: Vec<(&&str, &Coverage)> = classes.iter().filter(|(_, sum)| sum.driven > 0).collect();
    classes.sort_by_key(|(name, sum)| (std::cmp::Reverse(sum.driven_seen), **name));
    for (name, sum) in classes {
        text += &format!(
            "{name:<32} {:>10} {:>10} {:>10} {:>7.2} %\n",
            count(sum.seen),
            count(sum.driven_seen),
            count(sum.kept_seen),
            // Rounded down: 100.00 is said of nothing less.
            (sum.share() * 10_000.0).floor() / 100.0
        );
    }
    text
}

fn suggest(args: HardwareSuggestArgs, global: &GlobalArgs) -> Result<()> {
    let request =
        SelectRequest { kernel: kernel(args.kernel.as_deref())?, cache: args.cache, ..SelectRequest::whole(args.root) };
    let captures: Vec<PathBuf> = args.captures;
    let reporter = Reporter::new(global);
    let suggestion = hardware::suggest(&request, &captures, &reporter);
    reporter.finish();
    let suggestion: Suggestion = suggestion?;
    if global.json {
        return render::print_json(&suggestion);
    }
    let Suggestion { hardware, kept, all, .. } = suggestion;
    render::print(&format!(
        "--hardware {hardware}\n  keeps {} modules and {} firmware files, {} of {}\n",
        count(kept.modules as u64),
        count(kept.firmware as u64),
        human(kept.bytes()),
        human(all.bytes())
    ))
}
