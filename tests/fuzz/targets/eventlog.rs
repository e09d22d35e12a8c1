//! Event logs, signature lists and the images that firmware measures: what is accepted says the same in every form.
#![no_main]

use std::io::Cursor;

use kairos_init::boot::measure::compare::compare;
use kairos_init::boot::measure::event::Digests;
use kairos_init::boot::measure::eventlog::{EventLog, EventLogError};
use kairos_init::boot::measure::firmware::{SecureBootVariables, pcr4_events, pcr7_events};
use kairos_init::boot::measure::image::LoadedImage;
use kairos_init::boot::measure::prediction::{ExpectedEvent, Prediction};
use kairos_init::boot::pcr::Bank;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    log(bytes);
    variable(bytes);
    if let Ok(image) = LoadedImage::read(&mut Cursor::new(bytes), "image.efi") {
        assert!(Bank::ALL.iter().all(|bank| image.digests().get(*bank).is_some()));
        assert_eq!(pcr4_events(&[image]).len(), 3);
    }
});

fn log(bytes: &[u8]) {
    let log = match EventLog::parse(bytes) {
        Ok(log) => log,
        Err(error) => {
            assert!(!error.to_string().contains(char::is_control));
            if let EventLogError::Event { number, offset, .. } = error {
                // What comes before the event that is named is a whole log.
                assert_eq!(EventLog::parse(&bytes[..offset]).map(|log| log.events().len()), Ok(number));
            }
            return;
        }
    };
    let mut prediction = Prediction::new();
    for pcr in 0..24 {
        let expected = |digests: &Digests| !digests.is_empty();
        let events = log.of_pcr(pcr).filter(|event| expected(&event.digests)).map(|event| ExpectedEvent {
            kind: event.kind,
            what: event.subject().unwrap_or_default(),
            input: String::new(),
            digests: event.digests.clone(),
        });
        prediction = prediction.with(pcr, events.collect());
    }
    for event in log.events() {
        assert!(!event.to_string().contains(char::is_control));
        assert!(event.offset < bytes.len());
    }
    let json = serde_json::to_string(&prediction).expect("a prediction is written");
    assert_eq!(serde_json::from_str::<Prediction>(&json).expect("and read"), prediction);
    // A log is as it is itself, where there is something to compare by.
    if !log.banks().is_empty() {
        assert!(compare(&log, &prediction).is_equal());
    }
    for &bank in log.banks() {
        for (pcr, value) in log.replay(bank) {
            assert_eq!(value.len(), bank.width());
            // PCR 0 may begin at another value than zeros.
            assert!(pcr == 0 || prediction.value(pcr, bank) == Some(value));
        }
    }
}

fn variable(bytes: &[u8]) {
    let variables = SecureBootVariables { secure_boot: Some(false), pk: bytes, kek: bytes, db: bytes, dbx: bytes };
    let unsigned = LoadedImage::new("unsigned", Digests::of(&[b"x"]), Vec::new());
    // As a signature too: the parser of PKCS#7 must not mind.
    let signed = LoadedImage::new("signed", Digests::of(&[b"x"]), vec![bytes.to_vec()]);
    match pcr7_events(&variables, &[]) {
        Ok(events) => {
            assert_eq!(events.len(), 6);
            let on = SecureBootVariables { secure_boot: Some(true), ..variables };
            assert!(pcr7_events(&on, &[unsigned]).is_err());
            let _ = pcr7_events(&on, &[signed]);
        }
        Err(error) => assert!(!error.to_string().contains(char::is_control)),
    }
}
