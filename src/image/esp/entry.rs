//! One boot entry: a `.conf` file in `loader/entries`.
//!
//! Two programs read it. systemd-boot takes lines of a key, white space and a value, and of a repeated key the last. Kairos'
//! agent splits each line at its first single space into a map, changes values, and writes the map in any order. What is
//! written here means the same to both: one line for each key, one space, no key twice. UAPI.1 has the keys' meaning.

use std::collections::BTreeMap;

use super::EspError;

/// The key that names the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ProgramKey {
    /// Any EFI program; every systemd-boot knows it, and agents up to 2.24.10 know only this (kairos#4345).
    Efi,
    /// A UKI: systemd-boot 258.
    Uki,
}

impl ProgramKey {
    /// As in the file.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Efi => "efi",
            Self::Uki => "uki",
        }
    }
}

/// What an entry starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// Under which key it is named.
    pub key: ProgramKey,
    /// From the partition's root on, with slashes: `/EFI/kairos/norole.efi`.
    pub path: String,
    /// Which profile of the UKI.
    pub profile: Option<usize>,
}

/// An entry to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// What the menu shows.
    pub title: String,
    /// By which the menu is sorted first, as text.
    pub sort_key: String,
    /// What it starts.
    pub program: Program,
    /// `version`
    pub version: Option<String>,
    /// `cmdline`: what the entry adds to the command line. systemd-boot does not know this key; the agent looks for words in it that
    /// make it skip the entry at installation.
    pub cmdline: Option<String>,
}

impl Entry {
    /// The file's bytes: `title`, `sort-key`, `efi` or `uki`, `profile`, `version`, `cmdline`.
    ///
    /// # Errors
    /// [`EspError::Text`]: a value with a line break or another control character, which would be read as further keys; a title
    /// without a character.
    pub fn to_text(&self) -> Result<String, EspError> {
        let profile = self.program.profile.map(|profile| profile.to_string());
        let lines = [
            ("title", Some(self.title.as_str())),
            ("sort-key", Some(self.sort_key.as_str())),
            (self.program.key.as_str(), Some(self.program.path.as_str())),
            ("profile", profile.as_deref()),
            ("version", self.version.as_deref()),
            ("cmdline", self.cmdline.as_deref()),
        ];
        let mut text = String::new();
        for (key, value) in lines.into_iter().filter_map(|(key, value)| Some((key, value?))) {
            check_value(key, value)?;
            // Of all values only the command line may be empty: that of the default entry is.
            if value.trim().is_empty() && key != "cmdline" {
                return Err(EspError::Text { what: key, text: value.to_owned(), problem: "it is empty" });
            }
            text.push_str(&format!("{key} {value}\n"));
        }
        Ok(text)
    }
}

/// Refuses what would end the line.
pub(super) fn check_value(what: &'static str, text: &str) -> Result<(), EspError> {
    match text.chars().any(char::is_control) {
        true => {
            let problem = "it has a line break or another control character";
            Err(EspError::Text { what, text: text.to_owned(), problem })
        }
        false => Ok(()),
    }
}

/// An entry as it was read: what Kairos' agent makes of it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Pairs {
    values: BTreeMap<String, String>,
    repeated: Option<String>,
}

impl Pairs {
    /// Reads it. Empty lines and comments are no keys (systemd-boot skips them, the agent would keep them as keys without
    /// meaning).
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let mut out = Self::default();
        for line in text.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#')) {
            let (key, value) = line.split_once(' ').unwrap_or((line, ""));
            if out.values.insert(key.to_owned(), value.to_owned()).is_some() {
                out.repeated = Some(key.to_owned());
            }
        }
        out
    }

    /// A value; of a repeated key the last.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        self.values.get(key).map(String::as_str)
    }

    /// A key that is there twice.
    #[must_use]
    pub fn repeated(&self) -> Option<&str> {
        self.repeated.as_deref()
    }

    /// The key and path of the program, `efi` before `uki`, as the agent looks for it.
    #[must_use]
    pub fn program(&self) -> Option<(ProgramKey, &str)> {
        let of = |key: ProgramKey| self.get(key.as_str()).map(|path| (key, path));
        of(ProgramKey::Efi).or_else(|| of(ProgramKey::Uki))
    }

    /// Sets a value.
    ///
    /// # Errors
    /// As [`Entry::to_text`].
    pub fn set(&mut self, key: &'static str, value: String) -> Result<(), EspError> {
        check_value(key, &value)?;
        self.values.insert(key.to_owned(), value);
        Ok(())
    }

    /// As a file: the known keys in [`Entry::to_text`]'s order, then others by name.
    #[must_use]
    pub fn to_text(&self) -> String {
        const ORDER: [&str; 7] = ["title", "sort-key", "efi", "uki", "profile", "version", "cmdline"];
        let known = ORDER.iter().filter_map(|key| self.values.get_key_value(*key));
        let others = self.values.iter().filter(|(key, _)| !ORDER.contains(&key.as_str()));
        known.chain(others).map(|(key, value)| format!("{key} {value}\n")).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry() -> Entry {
        Entry {
            title: "Kairos (a b)".to_owned(),
            sort_key: "norole-0".to_owned(),
            program: Program { key: ProgramKey::Uki, path: "/EFI/kairos/norole.efi".to_owned(), profile: Some(0) },
            version: Some("v1.2.3".to_owned()),
            cmdline: Some(String::new()),
        }
    }

    #[test]
    fn keys_stand_in_auroraboots_order() {
        let text =
            "title Kairos (a b)\nsort-key norole-0\nuki /EFI/kairos/norole.efi\nprofile 0\nversion v1.2.3\ncmdline \n";
        assert_eq!(entry().to_text().unwrap(), text);
        let pairs = Pairs::parse(text);
        assert_eq!(pairs.to_text(), text);
        assert_eq!(pairs.get("title"), Some("Kairos (a b)"));
        assert_eq!(pairs.program(), Some((ProgramKey::Uki, "/EFI/kairos/norole.efi")));
    }

    #[test]
    fn no_value_becomes_a_further_key() {
        for title in ["a\nefi /EFI/x.efi", "a\rb", "a\u{85}b", "a\0", "", "  "] {
            assert!(
                matches!(Entry { title: title.to_owned(), ..entry() }.to_text(), Err(EspError::Text { .. })),
                "{title:?}"
            );
        }
        let entry = Entry { cmdline: Some("x\ny".to_owned()), ..entry() };
        assert!(matches!(entry.to_text(), Err(EspError::Text { what: "cmdline", .. })));
    }

    #[test]
    fn a_repeated_key_is_seen() {
        let pairs = Pairs::parse("# x\n\ntitle a\ntitle  b\nefi\n");
        assert_eq!((pairs.repeated(), pairs.get("title"), pairs.get("efi")), (Some("title"), Some(" b"), Some("")));
    }
}
