//! Sections in, a measured and signed UKI out: writing, PCR banks, Authenticode and the PE checksum side by side.
//!
//! Where all sections are files, the payload is read once and everything is taken on the way. Where the initrd is being
//! compressed meanwhile, its PCR digests are taken on the way, and the file is read once more for what covers its headers.

use std::collections::BTreeMap;
use std::io::{Read, Seek, SeekFrom, Write};
use std::sync::Arc;

use super::measure::{Predictions, SectionDigests, Variant};
use super::pass::Fanout;
use super::pcr::{Bank, PhasePath};
use super::reserve::Reserve;
use super::section::SectionName;
use super::sign::authenticode::Signing;
use super::sign::policy::{self, Pcrsig};
use super::sign::{Hash, PublicKey, SignError, Signer};
use super::taker::{Cover, Taker, read_back};
use super::uki::UkiError;
use super::uki::assemble::{Assembler, Parts, Payload};
use super::uki::kernel::Kernel;
use super::uki::pe::PeHeaders;
use super::uki::profile::{self, ProfileSpec};
use super::uki::sbat;
use super::uki::stub::{Stub, StubKind};
use crate::cancel::Cancel;

/// Reserved for the signatures, whose length is not known before; what is left of it is given back.
const CERTIFICATES: u64 = 64 << 10;

/// A UKI cannot be built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// Assembling.
    #[error(transparent)]
    Uki(#[from] UkiError),
    /// Signing.
    #[error(transparent)]
    Sign(#[from] SignError),
    /// Headers that cannot be signed.
    #[error(transparent)]
    Cover(Arc<SignError>),
    /// Writing or reading back.
    #[error("failed to write the image: {source}{advice}", source = .0, advice = advice(.0))]
    Io(#[from] std::io::Error),
    /// An architecture without a UEFI name here.
    #[error("the kernel is for machine {0:#06x}: EFI stubs are known for x86-64 (x64), arm64 (aa64) and riscv64")]
    Machine(u16),
}

/// What to do about a full disk, as the end of a message.
fn advice(error: &std::io::Error) -> &'static str {
    match error.kind() {
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => "; make room there, or write elsewhere",
        _ => "",
    }
}

/// What a UKI is made of. Empty byte strings are sections that are not there.
pub struct UkiRequest<'a> {
    /// The stub.
    pub stub: &'a Stub,
    /// `.linux`; none for an addon.
    pub kernel: Vec<u8>,
    /// `.osrel`
    pub os_release: Vec<u8>,
    /// `.cmdline`
    pub cmdline: Vec<u8>,
    /// `.uname`
    pub uname: Vec<u8>,
    /// `.initrd`
    pub initrd: Option<Payload<'a>>,
    /// `.ucode`
    pub ucode: Option<Payload<'a>>,
    /// `.splash`
    pub splash: Option<Payload<'a>>,
    /// `.dtb`
    pub dtb: Option<Payload<'a>>,
    /// `.dtbauto`, of which the stub chooses one that fits the machine.
    pub dtbauto: Vec<Payload<'a>>,
    /// `.hwids`
    pub hwids: Vec<u8>,
    /// Sections that are neither measured nor read by the stub (`.sbom`).
    pub others: Vec<(SectionName, Payload<'a>)>,
    /// The user's SBAT entries; the entry for UKIs (for addons) where there are none.
    pub sbat: Option<Vec<u8>>,
    /// The boot entries, the default first; empty: one without a `.profile`.
    pub profiles: Vec<Profile<'a>>,
    /// The PCR policies.
    pub policies: Policies<'a>,
    /// Who signs the file.
    pub signings: Vec<Signing<'a>>,
    /// In the signatures, seconds since 1970; none: without, as reproducible.
    pub signing_time: Option<u64>,
    /// Digests of the initrd that are known and proven, so that it need not be hashed in these banks; see
    /// [`super::uki::reuse`].
    pub initrd_digests: BTreeMap<Bank, Vec<u8>>,
    /// Threads for digests.
    pub jobs: usize,
    /// Asked while files are copied.
    pub cancel: Cancel,
}

impl<'a> UkiRequest<'a> {
    /// Of a stub and a kernel, everything else empty.
    #[must_use]
    pub fn new(stub: &'a Stub, kernel: Vec<u8>) -> Self {
        Self {
            stub,
            kernel,
            os_release: Vec::new(),
            cmdline: Vec::new(),
            uname: Vec::new(),
            initrd: None,
            ucode: None,
            splash: None,
            dtb: None,
            dtbauto: Vec::new(),
            hwids: Vec::new(),
            others: Vec::new(),
            sbat: None,
            profiles: Vec::new(),
            policies: Policies::default(),
            signings: Vec::new(),
            signing_time: None,
            initrd_digests: BTreeMap::new(),
            jobs: 1,
            cancel: Cancel::default(),
        }
    }
}

/// A boot entry of a UKI.
#[derive(Debug)]
pub struct Profile<'a> {
    /// `.profile`: `ID=` and `TITLE=`, as in os-release.
    pub text: Vec<u8>,
    /// What it has in the place of the common sections; the first profile, which the common ones are for, has none.
    pub sections: Vec<(SectionName, Payload<'a>)>,
}

/// What the common sections are for first, then one for each entry; nothing where there are no further ones.
///
/// # Errors
/// As [`profile::entries`].
pub fn profiles(specs: &[ProfileSpec], cmdline: &str) -> Result<Vec<Profile<'static>>, UkiError> {
    if specs.is_empty() {
        return Ok(Vec::new());
    }
    let main = Profile { text: profile::main_text().into_bytes(), sections: Vec::new() };
    let further = profile::entries(specs, cmdline)?.into_iter().map(|(text, cmdline)| Profile {
        text: text.into_bytes(),
        sections: vec![(SectionName::Cmdline, Payload::Bytes(cmdline.into_bytes()))],
    });
    Ok(std::iter::once(main).chain(further).collect())
}

