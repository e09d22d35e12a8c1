//! The pack of what modules declare: what is accepted is written again so that it reads the same.
#![no_main]

use kairos_init::drivers::inventory::cache::Pack;
use libfuzzer_sys::fuzz_target;
use sha2::{Digest, Sha256};

fuzz_target!(|bytes: &[u8]| {
    reads(bytes);
    // With the digest that fits, which no fuzzer finds.
    let digest: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    reads(&[bytes, format!("sha256 {digest}\n").as_bytes()].concat());
});

fn reads(bytes: &[u8]) {
    match Pack::parse(bytes) {
        Ok(pack) => {
            let again = pack.to_bytes();
            assert_eq!(Pack::parse(&again).as_ref(), Ok(&pack));
            assert_eq!(pack.to_bytes(), again);
        }
        Err(problem) => assert!(!problem.contains(char::is_control)),
    }
}
