//! TPM2 policies over PCR 11, and the `.pcrsig` section that signs them.
//!
//! Sources: TPM 2.0 Part 3, `TPM2_PolicyPCR`; systemd's `src/shared/tpm2-util.c` (what verifies the signatures) and
//! `src/measure/measure-tool.c` (the JSON). Predicting the PCR's value is another room's work.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{Hash, PublicKey, SignError, Signer};
use crate::boot::pcr::Bank;

/// `TPM_CC_PolicyPCR`.
const POLICY_PCR: [u8; 4] = [0, 0, 0x01, 0x7f];
/// The selection of PCR 11 alone: three bytes of bitmap, bit 3 of the second.
const PCR_11: [u8; 4] = [3, 0x00, 0x08, 0x00];

/// The policy that holds while PCR 11 of `bank` has this value. Always a SHA-256 digest, whatever the bank.
///
/// # Errors
/// [`SignError::PcrWidth`] if the value is not as wide as the bank.
pub fn policy_digest(bank: Bank, pcr_value: &[u8]) -> Result<[u8; 32], SignError> {
    if pcr_value.len() != bank.width() {
        return Err(SignError::PcrWidth { bank, length: pcr_value.len() });
    }
    let policy = Sha256::new()
        .chain_update([0; 32])
        .chain_update(POLICY_PCR)
        .chain_update(1_u32.to_be_bytes())
        .chain_update(bank.tpm_algorithm().to_be_bytes())
        .chain_update(PCR_11)
        .chain_update(Sha256::digest(pcr_value));
    Ok(policy.finalize().into())
}

/// What is signed of a policy: its digest, followed by the digest of the policy reference where one is used (TPM 2.0 Part 3,
/// `TPM2_PolicyAuthorize`). A resource that asks for a reference is unlocked only by policies that were signed with it.
#[must_use]
pub fn to_be_signed(policy: &[u8; 32], reference: Option<&str>) -> Vec<u8> {
    let mut out = policy.to_vec();
    if let Some(reference) = reference.filter(|reference| !reference.is_empty()) {
        out.extend(Sha256::digest(reference));
    }
    out
}

/// Signs a policy as systemd verifies it: what [`to_be_signed`] gives is the *message*, hashed with SHA-256 whatever the bank.
///
/// # Errors
/// What the signer gives.
pub fn sign_policy(policy: &[u8; 32], reference: Option<&str>, signer: &dyn Signer) -> Result<Vec<u8>, SignError> {
    signer.sign(Hash::Sha256, &Sha256::digest(to_be_signed(policy, reference)))
}

/// An entry of `.pcrsig`: a policy for one value of PCR 11, and the key that vouches for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedPolicy {
    /// The registers of the policy: `[11]`.
    pub pcrs: Vec<u32>,
    /// SHA-256 of the key's `RSAPublicKey`, hexadecimal.
    pub pkfp: String,
    /// The policy reference, if one is used.
    #[serde(rename = "ref", default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    /// The policy's digest, hexadecimal.
    pub pol: String,
    /// What is to be signed, hexadecimal, where the signature is still to be made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tbs: Option<String>,
    /// The signature, base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sig: Option<String>,
}

/// `.pcrsig`, or what is to become one: by bank, in the order in which systemd shall try the policies.
pub type Pcrsig = BTreeMap<String, Vec<SignedPolicy>>;

/// A policy for one value of PCR 11 without a signature.
///
/// # Errors
/// [`SignError::PcrWidth`].
pub fn policy(bank: Bank, value: &[u8], reference: Option<&str>, key: &PublicKey) -> Result<SignedPolicy, SignError> {
    let policy = policy_digest(bank, value)?;
    Ok(SignedPolicy {
        pcrs: vec![11],
        pkfp: hex::encode(key.fingerprint()),
        reference: reference.filter(|reference| !reference.is_empty()).map(str::to_owned),
        pol: hex::encode(policy),
        tbs: Some(hex::encode(to_be_signed(&policy, reference))),
        sig: None,
    })
}

/// Signs all policies of the list that `signer`'s key is to sign, on all threads.
///
/// # Errors
/// A digest that is none, or what the signer gives.
pub fn sign_policies(policies: &mut Pcrsig, signer: &dyn Signer) -> Result<(), SignError> {
    let own = hex::encode(signer.public_key().fingerprint());
    let all: Vec<&mut SignedPolicy> = policies.values_mut().flatten().filter(|policy| policy.pkfp == own).collect();
    all.into_par_iter().try_for_each(|policy| {
        let digest: Option<[u8; 32]> = hex::decode(&policy.pol).ok().and_then(|digest| digest.try_into().ok());
        let digest = digest.ok_or_else(|| SignError::Damaged {
            name: "the list of policies".to_owned(),
            reason: format!("{:?} is no SHA-256 digest", policy.pol),
        })?;
        policy.sig = Some(STANDARD.encode(sign_policy(&digest, policy.reference.as_deref(), signer)?));
        policy.tbs = None;
        Ok(())
    })
}

