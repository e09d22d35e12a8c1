//! `uki sign`, keys that are elsewhere, and signatures that are made elsewhere, against sbsigntool, osslsigncode, OpenSSL and SoftHSM.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use tempfile::TempDir;

use crate::roots;

fn program(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_kairos-init")).args(arguments).current_dir(folder).output().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Runs it; what it prints.
fn ours(folder: &Path, arguments: &[&str]) -> String {
    let output = program(folder, arguments);
    assert!(output.status.success(), "{arguments:?}: {}", stderr(&output));
    String::from_utf8(output.stdout).unwrap()
}

/// What is wrong, in words.
fn refused(folder: &Path, arguments: &[&str]) -> String {
    let output = program(folder, arguments);
    assert_eq!(output.status.code(), Some(1), "{arguments:?}: {}", stderr(&output));
    stderr(&output)
}

fn sh(folder: &Path, script: &str) -> String {
    let output = Command::new("sh").args(["-ec", script]).current_dir(folder).output().unwrap();
    assert!(output.status.success(), "{script}: {}", stderr(&output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A folder with the boot loader, a kernel, keys and certificates: `a` and `b` by themselves, `leaf` by `middle` by `root`.
fn folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let efi = roots::base().join("usr/lib/systemd/boot/efi");
    fs::copy(efi.join("systemd-bootx64.efi"), folder.path().join("boot.efi")).unwrap();
    fs::write(folder.path().join("stub"), roots::stub()).unwrap();
    fs::write(folder.path().join("linux"), roots::kernel()).unwrap();
    fs::write(folder.path().join("initrd"), vec![7; 100_000]).unwrap();
    let script = "
        for name in a b; do
            openssl req -x509 -newkey rsa:2048 -nodes -keyout $name.key -subj /CN=$name -days 30 -out $name.pem 2>/dev/null
        done
        openssl genrsa -out pcr.key 2048 2>/dev/null; openssl pkey -in pcr.key -pubout -out pcr.pub";
    sh(folder.path(), script);
    folder
}

const BUILD: [&str; 12] = [
    "uki",
    "build",
    "--stub",
    "stub",
    "--linux",
    "linux",
    "--initrd",
    "initrd",
    "--cmdline",
    "quiet",
    "--profile",
    "Debug: debug",
];

fn build<'a>(more: &[&'a str]) -> Vec<&'a str> {
    BUILD.iter().copied().chain(more.iter().copied()).collect()
}

#[test]
fn signatures_are_added_beside_others_and_taken_away() {
    let temp = folder();
    let folder = temp.path();
    let original = fs::read(folder.join("boot.efi")).unwrap();
    ours(folder, &["uki", "sign", "boot.efi", "--sb-key", "a.key", "--sb-cert", "a.pem", "-o", "a.efi"]);
    assert_eq!(fs::read(folder.join("boot.efi")).unwrap(), original, "the input stays");
    sh(folder, "sbverify --cert a.pem a.efi; ! sbverify --cert b.pem a.efi 2>/dev/null");
    let error = refused(folder, &["uki", "sign", "a.efi", "--sb-key", "b.key", "--sb-cert", "b.pem"]);
    assert!(error.contains("--append") && error.contains("--remove"), "{error}");

    // Ours beside ours, ours beside sbsign's, sbsign's beside ours. (osslsigncode reads no table of several.)
    ours(folder, &["uki", "sign", "a.efi", "--sb-key", "b.key", "--sb-cert", "b.pem", "--append", "-o", "ab.efi"]);
    sh(folder, "sbsign --key a.key --cert a.pem --output theirs.efi boot.efi 2>/dev/null");
    ours(
        folder,
        &["uki", "sign", "theirs.efi", "--sb-key", "b.key", "--sb-cert", "b.pem", "--append", "-o", "theirs-b.efi"],
    );
    sh(folder, "sbsign --key b.key --cert b.pem --output a-theirs.efi a.efi 2>/dev/null");
    for file in ["ab.efi", "theirs-b.efi", "a-theirs.efi"] {
        sh(folder, &format!("for name in a b; do sbverify --cert $name.pem {file}; done"));
    }
    // Both at once are what one after the other is.
    let both = ["--sb-key", "a.key", "--sb-cert", "a.pem", "--sb-key", "b.key", "--sb-cert", "b.pem"];
    ours(folder, &[&["uki", "sign", "boot.efi", "-o", "once.efi"], &both[..]].concat());
    assert_eq!(fs::read(folder.join("once.efi")).unwrap(), fs::read(folder.join("ab.efi")).unwrap());

    // Without signatures it is what it was, but for the checksum, which was zero.
    for file in ["ab.efi", "theirs-b.efi", "a-theirs.efi"] {
        ours(folder, &["uki", "sign", file, "--remove", "-o", "bare.efi"]);
        sh(folder, "sbattach --remove bare.efi 2>/dev/null || true");
        let text = sh(folder, "osslsigncode verify -in bare.efi 2>&1 || true");
        assert!(!text.contains("MISMATCH") && text.contains("No signature found"), "{text}");
        ours(folder, &["uki", "sign", "bare.efi", "--sb-key", "a.key", "--sb-cert", "a.pem", "-o", "again.efi"]);
        assert_eq!(fs::read(folder.join("again.efi")).unwrap(), fs::read(folder.join("a.efi")).unwrap(), "{file}");
    }
    // In place.
    ours(folder, &["uki", "sign", "ab.efi", "--remove", "--sb-key", "a.key", "--sb-cert", "a.pem"]);
    assert_eq!(fs::read(folder.join("ab.efi")).unwrap(), fs::read(folder.join("a.efi")).unwrap());
}

