//! `image`: an ESP tree becomes a FAT file system, an ISO or a disk.

use std::path::Path;

use anyhow::{Context, Result};
use kairos_init::boot::verify::{self, Database};
use kairos_init::image::budget::{Budget, Limits, Sizes};
use kairos_init::image::esp::{self, Checked};
use kairos_init::image::medium::Room;
use kairos_init::image::{
    self, DEFAULT_TIME, Files, Image, check_another, check_outside, check_replaceable, medium, mode_set, packed,
};
use kairos_init::pipeline::{self, DiskShape, IsoContents};

use super::args::{DiskArgs, GlobalArgs, ImageArgs, ImageCommand, ImageEspArgs, ImageIsoArgs, ImageRawArgs, IsoArgs};
use super::render;

pub(super) fn run(command: ImageCommand, global: &GlobalArgs) -> Result<()> {
    match command {
        ImageCommand::Esp(args) => esp_image(&args, global),
        ImageCommand::Iso(args) => iso(&args, global),
        ImageCommand::Raw(args) => raw(&args, global),
    }
}

/// What of the flags is the disk's.
pub(super) fn disk_shape(args: &DiskArgs) -> DiskShape {
    DiskShape {
        esp: args.esp_size,
        oem: args.oem.clone(),
        oem_length: args.oem_size,
        persistent_length: args.persistent_size,
        compress: args.compress.is_some(),
        qcow2: args.qcow2,
    }
}

/// What of the flags is the ISO's.
pub(super) fn iso_contents(args: &IsoArgs) -> IsoContents {
    IsoContents {
        overlays: args.overlay_iso.clone(),
        install_data: args.install_data.clone(),
        table: args.partition_table.into(),
    }
}

/// A tree that boots.
struct Tree {
    files: Files,
    checked: Checked,
    budget: Budget,
    time: i64,
}

impl Tree {
    /// Reads and checks it: an image of what would not boot is not made.
    fn open(args: &ImageArgs) -> Result<Self> {
        let mut db = Database::default();
        for path in &args.db {
            db.extend(verify::load_database(path)?);
        }
        let files = Files::scan(&args.tree)?;
        image::refuse_private_keys(&files)?;
        check_outside(&args.output, &args.tree)?;
        let db = (!args.db.is_empty()).then_some(&db);
        let checked = esp::check(&files, db).with_context(|| format!("cannot use {}", args.tree.display()))?;
        // Keys that do not trust what they come with would lock a machine out of it.
        let enrolled = args.tree.join("loader/keys/auto/db.auth");
        let enrolled = enrolled.exists().then(|| verify::load_database(&enrolled)).transpose()?;
        if let Some(enrolled) = &enrolled {
            esp::check(&files, Some(enrolled))
                .with_context(|| format!("cannot use {}, whose own loader/keys/auto/db.auth", args.tree.display()))?;
        }
        // What is unpacked is not known here; the ESP's need is.
        let budget = Budget::of(&Sizes::of(&files, 0, 0));
        let mut warnings = [files.notes(), checked.warnings.clone()].concat();
        for warning in budget.check(&Limits { uki: args.max_uki_size, boot_ram: None })? {
            if !warnings.contains(&warning) {
                warnings.push(warning);
            }
        }
        render::warn(&warnings);
        check_replaceable(&args.output)?;
        Ok(Self { files, checked, budget, time: super::epoch(args.source_date_epoch)?.unwrap_or(DEFAULT_TIME) })
    }
}

/// Writes beside the target and renames.
fn write(image: &dyn Image, room: Room, output: &Path) -> Result<()> {
    let cancel = super::cancel_on_signal()?;
    let file = super::beside(output)?;
    medium::write(image, room, file.as_file(), output, &cancel)?;
    persist(file, output)
}

fn persist(file: tempfile::NamedTempFile, output: &Path) -> Result<()> {
    let cannot = || format!("cannot write {}", output.display());
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    mode_set(file.as_file().set_permissions(mode)).with_context(cannot)?;
    check_replaceable(output)?;
    file.persist(output).map_err(|error| error.error).with_context(cannot)?;
    Ok(())
}

