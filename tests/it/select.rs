//! Selection on a real root's metadata: Debian's kernel and firmware, as `tests/run.sh` makes them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, clippy::string_slice)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::OnceLock;

use kairos_init::drivers::inventory::{self, Declarations, FirmwareKind, Inventory};
use kairos_init::drivers::select::{
    Edge, FirmwareVersions, ItemRef, Pattern, Reason, SelectError, SelectOptions, Selection, chain, select,
};
use kairos_init::drivers::target::{self, FamilyFiles, Request, Target};
use kairos_init::drivers::wishes::Wishes;
use kairos_init::names::ModuleName;
use kairos_init::root::sysroot::Sysroot;

/// A root with all of a distribution's firmware.
struct Real {
    inventory: Inventory,
    declarations: Declarations,
    generic: Selection,
}

fn real() -> &'static Real {
    static REAL: OnceLock<Real> = OnceLock::new();
    REAL.get_or_init(|| {
        let path = std::env::var_os("KAIROS_INIT_TEST_ROOT")
            .map_or_else(|| PathBuf::from("/var/cache/kairos-init-tests/base"), PathBuf::from);
        assert!(
            path.join("usr/lib/modules").is_dir(),
            "no test root at {}: run tests/run.sh, which makes it",
            path.display()
        );
        let root = Sysroot::open(&path).unwrap();
        let inventory = inventory::load(&root, None).unwrap();
        let declarations = inventory::declarations(&root, inventory.modules.by_name.values()).unwrap();
        let target = target("x86-generic");
        let generic =
            select(&inventory, &declarations, &target, &Wishes::default(), &SelectOptions::default()).unwrap();
        Real { inventory, declarations, generic }
    })
}

fn target(name: &str) -> Target {
    target::resolve(&[Request::Name(name)]).unwrap()
}

fn run(target: &Target, options: &SelectOptions) -> Result<Selection, SelectError> {
    select(&real().inventory, &real().declarations, target, &Wishes::default(), options)
}

/// Without firmware: for what concerns modules only.
fn dry(options: &SelectOptions) -> Result<Selection, SelectError> {
    select(&real().inventory, &Declarations::new(), &target("x86-generic"), &Wishes::default(), options)
}

fn options(keep: &[&str], drop: &[&str]) -> SelectOptions {
    let patterns = |texts: &[&str]| texts.iter().map(|text| Pattern::new(text).unwrap()).collect();
    SelectOptions { keep: patterns(keep), drop: patterns(drop), ..SelectOptions::default() }
}

#[test]
fn x86_generic_keeps_what_machines_boot_with() {
    let wanted = "nvme nvme_core vmd ahci ata_piix ata_generic sd_mod sr_mod scsi_mod virtio_blk virtio_scsi virtio_net virtio_rng \
        virtio_balloon virtio_gpu virtio_input 9pnet_virtio 9p virtiofs megaraid_sas vmw_pvscsi mptspi mptsas sym53c8xx mpt3sas \
        smartpqi hpsa aacraid hv_storvsc xen_blkfront sdhci_pci sdhci_acpi mmc_block usb_storage uas usbhid hid_generic xhci_pci \
        xhci_pci_renesas ehci_pci uhci_hcd ohci_pci e1000 e1000e e100 igb igbvf igc ixgbe i40e ice vmxnet3 8139cp 8139too r8169 realtek \
        ne2k_pci pcnet32 tulip tg3 bnxt_en mlx5_core mlx5_ib hv_netvsc xen_netfront ena gve ipmi_si ipmi_devintf i6300esb iTCO_wdt \
        softdog tpm_tis_spi tpm_infineon psmouse evdev efivarfs overlay squashfs erofs loop isofs vfat nls_cp437 nls_iso8859_1 \
        nls_ascii ext4 xfs btrfs dm_crypt dm_verity dm_thin_pool raid1 crc32c_intel essiv algif_skcipher adiantum kvm_intel \
        kvm_amd vhost_net tun veth bridge br_netfilter vxlan geneve wireguard ip_vs ip_vs_rr nf_conntrack xt_addrtype \
        nft_chain_nat ip_set_hash_ip cls_bpf sch_ingress esp4 nfsv4 cifs ceph rbd iscsi_tcp nvme_tcp vfio_pci bochs qxl vmwgfx \
        ast mgag200 cirrus hyperv_drm hyperv_keyboard hv_utils i2c_i801 i2c_piix4 intel_lpss_pci pinctrl_alderlake coretemp";
    let real = real();
    let lost: Vec<_> = wanted
        .split_whitespace()
        .filter(|wanted| {
            let built_in = real.inventory.modules.builtin.contains(*wanted);
            !built_in && !real.generic.modules.get(*wanted).is_some_and(|item| item.kept)
        })
        .collect();
    assert!(lost.is_empty(), "not kept: {lost:?}");
}

