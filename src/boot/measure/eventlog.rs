//! TCG event logs: what firmware and boot programs extended the registers with, and why.
//!
//! Specification: TCG PC Client Platform Firmware Profile, "Event Logging" (crypto agile format); Linux shows the log as
//! `/sys/kernel/security/tpm0/binary_bios_measurements`. The log is no proof by itself: only when its replay gives the
//! registers of the TPM did these events happen.
//!
//! Left out: the SHA-1 logs of TPM 1.2, and what the operating system measures later (IMA, `systemd-pcrextend`), which
//! have logs of their own.

use std::collections::BTreeMap;
use std::fmt;

use super::event::{Digests, EventType};
use super::hash;
use crate::boot::pcr::Bank;

/// Bytes of the largest log that is read. Firmware reserves 64 KiB as a rule, 1 MiB at most.
pub const MAX_LOG: usize = 16 << 20;

/// A PC client's TPM has this many registers.
const PCR_COUNT: u32 = 24;
/// What some firmware writes for the register of an event that extends none.
const NO_PCR: u32 = u32::MAX;
/// The first event's data begins with this.
const SIGNATURE: &[u8; 16] = b"Spec ID Event03\0";
/// The data of the event that names the locality in which PCR 0 was reset; the locality, one byte, follows.
const STARTUP_LOCALITY: &[u8; 16] = b"StartupLocality\0";
/// Localities of a TPM: 0 to 4.
const MAX_LOCALITY: u8 = 4;
/// Hash algorithms that a log may name: the registry has a dozen.
const MAX_ALGORITHMS: u32 = 32;
/// The widest digest of the registry, bytes.
const MAX_DIGEST: u16 = 64;

/// Why an event log cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EventLogError {
    /// More bytes than any firmware reserves.
    #[error("the event log has {size} bytes, more than the {MAX_LOG} that are read: this is not an event log")]
    TooLarge {
        /// Its size, bytes.
        size: usize,
    },
    /// The first event, which names the hash algorithms, is missing or damaged.
    #[error("the event log's first event, at offset {offset:#x}, {reason}")]
    Header {
        /// Where in the log, bytes.
        offset: usize,
        /// What is wrong.
        reason: String,
    },
    /// A later event is damaged, or the log ends inside of it.
    #[error("event {number} of the event log, at offset {offset:#x}, {reason}")]
    Event {
        /// Its number, from 0.
        number: usize,
        /// Where in the log, bytes.
        offset: usize,
        /// What is wrong.
        reason: String,
    },
}

/// What firmware, loader or kernel extended one register with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Its number in the log; the one that names the algorithms is 0.
    pub number: usize,
    /// Where it begins in the log, bytes.
    pub offset: usize,
    /// The register; `u32::MAX` in some events of type `EV_NO_ACTION`.
    pub pcr: u32,
    /// What kind of event it is.
    pub kind: EventType,
    /// What the register was extended with, in each bank that this program knows.
    pub digests: Digests,
    /// What the event says of itself: its form depends on the type. Not always what was hashed.
    pub data: Vec<u8>,
}

/// An event log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventLog {
    banks: Vec<Bank>,
    events: Vec<Event>,
    locality: u8,
}

impl EventLog {
    /// Reads a log.
    ///
    /// # Errors
    /// [`EventLogError`] if it is no crypto agile log, if it ends in the middle of an event, if an event has a digest that
    /// the first event does not name or lacks one that it names, or if it extends a register that no TPM has.
    pub fn parse(bytes: &[u8]) -> Result<Self, EventLogError> {
        if bytes.len() > MAX_LOG {
            return Err(EventLogError::TooLarge { size: bytes.len() });
        }
        let mut reader = Reader { bytes, at: 0 };
        let (first, algorithms) =
            header(&mut reader).map_err(|reason| EventLogError::Header { offset: reader.at, reason })?;
        let banks = Bank::ALL.into_iter().filter(|bank| algorithms.contains_key(&bank.tpm_algorithm())).collect();
        let mut log = Self { banks, events: vec![first], locality: 0 };
        while reader.at < bytes.len() {
            let (number, offset) = (log.events.len(), reader.at);
            let fail = |reason| EventLogError::Event { number, offset, reason };
            let event = event(&mut reader, number, &algorithms).map_err(fail)?;
            if let Some(locality) = startup_locality(&event).map_err(fail)? {
                log.locality = locality;
            }
            log.events.push(event);
        }
        Ok(log)
    }

