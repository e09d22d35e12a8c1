//! Signature lists and signed updates, against efitools, sbsigntool, OpenSSL and virt-firmware.

use std::fs;
use std::path::Path;

use kairos_init::boot::sign::enrolment::{EnrolmentRequest, load_entries};
use kairos_init::boot::sign::generate::{CertificateRequest, KeySize};
use kairos_init::boot::sign::keyset::KeySet;
use kairos_init::boot::sign::microsoft;
use kairos_init::boot::sign::variables::{SignedUpdate, Variable, sign_variable};
use kairos_init::boot::sign::{Guid, Signature, SignatureEntry, SignatureList};
use kairos_init::cancel::Cancel;

use super::{identity, openssl_keys, sh, try_sh};

/// 2026-01-31 01:02:03: a month that is another one when it is counted from zero.
const TIME: u64 = 1_769_821_323;
const OWNER: &str = "5b7d4a0e-6f0c-4d5e-9f27-1d7c5a3c9b11";
/// virt-firmware's Python, installed by `tests/run.sh`.
const PYTHON: &str = "/var/cache/kairos-init-tests/venv/bin/python3";

/// A key set with the files that enrol it, written to a folder.
fn key_set(folder: &Path, request: &EnrolmentRequest) -> KeySet {
    let certificate = CertificateRequest {
        common_name: "Kairos test".to_owned(),
        organization: Some("Example & Söhne".to_owned()),
        country: Some("DE".to_owned()),
        size: KeySize::Rsa2048,
        not_before: 1_767_225_600,
        days: 3650,
    };
    let set = KeySet::generate(&certificate, &mut rand_core::OsRng, &Cancel::default()).unwrap();
    set.write(&set.enrolment(request).unwrap(), folder).unwrap();
    set
}

fn request() -> EnrolmentRequest {
    EnrolmentRequest { owner: Some(OWNER.parse().unwrap()), time: TIME, ..EnrolmentRequest::default() }
}

#[test]
fn lists_and_updates_are_what_efitools_writes_byte_for_byte() {
    let temp = tempfile::tempdir().unwrap();
    let folder = temp.path().join("keys");
    let set = key_set(&folder, &request());
    let microsoft = microsoft::OWNER;
    for certificate in microsoft::CERTIFICATES {
        let file = folder.join(format!("{}.crt", certificate.sha1));
        fs::write(&file, certificate.der).unwrap();
        sh(&folder, &format!("openssl x509 -inform der -in {0}.crt -out {0}.pem", certificate.sha1));
        sh(&folder, &format!("cert-to-efi-sig-list -g {microsoft} {0}.pem {0}.list", certificate.sha1));
    }
    for (role, signer) in [("PK", "PK"), ("KEK", "PK"), ("db", "KEK")] {
        let more: String = microsoft::CERTIFICATES
            .iter()
            .filter(|certificate| certificate.variable.name() == role)
            .map(|certificate| format!(" {}.list", certificate.sha1))
            .collect();
        sh(
            &folder,
            &format!(
                "cert-to-efi-sig-list -g {OWNER} {role}.pem own.list; cat own.list{more} > list; cmp list {role}.esl
                TZ=UTC sign-efi-sig-list -t '2026-01-31 01:02:03' -g {OWNER} -k {signer}.key -c {signer}.pem \\
                    {role} {role}.esl auth; cmp auth {role}.auth
                sbsiglist --owner {OWNER} --type x509 --output list {role}.der; cmp list own.list"
            ),
        );
    }
    // The same keys and time again give the same bytes, another time does not.
    let again = set.enrolment(&request()).unwrap();
    assert_eq!(again.db.update, fs::read(folder.join("db.auth")).unwrap());
    let later = set.enrolment(&EnrolmentRequest { time: TIME + 1, ..request() }).unwrap();
    assert_ne!(later.db.update, again.db.update);
    assert_eq!(later.db.list, again.db.list);
    // Without an owner each certificate has its own, which it alone decides.
    let derived = set.enrolment(&EnrolmentRequest { owner: None, ..request() }).unwrap();
    let owner = SignatureList::parse(&derived.db.list, "db").unwrap()[0].owner;
    assert_eq!(owner, Guid::derived(&set.db.certificate_der));
    // Microsoft's are left out on request only.
    let counts = |without_microsoft| {
        let made = set.enrolment(&EnrolmentRequest { without_microsoft, ..request() }).unwrap();
        [made.pk.list, made.kek.list, made.db.list].map(|list| SignatureList::parse(&list, "list").unwrap().len())
    };
    assert_eq!(counts(false), [1, 3, 6]);
    assert_eq!(counts(true), [1, 1, 1]);
}

