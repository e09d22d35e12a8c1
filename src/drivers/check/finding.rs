//! [`Finding`]: what a check has to say, as values and in words.

use std::fmt;

use crate::drivers::inventory::Compression;
use crate::names::{ModuleName, TreePath};

use super::signature::KeyId;

/// Names that a text holds; the value has them all.
const SHOWN: usize = 5;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Something will not work.
    Error,
    /// Something may not work, or could not be looked at.
    Warning,
}

/// When the kernel refuses modules without a signature that it trusts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Enforcement {
    /// At every boot (`MODULE_SIG_FORCE`, or a lockdown that is built in).
    Always,
    /// Where Secure Boot is on, as it is under Trusted Boot.
    SecureBoot,
    /// Where the command line asks for it (`module.sig_enforce`, `lockdown=`).
    Asked,
    /// Never: the kernel does not look at signatures.
    Never,
    /// There is no configuration that would tell.
    Unknown,
}

impl fmt::Display for Enforcement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Always => "this kernel never loads such modules",
            Self::SecureBoot => "this kernel does not load such modules under Secure Boot",
            Self::Asked => {
                "this kernel refuses such modules where module.sig_enforce or lockdown= is on its command line"
            }
            Self::Never => "this kernel loads such modules",
            Self::Unknown => "under Secure Boot most kernels do not load such modules",
        })
    }
}

/// Whether a certificate in the firmware's db makes the kernel trust a module.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum DbKeys {
    /// The kernel reads db; whether it does for modules is a patch of the distribution's (Debian, Fedora, SUSE).
    Maybe,
    /// The kernel does not read db.
    No,
    /// There is no configuration that would tell.
    Unknown,
}

impl fmt::Display for DbKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Maybe => {
                "kernels of Debian, Fedora and SUSE trust keys whose certificate is enrolled in db, others do not: enrol it, sign the modules with a key of the kernel's, or drop them (--drop)"
            }
            Self::No => {
                "this kernel does not read db, so enrolling the certificate does not help: sign the modules with a key of the kernel's, or drop them (--drop)"
            }
            Self::Unknown => {
                "sign the modules with a key of the kernel's, enrol the certificate in db if this kernel trusts db for modules, or drop them (--drop)"
            }
        })
    }
}

/// How many of the kernel's own modules were looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Sample {
    /// Looked at.
    pub looked_at: usize,
    /// There are.
    pub of: usize,
}

/// What the root's kmod says of a compression.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum KmodSupport {
    /// It was built without.
    No,
    /// It does not tell, or there is no kmod (busybox has no list).
    Unknown,
}

/// Why a module that Kairos needs cannot be loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Absence {
    /// The kernel was built without.
    NotSet,
    /// It is a module of this kernel, but its file is not in the root.
    NoFile,
    /// The configuration does not say.
    Unknown,
}

/// One thing that a check found.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Finding {
    /// The kernel's configuration is not in the root.
    NoConfig {
        /// Where it was looked for.
        looked_at: Vec<TreePath>,
    },
    /// The kernel's configuration cannot be understood.
    DamagedConfig {
        /// The file.
        path: TreePath,
        /// Why.
        problem: String,
    },
    /// The kernel cannot start from a UKI with such an initrd.
    CannotBoot {
        /// The setting that is missing, without `CONFIG_`.
        symbol: &'static str,
        /// What it is for.
        needed_for: &'static str,
    },
    /// The kernel loads no modules at all.
    NoModules {
        /// Kept modules.
        kept: usize,
    },
    /// What Kairos cannot do without is neither built in nor there.
    Required {
        /// The module's name.
        module: ModuleName,
        /// Its setting, where it is known.
        symbol: Option<&'static str>,
        /// Why it cannot be loaded.
        absence: Absence,
        /// Why it is needed.
        evidence: String,
    },
    /// No TPM driver at all.
    NoTpm,
    /// TPM drivers that are modules.
    LateTpm {
        /// Those that are kept.
        modules: Vec<ModuleName>,
        /// Those that are built in.
        builtin: Vec<ModuleName>,
    },
    /// Firmware files that the kernel cannot decompress.
    FirmwareCompression {
        /// Their form.
        form: Compression,
        /// The files.
        files: Vec<TreePath>,
    },
    /// Modules that neither the kernel nor, for all that is known, kmod can decompress.
    ModuleCompression {
        /// Their form.
        form: Compression,
        /// What kmod says.
        kmod: KmodSupport,
        /// Which.
        modules: Vec<ModuleName>,
    },
    /// Modules that were built for another kernel.
    OtherKernel {
        /// Name and `vermagic`.
        modules: Vec<(ModuleName, String)>,
        /// The kernel compares symbol versions instead of its release (`MODVERSIONS`), so some of them may load.
        modversions: bool,
    },
    /// Modules whose signature the kernel refuses for its form.
    DamagedSignature {
        /// Name and problem.
        modules: Vec<(ModuleName, String)>,
    },
    /// Modules without a signature.
    Unsigned {
        /// Which.
        modules: Vec<ModuleName>,
        /// Whether that matters.
        enforcement: Enforcement,
        /// Not all of the kernel's own modules were looked at, and some of these are such.
        sample: Option<Sample>,
    },
    /// Modules signed by a key that the kernel does not carry.
    ForeignKey {
        /// The key.
        key: KeyId,
        /// Which modules.
        modules: Vec<ModuleName>,
        /// Whether that matters.
        enforcement: Enforcement,
        /// Whether db helps.
        db: DbKeys,
        /// Not all of the kernel's own modules were looked at, and some of these are such.
        sample: Option<Sample>,
    },
    /// Modules whose key could not be looked for, since the kernel's certificates cannot be read.
    NotJudged {
        /// The keys: that of the kernel's own modules where there is no other.
        keys: Vec<KeyId>,
        /// The modules; none where it is all of the kernel's own.
        modules: Vec<ModuleName>,
        /// Why.
        problem: String,
    },
    /// The kernel looks at no signature.
    SignaturesNotChecked,
}