#[test]
fn x86_generic_drops_what_it_does_not_promise() {
    let real = real();
    let unwanted =
        ["kernel/sound/", "kernel/drivers/media/", "kernel/drivers/net/wireless/", "kernel/drivers/staging/"];
    for (name, item) in real.generic.modules.iter().filter(|(_, item)| item.kept) {
        let path = &real.inventory.modules.by_name[name].relative;
        let chain = || chain(&real.generic, ItemRef::Module(name));
        assert!(!unwanted.iter().any(|dir| path.starts_with(dir)), "{}: {:?}", item.path, chain());
    }
    for module in ["i915", "amdgpu", "nouveau", "xe", "radeon", "iwlwifi", "cfg80211", "bluetooth", "snd", "null_blk"] {
        assert_eq!(real.generic.modules[module].reason, Reason::NotAsked, "{module}");
    }
    for (path, item) in &real.generic.firmware {
        let path = path.to_string();
        let gone =
            ["/i915/", "/amdgpu/", "/nvidia/", "/qcom/", "/iwlwifi-", "/netronome/flower/", "/rtw89/", "/ath11k/"];
        assert!(!item.kept || !gone.iter().any(|part| path.contains(part)), "{path}: {:?}", item.reason);
    }
}

/// A tenth of all modules and firmware, in bytes on disk (much of what goes is firmware that compresses well: a sixth then).
#[test]
fn x86_generic_is_small() {
    let real = real();
    let bytes = |kept: bool| -> u64 {
        let items = real.generic.modules.values().chain(real.generic.firmware.values());
        items.filter(|item| item.kept || !kept).map(|item| item.bytes).sum()
    };
    assert!(bytes(true) * 10 < bytes(false), "{} of {} bytes", bytes(true), bytes(false));
    assert!(real.generic.warnings.is_empty(), "{:#?}", real.generic.warnings);
}

#[test]
fn the_selection_is_closed_and_every_item_has_a_reason_that_starts_at_a_rule() {
    let real = real();
    let modules = &real.inventory.modules;
    let has =
        |name: &ModuleName| modules.builtin.contains(name) || real.generic.modules.get(name).is_some_and(|i| i.kept);
    assert_eq!(real.generic.modules.len(), modules.by_name.len());
    assert_eq!(real.generic.firmware.len(), real.inventory.firmware.entries.len());
    let mut edges = BTreeSet::new();
    let normal = |alias: &str| alias.replace('-', "_");
    let mut exact: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for (alias, module) in &modules.aliases {
        exact.entry(normal(alias)).or_default().push(module);
    }
    for (name, item) in &real.generic.modules {
        assert_eq!(item.kept, matches!(item.reason, Reason::Kept(_)), "{name}");
        let links = chain(&real.generic, ItemRef::Module(name));
        assert_eq!(item.kept, !links.is_empty(), "{name}");
        if !item.kept {
            continue;
        }
        check_chain(&links);
        assert_eq!(links.last().unwrap().to, name.as_str());
        edges.extend(links.iter().map(|link| link.edge));
        for dependency in &modules.dependencies[name] {
            assert!(has(dependency), "{name} needs {dependency}");
        }
        let soft = modules.soft.get(name).into_iter().flatten().map(|(_, wanted)| wanted);
        for wanted in soft.chain(modules.weak.get(name).into_iter().flatten()) {
            let Ok(by_name) = ModuleName::new(wanted) else { continue };
            if modules.by_name.contains_key(&by_name) {
                assert!(has(&by_name), "{name} asks for {wanted}");
                continue;
            }
            let named = exact.get(&normal(wanted)).into_iter().flatten();
            for module in named.filter(|_| !modules.builtin.contains(&by_name)) {
                assert!(has(module), "{name} asks for {wanted}, which is {module}");
            }
        }
    }
    for edge in [Edge::Rule, Edge::Depends, Edge::Softdep] {
        assert!(edges.contains(&edge), "no chain has {edge:?}");
    }
    for (path, item) in &real.generic.firmware {
        let links = chain(&real.generic, ItemRef::Firmware(path));
        assert_eq!(item.kept, !links.is_empty(), "{path}");
        if item.kept {
            check_chain(&links);
        }
        let Some(FirmwareKind::Link { chain }) = item.kept.then(|| &real.inventory.firmware.entries[path]) else {
            continue;
        };
        for next in chain {
            assert!(real.generic.firmware.get(next).is_none_or(|item| item.kept), "{path} leads to {next}");
        }
    }
}

fn check_chain(links: &[kairos_init::drivers::select::Link]) {
    let first = links.first().unwrap();
    assert!(first.edge == Edge::Rule || first.from.starts_with("built-in "), "{links:?}");
    for pair in links.windows(2) {
        assert_eq!(pair[0].to, pair[1].from, "{links:?}");
    }
}

