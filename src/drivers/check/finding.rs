//! [`Finding`]: what a check has to say, as values. In words: `words`.

use crate::drivers::inventory::Compression;
use crate::names::{ModuleName, TreePath};

use super::signature::KeyId;

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
    /// A usual kind of TPM has no driver at all in this kernel; another has.
    MissingTpm {
        /// Its driver and setting.
        driver: (ModuleName, &'static str),
        /// Drivers that are built in or kept.
        others: Vec<ModuleName>,
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
