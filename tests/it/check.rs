//! The kernel's own word on a selection: its settings, the modules' signatures, the keys in its image. Real kernels, and
//! small roots with modules that were taken apart and signed anew with openssl.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use kairos_init::drivers::check::certificates::Certificates;
use kairos_init::drivers::check::config::{KernelConfig, Loaded};
use kairos_init::drivers::check::signature::{KeyId, MODULE_END, Signature};
use kairos_init::drivers::check::{
    self, Absence, Checked, DbKeys, Enforcement, Finding, KmodSupport, Sample, Severity, certificates_of, image,
};
use kairos_init::drivers::inventory::{self, Compression, Declarations, Inventory, Module};
use kairos_init::drivers::select::{SelectOptions, Selection, select};
use kairos_init::drivers::target::{self, Target};
use kairos_init::drivers::wishes::Wishes;
use kairos_init::names::{ModuleName, TreePath};
use kairos_init::root::sysroot::Sysroot;
use proptest::prelude::*;
use tempfile::TempDir;

use crate::roots;

/// A root, what it has, and what of it is kept.
struct Chosen {
    root: Sysroot,
    inventory: Inventory,
    target: Target,
    selection: Selection,
    declarations: Declarations,
}

impl Chosen {
    fn new(path: &Path, hardware: &str) -> Self {
        let root = Sysroot::open(path).unwrap();
        let inventory = inventory::load(&root, None).unwrap();
        let target = target::resolve(&[target::Request::Name(hardware)]).unwrap();
        let declarations = inventory::declarations(&root, inventory.modules.by_name.values()).unwrap();
        let (wishes, options) = (Wishes::default(), SelectOptions::default());
        let selection = select(&inventory, &declarations, &target, &wishes, &options).unwrap();
        Self { root, inventory, target, selection, declarations }
    }

    fn check(&self, declarations: &Declarations, every_signature: bool) -> Checked {
        let Self { root, inventory, target, selection, .. } = self;
        check::check(&check::Request { root, inventory, selection, target, declarations, every_signature }).unwrap()
    }
}

fn base() -> &'static Chosen {
    static BASE: OnceLock<Chosen> = OnceLock::new();
    BASE.get_or_init(|| Chosen::new(&roots::base(), "all"))
}

/// The certificates in the kernel of [`base`].
fn base_keys() -> &'static Certificates {
    static KEYS: OnceLock<Certificates> = OnceLock::new();
    KEYS.get_or_init(|| certificates_of(&roots::kernel()).unwrap())
}

fn name(text: &str) -> ModuleName {
    ModuleName::new(text).unwrap()
}

fn unpacked(path: &Path) -> Vec<u8> {
    let output = Command::new("xz").arg("-dc").arg(path).output().expect("xz is needed");
    assert!(output.status.success());
    output.stdout
}

/// A module of [`base`], decompressed.
fn module(text: &str) -> Vec<u8> {
    unpacked(&roots::base().join(base().inventory.modules.by_name[&name(text)].path.as_path()))
}

/// Without its signature, as `strip` or a tool that knows none leaves it.
fn unsigned(module: &[u8]) -> Vec<u8> {
    let message = module.strip_suffix(b"~Module signature appended~\n").unwrap();
    let (rest, info) = message.split_last_chunk::<12>().unwrap();
    let length = u32::from_be_bytes(*info.last_chunk().unwrap()) as usize;
    rest[..rest.len() - length].to_vec()
}

/// Keys that no kernel knows.
struct Stranger {
    folder: TempDir,
}

impl Stranger {
    fn new(algorithm: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let stranger = Self { folder };
        let mut arguments = vec!["req", "-x509", "-nodes", "-days", "3650", "-subj", "/CN=a stranger's key\u{1b}[31m"];
        arguments.extend(["-keyout", "key.pem", "-out", "cert.pem", "-newkey"]);
        arguments.extend(algorithm);
        stranger.openssl(&arguments);
        stranger
    }

    fn openssl(&self, arguments: &[&str]) -> Vec<u8> {
        let output = Command::new("openssl").args(arguments).current_dir(&self.folder).output();
        let output = output.expect("openssl is needed");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    }

    /// As the kernel's `scripts/sign-file` does; `more`: `-keyid` for a subject key identifier.
    fn sign(&self, module: &[u8], more: &[&str]) -> Vec<u8> {
        fs::write(self.folder.path().join("module"), module).unwrap();
        let mut arguments = vec!["cms", "-sign", "-binary", "-noattr", "-nocerts", "-nosmimecap", "-md", "sha256"];
        arguments.extend(["-in", "module", "-signer", "cert.pem", "-inkey", "key.pem", "-outform", "DER"]);
        arguments.extend(more);
        let message = self.openssl(&arguments);
        let length = u32::try_from(message.len()).unwrap().to_be_bytes();
        [module, &message, &[0, 0, 2, 0, 0, 0, 0, 0], &length, b"~Module signature appended~\n"].concat()
    }

