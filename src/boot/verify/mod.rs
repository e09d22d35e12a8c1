//! Would this UKI boot, and would the disk unlock? Plays firmware, then the stub, then the kernel, then Kairos.
//!
//! | file | plays |
//! |---|---|
//! | `image`, `layout` | firmware's loader: headers and their rules; the stub's demands on the kernel |
//! | `pass` | one reading of the file for all digests |
//! | `signature`, `trust`, `sbat` | Secure Boot |
//! | `texts`, `unseal` | the stub: sections and profiles, PCR 11, the signed policies |
//! | `initrd`, `listing` | the kernel that unpacks the root, and what is in there |
//! | `kairos`, `upgrade` | immucore and kairos-agent; a machine that runs an older image |
//!
//! Shares no code with what builds UKIs, so that a mistake there is found here. Memory: headers, texts, the buffers of the
//! pass, the window of the initrd's compression (which the kernel needs as well), the names of the modules; nothing grows
//! with the file. Left out: `.esl` and `.auth` files ([`load_database`] is the place for them), elliptic curves, time stamps
//! (firmware does not ask for them).

mod image;
mod initrd;
mod kairos;
mod layout;
mod listing;
mod pass;
mod report;
mod sbat;
mod signature;
mod signed;
mod source;
mod texts;
mod trust;
mod unseal;
mod upgrade;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use rsa::RsaPublicKey;
use rsa::pkcs1::DecodeRsaPublicKey;
use rsa::pkcs8::DecodePublicKey;

pub use report::{Finding, Outcome, Report};
pub use signed::verify_signature;
pub use source::Source;
pub use trust::{Database, load_database};

use crate::boot::pcr::Bank;
use crate::boot::section::SectionName;
use crate::boot::sign::{SignError, certificate::load_certificate};
use image::{HEADER_LIMIT, Image, Profile};
use initrd::{Trouble, Unpacked};
use signature::Table;
use texts::Texts;
use upgrade::Facts;

/// A public key file is no larger than this.
const KEY_LIMIT: u64 = 64 << 10;
/// More initrds than any UKI has.
const INITRDS: usize = 16;

/// What the image is held against.
#[derive(Default)]
pub struct Request<'a> {
    /// Firmware's db; without it only the signature itself is checked.
    pub db: Option<Database>,
    /// Firmware's dbx.
    pub dbx: Database,
    /// The key whose policies the machine's disks are bound to.
    pub pcr_public_key: Option<RsaPublicKey>,
    /// The boot manager that is shipped beside it.
    pub loader: Option<&'a dyn Source>,
    /// The image that machines run now.
    pub upgrade_from: Option<&'a dyn Source>,
    /// Threads.
    pub jobs: usize,
}

/// The image cannot be read. What is wrong with it is no error but a finding.
#[derive(Debug, thiserror::Error)]
#[error("cannot read {what}: {source}")]
pub struct VerifyError {
    /// Which input.
    what: &'static str,
    /// What the system said.
    source: std::io::Error,
}

fn reading(what: &'static str) -> impl Fn(std::io::Error) -> VerifyError {
    move |source| VerifyError { what, source }
}

/// Reads an RSA public key: PEM or DER, alone or in a certificate.
///
/// # Errors
/// A file that cannot be read, or holds no such key.
pub fn load_public_key(path: &Path) -> Result<RsaPublicKey, SignError> {
    use std::io::Read;
    let fail = |source| SignError::Read { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    std::fs::File::open(path).map_err(fail)?.take(KEY_LIMIT).read_to_end(&mut bytes).map_err(fail)?;
    let text = std::str::from_utf8(&bytes).unwrap_or_default();
    let key = RsaPublicKey::from_public_key_pem(text)
        .ok()
        .or_else(|| RsaPublicKey::from_pkcs1_pem(text).ok())
        .or_else(|| RsaPublicKey::from_public_key_der(&bytes).ok())
        .or_else(|| RsaPublicKey::from_pkcs1_der(&bytes).ok());
    match key {
        Some(key) => Ok(key),
        None => {
            let chain = load_certificate(path)?;
            trust::public_key(chain.signer())
                .map_err(|reason| SignError::Damaged { name: path.display().to_string(), reason })
        }
    }
}

/// An image with all that can be told without its payload.
struct Opened<'a> {
    source: &'a dyn Source,
    image: Image,
    profiles: Vec<Profile>,
    texts: Texts,
    table: Table,
}

