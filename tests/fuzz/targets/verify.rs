//! A UKI that is checked: any bytes give a report, in little memory, and nothing of them reaches a terminal as it is.
#![no_main]

use kairos_init::boot::verify::{Report, Request, verify};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    // As the UKI, as the boot manager beside it and as the image before it.
    let request = Request { loader: Some(&bytes), upgrade_from: Some(&bytes), jobs: 1, ..Request::default() };
    let report: Report = verify(&bytes, &request).expect("memory can be read");
    assert!(!report.checks.is_empty());
    for check in &report.checks {
        assert!(!check.reason.is_empty() && !check.reason.contains(char::is_control), "{check:?}");
    }
});