#[test]
fn every_hash_key_size_and_chain_is_verified_by_osslsigncode() {
    let temp = folder();
    let folder = temp.path();
    for (bits, hash) in [(3072, "sha256"), (4096, "sha384"), (2048, "sha512")] {
        sh(
            folder,
            &format!(
                "openssl req -x509 -newkey rsa:{bits} -nodes -keyout k.key -subj /CN=k -days 30 -out k.pem 2>/dev/null"
            ),
        );
        ours(
            folder,
            &["uki", "sign", "boot.efi", "--sb-key", "k.key", "--sb-cert", "k.pem", "--sb-hash", hash, "-o", "k.efi"],
        );
        let text = sh(folder, "osslsigncode verify -CAfile k.pem -in k.efi");
        let upper = hash.to_uppercase();
        assert!(text.contains(&format!("Message digest algorithm  : {upper}")), "{text}");
        assert!(text.contains("Signature verification: ok") && !text.contains("MISMATCH"), "{text}");
    }
    let script = "
        ca() { openssl req -newkey rsa:2048 -nodes -keyout $1.key -subj /CN=$1 -out $1.csr 2>/dev/null; }
        openssl req -x509 -newkey rsa:2048 -nodes -keyout root.key -subj /CN=root -days 30 -out root.pem 2>/dev/null
        ca middle; printf 'basicConstraints=critical,CA:TRUE\\n' > ca.ext
        openssl x509 -req -in middle.csr -CA root.pem -CAkey root.key -CAcreateserial -days 30 -extfile ca.ext -out middle.pem 2>/dev/null
        ca leaf; openssl x509 -req -in leaf.csr -CA middle.pem -CAkey middle.key -CAcreateserial -days 30 -out leaf.pem 2>/dev/null
        cat leaf.pem middle.pem > chain.pem";
    sh(folder, script);
    ours(folder, &["uki", "sign", "boot.efi", "--sb-key", "leaf.key", "--sb-cert", "chain.pem", "-o", "leaf.efi"]);
    let text = sh(folder, "osslsigncode verify -CAfile root.pem -in leaf.efi");
    assert!(text.contains("Signature verification: ok"), "{text}");
    sh(
        folder,
        "sbverify --list leaf.efi | grep CN=middle; ! osslsigncode verify -CAfile a.pem -in leaf.efi >/dev/null 2>&1",
    );
    // SOURCE_DATE_EPOCH is the time of signing; without it there is none.
    ours(
        folder,
        &[
            "uki",
            "sign",
            "boot.efi",
            "--sb-key",
            "a.key",
            "--sb-cert",
            "a.pem",
            "--source-date-epoch",
            "1700000000",
            "-o",
            "t.efi",
        ],
    );
    assert!(sh(folder, "osslsigncode verify -CAfile a.pem -in t.efi").contains("Nov 14 22:13:20 2023"));
}

