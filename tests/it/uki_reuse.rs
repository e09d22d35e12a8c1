//! `uki build --reuse-initrd`: a UKI made of the last one, for another command line, keys or profiles.

use std::fs;
use std::io::Cursor;
use std::path::PathBuf;

use kairos_init::boot::uki::pe::PeHeaders;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::cli::{Case, keys, program, stderr};

const UKI: &str = "uki/EFI/kairos/norole.efi";

/// What it makes, and what it warns of.
fn reused(case: &Case, more: &[&str]) -> Result<(Vec<u8>, String), String> {
    let output: PathBuf = case.dir.path().join("again.efi");
    let mut command = program(&["uki", "build", "--reuse-initrd"]);
    command.arg(case.out()).arg("--output").arg(&output);
    command.arg("--sb-key").arg(keys().join("db.key")).arg("--sb-cert").arg(keys().join("db.pem"));
    command.arg("--pcr-key").arg(keys().join("tpm2-pcr-private.pem")).args(more);
    let done = command.output().unwrap();
    match done.status.success() {
        true => Ok((fs::read(output).unwrap(), stderr(&done))),
        false => Err(stderr(&done)),
    }
}

/// The same options give the same bytes, others what the whole run gives for them.
#[test]
fn a_reused_initrd_gives_what_the_whole_run_gives() {
    let case = Case::new();
    // A boot manager whose entries can name profiles: else the run makes a UKI for each command line.
    let loader = case.root().join("usr/lib/systemd/boot/efi/systemd-bootx64.efi");
    fs::write(loader, crate::roots::loader("forky")).unwrap();
    case.builds(&["--profile", "Debug: debug", "--cmdline", "quiet"]);
    let first = fs::read(case.out().join(UKI)).unwrap();
    let (again, warnings) = reused(&case, &["--profile", "Debug: debug"]).unwrap();
    assert!(again == first && warnings.is_empty(), "{warnings}");
    let other = ["--cmdline", "console=ttyS0 other", "--profile", "Rescue: single"];
    let (changed, _) = reused(&case, &other).unwrap();
    assert!(changed != first);
    case.builds(&other);
    assert!(changed == fs::read(case.out().join(UKI)).unwrap());
    // Without profiles, policies and signature of its own.
    let mut bare = program(&["uki", "build", "--reuse-initrd"]);
    let done = bare.arg(case.out()).arg("--output").arg(case.dir.path().join("bare.efi")).output().unwrap();
    assert!(done.status.success(), "{}", stderr(&done));
    case.refused_after_change();
}

impl Case {
    fn refused_after_change(&self) {
        let report = self.out().join("report.json");
        let text = fs::read_to_string(&report).unwrap();
        let changed = |bank: &str| {
            let mut value: Value = serde_json::from_str(&text).unwrap();
            let digest = value["initrd"]["digests"][bank].as_str().unwrap();
            let other: String = digest.chars().rev().collect();
            assert_ne!(digest, other);
            value["initrd"]["digests"][bank] = other.into();
            fs::write(&report, value.to_string()).unwrap();
        };
        let whole = fs::read(self.out().join(UKI)).unwrap();
        // An initrd that was put in the place of the old one, with its SHA-256 in the report: no policy is for it, so nothing of the
        // report is believed, and what is signed is what is written.
        let pe = PeHeaders::read(&mut Cursor::new(&whole), "the UKI").unwrap();
        let section = pe.section(".initrd").unwrap();
        let range = section.raw_offset as usize..(section.raw_offset + section.virtual_size) as usize;
        let mut replaced = whole.clone();
        replaced[range.start + 1000] ^= 1;
        fs::write(self.out().join(UKI), &replaced).unwrap();
        let mut value: Value = serde_json::from_str(&text).unwrap();
        value["initrd"]["digests"]["sha256"] = hex::encode(Sha256::digest(&replaced[range])).into();
        fs::write(&report, value.to_string()).unwrap();
        let (_, warnings) = reused(self, &["--json"]).unwrap();
        assert!(warnings.contains("in 4 of 4 banks"), "{warnings}");
        let verify = program(&["uki", "verify"]).arg(self.dir.path().join("again.efi")).output().unwrap();
        let text_of = String::from_utf8_lossy(&verify.stdout).into_owned();
        assert!(text_of.lines().any(|line| line.starts_with("pass") && line.contains("pcrsig")), "{text_of}");
        fs::write(self.out().join(UKI), &whole).unwrap();
        fs::write(&report, &text).unwrap();

        // A digest that is not proven is not believed.
        changed("sha384");
        let options = ["--cmdline", "console=ttyS0 other", "--profile", "Rescue: single"];
        let (bytes, warnings) = reused(self, &options).unwrap();
        assert!(bytes == whole && warnings.contains("1 of 4 banks"), "{warnings}");
        // SHA-256 is taken again, of all that the report says.
        changed("sha256");
        let error = reused(self, &options).unwrap_err();
        assert!(error.contains("is not the one that its report.json is about"), "{error}");
        fs::write(&report, &text).unwrap();
        let mut broken = whole.clone();
        broken[pe.section(".initrd").unwrap().raw_offset as usize + 1000] ^= 1;
        fs::write(self.out().join(UKI), broken).unwrap();
        let error = reused(self, &options).unwrap_err();
        assert!(error.contains("is not the one that its report.json is about"), "{error}");
        let mut value: Value = serde_json::from_str(&text).unwrap();
        value["initrd"].as_object_mut().unwrap().remove("digests");
        fs::write(&report, value.to_string()).unwrap();
        assert!(reused(self, &options).unwrap_err().contains("has no digests of the initrd"));
    }
}
