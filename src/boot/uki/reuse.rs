//! A UKI made of another one: its stub, and its initrd with digests that were taken when it was built.
//!
//! Hashing an initrd in four banks takes many times as long as copying it. The digests of a former build are believed where the
//! former image proves them: a policy in its `.pcrsig` that a key of this build signed is for the value of PCR 11 which they give. That the
//! initrd is still the one that was hashed is checked by its SHA-256, which is always taken anew.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};

use super::UkiError;
use super::assemble::Payload;
use super::attach::content;
use super::inspect::replay_but;
use super::pe::PeHeaders;
use crate::boot::measure::SectionDigests;
use crate::boot::pass::Fanout;
use crate::boot::pcr::{Bank, PhasePath};
use crate::boot::section::SectionName;
use crate::boot::sign::command::verify;
use crate::boot::sign::policy::{self, Pcrsig, SignedPolicy};
use crate::boot::sign::{Hash, PublicKey};

/// Bytes that a `.pcrsig` may have.
const LIMIT: u64 = 16 << 20;

/// A section of a UKI as the content of another one; nothing where it has none of this name.
///
/// # Errors
/// No UKI; one that cannot be read.
pub fn payload(mut file: File, what: &str, name: SectionName) -> Result<Option<Payload<'static>>, UkiError> {
    let pe = PeHeaders::read(&mut file, what)?;
    let Some(section) = pe.section(name.as_str()) else { return Ok(None) };
    let length = u64::from(section.content_size());
    file.seek(SeekFrom::Start(section.raw_offset.into()))?;
    Ok(Some(Payload::Reader { length, reader: Box::new(file.take(length)) }))
}

/// The digests among `recorded` that policies in the image prove which one of `keys` signed: keys of the one who builds now, not those
/// that the image names. Nothing without a proven SHA-256, by which the initrd itself is checked.
///
/// # Errors
/// No UKI; one that cannot be read to the end.
pub fn proven(
    file: &mut (impl Read + Seek),
    what: &str,
    recorded: &BTreeMap<Bank, Vec<u8>>,
    keys: &[PublicKey],
    jobs: usize,
) -> Result<BTreeMap<Bank, Vec<u8>>, UkiError> {
    let mut out = BTreeMap::new();
    let list = content(file, what, SectionName::Pcrsig.as_str(), LIMIT)?;
    let list: Pcrsig = list.and_then(|list| serde_json::from_slice(&list).ok()).unwrap_or_default();
    let recorded: Vec<_> = recorded.iter().filter(|(bank, digest)| digest.len() == bank.width()).collect();
    let known =
        |(bank, digest): &(&Bank, &Vec<u8>)| SectionDigests::with_known(**bank, SectionName::Initrd, (*digest).clone());
    let mut banks = Fanout::new(recorded.iter().map(known).collect(), jobs);
    replay_but(file, what, Some(SectionName::Initrd), &mut banks)?;
    for ((bank, digest), sections) in recorded.into_iter().zip(banks.finish()) {
        let policies = list.get(bank.as_str()).map(Vec::as_slice).unwrap_or_default();
        // The first .pcrsig is that of the default profile.
        let values = sections.variants(0).into_iter().flat_map(|variant| {
            let paths = PhasePath::signed_by_default();
            paths.into_iter().map(|path| sections.pcr11(variant, &path)).collect::<Vec<_>>()
        });
        let policies_of = values.filter_map(|value| policy::policy_digest(*bank, &value).ok());
        let is_signed =
            |digest: [u8; 32]| policies.iter().any(|policy| keys.iter().any(|key| holds(policy, &digest, key)));
        if policies_of.into_iter().any(is_signed) {
            out.insert(*bank, digest.clone());
        }
    }
    // SHA-256 ties the others to the initrd that is there.
    if !out.contains_key(&Bank::Sha256) {
        out.clear();
    }
    Ok(out)
}

/// Whether an entry of `.pcrsig` is the key's word for this policy.
fn holds(policy: &SignedPolicy, digest: &[u8; 32], key: &PublicKey) -> bool {
    let signature = policy.sig.as_deref().and_then(|signature| STANDARD.decode(signature).ok());
    let message = policy::to_be_signed(digest, policy.reference.as_deref());
    policy.pol == hex::encode(digest)
        && policy.pkfp == hex::encode(key.fingerprint())
        && signature.is_some_and(|signature| verify(key, Hash::Sha256, &Sha256::digest(message), &signature).is_ok())
}
