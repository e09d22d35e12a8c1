//! The list of what is in an image: packages, kernel, modules, firmware.

use std::collections::BTreeMap;

use super::PipelineError;
use super::request::BuildRequest;
use super::ship::default_name;
use crate::cancel::Cancel;
use crate::drivers::inventory::Inventory;
use crate::drivers::select::{Item, Selection};
use crate::image::DEFAULT_TIME;
use crate::image::sbom::{self, OsRelease, Sbom};
use crate::names::TreePath;
use crate::root::packages::{self, Packages};
use crate::root::sysroot::Sysroot;
use crate::root::tree::FileTree;
use crate::size::Report;

/// What is packed.
pub(super) struct Contents<'a> {
    pub(super) root: &'a Sysroot,
    pub(super) tree: &'a FileTree,
    pub(super) inventory: &'a Inventory,
    pub(super) selection: &'a Selection,
    pub(super) os_release: &'a [u8],
    pub(super) release: &'a BTreeMap<String, String>,
}

impl Contents<'_> {
    /// The SPDX document. What the databases do not tell becomes a warning of the run as well.
    pub(super) fn sbom(
        &self,
        request: &BuildRequest,
        report: &mut Report,
        cancel: &Cancel,
    ) -> Result<String, PipelineError> {
        let Self { root, tree, inventory, selection, os_release, release } = self;
        let Packages { packages, gone, warnings, .. } = packages::installed_in(root, &|path| tree.get(path).is_some())?;
        report.warnings.extend(warnings.iter().cloned());
        let kept = |items: &mut dyn Iterator<Item = &Item>| -> Vec<TreePath> {
            items.filter(|item| item.kept).map(|item| item.path.clone()).collect()
        };
        let modules = kept(&mut selection.modules.values());
        let firmware = kept(&mut selection.firmware.values());
        let sbom = Sbom {
            name: request.ship.name.clone().unwrap_or_else(|| default_name(release)),
            version: release.get("KAIROS_RELEASE").cloned(),
            tool_version: env!("CARGO_PKG_VERSION").to_owned(),
            created: request.source_date_epoch.unwrap_or(DEFAULT_TIME),
            os_release: OsRelease::parse(&String::from_utf8_lossy(os_release)),
            packages,
            gone,
            notes: warnings,
            kernel: Some(inventory.kernel.release.clone()),
            modules: sbom::hash(root, tree, &modules, cancel)?,
            firmware: sbom::hash(root, tree, &firmware, cancel)?,
        };
        Ok(sbom::document(&sbom))
    }
}
