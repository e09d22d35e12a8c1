//! `uki verify` against UKIs of several makers, and against every way to spoil one.

mod machines;
mod signatures;
mod ukify;

use std::io::{Cursor, Write};
use std::path::Path;
use std::process::Command;

use kairos_init::boot::build::{Policies, PolicyKey, UkiRequest, build};
use kairos_init::boot::pcr::{Bank, PhasePath};
use kairos_init::boot::sign::authenticode::Signing;
use kairos_init::boot::sign::generate::{CertificateRequest, KeySize, generate, pcr_key};
use kairos_init::boot::sign::{CertificateChain, Hash, Identity, RsaSigner, Signer};
use kairos_init::boot::uki::assemble::Payload;
use kairos_init::boot::uki::stub::Stub;
use kairos_init::boot::verify::{Database, Outcome, Report, Request, load_database, load_public_key, verify};
use rand_core::OsRng;
use tempfile::TempDir;

use crate::roots;

/// Keys and what goes into a UKI. Files of the keys, PEM, are in `folder`: `db.key`, `db.pem`, `pcr.key`, `pcr.pub`.
struct Case {
    folder: TempDir,
    kernel: Vec<u8>,
    initrd: Vec<u8>,
    cmdline: String,
    os_release: String,
    uname: String,
    pcr: bool,
    signed: bool,
}

impl Case {
    fn new() -> Self {
        Self::inside(tempfile::tempdir().unwrap())
    }

    fn inside(folder: TempDir) -> Self {
        let request = CertificateRequest {
            common_name: "test db".into(),
            size: KeySize::Rsa2048,
            not_before: 0,
            days: 36500,
            organization: None,
            country: None,
        };
        let db = generate(&request, &mut OsRng).unwrap();
        let pcr = pcr_key(KeySize::Rsa2048, &mut OsRng).unwrap();
        let case = Self {
            folder,
            kernel: small_kernel(),
            initrd: zstd(&archive(&[("a", 0o100_644, b"x")])),
            cmdline: "console=ttyS0".into(),
            os_release: "ID=test\nVERSION_ID=1\n".into(),
            uname: "6.12.0-test".into(),
            pcr: true,
            signed: true,
        };
        case.write("db.key", db.key_pem.as_bytes());
        case.write("db.pem", db.certificate_pem.as_bytes());
        case.write("pcr.key", pcr.private_pem.as_bytes());
        case.sh("openssl pkey -in pcr.key -pubout -out pcr.pub");
        case
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        std::fs::write(self.folder.path().join(name), bytes).unwrap();
    }

    fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.folder.path().join(name)).unwrap()
    }

    fn sh(&self, script: &str) -> String {
        sh(self.folder.path(), script)
    }

    fn built(&self) -> Vec<u8> {
        let stub = Stub::parse(&roots::stub()).unwrap();
        let db = RsaSigner::parse(&self.read("db.key"), "db.key").unwrap();
        let chain = CertificateChain::parse(&self.read("db.pem"), "db.pem").unwrap();
        let identity = Identity::new(Box::new(db), chain).unwrap();
        let pcr = RsaSigner::parse(&self.read("pcr.key"), "pcr.key").unwrap();
        let key = |pcr| PolicyKey {
            public: RsaSigner::public_key(pcr),
            signer: Some(pcr),
            phases: PhasePath::signed_by_default(),
        };
        let request = UkiRequest {
            kernel: self.kernel.clone(),
            os_release: self.os_release.clone().into_bytes(),
            cmdline: self.cmdline.clone().into_bytes(),
            uname: self.uname.clone().into_bytes(),
            initrd: Some(Payload::Bytes(self.initrd.clone())),
            ucode: Some(Payload::Bytes(archive(&[("kernel/x86/microcode/GenuineIntel.bin", 0o100_644, b"x")]))),
            policies: Policies {
                keys: self.pcr.then(|| key(&pcr)).into_iter().collect(),
                banks: Bank::ALL.to_vec(),
                ..Policies::default()
            },
            signings: self.signed.then_some(Signing { identity: &identity, hash: Hash::Sha256 }).into_iter().collect(),
            ..UkiRequest::new(&stub, Vec::new())
        };
        let mut out = Cursor::new(Vec::new());
        build(request, &mut out).unwrap();
        out.into_inner()
    }

    fn database(&self, name: &str) -> Database {
        load_database(&self.folder.path().join(name)).unwrap()
    }

    /// With db and the PCR key.
    fn request(&self) -> Request<'static> {
        Request {
            db: Some(self.database("db.pem")),
            pcr_public_key: Some(load_public_key(&self.folder.path().join("pcr.pub")).unwrap()),
            jobs: 1,
            ..Request::default()
        }
    }

    fn report(&self, uki: &[u8]) -> Report {
        report(uki, &self.request())
    }
}

