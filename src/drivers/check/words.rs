//! Findings in words, one line each, as `plan` and `report.json` show them: what, where, why, what to do.

use std::fmt;

use crate::drivers::inventory::Compression;

use super::finding::{Absence, DbKeys, Enforcement, Finding, KmodSupport, Sample};

/// Names that a text holds; the value has them all.
const SHOWN: usize = 5;

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
            Self::MissingTpm { driver: (module, symbol), others } => write!(
                f,
                "a machine whose TPM needs {module} will not unlock: this kernel is built without it (CONFIG_{symbol}); it has {}",
                First(others)
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
                let release = |magic: &str| magic.split(' ').next().unwrap_or_default().chars().take(64).collect::<String>();
                let shown: Vec<String> =
                    modules.iter().map(|(name, magic)| format!("{name} for {:?}", release(magic))).collect();
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
fn firmware_symbol(form: Compression) -> &'static str {
    match form {
        Compression::Zstd => "FW_LOADER_COMPRESS_ZSTD",
        Compression::Xz | Compression::Gzip => "FW_LOADER_COMPRESS_XZ",
        Compression::None => "FW_LOADER",
    }
}

fn form_name(form: Compression) -> &'static str {
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
