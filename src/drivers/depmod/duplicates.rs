//! Symbols that two modules export.
//!
//! The kernel's build refuses that, so one of the two was built after the kernel (a driver's newer version under another
//! name). depmod gives the symbol to the later one in its order, and `modules.symbols` does not say that there is another.

use std::borrow::Cow;
use std::collections::HashMap;

use rayon::prelude::*;

use crate::drivers::inventory::{InventoryError, read_module};
use crate::root::sysroot::Sysroot;

use super::dep::Tree;
use super::symbols::exported;

/// `content` of `modules.symbols`, in which the symbols of dropped modules that were built after the kernel are those of the
/// kept modules that export them too. Reads all kept modules if there is such a symbol, which is rare.
///
/// # Errors
/// A kept module that must be read is damaged.
pub(super) fn settled<'c>(root: &Sysroot, tree: &Tree<'_>, content: &'c str) -> Result<Cow<'c, str>, InventoryError> {
    let parsed = |line: &'c str| line.strip_prefix("alias symbol:")?.rsplit_once(' ');
    let mut owners: HashMap<&[u8], Option<&str>> = HashMap::new();
    for (symbol, module) in content.lines().filter_map(parsed) {
        if tree.is_dropped_addition(module) {
            owners.insert(symbol.as_bytes(), None);
        }
    }
    if owners.is_empty() {
        return Ok(content.into());
    }
    let modules: Vec<_> = tree.kept().collect();
    let exports = modules.par_iter().map_init(Vec::new, |buffer, module| {
        read_module(root, module, buffer)?;
        let names = exported(buffer).map_err(|source| InventoryError::Module { path: module.path.clone(), source })?;
        let lost = names.into_iter().filter_map(|name| owners.get_key_value(name).map(|(name, _)| *name));
        Ok((module.name.as_str(), lost.collect::<Vec<&[u8]>>()))
    });
    for (module, symbols) in exports.collect::<Result<Vec<_>, InventoryError>>()? {
        for symbol in symbols {
            owners.insert(symbol, Some(module));
        }
    }
    let mut out = String::with_capacity(content.len());
    for line in content.split_inclusive('\n') {
        match parsed(line.trim_end()).and_then(|(symbol, _)| Some((symbol, (*owners.get(symbol.as_bytes())?)?))) {
            Some((symbol, owner)) => out.extend(["alias symbol:", symbol, " ", owner, "\n"]),
            None => out.push_str(line),
        }
    }
    Ok(out.into())
}