    fn certificate(&self) -> Vec<u8> {
        self.openssl(&["x509", "-in", "cert.pem", "-outform", "DER"])
    }
}

/// A root with a few of Debian's modules, its kernel and its configuration, as `write` and `set` change them.
struct Small {
    directory: TempDir,
    config: String,
    dep: String,
}

impl Small {
    fn new() -> Self {
        let release = &base().inventory.kernel.release;
        let config = fs::read_to_string(roots::base().join(format!("boot/config-{release}"))).unwrap();
        let small = Self { directory: tempfile::tempdir().unwrap(), config, dep: String::new() };
        fs::create_dir_all(small.path("boot")).unwrap();
        fs::create_dir_all(small.path("usr/bin")).unwrap();
        std::os::unix::fs::symlink("usr/lib", small.path("lib")).unwrap();
        fs::write(small.path(&format!("boot/vmlinuz-{release}")), roots::kernel()).unwrap();
        let mut small = small;
        let required = "efivarfs squashfs erofs dm_mod dm_verity dm_crypt isofs vfat nls_ascii nls_cp437 loop overlay ext4 \
            nls_iso8859_1 tpm_tis_spi veth";
        for module in required.split_whitespace() {
            if let Some(module) = base().inventory.modules.by_name.get(module) {
                let bytes = fs::read(roots::base().join(module.path.as_path())).unwrap();
                small.write(&module.relative, &bytes);
            }
        }
        let order = base().inventory.modules.order.join("\n");
        fs::write(small.modules().join("modules.order"), order + "\n").unwrap();
        let builtin = base().inventory.modules.builtin.iter().map(|name| format!("kernel/{name}.ko\n"));
        fs::write(small.modules().join("modules.builtin"), builtin.collect::<String>()).unwrap();
        small
    }

    fn path(&self, below: &str) -> PathBuf {
        self.directory.path().join(below)
    }

    fn modules(&self) -> PathBuf {
        self.path("usr/lib/modules").join(base().inventory.kernel.release.as_str())
    }

    /// A module file, listed in `modules.dep`.
    fn write(&mut self, relative: &str, bytes: &[u8]) {
        let path = self.modules().join(relative);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
        if !self.dep.contains(&format!("{relative}:")) {
            self.dep += &format!("{relative}:\n");
        }
    }

    /// Sets or (with `n`) unsets a setting of the kernel.
    fn set(&mut self, symbol: &str, value: &str) {
        let old = self.config.lines().filter(|line| {
            !line.starts_with(&format!("CONFIG_{symbol}=")) && *line != format!("# CONFIG_{symbol} is not set")
        });
        let mut text: String = old.map(|line| format!("{line}\n")).collect();
        text += &match value {
            "n" => format!("# CONFIG_{symbol} is not set\n"),
            value => format!("CONFIG_{symbol}={value}\n"),
        };
        self.config = text;
    }

    fn config_path(&self) -> PathBuf {
        self.path(&format!("boot/config-{}", base().inventory.kernel.release))
    }

    fn flush(&self) {
        // With what the modules need of those that are here.
        let all = &base().inventory.modules;
        let line = |line: &str| {
            let needs = ModuleName::from_file(line.trim_end_matches(':').as_bytes());
            let needs = needs.and_then(|name| all.dependencies.get(&name)).into_iter().flatten();
            let paths = needs.map(|name| all.by_name[name].relative.as_str());
            let here: Vec<_> = paths.filter(|path| self.dep.contains(&format!("{path}:"))).collect();
            format!("{line} {}", here.join(" ")).trim_end().to_owned() + "\n"
        };
        let dep: String = self.dep.lines().map(line).collect();
        fs::write(self.modules().join("modules.dep"), dep).unwrap();
        fs::write(self.config_path(), &self.config).unwrap();
    }

    fn chosen(&self) -> Chosen {
        self.flush();
        Chosen::new(self.directory.path(), "all")
    }

    fn check(&self) -> Checked {
        let chosen = self.chosen();
        chosen.check(&chosen.declarations, false)
    }

    /// The findings but for the one that every Debian kernel has.
    fn findings(&self) -> Vec<Finding> {
        let findings = self.check().findings;
        findings.into_iter().filter(|finding| !matches!(finding, Finding::LateTpm { .. })).collect()
    }
}

