//! The check of a tree that is there: a whole one passes, and whatever is taken out of it or changed in it is told.

use std::io::Cursor;

use der::Decode;
use kairos_init::boot::build::{self, Profile, UkiRequest};
use kairos_init::boot::section::SectionName;
use kairos_init::boot::sign::authenticode::{Existing, Signing, sign_pe};
use kairos_init::boot::sign::enrolment::EnrolmentRequest;
use kairos_init::boot::sign::generate::{CertificateRequest, KeyPair, KeySize};
use kairos_init::boot::sign::keyset::KeySet;
use kairos_init::boot::sign::{CertificateChain, Hash, Identity, RsaSigner};
use kairos_init::boot::uki::assemble::Payload;
use kairos_init::boot::uki::stub::Stub;
use kairos_init::boot::verify::Database;
use kairos_init::cancel::Cancel;
use kairos_init::image::esp::{Checked, EnrolmentKeys, EspError, EspRequest, Layout, check, installed, tree};
use kairos_init::image::{Files, Node};
use rand_core::OsRng;

use super::{bytes, listing, menu, newest, patched, path, request, write_tree};
use crate::roots;

/// Everything that a whole tree is made of, once for all.
struct World {
    files: Files,
    db: Database,
    /// A db with another certificate.
    other: Database,
}

fn identity(pair: &KeyPair) -> Identity {
    let signer = RsaSigner::parse(pair.key_pem.as_bytes(), "key").unwrap();
    Identity::new(Box::new(signer), CertificateChain::parse(&pair.certificate_der, "certificate").unwrap()).unwrap()
}

fn database(pair: &KeyPair) -> Database {
    let certificate = x509_cert::Certificate::from_der(&pair.certificate_der).unwrap();
    Database { certificates: vec![certificate], ..Database::default() }
}

/// A UKI of Debian's kernel with two profiles.
fn uki(signer: &Identity) -> Vec<u8> {
    let stub = Stub::parse(&roots::stub()).unwrap();
    let profile = |id: &str| Profile { text: format!("ID={id}\n").into_bytes(), sections: Vec::new() };
    let mut further = profile("further");
    further.sections.push((SectionName::Cmdline, Payload::Bytes(b"quiet a".to_vec())));
    let request = UkiRequest {
        cmdline: b"quiet".to_vec(),
        profiles: vec![profile("main"), further],
        signings: vec![Signing { identity: signer, hash: Hash::Sha256 }],
        ..UkiRequest::new(&stub, roots::kernel())
    };
    let mut out = Cursor::new(Vec::new());
    build::build(request, &mut out).unwrap();
    out.into_inner()
}

fn signed(program: Vec<u8>, signer: &Identity) -> Vec<u8> {
    let mut file = Cursor::new(program);
    let signing = [Signing { identity: signer, hash: Hash::Sha256 }];
    let signature = sign_pe(&mut file, "x", &signing, Existing::Remove, None, &Cancel::default()).unwrap();
    let mut out = file.into_inner();
    out.truncate(usize::try_from(signature.length).unwrap());
    out
}

fn keys(name: &str) -> KeySet {
    let request = CertificateRequest {
        common_name: name.to_owned(),
        organization: None,
        country: None,
        size: KeySize::Rsa2048,
        not_before: 1_700_000_000,
        days: 30,
    };
    KeySet::generate(&request, &mut OsRng, &Cancel::default()).unwrap()
}

impl World {
    fn new() -> Self {
        let (keys, other) = (keys("this"), keys("other"));
        let signer = identity(&keys.db);
        let enrolment = EnrolmentRequest {
            owner: None,
            without_microsoft: true,
            kek: Vec::new(),
            db: Vec::new(),
            time: 1_700_000_000,
        };
        let enrolment = keys.enrolment(&enrolment).unwrap();
        let loader = signed(newest().1, &signer);
        let mut request = request(Some(&loader), &menu(&["a"], &["Zed: x"], Layout::Profiles));
        let uki = bytes(uki(&signer));
        request.ukis.iter_mut().for_each(|planned| planned.content = uki.clone());
        let keys_of = |update: &[u8]| bytes(update.to_vec());
        request = EspRequest {
            keys: Some(EnrolmentKeys {
                pk: keys_of(&enrolment.pk.update),
                kek: keys_of(&enrolment.kek.update),
                db: keys_of(&enrolment.db.update),
            }),
            ..request
        };
        Self { files: tree(&request).unwrap().files, db: database(&keys.db), other: database(&other.db) }
    }

    fn check(&self, files: &Files) -> Result<Checked, EspError> {
        check(files, Some(&self.db))
    }

