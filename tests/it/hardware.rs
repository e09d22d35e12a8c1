//! Captured machines and the population of machines against Debian's kernel, before and after slimming.

use std::collections::BTreeSet;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

use crate::cli::{Case, program, stderr};
use crate::roots;

const NVME: &str = "pci:v0000144Dd0000A808sv0000144Dsd0000A801bc01sc08i02";
const I210: &str = "pci:v00008086d00001533sv00008086sd00001533bc02sc00i00";
const AX200: &str = "pci:v00008086d00002723sv00008086sd00000084bc02sc80i00";
const XHCI: &str = "pci:v00008086d0000A12Fsv00000000sd00000000bc0Csc03i30";
const SOUND: &str = "pci:v00008086d0000A170sv00000000sd00000000bc04sc03i00";

fn machines() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/machines/x86")
}

fn capture(dir: &Path, name: &str, devices: &[&str]) -> PathBuf {
    let path = dir.join(format!("{name}.capture"));
    std::fs::write(&path, format!("kairos-init capture 1\narchitecture x86_64\n{}\n", devices.join("\n"))).unwrap();
    path
}

fn on_base(arguments: &[&str], paths: &[&Path]) -> Output {
    let mut command = program(arguments);
    command.args(paths).arg("--root").arg(roots::base()).arg("--quiet").output().unwrap()
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", stderr(output)))
}

fn fails(output: &Output, words: &[&str]) {
    let message = stderr(output);
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(message.starts_with("error: ") && message.trim_end().lines().count() == 1, "{message}");
    for word in words {
        assert!(message.contains(word), "{word:?} is not in {message}");
    }
}

/// The corpus of real machines: x86-generic loses two of the x86 ones, notebooks without a wire, and with +wifi none.
#[test]
fn no_real_machine_with_a_wire_is_lost_with_x86_generic() {
    let check =
        |hardware: &str| json(&on_base(&["hardware", "check", "--json", "--hardware", hardware], &[&machines()]));
    let lost = |report: &Value| -> Vec<String> {
        let checked = report["machines"].as_array().unwrap().iter().filter(|machine| machine["is_lost"] == true);
        checked.map(|machine| machine["machine"].as_str().unwrap().to_owned()).collect()
    };
    let report = check("x86-generic");
    let checked = report["machines"].as_array().unwrap();
    assert!(checked.len() >= 50, "{} machines", checked.len());
    assert_eq!(lost(&report), ["laptop-precision-5570", "laptop-xps-13"]);
    assert_eq!(report["lost"], 2);
    let driven: u64 = checked.iter().map(|machine| machine["driven"].as_u64().unwrap()).sum();
    assert!(driven > 400, "{driven} devices have a driver");
    // The sound of notebooks goes, and is said to.
    assert!(checked.iter().any(|machine| machine["lost"].get("sound").is_some()), "nothing is lost at all");
    assert_eq!(lost(&check("x86-generic+wifi")), Vec::<String>::new());
}