    /// The banks whose digests the log has, of those that this program knows.
    #[must_use]
    pub fn banks(&self) -> &[Bank] {
        &self.banks
    }

    /// All events, in the order in which they happened.
    #[must_use]
    pub fn events(&self) -> &[Event] {
        &self.events
    }

    /// The events that extended this register.
    pub fn of_pcr(&self, pcr: u32) -> impl Iterator<Item = &Event> {
        self.events.iter().filter(move |event| event.pcr == pcr && event.kind != EventType::NO_ACTION)
    }

    /// What the events make of the registers of a bank, for each register that the log names. What the operating system
    /// extended is not in it.
    #[must_use]
    pub fn replay(&self, bank: Bank) -> BTreeMap<u32, Vec<u8>> {
        let mut registers: BTreeMap<u32, Vec<u8>> = BTreeMap::new();
        for event in self.events.iter().filter(|event| event.kind != EventType::NO_ACTION) {
            if let Some(digest) = event.digests.get(bank) {
                let register = registers.entry(event.pcr).or_insert_with(|| self.initial(event.pcr, bank));
                *register = hash(bank, &[register, digest]);
            }
        }
        registers
    }

    /// Zeros; the last byte of PCR 0 is the locality in which the TPM was started.
    fn initial(&self, pcr: u32, bank: Bank) -> Vec<u8> {
        let mut register = vec![0; bank.width()];
        if let (0, Some(last)) = (pcr, register.last_mut()) {
            *last = self.locality;
        }
        register
    }
}

/// The locality, if this is the event that names it.
fn startup_locality(event: &Event) -> Result<Option<u8>, String> {
    if event.kind != EventType::NO_ACTION || event.pcr != 0 {
        return Ok(None);
    }
    match event.data.strip_prefix(STARTUP_LOCALITY) {
        Some([locality, ..]) if *locality <= MAX_LOCALITY => Ok(Some(*locality)),
        Some([locality, ..]) => Err(format!("names the startup locality {locality}: there are 0 to {MAX_LOCALITY}")),
        Some([]) => Err("is a StartupLocality event without a locality".to_owned()),
        None => Ok(None),
    }
}

/// `TCG_PCR_EVENT` with a `TCG_EfiSpecIdEvent`: the width of the digests of each algorithm.
fn header(reader: &mut Reader<'_>) -> Result<(Event, BTreeMap<u16, u16>), String> {
    let (pcr, kind) = (reader.u32()?, EventType(reader.u32()?));
    if (pcr, kind) != (0, EventType::NO_ACTION) {
        return Err(format!(
            "is {kind} of PCR {pcr}, not EV_NO_ACTION of PCR 0: this is not an event log of a TPM 2.0"
        ));
    }
    reader.take(Bank::Sha1.width())?;
    let data = reader.sized()?;
    let Some(rest) = data.strip_prefix(SIGNATURE) else {
        let text: String = data.iter().take(15).map(|byte| char::from(*byte).escape_default().to_string()).collect();
        return Err(format!(
            "begins with \"{text}\", not \"Spec ID Event03\": only the crypto agile logs of TPM 2.0 can be read"
        ));
    };
    let mut fields = Reader { bytes: rest, at: 0 };
    // Platform class, version of the specification (minor, major, errata), width of an integer.
    fields.take(8)?;
    let count = fields.u32()?;
    if count == 0 || count > MAX_ALGORITHMS {
        return Err(format!("names {count} hash algorithms: 1 to {MAX_ALGORITHMS} are possible"));
    }
    let mut algorithms = BTreeMap::new();
    for _ in 0..count {
        let (algorithm, width) = (fields.u16()?, fields.u16()?);
        let known = Bank::ALL.into_iter().find(|bank| bank.tpm_algorithm() == algorithm);
        if width == 0 || width > MAX_DIGEST || known.is_some_and(|bank| bank.width() != usize::from(width)) {
            return Err(format!("gives digests of the algorithm {algorithm:#06x} {width} bytes"));
        }
        if algorithms.insert(algorithm, width).is_some() {
            return Err(format!("names the algorithm {algorithm:#06x} twice"));
        }
    }
    let vendor = fields.u8()?;
    fields.take(usize::from(vendor))?;
    if fields.at != rest.len() {
        return Err(format!("has {} bytes after its end", rest.len() - fields.at));
    }
    let event = Event { number: 0, offset: 0, pcr, kind, digests: Digests::default(), data: data.to_vec() };
    Ok((event, algorithms))
}

