//! The flags, as they are written: clap structs and nothing else.

mod auroraboot;
mod image;
mod keys;
mod needs;
mod uki;

use std::path::PathBuf;

pub(crate) use auroraboot::{BuildUkiArgs, GenkeyArgs, SecureBootEnrollArg};
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
pub(crate) use image::*;
use kairos_init::boot::pcr::Bank;
use kairos_init::boot::sign::Hash;
use kairos_init::boot::sign::passphrase::PassphraseSource;
pub(crate) use keys::{KeysCommand, KeysGenerateArgs, KeysVariableArgs, VariableArg};
pub(crate) use uki::*;

/// Turns a distribution's root file system into a slim, measured, signed Kairos image.
#[derive(Debug, Parser)]
#[command(name = "kairos-init", version, args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
#[command(after_help = "Without a command the whole run is done:\n  \
    kairos-init --root DIR --stage build --target uki --hardware x86-generic --output OUT \\\n              \
    --sb-key db.key --sb-cert db.pem --pcr-key tpm2-pcr-private.pem\n\n\
    Results go to standard output, progress to standard error. Exit codes: 0 done, 1 refused or failed, 2 wrong usage.")]
pub(crate) struct Cli {
    /// What to do; without a command: the whole run.
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    /// Options of the whole run.
    #[command(flatten)]
    pub(crate) run: RunArgs,
    /// Options of every command.
    #[command(flatten)]
    pub(crate) global: GlobalArgs,
}

impl Cli {
    /// Reads the command line; wrong usage ends the program with exit code 2.
    pub(crate) fn read() -> Self {
        let mut command = Self::command();
        let matches = command.get_matches_mut();
        needs::check(&matches, &mut command)
            .and_then(|()| Self::from_arg_matches(&matches))
            .unwrap_or_else(|error| error.exit())
    }
}

/// Options of every command.
#[derive(Debug, Args)]
pub(crate) struct GlobalArgs {
    /// Print one JSON object instead of text
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Print no progress
    #[arg(long, short, global = true)]
    pub(crate) quiet: bool,
    /// Threads to use [default: one for each processor]; results do not depend on it
    #[arg(long, global = true, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) jobs: Option<u16>,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show what would be kept and dropped, and why; changes nothing
    Plan(PlanArgs),
    /// Tell why a module, a firmware file or an alias is kept or dropped, and what keeps it
    Why(WhyArgs),
    /// Remove from the root what the hardware does not need; a run that was killed can be run again
    ///
    /// For roots of containers and folders: the root of a running machine is refused. Goes: drivers and firmware that the
    /// targets do not need, and the modules of other kernels than the newest (or --kernel). Stays: boot images of all kernels,
    /// and microcode, which a UKI takes from the root. The indexes of the modules are made anew.
    Slim(SlimArgs),
    /// Hardware targets: list them, capture machines, and check what machines would lose before anything is shipped
    #[command(subcommand)]
    Hardware(HardwareCommand),
    /// Build, inspect, measure or sign a Unified Kernel Image from files
    #[command(subcommand)]
    Uki(UkiCommand),
    /// Make or show keys
    #[command(subcommand)]
    Keys(KeysCommand),
    /// Make images from the files of an EFI system partition
    #[command(subcommand)]
    Image(ImageCommand),
    /// AuroraBoot's command of this name, with its flags, on a folder
    #[command(name = "build-uki", alias = "bu")]
    BuildUki(Box<BuildUkiArgs>),
    /// AuroraBoot's command of this name: `keys generate` with its names and defaults
    #[command(name = "genkey", alias = "gk")]
    Genkey(GenkeyArgs),
    /// Print the version
    Version,
}

