//! [`FatLabel`]: the name of a volume.

use super::FORMAT;
use crate::image::ImageError;

/// A volume's name: 1 to 11 characters that every system reads alike. Upper case, since some tools show others and some refuse
/// them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FatLabel([u8; 11]);

impl FatLabel {
    /// Checks a label.
    ///
    /// # Errors
    /// Empty or longer than 11 bytes; other characters than `A` to `Z`, digits, space, and ``$%'-_@~`!(){}^#&``; a space
    /// first or last.
    pub fn new(label: &str) -> Result<Self, ImageError> {
        let failed = |problem: &str| ImageError::Layout {
            format: FORMAT,
            problem: format!("the label {label:?} {problem}; choose another"),
        };
        let is_allowed = |byte: u8| byte == b' ' || super::names::is_short(byte);
        if label.is_empty() || label.len() > 11 {
            return Err(failed("does not have 1 to 11 characters"));
        }
        if label.starts_with(' ') || label.ends_with(' ') {
            return Err(failed("has a space at an end"));
        }
        if !label.bytes().all(is_allowed) {
            return Err(failed("has other characters than A to Z, 0 to 9, space and $%'-_@~`!(){}^#&"));
        }
        let mut bytes = [b' '; 11];
        for (to, from) in bytes.iter_mut().zip(label.bytes()) {
            *to = from;
        }
        Ok(Self(bytes))
    }

    /// As it is on the disk, padded with spaces.
    #[must_use]
    pub fn bytes(self) -> [u8; 11] {
        self.0
    }
}
