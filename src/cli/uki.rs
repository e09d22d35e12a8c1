//! `uki build`, `uki inspect` and `uki measure`.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use kairos_init::boot::build::{self, Profile, UkiRequest, profiles};
use kairos_init::boot::pcr::Bank;
use kairos_init::boot::section::SectionName;
use kairos_init::boot::sign::PublicKey;
use kairos_init::boot::sign::certificate::{load_public_key, parse_public_key};
use kairos_init::boot::uki::assemble::Payload;
use kairos_init::boot::uki::attach::content;
use kairos_init::boot::uki::hwids::{self, Computer};
use kairos_init::boot::uki::inspect::inspect;
use kairos_init::boot::uki::kernel::{release_of, unpack};
use kairos_init::boot::uki::pe::PeHeaders;
use kairos_init::boot::uki::profile::main_text;
use kairos_init::boot::uki::reuse;
use kairos_init::boot::uki::splash;
use kairos_init::boot::uki::stub::{MAX_STUB, Stub, StubKind};
use kairos_init::image::{REPORT, UKI, check_replaceable, mode_set};
use kairos_init::pipeline;
use serde_json::{Map, Value};

use super::args::{GlobalArgs, UkiBuildArgs, UkiCommand, UkiFileArgs};
use super::render;

const MAX_KERNEL: u64 = 256 << 20;
/// A report larger than this is none.
const MAX_REPORT: u64 = 256 << 20;
/// A `.pcrpkey` larger than this is none.
pub(super) const MAX_PCRPKEY: u64 = 64 << 10;
/// What a profile takes from another EFI program: ukify's list, and what the stub chooses device trees by.
const JOINED: [SectionName; 13] = [
    SectionName::Linux,
    SectionName::Osrel,
    SectionName::Cmdline,
    SectionName::Initrd,
    SectionName::Ucode,
    SectionName::Splash,
    SectionName::Dtb,
    SectionName::Uname,
    SectionName::Sbat,
    SectionName::Profile,
    SectionName::Dtbauto,
    SectionName::Hwids,
    SectionName::Efifw,
];

pub(super) fn run(command: UkiCommand, global: &GlobalArgs) -> Result<()> {
    match command {
        UkiCommand::Build(args) => run_build(&args, global),
        UkiCommand::Inspect(args) => run_inspect(&args, global),
        UkiCommand::Measure(args) => super::measure::run(&args, global),
        UkiCommand::Sign(args) => super::sign::run(&args, global),
        UkiCommand::Verify(args) => super::verify::run(&args, global),
    }
}

