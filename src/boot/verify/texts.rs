//! The sections that hold text: which must be there, once in each profile, and what they must say.

use std::collections::{BTreeMap, BTreeSet};

use super::image::{Image, Profile};
use super::report::{Outcome, Report, shown};
use super::source::{Source, bytes};
use crate::boot::section::SectionName;

/// A text is no larger than this; `.pcrsig` of many profiles comes next to it in no image that is known.
const TEXT_LIMIT: u64 = 1 << 20;
/// All of them together: headers may name the same bytes a thousand times.
const TEXTS_LIMIT: u64 = 8 << 20;
/// What the kernel takes of a command line (`COMMAND_LINE_SIZE`, x86 and Arm).
const CMDLINE_LIMIT: usize = 2048;

/// The texts, by index in the section table.
pub(super) type Texts = BTreeMap<usize, Vec<u8>>;

/// Reads them; what is too large or not whole is left out, and found by the checks.
pub(super) fn read(source: &dyn Source, image: &Image) -> std::io::Result<Texts> {
    let mut texts = Texts::new();
    let mut left = TEXTS_LIMIT;
    for (index, section) in image.sections.iter().enumerate() {
        if section.known().is_some_and(SectionName::is_text)
            && let Some((start, end)) = section.content(image.length)
            && end - start <= TEXT_LIMIT.min(left)
        {
            left -= end - start;
            texts.insert(index, bytes(source, start, end - start)?);
        }
    }
    Ok(texts)
}

/// The version in the words that a stub or a boot manager carries: `#### LoaderInfo: systemd-boot 259 ####`.
pub(super) fn version_of(bytes: &[u8], program: &str) -> Option<String> {
    let text = String::from_utf8_lossy(bytes);
    let (_, rest) = text.split_once("#### LoaderInfo: ")?;
    let (words, _) = rest.split_once(" ####")?;
    let version = words.strip_prefix(program)?.trim();
    let is_version = !version.is_empty() && version.chars().all(|c| c.is_ascii_graphic());
    is_version.then(|| version.to_owned())
}

/// The number in front of a version of systemd: 257 of `257.13-1~deb13u1`.
pub(super) fn major(version: &str) -> Option<u32> {
    version.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// Sections that there are, and how often.
pub(super) fn check_sections(image: &Image, profiles: &[Profile], report: &mut Report) {
    let mut problems = Vec::new();
    let fail = |problem: String| (Outcome::Failure, problem);
    for (index, section) in image.sections.iter().enumerate() {
        if section.known().is_none() {
            let twice = image.sections.iter().skip(index + 1).any(|other| other.name == section.name);
            if twice {
                problems.push(fail(format!(
                    "there are two {} sections",
                    shown(section.name.trim_end_matches('\0').as_bytes())
                )));
            }
        } else if section.virtual_size == 0 {
            problems
                .push((Outcome::Warning, format!("section {} is empty, so that the stub ignores it", section.name)));
        } else if section.content(image.length).is_none() {
            problems.push(fail(format!(
                "section {} has {} bytes in memory, but {} in the file: the rest would be zeros",
                section.name, section.virtual_size, section.raw_size
            )));
        }
    }
    let may_repeat = |name| matches!(name, SectionName::Dtbauto | SectionName::Efifw);
    let mut twice = BTreeSet::new();
    for profile in profiles {
        for list in [&profile.own, &profile.base] {
            for (position, (name, _)) in list.iter().enumerate() {
                let again = list.iter().skip(position + 1).any(|(other, _)| other == name);
                if again && !may_repeat(*name) {
                    twice.insert(format!("there are two {name} sections in one profile: the stub takes the first"));
                }
            }
        }
    }
    problems.extend(twice.into_iter().map(fail));
    for profile in profiles {
        let title = profile.title();
        for (name, outcome) in [
            (SectionName::Linux, Outcome::Failure),
            (SectionName::Osrel, Outcome::Warning),
            (SectionName::Cmdline, Outcome::Warning),
            (SectionName::Initrd, Outcome::Warning),
            (SectionName::Uname, Outcome::Warning),
        ] {
            if profile.get(name).is_none() {
                problems.push((outcome, format!("{title}there is no {name} section")));
            }
        }
    }
    let names: Vec<String> = image.sections.iter().filter_map(|s| s.known()).map(|name| name.to_string()).collect();
    report.all("sections", problems, || names.join(" "));
}

/// `KEY=value` of an `os-release`, unquoted.
pub(super) fn field(text: &[u8], key: &str) -> Option<String> {
    let text = String::from_utf8_lossy(text);
    let value =
        text.lines().rev().find_map(|line| line.trim().strip_prefix(key)?.strip_prefix('=').map(str::to_owned))?;
    let value = value.trim();
    let quoted = ['"', '\''].iter().find_map(|quote| value.strip_prefix(*quote)?.strip_suffix(*quote));
    Some(quoted.unwrap_or(value).to_owned()).filter(|value| !value.is_empty())
}

/// `.osrel`, `.cmdline` and `.uname` of every profile.
pub(super) fn check_texts(image: &Image, profiles: &[Profile], texts: &Texts, report: &mut Report) {
    let indexes = |name| -> BTreeSet<usize> { profiles.iter().filter_map(|profile| profile.get(name)).collect() };
    for index in indexes(SectionName::Osrel) {
        let text = texts.get(&index).map(Vec::as_slice).unwrap_or_default();
        let (id, version) = (field(text, "ID"), field(text, "VERSION_ID").or_else(|| field(text, "IMAGE_VERSION")));
        match (id, version) {
            (Some(id), Some(version)) => {
                report.pass("osrel", format!("{} {}", shown(id.as_bytes()), shown(version.as_bytes())));
            }
            (None, _) => report.warn("osrel", "it has no ID: boot managers cannot name or sort it"),
            (_, None) => report.warn("osrel", "it has no VERSION_ID: boot managers cannot tell old from new"),
        }
    }
    for index in indexes(SectionName::Cmdline) {
        let mut problems = Vec::new();
        match texts.get(&index) {
            None => problems.push((Outcome::Failure, "it cannot be read, or has more than 1 MiB".to_owned())),
            Some(text) => {
                if text.contains(&0) {
                    problems.push((Outcome::Warning, "it holds a NUL, where the kernel stops reading".to_owned()));
                }
                if std::str::from_utf8(text).is_err() {
                    problems.push((Outcome::Warning, "it is not UTF-8 text".to_owned()));
                }
                if text.len() >= CMDLINE_LIMIT {
                    let problem = format!("it has {} bytes: the kernel reads {CMDLINE_LIMIT}", text.len());
                    problems.push((Outcome::Warning, problem));
                }
            }
        }
        let length = texts.get(&index).map_or(0, Vec::len);
        report.all("cmdline", problems, || format!("{length} bytes"));
    }
    for index in indexes(SectionName::Uname) {
        let text = texts.get(&index).map(Vec::as_slice).unwrap_or_default();
        let is_release = !text.is_empty() && text.iter().all(u8::is_ascii_graphic);
        match is_release {
            true => report.pass("uname", shown(text)),
            false => report.warn("uname", format!("{} is no kernel release", shown(text))),
        }
    }
    for (index, section) in image.sections.iter().enumerate() {
        let is_text = section.known().is_some_and(SectionName::is_text);
        if is_text && section.content(image.length).is_some() && !texts.contains_key(&index) {
            report.fail("sections", format!("{} has {} bytes: that is no text", section.name, section.virtual_size));
        }
    }
}