/// Takes an update apart without our code: `data` is what is signed, `p7` the signature as OpenSSL reads it.
const TAKE_APART: &str = r#"
import struct, sys
name, file = sys.argv[1:]
update = open(file, "rb").read()
length, revision, kind = struct.unpack_from("<LHH", update, 16)
assert (revision, kind) == (0x200, 0xef1)
vendor = {"PK": "61dfe48bca93d211aa0d00e098032b8c", "KEK": "61dfe48bca93d211aa0d00e098032b8c",
          "db": "cbb219d73a3d9645a3bcdad00e67656f", "dbx": "cbb219d73a3d9645a3bcdad00e67656f"}[name]
data = name.encode("utf-16-le") + bytes.fromhex(vendor) + struct.pack("<L", 0x27) + update[:16] + update[16 + length:]
open("data", "wb").write(data)
signed = update[40:16 + length]
def tlv(tag, body): return bytes([tag, 0x82]) + struct.pack(">H", len(body)) + body
open("p7", "wb").write(tlv(0x30, bytes.fromhex("06092a864886f70d010702") + tlv(0xa0, signed)))
print(struct.unpack_from("<HBBBBBxLhBx", update))
"#;

#[test]
fn openssl_verifies_updates_and_refuses_corrupted_ones() {
    let temp = tempfile::tempdir().unwrap();
    let folder = temp.path().join("keys");
    key_set(&folder, &request());
    fs::write(folder.join("take-apart.py"), TAKE_APART).unwrap();
    for (role, signer, other) in [("PK", "PK", "KEK"), ("KEK", "PK", "KEK"), ("db", "KEK", "PK")] {
        let time = sh(&folder, &format!("python3 take-apart.py {role} {role}.auth"));
        assert_eq!(time, "(2026, 1, 31, 1, 2, 3, 0, 0, 0)\n");
        let verify = |signer: &str| {
            format!(
                "openssl smime -verify -inform der -in p7 -content data -binary -purpose any -CAfile {signer}.pem -out /dev/null"
            )
        };
        assert!(sh(&folder, &verify(signer)).ends_with("Verification successful\n"));
        // And as CMS; and nobody else's certificate will do.
        sh(&folder, &verify(signer).replace("smime", "cms"));
        assert!(!try_sh(&folder, &verify(other)).0);
        // No signed attributes: what is signed is the data themselves.
        assert!(!sh(&folder, "openssl asn1parse -inform der -in p7").contains("messageDigest"));

        let good = fs::read(folder.join(format!("{role}.auth"))).unwrap();
        let update = SignedUpdate::parse(&good, role).unwrap();
        assert_eq!(update.signed_for().unwrap().0.name(), role);
        assert_eq!(update.time(), "2026-01-31T01:02:03Z");
        assert_eq!(update.signer(), format!("CN=Kairos test {signer},O=Example & Söhne,C=DE"));
        assert_eq!(update.contents(), fs::read(folder.join(format!("{role}.esl"))).unwrap());
        let last = good.len() - 1;
        for changed in [1, last] {
            let mut bad = good.clone();
            bad[changed] ^= 1;
            fs::write(folder.join("bad.auth"), &bad).unwrap();
            sh(&folder, &format!("python3 take-apart.py {role} bad.auth"));
            assert!(!try_sh(&folder, &verify(signer)).0, "byte {changed} of {role} changed");
            let error = SignedUpdate::parse(&bad, "bad.auth").unwrap().signed_for().unwrap_err().to_string();
            assert!(error.contains("does not hold for PK, KEK, db or dbx"), "{error}");
        }
        // Each byte of the signature counts: refused, or read as damaged, but never taken for good and never a panic.
        for changed in (40..good.len() - update.contents().len()).step_by(7) {
            let mut bad = good.clone();
            bad[changed] ^= 1;
            let taken = SignedUpdate::parse(&bad, role).and_then(|update| update.signed_for());
            // The certificate's own signature is nobody's business here; what counts is its key.
            assert!(taken.is_err() || changed < last, "byte {changed}");
        }
    }
}

