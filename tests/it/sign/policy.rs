//! Signed PCR policies against OpenSSL.

use std::collections::BTreeMap;
use std::fs;

use kairos_init::boot::pcr::Bank;
use kairos_init::boot::sign::Signer;
use kairos_init::boot::sign::keys::load_key;
use kairos_init::boot::sign::policy::{pcrsig_json, pcrsig_length, policy_digest};

use super::{openssl_keys, sh};

#[test]
fn policies_are_signed_so_that_openssl_verifies_them() {
    let temp = tempfile::tempdir().unwrap();
    let folder = temp.path();
    for bits in [2048, 3072, 4096] {
        let signer = load_key(&openssl_keys().join(format!("{bits}.key"))).unwrap().signer;
        let values: BTreeMap<Bank, Vec<Vec<u8>>> =
            Bank::ALL.into_iter().map(|bank| (bank, (1..=4).map(|n| vec![n; bank.width()]).collect())).collect();
        let json = pcrsig_json(&values, &signer).unwrap();
        assert_eq!(json.len(), pcrsig_length(&Bank::ALL, 4, signer.public_key()));
        assert_eq!(json, pcrsig_json(&values, &signer).unwrap());

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
    let signer = load_key(&openssl_keys().join("2048.key")).unwrap().signer;
    assert_eq!(pcrsig_json(&BTreeMap::new(), &signer).unwrap(), "{}");
    assert_eq!(pcrsig_length(&[], 4, signer.public_key()), 2);
    let empty = BTreeMap::from([(Bank::Sha256, vec![])]);
    assert_eq!(pcrsig_json(&empty, &signer).unwrap(), "{\"sha256\":[]}");
    assert_eq!(pcrsig_length(&[Bank::Sha256], 0, signer.public_key()), 13);
}
