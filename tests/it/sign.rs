//! Keys and signatures against the programs that others check them with: OpenSSL, sbsign's family, osslsigncode.
//!
//! Needs `openssl`, `sbsign`, `sbverify`, `osslsigncode` and the Debian root that the other tests use; without them it
//! fails.

use std::collections::BTreeMap;
use std::fs;
use std::io::Cursor;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use kairos_init::boot::pcr::Bank;
use kairos_init::boot::sign::authenticode::{Signature, sign_pe};
use kairos_init::boot::sign::generate::{CertificateRequest, KeySize, generate};
use kairos_init::boot::sign::keys::{load_certificate, load_key};
use kairos_init::boot::sign::keyset::KeySet;
use kairos_init::boot::sign::pe::{ImageHasher, PeChecksum, PeLayout};
use kairos_init::boot::sign::policy::{pcrsig_json, pcrsig_length, policy_digest};
use kairos_init::boot::sign::{CertificateChain, Identity, RsaSigner, SignError, Signer};
use kairos_init::cancel::Cancel;
use sha2::{Digest, Sha256};

/// Runs a shell command in a folder; it must succeed. Gives back both outputs.
fn sh(folder: &Path, command: &str) -> String {
    let (success, output) = try_sh(folder, command);
    assert!(success, "{command}: {output}");
    output
}

fn try_sh(folder: &Path, command: &str) -> (bool, String) {
    let output = Command::new("bash").args(["-euo", "pipefail", "-c", command]).current_dir(folder).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&text).into_owned())
}

/// A full Debian 13 root, made by `tests/run.sh`.
const DEBIAN_ROOT: &str = "/var/cache/kairos-init-tests/base";

/// A real, unsigned boot loader of 124 KB.
fn boot_loader() -> Vec<u8> {
    fs::read(Path::new(DEBIAN_ROOT).join("usr/lib/systemd/boot/efi/systemd-bootx64.efi")).unwrap()
}

/// Keys that OpenSSL made, once for all tests: `BITS.key` (PKCS#8 PEM), `BITS.p8`, `BITS.p1.key`, `BITS.p1` (DER),
/// `BITS.pub`, `BITS.pem` and `BITS.der` (a self-signed certificate).
fn keys() -> &'static Path {
    static KEYS: OnceLock<PathBuf> = OnceLock::new();
    KEYS.get_or_init(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("sign-keys-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        for bits in [2048, 3072, 4096] {
            let script = "openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:B -out B.key
                openssl pkcs8 -topk8 -nocrypt -in B.key -outform der -out B.p8
                openssl rsa -traditional -in B.key -out B.p1.key
                openssl rsa -traditional -in B.key -outform der -out B.p1
                openssl pkey -in B.key -pubout -out B.pub
                openssl req -x509 -new -key B.key -subj '/O=Example & Söhne/CN=db B' -utf8 -days 30 -out B.pem
                openssl x509 -in B.pem -outform der -out B.der";
            sh(&folder, &script.replace('B', &bits.to_string()));
        }
        folder
    })
}

fn identity(bits: u32) -> Identity {
    let key = load_key(&keys().join(format!("{bits}.key"))).unwrap();
    let chain = load_certificate(&keys().join(format!("{bits}.pem"))).unwrap();
    Identity::new(Box::new(key.signer), chain).unwrap()
}

fn signed(image: &[u8], identity: &Identity, time: Option<u64>) -> (Vec<u8>, Signature) {
    let mut file = Cursor::new(image.to_vec());
    let signature = sign_pe(&mut file, "image.efi", identity, time, &Cancel::default()).unwrap();
    assert_eq!(signature.length, file.get_ref().len() as u64);
    (file.into_inner(), signature)
}

fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    u32::from_le_bytes(bytes[offset..offset + 4].try_into().unwrap())
}

/// The PKCS#7 of a signed image.
fn pkcs7(image: &[u8]) -> &[u8] {
    let layout = PeLayout::parse(image, "x").unwrap();
    let table = u32_at(image, layout.directory_entry_offset().try_into().unwrap()) as usize;
    &image[table + 8..table + u32_at(image, table) as usize]
}

