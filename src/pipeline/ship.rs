//! From signed UKIs to what is shipped: the ESP tree, images, checks and the list of what is inside.

use std::collections::BTreeMap;
use std::io::Cursor;
use std::path::Path;

use super::inputs::{read_input, release};
use super::request::{Artifact, BuildRequest, DiskShape, IsoContents};
use super::ukis::file_name;
use super::{Keys, PipelineError, Progress};
use crate::boot::sign::authenticode::{Existing, sign_pe};
use crate::boot::verify::load_database;
use crate::cancel::Cancel;
use crate::image::budget::{Budget, Sizes};
use crate::image::esp::{self, EnrolmentKeys, EspRequest, Loader, PlannedUki, Uki};
use crate::image::medium::{self, DiskParts, IsoParts, Room};
use crate::image::packed;
use crate::image::{Content, DEFAULT_TIME, Files, ImageError, Node, Staging, TREE};
use crate::names::TreePath;
use crate::root::sysroot::Sysroot;

/// A signed update of Secure Boot's variables has less.
const MAX_AUTH: u64 = 1 << 20;

/// The boot manager as it is shipped: signed where there are keys, beside signatures that it has.
pub(super) fn signed_loader(
    loader: Option<(Loader, Vec<u8>)>,
    keys: &Keys,
    request: &BuildRequest,
    cancel: &Cancel,
) -> Result<Option<(Loader, Content)>, PipelineError> {
    let Some((loader, bytes)) = loader else { return Ok(None) };
    let mut file = Cursor::new(bytes);
    let signings = keys.signings(request.hash);
    if !signings.is_empty() {
        let length = sign_pe(&mut file, "the boot manager", &signings, Existing::Keep, None, cancel)?.length;
        file.get_mut().truncate(usize::try_from(length).unwrap_or(usize::MAX));
    }
    Ok(Some((loader, Content::Bytes(file.into_inner().into()))))
}

/// The signed updates that the boot manager enrols.
pub(super) fn enrolment_keys(folder: Option<&Path>) -> Result<Option<EnrolmentKeys>, PipelineError> {
    let Some(folder) = folder else { return Ok(None) };
    let read = |name: &str| {
        let bytes = read_input("the key to enrol", &folder.join(name), MAX_AUTH)?;
        Ok::<_, PipelineError>(Content::Bytes(bytes.into()))
    };
    Ok(Some(EnrolmentKeys { pk: read("PK.auth")?, kek: read("KEK.auth")?, db: read("db.auth")? }))
}

/// What lies beside the boot image on an ISO.
///
/// # Errors
/// A folder or file that cannot be read; two files that would have one name.
pub fn beside_boot_image(contents: &IsoContents) -> Result<Files, PipelineError> {
    let mut files = Files::new();
    for folder in &contents.overlays {
        files.overlay(Files::scan(folder)?)?;
    }
    for path in &contents.install_data {
        let name = path.file_name().map(std::os::unix::ffi::OsStrExt::as_bytes).unwrap_or_default();
        let name = TreePath::new(name)?;
        if files.get(&name).is_some() {
            let problem = format!("{} would take its place; give one of them another name", path.display());
            return Err(ImageError::Unrepresentable { path: name, format: "ISO 9660", problem }.into());
        }
        files.insert(name, Node::plain(Content::file(path)?))?;
    }
    Ok(files)
}

/// What is shipped besides the UKIs themselves.
pub(super) struct Shipping<'a> {
    pub(super) request: &'a BuildRequest,
    pub(super) root: &'a Sysroot,
    pub(super) loader: Option<(Loader, Content)>,
    pub(super) enrolment_keys: Option<EnrolmentKeys>,
    pub(super) beside: Files,
    pub(super) oem: Files,
    pub(super) cancel: &'a Cancel,
}

/// The tree, and what it asks of machines.
pub(super) struct Shipped {
    pub(super) budget: Budget,
    pub(super) warnings: Vec<String>,
}

impl Shipping<'_> {
    /// Puts the tree together around UKIs that are in the output folder, holds it against the limits, and makes the images.
    pub(super) fn ship(
        self,
        planned: Vec<PlannedUki>,
        root_bytes: u64,
        staging: &mut Staging,
        progress: &dyn Progress,
    ) -> Result<Shipped, PipelineError> {
        let ship = &self.request.ship;
        let release = release(self.root)?;
        let ukis = planned.into_iter().map(|planned| {
            let content = Content::file(&staging.staged(&file_name(&planned)))?;
            Ok(Uki { planned, content })
        });
        let built = ukis.collect::<Result<Vec<_>, ImageError>>()?;
        let tree = esp::tree(&EspRequest {
            loader: self.loader.clone(),
            ukis: built,
            version: release.get("KAIROS_RELEASE").filter(|_| ship.include_version).cloned(),
            include_cmdline: ship.include_cmdline,
            secure_boot_enroll: ship.enroll,
            keys: self.enrolment_keys.clone(),
        })?;
        let esp::EspTree { files, mut warnings } = tree;
        let window = 1_u64.checked_shl(self.request.compression.window_log).unwrap_or(u64::MAX);
        let budget = Budget::of(&Sizes::of(&files, root_bytes, window));
        warnings.extend(budget.check(&ship.limits)?);
        let images = ship.artifacts.contains(&Artifact::Iso) || ship.artifacts.contains(&Artifact::Raw);
        // A tree without a boot manager is for who starts the UKI by other means; an image of it is for nobody.
        if self.loader.is_some() || images {
            // Keys that do not trust what they come with would lock a machine out of it.
            let db = ship.enrolment_keys.as_deref().map(|folder| load_database(&folder.join("db.auth"))).transpose()?;
            warnings.extend(esp::check(&files, db.as_ref())?.warnings);
        }
        write_tree(&files, staging)?;

        let time = self.request.source_date_epoch.unwrap_or(DEFAULT_TIME);
        let name = match &ship.name {
            Some(name) => name.clone(),
            None => default_name(&release),
        };
        if ship.artifacts.contains(&Artifact::Iso) {
            progress.step("writing the ISO");
            let parts =
                IsoParts { more: self.beside.clone(), label: medium::ISO_LABEL.to_owned(), table: ship.iso.table };
            let iso = medium::iso(&files, parts, time)?;
            let file_name = format!("{name}.iso");
            let file = staging.create(&file_name)?;
            medium::write(&iso, Room::Reserved, &file, Path::new(&file_name), self.cancel)?;
        }
        if ship.artifacts.contains(&Artifact::Raw) {
            progress.step("writing the disk image");
            warnings.extend(esp_warning(&ship.disk, &budget));
            self.raw(&files, &budget, &name, time, staging)?;
        }
        // A warning that the check of the tree repeats is said once.
        let mut seen = std::collections::BTreeSet::new();
        warnings.retain(|warning| seen.insert(warning.clone()));
        Ok(Shipped { budget, warnings })
    }

    fn raw(
        &self,
        tree: &Files,
        budget: &Budget,
        name: &str,
        time: i64,
        staging: &mut Staging,
    ) -> Result<(), PipelineError> {
        let shape = &self.request.ship.disk;
        let installed = esp::installed(tree)?;
        esp::check(&installed, None)?;
        let parts = disk_parts(shape, &self.oem, budget.esp_bytes);
        let disk = medium::disk(&installed, &parts, time)?;
        let jobs = self.request.jobs;
        write_disk(&disk, shape, name, staging, jobs, self.cancel)
    }
}

