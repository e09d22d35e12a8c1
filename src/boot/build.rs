//! Sections in, a measured and signed UKI out: writing, PCR banks, Authenticode and the PE checksum side by side.
//!
//! Where all sections are files, the payload is read once and everything is taken on the way. Where the initrd is being
//! compressed meanwhile, its PCR digests are taken on the way, and the file is read once more for what covers its headers.

use std::io::{Read, Seek, SeekFrom, Write};

use super::measure::{Pcr11, SectionDigests};
use super::pass::Fanout;
use super::pcr::{Bank, PhasePath};
use super::section::{SectionName, SectionSink};
use super::sign::authenticode::SigningPass;
use super::sign::pe::PeLayout;
use super::sign::{Identity, SignError, Signer, policy};
use super::uki::UkiError;
use super::uki::assemble::{Parts, Payload, assemble};
use super::uki::kernel::Kernel;
use super::uki::pe::PeHeaders;
use super::uki::sbat;
use super::uki::stub::Stub;

const BUFFER: usize = 1 << 20;

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
    /// Writing or reading back.
    #[error("failed to write the image: {0}")]
    Io(#[from] std::io::Error),
    /// An architecture without a UEFI name here.
    #[error("the kernel is for machine {0:#06x}: EFI stubs are known for x86-64 (x64), arm64 (aa64) and riscv64")]
    Machine(u16),
}

/// What a UKI is made of. Empty byte strings are sections that are not there.
pub struct UkiRequest<'a> {
    /// The stub.
    pub stub: &'a Stub,
    /// `.linux`
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
    /// The user's SBAT entries; the entry for UKIs where there are none.
    pub sbat: Option<Vec<u8>>,
    /// Signs the PCR policies.
    pub pcr_signer: Option<&'a dyn Signer>,
    /// Signs the file.
    pub secure_boot: Option<&'a Identity>,
    /// Threads for digests.
    pub jobs: usize,
}

/// What was built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuiltUki {
    /// Bytes of the file.
    pub bytes: u64,
    /// Sections in file order, with the bytes of their content.
    pub sections: Vec<(SectionName, u64)>,
    /// PCR 11 of all banks at the empty path and after each default phase.
    pub pcr11: Pcr11,
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

/// Builds a UKI into `out`, an empty file.
///
/// # Errors
/// A kernel that the stub would not start, content that cannot be read, a full disk, a key that does not sign.
pub fn build(request: UkiRequest<'_>, out: &mut (impl Read + Write + Seek)) -> Result<BuiltUki, BuildError> {
    let UkiRequest { stub, kernel, pcr_signer, secure_boot, jobs, .. } = request;
    let checked = Kernel::check(&kernel, stub.machine())?;
    let nx_compat = checked.nx_compat;
    let user = request.sbat.as_deref().unwrap_or(sbat::UKI.as_bytes());
    let sbat = sbat::merge([stub.sbat(), checked.sbat, user]);
    let text = |bytes: Vec<u8>| Some(Payload::Bytes(bytes));
    let public_key = pcr_signer.map(|signer| Payload::Bytes(signer.public_key().pem().as_bytes().to_vec()));
    // ukify's file order.
    let sections = [
        (SectionName::Osrel, text(request.os_release)),
        (SectionName::Cmdline, text(request.cmdline)),
        (SectionName::Dtb, request.dtb),
        (SectionName::Uname, text(request.uname)),
        (SectionName::Splash, request.splash),
        (SectionName::Pcrpkey, public_key),
        (SectionName::Linux, text(kernel)),
        (SectionName::Initrd, request.initrd),
        (SectionName::Ucode, request.ucode),
    ];
    let sections = sections
        .into_iter()
        .filter_map(|(name, payload)| Some((name, payload?)))
        .filter(|(_, payload)| payload.length() != Some(0))
        .collect();
    let phases = PhasePath::signed_by_default();
    let last = pcr_signer.map(|signer| {
        let length = policy::pcrsig_length(&Bank::ALL, phases.len(), signer.public_key());
        (SectionName::Pcrsig, length as u64)
    });

    // The banks must be read out before .pcrsig is written, the cover goes on to the end of the file.
    let banks = Bank::ALL.into_iter().map(|bank| Taker::Bank(SectionDigests::new(bank)));
    let cover = secure_boot.is_some().then_some(Taker::Cover(Cover::Begin));
    let mut takers = Fanout::new(banks.chain(cover).collect(), jobs);
    let incomplete = assemble(Parts { stub, sbat, nx_compat, sections, last }, out, &mut takers)?;
    let digests: Vec<SectionDigests> =
        takers.finish_first(Bank::ALL.len()).into_iter().filter_map(Taker::into_bank).collect();
    let pcr11 = Pcr11::predict(&digests, &predicted_phases());
    let pcrsig = match pcr_signer {
        Some(signer) => policy::pcrsig_json(&Pcr11::predict(&digests, &phases).values(), signer)?.into_bytes(),
        None => Vec::new(),
    };
    let uki = incomplete.complete(&pcrsig, out, &mut takers)?;

    let mut bytes = uki.layout().file_size;
    if let Some(identity) = secure_boot {
        let covers = match uki.in_one_pass() {
            true => takers.finish().into_iter().filter_map(Taker::into_cover).collect(),
            false => vec![read_back(out)?],
        };
        for cover in covers {
            let signature = cover.pass()?.sign(identity, None)?;
            for (offset, bytes) in &signature.writes {
                out.seek(SeekFrom::Start(*offset))?;
                out.write_all(bytes)?;
            }
            bytes = signature.length;
        }
    }
    out.flush()?;
    let sections = uki.layout().sections.iter().map(|(name, header)| (*name, u64::from(header.virtual_size))).collect();
    Ok(BuiltUki { bytes, sections, pcr11 })
}

