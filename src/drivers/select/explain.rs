//! [`explain`]: what a user asks by name, and the answer: the chain from a rule, or why not and which option keeps it.

use std::collections::BTreeSet;

use crate::drivers::inventory::{Declarations, Inventory};
use crate::drivers::target::{Matcher, Rule, Target};
use crate::drivers::wishes::Wishes;
use crate::names::{FirmwarePath, ModuleName, TreePath};

use super::aliases::{Aliases, Owner};
use super::{ItemRef, Link, Reason, SelectError, Selection, chain, module_path, names};

/// Everything that an answer is made from.
#[derive(Debug, Clone, Copy)]
pub struct Evidence<'a> {
    /// What the root has.
    pub inventory: &'a Inventory,
    /// What its modules declare.
    pub declarations: &'a Declarations,
    /// What was asked for.
    pub target: &'a Target,
    /// What the root itself asks for.
    pub wishes: &'a Wishes,
    /// What was decided.
    pub selection: &'a Selection,
}

/// What an item is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum ItemKind {
    /// A module file.
    Module,
    /// A module that is part of the kernel image.
    Builtin,
    /// A firmware file or link.
    Firmware,
}

/// The answer about one item.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Explanation {
    /// A module's name, or the name by which a driver asks for firmware.
    pub item: String,
    /// What it is.
    pub kind: ItemKind,
    /// The alias by which it was found; absent where it was named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alias: Option<String>,
    /// Whether it is in the image.
    pub kept: bool,
    /// Where it is in the root; absent for what is built in, or not there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<TreePath>,
    /// Bytes on disk.
    pub bytes: u64,
    /// From a rule to the item; empty for what is dropped or built in.
    pub chain: Vec<Link>,
    /// The last link, or why not, in words.
    pub reason: String,
    /// Rules that would match it but leave it out, with their place; what else there is to know.
    pub notes: Vec<String>,
    /// The option that keeps it; absent where it is kept, or where keeping it is of no use.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep_with: Option<String>,
}

/// Answers about `item`: a module's name or path, a firmware name or path, or an alias, in this order; with `firmware` only
/// about firmware. An alias, or a firmware name that is a pattern, may have several answers.
///
/// # Errors
/// Nothing has this name.
pub fn explain(evidence: &Evidence<'_>, item: &str, firmware: bool) -> Result<Vec<Explanation>, SelectError> {
    if !firmware && let Some(found) = evidence.module(item) {
        return Ok(vec![found]);
    }
    let found = evidence.firmware(item);
    if !found.is_empty() {
        return Ok(found);
    }
    if !firmware {
        let aliases = Aliases::new(&evidence.inventory.modules, &evidence.wishes.modprobe);
        let owners = aliases.owners(item).into_iter();
        let found: Vec<_> = owners
            .map(|owner| {
                let (Owner::Module(name) | Owner::Builtin(name)) = owner;
                Explanation { alias: Some(item.to_owned()), ..evidence.about_module(name) }
            })
            .collect();
        if !found.is_empty() {
            return Ok(found);
        }
    }
    Err(evidence.nothing(item, firmware))
}

impl<'a> Evidence<'a> {
    fn module(&self, item: &str) -> Option<Explanation> {
        let modules = &self.inventory.modules;
        if let Ok(name) = ModuleName::new(item)
            && (modules.by_name.contains_key(&name) || modules.builtin.contains(&name))
        {
            return Some(self.about_module(&name));
        }
        // A path: below the module directory, or of the root; with or without the suffix of a compressed form.
        let name = item.contains('/').then(|| ModuleName::from_file(item.as_bytes()))??;
        let module = modules.by_name.get(&name)?;
        let plain =
            |path: &str| [".xz", ".zst", ".gz"].iter().find_map(|s| path.strip_suffix(s)).unwrap_or(path).to_owned();
        let wanted = plain(item.trim_start_matches('/'));
        let (path, relative) = (plain(module.path.to_string().trim_start_matches('/')), module_path(module));
        (wanted == relative || wanted == path || path.ends_with(&format!("/{wanted}")))
            .then(|| self.about_module(&name))
    }

    fn about_module(&self, name: &ModuleName) -> Explanation {
        let mut about = Explanation {
            item: name.to_string(),
            kind: ItemKind::Builtin,
            alias: None,
            kept: true,
            path: None,
            bytes: 0,
            chain: Vec::new(),
            reason: "built into the kernel".to_owned(),
            notes: Vec::new(),
            keep_with: None,
        };
        let Some(item) = self.selection.modules.get(name) else { return about };
        about.kind = ItemKind::Module;
        about.kept = item.kept;
        about.path = Some(item.path.clone());
        about.bytes = item.bytes;
        about.chain = chain(self.selection, ItemRef::Module(name));
        about.reason = item.reason.to_string();
        if !item.kept {
            about.keep_with = Some(match &item.reason {
                Reason::Dropped(pattern) => format!("take --drop {pattern} away"),
                _ => format!("--keep {name}"),
            });
            about.notes.extend(self.target.rules.iter().filter_map(|rule| self.left_out_by(rule, name)));
            about.notes.extend(self.needed_by(name));
        }
        for line in &self.wishes.modprobe.blacklist {
            if crate::drivers::wishes::modprobe::names(&line.module, name) {
                about.notes.push(format!("{} blacklists it: no alias of its own loads it", line.source));
            }
        }
        about
    }

