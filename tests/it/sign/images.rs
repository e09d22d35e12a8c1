//! Signed images against sbverify, osslsigncode and sbsign.

use std::fs;
use std::io::Cursor;
use std::path::Path;

use kairos_init::boot::sign::authenticode::{Existing, Signing, sign_pe};
use kairos_init::boot::sign::certificate::load_certificate;
use kairos_init::boot::sign::keys::load_key;
use kairos_init::boot::sign::pe::{ImageHasher, PeChecksum, PeLayout};
use kairos_init::boot::sign::{Hash, Identity};
use kairos_init::cancel::Cancel;

use super::{DEBIAN_ROOT, boot_loader, identity, openssl_keys, sh, signed, try_sh};

fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    u32::from_le_bytes(bytes[offset..offset + 4].try_into().unwrap())
}

fn with(identity: &Identity) -> [Signing<'_>; 1] {
    [Signing { identity, hash: Hash::Sha256 }]
}

/// The PKCS#7 of a signed image.
fn pkcs7(image: &[u8]) -> &[u8] {
    let layout = PeLayout::parse(image, "x").unwrap();
    let table = u32_at(image, layout.directory_entry_offset().try_into().unwrap()) as usize;
    &image[table + 8..table + u32_at(image, table) as usize]
}

#[test]
fn verifiers_accept_signed_images_of_every_key_size() {
    let temp = tempfile::tempdir().unwrap();
    for bits in [2048, 3072, 4096] {
        let (image, signature) = signed(&boot_loader(), &identity(bits), None);
        fs::write(temp.path().join("image.efi"), &image).unwrap();
        let certificate = openssl_keys().join(format!("{bits}.pem"));
        let certificate = certificate.display();
        let output = sh(temp.path(), &format!("sbverify --cert {certificate} image.efi"));
        assert_eq!(output, "Signature verification OK\n", "no warning is wanted either");
        let output = sh(temp.path(), &format!("osslsigncode verify -CAfile {certificate} -in image.efi"));
        let digest = hex::encode_upper(&signature.digests[&Hash::Sha256]);
        for line in [
            format!("Current message digest    : {digest}"),
            format!("Calculated message digest : {digest}"),
            "Signature verification: ok".to_owned(),
            "Number of verified signatures: 1".to_owned(),
        ] {
            assert!(output.contains(&line), "{line} in {output}");
        }
        // It says MISMATCH where the checksum that it computes is another.
        let layout = PeLayout::parse(&image, "x").unwrap();
        let stored = u32_at(&image, layout.checksum_offset().try_into().unwrap());
        assert!(output.contains(&format!("PE checksum   : {stored:08X}")), "{output}");
        assert!(!output.contains("MISMATCH"), "{output}");
        let output = sh(temp.path(), "sbverify --list image.efi");
        assert!(output.starts_with("signature 1\n") && !output.contains("signature 2"), "{output}");
        assert!(output.contains(&format!("CN=db {bits}")), "{output}");
    }
}

#[test]
fn real_images_of_every_kind_can_be_signed() {
    let temp = tempfile::tempdir().unwrap();
    let identity = identity(2048);
    let efi = Path::new(DEBIAN_ROOT).join("usr/lib/systemd/boot/efi");
    let boot = fs::read_dir(Path::new(DEBIAN_ROOT).join("boot")).unwrap().map(|entry| entry.unwrap().path());
    let mut images: Vec<_> = boot.filter(|path| path.to_string_lossy().contains("vmlinuz-")).collect();
    assert!(!images.is_empty());
    images.extend(["linuxx64.efi.stub", "addonx64.efi.stub"].map(|name| efi.join(name)));
    let certificate = openssl_keys().join("2048.pem");
    for path in images {
        let mut image = fs::read(&path).unwrap();
        if PeLayout::parse(&image, "x").unwrap().is_signed() {
            // Debian signs its kernels in some of its suites.
            fs::write(temp.path().join("image.efi"), &image).unwrap();
            sh(temp.path(), "sbattach --remove image.efi");
            image = fs::read(temp.path().join("image.efi")).unwrap();
        }
        // A length that is no multiple of 8: it is filled up.
        image.extend_from_slice(&[1, 2, 3]);
        fs::write(temp.path().join("image.efi"), signed(&image, &identity, None).0).unwrap();
        sh(temp.path(), &format!("sbverify --cert {} image.efi", certificate.display()));
        sh(temp.path(), &format!("osslsigncode verify -CAfile {} -in image.efi", certificate.display()));
    }
}