fn read_back(out: &mut (impl Read + Seek)) -> Result<Cover, BuildError> {
    let mut cover = Cover::Begin;
    out.seek(SeekFrom::Start(0))?;
    let mut buffer = vec![0; BUFFER];
    loop {
        let mut filled = 0;
        // Whole buffers, so that the first holds all headers.
        while filled < buffer.len() {
            match out.read(buffer.get_mut(filled..).unwrap_or_default())? {
                0 => break,
                count => filled += count,
            }
        }
        match filled {
            0 => return Ok(cover),
            count => cover.outside(buffer.get(..count).unwrap_or_default()),
        }
    }
}

/// What the Secure Boot signature covers: the whole file, final headers included.
#[derive(Debug)]
enum Cover {
    /// Nothing seen yet; the first bytes hold all headers.
    Begin,
    /// On the way.
    Pass(Box<SigningPass>),
    /// Headers that cannot be signed.
    Failed(SignError),
}

impl Cover {
    fn pass(self) -> Result<SigningPass, BuildError> {
        match self {
            Self::Pass(pass) => Ok(*pass),
            Self::Failed(error) => Err(error.into()),
            Self::Begin => Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into()),
        }
    }
}

impl SectionSink for Cover {
    fn begin(&mut self, _name: SectionName) {}

    fn data(&mut self, bytes: &[u8]) {
        self.outside(bytes);
    }

    fn end(&mut self) {}

    fn outside(&mut self, bytes: &[u8]) {
        if matches!(self, Self::Begin) {
            *self = match PeLayout::parse(bytes, "the image").and_then(SigningPass::new) {
                Ok(pass) => Self::Pass(Box::new(pass)),
                Err(error) => Self::Failed(error),
            };
        }
        if let Self::Pass(pass) = self {
            pass.update(bytes);
        }
    }
}

/// What is taken from the bytes on their way into the file.
#[derive(Debug)]
enum Taker {
    /// The sections' digests in a bank.
    Bank(SectionDigests),
    /// What the Secure Boot signature covers.
    Cover(Cover),
}

impl Taker {
    fn into_bank(self) -> Option<SectionDigests> {
        match self {
            Self::Bank(digests) => Some(digests),
            Self::Cover(_) => None,
        }
    }

    fn into_cover(self) -> Option<Cover> {
        match self {
            Self::Bank(_) => None,
            Self::Cover(cover) => Some(cover),
        }
    }

    fn sink(&mut self) -> &mut dyn SectionSink {
        match self {
            Self::Bank(digests) => digests,
            Self::Cover(cover) => cover,
        }
    }
}

impl SectionSink for Taker {
    fn begin(&mut self, name: SectionName) {
        self.sink().begin(name);
    }

    fn data(&mut self, bytes: &[u8]) {
        self.sink().data(bytes);
    }

    fn end(&mut self) {
        self.sink().end();
    }

    fn outside(&mut self, bytes: &[u8]) {
        self.sink().outside(bytes);
    }
}
