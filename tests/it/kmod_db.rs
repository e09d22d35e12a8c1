//! kmod-db's own rules: what a file of the database must hold.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::Command;

use kairos_init::drivers::inventory::{self, Declarations, Inventory};
use kairos_init::drivers::select::{SelectOptions, select};
use kairos_init::drivers::target::glob::Glob;
use kairos_init::drivers::target::{Architecture, Matcher, Request, Rule, features, resolve, targets};
use kairos_init::drivers::wishes::Wishes;
use kairos_init::root::sysroot::Sysroot;

use crate::roots;

/// A kernel of the tests: its modules' paths and names, built-in ones included, its aliases, the firmware of its root.
struct Kernel {
    architecture: Architecture,
    paths: Vec<String>,
    names: BTreeSet<String>,
    inventory: Inventory,
    firmware: Vec<String>,
}

impl Kernel {
    fn new(architecture: Architecture, root: PathBuf) -> Self {
        let inventory = inventory::load(&Sysroot::open(&root).unwrap(), None).unwrap();
        let modules = &inventory.modules;
        let plain = |path: &str| path.trim_end_matches(".xz").to_owned();
        let paths = modules.by_name.values().map(|module| plain(&module.relative)).chain(modules.builtin_paths.clone());
        let names = modules.by_name.keys().chain(&modules.builtin).map(ToString::to_string).collect();
        let base = "/usr/lib/firmware/";
        let firmware =
            inventory.firmware.entries.keys().filter_map(|path| Some(path.to_string().strip_prefix(base)?.to_owned()));
        Self { architecture, paths: paths.collect(), names, firmware: firmware.collect(), inventory }
    }

    fn matches(&self, rule: &Rule) -> bool {
        let modules = &self.inventory.modules;
        match &rule.matcher {
            Matcher::Path(glob) => self.paths.iter().any(|path| glob.matches(path) && !excepted(rule, path)),
            Matcher::Module(glob) => self.names.iter().any(|name| glob.matches(name)),
            Matcher::AliasGlob(glob) => modules.aliases.iter().any(|(alias, _)| glob.matches(alias)),
            Matcher::Alias(alias) => modules.aliases.iter().any(|(pattern, _)| pattern == alias),
            Matcher::Firmware(glob) => self.firmware.iter().any(|name| glob.matches(name.trim_end_matches(".xz"))),
        }
    }
}

fn excepted(rule: &Rule, path: &str) -> bool {
    rule.except.iter().any(|glob| glob.matches(path))
}

/// Every rule of every file, once, with the architectures of the targets that have it.
fn rules() -> Vec<(Rule, BTreeSet<Architecture>)> {
    let mut out: BTreeMap<(String, String), (Rule, BTreeSet<Architecture>)> = BTreeMap::new();
    let plain: Vec<String> = targets().unwrap().iter().map(|(name, _)| (*name).to_owned()).collect();
    let with: Vec<String> = features().unwrap().iter().map(|(name, _)| format!("all+{name}")).collect();
    for name in plain.iter().chain(&with) {
        let target = resolve(&[Request::Name(name)]).unwrap();
        let own = target.architecture.map_or(Architecture::ALL.to_vec(), |own| vec![own]);
        for rule in target.rules {
            let key = (rule.source.to_string(), rule.matcher.to_string());
            out.entry(key).or_insert_with(|| (rule, BTreeSet::new())).1.extend(&own);
        }
    }
    out.into_values().collect()
}

