//! What the checks found: a line each.

use std::fmt;

use serde::Serialize;

/// How a check went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// It holds.
    Pass,
    /// It could not be looked at; the reason says why.
    NotChecked,
    /// It boots, but something is worth a look.
    Warning,
    /// It would not boot, not unseal, or strand a machine.
    Failure,
}

impl Outcome {
    /// As it is printed.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::NotChecked => "not checked",
            Self::Warning => "warning",
            Self::Failure => "failure",
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// One check and its outcome.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The check: short and stable, for scripts.
    pub id: &'static str,
    /// How it went.
    pub outcome: Outcome,
    /// Why, in a line; text of the file is quoted.
    pub reason: String,
}

/// All findings, in the order in which firmware, stub, kernel and Kairos would come upon them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The findings.
    pub checks: Vec<Finding>,
}

impl Report {
    /// Whether nothing failed.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.count(Outcome::Failure) == 0
    }

    /// How many checks had this outcome.
    #[must_use]
    pub fn count(&self, outcome: Outcome) -> usize {
        self.checks.iter().filter(|finding| finding.outcome == outcome).count()
    }

    /// The findings of one check.
    pub fn of<'a>(&'a self, id: &'a str) -> impl Iterator<Item = &'a Finding> {
        self.checks.iter().filter(move |finding| finding.id == id)
    }

    pub(super) fn add(&mut self, id: &'static str, outcome: Outcome, reason: impl Into<String>) {
        self.checks.push(Finding { id, outcome, reason: reason.into() });
    }

    pub(super) fn pass(&mut self, id: &'static str, reason: impl Into<String>) {
        self.add(id, Outcome::Pass, reason);
    }

    pub(super) fn warn(&mut self, id: &'static str, reason: impl Into<String>) {
        self.add(id, Outcome::Warning, reason);
    }

    pub(super) fn fail(&mut self, id: &'static str, reason: impl Into<String>) {
        self.add(id, Outcome::Failure, reason);
    }

    pub(super) fn skip(&mut self, id: &'static str, reason: impl Into<String>) {
        self.add(id, Outcome::NotChecked, reason);
    }

    /// All problems of a check; one pass where there is none.
    pub(super) fn all(&mut self, id: &'static str, problems: Vec<(Outcome, String)>, good: impl FnOnce() -> String) {
        if problems.is_empty() {
            self.pass(id, good());
        }
        for (outcome, reason) in problems {
            self.add(id, outcome, reason);
        }
    }
}

/// Text of the file as a message may show it: quoted, without control characters, not too long.
pub(super) fn shown(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    let short: String = text.chars().take(80).collect();
    let dots = if short.len() < text.len() { "..." } else { "" };
    format!("{short:?}{dots}")
}

/// Some names of many, for a line.
pub(super) fn some<T: AsRef<str>>(names: impl IntoIterator<Item = T>, total: usize) -> String {
    const SHOWN: usize = 8;
    let names: Vec<String> = names.into_iter().take(SHOWN).map(|name| name.as_ref().to_owned()).collect();
    let more = total.saturating_sub(names.len());
    if more > 0 { format!("{} and {more} more", names.join(", ")) } else { names.join(", ") }
}