fn run_build(args: &UkiBuildArgs, global: &GlobalArgs) -> Result<()> {
    check_replaceable(&args.output)?;
    let keys = pipeline::load_keys(&super::key_files(&args.keys)?)?;
    render::warn(&keys.warnings);
    let own: Vec<PublicKey> = keys.pcr.iter().map(|key| key.public.clone()).collect();
    let mut reused =
        args.reuse_initrd.as_deref().map(|folder| Reused::open(folder, &own, super::jobs(global))).transpose()?;
    if reused.is_some() && args.stub.is_none() && (args.linux.is_some() || args.sbat.is_some()) {
        bail!(
            "with another --linux or --sbat the stub itself is needed: the one in the last UKI has its SBAT data; give --stub"
        );
    }
    let stub = match (&args.stub, &mut reused) {
        (Some(path), _) => {
            Stub::parse(&super::read(path, MAX_STUB)?).with_context(|| format!("cannot use {}", path.display()))?
        }
        (None, Some(reused)) => Stub::of_uki(&mut reused.file, &reused.name).context("give --stub")?,
        (None, None) => bail!("give --stub"),
    };
    let kernel = match (&args.linux, &mut reused) {
        (Some(path), _) => unpack(super::read(path, MAX_KERNEL)?, MAX_KERNEL)?,
        (None, Some(reused)) => reused.section(SectionName::Linux)?,
        (None, None) => Vec::new(),
    };
    refuse_mixed(args, stub.kind(), !kernel.is_empty())?;
    let mut text = |value: &Option<String>, name: SectionName| -> Result<Vec<u8>> {
        match (value, &mut reused) {
            (Some(value), _) => Ok(super::text_or_file(value)?.into_bytes()),
            (None, Some(reused)) => reused.section(name),
            (None, None) => Ok(Vec::new()),
        }
    };
    let os_release = text(&args.os_release, SectionName::Osrel)?;
    let cmdline = String::from_utf8_lossy(&text(&args.cmdline, SectionName::Cmdline)?).into_owned();
    let cmdline = build::collapse_white_space(&cmdline);
    let uname = match &args.uname {
        Some(uname) => uname.clone(),
        None if args.linux.is_some() => release_of(&kernel, MAX_KERNEL).unwrap_or_default(),
        None => String::from_utf8_lossy(&text(&None, SectionName::Uname)?).into_owned(),
    };
    let modules = String::from_utf8_lossy(&text(&None, SectionName::Uname)?).into_owned();
    if reused_and_other(args, &modules, &uname) {
        render::warn(&[format!(
            "the initrd that is taken over is for kernel {modules}, the kernel is {uname}: its modules do not load"
        )]);
    }
    let sbat = args.sbat.as_deref().map(super::text_or_file).transpose()?;
    let pcrpkey = args.pcrpkey.as_deref().map(load_public_key).transpose()?.map(|key| key.pem().as_bytes().to_vec());
    let policies = super::policies(&args.policies, pcrpkey)?;
    keys.policies(&policies)?;
    let mut entries = profiles(&super::profile_specs(&args.profile)?, &cmdline)?;
    if entries.is_empty() && !args.join_profile.is_empty() {
        entries.push(Profile { text: main_text().into_bytes(), sections: Vec::new() });
    }
    for path in &args.join_profile {
        entries.push(joined_profile(path)?);
    }
    refuse_same_ids(&entries)?;
    if let Some(path) = &args.splash {
        check_splash(path)?;
    }
    let or_reused = |files: &[PathBuf], name: SectionName| match (&reused, files.is_empty()) {
        (Some(reused), true) => reused.payload(name),
        _ => joined(files),
    };
    let known = reused.as_ref().map(|reused| reused.digests.clone()).unwrap_or_default();
    let cancel = super::cancel_on_signal()?;
    let request = UkiRequest {
        os_release,
        cmdline: cmdline.into_bytes(),
        uname: uname.into_bytes(),
        initrd: or_reused(&args.initrd, SectionName::Initrd)?,
        ucode: or_reused(args.ucode.as_slice(), SectionName::Ucode)?,
        splash: or_reused(args.splash.as_slice(), SectionName::Splash)?,
        dtb: or_reused(args.dtb.as_slice(), SectionName::Dtb)?,
        initrd_digests: known.iter().filter(|(bank, _)| **bank != Bank::Sha256).map(|(b, d)| (*b, d.clone())).collect(),
        dtbauto: args
            .dtbauto
            .iter()
            .filter_map(|tree| joined(std::slice::from_ref(tree)).transpose())
            .collect::<Result<_>>()?,
        hwids: args.hwids.as_deref().map(hwids_section).transpose()?.unwrap_or_default(),
        others: others(args)?,
        sbat: sbat.map(String::into_bytes),
        profiles: entries,
        policies: keys.policies(&policies)?,
        signings: keys.signings(args.keys.sb_hash),
        signing_time: super::epoch(args.source_date_epoch)?,
        jobs: super::jobs(global),
        cancel: cancel.clone(),
        ..UkiRequest::new(&stub, kernel)
    };
    let cannot = || format!("cannot write {}", args.output.display());
    let mut file = super::beside(&args.output)?;
    let built = build::build(request, file.as_file_mut())?;
    cancel.check()?;
    if reused.is_some_and(|reused| built.initrd_digests.get(&Bank::Sha256) != Some(&reused.sha256)) {
        bail!(
            "the initrd of {} is not the one that its report.json is about: make it anew, without --reuse-initrd",
            args.reuse_initrd.as_deref().unwrap_or(Path::new("")).display()
        );
    }
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    mode_set(file.as_file().set_permissions(mode)).with_context(cannot)?;
    check_replaceable(&args.output)?;
    file.persist(&args.output).map_err(|error| error.error).with_context(cannot)?;
    if global.json {
        return render::print_json(&built.predictions);
    }
    let mut out = String::new();
    for (name, bytes) in &built.sections {
        out += &format!("{name:<9} {bytes:>12}\n");
    }
    render::print(&(out + &format!("wrote     {} ({} bytes)\n", args.output.display(), built.bytes)))
}

/// Whether the kernel is another one than the initrd that is taken over was made for.
fn reused_and_other(args: &UkiBuildArgs, modules: &str, uname: &str) -> bool {
    args.reuse_initrd.is_some() && !modules.is_empty() && modules != uname
}