#[test]
fn updates_by_other_programs_are_read_and_verified() {
    let temp = tempfile::tempdir().unwrap();
    let folder = temp.path();
    let keys = openssl_keys().display();
    sh(
        folder,
        &format!(
            "sbsiglist --owner {OWNER} --type x509 --output one.esl {keys}/3072.der
            sbvarsign --key {keys}/2048.key --cert {keys}/2048.pem --output sbvarsign.auth db one.esl
            sbvarsign --attr NON_VOLATILE,BOOTSERVICE_ACCESS,RUNTIME_ACCESS --key {keys}/2048.key --cert {keys}/2048.pem \
                --output replace.auth KEK one.esl
            sign-efi-sig-list -a -k {keys}/2048.key -c {keys}/2048.pem dbx one.esl append.auth
            sign-efi-sig-list -k {keys}/2048.key -c {keys}/2048.pem dbx one.esl efitools.auth"
        ),
    );
    for (file, variable) in [
        // sbvarsign's default, which is to append; it signs attributes of the signature as well.
        ("sbvarsign.auth", (Variable::Db, true)),
        ("replace.auth", (Variable::Kek, false)),
        ("efitools.auth", (Variable::Dbx, false)),
        ("append.auth", (Variable::Dbx, true)),
    ] {
        let bytes = fs::read(folder.join(file)).unwrap();
        assert_eq!(SignedUpdate::parse(&bytes, file).unwrap().signed_for().unwrap(), variable, "{file}");
        let entries = SignatureList::parse(&bytes, file).unwrap();
        assert_eq!(entries[0].signature, Signature::X509(fs::read(openssl_keys().join("3072.der")).unwrap()));
    }
    // All sizes of keys sign.
    for bits in [2048, 3072, 4096] {
        let update = sign_variable(Variable::Kek, b"", TIME, &identity(bits)).unwrap();
        assert_eq!(SignedUpdate::parse(&update, "KEK").unwrap().signed_for().unwrap().0, Variable::Kek);
    }
    let error = sign_variable(Variable::Kek, b"", u64::MAX, &identity(2048)).unwrap_err().to_string();
    assert_eq!(error, "cannot make the update: second 18446744073709551615 is not before the year 10000");
}

#[test]
fn virt_firmware_reads_the_same_entries() {
    let temp = tempfile::tempdir().unwrap();
    let folder = temp.path().join("keys");
    key_set(&folder, &request());
    // Its reader of .auth folders, which also enrols them in the variables of a firmware.
    let script = r#"
import sys
from virt.firmware.varstore import authfiles
for name, variable in authfiles.AuthFilesVarStore(".").get_varlist().items():
    print(name, variable.time.isoformat(), variable.guid)
    for lists in variable.sigdb:
        for entry in lists:
            print(name, entry["guid"])
    assert bytes(variable.sigdb) == variable.data
"#;
    fs::write(folder.join("read.py"), script).unwrap();
    let text = sh(&folder, &format!("{PYTHON} read.py"));
    for variable in [Variable::Pk, Variable::Kek, Variable::Db] {
        let name = variable.name();
        assert!(text.contains(&format!("{name} 2026-01-31T01:02:03+00:00 {}", variable.vendor())), "{text}");
        let entries = SignatureList::parse(&fs::read(folder.join(format!("{name}.auth"))).unwrap(), name).unwrap();
        assert_eq!(text.matches(&format!("{name} ")).count(), 1 + entries.len());
        for entry in &entries {
            assert!(text.contains(&format!("{name} {}", entry.owner)));
        }
    }
}