impl Finding {
    /// How bad it is.
    #[must_use]
    pub fn severity(&self) -> Severity {
        match self {
            Self::CannotBoot { .. }
            | Self::NoModules { .. }
            | Self::Required { .. }
            | Self::NoTpm
            | Self::FirmwareCompression { .. }
            | Self::ModuleCompression { kmod: KmodSupport::No, .. }
            | Self::OtherKernel { modversions: false, .. }
            | Self::DamagedSignature { .. } => Severity::Error,
            Self::LateTpm { builtin, .. } if builtin.is_empty() => Severity::Error,
            Self::Unsigned { enforcement, .. } | Self::ForeignKey { enforcement, .. } => match enforcement {
                Enforcement::Always | Enforcement::SecureBoot => Severity::Error,
                Enforcement::Asked | Enforcement::Never | Enforcement::Unknown => Severity::Warning,
            },
            _ => Severity::Warning,
        }
    }

    /// Whether a UKI of this kernel cannot start, on any machine.
    #[must_use]
    pub fn keeps_from_booting(&self) -> bool {
        matches!(self, Self::CannotBoot { .. })
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoConfig { looked_at } => write!(
                f,
                "the kernel's configuration is not in the root ({}): whether this kernel can unpack the initrd and the compressed firmware, and what it does with unsigned modules, was not checked; install the file with the kernel's package",
                First(looked_at)
            ),
            Self::DamagedConfig { path, problem } => write!(
                f,
                "the kernel's configuration {path} cannot be read ({problem}): what it says of the initrd, firmware and signatures was not checked; reinstall the kernel's package"
            ),
            Self::CannotBoot { symbol, needed_for } => write!(
                f,
                "the kernel is built without CONFIG_{symbol}, which {needed_for}: install a kernel that has it, or choose one with --kernel"
            ),
            Self::NoModules { kept } => write!(
                f,
                "the kernel is built without CONFIG_MODULES: it loads none of the {kept} kept modules; install the kernel that they belong to"
            ),
            Self::Required { module, symbol, absence, evidence } => {
                let setting = symbol.map(|symbol| format!(" (CONFIG_{symbol})")).unwrap_or_default();
                let what = match absence {
                    Absence::NotSet => "this kernel is built without it: install another kernel",
                    Absence::NoFile => {
                        "it is a module of this kernel, but its file is not in the root: install all of the kernel's module packages"
                    }
                    Absence::Unknown => "it is neither built in nor a module: install another kernel, or all of its module packages",
                };
                write!(f, "Kairos needs {module}{setting}, and {what}; {}", evidence.trim_end_matches('.'))
            }
            Self::NoTpm => f.write_str(
                "no TPM driver is built in or kept: immucore cannot extend PCR 11, and encrypted partitions do not unlock; install a kernel with CONFIG_TCG_TIS and CONFIG_TCG_CRB",
            ),
            Self::LateTpm { modules, builtin } if builtin.is_empty() => write!(
                f,
                "no TPM driver is built into this kernel, and its modules ({}) are loaded only after immucore has extended PCR 11: no machine will unlock under Trusted Boot; install a kernel with CONFIG_TCG_TIS=y and CONFIG_TCG_CRB=y",
                First(modules)
            ),
            Self::LateTpm { modules, builtin } => write!(
                f,
                "a machine whose TPM needs {} will not unlock under Trusted Boot: {} loaded only after immucore has extended PCR 11; built in are {}",
                First(modules),
                if modules.len() == 1 { "this driver is a module," } else { "these drivers are modules," },
                First(builtin)
            ),
            Self::FirmwareCompression { form, files } => write!(
                f,
                "the kernel is built without CONFIG_{} and cannot load {} kept firmware files ({}): their drivers will find none; decompress the files, or install a kernel that has it",
                firmware_symbol(*form),
                files.len(),
                First(files)
            ),
            Self::ModuleCompression { form, kmod, modules } => {
                let what = match kmod {
                    KmodSupport::No => "and the root's kmod is built without, too: they cannot be loaded; decompress them, or install another kmod",
                    KmodSupport::Unknown => {
                        "and whether the root's modprobe can is not known: where it cannot, they are not loaded; decompress them, or install a kmod that says so (kmod --version)"
                    }
                };
                let (form, count) = (form_name(*form), modules.len());
                write!(f, "the kernel does not decompress {form} modules itself ({count} kept: {}), {what}", First(modules))
            }
            Self::OtherKernel { modules, modversions } => {
                let shown: Vec<String> = modules
                    .iter()
                    .map(|(name, magic)| format!("{name} for {:?}", magic.chars().take(64).collect::<String>()))
                    .collect();
                let what = match modversions {
                    true => "they load only where every symbol's version is the same; build them for this kernel to be sure",
                    false => "this kernel does not load them; build them for it, or drop them (--drop)",
                };
                write!(f, "modules that were built for another kernel: {}: {what}", First(&shown))
            }
            Self::DamagedSignature { modules } => {
                let shown: Vec<String> =
                    modules.iter().map(|(name, problem)| format!("{name}: {problem}")).collect();
                write!(f, "damaged signatures of modules ({}): the kernel refuses them; reinstall their packages", First(&shown))
            }
            Self::Unsigned { modules, enforcement, sample } => write!(
                f,
                "modules without a signature: {}: {enforcement}; sign them with a key that it trusts, or drop them (--drop){}",
                First(modules),
                SampleNote(*sample)
            ),
            Self::ForeignKey { key, modules, enforcement, db, sample } => write!(
                f,
                "modules signed by {key}, which the kernel does not carry: {}: {enforcement}; {db}{}",
                First(modules),
                SampleNote(*sample)
            ),
            Self::NotJudged { keys, modules, problem } if modules.is_empty() => write!(
                f,
                "whether the kernel carries {}, which signed its own modules, could not be judged, since its certificates cannot be read: {problem}",
                First(keys)
            ),
            Self::NotJudged { keys, modules, problem } => write!(
                f,
                "modules signed by {} ({}) could not be judged, since the kernel's own certificates cannot be read: {problem}; they load under Secure Boot only if the kernel carries that key",
                First(keys),
                First(modules)
            ),
            Self::SignaturesNotChecked => f.write_str(
                "the kernel is built without CONFIG_MODULE_SIG: it loads any module, Secure Boot or not; install a kernel that checks signatures",
            ),
        }
    }
}

/// The setting by which the kernel reads firmware of a form.
pub(super) fn firmware_symbol(form: Compression) -> &'static str {
    match form {
        Compression::Zstd => "FW_LOADER_COMPRESS_ZSTD",
        Compression::Xz | Compression::Gzip => "FW_LOADER_COMPRESS_XZ",
        Compression::None => "FW_LOADER",
    }
}

pub(super) fn form_name(form: Compression) -> &'static str {
    match form {
        Compression::None => "plain",
        Compression::Gzip => ".gz",
        Compression::Xz => ".xz",
        Compression::Zstd => ".zst",
    }
}

/// `a, b and 3 more`.
struct First<'a, T>(&'a [T]);

impl<T: fmt::Display> fmt::Display for First<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, item) in self.0.iter().take(SHOWN).enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            write!(f, "{comma}{item}")?;
        }
        match self.0.len().saturating_sub(SHOWN) {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

struct SampleNote(Option<Sample>);

impl fmt::Display for SampleNote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            None => Ok(()),
            Some(Sample { looked_at, of }) => write!(
                f,
                "; of the kernel's own {of} kept modules {looked_at} were looked at (plan --check-signatures looks at all)"
            ),
        }
    }
}
