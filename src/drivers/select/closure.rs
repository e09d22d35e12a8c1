//! Rules -> roots -> everything they lead to: `modules.dep`, soft and weak dependencies, hidden ones.
//!
//! Breadth first from the rules in their order, so that the reason of an item is the shortest chain, and the same one in every
//! run. Circles need no care: who has a reason is not visited again.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound;

use crate::drivers::inventory::{Inventory, Modules};
use crate::drivers::target::glob::Glob;
use crate::drivers::target::{Hidden, Matcher, Rule, Target};
use crate::names::ModuleName;

use super::aliases::{Aliases, Owner};
use super::error::SelectError;
use super::pattern::{Matched, Pattern};
use super::{Edge, Link, module_path};

/// The modules that stay, each with the link that keeps it.
#[derive(Default)]
pub(super) struct Closure<'a> {
    pub(super) kept: BTreeMap<&'a ModuleName, Link>,
    pub(super) warnings: Vec<String>,
}

/// The modules by path, so that a rule looks only at what lies below its literal part.
pub(super) struct Paths<'a>(Vec<(&'a str, &'a ModuleName)>);

impl<'a> Paths<'a> {
    pub(super) fn new(modules: &'a Modules) -> Self {
        let mut paths: Vec<_> = modules.by_name.values().map(|module| (module_path(module), &module.name)).collect();
        paths.sort_unstable();
        Self(paths)
    }

    fn matching(&self, glob: &Glob) -> Vec<&'a ModuleName> {
        let start = self.0.partition_point(|(path, _)| *path < glob.literal());
        let below = self.0.iter().skip(start).take_while(|(path, _)| path.starts_with(glob.literal()));
        below.filter(|(path, _)| glob.matches(path)).map(|(_, name)| *name).collect()
    }
}

/// What the walk looks at.
pub(super) struct Graph<'a> {
    pub(super) inventory: &'a Inventory,
    pub(super) target: &'a Target,
    pub(super) aliases: &'a Aliases<'a>,
    pub(super) paths: &'a Paths<'a>,
    pub(super) keep: &'a Matched<'a>,
    pub(super) drop: &'a Matched<'a>,
}