#[test]
fn real_db_and_dbx_of_a_firmware_are_read_and_written_again() {
    let temp = tempfile::tempdir().unwrap();
    let folder = temp.path();
    // Debian's OVMF with Microsoft's keys: dbx has digests, and virt-firmware writes each variable as an update.
    let tool = PYTHON.replace("python3", "virt-fw-vars");
    sh(folder, &format!("mkdir out; {tool} -i /usr/share/OVMF/OVMF_VARS_4M.ms.fd --output-auth out"));
    for name in ["PK", "KEK", "db", "dbx"] {
        let update = fs::read(folder.join(format!("out/{name}.auth"))).unwrap();
        let list = update[40..].to_vec();
        let entries = SignatureList::parse(&update, name).unwrap();
        assert!(!entries.is_empty());
        assert_eq!(SignatureList::parse(&list, name).unwrap(), entries);
        assert_eq!(SignatureList::encode(&entries).unwrap(), list, "{name}");
        // What efivarfs shows has the attributes before it.
        let exported = [&0x27_u32.to_le_bytes()[..], &list].concat();
        assert_eq!(SignatureList::parse(&exported, name).unwrap(), entries);
        if name == "dbx" {
            assert!(entries.iter().any(|entry| matches!(entry.signature, Signature::Sha256(_))));
        }
    }
    // Their db for our keys: what is there already is not there twice.
    fs::write(folder.join("db"), &fs::read(folder.join("out/db.auth")).unwrap()[40..]).unwrap();
    let db = load_entries(&folder.join("db"), None).unwrap();
    let keys = openssl_keys();
    let custom = [
        load_entries(&keys.join("3072.pem"), None).unwrap(),
        load_entries(&keys.join("3072.der"), Some(OWNER.parse().unwrap())).unwrap(),
        db,
    ]
    .concat();
    key_set(&folder.join("keys"), &EnrolmentRequest { db: custom, ..request() });
    let made = SignatureList::parse(&fs::read(folder.join("keys/db.esl")).unwrap(), "db").unwrap();
    let own = fs::read(keys.join("3072.der")).unwrap();
    let owners: Vec<_> = made.iter().filter(|e| e.signature == Signature::X509(own.clone())).map(|e| e.owner).collect();
    assert_eq!(owners, [Guid::derived(&own)]);
    assert_eq!(made.len(), 7);
}

