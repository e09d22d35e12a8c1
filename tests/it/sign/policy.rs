//! Signed PCR policies against OpenSSL.

use std::collections::BTreeMap;
use std::fs;

use kairos_init::boot::pcr::Bank;
use kairos_init::boot::sign::keys::load_key;
use kairos_init::boot::sign::policy::{
    Pcrsig, pcrsig_json, placeholder, policy, policy_digest, sign_policies, to_be_signed,
};
use kairos_init::boot::sign::{RsaSigner, Signer};
use sha2::{Digest, Sha256};

use super::{openssl_keys, sh};

fn signed(values: &BTreeMap<Bank, Vec<Vec<u8>>>, signer: &RsaSigner, reference: Option<&str>) -> String {
    let mut list = Pcrsig::new();
    for (bank, values) in values {
        let policies = values.iter().map(|value| policy(*bank, value, reference, signer.public_key()).unwrap());
        list.insert(bank.to_string(), policies.collect());
    }
    sign_policies(&mut list, signer).unwrap();
    pcrsig_json(&list).unwrap()
}

#[test]
fn policies_are_signed_so_that_openssl_verifies_them() {
    let temp = tempfile::tempdir().unwrap();
    let folder = temp.path();
    for bits in [2048, 3072, 4096] {
        let signer = load_key(&openssl_keys().join(format!("{bits}.key"))).unwrap().signer;
        let values: BTreeMap<Bank, Vec<Vec<u8>>> =
            Bank::ALL.into_iter().map(|bank| (bank, (1..=4).map(|n| vec![n; bank.width()]).collect())).collect();
        let json = signed(&values, &signer, None);
        let room = placeholder(&Bank::ALL, 2, &[(signer.public_key(), 2)], None);
        assert_eq!(json.len(), pcrsig_json(&room).unwrap().len());
        assert_eq!(json, signed(&values, &signer, None));

        let parsed: serde_json::Map<String, serde_json::Value> = serde_json::from_str(&json).unwrap();
        assert_eq!(parsed.keys().collect::<Vec<_>>(), ["sha1", "sha256", "sha384", "sha512"]);
        for (bank, values) in values {
            let entries = parsed[bank.as_str()].as_array().unwrap();
            assert_eq!(entries.len(), 4);
            for (entry, value) in entries.iter().zip(values) {
                let policy = policy_digest(bank, &value).unwrap();
                assert_eq!(entry["pcrs"], serde_json::json!([11]));
                assert_eq!(entry["pol"], hex::encode(policy));
                assert_eq!(entry["pkfp"], hex::encode(signer.public_key().fingerprint()));
                fs::write(folder.join("policy"), policy).unwrap();
                fs::write(folder.join("signature"), entry["sig"].as_str().unwrap()).unwrap();
                let public = openssl_keys().join(format!("{bits}.pub"));
                let verify = format!(
                    "base64 -d signature > raw; openssl dgst -sha256 -verify {} -signature raw policy",
                    public.display()
                );
                assert_eq!(sh(folder, &verify), "Verified OK\n");
            }
        }
    }
}

/// What TPM2_PolicyAuthorize verifies of a policy with a reference: the policy's digest, then that of the reference.
#[test]
fn a_policy_reference_is_signed_with_the_policy() {
    let temp = tempfile::tempdir().unwrap();
    let signer = load_key(&openssl_keys().join("2048.key")).unwrap().signer;
    let values = BTreeMap::from([(Bank::Sha256, vec![vec![7; 32]])]);
    let json: serde_json::Value = serde_json::from_str(&signed(&values, &signer, Some("initrd"))).unwrap();
    let entry = &json["sha256"][0];
    let keys: Vec<_> = entry.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!((keys, entry["ref"].as_str()), (vec!["pcrs", "pkfp", "ref", "pol", "sig"], Some("initrd")));
    let digest = policy_digest(Bank::Sha256, &[7; 32]).unwrap();
    let message = [&digest[..], &Sha256::digest("initrd")].concat();
    assert_eq!(to_be_signed(&digest, Some("initrd")), message);
    fs::write(temp.path().join("message"), message).unwrap();
    fs::write(temp.path().join("signature"), entry["sig"].as_str().unwrap()).unwrap();
    let public = openssl_keys().join("2048.pub");
    let verify =
        format!("base64 -d signature > raw; openssl dgst -sha256 -verify {} -signature raw message", public.display());
    assert_eq!(sh(temp.path(), &verify), "Verified OK\n");
}
