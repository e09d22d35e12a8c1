//! What a run is asked for.

use std::path::PathBuf;

use super::KeyFiles;
use crate::boot::pcr::{Bank, PhasePath};
use crate::boot::sign::Hash;
use crate::boot::uki::profile::ProfileSpec;
use crate::drivers::select::{FirmwareVersions, UnknownFirmware};
use crate::drivers::target;
use crate::names::KernelRelease;
use crate::root::initrd::Compression;

/// A hardware target: by name, or a file of the user's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hardware {
    /// `NAME` or `NAME+FEATURE`.
    Name(String),
    /// A file.
    File {
        /// As given.
        path: String,
        /// What it holds.
        text: String,
    },
}

impl Hardware {
    /// What it says, before any kernel is looked at.
    ///
    /// # Errors
    /// No such name, or a file that cannot be used.
    pub fn resolve(&self) -> Result<target::Target, target::TargetError> {
        target::resolve(&[self.request()])
    }

    pub(super) fn name(&self) -> &str {
        match self {
            Self::Name(name) | Self::File { path: name, .. } => name,
        }
    }

    pub(super) fn request(&self) -> target::Request<'_> {
        match self {
            Self::Name(name) => target::Request::Name(name),
            Self::File { path, text } => target::Request::File { path, text },
        }
    }
}

/// Which root, and what of it.
#[derive(Debug, Clone)]
pub struct SelectRequest {
    /// The root.
    pub root: PathBuf,
    /// Targets; nothing is slimmed where none is named.
    pub hardware: Vec<Hardware>,
    /// `--keep`.
    pub keep: Vec<String>,
    /// `--drop`.
    pub drop: Vec<String>,
    /// A pattern of the two that matches nothing is a warning, not an error.
    pub allow_empty: bool,
    /// What stays of firmware that exists in several versions.
    pub firmware_versions: FirmwareVersions,
    /// What becomes of firmware of which nothing can be said.
    pub unknown_firmware: UnknownFirmware,
    /// A folder with what earlier runs read of modules; none is read or written where none is named.
    pub cache: Option<PathBuf>,
    /// The kernel; the newest where none is named.
    pub kernel: Option<KernelRelease>,
    /// Looks at the signature of every kept module, not of a sample: takes seconds.
    pub check_signatures: bool,
}

impl SelectRequest {
    /// The newest kernel of a root, whole.
    #[must_use]
    pub fn whole(root: PathBuf) -> Self {
        Self {
            root,
            hardware: Vec::new(),
            keep: Vec::new(),
            drop: Vec::new(),
            allow_empty: false,
            firmware_versions: FirmwareVersions::default(),
            unknown_firmware: UnknownFirmware::default(),
            cache: None,
            kernel: None,
            check_signatures: false,
        }
    }
}

/// Slimming a root in place.
#[derive(Debug, Clone)]
pub struct SlimRequest {
    /// Which root, and what of it.
    pub select: SelectRequest,
    /// Also if the root is a running machine's, or has file systems mounted where its drivers are.
    pub allow_host: bool,
    /// Say what would be done, and change nothing.
    pub dry_run: bool,
}

/// What the PCR policies are about.
#[derive(Debug, Clone)]
pub struct PolicyRequest {
    /// The banks that policies are signed for.
    pub banks: Vec<Bank>,
    /// For each key the phase paths that it vouches for; systemd's four for keys that none are given for.
    pub phases: Vec<Vec<PhasePath>>,
    /// Binds the policies to resources that ask for it.
    pub reference: Option<String>,
    /// `.pcrpkey`, where it is not the only key.
    pub public_key: Option<Vec<u8>>,
}

impl Default for PolicyRequest {
    fn default() -> Self {
        Self { banks: Bank::ALL.to_vec(), phases: Vec::new(), reference: None, public_key: None }
    }
}

impl PolicyRequest {
    /// The phase paths of a key, by its place.
    #[must_use]
    pub fn phases_of(&self, key: usize) -> Vec<PhasePath> {
        self.phases.get(key).cloned().unwrap_or_else(PhasePath::signed_by_default)
    }
}

/// A whole run.
#[derive(Debug, Clone)]
pub struct BuildRequest {
    /// Which root, and what of it.
    pub select: SelectRequest,
    /// The output folder.
    pub output: PathBuf,
    /// Keys.
    pub keys: KeyFiles,
    /// What of the policies.
    pub policies: PolicyRequest,
    /// Of the Secure Boot signature.
    pub hash: Hash,
    /// Further boot entries.
    pub profiles: Vec<ProfileSpec>,
    /// Replaces the default command line.
    pub cmdline: Option<String>,
    /// Is added to the command line.
    pub extend_cmdline: Option<String>,
    /// The stub; the root's where none is named.
    pub stub: Option<PathBuf>,
    /// What `/init` points to.
    pub init: Option<String>,
    /// Of the initrd.
    pub compression: Compression,
    /// Threads.
    pub jobs: usize,
    /// Latest time stamp in the image.
    pub source_date_epoch: Option<i64>,
}