/// Each narrow target on the machines that it is for.
#[test]
fn no_machine_is_lost_with_the_target_that_is_for_it() {
    let check = |root: &Path, hardware: &str, names: &[String]| {
        let mut command = program(&["hardware", "check", "--quiet", "--hardware", hardware, "--root"]);
        let output = command.arg(root).args(names).output().unwrap();
        assert!(output.status.success(), "{hardware}: {}{}", String::from_utf8_lossy(&output.stdout), stderr(&output));
    };
    let files = |architecture: &str, kinds: &[&str]| -> Vec<String> {
        let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/machines");
        let index = std::fs::read_to_string(top.join("INDEX.md")).unwrap();
        let rows = index.lines().filter_map(|line| {
            let (file, rest) = line.strip_prefix("| `")?.split_once("` | ")?;
            let kind = rest.split(' ').next()?;
            let wanted = kinds.contains(&kind) || kinds.iter().any(|name| file.contains(&format!("/{name}.")));
            (wanted && file.starts_with(architecture)).then(|| top.join(file).to_str().unwrap().to_owned())
        });
        let files: Vec<String> = rows.collect();
        assert!(!files.is_empty(), "{kinds:?}");
        files
    };
    let base = roots::base();
    for (target, kinds) in [
        ("x86-server", &["server"][..]),
        ("x86-mini-pc", &["mini-pc"]),
        ("x86-vm", &["qemu-i440fx", "qemu-q35", "vmware-esxi", "hyper-v-gen1", "xen-hvm", "virtualbox", "firecracker"]),
        ("x86-vm-kvm", &["qemu-i440fx", "qemu-q35"]),
        ("x86-vm-vmware", &["vmware-esxi", "vmware-workstation"]),
        ("x86-vm-hyperv", &["hyper-v-gen1", "azure-accelerated"]),
        ("x86-vm-xen", &["xen-hvm"]),
        ("x86-vm-virtualbox", &["virtualbox"]),
        ("x86-cloud", &["aws-nitro", "google-compute-engine", "azure-accelerated"]),
    ] {
        check(&base, target, &files("x86", kinds));
    }
    let arm = roots::modules_of("arm64");
    for (target, kinds) in [
        ("arm64-generic", &["arm64"][..]),
        ("arm64-server", &["ampere-altra", "cavium-thunderx", "gigabyte-thunderx2", "hisilicon-kunpeng-920"]),
        ("arm64-vm", &["aws-graviton"]),
        ("rpi4", &["raspberry-pi-4"]),
        ("nvidia-dgx-spark", &["nvidia-dgx-spark"]),
    ] {
        check(&arm, target, &files("arm64", kinds));
    }
}

/// What the program says that binds is what modprobe resolves, on the same indexes.
#[test]
fn devices_bind_what_modprobe_resolves() {
    let dir = tempfile::tempdir().unwrap();
    let release =
        std::fs::read_dir(roots::base().join("usr/lib/modules")).unwrap().next().unwrap().unwrap().file_name();
    let mut devices = BTreeSet::new();
    for entry in std::fs::read_dir(machines()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|ending| ending == "lspci" || ending == "lsusb") {
            let from = if path.extension().unwrap() == "lspci" { "--from-lspci" } else { "--from-lsusb" };
            let output = program(&["hardware", "capture", from]).arg(&path).output().unwrap();
            assert!(output.status.success(), "{}", stderr(&output));
            let text = String::from_utf8(output.stdout).unwrap();
            devices.extend(text.lines().skip(1).map(str::to_owned));
        }
    }
    assert!(devices.len() > 300, "{} different devices", devices.len());
    // Every module is dropped that can be: what is then lost is what bound before.
    for (number, device) in devices.iter().enumerate().filter(|(number, _)| number % 3 == 0) {
        capture(dir.path(), &format!("{number:05}"), &[device]);
    }
    std::fs::write(dir.path().join("none.toml"), "").unwrap();
    let none = dir.path().join("none.toml");
    let output = on_base(&["hardware", "check", "--json", "--hardware", none.to_str().unwrap()], &[dir.path()]);
    let report = json(&output);
    let kept = kept(&none);
    for machine in report["machines"].as_array().unwrap() {
        let number: usize = machine["machine"].as_str().unwrap().parse().unwrap();
        let device = devices.iter().nth(number).unwrap();
        let lost = machine["lost"].as_object().unwrap().values();
        let ours: BTreeSet<String> = lost
            .flat_map(|loss| loss["drivers"].as_array().unwrap())
            .map(|name| name.as_str().unwrap().to_owned())
            .collect();
        let mut modprobe = Command::new("modprobe");
        modprobe.arg("-d").arg(roots::base()).arg("-S").arg(&release).args(["-C", "/dev/null", "-R", device]);
        let theirs = String::from_utf8(modprobe.output().unwrap().stdout).unwrap();
        let theirs: BTreeSet<String> =
            theirs.lines().map(str::to_owned).filter(|name| !kept.contains(name.as_str())).collect();
        assert_eq!(ours, theirs, "{device}");
    }
}