/// `TCG_PCR_EVENT2`.
fn event(reader: &mut Reader<'_>, number: usize, algorithms: &BTreeMap<u16, u16>) -> Result<Event, String> {
    let offset = reader.at;
    let (pcr, kind) = (reader.u32()?, EventType(reader.u32()?));
    if pcr >= PCR_COUNT && (pcr, kind) != (NO_PCR, EventType::NO_ACTION) {
        return Err(format!("is {kind} of PCR {pcr}: a TPM has {PCR_COUNT} registers"));
    }
    let count = reader.u32()?;
    let mut seen = Vec::new();
    let mut digests = BTreeMap::new();
    for _ in 0..count {
        let algorithm = reader.u16()?;
        let Some(width) = algorithms.get(&algorithm) else {
            return Err(format!("has a digest of the algorithm {algorithm:#06x}, which the first event does not name"));
        };
        // Bounds the loop too: no more turns than there are algorithms.
        if seen.contains(&algorithm) {
            return Err(format!("has two digests of the algorithm {algorithm:#06x}"));
        }
        seen.push(algorithm);
        let digest = reader.take(usize::from(*width))?;
        if let Some(bank) = Bank::ALL.into_iter().find(|bank| bank.tpm_algorithm() == algorithm) {
            digests.insert(bank, digest.to_vec());
        }
    }
    // An event without a bank's digest would make the replay of that bank wrong without a word.
    if kind != EventType::NO_ACTION
        && let Some(missing) = algorithms.keys().find(|algorithm| !seen.contains(algorithm))
    {
        return Err(format!("has no digest of the algorithm {missing:#06x}, which the first event names"));
    }
    let data = reader.sized()?.to_vec();
    let digests = Digests::new(digests).map_err(|error| error.to_string())?;
    Ok(Event { number, offset, pcr, kind, digests, data })
}

/// Little-endian fields, one after the other.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], String> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let taken = rest.get(..count).ok_or_else(|| {
            format!("is cut short: {count} bytes are needed at offset {:#x}, {} are there", self.at, rest.len())
        })?;
        self.at += count;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        Ok(self.take(N)?.first_chunk().copied().unwrap_or([0; N]))
    }

    fn u8(&mut self) -> Result<u8, String> {
        self.array().map(u8::from_le_bytes)
    }

    fn u16(&mut self) -> Result<u16, String> {
        self.array().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Result<u32, String> {
        self.array().map(u32::from_le_bytes)
    }

    /// As many bytes as the 32-bit number before them says.
    fn sized(&mut self) -> Result<&'a [u8], String> {
        let size = self.u32()?;
        self.take(usize::try_from(size).unwrap_or(usize::MAX))
    }
}

impl fmt::Display for Event {
    /// `event 23, PCR 4, EV_EFI_BOOT_SERVICES_APPLICATION, \EFI\BOOT\BOOTX64.EFI`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "event {}, PCR {}, {}", self.number, self.pcr, self.kind)?;
        match self.subject() {
            Some(subject) => write!(f, ", {subject}"),
            None => Ok(()),
        }
    }
}
