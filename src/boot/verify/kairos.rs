//! What Kairos asks of its image: immucore, which is the first process, and kairos-agent, which installs and upgrades.
//!
//! The rules are read from `kairos-io/immucore` (`pkg/state/steps_uki.go`, `internal/constants`), `kairos-io/kairos-agent`
//! (`pkg/uki`) and `kairos-io/AuroraBoot` (`pkg/uki`).

use super::initrd::Unpacked;
use super::listing::Listing;
use super::report::{Outcome, Report, shown, some};

/// What immucore mounts and calls before or without udev, so that nothing else would load it.
const NEEDED: [&str; 11] = [
    "overlay",
    "squashfs",
    "erofs",
    "dm_crypt",
    "dm_verity",
    "loop",
    "isofs",
    "vfat",
    "nls_cp437",
    "nls_iso8859_1",
    "ext4",
];
/// Beyond this much memory the estimate is a warning: a usual small machine.
const RAM_WARNING: u64 = 4 << 30;

/// Whether an image is Kairos': what immucore asks of it concerns no other.
pub(super) fn is_kairos(cmdline: &[u8], unpacked: Option<&Unpacked>) -> bool {
    asks_for_immucore(cmdline)
        || unpacked.is_some_and(|unpacked| unpacked.listing.items.contains_key("usr/bin/immucore"))
}

/// immucore's own test: anywhere on the command line.
fn asks_for_immucore(cmdline: &[u8]) -> bool {
    String::from_utf8_lossy(cmdline).contains("rd.immucore.uki")
}

/// Checks one profile's command line and root.
pub(super) fn check(cmdline: &[u8], unpacked: Option<&Unpacked>, report: &mut Report) {
    let asks = asks_for_immucore(cmdline);
    let cmdline = String::from_utf8_lossy(cmdline);
    let Some(unpacked) = unpacked else {
        report.skip("immucore", "the initrd was not unpacked");
        return;
    };
    let listing = &unpacked.listing;
    let mut problems = root_problems(listing);
    if !asks {
        let why = "rd.immucore.uki is not on the command line: immucore would look for another root (immucore main.go)";
        problems.push((Outcome::Failure, why.to_owned()));
    }
    if cmdline.contains("rd.immucore.securebootdisabled") {
        let why = "rd.immucore.securebootdisabled: it boots without Secure Boot as well";
        problems.push((Outcome::Warning, why.to_owned()));
    }
    report
        .all("immucore", problems, || "command line, /init, directories and programs are as it wants them".to_owned());
    check_agent(listing, report);
    check_modules(listing, report);
    check_tpm(listing, report);
}

fn root_problems(listing: &Listing) -> Vec<(Outcome, String)> {
    let mut problems = Vec::new();
    let mut fail = |problem: &str| problems.push((Outcome::Failure, problem.to_owned()));
    match listing.items.get("init") {
        None => fail("there is no /init: the kernel panics"),
        Some(item) if item.target != b"/usr/bin/immucore" => {
            fail("/init does not point to /usr/bin/immucore, which AuroraBoot and immucore want");
        }
        Some(_) => {}
    }
    match listing.items.get("usr/bin/immucore") {
        None => fail("/usr/bin/immucore is missing: the kernel panics"),
        Some(item) if item.is_directory() || (item.target.is_empty() && item.length == 0) => {
            fail("/usr/bin/immucore is no program");
        }
        Some(_) => {}
    }
    for directory in ["oem", "efi", "usr/local/cloud-config"] {
        if !listing.items.get(directory).is_some_and(super::listing::Item::is_directory) {
            fail(&format!(
                "directory /{directory} is missing: it is a mount point, and / is read-only when it is needed"
            ));
        }
    }
    for (paths, name, why) in [
        (
            &["usr/lib/systemd/systemd-udevd", "lib/systemd/systemd-udevd"][..],
            "/usr/lib/systemd/systemd-udevd",
            "immucore starts it by this path and tries no other",
        ),
        (&["sbin/init", "usr/sbin/init", "usr/bin/init", "bin/init"], "/sbin/init", "immucore hands over to it"),
        (&["bin/sh", "usr/bin/sh"], "/bin/sh", "immucore runs every command by it"),
    ] {
        if listing.first(paths).is_none() {
            fail(&format!("{name} is missing: {why}"));
        }
    }
    let mut warn = |problem: String| problems.push((Outcome::Warning, problem));
    let target = listing.items.get("usr/bin/immucore").map(|item| item.target.as_slice()).unwrap_or_default();
    if target == b"kairos" || target.ends_with(b"/kairos") {
        warn("/usr/bin/immucore is the multi-call kairos, which has to know the name init (kairos#4366)".to_owned());
    }
    for (paths, why) in [
        (&["usr/lib/systemd/systemd-cryptsetup"][..], "encrypted partitions do not unlock"),
        (
            &["usr/bin/systemd-cryptenroll", "usr/lib/systemd/systemd-cryptenroll"],
            "partitions are not encrypted at installation",
        ),
        (&["usr/sbin/modprobe"], "no module is loaded by name"),
        (&["usr/sbin/depmod"], "indexes are not made anew"),
        (&["usr/bin/rsync"], "bind mounts are not filled"),
    ] {
        let there = listing.first(paths).is_some() || in_merged_bin(listing, paths);
        if !there && let Some(path) = paths.first() {
            warn(format!("/{path} is missing: {why}"));
        }
    }
    problems
}

