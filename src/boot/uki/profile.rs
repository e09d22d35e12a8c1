//! Boot entries of a UKI: what a user writes, and what goes into `.profile`.

use super::UkiError;

/// A further boot entry: `TITLE: ARGUMENTS`, the arguments being added to the common command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProfileSpec {
    /// What the boot menu shows.
    pub title: String,
    /// Added to the command line.
    pub arguments: String,
}

impl ProfileSpec {
    /// Reads `TITLE: ARGUMENTS`.
    ///
    /// # Errors
    /// No colon, a title that is empty or that `.profile` cannot hold.
    pub fn parse(text: &str) -> Result<Self, UkiError> {
        let bad = |problem: &str| UkiError::Profile { text: text.to_owned(), problem: problem.to_owned() };
        let (title, arguments) = text.split_once(':').ok_or_else(|| bad("it has no colon"))?;
        let title = title.trim();
        if title.is_empty() {
            return Err(bad("it has no title"));
        }
        if title.contains(['"', '\\', '$', '`']) || title.chars().any(char::is_control) {
            return Err(bad("a title has no quotes, backslashes, dollars and control characters"));
        }
        let arguments = arguments.split_whitespace().collect::<Vec<_>>().join(" ");
        Ok(Self { title: title.to_owned(), arguments })
    }

    /// Reads a file of such lines; empty ones and those that begin with `#` are left out.
    ///
    /// # Errors
    /// As [`ProfileSpec::parse`].
    pub fn parse_file(text: &str) -> Result<Vec<Self>, UkiError> {
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        lines.map(Self::parse).collect()
    }

    /// The id: the title's letters and digits in lower case, joined by dashes.
    #[must_use]
    pub fn id(&self) -> String {
        let lower = self.title.to_lowercase();
        let words = lower.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
        words.collect::<Vec<_>>().join("-")
    }
}

/// The id of the entry that the common sections are for.
pub const MAIN: &str = "main";

/// `.profile` of the entry that the common sections are for.
#[must_use]
pub fn main_text() -> String {
    format!("ID={MAIN}\n")
}

/// `.profile` of a further entry without a title, counted from 1.
#[must_use]
pub fn untitled_text(number: usize) -> String {
    format!("ID=profile-{number}\n")
}

/// `.profile` and `.cmdline` of further entries.
///
/// # Errors
/// Two entries of one id, which the boot menu could not tell apart; a title without any letter or digit.
pub fn entries(specs: &[ProfileSpec], cmdline: &str) -> Result<Vec<(String, String)>, UkiError> {
    let mut seen = vec![MAIN.to_owned()];
    let mut out = Vec::new();
    for spec in specs {
        let id = spec.id();
        let bad = |problem: &str| UkiError::Profile { text: spec.title.clone(), problem: problem.to_owned() };
        if id.is_empty() {
            return Err(bad("its title has neither letters nor digits, of which its id is made"));
        }
        if seen.contains(&id) {
            return Err(bad(&format!("there is another one with the id {id}")));
        }
        let text = format!("ID={id}\nTITLE=\"{}\"\n", spec.title);
        out.push((text, [cmdline, &spec.arguments].join(" ").trim().to_owned()));
        seen.push(id);
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_title_and_arguments_become_a_profile() {
        let specs =
            ProfileSpec::parse_file("# entries\nRescue (no net):  systemd.unit=rescue.target  quiet\n").unwrap();
        let (text, cmdline) = entries(&specs, "console=ttyS0").unwrap().remove(0);
        assert_eq!(text, "ID=rescue-no-net\nTITLE=\"Rescue (no net)\"\n");
        assert_eq!(cmdline, "console=ttyS0 systemd.unit=rescue.target quiet");
    }

    #[test]
    fn what_is_no_profile_is_refused() {
        for text in ["no colon", ": arguments", "a\"b: c"] {
            assert!(matches!(ProfileSpec::parse(text), Err(UkiError::Profile { .. })), "{text}");
        }
        let twice = ["Main: a", "x: b", "X: c"].map(|text| ProfileSpec::parse(text).unwrap());
        assert!(entries(&twice[..1], "").is_err() && entries(&twice[1..], "").is_err());
    }
}
