//! The flags of what is shipped: in the whole run, and for `image`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use kairos_init::image::budget::parse_size;
use kairos_init::image::esp::CmdlineLayout;
use kairos_init::image::iso::PartitionTable;
use kairos_init::image::parse_name;
use kairos_init::pipeline::Artifact;

use super::SecureBootEnrollArg;

/// `--artifact`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ArtifactArg {
    /// The files of the EFI system partition, in uki/: always written
    Uki,
    /// An ISO that boots by UEFI, as optical disc and as USB stick
    Iso,
    /// A disk image that boots as an installed system
    Raw,
}

impl From<ArtifactArg> for Artifact {
    fn from(arg: ArtifactArg) -> Self {
        match arg {
            ArtifactArg::Uki => Self::Uki,
            ArtifactArg::Iso => Self::Iso,
            ArtifactArg::Raw => Self::Raw,
        }
    }
}

/// `--cmdline-layout`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum CmdlineLayoutArg {
    /// Profiles where the boot manager's entries can show them (systemd-boot 259), else entries
    Auto,
    /// Profiles of one UKI
    Profiles,
    /// A UKI for each, as AuroraBoot makes them
    Entries,
}

impl From<CmdlineLayoutArg> for CmdlineLayout {
    fn from(arg: CmdlineLayoutArg) -> Self {
        match arg {
            CmdlineLayoutArg::Auto => Self::Auto,
            CmdlineLayoutArg::Profiles => Self::Profiles,
            CmdlineLayoutArg::Entries => Self::Entries,
        }
    }
}

/// `--compress`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum CompressArg {
    /// zstd
    Zstd,
}

/// What is shipped.
#[derive(Debug, Args)]
pub(crate) struct ShipArgs {
    /// What to write, comma separated
    #[arg(long, value_enum, value_name = "KIND,...", value_delimiter = ',', default_value = "uki")]
    pub(crate) artifact: Vec<ArtifactArg>,
    /// Base name of images [default: of the root's release file, else kairos-uki]
    #[arg(long, value_name = "NAME", value_parser = parse_name)]
    pub(crate) name: Option<String>,
    /// The boot manager, systemd-boot [default: the root's own]
    #[arg(long, value_name = "FILE")]
    pub(crate) loader: Option<PathBuf>,
    /// Title of the boot entries
    #[arg(long, value_name = "TEXT", default_value = "Kairos")]
    pub(crate) boot_branding: String,
    /// Where further command lines (--profile) go
    #[arg(long, value_enum, value_name = "LAYOUT", default_value = "auto")]
    pub(crate) cmdline_layout: CmdlineLayoutArg,
    /// Write the release into the boot entries
    #[arg(long)]
    pub(crate) include_version_in_config: bool,
    /// Write what each boot entry adds to the command line into it
    #[arg(long)]
    pub(crate) include_cmdline_in_config: bool,
    /// Folder with PK.auth, KEK.auth and db.auth, for the boot manager to enrol
    #[arg(long, value_name = "DIR")]
    pub(crate) public_keys: Option<PathBuf>,
    /// Whether the boot manager enrols the keys on machines in setup mode
    #[arg(long, value_enum, value_name = "WHEN", default_value = "if-safe")]
    pub(crate) secure_boot_enroll: SecureBootEnrollArg,
    /// A bitmap to show while booting (BMP)
    #[arg(long, value_name = "FILE")]
    pub(crate) splash: Option<PathBuf>,
    /// Folder whose files are laid over the root; kernel, modules, stub and boot manager are the root's all the same; repeatable
    #[arg(long, value_name = "DIR")]
    pub(crate) overlay_rootfs: Vec<PathBuf>,
    /// What is on the ISO besides the UKI.
    #[command(flatten)]
    pub(crate) iso: IsoArgs,
    /// How the disk image is made.
    #[command(flatten)]
    pub(crate) disk: DiskArgs,
    /// Fail where the UKI is larger (example: 300MiB)
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub(crate) max_uki_size: Option<u64>,
    /// Fail where booting takes more memory (example: 2GiB)
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub(crate) max_boot_ram: Option<u64>,
}

/// What is on the ISO besides the UKI.
#[derive(Debug, Args)]
pub(crate) struct IsoArgs {
    /// Folder whose files are put into the ISO; repeatable
    #[arg(long, value_name = "DIR")]
    pub(crate) overlay_iso: Vec<PathBuf>,
    /// A file to carry on the ISO beside the UKI, for the installation: a system extension, a cloud-config; repeatable
    #[arg(long, value_name = "FILE")]
    pub(crate) install_data: Vec<PathBuf>,
    /// How firmware finds the boot image on a USB stick
    #[arg(long, value_enum, value_name = "KIND", default_value = "mbr")]
    pub(crate) partition_table: PartitionTableArg,
}