#[test]
fn declared_firmware_of_kept_modules_is_kept_or_reported() {
    let real = real();
    let declared = real.declarations.iter().filter(|(module, _)| real.generic.modules[*module].kept);
    let mut found = 0;
    for (module, declared) in declared {
        for name in &declared.firmware {
            let hits = real.inventory.firmware.lookup(name);
            let missing = real.generic.missing_firmware.contains_key(name);
            // Of several versions one is enough.
            assert!(hits.is_empty() == missing || is_versioned(module, name.as_str()), "{module}: {name}");
            for hit in hits {
                found += 1;
                match &real.generic.firmware[&hit.path].reason {
                    Reason::Kept(_) => {}
                    Reason::OlderVersion(newer) => assert!(real.generic.firmware[newer].kept, "{module}: {name}"),
                    other => panic!("{module}: {name}: {other}"),
                }
            }
        }
    }
    assert!(found > 100, "only {found} names are there: the test root lacks its firmware packages");
    for path in ["intel/ice/ddp/ice.pkg", "rtl_nic/rtl8168h-2.fw", "cxgb4/t6-config.txt", "bnx2x/bnx2x-e2-7.13.21.0.fw"]
    {
        let path = format!("usr/lib/firmware/{path}");
        let item = real.generic.firmware.iter().find(|(p, _)| p.as_bytes() == path.as_bytes());
        assert!(item.is_some_and(|(_, item)| item.kept), "{path}");
    }
    let microcode = real.generic.firmware.values().filter(|item| item.reason == Reason::InUcode).count();
    assert!(microcode > 50, "{microcode} microcode files");
}

fn is_versioned(module: &ModuleName, name: &str) -> bool {
    let families = target("all").families;
    let mut files = families.iter().filter(|family| family.drivers.contains(module)).flat_map(|family| &family.files);
    files.any(|files| matches!(files, FamilyFiles::Versions(versions) if versions.parse(name).is_some()))
}

/// On Debian's root every firmware file has somebody who asks for it, or is known to have nobody.
#[test]
fn nothing_is_unknown_of_debians_firmware() {
    let unknown = &real().generic.unknown_firmware;
    assert!(unknown.is_empty(), "{} files: {unknown:?}", unknown.len());
    let absent = real().generic.firmware.values().filter(|item| matches!(item.reason, Reason::DriverAbsent(_)));
    assert!(absent.count() > 100);
}

#[test]
fn of_versions_the_newest_that_the_driver_declares_stays() {
    let keep = |firmware_versions| {
        let options = SelectOptions { firmware_versions, ..options(&["iwlwifi", "i915", "rtw89_8852be"], &[]) };
        run(&target("x86-generic"), &options).unwrap()
    };
    let (newest, all) = (keep(FirmwareVersions::Newest), keep(FirmwareVersions::All));
    let bytes = |selection: &Selection| selection.firmware.values().filter(|i| i.kept).map(|i| i.bytes).sum::<u64>();
    assert!(bytes(&newest) + (20 << 20) < bytes(&all), "{} and {} bytes", bytes(&newest), bytes(&all));
    let declared = &real().declarations["iwlwifi"].firmware;
    let kept_by = |selection: &Selection, prefix: &str| -> Vec<String> {
        let kept = selection.firmware.iter().filter(|(_, item)| item.kept).map(|(path, _)| path.to_string());
        kept.filter_map(|path| Some(path.strip_prefix("/usr/lib/firmware/")?.to_owned()))
            .filter(|name| name.starts_with(prefix) && !name.ends_with(".pnvm"))
            .collect()
    };
    // The AX211's: what the driver declares is its newest; the root has some of them.
    let prefix = "iwlwifi-so-a0-gf-a0-";
    let (one, many) = (kept_by(&newest, prefix), kept_by(&all, prefix));
    assert!(one.len() == 1 && many.len() > 1 && many.contains(&one[0]), "{one:?} of {many:?}");
    let version = |name: &str| name.trim_start_matches(prefix).trim_end_matches(".ucode").parse::<u32>().unwrap();
    let most =
        declared.iter().filter(|name| name.as_str().starts_with(prefix)).map(|name| version(name.as_str())).max();
    assert!(version(&one[0]) <= most.unwrap());
    assert_eq!(version(&one[0]), many.iter().map(|name| version(name)).max().unwrap());
    for (path, item) in &newest.firmware {
        if let Reason::OlderVersion(newer) = &item.reason {
            assert!(newest.firmware[newer].kept && all.firmware[path].kept, "{path}");
        }
    }
}

