//! AuroraBoot's command lines: `genkey` by OpenSSL's eyes, and what `build-uki` refuses.

use std::path::Path;
use std::process::{Command, Output};

fn program(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_kairos-init")).args(arguments).current_dir(folder).output().unwrap()
}

fn openssl(folder: &Path, arguments: &[&str]) -> String {
    let output = Command::new("openssl").args(arguments).current_dir(folder).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn genkey_makes_upstreams_files_and_subjects() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let run = |more: &[&str]| program(folder, &[&["genkey", "My Keys", "-o", "a/b/keys/", "-e", "30"], more].concat());
    let output = run(&["--skip-microsoft-certs-I-KNOW-WHAT-IM-DOING=false"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let keys = folder.join("a/b/keys");
    for name in ["PK", "KEK", "db"] {
        for ending in ["key", "pem", "der", "auth", "esl"] {
            assert!(keys.join(format!("{name}.{ending}")).is_file(), "{name}.{ending}");
        }
        let subject =
            openssl(&keys, &["x509", "-noout", "-subject", "-nameopt", "RFC2253", "-in", &format!("{name}.pem")]);
        assert_eq!(subject.trim(), format!("subject=CN=My Keys-{name}"));
        let text = openssl(&keys, &["x509", "-noout", "-text", "-in", &format!("{name}.pem")]);
        assert!(
            text.contains("Public-Key: (2048 bit)")
                && text.contains("sha256WithRSAEncryption")
                && text.contains("CA:TRUE")
        );
        openssl(&keys, &["verify", "-CAfile", &format!("{name}.pem"), &format!("{name}.pem")]);
        // 30 days, not more and not less.
        let valid = |seconds: &str| {
            let mut command = Command::new("openssl");
            command.args(["x509", "-noout", "-checkend", seconds, "-in", &format!("{name}.pem")]).current_dir(&keys);
            command.output().unwrap().status.success()
        };
        assert!(valid("2588400") && !valid("2592001"), "{name}");
    }
    assert!(openssl(&keys, &["rsa", "-noout", "-text", "-in", "tpm2-pcr-private.pem"]).contains("2048 bit"));
    // With Microsoft's certificates, as upstream by default.
    assert!(std::fs::read(keys.join("db.esl")).unwrap().windows(9).any(|window| window == b"Microsoft"));

    // What is there stays.
    let before = std::fs::read(keys.join("PK.key")).unwrap();
    let again = run(&[]);
    assert_eq!(again.status.code(), Some(1));
    assert_eq!(std::fs::read(keys.join("PK.key")).unwrap(), before);

    // A machine's own variables: both files must be there.
    let custom = folder.join("custom");
    std::fs::create_dir(&custom).unwrap();
    std::fs::copy(keys.join("db.esl"), custom.join("db")).unwrap();
    let arguments = [
        "genkey",
        "x",
        "--output",
        "more",
        "--custom-cert-dir",
        "custom",
        "--skip-microsoft-certs-I-KNOW-WHAT-IM-DOING",
    ];
    let output = program(folder, &arguments);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("KEK") && !folder.join("more").exists());
    std::fs::copy(keys.join("KEK.esl"), custom.join("KEK")).unwrap();
    assert!(program(folder, &arguments).status.success());
    let list = std::fs::read(folder.join("more/db.esl")).unwrap();
    assert!(list.windows(10).any(|window| window == b"My Keys-db"));
}

#[test]
fn build_uki_says_what_it_cannot_do() {
    let folder = tempfile::tempdir().unwrap();
    let keys = ["--tpm-pcr-private-key", "p", "--sb-key", "k", "--sb-cert", "c"];
    let run = |more: &[&str]| {
        let output = program(folder.path(), &[&["build-uki"], &keys[..], more].concat());
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, text) = run(&["-t", "iso", "docker:some/image:24.04"]);
    assert!(code == Some(1) && text.contains("container images"), "{text}");
    let (code, text) = run(&["-x", "a", "-c", "b", "dir:."]);
    assert!(code == Some(2), "{text}");
    let (code, text) = run(&["dir:."]);
    assert!(code == Some(1) && text.contains("cannot read c: No such file"), "{text}");
}