fn report(uki: &[u8], request: &Request<'_>) -> Report {
    verify(&uki, request).unwrap()
}

fn sh(folder: &Path, script: &str) -> String {
    let output = Command::new("bash").args(["-euo", "pipefail", "-c", script]).current_dir(folder).output().unwrap();
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success(), "{script}: {text}");
    text
}

/// The headers of the real kernel without its sections: what the stub looks at.
fn small_kernel() -> Vec<u8> {
    let mut kernel = roots::kernel()[..4096].to_vec();
    let pe = u32::from_le_bytes(kernel[0x3c..0x40].try_into().unwrap()) as usize;
    kernel[pe + 6..pe + 8].fill(0);
    kernel
}

fn archive(entries: &[(&str, u32, &[u8])]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, mode, content) in entries.iter().chain([&("TRAILER!!!", 0, &b""[..])]) {
        out.extend(b"070701");
        let number = |length: usize| u32::try_from(length).unwrap();
        for field in [1, *mode, 0, 0, 1, 0, number(content.len()), 0, 0, 0, 0, number(name.len() + 1), 0] {
            out.extend(format!("{field:08x}").bytes());
        }
        out.extend(name.bytes().chain([0]));
        out.resize(out.len().next_multiple_of(4), 0);
        out.extend(*content);
        out.resize(out.len().next_multiple_of(4), 0);
    }
    out
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
    encoder.include_checksum(true).unwrap();
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn lines(report: &Report) -> String {
    report.checks.iter().map(|check| format!("{} {}: {}\n", check.outcome, check.id, check.reason)).collect()
}

#[track_caller]
fn passes(report: &Report) {
    assert!(report.passed(), "{}", lines(report));
}

/// Exactly these checks fail.
#[track_caller]
fn fails(report: &Report, ids: &[&str]) {
    let mut failed: Vec<&str> =
        report.checks.iter().filter(|check| check.outcome == Outcome::Failure).map(|check| check.id).collect();
    failed.dedup();
    assert_eq!(failed, ids, "{}", lines(report));
}

#[track_caller]
fn warns(report: &Report, id: &str, words: &str) {
    let found = report.of(id).any(|check| check.outcome == Outcome::Warning && check.reason.contains(words));
    assert!(found, "no warning of {id} with {words:?}:\n{}", lines(report));
}

fn u32_at(bytes: &[u8], at: usize) -> usize {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize
}

/// Name, header offset, address, virtual size, raw offset, raw size.
fn sections(file: &[u8]) -> Vec<(String, usize, [usize; 4])> {
    let pe = u32_at(file, 0x3c);
    let count = usize::from(u16::from_le_bytes(file[pe + 6..pe + 8].try_into().unwrap()));
    let table = pe + 24 + usize::from(u16::from_le_bytes(file[pe + 20..pe + 22].try_into().unwrap()));
    let section = |index: usize| {
        let at = table + index * 40;
        let name = String::from_utf8_lossy(&file[at..at + 8]).trim_end_matches('\0').to_owned();
        (name, at, [u32_at(file, at + 12), u32_at(file, at + 8), u32_at(file, at + 20), u32_at(file, at + 16)])
    };
    (0..count).map(section).collect()
}

fn checksum_at(file: &[u8]) -> usize {
    u32_at(file, 0x3c) + 24 + 64
}

fn table_entry_at(file: &[u8]) -> usize {
    u32_at(file, 0x3c) + 24 + 112 + 32
}