#[test]
fn keys_of_every_size_and_form_sign_as_openssl_does() {
    let temp = tempfile::tempdir().unwrap();
    let folder = temp.path();
    fs::write(folder.join("message"), "a message").unwrap();
    for bits in [2048, 3072, 4096] {
        let made = |form: &str| keys().join(format!("{bits}.{form}"));
        sh(folder, &format!("openssl dgst -sha256 -sign {} -out expected message", made("key").display()));
        let expected = fs::read(folder.join("expected")).unwrap();
        let pkcs1 = sh(
            folder,
            &format!(
                "openssl rsa -in {} -RSAPublicKey_out -outform der 2>/dev/null | sha256sum",
                made("key").display()
            ),
        );
        for form in ["key", "p8", "p1.key", "p1"] {
            let signer = load_key(&made(form)).unwrap().signer;
            assert_eq!(signer.sign_sha256(&Sha256::digest("a message").into()).unwrap(), expected, "{bits} {form}");
            assert_eq!(signer.public_key().pem(), fs::read_to_string(made("pub")).unwrap());
            assert_eq!(hex::encode(signer.public_key().fingerprint()), pkcs1[..64]);
            assert_eq!(signer.public_key().bits(), bits);
            assert!(!format!("{signer:?}").contains("primes"));
        }
        for form in ["pem", "der"] {
            assert_eq!(load_certificate(&made(form)).unwrap().public_key().bits(), bits);
        }
    }
}