/// Nothing twice in a file, lists sorted, evidence that says something, and every pattern and exception meets something in one of
/// the test kernels (Debian 13 on both architectures, its backports, Debian 12 and 11, cloud) or the entry is optional.
#[test]
fn every_rule_of_the_database_matches_or_is_optional() {
    let kernels = [
        Kernel::new(Architecture::X86_64, roots::base()),
        Kernel::new(Architecture::X86_64, roots::modules_of("debian11")),
        Kernel::new(Architecture::X86_64, roots::modules_of("debian12")),
        Kernel::new(Architecture::X86_64, roots::modules_of("backports")),
        Kernel::new(Architecture::X86_64, roots::modules_of("cloud")),
        Kernel::new(Architecture::Aarch64, roots::modules_of("arm64")),
    ];
    let mut wrong = Vec::new();
    let mut seen = BTreeMap::new();
    let all = rules();
    assert!(all.len() > 500, "{} rules", all.len());
    for (rule, architectures) in &all {
        let (source, key) = (rule.source.to_string(), rule.matcher.to_string());
        if let Some(other) = seen.insert((rule.source.file.clone(), key.clone()), source.clone()) {
            wrong.push(format!("{source}: {key} is in {other} too"));
        }
        if rule.evidence.trim().len() < 20 {
            wrong.push(format!("{source}: the evidence {:?} shows nothing", rule.evidence));
        }
        let own = kernels.iter().filter(|kernel| architectures.contains(&kernel.architecture));
        if !rule.optional && !own.clone().any(|kernel| kernel.matches(rule)) {
            wrong.push(format!("{source}: {key} matches in no test kernel"));
        }
    }
    // An exception is written for an entry: one of its patterns must have what it leaves out.
    let mut exceptions: BTreeMap<(String, &str), bool> = BTreeMap::new();
    for (rule, _) in &all {
        let covers = |except: &Glob, path: &String| match &rule.matcher {
            Matcher::Path(glob) => glob.matches(path) && except.matches(path),
            Matcher::Module(_) => except.matches(path),
            _ => true,
        };
        for except in &rule.except {
            let leaves_out = kernels.iter().any(|kernel| kernel.paths.iter().any(|path| covers(except, path)));
            *exceptions.entry((rule.source.to_string(), except.as_str())).or_default() |= leaves_out;
        }
    }
    for ((source, except), _) in exceptions.iter().filter(|(_, leaves_out)| !**leaves_out) {
        wrong.push(format!("{source}: except {except} leaves nothing out"));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Older than any kernel that is promised (5.10), and newer than any (Debian 13's backports): every rule still finds what it is for,
/// or says from when, or until when. A driver that moved to another directory shows here.
#[test]
fn rules_hold_from_the_oldest_kernel_to_the_newest() {
    let plain = targets().unwrap();
    let all = features().unwrap().iter().fold("x86-vm".to_owned(), |names, (feature, _)| format!("{names}+{feature}"));
    for kernel in ["debian11", "debian12", "backports"] {
        let root = Sysroot::open(&roots::modules_of(kernel)).unwrap();
        let inventory = inventory::load(&root, None).unwrap();
        for name in plain.iter().map(|(name, _)| *name).chain([all.as_str()]) {
            let target = resolve(&[Request::Name(name)]).unwrap();
            if target.architecture == Some(Architecture::Aarch64) {
                continue;
            }
            let options = SelectOptions::default();
            let selection = select(&inventory, &Declarations::new(), &target, &Wishes::default(), &options).unwrap();
            let of_the_database =
                |warning: &&String| warning.starts_with("kmod-db/") && !warning.contains(" firmware ");
            let told: Vec<_> = selection.warnings.iter().filter(of_the_database).collect();
            assert!(told.is_empty(), "{kernel}, {name}: {told:#?}");
        }
    }
}

/// A kernel whose package has a part of the modules only, as the clouds' have and Ubuntu's without linux-modules-extra: told are the
/// rules for what is not there, by a target that promises it, and none by one that does not.
#[test]
fn what_a_split_kernel_lacks_is_told() {
    let warnings = |target: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kairos-init"));
        command.args(["plan", "--hardware", target, "--root"]).arg(roots::modules_of("cloud"));
        let text = String::from_utf8(command.output().unwrap().stderr).unwrap();
        text.lines().filter(|line| line.starts_with("warning: kmod-db/")).map(str::to_owned).collect::<Vec<_>>()
    };
    let (generic, cloud) = (warnings("x86-generic"), warnings("x86-cloud"));
    assert!(generic.iter().any(|line| line.contains("drivers/net/usb/**")), "{generic:#?}");
    // It has neither USB nor a cluster's locks.
    let lacks: Vec<_> = cloud.iter().filter(|line| !line.contains("firmware")).collect();
    assert_eq!(lacks.len(), 2, "{lacks:#?}");
    assert!(lacks[0].contains("kernel/fs/dlm/**") && lacks[1].contains("kernel/drivers/usb/core/**"), "{lacks:#?}");
}

/// Lists are sorted as they are written.
#[test]
fn lists_are_sorted_and_every_file_is_built_in() {
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("kmod-db");
    let known: BTreeSet<String> = rules().iter().map(|(rule, _)| rule.source.file.clone()).collect();
    let (mut files, mut wrong) = (0, Vec::new());
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|ending| ending != "toml") {
            continue;
        }
        files += 1;
        let text = std::fs::read_to_string(&path).unwrap();
        let table: toml::Table = text.parse().unwrap();
        let has_rules = table.get("rule").is_some();
        let name = format!("kmod-db/{}", path.file_name().unwrap().to_str().unwrap());
        if has_rules && !known.contains(&name) {
            wrong.push(format!("{name} is in no target and no feature"));
        }
        let entries = table.values().filter_map(toml::Value::as_array).flatten().filter_map(toml::Value::as_table);
        for list in entries.chain([&table]).flat_map(|entry| entry.values().filter_map(toml::Value::as_array)) {
            let list: Vec<&str> = list.iter().filter_map(toml::Value::as_str).collect();
            if let Some(pair) = list.windows(2).find(|pair| pair[0] >= pair[1]) {
                wrong.push(format!("{name}: {:?} stands before {:?}", pair[0], pair[1]));
            }
        }
    }
    assert!(files > 60, "{files} files");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Each target keeps what it is for on its own test kernel, and is smaller than the generic one of its architecture.
#[test]
fn narrow_targets_are_smaller_and_hold_kairos() {
    let list = |root: PathBuf| -> BTreeMap<String, u64> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kairos-init"));
        let output = command.args(["hardware", "list", "--json", "--quiet", "--root"]).arg(root).output().unwrap();
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let targets = report["targets"].as_array().unwrap().iter();
        targets.filter_map(|t| Some((t["name"].as_str()?.to_owned(), t["module_bytes"].as_u64()?))).collect()
    };
    let x86 = list(roots::base());
    let arm = list(roots::modules_of("arm64"));
    for (sizes, generic, narrow) in [
        (&x86, "x86-generic", &["x86-server", "x86-mini-pc", "x86-vm", "x86-vm-kvm", "x86-cloud"][..]),
        (&x86, "x86-vm", &["x86-vm-vmware", "x86-vm-hyperv", "x86-vm-virtualbox"]),
        (
            &arm,
            "arm64-generic",
            &["arm64-server", "arm64-vm", "rpi3", "rpi4", "rpi5", "nvidia-jetson-thor", "nvidia-dgx-spark"],
        ),
    ] {
        for name in narrow {
            assert!(sizes[*name] < sizes[generic], "{name}: {} of {}", sizes[*name], sizes[generic]);
        }
    }
    assert!(!x86.contains_key("rpi4") && !arm.contains_key("x86-vm"), "only what fits the kernel has a size");
}

