//! What the kernel's settings say of a selection: can it start, can it load what is kept, does its TPM come in time.

use std::collections::BTreeSet;

use crate::drivers::inventory::{Compression, Inventory};
use crate::drivers::select::Selection;
use crate::drivers::target::{Matcher, Rule};
use crate::names::{ModuleName, TreePath};

use super::config::{KernelConfig, Value};
use super::finding::{Absence, DbKeys, Enforcement, Finding, KmodSupport};

/// Settings without which a UKI with a zstd initrd does not start, and why.
const BOOT: [(&str, &str); 4] = [
    ("EFI", "a Unified Kernel Image needs"),
    ("EFI_STUB", "a Unified Kernel Image needs: the kernel in it is started as an EFI program"),
    ("BLK_DEV_INITRD", "starting from an initrd needs"),
    ("RD_ZSTD", "unpacking the initrd needs: it is compressed with zstd"),
];

/// The kernel's TPM drivers (`drivers/char/tpm/Kconfig` and `Makefile`): setting and module. First those for TPM 2.0, which
/// Trusted Boot takes; those behind are for older chips. Left out: `tpm_vtpm_proxy`, which drives no hardware.
const TPM: [(&str, &str); 20] = [
    ("TCG_TIS", "tpm_tis"),
    ("TCG_CRB", "tpm_crb"),
    ("TCG_TIS_SPI", "tpm_tis_spi"),
    ("TCG_TIS_I2C", "tpm_tis_i2c"),
    ("TCG_TIS_I2C_CR50", "tpm_tis_i2c_cr50"),
    ("TCG_TIS_I2C_NUVOTON", "tpm_i2c_nuvoton"),
    ("TCG_TIS_SYNQUACER", "tpm_tis_synquacer"),
    ("TCG_ARM_CRB_FFA", "tpm_crb_ffa"),
    ("TCG_FTPM_TEE", FTPM),
    ("TCG_IBMVTPM", "tpm_ibmvtpm"),
    ("TCG_LOONGSON", "tpm_loongson"),
    ("TCG_SVSM", "tpm_svsm"),
    ("TCG_ATMEL", "tpm_atmel"),
    ("TCG_INFINEON", "tpm_infineon"),
    ("TCG_NSC", "tpm_nsc"),
    ("TCG_TIS_I2C_ATMEL", "tpm_i2c_atmel"),
    ("TCG_TIS_I2C_INFINEON", "tpm_i2c_infineon"),
    ("TCG_TIS_ST33ZP24_I2C", "tpm_st33zp24_i2c"),
    ("TCG_TIS_ST33ZP24_SPI", "tpm_st33zp24_spi"),
    ("TCG_XEN", "xen_tpmfront"),
];
/// What PCs and servers have. One of them is enough to do without the other: no reason to refuse the kernel.
const USUAL_TPM: [&str; 2] = ["tpm_tis", "tpm_crb"];
/// immucore loads it by name before it extends PCR 11, so that it need not be built in.
const FTPM: &str = "tpm_ftpm_tee";

/// Settings of the modules that every target requires (`kmod-db/kairos.toml`), but for TPM drivers.
const REQUIRED: [(&str, &str); 15] = [
    ("dm_crypt", "DM_CRYPT"),
    ("dm_mod", "BLK_DEV_DM"),
    ("dm_verity", "DM_VERITY"),
    ("efivarfs", "EFIVAR_FS"),
    ("erofs", "EROFS_FS"),
    ("ext4", "EXT4_FS"),
    ("isofs", "ISO9660_FS"),
    ("loop", "BLK_DEV_LOOP"),
    ("nls_ascii", "NLS_ASCII"),
    ("nls_cp437", "NLS_CODEPAGE_437"),
    ("nls_iso8859_1", "NLS_ISO8859_1"),
    ("overlay", "OVERLAY_FS"),
    ("squashfs", "SQUASHFS"),
    ("tpm", "TCG_TPM"),
    ("vfat", "VFAT_FS"),
];

