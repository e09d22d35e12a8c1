//! Whether a machine that runs one image can be given another: what would strand it.

use std::collections::BTreeSet;

use x509_cert::Certificate;

use super::layout::machine_name;
use super::report::{Outcome, Report, shown, some};
use super::sbat::Generations;
use super::texts::major;
use super::trust::name_of;

/// What counts of an image.
#[derive(Debug, Clone, Default)]
pub(super) struct Facts {
    pub(super) machine: u16,
    pub(super) stub: Option<String>,
    pub(super) sbat: Option<Generations>,
    /// Fingerprints of the keys of all profiles.
    pub(super) pcr_keys: BTreeSet<String>,
    /// What its signatures lead to: certificates of db, or the signers without one.
    pub(super) anchors: Vec<Certificate>,
    pub(super) os: Option<String>,
    pub(super) modules: BTreeSet<String>,
    pub(super) profiles: usize,
}

/// Compares them. `has_db`: whether the anchors are certificates of db.
pub(super) fn check(old: &Facts, new: &Facts, has_db: bool, report: &mut Report) {
    let mut problems = Vec::new();
    let mut add = |outcome, problem: String| problems.push((outcome, format!("against the old image: {problem}")));
    if old.machine != new.machine {
        let name = |machine| machine_name(machine).unwrap_or("an unknown machine");
        add(Outcome::Failure, format!("it was for {}, this is for {}", name(old.machine), name(new.machine)));
    }
    let lost: Vec<&String> = old.pcr_keys.difference(&new.pcr_keys).collect();
    if !lost.is_empty() {
        add(Outcome::Failure, "the PCR key is another one: the disk stays locked".to_owned());
    }
    let known = |certificate: &Certificate| new.anchors.contains(certificate);
    if !old.anchors.is_empty() && !old.anchors.iter().any(known) {
        let name = |anchors: &[Certificate]| anchors.first().map_or_else(|| "nobody".to_owned(), name_of);
        let outcome = if has_db && !new.anchors.is_empty() { Outcome::Warning } else { Outcome::Failure };
        add(outcome, format!("it was signed under {}, this under {}", name(&old.anchors), name(&new.anchors)));
    }
    if let (Some(before), Some(after)) = (&old.stub, &new.stub)
        && major(before) > major(after)
    {
        let text =
            format!("the stub went back from {before} to {after}: entries written for the newer loader may not start");
        add(Outcome::Failure, text);
    }
    for (component, generation) in old.sbat.iter().flatten() {
        match new.sbat.as_ref().and_then(|sbat| sbat.get(component)) {
            Some(now) if now < generation => add(
                Outcome::Failure,
                format!("SBAT generation of {} fell from {generation} to {now}", shown(component.as_bytes())),
            ),
            None => add(Outcome::Warning, format!("SBAT no longer names {}", shown(component.as_bytes()))),
            Some(_) => {}
        }
    }
    if let (Some(before), Some(after)) = (&old.os, &new.os)
        && before != after
    {
        let (before, after) = (shown(before.as_bytes()), shown(after.as_bytes()));
        add(Outcome::Warning, format!("os-release ID was {before}, is {after}"));
    }
    if new.profiles < old.profiles {
        add(
            Outcome::Warning,
            format!("it had {} profiles, this has {}: entries of the others fail", old.profiles, new.profiles),
        );
    }
    let lost: Vec<&String> = old.modules.difference(&new.modules).collect();
    if !lost.is_empty() && !new.modules.is_empty() {
        add(Outcome::Warning, format!("{} drivers are gone: {}", lost.len(), some(&lost, lost.len())));
    }
    report.all("upgrade", problems, || "the old image's machines can take it".to_owned());
}