    fn refused(&self, files: &Files) -> String {
        self.check(files).unwrap_err().to_string()
    }

    fn text(&self, name: &str) -> String {
        let Some(Node::File { content, .. }) = self.files.get(&path(name)) else { panic!("{name}") };
        String::from_utf8(content.read(4096).unwrap()).unwrap()
    }

    fn bytes(&self, name: &str) -> Vec<u8> {
        listing(&self.files).remove(&format!("/{name}")).unwrap()
    }

    /// The tree with another file in the place of one.
    fn with(&self, name: &str, content: impl Into<Vec<u8>>) -> Files {
        let mut files = self.files.clone();
        files.insert(path(name), Node::bytes(content)).unwrap();
        files
    }
}

#[test]
fn a_whole_tree_passes_and_each_thing_is_missed() {
    let world = World::new();
    let checked = world.check(&world.files).unwrap();
    assert_eq!(checked.warnings, Vec::<String>::new());
    assert!(!checked.is_installed);
    let ukis: Vec<String> = checked.ukis.keys().map(ToString::to_string).collect();
    assert_eq!(ukis, ["/EFI/kairos/norole.efi", "/EFI/kairos/zed.efi"]);
    assert_eq!(checked.entries.len(), 4);

    // From a folder, as users have it.
    let folder = tempfile::tempdir().unwrap();
    write_tree(&world.files, folder.path());
    assert_eq!(world.check(&Files::scan(folder.path()).unwrap()).unwrap().entries.len(), 4);

    // Each file taken away: an error that names it or what needs it. An entry more or less is the user's choice, but an image
    // that nothing starts is told.
    let mut refused = 0;
    for name in listing(&world.files).into_keys().filter(|name| !name.ends_with('/')) {
        let mut files = world.files.clone();
        files.remove(&path(&name)).unwrap();
        match (name.as_str(), world.check(&files)) {
            ("/loader/entries/norole-profile1.conf" | "/loader/entries/zed-profile1.conf", Ok(_)) => {}
            // Its profile 1 still starts it.
            ("/loader/entries/zed.conf", Ok(_)) => {}
            (_, Err(error)) => {
                refused += 1;
                let text = error.to_string();
                let short = name.rsplit('/').next().unwrap();
                let named = text.contains(short) || matches!(error, EspError::NoLoader);
                assert!(named, "without {name}: {text}");
            }
            (_, Ok(_)) => panic!("nobody missed {name}"),
        }
    }
    assert_eq!(refused, 8);
    for (directory, wanted) in [
        ("EFI/kairos", "a tree without a UKI"),
        ("EFI/BOOT", "without a boot manager"),
        ("loader/entries", "the boot menu would be empty"),
    ] {
        let mut files = world.files.clone();
        let below: Vec<_> =
            files.iter().map(|(at, _)| at.clone()).filter(|at| at.starts_with(&path(directory))).collect();
        below.iter().for_each(|at| drop(files.remove(at)));
        let text = world.refused(&files);
        assert!(text.contains(wanted), "{text}");
    }
    let mut unshown = world.files.clone();
    for name in ["zed.conf", "zed-profile1.conf"] {
        unshown.remove(&path(&format!("loader/entries/{name}"))).unwrap();
    }
    assert_eq!(world.check(&unshown).unwrap().warnings, ["no entry in /loader/entries starts /EFI/kairos/zed.efi"]);

    changes_are_told(&world);
    programs_are_told(&world);
    disks(&world);
}