    /// A rule that matches a module, and the exception that leaves it out.
    fn left_out_by(&self, rule: &Rule, name: &ModuleName) -> Option<String> {
        let path = module_path(self.inventory.modules.by_name.get(name)?);
        let matches = match &rule.matcher {
            Matcher::Path(glob) => glob.matches(path),
            Matcher::Module(glob) => glob.matches(name.as_str()),
            _ => false,
        };
        let except = rule.except.iter().find(|except| matches && except.matches(path))?;
        Some(format!("{} ({}) leaves it out by its exception {}", rule.matcher, rule.source, except.as_str()))
    }

    /// The dropped modules that would bring it.
    fn needed_by(&self, name: &ModuleName) -> Option<String> {
        let all = &self.inventory.modules.dependencies;
        let users: Vec<_> =
            all.iter().filter(|(_, needs)| needs.contains(name)).map(|(user, _)| user.as_str()).collect();
        let shown = users.iter().take(5).copied().collect::<Vec<_>>().join(", ");
        match users.len() {
            0 => None,
            1..=5 => Some(format!("needed by {shown}, dropped as well")),
            more => Some(format!("needed by {shown} and {} more, dropped as well", more - 5)),
        }
    }

    fn firmware(&self, item: &str) -> Vec<Explanation> {
        let firmware = &self.inventory.firmware;
        let mut paths: BTreeSet<TreePath> = BTreeSet::new();
        let plain = item.trim_end_matches(".xz").trim_end_matches(".zst");
        let name = FirmwarePath::new(plain);
        if let Ok(name) = &name {
            for found in firmware.lookup(name) {
                paths.insert(found.path);
                paths.extend(found.shadowed);
            }
        }
        let as_path = TreePath::new(item).ok().into_iter();
        let resolved = as_path.flat_map(|path| {
            // `/lib/firmware/x` where the directory itself is a link.
            let tail = path.to_string().split_once("/firmware/").map(|(_, tail)| tail.to_owned());
            let below = firmware.directories.iter().filter_map(move |dir| dir.join(tail.as_deref()?).ok());
            below.chain([path]).collect::<Vec<_>>()
        });
        paths.extend(resolved.filter(|path| firmware.entries.contains_key(path)));
        if paths.is_empty()
            && let Ok(name) = name
        {
            return self.not_installed(&name).into_iter().collect();
        }
        paths.iter().filter_map(|path| self.about_firmware(path)).collect()
    }

    fn about_firmware(&self, path: &TreePath) -> Option<Explanation> {
        let item = self.selection.firmware.get(path)?;
        let name = names::of(&self.inventory.firmware, path).last().unwrap_or_default();
        let keep = || Some(format!("--keep {name}"));
        let keep_with = match &item.reason {
            Reason::Kept(_) | Reason::Shadowed(_) | Reason::Dangling => None,
            Reason::Dropped(pattern) => Some(format!("take --drop {pattern} away")),
            Reason::DriverDropped(drivers) => drivers.first().map(|driver| format!("--keep {driver}")),
            Reason::OlderVersion(_) => Some("--firmware-versions all".to_owned()),
            Reason::Unknown => Some(format!("--keep {name}, or --unknown-firmware keep")),
            _ => keep(),
        };
        Some(Explanation {
            item: name.to_owned(),
            kind: ItemKind::Firmware,
            alias: None,
            kept: item.kept,
            path: Some(path.clone()),
            bytes: item.bytes,
            chain: chain(self.selection, ItemRef::Firmware(path)),
            reason: item.reason.to_string(),
            notes: Vec::new(),
            keep_with,
        })
    }

    /// A name that drivers declare and the root does not have.
    fn not_installed(&self, name: &FirmwarePath) -> Option<Explanation> {
        let declared = self.declarations.iter().filter(|(_, declared)| declared.firmware.contains(name));
        let mut notes: Vec<_> = declared
            .map(|(module, _)| {
                let kept = self.selection.modules.get(module).is_some_and(|item| item.kept);
                format!("{module}, which is {}, declares it", if kept { "kept" } else { "dropped" })
            })
            .collect();
        let builtin = &self.inventory.modules.builtin_firmware;
        let builtin = builtin.iter().filter(|(_, names)| names.contains(name));
        notes.extend(builtin.map(|(module, _)| format!("{module}, which is built in, declares it")));
        if notes.is_empty() {
            return None;
        }
        Some(Explanation {
            item: name.to_string(),
            kind: ItemKind::Firmware,
            alias: None,
            kept: false,
            path: None,
            bytes: 0,
            chain: Vec::new(),
            reason: "the root does not have it: install the package that brings it".to_owned(),
            notes,
            keep_with: None,
        })
    }

    fn nothing(&self, item: &str, firmware: bool) -> SelectError {
        let modules = self.inventory.modules.by_name.keys().chain(&self.inventory.modules.builtin);
        let names: Box<dyn Iterator<Item = &str>> = match firmware {
            false => Box::new(modules.map(ModuleName::as_str)),
            true => Box::new(
                self.inventory.firmware.entries.keys().flat_map(|path| names::of(&self.inventory.firmware, path)),
            ),
        };
        let nearest = names
            .map(|name| (strsim::damerau_levenshtein(item, name), name))
            .filter(|(distance, name)| *distance <= name.len().div_ceil(3))
            .min();
        SelectError::NoItem {
            item: item.to_owned(),
            what: if firmware { "firmware" } else { "module, no firmware and no alias" },
            kernel: self.inventory.kernel.release.to_string(),
            hint: nearest.map_or_else(String::new, |(_, name)| format!("; did you mean {name:?}?")),
        }
    }
}