/// What `.pcrsig` and `.pcrpkey` are made of.
#[derive(Clone, Default)]
pub struct Policies<'a> {
    /// The keys; none: no `.pcrsig`.
    pub keys: Vec<PolicyKey<'a>>,
    /// The banks that policies are signed for.
    pub banks: Vec<Bank>,
    /// The policy reference.
    pub reference: Option<String>,
    /// `.pcrpkey`; where it is not given and there is one key, that one.
    pub public_key: Option<Vec<u8>>,
}

/// A key that vouches for policies.
#[derive(Clone)]
pub struct PolicyKey<'a> {
    /// The public half.
    pub public: &'a PublicKey,
    /// What signs; none: signatures are attached later, and room is left for them.
    pub signer: Option<&'a dyn Signer>,
    /// The phase paths that it vouches for.
    pub phases: Vec<PhasePath>,
}

/// What was built.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BuiltUki {
    /// Bytes of the file.
    pub bytes: u64,
    /// Sections in file order, with the bytes of their content.
    pub sections: Vec<(SectionName, u64)>,
    /// PCR 11 of all banks, at the empty path and after each default phase, for each way of booting; empty for an addon.
    pub predictions: Predictions,
    /// Digests of the initrd, for a later build that takes it over; empty where there is none.
    pub initrd_digests: BTreeMap<Bank, Vec<u8>>,
}

/// The name of an architecture in UEFI's file names (`linuxx64.efi.stub`), from a kernel image.
///
/// # Errors
/// No PE image, or one for a machine that has no such name here.
pub fn efi_architecture(kernel: &[u8]) -> Result<&'static str, BuildError> {
    let pe = PeHeaders::read(&mut std::io::Cursor::new(kernel), "the kernel")?;
    match pe.machine {
        0x8664 => Ok("x64"),
        0xaa64 => Ok("aa64"),
        0x5064 => Ok("riscv64"),
        machine => Err(BuildError::Machine(machine)),
    }
}

