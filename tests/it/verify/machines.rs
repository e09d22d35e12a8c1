//! Kairos' demands on its image, the boot manager beside it, and machines that run an older one.

use std::process::Command;

use kairos_init::boot::verify::{Outcome, Report, Request};

use super::{Case, archive, fails, lines, passes, report, warns, zstd};
use crate::roots;

type Entry = (String, u32, Vec<u8>);

/// A root as immucore wants it.
fn root() -> Vec<Entry> {
    let directory = |name: &str| (name.to_owned(), 0o040_755, Vec::new());
    let file = |name: &str, content: &str| (name.to_owned(), 0o100_755, content.as_bytes().to_vec());
    let link = |name: &str, target: &str| (name.to_owned(), 0o120_777, target.as_bytes().to_vec());
    let modules = "usr/lib/modules/6.12.0-test";
    let mut root = vec![
        link("bin", "usr/bin"),
        link("init", "/usr/bin/immucore"),
        link("sbin", "usr/sbin"),
        directory("oem"),
        directory("efi"),
        directory("usr/local/cloud-config"),
        file("etc/kairos-release", "KAIROS_ID=\"x\"\nKAIROS_RELEASE=\"v1.0.0\"\n"),
    ];
    for program in ["usr/bin/immucore", "usr/bin/kairos-agent", "usr/bin/sh", "usr/bin/rsync", "usr/sbin/init"] {
        root.push(file(program, "x"));
    }
    for program in ["modprobe", "depmod"] {
        root.push(file(&format!("usr/sbin/{program}"), "x"));
    }
    root.push(file("usr/lib/systemd/systemd-udevd", "x"));
    root.push(file("usr/lib/systemd/systemd-cryptsetup", "x"));
    root.push(file("usr/bin/systemd-cryptenroll", "x"));
    let builtin =
        ["drivers/char/tpm/tpm_tis.ko", "fs/ext4/ext4.ko", "drivers/md/dm-verity.ko", "drivers/md/dm-crypt.ko"];
    root.push(file(&format!("{modules}/modules.builtin"), &builtin.map(|name| format!("kernel/{name}\n")).concat()));
    for name in
        ["efivarfs", "overlay", "squashfs", "erofs", "loop", "isofs", "vfat", "nls_cp437", "nls_iso8859-1", "e1000"]
    {
        root.push(file(&format!("{modules}/kernel/{name}.ko.xz"), "x"));
    }
    root
}

fn packed(root: &[Entry]) -> Vec<u8> {
    let entries: Vec<(&str, u32, &[u8])> =
        root.iter().map(|(name, mode, content)| (name.as_str(), *mode, content.as_slice())).collect();
    zstd(&archive(&entries))
}

fn kairos(root: &[Entry]) -> Case {
    Case { cmdline: "console=ttyS0 rd.immucore.uki".into(), initrd: packed(root), ..Case::new() }
}

fn without(names: &[&str]) -> Report {
    let root: Vec<_> = root().into_iter().filter(|(name, ..)| !names.iter().any(|end| name.ends_with(end))).collect();
    let case = kairos(&root);
    case.report(&case.built())
}

#[test]
fn a_root_as_immucore_wants_it_passes_and_each_part_is_missed() {
    let all = without(&[]);
    passes(&all);
    assert_eq!(all.count(Outcome::Warning) + all.count(Outcome::NotChecked), 0, "{}", lines(&all));
    for part in ["init", "usr/bin/immucore", "oem", "efi", "usr/local/cloud-config", "systemd-udevd", "usr/bin/sh"] {
        fails(&without(&[part]), &["immucore"]);
    }
    fails(&without(&["usr/sbin/init"]), &["immucore"]);
    fails(&without(&["efivarfs.ko.xz"]), &["efivarfs"]);
    for (part, id, words) in [
        ("usr/bin/kairos-agent", "agent", "kairos-agent is missing"),
        ("etc/kairos-release", "agent", "KAIROS_RELEASE"),
        ("squashfs.ko.xz", "modules", "squashfs"),
        ("usr/bin/rsync", "immucore", "rsync"),
        ("systemd-cryptsetup", "immucore", "do not unlock"),
    ] {
        let report = without(&[part]);
        passes(&report);
        warns(&report, id, words);
    }
    let case = Case { uname: "6.12.1-test".into(), ..kairos(&root()) };
    fails(&case.report(&case.built()), &["kernel-modules"]);
    let case = Case { cmdline: "quiet".into(), ..kairos(&root()) };
    fails(&case.report(&case.built()), &["immucore"]);
}