#[test]
fn verifiers_accept_signed_images_of_every_key_size() {
    let temp = tempfile::tempdir().unwrap();
    for bits in [2048, 3072, 4096] {
        let (image, signature) = signed(&boot_loader(), &identity(bits), None);
        fs::write(temp.path().join("image.efi"), &image).unwrap();
        let certificate = keys().join(format!("{bits}.pem"));
        let certificate = certificate.display();
        let output = sh(temp.path(), &format!("sbverify --cert {certificate} image.efi"));
        assert_eq!(output, "Signature verification OK\n", "no warning is wanted either");
        let output = sh(temp.path(), &format!("osslsigncode verify -CAfile {certificate} -in image.efi"));
        let digest = hex::encode_upper(signature.digest);
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
    let certificate = keys().join("2048.pem");
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
    let certificate = keys().join("2048.pem");
    let end = layout.sections_end() as usize;
    let checksum = layout.checksum_offset() as usize;
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
    let other = keys().join("3072.pem");
    fs::write(temp.path().join("image.efi"), &image).unwrap();
    assert!(!try_sh(temp.path(), &format!("sbverify --cert {} image.efi", other.display())).0);
}

#[test]
fn the_signature_has_the_shape_that_sbsign_gives_it() {
    let temp = tempfile::tempdir().unwrap();
    let folder = temp.path();
    fs::write(folder.join("image.efi"), boot_loader()).unwrap();
    let k = keys().display();
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
    assert_eq!(hasher.finish().unwrap(), signature.digest);

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
    let error = sign_pe(&mut file, "uki.efi", &identity(3072), None, &Cancel::default()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "uki.efi is signed already: give the unsigned file, or remove the signature with `sbattach --remove uki.efi`"
    );
    assert_eq!(file.into_inner(), one);
    let mut cut = Cursor::new(boot_loader()[..100_000].to_vec());
    let error = sign_pe(&mut cut, "uki.efi", &identity(2048), None, &Cancel::default()).unwrap_err();
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

#[test]
fn policies_are_signed_so_that_openssl_verifies_them() {
    let temp = tempfile::tempdir().unwrap();
    let folder = temp.path();
    for bits in [2048, 3072, 4096] {
        let signer = load_key(&keys().join(format!("{bits}.key"))).unwrap().signer;
        let values: BTreeMap<Bank, Vec<Vec<u8>>> =
            Bank::ALL.into_iter().map(|bank| (bank, (1..=4).map(|n| vec![n; bank.width()]).collect())).collect();
        let json = pcrsig_json(&values, &signer).unwrap();
        assert_eq!(json.len(), pcrsig_length(&Bank::ALL, 4, signer.public_key()));
        assert_eq!(json, pcrsig_json(&values, &signer).unwrap());

        let parsed: serde_json::Map<String, serde_json::Value> = serde_json::from_str(&json).unwrap();
        assert_eq!(parsed.keys().collect::<Vec<_>>(), ["sha1", "sha256", "sha384", "sha512"]);
        for (bank, values) in values {
            let entries = parsed[bank.as_str()].as_array().unwrap();
            assert_eq!(entries.len(), 4);
            for (entry, value) in entries.iter().zip(values) {
                let policy = policy_digest(bank, &value).unwrap();
                assert_eq!(entry["pcrs"], serde_json::json!([11]));
                assert_eq!(entry["pol"], hex::encode(policy));
                assert_eq!(entry["pkfp"], hex::encode(signer.public_key().fingerprint()));
                fs::write(folder.join("policy"), policy).unwrap();
                fs::write(folder.join("signature"), entry["sig"].as_str().unwrap()).unwrap();
                let public = keys().join(format!("{bits}.pub"));
                let verify = format!(
                    "base64 -d signature > raw; openssl dgst -sha256 -verify {} -signature raw policy",
                    public.display()
                );
                assert_eq!(sh(folder, &verify), "Verified OK\n");
            }
        }
    }
    let signer = load_key(&keys().join("2048.key")).unwrap().signer;
    assert_eq!(pcrsig_json(&BTreeMap::new(), &signer).unwrap(), "{}");
    assert_eq!(pcrsig_length(&[], 4, signer.public_key()), 2);
    let empty = BTreeMap::from([(Bank::Sha256, vec![])]);
    assert_eq!(pcrsig_json(&empty, &signer).unwrap(), "{\"sha256\":[]}");
    assert_eq!(pcrsig_length(&[Bank::Sha256], 0, signer.public_key()), 13);
}

fn request(size: KeySize) -> CertificateRequest {
    // A moment that has passed wherever this runs: 2026-01-01.
    CertificateRequest { common_name: "Kairos test".to_owned(), size, not_before: 1_767_225_600, days: 3650 }
}

#[test]
fn generated_keys_are_what_verifiers_want() {
    let temp = tempfile::tempdir().unwrap();
    let folder = temp.path();
    for size in [KeySize::Rsa2048, KeySize::Rsa3072, KeySize::Rsa4096] {
        let pair = generate(&request(size), &mut rand_core::OsRng).unwrap();
        assert!(!format!("{pair:?}").contains("PRIVATE"));
        fs::write(folder.join("key"), pair.key_pem.as_bytes()).unwrap();
        fs::write(folder.join("pem"), &pair.certificate_pem).unwrap();
        fs::write(folder.join("der"), &pair.certificate_der).unwrap();
        let text = sh(folder, "openssl x509 -in pem -noout -text -nameopt RFC2253,utf8");
        for line in [
            "Version: 3 (0x2)",
            "Signature Algorithm: sha256WithRSAEncryption",
            "Issuer: CN=Kairos test",
            "Subject: CN=Kairos test",
            "Not Before: Jan  1 00:00:00 2026 GMT",
            "Not After : Dec 30 00:00:00 2035 GMT",
            &format!("Public-Key: ({} bit)", size.bits()),
            "X509v3 Basic Constraints: critical\n                CA:TRUE",
            "X509v3 Key Usage: critical\n                Digital Signature, Certificate Sign",
            "X509v3 Subject Key Identifier",
            "X509v3 Authority Key Identifier",
        ] {
            assert!(text.contains(line), "{line} in {text}");
        }
        // OpenSSL reads the same certificate from DER, and writes the same PEM.
        assert_eq!(sh(folder, "openssl x509 -inform der -in der"), pair.certificate_pem);
        assert_eq!(sh(folder, "openssl verify -x509_strict -CAfile pem pem"), "pem: OK\n");
        assert_eq!(sh(folder, "openssl pkey -in key -check -noout"), "Key is valid\n");
        assert_eq!(sh(folder, "openssl pkey -in key"), *pair.key_pem);
        let identifier =
            sh(folder, "openssl x509 -in pem -noout -ext subjectKeyIdentifier | tail -1").replace([':', ' ', '\n'], "");
        let expected =
            sh(folder, "openssl rsa -in key -RSAPublicKey_out -outform der 2>/dev/null | sha1sum | cut -c-40");
        assert_eq!(identifier.to_lowercase(), expected.trim());

        let signer = RsaSigner::parse(pair.key_pem.as_bytes(), "key").unwrap();
        let chain = CertificateChain::parse(&pair.certificate_der, "der").unwrap();
        let (image, _) = signed(&boot_loader(), &Identity::new(Box::new(signer), chain).unwrap(), None);
        fs::write(folder.join("image.efi"), image).unwrap();
        assert_eq!(sh(folder, "sbverify --cert pem image.efi"), "Signature verification OK\n");
        sh(folder, "osslsigncode verify -CAfile pem -in image.efi");
    }
}

#[test]
fn a_key_set_is_written_whole_or_not_at_all() {
    let temp = tempfile::tempdir().unwrap();
    let folder = temp.path().join("keys");
    let set = KeySet::generate(&request(KeySize::Rsa2048), &mut rand_core::OsRng, &Cancel::default()).unwrap();
    let written = set.write(&folder).unwrap();
    let list = |folder: &Path| {
        let mut found: Vec<_> = fs::read_dir(folder)
            .unwrap()
            .map(|entry| {
                let entry = entry.unwrap();
                let mode = entry.metadata().unwrap().permissions().mode() & 0o777;
                format!("{} {mode:o}", entry.file_name().to_string_lossy())
            })
            .collect();
        found.sort();
        found
    };
    let expected = [
        "KEK.der 644",
        "KEK.key 600",
        "KEK.pem 644",
        "PK.der 644",
        "PK.key 600",
        "PK.pem 644",
        "db.der 644",
        "db.key 600",
        "db.pem 644",
        "tpm2-pcr-private.pem 600",
        "tpm2-pcr-public.pem 644",
    ];
    assert_eq!(list(&folder), expected);
    assert_eq!(written.len(), expected.len());
    assert_eq!(fs::metadata(&folder).unwrap().permissions().mode() & 0o777, 0o700);
    for role in ["PK", "KEK", "db"] {
        let chain = load_certificate(&folder.join(format!("{role}.pem"))).unwrap();
        let key = load_key(&folder.join(format!("{role}.key"))).unwrap();
        assert!(!key.world_readable);
        assert!(
            sh(&folder, &format!("openssl x509 -in {role}.pem -noout -subject"))
                .ends_with(&format!("Kairos test {role}\n"))
        );
        assert_eq!(chain.ders().next().unwrap(), fs::read(folder.join(format!("{role}.der"))).unwrap());
        Identity::new(Box::new(key.signer), chain).unwrap();
    }
    assert_eq!(
        sh(&folder, "openssl pkey -in tpm2-pcr-private.pem -pubout"),
        fs::read_to_string(folder.join("tpm2-pcr-public.pem")).unwrap()
    );

    // Again: refused, nothing changed.
    let error = set.write(&folder).unwrap_err();
    let path = folder.join("PK.key");
    assert_eq!(
        error.to_string(),
        format!("{} exists already: keys are never overwritten, choose another folder", path.display())
    );
    // Only the last name is taken, by a link that leads nowhere: refused, nothing written.
    let other = temp.path().join("other");
    fs::create_dir(&other).unwrap();
    std::os::unix::fs::symlink("nowhere", other.join("tpm2-pcr-public.pem")).unwrap();
    assert!(matches!(set.write(&other).unwrap_err(), SignError::Exists { .. }));
    assert_eq!(fs::read_dir(&other).unwrap().count(), 1);
    // A parent that is missing.
    let error = set.write(&temp.path().join("no/such")).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "cannot write {}: No such file or directory (os error 2); no key was written",
            temp.path().join("no/such").display()
        )
    );
}

