//! Event logs of machines that were really booted (`fixtures/eventlogs/`), and predictions held against them.
//!
//! The digests in `fixtures/eventlogs/*.txt` were taken by `tests/lib/pe.py`, which knows nothing of this program.

mod hostile;
mod images;
mod mutated;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use kairos_init::boot::measure::compare::{Difference, DifferenceKind, Verdict, compare};
use kairos_init::boot::measure::event::{Digests, EventType};
use kairos_init::boot::measure::eventlog::EventLog;
use kairos_init::boot::measure::firmware::{
    PCR_BOOT_PROGRAMS, PCR_SECURE_BOOT, SecureBootVariables, pcr4_events, pcr7_events, stub_has_kernel_measured,
};
use kairos_init::boot::measure::image::LoadedImage;
use kairos_init::boot::measure::prediction::{ExpectedEvent, Prediction};
use kairos_init::boot::pcr::Bank;
use kairos_init::boot::section::SectionName;

/// Started by firmware; by systemd-boot; by firmware with Secure Boot off; by systemd-boot, verified by two entries of db,
/// one of them a certificate authority; by firmware, verified by its digest in db. Stub 257.13.
const MACHINES: [&str; 5] = ["direct", "loaded", "off", "chained", "hashed"];

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/eventlogs")
}

/// What a guest sent: `tests/lib/guest_blobs.py`.
struct Machine {
    log: EventLog,
    /// By bank and register.
    registers: BTreeMap<(Bank, u32), String>,
    variables: BTreeMap<&'static str, Vec<u8>>,
}

impl Machine {
    fn load(folder: &Path) -> Self {
        let log = fs::read(folder.join("eventlog")).unwrap();
        let pcrs = fs::read_to_string(folder.join("pcrs.txt")).unwrap();
        let registers = pcrs.lines().map(|line| {
            let [number, bank, value] = *line.split(' ').collect::<Vec<_>>() else { panic!("{line}") };
            ((bank.parse().unwrap(), number.parse().unwrap()), value.to_owned())
        });
        // The firmware of a machine without keys has none of these.
        let variable = |name| (name, fs::read(folder.join(name)).unwrap_or_default());
        Self {
            log: EventLog::parse(&log).unwrap(),
            registers: registers.collect(),
            variables: ["SecureBoot", "PK", "KEK", "db", "dbx"].map(variable).into(),
        }
    }

    fn fixture(name: &str) -> Self {
        Self::load(&fixtures().join(name))
    }

    fn variables(&self) -> SecureBootVariables<'_> {
        SecureBootVariables {
            secure_boot: self.variables["SecureBoot"].get(4).map(|value| *value == 1),
            pk: &self.variables["PK"],
            kek: &self.variables["KEK"],
            db: &self.variables["db"],
            dbx: &self.variables["dbx"],
        }
    }
}

/// The output of `pe.py digests`.
fn digests(text: &str) -> BTreeMap<String, Digests> {
    let mut found: BTreeMap<String, BTreeMap<Bank, Vec<u8>>> = BTreeMap::new();
    for line in text.lines() {
        let [what, bank, digest] = *line.split(' ').collect::<Vec<_>>() else { panic!("{line}") };
        if let Ok(bank) = bank.parse() {
            found.entry(what.to_owned()).or_default().insert(bank, hex::decode(digest).unwrap());
        }
    }
    found.into_iter().map(|(what, digests)| (what, Digests::new(digests).unwrap())).collect()
}

fn image(name: &str, text: &str) -> LoadedImage {
    let signature = text.lines().find_map(|line| line.strip_prefix("pkcs7 der "));
    let signatures = signature.iter().map(|signature| hex::decode(signature).unwrap()).collect();
    LoadedImage::new(name, digests(text)["image"].clone(), signatures)
}

fn fixture_text(name: &str) -> String {
    fs::read_to_string(fixtures().join(format!("{name}.txt"))).unwrap()
}

/// The programs that a fixture's machine loaded; signed otherwise than on the first machines where its folder has them.
fn loaded(machine: &str) -> Vec<LoadedImage> {
    let programs: &[&str] = match machine {
        "direct" | "hashed" => &["uki"],
        "loaded" | "chained" => &["loader", "uki"],
        _ => &["uki", "kernel"],
    };
    let text = |name: &str| {
        let own = fs::read_to_string(fixtures().join(machine).join(format!("{name}.txt")));
        own.unwrap_or_else(|_| fixture_text(name))
    };
    programs.iter().map(|name| image(&format!("{name}.efi"), &text(name))).collect()
}