/// Fills the place of each signature that is made later with zeros of its length.
pub fn leave_room(policies: &mut Pcrsig, key: &PublicKey) {
    let own = hex::encode(key.fingerprint());
    for policy in policies.values_mut().flatten().filter(|policy| policy.pkfp == own) {
        policy.tbs = None;
        policy.sig = Some(STANDARD.encode(vec![0; key.signature_length()]));
    }
}

/// The contents of `.pcrsig`: compact JSON as `systemd-measure sign` prints it, without the final newline; the banks sorted; the
/// same input gives the same bytes.
///
/// # Errors
/// [`SignError::Damaged`] where JSON cannot hold it.
pub fn pcrsig_json(policies: &Pcrsig) -> Result<String, SignError> {
    serde_json::to_string(policies)
        .map_err(|error| SignError::Damaged { name: "the list of policies".to_owned(), reason: error.to_string() })
}

/// A list of the same length as one with signatures, for [`pcrsig_json`]: so that the headers of the image are final before its
/// payload is written. For each bank and each way of booting one policy for each of a key's phase paths.
#[must_use]
pub fn placeholder(banks: &[Bank], variants: usize, keys: &[(&PublicKey, usize)], reference: Option<&str>) -> Pcrsig {
    let list = |(key, paths): &(&PublicKey, usize)| {
        let entry = SignedPolicy {
            pcrs: vec![11],
            pkfp: hex::encode(key.fingerprint()),
            reference: reference.filter(|reference| !reference.is_empty()).map(str::to_owned),
            pol: "0".repeat(64),
            tbs: None,
            sig: Some(STANDARD.encode(vec![0; key.signature_length()])),
        };
        vec![entry; *paths]
    };
    let of_bank = || (0..variants).flat_map(|_| keys.iter().flat_map(list)).collect();
    banks.iter().map(|bank| (bank.to_string(), of_bank())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made once, on Debian 13 (systemd 257.13) with libtss2:
    /// `printf A > linux; systemd-measure calculate --linux=linux --phase=enter-initrd --json=short` for the values,
    /// `systemd-measure sign --linux=linux --phase=enter-initrd --private-key=K --public-key=P` for `pol`.
    const FROM_SYSTEMD_MEASURE: [(Bank, &str, &str); 4] = [
        (
            Bank::Sha1,
            "5d88266fdf2267f0807383966a3c92cd313904ea",
            "99ed0baa74807918359a441261121eef3331cdac05b84fb51f1da07e82938902",
        ),
        (
            Bank::Sha256,
            "2ccb64e2494a299a47994c804f7937bb5cbef8a849f2ca2d43d64f7c73e262c7",
            "7b2c66cac6d9878761d37406811c28176e2746549124422ca9ce0c275a3e57ae",
        ),
        (
            Bank::Sha384,
            "abeac143041faa0ba2c6a8c0b250cc29f990ce4eca2d95c6e161bba3fa8aaca28fab1f914745ee07c99471a93ea472ca",
            "5eaaca7555da9d641a2d38354dce6b771f4f7f4caabcddaf623fe80f7287e022",
        ),
        (
            Bank::Sha512,
            "23188836564cf220c5f4676007a85c558eb1b4a12b91988ff2c0b0bd8f66754e0e122a08a0a9b78bda121fd0dce1317024b7802cddbcab06ce1d1e83c633e1d8",
            "7bfe97f6a8463b01aa75771687a192631557cb872e066ea50b4e124a8a9078a9",
        ),
    ];

    #[test]
    fn policies_are_those_of_systemd_measure() {
        for (bank, value, policy) in FROM_SYSTEMD_MEASURE {
            assert_eq!(hex::encode(policy_digest(bank, &hex::decode(value).unwrap()).unwrap()), policy, "{bank}");
        }
    }

    #[test]
    fn a_value_of_another_bank_is_refused() {
        assert_eq!(
            policy_digest(Bank::Sha384, &[0; 32]).unwrap_err().to_string(),
            "a PCR value of 32 bytes was given for the bank sha384, whose registers have 48 bytes"
        );
    }
}