/// The modules that stay, and those that are built in: modprobe names them as well.
fn kept(target: &Path) -> BTreeSet<String> {
    let report = json(&on_base(&["plan", "--json", "--hardware", target.to_str().unwrap()], &[]));
    let items = report["modules"]["items"].as_array().unwrap().iter().filter(|item| item["kept"] == true);
    let name = |path: &str| path.rsplit('/').next().unwrap().split(".ko").next().unwrap().replace('-', "_");
    let mut out: BTreeSet<String> = items.map(|item| name(item["path"].as_str().unwrap())).collect();
    let modules = std::fs::read_dir(roots::base().join("usr/lib/modules")).unwrap().next().unwrap().unwrap().path();
    let builtin = std::fs::read_to_string(modules.join("modules.builtin")).unwrap();
    out.extend(builtin.lines().map(name));
    out
}

#[test]
fn a_machine_that_would_be_lost_is_an_error_that_names_the_loss() {
    let dir = tempfile::tempdir().unwrap();
    let check = |name: &str, devices: &[&str], more: &[&str]| {
        let path = capture(dir.path(), name, devices);
        let arguments = [&["hardware", "check", "--hardware", "x86-generic"], more].concat();
        on_base(&arguments, &[&path])
    };
    let whole = check("whole", &[NVME, I210, XHCI], &[]);
    assert!(whole.status.success(), "{}", stderr(&whole));
    let text = String::from_utf8(whole.stdout).unwrap();
    assert!(text.contains("whole") && text.contains("machines  1, 0 of them"), "{text}");
    let disk = check("box", &[NVME, I210, XHCI], &["--drop", "nvme"]);
    fails(&disk, &["box may not find its disks", "nvme", "--keep", "hardware suggest"]);
    assert!(
        String::from_utf8(disk.stdout).unwrap().contains("loses storage: nvme"),
        "the table is printed all the same"
    );
    fails(&check("box", &[NVME, I210], &["--drop", "igb"]), &["box will not be reached", "igb"]);
    // Sound is no reason to fail, and neither is the air where there is a wire.
    let wired = check("wired", &[NVME, I210, AX200, SOUND], &[]);
    let text = String::from_utf8(wired.stdout.clone()).unwrap();
    assert!(
        wired.status.success() && text.contains("loses wireless: iwlwifi") && text.contains("loses sound:"),
        "{text}"
    );
    fails(&check("tablet", &[NVME, AX200], &[]), &["tablet will not be reached", "iwlwifi"]);
    assert!(check("tablet", &[NVME, AX200], &["--keep", "iwlwifi"]).status.success());
}

/// A TPM behind a driver that is a module, and firmware that is not there, are told.
#[test]
fn a_tpm_that_comes_too_late_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let path = capture(dir.path(), "nuvoton", &[NVME, I210, "of:NtpmT(null)Cnuvoton,npct601", "acpi:SMO0768:"]);
    let output = on_base(&["hardware", "check", "--hardware", "x86-generic"], &[&path]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("comes too late for Trusted Boot"), "{text}");
}

