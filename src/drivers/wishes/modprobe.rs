//! `modprobe.d` as kmod reads it (`libkmod/libkmod-config.c`): one directive a line, a backslash at the end continues it.

use crate::drivers::inventory::SoftKind;
use crate::drivers::target::Source;
use crate::names::ModuleName;

use super::source;

/// A directive about modules, with where it is written. The module may be a pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Directive<T> {
    /// The module's name, `-` written as `_`; may be a pattern (kmod compares it with fnmatch).
    pub module: String,
    /// What is said of it.
    pub value: T,
    /// File and line.
    pub source: Source,
}

/// What the files of `modprobe.d` say, in kmod's order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Modprobe {
    /// `alias PATTERN MODULE`: the pattern, and the module as the directive's.
    pub aliases: Vec<Directive<String>>,
    /// `softdep MODULE pre: A post: B`.
    pub soft: Vec<Directive<Vec<(SoftKind, String)>>>,
    /// `weakdep MODULE A B`.
    pub weak: Vec<Directive<Vec<String>>>,
    /// `install MODULE COMMAND`.
    pub install: Vec<Directive<String>>,
    /// `options MODULE ...`.
    pub options: Vec<Directive<()>>,
    /// `blacklist MODULE`: its own aliases do not load it.
    pub blacklist: Vec<Directive<()>>,
}

impl Modprobe {
    /// Adds the directives of one file. Lines that kmod ignores (unknown words, too few) are ignored.
    pub fn add(&mut self, text: &str, file: &str) {
        for (line, content) in wrapped(text) {
            if content.starts_with('#') {
                continue;
            }
            let mut words = content.split([' ', '\t']).filter(|word| !word.is_empty());
            let (Some(keyword), Some(first)) = (words.next(), words.next()) else { continue };
            let rest: Vec<&str> = words.collect();
            let source = source(file, line);
            let module = first.replace('-', "_");
            match (keyword, rest.first()) {
                // `off` takes an alias away.
                ("alias", Some(target)) if *target != "off" => {
                    let module = target.replace('-', "_");
                    self.aliases.push(Directive { module, value: first.to_owned(), source });
                }
                ("softdep", Some(_)) => {
                    let mut kind = SoftKind::Bare;
                    let mut value = Vec::new();
                    for word in rest {
                        match word {
                            "pre:" => kind = SoftKind::Pre,
                            "post:" => kind = SoftKind::Post,
                            target => value.push((kind, target.to_owned())),
                        }
                    }
                    self.soft.push(Directive { module, value, source });
                }
                ("weakdep", Some(_)) => {
                    let value = rest.iter().map(|&word| word.to_owned()).collect();
                    self.weak.push(Directive { module, value, source });
                }
                ("install", Some(_)) => self.install.push(Directive { module, value: rest.join(" "), source }),
                ("options", Some(_)) => self.options.push(Directive { module, value: (), source }),
                ("blacklist", _) => self.blacklist.push(Directive { module, value: (), source }),
                _ => {}
            }
        }
    }
}

impl Directive<String> {
    /// Whether an `install` command does nothing but succeed or fail: the module cannot be loaded by modprobe.
    #[must_use]
    pub fn disables(&self) -> bool {
        let program = self.value.split_ascii_whitespace().next().unwrap_or_default();
        matches!(program.rsplit('/').next(), Some("true" | "false" | ":" | "nologin"))
    }

    /// The modules that an `install` command loads: what follows `modprobe`, without options.
    #[must_use]
    pub fn loads(&self) -> Vec<String> {
        let mut out = Vec::new();
        for command in self.value.split([';', '&', '|', '{', '}', '(', ')']) {
            let mut words = command.split_ascii_whitespace();
            if !words.by_ref().any(|word| word.rsplit('/').next() == Some("modprobe")) {
                continue;
            }
            // Of `modprobe NAME OPTION=VALUE` the first word that is no option; with -a or -r: all (loading more is safe).
            let all = command.split_ascii_whitespace().any(|word| matches!(word, "-a" | "--all"));
            let names = words.filter(|word| !word.starts_with(['-', '$', '>', '<']) && !word.contains(['=', '>']));
            let name = |word: &str| word.trim_matches(['"', '\'']).to_owned();
            out.extend(names.take(if all { usize::MAX } else { 1 }).map(name));
        }
        // `install x modprobe --ignore-install x` means itself.
        out.retain(|name| name.replace('-', "_") != self.module);
        out
    }
}

/// Logical lines with the number of their first one.
fn wrapped(text: &str) -> Vec<(usize, String)> {
    let mut out: Vec<(usize, String)> = Vec::new();
    let mut open = false;
    for (index, line) in text.lines().enumerate() {
        let (content, continues) = match line.strip_suffix('\\') {
            Some(content) => (content, true),
            None => (line, false),
        };
        match out.last_mut() {
            Some((_, last)) if open => last.push_str(content),
            _ => out.push((index + 1, content.to_owned())),
        }
        open = continues;
    }
    out
}

/// Whether `pattern` (a directive's module) means `module`.
#[must_use]
pub fn names(pattern: &str, module: &ModuleName) -> bool {
    pattern == module.as_str() || crate::drivers::target::glob::alias_matches(pattern, module.as_str())
}