fn kept(selection: &Selection) -> impl Iterator<Item = &ModuleName> {
    selection.modules.iter().filter(|(_, item)| item.kept).map(|(name, _)| name)
}

/// Settings that keep a UKI from starting.
pub(super) fn boot(config: &KernelConfig) -> impl Iterator<Item = Finding> {
    BOOT.into_iter()
        .filter(|(symbol, _)| !config.is_yes(symbol))
        .map(|(symbol, needed_for)| Finding::CannotBoot { symbol, needed_for })
}

/// Whether the kernel loads modules at all.
pub(super) fn modules(config: &KernelConfig, selection: &Selection) -> Option<Finding> {
    let kept = kept(selection).count();
    (kept > 0 && !config.is_yes("MODULES")).then_some(Finding::NoModules { kept })
}

/// Kept modules in a form that the kernel does not read. `kmod` tells of the root's kmod: `None` where it can.
pub(super) fn module_compression(
    config: &KernelConfig,
    inventory: &Inventory,
    selection: &Selection,
    kmod: impl Fn(Compression) -> Option<KmodSupport>,
) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (form, symbol) in [
        (Compression::Gzip, "MODULE_COMPRESS_GZIP"),
        (Compression::Xz, "MODULE_COMPRESS_XZ"),
        (Compression::Zstd, "MODULE_COMPRESS_ZSTD"),
    ] {
        if config.is_yes("MODULE_DECOMPRESS") && config.is_yes(symbol) {
            continue;
        }
        let of_form =
            |name: &&ModuleName| inventory.modules.by_name.get(*name).is_some_and(|module| module.compression == form);
        let modules: Vec<ModuleName> = kept(selection).filter(of_form).cloned().collect();
        if !modules.is_empty()
            && let Some(kmod) = kmod(form)
        {
            findings.push(Finding::ModuleCompression { form, kmod, modules });
        }
    }
    findings
}

/// Kept firmware in a form that the kernel does not read.
pub(super) fn firmware_compression(config: &KernelConfig, selection: &Selection) -> Vec<Finding> {
    let compress = config.is_yes("FW_LOADER_COMPRESS");
    // Until 5.19 there was one setting, and it meant xz.
    let single =
        compress && config.get("FW_LOADER_COMPRESS_XZ").is_none() && config.get("FW_LOADER_COMPRESS_ZSTD").is_none();
    let mut findings = Vec::new();
    for (form, can) in [
        (Compression::Xz, compress && (single || config.is_yes("FW_LOADER_COMPRESS_XZ"))),
        (Compression::Zstd, compress && config.is_yes("FW_LOADER_COMPRESS_ZSTD")),
    ] {
        let of_form = |path: &TreePath| Compression::of(path.file_name()).0 == form;
        let files = selection.firmware.iter().filter(|(path, item)| item.kept && of_form(path));
        let files: Vec<TreePath> = files.map(|(path, _)| path.clone()).collect();
        if !can && !files.is_empty() {
            findings.push(Finding::FirmwareCompression { form, files });
        }
    }
    findings
}

/// TPM drivers that come too late, or not at all.
pub(super) fn tpm(config: Option<&KernelConfig>, inventory: &Inventory, selection: &Selection) -> Vec<Finding> {
    let (mut modules, mut builtin, mut by_name, mut missing) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for (symbol, name) in TPM {
        let Ok(module) = ModuleName::new(name) else { continue };
        if config.is_some_and(|config| config.is_yes(symbol)) || inventory.modules.builtin.contains(&module) {
            builtin.push(module);
        } else if selection.modules.get(&module).is_some_and(|item| item.kept) {
            if name == FTPM { &mut by_name } else { &mut modules }.push(module);
        } else if USUAL_TPM.contains(&name) {
            missing.push((module, symbol));
        }
    }
    let others: Vec<ModuleName> = builtin.iter().chain(&by_name).chain(&modules).cloned().collect();
    if others.is_empty() {
        return vec![Finding::NoTpm];
    }
    let missing = missing.into_iter().map(|driver| Finding::MissingTpm { driver, others: others.clone() });
    let late = (!modules.is_empty()).then_some(Finding::LateTpm { modules, builtin });
    late.into_iter().chain(missing).collect()
}

