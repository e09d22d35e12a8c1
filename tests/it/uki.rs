//! UKIs against the programs that make and read them: ukify, goblin, and ourselves the other way round.

use std::collections::BTreeMap;
use std::io::{Cursor, Write};
use std::process::Command;

use kairos_init::boot::build::{BuiltUki, Policies, PolicyKey, UkiRequest, build};
use kairos_init::boot::pcr::{Bank, PhasePath};
use kairos_init::boot::section::SectionName;
use kairos_init::boot::sign::authenticode::Signing;
use kairos_init::boot::sign::generate::{CertificateRequest, KeySize, generate, pcr_key};
use kairos_init::boot::sign::{CertificateChain, Hash, Identity, RsaSigner, Signer};
use kairos_init::boot::uki::UkiError;
use kairos_init::boot::uki::assemble::Payload;
use kairos_init::boot::uki::inspect::{Description, inspect};
use kairos_init::boot::uki::kernel::unpack;
use kairos_init::boot::uki::pe::PeHeaders;
use kairos_init::boot::uki::stub::Stub;
use rand_core::OsRng;

use crate::roots;

struct Keys {
    identity: Identity,
    pcr: RsaSigner,
}

fn keys() -> Keys {
    let request = CertificateRequest {
        common_name: "test".into(),
        size: KeySize::Rsa2048,
        not_before: 0,
        days: 36500,
        organization: None,
        country: None,
    };
    let pair = generate(&request, &mut OsRng).unwrap();
    let signer = RsaSigner::parse(pair.key_pem.as_bytes(), "db.key").unwrap();
    let chain = CertificateChain::parse(pair.certificate_pem.as_bytes(), "db.pem").unwrap();
    let pcr = pcr_key(KeySize::Rsa2048, &mut OsRng).unwrap();
    Keys {
        identity: Identity::new(Box::new(signer), chain).unwrap(),
        pcr: RsaSigner::parse(pcr.private_pem.as_bytes(), "pcr.key").unwrap(),
    }
}

/// Bytes that do not compress and do not repeat.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_u32;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state.to_le_bytes()[0]
    };
    (0..length).map(|_| next()).collect()
}

fn request<'a>(
    stub: &'a Stub,
    kernel: &[u8],
    keys: Option<&'a Keys>,
    jobs: usize,
    initrd: Payload<'a>,
) -> UkiRequest<'a> {
    UkiRequest {
        stub,
        kernel: kernel.to_vec(),
        os_release: b"ID=test\nNAME=Test\n".to_vec(),
        cmdline: b"console=ttyS0 quiet".to_vec(),
        uname: b"6.12.0-test".to_vec(),
        initrd: Some(initrd),
        ucode: Some(Payload::Bytes(b"070701 not really microcode".to_vec())),
        policies: keys.map(policies).unwrap_or_default(),
        signings: keys.iter().map(|keys| Signing { identity: &keys.identity, hash: Hash::Sha256 }).collect(),
        jobs,
        ..UkiRequest::new(stub, Vec::new())
    }
}

fn policies(keys: &Keys) -> Policies<'_> {
    let key =
        PolicyKey { public: keys.pcr.public_key(), signer: Some(&keys.pcr), phases: PhasePath::signed_by_default() };
    Policies { keys: vec![key], banks: Bank::ALL.to_vec(), ..Policies::default() }
}

fn built(request: UkiRequest<'_>) -> (Vec<u8>, BuiltUki) {
    let mut out = Cursor::new(Vec::new());
    let built = build(request, &mut out).unwrap();
    assert_eq!(out.get_ref().len() as u64, built.bytes);
    (out.into_inner(), built)
}

#[test]
fn one_pass_a_stream_and_any_number_of_threads_give_the_same_bytes() {
    let (stub, kernel, keys) = (Stub::parse(&roots::stub()).unwrap(), roots::kernel(), keys());
    let initrd = noise(3_000_001);
    let stream = || {
        let initrd = initrd.clone();
        Payload::Producer(Box::new(move |out: &mut dyn Write| {
            initrd.chunks(77_777).try_for_each(|chunk| out.write_all(chunk)).map_err(Into::into)
        }))
    };
    let reader = || Payload::Reader { length: initrd.len() as u64, reader: Box::new(Cursor::new(initrd.clone())) };
    let (reference, predicted) = built(request(&stub, &kernel, Some(&keys), 1, reader()));
    for jobs in [1, 4] {
        assert_eq!(built(request(&stub, &kernel, Some(&keys), jobs, stream())), (reference.clone(), predicted.clone()));
        assert_eq!(built(request(&stub, &kernel, Some(&keys), jobs, reader())), (reference.clone(), predicted.clone()));
    }
}

