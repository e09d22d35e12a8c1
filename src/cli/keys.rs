//! `keys generate` and `keys show`.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use kairos_init::boot::sign::generate::{CertificateRequest, KeySize};
use kairos_init::boot::sign::keyset::KeySet;
use kairos_init::boot::sign::{CertificateChain, PublicKey, RsaSigner, Signer};
use rand_core::OsRng;
use sha2::{Digest, Sha256};

use super::args::{GlobalArgs, KeysCommand, KeysGenerateArgs};
use super::render::{self, Reporter};
use kairos_init::pipeline::Progress;

const MAX_KEY: u64 = 1 << 20;

pub(super) fn run(command: KeysCommand, global: &GlobalArgs) -> Result<()> {
    match command {
        KeysCommand::Generate(args) => generate(&args, global),
        KeysCommand::Show { file } => show(&file, global),
    }
}

fn generate(args: &KeysGenerateArgs, global: &GlobalArgs) -> Result<()> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).context("the clock is before 1970")?.as_secs();
    let request = CertificateRequest {
        common_name: args.name.clone(),
        size: KeySize::from_bits(args.bits.parse().context("--bits")?)?,
        not_before: now,
        days: args.expiration_in_days,
    };
    let cancel = super::cancel_on_signal()?;
    let reporter = Reporter::new(global);
    reporter.step("making keys");
    let keys = KeySet::generate(&request, &mut OsRng, &cancel);
    reporter.finish();
    let files = keys?.write(&args.output)?;
    if global.json {
        return render::print_json(&serde_json::json!({ "files": files }));
    }
    let list: String = files.iter().map(|file| format!("wrote     {}\n", file.display())).collect();
    render::print(&list)
}

fn show(path: &Path, global: &GlobalArgs) -> Result<()> {
    let bytes = zeroize::Zeroizing::new(super::read(path, MAX_KEY)?);
    let name = path.display().to_string();
    let mut rows = Vec::new();
    match CertificateChain::parse(&bytes, &name) {
        Ok(chain) => {
            let certificate = &chain.signer().tbs_certificate;
            rows.push(("kind", "certificate".to_owned()));
            rows.push(("subject", certificate.subject.to_string()));
            rows.push(("issuer", certificate.issuer.to_string()));
            rows.push(("not_before", certificate.validity.not_before.to_string()));
            rows.push(("not_after", certificate.validity.not_after.to_string()));
            if let Some(der) = chain.ders().next() {
                rows.push(("sha256", hex::encode(Sha256::digest(der))));
            }
            public_key(chain.public_key(), &mut rows);
        }
        Err(no_certificate) => match RsaSigner::parse(&bytes, &name) {
            Ok(key) => {
                rows.push(("kind", "private key".to_owned()));
                public_key(key.public_key(), &mut rows);
            }
            Err(no_key) => {
                // Both say why; the one for a key is the better guess where the file calls itself one.
                let is_key = bytes.windows(11).any(|window| window == b"PRIVATE KEY");
                return Err(if is_key { no_key } else { no_certificate }.into());
            }
        },
    }
    if global.json {
        let map: serde_json::Map<String, serde_json::Value> =
            rows.into_iter().map(|(key, value)| (key.to_owned(), value.into())).collect();
        return render::print_json(&map);
    }
    render::print(&rows.iter().map(|(key, value)| format!("{key:<11} {value}\n")).collect::<String>())
}

fn public_key(key: &PublicKey, rows: &mut Vec<(&'static str, String)>) {
    rows.push(("bits", key.bits().to_string()));
    // What `.pcrsig` calls pkfp.
    rows.push(("pkfp", hex::encode(key.fingerprint())));
}
