//! What a kernel and the ends of its modules say: settings, boot image, certificates, signatures.
#![no_main]

use std::io::Read;

use kairos_init::drivers::check::certificates::Certificates;
use kairos_init::drivers::check::config::KernelConfig;
use kairos_init::drivers::check::image;
use kairos_init::drivers::check::signature::Signature;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(text) = std::str::from_utf8(bytes) {
        if let Err(error) = KernelConfig::parse(text) {
            assert!(error.line <= text.lines().count());
            assert!(!error.to_string().contains(char::is_control), "{error} would reach a terminal");
        }
    }
    if let Ok(plain) = image::open(bytes) {
        // A decoder may give a thousand times what it takes; that it goes on is enough.
        let _ = plain.take(1 << 20).read_to_end(&mut Vec::new());
    }
    if let Ok(found) = Certificates::scan(&mut &*bytes) {
        for (key, _) in found.iter() {
            assert!(found.holds(key) && !key.to_string().contains(char::is_control));
        }
    }
    is_printable(&Signature::of_end(bytes));
    // What comes before the mark, and the structure that fits.
    let mut end = bytes.to_vec();
    end.extend(b"\0\0\x02\0\0\0\0\0");
    end.extend(u32::try_from(bytes.len()).unwrap_or_default().to_be_bytes());
    end.extend(b"~Module signature appended~\n");
    is_printable(&Signature::of_end(&end));
});

fn is_printable(signature: &Signature) {
    match signature {
        Signature::None => {}
        Signature::Signed { keys, digest } => {
            assert!(!keys.is_empty() && !digest.is_empty());
            assert!(keys.iter().all(|key| !key.to_string().contains(char::is_control)));
        }
        Signature::Damaged(problem) => assert!(!problem.contains(char::is_control), "{problem:?}"),
    }
}
