//! `keys generate` and `keys show`; `keys variable` in a file of its own.

mod variable;

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use kairos_init::boot::sign::enrolment::{EnrolmentRequest, load_entries};
use kairos_init::boot::sign::generate::{CertificateRequest, KeySize};
use kairos_init::boot::sign::keyset::KeySet;
use kairos_init::boot::sign::variables::SignedUpdate;
use kairos_init::boot::sign::{
    CertificateChain, Passphrase, PublicKey, RsaSigner, Signature, SignatureEntry, SignatureList, Signer, keys,
};
use rand_core::OsRng;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use super::args::{GlobalArgs, KeysCommand, KeysGenerateArgs};
use super::render::{self, Reporter};
use kairos_init::pipeline::Progress;

/// What is said where Microsoft's certificates are left out.
const WITHOUT_MICROSOFT: &str = "Microsoft's certificates are left out of db and KEK: cards whose option ROM Microsoft \
     signed (graphics, network, storage) do not start with these keys, and a machine may show no picture any more, not even \
     its setup; enrol them only where you know that no such card is needed";

pub(super) fn run(command: KeysCommand, global: &GlobalArgs) -> Result<()> {
    match command {
        KeysCommand::Generate(args) => generate(&args, " ", global),
        KeysCommand::Variable(args) => variable::run(&args, global),
        KeysCommand::Show { file, passphrase } => show(&file, super::passphrase(&passphrase)?.as_ref(), global),
    }
}

/// `joint` stands between the name and the key's role in the certificates.
pub(super) fn generate(args: &KeysGenerateArgs, joint: &str, global: &GlobalArgs) -> Result<()> {
    let now = now()?;
    let request = CertificateRequest {
        common_name: args.name.clone(),
        organization: args.organization.clone(),
        country: args.country.clone(),
        size: KeySize::from_bits(args.bits.parse().context("--bits")?)?,
        not_before: now,
        days: args.expiration_in_days,
    };
    // Before any key is made: a wrong file should not cost the time.
    let enrolment = enrolment_request(args, now)?;
    if args.without_microsoft {
        render::warn(&[WITHOUT_MICROSOFT.to_owned()]);
    }
    let cancel = super::cancel_on_signal()?;
    let reporter = Reporter::new(global);
    reporter.step("making keys");
    let keys = KeySet::generate_joined(&request, joint, &mut OsRng, &cancel);
    reporter.finish();
    let keys = keys?;
    let files = keys.write(&keys.enrolment(&enrolment)?, &args.output)?;
    if global.json {
        return render::print_json(&serde_json::json!({ "files": files }));
    }
    let list: String = files.iter().map(|file| format!("wrote     {}\n", file.display())).collect();
    render::print(&list)
}

/// Seconds since 1970.
fn now() -> Result<u64> {
    Ok(SystemTime::now().duration_since(UNIX_EPOCH).context("the clock is before 1970")?.as_secs())
}

fn enrolment_request(args: &KeysGenerateArgs, now: u64) -> Result<EnrolmentRequest> {
    let load = |option: &str, files: &[std::path::PathBuf], name: &str| -> Result<Vec<SignatureEntry>> {
        let mut entries = Vec::new();
        for file in files {
            entries.extend(load_entries(file, args.owner).context(format!("--{option}"))?);
        }
        if let Some(folder) = &args.custom_cert_dir {
            entries.extend(load_entries(&folder.join(name), args.owner).context("--custom-cert-dir")?);
        }
        Ok(entries)
    };
    let kek = load("custom-kek-cert", &args.custom_kek_cert, "KEK")?;
    check_certificates(&kek)?;
    Ok(EnrolmentRequest {
        owner: args.owner,
        without_microsoft: args.without_microsoft,
        kek,
        db: load("custom-db-cert", &args.custom_db_cert, "db")?,
        time: super::epoch(args.source_date_epoch)?.unwrap_or(now),
    })
}

/// PK and KEK take certificates only.
fn check_certificates(entries: &[SignatureEntry]) -> Result<()> {
    match entries.iter().all(|entry| matches!(entry.signature, Signature::X509(_))) {
        true => Ok(()),
        false => bail!("PK and KEK take certificates only, and what is named for them holds digests of images"),
    }
}