#[test]
fn sections_are_read_back_by_goblin_as_they_went_in() {
    let (stub, kernel, keys) = (Stub::parse(&roots::stub()).unwrap(), roots::kernel(), keys());
    let initrd = noise(100_000);
    let (file, _) = built(request(&stub, &kernel, Some(&keys), 2, Payload::Bytes(initrd.clone())));
    let pe = goblin::pe::PE::parse(&file).unwrap();
    let content = |name: &str| {
        let section = pe.sections.iter().find(|section| section.name().unwrap() == name).unwrap();
        let start = section.pointer_to_raw_data as usize;
        file[start..start + section.virtual_size as usize].to_vec()
    };
    assert_eq!(content(".linux"), kernel);
    assert_eq!(content(".initrd"), initrd);
    assert_eq!(content(".cmdline"), b"console=ttyS0 quiet");
    assert_eq!(content(".uname"), b"6.12.0-test");
    assert!(content(".sbat").ends_with(b"unified_kernel_image/\n"));
    assert!(content(".pcrpkey").starts_with(b"-----BEGIN PUBLIC KEY-----\n"));

    // Without gaps in the file, ascending and page aligned in memory, inside SizeOfImage.
    let alignment = pe.header.optional_header.unwrap().windows_fields.section_alignment;
    let mut end = (pe.header.optional_header.unwrap().windows_fields.size_of_headers, 0);
    for section in &pe.sections {
        assert_eq!(section.pointer_to_raw_data, end.0, "{:?}", section.name());
        assert!(section.virtual_address >= end.1 && section.virtual_address.is_multiple_of(alignment));
        end = (section.pointer_to_raw_data + section.size_of_raw_data, section.virtual_address + section.virtual_size);
    }
    assert!(end.1 <= pe.header.optional_header.unwrap().windows_fields.size_of_image);
}

/// ukify and we, from the same files without a signature: the same bytes but for the policies' signatures.
#[test]
fn ukify_makes_the_same_file() {
    let folder = roots::tools_folder();
    let (stub, kernel, keys) = (roots::stub(), roots::kernel(), keys());
    let parsed = Stub::parse(&stub).unwrap();
    let initrd = noise(1_234_567);
    for (name, bytes) in [("stub", &stub), ("linux", &kernel), ("initrd", &initrd)] {
        std::fs::write(folder.path().join(name), bytes).unwrap();
    }
    std::fs::write(folder.path().join("ucode"), b"070701 not really microcode").unwrap();
    let public = kairos_init::boot::sign::Signer::public_key(&keys.pcr).pem().to_owned();
    std::fs::write(folder.path().join("pcr.pub"), public).unwrap();
    let inside = |name: &str| roots::inside_tools(&folder, name);
    let output = Command::new("chroot")
        .arg(roots::tools())
        .args([
            "ukify",
            "build",
            "--cmdline",
            "console=ttyS0 quiet",
            "--os-release",
            "ID=test\nNAME=Test\n",
            "--uname",
            "6.12.0-test",
        ])
        .args([
            format!("--stub={}", inside("stub")),
            format!("--linux={}", inside("linux")),
            format!("--initrd={}", inside("initrd")),
        ])
        .args([format!("--microcode={}", inside("ucode")), format!("--output={}", inside("uki.efi"))])
        .arg(format!("--pcrpkey={}", inside("pcr.pub")))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let theirs = std::fs::read(folder.path().join("uki.efi")).unwrap();

    let mut wanted = request(&parsed, &kernel, None, 2, Payload::Bytes(initrd));
    wanted.policies = policies(&keys);
    let (ours, _) = built(wanted);
    let sections = |file: &[u8]| -> BTreeMap<SectionName, _> {
        let all = inspect(&mut Cursor::new(file), "a UKI").unwrap().into_iter();
        all.filter(|(name, _)| *name != SectionName::Pcrsig).collect()
    };
    let (mut our_sections, mut their_sections) = (sections(&ours), sections(&theirs));
    // ukify 257 ends SBAT with a NUL, which is against SBAT's format and was dropped later (systemd#33731).
    let sbat =
        |sections: &mut BTreeMap<_, _>| sections.remove(&SectionName::Sbat).and_then(|s: Description| s.text).unwrap();
    assert_eq!(format!("{}\0", sbat(&mut our_sections)), sbat(&mut their_sections));
    assert_eq!(our_sections, their_sections);
    let headers = |file: &[u8]| {
        let pe = PeHeaders::read(&mut Cursor::new(file), "a UKI").unwrap();
        let mut table: Vec<_> = pe.sections.iter().filter(|section| section.name() != ".pcrsig").cloned().collect();
        table.iter_mut().filter(|section| section.name() == ".sbat").for_each(|section| section.virtual_size = 0);
        (table, pe.dll_characteristics, pe.entry_point, pe.bytes.len())
    };
    assert_eq!(headers(&ours), headers(&theirs));
}

