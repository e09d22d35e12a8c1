//! Firmware that exists in versions: `iwlwifi-8000C-<version>.ucode`. Which names belong together, and which is the newest.

use std::cmp::Ordering;

use serde::Deserialize;

use super::glob::{Glob, GlobError};

/// Stands for the version in a pattern.
pub const PLACEHOLDER: &str = "<version>";

/// Which versions a driver can ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Asks {
    /// Those that it declares: it has a table.
    Declared,
    /// Any up to the newest that it declares: it counts down. Where it declares none of a file, nobody knows where it
    /// begins: all stay.
    Older,
    /// Any: it declares none.
    Any,
}

/// What the name without a version is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Unversioned {
    /// Older than every version: the first format had none (`rtw8852b_fw.bin`).
    Oldest,
    /// Newer than every version: the name without one came last (`tgl_huc.bin`).
    Newest,
}

/// A pattern cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum VersionsError {
    /// As a glob.
    #[error(transparent)]
    Glob(#[from] GlobError),
    /// Not exactly one placeholder, or one in a directory's name.
    #[error("pattern {0:?} must have one '<version>', in the file's name")]
    Placeholder(String),
}

/// A version: numbers, or what has none. Later is newer.
///
/// Numbers are compared one by one; a version that ends where another goes on is the newer one, as drivers have it that
/// ask for `guc_70.bin` before `guc_70.1.1.bin`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Version {
    /// No version, older than all.
    Oldest,
    /// Its numbers, without leading zeros.
    Numbers(Vec<String>),
    /// No version, newer than all.
    Newest,
}

impl Ord for Version {
    fn cmp(&self, other: &Self) -> Ordering {
        let rank = |version: &Self| match version {
            Self::Oldest => 0,
            Self::Numbers(_) => 1,
            Self::Newest => 2,
        };
        let (Self::Numbers(a), Self::Numbers(b)) = (self, other) else { return rank(self).cmp(&rank(other)) };
        for (a, b) in a.iter().zip(b) {
            // Without leading zeros the longer number is the larger one, whatever its size.
            match a.len().cmp(&b.len()).then_with(|| a.cmp(b)) {
                Ordering::Equal => {}
                unequal => return unequal,
            }
        }
        b.len().cmp(&a.len())
    }
}

impl PartialOrd for Version {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// A name of a version family, taken apart.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Versioned {
    /// The name without the version: equal for all versions of a file.
    pub group: String,
    /// The version.
    pub version: Version,
}

/// A pattern with one version in the file's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Versions {
    text: Box<str>,
    /// What stands before the placeholder, without the separator; and behind it.
    head: Glob,
    tail: Box<str>,
    separator: Option<char>,
    /// Every name that may be meant, for a look-up.
    any: Box<str>,
    asks: Asks,
    unversioned: Option<Unversioned>,
}

impl Versions {
    /// Reads a pattern. `unversioned`: whether the name without the version, and without the one character of `-_.` before
    /// it, belongs to the versions as well.
    ///
    /// # Errors
    /// Not exactly one placeholder in the file's name; wildcards behind it; no sound glob.
    pub fn new(text: &str, asks: Asks, unversioned: Option<Unversioned>) -> Result<Self, VersionsError> {
        let wrong = || VersionsError::Placeholder(text.to_owned());
        let (head, tail) = text.split_once(PLACEHOLDER).ok_or_else(wrong)?;
        if tail.contains(['/', '*', '?', '[', '<']) || head.is_empty() || head.ends_with('/') {
            return Err(wrong());
        }
        let separator = head.chars().last().filter(|c| matches!(c, '-' | '_' | '.'));
        let stem = separator.map_or(head, |separator| head.strip_suffix(separator).unwrap_or(head));
        Ok(Self {
            text: text.into(),
            head: Glob::path(stem)?,
            tail: tail.into(),
            separator,
            any: format!("{stem}*{tail}").replace("**", "*").into(),
            asks,
            unversioned,
        })
    }

    /// The pattern as written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Which versions the driver can ask for.
    #[must_use]
    pub fn asks(&self) -> Asks {
        self.asks
    }

    /// A glob that every name of the versions matches, and others as well: [`Versions::parse`] decides.
    #[must_use]
    pub fn any(&self) -> &str {
        &self.any
    }

    /// What every name of the versions begins with.
    #[must_use]
    pub fn literal(&self) -> &str {
        self.head.literal()
    }