/// A token that holds both keys, behind pkcs11-tool: the image is byte for byte what it is with the keys in files.
#[test]
fn a_token_signs_through_a_command() {
    let temp = folder();
    let folder = temp.path();
    let script = "
        mkdir tokens; printf 'directories.tokendir = %s\\nobjectstore.backend = file\\n' \"$PWD/tokens\" > softhsm.conf
        export SOFTHSM2_CONF=$PWD/softhsm.conf
        softhsm2-util --init-token --free --label test --pin 1234 --so-pin 1234 >/dev/null
        openssl pkcs8 -topk8 -nocrypt -in a.key -out a.p8; openssl pkcs8 -topk8 -nocrypt -in pcr.key -out pcr.p8
        softhsm2-util --import a.p8 --token test --label sb --id a1 --pin 1234 >/dev/null
        softhsm2-util --import pcr.p8 --token test --label pcr --id b2 --pin 1234 >/dev/null
        find / -name libsofthsm2.so -not -path '/proc/*' 2>/dev/null | head -n 1";
    let module = sh(folder, script);
    ours(folder, &build(&["--sb-key", "a.key", "--sb-cert", "a.pem", "--pcr-key", "pcr.key", "-o", "files.efi"]));
    let command = format!(
        "case $KAIROS_INIT_KEY in sb) id=a1 ;; pcr) id=b2 ;; esac; \
         SOFTHSM2_CONF=$PWD/softhsm.conf pkcs11-tool --module {} --token-label test --pin 1234 --sign --mechanism RSA-PKCS \
         --id $id --input-file /dev/stdin --output-file /dev/stdout 2>/dev/null",
        module.trim()
    );
    let external =
        ["--sb-cert", "a.pem", "--pcr-public-key", "pcr.pub", "--signer", &command, "--signer-input", "digest-info"];
    ours(folder, &build(&[&external[..], &["-o", "token.efi"]].concat()));
    assert_eq!(fs::read(folder.join("token.efi")).unwrap(), fs::read(folder.join("files.efi")).unwrap());

    // The bare digest is what OpenSSL takes.
    let openssl = "case $KAIROS_INIT_KEY in sb) key=a.key ;; pcr) key=pcr.key ;; esac; \
        openssl pkeyutl -sign -inkey $key -pkeyopt digest:$KAIROS_INIT_HASH -pkeyopt rsa_padding_mode:pkcs1";
    ours(
        folder,
        &build(&["--sb-cert", "a.pem", "--pcr-public-key", "pcr.pub", "--signer", openssl, "-o", "openssl.efi"]),
    );
    assert_eq!(fs::read(folder.join("openssl.efi")).unwrap(), fs::read(folder.join("files.efi")).unwrap());

    for (command, words) in [
        ("echo wrong pin >&2; exit 3", "exit status: 3"),
        ("cat", "is no signature of this digest"),
        ("openssl pkeyutl -sign -inkey b.key -pkeyopt digest:sha256", "is no signature of this digest"),
    ] {
        let error = refused(folder, &build(&["--sb-cert", "a.pem", "--signer", command, "-o", "no.efi"]));
        assert!(error.contains(words) && !folder.join("no.efi").exists(), "{error}");
    }
}

