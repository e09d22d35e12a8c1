//! What an SBOM needs of `os-release` (os-release(5)).

/// Facts of a distribution. Empty where the file does not tell.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OsRelease {
    /// `ID`: lower case, `debian`.
    pub id: String,
    /// `VERSION_ID`: `13`.
    pub version_id: String,
    /// `PRETTY_NAME`: `Debian GNU/Linux 13 (trixie)`.
    pub pretty_name: String,
}

impl OsRelease {
    /// Reads the text of the file: assignments as a shell has them, the last of a name counts.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let mut found = Self::default();
        for line in text.lines() {
            let Some((name, value)) = line.trim().split_once('=') else { continue };
            match name {
                "ID" => found.id = unquote(value).to_ascii_lowercase(),
                "VERSION_ID" => found.version_id = unquote(value),
                "PRETTY_NAME" => found.pretty_name = unquote(value),
                _ => {}
            }
        }
        found
    }
}

/// One word of a shell, without expansions. Control characters are left out.
fn unquote(value: &str) -> String {
    let value = value.trim();
    let quoted = |quote| value.strip_prefix(quote).and_then(|rest: &str| rest.strip_suffix(quote));
    if let Some(literal) = quoted('\'') {
        return literal.chars().filter(|c| !c.is_control()).collect();
    }
    let mut escaped = false;
    let keep = |c: &char| {
        escaped = *c == '\\' && !escaped;
        !escaped && !c.is_control()
    };
    quoted('"').unwrap_or(value).chars().filter(keep).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_words_of_a_shell() {
        let text = "NAME=x\nID=\"Fedora\"\n# ID=no\nVERSION_ID='4 1'\nPRETTY_NAME=\"a \\\"b\\\" \\\\ c\"\n";
        let expected =
            OsRelease { id: "fedora".to_owned(), version_id: "4 1".to_owned(), pretty_name: "a \"b\" \\ c".to_owned() };
        assert_eq!(OsRelease::parse(text), expected);
        assert_eq!(OsRelease::parse("nothing"), OsRelease::default());
    }
}