/// What a UKI needs, and what an addon cannot have.
fn refuse_mixed(args: &UkiBuildArgs, kind: StubKind, has_kernel: bool) -> Result<()> {
    if kind == StubKind::Uki {
        return match has_kernel {
            true => Ok(()),
            false => bail!("a UKI needs a kernel: give --linux; for an addon give the addon stub (addonx64.efi.stub)"),
        };
    }
    let keys = &args.keys;
    let has = [
        ("--linux", args.linux.is_some()),
        ("--reuse-initrd", args.reuse_initrd.is_some()),
        ("--profile", !args.profile.is_empty()),
        ("--join-profile", !args.join_profile.is_empty()),
        ("--splash", args.splash.is_some()),
        ("--pcr-key and --pcr-public-key", !keys.pcr_key.is_empty() || !keys.pcr_public_key.is_empty()),
        ("--pcrpkey", args.pcrpkey.is_some()),
    ];
    match has.iter().find(|(_, given)| *given) {
        Some((option, _)) => bail!("an addon has no {option}: it is measured and started by the UKI that loads it"),
        None => Ok(()),
    }
}

/// The UKI of an output folder, from which what is not given is taken.
struct Reused {
    file: File,
    path: PathBuf,
    name: String,
    /// Of the initrd, as the report has it: checked in any case.
    sha256: Vec<u8>,
    /// Of the initrd, as far as the image proves them.
    digests: BTreeMap<Bank, Vec<u8>>,
}

impl Reused {
    fn open(folder: &Path, keys: &[PublicKey], jobs: usize) -> Result<Self> {
        let path = folder.join(UKI);
        let name = path.display().to_string();
        let report = folder.join(REPORT);
        let value: Value = serde_json::from_slice(&super::read(&report, MAX_REPORT)?)
            .with_context(|| format!("{} is no report of the whole run", report.display()))?;
        let recorded = value.pointer("/initrd/digests").and_then(Value::as_object).into_iter().flatten();
        let recorded: BTreeMap<Bank, Vec<u8>> = recorded
            .filter_map(|(bank, digest)| Some((bank.parse().ok()?, hex::decode(digest.as_str()?).ok()?)))
            .collect();
        let Some(sha256) = recorded.get(&Bank::Sha256).cloned() else {
            bail!("{} has no digests of the initrd: it is of an older version; build it anew", report.display());
        };
        let mut file = super::open(&path)?;
        let digests = reuse::proven(&mut file, &name, &recorded, keys, jobs)?;
        if digests.len() < recorded.len() {
            render::warn(&[format!(
                "{name} has no policies by the PCR key of this run that prove the digests of its initrd in {} of {} banks: they are taken \
                 anew",
                recorded.len() - digests.len(),
                recorded.len()
            )]);
        }
        Ok(Self { file, path, name, sha256, digests })
    }

    fn section(&mut self, name: SectionName) -> Result<Vec<u8>> {
        Ok(content(&mut self.file, &self.name, name.as_str(), MAX_KERNEL)?.unwrap_or_default())
    }

    fn payload(&self, name: SectionName) -> Result<Option<Payload<'static>>> {
        Ok(reuse::payload(super::open(&self.path)?, &self.name, name)?)
    }
}

fn check_splash(path: &PathBuf) -> Result<()> {
    let mut file = super::open(path)?;
    let length = file.metadata().with_context(|| format!("cannot read {}", path.display()))?.len();
    let mut header = Vec::new();
    Read::by_ref(&mut file)
        .take(splash::HEADERS as u64)
        .read_to_end(&mut header)
        .with_context(|| format!("cannot read {}", path.display()))?;
    splash::check(&header, length).with_context(|| format!("cannot use {}", path.display()))
}

/// The JSON files of a folder and of those in it, sorted.
fn hwids_section(folder: &Path) -> Result<Vec<u8>> {
    let (mut pending, mut paths) = (vec![folder.to_owned()], Vec::new());
    while let Some(folder) = pending.pop() {
        let cannot = || format!("cannot read {}", folder.display());
        for entry in std::fs::read_dir(&folder).with_context(cannot)? {
            let entry = entry.with_context(cannot)?;
            match entry.file_type().with_context(cannot)?.is_dir() {
                true => pending.push(entry.path()),
                false if entry.path().extension().is_some_and(|ending| ending == "json") => paths.push(entry.path()),
                false => {}
            }
        }
    }
    if paths.is_empty() {
        bail!("{} has no .json file", folder.display());
    }
    paths.sort();
    let computer = |path: &PathBuf| {
        let name = path.display().to_string();
        Ok((name.clone(), Computer::parse(&super::read(path, 1 << 20)?, &name)?))
    };
    let computers: Vec<_> = paths.iter().map(computer).collect::<Result<_>>()?;
    Ok(hwids::section(&computers)?)
}

