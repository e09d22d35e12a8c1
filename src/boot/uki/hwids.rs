//! `.hwids`: which computer has which device tree, for the stub's choice among `.dtbauto` sections.
//!
//! Form: systemd's `src/boot/chid.h` (devices of type device tree), as ukify packs it: one entry for each hardware id, an empty one at
//! the end, then the strings. Input: JSON files with `name`, `compatible` and `hwids`.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use super::UkiError;

/// Bytes of an entry: descriptor, id, offset of the name, offset of the compatible string.
const ENTRY: usize = 4 + 16 + 4 + 4;
/// `DEVICE_TYPE_DEVICETREE`, and the size of an entry.
const DESCRIPTOR: u32 = 1 << 28 | 28;

/// A computer, as a JSON file describes it; what else such a file says is for other programs.
#[derive(Debug, Clone, Deserialize)]
pub struct Computer {
    /// What people call it.
    pub name: String,
    /// `compatible` of its device tree.
    pub compatible: String,
    /// Its computer hardware ids (CHID), as GUIDs.
    pub hwids: Vec<String>,
}

impl Computer {
    /// Reads a JSON file; `path` is for messages.
    ///
    /// # Errors
    /// [`UkiError::Hwids`] for what is no such JSON.
    pub fn parse(json: &[u8], path: &str) -> Result<Self, UkiError> {
        serde_json::from_slice(json).map_err(|error| UkiError::Hwids {
            path: path.to_owned(),
            problem: format!("{error}; it must be JSON with \"name\", \"compatible\" and a list \"hwids\" of GUIDs"),
        })
    }
}

/// The section for these computers, in the order of their files.
///
/// # Errors
/// [`UkiError::Hwids`] for an id that is no GUID, or strings with a NUL.
pub fn section(computers: &[(String, Computer)]) -> Result<Vec<u8>, UkiError> {
    let mut strings = BTreeSet::new();
    let mut order: Vec<(&str, &str)> = Vec::new();
    let mut ids: BTreeMap<(&str, &str), BTreeSet<[u8; 16]>> = BTreeMap::new();
    for (path, computer) in computers {
        let bad = |problem: String| UkiError::Hwids { path: path.clone(), problem };
        for text in [&computer.name, &computer.compatible] {
            if text.contains('\0') {
                return Err(bad(format!("{text:?} has a NUL")));
            }
            strings.insert(text.as_str());
        }
        let key = (computer.name.as_str(), computer.compatible.as_str());
        if !ids.contains_key(&key) {
            order.push(key);
        }
        let of_computer = ids.entry(key).or_default();
        for id in &computer.hwids {
            of_computer.insert(guid(id).ok_or_else(|| bad(format!("the hardware id {id:?} is no GUID")))?);
        }
    }
    let entries = 1 + ids.values().map(BTreeSet::len).sum::<usize>();
    let mut offsets = BTreeMap::new();
    let mut blob = Vec::new();
    for text in strings {
        let offset = u32::try_from(entries * ENTRY + blob.len());
        let too_large = |_| UkiError::TooLarge { bytes: u64::MAX };
        offsets.insert(text, offset.map_err(too_large)?);
        blob.extend(text.as_bytes());
        blob.push(0);
    }
    let mut out = Vec::with_capacity(entries * ENTRY + blob.len());
    for key in order {
        for id in ids.get(&key).into_iter().flatten() {
            out.extend(DESCRIPTOR.to_le_bytes());
            out.extend(mixed_endian(id));
            for text in [key.0, key.1] {
                out.extend(offsets.get(text).copied().unwrap_or(0).to_le_bytes());
            }
        }
    }
    out.extend([0; ENTRY]);
    out.extend(blob);
    Ok(out)
}

/// The 16 bytes in the order in which the text has them; with or without braces and dashes.
fn guid(text: &str) -> Option<[u8; 16]> {
    let digits: String = text.trim_matches(['{', '}']).chars().filter(|c| *c != '-').collect();
    hex::decode(digits).ok()?.try_into().ok()
}

/// EFI_GUID: its first three fields are little-endian.
fn mixed_endian(guid: &[u8; 16]) -> [u8; 16] {
    let [a, b, c, d, e, f, g, h, rest @ ..] = *guid;
    let [i, j, k, l, m, n, o, p] = rest;
    [d, c, b, a, f, e, h, g, i, j, k, l, m, n, o, p]
}