#[test]
fn debians_kernel_takes_all_that_is_kept() {
    let checked = base().check(&base().declarations, false);
    let [Finding::LateTpm { modules, builtin }] = checked.findings.as_slice() else {
        panic!("{:#?}", checked.findings);
    };
    assert!(modules.contains(&name("tpm_tis_spi")) && modules.contains(&name("xen_tpmfront")), "{modules:?}");
    assert_eq!(builtin, &[name("tpm_tis"), name("tpm_crb")]);
    let text = checked.findings[0].to_string();
    assert!(text.starts_with("a machine whose TPM needs tpm_tis_spi, tpm_tis_i2c_cr50, "), "{text}");
    assert!(text.ends_with(" more will not unlock under Trusted Boot: these drivers are modules, loaded only after immucore has extended PCR 11; built in are tpm_tis, tpm_crb"), "{text}");
    let Loaded::Found { path, config } = &checked.config else { panic!("{:?}", checked.config) };
    assert_eq!(path.to_string(), format!("/boot/config-{}", base().inventory.kernel.release));
    assert!(config.is_yes("RD_ZSTD") && config.is_module("EFIVAR_FS"));
    let signatures = checked.signatures;
    assert_eq!((signatures.own, signatures.foreign), (base().inventory.modules.by_name.len(), 0));
    assert_eq!(signatures.looked_at, 8);
    assert!(signatures.certificates.is_none(), "the image is opened only where there is a doubt");
}

#[test]
fn every_module_of_debian_is_signed_by_the_key_in_its_kernel() {
    let sample = base().check(&base().declarations, false).signatures;
    let checked = base().check(&base().declarations, true);
    assert!(matches!(checked.findings.as_slice(), [Finding::LateTpm { .. }]), "{:#?}", checked.findings);
    let signatures = checked.signatures;
    assert_eq!((signatures.looked_at, signatures.own), (base().inventory.modules.by_name.len(), signatures.looked_at));
    let key = signatures.build_key.unwrap();
    assert_eq!(Some(&key), sample.build_key.as_ref(), "the sample tells what all tell");
    assert!(signatures.certificates.unwrap().holds(&key));
    // modinfo(8) tells the same key.
    let file = tempfile::NamedTempFile::with_suffix(".ko").unwrap();
    fs::write(&file, module("vfat")).unwrap();
    let output = Command::new("modinfo").arg(file.path()).output().expect("modinfo (kmod) is needed");
    let text = String::from_utf8(output.stdout).unwrap();
    let field = |key: &str| text.lines().find_map(|line| Some(line.strip_prefix(key)?.trim().to_owned())).unwrap();
    let serial = field("sig_key:").replace(':', "").to_lowercase();
    assert_eq!(key.to_string(), format!("\"CN={}\" (serial {serial})", field("signer:")));
    let Signature::Signed { keys, digest } = Signature::of_end(&module("vfat")) else { panic!() };
    assert_eq!((keys.into_iter().collect::<Vec<_>>(), digest), (vec![key], "id-sha256".to_owned()));
}

#[test]
fn the_certificates_of_a_real_kernel_are_found() {
    let found: Vec<_> = base_keys().iter().collect();
    // The build's own, by issuer and serial number and by subject key identifier.
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found.iter().all(|(_, subject)| *subject == "CN=Build time autogenerated kernel key"), "{found:?}");
    assert!(matches!(found[1].0, KeyId::SubjectKey(id) if id.len() == 20));
}

#[test]
fn modules_without_a_signature_are_named() {
    let mut small = Small::new();
    assert_eq!(small.findings(), [], "nothing to find before");
    let foreign = unsigned(&module("dummy"));
    small.write("updates/dkms/dummy.ko", &foreign);
    let finding =
        Finding::Unsigned { modules: vec![name("dummy")], enforcement: Enforcement::SecureBoot, sample: None };
    assert_eq!(small.findings(), std::slice::from_ref(&finding));
    assert_eq!(
        finding.to_string(),
        "modules without a signature: dummy: this kernel does not load such modules under Secure Boot; sign them with a key that it trusts, or drop them (--drop)"
    );
    assert_eq!(finding.severity(), Severity::Error);
    // In the kernel's own place, unlisted in modules.order.
    let mut small = Small::new();
    small.write("kernel/drivers/net/mine.ko", &foreign);
    assert_eq!(small.findings().len(), 1);
    // In the place of one of the kernel's own: nothing but a look at all of them tells.
    let mut small = Small::new();
    fs::remove_file(small.modules().join("kernel/drivers/net/veth.ko.xz")).unwrap();
    small.dep = small.dep.replace("kernel/drivers/net/veth.ko.xz:\n", "");
    small.write("kernel/drivers/net/veth.ko", &unsigned(&module("veth")));
    let chosen = small.chosen();
    let checked = chosen.check(&chosen.declarations, true);
    assert!(
        checked.findings.iter().any(
            |finding| matches!(finding, Finding::Unsigned { modules, sample: None, .. } if modules == &[name("veth")])
        ),
        "{:#?}",
        checked.findings
    );
    // What the kernel does about them depends on its settings.
    for (settings, expected) in [
        (&[("MODULE_SIG_FORCE", "y")][..], Enforcement::Always),
        (&[("LOCK_DOWN_KERNEL_FORCE_INTEGRITY", "y")], Enforcement::Always),
        (&[("LOCK_DOWN_IN_EFI_SECURE_BOOT", "n"), ("IMA_ARCH_POLICY", "n")], Enforcement::Asked),
        (&[("LOCK_DOWN_IN_EFI_SECURE_BOOT", "n"), ("IMA_ARCH_POLICY", "y")], Enforcement::SecureBoot),
    ] {
        let mut small = Small::new();
        small.write("updates/dkms/dummy.ko", &foreign);
        for (symbol, value) in settings {
            small.set(symbol, value);
        }
        let findings = small.findings();
        assert!(
            matches!(findings.as_slice(), [Finding::Unsigned { enforcement, .. }] if *enforcement == expected),
            "{settings:?}: {findings:#?}"
        );
    }
    let mut small = Small::new();
    small.write("updates/dkms/dummy.ko", &foreign);
    small.set("MODULE_SIG", "n");
    assert_eq!(small.findings(), [Finding::SignaturesNotChecked]);
}

