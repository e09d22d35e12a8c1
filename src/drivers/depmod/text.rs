//! The text indexes but for `modules.dep`: the lines of the kept modules under the newest headings, and what the binary files
//! have of them (kmod's `tools/depmod.c`).

use crate::drivers::inventory::LineError;

use super::binary::Entry;

/// depmod's number of a kept module by its name; nothing for others.
pub(super) type Numbers<'a> = &'a (dyn Fn(&str) -> Option<u32> + Sync);

/// A text file that depmod makes of what the modules say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum File {
    Alias,
    Symbols,
    Softdep,
    Weakdep,
    Devname,
}

impl File {
    pub(super) const ALL: [Self; 5] = [Self::Alias, Self::Symbols, Self::Softdep, Self::Weakdep, Self::Devname];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Alias => "modules.alias",
            Self::Symbols => "modules.symbols",
            Self::Softdep => "modules.softdep",
            Self::Weakdep => "modules.weakdep",
            Self::Devname => "modules.devname",
        }
    }

    /// The first line, as kmod writes it since version 33: older ones had others.
    pub(super) fn heading(self) -> &'static str {
        match self {
            Self::Alias => "# Aliases extracted from modules themselves.\n",
            Self::Symbols => "# Aliases for symbols, used by symbol_request().\n",
            Self::Softdep => "# Soft dependencies extracted from modules themselves.\n",
            Self::Weakdep => "# Weak dependencies extracted from modules themselves.\n",
            Self::Devname => "# Device nodes to trigger on-demand module loading.\n",
        }
    }

    /// The field of `.modinfo` that the lines have whole; they are `FIELD MODULE VALUE`.
    pub(super) fn field(self) -> Option<&'static str> {
        match self {
            Self::Softdep => Some("softdep"),
            Self::Weakdep => Some("weakdep"),
            Self::Alias | Self::Symbols | Self::Devname => None,
        }
    }

    /// Whose line it is.
    fn module_of(self, line: &str) -> Option<&str> {
        let mut words = line.split_ascii_whitespace();
        match self {
            Self::Alias | Self::Symbols => Some(line.rsplit_once(' ')?.1),
            Self::Devname => words.next(),
            Self::Softdep | Self::Weakdep => words.nth(1),
        }
    }
}

/// `content` of a root's file without the lines of modules without a number, byte for byte otherwise, under the newest
/// heading.
pub(super) fn kept_lines(file: File, content: &str, number: Numbers<'_>) -> Result<String, LineError> {
    let mut out = String::with_capacity(content.len());
    out.push_str(file.heading());
    for (index, line) in content.split_inclusive('\n').enumerate() {
        let text = line.trim_end();
        if text.is_empty() || text.starts_with('#') {
            continue;
        }
        let module = file.module_of(text).filter(|name| !name.is_empty());
        let problem = || LineError { line: index + 1, problem: format!("{text:?} names no module") };
        let module = module.ok_or_else(problem)?;
        if number(module).is_some() {
            out.push_str(line);
        }
    }
    // depmod writes the heading of modules.devname only before the first device.
    if file == File::Devname && out.len() == file.heading().len() {
        out.clear();
    }
    Ok(out)
}

/// `modules.alias.bin`: the normalised pattern to the module. Patterns that cannot be normalised are in the text only.
pub(super) fn alias_entries(aliases: &str, number: Numbers<'_>) -> Vec<Entry> {
    entries(aliases, number, normalised)
}

/// `modules.symbols.bin`: `symbol:NAME` to the module.
pub(super) fn symbol_entries(symbols: &str, number: Numbers<'_>) -> Vec<Entry> {
    entries(symbols, number, |symbol| Some(symbol.to_owned()))
}

fn entries(text: &str, number: Numbers<'_>, key: fn(&str) -> Option<String>) -> Vec<Entry> {
    let entry = |line: &str| {
        let (pattern, module) = line.strip_prefix("alias ")?.rsplit_once(' ')?;
        let priority = number(module)?;
        // kmod's index holds 7-bit text only, and depmod leaves out what is not.
        let key = key(pattern).filter(|key| key.is_ascii() && !key.is_empty())?;
        Some(Entry { key, priority, value: module.replace('-', "_") })
    };
    text.lines().filter_map(entry).collect()
}

/// `-` becomes `_` but for inside of brackets (`alias_normalize` of libkmod); `None` where a bracket has no partner.
pub(super) fn normalised(pattern: &str) -> Option<String> {
    let mut out = String::with_capacity(pattern.len());
    let mut characters = pattern.chars();
    while let Some(character) = characters.next() {
        match character {
            '-' => out.push('_'),
            ']' => return None,
            '[' => {
                out.push('[');
                loop {
                    let inside = characters.next()?;
                    out.push(inside);
                    if inside == ']' {
                        break;
                    }
                }
            }
            other => out.push(other),
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_kept_modules_stay_as_they_are_under_the_newest_heading() {
        let kept = |name: &str| ["a_b", "a-b"].contains(&name).then_some(0);
        let lines = |file: File, content| kept_lines(file, content, &kept).unwrap().replace(file.heading(), "# new\n");
        assert_eq!(
            lines(File::Alias, "# h\nalias a-* c\nalias p:[a-z] a_b\nalias x a-b\n"),
            "# new\nalias p:[a-z] a_b\nalias x a-b\n"
        );
        assert_eq!(
            lines(File::Softdep, "# h\n# i\nsoftdep a_b pre: c\nsoftdep c pre: a_b\n"),
            "# new\nsoftdep a_b pre: c\n"
        );
        assert_eq!(lines(File::Devname, "# h\nc n c1:1\n"), "");
        assert_eq!(lines(File::Devname, "c n c1:1\na_b m c1:2\n"), "# new\na_b m c1:2\n");
        assert_eq!(kept_lines(File::Softdep, "softdep\n", &kept).unwrap_err().line, 1);
    }

    #[test]
    fn aliases_are_normalised_outside_of_brackets() {
        assert_eq!(normalised("a-b[c-d]-*"), Some("a_b[c-d]_*".to_owned()));
        assert_eq!(normalised("a[b"), None);
        assert_eq!(normalised("a]b"), None);
    }
}
