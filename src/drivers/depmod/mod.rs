//! TEMP
#![allow(missing_docs)]
use std::collections::{BTreeMap, BTreeSet};
use crate::names::ModuleName;
#[derive(Debug, thiserror::Error)]
pub enum DepmodError {}
pub fn indexes(_: &crate::root::sysroot::Sysroot, _: &crate::drivers::inventory::Inventory, _: &BTreeSet<ModuleName>) -> Result<BTreeMap<String, Vec<u8>>, DepmodError> { Ok(BTreeMap::new()) }