/// A command line as ukify writes it: white space collapsed to single spaces.
#[must_use]
pub fn collapse_white_space(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The phase paths that are predicted: the empty one, then those that are signed.
#[must_use]
pub fn predicted_phases() -> Vec<PhasePath> {
    std::iter::once(PhasePath::empty()).chain(PhasePath::signed_by_default()).collect()
}

/// Builds a UKI, or an addon where the stub is one, into `out`, an empty file.
///
/// # Errors
/// A kernel that the stub would not start, content that cannot be read, a full disk, a key that does not sign.
pub fn build(request: UkiRequest<'_>, out: &mut (impl Read + Write + Seek + Reserve)) -> Result<BuiltUki, BuildError> {
    let (stub, jobs, signing_time) = (request.stub, request.jobs, request.signing_time);
    let is_addon = stub.kind() == StubKind::Addon;
    let (sbat, mut nx_compat) = match is_addon {
        true => (sbat::merge([request.sbat.as_deref().unwrap_or(sbat::ADDON.as_bytes())]), true),
        false => {
            let kernel = Kernel::check(&request.kernel, stub.machine())?;
            let user = request.sbat.as_deref().unwrap_or(sbat::UKI.as_bytes());
            (sbat::merge([stub.sbat(), kernel.sbat, user]), kernel.nx_compat)
        }
    };
    for (name, payload) in request.profiles.iter().flat_map(|profile| &profile.sections) {
        if let (SectionName::Linux, Payload::Bytes(kernel)) = (name, payload) {
            nx_compat &= Kernel::check(kernel, stub.machine())?.nx_compat;
        }
    }
    let (policies, signings) = (request.policies.clone(), request.signings.clone());
    let (known, cancel) = (request.initrd_digests.clone(), request.cancel.clone());
    let titles = titles(&request.profiles);
    let hashes: Vec<Hash> = signings.iter().map(|signing| signing.hash).collect();
    let sections = sections(request);

    // The banks must be read out before each .pcrsig is written, the cover goes on to the end of the file.
    let measured: Vec<Bank> = if is_addon { Vec::new() } else { Bank::ALL.to_vec() };
    let banks = measured.iter().map(|bank| {
        Taker::Bank(Box::new(match known.get(bank).cloned() {
            Some(digest) => SectionDigests::with_known(*bank, SectionName::Initrd, digest),
            None => SectionDigests::new(*bank),
        }))
    });
    let cover = (!hashes.is_empty()).then_some(Taker::Cover(Cover::Begin(hashes.clone())));
    let mut takers = Fanout::new(banks.chain(cover).collect(), jobs);
    let mut assembler = Assembler::new(Parts { stub, sbat, nx_compat, sections, cancel })?;
    if let Some(bytes) = assembler.file_size() {
        out.reserve(bytes.saturating_add(CERTIFICATES))?;
    }
    let mut profile = 0;
    while assembler.write(out, &mut takers)? {
        let digests: Vec<SectionDigests> =
            takers.snapshot(measured.len()).into_iter().filter_map(Taker::into_bank).collect();
        let pcrsig = pcrsig(&policies, &digests, profile)?;
        assembler.put(pcrsig.as_bytes(), out, &mut takers)?;
        profile += 1;
    }
    let uki = assembler.finish(out)?;
    let digests: Vec<SectionDigests> =
        takers.snapshot(measured.len()).into_iter().filter_map(Taker::into_bank).collect();
    let predictions = Predictions::new(&digests, &titles, &predicted_phases());
    let initrd_digest = |digests: &SectionDigests| {
        let measured = digests.measured(Variant::default());
        let initrd = measured.iter().find(|(name, _)| *name == SectionName::Initrd);
        initrd.map(|(_, digest)| (digests.bank(), digest.to_vec()))
    };
    let initrd_digests = digests.iter().filter_map(initrd_digest).collect();

    let mut bytes = uki.layout().file_size;
    if !signings.is_empty() {
        let covers = match uki.in_one_pass() {
            true => takers.finish().into_iter().filter_map(Taker::into_cover).collect(),
            false => vec![read_back(out, hashes)?],
        };
        for cover in covers {
            let signature = cover.pass()?.sign(&signings, signing_time)?;
            for (offset, bytes) in &signature.writes {
                out.seek(SeekFrom::Start(*offset))?;
                out.write_all(bytes)?;
            }
            bytes = signature.length;
        }
    }
    out.flush()?;
    out.cut(bytes)?;
    let sections = uki.layout().sections.iter().map(|(name, header)| (*name, u64::from(header.virtual_size))).collect();
    Ok(BuiltUki { bytes, sections, predictions, initrd_digests })
}

/// All sections in ukify's file order, with room for each `.pcrsig`: what all profiles share, then each profile.
fn sections(request: UkiRequest<'_>) -> Vec<(SectionName, Payload<'_>)> {
    let text = |bytes: Vec<u8>| Some(Payload::Bytes(bytes));
    let UkiRequest { policies, profiles, .. } = request;
    let pcrpkey = match (policies.public_key, policies.keys.as_slice()) {
        (Some(pem), _) => Some(pem),
        (None, [only]) => Some(only.public.pem().as_bytes().to_vec()),
        (None, _) => None,
    };
    let common = [(SectionName::Osrel, text(request.os_release)), (SectionName::Cmdline, text(request.cmdline))]
        .into_iter()
        .chain([(SectionName::Dtb, request.dtb)])
        .chain(request.dtbauto.into_iter().map(|tree| (SectionName::Dtbauto, Some(tree))))
        .chain([
            (SectionName::Hwids, text(request.hwids)),
            (SectionName::Uname, text(request.uname)),
            (SectionName::Splash, request.splash),
            (SectionName::Pcrpkey, pcrpkey.map(Payload::Bytes)),
            (SectionName::Linux, text(request.kernel)),
            (SectionName::Initrd, request.initrd),
            (SectionName::Ucode, request.ucode),
        ])
        .chain(request.others.into_iter().map(|(name, payload)| (name, Some(payload))));
    let mut out: Vec<(SectionName, Payload<'_>)> = common
        .filter_map(|(name, payload)| Some((name, payload?)))
        .filter(|(_, payload)| payload.length() != Some(0))
        .collect();
    let count =
        |sections: &[(SectionName, Payload<'_>)], wanted| sections.iter().filter(|(name, _)| *name == wanted).count();
    let shared = [SectionName::Dtbauto, SectionName::Efifw].map(|name| count(&out, name));
    let keys: Vec<_> = policies.keys.iter().map(|key| (key.public, key.phases.len())).collect();
    let room = |own: [usize; 2]| {
        let [trees, firmware] = shared;
        let [own_trees, own_firmware] = own;
        let variants = (trees + own_trees + 1) * (firmware + own_firmware + 1);
        let list = policy::placeholder(&policies.banks, variants, &keys, policies.reference.as_deref());
        policy::pcrsig_json(&list).map(|json| json.len() as u64)
    };
    // The length of what has no signatures is known without them; JSON of strings cannot fail.
    let pcrsig = |own| {
        let length = if keys.is_empty() { None } else { room(own).ok() };
        length.map(|length| (SectionName::Pcrsig, Payload::Later { length }))
    };
    if profiles.is_empty() {
        out.extend(pcrsig([0, 0]));
    }
    for profile in profiles {
        let own = [SectionName::Dtbauto, SectionName::Efifw].map(|name| count(&profile.sections, name));
        out.push((SectionName::Profile, Payload::Bytes(profile.text)));
        out.extend(profile.sections.into_iter().filter(|(_, payload)| payload.length() != Some(0)));
        out.extend(pcrsig(own));
    }
    out
}

/// `.pcrsig` of a profile.
fn pcrsig(policies: &Policies<'_>, digests: &[SectionDigests], profile: usize) -> Result<String, BuildError> {
    let mut list = unsigned_policies(policies, digests, profile)?;
    for key in &policies.keys {
        match key.signer {
            Some(signer) => policy::sign_policies(&mut list, signer)?,
            None => policy::leave_room(&mut list, key.public),
        }
    }
    Ok(policy::pcrsig_json(&list)?)
}

/// The policies of a profile, to be signed: for each bank those of each way of booting, for each key, for each of its phase paths.
///
/// # Errors
/// None that input can cause.
pub fn unsigned_policies(
    policies: &Policies<'_>,
    digests: &[SectionDigests],
    profile: usize,
) -> Result<Pcrsig, SignError> {
    let mut list = Pcrsig::new();
    for bank in digests.iter().filter(|digests| policies.banks.contains(&digests.bank())) {
        let of_bank = list.entry(bank.bank().to_string()).or_default();
        for variant in bank.variants(profile) {
            for key in &policies.keys {
                for phases in &key.phases {
                    let value = bank.pcr11(variant, phases);
                    of_bank.push(policy::policy(bank.bank(), &value, policies.reference.as_deref(), key.public)?);
                }
            }
        }
    }
    Ok(list)
}

fn titles(profiles: &[Profile<'_>]) -> Vec<String> {
    profiles.iter().map(|profile| title(&String::from_utf8_lossy(&profile.text))).collect()
}

/// What a profile calls itself: its title, or its id.
#[must_use]
pub fn title(text: &str) -> String {
    let value = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    let value = value("TITLE").or_else(|| value("ID")).unwrap_or_default();
    value.trim_matches('"').to_owned()
}