type Rows = Vec<(&'static str, String)>;

fn show(path: &Path, passphrase: Option<&Passphrase>, global: &GlobalArgs) -> Result<()> {
    let (bytes, _) = keys::read(path, "keys, certificates or signature lists")?;
    let name = path.display().to_string();
    let (rows, entries) = match lists(&bytes, &name)? {
        Some((rows, entries)) => (rows, entries),
        None => (key_or_certificate(&bytes, &name, passphrase)?, Vec::new()),
    };
    let entries: Vec<Rows> = entries.iter().map(entry).collect();
    if global.json {
        let map = |rows: Rows| rows.into_iter().map(|(key, value)| (key.to_owned(), value.into())).collect();
        let mut object: Map<String, Value> = map(rows);
        if !entries.is_empty() {
            object.insert("entries".to_owned(), entries.into_iter().map(|rows| Value::Object(map(rows))).collect());
        }
        return render::print_json(&object);
    }
    let text = |rows: &Rows| rows.iter().map(|(key, value)| format!("{key:<11} {value}\n")).collect::<String>();
    render::print(&std::iter::once(&rows).chain(&entries).map(text).collect::<Vec<_>>().join("\n"))
}

fn key_or_certificate(bytes: &[u8], name: &str, passphrase: Option<&Passphrase>) -> Result<Rows> {
    let mut rows = Vec::new();
    match CertificateChain::parse(bytes, name) {
        Ok(chain) => {
            rows.push(("kind", "certificate".to_owned()));
            certificate(chain.signer(), &mut rows);
            if let Some(der) = chain.ders().next() {
                rows.push(("sha256", hex::encode(Sha256::digest(der))));
            }
            public_key(chain.public_key(), &mut rows);
        }
        Err(no_certificate) => match RsaSigner::parse_with(bytes, name, passphrase) {
            Ok((key, encrypted)) => {
                rows.push(("kind", if encrypted { "encrypted private key" } else { "private key" }.to_owned()));
                public_key(key.public_key(), &mut rows);
            }
            Err(no_key) => {
                // Both say why; the one for a key is the better guess where the file calls itself one.
                let is_key = bytes.windows(11).any(|window| window == b"PRIVATE KEY");
                return Err(if is_key { no_key } else { no_certificate }.into());
            }
        },
    }
    Ok(rows)
}

/// A signed update or signature lists; nothing where the file is neither.
fn lists(bytes: &[u8], name: &str) -> Result<Option<(Rows, Vec<SignatureEntry>)>> {
    let mut rows = Vec::new();
    if SignedUpdate::is_one(bytes) {
        let update = SignedUpdate::parse(bytes, name)?;
        rows.push(("kind", "signed update".to_owned()));
        let (variable, append) = update.signed_for()?;
        rows.push(("variable", variable.name().to_owned()));
        rows.push(("effect", if append { "appends" } else { "replaces" }.to_owned()));
        rows.push(("signer", update.signer()));
        rows.push(("time", update.time()));
    } else if SignatureList::is_one(bytes) {
        rows.push(("kind", "signature lists".to_owned()));
    } else {
        return Ok(None);
    }
    Ok(Some((rows, SignatureList::parse(bytes, name)?)))
}

fn entry(entry: &SignatureEntry) -> Rows {
    let mut rows = Vec::new();
    let (kind, digest) = match &entry.signature {
        Signature::X509(der) => ("certificate".to_owned(), hex::encode(Sha256::digest(der))),
        Signature::Sha256(digest) => ("digest of an image".to_owned(), hex::encode(digest)),
        Signature::Other { kind, data } => (format!("signature of type {kind}"), hex::encode(Sha256::digest(data))),
        _ => ("signature".to_owned(), String::new()),
    };
    rows.push(("entry", kind));
    rows.push(("owner", entry.owner.to_string()));
    if let Signature::X509(der) = &entry.signature {
        match <x509_cert::Certificate as der::Decode>::from_der(der) {
            Ok(parsed) => certificate(&parsed, &mut rows),
            Err(error) => rows.push(("subject", format!("(not X.509: {error})"))),
        }
    }
    rows.push(("sha256", digest));
    rows
}

fn certificate(certificate: &x509_cert::Certificate, rows: &mut Rows) {
    let certificate = &certificate.tbs_certificate;
    rows.push(("subject", certificate.subject.to_string()));
    rows.push(("issuer", certificate.issuer.to_string()));
    rows.push(("not_before", certificate.validity.not_before.to_string()));
    rows.push(("not_after", certificate.validity.not_after.to_string()));
}

fn public_key(key: &PublicKey, rows: &mut Rows) {
    rows.push(("bits", key.bits().to_string()));
    // What `.pcrsig` calls pkfp.
    rows.push(("pkfp", hex::encode(key.fingerprint())));
}
