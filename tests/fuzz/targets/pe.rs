//! EFI programs as building, signing, measuring and attaching read them: an error or a result, in little memory; and what says that an
//! image can be signed has signed it so that it reads as signed.
#![no_main]

use std::collections::BTreeMap;
use std::io::Cursor;

use kairos_init::boot::measure::SectionDigests;
use kairos_init::boot::measure::image::LoadedImage;
use kairos_init::boot::pcr::Bank;
use kairos_init::boot::sign::Hash;
use kairos_init::boot::sign::authenticode::{Existing, digest_pe};
use kairos_init::boot::sign::policy::Pcrsig;
use kairos_init::boot::uki::attach::attach;
use kairos_init::boot::uki::inspect::{inspect, replay};
use kairos_init::boot::uki::kernel::{Kernel, release_of, unpack};
use kairos_init::boot::uki::layout::Layout;
use kairos_init::boot::uki::stub::Stub;
use kairos_init::boot::uki::{reuse, splash};
use kairos_init::cancel::Cancel;
use libfuzzer_sys::fuzz_target;

const LIMIT: u64 = 1 << 20;

fuzz_target!(|bytes: &[u8]| {
    let mut file = Cursor::new(bytes);
    for stub in [Stub::parse(bytes), Stub::of_uki(&mut file, "a file")].into_iter().flatten() {
        if let Ok(layout) = Layout::new(&stub, Some(b"sbat,1,x\n"), &[], true) {
            assert!(layout.head.len() as u64 <= layout.file_size);
        }
    }
    let _ = Kernel::check(bytes, 0x8664);
    let _ = release_of(bytes, LIMIT);
    if let Ok(kernel) = unpack(bytes.to_vec(), LIMIT) {
        assert!(kernel.len() as u64 <= LIMIT || kernel == bytes);
    }
    let _ = splash::check(bytes, bytes.len() as u64);
    if let Ok(sections) = inspect(&mut file, "a file") {
        assert!(sections.iter().all(|(_, section)| section.size <= bytes.len() as u64));
    }
    let mut digests = SectionDigests::new(Bank::Sha256);
    if replay(&mut file, "a file", &mut digests).is_ok() {
        for profile in 0..digests.profiles() {
            assert!(!digests.variants(profile).is_empty());
        }
    }
    let _ = LoadedImage::read(&mut file, "a file");
    let recorded = BTreeMap::from([(Bank::Sha256, vec![0; 32]), (Bank::Sha384, vec![0; 48])]);
    let _ = reuse::proven(&mut file, "a file", &recorded, &[], 1);
    let _ = attach(&mut Cursor::new(bytes.to_vec()), "a file", &Pcrsig::new(), &[]);
    for existing in [Existing::Refuse, Existing::Keep, Existing::Remove] {
        let pass = digest_pe(&mut file, "a file", &[Hash::Sha256, Hash::Sha384], existing, &Cancel::default());
        if let Ok(signature) = pass.and_then(|pass| pass.sign(&[], None)) {
            assert!(signature.length <= bytes.len() as u64);
        }
    }
});
