//! `modules.dep`: which modules there are, in which order, and what they need.

use std::collections::{BTreeSet, HashMap, HashSet};

use rayon::prelude::*;

use crate::drivers::inventory::{Compression, Inventory, InventoryError, LineError, Module, read_module};
use crate::names::ModuleName;
use crate::root::sysroot::Sysroot;

use super::binary::Entry;
use super::order::{Mentions, Needs, Order, shown};
use super::symbols;

/// The modules of a root in the order of `modules.dep`, and which of them are kept.
pub(super) struct Tree<'a> {
    modules: Vec<&'a Module>,
    needs: Needs,
    kept: Vec<bool>,
    /// Of the kept ones, counted.
    numbers: Vec<Option<u32>>,
    /// Position in `modules`.
    positions: HashMap<&'a str, usize>,
    /// Files of the kernel's own build: `modules.order`.
    built: HashSet<&'a [u8]>,
}

impl<'a> Tree<'a> {
    /// `dep` is the content of `modules.dep`: only the order of its lines counts here, the inventory has the rest.
    pub(super) fn new(inventory: &'a Inventory, dep: &str, kept: &BTreeSet<ModuleName>) -> Result<Self, LineError> {
        let all = &inventory.modules;
        let mut modules = Vec::with_capacity(all.by_name.len());
        for (index, line) in dep.lines().enumerate().filter(|(_, line)| !line.is_empty() && !line.starts_with('#')) {
            let name = line.split_once(':').and_then(|(path, _)| ModuleName::from_file(path.as_bytes()));
            let module = name.and_then(|name| all.by_name.get(&name));
            let problem = || LineError { line: index + 1, problem: format!("{line:?} names no module of the root") };
            modules.push(module.ok_or_else(problem)?);
        }
        let positions: HashMap<&str, usize> =
            modules.iter().enumerate().map(|(position, module)| (module.name.as_str(), position)).collect();
        let needed = |name: &ModuleName| positions.get(name.as_str()).copied();
        let needs = modules
            .iter()
            .map(|module| all.dependencies.get(&module.name).into_iter().flatten().filter_map(needed).collect());
        let needs = needs.collect();
        let kept: Vec<bool> = modules.iter().map(|module| kept.contains(&module.name)).collect();
        let mut count = 0..;
        let numbers = kept.iter().map(|kept| kept.then(|| count.next()).flatten()).collect();
        let built = all.order.iter().map(String::as_bytes).collect();
        Ok(Self { modules, needs, kept, numbers, positions, built })
    }

    fn is_kept(&self, position: usize) -> bool {
        self.kept.get(position).copied().unwrap_or_default()
    }

    /// The kept modules in order.
    pub(super) fn kept(&self) -> impl Iterator<Item = &'a Module> {
        self.modules.iter().zip(&self.kept).filter(|(_, kept)| **kept).map(|(module, _)| *module)
    }

    /// Whether the module of this name is dropped and was not built with the kernel: `modules.order` does not have it.
    pub(super) fn is_dropped_addition(&self, name: &str) -> bool {
        let Some(position) = self.positions.get(name).copied().filter(|position| !self.is_kept(*position)) else {
            return false;
        };
        let plain = self.modules.get(position).map(|module| Compression::of(module.relative.as_bytes()).1);
        // Without a modules.order nothing can be said.
        !self.built.is_empty() && plain.is_some_and(|plain| !self.built.contains(plain))
    }

    /// depmod's number of a kept module in the slimmed tree: its line in the new `modules.dep`, from 0.
    pub(super) fn number(&self, name: &str) -> Option<u32> {
        // Mostly normalised already.
        let position = self.positions.get(name).or_else(|| self.positions.get(name.replace('-', "_").as_str()))?;
        self.numbers.get(*position).copied().flatten()
    }

    /// Each module's place in depmod's sort of the slimmed tree. `symbols` is the root's `modules.symbols`.
    ///
    /// # Errors
    /// A module whose symbols must be read cannot be. [`Tree::lines`] finds modules that need each other.
    pub(super) fn places(&self, root: &Sysroot, symbols: &str) -> Result<Vec<Option<usize>>, InventoryError> {
        let shown = shown(&self.needs);
        let mut read: Mentions = vec![None; self.modules.len()];
        let mut owners = None;
        loop {
            let order = Order::of(&self.needs, &self.kept, &shown, &read);
            if order.unknown.is_empty() {
                return Ok(order.places);
            }
            tracing::debug!(modules = order.unknown.len(), "reading symbols for the order of modules.dep");
            let owners = owners.get_or_insert_with(|| self.owners(symbols));
            let mentions = order.unknown.par_iter().map_init(Vec::new, |buffer, position| {
                Ok((*position, self.mentions(root, owners, *position, buffer)?))
            });
            for one in mentions.collect::<Vec<Result<_, InventoryError>>>() {
                let (position, mentions) = one?;
                if let Some(read) = read.get_mut(position) {
                    *read = Some(mentions);
                }
            }
        }
    }

    /// Which kept module each symbol is of.
    fn owners<'s>(&self, symbols: &'s str) -> HashMap<&'s [u8], usize> {
        let owner = |line: &'s str| {
            let (symbol, module) = line.strip_prefix("alias symbol:")?.rsplit_once(' ')?;
            let position = *self.positions.get(module)?;
            self.is_kept(position).then_some((symbol.as_bytes(), position))
        };
        symbols.lines().filter_map(owner).collect()
    }

    /// What the module at `position` needs directly, in the order in which its symbols name it.
    fn mentions(
        &self,
        root: &Sysroot,
        owners: &HashMap<&[u8], usize>,
        position: usize,
        buffer: &mut Vec<u8>,
    ) -> Result<Vec<usize>, InventoryError> {
        let Some(module) = self.modules.get(position) else { return Ok(Vec::new()) };
        read_module(root, module, buffer)?;
        let undefined = symbols::undefined(buffer)
            .map_err(|source| InventoryError::Module { path: module.path.clone(), source })?;
        let mut mentions = Vec::new();
        for name in undefined {
            // On 64-bit PowerPC functions are named with a dot before.
            let name = name.strip_prefix(b".").unwrap_or(name);
            if let Some(owner) = owners.get(name).filter(|owner| !mentions.contains(*owner)) {
                mentions.push(*owner);
            }
        }
        Ok(mentions)
    }

    /// The lines of `modules.dep` of the kept modules, with their numbers as priorities.
    ///
    /// # Errors
    /// A module that needs itself, directly or not: depmod writes nothing then.
    pub(super) fn lines(&self, places: &[Option<usize>]) -> Result<Vec<Entry>, ModuleName> {
        let place = |position: &usize| places.get(*position).copied().flatten();
        let kept = self.modules.iter().zip(&self.needs).enumerate().filter(|(position, _)| self.is_kept(*position));
        let mut out = Vec::new();
        for (priority, (position, (module, needs))) in (0..).zip(kept) {
            place(&position).ok_or_else(|| module.name.clone())?;
            let mut needs = needs.clone();
            needs.sort_by_key(place);
            let mut line = format!("{}:", module.relative);
            for needed in needs.iter().filter_map(|needed| self.modules.get(*needed)) {
                line.push(' ');
                line.push_str(&needed.relative);
            }
            out.push(Entry { key: module.name.as_str().to_owned(), priority, value: line });
        }
        Ok(out)
    }
}
