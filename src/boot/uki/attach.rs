//! `.pcrsig` with signatures that were made elsewhere: filled into the room that building left for them.

use std::io::{Read, Seek, SeekFrom, Write};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};

use super::UkiError;
use super::pe::PeHeaders;
use crate::boot::sign::command::verify;
use crate::boot::sign::policy::{self, Pcrsig, SignedPolicy};
use crate::boot::sign::{Hash, PublicKey};

/// Bytes that a `.pcrsig` may have: of 100 profiles with 100 policies each it has less.
const MAX_PCRSIG: u64 = 16 << 20;

/// What was attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Attached {
    /// Policies in the image.
    pub policies: usize,
    /// Those of them that got a signature now.
    pub signed: usize,
    /// Those of them that still have none.
    pub missing: usize,
}

/// Fills the signatures of `given` into every `.pcrsig` of the image, where a policy of the same bank, key and digest waits for
/// one. Each is verified with that of `keys` which its policy names. The file is changed only where everything fits.
///
/// # Errors
/// No `.pcrsig`; a policy without a signature, a wrong signature, a key that is not among `keys`; a list that does not fit the room.
pub fn attach(
    file: &mut (impl Read + Write + Seek),
    what: &str,
    given: &Pcrsig,
    keys: &[PublicKey],
) -> Result<Attached, UkiError> {
    let bad = |problem: String| UkiError::Pcrsig { what: what.to_owned(), problem };
    let pe = PeHeaders::read(file, what)?;
    let sections: Vec<_> = pe.sections.iter().filter(|section| section.name() == ".pcrsig").collect();
    if sections.is_empty() {
        return Err(bad("it has no .pcrsig section: build it with --pcr-public-key, which leaves room".to_owned()));
    }
    let (mut writes, mut attached) = (Vec::new(), Attached::default());
    for section in sections {
        let size = u64::from(section.content_size());
        if size > MAX_PCRSIG {
            return Err(bad(format!("its .pcrsig has {size} bytes")));
        }
        let mut bytes = Vec::new();
        file.seek(SeekFrom::Start(section.raw_offset.into()))?;
        Read::by_ref(file).take(size).read_to_end(&mut bytes)?;
        let mut list: Pcrsig = serde_json::from_slice(&bytes)
            .map_err(|error| bad(format!("its .pcrsig is not what it should be: {error}")))?;
        for (bank, policies) in &mut list {
            let offered = given.get(bank).map(Vec::as_slice).unwrap_or_default();
            for policy in policies {
                attached.policies += 1;
                let same = |other: &&SignedPolicy| {
                    (&other.pkfp, &other.pol, &other.reference) == (&policy.pkfp, &policy.pol, &policy.reference)
                };
                if let Some(signature) = offered.iter().find(same).and_then(|other| other.sig.clone()) {
                    check(policy, &signature, keys).map_err(|problem| bad(format!("{bank}: {problem}")))?;
                    policy.sig = Some(signature);
                    attached.signed += 1;
                }
                let bytes = policy.sig.as_deref().and_then(|signature| STANDARD.decode(signature).ok());
                attached.missing += usize::from(bytes.is_none_or(|bytes| bytes.iter().all(|byte| *byte == 0)));
            }
        }
        let json = policy::pcrsig_json(&list).map_err(|error| bad(error.to_string()))?;
        if json.len() as u64 != size {
            return Err(bad(format!("the signatures need {} bytes and its .pcrsig has {size}", json.len())));
        }
        writes.push((u64::from(section.raw_offset), json));
    }
    if attached.signed == 0 {
        return Err(bad(
            "none of the signatures is for one of its policies: they are for another image, key or bank".to_owned()
        ));
    }
    for (offset, json) in writes {
        file.seek(SeekFrom::Start(offset))?;
        file.write_all(json.as_bytes())?;
    }
    file.flush()?;
    Ok(attached)
}

/// Whether a signature is right.
fn check(policy: &SignedPolicy, signature: &str, keys: &[PublicKey]) -> Result<(), String> {
    let named = |key: &&PublicKey| hex::encode(key.fingerprint()) == policy.pkfp;
    let key = keys.iter().find(named).ok_or_else(|| {
        format!(
            "the signature of policy {} is by key {}, which is not given: name it with --pcr-public-key",
            policy.pol, policy.pkfp
        )
    })?;
    let digest: [u8; 32] = hex::decode(&policy.pol)
        .ok()
        .and_then(|digest| digest.try_into().ok())
        .ok_or_else(|| format!("the policy {:?} is no SHA-256 digest", policy.pol))?;
    let message = policy::to_be_signed(&digest, policy.reference.as_deref());
    let signature = STANDARD.decode(signature).map_err(|error| format!("a signature is not base64: {error}"))?;
    verify(key, Hash::Sha256, &Sha256::digest(message), &signature)
        .map_err(|problem| format!("the signature of policy {} {problem}", policy.pol))
}

/// The content of the first section of this name, if the file has one of at most `limit` bytes.
///
/// # Errors
/// No PE file, or one that cannot be read.
pub fn content(file: &mut (impl Read + Seek), what: &str, name: &str, limit: u64) -> Result<Option<Vec<u8>>, UkiError> {
    let pe = PeHeaders::read(file, what)?;
    let Some(section) = pe.section(name).filter(|section| u64::from(section.content_size()) <= limit) else {
        return Ok(None);
    };
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(section.raw_offset.into()))?;
    file.by_ref().take(u64::from(section.content_size())).read_to_end(&mut bytes)?;
    Ok(Some(bytes))
}
