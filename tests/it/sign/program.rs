//! `keys generate`, `keys variable` and `keys show` as they are run.

use std::fs;
use std::path::Path;

use serde_json::Value;

use super::{openssl_keys, sh, try_sh};

/// `keys ...` in a folder, with the time of signing out of the way; must succeed. Gives back both outputs.
fn keys(folder: &Path, arguments: &str) -> String {
    sh(folder, &format!("{} keys {arguments}", env!("CARGO_BIN_EXE_kairos-init")))
}

fn refused(folder: &Path, arguments: &str) -> String {
    let (success, output) = try_sh(folder, &format!("{} keys {arguments}", env!("CARGO_BIN_EXE_kairos-init")));
    assert!(!success, "keys {arguments} went well: {output}");
    output
}

fn show(folder: &Path, file: &str) -> Value {
    serde_json::from_str(&keys(folder, &format!("show {file} --json"))).unwrap()
}

fn subjects(shown: &Value) -> Vec<String> {
    let entries = shown["entries"].as_array().unwrap();
    entries.iter().map(|entry| entry["subject"].as_str().unwrap_or_default().to_owned()).collect()
}

#[test]
fn what_a_machine_trusts_besides_is_kept() {
    let temp = tempfile::tempdir().unwrap();
    let folder = temp.path();
    let own = openssl_keys().display();
    sh(
        folder,
        &format!(
            "mkdir machine; cert-to-efi-sig-list {own}/4096.pem machine/KEK; cert-to-efi-sig-list {own}/3072.pem list
            printf '\\7\\0\\0\\0' | cat - list > machine/db"
        ),
    );
    let output = keys(
        folder,
        &format!(
            "generate -q -o k -e 30 --name Test --organization Example --country DE --owner \
             00112233-4455-6677-8899-aabbccddeeff --custom-db-cert {own}/2048.der --custom-kek-cert {own}/2048.pem \
             --custom-cert-dir machine --source-date-epoch 1767225600"
        ),
    );
    assert_eq!(output.lines().count(), 17, "{output}");
    let db = show(folder, "k/db.auth");
    assert_eq!(db["kind"], "signed update");
    assert_eq!(db["variable"], "db");
    assert_eq!(db["signer"], "CN=Test KEK,O=Example,C=DE");
    assert_eq!(db["time"], "2026-01-01T00:00:00Z");
    assert_eq!(db["entries"][0]["owner"], "00112233-4455-6677-8899-aabbccddeeff");
    assert_eq!(db["entries"][1]["owner"], "77fa9abd-0359-4d32-bd60-28f4e78f784b");
    let names = subjects(&db);
    assert_eq!(names.len(), 8);
    assert_eq!(names[0], "CN=Test db,O=Example,C=DE");
    assert!(names[6].starts_with("CN=db 2048") && names[7].starts_with("CN=db 3072"), "{names:?}");
    let names = subjects(&show(folder, "k/KEK.esl"));
    assert_eq!(names.len(), 5);
    assert!(names[3].starts_with("CN=db 2048") && names[4].starts_with("CN=db 4096"), "{names:?}");
    assert_eq!(subjects(&show(folder, "k/PK.esl")), ["CN=Test PK,O=Example,C=DE"]);
    let days = sh(
        folder,
        "openssl x509 -in k/PK.pem -noout -checkend $((29 * 86400)); ! openssl x509 -in k/PK.pem -noout -checkend $((31 * 86400))",
    );
    assert!(days.contains("will not expire") && days.contains("will expire"), "{days}");

    // Again: nothing is overwritten, and nothing is made.
    let before = sh(folder, "sha256sum k/*");
    assert!(refused(folder, "generate -q -o k").contains("k/PK.key exists already: keys are never overwritten"));
    assert_eq!(sh(folder, "sha256sum k/*"), before);
    // One file that is taken is enough.
    sh(folder, "mkdir half; : > half/db.auth");
    assert!(refused(folder, "generate -q -o half").contains("half/db.auth exists already"));
    assert_eq!(sh(folder, "ls half"), "db.auth\n");
    // Wrong ones are refused before any key is made.
    sh(folder, "echo x > garbage; hash-to-efi-sig-list k/PK.der digest 2>/dev/null || true");
    let error = refused(folder, "generate -q -o new --custom-db-cert garbage");
    assert!(error.starts_with("error: --custom-db-cert: garbage is damaged"), "{error}");
    let error = refused(folder, "generate -q -o new --custom-cert-dir k");
    assert!(error.starts_with("error: --custom-cert-dir: cannot read k/KEK: No such file"), "{error}");
    assert!(refused(folder, "generate -q -o new --owner 1").contains("is not a GUID of the form"));
    assert!(refused(folder, "generate -q -o new --country Germany").contains("must be two capital letters"));
    assert!(!folder.join("new").exists());
}

#[test]
fn microsofts_certificates_are_left_out_only_with_a_warning() {
    let temp = tempfile::tempdir().unwrap();
    let folder = temp.path();
    for (name, option) in [
        ("one", "--without-microsoft-certificates-which-can-brick-machines"),
        ("two", "--skip-microsoft-certs-I-KNOW-WHAT-IM-DOING"),
    ] {
        let output = keys(folder, &format!("generate -q -o {name} {option}"));
        assert!(
            output.contains("warning: Microsoft's certificates are left out of db and KEK: cards whose option ROM")
        );
        assert_eq!(subjects(&show(folder, &format!("{name}/db.esl"))), ["CN=Kairos db"]);
        assert_eq!(subjects(&show(folder, &format!("{name}/KEK.auth"))), ["CN=Kairos KEK"]);
    }
    assert!(!keys(folder, "generate -q -o three").contains("warning"));
}

