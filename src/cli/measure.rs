//! `uki measure`: predictions, policies to be signed, and a machine's event log beside them.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Cursor, Read, Seek};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use kairos_init::boot::build::{self, Policies, PolicyKey};
use kairos_init::boot::measure::compare::compare;
use kairos_init::boot::measure::event::Digests;
use kairos_init::boot::measure::eventlog::EventLog;
use kairos_init::boot::measure::firmware::{
    PCR_BOOT_PROGRAMS, PCR_SECURE_BOOT, SecureBootVariables, pcr4_events, pcr7_events, stub_has_kernel_measured,
};
use kairos_init::boot::measure::image::LoadedImage;
use kairos_init::boot::measure::prediction::Prediction;
use kairos_init::boot::measure::{Predictions, SectionDigests};
use kairos_init::boot::pass::Fanout;
use kairos_init::boot::pcr::{Bank, PhasePath};
use kairos_init::boot::sign::PublicKey;
use kairos_init::boot::sign::certificate::load_public_key;
use kairos_init::boot::sign::policy::Pcrsig;
use kairos_init::boot::uki::attach::content;
use kairos_init::boot::uki::inspect::replay;
use kairos_init::boot::uki::stub::version_of;

use super::args::{GlobalArgs, SwitchArg, UkiMeasureArgs};
use super::render;
use super::uki::pcrpkey;

/// A variable larger than this is none: dbx of a machine has 20 KiB.
const MAX_VARIABLE: u64 = 4 << 20;
/// An event log larger than this is none.
const MAX_LOG: u64 = 64 << 20;
/// `EFI_GLOBAL_VARIABLE`, as efivarfs writes it.
const GLOBAL: &str = "8be4df61-93ca-11d2-aa0d-00e098032b8c";
/// `EFI_IMAGE_SECURITY_DATABASE_GUID`, as efivarfs writes it.
const SECURITY: &str = "d719b2cb-3d3a-4596-a3bc-dad00e67656f";

pub(super) fn run(args: &UkiMeasureArgs, global: &GlobalArgs) -> Result<()> {
    let phases: Vec<PhasePath> =
        args.phases.iter().map(|path| path.parse().map_err(anyhow::Error::msg)).collect::<Result<_>>()?;
    let mut file = super::open(&args.file)?;
    let (digests, titles) = measure(&mut file, &args.file, super::banks(&args.pcr_banks)?, super::jobs(global))?;
    if args.policy_digest {
        let phases = if phases.is_empty() { PhasePath::signed_by_default() } else { phases };
        return render::print_json(&policy_digests(args, &mut file, &digests, &phases)?);
    }
    let forecast = forecast(args, &mut file, &digests)?;
    if let Some(log) = &args.replay {
        return replay_log(log, &forecast, global);
    }
    let phases = if phases.is_empty() { build::predicted_phases() } else { phases };
    let predictions = Predictions::new(&digests, &titles, &phases);
    let of_firmware: Vec<(u32, Bank, String)> = [PCR_BOOT_PROGRAMS, PCR_SECURE_BOOT]
        .into_iter()
        .flat_map(|pcr| digests.iter().map(move |digests| (pcr, digests.bank())))
        .filter_map(|(pcr, bank)| Some((pcr, bank, hex::encode(forecast.value(pcr, bank)?))))
        .collect();
    if global.json {
        let mut all = serde_json::to_value(&predictions)?;
        for (pcr, bank, hash) in of_firmware {
            if let Some(list) = all.get_mut(bank.as_str()).and_then(|list| list.as_array_mut()) {
                list.push(serde_json::json!({ "phase": "", "pcr": pcr, "hash": hash }));
            }
        }
        return render::print_json(&all);
    }
    let mut out = String::new();
    let several = predictions.0.len() > 1;
    for prediction in &predictions.0 {
        let variant = &prediction.variant;
        let mut which = String::new();
        if several {
            which += &format!(", profile {}", variant.profile);
            if !prediction.title.is_empty() {
                which += &format!(" ({})", prediction.title);
            }
            for (name, chosen) in [(".dtbauto", variant.dtbauto), (".efifw", variant.efifw)] {
                which += &chosen.map(|index| format!(", {name} {index}")).unwrap_or_default();
            }
        }
        for path in &phases {
            let title = if path.is_empty() { "(before any phase)".to_owned() } else { path.to_string() };
            out += &format!("# PCR 11{which}, phase path {title}\n");
            for (bank, values) in &prediction.pcrs.0 {
                for (_, value) in values.iter().filter(|(phase, _)| phase == path) {
                    out += &format!("11:{bank}={}\n", hex::encode(value));
                }
            }
        }
    }
    for pcr in [PCR_BOOT_PROGRAMS, PCR_SECURE_BOOT] {
        let own = of_firmware.iter().filter(|(other, ..)| *other == pcr);
        let lines: String = own.map(|(pcr, bank, hash)| format!("{pcr}:{bank}={hash}\n")).collect();
        if !lines.is_empty() {
            out += &format!("# PCR {pcr}\n{lines}");
        }
    }
    render::print(&out)
}

