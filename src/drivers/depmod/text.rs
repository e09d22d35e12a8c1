//! The text indexes: the lines of the kept modules, and what the binary files have of them (kmod's `tools/depmod.c`).

use std::collections::{BTreeMap, BTreeSet};

use crate::drivers::inventory::LineError;
use crate::names::ModuleName;

use super::binary::Entry;

/// The text files that have lines of modules.
pub(super) const FILES: [&str; 6] =
    ["modules.dep", "modules.alias", "modules.symbols", "modules.softdep", "modules.weakdep", "modules.devname"];

/// `content` of the file `name` without the lines of modules that are not kept, byte for byte otherwise.
pub(super) fn kept_lines(name: &str, content: &str, kept: &BTreeSet<ModuleName>) -> Result<String, LineError> {
    let mut out = String::with_capacity(content.len());
    let mut devices = false;
    for (index, line) in content.split_inclusive('\n').enumerate() {
        let text = line.trim_end();
        if text.is_empty() || text.starts_with('#') {
            out.push_str(line);
            continue;
        }
        let module = module_of(name, text)
            .ok_or_else(|| LineError { line: index + 1, problem: format!("{text:?} names no module") })?;
        if kept.contains(&module) {
            devices = true;
            out.push_str(line);
        }
    }
    // depmod writes the heading of modules.devname only before the first device.
    if name == "modules.devname" && !devices {
        out.clear();
    }
    Ok(out)
}

/// Whose line it is.
fn module_of(name: &str, line: &str) -> Option<ModuleName> {
    let mut words = line.split_ascii_whitespace();
    match name {
        "modules.dep" => ModuleName::from_file(line.split_once(':')?.0.as_bytes()),
        "modules.alias" | "modules.symbols" => ModuleName::new(line.rsplit_once(' ')?.1).ok(),
        "modules.devname" => ModuleName::new(words.next()?).ok(),
        _ => ModuleName::new(words.nth(1)?).ok(),
    }
}

/// depmod's number of each module: its line in `modules.dep`, from 0.
pub(super) fn numbers(dep: &str) -> Result<BTreeMap<ModuleName, u32>, LineError> {
    let mut out = BTreeMap::new();
    for (index, line) in dep.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).enumerate() {
        let problem = || LineError { line: index + 1, problem: format!("{line:?} names no module") };
        let module = module_of("modules.dep", line).ok_or_else(problem)?;
        out.insert(module, u32::try_from(index).map_err(|_| problem())?);
    }
    Ok(out)
}

/// `modules.dep.bin`: a module's name to its whole line.
pub(super) fn dep_entries(dep: &str, numbers: &BTreeMap<ModuleName, u32>) -> Vec<Entry> {
    let entry = |line: &str| {
        let module = module_of("modules.dep", line)?;
        let priority = *numbers.get(&module)?;
        Some(Entry { key: module.as_str().to_owned(), priority, value: line.to_owned() })
    };
    dep.lines().filter_map(entry).collect()
}

/// `modules.alias.bin`: the normalised pattern to the module. Patterns that cannot be normalised are in the text only.
pub(super) fn alias_entries(aliases: &str, numbers: &BTreeMap<ModuleName, u32>) -> Vec<Entry> {
    entries(aliases, numbers, normalised)
}

/// `modules.symbols.bin`: `symbol:NAME` to the module.
pub(super) fn symbol_entries(symbols: &str, numbers: &BTreeMap<ModuleName, u32>) -> Vec<Entry> {
    entries(symbols, numbers, |symbol| Some(symbol.to_owned()))
}

fn entries(text: &str, numbers: &BTreeMap<ModuleName, u32>, key: fn(&str) -> Option<String>) -> Vec<Entry> {
    let entry = |line: &str| {
        let (pattern, module) = line.strip_prefix("alias ")?.rsplit_once(' ')?;
        let module = ModuleName::new(module).ok()?;
        let priority = *numbers.get(&module)?;
        // kmod's index holds 7-bit text only, and depmod leaves out what is not.
        let key = key(pattern).filter(|key| key.is_ascii() && !key.is_empty())?;
        Some(Entry { key, priority, value: module.as_str().to_owned() })
    };
    text.lines().filter_map(entry).collect()
}

/// `-` becomes `_` but for inside of brackets (`alias_normalize` of libkmod); `None` where a bracket has no partner.
fn normalised(pattern: &str) -> Option<String> {
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

    fn set(names: &[&str]) -> BTreeSet<ModuleName> {
        names.iter().map(|name| ModuleName::new(name).unwrap()).collect()
    }

    #[test]
    fn lines_of_kept_modules_stay_as_they_are() {
        let kept = set(&["a_b"]);
        let lines = |name, content| kept_lines(name, content, &kept).unwrap();
        assert_eq!(lines("modules.dep", "x/a-b.ko:\ny/c.ko: x/a-b.ko\n"), "x/a-b.ko:\n");
        assert_eq!(lines("modules.alias", "# h\nalias a-* c\nalias p:[a-z] a_b\n"), "# h\nalias p:[a-z] a_b\n");
        assert_eq!(
            lines("modules.softdep", "# h\nsoftdep a_b pre: c\nsoftdep c pre: a_b\n"),
            "# h\nsoftdep a_b pre: c\n"
        );
        assert_eq!(lines("modules.devname", "# h\nc n c1:1\n"), "");
        assert_eq!(kept_lines("modules.softdep", "softdep\n", &kept).unwrap_err().line, 1);
    }

    #[test]
    fn aliases_are_normalised_outside_of_brackets() {
        assert_eq!(normalised("a-b[c-d]-*"), Some("a_b[c-d]_*".to_owned()));
        assert_eq!(normalised("a[b"), None);
        assert_eq!(normalised("a]b"), None);
    }
}
