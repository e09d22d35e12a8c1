//! kmod's binary index: what is read is bounded by the file, and can be written and read again.
#![no_main]

use kairos_init::drivers::depmod::binary::{self, Entry};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    reads(bytes);
    // With a sound header, so that few inputs end there: the root is where the first byte says.
    if let Some((&first, rest)) = bytes.split_first() {
        let mut framed = vec![0xb0, 0x07, 0xf4, 0x57, 0, 2, 0, 1, first & 0xe0, 0, 0, 12 + (first & 0x1f)];
        framed.extend_from_slice(rest);
        reads(&framed);
    }
    // As text: the lines are entries.
    if let Ok(text) = std::str::from_utf8(bytes) {
        let entry = |line: &str| {
            let (key, value) = line.split_once(' ')?;
            Some(Entry { key: key.to_owned(), priority: u32::try_from(value.len() % 3).ok()?, value: value.to_owned() })
        };
        let entries: Vec<Entry> = text.lines().filter_map(entry).collect();
        if let Ok(written) = binary::write(entries.clone()) {
            let found = binary::read(&written).expect("what was written is read");
            assert!(found.is_sorted_by(|a, b| (&a.key, a.priority) <= (&b.key, b.priority)));
            assert_eq!(sorted(found), sorted(entries));
        }
    }
});

fn reads(bytes: &[u8]) {
    let Ok(found) = binary::read(bytes) else { return };
    let memory: usize = found.iter().map(|entry| size_of::<Entry>() + entry.key.len() + entry.value.len()).sum();
    assert!(memory <= 64 * bytes.len() + (1 << 20), "{memory} bytes of entries from {} bytes", bytes.len());
    for entry in &found {
        assert!(entry.key.is_ascii() && !entry.key.contains('\0') && entry.key.len() <= 1024, "{entry:?}");
        assert!(entry.value.is_ascii() && !entry.value.contains('\0'), "{entry:?}");
    }
    // The writer puts later ones of equal priority first, so a reader's order is turned around before.
    let turned = found.iter().rev().cloned().collect();
    let written = binary::write(turned).expect("what was read can be written");
    let again = binary::read(&written).expect("what was written is read");
    if found.is_sorted_by(|a, b| (&a.key, a.priority) <= (&b.key, b.priority)) {
        assert_eq!(again, found);
    } else {
        assert_eq!(sorted(again), sorted(found));
    }
}

fn sorted(mut entries: Vec<Entry>) -> Vec<Entry> {
    entries.sort();
    entries
}
