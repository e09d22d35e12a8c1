//! A UKI that is checked: any bytes give a report, in little memory, and nothing of them reaches a terminal as it is.
#![no_main]

use kairos_init::boot::verify::{Report, Request, Source, verify};
use libfuzzer_sys::fuzz_target;

struct Bytes<'a>(&'a [u8]);

impl Source for Bytes<'_> {
    fn length(&self) -> std::io::Result<u64> {
        self.0.length()
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> std::io::Result<usize> {
        self.0.read_at(buffer, offset)
    }
}

fuzz_target!(|bytes: &[u8]| {
    let source = Bytes(bytes);
    // As the UKI, as the boot manager beside it and as the image before it.
    let request = Request { loader: Some(&source), upgrade_from: Some(&source), jobs: 1, ..Request::default() };
    let report: Report = verify(&source, &request).expect("memory can be read");
    assert!(!report.checks.is_empty());
    for check in &report.checks {
        assert!(!check.reason.is_empty() && !check.reason.contains(char::is_control), "{check:?}");
    }
});