/// `--partition-table`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum PartitionTableArg {
    /// An MBR with the boot image as EFI system partition
    Mbr,
    /// A GPT; immucore then takes the stick for an installed disk, and the installer does not start
    Gpt,
    /// No table: for optical discs only
    None,
}

impl From<PartitionTableArg> for PartitionTable {
    fn from(arg: PartitionTableArg) -> Self {
        match arg {
            PartitionTableArg::Mbr => Self::Mbr,
            PartitionTableArg::Gpt => Self::Gpt,
            PartitionTableArg::None => Self::None,
        }
    }
}

/// How the disk image is made.
#[derive(Debug, Args)]
pub(crate) struct DiskArgs {
    /// Size of the EFI system partition [default: four copies of the UKI and an upgrade]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub(crate) esp_size: Option<u64>,
    /// Folder whose files are put into the OEM partition of the disk image: cloud-configs; it is not encrypted, and who has the
    /// image can read them
    #[arg(long, value_name = "DIR")]
    pub(crate) oem: Option<PathBuf>,
    /// Size of the OEM partition
    #[arg(long, value_name = "SIZE", value_parser = parse_size, default_value = "64MiB")]
    pub(crate) oem_size: u64,
    /// Size of the persistent partition, which Kairos grows at the first boot
    #[arg(long, value_name = "SIZE", value_parser = parse_size, default_value = "256MiB")]
    pub(crate) persistent_size: u64,
    /// Compress the disk image (NAME.raw.zst; of `image raw` the file that is named)
    #[arg(long, value_enum, value_name = "HOW")]
    pub(crate) compress: Option<CompressArg>,
    /// Make a qcow2 image by qemu-img: in the whole run beside the raw one, of `image raw` the file that is named
    #[arg(long, conflicts_with = "compress")]
    pub(crate) qcow2: bool,
}

/// `image ...`.
#[derive(Debug, Subcommand)]
pub(crate) enum ImageCommand {
    /// The FAT file system with the tree: what is in an ISO, or for a partition
    Esp(ImageEspArgs),
    /// An ISO that boots by UEFI, as optical disc and as USB stick
    Iso(ImageIsoArgs),
    /// A disk image that boots as an installed system: active, passive, recovery and reset
    Raw(ImageRawArgs),
}

/// What all images are made of.
#[derive(Debug, Args)]
pub(crate) struct ImageArgs {
    /// The ESP tree: a folder with EFI and loader, uki/ of the whole run
    #[arg(value_name = "DIR")]
    pub(crate) tree: PathBuf,
    /// The image to write; an older one is replaced
    #[arg(long, short, value_name = "FILE")]
    pub(crate) output: PathBuf,
    /// Fail where a program of the tree is not signed for these keys: .esl, .auth, PEM or DER; repeatable
    #[arg(long, value_name = "FILE")]
    pub(crate) db: Vec<PathBuf>,
    /// Fail where the UKI is larger (example: 300MiB)
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub(crate) max_uki_size: Option<u64>,
    /// Time stamp of everything in the image (seconds since 1970) [default: $SOURCE_DATE_EPOCH, else 1980-01-01]
    #[arg(long, value_name = "SECONDS")]
    pub(crate) source_date_epoch: Option<i64>,
}

/// `image esp`.
#[derive(Debug, Args)]
pub(crate) struct ImageEspArgs {
    /// What it is made of.
    #[command(flatten)]
    pub(crate) image: ImageArgs,
}

/// `image iso`.
#[derive(Debug, Args)]
pub(crate) struct ImageIsoArgs {
    /// What it is made of.
    #[command(flatten)]
    pub(crate) image: ImageArgs,
    /// What else is on it.
    #[command(flatten)]
    pub(crate) iso: IsoArgs,
    /// The volume's name; immucore looks for this one
    #[arg(long, value_name = "LABEL", default_value = kairos_init::image::medium::ISO_LABEL)]
    pub(crate) label: String,
}

/// `image raw`.
#[derive(Debug, Args)]
pub(crate) struct ImageRawArgs {
    /// What it is made of.
    #[command(flatten)]
    pub(crate) image: ImageArgs,
    /// How it is made.
    #[command(flatten)]
    pub(crate) disk: DiskArgs,
}
