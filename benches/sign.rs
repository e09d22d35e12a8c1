//! How fast an image is hashed, summed and signed. `cargo bench --bench sign`

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a benchmark may stop at its own mistakes")]

use std::hint::black_box;
use std::io::Cursor;

use divan::Bencher;
use divan::counter::BytesCount;
use kairos_init::boot::pcr::Bank;
use kairos_init::boot::sign::authenticode::{Existing, Signing, sign_pe};
use kairos_init::boot::sign::generate::{CertificateRequest, KeySize, generate};
use kairos_init::boot::sign::pe::{ImageHasher, PeChecksum, PeLayout};
use kairos_init::boot::sign::policy::{Pcrsig, policy, sign_policies};
use kairos_init::boot::sign::{CertificateChain, Hash, Identity, RsaSigner};
use kairos_init::cancel::Cancel;

const LENGTH: usize = 64 << 20;

fn main() {
    divan::main();
}

/// A PE32+ file with one section, filled with a pattern.
fn image() -> Vec<u8> {
    let mut pe = vec![0x5a; LENGTH];
    let mut put = |offset: usize, bytes: &[u8]| pe[offset..offset + bytes.len()].copy_from_slice(bytes);
    put(0, &[0; 0x400]);
    put(0, b"MZ");
    put(0x3c, &0x80_u32.to_le_bytes());
    put(0x80, b"PE\0\0");
    put(0x86, &1_u16.to_le_bytes());
    put(0x94, &240_u16.to_le_bytes());
    put(0x98, &0x20b_u16.to_le_bytes());
    put(0x98 + 60, &0x400_u32.to_le_bytes());
    put(0x98 + 108, &16_u32.to_le_bytes());
    put(0x188 + 16, &u32::try_from(LENGTH - 0x400).unwrap().to_le_bytes());
    put(0x188 + 20, &0x400_u32.to_le_bytes());
    pe
}

fn identity(size: KeySize) -> Identity {
    let request = CertificateRequest {
        common_name: "bench".to_owned(),
        size,
        not_before: 0,
        days: 1,
        organization: None,
        country: None,
    };
    let pair = generate(&request, &mut rand_core::OsRng).unwrap();
    let signer = RsaSigner::parse(pair.key_pem.as_bytes(), "key").unwrap();
    Identity::new(Box::new(signer), CertificateChain::parse(&pair.certificate_der, "der").unwrap()).unwrap()
}

#[divan::bench]
fn checksum(bencher: Bencher<'_, '_>) {
    let image = image();
    let layout = PeLayout::parse(&image, "x").unwrap();
    bencher.counter(BytesCount::new(LENGTH)).bench_local(|| {
        let mut checksum = PeChecksum::new(&layout);
        checksum.add(0, black_box(&image));
        checksum.finish(0)
    });
}

#[divan::bench]
fn image_hash(bencher: Bencher<'_, '_>) {
    let image = image();
    let layout = PeLayout::parse(&image, "x").unwrap();
    bencher.counter(BytesCount::new(LENGTH)).bench_local(|| {
        let mut hasher = ImageHasher::new(layout.clone());
        hasher.update(black_box(&image));
        hasher.finish().unwrap()
    });
}

#[divan::bench]
fn sign_image(bencher: Bencher<'_, '_>) {
    let (image, identity) = (image(), identity(KeySize::Rsa2048));
    let signing = [Signing { identity: &identity, hash: Hash::Sha256 }];
    bencher.counter(BytesCount::new(LENGTH)).with_inputs(|| Cursor::new(image.clone())).bench_local_refs(|file| {
        sign_pe(file, "x", &signing, Existing::Refuse, None, &Cancel::default()).unwrap();
    });
}

#[divan::bench(args = [2048, 3072, 4096])]
fn pcrsig_of_4_banks_and_4_phases(bencher: Bencher<'_, '_>, bits: usize) {
    let identity = identity(KeySize::from_bits(bits).unwrap());
    let mut list = Pcrsig::new();
    for bank in Bank::ALL {
        let key = identity.signer().public_key();
        let policies = (1..=4).map(|n| policy(bank, &vec![n; bank.width()], None, key).unwrap());
        list.insert(bank.to_string(), policies.collect());
    }
    bencher.bench_local(|| sign_policies(&mut list, identity.signer()).unwrap());
}
