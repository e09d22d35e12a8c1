//! Rules -> roots -> everything they lead to: `modules.dep`, soft and weak dependencies, what `modprobe.d` adds, families
//! that are asked for by alias, hidden dependencies.
//!
//! Breadth first from the rules in their order, so that the reason of an item is the shortest chain, and the same one in every
//! run. Circles need no care: who has a reason is not visited again.

mod roots;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound;

use crate::drivers::inventory::{Declarations, Inventory, Modules};
use crate::drivers::target::glob::Glob;
use crate::drivers::target::{Hidden, ModuleRequest, Target};
use crate::drivers::wishes::{Wishes, modprobe};
use crate::names::ModuleName;

use super::aliases::{Aliases, Owner};
use super::error::SelectError;
use super::pattern::{Matched, Pattern};
use super::{Edge, Link, module_path};

/// The modules that stay, each with the link that keeps it.
#[derive(Default)]
pub(super) struct Closure<'a> {
    pub(super) kept: BTreeMap<&'a ModuleName, Link>,
    /// Those that something loads by name or as a dependency: a `blacklist` line, which is about aliases, does not stop that.
    pub(super) loaded: BTreeSet<&'a ModuleName>,
    /// Those that Kairos cannot do without.
    pub(super) required: BTreeSet<&'a ModuleName>,
    pub(super) warnings: Vec<String>,
    queue: VecDeque<&'a ModuleName>,
}

impl<'a> Closure<'a> {
    /// Keeps a module that a device's or a request's alias loads. The first link to an item is its reason.
    fn keep(&mut self, module: &'a ModuleName, link: Link) {
        if let std::collections::btree_map::Entry::Vacant(entry) = self.kept.entry(module) {
            entry.insert(link);
            self.queue.push_back(module);
        }
    }