impl<'a> Opened<'a> {
    /// `Err(Ok(_))`: what is wrong with it.
    fn new(source: &'a dyn Source) -> std::io::Result<Result<Self, String>> {
        let length = source.length()?;
        let header = source::bytes(source, 0, HEADER_LIMIT.min(length))?;
        let image = match Image::parse(&header, length) {
            Ok(image) => image,
            Err(problem) => return Ok(Err(problem)),
        };
        let texts = texts::read(source, &image)?;
        let table = signature::read(source, &image)?;
        Ok(Ok(Self { source, profiles: image.profiles(), texts, table, image }))
    }

    fn text(&self, profile: &Profile, name: SectionName) -> Option<&[u8]> {
        self.texts.get(&profile.get(name)?).map(Vec::as_slice)
    }

    /// Every initrd of every profile, once.
    fn initrds(&self) -> BTreeMap<usize, Result<Unpacked, Trouble>> {
        let indexes: BTreeSet<usize> = self.profiles.iter().filter_map(|p| p.get(SectionName::Initrd)).collect();
        let whole = |index: usize| self.image.sections.get(index)?.content(self.image.length);
        let whole = |index| whole(index).map(|(start, end)| initrd::unpack(self.source, start, end - start));
        indexes.into_iter().take(INITRDS).filter_map(|index| Some((index, whole(index)?))).collect()
    }

    fn facts(
        &self,
        stub: Option<String>,
        initrds: &BTreeMap<usize, Result<Unpacked, Trouble>>,
        db: Option<&Database>,
    ) -> Facts {
        let profiles = &self.profiles;
        let key = |profile| {
            RsaPublicKey::from_public_key_pem(std::str::from_utf8(self.text(profile, SectionName::Pcrpkey)?).ok()?).ok()
        };
        let first = profiles.first();
        let sbat = first.and_then(|profile| self.text(profile, SectionName::Sbat));
        Facts {
            machine: self.image.machine,
            stub,
            sbat: sbat.and_then(|text| sbat::parse(text.strip_suffix(b"\0").unwrap_or(text)).ok()),
            pcr_keys: profiles.iter().filter_map(|profile| Some(unseal::fingerprint(&key(profile)?))).collect(),
            anchors: self.table.iter().flatten().filter_map(|found| found.anchor(db)).collect(),
            os: first.and_then(|profile| texts::field(self.text(profile, SectionName::Osrel)?, "ID")),
            modules: initrds
                .values()
                .flatten()
                .flat_map(|unpacked| unpacked.listing.module_names())
                .map(str::to_owned)
                .collect(),
            profiles: profiles.len(),
        }
    }
}

