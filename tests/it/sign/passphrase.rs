//! Encrypted private keys that OpenSSL made.

use std::fs;
use std::path::Path;
use std::process::Command;

use kairos_init::boot::sign::keys::{load_key, load_key_with};
use kairos_init::boot::sign::{Passphrase, SignError, Signer};

use super::{openssl_keys, sh};

const WORD: &str = "correct horse battery";

fn word(text: &str) -> Passphrase {
    Passphrase::new(text.as_bytes(), "the test").unwrap()
}

#[test]
fn keys_that_openssl_encrypted_are_opened() {
    let temp = tempfile::tempdir().unwrap();
    let folder = temp.path();
    let plain = openssl_keys().join("2048.key");
    sh(folder, &format!("cp {} plain.key; echo '{WORD}' > word", plain.display()));
    sh(
        folder,
        "openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -aes256 -pass file:word -out genpkey.key
        t() { openssl pkcs8 -topk8 -in plain.key -passout file:word \"$@\"; }
        t -v2 aes-256-cbc -scrypt -out scrypt.key
        t -v2 aes-256-cbc -out aes256.key; t -v2 aes-192-cbc -out aes192.key; t -v2 aes-128-cbc -out aes128.key
        t -v2 aes-256-cbc -v2prf hmacWithSHA1 -out sha1.key; t -v2 aes-256-cbc -v2prf hmacWithSHA512 -out sha512.key
        t -v2 aes-256-cbc -iter 100000 -out iter.key
        t -scrypt -outform der -out scrypt.der; t -outform der -out aes.der",
    );
    let expected = load_key(&plain).unwrap();
    assert!(!expected.encrypted);
    let mut names: Vec<_> =
        fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.retain(|name| !["plain.key", "word"].contains(&name.as_str()));
    assert_eq!(names.len(), 10);
    for name in names {
        let path = folder.join(&name);
        let opened = load_key_with(&path, Some(&word(WORD))).unwrap_or_else(|error| panic!("{error}"));
        assert!(opened.encrypted, "{name}");
        let public = sh(folder, &format!("openssl pkey -in {name} -passin file:word -pubout"));
        assert_eq!(opened.signer.public_key().pem(), public);
        if name != "genpkey.key" {
            assert_eq!(opened.signer.public_key(), expected.signer.public_key());
        }
        assert!(matches!(load_key(&path).unwrap_err(), SignError::Encrypted { .. }));
        let wrong = load_key_with(&path, Some(&word("correct horse"))).unwrap_err().to_string();
        assert_eq!(
            wrong,
            format!(
                "the passphrase does not open {}: it is not the one of this key, or the file is damaged",
                path.display()
            )
        );
    }
    // A passphrase for a key that needs none does no harm.
    assert!(!load_key_with(&plain, Some(&word(WORD))).unwrap().encrypted);
}

#[test]
fn a_wrong_passphrase_is_a_clear_error_however_the_padding_falls() {
    // One in 256 wrong keys makes a right padding: of 600 passphrases a few do.
    let temp = tempfile::tempdir().unwrap();
    let folder = temp.path();
    sh(
        folder,
        &format!(
            "openssl pkcs8 -topk8 -in {} -passout pass:x -iter 1 -out k",
            openssl_keys().join("2048.key").display()
        ),
    );
    for number in 0..600 {
        let error = load_key_with(&folder.join("k"), Some(&word(&number.to_string()))).unwrap_err();
        assert!(matches!(error, SignError::Passphrase { .. }), "{error}");
        assert!(std::error::Error::source(&error).is_none());
    }
}

#[test]
fn what_is_encrypted_in_another_way_or_asks_for_too_much_is_named() {
    let temp = tempfile::tempdir().unwrap();
    let folder = temp.path();
    let plain = openssl_keys().join("2048.key");
    sh(
        folder,
        &format!(
            "t() {{ openssl pkcs8 -topk8 -in {} -passout pass:x \"$@\"; }}
            t -v1 PBE-SHA1-3DES -out pbes1.key; t -v2 des3 -out des3.key; t -v2 aes-256-cbc -iter 10000001 -out slow.key || true
            t -v2 aria-256-cbc -out aria.key
            openssl rsa -traditional -aes128 -passout pass:x -in {} -out old.key
            t -scrypt -outform der -out scrypt.der",
            plain.display(),
            plain.display()
        ),
    );
    let error = |name: &str| {
        let error = load_key_with(&folder.join(name), Some(&word("x"))).unwrap_err().to_string();
        error.replace(&folder.display().to_string(), "F")
    };
    let advice = |name: &str| {
        format!(
            "encrypt it anew with `openssl pkcs8 -topk8 -v2 aes-256-cbc -in F/{name} -out new.key` and give new.key"
        )
    };
    for name in ["pbes1.key", "des3.key", "aria.key", "old.key"] {
        let error = error(name);
        assert!(error.starts_with(&format!("F/{name} is encrypted in a way that is not read here (")), "{error}");
        assert!(error.ends_with(&advice(name)), "{error}");
    }
    // scrypt with N = 2^14 made into one with N = 2^30: a terabyte; PBKDF2 with 2^31 rounds.
    let mut der = fs::read(folder.join("scrypt.der")).unwrap();
    let cost = der.windows(4).position(|bytes| bytes == [2, 2, 0x40, 0]).unwrap();
    der[cost + 2..cost + 4].copy_from_slice(&[0x7f, 0xff]);
    let half = der.windows(3).position(|bytes| bytes == [2, 1, 8]).unwrap();
    der[half + 2] = 0x7f;
    fs::write(folder.join("huge.der"), &der).unwrap();
    assert!(error("huge.der").contains("scrypt with 532660352 bytes of memory in 1 passes"), "{}", error("huge.der"));
    if folder.join("slow.key").metadata().is_ok_and(|metadata| metadata.len() > 0) {
        assert!(error("slow.key").contains("10000001 rounds of PBKDF2, more than 10000000"), "{}", error("slow.key"));
    }
    // Any byte changed: an error of its own, never a panic.
    let good = fs::read(folder.join("scrypt.der")).unwrap();
    for offset in 0..90 {
        let mut bad = good.clone();
        bad[offset] ^= 0x10;
        fs::write(folder.join("bad.der"), &bad).unwrap();
        assert!(load_key_with(&folder.join("bad.der"), Some(&word("y"))).is_err());
    }
}

#[test]
fn a_passphrase_comes_from_a_file_a_descriptor_or_the_environment() {
    let temp = tempfile::tempdir().unwrap();
    let folder = temp.path();
    sh(
        folder,
        &format!(
            "printf '{WORD}\\nsecond line\\n' > word; : > empty; head -c 2000 /dev/zero | tr '\\0' a > long
            openssl pkcs8 -topk8 -in {} -passout file:word -out enc.key",
            openssl_keys().join("2048.key").display()
        ),
    );
    let program = env!("CARGO_BIN_EXE_kairos-init");
    let show = |source: &str, before: &str| {
        let command = format!("{before} {program} keys show enc.key --key-passphrase {source}");
        run(folder, &command)
    };
    for (source, before) in
        [("file:word", ""), ("env:WORD", &format!("WORD='{WORD}'")[..]), ("file:/dev/stdin", "cat word |")]
    {
        let (good, text) = show(source, before);
        assert!(good && text.starts_with("kind        encrypted private key\n"), "{source}: {text}");
    }
    assert!(run(folder, &format!("{program} keys show enc.key --key-passphrase fd:5 5< word")).0);
    assert!(run(folder, &format!("{program} keys show enc.key --key-passphrase fd:5 5< <(cat word)")).0);

    let refused = |source: &str, message: &str| {
        let (good, text) = show(source, "");
        assert!(!good && text.contains(message), "{source}: {text}");
    };
    refused("file:missing", "error: --key-passphrase: cannot read the passphrase from file missing: No such file");
    refused("file:empty", "cannot read the passphrase from file empty: it is empty");
    refused("file:long", "cannot read the passphrase from file long: it is longer than 1024 bytes");
    refused("env:NO_SUCH", "cannot read the passphrase from environment variable NO_SUCH: it is not set");
    refused("fd:99", "cannot read the passphrase from file descriptor 99: No such file");
    refused("file:enc.key", "error: the passphrase does not open enc.key");
    // Put there by mistake, it is refused, and not said again by this program's own words.
    refused("hunter2", "give file:PATH, fd:NUMBER or env:NAME, not the passphrase itself");

    // Without one: what to do. With one that no key needs: a warning where keys are loaded.
    let (good, text) = run(folder, &format!("{program} keys show enc.key"));
    assert!(!good && text.contains("enc.key is encrypted: give its passphrase with --key-passphrase"), "{text}");
}

fn run(folder: &Path, command: &str) -> (bool, String) {
    let output = Command::new("bash").args(["-c", command]).current_dir(folder).output().unwrap();
    (output.status.success(), String::from_utf8([output.stdout, output.stderr].concat()).unwrap())
}
