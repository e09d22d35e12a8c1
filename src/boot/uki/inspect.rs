//! Reading a UKI: its sections, and their bytes shown to a sink as when it was written.

use std::io::{Read, Seek, SeekFrom};

use serde::Serialize;
use sha2::{Digest, Sha256};

use super::UkiError;
use super::pe::{PeHeaders, SectionHeader};
use crate::boot::section::{SectionName, SectionSink};

/// A text section larger than this is not shown as text.
const MAX_TEXT: u64 = 1 << 20;
/// Ways to boot that are predicted of one file: a hostile one could have millions.
const MOST_VARIANTS: u64 = 4096;
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

/// Describes the sections that the specification knows, and `.sbom`, in file order.
///
/// # Errors
/// No PE file, or one that cannot be read to the end.
pub fn inspect(file: &mut (impl Read + Seek), what: &str) -> Result<Vec<(SectionName, Description)>, UkiError> {
    let pe = PeHeaders::read(file, what)?;
    let mut out = Vec::new();
    for (name, section) in shown(&pe) {
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

/// Shows every section to `sink`, for measurement. Gives the text of each `.profile`.
///
/// # Errors
/// As [`inspect`]; a file without a kernel; a section that is there twice in one profile.
pub fn replay(file: &mut (impl Read + Seek), what: &str, sink: &mut dyn SectionSink) -> Result<Vec<String>, UkiError> {
    replay_but(file, what, None, sink)
}

/// [`replay`], but for the content of one common section, of which only beginning and end are shown.
///
/// # Errors
/// As [`replay`].
pub fn replay_but(
    file: &mut (impl Read + Seek),
    what: &str,
    skipped: Option<SectionName>,
    sink: &mut dyn SectionSink,
) -> Result<Vec<String>, UkiError> {
    let bad = |problem: String| UkiError::Pe { what: what.to_owned(), problem };
    let pe = PeHeaders::read(file, what)?;
    let sections: Vec<(SectionName, &SectionHeader)> = known(&pe).collect();
    if !sections.iter().any(|(name, _)| *name == SectionName::Linux) {
        return Err(bad("it has no .linux section: it is no UKI".to_owned()));
    }
    let variants = variants(sections.iter().map(|(name, _)| *name));
    if variants > MOST_VARIANTS {
        return Err(bad(format!(
            "its profiles and device trees make {variants} ways to boot, more than the {MOST_VARIANTS} that are predicted"
        )));
    }
    let (mut seen, mut profiles) = (Vec::new(), Vec::new());
    for (name, section) in sections {
        let is_profile = name == SectionName::Profile;
        if is_profile {
            seen.clear();
        }
        if seen.contains(&name) && !name.may_repeat() {
            return Err(bad(format!("it has two {name} sections in one profile")));
        }
        seen.push(name);
        // The stub measures what lies in memory, zeros included; no writer makes such a section.
        if section.raw_size < section.virtual_size {
            return Err(bad(format!(
                "its section {name} has {} bytes in memory and {} in the file: what the stub measures of it is disputed",
                section.virtual_size, section.raw_size
            )));
        }
        let mut text = Vec::new();
        let keep = is_profile && u64::from(section.content_size()) <= MAX_TEXT;
        sink.begin(name);
        if skipped != Some(name) || !profiles.is_empty() {
            stream(file, section, what, &mut |bytes| {
                sink.data(bytes);
                if keep {
                    text.extend_from_slice(bytes);
                }
            })?;
        }
        sink.end();
        if is_profile {
            profiles.push(String::from_utf8_lossy(&text).into_owned());
        }
    }
    Ok(profiles)
}

/// In how many ways a UKI with these sections can boot: see [`crate::boot::measure::Variant`].
fn variants(sections: impl Iterator<Item = SectionName>) -> u64 {
    // (device trees, firmware) of what is common, then of each profile.
    let mut groups = vec![[0_u64; 2]];
    for name in sections {
        match name {
            SectionName::Profile => groups.push([0; 2]),
            SectionName::Dtbauto | SectionName::Efifw => {
                if let Some([trees, firmware]) = groups.last_mut() {
                    *(if name == SectionName::Dtbauto { trees } else { firmware }) += 1;
                }
            }
            _ => {}
        }
    }
    let [trees, firmware] = groups.first().copied().unwrap_or_default();
    let ways =
        |[own_trees, own_firmware]: &[u64; 2]| (trees + own_trees + 1).saturating_mul(firmware + own_firmware + 1);
    match groups.get(1..).filter(|profiles| !profiles.is_empty()) {
        Some(profiles) => profiles.iter().map(ways).fold(0, u64::saturating_add),
        None => ways(&[0; 2]),
    }
}

/// What ukify shows: also the bill of materials.
fn shown(pe: &PeHeaders) -> impl Iterator<Item = (SectionName, &SectionHeader)> {
    let name = |section: &SectionHeader| {
        let name: SectionName = section.name().parse().ok()?;
        (!matches!(name, SectionName::Other(_)) || name.as_str() == ".sbom").then_some(name)
    };
    pe.sections.iter().filter_map(move |section| Some((name(section)?, section)))
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