#[test]
fn what_is_built_here_passes_every_check_that_can_be_made() {
    let case = Case::new();
    let uki = case.built();
    for jobs in [1, 4] {
        let report = report(&uki, &Request { jobs, ..case.request() });
        passes(&report);
        assert_eq!(report.count(Outcome::Warning), 0, "{}", lines(&report));
        for id in ["machine", "alignment", "layout", "size", "checksum", "signature", "sbat", "stub", "sections"]
            .into_iter()
            .chain(["kernel", "nx", "osrel", "cmdline", "uname", "pcrpkey", "pcrsig", "ucode", "initrd", "ram"])
        {
            assert!(report.of(id).all(|check| check.outcome == Outcome::Pass) && report.of(id).count() == 1, "{id}");
        }
    }
    // The real kernel as well.
    let real = Case { kernel: roots::kernel(), ..case };
    passes(&real.report(&real.built()));
}

#[test]
fn every_changed_byte_is_refused() {
    let case = Case::new();
    let (uki, request) = (case.built(), case.request());
    let checksum = checksum_at(&uki);
    let table = u32_at(&uki, table_entry_at(&uki));
    let headers = u32_at(&uki, u32_at(&uki, 0x3c) + 24 + 60);
    let mut places: Vec<usize> = (0..headers).collect();
    for (_, _, [_, size, start, raw]) in sections(&uki) {
        // First and last byte of the content and of the padding, and some between.
        places.extend([start, start + size.min(raw) - 1, start + raw - 1]);
        places.extend((0..16).map(|step| start + raw * step / 16));
    }
    places.push(table - 1);
    let mut spoiled = uki.clone();
    for (round, place) in places.into_iter().enumerate() {
        if (checksum..checksum + 4).contains(&place) {
            continue;
        }
        let bit = round % 8;
        spoiled[place] ^= 1 << bit;
        let report = report(&spoiled, &request);
        assert!(!report.passed(), "bit {bit} of byte {place}:\n{}", lines(&report));
        spoiled[place] ^= 1 << bit;
    }
    assert_eq!(spoiled, uki);
    // The field that no signature covers: a warning.
    spoiled[checksum] ^= 1;
    let report = report(&spoiled, &request);
    passes(&report);
    warns(&report, "checksum", "the header says");
}

#[test]
fn files_that_are_cut_short_are_refused_at_every_length() {
    let case = Case::new();
    let (uki, request) = (case.built(), case.request());
    for length in (0..uki.len()).step_by(uki.len() / 97).chain([uki.len() - 1, 0x40, 0x200, 0x400]) {
        let report = report(&uki[..length], &request);
        assert!(!report.passed(), "{length} bytes:\n{}", lines(&report));
    }
}

#[test]
fn another_pcr_key_and_policies_of_another_image_are_refused() {
    let case = Case::new();
    let uki = case.built();
    let other = Case::new();
    let key = load_public_key(&other.folder.path().join("pcr.pub")).unwrap();
    fails(&report(&uki, &Request { pcr_public_key: Some(key), ..case.request() }), &["pcrpkey"]);
    // A .pcrsig by another key has the same length.
    let foreign = Case { signed: false, folder: tempfile::tempdir().unwrap(), ..Case::new() };
    for name in ["db.key", "db.pem", "pcr.key", "pcr.pub"] {
        foreign.write(name, &other.read(name));
    }
    let unsigned = Case { signed: false, ..case };
    let (mut ours, theirs) = (unsigned.built(), foreign.built());
    let place = |file: &[u8]| sections(file).into_iter().find(|(name, ..)| name == ".pcrsig").unwrap().2;
    let ([_, size, to, _], [_, their_size, from, _]) = (place(&ours), place(&theirs));
    assert_eq!(size, their_size);
    ours[to..to + size].copy_from_slice(&theirs[from..from + size]);
    let request = Request { db: None, ..unsigned.request() };
    fails(&report(&ours, &request), &["pcrsig"]);

    // No policies: a warning, unless the machines are bound to a key.
    let plain = Case { pcr: false, ..unsigned };
    let uki = plain.built();
    let none = report(&uki, &Request { jobs: 1, ..Request::default() });
    passes(&none);
    warns(&none, "pcrsig", "no signed PCR policy");
    fails(&report(&uki, &request), &["pcrpkey"]);
}