#[test]
fn a_full_header_table_and_an_oversized_sbat_are_no_error() {
    let (stub, kernel) = (Stub::parse(&roots::stub()).unwrap(), roots::kernel());
    for length in [400, 3_000, 9_000] {
        let mut wanted = request(&stub, &kernel, None, 1, Payload::Bytes(noise(5_000)));
        let line = format!("x,1,{}\n", "y".repeat(length));
        wanted.sbat = Some(line.clone().into_bytes());
        let (file, predicted) = built(wanted);
        let sections = inspect(&mut Cursor::new(&file), "a UKI").unwrap();
        let sbat: Vec<_> = sections.iter().filter(|(name, _)| *name == SectionName::Sbat).collect();
        assert_eq!(sbat.len(), 1);
        assert!(sbat[0].1.text.as_ref().unwrap().ends_with(&line), "{length}");
        let pe = goblin::pe::PE::parse(&file).unwrap();
        let mut end = pe.header.optional_header.unwrap().windows_fields.size_of_headers;
        for section in &pe.sections {
            assert_eq!(section.pointer_to_raw_data, end, "{:?}", section.name());
            end += section.size_of_raw_data;
        }
        assert_eq!(predicted.predictions.0[0].pcrs.0[&Bank::Sha256][0].0, PhasePath::empty());
    }
    // The table of this stub: headers moved to the end of the space before the first section.
    let full = with_full_table(&roots::stub());
    let stub = Stub::parse(&full).unwrap();
    let keys = keys();
    let mut wanted = request(&stub, &kernel, Some(&keys), 1, Payload::Bytes(noise(5_000)));
    wanted.splash = Some(Payload::Bytes(noise(10)));
    wanted.dtb = Some(Payload::Bytes(noise(10)));
    let (file, _) = built(wanted);
    let grown = PeHeaders::read(&mut Cursor::new(&file), "a UKI").unwrap();
    assert!(grown.bytes.len() > PeHeaders::read(&mut Cursor::new(&full), "the stub").unwrap().bytes.len());
    let sections = inspect(&mut Cursor::new(&file), "a UKI").unwrap();
    assert!(sections.iter().any(|(name, section)| *name == SectionName::Linux && section.size == kernel.len() as u64));
    goblin::pe::PE::parse(&file).unwrap();
}

/// The stub with a longer DOS header and no more room in its headers than its own table needs.
fn with_full_table(stub: &[u8]) -> Vec<u8> {
    const LONGER: usize = 128;
    let pe = PeHeaders::read(&mut Cursor::new(stub), "the stub").unwrap();
    let end = pe.table_offset + pe.sections.len() * 40;
    let size = (end + LONGER).next_multiple_of(512);
    let mut out = stub[..pe.pe_offset].to_vec();
    out.extend_from_slice(&[0; LONGER]);
    out.extend_from_slice(&stub[pe.pe_offset..end]);
    out.resize(size, 0);
    out.extend_from_slice(&stub[pe.bytes.len()..]);
    let mut put =
        |at: usize, value: usize| out[at..at + 4].copy_from_slice(&u32::try_from(value).unwrap().to_le_bytes());
    put(0x3c, pe.pe_offset + LONGER);
    put(pe.optional_offset() + LONGER + 60, size);
    for (index, section) in pe.sections.iter().enumerate() {
        put(pe.table_offset + LONGER + index * 40 + 20, section.raw_offset as usize + size - pe.bytes.len());
    }
    out
}

