//! The software bill of materials beside an image: an SPDX 2.3 document in JSON (<https://spdx.github.io/spdx-spec/v2.3/>).
//!
//! The image CONTAINS each package of the root's databases, the kernel, and the firmware. The kernel's modules and the firmware's
//! files are listed one by one with their checksums, since no package stands for what was kept of it: these two packages
//! are analysed in SPDX's sense and have a verification code; the others are named, not analysed. The document depends on
//! [`Sbom`] only: the same image gives the same bytes. Not here: how packages depend on each other, CPE names, signatures.

mod files;
mod license;
mod os_release;
mod purl;
mod spdx;
mod time;

use std::io::Write;

pub use files::{HashedFile, hash};
pub use os_release::OsRelease;
pub use purl::purl;
use sha2::{Digest, Sha256};

use crate::names::KernelRelease;
use crate::root::packages::Package;

/// The file's name in the output folder.
pub const SBOM: &str = "sbom.spdx.json";

/// What an image is made of.
#[derive(Debug, Clone)]
pub struct Sbom {
    /// The image's name.
    pub name: String,
    /// The image's version, where it has one.
    pub version: Option<String>,
    /// The version of `kairos-init`.
    pub tool_version: String,
    /// When the image was made, seconds since 1970: `SOURCE_DATE_EPOCH`, no clock.
    pub created: i64,
    /// The distribution.
    pub os_release: OsRelease,
    /// What the package databases list: [`Packages::packages`](crate::root::packages::Packages::packages).
    pub packages: Vec<Package>,
    /// Packages of which nothing is in the image, for the document's comment:
    /// [`Packages::gone`](crate::root::packages::Packages::gone).
    pub gone: Vec<Package>,
    /// What the reader must know, for the document's comment: the warnings of the package databases.
    pub notes: Vec<String>,
    /// The kernel in the image.
    pub kernel: Option<KernelRelease>,
    /// The kernel's files that were kept: modules, and its image where that is a file of the root.
    pub modules: Vec<HashedFile>,
    /// Firmware files that were kept.
    pub firmware: Vec<HashedFile>,
}

/// The document, to `out`. Its namespace is derived from everything else in it.
///
/// # Errors
/// `out` cannot be written.
pub fn write(sbom: &Sbom, out: &mut impl Write) -> std::io::Result<()> {
    let mut document = spdx::Document::new(sbom);
    let mut hash = Sha256::new();
    serde_json::to_writer(&mut hash, &document)?;
    document.set_namespace(&hash.finalize());
    serde_json::to_writer_pretty(&mut *out, &document)?;
    out.write_all(b"\n")
}

/// The document as text.
#[must_use]
pub fn document(sbom: &Sbom) -> String {
    let mut out = Vec::new();
    // Nothing can fail: memory is written to, and all keys are text.
    let _ = write(sbom, &mut out);
    String::from_utf8(out).unwrap_or_default()
}
