//! What the registers will be extended with, event by event, so that a difference can be named and not only seen.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::event::{Digests, EventType};
use super::{PCR_UKI, hash};
use crate::boot::pcr::Bank;

/// An event that a register will be extended with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExpectedEvent {
    /// The type that the log will give it. Not part of what is measured: another program may give it another.
    #[serde(rename = "type")]
    pub kind: EventType,
    /// What is measured: `\EFI\BOOT\BOOTX64.EFI`, `variable db`.
    pub what: String,
    /// Which of the user's inputs it depends on: a file, a section, a variable.
    pub input: String,
    /// What the register is extended with.
    pub digests: Digests,
}

/// The events that each register will be extended with, in order. Registers that are not in it may hold anything.
///
/// JSON: `{"4":[{"type":"EV_SEPARATOR","what":"...","input":"...","digests":{"sha256":"..."}}]}`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Prediction(BTreeMap<u32, Vec<ExpectedEvent>>);

impl Prediction {
    /// Nothing is predicted.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The same with one more register; what was predicted of it before is replaced.
    #[must_use]
    pub fn with(mut self, pcr: u32, events: Vec<ExpectedEvent>) -> Self {
        self.0.insert(pcr, events);
        self
    }

    /// The same with PCR 11, as the stub leaves it before any phase word; see [`pcr11_events`].
    #[must_use]
    pub fn with_pcr11(self, sections: &[(&str, Digests)]) -> Self {
        self.with(PCR_UKI, pcr11_events(sections))
    }

    /// The registers that are predicted, and their events.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &[ExpectedEvent])> {
        self.0.iter().map(|(pcr, events)| (*pcr, events.as_slice()))
    }

    /// The events of a register.
    #[must_use]
    pub fn events(&self, pcr: u32) -> Option<&[ExpectedEvent]> {
        self.0.get(&pcr).map(Vec::as_slice)
    }

    /// The value that a register will have in a bank; nothing where the register or the bank is not predicted.
    #[must_use]
    pub fn value(&self, pcr: u32, bank: Bank) -> Option<Vec<u8>> {
        self.0
            .get(&pcr)?
            .iter()
            .try_fold(vec![0; bank.width()], |register, event| Some(hash(bank, &[&register, event.digests.get(bank)?])))
    }
}

/// The events of PCR 11: for each section, in the order given (that of measurement), its name with one NUL, and then its
/// content, whose digests are given. Empty sections and `.pcrsig` are not measured: leave them out.
#[must_use]
pub fn pcr11_events(sections: &[(&str, Digests)]) -> Vec<ExpectedEvent> {
    let event = |name: &str, what: String, digests| ExpectedEvent {
        kind: EventType::IPL,
        what,
        input: format!("section {name} of the UKI"),
        digests,
    };
    sections
        .iter()
        .flat_map(|(name, content)| {
            let named = Digests::of(&[name.as_bytes(), &[0]]);
            [event(name, format!("the name {name}"), named), event(name, (*name).to_owned(), content.clone())]
        })
        .collect()
}
