//! Keys and signatures against the programs that others check them with: OpenSSL, sbsign's family,
//! efitools, osslsigncode, virt-firmware.
//!
//! Needs `openssl`, sbsigntool, efitools, `osslsigncode`, virt-firmware and the Debian root that the other tests use;
//! without them it fails.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::string_slice, clippy::panic)]

mod generate;
mod images;
mod keys;
mod passphrase;
mod policy;
mod program;
mod variables;

use std::fs;
use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use kairos_init::boot::sign::Hash;
use kairos_init::boot::sign::Identity;
use kairos_init::boot::sign::authenticode::{Existing, Signature, Signing, sign_pe};
use kairos_init::boot::sign::certificate::load_certificate;
use kairos_init::boot::sign::keys::load_key;
use kairos_init::cancel::Cancel;

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
fn openssl_keys() -> &'static Path {
    static KEYS: OnceLock<PathBuf> = OnceLock::new();
    KEYS.get_or_init(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("sign-keys");
        let _ = fs::remove_dir_all(&folder);
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
    let key = load_key(&openssl_keys().join(format!("{bits}.key"))).unwrap();
    let chain = load_certificate(&openssl_keys().join(format!("{bits}.pem"))).unwrap();
    Identity::new(Box::new(key.signer), chain).unwrap()
}

fn signed(image: &[u8], identity: &Identity, time: Option<u64>) -> (Vec<u8>, Signature) {
    let mut file = Cursor::new(image.to_vec());
    let signature = sign_pe(
        &mut file,
        "image.efi",
        &[Signing { identity, hash: Hash::Sha256 }],
        Existing::Refuse,
        time,
        &Cancel::default(),
    )
    .unwrap();
    assert_eq!(signature.length, file.get_ref().len() as u64);
    (file.into_inner(), signature)
}