#[test]
fn requests_that_cannot_be_met_are_refused() {
    let error = |change: fn(&mut CertificateRequest)| {
        let mut request = request(KeySize::Rsa2048);
        change(&mut request);
        generate(&request, &mut rand_core::OsRng).unwrap_err().to_string()
    };
    assert_eq!(
        error(|request| request.common_name = "a\nb".to_owned()),
        "cannot make the key: the name \"a\\nb\" must have 1 to 64 characters and no control characters"
    );
    assert_eq!(
        error(|request| request.common_name.clear()),
        "cannot make the key: the name \"\" must have 1 to 64 characters and no control characters"
    );
    let span = "is no span of time before the year 10000";
    assert_eq!(
        error(|request| request.days = 0),
        format!("cannot make the key: 0 days from second 1767225600 on {span}")
    );
    assert_eq!(
        error(|request| request.not_before = u64::MAX),
        format!("cannot make the key: 3650 days from second 18446744073709551615 on {span}")
    );
    assert_eq!(
        KeySize::from_bits(1024).unwrap_err().to_string(),
        "cannot make the key: 1024 bits are not offered: use 2048, 3072 or 4096"
    );
}

#[test]
fn a_wrong_file_is_named_for_what_it_is() {
    let temp = tempfile::tempdir().unwrap();
    let folder = temp.path();
    sh(
        folder,
        "openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out ec.p8.key
        openssl ecparam -name prime256v1 -genkey -out ec.key
        openssl ec -in ec.key -outform der -out ec.der
        openssl genpkey -algorithm ed25519 -out ed.key
        openssl genpkey -algorithm RSA-PSS -pkeyopt rsa_keygen_bits:2048 -out pss.key
        openssl genrsa -out 1024.key 1024
        openssl genrsa -out 4608.key 4608
        openssl pkey -in 1024.key -pubout -out public.key
        openssl req -x509 -new -key ec.key -subj /CN=ec -out ec.pem
        openssl req -x509 -new -key 1024.key -subj /CN=1024 -out 1024.pem
        openssl req -new -key 1024.key -subj /CN=1024 -out request.pem
        : > empty; echo garbage > garbage; head -c 300000 /dev/zero > long",
    );
    let k = keys().display();
    sh(
        folder,
        &format!(
            "cp {k}/2048.pem cert.pem; cp {k}/2048.der cert.der; cp {k}/2048.key good.key; cp {k}/2048.p8 good.der
            openssl rsa -traditional -aes128 -passout pass:x -in good.key -out enc.p1.key
            openssl pkcs8 -topk8 -passout pass:x -in good.key -out enc.p8.key
            openssl pkcs8 -topk8 -passout pass:x -in good.key -outform der -out enc.der
            head -c 900 good.key > cut.key; head -c 900 good.der > cut.der; head -c 600 cert.pem > cut.pem
            sed 5s/^..../%%%%/ good.key > notbase64.key
            python3 -c 'd = bytearray(open(\"good.der\", \"rb\").read()); d[100] ^= 1; open(\"flip.der\", \"wb\").write(d)'"
        ),
    );
    let key = |name: &str| short(folder, load_key(&folder.join(name)).unwrap_err());
    let certificate = |name: &str| short(folder, load_certificate(&folder.join(name)).unwrap_err());
    let give = "give an RSA private key in PEM or DER (PKCS#1 or PKCS#8)";
    for (name, message) in [
        ("empty", format!("F/empty holds nothing (it is empty), not a private key: {give}")),
        ("garbage", format!("F/garbage holds neither PEM nor DER that is known here, not a private key: {give}")),
        ("cut.der", format!("F/cut.der holds neither PEM nor DER that is known here, not a private key: {give}")),
        ("cert.pem", format!("F/cert.pem holds a certificate, not a private key: {give}")),
        ("cert.der", format!("F/cert.der holds a certificate, not a private key: {give}")),
        ("public.key", format!("F/public.key holds a public key, not a private key: {give}")),
        ("request.pem", format!("F/request.pem holds a certificate request, not a private key: {give}")),
        ("cut.key", "F/cut.key is damaged: the PEM block \"PRIVATE KEY\" has no END line of its own".to_owned()),
        (
            "notbase64.key",
            "F/notbase64.key is damaged: the PEM block \"PRIVATE KEY\" is not base64: Invalid symbol 37, offset 192."
                .to_owned(),
        ),
        ("flip.der", "F/flip.der is damaged: its numbers do not make an RSA key of two primes".to_owned()),
        ("long", "F/long is larger than 262144 bytes: this is not a file of a private key".to_owned()),
        ("missing", "cannot read F/missing: No such file or directory (os error 2)".to_owned()),
        ("../..", "cannot read F/../..: Is a directory (os error 21)".to_owned()),
    ] {
        assert_eq!(key(name), message);
    }
    for name in ["enc.p1.key", "enc.p8.key", "enc.der"] {
        assert_eq!(
            key(name),
            format!(
                "F/{name} is encrypted: decrypt it first with `openssl pkey -in F/{name} -out plain.key` and give plain.key"
            )
        );
    }
    let only = "only RSA keys of 2048 to 4096 bits are supported";
    for name in ["ec.key", "ec.p8.key", "ec.der"] {
        assert_eq!(key(name), format!("F/{name} has a key of type EC (elliptic curve): {only}"));
    }
    assert_eq!(key("ed.key"), format!("F/ed.key has a key of type Ed25519: {only}"));
    assert_eq!(key("pss.key"), format!("F/pss.key has a key of type RSASSA-PSS: {only}"));
    assert_eq!(certificate("ec.pem"), format!("F/ec.pem has a key of type EC (elliptic curve): {only}"));
    let size = |bits| format!("has an RSA key of {bits} bits: only 2048 to 4096 bits are supported");
    assert_eq!(key("1024.key"), format!("F/1024.key {}", size(1024)));
    assert_eq!(key("4608.key"), format!("F/4608.key {}", size(4608)));
    assert_eq!(certificate("1024.pem"), format!("F/1024.pem {}", size(1024)));

    let give = "give an X.509 certificate in PEM or DER";
    assert_eq!(certificate("empty"), format!("F/empty holds nothing (it is empty), not a certificate: {give}"));
    assert_eq!(certificate("good.key"), format!("F/good.key holds a private key, not a certificate: {give}"));
    assert_eq!(certificate("good.der"), format!("F/good.der holds a private key, not a certificate: {give}"));
    assert_eq!(
        certificate("garbage"),
        format!("F/garbage holds neither PEM nor DER that is known here, not a certificate: {give}")
    );
    assert_eq!(
        certificate("cut.pem"),
        "F/cut.pem is damaged: the PEM block \"CERTIFICATE\" has no END line of its own"
    );
    assert_eq!(certificate("missing"), "cannot read F/missing: No such file or directory (os error 2)");
}