/// The indexes of a UKI instead of a plan.
#[test]
fn a_uki_is_checked_against_the_root_that_it_was_made_of() {
    let case = Case::new();
    // Where a driver lies tells what it is for.
    let modules = std::fs::read_dir(case.root().join("usr/lib/modules")).unwrap().next().unwrap().unwrap();
    let wireless = modules.path().join("kernel/drivers/net/wireless");
    std::fs::create_dir_all(&wireless).unwrap();
    std::fs::rename(modules.path().join("kernel/iwlwifi.ko.xz"), wireless.join("iwlwifi.ko.xz")).unwrap();
    let depmod = Command::new("depmod").arg("-b").arg(case.root()).arg(modules.file_name()).output().unwrap();
    assert!(depmod.status.success(), "{}", stderr(&depmod));
    let path = capture(case.dir.path(), "laptop", &[NVME, AX200]);
    let run = |more: &[&str]| {
        let mut build =
            program(&["--stage", "build", "--target", "uki", "--unsigned", "--quiet", "--compression", "zstd:1"]);
        build.arg("--root").arg(case.root()).arg("--output").arg(case.out()).args(more);
        let output = build.output().unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        let mut check = program(&["hardware", "check", "--quiet"]);
        check.arg(&path).arg("--root").arg(case.root());
        check.arg("--uki").arg(case.out().join("uki/EFI/kairos/norole.efi")).output().unwrap()
    };
    fails(&run(&["--hardware", "x86-generic"]), &["laptop will not be reached", "iwlwifi"]);
    let whole = run(&["--hardware", "x86-generic", "--keep", "iwlwifi"]);
    assert!(whole.status.success(), "{}", stderr(&whole));
    // The root has no firmware at all.
    let mut plan =
        program(&["hardware", "check", "--quiet", "--hardware", "x86-generic", "--keep", "iwlwifi", "--root"]);
    let text = String::from_utf8(plan.arg(case.root()).arg(&path).output().unwrap().stdout).unwrap();
    assert!(text.contains("iwlwifi asks for firmware that is not there: iwlwifi-"), "{text}");
    let mut other = program(&["hardware", "check", "--quiet"]);
    other.arg(&path).arg("--root").arg(roots::base()).arg("--uki").arg(case.out().join("uki/EFI/kairos/norole.efi"));
    fails(&other.output().unwrap(), &["it was made of another root"]);
}

/// Firmware that a UKI's drivers ask for and that was left out of it: the root has it all.
#[test]
fn firmware_that_a_uki_lacks_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let realtek = "pci:v000010ECd00008168sv00001849sd00008168bc02sc00i00";
    let path = capture(dir.path(), "board", &[NVME, realtek]);
    let told = |more: &[&str]| {
        let out = dir.path().join("out");
        let mut build =
            program(&["--stage", "build", "--target", "uki", "--unsigned", "--quiet", "--compression", "zstd:1"]);
        build.arg("--root").arg(roots::base()).args(["--hardware", "x86-vm", "--keep", "r8169"]).args(more);
        let output = build.arg("--output").arg(&out).output().unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        let mut check = program(&["hardware", "check", "--quiet", "--root"]);
        check.arg(roots::base()).arg("--uki").arg(out.join("uki/EFI/kairos/norole.efi"));
        String::from_utf8(check.arg(&path).output().unwrap().stdout).unwrap()
    };
    let whole = told(&[]);
    assert!(whole.contains("board") && !whole.contains("rtl_nic"), "{whole}");
    let less = told(&["--drop", "rtl_nic/rtl8168h-2.fw"]);
    assert!(less.contains("r8169 asks for firmware that is not there: rtl_nic/rtl8168h-2.fw"), "{less}");
}

/// An upgrade that takes the driver of a captured machine's wire is refused; one that takes what it does not have is not.
#[test]
fn an_upgrade_that_takes_a_machines_driver_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let realtek = "pci:v000010ECd00008168sv00001849sd00008168bc02sc00i00";
    let board = capture(dir.path(), "board", &[NVME, realtek]);
    let disk = capture(dir.path(), "disk", &[NVME]);
    let build = |name: &str, more: &[&str]| {
        let out = dir.path().join(name);
        let mut build =
            program(&["--stage", "build", "--target", "uki", "--unsigned", "--quiet", "--compression", "zstd:1"]);
        build.arg("--root").arg(roots::base()).args(["--hardware", "x86-vm"]).args(more);
        let output = build.arg("--output").arg(&out).output().unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        out.join("uki/EFI/kairos/norole.efi")
    };
    let (old, new) = (build("old", &["--keep", "r8169"]), build("new", &[]));
    let lines = |from: &Path, to: &Path, machine: &Path| {
        let mut command = program(&["uki", "verify", "--json", "--quiet"]);
        command.arg(to).arg("--upgrade-from").arg(from).arg("--capture").arg(machine);
        let report = json(&command.output().unwrap());
        let checks = report["checks"].as_array().unwrap().clone();
        checks.into_iter().filter(|check| check["id"] == "drivers").collect::<Vec<_>>()
    };
    let lost = lines(&old, &new, &board);
    assert_eq!(lost.len(), 1, "{lost:?}");
    let reason = lost[0]["reason"].as_str().unwrap();
    assert!(lost[0]["outcome"] == "failure" && reason.contains("board") && reason.contains("r8169"), "{lost:?}");
    for (from, to, machine) in [(&old, &new, &disk), (&new, &old, &board), (&old, &old, &board)] {
        let lost = lines(from, to, machine);
        assert!(lost.len() == 1 && lost[0]["outcome"] == "pass", "{lost:?}");
    }
}

