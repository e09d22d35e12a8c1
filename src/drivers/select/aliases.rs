//! Which modules an alias means: an index over `modules.alias` and the built-in modules' aliases.

use std::collections::BTreeMap;

use crate::drivers::inventory::Modules;
use crate::drivers::target::glob::{Glob, alias_matches, literal_prefix};
use crate::names::ModuleName;

/// The aliases of a kernel, sorted so that a lookup walks one bus and not all 27,000 of them.
pub(super) struct Aliases<'a> {
    /// Aliases without a wildcard, normalised.
    exact: BTreeMap<String, Vec<Owner<'a>>>,
    /// Patterns by their bus (`pci:`), or by nothing where a wildcard comes before the colon.
    patterns: BTreeMap<&'a [u8], Vec<(&'a str, Owner<'a>)>>,
    all: &'a [(String, ModuleName)],
}

/// Whose alias it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Owner<'a> {
    /// A module file.
    Module(&'a ModuleName),
    /// A module that is part of the kernel image.
    Builtin(&'a ModuleName),
}

impl<'a> Aliases<'a> {
    /// Indexes the aliases, in the files' order.
    pub(super) fn new(modules: &'a Modules) -> Self {
        let mut aliases = Self { exact: BTreeMap::new(), patterns: BTreeMap::new(), all: &modules.aliases };
        for (pattern, module) in &modules.aliases {
            aliases.add(pattern, Owner::Module(module));
        }
        for (pattern, module) in &modules.builtin_aliases {
            aliases.add(pattern, Owner::Builtin(module));
        }
        aliases
    }

    fn add(&mut self, pattern: &'a str, owner: Owner<'a>) {
        if literal_prefix(pattern.as_bytes()).len() == pattern.len() {
            self.exact.entry(normal(pattern)).or_default().push(owner);
        } else {
            self.patterns.entry(bus(pattern)).or_default().push((pattern, owner));
        }
    }

    /// Who answers to a concrete alias or modalias: exact names first, each owner once.
    pub(super) fn owners(&self, alias: &str) -> Vec<Owner<'a>> {
        let mut owners = self.exact.get(&normal(alias)).cloned().unwrap_or_default();
        let own: &[u8] = bus(alias);
        for key in [own, b""] {
            let patterns = self.patterns.get(key).map(Vec::as_slice).unwrap_or_default();
            owners
                .extend(patterns.iter().filter(|(pattern, _)| alias_matches(pattern, alias)).map(|(_, owner)| *owner));
            if own.is_empty() {
                break;
            }
        }
        let mut seen = std::collections::BTreeSet::new();
        owners.retain(|owner| seen.insert(*owner));
        owners
    }

    /// Modules with an alias pattern that `glob` covers, read as text.
    pub(super) fn covered(&self, glob: &'a Glob) -> impl Iterator<Item = &'a ModuleName> {
        self.all.iter().filter(|(pattern, _)| glob.matches(pattern)).map(|(_, module)| module)
    }
}

fn normal(alias: &str) -> String {
    alias.replace('-', "_")
}

/// `pci:` of `pci:v...`; nothing where there is no colon before the first wildcard.
fn bus(pattern: &str) -> &[u8] {
    let literal = literal_prefix(pattern.as_bytes());
    literal.iter().position(|&b| b == b':').and_then(|colon| literal.get(..=colon)).unwrap_or_default()
}
