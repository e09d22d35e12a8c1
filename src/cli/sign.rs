//! `uki sign`.

use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use kairos_init::boot::sign::authenticode::{Existing, Signature, Signing, digest_pe};
use kairos_init::boot::sign::certificate::{load_certificate, load_public_key};
use kairos_init::boot::sign::command::GivenSignature;
use kairos_init::boot::sign::policy::Pcrsig;
use kairos_init::boot::sign::{Identity, PublicKey, pkcs7};
use kairos_init::boot::uki::attach::attach;
use kairos_init::cancel::Cancel;
use kairos_init::image::{check_replaceable, mode_set};
use kairos_init::pipeline::{self, KeyFiles};
use tempfile::NamedTempFile;

use super::args::{GlobalArgs, UkiSignArgs};
use super::render;

/// A signature by RSA 4096 has 512 bytes.
const MAX_SIGNATURE: u64 = 4096;
/// A list of signatures larger than this is none.
const MAX_LIST: u64 = 64 << 20;

pub(super) fn run(args: &UkiSignArgs, global: &GlobalArgs) -> Result<()> {
    let signs = !args.keys.sb_cert.is_empty() || !args.keys.sb_key.is_empty();
    if !signs && !args.remove && args.attach_pcrsig.is_none() {
        bail!("nothing to do: give --sb-key and --sb-cert to sign, --remove, or --attach-pcrsig");
    }
    if !args.keys.pcr_key.is_empty() {
        bail!(
            "--pcr-key signs nothing here: policies are signed by `uki build`, or elsewhere and then given with --attach-pcrsig"
        );
    }
    let target = args.output.as_ref().unwrap_or(&args.file);
    check_replaceable(target)?;
    let cancel = super::cancel_on_signal()?;
    let mut copy = copy_of(&args.file, target)?;
    let mut lines = Vec::new();
    if let Some(list) = &args.attach_pcrsig {
        let attached = attach_list(args, list, &mut copy)?;
        lines.push(format!("attached  {} of {} PCR signatures", attached.signed, attached.policies));
        if attached.missing > 0 {
            render::warn(&[format!(
                "{} PCR policies are without a signature: where one of them is what is measured, no disk unlocks",
                attached.missing
            )]);
        }
    }
    let existing = match (args.append, args.remove) {
        (true, _) => Existing::Keep,
        (_, true) => Existing::Remove,
        _ => Existing::Refuse,
    };
    let identities = match (&args.digest_out, &args.signature_in) {
        (Some(out), _) => return write_digest(args, out, copy, existing, &cancel),
        (None, Some(signature)) => vec![given(args, signature)?],
        (None, None) => {
            // Public PCR keys are for what is attached.
            let files = KeyFiles { pcr_public: Vec::new(), ..super::key_files(&args.keys)? };
            let keys = pipeline::load_keys(&files)?;
            render::warn(&keys.warnings);
            keys.secure_boot
        }
    };
    let signings: Vec<Signing<'_>> =
        identities.iter().map(|identity| Signing { identity, hash: args.keys.sb_hash }).collect();
    let hashes = vec![args.keys.sb_hash];
    let name = args.file.display().to_string();
    let signature = digest_pe(copy.as_file_mut(), &name, &hashes, existing, &cancel)?
        .sign(&signings, super::epoch(args.source_date_epoch)?)?;
    write(&mut copy, &signature).with_context(|| format!("cannot write {}", target.display()))?;
    cancel.check()?;
    copy.persist(target).map_err(|error| error.error).with_context(|| format!("cannot write {}", target.display()))?;
    let digest = signature.digests.get(&args.keys.sb_hash).map(hex::encode).unwrap_or_default();
    if global.json {
        let hash = args.keys.sb_hash.as_str();
        return render::print_json(
            &serde_json::json!({ "file": target.display().to_string(), "bytes": signature.length, "digests": { hash: digest }, "signatures_added": signings.len() }),
        );
    }
    lines.push(format!("{:<9} {digest}", args.keys.sb_hash.as_str()));
    lines.push(format!(
        "wrote     {} ({} bytes, {} signatures added)",
        target.display(),
        signature.length,
        signings.len()
    ));
    render::print(&(lines.join("\n") + "\n"))
}