#[test]
fn modules_signed_by_a_stranger_are_named_with_the_signer() {
    for (algorithm, more) in [
        (&["rsa:2048"][..], &[][..]),
        (&["ec", "-pkeyopt", "ec_paramgen_curve:P-384"], &[]),
        (&["rsa:2048"], &["-keyid"]),
    ] {
        let stranger = Stranger::new(algorithm);
        let mut small = Small::new();
        let signed = stranger.sign(&unsigned(&module("dummy")), more);
        small.write("updates/dkms/dummy.ko", &signed);
        // The kernel's own build key, somewhere else: fine.
        small.write("extra/tun.ko", &module("tun"));
        let checked = small.check();
        assert_eq!(checked.signatures.foreign, 2);
        assert!(checked.signatures.certificates.is_some());
        let found: Vec<_> =
            checked.findings.iter().filter(|finding| matches!(finding, Finding::ForeignKey { .. })).collect();
        let [Finding::ForeignKey { key, modules, db, sample: None, .. }] = found.as_slice() else {
            panic!("{:#?}", checked.findings);
        };
        assert_eq!((modules.as_slice(), *db), (&[name("dummy")][..], DbKeys::Maybe));
        assert_eq!(checked.findings.len(), 2, "{:#?}", checked.findings);
        let text = found[0].to_string();
        match more {
            [] => assert!(text.starts_with("modules signed by \"CN=a stranger's key\\1b[31m\" (serial "), "{text}"),
            _ => assert!(text.starts_with("modules signed by the key "), "{text}"),
        }
        assert!(
            text.contains("kernels of Debian, Fedora and SUSE trust keys whose certificate is enrolled in db"),
            "{text}"
        );
        assert!(!text.contains(['\u{1b}', '\n']));
        // The same certificate among the kernel's: fine.
        let kernel = [b"\x7fELF", &[0u8; 4096][..], &stranger.certificate(), &[0x30, 0x82]].concat();
        let certificates = certificates_of(&kernel).unwrap();
        assert!(certificates.holds(key), "{certificates:?}");
        // db is not read by every kernel.
        small.set("INTEGRITY_PLATFORM_KEYRING", "n");
        assert!(small.findings().iter().any(|finding| finding.to_string().contains("this kernel does not read db")));
    }
}

#[test]
fn a_kernel_that_cannot_be_read_is_said_instead_of_naming_modules() {
    let stranger = Stranger::new(&["rsa:2048"]);
    let mut small = Small::new();
    small.write("updates/dkms/dummy.ko", &stranger.sign(&unsigned(&module("dummy")), &[]));
    let image = small.path(&format!("boot/vmlinuz-{}", base().inventory.kernel.release));
    fs::write(&image, &roots::kernel()[..1 << 20]).unwrap();
    let findings = small.findings();
    let [Finding::NotJudged { keys, modules, problem }] = findings.as_slice() else { panic!("{findings:#?}") };
    assert_eq!((keys.len(), modules.as_slice()), (1, &[name("dummy")][..]));
    assert!(problem.contains("outside of the file"), "{problem}");
    fs::remove_file(&image).unwrap();
    assert!(small.findings()[0].to_string().contains("the root has no boot image of kernel"));
    // Nothing but the kernel's own: all are looked at, and the image still cannot be read.
    let small = Small::new();
    fs::write(small.path(&format!("boot/vmlinuz-{}", base().inventory.kernel.release)), b"MZ").unwrap();
    let chosen = small.chosen();
    let text =
        chosen.check(&chosen.declarations, true).findings.iter().map(Finding::to_string).collect::<Vec<_>>().join("\n");
    assert!(text.contains("whether the kernel carries \"CN=Build time autogenerated kernel key\""), "{text}");
}