#[test]
fn updates_for_machines_that_have_keys_are_what_efitools_makes() {
    let temp = tempfile::tempdir().unwrap();
    let folder = temp.path();
    let own = openssl_keys().display();
    sh(
        folder,
        &format!(
            "cp {own}/2048.pem KEK.pem; openssl pkcs8 -topk8 -in {own}/2048.key -passout pass:secret -scrypt -out KEK.key
            cp {own}/3072.pem new.pem"
        ),
    );
    let make = "variable db new.pem --microsoft-certificates --owner 00112233-4455-6677-8899-aabbccddeeff";
    let output = keys(folder, &format!("{make} -o db.esl"));
    assert_eq!(output, "wrote     db.esl (6 entries)\n");
    // What is named twice is there once.
    keys(
        folder,
        &format!(
            "{make} db.esl new.pem --key KEK.key --cert KEK.pem --key-passphrase file:<(echo secret) -o db.auth \
             --source-date-epoch 1785542400"
        ),
    );
    sh(
        folder,
        &format!(
            "TZ=UTC sign-efi-sig-list -t '2026-08-01 00:00:00' -k {own}/2048.key -c KEK.pem db db.esl expected.auth
            cmp db.auth expected.auth"
        ),
    );
    // Without entries: the variable is deleted.
    keys(
        folder,
        &format!("variable PK --key {own}/2048.key --cert KEK.pem -o noPK.auth --source-date-epoch 1785542400 2>&1"),
    );
    sh(
        folder,
        &format!(
            ": > empty; TZ=UTC sign-efi-sig-list -t '2026-08-01 00:00:00' -k {own}/2048.key -c KEK.pem PK empty expected2
            cmp noPK.auth expected2"
        ),
    );
    assert_eq!(show(folder, "noPK.auth")["variable"], "PK");

    let (key, cert) = (format!("--key {own}/3072.key"), "--cert KEK.pem");
    assert!(refused(folder, &format!("variable db new.pem -o x {key} {cert}")).contains("do not belong together"));
    assert!(refused(folder, &format!("variable db new.pem -o x {key}")).contains("--cert <FILE>"));
    assert!(refused(folder, "variable db new.pem -o db.esl").contains("cannot write db.esl: File exists"));
    assert!(refused(folder, "variable PK new.pem KEK.pem -o x").contains("a machine has one platform key"));
    assert!(refused(folder, "variable dbx --microsoft-certificates -o x").contains("is for KEK and db, not for dbx"));
    assert!(refused(folder, "variable db new.pem -o x --key KEK.key --cert KEK.pem").contains("KEK.key is encrypted"));
    assert!(!folder.join("x").exists());
}

#[test]
fn a_passphrase_opens_the_keys_of_a_build_and_is_said_nowhere() {
    let temp = tempfile::tempdir().unwrap();
    let folder = temp.path();
    let own = openssl_keys().display();
    let root = super::DEBIAN_ROOT;
    sh(
        folder,
        &format!(
            "for b in 2048 3072; do openssl pkcs8 -topk8 -in {own}/$b.key -passout pass:secret-word -out $b.key; done
            head -c 100000 /dev/urandom > kernel; cp {root}/boot/vmlinuz-* kernel; chmod 600 *"
        ),
    );
    let build = |options: &str, output: &str| {
        try_sh(
            folder,
            &format!(
                "{} uki build --linux kernel --stub {root}/usr/lib/systemd/boot/efi/linuxx64.efi.stub --cmdline x -q \
                 --output {output} {options}",
                env!("CARGO_BIN_EXE_kairos-init")
            ),
        )
    };
    let encrypted = format!("--sb-key 2048.key --sb-cert {own}/2048.pem --pcr-key 3072.key");
    let (good, text) = build(&format!("{encrypted} --key-passphrase file:<(echo secret-word)"), "one.efi");
    assert!(good && !text.contains("warning"), "{text}");
    let plain = format!("--sb-key {own}/2048.key --sb-cert {own}/2048.pem --pcr-key {own}/3072.key");
    let (good, text) = build(&format!("{plain} --key-passphrase file:<(echo secret-word)"), "two.efi");
    assert!(good && text.contains("warning: a passphrase was given, and no key is encrypted"), "{text}");
    assert_eq!(fs::read(folder.join("one.efi")).unwrap(), fs::read(folder.join("two.efi")).unwrap());
    sh(folder, &format!("sbverify --cert {own}/2048.pem one.efi"));
    let (good, text) = build(&encrypted, "three.efi");
    assert!(!good && text.contains("2048.key is encrypted: give its passphrase with --key-passphrase"), "{text}");
    let (good, text) = build(&format!("{encrypted} --key-passphrase file:<(echo secret-wort)"), "three.efi");
    assert!(!good && text.contains("error: the passphrase does not open 2048.key") && !text.contains("wort"), "{text}");
    assert!(!folder.join("three.efi").exists());
}