/// Which root, and what of it.
#[derive(Debug, Args)]
pub(crate) struct SelectArgs {
    /// The root file system to work on: a directory
    #[arg(long, value_name = "DIR", default_value = "/")]
    pub(crate) root: PathBuf,
    /// Hardware target to keep drivers for, or a file with one; repeatable, the union is kept [default: everything is kept]
    #[arg(long, value_name = "NAME|FILE")]
    pub(crate) hardware: Vec<String>,
    /// Keep these modules or firmware as well: name, path glob or alias; repeatable
    #[arg(long, value_name = "PATTERN")]
    pub(crate) keep: Vec<String>,
    /// Drop these modules or firmware: name, path glob or alias; repeatable
    #[arg(long, value_name = "PATTERN")]
    pub(crate) drop: Vec<String>,
    /// Go on where a pattern of --keep or --drop matches nothing
    #[arg(long)]
    pub(crate) allow_empty: bool,
    /// Of firmware in several versions keep the newest installed one that the driver can ask for, or all of these
    #[arg(long, value_enum, value_name = "WHICH", default_value = "newest")]
    pub(crate) firmware_versions: FirmwareVersionsArg,
    /// What to do with firmware that no driver declares and kmod-db does not know
    #[arg(long, value_enum, value_name = "WHAT", default_value = "keep")]
    pub(crate) unknown_firmware: UnknownFirmwareArg,
    /// Keep what is read of modules in this folder, for a faster next run; others may read it, none but you and root write
    #[arg(long, value_name = "DIR")]
    pub(crate) cache: Option<PathBuf>,
    /// The kernel to take [default: the newest in the root]
    #[arg(long, value_name = "RELEASE")]
    pub(crate) kernel: Option<String>,
}

/// `--firmware-versions`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum FirmwareVersionsArg {
    /// The newest installed version that the driver can ask for
    Newest,
    /// All versions that the driver can ask for
    All,
}

/// `--unknown-firmware`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum UnknownFirmwareArg {
    /// It stays
    Keep,
    /// It goes
    Drop,
}

/// `plan`.
#[derive(Debug, Args)]
pub(crate) struct PlanArgs {
    /// Which root, and what of it.
    #[command(flatten)]
    pub(crate) select: SelectArgs,
    /// Look at the signature of every kept module and at the keys in the kernel image; takes seconds [default: a sample of
    /// the kernel's own modules, and every other]
    #[arg(long)]
    pub(crate) check_signatures: bool,
}

/// `why`.
#[derive(Debug, Args)]
pub(crate) struct WhyArgs {
    /// A module's name or path, a firmware name or path, or an alias (fs-xfs, pci:v00008086d...)
    #[arg(required = true, value_name = "ITEM")]
    pub(crate) items: Vec<String>,
    /// The items are firmware, not modules or aliases
    #[arg(long)]
    pub(crate) firmware: bool,
    /// Which root, and what of it.
    #[command(flatten)]
    pub(crate) select: SelectArgs,
}

/// `slim`.
#[derive(Debug, Args)]
pub(crate) struct SlimArgs {
    /// Which root, and what of it.
    #[command(flatten)]
    pub(crate) select: SelectArgs,
    /// What may be changed.
    #[command(flatten)]
    pub(crate) in_place: InPlaceArgs,
}

/// What may be changed in place.
#[derive(Debug, Args)]
pub(crate) struct InPlaceArgs {
    /// Change the root in place even if it is a running machine's, or has file systems mounted where its drivers are
    #[arg(long)]
    pub(crate) allow_host: bool,
    /// Show what would be removed from the root, and change nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
}

/// `hardware ...`.
#[derive(Debug, Subcommand)]
pub(crate) enum HardwareCommand {
    /// List the built-in targets and features; with --root also what each target keeps of it
    List(HardwareListArgs),
    /// Show the rules of a target, with their evidence
    Show {
        /// A target, with features (x86-vm+wifi), or a file
        #[arg(value_name = "NAME|FILE")]
        name: String,
    },
    /// Write down a machine's devices, by model: no serial number, no address, no name; a target of its own for --hardware
    Capture(HardwareCaptureArgs),
    /// Replay captured machines: what each would lose; fails if one would not boot, unlock or be reached
    Check(HardwareCheckArgs),
    /// The share of what people have that the target still drives, by class of device
    Coverage {
        /// Which root, and what of it.
        #[command(flatten)]
        select: SelectArgs,
    },
    /// The smallest built-in target that loses nothing for these machines
    Suggest(HardwareSuggestArgs),
}

/// `hardware list`.
#[derive(Debug, Args)]
pub(crate) struct HardwareListArgs {
    /// A root file system, to tell sizes: a directory
    #[arg(long, value_name = "DIR")]
    pub(crate) root: Option<PathBuf>,
    /// The kernel to take [default: the newest in the root]
    #[arg(long, value_name = "RELEASE", requires = "root")]
    pub(crate) kernel: Option<String>,
}