#[test]
fn a_captured_machine_is_a_target_and_several_are_united() {
    let dir = tempfile::tempdir().unwrap();
    let (disk, laptop) = (capture(dir.path(), "disk", &[NVME, I210]), capture(dir.path(), "laptop", &[AX200]));
    let plan = |targets: &[&Path]| {
        let mut command = program(&["plan", "--json", "--quiet", "--root"]);
        command.arg(roots::base());
        for target in targets {
            command.arg("--hardware").arg(target);
        }
        let report = json(&command.output().unwrap());
        let items = report["modules"]["items"].as_array().unwrap().iter().filter(|item| item["kept"] == true);
        items.map(|item| item["path"].as_str().unwrap().rsplit('/').next().unwrap().to_owned()).collect::<BTreeSet<_>>()
    };
    let (one, both) = (plan(&[&disk]), plan(&[&disk, &laptop]));
    assert!(one.contains("nvme.ko.xz") && one.contains("igb.ko.xz") && one.contains("overlay.ko.xz"), "{one:?}");
    assert!(!one.contains("iwlwifi.ko.xz") && !one.contains("mpt3sas.ko.xz"));
    assert!(both.contains("iwlwifi.ko.xz") && both.is_superset(&one));
    let output = on_base(&["hardware", "check", "--hardware", disk.to_str().unwrap()], &[&disk]);
    assert!(output.status.success(), "a machine's own target loses nothing of it: {}", stderr(&output));
}

#[test]
fn a_sysfs_is_captured_without_what_names_the_machine() {
    let dir = tempfile::tempdir().unwrap();
    let sys = dir.path().join("sys");
    let device = |path: &str, modalias: &str| {
        std::fs::create_dir_all(sys.join("devices").join(path)).unwrap();
        std::fs::write(sys.join("devices").join(path).join("modalias"), format!("{modalias}\n")).unwrap();
    };
    device("pci0000:00/0000:00:1d.0/0000:01:00.0", NVME);
    device("pci0000:00/0000:00:1d.0/0000:01:00.0/again", NVME);
    device("system/cpu", "cpu:type:x86,ven0000fam0006mod008E:feature:,0000");
    device(
        "virtual/dmi/id",
        "dmi:bvnACME:bvr1:bd01/01/2020:svnACME:pnBox 3:pvrSN-12345:rvnACME:rnB3:rvrS/N9:cvnX:ct3:cvrSN:",
    );
    std::fs::write(sys.join("devices/virtual/dmi/id/product_serial"), "SECRET").unwrap();
    std::fs::write(sys.join("devices/pci0000:00/address"), "52:54:00:12:34:56").unwrap();
    std::fs::create_dir_all(sys.join("devices/odd")).unwrap();
    std::fs::write(sys.join("devices/odd/modalias"), "pci:\x1b[31m").unwrap();
    symlink("/etc", sys.join("devices/link")).unwrap();
    let run = |more: &[&str]| program(&["hardware", "capture", "--sys"]).arg(&sys).args(more).output().unwrap();
    let text = String::from_utf8(run(&[]).stdout).unwrap();
    assert_eq!(
        text,
        format!(
            "kairos-init capture 1\narchitecture x86_64\ncpu:type:x86,ven0000fam0006mod008E:feature:,0000\n\
             dmi:bvnACME:bvr:bd:svnACME:pnBox 3:pvr:rvnACME:rnB3:rvr:cvnX:ct3:cvr:\n{NVME}\n"
        )
    );
    let out = dir.path().join("box.capture");
    let out = out.to_str().unwrap();
    assert!(run(&["--output", out]).status.success());
    assert_eq!(std::fs::read_to_string(out).unwrap(), text);
    fails(&run(&["--output", out]), &["cannot write", "box.capture", "exists"]);
    std::fs::create_dir_all(dir.path().join("empty/devices")).unwrap();
    let empty = program(&["hardware", "capture", "--sys"]).arg(dir.path().join("empty")).output().unwrap();
    fails(&empty, &["names no device"]);
    fails(&program(&["hardware", "capture", "--sys"]).arg(dir.path()).output().unwrap(), &["devices"]);
}

