//! From signed UKIs to what is shipped: the ESP tree, images, checks and the list of what is inside.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Cursor;
use std::path::Path;

use super::inputs::read_input;
use super::keys::refuse_keys_beside;
use super::request::{Artifact, BuildRequest, Destination, DiskShape, IsoContents};
use super::ukis::file_name;
use super::{Keys, PipelineError, Progress};
use crate::boot::sign::Identity;
use crate::boot::sign::authenticode::{Existing, sign_pe};
use crate::boot::verify::{Database, load_database};
use crate::cancel::Cancel;
use crate::image::budget::{Budget, Sizes};
use crate::image::disk::Disk;
use crate::image::esp::{self, EnrolmentKeys, EspRequest, Loader, PlannedUki, Uki};
use crate::image::iso::Iso;
use crate::image::medium::{self, DiskParts, IsoParts, Room};
use crate::image::sbom::SBOM;
use crate::image::{self, Content, DEFAULT_TIME, Files, ImageError, Node, PCRS, REPORT, SUMS, Staging, TREE, packed};
use crate::names::TreePath;

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
fn enrolment_keys(folder: Option<&Path>) -> Result<Option<EnrolmentKeys>, PipelineError> {
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

/// What the options name besides the root, read before any work: a mistake there is told at once.
pub(super) struct Given {
    pub(super) beside: Files,
    pub(super) oem: Files,
    enrolment_keys: Option<EnrolmentKeys>,
    /// What these keys trust.
    db: Option<Database>,
}

impl Given {
    pub(super) fn read(request: &BuildRequest) -> Result<Self, PipelineError> {
        let ship = &request.ship;
        let output = request.destination.folder(&request.output);
        for folder in ship.iso.overlays.iter().chain(&ship.disk.oem) {
            image::check_outside(output, folder)?;
        }
        // Inside of these it is left out; but of them nothing would be left.
        for folder in request.overlays.iter().chain([&request.select.root]) {
            image::check_another(output, folder)?;
        }
        let given = Self {
            beside: beside_boot_image(&ship.iso)?,
            oem: ship.disk.oem.as_deref().map(Files::scan).transpose()?.unwrap_or_default(),
            enrolment_keys: enrolment_keys(ship.enrolment_keys.as_deref())?,
            db: ship.enrolment_keys.as_deref().map(|folder| load_database(&folder.join("db.auth"))).transpose()?,
        };
        refuse_keys_beside(&[&given.beside, &given.oem], &request.keys)?;
        for files in [&given.beside, &given.oem] {
            image::refuse_private_keys(files)?;
        }
        if ship.images().contains(&(".qcow2", true)) {
            packed::check_qemu_img()?;
        }
        Ok(given)
    }
}

/// What is shipped besides the UKIs themselves.
pub(super) struct Shipping<'a> {
    pub(super) request: &'a BuildRequest,
    pub(super) keys: &'a Keys,
    pub(super) release: BTreeMap<String, String>,
    pub(super) loader: Option<(Loader, Content)>,
    pub(super) given: Given,
    pub(super) cancel: &'a Cancel,
}

/// The tree, and what it asks of machines.
pub(super) struct Shipped {
    pub(super) budget: Budget,
    pub(super) warnings: Vec<String>,
    /// What is to be said of folders, not of the image: it is another elsewhere, and not in the report.
    pub(super) notes: Vec<String>,
}

/// All of it laid out: what is left is to write it.
struct LaidOut {
    tree: Files,
    budget: Budget,
    warnings: Vec<String>,
    iso: Option<Iso>,
    disk: Option<Disk>,
}