    /// Takes a name apart; `None` where the pattern does not mean it.
    #[must_use]
    pub fn parse(&self, name: &str) -> Option<Versioned> {
        let rest = name.strip_suffix(&*self.tail)?;
        // The version is the longest run of numbers and separators at the end that leaves a head which matches.
        let run =
            rest.len() - rest.trim_end_matches(|c: char| c.is_ascii_digit() || matches!(c, '.' | '_' | '-')).len();
        let from = rest.len().checked_sub(run)?;
        for (offset, _) in rest.get(from..)?.char_indices() {
            let (head, version) = rest.split_at_checked(from + offset)?;
            let Some(numbers) = numbers(version) else { continue };
            let stem = match self.separator {
                Some(separator) => head.strip_suffix(separator),
                None => Some(head),
            };
            if let Some(stem) = stem.filter(|stem| self.head.matches(stem)) {
                return Some(Versioned { group: format!("{stem}{}", self.tail), version: Version::Numbers(numbers) });
            }
        }
        let version = match self.unversioned? {
            Unversioned::Oldest => Version::Oldest,
            Unversioned::Newest => Version::Newest,
        };
        self.head.matches(rest).then(|| Versioned { group: format!("{rest}{}", self.tail), version })
    }
}

/// `8.59.1.0`, `1_04`: numbers joined by single separators.
fn numbers(text: &str) -> Option<Vec<String>> {
    let number = |part: &str| {
        let digits = !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        let significant = part.trim_start_matches('0');
        digits.then(|| if significant.is_empty() { "0" } else { significant }.to_owned())
    };
    text.split(['.', '_', '-']).map(number).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn versions(text: &str, unversioned: Option<Unversioned>) -> Versions {
        Versions::new(text, Asks::Older, unversioned).unwrap()
    }

    fn sorted(versions: &Versions, names: &[&str]) -> Vec<String> {
        let mut parsed: Vec<_> = names.iter().map(|name| (versions.parse(name).unwrap(), *name)).collect();
        assert!(parsed.iter().all(|(v, _)| v.group == parsed[0].0.group), "{parsed:?}");
        parsed.sort_by(|(a, _), (b, _)| b.version.cmp(&a.version));
        parsed.into_iter().map(|(_, name)| name.to_owned()).collect()
    }

    #[test]
    fn the_newest_goes_first() {
        let iwlwifi = versions("iwlwifi-*-<version>.ucode", None);
        let names = ["iwlwifi-so-a0-gf-a0-77.ucode", "iwlwifi-so-a0-gf-a0-9.ucode", "iwlwifi-so-a0-gf-a0-101.ucode"];
        assert_eq!(sorted(&iwlwifi, &names), [names[2], names[0], names[1]]);
        assert_eq!(iwlwifi.parse("iwlwifi-8000C-36.ucode").unwrap().group, "iwlwifi-8000C.ucode");
        assert_eq!(iwlwifi.parse("iwlwifi-so-a0-gf-a0.pnvm"), None);
        assert_eq!(iwlwifi.parse("iwlwifi-so-a0-gf-a0.ucode"), None);

        let guc = versions("i915/*_guc_<version>.bin", None);
        let names = ["i915/adlp_guc_69.0.3.bin", "i915/adlp_guc_70.bin", "i915/adlp_guc_70.1.1.bin"];
        assert_eq!(sorted(&guc, &names), [names[1], names[2], names[0]]);

        let huc = versions("i915/*_huc_<version>.bin", Some(Unversioned::Newest));
        let names = ["i915/tgl_huc_7.9.3.bin", "i915/tgl_huc.bin", "i915/tgl_huc_7.10.3.bin"];
        assert_eq!(sorted(&huc, &names), [names[1], names[2], names[0]]);

        let rtw = versions("rtw89/*_fw-<version>.bin", Some(Unversioned::Oldest));
        let names = ["rtw89/rtw8852b_fw.bin", "rtw89/rtw8852b_fw-1.bin"];
        assert_eq!(sorted(&rtw, &names), [names[1], names[0]]);

        let ath = versions("ath10k/*/*/firmware-<version>.bin", None);
        assert_eq!(
            ath.parse("ath10k/QCA6174/hw3.0/firmware-6.bin").unwrap().group,
            "ath10k/QCA6174/hw3.0/firmware.bin"
        );
        let dmc = versions("i915/*_dmc_ver<version>.bin", None);
        let names = ["i915/adlp_dmc_ver2_09.bin", "i915/adlp_dmc_ver2_10.bin"];
        assert_eq!(sorted(&dmc, &names), [names[1], names[0]]);
    }

    #[test]
    fn huge_numbers_and_odd_names_do_no_harm() {
        let any = versions("a-<version>", None);
        let long = format!("a-{}", "9".repeat(400));
        assert!(any.parse(&long).unwrap().version > any.parse("a-18446744073709551616").unwrap().version);
        assert_eq!(any.parse("a-1..2"), None);
        assert_eq!(any.parse("a-"), None);
        assert_eq!(any.parse("a-007").unwrap().version, any.parse("a-7").unwrap().version);
        for wrong in ["a", "<version>", "a-<version>/b", "a-<version>*", "x/<version>"] {
            assert!(Versions::new(wrong, Asks::Any, None).is_err(), "{wrong}");
        }
    }
}
