//! `.modinfo`: the ELF headers, the decoders, and the short cut, which must say what the headers say.
#![no_main]

use flate2::Crc;
use kairos_init::drivers::inventory::{Compression, Declared, ModInfo, modinfo::from_bytes};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let plain = from_bytes(bytes, Compression::None, true).ok();
    if let Some(info) = &plain {
        is_sound(info, bytes.len());
    }
    for compression in [Compression::Gzip, Compression::Xz, Compression::Zstd] {
        let _ = from_bytes(bytes, compression, true);
    }
    // In a compressed file the ELF headers say the same. The short cut need not agree on any bytes: a file that has two
    // lists, or whose headers call something else `.modinfo`, is not a kernel build's.
    let stored = gzip(bytes);
    assert_eq!(from_bytes(&stored, Compression::Gzip, false).ok(), plain);
    if let Ok(info) = from_bytes(&stored, Compression::Gzip, true) {
        is_sound(&info, bytes.len());
    }
    short_cut_on_a_sound_module(bytes);
});

/// Lays out a module as the kernel's build does, with what the fuzzer likes before, in and behind the list, and holds the
/// short cut against the headers. Ruled out is what the short cut cannot tell from a list: known keys elsewhere.
fn short_cut_on_a_sound_module(bytes: &[u8]) {
    const SEPARATOR: u8 = 0xff;
    let mut parts = bytes.splitn(3, |&b| b == SEPARATOR);
    let (Some(before), Some(list), Some(after)) = (parts.next(), parts.next(), parts.next()) else { return };
    let section: Vec<u8> = list.split(|&b| b == 0).filter(|s| is_known(s)).flat_map(|s| [s, b"\0"].concat()).collect();
    // `src` before `version=` reads as another known key.
    let makes_a_key = before.ends_with(b"src") || before.ends_with(b"scm");
    if section.is_empty() || makes_a_key || holds_a_key(before) || holds_a_key(after) {
        return;
    }
    let module = elf(before, &section, after);
    let by_headers = from_bytes(&module, Compression::None, true).expect("a sound module is read");
    assert_eq!(by_headers, ModInfo::from_section(&section));
    let by_list = from_bytes(&gzip(&module), Compression::Gzip, true).expect("a sound module is read");
    assert_eq!(by_list, by_headers, "the short cut says something else than the headers");
}

fn is_sound(info: &ModInfo, length: usize) {
    let total: usize = info.fields().map(|(key, value)| key.len() + value.len() + 2).sum();
    assert!(total <= length + 1, "{total} bytes of strings from {length}");
    assert!(info.fields().all(|(key, value)| KNOWN.contains(&key) && !value.contains(&0)));
    for name in Declared::from(info).firmware {
        assert!(!name.as_str().starts_with('/') && name.as_str().split('/').all(|component| component != ".."));
    }
    assert!(info.depends().iter().chain(&info.name()).all(|name| !name.as_str().contains(['/', '-'])));
}

const KNOWN: [&[u8]; 22] = [
    b"alias",
    b"author",
    b"depends",
    b"description",
    b"file",
    b"firmware",
    b"import_ns",
    b"intree",
    b"license",
    b"livepatch",
    b"name",
    b"parm",
    b"parmtype",
    b"retpoline",
    b"scmversion",
    b"softdep",
    b"srcversion",
    b"staging",
    b"supported",
    b"vermagic",
    b"version",
    b"weakdep",
];

fn is_known(string: &[u8]) -> bool {
    string.iter().position(|&b| b == b'=').is_some_and(|at| KNOWN.contains(&&string[..at]))
}

fn holds_a_key(bytes: &[u8]) -> bool {
    (0..bytes.len()).any(|at| bytes[at] == b'=' && KNOWN.iter().any(|key| bytes[..at].ends_with(key)))
}

/// In blocks that are stored as they are: compressing would take most of the time.
fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut out = b"\x1f\x8b\x08\0\0\0\0\0\0\xff".to_vec();
    for block in bytes.chunks(usize::from(u16::MAX)) {
        let length = u16::try_from(block.len()).expect("chunks are that small");
        out.push(0);
        out.extend([length, !length].map(u16::to_le_bytes).concat());
        out.extend_from_slice(block);
    }
    // The last one, empty.
    out.extend_from_slice(b"\x01\0\0\xff\xff");
    let mut sum = Crc::new();
    sum.update(bytes);
    out.extend([sum.sum(), sum.amount()].map(u32::to_le_bytes).concat());
    out
}

/// A relocatable ELF64 file: header, `before`, `.modinfo`, `after`, names, section headers.
fn elf(before: &[u8], section: &[u8], after: &[u8]) -> Vec<u8> {
    const NAMES: &[u8] = b"\0.modinfo\0.shstrtab\0";
    const HEADER: usize = 64;
    let section_at = HEADER + before.len();
    let names_at = section_at + section.len() + after.len();
    let headers_at = (names_at + NAMES.len()).next_multiple_of(8);
    let mut out = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    out.extend([1u16, 62].map(u16::to_le_bytes).concat());
    out.extend(1u32.to_le_bytes());
    out.extend([0, 0, headers_at as u64].map(u64::to_le_bytes).concat());
    out.extend(0u32.to_le_bytes());
    out.extend([64u16, 0, 0, 64, 3, 2].map(u16::to_le_bytes).concat());
    for part in [before, section, after, NAMES] {
        out.extend_from_slice(part);
    }
    out.resize(headers_at + 64, 0);
    for (name, kind, at, length) in [(1u32, 1u32, section_at, section.len()), (10, 3, names_at, NAMES.len())] {
        out.extend([name, kind].map(u32::to_le_bytes).concat());
        out.extend([0, 0, at as u64, length as u64, 0, 1, 0].map(u64::to_le_bytes).concat());
    }
    out
}
