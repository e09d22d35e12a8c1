//! The sections of a Unified Kernel Image, in the order in which the stub measures them.
//!
//! Specification: UAPI.5 "Unified Kernel Image", and systemd's `src/fundamental/uki.h`.

use std::fmt;
use std::str::FromStr;

/// A section that the specification knows. The order of the variants is the order of measurement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum SectionName {
    /// The kernel image.
    Linux,
    /// `os-release` of the system.
    Osrel,
    /// The kernel command line.
    Cmdline,
    /// The initial RAM disk.
    Initrd,
    /// A microcode initrd, handed over before all others (stub 256 and later).
    Ucode,
    /// A bitmap shown while the kernel loads.
    Splash,
    /// A device tree.
    Dtb,
    /// The kernel's release, `uname -r`.
    Uname,
    /// SBAT revocation data.
    Sbat,
    /// Signed PCR 11 policies, JSON. Never measured.
    Pcrsig,
    /// The public key of these signatures, PEM.
    Pcrpkey,
    /// The head of a profile: its sections follow in the file.
    Profile,
    /// A device tree that the stub chooses by the machine's compatible string; may repeat.
    Dtbauto,
    /// Hardware ids for that choice.
    Hwids,
    /// Firmware for that choice; may repeat.
    Efifw,
    /// A section that the specification does not know, such as `.sbom`. The stub neither reads nor measures it.
    Other(OtherName),
}

/// The name of a section that the specification does not know: 1 to 8 printable ASCII characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OtherName([u8; 8]);

impl OtherName {
    fn as_str(&self) -> &str {
        let length = self.0.iter().position(|byte| *byte == 0).unwrap_or(self.0.len());
        // ASCII by construction.
        self.0.get(..length).and_then(|name| std::str::from_utf8(name).ok()).unwrap_or_default()
    }
}

/// A name that no section can have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no section name: it has 1 to 8 printable ASCII characters, for the section table has no room for more \
     (example: .sbom)"
)]
pub struct SectionNameError(String);

impl FromStr for SectionName {
    type Err = SectionNameError;

    fn from_str(name: &str) -> Result<Self, SectionNameError> {
        if let Some(known) = Self::parse(name) {
            return Ok(known);
        }
        let mut bytes = [0; 8];
        if name.is_empty() || name.len() > bytes.len() || !name.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(SectionNameError(name.to_owned()));
        }
        bytes.iter_mut().zip(name.bytes()).for_each(|(to, from)| *to = from);
        Ok(Self::Other(OtherName(bytes)))
    }
}

impl SectionName {
    /// All sections that the specification knows, in measurement order.
    pub const ALL: [Self; 15] = [
        Self::Linux,
        Self::Osrel,
        Self::Cmdline,
        Self::Initrd,
        Self::Ucode,
        Self::Splash,
        Self::Dtb,
        Self::Uname,
        Self::Sbat,
        Self::Pcrsig,
        Self::Pcrpkey,
        Self::Profile,
        Self::Dtbauto,
        Self::Hwids,
        Self::Efifw,
    ];

    /// The name as the PE section table has it, with the dot.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Linux => ".linux",
            Self::Osrel => ".osrel",
            Self::Cmdline => ".cmdline",
            Self::Initrd => ".initrd",
            Self::Ucode => ".ucode",
            Self::Splash => ".splash",
            Self::Dtb => ".dtb",
            Self::Uname => ".uname",
            Self::Sbat => ".sbat",
            Self::Pcrsig => ".pcrsig",
            Self::Pcrpkey => ".pcrpkey",
            Self::Profile => ".profile",
            Self::Dtbauto => ".dtbauto",
            Self::Hwids => ".hwids",
            Self::Efifw => ".efifw",
            Self::Other(name) => name.as_str(),
        }
    }

    /// The section that the specification knows by this name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|section| section.as_str() == name)
    }

    /// Whether one profile may have several, of which the stub chooses one that fits the machine, or none.
    #[must_use]
    pub const fn may_repeat(self) -> bool {
        matches!(self, Self::Dtbauto | Self::Efifw)
    }

    /// Whether the content is text that can be shown (ukify's list).
    #[must_use]
    pub const fn is_text(self) -> bool {
        matches!(
            self,
            Self::Osrel | Self::Cmdline | Self::Uname | Self::Sbat | Self::Pcrsig | Self::Pcrpkey | Self::Profile
        )
    }

    /// Whether the stub measures the section into PCR 11.
    #[must_use]
    pub const fn is_measured(self) -> bool {
        !matches!(self, Self::Pcrsig | Self::Other(_))
    }
}

impl fmt::Display for SectionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Receives a file as it is written, in file order, each byte once: how writing, measurement, Authenticode and the PE
/// checksum share one pass over the payload.
pub trait SectionSink {
    /// A section begins.
    fn begin(&mut self, name: SectionName);
    /// Its next bytes; any number of calls.
    fn data(&mut self, bytes: &[u8]);
    /// The section is complete; padding follows through [`SectionSink::outside`].
    fn end(&mut self);
    /// Bytes of the file that belong to no section of the UKI: headers, the stub's own sections, padding.
    fn outside(&mut self, bytes: &[u8]);
}
