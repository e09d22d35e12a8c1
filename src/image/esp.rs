//! The tree of files on the EFI system partition: what firmware, systemd-boot and Kairos' agent look for, and where.
//!
//! | file | holds |
//! |---|---|
//! | `loader` | systemd-boot: its version, what that understands, its architecture |
//! | `names` | from command lines to file names and titles, as AuroraBoot makes them |
//! | `entry` | one `.conf` file: written, and read as the agent reads it |
//! | `tree` | all of it put together |
//! | `roles` | what the agent's installation makes of it on a disk |
//! | `check` | whether a tree that is there already would boot |
//!
//! Nothing here builds or signs: UKIs and the boot manager arrive as [`Content`](super::Content), whole. The rules are read
//! from `kairos-io/AuroraBoot` (`pkg/uki/uki.go`, `pkg/utils`), `kairos-io/kairos-agent` (`pkg/uki`, `pkg/utils`) and systemd
//! (`src/boot/boot.c`, loader.conf(5)).

mod check;
mod entry;
mod loader;
mod names;
mod roles;
mod tree;

pub use check::{Checked, check};
pub use entry::{Entry, Pairs, Program, ProgramKey};
pub use loader::{Architecture, Loader, LoaderVersion, MAX_LOADER};
pub use names::{
    BASE_CMDLINE, CmdlineLayout, Extra, INSTALL_MODE, Layout, Menu, MenuEntry, NOROLE, PlannedUki, Single,
};
pub use roles::{Role, installed};
pub use tree::{EnrolmentKeys, EspRequest, EspTree, SecureBootEnroll, Uki, tree};

use super::ImageError;
use crate::boot::uki::UkiError;
use crate::boot::verify::VerifyError;
use crate::names::{NameError, TreePath};

/// EFI programs of this many bytes and more are not loaded (systemd#31452).
pub const FIRMWARE_LIMIT: u64 = 2 << 30;
/// Above this some firmware fails (kairos#2356, systemd#36706).
pub const FIRMWARE_WARNING: u64 = 1 << 30;

/// A tree for the EFI system partition cannot be made, or would not boot.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EspError {
    /// A boot manager that is none.
    #[error(
        "{what} cannot be used as boot manager: {problem}; give systemd-boot (systemd-bootx64.efi of package systemd-boot-efi)"
    )]
    Loader {
        /// Which file.
        what: String,
        /// Why.
        problem: String,
    },
    /// Entries that the boot manager does not understand.
    #[error("a loader too old for the entries asked for: {loader}, and {wanted}; {advice}")]
    TooOld {
        /// `systemd-boot 257.13`.
        loader: String,
        /// What needs which version.
        wanted: String,
        /// What to do.
        advice: &'static str,
    },
    /// A text that would be another one when it is read back.
    #[error("the {what} {text:?} cannot be in a boot entry: {problem}")]
    Text {
        /// Title, version, command line, ...
        what: &'static str,
        /// As given.
        text: String,
        /// Why.
        problem: &'static str,
    },
    /// A name that a UKI or its entry cannot have.
    #[error("a boot entry cannot be called {name:?}: {problem}; give it another title")]
    FileName {
        /// Without ending.
        name: String,
        /// Why.
        problem: String,
    },
    /// A tree that would not boot.
    #[error("{path} {problem}")]
    Tree {
        /// What in the tree.
        path: TreePath,
        /// What is wrong, and what to do.
        problem: String,
    },
    /// Nothing to boot.
    #[error(
        "a tree without a UKI: there is no .efi file in /EFI/kairos; build one with --target uki, or name the folder that holds EFI and loader"
    )]
    NoUki,
    /// Nothing that boots it.
    #[error("a tree without a boot manager: there is no BOOT*.EFI in /EFI/BOOT; give systemd-boot with --loader")]
    NoLoader,
    /// A program that firmware with this db refuses.
    #[error("{path} is not signed by the db given: {problem}; sign it with a key of that db (`uki sign`)")]
    Unsigned {
        /// Which.
        path: TreePath,
        /// What was found.
        problem: String,
    },
    /// A file that should be an EFI program.
    #[error(transparent)]
    Pe(#[from] UkiError),
    /// A program cannot be read while its signature is looked at.
    #[error(transparent)]
    Verify(#[from] VerifyError),
    /// A file cannot be read, or not be in the tree.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// A name that cannot be.
    #[error(transparent)]
    Name(#[from] NameError),
}