fn done(kind: &str, output: &Path, tree: &Tree, global: &GlobalArgs) -> Result<()> {
    let metadata = std::fs::metadata(output).with_context(|| format!("cannot read {}", output.display()))?;
    let (bytes, stored) = (metadata.len(), std::os::unix::fs::MetadataExt::blocks(&metadata).saturating_mul(512));
    if global.json {
        return render::print_json(&serde_json::json!({
            "kind": kind, "file": output.display().to_string(), "bytes": bytes, "stored_bytes": stored,
            "esp_mib": tree.budget.esp_mib, "ukis": tree.checked.ukis.iter().map(|(path, bytes)| serde_json::json!({
                "path": path.to_string(), "bytes": bytes })).collect::<Vec<_>>(),
        }));
    }
    let mut text = String::new();
    for (path, bytes) in &tree.checked.ukis {
        text += &format!("uki       {} {path}\n", kairos_init::size::human(*bytes));
    }
    if !tree.checked.is_installed {
        text += &format!(
            "ESP       {} MiB for four copies and an upgrade (install.partitions.efi.size)\n",
            tree.budget.esp_mib
        );
    }
    render::print(&(text + &format!("wrote     {} ({bytes} bytes, {stored} on disk)\n", output.display())))
}

fn esp_image(args: &ImageEspArgs, global: &GlobalArgs) -> Result<()> {
    let tree = Tree::open(&args.image)?;
    write(&medium::boot_image(&tree.files, tree.time)?, Room::Reserved, &args.image.output)?;
    done("esp", &args.image.output, &tree, global)
}

fn iso(args: &ImageIsoArgs, global: &GlobalArgs) -> Result<()> {
    let tree = Tree::open(&args.image)?;
    let contents = iso_contents(&args.iso);
    for folder in &contents.overlays {
        check_outside(&args.image.output, folder)?;
    }
    for input in &contents.install_data {
        check_another(&args.image.output, input)?;
    }
    let more = pipeline::beside_boot_image(&contents)?;
    image::refuse_private_keys(&more)?;
    render::warn(&more.notes());
    let parts = medium::IsoParts { more, label: args.label.clone(), table: contents.table };
    write(&medium::iso(&tree.files, parts, tree.time)?, Room::Reserved, &args.image.output)?;
    done("iso", &args.image.output, &tree, global)
}

fn raw(args: &ImageRawArgs, global: &GlobalArgs) -> Result<()> {
    let tree = Tree::open(&args.image)?;
    let shape = disk_shape(&args.disk);
    if shape.qcow2 {
        packed::check_qemu_img()?;
    }
    if let Some(folder) = &shape.oem {
        check_outside(&args.image.output, folder)?;
    }
    let installed = match tree.checked.is_installed {
        true => tree.files.clone(),
        false => esp::installed(&tree.files)?,
    };
    esp::check(&installed, None).context("the tree with the roles of an installed system")?;
    let oem = shape.oem.as_deref().map(Files::scan).transpose()?.unwrap_or_default();
    image::refuse_private_keys(&oem)?;
    render::warn(&oem.notes());
    let parts = pipeline::disk_parts(&shape, &oem, tree.budget.esp_bytes);
    let disk = medium::disk(&installed, &parts, tree.time)?;
    render::warn(&pipeline::esp_warning(&shape, &tree.budget).into_iter().collect::<Vec<_>>());
    let output = &args.image.output;
    match (shape.compress, shape.qcow2) {
        (false, false) => write(&disk, Room::Sparse, output)?,
        (compress, _) => {
            let cancel = super::cancel_on_signal()?;
            let (raw, packed) = (super::beside(output)?, super::beside(output)?);
            medium::write(&disk, Room::Sparse, raw.as_file(), output, &cancel)?;
            match compress {
                true => packed::compress(raw.path(), packed.as_file(), output, super::jobs(global), &cancel)?,
                false => packed::qcow2(raw.path(), packed.path())?,
            }
            persist(packed, output)?;
        }
    }
    done("raw", &args.image.output, &tree, global)
}
