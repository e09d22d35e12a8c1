//! What the kernel's own settings, and the signatures of the modules, say of a selection.
//!
//! The other rooms see to it that everything a target needs is kept; this one asks whether the kernel will take it: initrd
//! and firmware in a form that it can unpack, modules that it will load under Secure Boot, a TPM driver that comes in time.
//! It changes nothing and decides nothing: [`check`] returns [`Finding`]s. The files are [`config`] and [`kernel`](self) for
//! the settings, [`signature`], [`image`] and [`certificates`] for the signatures.
//!
//! Left out: whether a signature fits its module's bytes (a module that was changed after it was signed).

pub mod certificates;
pub mod config;
mod finding;
pub mod image;
mod kernel;
mod kmod;
mod modules;
pub mod signature;
mod words;

use crate::drivers::inventory::{Declarations, Inventory, InventoryError};
use crate::drivers::select::Selection;
use crate::drivers::target::Target;
use crate::root::sysroot::Sysroot;

pub use finding::{Absence, DbKeys, Enforcement, Finding, KmodSupport, Sample, Severity};
pub use modules::{Signatures, certificates_of};

use config::Loaded;
use kmod::Kmod;
use modules::Judge;

/// What is checked.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// The root.
    pub root: &'a Sysroot,
    /// What it has.
    pub inventory: &'a Inventory,
    /// What of that stays.
    pub selection: &'a Selection,
    /// What Kairos requires stands in its rules.
    pub target: &'a Target,
    /// What its modules say of themselves; of what is missing here, a module that took the place of one of the kernel's own is
    /// seen only where every signature is looked at.
    pub declarations: &'a Declarations,
    /// Looks at every kept module and into the kernel image, which takes seconds.
    pub every_signature: bool,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checked {
    /// Errors first, in the order of [`Finding`].
    pub findings: Vec<Finding>,
    /// The kernel's settings, or why there are none.
    pub config: Loaded,
    /// How many signatures were looked at, and whose they are.
    pub signatures: Signatures,
}

/// Holds a selection against its kernel.
///
/// # Errors
/// A module that cannot be read.
pub fn check(request: &Request<'_>) -> Result<Checked, InventoryError> {
    let Request { root, inventory, selection, target, declarations, every_signature } = *request;
    let loaded = config::load(root, &inventory.kernel)?;
    let config = loaded.config();
    let mut findings = Vec::new();
    match &loaded {
        Loaded::Found { config, .. } => {
            findings.extend(kernel::boot(config));
            findings.extend(kernel::modules(config, selection));
            let kmod = std::cell::OnceCell::new();
            let lacks = |form| kmod.get_or_init(|| Kmod::of(root)).lacks(form);
            findings.extend(kernel::module_compression(config, inventory, selection, lacks));
            findings.extend(kernel::firmware_compression(config, selection));
            findings.extend(kernel::required(config, inventory, &target.rules));
        }
        Loaded::Damaged { path, problem } => {
            findings.push(Finding::DamagedConfig { path: path.clone(), problem: problem.clone() });
        }
        Loaded::Missing(looked_at) => findings.push(Finding::NoConfig { looked_at: looked_at.clone() }),
    }
    findings.extend(kernel::tpm(config, inventory, selection));
    let judge = Judge {
        root,
        kernel: &inventory.kernel,
        modules: &inventory.modules,
        selection,
        declarations,
        every_signature,
        enforcement: kernel::enforcement(config),
        db: kernel::db_keys(config),
        modversions: config.is_none_or(|config| config.is_yes("MODVERSIONS")),
    };
    let (signed, signatures) = judge.judge();
    findings.extend(signed);
    findings.sort_by(|a, b| (a.severity(), a).cmp(&(b.severity(), b)));
    Ok(Checked { findings, config: loaded, signatures })
}