/// The sections that are measured, in the order of measurement.
fn sections(text: &str) -> Vec<(&'static str, Digests)> {
    let digests = digests(text);
    let measured = SectionName::ALL.iter().filter(|name| name.is_measured());
    measured.filter_map(|name| Some((name.as_str(), digests.get(name.as_str())?.clone()))).collect()
}

fn prediction(machine: &Machine, images: &[LoadedImage], sections: &[(&str, Digests)]) -> Prediction {
    Prediction::new()
        .with(PCR_BOOT_PROGRAMS, pcr4_events(images))
        .with(PCR_SECURE_BOOT, pcr7_events(&machine.variables(), images).unwrap())
        .with_pcr11(sections)
}

fn assert_as_predicted(machine: &Machine, prediction: &Prediction, what: &str) {
    let comparison = compare(&machine.log, prediction);
    assert!(comparison.is_equal(), "{what}: {comparison}");
    for bank in Bank::ALL {
        for pcr in [4, 7, 11] {
            let value = prediction.value(pcr, bank).map(hex::encode);
            assert_eq!(value.as_ref(), Some(&machine.registers[&(bank, pcr)]), "{what}: PCR {pcr}, {bank}");
        }
    }
}

fn assert_replays(machine: &Machine, what: &str) {
    assert_eq!(machine.log.banks(), Bank::ALL);
    for bank in Bank::ALL {
        let replay = machine.log.replay(bank);
        // IMA extends PCR 10; its log is another.
        for pcr in (0..16).filter(|pcr| *pcr != 10) {
            let value = replay.get(&pcr).cloned().unwrap_or_else(|| vec![0; bank.width()]);
            assert_eq!(hex::encode(value), machine.registers[&(bank, pcr)], "{what}: PCR {pcr}, {bank}");
        }
    }
}

#[test]
fn replays_give_the_registers_of_the_machines() {
    for name in MACHINES {
        let machine = Machine::fixture(name);
        assert_replays(&machine, name);
        assert_eq!(machine.registers.len(), 4 * 16);
    }
}

#[test]
fn predictions_give_the_registers_of_the_machines() {
    for name in MACHINES {
        let machine = Machine::fixture(name);
        assert_eq!(machine.variables().secure_boot == Some(true), name != "off");
        let prediction = prediction(&machine, &loaded(name), &sections(&fixture_text("uki")));
        assert_as_predicted(&machine, &prediction, name);
        let report = compare(&machine.log, &prediction).to_string();
        assert!(report.starts_with("PCR 4: as predicted ("), "{report}");
    }
}

/// As EDK2 does: the first entry of db that verifies an image, each once, whatever else is in db.
#[test]
fn the_entries_of_db_are_those_that_the_firmware_named() {
    for (name, entries) in [
        ("loaded", &["CN=Kairos db"][..]),
        ("chained", &["CN=Other", "CN=Root"]),
        ("hashed", &["the digest 08ca8260"]),
        ("off", &[]),
    ] {
        let events = pcr7_events(&Machine::fixture(name).variables(), &loaded(name)).unwrap();
        let named: Vec<_> = events[6..].iter().map(|event| event.what.as_str()).collect();
        assert_eq!(named.len(), entries.len(), "{name}: {named:?}");
        assert!(named.iter().zip(entries).all(|(what, entry)| what.contains(entry)), "{name}: {named:?}");
    }
}

/// 257 has the firmware measure the kernel only where Secure Boot is off.
#[test]
fn the_stub_of_the_fixtures_has_the_kernel_measured_as_documented() {
    for name in MACHINES {
        let machine = Machine::fixture(name);
        let kernel = digests(&fixture_text("kernel"))["image"].clone();
        let measured = machine.log.of_pcr(PCR_BOOT_PROGRAMS).any(|event| event.digests == kernel);
        assert_eq!(measured, stub_has_kernel_measured(257, machine.variables().secure_boot == Some(true)), "{name}");
    }
    assert!([251, 258].iter().all(|version| !stub_has_kernel_measured(*version, false)));
}