/// Policies out, signatures in; the digest of the image out, its signature in: byte for byte the image that is signed at once.
#[test]
fn signatures_are_made_elsewhere_and_attached() {
    let temp = folder();
    let folder = temp.path();
    let options = ["--sb-key", "a.key", "--sb-cert", "a.pem", "--pcr-key", "pcr.key", "-o", "at-once.efi"];
    ours(folder, &build(&options));
    let output = program(folder, &build(&["--pcr-public-key", "pcr.pub", "-o", "room.efi"]));
    assert!(output.status.success() && stderr(&output).contains("no disk unlocks"), "{}", stderr(&output));

    let mut list: Value =
        serde_json::from_str(&ours(folder, &["uki", "measure", "room.efi", "--policy-digest"])).unwrap();
    // systemd-measure's own list of the same, of a single profile, has the same form; ours is for both.
    let mut policies = 0;
    for entry in list.as_object_mut().unwrap().values_mut().flat_map(|bank| bank.as_array_mut().unwrap()) {
        assert!(entry.get("sig").is_none());
        fs::write(folder.join("tbs"), hex::decode(entry["tbs"].as_str().unwrap()).unwrap()).unwrap();
        sh(folder, "openssl dgst -sha256 -sign pcr.key -out sig tbs");
        entry["sig"] = STANDARD.encode(fs::read(folder.join("sig")).unwrap()).into();
        policies += 1;
    }
    assert_eq!(policies, 2 * 4 * 4);
    fs::write(folder.join("signed.json"), list.to_string()).unwrap();
    let text = ours(folder, &["uki", "sign", "room.efi", "--attach-pcrsig", "signed.json", "-o", "attached.efi"]);
    assert!(text.contains("attached  32 of 32"), "{text}");

    ours(folder, &["uki", "sign", "attached.efi", "--sb-cert", "a.pem", "--digest-out", "digest"]);
    sh(folder, "openssl pkeyutl -sign -inkey a.key -pkeyopt digest:sha256 -in digest -out signature");
    ours(
        folder,
        &["uki", "sign", "attached.efi", "--sb-cert", "a.pem", "--signature-in", "signature", "-o", "signed.efi"],
    );
    assert_eq!(fs::read(folder.join("signed.efi")).unwrap(), fs::read(folder.join("at-once.efi")).unwrap());

    // By another key, for another image, or of nothing.
    sh(folder, "openssl pkeyutl -sign -inkey b.key -pkeyopt digest:sha256 -in digest -out wrong");
    let error = refused(
        folder,
        &["uki", "sign", "attached.efi", "--sb-cert", "a.pem", "--signature-in", "wrong", "-o", "no.efi"],
    );
    assert!(error.contains("is no signature of this digest"), "{error}");
    list["sha256"][0]["sig"] = STANDARD.encode([1; 256]).into();
    fs::write(folder.join("bad.json"), list.to_string()).unwrap();
    let error = refused(folder, &["uki", "sign", "room.efi", "--attach-pcrsig", "bad.json", "-o", "no.efi"]);
    assert!(error.contains("the signature of policy"), "{error}");
    ours(
        folder,
        &build(
            &["--cmdline", "other"][..0]
                .iter()
                .copied()
                .chain(["--pcr-public-key", "pcr.pub", "--uname", "1", "-o", "other.efi"])
                .collect::<Vec<_>>(),
        ),
    );
    let error = refused(folder, &["uki", "sign", "other.efi", "--attach-pcrsig", "signed.json", "-o", "no.efi"]);
    assert!(error.contains("none of the signatures is for one of its policies"), "{error}");
    assert!(!folder.join("no.efi").exists());
}

/// Some writers leave the filling of the last entry of the certificate table out.
#[test]
fn a_table_without_its_filling_is_replaced_and_added_to() {
    let temp = folder();
    let folder = temp.path();
    for number in 0..4 {
        // Names of different lengths: signatures of different lengths.
        let name = "x".repeat(number + 1);
        let script = format!(
            "openssl req -x509 -newkey rsa:2048 -nodes -keyout k.key -subj /CN={name} -days 30 -out k.pem 2>/dev/null
             sbsign --key k.key --cert k.pem --output theirs.efi boot.efi 2>/dev/null"
        );
        sh(folder, &script);
        let mut image = fs::read(folder.join("theirs.efi")).unwrap();
        let word = |image: &[u8], at: usize| u32::from_le_bytes(image[at..at + 4].try_into().unwrap()) as usize;
        let entry = word(&image, 0x3c) + 24 + 112 + 4 * 8;
        let (table, length) = (word(&image, entry), word(&image, word(&image, entry)));
        image.truncate(table + length);
        image[entry + 4..entry + 8].copy_from_slice(&u32::try_from(length).unwrap().to_le_bytes());
        fs::write(folder.join("short.efi"), &image).unwrap();
        sh(folder, "sbverify --cert k.pem short.efi");
        ours(
            folder,
            &["uki", "sign", "short.efi", "--remove", "--sb-key", "a.key", "--sb-cert", "a.pem", "-o", "removed.efi"],
        );
        sh(folder, "sbverify --cert a.pem removed.efi");
        ours(
            folder,
            &["uki", "sign", "short.efi", "--append", "--sb-key", "a.key", "--sb-cert", "a.pem", "-o", "both.efi"],
        );
        sh(folder, "sbverify --cert a.pem both.efi; sbverify --cert k.pem both.efi");
    }
}

