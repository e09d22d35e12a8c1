//! The vocabulary of event logs: types, digests, and what an event's data says it is about.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::eventlog::Event;
use super::hash;
use crate::boot::pcr::Bank;

/// The type of an event: `TCG_EVENTTYPE`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventType(pub u32);

macro_rules! event_types {
    ($($constant:ident = $value:literal $name:literal,)*) => {
        impl EventType {
            $(#[doc = concat!("`", $name, "`.")] pub const $constant: Self = Self($value);)*

            /// The specification's name for it.
            #[must_use]
            pub const fn name(self) -> Option<&'static str> {
                match self.0 {
                    $($value => Some($name),)*
                    _ => None,
                }
            }

            const ALL: &'static [Self] = &[$(Self::$constant),*];
        }
    };
}

event_types! {
    PREBOOT_CERT = 0x0000_0000 "EV_PREBOOT_CERT",
    POST_CODE = 0x0000_0001 "EV_POST_CODE",
    UNUSED = 0x0000_0002 "EV_UNUSED",
    NO_ACTION = 0x0000_0003 "EV_NO_ACTION",
    SEPARATOR = 0x0000_0004 "EV_SEPARATOR",
    ACTION = 0x0000_0005 "EV_ACTION",
    EVENT_TAG = 0x0000_0006 "EV_EVENT_TAG",
    S_CRTM_CONTENTS = 0x0000_0007 "EV_S_CRTM_CONTENTS",
    S_CRTM_VERSION = 0x0000_0008 "EV_S_CRTM_VERSION",
    CPU_MICROCODE = 0x0000_0009 "EV_CPU_MICROCODE",
    PLATFORM_CONFIG_FLAGS = 0x0000_000a "EV_PLATFORM_CONFIG_FLAGS",
    TABLE_OF_DEVICES = 0x0000_000b "EV_TABLE_OF_DEVICES",
    COMPACT_HASH = 0x0000_000c "EV_COMPACT_HASH",
    IPL = 0x0000_000d "EV_IPL",
    IPL_PARTITION_DATA = 0x0000_000e "EV_IPL_PARTITION_DATA",
    NONHOST_CODE = 0x0000_000f "EV_NONHOST_CODE",
    NONHOST_CONFIG = 0x0000_0010 "EV_NONHOST_CONFIG",
    NONHOST_INFO = 0x0000_0011 "EV_NONHOST_INFO",
    OMIT_BOOT_DEVICE_EVENTS = 0x0000_0012 "EV_OMIT_BOOT_DEVICE_EVENTS",
    POST_CODE2 = 0x0000_0013 "EV_POST_CODE2",
    EFI_VARIABLE_DRIVER_CONFIG = 0x8000_0001 "EV_EFI_VARIABLE_DRIVER_CONFIG",
    EFI_VARIABLE_BOOT = 0x8000_0002 "EV_EFI_VARIABLE_BOOT",
    EFI_BOOT_SERVICES_APPLICATION = 0x8000_0003 "EV_EFI_BOOT_SERVICES_APPLICATION",
    EFI_BOOT_SERVICES_DRIVER = 0x8000_0004 "EV_EFI_BOOT_SERVICES_DRIVER",
    EFI_RUNTIME_SERVICES_DRIVER = 0x8000_0005 "EV_EFI_RUNTIME_SERVICES_DRIVER",
    EFI_GPT_EVENT = 0x8000_0006 "EV_EFI_GPT_EVENT",
    EFI_ACTION = 0x8000_0007 "EV_EFI_ACTION",
    EFI_PLATFORM_FIRMWARE_BLOB = 0x8000_0008 "EV_EFI_PLATFORM_FIRMWARE_BLOB",
    EFI_HANDOFF_TABLES = 0x8000_0009 "EV_EFI_HANDOFF_TABLES",
    EFI_PLATFORM_FIRMWARE_BLOB2 = 0x8000_000a "EV_EFI_PLATFORM_FIRMWARE_BLOB2",
    EFI_HANDOFF_TABLES2 = 0x8000_000b "EV_EFI_HANDOFF_TABLES2",
    EFI_VARIABLE_BOOT2 = 0x8000_000c "EV_EFI_VARIABLE_BOOT2",
    EFI_GPT_EVENT2 = 0x8000_000d "EV_EFI_GPT_EVENT2",
    EFI_HCRTM_EVENT = 0x8000_0010 "EV_EFI_HCRTM_EVENT",
    EFI_VARIABLE_AUTHORITY = 0x8000_00e0 "EV_EFI_VARIABLE_AUTHORITY",
    EFI_SPDM_FIRMWARE_BLOB = 0x8000_00e1 "EV_EFI_SPDM_FIRMWARE_BLOB",
    EFI_SPDM_FIRMWARE_CONFIG = 0x8000_00e2 "EV_EFI_SPDM_FIRMWARE_CONFIG",
}

impl fmt::Display for EventType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.pad(name),
            None => f.pad(&format!("{:#010x}", self.0)),
        }
    }
}

impl FromStr for EventType {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = Self::ALL.iter().copied().find(|kind| kind.name() == Some(text));
        let number = || text.strip_prefix("0x").and_then(|digits| u32::from_str_radix(digits, 16).ok()).map(Self);
        known.or_else(number).ok_or_else(|| format!("unknown event type {text:?}: use a name like EV_SEPARATOR"))
    }
}

