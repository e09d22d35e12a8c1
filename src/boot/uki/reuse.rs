//! A UKI made of another one: its stub, and its initrd with digests that were taken when it was built.
//!
//! Hashing an initrd in four banks takes many times as long as copying it. The digests of a former build are believed where the
//! former image proves them: a policy in its `.pcrsig` that its key signed is for the value of PCR 11 which they give. That the
//! initrd is still the one that was hashed is checked by its SHA-256, which is always taken anew.

use std::collections::BTreeMap;
use std::io::{Read, Seek};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};

use super::UkiError;
use super::attach::content;
use super::inspect::replay_but;
use crate::boot::measure::SectionDigests;
use crate::boot::pcr::{Bank, PhasePath};
use crate::boot::section::SectionName;
use crate::boot::sign::certificate::parse_public_key;
use crate::boot::sign::command::verify;
use crate::boot::sign::policy::{self, Pcrsig, SignedPolicy};
use crate::boot::sign::{Hash, PublicKey};

/// Bytes that a `.pcrsig` or `.pcrpkey` may have.
const LIMIT: u64 = 16 << 20;

/// The digests among `recorded` that the image proves; SHA-256 is always among them if it was recorded, for it is taken again.
///
/// # Errors
/// No UKI; one that cannot be read to the end.
pub fn proven(
    file: &mut (impl Read + Seek),
    what: &str,
    recorded: &BTreeMap<Bank, Vec<u8>>,
) -> Result<BTreeMap<Bank, Vec<u8>>, UkiError> {
    let mut out: BTreeMap<_, _> = recorded.iter().filter(|(bank, _)| **bank == Bank::Sha256).collect();
    let list = content(file, what, SectionName::Pcrsig.as_str(), LIMIT)?;
    let list: Pcrsig = list.and_then(|list| serde_json::from_slice(&list).ok()).unwrap_or_default();
    let key = content(file, what, SectionName::Pcrpkey.as_str(), LIMIT)?;
    let Some(key) = key.and_then(|pem| parse_public_key(&pem, what).ok()) else {
        return Ok(out.into_iter().map(|(bank, digest)| (*bank, digest.clone())).collect());
    };
    for (bank, digest) in recorded.iter().filter(|(bank, digest)| digest.len() == bank.width()) {
        let mut sections = SectionDigests::with_known(*bank, SectionName::Initrd, digest.clone());
        replay_but(file, what, Some(SectionName::Initrd), &mut sections)?;
        let policies = list.get(bank.as_str()).map(Vec::as_slice).unwrap_or_default();
        // The first .pcrsig is that of the default profile.
        let values = sections.variants(0).into_iter().flat_map(|variant| {
            let paths = PhasePath::signed_by_default();
            paths.into_iter().map(|path| sections.pcr11(variant, &path)).collect::<Vec<_>>()
        });
        let policies_of = values.filter_map(|value| policy::policy_digest(*bank, &value).ok());
        let is_signed = |digest: [u8; 32]| policies.iter().any(|policy| holds(policy, &digest, &key));
        if policies_of.into_iter().any(is_signed) {
            out.insert(bank, digest);
        }
    }
    Ok(out.into_iter().map(|(bank, digest)| (*bank, digest.clone())).collect())
}

/// Whether an entry of `.pcrsig` is the key's word for this policy.
fn holds(policy: &SignedPolicy, digest: &[u8; 32], key: &PublicKey) -> bool {
    let signature = policy.sig.as_deref().and_then(|signature| STANDARD.decode(signature).ok());
    let message = policy::to_be_signed(digest, policy.reference.as_deref());
    policy.pol == hex::encode(digest)
        && signature.is_some_and(|signature| verify(key, Hash::Sha256, &Sha256::digest(message), &signature).is_ok())
}