/// The message with the folder as `F`; it must be one line.
fn short(folder: &Path, error: SignError) -> String {
    let message = error.to_string().replace(&folder.display().to_string(), "F");
    assert!(!message.contains('\n'), "{message}");
    message
}

#[test]
fn a_key_and_a_certificate_that_do_not_belong_together_are_refused() {
    let signer = load_key(&keys().join("2048.key")).unwrap().signer;
    let chain = load_certificate(&keys().join("3072.pem")).unwrap();
    let (one, other) = (hex::encode(signer.public_key().fingerprint()), hex::encode(chain.public_key().fingerprint()));
    let error = Identity::new(Box::new(signer), chain).unwrap_err();
    assert_eq!(
        short(keys(), error),
        format!(
            "F/2048.key and F/3072.pem do not belong together: the public key of the one has SHA-256 {one}, of the \
             other {other}; give the certificate that was made for this key"
        )
    );
}

#[test]
fn a_key_that_everyone_can_read_is_flagged() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("db.key");
    fs::copy(keys().join("2048.key"), &path).unwrap();
    for (mode, flagged) in [(0o644, true), (0o604, true), (0o640, false), (0o600, false)] {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        assert_eq!(load_key(&path).unwrap().world_readable, flagged, "{mode:o}");
    }
}