/// What to say of an EFI system partition that is too small to upgrade on.
#[must_use]
pub fn esp_warning(shape: &DiskShape, budget: &Budget) -> Option<String> {
    let given = shape.esp.filter(|given| *given < budget.esp_bytes)?;
    Some(format!(
        "--esp-size is {} MiB, and four copies and an upgrade need {} MiB: the machine will boot and cannot be upgraded",
        given >> 20,
        budget.esp_mib
    ))
}

/// The partitions' sizes; the EFI system partition holds what four copies and an upgrade need, unless one is named.
#[must_use]
pub fn disk_parts(shape: &DiskShape, oem: &Files, esp_bytes: u64) -> DiskParts {
    DiskParts {
        esp_length: shape.esp.unwrap_or(esp_bytes),
        oem: oem.clone(),
        oem_length: shape.oem_length,
        persistent_length: shape.persistent_length,
    }
}

/// `NAME.raw`, with holes or compressed, and `NAME.qcow2`.
fn write_disk(
    disk: &dyn crate::image::Image,
    shape: &DiskShape,
    name: &str,
    staging: &mut Staging,
    jobs: usize,
    cancel: &Cancel,
) -> Result<(), PipelineError> {
    let raw_name = format!("{name}.raw");
    let raw = match shape.compress {
        true => staging.scratch(&raw_name)?,
        false => staging.create(&raw_name)?,
    };
    medium::write(disk, Room::Sparse, &raw, Path::new(&raw_name), cancel)?;
    if shape.compress {
        let compressed_name = format!("{raw_name}.zst");
        let out = staging.create(&compressed_name)?;
        packed::compress(&staging.staged(&raw_name), &out, Path::new(&compressed_name), jobs, cancel)?;
    }
    if shape.qcow2 {
        let target = format!("{name}.qcow2");
        drop(staging.create(&target)?);
        packed::qcow2(&staging.staged(&raw_name), &staging.staged(&target))?;
    }
    Ok(())
}

/// What is no UKI of the tree, into the output folder; those are there.
fn write_tree(files: &Files, staging: &mut Staging) -> Result<(), PipelineError> {
    for (path, node) in files.iter() {
        // The tree is ours, and all its names are text.
        let name = format!("{TREE}{}", String::from_utf8_lossy(path.as_bytes()));
        match node {
            Node::Directory => staging.folder(&name),
            Node::File { content: Content::Bytes(bytes), .. } => staging.write(&name, bytes)?,
            Node::File { .. } | Node::Symlink(_) => {}
        }
    }
    Ok(())
}

/// `kairos-FLAVOR-RELEASE-VARIANT-ARCH-MODEL-VERSION-uki`, as AuroraBoot makes it of the release file (kairos.md 3.6); what it does
/// not tell is left out.
pub(super) fn default_name(release: &BTreeMap<String, String>) -> String {
    let value = |key: &str| release.get(&format!("KAIROS_{key}")).filter(|value| !value.is_empty()).cloned();
    let arch = value("ARCH").or_else(|| value("TARGETARCH"));
    let parts = [value("FLAVOR"), value("FLAVOR_RELEASE"), value("VARIANT"), arch, value("MODEL"), value("VERSION")];
    let software = match value("VARIANT").as_deref() {
        Some("standard") => value("SOFTWARE_VERSION")
            .map(|version| format!("{}{version}", value("SOFTWARE_VERSION_PREFIX").unwrap_or_default())),
        _ => None,
    };
    let words = parts.into_iter().flatten().chain(software).map(|word| plain(&word)).collect::<Vec<_>>();
    match words.is_empty() {
        true => "kairos-uki".to_owned(),
        false => format!("kairos-{}-uki", words.join("-")),
    }
}

/// What the root says becomes part of a file name: no slash, nothing that a shell or an index would stumble over.
fn plain(word: &str) -> String {
    word.chars().map(|c| if c.is_ascii_alphanumeric() || "._+-".contains(c) { c } else { '_' }).collect()
}
