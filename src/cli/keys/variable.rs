//! `keys variable`: signature lists, and the signed update that replaces a variable of a machine.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result, bail};
use kairos_init::boot::sign::certificate::load_certificate;
use kairos_init::boot::sign::enrolment::load_entries;
use kairos_init::boot::sign::keys::load_key_with;
use kairos_init::boot::sign::variables::{Variable, sign_variable};
use kairos_init::boot::sign::{Identity, SignatureEntry, SignatureList, microsoft};
use kairos_init::image::mode_set;

use super::super::args::{GlobalArgs, KeysVariableArgs, VariableArg};
use super::render;

pub(super) fn run(args: &KeysVariableArgs, global: &GlobalArgs) -> Result<()> {
    let variable = match args.variable {
        VariableArg::Pk => Variable::Pk,
        VariableArg::Kek => Variable::Kek,
        VariableArg::Db => Variable::Db,
        VariableArg::Dbx => Variable::Dbx,
    };
    let mut entries: Vec<SignatureEntry> = Vec::new();
    for file in &args.entries {
        entries.extend(load_entries(file, args.owner)?);
    }
    if args.microsoft_certificates {
        if !matches!(variable, Variable::Kek | Variable::Db) {
            bail!("--microsoft-certificates is for KEK and db, not for {}", variable.name());
        }
        entries.extend(microsoft::entries(variable));
    }
    let mut unique: Vec<SignatureEntry> = Vec::new();
    for entry in entries {
        if !unique.iter().any(|known| known.signature == entry.signature) {
            unique.push(entry);
        }
    }
    if matches!(variable, Variable::Pk | Variable::Kek) {
        super::check_certificates(&unique)?;
    }
    if variable == Variable::Pk && unique.len() > 1 {
        bail!("a machine has one platform key, and {} certificates are named for PK", unique.len());
    }
    let list = SignatureList::encode(&unique)?;
    let bytes = match (&args.key, &args.cert) {
        (Some(key), Some(certificate)) => {
            let passphrase = crate::cli::passphrase(&args.passphrase)?;
            let file = load_key_with(key, passphrase.as_ref())?;
            if file.world_readable {
                render::warn(&[format!(
                    "every user of this machine can read the private key {0}: chmod 600 {0}",
                    key.display()
                )]);
            }
            let identity = Identity::new(Box::new(file.signer), load_certificate(certificate)?)?;
            let time = super::super::epoch(args.source_date_epoch)?.map_or_else(super::now, Ok)?;
            sign_variable(variable, &list, time, &identity)?
        }
        _ => list,
    };
    write(&args.output, &bytes)?;
    match global.json {
        true => render::print_json(&serde_json::json!({ "files": [args.output], "entries": unique.len() })),
        false => render::print(&format!("wrote     {} ({} entries)\n", args.output.display(), unique.len())),
    }
}

/// A new file, whole or not at all.
fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let cannot = || format!("cannot write {}", path.display());
    let mut file = super::super::beside(path)?;
    file.write_all(bytes).with_context(cannot)?;
    mode_set(file.as_file().set_permissions(PermissionsExt::from_mode(0o644))).with_context(cannot)?;
    file.persist_noclobber(path).map_err(|error| error.error).with_context(cannot)?;
    Ok(())
}
