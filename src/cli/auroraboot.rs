//! `build-uki` and `genkey`, as AuroraBoot has them.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use kairos_init::boot::sign::Hash;
use kairos_init::image::{Files, Node, TREE, check_replaceable};
use kairos_init::pipeline::{
    self, Artifact, BootEntry, BuildRequest, IsoContents, KeyFiles, PolicyRequest, SelectRequest, ShipRequest,
};

use super::args::{BuildUki, BuildUkiArgs, GenkeyArgs, GlobalArgs, KeysGenerateArgs};
use super::render::{self, Reporter};

/// The whole run on a folder, without slimming, as upstream does it: `--output-dir` gets the tree itself, or the ISO.
pub(super) fn build_uki(args: BuildUkiArgs, global: &GlobalArgs) -> Result<()> {
    let wanted = args.resolve()?;
    let jobs = super::jobs(global);
    let made = tempfile::Builder::new().prefix(".kairos-init-").tempdir_in(existing_parent(&wanted.output_dir));
    let folder = made.with_context(|| format!("cannot write {}", wanted.output_dir.display()))?;
    let artifacts = if wanted.iso { [Artifact::Uki, Artifact::Iso] } else { [Artifact::Uki, Artifact::Uki] };
    let request = BuildRequest {
        select: SelectRequest::whole(wanted.root.clone()),
        output: folder.path().to_owned(),
        keys: KeyFiles {
            secure_boot: vec![(Some(wanted.sb_key.clone()), wanted.sb_cert.clone())],
            pcr: vec![wanted.pcr_key.clone()],
            pcr_public: Vec::new(),
            signer: None,
            passphrase: None,
        },
        policies: PolicyRequest::default(),
        hash: Hash::Sha256,
        entries: wanted.extra.iter().map(|extra| BootEntry::Untitled(extra.arguments.clone())).collect(),
        cmdline: None,
        extend_cmdline: wanted.extend.clone(),
        stub: None,
        init: None,
        splash: wanted.splash.clone(),
        overlays: wanted.overlay_rootfs.iter().cloned().collect(),
        ship: ShipRequest {
            artifacts: BTreeSet::from(artifacts),
            name: wanted.name.clone(),
            branding: wanted.branding.clone(),
            layout: wanted.layout,
            single: wanted.single.clone(),
            include_version: wanted.include_version,
            include_cmdline: wanted.include_cmdline,
            enroll: wanted.enroll,
            enrolment_keys: wanted.public_keys.clone(),
            iso: IsoContents { overlays: wanted.overlay_iso.iter().cloned().collect(), ..IsoContents::default() },
            ..ShipRequest::default()
        },
        compression: super::compression("zstd:12", jobs)?,
        jobs,
        source_date_epoch: wanted.source_date_epoch,
    };
    let cancel = super::cancel_on_signal()?;
    let reporter = Reporter::new(global);
    let outcome = pipeline::run(&request, &reporter, &cancel);
    reporter.finish();
    let outcome = outcome?;
    let mut warnings = outcome.report.warnings.clone();
    if let Some(uki) = outcome.report.uki.as_ref().filter(|uki| uki.bytes > wanted.size_warning) {
        warnings.push(format!(
            "the UKI has {} bytes, more than --efi-size-warn allows ({})",
            uki.bytes, wanted.size_warning
        ));
    }
    render::warn(&warnings);
    let programs = folder.path().join(TREE).join("EFI/BOOT");
    if fs::read_dir(&programs).map_or(0, Iterator::count) == 0 {
        bail!(
            "{} has no systemd-boot: install systemd-boot-efi (Debian, Ubuntu) or systemd-boot-unsigned (Fedora) in it; AuroraBoot brings one of its \
             own, and this program takes the root's",
            wanted.root.display()
        );
    }
    let placed = place(folder.path(), &wanted)?;
    if global.json {
        return render::print_json(&outcome.report);
    }
    let mut text = render::summary(&outcome.report);
    for path in placed {
        text += &format!("wrote     {}\n", path.display());
    }
    render::print(&text)
}

/// The nearest folder that is there: what is made in it can be renamed to where it belongs.
fn existing_parent(path: &Path) -> PathBuf {
    let found = path.ancestors().find(|path| path.is_dir());
    found.filter(|path| !path.as_os_str().is_empty()).unwrap_or(Path::new(".")).to_owned()
}

/// Upstream's output: the files of the tree in the folder itself, or the ISO alone.
fn place(made: &Path, wanted: &BuildUki) -> Result<Vec<PathBuf>> {
    let out = &wanted.output_dir;
    fs::create_dir_all(out).with_context(|| format!("cannot create the folder {}", out.display()))?;
    let mut placed = Vec::new();
    if wanted.iso {
        for entry in fs::read_dir(made).with_context(|| format!("cannot read {}", made.display()))? {
            let path = entry.with_context(|| format!("cannot read {}", made.display()))?.path();
            if path.extension().is_some_and(|ending| ending == "iso") {
                let target = out.join(path.file_name().unwrap_or_default());
                check_replaceable(&target)?;
                fs::rename(&path, &target).with_context(|| format!("cannot write {}", target.display()))?;
                placed.push(target);
            }
        }
        if placed.is_empty() {
            bail!("no ISO was made in {}", made.display());
        }
        return Ok(placed);
    }
    let tree = made.join(TREE);
    let files = Files::scan(&tree)?;
    // All of them first: what is in the way of one is in the way of all.
    for (path, node) in files.iter() {
        if !matches!(node, Node::Directory) {
            check_replaceable(&out.join(path.as_path()))?;
        }
    }
    for (path, node) in files.iter() {
        let target = out.join(path.as_path());
        let cannot = || format!("cannot write {}", target.display());
        match node {
            Node::Directory => fs::create_dir_all(&target).with_context(cannot)?,
            Node::File { .. } | Node::Symlink(_) => {
                fs::rename(tree.join(path.as_path()), &target).with_context(cannot)?;
                placed.push(target);
            }
        }
    }
    Ok(placed)
}

/// `keys generate` with upstream's subjects (`NAME-PK`), a year and one size. Two of its habits are left out: `KEK.der` and `db.der`
/// are one certificate each, also with --custom-cert-dir (its files are in `.esl` and `.auth`), and the certificates' owners are derived
/// from them, not random.
pub(super) fn genkey(args: GenkeyArgs, global: &GlobalArgs) -> Result<()> {
    // As upstream, which makes all folders on the way; the last one is made with the keys.
    if let Some(parent) = args.output.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        fs::create_dir_all(parent).with_context(|| format!("cannot create the folder {}", parent.display()))?;
    }
    let generate = KeysGenerateArgs {
        output: args.output,
        name: args.name,
        organization: None,
        country: None,
        expiration_in_days: args.expiration_in_days,
        bits: "2048".to_owned(),
        custom_db_cert: Vec::new(),
        custom_kek_cert: Vec::new(),
        custom_cert_dir: args.custom_cert_dir,
        owner: None,
        without_microsoft: args.skip_microsoft,
        source_date_epoch: None,
    };
    super::keys::generate(&generate, "-", global)
}
