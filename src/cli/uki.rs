//! `uki build`, `uki inspect` and `uki measure`.

use std::io::{Read, Seek};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use kairos_init::boot::build::{self, UkiRequest};
use kairos_init::boot::measure::{Pcr11, SectionDigests};
use kairos_init::boot::pass::Fanout;
use kairos_init::boot::pcr::{Bank, PhasePath};
use kairos_init::boot::sign::Signer;
use kairos_init::boot::uki::assemble::Payload;
use kairos_init::boot::uki::inspect::{inspect, replay};
use kairos_init::boot::uki::kernel::release_of;
use kairos_init::boot::uki::stub::{MAX_STUB, Stub};
use kairos_init::image::check_replaceable;
use kairos_init::pipeline;
use serde_json::{Map, Value};

use super::args::{GlobalArgs, UkiBuildArgs, UkiCommand, UkiFileArgs, UkiMeasureArgs};
use super::render;

const MAX_KERNEL: u64 = 256 << 20;

pub(super) fn run(command: UkiCommand, global: &GlobalArgs) -> Result<()> {
    match command {
        UkiCommand::Build(args) => run_build(&args, global),
        UkiCommand::Inspect(args) => run_inspect(&args, global),
        UkiCommand::Measure(args) => run_measure(&args, global),
        UkiCommand::Verify(args) => super::verify::run(&args, global),
    }
}

fn run_build(args: &UkiBuildArgs, global: &GlobalArgs) -> Result<()> {
    check_replaceable(&args.output)?;
    let files = super::key_files(&args.keys)?;
    let keys = pipeline::load_keys(&files)?;
    render::warn(&keys.warnings);
    let stub = super::read(&args.stub, MAX_STUB)?;
    let stub = Stub::parse(&stub).with_context(|| format!("cannot use {}", args.stub.display()))?;
    let kernel = super::read(&args.linux, MAX_KERNEL)?;
    let text = |value: &Option<String>| value.as_deref().map(super::text_or_file).transpose();
    let uname = match &args.uname {
        Some(uname) => uname.clone(),
        None => release_of(&kernel).unwrap_or_default(),
    };
    let request = UkiRequest {
        stub: &stub,
        os_release: text(&args.os_release)?.unwrap_or_default().into_bytes(),
        cmdline: build::collapse_white_space(&text(&args.cmdline)?.unwrap_or_default()).into_bytes(),
        uname: uname.into_bytes(),
        initrd: joined(&args.initrd)?,
        ucode: joined(args.ucode.as_slice())?,
        splash: joined(args.splash.as_slice())?,
        dtb: joined(args.dtb.as_slice())?,
        sbat: text(&args.sbat)?.map(String::into_bytes),
        pcr_signer: keys.pcr.as_ref().map(|signer| signer as &dyn Signer),
        secure_boot: keys.secure_boot.as_ref(),
        jobs: super::jobs(global),
        kernel,
    };
    let folder = args.output.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let cannot = || format!("cannot write {}", args.output.display());
    let mut file = tempfile::Builder::new().prefix(".kairos-init-").tempfile_in(folder).with_context(cannot)?;
    let cancel = super::cancel_on_signal()?;
    let built = build::build(request, file.as_file_mut())?;
    cancel.check()?;
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    file.as_file().set_permissions(mode).with_context(cannot)?;
    check_replaceable(&args.output)?;
    file.persist(&args.output).map_err(|error| error.error).with_context(cannot)?;
    if global.json {
        return render::print_json(&built.pcr11);
    }
    let mut out = String::new();
    for (name, bytes) in &built.sections {
        out += &format!("{name:<9} {bytes:>12}\n");
    }
    render::print(&(out + &format!("wrote     {} ({} bytes)\n", args.output.display(), built.bytes)))
}

/// Files one behind the other, each padded with zeros to 4 bytes, as the stub joins initrds.
fn joined(paths: &[PathBuf]) -> Result<Option<Payload<'static>>> {
    let mut reader: Box<dyn Read> = Box::new(std::io::empty());
    let mut length: u64 = 0;
    for path in paths {
        let padding = length.next_multiple_of(4) - length;
        let file = super::open(path)?;
        let bytes = file.metadata().with_context(|| format!("cannot read {}", path.display()))?.len();
        length = length
            .checked_add(padding)
            .and_then(|length| length.checked_add(bytes))
            .context("the files are too large")?;
        reader = Box::new(reader.chain(std::io::repeat(0).take(padding)).chain(file));
    }
    Ok((!paths.is_empty()).then_some(Payload::Reader { length, reader }))
}

fn run_inspect(args: &UkiFileArgs, global: &GlobalArgs) -> Result<()> {
    let mut file = super::open(&args.file)?;
    let sections = inspect(&mut file, &args.file.display().to_string())?;
    if global.json {
        let map: Map<String, Value> = sections
            .iter()
            .map(|(name, description)| Ok((name.to_string(), serde_json::to_value(description)?)))
            .collect::<Result<_, serde_json::Error>>()?;
        return render::print_json(&map);
    }
    let mut out = String::new();
    for (name, description) in &sections {
        out += &format!("{name}:\n  size: {} bytes\n  sha256: {}\n", description.size, description.sha256);
        if let Some(text) = &description.text {
            out += "  text:\n";
            for line in text.trim_end().lines() {
                out += &format!("    {line}\n");
            }
        }
    }
    render::print(&out)
}

fn run_measure(args: &UkiMeasureArgs, global: &GlobalArgs) -> Result<()> {
    let mut banks: Vec<Bank> = Vec::new();
    for bank in &args.pcr_banks {
        let bank = bank.parse().map_err(anyhow::Error::msg)?;
        if banks.contains(&bank) {
            bail!("PCR bank {bank} is named twice");
        }
        banks.push(bank);
    }
    let phases: Vec<PhasePath> = match args.phases.as_slice() {
        [] => build::predicted_phases(),
        given => given.iter().map(|path| path.parse().map_err(anyhow::Error::msg)).collect::<Result<_>>()?,
    };
    let mut file = super::open(&args.file)?;
    let pcr11 = measure(&mut file, &args.file, banks, &phases, super::jobs(global))?;
    if global.json {
        return render::print_json(&pcr11);
    }
    let mut out = String::new();
    for path in &phases {
        let title = if path.is_empty() { "(before any phase)".to_owned() } else { path.to_string() };
        out += &format!("# PCR 11, phase path {title}\n");
        for (bank, values) in &pcr11.0 {
            for (_, value) in values.iter().filter(|(phase, _)| phase == path) {
                out += &format!("11:{bank}={}\n", hex::encode(value));
            }
        }
    }
    render::print(&out)
}

fn measure(
    file: &mut (impl Read + Seek),
    path: &Path,
    banks: Vec<Bank>,
    phases: &[PhasePath],
    jobs: usize,
) -> Result<Pcr11> {
    let mut digests = Fanout::new(banks.into_iter().map(SectionDigests::new).collect(), jobs);
    replay(file, &path.display().to_string(), &mut digests)?;
    Ok(Pcr11::predict(&digests.finish(), phases))
}
