//! Which modules an alias means: an index over `modules.alias`, the built-in modules' aliases and those of `modprobe.d`.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use crate::drivers::inventory::Modules;
use crate::drivers::target::glob::{Glob, alias_matches, literal_prefix};
use crate::drivers::wishes::Modprobe;
use crate::names::ModuleName;

/// The aliases of a kernel, sorted so that a lookup walks one bus and not all 27,000 of them.
pub(super) struct Aliases<'a> {
    /// Aliases without a wildcard, by their normalised text.
    exact: Vec<(&'a str, Owner<'a>)>,
    /// Patterns by their bus (`pci:`), or by nothing where a wildcard comes before the colon; of each bus in the files' order.
    patterns: BTreeMap<&'a [u8], Vec<(&'a str, Owner<'a>)>>,
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
    pub(super) fn new(modules: &'a Modules, modprobe: &'a Modprobe) -> Self {
        let files = modules.aliases.iter().map(|(pattern, module)| (pattern, Owner::Module(module)));
        let builtin = modules.builtin_aliases.iter().map(|(pattern, module)| (pattern, Owner::Builtin(module)));
        let configured = modprobe.aliases.iter().filter_map(|alias| {
            let file = modules.by_name.get_key_value(alias.module.as_str()).map(|(name, _)| Owner::Module(name));
            let builtin = || modules.builtin.get(alias.module.as_str()).map(Owner::Builtin);
            Some((alias.value.as_str(), file.or_else(builtin)?))
        });
        let (mut exact, mut sorted) = (Vec::new(), Vec::with_capacity(modules.aliases.len()));
        for (pattern, owner) in files.chain(builtin).chain(configured) {
            let literal = literal_prefix(pattern.as_bytes());
            match literal.len() == pattern.len() {
                true => exact.push((pattern, owner)),
                false => sorted.push((bus(literal), pattern, owner)),
            }
        }
        // Stable: of equal ones the files' order stays.
        exact.sort_by(|(a, _), (b, _)| compare(a, b));
        sorted.sort_by_key(|(bus, ..)| *bus);
        let of_one_bus = sorted.chunk_by(|(a, ..), (b, ..)| a == b);
        let group = |group: &[(&'a [u8], &'a str, Owner<'a>)]| {
            let patterns = group.iter().map(|(_, pattern, owner)| (*pattern, *owner)).collect();
            group.first().map(|(bus, ..)| (*bus, patterns))
        };
        Self { exact, patterns: of_one_bus.filter_map(group).collect() }
    }

    /// Who answers to a concrete alias or modalias: exact names first, each owner once.
    pub(super) fn owners(&self, alias: &str) -> Vec<Owner<'a>> {
        let from = self.exact.partition_point(|(text, _)| compare(text, alias).is_lt());
        let same = self.exact.iter().skip(from).take_while(|(text, _)| compare(text, alias).is_eq());
        let mut owners: Vec<_> = same.map(|(_, owner)| *owner).collect();
        let own: &[u8] = bus(literal_prefix(alias.as_bytes()));
        for key in [own, b""] {
            let patterns = self.patterns.get(key).map(Vec::as_slice).unwrap_or_default();
            owners
                .extend(patterns.iter().filter(|(pattern, _)| alias_matches(pattern, alias)).map(|(_, owner)| *owner));
            if own.is_empty() {
                break;
            }
        }
        let mut seen = BTreeSet::new();
        owners.retain(|owner| seen.insert(*owner));
        owners
    }

    /// Owners of an alias whose text `glob` covers, each once, in order.
    pub(super) fn covered(&self, glob: &Glob) -> BTreeSet<Owner<'a>> {
        let literal = glob.literal();
        let from = self.exact.partition_point(|(text, _)| compare(text, literal).is_lt());
        let near = |text: &str| bytes(text).zip(bytes(literal)).filter(|(a, b)| a == b).count() == literal.len();
        let exact = self.exact.iter().skip(from).take_while(|(text, _)| near(text));
        // A bus that shares nothing with the literal part has no alias that is covered.
        let may_hold = |key: &[u8]| key.iter().zip(bytes(literal)).all(|(a, b)| normal(*a) == b);
        let groups = self.patterns.iter().filter(|(key, _)| may_hold(key)).flat_map(|(_, group)| group);
        exact.chain(groups).filter(|(text, _)| glob.matches(text)).map(|(_, owner)| *owner).collect()
    }
}

/// kmod takes `-` for `_`.
fn normal(byte: u8) -> u8 {
    if byte == b'-' { b'_' } else { byte }
}

fn bytes(text: &str) -> impl Iterator<Item = u8> {
    text.bytes().map(normal)
}

fn compare(a: &str, b: &str) -> Ordering {
    bytes(a).cmp(bytes(b))
}

/// `pci:` of `pci:v...`, from what stands before the first wildcard; nothing where there is no colon in it.
fn bus(literal: &[u8]) -> &[u8] {
    literal.iter().position(|&b| b == b':').and_then(|colon| literal.get(..=colon)).unwrap_or_default()
}