#[test]
fn initrds_that_the_kernel_would_not_unpack_are_refused() {
    let mut case = Case::new();
    let whole = zstd(&archive(&[("a", 0o100_644, &[7; 5000])]));
    let plain = archive(&[("a", 0o100_644, &[7; 5000])]);
    for (initrd, good) in [
        (whole.clone(), true),
        ([&plain[..], &whole].concat(), true),
        (whole[..whole.len() - 1].to_vec(), false),
        (plain[..plain.len() / 2].to_vec(), false),
        ([&whole[..], b"junk"].concat(), false),
        (zstd(&plain[..plain.len() - 124]), false),
    ] {
        case.initrd = initrd;
        let report = case.report(&case.built());
        if good { passes(&report) } else { fails(&report, &["initrd"]) }
    }
}

/// The image of kairos#4885: sections that share a page.
#[test]
fn headers_that_bricked_machines_are_refused() {
    let case = Case { signed: false, ..Case::new() };
    let uki = case.built();
    let request = Request { jobs: 1, ..Request::default() };
    let pe = u32_at(&uki, 0x3c);
    let with = |at: usize, value: u32| {
        let mut file = uki.clone();
        file[at..at + 4].copy_from_slice(&value.to_le_bytes());
        report(&file, &request)
    };
    fails(&with(pe + 24 + 32, 512), &["alignment", "layout"]);
    fails(&with(pe + 24 + 56, 0x1000), &["layout"]);
    fails(&with(pe + 24 + 60, 0x40), &["layout"]);
    fails(&with(pe + 24 + 16, u32::MAX), &["layout"]);
    fails(&with(pe + 24 + 68, 3), &["machine"]);
    let (_, at, [address, size, start, raw]) = sections(&uki).into_iter().find(|s| s.0 == ".initrd").unwrap();
    let value = |number: usize| u32::try_from(number).unwrap();
    let failed = |report: &Report, id: &str| report.of(id).any(|check| check.outcome == Outcome::Failure);
    assert!(failed(&with(at + 12, value(address + 512)), "alignment"));
    assert!(failed(&with(at + 12, value(address - 0x1000)), "layout"));
    assert!(failed(&with(at + 20, value(start + 512)), "layout"));
    assert!(failed(&with(at + 8, value(raw + 1)), "sections"));
    assert!(failed(&with(at + 8, value(size - 1)), "pcrsig"));
    assert!(failed(&with(at + 16, u32::MAX), "layout"));
    // Names: a section twice, and one that is no longer there.
    let renamed = |from: &str, to: &[u8; 8]| {
        let mut file = uki.clone();
        let at = sections(&uki).into_iter().find(|s| s.0 == from).unwrap().1;
        file[at..at + 8].copy_from_slice(to);
        report(&file, &request)
    };
    assert!(failed(&renamed(".uname", b".cmdline"), "sections"));
    assert!(failed(&renamed(".linux", b".linus\0\0"), "kernel"));
}

/// The seeds of the fuzz target are whole images, and whatever is done to them does no harm.
#[test]
fn hostile_images_do_no_harm() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus/verify");
    let mut random = 0x2545_f491_u32;
    let mut next = |below: usize| {
        random ^= random << 13;
        random ^= random >> 17;
        random ^= random << 5;
        random as usize % below
    };
    let mut seeds = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let seed = std::fs::read(&path).unwrap();
        let source = seed.as_slice();
        let whole = report(
            &seed,
            &Request { loader: Some(&source), upgrade_from: Some(&source), jobs: 1, ..Request::default() },
        );
        for id in ["layout", "kernel", "initrd", "sbat", "upgrade"] {
            let good = whole.of(id).all(|check| check.outcome == Outcome::Pass) && whole.of(id).count() == 1;
            assert!(good, "{id} of {}:\n{}", path.display(), lines(&whole));
        }
        seeds += 1;
        for _ in 0..300 {
            let mut hostile = seed.clone();
            for _ in 0..=next(4) {
                // Half of them in the headers.
                let limit = if next(2) == 0 { 0x400 } else { hostile.len() };
                let (at, byte) = (next(limit), u8::try_from(next(256)).unwrap());
                hostile[at] = [0, 1, 0x7f, 0x80, 0xff, byte][next(6)];
            }
            if next(4) == 0 {
                hostile.truncate(next(seed.len()));
            }
            let source = hostile.as_slice();
            let request = Request { loader: Some(&source), upgrade_from: Some(&source), jobs: 1, ..Request::default() };
            let report = report(&hostile, &request);
            for check in &report.checks {
                assert!(!check.reason.contains(char::is_control), "{check:?}");
            }
        }
    }
    assert_eq!(seeds, 6);
}
