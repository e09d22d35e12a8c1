//! Images that firmware loads, and the entry of db that verifies them: against pe.py, openssl and sbsign.

use std::fs;
use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use kairos_init::boot::measure::event::{Digests, EventType};
use kairos_init::boot::measure::firmware::{SecureBootVariables, pcr4_events, pcr7_events};
use kairos_init::boot::measure::image::{LoadedImage, PredictError};
use kairos_init::boot::measure::prediction::Prediction;
use kairos_init::boot::pcr::Bank;

use crate::roots;

fn sh(folder: &Path, command: &str) -> String {
    let output = Command::new("bash").args(["-euo", "pipefail", "-c", command]).current_dir(folder).output().unwrap();
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

pub(super) fn pe_digests(file: &Path) -> String {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/lib/pe.py");
    sh(Path::new("/"), &format!("python3 '{}' digests '{}'", script.display(), file.display()))
}

fn read(bytes: &[u8], name: &str) -> Result<LoadedImage, PredictError> {
    LoadedImage::read(&mut Cursor::new(bytes), name)
}

fn loader() -> Vec<u8> {
    fs::read(roots::base().join("usr/lib/systemd/boot/efi/systemd-bootx64.efi")).unwrap()
}

/// Certificates: `ca`, `leaf` issued by it, `other`, `forged` with the subject of `ca`; and `signed.efi`, the boot loader
/// signed by `leaf`.
pub(super) fn signed() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("eventlog-keys");
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("loader.efi"), loader()).unwrap();
        sh(
            &folder,
            "for name in ca=Root other=Other forged=Root; do
                openssl req -x509 -newkey rsa:2048 -nodes -days 30 -subj /CN=${name#*=} -keyout ${name%=*}.key -out ${name%=*}.pem
            done
            openssl req -newkey rsa:2048 -nodes -subj /CN=Leaf -keyout leaf.key -out leaf.csr
            openssl x509 -req -in leaf.csr -CA ca.pem -CAkey ca.key -days 30 -set_serial 7 -sha384 -out leaf.pem
            for name in ca other forged leaf; do openssl x509 -in $name.pem -outform der -out $name.der; done
            sbsign --key leaf.key --cert leaf.pem --output signed.efi loader.efi",
        );
        folder
    })
}

/// `EFI_SIGNATURE_LIST` with one entry.
fn list(kind: &str, content: &[u8]) -> Vec<u8> {
    let entry = [&[0xaa; 16], content].concat();
    let number = |value: usize| u32::try_from(value).unwrap().to_le_bytes();
    let header = [number(28 + entry.len()), number(0), number(entry.len())].concat();
    [hex::decode(kind).unwrap(), header, entry].concat()
}

fn certificate(name: &str) -> Vec<u8> {
    list("a159c0a5e494a74a87b5ab155c2bf072", &fs::read(signed().join(format!("{name}.der"))).unwrap())
}

fn authorities(db: &[Vec<u8>], images: &[LoadedImage]) -> Result<Vec<String>, PredictError> {
    let db = db.concat();
    let variables = SecureBootVariables { secure_boot: Some(true), db: &db, ..SecureBootVariables::default() };
    let events = pcr7_events(&variables, images)?;
    let authorities = events.into_iter().filter(|event| event.kind == EventType::EFI_VARIABLE_AUTHORITY);
    Ok(authorities.map(|event| event.what).collect())
}

#[test]
fn digests_are_those_of_real_programs() {
    let folder = tempfile::tempdir().unwrap();
    // Debian signs its kernel; a length that is no multiple of 8 is measured as it is.
    let mut odd = loader();
    odd.extend(b"odd");
    let signed = fs::read(signed().join("signed.efi")).unwrap();
    for (name, bytes, signatures) in [
        ("loader", loader(), 0),
        ("stub", roots::stub(), 0),
        ("kernel", roots::kernel(), 1),
        ("odd", odd, 0),
        ("signed", signed, 1),
    ] {
        let file = folder.path().join(name);
        fs::write(&file, &bytes).unwrap();
        let text = pe_digests(&file);
        let image = read(&bytes, name).unwrap();
        assert_eq!(image, super::image(name, &text), "{name}");
        assert_eq!(image.signatures().count(), signatures, "{name}");
        assert!(image.digests().get(Bank::Sha512).is_some());
    }
    // A signature changes nothing.
    let [plain, signed] =
        ["loader.efi", "signed.efi"].map(|name| read(&fs::read(self::signed().join(name)).unwrap(), name));
    assert_eq!(plain.unwrap().digests(), signed.unwrap().digests());
}

