//! What a run is asked for.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::KeyFiles;
use crate::boot::pcr::{Bank, PhasePath};
use crate::boot::sign::Hash;
use crate::boot::uki::profile::ProfileSpec;
use crate::drivers::select::{FirmwareVersions, UnknownFirmware};
use crate::drivers::target;
use crate::image::TREE;
use crate::image::budget::Limits;
use crate::image::esp::{CmdlineLayout, SecureBootEnroll, Single};
use crate::image::iso::PartitionTable;
use crate::names::KernelRelease;
use crate::root::initrd::Compression;

/// How an ISO's name ends.
const ISO: &str = ".iso";

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
    /// Where its files are in the end.
    pub destination: Destination,
    /// Keys.
    pub keys: KeyFiles,
    /// What of the policies.
    pub policies: PolicyRequest,
    /// Of the Secure Boot signature.
    pub hash: Hash,
    /// Further boot entries.
    pub entries: Vec<BootEntry>,
    /// Replaces the default command line.
    pub cmdline: Option<String>,
    /// Is added to the command line.
    pub extend_cmdline: Option<String>,
    /// The stub; the root's where none is named.
    pub stub: Option<PathBuf>,
    /// What `/init` points to.
    pub init: Option<String>,
    /// A bitmap to show while booting.
    pub splash: Option<PathBuf>,
    /// Folders that are laid over the root, in this order.
    pub overlays: Vec<PathBuf>,
    /// What is shipped.
    pub ship: ShipRequest,
    /// Of the initrd.
    pub compression: Compression,
    /// Threads.
    pub jobs: usize,
    /// Latest time stamp in the image.
    pub source_date_epoch: Option<i64>,
}

/// Where the files of the output folder are in the end.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Destination {
    /// In the output folder.
    #[default]
    Output,
    /// The tree's files right in this folder, the others nowhere: whoever asked moves them.
    Tree(PathBuf),
    /// The ISO in this folder, the others nowhere.
    Iso(PathBuf),
}

impl Destination {
    /// The folder that the user named.
    #[must_use]
    pub fn folder<'a>(&'a self, output: &'a Path) -> &'a Path {
        match self {
            Self::Output => output,
            Self::Tree(folder) | Self::Iso(folder) => folder,
        }
    }

    /// What a file of the output folder is called there; nothing where it is not taken.
    #[must_use]
    pub fn name<'a>(&self, name: &'a str) -> Option<&'a str> {
        match self {
            Self::Output => Some(name),
            Self::Tree(_) => name.strip_prefix(TREE),
            Self::Iso(_) => name.ends_with(ISO).then_some(name),
        }
    }
}

/// A further boot entry: with a title of its own, or named by its arguments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BootEntry {
    /// `TITLE: ARGUMENTS`
    Titled(ProfileSpec),
    /// AuroraBoot's `--extra-cmdline`.
    Untitled(String),
}

/// What a run writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Artifact {
    /// The ESP tree, `uki/`: always.
    Uki,
    /// `NAME.iso`
    Iso,
    /// `NAME.raw`
    Raw,
}

/// What is shipped.
#[derive(Debug, Clone)]
pub struct ShipRequest {
    /// What is written.
    pub artifacts: BTreeSet<Artifact>,
    /// Base name of images; by default it is made of the root's release.
    pub name: Option<String>,
    /// systemd-boot; the root's where none is named.
    pub loader: Option<PathBuf>,
    /// Refuses a root without a boot manager where none is named. For images that is so anyway.
    pub needs_loader: bool,
    /// The title of the default boot entry.
    pub branding: String,
    /// Where further command lines go.
    pub layout: CmdlineLayout,
    /// UKIs of their own.
    pub single: Vec<Single>,
    /// Writes the release into the boot entries.
    pub include_version: bool,
    /// Writes what each entry adds to the command line into it.
    pub include_cmdline: bool,
    /// Whether the loader enrols keys.
    pub enroll: SecureBootEnroll,
    /// Folder of `PK.auth`, `KEK.auth` and `db.auth`.
    pub enrolment_keys: Option<PathBuf>,
    /// What else is on the ISO.
    pub iso: IsoContents,
    /// How the disk image is made.
    pub disk: DiskShape,
    /// What must not be passed.
    pub limits: Limits,
}

impl ShipRequest {
    /// The endings of images behind their base name, and whether this run writes them.
    pub(super) fn images(&self) -> [(&'static str, bool); 4] {
        let DiskShape { compress, qcow2, .. } = self.disk;
        let raw = self.artifacts.contains(&Artifact::Raw);
        let iso = self.artifacts.contains(&Artifact::Iso);
        [(ISO, iso), (".raw", raw && !compress), (".raw.zst", raw && compress), (".qcow2", raw && qcow2)]
    }

    /// Whether the tree must start by itself: a tree alone may be for who starts the UKI by other means, an image is not.
    pub(super) fn must_boot(&self) -> bool {
        self.needs_loader || self.images().iter().any(|(_, is_written)| *is_written)
    }
}

impl Default for ShipRequest {
    fn default() -> Self {
        Self {
            artifacts: BTreeSet::from([Artifact::Uki]),
            name: None,
            loader: None,
            needs_loader: false,
            branding: "Kairos".to_owned(),
            layout: CmdlineLayout::default(),
            single: Vec::new(),
            include_version: false,
            include_cmdline: false,
            enroll: SecureBootEnroll::default(),
            enrolment_keys: None,
            iso: IsoContents::default(),
            disk: DiskShape::default(),
            limits: Limits::default(),
        }
    }
}

/// What is on an ISO besides the boot image.
#[derive(Debug, Clone, Default)]
pub struct IsoContents {
    /// Folders whose files are put into it, in this order.
    pub overlays: Vec<PathBuf>,
    /// Files that lie beside the boot image: system extensions, bundles, a cloud-config.
    pub install_data: Vec<PathBuf>,
    /// How firmware finds the boot image on a USB stick.
    pub table: PartitionTable,
}

/// How a disk image is made.
#[derive(Debug, Clone)]
pub struct DiskShape {
    /// Bytes of the EFI system partition; by default what four copies and an upgrade need.
    pub esp: Option<u64>,
    /// A folder whose files are put into the OEM partition: cloud-configs.
    pub oem: Option<PathBuf>,
    /// Bytes of the OEM partition.
    pub oem_length: u64,
    /// Bytes of the persistent partition, which grows to the disk's end at the first boot.
    pub persistent_length: u64,
    /// Compressed by zstd, instead of with holes.
    pub compress: bool,
    /// qcow2 beside it, by qemu-img.
    pub qcow2: bool,
}

impl Default for DiskShape {
    fn default() -> Self {
        Self { esp: None, oem: None, oem_length: 64 << 20, persistent_length: 256 << 20, compress: false, qcow2: false }
    }
}