    /// Keeps a module that is loaded by its name.
    fn load(&mut self, module: &'a ModuleName, link: Link) {
        self.loaded.insert(module);
        self.keep(module, link);
    }
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
    pub(super) declarations: &'a Declarations,
    pub(super) target: &'a Target,
    pub(super) wishes: &'a Wishes,
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
        // An entry with several patterns is one rule: kernels differ in how they cut drivers into directories.
        for entry in self.target.rules.chunk_by(|a, b| a.source == b.source) {
            let mut satisfied = false;
            for rule in entry {
                satisfied |= self.root(rule, &mut closure)?;
            }
            if let Some(rule) = entry.first().filter(|_| !satisfied) {
                self.unmatched(rule, entry.len(), &mut closure);
            }
        }
        for wish in &self.wishes.wishes {
            self.wish(wish, &mut closure);
        }
        for (module, pattern) in &self.keep.modules {
            let link = Link {
                from: format!("--keep {}", pattern.as_str()),
                edge: Edge::Rule,
                to: module.to_string(),
                source: "the command line".to_owned(),
            };
            closure.load(module, link);
        }
        // What is built in asks as well, without being an item itself.
        let curated = self.curated();
        for (module, entries) in &curated {
            if self.inventory.modules.builtin.contains(*module) {
                self.follow_curated(&format!("built-in {module}"), entries, &mut closure);
            }
        }
        while let Some(module) = closure.queue.pop_front() {
            self.follow(module, &curated, &mut closure)?;
        }
        Ok(closure)
    }

    /// What modprobe would load for a name: the module of that name, else who has the alias. It looks for a built-in of
    /// that name last (`kmod_module_new_from_lookup`): `crc32` is built in, and an alias of crc32_generic all the same.
    fn named(&self, name: &str) -> Vec<Owner<'a>> {
        let modules = &self.inventory.modules;
        let module = ModuleName::new(name).ok();
        if let Some((name, _)) = module.as_ref().and_then(|name| modules.by_name.get_key_value(name)) {
            return vec![Owner::Module(name)];
        }
        let mut owners = self.aliases.owners(name);
        owners.extend(module.and_then(|name| modules.builtin.get(&name)).map(Owner::Builtin));
        owners
    }

    fn names_matching(&self, glob: &'a Glob) -> impl Iterator<Item = &'a ModuleName> {
        let literal = glob.literal().replace('-', "_");
        let names =
            self.inventory.modules.by_name.range::<str, _>((Bound::Included(literal.as_str()), Bound::Unbounded));
        let names = names.map(|(name, _)| name).take_while(move |name| name.as_str().starts_with(&literal));
        names.filter(|name| glob.matches(name.as_str()))
    }

    fn curated(&self) -> BTreeMap<&'a ModuleName, Vec<Curated<'a>>> {
        let mut all: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for entry in &self.target.hidden {
            all.entry(&entry.from).or_default().push(Curated::Hidden(entry));
        }
        for entry in &self.target.requests {
            all.entry(&entry.from).or_default().push(Curated::Request(entry));
        }
        all
    }

    /// Everything that a kept module leads to.
    fn follow(
        &self,
        module: &'a ModuleName,
        curated: &BTreeMap<&'a ModuleName, Vec<Curated<'a>>>,
        closure: &mut Closure<'a>,
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
                closure.load(dependency, link(module, Edge::Depends, dependency, "modules.dep"));
            } else if !modules.builtin.contains(dependency) {
                return Err(SelectError::MissingDependency {
                    kernel: self.inventory.kernel.release.to_string(),
                    module: module.clone(),
                    dependency: dependency.clone(),
                });
            }
        }
        for (_, wanted) in modules.soft.get(module).map(Vec::as_slice).unwrap_or_default() {
            self.soft(module, Edge::Softdep, wanted, "modules.softdep", closure);
        }
        let indexed = modules.weak.get(module).map(Vec::as_slice).unwrap_or_default();
        for wanted in indexed {
            self.soft(module, Edge::Weakdep, wanted, "modules.weakdep", closure);
        }
        // kmod before 33 makes no index of them.
        let declared = self.declarations.get(module).map(|declared| declared.weak.as_slice()).unwrap_or_default();
        for wanted in declared.iter().filter(|wanted| !indexed.contains(wanted)) {
            self.soft(module, Edge::Weakdep, wanted, ".modinfo of the module", closure);
        }
        self.follow_modprobe(module, closure);
        if let Some(entries) = curated.get(module) {
            self.follow_curated(module.as_str(), entries, closure);
        }
        Ok(())
    }

    /// What the root's `modprobe.d` loads with a module.
    fn follow_modprobe(&self, module: &'a ModuleName, closure: &mut Closure<'a>) {
        let config = &self.wishes.modprobe;
        for line in config.soft.iter().filter(|line| modprobe::names(&line.module, module)) {
            for (_, wanted) in &line.value {
                self.soft(module, Edge::Softdep, wanted, &line.source.to_string(), closure);
            }
        }
        for line in config.weak.iter().filter(|line| modprobe::names(&line.module, module)) {
            for wanted in &line.value {
                self.soft(module, Edge::Weakdep, wanted, &line.source.to_string(), closure);
            }
        }
        for line in config.install.iter().filter(|line| modprobe::names(&line.module, module)) {
            for wanted in line.loads() {
                self.soft(module, Edge::Install, &wanted, &line.source.to_string(), closure);
            }
        }
    }

    /// A soft or weak dependency: a module's name, or else an alias. It may name nothing, and that is fine.
    fn soft(&self, module: &ModuleName, edge: Edge, wanted: &str, source: &str, closure: &mut Closure<'a>) {
        for owner in self.named(wanted) {
            let Owner::Module(name) = owner else { continue };
            if self.is_dropped(module.as_str(), name, source, closure) {
                continue;
            }
            let by_name = ModuleName::new(wanted).is_ok_and(|wanted| wanted == *name);
            let link = match by_name {
                true => link(module, edge, name, source),
                false => link(module, Edge::Alias, name, &format!("{source}, alias {wanted}")),
            };
            closure.load(name, link);
        }
    }

    fn follow_curated(&self, from: &str, entries: &[Curated<'a>], closure: &mut Closure<'a>) {
        for entry in entries {
            match entry {
                Curated::Hidden(entry) => {
                    let by_name = |wanted| Some(self.inventory.modules.by_name.get_key_value::<ModuleName>(wanted)?.0);
                    let source = entry.source.to_string();
                    for name in entry.to.iter().filter_map(by_name) {
                        self.ask(from, Edge::Curated, name, &source, closure);
                    }
                }
                Curated::Request(entry) => {
                    for glob in &entry.aliases {
                        let source = format!("{}, alias {}", entry.source, glob.as_str());
                        // modprobe takes names as well as aliases.
                        let named = self.names_matching(glob).map(Owner::Module);
                        for owner in named.chain(self.aliases.covered(glob)) {
                            if let Owner::Module(name) = owner {
                                self.ask(from, Edge::Request, name, &source, closure);
                            }
                        }
                    }
                }
            }
        }
    }

    fn ask(&self, from: &str, edge: Edge, name: &'a ModuleName, source: &str, closure: &mut Closure<'a>) {
        if from != name.as_str() && !self.is_dropped(from, name, source, closure) {
            let link = Link { from: from.to_owned(), edge, to: name.to_string(), source: source.to_owned() };
            match edge {
                Edge::Request => closure.keep(name, link),
                _ => closure.load(name, link),
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

/// An entry of kmod-db about what a module asks for.
#[derive(Clone, Copy)]
enum Curated<'a> {
    Hidden(&'a Hidden),
    Request(&'a ModuleRequest),
}

fn link(from: &ModuleName, edge: Edge, to: &ModuleName, source: &str) -> Link {
    Link { from: from.to_string(), edge, to: to.to_string(), source: source.to_owned() }
}