impl Serialize for EventType {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for EventType {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

/// A digest in each of some banks; each is as wide as its bank. JSON: `{"sha256":"..."}`, hexadecimal.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Digests(BTreeMap<Bank, Vec<u8>>);

impl Digests {
    /// Takes digests.
    ///
    /// # Errors
    /// Says which digest is not as wide as its bank.
    pub fn new(digests: BTreeMap<Bank, Vec<u8>>) -> Result<Self, String> {
        match digests.iter().find(|(bank, digest)| digest.len() != bank.width()) {
            Some((bank, digest)) => {
                Err(format!("a digest of {bank} has {} bytes, and not {}", digest.len(), bank.width()))
            }
            None => Ok(Self(digests)),
        }
    }

    /// Hashes the parts, joined, with every bank's hash.
    #[must_use]
    pub fn of(parts: &[&[u8]]) -> Self {
        Self(Bank::ALL.into_iter().map(|bank| (bank, hash(bank, parts))).collect())
    }

    /// The digest of a bank.
    #[must_use]
    pub fn get(&self, bank: Bank) -> Option<&[u8]> {
        self.0.get(&bank).map(Vec::as_slice)
    }

    /// All digests, sorted by bank.
    pub fn iter(&self) -> impl Iterator<Item = (Bank, &[u8])> {
        self.0.iter().map(|(bank, digest)| (*bank, digest.as_slice()))
    }

    /// Whether nothing is in any bank.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Serialize for Digests {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter().map(|(bank, digest)| (bank.as_str(), hex::encode(digest))))
    }
}

impl<'de> Deserialize<'de> for Digests {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut digests = BTreeMap::new();
        for (bank, digest) in BTreeMap::<String, String>::deserialize(deserializer)? {
            let digest =
                hex::decode(&digest).map_err(|error| D::Error::custom(format!("digest of {bank}: {error}")))?;
            digests.insert(bank.parse().map_err(D::Error::custom)?, digest);
        }
        Self::new(digests).map_err(D::Error::custom)
    }
}

/// The device path of the kernel inside of a UKI, where stubs of systemd up to 257 load it through the firmware:
/// `STUB_PAYLOAD_GUID` as it lies in memory.
const STUB_PAYLOAD: [u8; 16] =
    [0xf8, 0xd1, 0xc5, 0x55, 0xcd, 0x04, 0xb5, 0x46, 0x8a, 0x20, 0xe5, 0x6c, 0xbb, 0x30, 0x52, 0xd0];

impl Event {
    /// What the event is about, by its own data: the path of a program, the name of a variable, a text. Nothing where
    /// the data does not say. Control characters are escaped: the log is not trusted.
    #[must_use]
    pub fn subject(&self) -> Option<String> {
        let text = match self.kind {
            EventType::EFI_BOOT_SERVICES_APPLICATION
            | EventType::EFI_BOOT_SERVICES_DRIVER
            | EventType::EFI_RUNTIME_SERVICES_DRIVER => image_path(&self.data)?,
            EventType::EFI_VARIABLE_DRIVER_CONFIG
            | EventType::EFI_VARIABLE_BOOT
            | EventType::EFI_VARIABLE_BOOT2
            | EventType::EFI_VARIABLE_AUTHORITY => format!("variable {}", variable_name(&self.data)?),
            EventType::IPL => utf16(&self.data),
            EventType::EVENT_TAG => String::from_utf8_lossy(self.data.get(8..)?).into_owned(),
            EventType::EFI_ACTION | EventType::ACTION => String::from_utf8_lossy(&self.data).into_owned(),
            _ => return None,
        };
        let text = text.trim_end_matches('\0');
        let shown: String = text.chars().take(256).flat_map(shown).collect();
        (!shown.is_empty()).then_some(shown)
    }
}

/// The character itself, unless it would do something to a terminal.
fn shown(character: char) -> impl Iterator<Item = char> {
    let escaped = character.is_control().then(|| character.escape_default());
    let plain = escaped.is_none().then_some(character);
    escaped.into_iter().flatten().chain(plain)
}

fn utf16(bytes: &[u8]) -> String {
    let units: Vec<u16> = bytes.as_chunks::<2>().0.iter().map(|unit| u16::from_le_bytes(*unit)).collect();
    String::from_utf16_lossy(&units)
}

/// The name in `UEFI_VARIABLE_DATA`: GUID, number of characters, length of the data, name.
fn variable_name(data: &[u8]) -> Option<String> {
    let characters = u64::from_le_bytes(*data.get(16..)?.first_chunk()?);
    let length = usize::try_from(characters).ok()?.checked_mul(2)?;
    Some(utf16(data.get(32..)?.get(..length)?))
}

/// The file in `UEFI_IMAGE_LOAD_EVENT`: address, size and link address of the image, length of the device path, the path.
fn image_path(data: &[u8]) -> Option<String> {
    /// Media device path: vendor, file path.
    const MEDIA: u8 = 4;
    let mut rest = data.get(32..)?;
    let mut path = String::new();
    while let [kind, subtype, low, high, ..] = *rest {
        let length = usize::from(u16::from_le_bytes([low, high]));
        let node = rest.get(4..length)?;
        match (kind, subtype) {
            (MEDIA, 4) => path.push_str(utf16(node).trim_end_matches('\0')),
            (MEDIA, 3) if node == STUB_PAYLOAD => path.push_str("the kernel inside of the UKI"),
            _ => {}
        }
        rest = rest.get(length..)?;
    }
    Some(path)
}
