//! What the root's configuration says of modules besides asking for them: `options`, `alias` and `install` lines of modules
//! that are dropped, and lines that keep a kept module from being loaded.

use std::collections::BTreeMap;

use crate::drivers::inventory::Inventory;
use crate::drivers::wishes::{Wishes, modprobe};
use crate::names::ModuleName;

use super::closure::Closure;

/// The outcome.
#[derive(Default)]
pub(super) struct Configured<'a> {
    /// Kept modules that modprobe will not load, with the line that says so.
    pub(super) blocked: BTreeMap<&'a ModuleName, String>,
    pub(super) warnings: Vec<String>,
}

impl<'a> Configured<'a> {
    pub(super) fn new(inventory: &'a Inventory, wishes: &Wishes, closure: &Closure<'a>) -> Self {
        let mut out = Self::default();
        out.dropped_but_named(inventory, wishes, closure);
        let config = &wishes.modprobe;
        let matching = |pattern: &str| -> Vec<&'a ModuleName> {
            closure.kept.keys().copied().filter(|module| modprobe::names(pattern, module)).collect()
        };
        for line in config.install.iter().filter(|line| line.disables()) {
            for module in matching(&line.module) {
                out.block(closure, module, format!("{}: install {module} {}", line.source, line.value));
            }
        }
        for line in &config.blacklist {
            for module in matching(&line.module) {
                let required = closure.required.contains(module);
                // What is loaded by name, or as a dependency, is loaded all the same; a file system is asked for by alias.
                if required || !closure.loaded.contains(module) {
                    out.block(closure, module, format!("{}: blacklist {module}", line.source));
                }
            }
        }
        out
    }

    fn block(&mut self, closure: &Closure<'a>, module: &'a ModuleName, line: String) {
        if closure.required.contains(module) {
            self.warnings.push(format!("{line}: Kairos cannot boot without this module; take the line away"));
        }
        self.blocked.entry(module).or_insert(line);
    }

    /// One warning for each file and kind of line, so that a distribution's list of options is one line.
    fn dropped_but_named(&mut self, inventory: &Inventory, wishes: &Wishes, closure: &Closure<'a>) {
        let config = &wishes.modprobe;
        let options = config.options.iter().map(|line| ("options", &line.module, &line.source));
        let aliases = config.aliases.iter().map(|line| ("alias", &line.module, &line.source));
        let install = config.install.iter().filter(|line| !line.disables());
        let install = install.map(|line| ("install", &line.module, &line.source));
        let mut named: BTreeMap<(&str, &str), Vec<String>> = BTreeMap::new();
        for (keyword, pattern, source) in options.chain(aliases).chain(install) {
            let exact = inventory.modules.by_name.get_key_value(pattern.as_str());
            for (module, _) in exact.into_iter().filter(|(module, _)| !closure.kept.contains_key(module)) {
                let modules = named.entry((&source.file, keyword)).or_default();
                modules.push(format!("{module} (line {})", source.line));
            }
        }
        for ((file, keyword), modules) in named {
            let (verb, object) = if modules.len() == 1 { ("is", "it") } else { ("are", "them") };
            self.warnings.push(format!(
                "{file}: '{keyword}' names {}, which {verb} dropped; --keep {object}, or take the lines away",
                modules.join(", ")
            ));
        }
    }
}
