//! One file for each command: arguments -> request -> the library -> text or JSON.

pub(crate) mod args;
mod auroraboot;
mod hardware;
mod image;
mod keys;
mod measure;
mod plan;
pub(crate) mod render;
mod run;
mod sign;
mod slim;
mod uki;
mod verify;
mod why;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use args::{
    Cli, Command, FirmwareVersionsArg, GlobalArgs, KeyArgs, PassphraseArgs, PolicyArgs, SelectArgs, SignerInputArg,
    UnknownFirmwareArg,
};
use kairos_init::boot::pcr::{Bank, PhasePath};
use kairos_init::boot::sign::Passphrase;
use kairos_init::boot::sign::command::SignerInput;
use kairos_init::boot::sign::passphrase::PassphraseSource;
use kairos_init::boot::uki::profile::ProfileSpec;
use kairos_init::cancel::Cancel;
use kairos_init::drivers::select::{FirmwareVersions, UnknownFirmware};
use kairos_init::drivers::target::is_file;
use kairos_init::image::check_folder;
use kairos_init::names::KernelRelease;
use kairos_init::pipeline::{ExternalSigner, Hardware, KeyFiles, PolicyRequest, SelectRequest};
use kairos_init::root::initrd::Compression;

/// A text file given on the command line (`@FILE`, a hardware target) is no larger than this.
const MAX_TEXT: u64 = 4 << 20;

/// Runs what was asked for.
pub(crate) fn run(cli: Cli) -> Result<()> {
    let global = cli.global;
    match cli.command {
        None => run::run(cli.run, &global),
        Some(Command::Plan(args)) => plan::run(&args, &global),
        Some(Command::Why(args)) => why::run(&args, &global),
        Some(Command::Slim(args)) => slim::run(&args, &global),
        Some(Command::Hardware(command)) => hardware::run(command, &global),
        Some(Command::Uki(command)) => uki::run(command, &global),
        Some(Command::Keys(command)) => keys::run(command, &global),
        Some(Command::Image(command)) => image::run(command, &global),
        Some(Command::BuildUki(args)) => auroraboot::build_uki(*args, &global),
        Some(Command::Genkey(args)) => auroraboot::genkey(args, &global),
        Some(Command::Version) => render::print(&format!("kairos-init {}\n", env!("CARGO_PKG_VERSION"))),
    }
}

/// A flag that Ctrl-C, SIGTERM and SIGHUP set; a second signal ends the program at once.
fn cancel_on_signal() -> Result<Cancel> {
    let cancel = Cancel::default();
    let flag = cancel.clone();
    ctrlc::set_handler(move || {
        if flag.is_cancelled() {
            std::process::exit(1);
        }
        flag.cancel();
    })
    .context("cannot install a signal handler")?;
    Ok(cancel)
}

/// `--source-date-epoch`, else what the environment says. An empty variable is none: container builds pass such ones on.
fn epoch<T: std::str::FromStr>(given: Option<T>) -> Result<Option<T>> {
    const VARIABLE: &str = "SOURCE_DATE_EPOCH";
    match (given, std::env::var(VARIABLE)) {
        (Some(given), _) => Ok(Some(given)),
        (None, Err(std::env::VarError::NotPresent)) => Ok(None),
        (None, Ok(text)) if text.is_empty() => Ok(None),
        (None, text) => match text.ok().and_then(|text| text.parse().ok()) {
            Some(seconds) => Ok(Some(seconds)),
            None => {
                bail!("{VARIABLE} in the environment is no number of seconds since 1970: set it right, or unset it")
            }
        },
    }
}

fn jobs(global: &GlobalArgs) -> usize {
    match global.jobs {
        Some(jobs) => usize::from(jobs),
        None => std::thread::available_parallelism().map_or(1, usize::from),
    }
}

/// `--compression`, with as many workers as there are jobs and memory for.
fn compression(text: &str, jobs: usize) -> Result<Compression> {
    let compression: Compression = text.parse().context("--compression")?;
    Ok(compression.with_workers(u32::try_from(jobs).unwrap_or(u32::MAX)).capped_by_memory(machine_memory()))
}

/// Bytes of memory that this machine has; 0 where it does not tell, which leaves the compressor its smallest budget.
fn machine_memory() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kibibytes =
        text.lines().find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB")?.parse().ok());
    kibibytes.unwrap_or(0_u64).saturating_mul(1024)
}

/// A target as it is named: built in, or a file.
fn hardware_of(name: &str) -> Result<Hardware> {
    Ok(match is_file(name) {
        true => Hardware::File { path: name.to_owned(), text: read_text(Path::new(name))? },
        false => Hardware::Name(name.to_owned()),
    })
}

fn select_request(args: &SelectArgs) -> Result<SelectRequest> {
    Ok(SelectRequest {
        root: args.root.clone(),
        hardware: args.hardware.iter().map(|name| hardware_of(name)).collect::<Result<_>>()?,
        keep: args.keep.clone(),
        drop: args.drop.clone(),
        allow_empty: args.allow_empty,
        firmware_versions: match args.firmware_versions {
            FirmwareVersionsArg::Newest => FirmwareVersions::Newest,
            FirmwareVersionsArg::All => FirmwareVersions::All,
        },
        unknown_firmware: match args.unknown_firmware {
            UnknownFirmwareArg::Keep => UnknownFirmware::Keep,
            UnknownFirmwareArg::Drop => UnknownFirmware::Drop,
        },
        cache: args.cache.clone(),
        kernel: args.kernel.as_deref().map(KernelRelease::new).transpose().context("--kernel")?,
        check_signatures: false,
    })
}

