//! One file for each command: arguments -> request -> the library -> text or JSON.

pub(crate) mod args;
mod hardware;
mod keys;
mod plan;
pub(crate) mod render;
mod run;
mod slim;
mod uki;
mod verify;
mod why;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use args::{Cli, Command, FirmwareVersionsArg, GlobalArgs, KeyArgs, SelectArgs, UnknownFirmwareArg};
use kairos_init::cancel::Cancel;
use kairos_init::drivers::select::{FirmwareVersions, UnknownFirmware};
use kairos_init::drivers::target::is_file;
use kairos_init::names::KernelRelease;
use kairos_init::pipeline::{Hardware, KeyFiles, SelectRequest};
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
    let secure_boot = match (&args.sb_key, &args.sb_cert) {
        (Some(key), Some(certificate)) => Some((key.clone(), certificate.clone())),
        (None, None) => None,
        (Some(_), None) => bail!("--sb-key needs --sb-cert, the certificate of that key"),
        (None, Some(_)) => bail!("--sb-cert needs --sb-key, the private key of that certificate"),
    };
    Ok(KeyFiles { secure_boot, pcr: args.pcr_key.clone() })
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

fn open(path: &PathBuf) -> Result<std::fs::File> {
    let file = std::fs::File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    if !file.metadata().with_context(|| format!("cannot read {}", path.display()))?.is_file() {
        bail!("{} is not a file", path.display());
    }
    Ok(file)
}
