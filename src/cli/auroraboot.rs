//! `build-uki` and `genkey`, as AuroraBoot has them.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, anyhow};
use kairos_init::boot::sign::Hash;
use kairos_init::image::{Files, Node, check_file, check_folder, create_folders, nearest};
use kairos_init::names::TreePath;
use kairos_init::pipeline::{
    self, Artifact, BootEntry, BuildRequest, Destination, IsoContents, KeyFiles, PolicyRequest, SelectRequest,
    ShipRequest,
};

use super::args::{BuildUkiArgs, GenkeyArgs, GlobalArgs, KeysGenerateArgs};
use super::render::{self, Reporter};

/// What messages of the whole run advise, and what that is here: one text before another that it begins with.
const WORDS: [(&str, &str); 8] = [
    ("--cmdline-layout profiles", "--cmd-lines-v2"),
    ("--cmdline-layout entries", "no --cmd-lines-v2"),
    ("--output", "--output-dir"),
    ("drop drivers (--hardware)", "drop drivers from the root (`kairos-init slim`)"),
    (", or choose another with --kernel", ""),
    (", or name a program with --init", ""),
    (
        "give its passphrase with --key-passphrase file:PATH, fd:NUMBER or env:NAME",
        "decrypt it, or use the whole run, which takes a passphrase",
    ),
    (", or make it anew (--artifact)", ""),
];

fn in_upstreams_words(text: &str) -> String {
    WORDS.iter().fold(text.to_owned(), |text, (from, to)| {
        let mut parts = text.split(from);
        let mut out = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            // `--output` is not the beginning of `--output-dir`.
            let goes_on = part.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '-');
            out.push_str(if goes_on { from } else { to });
            out.push_str(part);
        }
        out
    })
}

/// The whole run on a folder, without slimming, as upstream does it: `--output-dir` gets the tree itself, or the ISO.
pub(super) fn build_uki(args: BuildUkiArgs, global: &GlobalArgs) -> Result<()> {
    build(args, global).map_err(|error| anyhow!(in_upstreams_words(&render::one_line(&error))))
}

fn build(args: BuildUkiArgs, global: &GlobalArgs) -> Result<()> {
    let wanted = args.resolve()?;
    let jobs = super::jobs(global);
    // Where it is on the same file system: what is made can be renamed to where it belongs.
    let made = tempfile::Builder::new().prefix(".kairos-init-").tempdir_in(nearest(&wanted.output_dir));
    let folder = made.with_context(|| format!("cannot write {}", wanted.output_dir.display()))?;
    let (artifact, destination) = match wanted.iso {
        true => (Artifact::Iso, Destination::Iso(wanted.output_dir.clone())),
        false => (Artifact::Uki, Destination::Tree(wanted.output_dir.clone())),
    };
    let request = BuildRequest {
        select: SelectRequest::whole(wanted.root.clone()),
        output: folder.path().to_owned(),
        destination,
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
        stub: wanted.stub.clone(),
        init: None,
        splash: wanted.splash.clone(),
        overlays: wanted.overlay_rootfs.iter().cloned().collect(),
        ship: ShipRequest {
            artifacts: BTreeSet::from([artifact]),
            name: wanted.name.clone(),
            loader: wanted.loader.clone(),
            needs_loader: true,
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
        source_date_epoch: super::epoch(wanted.source_date_epoch)?,
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
    let warnings: Vec<_> = warnings.iter().map(|warning| in_upstreams_words(warning)).collect();
    render::warn(&warnings);
    let placed = place(&request)?;
    if global.json {
        return render::print_json(&outcome.report);
    }
    let mut text = render::summary(&outcome.report);
    for path in placed {
        text += &format!("wrote     {}\n", path.display());
    }
    render::print(&text)
}

/// Moves what was made to where upstream has it. All of it was looked at before the work, and is once more: what is in the
/// way of one is in the way of all.
fn place(request: &BuildRequest) -> Result<Vec<PathBuf>> {
    let BuildRequest { output, destination, .. } = request;
    let folder = destination.folder(output);
    let made = Files::scan(output)?;
    let of = |path: &TreePath| Some(PathBuf::from(destination.name(path.as_path().to_str()?)?));
    let moves: Vec<_> =
        made.iter().filter_map(|(path, node)| Some((output.join(path.as_path()), of(path)?, node))).collect();
    for (_, name, node) in &moves {
        match node {
            Node::Directory => check_folder(folder, name)?,
            Node::File { .. } | Node::Symlink(_) => check_file(folder, name)?,
        }
    }
    create_folders(folder).with_context(|| format!("cannot create the folder {}", folder.display()))?;
    let mut placed = Vec::new();
    for (path, name, node) in moves {
        let target = folder.join(name);
        let cannot = || format!("cannot write {}", target.display());
        match node {
            Node::Directory => create_folders(&target).with_context(cannot)?,
            Node::File { .. } | Node::Symlink(_) => {
                fs::rename(path, &target).with_context(cannot)?;
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

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use clap::{Args, Command};

    use super::super::args::BuildUkiArgs;
    use super::{WORDS, in_upstreams_words};

    /// All of the library's sources, with lines that go on joined.
    fn sources() -> String {
        let mut pending = vec![PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src")];
        let mut text = String::new();
        while let Some(path) = pending.pop() {
            match path.is_dir() {
                true if path.ends_with("cli") => {}
                true => pending.extend(std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path())),
                false if path.extension().is_some_and(|ending| ending == "rs") => {
                    text += &std::fs::read_to_string(path).unwrap();
                }
                false => {}
            }
        }
        let mut lines = text.split("\\\n");
        lines.next().into_iter().chain(lines.map(str::trim_start)).collect()
    }

    #[test]
    fn messages_advise_what_build_uki_has() {
        let sources = sources();
        let command = BuildUkiArgs::augment_args(Command::new("build-uki"));
        for (from, to) in WORDS {
            assert!(sources.contains(from), "no message says {from:?}");
            let option = to.split(' ').find_map(|word| word.strip_prefix("--"));
            let has = |name: &str| command.get_arguments().any(|option| option.get_long() == Some(name));
            assert!(option.is_none_or(has), "{to}");
        }
        for (text, wanted) in [
            ("choose another --output", "choose another --output-dir"),
            ("--output, --output-dir", "--output-dir, --output-dir"),
            ("--cmdline-layout entries or --output", "no --cmd-lines-v2 or --output-dir"),
            ("/x--output", "/x--output-dir"),
            ("nothing", "nothing"),
            ("", ""),
        ] {
            assert_eq!(in_upstreams_words(text), wanted);
        }
    }
}