fn key_files(args: &KeyArgs) -> Result<KeyFiles> {
    if args.sb_key.len() > args.sb_cert.len() {
        bail!("each --sb-key needs a --sb-cert, the certificate of that key");
    }
    if args.sb_cert.len() > args.sb_key.len() && args.signer.is_none() {
        bail!(
            "each --sb-cert needs a --sb-key, the private key of that certificate, or a --signer that has it \
             (or --digest-out and --signature-in of `uki sign`)"
        );
    }
    let keys = args.sb_key.iter().cloned().map(Some).chain(std::iter::repeat(None));
    let input = match args.signer_input {
        SignerInputArg::Digest => SignerInput::Digest,
        SignerInputArg::DigestInfo => SignerInput::DigestInfo,
    };
    let hidden = match &args.passphrase.key_passphrase {
        Some(PassphraseSource::Environment(name)) => Some(name.clone()),
        _ => None,
    };
    Ok(KeyFiles {
        secure_boot: keys.zip(args.sb_cert.iter().cloned()).collect(),
        pcr: args.pcr_key.clone(),
        pcr_public: args.pcr_public_key.clone(),
        signer: args.signer.clone().map(|command| ExternalSigner { command, input, hidden }),
        passphrase: passphrase(&args.passphrase)?,
    })
}

/// `--pcr-banks`, `--phases`, `--policy-ref`.
fn policies(args: &PolicyArgs, public_key: Option<Vec<u8>>) -> Result<PolicyRequest> {
    let path = |path: &str| path.trim().parse::<PhasePath>().map_err(anyhow::Error::msg).context("--phases");
    let list = |list: &String| -> Result<Vec<PhasePath>> {
        let mut paths = Vec::new();
        for text in list.split([',', ' ']).filter(|text| !text.is_empty()) {
            let path = path(text)?;
            if !paths.contains(&path) {
                paths.push(path);
            }
        }
        if paths.is_empty() {
            bail!("--phases names no phase path: leave it out for systemd's four");
        }
        Ok(paths)
    };
    Ok(PolicyRequest {
        banks: banks(&args.pcr_banks)?,
        phases: args.phases.iter().map(list).collect::<Result<_>>()?,
        reference: args.policy_ref.clone(),
        public_key,
    })
}

/// `--pcr-banks`: each once, sorted.
fn banks(given: &[Bank]) -> Result<Vec<Bank>> {
    let mut banks = given.to_vec();
    banks.sort_unstable();
    banks.dedup();
    if banks.len() < given.len() {
        bail!("--pcr-banks names a bank twice");
    }
    Ok(banks)
}

/// `--profile`.
fn profile_specs(given: &[String]) -> Result<Vec<ProfileSpec>> {
    let mut specs = Vec::new();
    for text in given {
        match text.starts_with('@') {
            true => specs.extend(ProfileSpec::parse_file(&text_or_file(text)?)?),
            false => specs.push(ProfileSpec::parse(text)?),
        }
    }
    Ok(specs)
}

/// `--key-passphrase`.
fn passphrase(args: &PassphraseArgs) -> Result<Option<Passphrase>> {
    let environment = |name: &str| std::env::var_os(name).map(std::os::unix::ffi::OsStringExt::into_vec);
    let read = args.key_passphrase.as_ref().map(|source| source.read(environment));
    read.transpose().context("--key-passphrase")
}

/// `TEXT`, or the content of a file where it begins with `@`, as ukify reads it.
fn text_or_file(value: &str) -> Result<String> {
    match value.strip_prefix('@') {
        Some(path) => read_text(Path::new(path)),
        None => Ok(value.to_owned()),
    }
}

fn read_text(path: &Path) -> Result<String> {
    let bytes = read(path, MAX_TEXT)?;
    String::from_utf8(bytes).ok().with_context(|| format!("{} is not UTF-8 text", path.display()))
}

fn read(path: &Path, limit: u64) -> Result<Vec<u8>> {
    let cannot = || format!("cannot read {}", path.display());
    let file = std::fs::File::open(path).with_context(cannot)?;
    let length = file.metadata().with_context(cannot)?.len();
    if length > limit {
        bail!("{} has {length} bytes, more than the {limit} that such a file may have", path.display());
    }
    let mut bytes = Vec::new();
    std::io::Read::read_to_end(&mut std::io::Read::take(file, limit), &mut bytes).with_context(cannot)?;
    Ok(bytes)
}

/// A temporary file where `path` will be, to be renamed to it.
fn beside(path: &Path) -> Result<tempfile::NamedTempFile> {
    let folder = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // Asked here: an error of the temporary file's would show a name that nobody knows.
    check_folder(folder, Path::new(""))?;
    if !folder.is_dir() {
        let (path, folder) = (path.display(), folder.display());
        bail!("cannot write {path}: the folder {folder} is not there; make it (mkdir -p {folder})");
    }
    let made = tempfile::Builder::new().prefix(".kairos-init-").tempfile_in(folder);
    made.with_context(|| format!("cannot write {}", path.display()))
}

fn open(path: &PathBuf) -> Result<std::fs::File> {
    let file = std::fs::File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    if !file.metadata().with_context(|| format!("cannot read {}", path.display()))?.is_file() {
        bail!("{} is not a file", path.display());
    }
    Ok(file)
}
