//! The whole run.

use anyhow::{Result, bail};
use kairos_init::boot::build::collapse_white_space;
use kairos_init::image::budget::Limits;
use kairos_init::pipeline::{self, Artifact, BootEntry, BuildRequest, Destination, ShipRequest};

use super::args::{GlobalArgs, RunArgs, StageArg, TargetArg};
use super::render::{self, Reporter};

pub(super) fn run(args: RunArgs, global: &GlobalArgs) -> Result<()> {
    if args.stage.iter().any(|stage| *stage != StageArg::Build) {
        bail!(
            "this version runs --stage build only: add --stage build; install and init are still done by the older kairos-init"
        );
    }
    if args.target != TargetArg::Uki {
        bail!("this version builds --target uki only: add --target uki");
    }
    let Some(output) = args.output.clone() else {
        if args.select.hardware.is_empty() {
            bail!(
                "nothing to do: name a folder for the artifacts with --output, or slim the root in place with --hardware"
            );
        }
        return super::slim::slim(&args.select, &args.in_place, global);
    };
    let keys = super::key_files(&args.keys)?;
    if !args.unsigned && (keys.secure_boot.is_empty() || (keys.pcr.is_empty() && keys.pcr_public.is_empty())) {
        bail!(
            "a UKI is signed: give --sb-key, --sb-cert and --pcr-key (make them with `kairos-init keys generate`), or --unsigned"
        );
    }
    let jobs = super::jobs(global);
    let text = |value: &Option<String>| value.as_deref().map(super::text_or_file).transpose();
    let ship = args.ship;
    let request = BuildRequest {
        select: super::select_request(&args.select)?,
        output,
        destination: Destination::Output,
        keys,
        policies: super::policies(&args.policies, None)?,
        hash: args.keys.sb_hash,
        entries: super::profile_specs(&args.profile)?.into_iter().map(BootEntry::Titled).collect(),
        cmdline: text(&args.cmdline)?,
        extend_cmdline: text(&args.extend_cmdline)?.map(|text| collapse_white_space(&text)),
        stub: args.stub,
        init: args.init,
        splash: ship.splash,
        overlays: ship.overlay_rootfs,
        ship: ShipRequest {
            artifacts: ship.artifact.into_iter().map(Artifact::from).collect(),
            name: ship.name,
            loader: ship.loader,
            needs_loader: false,
            branding: ship.boot_branding,
            layout: ship.cmdline_layout.into(),
            single: Vec::new(),
            include_version: ship.include_version_in_config,
            include_cmdline: ship.include_cmdline_in_config,
            enroll: ship.secure_boot_enroll.into(),
            enrolment_keys: ship.public_keys,
            iso: super::image::iso_contents(&ship.iso),
            disk: super::image::disk_shape(&ship.disk),
            limits: Limits { uki: ship.max_uki_size, boot_ram: ship.max_boot_ram },
        },
        compression: super::compression(&args.compression, jobs)?,
        jobs,
        source_date_epoch: super::epoch(args.source_date_epoch)?,
    };
    build(&request, global)
}

/// Does it, and says what was made.
pub(super) fn build(request: &BuildRequest, global: &GlobalArgs) -> Result<()> {
    let cancel = super::cancel_on_signal()?;
    let reporter = Reporter::new(global);
    let outcome = pipeline::run(request, &reporter, &cancel);
    reporter.finish();
    let outcome = outcome?;
    if global.json {
        return render::print_json(&outcome.report);
    }
    render::warn(&outcome.report.warnings);
    let mut text = render::summary(&outcome.report);
    for file in &outcome.files {
        text += &format!("wrote     {}\n", file.display());
    }
    render::print(&text)
}