/// Checks an image.
///
/// # Errors
/// Input that cannot be read. What is wrong with it is in the report.
pub fn verify(source: &dyn Source, request: &Request<'_>) -> Result<Report, VerifyError> {
    let mut report = Report::default();
    let failed = reading("the image");
    let opened = match Opened::new(source).map_err(&failed)? {
        Ok(opened) => opened,
        Err(problem) => {
            report.fail("machine", format!("it is no PE image: {problem}"));
            return Ok(report);
        }
    };
    let (image, profiles, texts) = (&opened.image, &opened.profiles, &opened.texts);

    let banks = unseal::banks(profiles, texts);
    let hashes = signature_hashes(&opened.table);
    let digests = || pass::run(source, image, &hashes, &banks, request.jobs);
    let (digests, initrds) = if request.jobs > 1 {
        std::thread::scope(|scope| {
            let initrds = scope.spawn(|| opened.initrds());
            let digests = digests();
            (digests, initrds.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
        })
    } else {
        (digests(), opened.initrds())
    };
    let digests = digests.map_err(&failed)?;

    layout::check(image, &mut report);
    match image.checksum {
        0 => report.skip("checksum", "the header holds none"),
        stored if stored == digests.checksum => report.pass("checksum", format!("{stored:#010x}")),
        stored => {
            report.warn("checksum", format!("the header says {stored:#010x}, it is {:#010x}", digests.checksum));
        }
    }
    signature::check("signature", &opened.table, &digests, request.db.as_ref(), &request.dbx, &mut report);
    let sbat = profiles.first().and_then(|profile| opened.text(profile, SectionName::Sbat));
    sbat::check(sbat, &mut report);
    let stub = layout::check_stub(source, image, &mut report).map_err(&failed)?;
    texts::check_sections(image, profiles, &mut report);
    layout::check_kernel(source, image, &mut report).map_err(&failed)?;
    texts::check_texts(image, profiles, texts, &mut report);
    check_profiles(&opened, &mut report);
    unseal::check(profiles, texts, &digests, request.pcr_public_key.as_ref(), &mut report);
    check_ucode(&opened, &mut report);
    check_initrds(&opened, &initrds, &mut report).map_err(&failed)?;
    check_kairos(&opened, &initrds, request, &mut report);
    if let Some(loader) = request.loader {
        check_loader(loader, image, stub.as_deref(), profiles, request, &mut report)?;
    }
    if let Some(old) = request.upgrade_from {
        let db = request.db.as_ref();
        check_upgrade(old, &opened.facts(stub, &initrds, db), db, &mut report)?;
    }
    Ok(report)
}

/// SHA-256 in any case, for dbx.
fn signature_hashes(table: &Table) -> Vec<Bank> {
    let used = table.iter().flatten().map(|found| found.bank);
    used.chain([Bank::Sha256]).collect::<BTreeSet<_>>().into_iter().collect()
}

fn check_profiles(opened: &Opened<'_>, report: &mut Report) {
    let mut ids = BTreeSet::new();
    let mut problems = Vec::new();
    let mut names = Vec::new();
    for profile in opened.profiles.iter().filter(|profile| profile.number.is_some()) {
        let id = opened.text(profile, SectionName::Profile).and_then(|text| texts::field(text, "ID"));
        match id {
            None => problems.push((Outcome::Warning, format!("{}its .profile has no ID", profile.title()))),
            Some(id) => {
                names.push(report::shown(id.as_bytes()));
                if !ids.insert(id.clone()) {
                    let id = report::shown(id.as_bytes());
                    problems.push((Outcome::Warning, format!("{}another profile has the ID {id}", profile.title())));
                }
            }
        }
    }
    report.all("profiles", problems, || match names.len() {
        0 => "one, the base".to_owned(),
        count => format!("{count}: {}", names.join(", ")),
    });
}

/// `.ucode`: the kernel looks into it before it can decompress.
fn check_ucode(opened: &Opened<'_>, report: &mut Report) {
    let indexes: BTreeSet<usize> = opened.profiles.iter().filter_map(|p| p.get(SectionName::Ucode)).collect();
    for section in indexes.into_iter().take(INITRDS).filter_map(|index| opened.image.sections.get(index)) {
        let Some((start, end)) = section.content(opened.image.length) else { continue };
        match initrd::unpack(opened.source, start, end - start) {
            Ok(unpacked) if unpacked.parts != ["cpio"] => {
                report.fail("ucode", "it is compressed: the kernel looks for microcode before it can decompress");
            }
            Ok(unpacked) if !unpacked.listing.microcode => {
                report.warn("ucode", "there is nothing at kernel/x86/microcode in it");
            }
            Ok(_) => report.pass("ucode", "an uncompressed archive with kernel/x86/microcode"),
            Err(Trouble::Refused(problem)) => report.fail("ucode", problem),
            Err(Trouble::Unknown(problem)) => report.fail("ucode", format!("it is compressed: {problem}")),
            Err(Trouble::Io(error)) => report.fail("ucode", format!("it cannot be read: {error}")),
        }
    }
}

fn check_initrds(
    opened: &Opened<'_>,
    initrds: &BTreeMap<usize, Result<Unpacked, Trouble>>,
    report: &mut Report,
) -> std::io::Result<()> {
    for unpacked in initrds.values() {
        match unpacked {
            Ok(unpacked) => {
                let (mebibytes, entries) = (unpacked.bytes >> 20, unpacked.listing.entries);
                report.pass("initrd", format!("{}: {entries} entries, {mebibytes} MiB", unpacked.parts.join(" + ")));
            }
            Err(Trouble::Refused(problem)) => report.fail("initrd", problem.clone()),
            Err(Trouble::Unknown(problem)) => report.skip("initrd", problem.clone()),
            Err(Trouble::Io(error)) => return Err(std::io::Error::new(error.kind(), error.to_string())),
        }
    }
    if initrds.is_empty() && opened.profiles.iter().any(|profile| profile.get(SectionName::Initrd).is_some()) {
        report.fail("initrd", "the .initrd section is not whole");
    }
    Ok(())
}

fn check_kairos(
    opened: &Opened<'_>,
    initrds: &BTreeMap<usize, Result<Unpacked, Trouble>>,
    request: &Request<'_>,
    report: &mut Report,
) {
    // The profile that boots when nothing is chosen; others differ in their command lines.
    let Some(profile) = opened.profiles.first() else { return };
    let unpacked = profile.get(SectionName::Initrd).and_then(|index| initrds.get(&index)?.as_ref().ok());
    if let Some(unpacked) = unpacked {
        kairos::check_ram(opened.image.length, unpacked, report);
        kairos::check_release(opened.text(profile, SectionName::Uname), &unpacked.listing, report);
    }
    let cmdline = opened.text(profile, SectionName::Cmdline).unwrap_or_default();
    if !kairos::is_kairos(cmdline, unpacked) {
        let why = "no Kairos image: no rd.immucore.uki on the command line, no immucore in the initrd";
        report.skip("immucore", why);
        return;
    }
    kairos::check(cmdline, unpacked, report);
    signature::check_agent(&opened.table, request.db.as_ref(), report);
}

fn check_loader(
    source: &dyn Source,
    image: &Image,
    stub: Option<&str>,
    profiles: &[Profile],
    request: &Request<'_>,
    report: &mut Report,
) -> Result<(), VerifyError> {
    let failed = reading("the boot manager");
    let loader = match Opened::new(source).map_err(&failed)? {
        Ok(loader) => loader,
        Err(problem) => {
            report.fail("loader", format!("it is no PE image: {problem}"));
            return Ok(());
        }
    };
    if loader.image.machine != image.machine {
        report.fail("loader", "it is for another machine than the UKI");
    }
    let hashes = signature_hashes(&loader.table);
    let digests = pass::run(source, &loader.image, &hashes, &[], 1).map_err(&failed)?;
    signature::check("loader-signature", &loader.table, &digests, request.db.as_ref(), &request.dbx, report);
    let magic = loader.image.named(".sdmagic").and_then(|section| section.content(loader.image.length));
    let version = match magic {
        Some((start, end)) => source::bytes(source, start, (end - start).min(512)).map_err(&failed)?,
        None => Vec::new(),
    };
    let Some(version) = texts::version_of(&version, "systemd-boot") else {
        report.warn("loader", "its .sdmagic section does not say systemd-boot: its version is not known");
        return Ok(());
    };
    let Some(number) = texts::major(&version) else {
        report.warn("loader", format!("systemd-boot {version}: no number to compare"));
        return Ok(());
    };
    let mut problems = Vec::new();
    let several = profiles.len() > 1;
    if number < 257 && several {
        let why = format!("systemd-boot {version} does not know profiles, which need 257 (259 for the key `profile`)");
        problems.push((Outcome::Failure, why));
    } else if number < 259 && several {
        let why = format!("systemd-boot {version}: entries with the key `profile` need 259, with `uki` 258");
        problems.push((Outcome::Warning, why));
    } else if number < 258 {
        let why = format!("systemd-boot {version}: entries with the key `uki` need 258, write `efi` (CanvOS#756)");
        problems.push((Outcome::Warning, why));
    }
    if let Some(stub) = stub.filter(|stub| texts::major(stub) != Some(number)) {
        let why = format!("systemd-boot {version} beside systemd-stub {stub}: ship both from one build");
        problems.push((Outcome::Warning, why));
    }
    report.all("loader", problems, || format!("systemd-boot {version}"));
    Ok(())
}

fn check_upgrade(old: &dyn Source, new: &Facts, db: Option<&Database>, report: &mut Report) -> Result<(), VerifyError> {
    let failed = reading("the old image");
    let opened = match Opened::new(old).map_err(&failed)? {
        Ok(opened) => opened,
        Err(problem) => {
            report.skip("upgrade", format!("the old file is no PE image: {problem}"));
            return Ok(());
        }
    };
    let stub = layout::check_stub(old, &opened.image, &mut Report::default()).map_err(&failed)?;
    let facts = opened.facts(stub, &opened.initrds(), db);
    upgrade::check(&facts, new, db.is_some(), report);
    Ok(())
}