#[test]
fn verifiers_refuse_an_image_with_any_byte_changed() {
    let temp = tempfile::tempdir().unwrap();
    let (image, _) = signed(&boot_loader(), &identity(2048), None);
    let layout = PeLayout::parse(&image, "x").unwrap();
    let certificate = openssl_keys().join("2048.pem");
    let end = usize::try_from(layout.sections_end()).unwrap();
    let checksum = usize::try_from(layout.checksum_offset()).unwrap();
    // Through the headers in small steps, then a few in each section; the checksum is not covered.
    let places = (0..0x400).step_by(31).chain((0x400..end).step_by(4999)).chain([end - 1]);
    let places: Vec<_> = places.filter(|at| !(checksum..checksum + 4).contains(at)).collect();
    assert!(places.len() > 50);
    for at in places {
        let mut changed = image.clone();
        changed[at] ^= 0x10;
        fs::write(temp.path().join("image.efi"), changed).unwrap();
        for verify in ["sbverify --cert", "osslsigncode verify -CAfile"] {
            let input = if verify.starts_with("osslsigncode") { "-in " } else { "" };
            let (accepted, output) =
                try_sh(temp.path(), &format!("{verify} {} {input}image.efi", certificate.display()));
            assert!(!accepted, "byte {at:#x} was changed, and {verify} says {output}");
        }
    }
    let other = openssl_keys().join("3072.pem");
    fs::write(temp.path().join("image.efi"), &image).unwrap();
    assert!(!try_sh(temp.path(), &format!("sbverify --cert {} image.efi", other.display())).0);
}

#[test]
fn the_signature_has_the_shape_that_sbsign_gives_it() {
    let temp = tempfile::tempdir().unwrap();
    let folder = temp.path();
    fs::write(folder.join("image.efi"), boot_loader()).unwrap();
    let k = openssl_keys().display();
    sh(folder, &format!("sbsign --key {k}/2048.key --cert {k}/2048.pem --output sbsign.efi image.efi"));
    let theirs = fs::read(folder.join("sbsign.efi")).unwrap();
    let (ours, signature) = signed(&boot_loader(), &identity(2048), Some(1_700_000_000));

    // Their checksum and their digest are what we compute from their file.
    let layout = PeLayout::parse(&theirs, "x").unwrap();
    let mut checksum = PeChecksum::new(&layout);
    checksum.add(0, &theirs);
    let stored = u32_at(&theirs, layout.checksum_offset().try_into().unwrap());
    assert_eq!(checksum.finish(theirs.len().try_into().unwrap()), stored);
    let mut hasher = ImageHasher::new(layout);
    hasher.update(&theirs);
    assert_eq!(hasher.finish().unwrap(), signature.digests[&Hash::Sha256]);

    // One line for each element: depth, kind, and value where it has one; without lengths and offsets.
    let shape = |image: &[u8]| {
        fs::write(folder.join("p7"), pkcs7(image)).unwrap();
        sh(
            folder,
            "openssl asn1parse -inform der -in p7 | sed -E 's/^ *[0-9]+:d=([0-9]+) +hl=[0-9]+ l= *[0-9]+ /\\1 /'",
        )
    };
    let (theirs, ours) = (shape(&theirs), shape(&ours));
    let mut expected: Vec<&str> = theirs.lines().collect();
    // What OpenSSL adds to its signatures, and verifiers of images do not look at: one attribute.
    let start = expected.iter().position(|line| line.contains("S/MIME Capabilities")).unwrap() - 1;
    let end = start + 1 + expected[start + 1..].iter().position(|line| line.starts_with(['5', '6'])).unwrap();
    expected.drain(start..end);
    let mut got: Vec<&str> = ours.lines().collect();
    let differences: Vec<_> = expected.iter().zip(&got).filter(|(a, b)| a != b).collect();
    assert_eq!(expected.len(), got.len());
    // The time of signing, and the signature that covers it.
    assert_eq!(differences.len(), 2, "{differences:?}");
    assert_eq!(differences[0].1.trim(), "8 prim: UTCTIME           :231114221320Z");
    assert!(differences[1].1.starts_with("5 prim: OCTET STRING"), "{differences:?}");

    // Without a time that one attribute is missing, and nothing else.
    let timeless = shape(&signed(&boot_loader(), &identity(2048), None).0);
    let at = got.iter().position(|line| line.contains("signingTime")).unwrap();
    got.drain(at - 1..at + 3);
    assert_eq!(got.len(), timeless.lines().count());
    assert_eq!(got[..got.len() - 1].join("\n"), timeless.lines().take(got.len() - 1).collect::<Vec<_>>().join("\n"));
}