/// `hardware capture`.
#[derive(Debug, Args)]
pub(crate) struct HardwareCaptureArgs {
    /// The sysfs to read
    #[arg(long, value_name = "DIR", default_value = "/sys", conflicts_with_all = ["from_lspci", "from_lsusb"])]
    pub(crate) sys: PathBuf,
    /// Take the devices from the output of lspci -vvnn, -nn or -n instead; repeatable
    #[arg(long, value_name = "FILE")]
    pub(crate) from_lspci: Vec<PathBuf>,
    /// Take the devices from the output of lsusb or lsusb -v instead; repeatable
    #[arg(long, value_name = "FILE")]
    pub(crate) from_lsusb: Vec<PathBuf>,
    /// Write to this file; an existing one is not overwritten [default: standard output]
    #[arg(long, short, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
}

/// `hardware check`.
#[derive(Debug, Args)]
pub(crate) struct HardwareCheckArgs {
    /// Captures, dumps of lspci and lsusb, or folders of files that end in .capture, .lspci, .lsusb
    #[arg(required = true, value_name = "CAPTURE|DIR")]
    pub(crate) captures: Vec<PathBuf>,
    /// Check this UKI, which was made of the root, instead of a plan
    #[arg(long, value_name = "FILE", conflicts_with_all = ["hardware", "keep", "drop"])]
    pub(crate) uki: Option<PathBuf>,
    /// Which root, and what of it.
    #[command(flatten)]
    pub(crate) select: SelectArgs,
}

/// `hardware suggest`.
#[derive(Debug, Args)]
pub(crate) struct HardwareSuggestArgs {
    /// Captures, dumps of lspci and lsusb, or folders of files that end in .capture, .lspci, .lsusb
    #[arg(required = true, value_name = "CAPTURE|DIR")]
    pub(crate) captures: Vec<PathBuf>,
    /// The root file system with the kernel: a directory
    #[arg(long, value_name = "DIR", default_value = "/")]
    pub(crate) root: PathBuf,
    /// The kernel to take [default: the newest in the root]
    #[arg(long, value_name = "RELEASE")]
    pub(crate) kernel: Option<String>,
    /// Keep what is read of modules in this folder, for a faster next run; others may read it, none but you and root write
    #[arg(long, value_name = "DIR")]
    pub(crate) cache: Option<PathBuf>,
}

/// What kind of image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum TargetArg {
    /// Kernel and dracut initrd for GRUB: not made yet
    Generic,
    /// A Unified Kernel Image for Trusted Boot
    Uki,
}

/// A stage of the whole run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum StageArg {
    /// Install packages and Kairos' files into the root: not done yet
    Install,
    /// Configure the root: not done yet
    Init,
    /// Build artifacts from the root
    Build,
    /// All of them: not done yet
    All,
}

/// The whole run.
#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// Which root, and what of it.
    #[command(flatten)]
    pub(crate) select: SelectArgs,
    /// What kind of image to make
    #[arg(long, value_enum, default_value = "generic")]
    pub(crate) target: TargetArg,
    /// Stages to run; repeatable
    #[arg(long, value_enum, default_value = "all")]
    pub(crate) stage: Vec<StageArg>,
    /// Write artifacts to this folder; the root is not changed [default: no artifacts, the root is slimmed in place]
    #[arg(long, value_name = "DIR")]
    pub(crate) output: Option<PathBuf>,
    /// What may be changed.
    #[command(flatten)]
    pub(crate) in_place: InPlaceArgs,
    /// Keys to sign with.
    #[command(flatten)]
    pub(crate) keys: KeyArgs,
    /// Make artifacts without the signatures that no key is given for
    #[arg(long)]
    pub(crate) unsigned: bool,
    /// What PCR policies are about.
    #[command(flatten)]
    pub(crate) policies: PolicyArgs,
    /// A further boot entry, its arguments added to the command line; repeatable, or a file of such lines
    #[arg(long, value_name = "TITLE: ARGUMENTS|@FILE")]
    pub(crate) profile: Vec<String>,
    /// The kernel command line [default: Kairos' where immucore is in the root, else a serial and a screen console]
    #[arg(long, value_name = "TEXT|@FILE")]
    pub(crate) cmdline: Option<String>,
    /// Add to the kernel command line
    #[arg(long, value_name = "TEXT|@FILE")]
    pub(crate) extend_cmdline: Option<String>,
    /// The systemd stub [default: the root's own]
    #[arg(long, value_name = "FILE")]
    pub(crate) stub: Option<PathBuf>,
    /// What is shipped.
    #[command(flatten)]
    pub(crate) ship: ShipArgs,
    /// What /init points to [default: immucore where it is in the root, else systemd]
    #[arg(long, value_name = "PATH")]
    pub(crate) init: Option<String>,
    /// Compression of the initrd: zstd[:LEVEL]
    #[arg(long, value_name = "zstd[:LEVEL]", default_value = "zstd:12")]
    pub(crate) compression: String,
    /// Clamp time stamps in the image to this (seconds since 1970) [default: $SOURCE_DATE_EPOCH, where it is set]
    #[arg(long, value_name = "SECONDS")]
    pub(crate) source_date_epoch: Option<i64>,
}