/// Each feature brings a narrow target what it is for.
#[test]
fn features_bring_what_they_are_for() {
    let root = Sysroot::open(&roots::base()).unwrap();
    let inventory = inventory::load(&root, None).unwrap();
    let kept = |name: &str| -> BTreeSet<String> {
        let target = resolve(&[Request::Name(name)]).unwrap();
        let chosen =
            select(&inventory, &Declarations::new(), &target, &Wishes::default(), &SelectOptions::default()).unwrap();
        chosen.modules.iter().filter(|(_, item)| item.kept).map(|(name, _)| name.to_string()).collect()
    };
    let wanted = [
        ("wifi", "iwlmvm ath10k_pci rtw89_8852be mt7921e brcmfmac"),
        ("bluetooth", "btusb hci_uart bnep rfcomm"),
        ("sound", "snd_hda_intel snd_usb_audio snd_sof_pci_intel_tgl soundwire_intel"),
        ("gpu-intel", "i915 xe mei_gsc"),
        ("gpu-amd", "amdgpu radeon"),
        ("gpu-nvidia", "nouveau"),
        ("media", "uvcvideo"),
        ("infiniband", "mlx5_ib ib_ipoib rdma_cm"),
        ("can", "can_raw peak_pci slcan"),
        ("iscsi", "iscsi_tcp iscsi_ibft qedi"),
        ("nvme-fabrics", "nvmet_tcp nvme_tcp nvme_rdma"),
        ("smartnic", "mlx5_core nfp ionic vhost_vdpa"),
        ("serial", "ftdi_sio cdc_acm pl2303"),
        ("staging", "rtllib"),
        ("k3s", "br_netfilter vxlan overlay"),
        ("cilium", "cls_bpf sch_ingress xt_TPROXY"),
        ("calico", "ip_set_hash_net ipt_rpfilter ipip"),
        ("longhorn", "iscsi_tcp nvme_tcp dm_crypt"),
        ("kubevirt", "kvm_intel vhost_net tap"),
    ];
    let known: BTreeSet<&str> = features().unwrap().iter().map(|(name, _)| *name).collect();
    assert_eq!(known, wanted.iter().map(|(name, _)| *name).collect(), "a row for each feature");
    let plain = kept("x86-vm-virtualbox");
    for (feature, modules) in wanted {
        let with = kept(&format!("x86-vm-virtualbox+{feature}"));
        for module in modules.split(' ') {
            assert!(with.contains(module), "{feature}: {module}");
        }
        assert!(with.is_superset(&plain));
    }
}
