//! The Unified Kernel Image: the stub, its sections, one PE file.
//!
//! Specification: UAPI.5 and Microsoft's "PE Format". What is not here: measurement ([`super::measure`]), keys and
//! signatures ([`super::sign`]), and the pass that puts them side by side ([`super::build`]).

pub mod assemble;
pub mod attach;
pub mod hwids;
pub mod inspect;
pub mod kernel;
pub mod layout;
pub mod pe;
pub mod profile;
pub mod reuse;
pub mod sbat;
pub mod splash;
pub mod stub;

use crate::boot::section::SectionName;
use crate::cancel::Cancelled;

/// A UKI cannot be made or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UkiError {
    /// A file that should be a PE image is none, or is damaged.
    #[error("{what} is not a valid PE file: {problem}")]
    Pe {
        /// Which file: "the stub", "the kernel", a path.
        what: String,
        /// What is wrong, with the offset where that helps.
        problem: String,
    },
    /// The stub is a PE file, but not one that can be used.
    #[error("the stub {0}")]
    Stub(String),
    /// The kernel would not be started by the stub.
    #[error("the kernel {0}")]
    Kernel(String),
    /// A boot entry that cannot be.
    #[error("the profile {text:?} cannot be used: {problem} (example: 'Rescue: systemd.unit=rescue.target')")]
    Profile {
        /// As given.
        text: String,
        /// What is wrong.
        problem: String,
    },
    /// Signatures that do not fit the image.
    #[error("{what} cannot take these PCR signatures: {problem}")]
    Pcrsig {
        /// The image.
        what: String,
        /// Why.
        problem: String,
    },
    /// A picture that the stub would not show.
    #[error("the splash {0}")]
    Splash(String),
    /// A file that describes a computer for `.hwids`.
    #[error("{path} cannot be used for .hwids: {problem}")]
    Hwids {
        /// The file.
        path: String,
        /// What is wrong.
        problem: String,
    },
    /// A section is given twice.
    #[error("section {0} is given twice: one of each may be there, and in each profile")]
    Duplicate(SectionName),
    /// The file would be larger than firmware or the format allow.
    #[error(
        "the image would have {bytes} bytes: firmware does not load EFI files of 2 GiB and more; drop drivers (--hardware) or files"
    )]
    TooLarge {
        /// Bytes needed.
        bytes: u64,
    },
    /// The header table needs more room than there is before the first section.
    #[error(
        "the stub has no room for {sections} section headers: {needed} bytes are needed before its first section at {available}"
    )]
    Headers {
        /// Sections in all.
        sections: usize,
        /// Bytes that the headers need.
        needed: u64,
        /// Address of the first section.
        available: u64,
    },
    /// A section's bytes could not be had.
    #[error("failed to write section {section}: {source}")]
    Section {
        /// Which.
        section: SectionName,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A section's content has another length than announced.
    #[error(
        "section {section} has {found} bytes instead of the {announced} announced: the file changed while it was read"
    )]
    Length {
        /// Which.
        section: SectionName,
        /// Bytes that came.
        found: u64,
        /// Bytes that were announced.
        announced: u64,
    },
    /// It was asked to stop.
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
    /// The image could not be written or read back.
    #[error("failed to write the image: {0}")]
    Io(#[from] std::io::Error),
}