#[test]
fn a_kernel_without_a_signature_on_its_own_modules_says_how_many_were_looked_at() {
    let mut small = Small::new();
    for module in
        &base().inventory.modules.by_name.values().filter(|m| m.relative.contains("/nls/")).collect::<Vec<_>>()
    {
        let plain = unsigned(&unpacked(&roots::base().join(module.path.as_path())));
        fs::remove_file(small.modules().join(&module.relative)).ok();
        small.dep = small.dep.replace(&format!("{}:\n", module.relative), "");
        small.write(module.relative.trim_end_matches(".xz"), &plain);
    }
    let findings = small.findings();
    let [Finding::Unsigned { modules, sample: Some(Sample { looked_at: 8, of }), .. }] = findings.as_slice() else {
        panic!("{findings:#?}");
    };
    assert!(
        !modules.is_empty()
            && modules.iter().all(|name| name.as_str().starts_with("nls_") || name.as_str().starts_with("mac_")),
        "{modules:?}"
    );
    let text = findings[0].to_string();
    assert!(
        text.ends_with(&format!(
            "; of the kernel's own {of} kept modules 8 were looked at (plan --check-signatures looks at all)"
        )),
        "{text}"
    );
}

#[test]
fn modules_of_another_kernel_are_named() {
    let mut small = Small::new();
    let release = base().inventory.kernel.release.as_str();
    let mut bytes = module("dummy");
    let magic = format!("vermagic={release} ");
    let at = memchr::memmem::find(&bytes, magic.as_bytes()).unwrap();
    bytes[at + 9] = b'5';
    small.write("extra/dummy.ko", &bytes);
    let other = release.replacen('6', "5", 1);
    let findings = small.findings();
    let [Finding::OtherKernel { modules, modversions: true }] = findings.as_slice() else { panic!("{findings:#?}") };
    assert_eq!(modules[0].0, name("dummy"));
    assert!(modules[0].1.starts_with(&other), "{modules:?}");
    small.set("MODVERSIONS", "n");
    let text = small.findings()[0].to_string();
    assert!(
        text.contains(&other)
            && text.ends_with("this kernel does not load them; build them for it, or drop them (--drop)"),
        "{text}"
    );
}

#[test]
fn signatures_that_the_kernel_refuses_are_named() {
    let mut small = Small::new();
    let mut bytes = module("dummy");
    let kind = bytes.len() - 28 - 10;
    assert_eq!(bytes[kind], 2);
    bytes[kind] = 1;
    small.write("extra/dummy.ko", &bytes);
    let findings = small.findings();
    let [finding @ Finding::DamagedSignature { .. }] = findings.as_slice() else { panic!("{findings:#?}") };
    assert_eq!(
        finding.to_string(),
        "damaged signatures of modules (dummy: it is of kind 1; the kernel takes PKCS#7 (2) only): the kernel refuses them; reinstall their packages"
    );
    // A file that ends before its signature.
    let mut small = Small::new();
    let xz = fs::read(roots::base().join(base().inventory.modules.by_name[&name("dummy")].path.as_path())).unwrap();
    small.write("extra/dummy.ko.xz", &xz[..xz.len() - 100]);
    let findings = small.findings();
    assert!(
        matches!(findings.as_slice(), [Finding::DamagedSignature { modules }] if modules.len() == 1),
        "{findings:#?}"
    );
}

#[test]
fn settings_that_keep_a_uki_from_starting_are_errors_of_the_run_and_warnings_of_the_plan() {
    let mut small = Small::new();
    small.set("RD_ZSTD", "n");
    let findings = small.findings();
    let [finding @ Finding::CannotBoot { symbol: "RD_ZSTD", .. }] = findings.as_slice() else {
        panic!("{findings:#?}")
    };
    assert!(finding.keeps_from_booting());
    let root = small.directory.path().to_str().unwrap();
    let run = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_kairos-init")).args(arguments).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, text) = run(&["plan", "--quiet", "--root", root]);
    assert_eq!(code, Some(0));
    assert!(text.contains(&format!("warning: {finding}\n")), "{text}");
    let out = small.path("out");
    let whole = ["--root", root, "--stage", "build", "--target", "uki", "--unsigned", "--quiet", "--output"];
    let (code, text) = run(&[&whole[..], &[out.to_str().unwrap()]].concat());
    assert_eq!(code, Some(1));
    let release = &base().inventory.kernel.release;
    assert!(text.contains(&format!("kernel {release} would not start from a UKI: the kernel is built without CONFIG_RD_ZSTD, which unpacking the initrd needs: it is compressed with zstd: install a kernel that has it, or choose one with --kernel")), "{text}");
    assert!(!out.exists(), "nothing was begun");
    let mut small = Small::new();
    for symbol in ["BLK_DEV_INITRD", "EFI", "EFI_STUB"] {
        small.set(symbol, "n");
    }
    assert_eq!(small.findings().iter().filter(|finding| finding.keeps_from_booting()).count(), 3);
}

