//! Reading a UKI: its sections, and their bytes shown to a sink as when it was written.

use std::io::{Read, Seek, SeekFrom};

use serde::Serialize;
use sha2::{Digest, Sha256};

use super::UkiError;
use super::pe::{PeHeaders, SectionHeader};
use crate::boot::section::{SectionName, SectionSink};

/// A text section larger than this is not shown as text.
const MAX_TEXT: u64 = 1 << 20;
const BUFFER: usize = 1 << 20;

/// A section as `ukify inspect --json=short` describes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Description {
    /// Bytes of the content.
    pub size: u64,
    /// SHA-256 of the content, hexadecimal.
    pub sha256: String,
    /// The content, for sections that hold text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
}

/// Describes the sections that the specification knows, in file order.
///
/// # Errors
/// No PE file, or one that cannot be read to the end.
pub fn inspect(file: &mut (impl Read + Seek), what: &str) -> Result<Vec<(SectionName, Description)>, UkiError> {
    let pe = PeHeaders::read(file, what)?;
    let mut out = Vec::new();
    for (name, section) in known(&pe) {
        let size = u64::from(section.content_size());
        let mut hash = Sha256::new();
        let mut text = (name.is_text() && size <= MAX_TEXT).then(Vec::new);
        stream(file, section, what, &mut |bytes| {
            hash.update(bytes);
            if let Some(text) = &mut text {
                text.extend_from_slice(bytes);
            }
        })?;
        let text = text.and_then(|bytes| String::from_utf8(bytes).ok());
        out.push((name, Description { size, sha256: hex::encode(hash.finalize()), text }));
    }
    Ok(out)
}

/// Shows every section to `sink`, for measurement.
///
/// # Errors
/// As [`inspect`]; a file without a kernel; one whose measurement depends on a choice at boot (several profiles or device
/// trees).
pub fn replay(file: &mut (impl Read + Seek), what: &str, sink: &mut dyn SectionSink) -> Result<(), UkiError> {
    let bad = |problem: String| UkiError::Pe { what: what.to_owned(), problem };
    let pe = PeHeaders::read(file, what)?;
    let sections: Vec<(SectionName, &SectionHeader)> = known(&pe).collect();
    if !sections.iter().any(|(name, _)| *name == SectionName::Linux) {
        return Err(bad("it has no .linux section: it is no UKI".to_owned()));
    }
    for (index, (name, _)) in sections.iter().enumerate() {
        if name.is_chosen_at_boot() {
            return Err(bad(format!(
                "it has a {name} section: what is measured depends on the choice at boot, which this version does not predict"
            )));
        }
        if sections.iter().skip(index + 1).any(|(other, _)| other == name) {
            return Err(bad(format!("it has two {name} sections")));
        }
    }
    for (name, section) in sections {
        sink.begin(name);
        stream(file, section, what, &mut |bytes| sink.data(bytes))?;
        sink.end();
    }
    Ok(())
}

fn known(pe: &PeHeaders) -> impl Iterator<Item = (SectionName, &SectionHeader)> {
    pe.sections.iter().filter_map(|section| Some((SectionName::parse(&section.name())?, section)))
}

fn stream(
    file: &mut (impl Read + Seek),
    section: &SectionHeader,
    what: &str,
    each: &mut dyn FnMut(&[u8]),
) -> Result<(), UkiError> {
    file.seek(SeekFrom::Start(u64::from(section.raw_offset)))?;
    let mut left = usize::try_from(section.content_size()).unwrap_or(usize::MAX);
    let mut buffer = vec![0; BUFFER.min(left)];
    while left > 0 {
        let room = buffer.len().min(left);
        let count = file.read(buffer.get_mut(..room).unwrap_or_default())?;
        if count == 0 {
            return Err(UkiError::Pe {
                what: what.to_owned(),
                problem: format!("section {} is cut off", section.name()),
            });
        }
        each(buffer.get(..count).unwrap_or_default());
        left -= count;
    }
    Ok(())
}