#[test]
fn what_kairos_needs_cannot_be_dropped() {
    for (drop, says) in [
        ("efivarfs", "Secure Boot"),
        ("overlay", "cos-layout.env"),
        ("squashfs", "system extensions"),
        ("dm-crypt", "LUKS"),
        ("dm_verity", "dm-verity"),
        ("kernel/fs/**", "Kairos needs"),
        ("nls_*", "code page"),
    ] {
        let error = dry(&options(&[], &[drop])).unwrap_err();
        assert!(matches!(error, SelectError::DropRequired { .. }), "{drop}: {error}");
        let text = error.to_string();
        assert!(text.contains(says) && text.contains("kmod-db/kairos.toml:") && !text.contains('\n'), "{text}");
    }
    let needed = dry(&options(&[], &["nvme_core"])).unwrap_err().to_string();
    assert!(needed.contains("without which the kept module nvme") && needed.contains("modules.dep"), "{needed}");
    let built_in = dry(&options(&[], &["tpm_tis"])).unwrap_err().to_string();
    assert!(built_in.contains("built into the kernel"), "{built_in}");
    let nothing = dry(&options(&["iwlwif"], &[])).unwrap_err().to_string();
    assert!(nothing.contains("did you mean \"iwlwifi\"?"), "{nothing}");
}

#[test]
fn keep_brings_a_driver_with_its_dependencies_and_firmware() {
    let options = options(&["iwlwifi", "brcm/bcm43xx-0.fw"], &["kernel/drivers/infiniband/hw/hfi1/**"]);
    let chosen = run(&target("x86-generic"), &options).unwrap();
    assert!(chosen.modules["iwlwifi"].kept && chosen.modules["cfg80211"].kept);
    assert_eq!(chosen.modules["hfi1"].reason, Reason::Dropped("kernel/drivers/infiniband/hw/hfi1/**".into()));
    let firmware: Vec<_> =
        chosen.firmware.iter().filter(|(_, item)| item.kept).map(|(path, _)| path.to_string()).collect();
    assert!(firmware.iter().any(|path| path.contains("/iwlwifi-")));
    assert!(firmware.iter().any(|path| path.ends_with("/brcm/bcm43xx-0.fw")));
    assert!(!firmware.iter().any(|path| path.contains("hfi1_")), "firmware follows the kept modules");
}

#[test]
fn all_keeps_everything() {
    let all = run(&target("all"), &SelectOptions::default()).unwrap();
    assert!(all.modules.values().all(|item| item.kept));
    assert!(all.firmware.values().all(|item| item.kept), "every firmware file");
    assert!(all.warnings.is_empty(), "{:?}", all.warnings);
}

/// Hidden dependencies and firmware of kmod-db: every entry matches this kernel, or says that it need not. Rules: `kmod_db`.
#[test]
fn every_entry_of_the_database_matches_or_is_optional() {
    let real = real();
    let modules = &real.inventory.modules;
    let exists = |name: &ModuleName| modules.by_name.contains_key(name) || modules.builtin.contains(name);
    let target = target::resolve(&[Request::Name("all"), Request::Name("x86-generic")]).unwrap();
    let mut wrong = Vec::new();
    let Selection { warnings, .. } = run(&target, &SelectOptions::default()).unwrap();
    wrong.extend(warnings);
    for hidden in target.hidden.iter().filter(|hidden| !hidden.optional) {
        for name in hidden.to.iter().chain([&hidden.from]).filter(|name| !exists(name)) {
            wrong.push(format!("{}: {name} is not a module of this kernel", hidden.source));
        }
    }
    for request in target.requests.iter().filter(|request| !request.optional && !exists(&request.from)) {
        wrong.push(format!("{}: {} is not a module of this kernel", request.source, request.from));
    }
    let base = "/usr/lib/firmware/";
    let firmware: Vec<String> = real.inventory.firmware.entries.keys().map(ToString::to_string).collect();
    let firmware: Vec<&str> = firmware.iter().filter_map(|path| path.strip_prefix(base)).collect();
    let matches = |files: &FamilyFiles, name: &str| match files {
        FamilyFiles::All(glob) => glob.matches(name),
        FamilyFiles::Versions(versions) => versions.parse(name).is_some(),
    };
    for family in target.families.iter().filter(|family| !family.optional) {
        if !family.drivers.iter().any(exists) {
            wrong.push(format!("{}: none of its drivers is in this kernel", family.source));
        }
        for files in family.files.iter().filter(|files| !firmware.iter().any(|name| matches(files, name))) {
            wrong.push(format!("{}: {} matches no firmware", family.source, files.as_str()));
        }
    }
    for unasked in target.unasked.iter().filter(|unasked| !unasked.optional) {
        for glob in unasked.files.iter().filter(|glob| !firmware.iter().any(|name| glob.matches(name))) {
            wrong.push(format!("{}: {} matches no firmware", unasked.source, glob.as_str()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