#[test]
fn check_signatures_is_a_flag_of_plan() {
    let mut small = Small::new();
    small.write("updates/dkms/dummy.ko", &unsigned(&module("dummy")));
    small.flush();
    let arguments = ["plan", "--quiet", "--check-signatures", "--root"];
    let output = Command::new(env!("CARGO_BIN_EXE_kairos-init")).args(arguments).arg(small.directory.path()).output();
    let text = String::from_utf8(output.unwrap().stderr).unwrap();
    assert!(text.contains("warning: modules without a signature: dummy: "), "{text}");
}

#[test]
fn firmware_in_a_form_that_the_kernel_cannot_read_is_named() {
    let mut small = Small::new();
    fs::create_dir_all(small.path("usr/lib/firmware/dvb")).unwrap();
    for file in ["a.bin.xz", "b.bin.zst", "c.bin"] {
        fs::write(small.path("usr/lib/firmware/dvb").join(file), "x").unwrap();
    }
    // Firmware that nobody declares is kept on the command line.
    let forms = |small: &Small| {
        let chosen = small.chosen();
        let keep = kairos_init::drivers::select::Pattern::new("dvb/*").unwrap();
        let options = SelectOptions { keep: vec![keep], ..SelectOptions::default() };
        let selection =
            select(&chosen.inventory, &Declarations::new(), &chosen.target, &Wishes::default(), &options).unwrap();
        let chosen = Chosen { selection, ..chosen };
        let findings = chosen.check(&chosen.declarations, false).findings;
        let files = |finding: &Finding| match finding {
            Finding::FirmwareCompression { form, files } => {
                Some((*form, files.iter().map(TreePath::to_string).collect::<Vec<_>>(), finding.to_string()))
            }
            _ => None,
        };
        findings.iter().filter_map(files).collect::<Vec<_>>()
    };
    assert_eq!(forms(&small), []);
    small.set("FW_LOADER_COMPRESS_ZSTD", "n");
    assert_eq!(
        forms(&small),
        [(
            Compression::Zstd,
            vec!["/usr/lib/firmware/dvb/b.bin.zst".to_owned()],
            "the kernel is built without CONFIG_FW_LOADER_COMPRESS_ZSTD and cannot load 1 kept firmware files (/usr/lib/firmware/dvb/b.bin.zst): their drivers will find none; decompress the files, or install a kernel that has it".to_owned()
        )]
    );
    small.set("FW_LOADER_COMPRESS_XZ", "n");
    assert_eq!(forms(&small).len(), 2);
    // Before 5.19: one setting, and it means xz.
    small.config = small.config.replace("# CONFIG_FW_LOADER_COMPRESS_XZ is not set\n", "");
    small.config = small.config.replace("# CONFIG_FW_LOADER_COMPRESS_ZSTD is not set\n", "");
    assert_eq!(forms(&small).iter().map(|(form, ..)| *form).collect::<Vec<_>>(), [Compression::Zstd]);
    small.set("FW_LOADER_COMPRESS", "n");
    assert_eq!(forms(&small).len(), 2);
}

#[test]
fn modules_in_a_form_that_neither_kernel_nor_kmod_reads_are_named() {
    let forms = |small: &Small| {
        let found = small.findings();
        found
            .iter()
            .filter_map(|finding| match finding {
                Finding::ModuleCompression { form, kmod, modules } => Some((*form, *kmod, modules.len())),
                _ => None,
            })
            .collect::<Vec<_>>()
    };
    let mut small = Small::new();
    assert_eq!(forms(&small), [], "this kernel decompresses .xz itself");
    small.set("MODULE_DECOMPRESS", "n");
    let count = small.dep.lines().count();
    assert_eq!(forms(&small), [(Compression::Xz, KmodSupport::Unknown, count)]);
    let kmod = small.path("usr/bin/kmod");
    fs::copy(roots::base().join("usr/bin/kmod"), &kmod).unwrap();
    assert_eq!(forms(&small), [], "Debian's kmod does");
    let other = String::from_utf8_lossy(&fs::read(&kmod).unwrap()).replace("+XZ", "-XZ");
    fs::write(&kmod, other).unwrap();
    assert_eq!(forms(&small), [(Compression::Xz, KmodSupport::No, count)]);
    small.set("MODULES", "n");
    assert!(small.findings().contains(&Finding::NoModules { kept: count }));
}

