//! TPM2 policies over PCR 11, and the `.pcrsig` section that signs them.
//!
//! Sources: TPM 2.0 Part 3, `TPM2_PolicyPCR`; systemd's `src/shared/tpm2-util.c` (what verifies the signatures) and
//! `src/measure/measure-tool.c` (the JSON). Predicting the PCR's value is another room's work.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rayon::prelude::*;
use sha2::{Digest, Sha256};

use super::{PublicKey, SignError, Signer};
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

/// Signs a policy as systemd verifies it: the policy digest is the *message*, hashed with SHA-256 whatever the bank.
///
/// # Errors
/// What the signer gives.
pub fn sign_policy(policy: &[u8; 32], signer: &dyn Signer) -> Result<Vec<u8>, SignError> {
    signer.sign_sha256(&Sha256::digest(policy).into())
}

/// The contents of `.pcrsig`: for each bank the policies for these values of PCR 11 (one for each phase path, in the
/// order in which systemd shall try them), signed. Compact JSON as `systemd-measure sign` prints it, without the
/// final newline; the banks sorted; the same input gives the same bytes.
///
/// # Errors
/// [`SignError::PcrWidth`], or what the signer gives.
pub fn pcrsig_json(values: &BTreeMap<Bank, Vec<Vec<u8>>>, signer: &dyn Signer) -> Result<String, SignError> {
    let fingerprint = hex::encode(signer.public_key().fingerprint());
    let mut json = String::from("{");
    for (index, (bank, values)) in values.iter().enumerate() {
        let signed: Vec<String> = values
            .par_iter()
            .map(|value| {
                let policy = policy_digest(*bank, value)?;
                let signature = sign_policy(&policy, signer)?;
                Ok(entry(&fingerprint, &hex::encode(policy), &STANDARD.encode(signature)))
            })
            .collect::<Result<_, SignError>>()?;
        let comma = if index == 0 { "" } else { "," };
        json.push_str(&format!("{comma}\"{bank}\":[{}]", signed.join(",")));
    }
    json.push('}');
    Ok(json)
}

/// The length of what [`pcrsig_json`] will give, bytes, known before anything is measured: so that the headers of the
/// image are final before its payload is written. `paths` is the number of phase paths for each bank.
#[must_use]
pub fn pcrsig_length(banks: &[Bank], paths: usize, key: &PublicKey) -> usize {
    let digest = "0".repeat(64);
    let signature = STANDARD.encode(vec![0; key.signature_length()]);
    let list = paths * entry(&digest, &digest, &signature).len() + paths.saturating_sub(1);
    let members: usize = banks.iter().map(|bank| format!("\"{bank}\":[]").len() + list).sum();
    "{}".len() + members + banks.len().saturating_sub(1)
}

/// Hexadecimal and base64 need no escapes.
fn entry(fingerprint: &str, policy: &str, signature: &str) -> String {
    format!(r#"{{"pcrs":[11],"pkfp":"{fingerprint}","pol":"{policy}","sig":"{signature}"}}"#)
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
