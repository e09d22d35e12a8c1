//! The sections of a Unified Kernel Image, in the order in which the stub measures them.
//!
//! Specification: UAPI.5 "Unified Kernel Image", and systemd's `src/fundamental/uki.h`.

use std::fmt;

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
}

impl SectionName {
    /// All sections, in measurement order.
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
    pub const fn as_str(self) -> &'static str {
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
        }
    }

    /// The section with this name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|section| section.as_str() == name)
    }

    /// Whether what is measured depends on a choice at boot (the profile, the device tree): such images cannot be predicted
    /// from the list of sections alone.
    #[must_use]
    pub const fn is_chosen_at_boot(self) -> bool {
        matches!(self, Self::Profile | Self::Dtbauto | Self::Hwids | Self::Efifw)
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
        !matches!(self, Self::Pcrsig)
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
