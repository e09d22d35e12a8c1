//! GUIDs as UEFI writes them: the first three fields little-endian (UEFI 2.10, appendix A).

use std::fmt;
use std::str::FromStr;

use sha2::{Digest, Sha256};

/// `EFI_GUID`, in the byte order of files and memory.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Guid([u8; 16]);

impl Guid {
    /// Of the fields as the specification writes them.
    #[must_use]
    pub const fn new(first: u32, second: u16, third: u16, rest: [u8; 8]) -> Self {
        let ([a, b, c, d], [e, f], [g, h]) = (first.to_le_bytes(), second.to_le_bytes(), third.to_le_bytes());
        let [i, j, k, l, m, n, o, p] = rest;
        Self([a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p])
    }

    /// Of the bytes as they lie in a file.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The bytes as they lie in a file.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// The same for the same bytes, another for others: version 8 of RFC 9562, from their SHA-256.
    #[must_use]
    pub fn derived(from: &[u8]) -> Self {
        let digest: [u8; 32] = Sha256::digest(from).into();
        let mut bytes = [0; 16];
        bytes.iter_mut().zip(digest).for_each(|(byte, random)| *byte = random);
        // The version is in the upper half of the third field, which is little-endian; the variant begins the rest.
        bytes[7] = bytes[7] & 0x0f | 0x80;
        bytes[8] = bytes[8] & 0x3f | 0x80;
        Self(bytes)
    }
}

impl fmt::Display for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g, h, i, rest @ ..] = self.0;
        let (first, second, third) =
            (u32::from_le_bytes([a, b, c, d]), u16::from_le_bytes([e, g]), u16::from_le_bytes([h, i]));
        let [j, k, node @ ..] = rest;
        write!(f, "{first:08x}-{second:04x}-{third:04x}-{j:02x}{k:02x}-{}", hex::encode(node))
    }
}

impl fmt::Debug for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Guid {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || format!("{text:?} is not a GUID of the form 01234567-89ab-cdef-0123-456789abcdef");
        let fields: Vec<&str> = text.split('-').collect();
        let [first, second, third, fourth, node] = fields.as_slice() else { return Err(wrong()) };
        if [first, second, third, fourth, node].map(|field| field.len()) != [8, 4, 4, 4, 12] {
            return Err(wrong());
        }
        let mut rest = [0; 8];
        hex::decode_to_slice(format!("{fourth}{node}"), &mut rest).map_err(|_| wrong())?;
        let number = |field: &str| {
            let digits = field.bytes().all(|byte| byte.is_ascii_hexdigit());
            digits.then(|| u32::from_str_radix(field, 16).ok()).flatten().ok_or_else(wrong)
        };
        let short = |field: &str| number(field).and_then(|number| u16::try_from(number).map_err(|_| wrong()));
        Ok(Self::new(number(first)?, short(second)?, short(third)?, rest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_read_and_written_as_the_specification_writes_it() {
        let text = "77fa9abd-0359-4d32-bd60-28f4e78f784b";
        let guid: Guid = text.parse().unwrap();
        assert_eq!(guid.as_bytes()[..8], [0xbd, 0x9a, 0xfa, 0x77, 0x59, 0x03, 0x32, 0x4d]);
        assert_eq!(guid.as_bytes()[8..], [0xbd, 0x60, 0x28, 0xf4, 0xe7, 0x8f, 0x78, 0x4b]);
        assert_eq!(guid.to_string(), text);
        assert_eq!(text.to_uppercase().parse(), Ok(guid));
        for wrong in ["", "77fa9abd", "77fa9abd-0359-4d32-bd60-28f4e78f784", "+7fa9abd-0359-4d32-bd60-28f4e78f784b"] {
            assert!(wrong.parse::<Guid>().unwrap_err().contains("is not a GUID"));
        }
    }

    #[test]
    fn a_derived_one_depends_on_the_bytes_only_and_says_its_version() {
        let guid = Guid::derived(b"certificate").to_string();
        assert_eq!(guid, Guid::derived(b"certificate").to_string());
        assert_ne!(guid, Guid::derived(b"certificatf").to_string());
        assert_eq!(guid.as_bytes()[14], b'8');
        assert!(b"89ab".contains(&guid.as_bytes()[19]));
    }
}