/// The events of PCR 11; with a machine's variables also those of PCR 4 and PCR 7.
fn forecast(args: &UkiMeasureArgs, file: &mut File, digests: &[SectionDigests]) -> Result<Prediction> {
    let Some(first) = digests.first() else { return Ok(Prediction::new()) };
    let Some(variant) = first.variants(args.profile.unwrap_or(0)).into_iter().nth(args.variant.unwrap_or(0)) else {
        bail!("the profile has fewer ways to boot: `kairos-init uki measure` lists them");
    };
    if args.profile.is_some_and(|profile| profile >= first.profiles()) {
        bail!("--profile {}: there are {} profiles, counted from 0", args.profile.unwrap_or(0), first.profiles());
    }
    let mut sections: Vec<(&str, BTreeMap<Bank, Vec<u8>>)> = Vec::new();
    for bank in digests {
        for (index, (name, digest)) in bank.measured_names(variant).into_iter().enumerate() {
            match sections.get_mut(index) {
                Some((_, digests)) => drop(digests.insert(bank.bank(), digest.to_vec())),
                None => sections.push((name, BTreeMap::from([(bank.bank(), digest.to_vec())]))),
            }
        }
    }
    let sections: Vec<(&str, Digests)> = sections
        .into_iter()
        .map(|(name, digests)| Ok((name, Digests::new(digests).map_err(anyhow::Error::msg)?)))
        .collect::<Result<_>>()?;
    let prediction = Prediction::new().with_pcr11(&sections);
    let Some(machine) = Machine::of(args)? else { return Ok(prediction) };
    let mut images = Vec::new();
    for path in args.loader.iter().chain([&args.file]) {
        images.push(LoadedImage::read(&mut super::open(path)?, &path.display().to_string())?);
    }
    let variables = machine.variables();
    let version = content(file, &args.file.display().to_string(), ".sdmagic", 4096)?.as_deref().and_then(version_of);
    let secure_boot = variables.secure_boot == Some(true);
    let events = pcr7_events(&variables, &images)?;
    if version.is_some_and(|version| stub_has_kernel_measured(version, secure_boot))
        && let Some(kernel) = content(file, &args.file.display().to_string(), ".linux", 1 << 30)?
    {
        images.push(LoadedImage::read(&mut Cursor::new(kernel), "the kernel in the UKI")?);
    }
    Ok(prediction.with(PCR_BOOT_PROGRAMS, pcr4_events(&images)).with(PCR_SECURE_BOOT, events))
}

/// A machine's Secure Boot variables.
struct Machine {
    secure_boot: Option<bool>,
    /// PK, KEK, db, dbx.
    lists: [Vec<u8>; 4],
}