/// Classes that decide whether a machine boots, unlocks, is reached: all that the whole kernel drives is driven still. The one
/// exception is no Ethernet: an Atheros wireless card without its EEPROM (168c:ff1a, drivers/net/wireless/ath/ath5k/pci.c).
#[test]
fn x86_generic_and_x86_server_cover_the_population() {
    let vital = "storage/scsi storage/ide storage/raid storage/ata storage/sas storage/nvme storage/other net/ethernet \
        multiport;serial;controller usb;controller sd;host;controller smbus serial;controller ipmi;smic;interface \
        input;device;controller";
    let kernels = [roots::base()].into_iter().chain(["debian11", "debian12", "backports"].map(roots::modules_of));
    for (root, target) in kernels.flat_map(|root| [(root.clone(), "x86-generic"), (root, "x86-server")]) {
        let mut command = program(&["hardware", "coverage", "--json", "--quiet", "--hardware", target, "--root"]);
        let (report, mut devices) = (json(&command.arg(&root).output().unwrap()), 0);
        for class in vital.split_whitespace().map(|class| class.replace(';', " ")) {
            let sum = &report["classes"][&class];
            let number = |key: &str| sum[key].as_u64().unwrap_or_else(|| panic!("{class}: {sum}"));
            let allowed = u64::from(class == "net/ethernet");
            assert!(number("driven") - number("kept") <= allowed, "{}, {target}: {class}: {sum}", root.display());
            devices += number("driven");
        }
        assert!(devices > 1000, "{}: {devices}", root.display());
    }
    let text = on_base(&["hardware", "coverage", "--hardware", "x86-generic"], &[]);
    let text = String::from_utf8(text.stdout).unwrap();
    assert!(text.contains("usb controller") && text.contains(" 100.00 %") && text.contains("CC BY 4.0"), "{text}");
}

#[test]
fn the_smallest_target_that_loses_nothing_is_suggested() {
    let dir = tempfile::tempdir().unwrap();
    let guest = capture(
        dir.path(),
        "guest",
        &[
            "pci:v00001AF4d00001042sv00001AF4sd00001100bc01sc00i00",
            "pci:v00001AF4d00001041sv00001AF4sd00001100bc02sc00i00",
            "virtio:d00000001v00001AF4",
            "virtio:d00000002v00001AF4",
        ],
    );
    let suggest = |path: &Path| json(&on_base(&["hardware", "suggest", "--json"], &[path]));
    let (small, wide) = (suggest(&guest), suggest(&capture(dir.path(), "laptop", &[NVME, I210, AX200, SOUND])));
    let bytes = |suggestion: &Value| suggestion["module_bytes"].as_u64().unwrap();
    assert!(bytes(&small) < bytes(&wide) && bytes(&wide) < wide["all"]["module_bytes"].as_u64().unwrap());
    for (suggestion, path) in [(&small, "guest.capture"), (&wide, "laptop.capture")] {
        let hardware = suggestion["hardware"].as_str().unwrap();
        let output = on_base(&["hardware", "check", "--json", "--hardware", hardware], &[&dir.path().join(path)]);
        assert_eq!(json(&output)["machines"][0]["lost"], serde_json::json!({}), "{hardware}");
    }
    assert!(small["hardware"].as_str().unwrap().starts_with("x86-vm"), "{small}");
    assert!(wide["hardware"].as_str().unwrap().contains("+wifi"), "{wide}");
}

