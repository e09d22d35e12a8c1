//! Logs that no firmware writes: each is refused, and the message says where.

use kairos_init::boot::measure::eventlog::{EventLog, EventLogError, MAX_LOG};
use kairos_init::boot::pcr::Bank;

use super::fixtures;

const NO_ACTION: u32 = 3;
const SHA1: u16 = 4;
const SHA256: u16 = 0xb;
/// SM3-256, which this program does not know.
const SM3: u16 = 0x12;

fn header_with(data: &[u8]) -> Vec<u8> {
    let size = u32::try_from(data.len()).unwrap().to_le_bytes();
    [&[0; 4], &NO_ACTION.to_le_bytes()[..], &[0; 20], &size, data].concat()
}

fn header(algorithms: &[(u16, u16)]) -> Vec<u8> {
    let count = u32::try_from(algorithms.len()).unwrap().to_le_bytes();
    let sizes: Vec<u8> =
        algorithms.iter().flat_map(|(id, size)| [id.to_le_bytes(), size.to_le_bytes()].concat()).collect();
    header_with(&[b"Spec ID Event03\0", &[0, 0, 0, 0, 0, 2, 0, 2][..], &count, &sizes, &[0]].concat())
}

fn event(pcr: u32, kind: u32, digests: &[(u16, &[u8])], data: &[u8]) -> Vec<u8> {
    let count = u32::try_from(digests.len()).unwrap().to_le_bytes();
    let digests: Vec<u8> = digests.iter().flat_map(|(id, digest)| [&id.to_le_bytes()[..], digest].concat()).collect();
    let size = u32::try_from(data.len()).unwrap().to_le_bytes();
    [&pcr.to_le_bytes()[..], &kind.to_le_bytes(), &count, &digests, &size, data].concat()
}

fn both() -> Vec<u8> {
    header(&[(SHA1, 20), (SHA256, 32)])
}

fn refused(log: &[u8]) -> String {
    EventLog::parse(log).unwrap_err().to_string()
}

#[test]
fn every_truncation_names_the_event() {
    let log = std::fs::read(fixtures().join("loaded/eventlog")).unwrap();
    let whole = EventLog::parse(&log).unwrap();
    let starts: Vec<usize> = whole.events().iter().map(|event| event.offset).collect();
    for length in 0..log.len() {
        let cut = EventLog::parse(&log[..length]);
        if let Some(number) = starts.iter().position(|start| *start == length).filter(|number| *number > 0) {
            assert_eq!(cut.unwrap().events(), &whole.events()[..number]);
            continue;
        }
        let number = starts.iter().rposition(|start| *start < length).unwrap_or(0);
        match cut.unwrap_err() {
            EventLogError::Header { reason, .. } => {
                assert!(number == 0 && reason.starts_with("is cut short"), "{length}: {reason}");
            }
            EventLogError::Event { number: named, offset, reason } => {
                assert_eq!((named, offset), (number, starts[number]), "{length}");
                assert!(reason.starts_with("is cut short: "), "{length}: {reason}");
            }
            other => panic!("{length}: {other}"),
        }
    }
}

