//! Secure Boot signatures: our own, those of others, damaged ones, and what vouches for them.

use std::process::Command;

use kairos_init::boot::verify::{Outcome, Report, Request};

use crate::roots;

use super::{Case, fails, lines, passes, report, sections, table_entry_at, u32_at, warns};

#[test]
fn a_damaged_certificate_table_is_refused() {
    let case = Case::new();
    let (uki, request) = (case.built(), case.request());
    let entry = table_entry_at(&uki);
    let (table, size) = (u32_at(&uki, entry), u32_at(&uki, entry + 4));
    assert_eq!(table + size, uki.len());
    let length = u32_at(&uki, table);
    let mut accepted = Vec::new();
    let mut spoiled = uki.clone();
    for place in table..table + length {
        spoiled[place] ^= 0x10;
        if report(&spoiled, &request).passed() {
            accepted.push(place - table);
        }
        spoiled[place] ^= 0x10;
    }
    assert!(accepted.is_empty(), "bytes of the table that may be anything: {accepted:?}");

    let with = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut file = uki.clone();
        change(&mut file);
        report(&file, &request)
    };
    let put = |file: &mut Vec<u8>, at: usize, value: usize| {
        file[at..at + 4].copy_from_slice(&u32::try_from(value).unwrap().to_le_bytes());
    };
    fails(&with(&|file| file.truncate(file.len() - 8)), &["signature"]);
    fails(&with(&|file| file.extend([0; 8])), &["signature"]);
    fails(&with(&|file| put(file, entry, 0)), &["signature"]);
    fails(&with(&|file| put(file, entry + 4, 8)), &["signature"]);
    fails(&with(&|file| put(file, entry, u32::MAX as usize)), &["signature"]);
    for length in [0, 1, 7, 8, size + 1, u32::MAX as usize] {
        fails(&with(&|file| put(file, table, length)), &["signature"]);
    }
    // Without a table it is not signed.
    let unsigned = |file: &mut Vec<u8>| {
        file.truncate(table);
        put(file, entry, 0);
        put(file, entry + 4, 0);
    };
    fails(&with(&unsigned), &["signature"]);
    let mut file = uki.clone();
    unsigned(&mut file);
    let report = report(&file, &Request { jobs: 1, ..Request::default() });
    passes(&report);
    warns(&report, "signature", "not signed");
}

#[test]
fn signatures_of_others_are_accepted_and_only_with_their_keys() {
    let case = Case { signed: false, ..Case::inside(roots::tools_folder()) };
    case.write("uki.efi", &case.built());
    let inside = |name| roots::inside_tools(&case.folder, name);
    let done = Command::new("chroot")
        .arg(roots::tools())
        .args(["/usr/lib/systemd/systemd-sbsign", "sign", "--private-key", &inside("db.key"), "--certificate"])
        .args([&inside("db.pem"), "--output", &inside("systemd.efi"), &inside("uki.efi")])
        .output()
        .unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    case.sh("sbsign --key db.key --cert db.pem --output sbsign.efi uki.efi");
    case.sh("osslsigncode sign -h sha256 -key db.key -certs db.pem -in uki.efi -out ossl.efi");
    case.sh("osslsigncode sign -h sha384 -key db.key -certs db.pem -in uki.efi -out ossl384.efi");
    case.sh("openssl req -x509 -newkey rsa:2048 -nodes -keyout other.key -subj '/CN=other' -days 30 -out other.pem");
    case.sh("sbsign --key other.key --cert other.pem --output two.efi sbsign.efi");
    for name in ["sbsign.efi", "systemd.efi", "ossl.efi", "ossl384.efi", "two.efi"] {
        let uki = case.read(name);
        passes(&case.report(&uki));
        let other = Request { db: Some(case.database("other.pem")), ..case.request() };
        match name {
            "two.efi" => passes(&report(&uki, &other)),
            _ => fails(&report(&uki, &other), &["signature"]),
        }
        let revoked = Request { dbx: case.database("db.pem"), ..case.request() };
        fails(&report(&uki, &revoked), &["signature"]);
        let mut changed = uki;
        let (_, _, [_, _, start, _]) = sections(&changed).into_iter().find(|(name, ..)| name == ".cmdline").unwrap();
        changed[start] ^= 1;
        fails(&case.report(&changed), &["signature", "pcrsig"]);
    }
}

#[test]
fn a_certificate_authority_in_db_is_enough_for_firmware_and_too_little_for_the_agent() {
    let mut case = Case::new();
    case.cmdline = "rd.immucore.uki".into();
    case.sh(
        "openssl req -x509 -newkey rsa:2048 -nodes -keyout ca.key -subj '/CN=test CA' -days 30 -out ca.pem
         openssl req -new -key db.key -subj '/CN=leaf' -out leaf.csr
         openssl x509 -req -in leaf.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 30 -out db.pem
         openssl req -x509 -key ca.key -subj '/CN=test CA' -addext basicConstraints=critical,CA:FALSE -days 30 -out noca.pem",
    );
    let uki = case.built();
    let with = |db: &str, dbx: Option<&str>| {
        let dbx = dbx.map(|name| case.database(name)).unwrap_or_default();
        report(&uki, &Request { db: Some(case.database(db)), dbx, ..case.request() })
    };
    let signature = |report: &Report| report.of("signature").all(|check| check.outcome == Outcome::Pass);
    assert!(signature(&with("ca.pem", None)), "{}", lines(&with("ca.pem", None)));
    warns(&with("ca.pem", None), "agent", "kairos-agent refuses it");
    assert!(with("db.pem", None).of("agent").any(|check| check.outcome == Outcome::Pass));
    assert!(signature(&with("db.pem", None)));
    assert!(!signature(&with("noca.pem", None)));
    assert!(!signature(&with("ca.pem", Some("db.pem"))));
    assert!(!signature(&with("db.pem", Some("ca.pem"))));

    // The image itself in dbx, and in db.
    let layout = kairos_init::boot::sign::pe::PeLayout::parse(&uki, "uki").unwrap();
    let mut hasher = kairos_init::boot::sign::pe::ImageHasher::new(layout);
    hasher.update(&uki);
    case.write("hash.txt", format!("# an image\n{}\n", hex::encode(hasher.finish().unwrap())).as_bytes());
    assert!(!signature(&with("db.pem", Some("hash.txt"))));
    assert!(!signature(&with("noca.pem", Some("hash.txt"))));
}
