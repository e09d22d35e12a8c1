//! `build-uki` and `genkey`, as AuroraBoot has them.

use std::fs;

use anyhow::{Context, Result, bail};

use super::args::{BuildUkiArgs, GenkeyArgs, GlobalArgs, KeysGenerateArgs};

/// Checks the flags. The run itself is not wired to them yet, and says so.
pub(super) fn build_uki(args: BuildUkiArgs) -> Result<()> {
    let wanted = args.resolve()?;
    bail!(
        "build-uki reads its flags and cannot make an image yet; use the run itself: kairos-init --root {} --stage build --target uki",
        wanted.root.display()
    )
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