#[test]
fn events_say_what_they_are_about() {
    let lines =
        |name: &str| -> Vec<String> { Machine::fixture(name).log.events().iter().map(ToString::to_string).collect() };
    let log = lines("loaded");
    for line in [
        "event 0, PCR 0, EV_NO_ACTION",
        "event 7, PCR 7, EV_EFI_VARIABLE_DRIVER_CONFIG, variable db",
        "event 14, PCR 4, EV_EFI_ACTION, Calling EFI Application from Boot Option",
        "event 19, PCR 4, EV_SEPARATOR",
        "event 22, PCR 7, EV_EFI_VARIABLE_AUTHORITY, variable db",
        r"event 23, PCR 4, EV_EFI_BOOT_SERVICES_APPLICATION, \EFI\BOOT\BOOTX64.EFI",
        r"event 24, PCR 4, EV_EFI_BOOT_SERVICES_APPLICATION, \EFI\Linux\kairos.efi",
        "event 29, PCR 11, EV_IPL, .cmdline",
        "event 40, PCR 9, EV_EVENT_TAG, Linux initrd",
    ] {
        assert!(log.contains(&line.to_owned()), "{line} in {log:#?}");
    }
    let kernel = "event 37, PCR 4, EV_EFI_BOOT_SERVICES_APPLICATION, the kernel inside of the UKI";
    assert!(lines("off").contains(&kernel.to_owned()));
}

#[test]
fn variables_may_be_signature_lists_without_attributes() {
    let machine = Machine::fixture("direct");
    let bare = |name: &str| &machine.variables[name][4..];
    let variables = SecureBootVariables {
        secure_boot: Some(true),
        pk: bare("PK"),
        kek: bare("KEK"),
        db: bare("db"),
        dbx: bare("dbx"),
    };
    let images = loaded("direct");
    assert_eq!(pcr7_events(&variables, &images).unwrap(), pcr7_events(&machine.variables(), &images).unwrap());
}

