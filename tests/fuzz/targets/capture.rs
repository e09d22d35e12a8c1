//! Captures and dumps of lspci and lsusb: what is accepted is written so that it reads the same.
#![no_main]

use kairos_init::drivers::target::Capture;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    match Capture::parse(text, "fuzz") {
        Ok(capture) => {
            let again = capture.to_string();
            assert_eq!(Capture::parse(&again, "again").as_ref(), Ok(&capture));
            assert!(capture.devices.iter().all(|device| !device.chars().any(char::is_control)));
        }
        Err(error) => assert!(!error.to_string().contains(char::is_control)),
    }
});
