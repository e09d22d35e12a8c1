//! Real logs, variables and images with bytes changed, cut, doubled and swapped at random (always the same way): nothing
//! panics, and what is accepted agrees with itself. tests/fuzz does the same for longer.

use std::fs;
use std::io::Cursor;

use kairos_init::boot::measure::compare::compare;
use kairos_init::boot::measure::event::Digests;
use kairos_init::boot::measure::eventlog::{EventLog, EventLogError};
use kairos_init::boot::measure::firmware::{SecureBootVariables, pcr7_events};
use kairos_init::boot::measure::image::LoadedImage;
use kairos_init::boot::measure::prediction::{ExpectedEvent, Prediction};

use super::fixtures;
use super::images::signed;

/// Marsaglia's xorshift: the same numbers every time.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % u64::try_from(limit.max(1)).unwrap()).unwrap()
    }

    fn mutate(&mut self, seed: &[u8]) -> Vec<u8> {
        let mut bytes = seed.to_vec();
        for _ in 0..=self.below(4) {
            let at = self.below(bytes.len());
            match self.below(6) {
                0 => bytes.truncate(at),
                1 => bytes.extend_from_within(at..),
                2 if at + 4 <= bytes.len() => {
                    let value = [0_u32, 1, 3, 0xff, 0x7fff_ffff, u32::MAX][self.below(6)];
                    bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
                }
                3 if at < bytes.len() => drop(bytes.remove(at)),
                4 => bytes.insert(at, u8::try_from(self.below(256)).unwrap()),
                _ if at < bytes.len() => bytes[at] ^= 1 << self.below(8),
                _ => {}
            }
        }
        bytes
    }
}

/// `EVENTLOG_MUTATIONS` of each seed.
fn rounds() -> usize {
    std::env::var("EVENTLOG_MUTATIONS").map_or(2000, |number| number.parse().unwrap())
}

#[test]
fn logs() {
    let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15);
    let (mut read, mut refused) = (0, 0);
    for name in super::MACHINES {
        let seed = fs::read(fixtures().join(name).join("eventlog")).unwrap();
        for _ in 0..rounds() {
            let bytes = numbers.mutate(&seed);
            match EventLog::parse(&bytes) {
                Ok(log) => {
                    read += 1;
                    agrees(&log);
                }
                Err(error) => {
                    refused += 1;
                    assert!(!error.to_string().contains(char::is_control), "{error}");
                    if let EventLogError::Event { number, offset, .. } = error {
                        assert_eq!(EventLog::parse(&bytes[..offset]).map(|log| log.events().len()), Ok(number));
                    }
                }
            }
        }
    }
    assert!(read > 0 && refused > 0, "{read} {refused}");
}

/// A log is as it is itself, by digests and by replay.
fn agrees(log: &EventLog) {
    let prediction = (0..24).fold(Prediction::new(), |prediction, pcr| {
        let events = log.of_pcr(pcr).map(|event| ExpectedEvent {
            kind: event.kind,
            what: event.subject().unwrap_or_default(),
            input: String::new(),
            digests: event.digests.clone(),
        });
        prediction.with(pcr, events.collect())
    });
    assert!(log.events().iter().all(|event| !event.to_string().contains(char::is_control)));
    assert!(log.banks().is_empty() || compare(log, &prediction).is_equal());
    for bank in log.banks() {
        for (pcr, value) in log.replay(*bank) {
            assert!(pcr == 0 || prediction.value(pcr, *bank) == Some(value));
        }
    }
}

#[test]
fn variables_and_signatures() {
    let mut numbers = Numbers(0x1234_5678_9abc_def1);
    let image = fs::read(signed().join("signed.efi")).unwrap();
    let image = LoadedImage::read(&mut Cursor::new(image), "signed.efi").unwrap();
    let signature = image.signatures().next().unwrap().to_vec();
    let seed = fs::read(fixtures().join("chained/db")).unwrap();
    for round in 0..rounds() {
        let db = numbers.mutate(&seed);
        let other = numbers.mutate(&signature);
        // One of the two is whole, so that each is looked at closely.
        let (db, other) = if round % 2 == 0 { (&db, &signature) } else { (&seed, &other) };
        let image = LoadedImage::new("x", Digests::of(&[b"x"]), vec![other.clone()]);
        let variables = SecureBootVariables { secure_boot: Some(true), db, ..SecureBootVariables::default() };
        if let Err(error) = pcr7_events(&variables, &[image]) {
            assert!(!error.to_string().contains(char::is_control), "{error}");
        }
    }
}

#[test]
fn image_headers_and_certificate_tables() {
    let mut numbers = Numbers(0x0fed_cba9_8765_4321);
    let seed = fs::read(signed().join("signed.efi")).unwrap();
    let whole = LoadedImage::read(&mut Cursor::new(&seed), "x").unwrap();
    let (head, tail) = (seed.len().min(1024), 1400);
    for round in 0..rounds() / 10 {
        // Changes in the middle are not interesting: only the digest differs.
        let bytes = if round % 2 == 0 {
            [numbers.mutate(&seed[..head]), seed[head..].to_vec()].concat()
        } else {
            [seed[..seed.len() - tail].to_vec(), numbers.mutate(&seed[seed.len() - tail..])].concat()
        };
        if let Ok(image) = LoadedImage::read(&mut Cursor::new(&bytes), "x") {
            assert!(bytes != seed || image == whole);
        }
    }
}