#[test]
fn what_kairos_needs_and_the_kernel_lacks_is_named_with_its_setting() {
    let mut small = Small::new();
    let gone = |small: &mut Small, file: &str| {
        fs::remove_file(small.modules().join(file)).unwrap();
        small.dep = small.dep.replace(&format!("{file}:\n"), "");
    };
    gone(&mut small, "kernel/fs/efivarfs/efivarfs.ko.xz");
    gone(&mut small, "kernel/fs/squashfs/squashfs.ko.xz");
    // vfat of this kernel asks for ascii: the other is not needed.
    gone(&mut small, "kernel/fs/nls/nls_iso8859-1.ko.xz");
    small.set("EFIVAR_FS", "n");
    let findings = small.findings();
    let found: Vec<_> = findings
        .iter()
        .map(|finding| match finding {
            Finding::Required { module, symbol, absence, .. } => (module.as_str(), *symbol, *absence),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(
        found,
        [("efivarfs", Some("EFIVAR_FS"), Absence::NotSet), ("squashfs", Some("SQUASHFS"), Absence::NoFile)]
    );
    let text = findings[0].to_string();
    assert!(text.starts_with("Kairos needs efivarfs (CONFIG_EFIVAR_FS), and this kernel is built without it: install another kernel; immucore"), "{text}");
    assert!(text.contains("the machine halts"), "{text}");
    small.set("FAT_DEFAULT_IOCHARSET", "\"iso8859-1\"");
    assert_eq!(small.findings().len(), 3);
}

#[test]
fn a_kernel_without_a_built_in_tpm_driver_is_told_more_strongly() {
    let mut small = Small::new();
    for symbol in ["TCG_TIS", "TCG_CRB"] {
        small.set(symbol, "m");
    }
    let builtin = fs::read_to_string(small.modules().join("modules.builtin")).unwrap();
    let builtin = builtin.lines().filter(|line| !line.ends_with("/tpm_tis.ko") && !line.ends_with("/tpm_crb.ko"));
    fs::write(small.modules().join("modules.builtin"), builtin.map(|line| format!("{line}\n")).collect::<String>())
        .unwrap();
    let findings = small.check().findings;
    let late = findings.iter().find(|finding| matches!(finding, Finding::LateTpm { .. })).unwrap();
    assert_eq!(late.severity(), Severity::Error);
    assert!(
        late.to_string().starts_with("no TPM driver is built into this kernel, and its modules (tpm_tis_spi) are"),
        "{late}"
    );
    // Of the usual kinds one is enough.
    let missing: Vec<_> = findings.iter().filter(|finding| matches!(finding, Finding::MissingTpm { .. })).collect();
    assert_eq!(missing.len(), 2, "{findings:#?}");
    small.set("TCG_CRB", "y");
    small.set("TCG_TIS", "n");
    let text = small.check().findings.iter().map(Finding::to_string).collect::<Vec<_>>().join("\n");
    assert!(text.contains("a machine whose TPM needs tpm_tis (CONFIG_TCG_TIS) will not unlock: it is neither built into this kernel nor a module in the root; there are tpm_crb, tpm_tis_spi"), "{text}");
    small.set("TCG_CRB", "n");
    small.dep = small.dep.replace("kernel/drivers/char/tpm/tpm_tis_spi.ko.xz:\n", "");
    fs::remove_file(small.modules().join("kernel/drivers/char/tpm/tpm_tis_spi.ko.xz")).unwrap();
    assert!(small.check().findings.contains(&Finding::NoTpm));
}

#[test]
fn a_configuration_that_is_not_there_or_damaged_is_said_once() {
    let small = Small::new();
    small.flush();
    let check = |small: &Small| {
        let chosen = Chosen::new(small.directory.path(), "all");
        let findings = chosen.check(&chosen.declarations, false).findings;
        findings.into_iter().filter(|finding| !matches!(finding, Finding::LateTpm { .. })).collect::<Vec<_>>()
    };
    fs::remove_file(small.config_path()).unwrap();
    let findings = check(&small);
    let [Finding::NoConfig { looked_at }] = findings.as_slice() else { panic!("{findings:#?}") };
    assert_eq!(looked_at.len(), 4);
    assert!(findings[0].to_string().starts_with("the kernel's configuration is not in the root (/boot/config-"));
    // Fedora's place.
    fs::write(small.modules().join("config"), &small.config).unwrap();
    assert_eq!(check(&small), []);
    fs::write(small.config_path(), "CONFIG_A=y\n\u{1b}[31m\n").unwrap();
    let text = check(&small)[0].to_string();
    assert!(text.contains("cannot be read (line 2: \"\\u{1b}[31m\" is no setting of a kernel)"), "{text}");
    // A directory, a loop, a link to nothing: as if nothing were there.
    fs::remove_file(small.config_path()).unwrap();
    std::os::unix::fs::symlink("config-loop", small.config_path()).unwrap();
    assert_eq!(check(&small), []);
}

/// Bytes changed at random places.
fn flipped(bytes: &[u8], flips: &[(prop::sample::Index, u8)]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for (at, value) in flips {
        let at = at.index(bytes.len());
        bytes[at] ^= value;
    }
    bytes
}

fn flips() -> impl Strategy<Value = Vec<(prop::sample::Index, u8)>> {
    prop::collection::vec((any::<prop::sample::Index>(), 1..=255u8), 0..6)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn damaged_module_ends_do_no_harm(flips in flips(), cut in 0..700usize) {
        static END: OnceLock<Vec<u8>> = OnceLock::new();
        let end = END.get_or_init(|| {
            let module = module("dummy");
            let signed = Stranger::new(&["rsa:2048"]).sign(&unsigned(&module), &[]);
            signed[signed.len() - 600..].to_vec()
        });
        let end = flipped(end, &flips);
        for bytes in [&end[..], &end[cut.min(end.len())..], &end[..end.len() - cut.min(end.len())]] {
            if let Signature::Signed { keys, .. } = Signature::of_end(bytes) {
                for key in keys {
                    prop_assert!(!key.to_string().contains(|c: char| c.is_control()));
                }
            }
        }
    }

    #[test]
    fn damaged_kernels_do_no_harm(flips in flips(), cut in any::<prop::sample::Index>()) {
        static IMAGE: OnceLock<Vec<u8>> = OnceLock::new();
        let image = IMAGE.get_or_init(|| {
            // The setup part and the header of the real one, around a small kernel.
            let certificate = Stranger::new(&["rsa:2048"]).certificate();
            let kernel = [b"\x7fELF", &[0x30; 5000][..], &certificate, &[7; 100]].concat();
            let payload = zstd::encode_all(kernel.as_slice(), 3).unwrap();
            let mut image = vec![0; 1024];
            image[0x1f1] = 1;
            image[0x202..0x206].copy_from_slice(b"HdrS");
            image[0x24c..0x250].copy_from_slice(&u32::try_from(payload.len()).unwrap().to_le_bytes());
            image.extend_from_slice(&payload);
            assert!(certificates_of(&image).is_ok());
            image
        });
        let image = flipped(image, &flips);
        let _ = certificates_of(&image);
        let _ = certificates_of(&image[..cut.index(image.len())]);
        let plain = flipped(&image, &flips);
        let _ = Certificates::scan(&mut plain.as_slice());
    }

    #[test]
    fn damaged_configurations_do_no_harm(flips in flips(), text in any::<String>()) {
        let _ = KernelConfig::parse(&text);
        let good = b"CONFIG_A=y\n# CONFIG_B is not set\nCONFIG_C=\"x\\\"\"\nCONFIG_D=0x10\n";
        let _ = KernelConfig::parse(&String::from_utf8_lossy(&flipped(good, &flips)));
    }
}

/// The real image, which takes longer: cut and changed at fixed places.
#[test]
fn a_damaged_real_kernel_does_no_harm() {
    let kernel = roots::kernel();
    for at in [0x1f1, 0x202, 0x206, 0x248, 0x24c, 0x4000, kernel.len() / 2, kernel.len() - 100] {
        let mut bytes = kernel.clone();
        bytes[at] ^= 0x55;
        let _ = certificates_of(&bytes);
        let _ = image::open(&bytes[..at]);
    }
    assert!(certificates_of(&kernel[..kernel.len() / 2]).is_err());
}

#[test]
fn the_end_of_a_module_is_the_same_in_every_form() {
    let plain = module("dummy");
    let folder = tempfile::tempdir().unwrap();
    let root = Sysroot::open(folder.path()).unwrap();
    let file = folder.path().join("dummy.ko");
    fs::write(&file, &plain).unwrap();
    for (program, suffix) in [("xz", ".xz"), ("gzip", ".gz"), ("zstd", ".zst")] {
        assert!(Command::new(program).args(["-qk"]).arg(&file).status().unwrap().success());
        for length in [10, MODULE_END, plain.len(), plain.len() + 1] {
            for suffix in ["", suffix] {
                let relative = format!("dummy.ko{suffix}");
                let module = Module {
                    name: name("dummy"),
                    path: TreePath::new(&relative).unwrap(),
                    bytes: 0,
                    compression: Compression::of(relative.as_bytes()).0,
                    relative,
                };
                let end = inventory::module_end(&root, &module, length).unwrap();
                assert!(end == plain[plain.len().saturating_sub(length)..], "{suffix} {length}");
            }
        }
    }
}