impl<'a> Graph<'a> {
    /// Runs the closure.
    ///
    /// # Errors
    /// `--drop` of a required module or of a dependency; a dependency that does not exist.
    pub(super) fn close(&self) -> Result<Closure<'a>, SelectError> {
        let mut closure = Closure::default();
        let mut queue = VecDeque::new();
        for rule in &self.target.rules {
            self.root(rule, &mut closure, &mut queue)?;
        }
        for (module, pattern) in &self.keep.modules {
            let link = Link {
                from: format!("--keep {}", pattern.as_str()),
                edge: Edge::Rule,
                to: module.to_string(),
                source: "the command line".to_owned(),
            };
            visit(module, link, &mut closure.kept, &mut queue);
        }
        // What is built in asks as well, without being an item itself.
        let hidden = self.hidden_by_module();
        for (module, entries) in &hidden {
            if self.inventory.modules.builtin.contains(*module) {
                self.follow_hidden(&format!("built-in {module}"), entries, &mut closure, &mut queue);
            }
        }
        while let Some(module) = queue.pop_front() {
            self.follow(module, &hidden, &mut closure, &mut queue)?;
        }
        Ok(closure)
    }

    /// The modules that a rule matches become roots.
    fn root(
        &self,
        rule: &'a Rule,
        closure: &mut Closure<'a>,
        queue: &mut VecDeque<&'a ModuleName>,
    ) -> Result<(), SelectError> {
        let modules = &self.inventory.modules;
        let mut satisfied = false;
        let candidates: Vec<&'a ModuleName> = match &rule.matcher {
            Matcher::Firmware(_) => return Ok(()),
            Matcher::Path(glob) => self.paths.matching(glob),
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
                satisfied = modules.builtin_aliases.iter().any(|(pattern, _)| glob.matches(pattern));
                self.aliases.covered(glob).collect::<BTreeSet<_>>().into_iter().collect()
            }
        };
        for name in candidates {
            let Some(module) = modules.by_name.get(name) else { continue };
            let path = module_path(module);
            if rule.except.iter().any(|except| except.matches(path)) {
                continue;
            }
            satisfied = true;
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
            visit(name, link, &mut closure.kept, queue);
        }
        if !satisfied && rule.is_expected_in(&self.inventory.kernel.release) {
            closure.warnings.push(format!(
                "{}: {} matches neither a module nor a built-in of kernel {}",
                rule.source, rule.matcher, self.inventory.kernel.release
            ));
        }
        Ok(())
    }

    fn hidden_by_module(&self) -> BTreeMap<&'a ModuleName, Vec<&'a Hidden>> {
        let mut hidden: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for entry in &self.target.hidden {
            hidden.entry(&entry.from).or_default().push(entry);
        }
        hidden
    }

    /// Everything that a kept module leads to.
    fn follow(
        &self,
        module: &'a ModuleName,
        hidden: &BTreeMap<&'a ModuleName, Vec<&'a Hidden>>,
        closure: &mut Closure<'a>,
        queue: &mut VecDeque<&'a ModuleName>,
    ) -> Result<(), SelectError> {
        let modules = &self.inventory.modules;
        for dependency in modules.dependencies.get(module).map(Vec::as_slice).unwrap_or_default() {
            if let Some(pattern) = self.drop.modules.get(dependency) {
                return Err(SelectError::DropNeeded {
                    pattern: pattern.as_str().to_owned(),
                    module: dependency.clone(),
                    dependent: module.clone(),
                });
            }
            if modules.by_name.contains_key(dependency) {
                visit(dependency, link(module, Edge::Depends, dependency, "modules.dep"), &mut closure.kept, queue);
            } else if !modules.builtin.contains(dependency) {
                return Err(SelectError::MissingDependency {
                    kernel: self.inventory.kernel.release.to_string(),
                    module: module.clone(),
                    dependency: dependency.clone(),
                });
            }
        }
        for (_, wanted) in modules.soft.get(module).map(Vec::as_slice).unwrap_or_default() {
            self.soft(module, Edge::Softdep, wanted, "modules.softdep", closure, queue);
        }
        for wanted in modules.weak.get(module).map(Vec::as_slice).unwrap_or_default() {
            self.soft(module, Edge::Weakdep, wanted, "modules.weakdep", closure, queue);
        }
        if let Some(entries) = hidden.get(module) {
            self.follow_hidden(module.as_str(), entries, closure, queue);
        }
        Ok(())
    }

    /// A soft or weak dependency: a module's name, or else an alias. It may name nothing, and that is fine.
    fn soft(
        &self,
        module: &ModuleName,
        edge: Edge,
        wanted: &str,
        source: &str,
        closure: &mut Closure<'a>,
        queue: &mut VecDeque<&'a ModuleName>,
    ) {
        let modules = &self.inventory.modules;
        if let Ok(name) = ModuleName::new(wanted) {
            if let Some((name, _)) = modules.by_name.get_key_value(&name) {
                if !self.is_dropped(module.as_str(), name, source, closure) {
                    visit(name, link(module, edge, name, source), &mut closure.kept, queue);
                }
                return;
            }
            if modules.builtin.contains(&name) {
                return;
            }
        }
        for owner in self.aliases.owners(wanted) {
            if let Owner::Module(name) = owner
                && let Some((name, _)) = modules.by_name.get_key_value(name)
                && !self.is_dropped(module.as_str(), name, source, closure)
            {
                let source = format!("{source}, alias {wanted}");
                visit(name, link(module, Edge::Alias, name, &source), &mut closure.kept, queue);
            }
        }
    }

    fn follow_hidden(
        &self,
        from: &str,
        entries: &[&'a Hidden],
        closure: &mut Closure<'a>,
        queue: &mut VecDeque<&'a ModuleName>,
    ) {
        for entry in entries {
            let source = entry.source.to_string();
            for wanted in &entry.to {
                if let Some((name, _)) = self.inventory.modules.by_name.get_key_value(wanted)
                    && !self.is_dropped(from, name, &source, closure)
                {
                    let link = Link {
                        from: from.to_owned(),
                        edge: Edge::Curated,
                        to: name.to_string(),
                        source: source.clone(),
                    };
                    visit(name, link, &mut closure.kept, queue);
                }
            }
        }
    }

    /// Whether `--drop` takes away what `from` would like to have; it loads without, so that is only said.
    fn is_dropped(&self, from: &str, name: &ModuleName, source: &str, closure: &mut Closure<'a>) -> bool {
        let pattern: Option<&&Pattern> = self.drop.modules.get(name);
        if let Some(pattern) = pattern {
            let warning = format!("--drop {:?} takes away {name}, which {from} asks for ({source})", pattern.as_str());
            if !closure.warnings.contains(&warning) {
                closure.warnings.push(warning);
            }
        }
        pattern.is_some()
    }
}

/// Of names in order from a glob's literal part on, those that match.
fn take_matching<'n>(names: impl Iterator<Item = &'n ModuleName>, glob: &Glob) -> impl Iterator<Item = &'n ModuleName> {
    names.take_while(|name| name.as_str().starts_with(glob.literal())).filter(|name| glob.matches(name.as_str()))
}

fn link(from: &ModuleName, edge: Edge, to: &ModuleName, source: &str) -> Link {
    Link { from: from.to_string(), edge, to: to.to_string(), source: source.to_owned() }
}

/// The first link to an item is its reason.
fn visit<'a>(
    module: &'a ModuleName,
    link: Link,
    kept: &mut BTreeMap<&'a ModuleName, Link>,
    queue: &mut VecDeque<&'a ModuleName>,
) {
    if let std::collections::btree_map::Entry::Vacant(entry) = kept.entry(module) {
        entry.insert(link);
        queue.push_back(module);
    }
}