/// Where `/usr/sbin` is a link to `bin` its programs are not looked for one by one.
fn in_merged_bin(listing: &Listing, paths: &[&str]) -> bool {
    let is_sbin = paths.iter().all(|path| path.starts_with("usr/sbin/"));
    is_sbin && listing.items.get("usr/sbin").is_some_and(|item| !item.target.is_empty())
}

fn check_agent(listing: &Listing, report: &mut Report) {
    let mut problems = Vec::new();
    if !listing.items.contains_key("usr/bin/kairos-agent") {
        problems.push((Outcome::Warning, "/usr/bin/kairos-agent is missing: no installation, no upgrade".to_owned()));
    }
    let text = String::from_utf8_lossy(&listing.kairos_release);
    let quoted = text.lines().any(|line| {
        line.strip_prefix("KAIROS_RELEASE=\"")
            .and_then(|rest| rest.strip_suffix('"'))
            .is_some_and(|rest| !rest.is_empty())
    });
    if !quoted {
        let why =
            "/etc/kairos-release has no KAIROS_RELEASE=\"...\" in double quotes, which AuroraBoot and the agent read";
        problems.push((Outcome::Warning, why.to_owned()));
    }
    report.all("agent", problems, || "kairos-agent and /etc/kairos-release are there".to_owned());
}

fn check_modules(listing: &Listing, report: &mut Report) {
    if listing.builtin.is_empty() {
        report.skip("modules", "there is no modules.builtin in the initrd: what the kernel has built in is not known");
        return;
    }
    if listing.drives("efivarfs") {
        report.pass("efivarfs", "there for immucore's look at Secure Boot");
    } else {
        report.fail("efivarfs", "there is no efivarfs: immucore halts with \"Secure boot is not enabled\"");
    }
    let missing: Vec<&str> = NEEDED.into_iter().filter(|name| !listing.drives(name)).collect();
    if missing.is_empty() {
        report.pass("modules", "what immucore mounts and calls is there");
    } else {
        let list = some(&missing, missing.len());
        report.warn("modules", format!("immucore mounts or calls what the kernel does not have: {list}"));
    }
}

/// The kernel's modules are those of `.uname`.
pub(super) fn check_release(uname: Option<&[u8]>, listing: &Listing, report: &mut Report) {
    if listing.modules.is_empty() {
        report.skip("kernel-modules", "there are no modules in the initrd");
        return;
    }
    let releases: Vec<&str> = listing.modules.keys().map(String::as_str).collect();
    if let Some(uname) = uname.and_then(|uname| std::str::from_utf8(uname).ok()) {
        if !listing.modules.contains_key(uname) {
            let list = shown(some(&releases, releases.len()).as_bytes());
            let wanted = shown(uname.as_bytes());
            report.fail(
                "kernel-modules",
                format!("the kernel is {wanted}, but the initrd has modules of {list}: none loads"),
            );
        } else if releases.len() > 1 {
            report.warn(
                "kernel-modules",
                format!("the initrd has modules of {} kernels: only one is used", releases.len()),
            );
        } else {
            report.pass("kernel-modules", shown(uname.as_bytes()));
        }
    }
}

/// The drivers of TPMs: what is no part of the kernel comes too late for immucore.
fn check_tpm(listing: &Listing, report: &mut Report) {
    let is_tpm = |name: &&str| name.starts_with("tpm_") && !matches!(*name, "tpm_vtpm_proxy" | "tpm_tis_core");
    let modules: Vec<&str> = listing.modules.values().flatten().map(String::as_str).filter(is_tpm).collect();
    let builtin: Vec<&str> = listing.builtin.values().flatten().map(String::as_str).filter(is_tpm).collect();
    if listing.builtin.is_empty() {
        report.skip(
            "tpm-drivers",
            "there is no modules.builtin in the initrd: what the kernel has built in is not known",
        );
    } else if builtin.is_empty() && modules.is_empty() {
        report.fail("tpm-drivers", "there is no TPM driver: nothing unseals");
    } else if builtin.is_empty() {
        let list = some(&modules, modules.len());
        report.warn(
            "tpm-drivers",
            format!("all TPM drivers are modules ({list}), loaded after immucore has extended PCR 11: nothing unseals"),
        );
    } else if modules.iter().any(|name| *name != "tpm_ftpm_tee") {
        let (built, list) = (some(&builtin, builtin.len()), some(&modules, modules.len()));
        report.warn(
            "tpm-drivers",
            format!("built in: {built}; a machine whose TPM is driven by a module never unseals: {list}"),
        );
    } else {
        report.pass("tpm-drivers", format!("built in: {}", some(&builtin, builtin.len())));
    }
}

/// The memory that a boot takes: immucore copies the root, and both copies stay.
pub(super) fn check_ram(file: u64, unpacked: &Unpacked, report: &mut Report) {
    let root = unpacked.bytes;
    let total = root.saturating_mul(2).saturating_add(unpacked.window).saturating_add(file);
    let mebibytes = |bytes: u64| bytes.div_ceil(1 << 20);
    let text = format!(
        "about {} MiB: twice the root of {} MiB, the file, and a window of {} MiB",
        mebibytes(total),
        mebibytes(root),
        mebibytes(unpacked.window)
    );
    let outcome = if total > RAM_WARNING { Outcome::Warning } else { Outcome::Pass };
    report.add("ram", outcome, text);
}