#[test]
fn two_signings_are_equal_and_a_third_is_refused() {
    let (one, _) = signed(&boot_loader(), &identity(3072), None);
    let (two, _) = signed(&boot_loader(), &identity(3072), None);
    assert_eq!(one, two);
    let mut file = Cursor::new(one.clone());
    let error =
        sign_pe(&mut file, "uki.efi", &with(&identity(3072)), Existing::Refuse, None, &Cancel::default()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "uki.efi is signed already: give the unsigned file, or say what becomes of its signatures with --append or --remove of \
         `kairos-init uki sign`"
    );
    assert_eq!(file.into_inner(), one);
    let mut cut = Cursor::new(boot_loader()[..100_000].to_vec());
    let error =
        sign_pe(&mut cut, "uki.efi", &with(&identity(2048)), Existing::Refuse, None, &Cancel::default()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "uki.efi is not a PE image that can be signed: it ends at 0x186a0, and its sections at 0x1e600: it is cut short"
    );
    assert_eq!(cut.into_inner().len(), 100_000);
}

#[test]
fn a_chain_is_carried_along() {
    let temp = tempfile::tempdir().unwrap();
    let folder = temp.path();
    sh(
        folder,
        "openssl req -x509 -newkey rsa:2048 -nodes -keyout ca.key -subj /CN=CA -days 30 -out ca.pem
        openssl req -new -newkey rsa:2048 -nodes -keyout leaf.key -subj /CN=leaf -out leaf.csr
        openssl x509 -req -in leaf.csr -CA ca.pem -CAkey ca.key -set_serial 0x80ff -days 20 -out leaf.pem
        openssl x509 -in leaf.pem -text > chain.pem
        openssl x509 -in ca.pem -text >> chain.pem",
    );
    let chain = load_certificate(&folder.join("chain.pem")).unwrap();
    assert_eq!(chain.ders().count(), 2);
    let identity = Identity::new(Box::new(load_key(&folder.join("leaf.key")).unwrap().signer), chain).unwrap();
    let (image, _) = signed(&boot_loader(), &identity, None);
    fs::write(folder.join("image.efi"), image).unwrap();
    sh(folder, "osslsigncode verify -CAfile ca.pem -in image.efi");
    let output = sh(folder, "sbverify --cert ca.pem image.efi");
    assert_eq!(output, "Signature verification OK\n");
    let output = sh(folder, "sbverify --list image.efi");
    let at = |text: &str| output.find(text).unwrap_or_else(|| panic!("{text} in {output}"));
    assert!(at("subject: /CN=leaf") < at("subject: /CN=CA"), "{output}");
}