impl Shipping<'_> {
    /// Lays everything out around a UKI without an initrd, and looks at where it shall be written: what would fail when the long
    /// work is done fails before it.
    pub(super) fn rehearse(
        &self,
        planned: &[PlannedUki],
        stand_in: Vec<u8>,
        root_bytes: u64,
    ) -> Result<(), PipelineError> {
        let content = Content::Bytes(stand_in.into());
        let ukis = planned.iter().map(|planned| Uki { planned: planned.clone(), content: content.clone() });
        self.refuse_distrusted()?;
        // Its signature is not there yet; whether it will be trusted was just told.
        let laid_out = self.lay_out(ukis.collect(), root_bytes, None).map_err(|error| match error {
            PipelineError::Budget(error) => error.at_least().into(),
            other => other,
        })?;
        self.check_places(&laid_out.tree)
    }

    /// Puts the tree together around UKIs that are in the output folder, holds it against the limits, and makes the images.
    pub(super) fn ship(
        self,
        planned: Vec<PlannedUki>,
        root_bytes: u64,
        staging: &mut Staging,
        progress: &dyn Progress,
    ) -> Result<Shipped, PipelineError> {
        let ukis = planned.into_iter().map(|planned| {
            let content = Content::file(&staging.staged(&file_name(&planned)))?;
            Ok(Uki { planned, content })
        });
        let ukis = ukis.collect::<Result<Vec<_>, ImageError>>()?;
        let LaidOut { tree, budget, warnings, iso, disk } = self.lay_out(ukis, root_bytes, self.given.db.as_ref())?;
        write_tree(&tree, staging)?;
        let name = self.name();
        if let Some(iso) = iso {
            progress.step("writing the ISO");
            let file_name = format!("{name}.iso");
            let file = staging.create(&file_name)?;
            medium::write(&iso, Room::Reserved, &file, Path::new(&file_name), self.cancel)?;
        }
        if let Some(disk) = disk {
            progress.step("writing the disk image");
            write_disk(&disk, &self.request.ship.disk, &name, staging, self.request.jobs, self.cancel)?;
        }
        let mut notes = [&self.given.beside, &self.given.oem].map(Files::notes).concat();
        notes.extend(self.stale(&name));
        Ok(Shipped { budget, warnings, notes })
    }

    fn lay_out(&self, ukis: Vec<Uki>, root_bytes: u64, db: Option<&Database>) -> Result<LaidOut, PipelineError> {
        let ship = &self.request.ship;
        let esp::EspTree { files: tree, mut warnings } = esp::tree(&EspRequest {
            loader: self.loader.clone(),
            ukis,
            version: self.release.get("KAIROS_RELEASE").filter(|_| ship.include_version).cloned(),
            include_cmdline: ship.include_cmdline,
            secure_boot_enroll: ship.enroll,
            keys: self.given.enrolment_keys.clone(),
        })?;
        let window = 1_u64.checked_shl(self.request.compression.window_log).unwrap_or(u64::MAX);
        let budget = Budget::of(&Sizes::of(&tree, root_bytes, window));
        warnings.extend(budget.check(&ship.limits)?);
        if self.is_checked() {
            warnings.extend(esp::check(&tree, db)?.warnings);
        }
        let time = self.request.source_date_epoch.unwrap_or(DEFAULT_TIME);
        let (mut iso, mut disk) = (None, None);
        if ship.artifacts.contains(&Artifact::Iso) {
            let more = self.given.beside.clone();
            let parts = IsoParts { more, label: medium::ISO_LABEL.to_owned(), table: ship.iso.table };
            iso = Some(medium::iso(&tree, parts, time)?);
        }
        if ship.artifacts.contains(&Artifact::Raw) {
            warnings.extend(esp_warning(&ship.disk, &budget));
            let installed = esp::installed(&tree)?;
            esp::check(&installed, None)?;
            let parts = disk_parts(&ship.disk, &self.given.oem, budget.esp_bytes);
            disk = Some(medium::disk(&installed, &parts, time)?);
        }
        // A warning that the check of the tree repeats is said once.
        let mut seen = BTreeSet::new();
        warnings.retain(|warning| seen.insert(warning.clone()));
        Ok(LaidOut { tree, budget, warnings, iso, disk })
    }

    /// A tree without a boot manager is for who starts the UKI by other means; an image of it is for nobody.
    fn is_checked(&self) -> bool {
        self.loader.is_some() || self.request.ship.must_boot()
    }

    /// Keys that do not trust what they come with would lock a machine out of it.
    fn refuse_distrusted(&self) -> Result<(), PipelineError> {
        let (Some(db), Some(folder)) = (&self.given.db, &self.request.ship.enrolment_keys) else { return Ok(()) };
        let signers: Vec<_> = self.keys.secure_boot.iter().map(Identity::chain).collect();
        if signers.iter().any(|signer| db.trusts(signer)) {
            return Ok(());
        }
        let names: Vec<_> = signers.iter().map(|signer| signer.name()).collect();
        let problem = match names.is_empty() {
            true => "nothing signs it".to_owned(),
            false => format!("nothing in db.auth vouches for {}, which signs it", names.join(" or ")),
        };
        Err(PipelineError::Distrusted { folder: folder.clone(), problem })
    }

    /// Whether everything that will be written can take its place.
    fn check_places(&self, tree: &Files) -> Result<(), PipelineError> {
        let BuildRequest { output, destination, .. } = self.request;
        let folder = destination.folder(output);
        let place = |name: &str, check: fn(&Path, &Path) -> Result<(), ImageError>| match destination.name(name) {
            Some(name) => check(folder, Path::new(name)),
            None => Ok(()),
        };
        for (path, node) in tree.iter() {
            let check = if matches!(node, Node::Directory) { image::check_folder } else { image::check_file };
            place(&in_tree(path), check)?;
        }
        for (ending, _) in self.request.ship.images().iter().filter(|(_, is_written)| *is_written) {
            let name = image::parse_name(&self.name())
                .map_err(|problem| PipelineError::ImageName { name: self.name(), problem })?;
            place(&format!("{name}{ending}"), image::check_file)?;
            for input in &self.request.ship.iso.install_data {
                image::check_another(&folder.join(format!("{name}{ending}")), input)?;
            }
        }
        for name in [SBOM, REPORT, PCRS, SUMS] {
            place(name, image::check_file)?;
        }
        Ok(())
    }

    /// The images' base name.
    fn name(&self) -> String {
        self.request.ship.name.clone().unwrap_or_else(|| default_name(&self.release))
    }

    /// Images of this name that an earlier run wrote and this one does not: they look as if they belonged to it.
    fn stale(&self, name: &str) -> Vec<String> {
        let BuildRequest { output, destination, ship, .. } = self.request;
        let others = ship.images().into_iter().filter(|(_, is_written)| !is_written);
        let paths = others.map(|(ending, _)| output.join(format!("{name}{ending}")));
        let there = paths.filter(|path| *destination == Destination::Output && path.is_file());
        let warning = |path: std::path::PathBuf| {
            format!(
                "{} is of an earlier run: this one does not write it, and {SUMS} does not list it; remove it, or make it \
                     anew (--artifact)",
                path.display()
            )
        };
        there.map(warning).collect()
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

/// What a file of the tree is called in the output folder. The tree is ours, and all its names are text.
fn in_tree(path: &TreePath) -> String {
    format!("{TREE}{}", String::from_utf8_lossy(path.as_bytes()))
}

/// What is no UKI of the tree, into the output folder; those are there.
fn write_tree(files: &Files, staging: &mut Staging) -> Result<(), PipelineError> {
    for (path, node) in files.iter() {
        let name = in_tree(path);
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