#[test]
fn targets_are_listed_with_sizes_and_shown_with_evidence() {
    let plain = program(&["hardware", "list"]).output().unwrap();
    let plain = String::from_utf8(plain.stdout).unwrap();
    assert!(plain.contains("  x86-generic ") && plain.contains("features"), "{plain}");
    let sized = json(&on_base(&["hardware", "list", "--json"], &[]));
    let of = |name: &str| {
        let targets = sized["targets"].as_array().unwrap();
        targets.iter().find(|target| target["name"] == name).unwrap()["module_bytes"].as_u64().unwrap()
    };
    assert!(of("x86-generic") * 2 < of("all"));
    let shown = program(&["hardware", "show", "x86-generic"]).output().unwrap();
    let shown = String::from_utf8(shown.stdout).unwrap();
    for words in
        ["kmod-db/kairos.toml:", "required by Kairos", "  module efivarfs\n", "  path kernel/drivers/nvme/**\n"]
    {
        assert!(shown.contains(words), "{words:?} is not in:\n{shown}");
    }
    let none = program(&["hardware", "show", "x86-generc"]).output().unwrap();
    fails(&none, &["did you mean \"x86-generic\"?"]);
}

#[test]
fn what_is_no_capture_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let check = |path: &Path| on_base(&["hardware", "check", "--hardware", "x86-generic"], &[path]);
    let write = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    fails(&check(&write("a.capture", "hello\n")), &["a.capture", "neither a capture", "lspci"]);
    fails(&check(&write("b.capture", "kairos-init capture 7\n")), &["another version"]);
    fails(&check(&write("c.capture", "kairos-init capture 1\npci:v*\n")), &["c.capture:2", "wildcard"]);
    let arm = write("d.capture", "kairos-init capture 1\narchitecture aarch64\nof:NcpuTcpuCarm,cortex-a72\n");
    fails(&check(&arm), &["d was captured on aarch64", "x86_64"]);
    std::fs::create_dir(dir.path().join("empty")).unwrap();
    fails(&check(&dir.path().join("empty")), &["holds no file that ends in .capture"]);
    fails(&check(&dir.path().join("nowhere")), &["cannot read", "nowhere"]);
}

#[test]
fn a_target_for_another_architecture_is_refused() {
    let output = on_base(&["plan", "--hardware", "rpi4"], &[]);
    fails(&output, &["rpi4 is for aarch64", "for x86_64", "hardware list"]);
}

/// A tablet without a wire must not pass since another machine of the same name has one.
#[test]
fn machines_of_the_same_name_are_not_taken_for_one() {
    let dir = tempfile::tempdir().unwrap();
    let (here, there) = (dir.path().join("here"), dir.path().join("there"));
    for (folder, devices) in [(&here, [NVME, I210]), (&there, [NVME, AX200])] {
        std::fs::create_dir(folder).unwrap();
        capture(folder, "box", &devices);
        std::fs::rename(folder.join("box.capture"), folder.join("box.example.capture")).unwrap();
    }
    let check = |paths: &[&Path]| on_base(&["hardware", "check", "--json", "--hardware", "x86-generic"], paths);
    for paths in
        [[here.as_path(), there.as_path(), here.as_path()], [&here.join("box.example.capture"), &there, &there]]
    {
        let report = json(&check(&paths));
        assert_eq!((report["machines"].as_array().unwrap().len(), &report["lost"]), (2, &Value::from(1)), "{paths:?}");
        assert_eq!(report["machines"][0]["machine"], "box.example");
    }
}