#[test]
fn the_first_entry_of_db_that_verifies_is_measured_once() {
    let image = read(&fs::read(signed().join("signed.efi")).unwrap(), "signed.efi").unwrap();
    let twice = [image.clone(), image];
    for (db, subject) in [
        (&["leaf"][..], "CN=Leaf"),
        (&["ca"], "CN=Root"),
        (&["other", "leaf", "ca"], "CN=Leaf"),
        (&["ca", "leaf"], "CN=Root"),
        (&["forged", "leaf"], "CN=Leaf"),
    ] {
        let lists: Vec<_> = db.iter().map(|name| certificate(name)).collect();
        let found = authorities(&lists, &twice).unwrap();
        assert_eq!(found.len(), 1, "{db:?}: {found:?}");
        assert!(found[0].contains(subject), "{db:?}: {found:?}");
    }
    for db in [&["other"][..], &["forged"], &[]] {
        let lists: Vec<_> = db.iter().map(|name| certificate(name)).collect();
        let error = authorities(&lists, &twice).unwrap_err();
        assert!(error.to_string().starts_with("no entry of db verifies signed.efi: "), "{error}");
    }
}

#[test]
fn an_unsigned_image_may_be_in_db_by_its_digest() {
    let image = read(&loader(), "loader.efi").unwrap();
    let digest = image.digests().get(Bank::Sha256).unwrap().to_vec();
    let lists = [certificate("ca"), list("2616c4c14c509240aca941f936934328", &digest)];
    let found = authorities(&lists, std::slice::from_ref(&image)).unwrap();
    assert_eq!(found, [format!("variable db: the digest {}", hex::encode(&digest))]);
    // Without Secure Boot nothing is verified.
    let off = SecureBootVariables { secure_boot: Some(false), ..SecureBootVariables::default() };
    let off = pcr7_events(&off, &[image]).unwrap();
    assert_eq!(off.len(), 6);
    assert_eq!(off[5].digests, Digests::of(&[&[0; 4]]));
}

/// The values that every machine of this kind has: OVMF without Secure Boot, from tpm2-tools'
/// `test/integration/fixtures/event-sd-boot-fedora37.bin.yaml`, whose PCR 4 saw no program but what firmware brings.
#[test]
fn firmware_without_secure_boot_has_the_well_known_pcr_7() {
    let events = pcr7_events(&SecureBootVariables::default(), &[]).unwrap();
    let prediction = Prediction::new().with(7, events).with(4, pcr4_events(&[]));
    let value = |pcr| hex::encode(prediction.value(pcr, Bank::Sha256).unwrap());
    assert_eq!(value(7), "b5710bf57d25623e4019027da116821fa99f5c81e9e38b87671cc574f9281439");
    assert_eq!(value(4), "7a94ffe8a7729a566d3d3c577fcb4b6b1e671f31540375f80eae6382ab785e35");
}

#[test]
fn damaged_images_are_refused() {
    let signed = fs::read(signed().join("signed.efi")).unwrap();
    let read = |bytes: &[u8]| read(bytes, "x.efi").unwrap_err().to_string();
    assert!(read(b"MZ").starts_with("x.efi is not a PE image"));
    let cut = read(&signed[..signed.len() - 1]);
    assert!(cut.contains("reaches past the end of the file"), "{cut}");
    let pe = u32::from_le_bytes(signed[0x3c..0x40].try_into().unwrap()) as usize;
    let entry = pe + 24 + 112 + 4 * 8;
    let table = u32::from_le_bytes(signed[entry..entry + 4].try_into().unwrap()) as usize;
    let mut long = signed.clone();
    long[table..table + 4].copy_from_slice(&u32::MAX.to_le_bytes());
    assert!(read(&long).starts_with("x.efi has a damaged certificate table: a certificate of 4294967295 bytes"));
    let mut short = signed;
    short[table..table + 4].copy_from_slice(&7_u32.to_le_bytes());
    assert!(read(&short).starts_with("x.efi has a damaged certificate table: a certificate of 7 bytes"));
}

#[test]
fn damaged_variables_are_refused_and_named() {
    let whole = certificate("ca");
    let refused = |db: &[u8]| {
        let variables = SecureBootVariables { db, ..SecureBootVariables::default() };
        pcr7_events(&variables, &[]).unwrap_err().to_string()
    };
    for length in (1..whole.len()).filter(|length| *length != 4) {
        let message = refused(&whole[..length]);
        assert!(
            message.starts_with("the variable db is no list of EFI signatures: at offset 0x0, "),
            "{length}: {message}"
        );
    }
    for (offset, value) in [(16, 27_u32), (16, u32::MAX), (20, u32::MAX), (20, 1), (24, 0), (24, 16), (24, 17)] {
        let mut wrong = whole.clone();
        wrong[offset..offset + 4].copy_from_slice(&value.to_le_bytes());
        assert!(refused(&wrong).contains("at offset 0x0, "), "{offset} {value}");
    }
    let second = [whole.clone(), vec![1; 3]].concat();
    assert!(refused(&second).contains(&format!("at offset {:#x}, 3 bytes are left", whole.len())));
}
