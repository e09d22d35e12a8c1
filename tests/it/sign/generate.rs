//! Keys that we make, against OpenSSL and the verifiers.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use kairos_init::boot::sign::certificate::load_certificate;
use kairos_init::boot::sign::enrolment::EnrolmentRequest;
use kairos_init::boot::sign::generate::{CertificateRequest, KeySize, generate};
use kairos_init::boot::sign::keys::load_key;
use kairos_init::boot::sign::keyset::KeySet;
use kairos_init::boot::sign::{CertificateChain, Identity, RsaSigner, SignError};
use kairos_init::cancel::Cancel;

use super::{boot_loader, sh, signed};

fn request(size: KeySize) -> CertificateRequest {
    // A moment that has passed wherever this runs: 2026-01-01.
    CertificateRequest {
        common_name: "Kairos test".to_owned(),
        organization: None,
        country: None,
        size,
        not_before: 1_767_225_600,
        days: 3650,
    }
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
    let enrolment = set.enrolment(&EnrolmentRequest::default()).unwrap();
    let written = set.write(&enrolment, &folder).unwrap();
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
        "KEK.auth 644",
        "KEK.der 644",
        "KEK.esl 644",
        "KEK.key 600",
        "KEK.pem 644",
        "PK.auth 644",
        "PK.der 644",
        "PK.esl 644",
        "PK.key 600",
        "PK.pem 644",
        "db.auth 644",
        "db.der 644",
        "db.esl 644",
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
    let error = set.write(&enrolment, &folder).unwrap_err();
    let path = folder.join("PK.key");
    assert_eq!(
        error.to_string(),
        format!("{} exists already: keys are never overwritten, choose another folder", path.display())
    );
    // Only the last name is taken, by a link that leads nowhere: refused, nothing written.
    let other = temp.path().join("other");
    fs::create_dir(&other).unwrap();
    std::os::unix::fs::symlink("nowhere", other.join("tpm2-pcr-public.pem")).unwrap();
    assert!(matches!(set.write(&enrolment, &other).unwrap_err(), SignError::Exists { .. }));
    assert_eq!(fs::read_dir(&other).unwrap().count(), 1);
    // A parent that is missing.
    let error = set.write(&enrolment, &temp.path().join("no/such")).unwrap_err();
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
    assert_eq!(
        error(|request| request.organization = Some("x".repeat(65))),
        format!(
            "cannot make the key: the organization {:?} must have 1 to 64 characters and no control characters",
            "x".repeat(65)
        )
    );
    assert_eq!(
        error(|request| request.country = Some("Germany".to_owned())),
        "cannot make the key: the country \"Germany\" must be two capital letters, such as DE"
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
fn a_certificate_may_outlive_the_year_2049() {
    let temp = tempfile::tempdir().unwrap();
    let request = CertificateRequest { days: 36500, ..request(KeySize::Rsa2048) };
    let pair = generate(&request, &mut rand_core::OsRng).unwrap();
    fs::write(temp.path().join("pem"), pair.certificate_pem).unwrap();
    let dates = sh(temp.path(), "openssl x509 -in pem -noout -dates; openssl verify -x509_strict -CAfile pem pem");
    assert_eq!(dates, "notBefore=Jan  1 00:00:00 2026 GMT\nnotAfter=Dec  8 00:00:00 2125 GMT\npem: OK\n");
}
