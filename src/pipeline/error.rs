//! Why a run failed: the errors of all rooms, and what only the whole run can see.

use std::path::PathBuf;

use crate::boot::build::BuildError;
use crate::boot::sign::SignError;
use crate::boot::uki::UkiError;
use crate::cancel::Cancelled;
use crate::drivers::depmod::DepmodError;
use crate::drivers::inventory::InventoryError;
use crate::drivers::select::SelectError;
use crate::drivers::slim::SlimError;
use crate::drivers::target::TargetError;
use crate::drivers::target::glob::GlobError;
use crate::image::ImageError;
use crate::image::budget::BudgetError;
use crate::image::esp::EspError;
use crate::names::{KernelRelease, NameError, TreePath};
use crate::root::initrd::InitrdError;
use crate::root::packages::PackagesError;
use crate::root::scan::ScanError;
use crate::root::sysroot::SysrootError;

/// The run failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PipelineError {
    /// Reading the root.
    #[error(transparent)]
    Root(#[from] SysrootError),
    /// Reading the root's kernels, modules or firmware.
    #[error(transparent)]
    Inventory(#[from] InventoryError),
    /// The hardware target.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// Choosing drivers.
    #[error(transparent)]
    Select(#[from] SelectError),
    /// Writing indexes.
    #[error(transparent)]
    Depmod(#[from] DepmodError),
    /// Slimming in place.
    #[error(transparent)]
    Slim(#[from] SlimError),
    /// Listing the root.
    #[error(transparent)]
    Scan(#[from] ScanError),
    /// Keys and signatures.
    #[error(transparent)]
    Sign(#[from] SignError),
    /// Making the UKI.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// Writing the output folder.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The tree of the EFI system partition.
    #[error(transparent)]
    Esp(#[from] EspError),
    /// What the image may take.
    #[error(transparent)]
    Budget(#[from] BudgetError),
    /// The list of packages.
    #[error(transparent)]
    Packages(#[from] PackagesError),
    /// A folder that cannot be laid over the root.
    #[error(
        "{folder} cannot be laid over the root: {path} is a folder in one and none in the other; where the root has a link \
         (/lib to usr/lib), name what it points to"
    )]
    Overlay {
        /// The folder.
        folder: PathBuf,
        /// In both.
        path: TreePath,
    },
    /// A folder without captures.
    #[error(
        "{path} holds no file that ends in .capture, .lspci or .lsusb: name the files, or capture a machine with 'hardware capture'"
    )]
    NoCaptures {
        /// The folder.
        path: PathBuf,
    },
    /// A target that the kernel was not built for.
    #[error(
        "{target} is for {wanted}, and the kernel {release} of the root for {found}; 'hardware list' has the targets"
    )]
    TargetArchitecture {
        /// The target.
        target: String,
        /// What it is for.
        wanted: String,
        /// The kernel.
        release: KernelRelease,
        /// What that is for.
        found: String,
    },
    /// A machine that the kernel was not built for.
    #[error(
        "{machine} was captured on {found}, and the kernel {release} of the root is for {kernel}: it cannot run there"
    )]
    OtherArchitecture {
        /// The machine.
        machine: String,
        /// Its architecture.
        found: String,
        /// The kernel.
        release: KernelRelease,
        /// The kernel's architecture.
        kernel: String,
    },
    /// What a UKI holds is not what was looked for.
    #[error("cannot use the UKI {path}: {problem}")]
    Uki {
        /// The UKI.
        path: PathBuf,
        /// Why.
        problem: String,
    },
    /// A pattern of `--keep` or `--drop`.
    #[error("{option} {pattern:?}: {source}")]
    Pattern {
        /// `--keep` or `--drop`.
        option: &'static str,
        /// As given.
        pattern: String,
        /// What is wrong with it.
        source: GlobError,
    },
    /// Packing microcode.
    #[error(transparent)]
    Initrd(#[from] InitrdError),
    /// A name in the request.
    #[error(transparent)]
    Name(#[from] NameError),
    /// Asked to stop.
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
    /// A file outside of the root cannot be read.
    #[error("cannot read {what} {path}: {source}")]
    Input {
        /// "the key", "the stub".
        what: &'static str,
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A private key would be published.
    #[error(
        "{key} is inside the root, as {path}: it would be published in the image; keep keys outside of the root (in a Dockerfile: RUN --mount=type=secret)"
    )]
    KeyInRoot {
        /// The key file.
        key: PathBuf,
        /// Its path in the root.
        path: TreePath,
    },
    /// A private key would be published beside the UKI.
    #[error(
        "{key} is among the files that the image carries, as {path}: it would be published; take it out of that folder"
    )]
    KeyBeside {
        /// The key file.
        key: PathBuf,
        /// Its path in the image.
        path: TreePath,
    },
    /// The boot manager would enrol keys that refuse the image.
    #[error(
        "{folder} has keys that do not trust this image: {problem}; a machine that enrols them would not start it: give the keys \
         that belong to --sb-cert with --public-keys"
    )]
    Distrusted {
        /// The folder of keys.
        folder: PathBuf,
        /// Who signs and is not trusted.
        problem: String,
    },
    /// The release makes a name that images cannot have.
    #[error("images cannot have the name that the root's release makes, {name}: {problem}; name them with --name")]
    ImageName {
        /// The name.
        name: String,
        /// Why.
        problem: String,
    },
    /// The kernel's own settings say that it would not start.
    #[error("kernel {release} would not start from a UKI: {problems}")]
    Kernel {
        /// Which.
        release: KernelRelease,
        /// The findings.
        problems: String,
    },
    /// Something that the image needs is not there.
    #[error("--phases is given {problem}")]
    Phases {
        /// What is wrong.
        problem: String,
    },
    /// Something that the run needs is not there.
    #[error("{what} is missing: {advice}")]
    Missing {
        /// What.
        what: String,
        /// What to do.
        advice: String,
    },
}

impl From<UkiError> for PipelineError {
    fn from(error: UkiError) -> Self {
        Self::Build(error.into())
    }
}
