//! What the walk begins with: the modules that a target's rules match, and those that the root's configuration asks for.

use std::collections::BTreeSet;
use std::ops::Bound;

use crate::drivers::target::glob::Glob;
use crate::drivers::target::{Matcher, Rule};
use crate::drivers::wishes::{Wanted, Wish};
use crate::names::ModuleName;

use super::super::aliases::Owner;
use super::super::error::SelectError;
use super::super::{Edge, Link, module_path};
use super::{Closure, Graph};

/// File systems that are part of every kernel that has them: no module, and no line in `modules.builtin`.
const NO_MODULE: [&str; 22] = [
    "bdev",
    "bpf",
    "cgroup",
    "cgroup2",
    "configfs",
    "cpuset",
    "debugfs",
    "devpts",
    "devtmpfs",
    "fusectl",
    "hugetlbfs",
    "mqueue",
    "proc",
    "pstore",
    "ramfs",
    "resctrl",
    "rootfs",
    "securityfs",
    "selinuxfs",
    "sysfs",
    "tmpfs",
    "tracefs",
];

impl<'a> Graph<'a> {
    /// Reports an entry, whose first pattern is `rule`, that matches nothing.
    pub(super) fn unmatched(&self, rule: &Rule, patterns: usize, closure: &mut Closure<'a>) {
        let release = &self.inventory.kernel.release;
        if rule.required || !rule.is_expected_in(release) || matches!(rule.matcher, Matcher::Firmware(_)) {
            return;
        }
        let more = match patterns {
            0 | 1 => String::new(),
            2 => " (with the entry's other pattern)".to_owned(),
            patterns => format!(" (with the entry's {} other patterns)", patterns - 1),
        };
        closure.warnings.push(format!(
            "{}: {}{more} matches neither a module nor a built-in of kernel {release}",
            rule.source, rule.matcher
        ));
    }

    /// The modules that a rule matches become roots. Whether it matches anything, built-in modules included.
    pub(super) fn root(&self, rule: &'a Rule, closure: &mut Closure<'a>) -> Result<bool, SelectError> {
        let modules = &self.inventory.modules;
        let mut satisfied = false;
        let candidates: Vec<&'a ModuleName> = match &rule.matcher {
            Matcher::Firmware(_) => return Ok(true),
            Matcher::Path(glob) => {
                let from = modules.builtin_paths.partition_point(|path| path.as_str() < glob.literal());
                let near = modules.builtin_paths.iter().skip(from).take_while(|path| path.starts_with(glob.literal()));
                satisfied = near.into_iter().any(|path| glob.matches(path));
                self.paths.matching(glob)
            }
            Matcher::Module(glob) => {
                let from = (Bound::Included(glob.literal()), Bound::Unbounded);
                let builtin = modules.builtin.range::<str, _>(from);
                satisfied = take_matching(builtin, glob).next().is_some();
                let names = modules.by_name.range::<str, _>(from).map(|(name, _)| name);
                take_matching(names, glob).collect()
            }
            Matcher::Alias(alias) => {
                let mut files = BTreeSet::new();
                for owner in self.aliases.owners(alias) {
                    match owner {
                        Owner::Module(name) => _ = files.insert(name),
                        Owner::Builtin(_) => satisfied = true,
                    }
                }
                files.into_iter().collect()
            }
            Matcher::AliasGlob(glob) => {
                let mut files = Vec::new();
                for owner in self.aliases.covered(glob) {
                    match owner {
                        Owner::Module(name) => files.push(name),
                        Owner::Builtin(_) => satisfied = true,
                    }
                }
                files
            }
        };
        for name in candidates {
            let Some(module) = modules.by_name.get(name) else { continue };
            let path = module_path(module);
            if rule.except.iter().any(|except| except.matches(path)) {
                continue;
            }
            satisfied = true;
            if rule.required {
                closure.required.insert(name);
            }
            if let Some(pattern) = self.drop.modules.get(name) {
                if rule.required {
                    return Err(SelectError::DropRequired {
                        pattern: pattern.as_str().to_owned(),
                        module: name.clone(),
                        evidence: rule.evidence.clone(),
                        source_entry: rule.source.to_string(),
                    });
                }
                continue;
            }
            let link = Link {
                from: rule.matcher.to_string(),
                edge: Edge::Rule,
                to: name.to_string(),
                source: rule.source.to_string(),
            };
            closure.keep(name, link);
        }
        // What Kairos cannot do without is missed by each name.
        if !satisfied && rule.required && rule.is_expected_in(&self.inventory.kernel.release) {
            closure.warnings.push(format!(
                "{}: {} matches neither a module nor a built-in of kernel {}; Kairos cannot boot without it",
                rule.source, rule.matcher, self.inventory.kernel.release
            ));
        }
        Ok(satisfied)
    }

    /// The root's configuration asks for modules: each is a rule, but none that must match.
    pub(super) fn wish(&self, wish: &'a Wish, closure: &mut Closure<'a>) {
        let modules = &self.inventory.modules;
        let mut satisfied = false;
        let mut found = Vec::new();
        let mut take = |owners: Vec<Owner<'a>>| {
            for owner in owners {
                satisfied = true;
                if let Owner::Module(name) = owner {
                    found.push(name);
                }
            }
        };
        let name = match &wish.wanted {
            Wanted::Module(name) => {
                take(self.named(name));
                name
            }
            Wanted::Filesystem(kind) => {
                take(self.aliases.owners(&format!("fs-{kind}")));
                take(self.named(kind));
                satisfied |= NO_MODULE.contains(&kind.as_str());
                kind
            }
            Wanted::Directory(directory) => {
                let glob = Glob::path(&format!("kernel/{directory}/**"));
                take(
                    glob.map(|glob| self.paths.matching(&glob))
                        .unwrap_or_default()
                        .into_iter()
                        .map(Owner::Module)
                        .collect(),
                );
                directory
            }
        };
        for module in found {
            let source = wish.source.to_string();
            if !self.is_dropped(wish.by, module, &source, closure) && modules.by_name.contains_key(module) {
                let (from, to) = (format!("{} {name}", wish.by), module.to_string());
                closure.load(module, Link { from, edge: Edge::Rule, to, source });
            }
        }
        if !satisfied {
            closure.warnings.push(format!(
                "{}: {} asks for {name}, which kernel {} has neither as a module nor built in",
                wish.source, wish.by, self.inventory.kernel.release
            ));
        }
    }
}

/// Of names in order from a glob's literal part on, those that match.
fn take_matching<'n>(names: impl Iterator<Item = &'n ModuleName>, glob: &Glob) -> impl Iterator<Item = &'n ModuleName> {
    names.take_while(|name| name.as_str().starts_with(glob.literal())).filter(|name| glob.matches(name.as_str()))
}
