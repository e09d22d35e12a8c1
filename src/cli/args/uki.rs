//! `uki ...`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use kairos_init::boot::pcr::Bank;

use super::{KeyArgs, PolicyArgs};

/// `uki ...`.
#[derive(Debug, Subcommand)]
pub(crate) enum UkiCommand {
    /// Assemble, measure and sign a UKI, or an addon, from files
    Build(Box<UkiBuildArgs>),
    /// List the sections of a UKI
    Inspect(UkiFileArgs),
    /// Predict PCR 11 of a UKI, for each of its profiles and device trees
    Measure(UkiMeasureArgs),
    /// Tell whether a UKI would boot and unlock its disk, check by check; exit code 1 if not
    Verify(UkiVerifyArgs),
    /// Sign any EFI program, or take its signatures away; attach PCR signatures that were made elsewhere
    Sign(Box<UkiSignArgs>),
}

/// `uki build`: ukify's names.
#[derive(Debug, Args)]
pub(crate) struct UkiBuildArgs {
    /// The kernel image, compressed or not; an addon has none
    #[arg(long, value_name = "FILE")]
    pub(crate) linux: Option<PathBuf>,
    /// An initrd; repeatable, joined in this order
    #[arg(long, value_name = "FILE")]
    pub(crate) initrd: Vec<PathBuf>,
    /// A microcode archive, handed over before all initrds
    #[arg(long, value_name = "FILE", alias = "microcode")]
    pub(crate) ucode: Option<PathBuf>,
    /// The kernel command line
    #[arg(long, value_name = "TEXT|@FILE")]
    pub(crate) cmdline: Option<String>,
    /// os-release of the system
    #[arg(long, value_name = "TEXT|@FILE")]
    pub(crate) os_release: Option<String>,
    /// The kernel's release [default: what the kernel says of itself]
    #[arg(long, value_name = "TEXT")]
    pub(crate) uname: Option<String>,
    /// A bitmap to show while booting: uncompressed BMP
    #[arg(long, value_name = "FILE")]
    pub(crate) splash: Option<PathBuf>,
    /// A device tree
    #[arg(long, value_name = "FILE", alias = "devicetree")]
    pub(crate) dtb: Option<PathBuf>,
    /// A device tree that the stub takes where it fits the machine; repeatable
    #[arg(long, value_name = "FILE", alias = "devicetree-auto")]
    pub(crate) dtbauto: Vec<PathBuf>,
    /// A folder of JSON files that say which computer has which device tree
    #[arg(long, value_name = "DIR")]
    pub(crate) hwids: Option<PathBuf>,
    /// SBAT entries of your own; replaces the default entry for UKIs
    #[arg(long, value_name = "TEXT|@FILE")]
    pub(crate) sbat: Option<String>,
    /// A bill of materials, to carry along: not measured
    #[arg(long, value_name = "FILE")]
    pub(crate) sbom: Option<PathBuf>,
    /// A section of your own: not measured, not read by the stub; repeatable
    #[arg(long, value_name = "NAME:TEXT|NAME:@FILE")]
    pub(crate) section: Vec<String>,
    /// The public key in .pcrpkey [default: that of the PCR key, where there is one]
    #[arg(long, value_name = "FILE")]
    pub(crate) pcrpkey: Option<PathBuf>,
    /// A further boot entry, its arguments added to the command line; repeatable, or a file of such lines
    #[arg(long, value_name = "TITLE: ARGUMENTS|@FILE")]
    pub(crate) profile: Vec<String>,
    /// A further boot entry from an EFI program with a .profile section and what it has in the place of common ones; repeatable
    #[arg(long, value_name = "FILE")]
    pub(crate) join_profile: Vec<PathBuf>,
    /// Take over from the UKI of an output folder of the whole run what is not given of: initrd with its digests, kernel, stub,
    /// os-release, command line, release, microcode, splash and device tree; profiles and other sections are given anew. In the
    /// time of a copy where the PCR key is the same. With --stub the bytes are those of a fresh build
    #[arg(long, value_name = "OUT", conflicts_with = "initrd")]
    pub(crate) reuse_initrd: Option<PathBuf>,
    /// The systemd stub: linuxx64.efi.stub, for an addon addonx64.efi.stub
    #[arg(long, value_name = "FILE", required_unless_present = "reuse_initrd")]
    pub(crate) stub: Option<PathBuf>,
    /// What PCR policies are about.
    #[command(flatten)]
    pub(crate) policies: PolicyArgs,
    /// Keys to sign with.
    #[command(flatten)]
    pub(crate) keys: KeyArgs,
    /// Time of signing in the signatures (seconds since 1970) [default: $SOURCE_DATE_EPOCH, else none, as reproducible]
    #[arg(long, value_name = "SECONDS")]
    pub(crate) source_date_epoch: Option<u64>,
    /// Where to write the UKI
    #[arg(long, short, value_name = "FILE")]
    pub(crate) output: PathBuf,
}

/// `uki inspect`.
#[derive(Debug, Args)]
pub(crate) struct UkiFileArgs {
    /// The UKI
    pub(crate) file: PathBuf,
}