/// What Kairos cannot do without and this root does not have.
pub(super) fn required(config: &KernelConfig, inventory: &Inventory, rules: &[Rule]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut seen = BTreeSet::new();
    for rule in rules.iter().filter(|rule| rule.required && rule.is_expected_in(&inventory.kernel.release)) {
        let Matcher::Module(glob) = &rule.matcher else { continue };
        let Ok(module) = ModuleName::new(glob.as_str()) else { continue };
        let asked_for = match is_charset(&module) {
            true => charsets(config).contains(&module),
            false => !USUAL_TPM.contains(&module.as_str()),
        };
        if asked_for {
            findings.extend(absent(config, inventory, module.clone(), &rule.evidence));
        }
        seen.insert(module);
    }
    // vfat of this kernel may want others than the rules know.
    for module in charsets(config) {
        if !seen.contains(&module) {
            let evidence = "vfat asks for it by name at mount time: it is this kernel's default";
            findings.extend(absent(config, inventory, module, evidence));
        }
    }
    findings
}

fn is_charset(module: &ModuleName) -> bool {
    module.as_str().starts_with("nls_")
}

/// The code page and the character set that vfat asks for where a mount names none.
fn charsets(config: &KernelConfig) -> Vec<ModuleName> {
    let page = config.text("FAT_DEFAULT_CODEPAGE").map(|page| format!("nls_cp{page}"));
    let set = config.text("FAT_DEFAULT_IOCHARSET").map(|set| format!("nls_{set}"));
    page.into_iter().chain(set).filter_map(|name| ModuleName::new(&name).ok()).collect()
}

fn absent(config: &KernelConfig, inventory: &Inventory, module: ModuleName, evidence: &str) -> Option<Finding> {
    let there = inventory.modules.by_name.contains_key(&module) || inventory.modules.builtin.contains(&module);
    let symbol = REQUIRED.iter().find(|(name, _)| *name == module.as_str()).map(|(_, symbol)| *symbol);
    let absence = match symbol.map(|symbol| config.get(symbol)) {
        Some(Some(Value::Yes)) => return None,
        Some(Some(Value::Module)) => Absence::NoFile,
        Some(_) => Absence::NotSet,
        None => Absence::Unknown,
    };
    (!there).then(|| Finding::Required { module, symbol, absence, evidence: evidence.to_owned() })
}

/// When the kernel refuses modules whose signature it does not trust.
pub(super) fn enforcement(config: Option<&KernelConfig>) -> Enforcement {
    let Some(config) = config else { return Enforcement::Unknown };
    let any = |symbols: &[&str]| symbols.iter().any(|symbol| config.is_yes(symbol));
    if !config.is_yes("MODULE_SIG") {
        Enforcement::Never
    } else if any(&["MODULE_SIG_FORCE", "LOCK_DOWN_KERNEL_FORCE_INTEGRITY", "LOCK_DOWN_KERNEL_FORCE_CONFIDENTIALITY"]) {
        Enforcement::Always
    } else if any(&["LOCK_DOWN_IN_EFI_SECURE_BOOT", "LOCK_DOWN_IN_SECURE_BOOT", "IMA_ARCH_POLICY"]) {
        // The first two are patches of the distributions'; IMA's policy of the architecture enforces signatures, too
        // (`security/integrity/ima/ima_efi.c`).
        Enforcement::SecureBoot
    } else {
        Enforcement::Asked
    }
}

/// Whether db helps.
pub(super) fn db_keys(config: Option<&KernelConfig>) -> DbKeys {
    match config {
        None => DbKeys::Unknown,
        Some(config) if config.is_yes("INTEGRITY_PLATFORM_KEYRING") && config.is_yes("LOAD_UEFI_KEYS") => DbKeys::Maybe,
        Some(_) => DbKeys::No,
    }
}
