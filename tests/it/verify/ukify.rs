//! UKIs of ukify and systemd-measure, with and without profiles.

use std::process::Command;

use super::{Case, fails, lines, passes, report, sections, warns};
use crate::roots;
use kairos_init::boot::verify::Request;

/// Runs ukify in the root of tools; `{}` in an argument is the folder as it is seen from there.
fn ukify(case: &Case, arguments: &[&str]) {
    let folder = roots::inside_tools(&case.folder, "");
    let arguments = arguments.iter().map(|argument| argument.replace("{}", folder.trim_end_matches('/')));
    let output = Command::new("chroot").arg(roots::tools()).args(["ukify", "build"]).args(arguments).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn case() -> Case {
    let case = Case::inside(roots::tools_folder());
    let efi = roots::base().join("usr/lib/systemd/boot/efi");
    case.write("stub", &roots::stub());
    case.write("addon", &std::fs::read(efi.join("addonx64.efi.stub")).unwrap());
    case.write("linux", &roots::kernel());
    case.write("initrd", &case.initrd);
    case
}

const BASE: [&str; 9] = [
    "--stub={}/stub",
    "--linux={}/linux",
    "--initrd={}/initrd",
    "--cmdline=quiet",
    "--os-release=ID=test\nVERSION_ID=1\n",
    "--uname=6.12.0-test",
    "--pcr-private-key={}/pcr.key",
    "--pcr-public-key={}/pcr.pub",
    "--output={}/uki.efi",
];

#[test]
fn what_ukify_builds_and_systemd_measure_signs_passes() {
    let case = case();
    ukify(&case, &[&BASE[..], &["--pcr-banks=sha1,sha256,sha384"]].concat());
    let request = Request { db: None, ..case.request() };
    let report = report(&case.read("uki.efi"), &request);
    passes(&report);
    // systemd 257 signs the policies of the other banks with the bank's own hash, which its own verifier does not take.
    warns(&report, "pcrsig", "signed with sha384");
    warns(&report, "pcrsig", "signed with sha1");
    warns(&report, "sbat", "NUL");
}

#[test]
fn every_profile_has_to_unseal() {
    let case = case();
    for (name, cmdline) in [("one", "--cmdline=quiet one"), ("two", "--cmdline=quiet two")] {
        let (id, output) = (format!("--profile=ID={name}\nTITLE={name}"), format!("--output={{}}/{name}.efi"));
        ukify(&case, &["--stub={}/addon", &id, cmdline, &output]);
    }
    let profiles =
        ["--pcr-banks=sha256", "--profile=ID=base", "--join-profile={}/one.efi", "--join-profile={}/two.efi"];
    ukify(&case, &[&BASE[..], &profiles].concat());
    let (uki, request) = (case.read("uki.efi"), Request { db: None, ..case.request() });
    let good = report(&uki, &request);
    passes(&good);
    assert!(good.of("profiles").any(|check| check.reason.starts_with("3:")), "{}", lines(&good));
    for profile in ["profile 0", "profile 1", "profile 2"] {
        assert!(good.of("pcrsig").any(|check| check.reason.starts_with(profile)), "{}", lines(&good));
    }
    // The last profile's command line, its .profile: each is measured.
    for name in [".cmdline", ".profile"] {
        let mut changed = uki.clone();
        let start = sections(&uki).into_iter().rfind(|(other, ..)| other == name).unwrap().2[2];
        changed[start + 4] ^= 1;
        let report = report(&changed, &request);
        fails(&report, &["pcrsig"]);
        let failed: Vec<_> = report.of("pcrsig").filter(|check| check.outcome.as_str() == "failure").collect();
        assert!(failed.iter().all(|check| check.reason.starts_with("profile 2")), "{}", lines(&report));
    }
    // The kernel is everybody's.
    let mut changed = uki.clone();
    let [_, size, start, _] = sections(&uki).into_iter().find(|(other, ..)| other == ".linux").unwrap().2;
    changed[start + size - 1] ^= 1;
    let report = report(&changed, &request);
    for profile in ["profile 0", "profile 1", "profile 2"] {
        let failed = report.of("pcrsig").filter(|check| check.outcome.as_str() == "failure");
        assert!(failed.into_iter().any(|check| check.reason.starts_with(profile)), "{}", lines(&report));
    }
}