/// `uki measure`.
#[derive(Debug, Args)]
pub(crate) struct UkiMeasureArgs {
    /// The UKI
    pub(crate) file: PathBuf,
    /// PCR banks, comma separated
    #[arg(long, value_name = "BANK,...", value_delimiter = ',', default_value = "sha1,sha256,sha384,sha512")]
    pub(crate) pcr_banks: Vec<Bank>,
    /// Boot phase path, words joined by colons, empty for none; repeatable [default: none, then systemd's four]
    #[arg(long, value_name = "WORD:...")]
    pub(crate) phases: Vec<String>,
    /// Print the policies that are to be signed, as JSON without signatures, for `uki sign --attach-pcrsig`: `tbs` is what a key
    /// signs (RSASSA-PKCS1-v1_5, SHA-256)
    #[arg(long)]
    pub(crate) policy_digest: bool,
    /// Public key that the policies are for; repeatable [default: the one in .pcrpkey]
    #[arg(long, value_name = "FILE", requires = "policy_digest")]
    pub(crate) pcr_public_key: Vec<PathBuf>,
    /// Bind the policies to resources that ask for this policy reference (systemd 262)
    #[arg(long, value_name = "TEXT", requires = "policy_digest")]
    pub(crate) policy_ref: Option<String>,
    /// The boot loader that starts the UKI, for PCR 4 and 7 [default: the firmware starts it]
    #[arg(long, value_name = "FILE")]
    pub(crate) loader: Option<PathBuf>,
    /// The machine's Secure Boot variables, for PCR 4 and 7: /sys/firmware/efi/efivars, a copy of it, or a folder of .esl files
    #[arg(long, value_name = "DIR")]
    pub(crate) efivars: Option<PathBuf>,
    /// The variable PK: .esl, or a file of efivarfs
    #[arg(long, value_name = "FILE")]
    pub(crate) pk: Option<PathBuf>,
    /// The variable KEK
    #[arg(long, value_name = "FILE")]
    pub(crate) kek: Option<PathBuf>,
    /// The variable db
    #[arg(long, value_name = "FILE")]
    pub(crate) db: Option<PathBuf>,
    /// The variable dbx
    #[arg(long, value_name = "FILE")]
    pub(crate) dbx: Option<PathBuf>,
    /// Whether Secure Boot is on, where the variables do not tell
    #[arg(long, value_enum, value_name = "STATE", default_value = "on")]
    pub(crate) secure_boot: SwitchArg,
    /// Hold a machine's event log (/sys/kernel/security/tpm0/binary_bios_measurements) against the prediction; exit code 1, and
    /// the first event that differs, if it is another
    #[arg(long, value_name = "EVENTLOG")]
    pub(crate) replay: Option<PathBuf>,
    /// Which profile the machine booted, from 0 on
    #[arg(long, value_name = "N", requires = "replay")]
    pub(crate) profile: Option<usize>,
    /// Which of the ways to boot that profile, as they are listed, from 0 on
    #[arg(long, value_name = "N", requires = "replay")]
    pub(crate) variant: Option<usize>,
}

/// On or off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum SwitchArg {
    /// On
    On,
    /// Off
    Off,
}

/// `uki sign`.
#[derive(Debug, Args)]
pub(crate) struct UkiSignArgs {
    /// The EFI program: a UKI, a boot loader, an addon, a kernel
    pub(crate) file: PathBuf,
    /// Where to write the result [default: the file is replaced]
    #[arg(long, short, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// Sign beside the signatures that are there
    #[arg(long, conflicts_with_all = ["remove", "attach_pcrsig"])]
    pub(crate) append: bool,
    /// Take the signatures that are there away
    #[arg(long)]
    pub(crate) remove: bool,
    /// Fill in PCR signatures: the JSON of `uki measure --policy-digest` with a base64 `sig` in each entry
    #[arg(long, value_name = "FILE")]
    pub(crate) attach_pcrsig: Option<PathBuf>,
    /// Write what the key of --sb-cert is to sign to this file, the bare digest, and sign nothing
    #[arg(long, value_name = "FILE", conflicts_with_all = ["sb_key", "signer", "signature_in"], requires = "sb_cert")]
    pub(crate) digest_out: Option<PathBuf>,
    /// Take the signature of that digest from this file: raw RSASSA-PKCS1-v1_5
    #[arg(long, value_name = "FILE", conflicts_with_all = ["sb_key", "signer"], requires = "sb_cert")]
    pub(crate) signature_in: Option<PathBuf>,
    /// Keys to sign with.
    #[command(flatten)]
    pub(crate) keys: KeyArgs,
    /// Time of signing in the signatures (seconds since 1970) [default: $SOURCE_DATE_EPOCH, else none, as reproducible]
    #[arg(long, value_name = "SECONDS")]
    pub(crate) source_date_epoch: Option<u64>,
}

/// `uki verify`.
#[derive(Debug, Args)]
pub(crate) struct UkiVerifyArgs {
    /// The UKI
    pub(crate) file: PathBuf,
    /// What firmware trusts: certificates (PEM, DER), signature lists (.esl, .auth, efivarfs), or a text of SHA-256 digests; repeatable
    #[arg(long, value_name = "FILE")]
    pub(crate) db: Vec<PathBuf>,
    /// What firmware refuses; repeatable, as --db
    #[arg(long, value_name = "FILE")]
    pub(crate) dbx: Vec<PathBuf>,
    /// The key that the machines' disks are bound to: a public key or a certificate, PEM or DER
    #[arg(long, value_name = "FILE")]
    pub(crate) pcr_public_key: Option<PathBuf>,
    /// The systemd-boot that is shipped beside the UKI
    #[arg(long, value_name = "FILE")]
    pub(crate) loader: Option<PathBuf>,
    /// The UKI that machines run now: refuse what would strand them
    #[arg(long, value_name = "OLD")]
    pub(crate) upgrade_from: Option<PathBuf>,
    /// Captured machines, files or folders: refuse an upgrade that takes a driver which one of them needs; repeatable
    #[arg(long, value_name = "CAPTURE|DIR", requires = "upgrade_from")]
    pub(crate) capture: Vec<PathBuf>,
}