/// Keys to sign with.
#[derive(Debug, Args)]
pub(crate) struct KeyArgs {
    /// Private key for the Secure Boot signature: RSA, PEM or DER, encrypted or not; repeatable, one signature for each
    #[arg(long, value_name = "FILE", alias = "secureboot-private-key")]
    pub(crate) sb_key: Vec<PathBuf>,
    /// Certificate of that key, PEM or DER, with those that vouch for it behind it; repeatable, in the keys' order
    #[arg(long, value_name = "FILE", alias = "secureboot-certificate")]
    pub(crate) sb_cert: Vec<PathBuf>,
    /// Hash of the Secure Boot signature; all firmware knows sha256
    #[arg(long, value_name = "HASH", default_value = "sha256")]
    pub(crate) sb_hash: Hash,
    /// Private key for the PCR policies: RSA, PEM or DER, encrypted or not; repeatable
    #[arg(long, value_name = "FILE", alias = "pcr-private-key")]
    pub(crate) pcr_key: Vec<PathBuf>,
    /// Public key for the PCR policies, whose private half --signer has, or is elsewhere: repeatable
    #[arg(long, value_name = "FILE")]
    pub(crate) pcr_public_key: Vec<PathBuf>,
    /// Shell command that signs where a certificate or public key is given without its private key: it gets the digest on
    /// standard input and writes the raw signature; KAIROS_INIT_KEY is sb or pcr, KAIROS_INIT_HASH is sha256
    #[arg(long, value_name = "COMMAND")]
    pub(crate) signer: Option<String>,
    /// What that command gets: the digest, or a DigestInfo around it (mechanism RSA-PKCS of PKCS #11)
    #[arg(long, value_enum, value_name = "FORM", default_value = "digest", requires = "signer")]
    pub(crate) signer_input: SignerInputArg,
    /// Passphrase of encrypted keys.
    #[command(flatten)]
    pub(crate) passphrase: PassphraseArgs,
}

/// `--signer-input`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum SignerInputArg {
    /// The digest alone
    Digest,
    /// In a DigestInfo, DER
    DigestInfo,
}

/// What PCR policies are about.
#[derive(Debug, Args)]
pub(crate) struct PolicyArgs {
    /// PCR banks to sign policies for, comma separated
    #[arg(long, value_name = "BANK,...", value_delimiter = ',', default_value = "sha1,sha256,sha384,sha512")]
    pub(crate) pcr_banks: Vec<Bank>,
    /// Boot phase paths that a key vouches for, comma separated, each of words joined by colons; repeatable, in the keys' order
    /// [default: systemd's four for each key]
    #[arg(long, value_name = "WORD:...,...")]
    pub(crate) phases: Vec<String>,
    /// Bind the policies to resources that ask for this policy reference (systemd 262)
    #[arg(long, value_name = "TEXT")]
    pub(crate) policy_ref: Option<String>,
}

/// Where the passphrase is.
#[derive(Debug, Args)]
pub(crate) struct PassphraseArgs {
    /// Where the passphrase of encrypted private keys is: the first line of a file or of an open file descriptor, or an
    /// environment variable
    #[arg(long, value_name = "file:PATH|fd:N|env:NAME")]
    pub(crate) key_passphrase: Option<PassphraseSource>,
}