/// The file as it is, beside where it will be, with its mode.
fn copy_of(file: &PathBuf, target: &Path) -> Result<NamedTempFile> {
    let cannot = || format!("cannot write {}", target.display());
    let (mut source, mut copy) = (super::open(file)?, super::beside(target)?);
    std::io::copy(&mut source, copy.as_file_mut()).with_context(cannot)?;
    let mode = source.metadata().with_context(|| format!("cannot read {}", file.display()))?.permissions();
    mode_set(copy.as_file().set_permissions(mode)).with_context(cannot)?;
    Ok(copy)
}

fn write(copy: &mut NamedTempFile, signature: &Signature) -> std::io::Result<()> {
    let file = copy.as_file_mut();
    for (offset, bytes) in &signature.writes {
        file.seek(SeekFrom::Start(*offset))?;
        file.write_all(bytes)?;
    }
    file.set_len(signature.length)?;
    file.flush()
}

fn attach_list(
    args: &UkiSignArgs,
    list: &Path,
    copy: &mut NamedTempFile,
) -> Result<kairos_init::boot::uki::attach::Attached> {
    let bytes = super::read(list, MAX_LIST)?;
    let given: Pcrsig = serde_json::from_slice(&bytes)
        .with_context(|| format!("{} is not what `uki measure --policy-digest` prints", list.display()))?;
    let mut keys: Vec<PublicKey> =
        args.keys.pcr_public_key.iter().map(|path| load_public_key(path)).collect::<Result<_, _>>()?;
    keys.extend(super::uki::pcrpkey(copy.as_file_mut(), &args.file)?);
    Ok(attach(copy.as_file_mut(), &args.file.display().to_string(), &given, &keys)?)
}

/// A signature that was made elsewhere, with its certificate.
fn given(args: &UkiSignArgs, path: &Path) -> Result<Identity> {
    let [certificate] = args.keys.sb_cert.as_slice() else {
        bail!("--signature-in takes one --sb-cert: the certificate of the key that signed");
    };
    let chain = load_certificate(certificate)?;
    let signature = super::read(path, MAX_SIGNATURE)?;
    let signer = GivenSignature::new(&path.display().to_string(), chain.public_key().clone(), signature);
    Ok(Identity::new(Box::new(signer), chain)?)
}

/// `--digest-out`: the image is written as well where --output names another file, since the digest is that of what was attached.
fn write_digest(
    args: &UkiSignArgs,
    out: &Path,
    mut copy: NamedTempFile,
    existing: Existing,
    cancel: &Cancel,
) -> Result<()> {
    check_replaceable(out)?;
    let same =
        |path: &Path| path == out || matches!((path.canonicalize(), out.canonicalize()), (Ok(a), Ok(b)) if a == b);
    if same(&args.file) || args.output.as_deref().is_some_and(same) {
        bail!("{} is the image: name another file for the digest", out.display());
    }
    let hash = args.keys.sb_hash;
    let name = args.file.display().to_string();
    let unsigned = digest_pe(copy.as_file_mut(), &name, &[hash], existing, cancel)?.sign(&[], None)?;
    let digest = unsigned.digests.get(&hash).map(Vec::as_slice).unwrap_or_default();
    let wanted = pkcs7::to_be_signed(hash, digest, super::epoch(args.source_date_epoch)?)?;
    let cannot = || format!("cannot write {}", out.display());
    let mut file = super::beside(out)?;
    file.write_all(&wanted).with_context(cannot)?;
    file.persist(out).map_err(|error| error.error).with_context(cannot)?;
    let mut lines = format!("{:<9} {}\n", hash.as_str(), hex::encode(digest));
    if let Some(target) = &args.output {
        write(&mut copy, &unsigned).with_context(|| format!("cannot write {}", target.display()))?;
        copy.persist(target)
            .map_err(|error| error.error)
            .with_context(|| format!("cannot write {}", target.display()))?;
        lines += &format!("wrote     {}\n", target.display());
    }
    lines += &format!("wrote     {}: sign it as a digest, then give --signature-in\n", out.display());
    render::print(&lines)
}
