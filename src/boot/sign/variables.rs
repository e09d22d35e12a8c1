//! Signed updates of the Secure Boot variables (`.auth`): what firmware takes in place of a key holder at the machine.
//!
//! Source: UEFI 2.10, section 8.2.2 (`EFI_VARIABLE_AUTHENTICATION_2`). Two things differ from `sbvarsign`: the month is
//! written as the specification counts it, from 1, and the certificate table is DER without a `ContentInfo` around it,
//! as the specification asks. The same key, time and contents give the same bytes. Left out: making updates that
//! append (`EFI_VARIABLE_APPEND_WRITE`); they are read.

use der::DateTime;
use sha2::{Digest, Sha256};

use super::guid::Guid;
use super::pkcs7::{DetachedSignature, detached_pkcs7};
use super::{Identity, SignError};

/// `EFI_CERT_TYPE_PKCS7_GUID`.
const PKCS7: Guid = Guid::new(0x4aaf_d29d, 0x68df, 0x49ee, [0x8a, 0xa9, 0x34, 0x7d, 0x37, 0x56, 0x65, 0xa7]);
/// `WIN_CERTIFICATE_UEFI_GUID`: length, revision 2.0, `WIN_CERT_TYPE_EFI_GUID`, then the type of what follows.
const CERTIFICATE_HEADER: usize = 4 + 2 + 2 + 16;
const REVISION_AND_TYPE: [u8; 4] = [0x00, 0x02, 0xf1, 0x0e];
/// `EFI_TIME`.
const TIME: usize = 16;
/// Non-volatile, for boot services and at run time, with time-based authenticated writes.
pub const ATTRIBUTES: u32 = 0x27;
/// `EFI_VARIABLE_APPEND_WRITE`: what `sbvarsign` signs unless told otherwise.
const APPEND: u32 = 0x40;
/// What a file of efivarfs may begin with: the attributes that UEFI defines, of which a variable has at least one.
pub(super) const EFIVARFS_ATTRIBUTES: std::ops::RangeInclusive<u32> = 1..=0xff;

/// The variables of Secure Boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Variable {
    /// The platform key: who owns the machine. Updates are signed by itself.
    Pk,
    /// Key exchange keys: who may change db and dbx. Updates are signed by the platform key.
    Kek,
    /// What may start. Updates are signed by a key exchange key.
    Db,
    /// What must not start. Updates are signed by a key exchange key.
    Dbx,
}

impl Variable {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Pk, Self::Kek, Self::Db, Self::Dbx];

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pk => "PK",
            Self::Kek => "KEK",
            Self::Db => "db",
            Self::Dbx => "dbx",
        }
    }

    /// Whose name it is: `EFI_GLOBAL_VARIABLE`, or `EFI_IMAGE_SECURITY_DATABASE_GUID`.
    #[must_use]
    pub const fn vendor(self) -> Guid {
        match self {
            Self::Pk | Self::Kek => {
                Guid::new(0x8be4_df61, 0x93ca, 0x11d2, [0xaa, 0x0d, 0x00, 0xe0, 0x98, 0x03, 0x2b, 0x8c])
            }
            Self::Db | Self::Dbx => {
                Guid::new(0xd719_b2cb, 0x3d3a, 0x4596, [0xa3, 0xbc, 0xda, 0xd0, 0x0e, 0x67, 0x65, 0x6f])
            }
        }
    }
}

/// Signs an update that replaces the variable with `contents`, which are signature lists. `time` in seconds since 1970,
/// UTC: firmware refuses an update that is not later than the one before.
///
/// # Errors
/// [`SignError::Request`] for a time from the year 10000 on; [`SignError::Encoding`], or what the signer gives.
pub fn sign_variable(
    variable: Variable,
    contents: &[u8],
    time: u64,
    identity: &Identity,
) -> Result<Vec<u8>, SignError> {
    let time = efi_time(time)?;
    let signature = detached_pkcs7(&signed_digest(variable, ATTRIBUTES, &time, contents), identity)?;
    let length = CERTIFICATE_HEADER
        .checked_add(signature.len())
        .and_then(|length| u32::try_from(length).ok())
        .ok_or_else(|| SignError::Request { what: "the update", reason: "its signature is too long".to_owned() })?;
    let mut bytes = time.to_vec();
    bytes.extend(length.to_le_bytes());
    bytes.extend(REVISION_AND_TYPE);
    bytes.extend(PKCS7.as_bytes());
    bytes.extend(signature);
    bytes.extend(contents);
    Ok(bytes)
}

/// A signed update that was read.
#[derive(Debug, Clone)]
pub struct SignedUpdate {
    name: String,
    time: [u8; TIME],
    signature: DetachedSignature,
    contents: Vec<u8>,
}

impl SignedUpdate {
    /// Whether the bytes begin as a signed update does.
    #[must_use]
    pub fn is_one(bytes: &[u8]) -> bool {
        !matches!(authentication_length(bytes), Ok(None))
    }

