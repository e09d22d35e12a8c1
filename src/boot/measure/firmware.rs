//! PCR 4 and PCR 7: what firmware will measure of the programs it starts and of its Secure Boot settings.
//!
//! Source: TCG PC Client Platform Firmware Profile, and EDK2 (`Tcg2Dxe`, `DxeTpm2MeasureBootLib`,
//! `DxeImageVerificationLib`), which most firmware descends from.
//!
//! Assumed: the first boot option starts (each that fails leaves events of its own in PCR 4), no driver is loaded from an
//! option ROM or a `Driver####` variable, and firmware is not in a debug mode.
//!
//! Left out: `SbatLevel` and `MokListRT`, which shim adds to PCR 7 and PCR 14; the variables `AuditMode` and
//! `DeployedMode`, which firmware that supports them may add to PCR 7; `dbt` and `dbr`, which are measured where they are
//! set; "DMA Protection Disabled" and other actions of vendors. Where one of them is on a machine, the comparison names it
//! as an event too many.

use super::event::{Digests, EventType};
use super::image::{LoadedImage, PredictError};
use super::prediction::ExpectedEvent;
use super::secure_boot::{Database, authority, variable_data};

/// The register of the programs that firmware starts.
pub const PCR_BOOT_PROGRAMS: u32 = 4;
/// The register of the Secure Boot settings.
pub const PCR_SECURE_BOOT: u32 = 7;

/// Measured when firmware turns to the boot options; without a NUL.
const CALLING: &str = "Calling EFI Application from Boot Option";
/// `EV_SEPARATOR`: what firmware measured itself ends here.
const SEPARATOR: [u8; 4] = [0; 4];

/// `EFI_GLOBAL_VARIABLE`, as it lies in memory.
const GLOBAL: [u8; 16] =
    [0x61, 0xdf, 0xe4, 0x8b, 0xca, 0x93, 0xd2, 0x11, 0xaa, 0x0d, 0x00, 0xe0, 0x98, 0x03, 0x2b, 0x8c];
/// `EFI_IMAGE_SECURITY_DATABASE_GUID`, as it lies in memory.
const SECURITY_DATABASE: [u8; 16] =
    [0xcb, 0xb2, 0x19, 0xd7, 0x3a, 0x3d, 0x96, 0x45, 0xa3, 0xbc, 0xda, 0xd0, 0x0e, 0x67, 0x65, 0x6f];

/// The Secure Boot settings of a machine. The variables are lists of EFI signatures: `.esl` files, or files of efivarfs,
/// which have 4 bytes of attributes in front. A variable that is not set is empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SecureBootVariables<'a> {
    /// Whether Secure Boot is on: the variable `SecureBoot` is 1. Nothing where that variable does not exist: firmware
    /// that was built without Secure Boot, which measures all five variables as empty.
    pub secure_boot: Option<bool>,
    /// `PK`.
    pub pk: &'a [u8],
    /// `KEK`.
    pub kek: &'a [u8],
    /// `db`.
    pub db: &'a [u8],
    /// `dbx`.
    pub dbx: &'a [u8],
}

/// Whether the kernel inside of a UKI is measured into PCR 4 as well: whether a stub of this major version of systemd has
/// firmware load it. Such a kernel is to be the last of the images given to [`pcr4_events`].
///
/// From `src/boot/linux.c`: before 252 the stub jumps into the kernel; from 252 to 257 it calls `LoadImage`, but with
/// Secure Boot on keeps firmware from verifying, and so from measuring, what is verified already; from 258 on it loads
/// the kernel by itself. Seen with 257.13 on OVMF, both ways. Firmware without the security protocol of the Platform
/// Initialization Specification measures it with Secure Boot on, too (seen on Dell's, systemd#37372).
#[must_use]
pub fn stub_has_kernel_measured(systemd: u32, secure_boot: bool) -> bool {
    (252..258).contains(&systemd) && !secure_boot
}

/// The events of PCR 4, for the programs in the order in which they are loaded: a boot loader, if one is used, the UKI,
/// and the kernel in it if [`stub_has_kernel_measured`] says so. The log has the path from which a program was loaded.
#[must_use]
pub fn pcr4_events(images: &[LoadedImage]) -> Vec<ExpectedEvent> {
    let calling = ExpectedEvent {
        kind: EventType::EFI_ACTION,
        what: CALLING.to_owned(),
        input: "the firmware's boot options".to_owned(),
        digests: Digests::of(&[CALLING.as_bytes()]),
    };
    let programs = images.iter().map(|image| ExpectedEvent {
        kind: EventType::EFI_BOOT_SERVICES_APPLICATION,
        what: image.name().to_owned(),
        input: format!("the file {}", image.name()),
        digests: image.digests().clone(),
    });
    [calling, separator()].into_iter().chain(programs).collect()
}

/// The events of PCR 7: the variables, then the entry of db by which each image is verified, each entry once.
///
/// Whether a signature is good is not asked, nor whether dbx forbids it: firmware that refuses an image does not go on.
///
/// # Errors
/// [`PredictError::Variable`] if a variable is no list of signatures, [`PredictError::NotVerified`] if Secure Boot is on
/// and no entry of db verifies an image.
pub fn pcr7_events(
    variables: &SecureBootVariables<'_>,
    images: &[LoadedImage],
) -> Result<Vec<ExpectedEvent>, PredictError> {
    let config = |vendor: &[u8; 16], name: &str, data: &[u8]| ExpectedEvent {
        kind: EventType::EFI_VARIABLE_DRIVER_CONFIG,
        what: format!("variable {name}"),
        input: format!("variable {name}"),
        digests: Digests::of(&[&variable_data(vendor, name, data)]),
    };
    let pk = Database::parse("PK", variables.pk)?;
    let kek = Database::parse("KEK", variables.kek)?;
    let db = Database::parse("db", variables.db)?;
    let dbx = Database::parse("dbx", variables.dbx)?;
    let mut events = vec![
        config(&GLOBAL, "SecureBoot", variables.secure_boot.map(u8::from).as_slice()),
        config(&GLOBAL, "PK", pk.bytes()),
        config(&GLOBAL, "KEK", kek.bytes()),
        config(&SECURITY_DATABASE, "db", db.bytes()),
        config(&SECURITY_DATABASE, "dbx", dbx.bytes()),
        separator(),
    ];
    // Without Secure Boot firmware verifies nothing.
    let verified = if variables.secure_boot == Some(true) { images } else { &[] };
    let mut measured = Vec::new();
    for image in verified {
        let Some(entry) = authority(&db, image) else {
            return Err(PredictError::NotVerified { name: image.name().to_owned() });
        };
        if measured.contains(&entry) {
            continue;
        }
        measured.push(entry);
        events.push(ExpectedEvent {
            kind: EventType::EFI_VARIABLE_AUTHORITY,
            what: format!("variable db: {}", entry.describe()),
            input: format!("variable db, and the signature of {}", image.name()),
            digests: Digests::of(&[&variable_data(&SECURITY_DATABASE, "db", entry.bytes())]),
        });
    }
    Ok(events)
}

fn separator() -> ExpectedEvent {
    ExpectedEvent {
        kind: EventType::SEPARATOR,
        what: "the end of what firmware measures before it starts a program".to_owned(),
        input: "the firmware".to_owned(),
        digests: Digests::of(&[&SEPARATOR]),
    }
}