impl Machine {
    /// Nothing where none of them is given.
    fn of(args: &UkiMeasureArgs) -> Result<Option<Self>> {
        let given = [&args.pk, &args.kek, &args.db, &args.dbx];
        if args.efivars.is_none() && given.iter().all(|file| file.is_none()) {
            if args.loader.is_some() {
                bail!(
                    "--loader is for PCR 4 and 7, which need the machine's variables: give --efivars, or --pk, --kek, --db and --dbx"
                );
            }
            return Ok(None);
        }
        let found = |name: &str| -> Result<Option<Vec<u8>>> {
            let Some(folder) = &args.efivars else { return Ok(None) };
            let names =
                [name.to_owned(), format!("{name}.esl"), format!("{name}-{GLOBAL}"), format!("{name}-{SECURITY}")];
            let path = names.iter().map(|name| folder.join(name)).find(|path| path.exists());
            path.map(|path| super::read(&path, MAX_VARIABLE)).transpose()
        };
        let list = |name: &str, file: &Option<PathBuf>| match file {
            Some(path) => super::read(path, MAX_VARIABLE),
            None => Ok(found(name)?.unwrap_or_default()),
        };
        let lists = [list("PK", &args.pk)?, list("KEK", &args.kek)?, list("db", &args.db)?, list("dbx", &args.dbx)?];
        // efivarfs has four bytes of attributes before the value.
        if let Some(folder) = args.efivars.as_ref().filter(|_| lists.iter().all(Vec::is_empty))
            && found("SecureBoot")?.is_none()
        {
            bail!("{} has none of the variables PK, KEK, db, dbx and SecureBoot", folder.display());
        }
        let secure_boot = match found("SecureBoot")? {
            Some(value) => Some(value.last() == Some(&1)),
            None => Some(args.secure_boot != SwitchArg::Off),
        };
        Ok(Some(Self { secure_boot, lists }))
    }

    fn variables(&self) -> SecureBootVariables<'_> {
        let [pk, kek, db, dbx] = &self.lists;
        SecureBootVariables { secure_boot: self.secure_boot, pk, kek, db, dbx }
    }
}

fn replay_log(path: &Path, prediction: &Prediction, global: &GlobalArgs) -> Result<()> {
    let bytes = super::read(path, MAX_LOG)?;
    let log = EventLog::parse(&bytes).with_context(|| format!("{} is no TCG event log", path.display()))?;
    let comparison = compare(&log, prediction);
    match global.json {
        true => render::print_json(&comparison)?,
        false => render::print(&comparison.to_string())?,
    }
    match comparison.is_equal() {
        true => Ok(()),
        false => bail!("the machine did not measure what was predicted"),
    }
}

/// What keys are to sign: of all profiles in one list, each policy once.
fn policy_digests(
    args: &UkiMeasureArgs,
    file: &mut File,
    digests: &[SectionDigests],
    phases: &[PhasePath],
) -> Result<Pcrsig> {
    let mut keys: Vec<PublicKey> =
        args.pcr_public_key.iter().map(|path| load_public_key(path)).collect::<Result<_, _>>()?;
    if keys.is_empty() {
        keys.extend(pcrpkey(file, &args.file)?);
    }
    if keys.is_empty() {
        bail!("{} has no .pcrpkey section: name the public key with --pcr-public-key", args.file.display());
    }
    let key = |public| PolicyKey { public, signer: None, phases: phases.to_vec() };
    let policies = Policies {
        keys: keys.iter().map(key).collect(),
        banks: digests.iter().map(SectionDigests::bank).collect(),
        reference: args.policy_ref.clone(),
        public_key: None,
    };
    let mut all = Pcrsig::new();
    for profile in 0..digests.first().map_or(0, SectionDigests::profiles) {
        for (bank, list) in build::unsigned_policies(&policies, digests, profile)? {
            let known = all.entry(bank).or_default();
            list.into_iter().for_each(|policy| {
                if !known.contains(&policy) {
                    known.push(policy);
                }
            });
        }
    }
    Ok(all)
}

fn measure(
    file: &mut (impl Read + Seek),
    path: &Path,
    banks: Vec<Bank>,
    jobs: usize,
) -> Result<(Vec<SectionDigests>, Vec<String>)> {
    let mut digests = Fanout::new(banks.into_iter().map(SectionDigests::new).collect(), jobs);
    let profiles = replay(file, &path.display().to_string(), &mut digests)?;
    Ok((digests.finish(), profiles.iter().map(|text| build::title(text)).collect()))
}
