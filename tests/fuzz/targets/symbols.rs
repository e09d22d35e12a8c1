//! The symbols of a module's ELF file: names inside of the file, and no more of them than it has room for.
#![no_main]

use kairos_init::drivers::depmod::symbols::{exported, undefined};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    for names in [undefined(bytes), exported(bytes)].into_iter().flatten() {
        assert!(names.len() <= bytes.len());
        assert!(names.iter().map(|name| name.len()).sum::<usize>() <= 5 * bytes.len(), "names are multiplied");
        assert!(names.iter().all(|name| !name.contains(&0)));
    }
});