#[test]
fn options_that_would_mislead_are_refused() {
    let temp = folder();
    let folder = temp.path();
    let mixed =
        ["--pcr-public-key", "a.pem", "--phases", "one", "--pcr-key", "pcr.key", "--phases", "two", "-o", "no.efi"];
    assert!(refused(folder, &build(&mixed)).contains("which list is whose cannot be told"));
    let many = ["--pcr-key", "pcr.key", "--phases", "one", "--phases", "two", "-o", "no.efi"];
    assert!(refused(folder, &build(&many)).contains("2 times, and there are 1 PCR keys"));
    let error = refused(
        folder,
        &["uki", "sign", "boot.efi", "--sb-key", "a.key", "--sb-cert", "a.pem", "--pcr-key", "pcr.key"],
    );
    assert!(error.contains("--pcr-key signs nothing here"), "{error}");
    // What is to be signed is that of the image without its old signatures, which is what is written.
    ours(folder, &["uki", "sign", "boot.efi", "--sb-key", "b.key", "--sb-cert", "b.pem", "-o", "b.efi"]);
    ours(
        folder,
        &["uki", "sign", "b.efi", "--remove", "--sb-cert", "a.pem", "--digest-out", "digest", "-o", "bare.efi"],
    );
    sh(folder, "openssl pkeyutl -sign -inkey a.key -pkeyopt digest:sha256 -in digest -out signature");
    ours(folder, &["uki", "sign", "bare.efi", "--sb-cert", "a.pem", "--signature-in", "signature", "-o", "a.efi"]);
    sh(folder, "sbverify --cert a.pem a.efi; ! sbverify --cert b.pem a.efi 2>/dev/null");
    let error = refused(folder, &["uki", "sign", "b.efi", "--remove", "--sb-cert", "a.pem", "--digest-out", "./b.efi"]);
    assert!(error.contains("name another file for the digest"), "{error}");
    fs::create_dir(folder.join("empty")).unwrap();
    ours(folder, &build(&["-o", "uki.efi"]));
    let error = refused(folder, &["uki", "measure", "uki.efi", "--efivars", "empty"]);
    assert!(error.contains("none of the variables"), "{error}");
    assert!(refused(folder, &["uki", "measure", "uki.efi", "--loader", "boot.efi"]).contains("--efivars"));
    let name = std::os::unix::ffi::OsStringExt::from_vec(b"x\xff.efi".to_vec());
    let path: std::ffi::OsString = name;
    fs::copy(folder.join("b.efi"), folder.join(&path)).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_kairos-init"));
    command.args(["uki", "sign", "--json", "--remove"]).arg(&path).current_dir(folder);
    assert!(command.output().unwrap().status.success());
}

#[test]
fn what_cannot_be_signed_is_told() {
    let temp = folder();
    let folder = temp.path();
    fs::write(folder.join("text"), "text").unwrap();
    for (arguments, words) in [
        (&["uki", "sign", "boot.efi"][..], "nothing to do"),
        (&["uki", "sign", "boot.efi", "--sb-key", "a.key"], "needs a --sb-cert"),
        (&["uki", "sign", "boot.efi", "--sb-cert", "a.pem"], "needs a --sb-key"),
        (&["uki", "sign", "boot.efi", "--sb-key", "a.key", "--sb-cert", "b.pem"], "do not belong together"),
        (&["uki", "sign", "text", "--sb-key", "a.key", "--sb-cert", "a.pem"], "it does not begin with MZ"),
        (&["uki", "sign", "missing.efi", "--sb-key", "a.key", "--sb-cert", "a.pem"], "missing.efi"),
        (&["uki", "sign", "boot.efi", "--attach-pcrsig", "text"], "is not what `uki measure --policy-digest` prints"),
    ] {
        let error = refused(folder, arguments);
        assert!(error.contains(words), "{words} in {error}");
    }
}
