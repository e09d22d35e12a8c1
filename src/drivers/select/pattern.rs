//! The patterns of `--keep` and `--drop`: what they match in an inventory.

use std::collections::BTreeMap;

use crate::drivers::inventory::{Inventory, Module};
use crate::drivers::target::glob::{Glob, GlobError};
use crate::names::{ModuleName, TreePath};

use super::aliases::{Aliases, Owner};
use super::error::SelectError;
use super::{module_path, names};

/// A module name, a module path, a firmware name or an alias; wildcards as in kmod-db. Which of them it is shows when it
/// meets an inventory: the first kind, in this order, that matches anything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    path: Glob,
    module: Glob,
    alias: Glob,
}

impl Pattern {
    /// Reads a pattern.
    ///
    /// # Errors
    /// An empty pattern, an unclosed bracket, a `**` that is not a whole path component.
    pub fn new(text: &str) -> Result<Self, GlobError> {
        Ok(Self { path: Glob::path(text)?, module: Glob::path(&text.replace('-', "_"))?, alias: Glob::alias(text)? })
    }

    /// As given.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.path.as_str()
    }
}

/// The items that the patterns of one option match, each with the first pattern that does; an exact one goes before others.
#[derive(Default)]
pub(super) struct Matched<'a> {
    /// Modules.
    pub(super) modules: BTreeMap<&'a ModuleName, &'a Pattern>,
    /// Firmware files and links.
    pub(super) firmware: BTreeMap<&'a TreePath, &'a Pattern>,
}

impl<'a> Matched<'a> {
    /// Applies the patterns of `option`; with `allow_empty`, those that match nothing are told as warnings.
    ///
    /// # Errors
    /// A pattern that matches nothing, unless that is allowed; for `--drop`, one that only matches what is built in.
    pub(super) fn new(
        option: &'static str,
        patterns: &'a [Pattern],
        inventory: &'a Inventory,
        aliases: &Aliases<'a>,
        allow_empty: bool,
    ) -> Result<(Self, Vec<String>), SelectError> {
        let mut matched = Self::default();
        let mut empty = Vec::new();
        let mut order: Vec<_> = patterns.iter().collect();
        order.sort_by_key(|pattern| !pattern.path.is_literal());
        for pattern in order {
            let found = Found::of(pattern, inventory, aliases);
            if found.modules.is_empty() && found.firmware.is_empty() {
                match found.builtin {
                    Some(module) if option == "--drop" => {
                        let (pattern, module) = (pattern.as_str().to_owned(), module.clone());
                        return Err(SelectError::DropBuiltin { pattern, module });
                    }
                    Some(_) => continue,
                    None if allow_empty => {
                        empty.push(no_match(option, pattern, inventory).to_string());
                        continue;
                    }
                    None => return Err(no_match(option, pattern, inventory)),
                }
            }
            for module in found.modules {
                matched.modules.entry(module).or_insert(pattern);
            }
            for path in found.firmware {
                matched.firmware.entry(path).or_insert(pattern);
            }
        }
        Ok((matched, empty))
    }

    /// Settles what `--keep` (self) and `--drop` both match: the exact name wins over a pattern with wildcards.
    ///
    /// # Errors
    /// Both are exact, or neither is.
    pub(super) fn settle(&mut self, drop: &mut Self) -> Result<(), SelectError> {
        settle(&mut self.modules, &mut drop.modules)?;
        settle(&mut self.firmware, &mut drop.firmware)
    }
}

fn settle<'a, K: Ord + std::fmt::Display>(
    keep: &mut BTreeMap<&'a K, &'a Pattern>,
    drop: &mut BTreeMap<&'a K, &'a Pattern>,
) -> Result<(), SelectError> {
    let both: Vec<_> = keep.keys().copied().filter(|item| drop.contains_key(item)).collect();
    for item in both {
        let (Some(kept), Some(dropped)) = (keep.get(item), drop.get(item)) else { continue };
        match (kept.path.is_literal(), dropped.path.is_literal()) {
            (true, false) => _ = drop.remove(item),
            (false, true) => _ = keep.remove(item),
            _ => {
                let (keep, drop) = (kept.as_str().to_owned(), dropped.as_str().to_owned());
                return Err(SelectError::KeepAndDrop { keep, drop, item: item.to_string() });
            }
        }
    }
    Ok(())
}

#[derive(Default)]
struct Found<'a> {
    modules: Vec<&'a ModuleName>,
    firmware: Vec<&'a TreePath>,
    builtin: Option<&'a ModuleName>,
}

impl<'a> Found<'a> {
    fn of(pattern: &Pattern, inventory: &'a Inventory, aliases: &Aliases<'a>) -> Self {
        let modules = &inventory.modules;
        let matching = |keep: &dyn Fn(&Module) -> bool| -> Vec<&'a ModuleName> {
            modules.by_name.values().filter(|module| keep(module)).map(|module| &module.name).collect()
        };
        let by_name = matching(&|module| pattern.module.matches(module.name.as_str()));
        let builtin = modules.builtin.iter().find(|name| pattern.module.matches(name.as_str()));
        if !by_name.is_empty() || builtin.is_some() {
            return Self { modules: by_name, builtin, ..Self::default() };
        }
        let by_path = matching(&|module| pattern.path.matches(module_path(module)));
        if !by_path.is_empty() {
            return Self { modules: by_path, ..Self::default() };
        }
        let entries = inventory.firmware.entries.keys();
        let firmware: Vec<_> = entries
            .filter(|path| {
                names::of(&inventory.firmware, path).any(|name| pattern.path.matches(name))
                    || pattern.path.matches(path.to_string().trim_start_matches('/'))
            })
            .collect();
        if !firmware.is_empty() {
            return Self { firmware, ..Self::default() };
        }
        let mut found = Self::default();
        if pattern.alias.is_literal() {
            for owner in aliases.owners(pattern.as_str()) {
                match owner {
                    Owner::Module(module) => found.modules.push(module),
                    Owner::Builtin(module) => found.builtin = Some(module),
                }
            }
        } else {
            for owner in aliases.covered(&pattern.alias) {
                if let Owner::Module(module) = owner {
                    found.modules.push(module);
                }
            }
        }
        found
    }
}

fn no_match(option: &'static str, pattern: &Pattern, inventory: &Inventory) -> SelectError {
    let text = pattern.as_str();
    let nearest = inventory
        .modules
        .by_name
        .keys()
        .map(|name| (strsim::damerau_levenshtein(text, name.as_str()), name))
        .filter(|(distance, name)| *distance <= name.as_str().len().div_ceil(3))
        .min();
    SelectError::NoMatch {
        option,
        pattern: text.to_owned(),
        kernel: inventory.kernel.release.to_string(),
        hint: nearest.map_or_else(String::new, |(_, name)| format!(" (did you mean {:?}?)", name.as_str())),
    }
}
