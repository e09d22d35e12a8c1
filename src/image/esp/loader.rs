//! systemd-boot as a file: which version it is, what that understands, and for which machine.

use std::fmt;
use std::io::{Read, Seek};

use super::EspError;
use crate::boot::uki::attach;
use crate::boot::uki::pe::PeHeaders;

/// systemd-boot has about 160 KiB; anything this large is something else.
pub const MAX_LOADER: u64 = 16 << 20;
/// `.sdmagic` has about 50 bytes.
const MAX_MAGIC: u64 = 512;
/// First version that knows the key `uki`.
const UKI_KEY: u32 = 258;
/// First version that knows the key `profile`.
const PROFILE_KEY: u32 = 259;
/// First version that knows `if-safe` and has it as its default; 252 knows off, manual and force.
const IF_SAFE: u32 = 253;

/// A machine that UEFI has a name for, of 64 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Architecture {
    /// x86-64
    X64,
    /// 64-bit Arm
    Aa64,
    /// 64-bit RISC-V
    Riscv64,
    /// 64-bit LoongArch
    LoongArch64,
}

impl Architecture {
    const ALL: [Self; 4] = [Self::X64, Self::Aa64, Self::Riscv64, Self::LoongArch64];

    /// Of `IMAGE_FILE_HEADER.Machine`.
    #[must_use]
    pub fn of_machine(machine: u16) -> Option<Self> {
        Some(match machine {
            0x8664 => Self::X64,
            0xaa64 => Self::Aa64,
            0x5064 => Self::Riscv64,
            0x6264 => Self::LoongArch64,
            _ => return None,
        })
    }

    /// As in `linuxx64.efi.stub`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::X64 => "x64",
            Self::Aa64 => "aa64",
            Self::Riscv64 => "riscv64",
            Self::LoongArch64 => "loongarch64",
        }
    }

    /// The file in `EFI/BOOT` that firmware of this machine starts from removable media (UEFI 2.10, 3.5.1.1).
    #[must_use]
    pub const fn boot_file(self) -> &'static str {
        match self {
            Self::X64 => "BOOTX64.EFI",
            Self::Aa64 => "BOOTAA64.EFI",
            Self::Riscv64 => "BOOTRISCV64.EFI",
            Self::LoongArch64 => "BOOTLOONGARCH64.EFI",
        }
    }

    /// Of such a name, whatever its case.
    #[must_use]
    pub fn of_boot_file(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|architecture| architecture.boot_file().eq_ignore_ascii_case(name))
    }
}

impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The version of systemd-boot, or that it is not known.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LoaderVersion {
    text: Option<String>,
    number: Option<u32>,
}

impl LoaderVersion {
    /// Of the text in `.sdmagic`: `#### LoaderInfo: systemd-boot 257.13-1~deb13u1 ####`.
    #[must_use]
    pub fn of_magic(magic: &[u8]) -> Self {
        let text = String::from_utf8_lossy(magic);
        let version = text
            .split_once("systemd-boot ")
            .and_then(|(_, rest)| rest.split_once(" ####"))
            .map(|(version, _)| version.trim())
            .filter(|version| !version.is_empty() && version.chars().all(|c| c.is_ascii_graphic()));
        version.map_or_else(Self::default, Self::of_text)
    }

    /// Of a version alone: `257.13-1~deb13u1`.
    #[must_use]
    pub fn of_text(version: &str) -> Self {
        let digits = version.trim_start_matches('v').split(|c: char| !c.is_ascii_digit()).next();
        Self { text: Some(version.to_owned()), number: digits.and_then(|digits| digits.parse().ok()) }
    }

    /// 257 of `257.13-1~deb13u1`; nothing where it is not known.
    #[must_use]
    pub fn number(&self) -> Option<u32> {
        self.number
    }

    /// Whether entries may name their program with `uki`. Older ones leave such an entry out of the menu (CanvOS#756).
    #[must_use]
    pub fn knows_uki(&self) -> bool {
        self.number >= Some(UKI_KEY)
    }

    /// Whether entries may choose a profile of a UKI with `profile`. systemd-boot 257 and 258 show profiles only of files
    /// that they find by themselves in `EFI/Linux`, which is not where Kairos' are.
    #[must_use]
    pub fn knows_profiles(&self) -> bool {
        self.number >= Some(PROFILE_KEY)
    }