/// Texts that are changed, and what is said.
fn changes_are_told(world: &World) {
    let norole = "loader/entries/norole.conf";
    let table = [
        (norole, "title Kairos\n", "", "/loader/entries/norole.conf has no title"),
        (norole, "title Kairos\n", "title  \n", "has no title"),
        (norole, "uki /", "linux /", "neither the key efi nor uki"),
        (norole, "kairos/norole.efi", "kairos/other.efi", "starts \"/EFI/kairos/other.efi\", which is not in the tree"),
        (norole, "profile 0\n", "profile 0\nprofile 1\n", "\"profile\" twice"),
        (norole, "profile 0\n", "efi /EFI/kairos/norole.efi\n", "both efi and uki"),
        (norole, "profile 0", "profile 2", "chooses profile 2, and /EFI/kairos/norole.efi has 2, counted from 0"),
        (norole, "profile 0", "profile x", "no number"),
        ("loader/entries/norole-profile1.conf", "uki /", "efi /", "chooses a profile with the key efi"),
        ("loader/loader.conf", "if-safe", "always", "secure-boot-enroll \"always\""),
        ("loader/loader.conf", "editor no\n", "editor no\neditor yes\n", "\"editor\" twice"),
    ];
    for (name, from, to, wanted) in table {
        let text = world.text(name);
        assert!(text.contains(from), "{name}: {from}");
        let refused = world.refused(&world.with(name, text.replace(from, to)));
        assert!(refused.contains(wanted), "{from:?} -> {to:?}: {refused}");
    }
    // What both readers take for the same is not refused: another case, backslashes.
    let text = world.text(norole).replace("/EFI/kairos/norole.efi", "\\efi\\KAIROS\\NoRole.EFI");
    assert!(world.check(&world.with(norole, text)).is_ok());
    let warned =
        world.check(&world.with("loader/loader.conf", world.text("loader/loader.conf") + "default norole*\n")).unwrap();
    assert!(warned.warnings.join("").contains("default"), "{:?}", warned.warnings);
    // Two names that FAT takes for one.
    let refused = world.refused(&world.with("EFI/Kairos/NOROLE.efi", "x"));
    assert!(refused.contains("are one name"), "{refused}");
    // A key for another variable, or none.
    let refused = world.refused(&world.with("loader/keys/auto/PK.auth", world.bytes("loader/keys/auto/db.auth")));
    assert!(refused.contains("is a signed update of db, not of PK"), "{refused}");
    let refused = world.refused(&world.with("loader/keys/auto/KEK.auth", "x"));
    assert!(refused.contains("KEK.auth is no signed update"), "{refused}");
}

/// Programs that firmware would not start, or not as the entries want.
fn programs_are_told(world: &World) {
    let (uki, loader) = ("EFI/kairos/zed.efi", "EFI/BOOT/BOOTX64.EFI");
    for name in [uki, loader] {
        let mut bytes = world.bytes(name);
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        let changed = world.with(name, bytes);
        let error = world.check(&changed).unwrap_err();
        assert!(matches!(&error, EspError::Unsigned { path: at, .. } if at == &path(name)), "{error}");
        assert!(
            error.to_string().contains(&format!("/{name} is not signed by the db given: the image was changed")),
            "{error}"
        );
        // Without a db that is not asked.
        assert!(check(&changed, None).is_ok());
    }
    let error = check(&world.files, Some(&world.other)).unwrap_err().to_string();
    assert!(error.contains("/EFI/BOOT/BOOTX64.EFI is not signed by the db given"), "{error}");
    let refused = world.refused(&world.with(loader, newest().1));
    assert!(refused.contains("is not signed by the db given: it is not signed"), "{refused}");

    let plain = |files: &Files| check(files, None).unwrap_err().to_string();
    for (number, wanted) in [
        ("257", "has the key uki, which needs systemd-boot 258"),
        ("258", "chooses profile 1, which needs systemd-boot 259"),
    ] {
        let text = plain(&world.with(loader, patched(number)));
        assert!(
            text.starts_with(&format!("a loader too old for the entries asked for: systemd-boot {number}")),
            "{text}"
        );
        assert!(text.contains(wanted), "{text}");
    }
    assert!(check(&world.with(loader, patched("259")), None).is_ok());
    let arm = std::fs::read(roots::arm64().join("usr/lib/systemd/boot/efi/systemd-bootaa64.efi")).unwrap();
    let text = plain(&world.with(loader, arm.clone()));
    assert!(text.contains("is a program for aa64, which does not start on x64"), "{text}");
    let mut files = world.with("EFI/BOOT/BOOTAA64.EFI", arm);
    assert!(check(&files, None).is_err(), "the loader for arm64 is 257, the entries are not");
    files.remove(&path(loader)).unwrap();
    let text = plain(&files);
    assert!(text.contains("is for x64, and the boot manager for aa64"), "{text}");
    assert!(plain(&world.with(uki, roots::base_loader())).contains("without a kernel"));
    assert!(plain(&world.with(uki, "MZ")).contains("not a valid PE file"));
    assert!(plain(&world.with(loader, roots::stub())).contains("systemd's stub"));
}

/// The same tree as an installed system has it.
fn disks(world: &World) {
    let disk = installed(&world.files).unwrap();
    let checked = world.check(&disk).unwrap();
    assert!(checked.is_installed && checked.warnings.is_empty(), "{:?}", checked.warnings);
    assert_eq!((checked.ukis.len(), checked.entries.len()), (5, 10));
    let mut files = disk.clone();
    files.remove(&path("loader/entries/active+3.conf")).unwrap();
    assert!(world.refused(&files).contains("active.conf is not there"));
    let mut files = disk;
    files.remove(&path("EFI/kairos/statereset.efi")).unwrap();
    assert!(world.refused(&files).contains("/EFI/kairos/statereset.efi\", which is not in the tree"));
}