#[test]
fn hostile_lists_are_refused_with_the_place() {
    let digest =
        |byte: u8| SignatureEntry { owner: Guid::from_bytes([1; 16]), signature: Signature::Sha256([byte; 32]) };
    let good = SignatureList::encode(&[digest(1), digest(2)]).unwrap();
    assert_eq!(good.len(), 28 + 2 * 48);
    assert_eq!(SignatureList::parse(&good, "x").unwrap(), [digest(1), digest(2)]);
    assert_eq!(SignatureList::parse(b"", "x").unwrap(), []);
    let error = |bytes: &[u8]| SignatureList::parse(bytes, "x").unwrap_err().to_string();
    let with = |offset: usize, number: u32| {
        let mut bytes = good.clone();
        bytes[offset..offset + 4].copy_from_slice(&number.to_le_bytes());
        bytes
    };
    let list = "x is damaged: the signature list at offset";
    assert_eq!(error(&good[..20]), format!("{list} 0 is cut short: 20 bytes are left, its header has 28"));
    assert_eq!(error(&good[..100]), format!("{list} 0 says that it has 124 bytes, and 100 are there"));
    assert_eq!(
        error(&[&good[..], b"x"].concat()),
        format!("{list} 124 is cut short: 1 bytes are left, its header has 28")
    );
    assert_eq!(error(&with(16, 0)), format!("{list} 0 says that it has 0 bytes, and 124 are there"));
    assert_eq!(error(&with(16, u32::MAX)), format!("{list} 0 says that it has 4294967295 bytes, and 124 are there"));
    assert_eq!(
        error(&with(20, u32::MAX)),
        format!("{list} 0 has 124 bytes and says that 4294967295 of them are its header")
    );
    assert_eq!(error(&with(20, 97)), format!("{list} 0 has 124 bytes and says that 97 of them are its header"));
    for size in [0, 15, 16, 47, u32::MAX] {
        assert_eq!(
            error(&with(24, size)),
            format!("{list} 0 has entries of {size} bytes, which do not fill its 96 bytes")
        );
    }
    assert_eq!(error(&with(24, 32)), format!("{list} 0 has SHA-256 entries of 32 bytes, not 48"));
    // A list with a header of its own: skipped. An empty one: nothing.
    assert_eq!(SignatureList::parse(&with(20, 48), "x").unwrap(), [digest(2)]);
    assert_eq!(SignatureList::parse(&with(20, 96), "x").unwrap(), []);

    let update = sign_variable(Variable::Db, &good, TIME, &identity(2048)).unwrap();
    assert_eq!(SignatureList::parse(&update, "x").unwrap().len(), 2);
    for length in [0_u32, 23, u32::MAX, u32::try_from(update.len() - 15).unwrap()] {
        let mut bad = update.clone();
        bad[16..20].copy_from_slice(&length.to_le_bytes());
        let expected =
            format!("x is damaged: its signature says that it has {length} bytes, and {} are there", update.len() - 16);
        assert_eq!(error(&bad), expected);
        assert_eq!(SignedUpdate::parse(&bad, "x").unwrap_err().to_string(), expected);
    }
    // Cut anywhere: an error or fewer entries, never a panic.
    for length in 0..update.len() {
        let _ = SignatureList::parse(&update[..length], "x");
        assert!(SignedUpdate::parse(&update[..length], "x").and_then(|update| update.signed_for()).is_err());
    }
}

#[test]
fn what_is_no_certificate_is_not_trusted() {
    let temp = tempfile::tempdir().unwrap();
    let folder = temp.path();
    let keys = openssl_keys().display();
    sh(folder, &format!("echo garbage > garbage; : > empty; cp {keys}/2048.key key; printf '\\7\\0\\0\\0' > nothing"));
    let error = |name: &str| {
        load_entries(&folder.join(name), None).unwrap_err().to_string().replace(&folder.display().to_string(), "F")
    };
    assert!(error("garbage").starts_with("F/garbage is damaged: the signature list at offset 0 is cut short"));
    assert!(error("empty").starts_with("F/empty holds nothing (it is empty), not a certificate"));
    assert!(error("key").starts_with("F/key holds a private key, not a certificate"));
    assert_eq!(error("nothing"), "F/nothing is damaged: it has no entry");
    let mut update = sign_variable(
        Variable::Db,
        &SignatureList::encode(&microsoft::entries(Variable::Db).collect::<Vec<_>>()).unwrap(),
        TIME,
        &identity(2048),
    )
    .unwrap();
    fs::write(folder.join("db.auth"), &update).unwrap();
    assert_eq!(load_entries(&folder.join("db.auth"), None).unwrap().len(), 5);
    *update.last_mut().unwrap() ^= 1;
    fs::write(folder.join("db.auth"), &update).unwrap();
    assert!(error("db.auth").contains("does not hold for PK, KEK, db or dbx: it was changed after signing"));
}