    /// Whether `secure-boot-enroll if-safe` is understood.
    #[must_use]
    pub fn knows_if_safe(&self) -> bool {
        self.number.is_none_or(|number| number >= IF_SAFE)
    }
}

impl fmt::Display for LoaderVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.text {
            Some(text) => write!(f, "systemd-boot {text}"),
            None => f.write_str("a boot manager of unknown version"),
        }
    }
}

/// A boot manager.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loader {
    /// Its version.
    pub version: LoaderVersion,
    /// Where it runs.
    pub architecture: Architecture,
}

impl Loader {
    /// Reads version and machine. An EFI program that does not tell its version is taken: it gets the oldest keys, see
    /// [`Loader::warning`].
    ///
    /// # Errors
    /// [`EspError::Loader`] for what is no EFI program, is larger than [`MAX_LOADER`], is systemd's stub or a whole UKI, or runs on
    /// a machine without a name here.
    pub fn read(file: &mut (impl Read + Seek), what: &str) -> Result<Self, EspError> {
        let bad = |problem: String| EspError::Loader { what: what.to_owned(), problem };
        let pe = PeHeaders::read(file, what).map_err(|error| bad(error.to_string()))?;
        if pe.file_size > MAX_LOADER {
            return Err(bad(format!("it has {} bytes, and a boot manager has at most {MAX_LOADER}", pe.file_size)));
        }
        if pe.section(".linux").is_some() {
            return Err(bad("it has a kernel in it, it is a UKI".to_owned()));
        }
        let magic = attach::content(file, what, ".sdmagic", MAX_MAGIC)
            .map_err(|error| bad(error.to_string()))?
            .unwrap_or_default();
        if ["systemd-stub", "systemd-addon"].iter().any(|name| magic.windows(name.len()).any(|w| w == name.as_bytes()))
        {
            return Err(bad("it is systemd's stub, of which UKIs are made".to_owned()));
        }
        let architecture = Architecture::of_machine(pe.machine)
            .ok_or_else(|| bad(format!("it is for machine {:#06x}, for which Kairos is not made", pe.machine)))?;
        Ok(Self { version: LoaderVersion::of_magic(&magic), architecture })
    }

    /// What to know of one without a version.
    #[must_use]
    pub fn warning(&self) -> Option<String> {
        let why = "the boot manager does not tell its version (no systemd-boot in .sdmagic): entries are written with the key \
             efi, which every version understands, and further command lines get UKIs of their own";
        self.version.number.is_none().then(|| why.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_each_version_understands() {
        let of = |text: &str| LoaderVersion::of_magic(format!("#### LoaderInfo: systemd-boot {text} ####").as_bytes());
        for (text, number, uki, profiles, if_safe) in [
            ("252.39-1~deb12u2", 252, false, false, false),
            ("257.13-1~deb13u1", 257, false, false, true),
            ("258", 258, true, false, true),
            ("259.1-1.fc44", 259, true, true, true),
            ("v262~rc1", 262, true, true, true),
        ] {
            let version = of(text);
            assert_eq!(version.number(), Some(number), "{text}");
            assert_eq!(
                [version.knows_uki(), version.knows_profiles(), version.knows_if_safe()],
                [uki, profiles, if_safe]
            );
        }
        for magic in [
            "",
            "#### LoaderInfo: systemd-stub 257 ####",
            "#### LoaderInfo: systemd-boot",
            "#### LoaderInfo: systemd-boot git ####",
        ] {
            let version = LoaderVersion::of_magic(magic.as_bytes());
            assert_eq!(
                (version.number(), version.knows_uki(), version.knows_profiles()),
                (None, false, false),
                "{magic}"
            );
        }
    }

    #[test]
    fn what_is_no_program_is_refused() {
        for bytes in [&b""[..], b"MZ", &[0; 4096]] {
            let error = Loader::read(&mut std::io::Cursor::new(bytes), "x.efi").unwrap_err();
            assert!(error.to_string().contains("give systemd-boot"), "{error}");
        }
    }

    #[test]
    fn boot_files_have_uefi_names() {
        for architecture in Architecture::ALL {
            assert_eq!(architecture.boot_file(), format!("BOOT{}.EFI", architecture.as_str().to_uppercase()));
            assert_eq!(Architecture::of_boot_file(&architecture.boot_file().to_lowercase()), Some(architecture));
        }
        assert_eq!(Architecture::of_boot_file("grubx64.efi"), None);
    }
}
