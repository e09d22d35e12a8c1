//! A machine's event log held against a prediction: which register differs, from which event on, and which input is
//! behind it.
//!
//! Only digests are compared, for they alone make the registers; types and data say what an event is. Whether the log is
//! true is not asked here: hold [`EventLog::replay`] against the registers of the TPM.

use std::fmt;

use serde::{Serialize, Serializer};

use super::event::{Digests, EventType};
use super::eventlog::{Event, EventLog};
use super::prediction::{ExpectedEvent, Prediction};
use crate::boot::pcr::Bank;

/// How a log and a prediction differ, register by register.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Comparison {
    /// One for each predicted register, sorted.
    pub pcrs: Vec<PcrComparison>,
}

impl Comparison {
    /// Whether every register will have the predicted value.
    #[must_use]
    pub fn is_equal(&self) -> bool {
        self.pcrs.iter().all(|pcr| matches!(pcr.verdict, Verdict::Equal { .. }))
    }

    /// The first event that differs.
    #[must_use]
    pub fn first_difference(&self) -> Option<&Difference> {
        self.pcrs.iter().find_map(|pcr| match &pcr.verdict {
            Verdict::Differs(difference) => Some(&**difference),
            _ => None,
        })
    }
}

/// What is said of one register.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PcrComparison {
    /// The register.
    pub pcr: u32,
    /// Whether it is as predicted.
    pub verdict: Verdict,
}

/// Whether a register is as predicted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Verdict {
    /// All events are as predicted.
    Equal {
        /// How many.
        events: usize,
    },
    /// The first event that is not as predicted.
    Differs(Box<Difference>),
    /// The log and the prediction have no bank in common, or an event of the prediction lacks it.
    NoCommonBank,
}

/// How the event of the log and the predicted one relate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum DifferenceKind {
    /// Something else was measured in this place.
    Changed,
    /// The log has an event here that was not predicted; the predicted one comes later, or nothing is predicted.
    Unexpected,
    /// The predicted event did not happen: the log goes on with a later one, or has no more.
    Missing,
}

/// An event that is not as predicted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// The register.
    pub pcr: u32,
    /// How the two relate.
    pub kind: DifferenceKind,
    /// The bank whose digests are named.
    #[serde(serialize_with = "as_text")]
    pub bank: Bank,
    /// What the log has here.
    pub found: Option<Found>,
    /// What was predicted here.
    pub expected: Option<ExpectedEvent>,
}

fn as_text<S: Serializer>(bank: &Bank, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(bank)
}

/// An event of the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Found {
    /// Its number in the log, from 0.
    pub number: usize,
    /// Its type.
    #[serde(rename = "type")]
    pub kind: EventType,
    /// What it says it is about.
    pub subject: Option<String>,
    /// Its digests.
    pub digests: Digests,
}

impl From<&Event> for Found {
    fn from(event: &Event) -> Self {
        Self { number: event.number, kind: event.kind, subject: event.subject(), digests: event.digests.clone() }
    }
}

/// Compares every register of the prediction.
#[must_use]
pub fn compare(log: &EventLog, prediction: &Prediction) -> Comparison {
    let pcrs =
        prediction.iter().map(|(pcr, expected)| PcrComparison { pcr, verdict: one(log, pcr, expected) }).collect();
    Comparison { pcrs }
}

fn one(log: &EventLog, pcr: u32, expected: &[ExpectedEvent]) -> Verdict {
    let found: Vec<&Event> = log.of_pcr(pcr).collect();
    // Without a common bank nothing could differ, and all would be well: so it is a verdict of its own.
    let common: Vec<Bank> = log
        .banks()
        .iter()
        .copied()
        .filter(|bank| expected.iter().all(|event| event.digests.get(*bank).is_some()))
        .collect();
    // The bank that people compare by.
    let Some(bank) = common.iter().copied().find(|bank| *bank == Bank::Sha256).or_else(|| common.first().copied())
    else {
        return Verdict::NoCommonBank;
    };
    let same = |a: &Event, b: &ExpectedEvent| common.iter().all(|bank| a.digests.get(*bank) == b.digests.get(*bank));
    let mut at = 0;
    let (here, wanted) = loop {
        match (found.get(at), expected.get(at)) {
            (None, None) => return Verdict::Equal { events: at },
            (Some(here), Some(wanted)) if same(here, wanted) => at += 1,
            pair => break pair,
        }
    };
    let kind = match (here, wanted) {
        (None, _) => DifferenceKind::Missing,
        (_, None) => DifferenceKind::Unexpected,
        (_, Some(wanted)) if found.iter().skip(at).any(|event| same(event, wanted)) => DifferenceKind::Unexpected,
        (Some(here), _) if expected.iter().skip(at).any(|event| same(here, event)) => DifferenceKind::Missing,
        _ => DifferenceKind::Changed,
    };
    Verdict::Differs(Box::new(Difference {
        pcr,
        kind,
        // A digest that differs is to be shown, and not one that happens to be equal.
        bank: match (here, wanted) {
            (Some(here), Some(wanted)) if here.digests.get(bank) == wanted.digests.get(bank) => {
                common.iter().copied().find(|bank| here.digests.get(*bank) != wanted.digests.get(*bank)).unwrap_or(bank)
            }
            _ => bank,
        },
        found: here.map(|event| Found::from(*event)),
        expected: wanted.cloned(),
    }))
}

impl fmt::Display for Comparison {
    /// A line for each register.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for PcrComparison { pcr, verdict } in &self.pcrs {
            match verdict {
                Verdict::Equal { events } => writeln!(f, "PCR {pcr}: as predicted ({events} events)")?,
                Verdict::Differs(difference) => writeln!(f, "PCR {pcr}: differs: {difference}")?,
                Verdict::NoCommonBank => {
                    writeln!(f, "PCR {pcr}: cannot be compared: no bank of the log has all predicted digests")?;
                }
            }
        }
        Ok(())
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digest = |digests: &Digests| digests.get(self.bank).map(hex::encode).unwrap_or_default();
        let bank = self.bank;
        match &self.found {
            Some(found) => {
                write!(f, "event {} of the log, {}", found.number, found.kind)?;
                if let Some(subject) = &found.subject {
                    write!(f, ", {subject}")?;
                }
                write!(f, ", {bank} {}", digest(&found.digests))?;
            }
            None => write!(f, "the log has no more events")?,
        }
        match &self.expected {
            Some(expected) => write!(
                f,
                "; predicted here: {}, {}, {bank} {} (input: {})",
                expected.kind,
                expected.what,
                digest(&expected.digests),
                expected.input
            )?,
            None => write!(f, "; predicted here: nothing more")?,
        }
        match self.kind {
            DifferenceKind::Changed => Ok(()),
            DifferenceKind::Unexpected => write!(f, "; the log's event is one too many"),
            DifferenceKind::Missing => write!(f, "; the predicted event did not happen"),
        }
    }
}
