//! `uki verify`.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use kairos_init::boot::verify::{self, Database, Finding, Outcome, Report, Request, Source};
use kairos_init::pipeline::{self, LostDriver};
use serde_json::json;

use super::args::{GlobalArgs, UkiVerifyArgs};
use super::render;

pub(super) fn run(args: &UkiVerifyArgs, global: &GlobalArgs) -> Result<()> {
    let file = super::open(&args.file)?;
    let open = |path: &Option<_>| path.as_ref().map(super::open).transpose();
    let (loader, old) = (open(&args.loader)?, open(&args.upgrade_from)?);
    let request = Request {
        db: if args.db.is_empty() { None } else { Some(database(&args.db)?) },
        dbx: database(&args.dbx)?,
        pcr_public_key: args.pcr_public_key.as_deref().map(verify::load_public_key).transpose()?,
        loader: loader.as_ref().map(|file| file as &dyn Source),
        upgrade_from: old.as_ref().map(|file| file as &dyn Source),
        jobs: super::jobs(global),
    };
    let mut report = verify::verify(&file, &request)?;
    if let (Some(old), false) = (&args.upgrade_from, args.capture.is_empty()) {
        report.checks.extend(drivers(old, &args.file, &args.capture)?);
    }
    if global.json {
        let file = args.file.display().to_string();
        render::print_json(&json!({ "file": file, "passed": report.passed(), "checks": report.checks }))?;
    } else {
        render::print(&text(&report))?;
    }
    match report.count(Outcome::Failure) {
        0 => Ok(()),
        1 => bail!("{} failed a check", args.file.display()),
        failures => bail!("{} failed {failures} checks", args.file.display()),
    }
}

fn database(paths: &[PathBuf]) -> Result<Database> {
    let mut all = Database::default();
    for path in paths {
        all.extend(verify::load_database(path)?);
    }
    Ok(all)
}

/// What captured machines lose: a line for each driver, and one where none is lost.
fn drivers(old: &Path, new: &Path, captures: &[PathBuf]) -> Result<Vec<Finding>> {
    let machines = pipeline::hardware::captures(captures)?;
    let lost = pipeline::lost_drivers(old, new, &machines)?;
    let finding = |outcome, reason| Finding { id: "drivers", outcome, reason };
    if lost.is_empty() {
        let reason = format!("{} captured machines keep the drivers that the old image gave them", machines.len());
        return Ok(vec![finding(Outcome::Pass, reason)]);
    }
    let line = |lost: &LostDriver| {
        let LostDriver { machine, driver, device, consequence, .. } = lost;
        let outcome = if lost.vital { Outcome::Failure } else { Outcome::Warning };
        finding(outcome, format!("{machine} {consequence}: {driver} is gone, which drove {device}"))
    };
    Ok(lost.iter().map(line).collect())
}

fn text(report: &Report) -> String {
    let width = report.checks.iter().map(|finding| finding.id.len()).max().unwrap_or(0);
    let line = |finding: &verify::Finding| {
        format!("{:<11}  {:<width$}  {}\n", finding.outcome.as_str(), finding.id, finding.reason)
    };
    report.checks.iter().map(line).collect()
}
