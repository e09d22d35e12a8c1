//! Against plain reference implementations, over every way of cutting the input.

use proptest::prelude::*;

use sha2::{Digest, Sha256};

use super::*;

/// A PE32+ image: headers of 0x200 bytes, one section of 0x200, `tail` after it.
fn image(tail: &[u8]) -> Vec<u8> {
    let mut pe: Vec<u8> = (0..0x400_u32).map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()[3]).collect();
    let mut put = |offset: usize, bytes: &[u8]| pe[offset..offset + bytes.len()].copy_from_slice(bytes);
    put(0, b"MZ");
    put(0x3c, &0x80_u32.to_le_bytes());
    put(0x80, b"PE\0\0");
    put(0x86, &1_u16.to_le_bytes());
    put(0x94, &240_u16.to_le_bytes());
    put(0x98, &0x20b_u16.to_le_bytes());
    put(0x98 + 60, &0x200_u32.to_le_bytes());
    put(0x98 + 108, &16_u32.to_le_bytes());
    put(0x98 + 144, &[0; 8]);
    put(0x188 + 16, &0x200_u32.to_le_bytes());
    put(0x188 + 20, &0x200_u32.to_le_bytes());
    pe.extend_from_slice(tail);
    pe
}

fn reason(pe: &[u8]) -> String {
    PeLayout::parse(pe, "x.efi").unwrap_err().to_string()
}

/// The sum as the documentation of `CheckSumMappedFile` has it, word by word.
fn plain_checksum(pe: &[u8], field: usize) -> u32 {
    let mut sum = 0_u32;
    for at in (0..pe.len()).step_by(2) {
        let byte = |at: usize| if (field..field + 4).contains(&at) { 0 } else { pe.get(at).copied().unwrap_or(0) };
        sum += u32::from(u16::from_le_bytes([byte(at), byte(at + 1)]));
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum + u32::try_from(pe.len()).unwrap()
}

fn plain_digest(pe: &[u8], checksum: usize, entry: usize) -> [u8; 32] {
    let mut text = [&pe[..checksum], &pe[checksum + 4..entry], &pe[entry + 8..]].concat();
    text.resize(text.len() + (8 - pe.len() % 8) % 8, 0);
    Sha256::digest(text).into()
}

proptest! {
    #[test]
    fn pieces_of_any_length_give_the_same(tail in prop::collection::vec(any::<u8>(), 0..40),
                                          mut cuts in prop::collection::vec(0_usize..1064, 0..12)) {
        let pe = image(&tail);
        let layout = PeLayout::parse(&pe, "x.efi").unwrap();
        cuts.retain(|cut| *cut <= pe.len());
        cuts.extend([0, pe.len()]);
        cuts.sort_unstable();
        let (mut hasher, mut checksum) = (ImageHasher::new(layout.clone()), PeChecksum::new(&layout));
        for cut in cuts.windows(2) {
            hasher.update(&pe[cut[0]..cut[1]]);
        }
        for cut in cuts.windows(2).rev() {
            checksum.add(cut[0] as u64, &pe[cut[0]..cut[1]]);
        }
        prop_assert_eq!(hasher.finish().unwrap(), plain_digest(&pe, 0x98 + 64, 0x98 + 144));
        prop_assert_eq!(checksum.finish(u32::try_from(pe.len()).unwrap()), plain_checksum(&pe, 0x98 + 64));
    }

    #[test]
    fn hostile_headers_never_panic(at in 0_usize..0x1b0, bytes in any::<[u8; 4]>(), length in 0_usize..0x400) {
        let mut pe = image(&[]);
        pe[at..at + 4].copy_from_slice(&bytes);
        pe.truncate(length.max(at));
        if let Ok(layout) = PeLayout::parse(&pe, "x.efi") {
            let mut hasher = ImageHasher::new(layout);
            hasher.update(&pe);
            let _ = hasher.finish();
        }
    }
}

#[test]
fn a_certificate_table_is_not_hashed() {
    let unsigned = image(&[]);
    let mut signed = [unsigned.clone(), vec![0x77; 24]].concat();
    signed[0x98 + 144..][..8].copy_from_slice(&[0, 4, 0, 0, 24, 0, 0, 0]);
    let digest = |pe: &[u8]| {
        let mut hasher = ImageHasher::new(PeLayout::parse(pe, "x.efi").unwrap());
        pe.chunks(7).for_each(|piece| hasher.update(piece));
        hasher.finish().unwrap()
    };
    assert!(PeLayout::parse(&signed, "x.efi").unwrap().is_signed());
    assert_eq!(digest(&signed), digest(&unsigned));
}

#[test]
fn says_what_is_wrong_with_an_image() {
    let with = |offset: usize, bytes: &[u8]| {
        let mut pe = image(&[]);
        pe[offset..offset + bytes.len()].copy_from_slice(bytes);
        reason(&pe)
    };
    let prefix = "x.efi is not a PE image that can be signed: ";
    let text = |reason: &str| format!("{prefix}{reason}");
    assert_eq!(reason(b""), text("its headers are cut short: there is nothing at offset 0x0"));
    assert_eq!(reason(b"\x7fELF"), text("it does not begin with MZ"));
    assert_eq!(with(0x3c, &[0xff; 4]), text("its headers are cut short: there is nothing at offset 0xffffffff"));
    assert_eq!(with(0x80, b"NE"), text("there is no PE signature at offset 0x80"));
    assert_eq!(with(0x98, &[7, 1]), text("its optional header has the unknown magic 0x107"));
    assert_eq!(with(0x98 + 108, &[4]), text("its optional header has no room for a certificate table"));
    assert_eq!(with(0x94, &[100]), text("its optional header has no room for a certificate table"));
    assert_eq!(with(0x86, &[9]), text("SizeOfHeaders is 0x200, and its section table ends after that"));
    assert_eq!(
        with(0x188 + 20, &[0, 3]),
        text("the section at offset 0x300 has a gap before it: the data before it ends at 0x200")
    );
    assert_eq!(
        with(0x188 + 20, &[8, 1]),
        text("the section at offset 0x108 has other data there already: the data before it ends at 0x200")
    );
    assert_eq!(with(0x98 + 144, &[8, 0, 0, 0, 8]), text("its certificate table at 0x8 overlaps its sections"));
    let mut hasher = ImageHasher::new(PeLayout::parse(&image(&[]), "x.efi").unwrap());
    hasher.update(&image(&[])[..0x3ff]);
    assert_eq!(
        hasher.finish().unwrap_err().to_string(),
        text("it ends at 0x3ff, and its sections at 0x400: it is cut short")
    );
}