    /// Reads an update. `name` is for messages.
    ///
    /// # Errors
    /// [`SignError::Unexpected`] if it is none, [`SignError::Damaged`].
    pub fn parse(bytes: &[u8], name: &str) -> Result<Self, SignError> {
        let damaged = |reason: String| SignError::Damaged { name: name.to_owned(), reason };
        let Some(length) = authentication_length(bytes).map_err(damaged)? else {
            return Err(SignError::Unexpected {
                name: name.to_owned(),
                wanted: "a signed update of a Secure Boot variable",
                found: "something else".to_owned(),
                advice: "give a file that ends in .auth",
            });
        };
        let der = bytes.get(TIME + CERTIFICATE_HEADER..length).unwrap_or_default();
        let signature = DetachedSignature::parse(der).map_err(|reason| damaged(format!("its signature {reason}")))?;
        let contents = bytes.get(length..).unwrap_or_default().to_vec();
        Ok(Self { name: name.to_owned(), time: *bytes.first_chunk().unwrap_or(&[0; TIME]), signature, contents })
    }

    /// The signature lists.
    #[must_use]
    pub fn contents(&self) -> &[u8] {
        &self.contents
    }

    /// When it was signed, by its own word: `2026-11-24T12:00:00Z`.
    #[must_use]
    pub fn time(&self) -> String {
        let [a, b, month, day, hour, minute, second, ..] = self.time;
        let year = u16::from_le_bytes([a, b]);
        format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
    }

    /// The subject of the signer's certificate.
    #[must_use]
    pub fn signer(&self) -> String {
        self.signature.certificate.tbs_certificate.subject.to_string()
    }

    /// The variable that the signature is for, and whether it appends to it rather than replacing it. It holds for the
    /// certificate that the update itself carries: whether a machine trusts that one, its firmware decides.
    ///
    /// # Errors
    /// [`SignError::Damaged`] if it is for none: something was changed after signing, or it is another's variable.
    pub fn signed_for(&self) -> Result<(Variable, bool), SignError> {
        let damaged = |reason: String| SignError::Damaged { name: self.name.clone(), reason };
        let key = self.signature.key().map_err(|reason| damaged(format!("its signer's key {reason}")))?;
        let holds = |(variable, append): &(Variable, bool)| {
            let attributes = if *append { ATTRIBUTES | APPEND } else { ATTRIBUTES };
            self.signature.holds(&key, &signed_digest(*variable, attributes, &self.time, &self.contents))
        };
        Variable::ALL.into_iter().flat_map(|variable| [(variable, false), (variable, true)]).find(holds).ok_or_else(
            || {
                damaged(format!(
                    "the signature by {} does not hold for PK, KEK, db or dbx: it was changed after signing",
                    self.signer()
                ))
            },
        )
    }
}

/// What is signed: the variable's name in UTF-16 without an end, whose it is, attributes, time, contents.
fn signed_digest(variable: Variable, attributes: u32, time: &[u8; TIME], contents: &[u8]) -> [u8; 32] {
    let mut hasher = Sha256::new();
    for unit in variable.name().encode_utf16() {
        hasher.update(unit.to_le_bytes());
    }
    hasher.update(variable.vendor().as_bytes());
    hasher.update(attributes.to_le_bytes());
    hasher.update(time);
    hasher.update(contents);
    hasher.finalize().into()
}

/// `EFI_TIME` with zero in all that section 8.2.2 wants to be zero: nanoseconds, time zone, daylight, padding.
fn efi_time(seconds: u64) -> Result<[u8; TIME], SignError> {
    let date = DateTime::from_unix_duration(std::time::Duration::from_secs(seconds)).map_err(|_| {
        SignError::Request { what: "the update", reason: format!("second {seconds} is not before the year 10000") }
    })?;
    let [low, high] = date.year().to_le_bytes();
    let (month, day, hour, minute, second) = (date.month(), date.day(), date.hour(), date.minutes(), date.seconds());
    Ok([low, high, month, day, hour, minute, second, 0, 0, 0, 0, 0, 0, 0, 0, 0])
}

/// Length of `EFI_VARIABLE_AUTHENTICATION_2` at the start of the bytes; nothing where there is none.
pub(super) fn authentication_length(bytes: &[u8]) -> Result<Option<usize>, String> {
    let Some(header) = bytes.get(TIME..TIME + CERTIFICATE_HEADER) else { return Ok(None) };
    let Some((length, header)) = header.split_first_chunk() else { return Ok(None) };
    if header.strip_prefix(&REVISION_AND_TYPE) != Some(PKCS7.as_bytes()) {
        return Ok(None);
    }
    let length = u32::from_le_bytes(*length);
    let end = usize::try_from(length).ok().and_then(|length| length.checked_add(TIME));
    match end {
        Some(end) if end >= TIME + CERTIFICATE_HEADER && end <= bytes.len() => Ok(Some(end)),
        _ => Err(format!("its signature says that it has {length} bytes, and {} are there", bytes.len() - TIME)),
    }
}
