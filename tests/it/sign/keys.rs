//! Keys that OpenSSL made, right ones and wrong ones.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use kairos_init::boot::sign::certificate::load_certificate;
use kairos_init::boot::sign::keys::load_key;
use kairos_init::boot::sign::{Identity, SignError, Signer};
use sha2::{Digest, Sha256};

use super::{openssl_keys, sh};

#[test]
fn keys_of_every_size_and_form_sign_as_openssl_does() {
    let temp = tempfile::tempdir().unwrap();
    let folder = temp.path();
    fs::write(folder.join("message"), "a message").unwrap();
    for bits in [2048, 3072, 4096] {
        let made = |form: &str| openssl_keys().join(format!("{bits}.{form}"));
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
    let k = openssl_keys().display();
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
    for name in ["enc.p8.key", "enc.der"] {
        assert_eq!(
            key(name),
            format!(
                "F/{name} is encrypted: give its passphrase with --key-passphrase file:PATH, fd:NUMBER or env:NAME"
            )
        );
    }
    assert_eq!(
        key("enc.p1.key"),
        "F/enc.p1.key is encrypted in a way that is not read here (OpenSSL's old form, Proc-Type: 4,ENCRYPTED): encrypt \
         it anew with `openssl pkcs8 -topk8 -v2 aes-256-cbc -in F/enc.p1.key -out new.key` and give new.key"
    );
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
    let signer = load_key(&openssl_keys().join("2048.key")).unwrap().signer;
    let chain = load_certificate(&openssl_keys().join("3072.pem")).unwrap();
    let (one, other) = (hex::encode(signer.public_key().fingerprint()), hex::encode(chain.public_key().fingerprint()));
    let error = Identity::new(Box::new(signer), chain).unwrap_err();
    assert_eq!(
        short(openssl_keys(), error),
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
    fs::copy(openssl_keys().join("2048.key"), &path).unwrap();
    for (mode, flagged) in [(0o644, true), (0o604, true), (0o640, false), (0o600, false)] {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        assert_eq!(load_key(&path).unwrap().world_readable, flagged, "{mode:o}");
    }
}