#[test]
fn stubs_and_kernels_that_would_not_boot_are_refused() {
    let (stub, kernel, keys) = (roots::stub(), roots::kernel(), keys());
    let parsed = Stub::parse(&stub).unwrap();
    let refusal = |result: Result<Stub, UkiError>| result.map(|_| ()).unwrap_err().to_string();

    let (signed, _) = built(request(&parsed, &kernel, Some(&keys), 1, Payload::Bytes(noise(100))));
    assert!(refusal(Stub::parse(&signed)).contains("is signed already"));
    let (unsigned, _) = built(request(&parsed, &kernel, None, 1, Payload::Bytes(noise(100))));
    assert!(refusal(Stub::parse(&unsigned)).contains("it is a whole UKI"));
    let boot = std::fs::read(roots::base().join("usr/lib/systemd/boot/efi/systemd-bootx64.efi")).unwrap();
    assert!(refusal(Stub::parse(&boot)).contains("another program"), "{}", refusal(Stub::parse(&boot)));
    for length in [0, 1, 64, 200, 700, stub.len() - 1] {
        assert!(Stub::parse(&stub[..length]).is_err(), "{length} bytes");
    }

    let reject = |kernel: &[u8]| {
        let mut out = Cursor::new(Vec::new());
        build(request(&parsed, kernel, None, 1, Payload::Bytes(noise(100))), &mut out).unwrap_err().to_string()
    };
    let pe = PeHeaders::read(&mut Cursor::new(&kernel), "the kernel").unwrap();
    let patched = |offset: usize, bytes: &[u8]| {
        let mut kernel = kernel.clone();
        kernel[offset..offset + bytes.len()].copy_from_slice(bytes);
        kernel
    };
    assert!(reject(b"").contains("the kernel is not a valid PE file"));
    let packed = unpack(vec![0x1f, 0x8b, 8, 0], 100).unwrap_err().to_string();
    assert!(packed.contains("is compressed, and cannot be unpacked"), "{packed}");
    assert!(reject(&patched(pe.pe_offset + 4, &0xaa64_u16.to_le_bytes())).contains("machine 0xaa64"));
    assert!(reject(&patched(pe.optional_offset() + 16, &u32::MAX.to_le_bytes())).contains("outside of its image"));
    assert!(
        reject(&patched(pe.optional_offset() + 112 + 5 * 8 + 4, &8_u32.to_le_bytes())).contains("base relocations")
    );
    assert!(reject(&patched(pe.table_offset + 8, &1_u32.to_le_bytes())).contains("in memory"));
    assert!(reject(&kernel[..kernel.len() / 2]).contains("ends at byte"));
}

/// Any two bytes of the headers changed: an error or a result, never a panic, never much memory.
#[test]
fn hostile_headers_do_no_harm() {
    let stub = roots::stub();
    let noise = noise(200_000);
    for (round, pair) in noise.chunks(4).enumerate().take(20_000) {
        let mut hostile = stub.clone();
        let at = usize::from(u16::from_le_bytes([pair[0], pair[1]])) % 0x600;
        hostile[at] = pair[2];
        hostile[(at + 1 + round % 7) % 0x600] = pair[3];
        if let Ok(stub) = Stub::parse(&hostile) {
            let _ = kairos_init::boot::uki::layout::Layout::new(
                &stub,
                Some(b"sbat,1\n"),
                &[(SectionName::Linux, 100)],
                true,
            );
        }
    }
}

#[test]
fn a_file_that_changes_while_it_is_read_is_an_error() {
    let (stub, kernel) = (Stub::parse(&roots::stub()).unwrap(), roots::kernel());
    for (announced, there) in [(1000, 999), (1000, 1001), (0, 1)] {
        let reader = Payload::Reader { length: announced, reader: Box::new(Cursor::new(noise(there))) };
        // An empty section is left out, whatever its file holds.
        let result = build(request(&stub, &kernel, None, 1, reader), &mut Cursor::new(Vec::new()));
        assert_eq!(result.is_err(), announced != 0, "{announced} announced, {there} there");
    }
}