#[test]
fn predictions_are_kept_as_json() {
    let machine = Machine::fixture("loaded");
    let prediction = prediction(&machine, &loaded("loaded"), &sections(&fixture_text("uki")));
    let json = serde_json::to_string(&prediction).unwrap();
    assert!(json.starts_with(r#"{"4":[{"type":"EV_EFI_ACTION","what":"Calling EFI Application from Boot Option""#));
    assert_eq!(serde_json::from_str::<Prediction>(&json).unwrap(), prediction);
    for wrong in [
        json.replace("EV_SEPARATOR", "EV_NOTHING"),
        json.replacen("\"sha256\":\"", "\"sha256\":\"00", 1),
        json.replacen("sha384", "md5", 1),
    ] {
        assert!(serde_json::from_str::<Prediction>(&wrong).is_err(), "{wrong}");
    }
}

fn difference(machine: &Machine, prediction: &Prediction, pcr: u32) -> (Difference, String) {
    let comparison = compare(&machine.log, prediction);
    assert!(!comparison.is_equal());
    let difference = comparison.first_difference().unwrap().clone();
    assert_eq!(difference.pcr, pcr, "{comparison}");
    (difference, comparison.to_string())
}

#[test]
fn a_changed_command_line_is_named() {
    let machine = Machine::fixture("direct");
    let mut sections = sections(&fixture_text("uki"));
    let cmdline = sections.iter_mut().find(|(name, _)| *name == ".cmdline").unwrap();
    let found = hex::encode(cmdline.1.get(Bank::Sha256).unwrap());
    cmdline.1 = Digests::of(&[b"console=ttyS0 init=/bin/sh"]);
    let expected = hex::encode(cmdline.1.get(Bank::Sha256).unwrap());
    let prediction = prediction(&machine, &loaded("direct"), &sections);
    let (difference, report) = difference(&machine, &prediction, 11);
    assert_eq!(difference.kind, DifferenceKind::Changed);
    assert_eq!(difference.found.unwrap().number, 29);
    assert_eq!(difference.expected.unwrap().input, "section .cmdline of the UKI");
    let line = format!(
        "PCR 11: differs: event 29 of the log, EV_IPL, .cmdline, sha256 {found}; predicted here: EV_IPL, .cmdline, \
         sha256 {expected} (input: section .cmdline of the UKI)\n"
    );
    assert!(report.ends_with(&line), "{report}");
    assert!(report.starts_with("PCR 4: as predicted (3 events)\nPCR 7: as predicted (7 events)\n"), "{report}");
}

#[test]
fn a_section_too_many_or_too_few_is_named() {
    let machine = Machine::fixture("direct");
    let all = sections(&fixture_text("uki"));
    let without: Vec<_> = all.iter().filter(|(name, _)| *name != ".uname").cloned().collect();
    let (missing, report) = difference(&machine, &Prediction::new().with_pcr11(&without), 11);
    assert_eq!((missing.kind, missing.found.unwrap().number), (DifferenceKind::Unexpected, 32), "{report}");
    let mut with = all;
    with.insert(5, (".splash", Digests::of(&[b"BM"])));
    let (more, report) = difference(&machine, &Prediction::new().with_pcr11(&with), 11);
    assert_eq!(
        (more.kind, more.expected.unwrap().input.as_str()),
        (DifferenceKind::Missing, "section .splash of the UKI")
    );
    assert!(report.contains("the predicted event did not happen"), "{report}");
}

#[test]
fn a_changed_loader_is_named() {
    let machine = Machine::fixture("loaded");
    let mut images = loaded("loaded");
    images[0] = LoadedImage::new("old-loader.efi", Digests::of(&[b"another"]), Vec::new());
    let prediction = Prediction::new().with(4, pcr4_events(&images));
    let (difference, report) = difference(&machine, &prediction, 4);
    assert_eq!((difference.kind, difference.found.as_ref().unwrap().number), (DifferenceKind::Changed, 23));
    let found = difference.found.unwrap();
    assert_eq!(found.kind, EventType::EFI_BOOT_SERVICES_APPLICATION);
    assert_eq!(found.subject.as_deref(), Some(r"\EFI\BOOT\BOOTX64.EFI"));
    assert_eq!(difference.expected.unwrap().input, "the file old-loader.efi");
    assert!(
        report.contains(r"event 23 of the log, EV_EFI_BOOT_SERVICES_APPLICATION, \EFI\BOOT\BOOTX64.EFI, sha256 937f")
    );
}

#[test]
fn a_loader_that_was_not_predicted_or_not_used_is_named() {
    let with = Machine::fixture("loaded");
    let prediction = |name| Prediction::new().with(4, pcr4_events(&loaded(name)));
    let (unexpected, report) = difference(&with, &prediction("direct"), 4);
    assert_eq!((unexpected.kind, unexpected.found.unwrap().number), (DifferenceKind::Unexpected, 23), "{report}");
    let without = Machine::fixture("direct");
    let (missing, report) = difference(&without, &prediction("loaded"), 4);
    assert_eq!(
        (missing.kind, missing.expected.unwrap().what.as_str()),
        (DifferenceKind::Missing, "loader.efi"),
        "{report}"
    );
    // The kernel in the UKI comes at the end.
    let (kernel, report) = difference(&Machine::fixture("off"), &prediction("direct"), 4);
    assert_eq!((kernel.kind, kernel.expected), (DifferenceKind::Unexpected, None), "{report}");
}

#[test]
fn a_changed_variable_is_named() {
    let machine = Machine::fixture("direct");
    let images = loaded("direct");
    for (name, number) in [("PK", 5), ("KEK", 6), ("db", 7), ("dbx", 8)] {
        let mut other = Machine::fixture("direct");
        // One more entry, as an update of the variable appends it.
        let sha256 = hex::decode("2616c4c14c509240aca941f936934328").unwrap();
        let list = [&sha256[..], &76_u32.to_le_bytes(), &[0; 4], &48_u32.to_le_bytes(), &[7; 48]].concat();
        other.variables.get_mut(name).unwrap().extend(list);
        let prediction = Prediction::new().with(7, pcr7_events(&other.variables(), &images).unwrap());
        let (difference, report) = difference(&machine, &prediction, 7);
        assert_eq!((difference.kind, difference.found.unwrap().number), (DifferenceKind::Changed, number), "{report}");
        assert_eq!(difference.expected.unwrap().input, format!("variable {name}"));
    }
    let off = SecureBootVariables { secure_boot: Some(false), ..machine.variables() };
    let prediction = Prediction::new().with(7, pcr7_events(&off, &images).unwrap());
    let (difference, _) = difference(&machine, &prediction, 7);
    assert_eq!(difference.expected.unwrap().input, "variable SecureBoot");
}

/// The digest of one bank alone: the register of that bank differs, and that bank is the one to be shown.
#[test]
fn a_difference_in_one_bank_alone_is_seen() {
    let machine = Machine::fixture("direct");
    let good = pcr4_events(&loaded("direct"));
    for bank in Bank::ALL {
        let mut events = good.clone();
        let digests = events[2]
            .digests
            .iter()
            .map(|(of, digest)| (of, if of == bank { vec![0xee; bank.width()] } else { digest.to_vec() }));
        events[2].digests = Digests::new(digests.collect()).unwrap();
        let (difference, report) = difference(&machine, &Prediction::new().with(4, events), 4);
        assert_eq!((difference.kind, difference.bank), (DifferenceKind::Changed, bank), "{report}");
        assert!(report.contains(&format!("{bank} {}", "ee".repeat(bank.width()))), "{report}");
    }
}

#[test]
fn nothing_in_common_is_not_equal() {
    let machine = Machine::fixture("direct");
    let only = |events: Vec<ExpectedEvent>, bank: Bank| -> Vec<ExpectedEvent> {
        let one = |event: ExpectedEvent| {
            let digests = event.digests.get(bank).map(|digest| (bank, digest.to_vec())).into_iter().collect();
            ExpectedEvent { digests: Digests::new(digests).unwrap(), ..event }
        };
        events.into_iter().map(one).collect()
    };
    let events = pcr4_events(&loaded("direct"));
    // One bank is enough; an event without any is not.
    assert!(compare(&machine.log, &Prediction::new().with(4, only(events.clone(), Bank::Sha384))).is_equal());
    let mut none = events;
    none[1].digests = Digests::default();
    let prediction = Prediction::new().with(4, none);
    assert_eq!(prediction.value(4, Bank::Sha256), None);
    let comparison = compare(&machine.log, &prediction);
    assert!(!comparison.is_equal() && comparison.first_difference().is_none());
    assert_eq!(comparison.pcrs[0].verdict, Verdict::NoCommonBank);
    assert!(comparison.to_string().starts_with("PCR 4: cannot be compared: "), "{comparison}");
}

#[test]
fn comparisons_are_written_as_json() {
    let machine = Machine::fixture("loaded");
    let prediction =
        Prediction::new().with(4, pcr4_events(&loaded("direct"))).with_pcr11(&sections(&fixture_text("uki")));
    let json = serde_json::to_value(compare(&machine.log, &prediction)).unwrap();
    let differs = &json["pcrs"][0]["verdict"]["differs"];
    assert_eq!(differs["kind"], "unexpected");
    assert_eq!(differs["bank"], "sha256");
    assert_eq!(differs["found"]["type"], "EV_EFI_BOOT_SERVICES_APPLICATION");
    assert_eq!(differs["found"]["subject"], r"\EFI\BOOT\BOOTX64.EFI");
    assert_eq!(differs["expected"]["input"], "the file uki.efi");
    assert_eq!(json["pcrs"][1], serde_json::json!({ "pcr": 11, "verdict": { "equal": { "events": 14 } } }));
}

/// A machine that was booted just now; `tests/boot.sh` says which: `EVENTLOG_MACHINE` is the folder with what the guest
/// sent, `EVENTLOG_IMAGES` the programs that it loaded, separated by colons, the UKI last.
#[test]
#[ignore = "tests/boot.sh boots the machine and runs it"]
fn a_machine_is_as_predicted() {
    let variable = |name| std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: tests/boot.sh does"));
    let machine = Machine::load(Path::new(&variable("EVENTLOG_MACHINE")));
    let paths = variable("EVENTLOG_IMAGES");
    let images: Vec<LoadedImage> =
        paths.split(':').map(|path| LoadedImage::read(&mut fs::File::open(path).unwrap(), path).unwrap()).collect();
    let uki = paths.split(':').next_back().unwrap();
    assert_replays(&machine, "the machine");
    let prediction = prediction(&machine, &images, &sections(&images::pe_digests(Path::new(uki))));
    assert_as_predicted(&machine, &prediction, "the machine");
}