#[test]
fn a_tpm_whose_driver_is_a_module_comes_too_late() {
    let mut root = root();
    root.push(("usr/lib/modules/6.12.0-test/kernel/tpm_tis_spi.ko".into(), 0o100_644, Vec::new()));
    let case = kairos(&root);
    let one = case.report(&case.built());
    passes(&one);
    warns(&one, "tpm-drivers", "tpm_tis_spi");
    for (name, _, content) in &mut root {
        if name.ends_with("modules.builtin") {
            *content = String::from_utf8_lossy(content).replace("tpm_tis", "other").into_bytes();
        }
    }
    let case = kairos(&root);
    warns(&case.report(&case.built()), "tpm-drivers", "all TPM drivers are modules");
    root.retain(|(name, ..)| !name.contains("tpm_tis_spi"));
    let case = kairos(&root);
    fails(&case.report(&case.built()), &["tpm-drivers"]);
}

#[test]
fn the_boot_manager_has_to_fit() {
    let case = Case::new();
    let uki = case.built();
    let loader = std::fs::read(roots::base().join("usr/lib/systemd/boot/efi/systemd-bootx64.efi")).unwrap();
    let with = |loader: &[u8]| report(&uki, &Request { loader: Some(&loader), ..case.request() });
    fails(&with(&loader), &["loader-signature"]);
    case.write("loader.efi", &loader);
    case.sh("sbsign --key db.key --cert db.pem --output signed.efi loader.efi");
    let signed = with(&case.read("signed.efi"));
    passes(&signed);
    warns(&signed, "loader", "entries with the key `uki` need 258");
    assert!(!with(b"MZ").passed());
    warns(&with(&uki), "loader", "does not say systemd-boot");
}

#[test]
fn upgrades_that_strand_machines_are_refused() {
    let old = kairos(&root());
    let old_uki = old.built();
    let upgrade = |case: &Case| {
        let mut request = case.request();
        request.db = Some(old.database("db.pem"));
        let old = old_uki.as_slice();
        request.upgrade_from = Some(&old);
        report(&case.built(), &request)
    };
    passes(&upgrade(&old));
    assert!(upgrade(&old).of("upgrade").all(|check| check.outcome == Outcome::Pass));

    // Other keys, of both kinds.
    let other = kairos(&root());
    fails(&upgrade(&other), &["signature", "upgrade"]);
    for name in ["db.key", "db.pem"] {
        other.write(name, &old.read(name));
    }
    fails(&upgrade(&other), &["upgrade"]);
    for name in ["pcr.key", "pcr.pub"] {
        other.write(name, &old.read(name));
    }
    passes(&upgrade(&other));

    // A driver less, another system.
    let fewer: Vec<_> = root().into_iter().filter(|(name, ..)| !name.ends_with("e1000.ko.xz")).collect();
    let changed = Case { initrd: packed(&fewer), os_release: "ID=other\nVERSION_ID=1\n".into(), ..other };
    let report = upgrade(&changed);
    passes(&report);
    warns(&report, "upgrade", "1 drivers are gone: e1000");
    warns(&report, "upgrade", "os-release ID was \"test\", is \"other\"");
}

#[test]
fn the_command_prints_a_line_for_each_check_and_fails_where_one_fails() {
    let case = Case::new();
    let uki = case.built();
    case.write("uki.efi", &uki);
    case.write("cut.efi", &uki[..uki.len() - 8]);
    let run = |arguments: &[&str]| {
        let program = Command::new(env!("CARGO_BIN_EXE_kairos-init"));
        let mut program = program;
        program.args(["uki", "verify", "--db", "db.pem", "--pcr-public-key", "pcr.pub"]).args(arguments);
        let output = program.current_dir(case.folder.path()).output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    };
    let (code, out, err) = run(&["uki.efi"]);
    assert_eq!((code, err.as_str()), (Some(0), ""), "{out}");
    assert!(out.contains("pass         signature   "), "{out}");
    let (code, out, err) = run(&["cut.efi"]);
    assert_eq!(code, Some(1), "{out}");
    assert!(err.contains("cut.efi failed a check"), "{err}");
    let (code, out, _) = run(&["--json", "cut.efi"]);
    assert_eq!(code, Some(1));
    let json: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(json["passed"], false);
    let failed: Vec<_> = json["checks"].as_array().unwrap().iter().filter(|c| c["outcome"] == "failure").collect();
    assert_eq!(failed.len(), 1);
    assert_eq!(failed[0]["id"], "signature");
}