/// `--sbom` and `--section`.
fn others(args: &UkiBuildArgs) -> Result<Vec<(SectionName, Payload<'static>)>> {
    let mut out = Vec::new();
    for text in &args.section {
        let (name, content) = text.split_once(':').with_context(|| {
            format!("--section {text:?} has no colon: write NAME:TEXT or NAME:@FILE (example: .mine:@notes.txt)")
        })?;
        let name: SectionName = name.parse().context("--section")?;
        if !matches!(name, SectionName::Other(_)) {
            bail!(
                "--section {name}: what the stub knows is not given by --section; see the options of `kairos-init uki build --help`"
            );
        }
        let payload = match content.strip_prefix('@') {
            Some(path) => joined(&[PathBuf::from(path)])?,
            None => Some(Payload::Bytes(content.as_bytes().to_vec())),
        };
        out.extend(payload.map(|payload| (name, payload)));
    }
    if let Some(payload) = joined(args.sbom.as_slice())? {
        out.push((".sbom".parse()?, payload));
    }
    Ok(out)
}

/// The boot menu tells entries apart by their ids.
fn refuse_same_ids(entries: &[Profile<'_>]) -> Result<()> {
    let mut seen = Vec::new();
    for entry in entries {
        let text = String::from_utf8_lossy(&entry.text).into_owned();
        let id = text.lines().find_map(|line| line.strip_prefix("ID=")).map(|id| id.trim_matches('"').to_owned());
        if let Some(id) = id.filter(|id| !id.is_empty()) {
            if seen.contains(&id) {
                bail!("two boot entries have the id {id}: give them other titles");
            }
            seen.push(id);
        }
    }
    Ok(())
}

/// A boot entry from another EFI program: its `.profile`, and the sections behind it.
fn joined_profile(path: &PathBuf) -> Result<Profile<'static>> {
    let bad = |problem: &str| anyhow::anyhow!("{} cannot be joined as a profile: {problem}", path.display());
    let mut file = super::open(path)?;
    let pe = PeHeaders::read(&mut file, &path.display().to_string())?;
    let wanted = pe.sections.iter().filter_map(|section| {
        let name = SectionName::parse(&section.name()).filter(|name| JOINED.contains(name))?;
        Some((name, section))
    });
    let (mut text, mut sections) = (None, Vec::new());
    for (name, section) in wanted {
        let length = u64::from(section.content_size());
        if text.is_none() && name != SectionName::Profile {
            return Err(bad(&format!("its first section must be .profile, and is {name}")));
        }
        let mut part = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
        part.seek(SeekFrom::Start(section.raw_offset.into()))?;
        if name == SectionName::Profile {
            if text.is_some() {
                return Err(bad("it has several .profile sections"));
            }
            let mut bytes = Vec::new();
            part.take(length.min(MAX_PCRPKEY)).read_to_end(&mut bytes)?;
            text = Some(bytes);
        } else if name == SectionName::Linux {
            // The stub has demands of it, which building checks.
            let mut bytes = Vec::new();
            part.take(length.min(MAX_KERNEL)).read_to_end(&mut bytes)?;
            sections.push((name, Payload::Bytes(bytes)));
        } else {
            sections.push((name, Payload::Reader { length, reader: Box::new(part.take(length)) }));
        }
    }
    let text = text.ok_or_else(|| bad("it has no .profile section"))?;
    Ok(Profile { text, sections })
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
    // ukify fills up the last as well, where there are several.
    if paths.len() > 1 {
        let padding = length.next_multiple_of(4) - length;
        length += padding;
        reader = Box::new(reader.chain(std::io::repeat(0).take(padding)));
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

/// The key in `.pcrpkey`, if the image has one.
pub(super) fn pcrpkey(file: &mut (impl Read + Seek), path: &Path) -> Result<Option<PublicKey>> {
    let what = path.display().to_string();
    let pem = content(file, &what, SectionName::Pcrpkey.as_str(), MAX_PCRPKEY)?;
    Ok(pem.map(|pem| parse_public_key(&pem, &format!("the .pcrpkey of {what}"))).transpose()?)
}