#[test]
fn wrong_headers_are_refused() {
    for (log, why) in [
        (
            Vec::new(),
            "the event log's first event, at offset 0x0, is cut short: 4 bytes are needed at offset 0x0, 0 are there",
        ),
        (header(&[]), "names 0 hash algorithms"),
        (header(&[(SHA256, 31)]), "gives digests of the algorithm 0x000b 31 bytes"),
        (header(&[(SM3, 0)]), "gives digests of the algorithm 0x0012 0 bytes"),
        (header(&[(SM3, 65)]), "gives digests of the algorithm 0x0012 65 bytes"),
        (header(&[(SHA1, 20), (SHA1, 20)]), "names the algorithm 0x0004 twice"),
        (header(&[(SHA1, 20); 33]), "names 33 hash algorithms"),
        (header_with(b"Spec ID Event00\0"), "begins with \"Spec ID Event00\", not \"Spec ID Event03\""),
        (header_with(b"\x1b[2Jhostile"), r#"begins with "\u{1b}[2Jhostile""#),
        (header_with(b"Spec ID Event03\0"), "is cut short: 8 bytes are needed"),
        (event(4, 0xd, &[], b""), "is EV_IPL of PCR 4, not EV_NO_ACTION of PCR 0"),
        (vec![0; MAX_LOG + 1], "the event log has 16777217 bytes, more than"),
    ] {
        assert!(refused(&log).contains(why), "{why}: {}", refused(&log));
    }
    let mut longer = header(&[(SHA1, 20)]);
    longer[28] += 1;
    longer.push(0);
    assert!(refused(&longer).contains("has 1 bytes after its end"), "{}", refused(&longer));
}

#[test]
fn wrong_events_are_refused() {
    let (sha1, sha256) = ((SHA1, &[1; 20][..]), (SHA256, &[2; 32][..]));
    for (bytes, why) in [
        (event(24, 4, &[sha1, sha256], b""), "is EV_SEPARATOR of PCR 24: a TPM has 24 registers"),
        (event(u32::MAX, 4, &[sha1, sha256], b""), "is EV_SEPARATOR of PCR 4294967295"),
        (event(0, 4, &[sha1, sha1], b""), "has two digests of the algorithm 0x0004"),
        (event(0, 4, &[sha256], b""), "has no digest of the algorithm 0x0004, which the first event names"),
        (event(0, 4, &[], b""), "has no digest of the algorithm 0x0004"),
        (
            event(0, 4, &[(0xc, &[0; 48])], b""),
            "has a digest of the algorithm 0x000c, which the first event does not name",
        ),
        (event(0, NO_ACTION, &[], b"StartupLocality\0"), "is a StartupLocality event without a locality"),
        (event(0, NO_ACTION, &[], b"StartupLocality\0\x05"), "names the startup locality 5"),
        ([0_u32, 4, u32::MAX].map(u32::to_le_bytes).concat(), "is cut short"),
    ] {
        let log = [both(), bytes].concat();
        let message = refused(&log);
        let place = format!("event 1 of the event log, at offset {:#x}, ", both().len());
        assert!(message.starts_with(&place) && message.contains(why), "{why}: {message}");
    }
    // The data is said to be longer than any memory.
    let mut huge = [both(), event(0, 4, &[sha1, sha256], b"")].concat();
    let end = huge.len();
    huge[end - 4..].copy_from_slice(&u32::MAX.to_le_bytes());
    assert!(refused(&huge).ends_with("4294967295 bytes are needed at offset 0x8d, 0 are there"), "{}", refused(&huge));
}

#[test]
fn the_startup_locality_is_where_pcr_0_begins() {
    let digests = [(SHA1, &[1; 20][..]), (SHA256, &[2; 32][..])];
    let register = |events: &[Vec<u8>], pcr: u32| {
        let log = EventLog::parse(&[both(), events.concat()].concat()).unwrap();
        hex::encode(&log.replay(Bank::Sha256)[&pcr])
    };
    let locality = event(0, NO_ACTION, &[], b"StartupLocality\0\x03");
    let separators = [event(0, 4, &digests, b""), event(1, 4, &digests, b"")].concat();
    let sha256 = |start: &str| {
        let command = format!("printf '%s' {start}{} | xxd -r -p | sha256sum", "02".repeat(32));
        let output = std::process::Command::new("bash").args(["-c", &command]).output().unwrap();
        String::from_utf8(output.stdout).unwrap().split(' ').next().unwrap().to_owned()
    };
    let zeros = "00".repeat(32);
    let third = format!("{}03", "00".repeat(31));
    assert_eq!(register(&[locality.clone(), separators.clone()], 0), sha256(&third));
    assert_eq!(register(std::slice::from_ref(&separators), 0), sha256(&zeros));
    assert_eq!(register(&[locality, separators], 1), sha256(&zeros));
}

#[test]
fn events_that_extend_nothing_and_unknown_banks_are_read() {
    let log = [
        header(&[(SM3, 32), (SHA256, 32)]),
        event(u32::MAX, NO_ACTION, &[], b"vendor"),
        event(3, 0x8000_1234, &[(SM3, &[9; 32]), (SHA256, &[1; 32])], b"\x1b"),
    ]
    .concat();
    let log = EventLog::parse(&log).unwrap();
    assert_eq!(log.banks(), [Bank::Sha256]);
    assert_eq!(log.events()[2].to_string(), "event 2, PCR 3, 0x80001234");
    assert_eq!(log.replay(Bank::Sha256).keys().collect::<Vec<_>>(), [&3]);
    assert!(log.replay(Bank::Sha1).is_empty());
    assert_eq!(log.of_pcr(u32::MAX).count(), 0);
}

#[test]
fn what_events_say_cannot_steer_a_terminal() {
    let digests = [(SHA1, &[1; 20][..]), (SHA256, &[2; 32][..])];
    let action = event(5, 0x8000_0007, &digests, b"\x1b]0;gotcha\x07");
    let log = EventLog::parse(&[both(), action].concat()).unwrap();
    assert_eq!(log.events()[1].to_string(), r"event 1, PCR 5, EV_EFI_ACTION, \u{1b}]0;gotcha\u{7}");
}
