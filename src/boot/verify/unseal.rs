//! Would the disk unlock: PCR 11 as the stub would extend it, and the signed policies held against it.
//!
//! Specification: UAPI.5 and systemd's `src/boot/stub.c` for the measurements, TPM 2.0 part 3 (`TPM2_PolicyPCR`) for the
//! policy, systemd's `tpm2-util.c` for what is signed: the policy's digest, hashed with SHA-256 whatever the bank.

use std::collections::{BTreeMap, BTreeSet};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rsa::RsaPublicKey;
use rsa::pkcs1::EncodeRsaPublicKey;
use rsa::pkcs8::DecodePublicKey;
use serde::Deserialize;

use super::image::Profile;
use super::pass::{Digests, hash, scheme};
use super::report::{Outcome, Report};
use super::texts::Texts;
use crate::boot::pcr::{Bank, PhasePath};
use crate::boot::section::SectionName;

/// Device trees times firmware blobs that are tried for each profile, at most.
const CHOICES: usize = 256;

#[derive(Debug, Clone, Deserialize)]
struct Entry {
    pcrs: Vec<u32>,
    pkfp: String,
    pol: String,
    sig: String,
}

/// `.pcrsig`: entries by bank.
type Signatures = BTreeMap<String, Vec<Entry>>;

/// The banks that a `.pcrsig` of the image names, and SHA-256 in any case.
pub(super) fn banks(profiles: &[Profile], texts: &Texts) -> Vec<Bank> {
    let mut banks = BTreeSet::from([Bank::Sha256]);
    for index in profiles.iter().filter_map(|profile| profile.get(SectionName::Pcrsig)) {
        let signatures = texts.get(&index).and_then(|text| serde_json::from_slice::<Signatures>(text).ok());
        banks.extend(signatures.iter().flat_map(BTreeMap::keys).filter_map(|bank| bank.parse::<Bank>().ok()));
    }
    banks.into_iter().collect()
}

/// What the stub measures for one choice of device tree and firmware, in its order.
fn measured(profile: &Profile) -> Vec<Vec<usize>> {
    let mut choices: Vec<Vec<usize>> = vec![Vec::new()];
    for name in SectionName::ALL.into_iter().filter(|name| name.is_measured()) {
        let indexes = profile.all(name);
        let options: Vec<Option<usize>> = match name {
            // One that fits the machine; a UKI that brings some is made for machines that they fit.
            SectionName::Dtbauto if !indexes.is_empty() => indexes.into_iter().map(Some).collect(),
            // Firmware is optional: a machine may match none.
            SectionName::Efifw => indexes.into_iter().map(Some).chain([None]).collect(),
            _ => vec![indexes.first().copied()],
        };
        choices = choices
            .iter()
            .flat_map(|choice| options.iter().map(|option| choice.iter().copied().chain(*option).collect()))
            .take(CHOICES)
            .collect();
    }
    choices
}

/// PCR 11 before any phase. `None` where a section has no digest.
fn stub_value(
    bank: Bank,
    choice: &[usize],
    names: &BTreeMap<usize, SectionName>,
    digests: &Digests,
) -> Option<Vec<u8>> {
    let sections = digests.sections.get(&bank)?;
    let mut value = vec![0; bank.width()];
    for index in choice {
        let name = hash(bank, &[names.get(index)?.as_str().as_bytes(), &[0]]);
        value = hash(bank, &[&value, &name]);
        value = hash(bank, &[&value, sections.get(index)?]);
    }
    Some(value)
}

/// The value after each of the phases, one after the other; the first before any.
fn phases(bank: Bank, start: Vec<u8>) -> Vec<(PhasePath, Vec<u8>)> {
    let mut value = start.clone();
    let mut out = vec![(PhasePath::empty(), start)];
    for (word, path) in PhasePath::WORDS.iter().zip(PhasePath::signed_by_default()) {
        value = hash(bank, &[&value, &hash(bank, &[word.as_bytes()])]);
        out.push((path, value.clone()));
    }
    out
}

/// `TPM2_PolicyPCR` over PCR 11 of one bank, from an empty policy.
fn policy_digest(bank: Bank, value: &[u8]) -> Vec<u8> {
    let mut select = vec![0, 0, 1, 0x7f, 0, 0, 0, 1];
    select.extend(bank.tpm_algorithm().to_be_bytes());
    select.extend([3, 0, 8, 0]);
    hash(Bank::Sha256, &[&[0; 32], &select, &hash(Bank::Sha256, &[value])])
}

/// Checks `.pcrpkey` and `.pcrsig` of every profile. `given` is the key that the machine has enrolled.
pub(super) fn check(
    profiles: &[Profile],
    texts: &Texts,
    digests: &Digests,
    given: Option<&RsaPublicKey>,
    report: &mut Report,
) {
    for profile in profiles {
        let title = profile.title();
        let key = check_key(profile, texts, given, report);
        let Some(index) = profile.get(SectionName::Pcrsig) else {
            match key {
                Some(_) => report.fail("pcrsig", format!("{title}there is a .pcrpkey but no .pcrsig: nothing unseals")),
                None => {
                    report.warn("pcrsig", format!("{title}no signed PCR policy: a disk bound to one does not unlock"))
                }
            }
            continue;
        };
        let Some(text) = texts.get(&index) else {
            report.fail("pcrsig", format!("{title}.pcrsig cannot be read"));
            continue;
        };
        let signatures: Signatures = match serde_json::from_slice(text) {
            Ok(signatures) => signatures,
            Err(error) => {
                report.fail("pcrsig", format!("{title}.pcrsig is not what systemd reads: {error}"));
                continue;
            }
        };
        let problems = problems(profile, &signatures, key.as_ref(), digests);
        let banks: Vec<&str> = signatures.keys().map(String::as_str).collect();
        let entries: usize = signatures.values().map(Vec::len).sum();
        let problems = problems.into_iter().map(|(outcome, problem)| (outcome, title.clone() + &problem)).collect();
        report.all("pcrsig", problems, || format!("{title}{entries} policies hold ({})", banks.join(" ")));
    }
}

fn check_key(
    profile: &Profile,
    texts: &Texts,
    given: Option<&RsaPublicKey>,
    report: &mut Report,
) -> Option<RsaPublicKey> {
    let title = profile.title();
    let Some(index) = profile.get(SectionName::Pcrpkey) else {
        match given {
            Some(_) => report.fail("pcrpkey", format!("{title}there is no .pcrpkey")),
            None => {
                report.warn("pcrpkey", format!("{title}there is no .pcrpkey: a disk can only be bound to a given key"))
            }
        }
        return None;
    };
    let text = texts.get(&index).and_then(|text| std::str::from_utf8(text).ok());
    let key = text.and_then(|text| RsaPublicKey::from_public_key_pem(text.trim_end_matches('\0')).ok());
    match (&key, given) {
        (None, _) => report.fail("pcrpkey", format!("{title}it is no RSA public key in PEM")),
        (Some(key), Some(given)) if key != given => {
            report.fail(
                "pcrpkey",
                format!("{title}it is another key than --pcr-public-key: disks bound to that stay locked"),
            );
        }
        (Some(_), Some(_)) => report.pass("pcrpkey", format!("{title}the given key")),
        (Some(key), None) => report.pass("pcrpkey", format!("{title}{}", fingerprint(key))),
    }
    key
}

/// `pkfp`: SHA-256 of the PKCS#1 form, hexadecimal.
pub(super) fn fingerprint(key: &RsaPublicKey) -> String {
    key.to_pkcs1_der().map(|der| hex::encode(hash(Bank::Sha256, &[der.as_bytes()]))).unwrap_or_default()
}

fn problems(
    profile: &Profile,
    signatures: &Signatures,
    key: Option<&RsaPublicKey>,
    digests: &Digests,
) -> Vec<(Outcome, String)> {
    let mut problems = Vec::new();
    let names: BTreeMap<usize, SectionName> =
        profile.base.iter().chain(&profile.own).map(|(name, index)| (*index, *name)).collect();
    let choices = measured(profile);
    if !signatures.contains_key(Bank::Sha256.as_str()) {
        let why = "no policy for the sha256 bank, the only one that immucore extends (kairos-io/immucore)";
        problems.push((Outcome::Warning, why.to_owned()));
    }
    for (bank_name, entries) in signatures {
        let Ok(bank) = bank_name.parse::<Bank>() else {
            problems.push((Outcome::Warning, format!("it names the unknown bank {:?}", bank_name)));
            continue;
        };
        // The policies that a boot of each choice satisfies.
        let wanted: Option<Vec<_>> = choices.iter().map(|choice| policies(bank, choice, &names, digests)).collect();
        let Some(wanted) = wanted else {
            problems.push((Outcome::Failure, "a section is not whole, so that PCR 11 cannot be told".to_owned()));
            return problems;
        };
        let known: BTreeSet<&str> = wanted.iter().flatten().map(|(_, policy)| policy.as_str()).collect();
        let strangers: Vec<&Entry> =
            entries.iter().filter(|entry| !known.contains(entry.pol.to_ascii_lowercase().as_str())).collect();
        if !strangers.is_empty() {
            let (count, all) = (strangers.len(), entries.len());
            let why = if strangers.iter().any(|entry| leaves_profile_out(bank, entry, &choices, &names, digests)) {
                "leave .profile out, which the stub measures (go-ukify, kairos#4827)"
            } else {
                "are for other sections than the stub would measure"
            };
            problems.push((Outcome::Failure, format!("{bank}: {count} of {all} policies {why}")));
        }
        let mut missing = BTreeMap::new();
        for (path, policy) in wanted.iter().flatten().filter(|(path, _)| !path.is_empty()) {
            if !entries.iter().any(|entry| entry.pol.eq_ignore_ascii_case(policy)) {
                *missing.entry(path).or_insert(0) += 1;
            }
        }
        for (path, count) in missing {
            // Disks are unlocked in the initrd.
            let is_first = path.words().count() == 1;
            let outcome = if is_first && strangers.is_empty() { Outcome::Failure } else { Outcome::Warning };
            let of = if choices.len() > 1 {
                format!(" of {count} of {} device trees", choices.len())
            } else {
                String::new()
            };
            problems.push((outcome, format!("{bank}: no policy for phase {path}{of}")));
        }
        problems.extend(entry_problems(bank, entries, key));
    }
    problems
}

/// The policies after each phase of a boot of this choice, hexadecimal. `None` where a section is not whole.
fn policies(
    bank: Bank,
    choice: &[usize],
    names: &BTreeMap<usize, SectionName>,
    digests: &Digests,
) -> Option<Vec<(PhasePath, String)>> {
    let values = phases(bank, stub_value(bank, choice, names, digests)?);
    Some(values.into_iter().map(|(path, value)| (path, hex::encode(policy_digest(bank, &value)))).collect())
}

/// A mistake that was made before.
fn leaves_profile_out(
    bank: Bank,
    entry: &Entry,
    choices: &[Vec<usize>],
    names: &BTreeMap<usize, SectionName>,
    digests: &Digests,
) -> bool {
    let is_profile = |index: &usize| names.get(index) == Some(&SectionName::Profile);
    choices.iter().filter(|choice| choice.iter().any(is_profile)).any(|choice| {
        let others: Vec<usize> = choice.iter().copied().filter(|index| !is_profile(index)).collect();
        let policies = policies(bank, &others, names, digests).unwrap_or_default();
        policies.iter().any(|(_, policy)| entry.pol.eq_ignore_ascii_case(policy))
    })
}

fn entry_problems(bank: Bank, entries: &[Entry], key: Option<&RsaPublicKey>) -> Vec<(Outcome, String)> {
    let mut problems = BTreeMap::new();
    let mut add = |outcome, problem: String| *problems.entry((outcome, problem)).or_insert(0) += 1;
    for entry in entries {
        if entry.pcrs != [11] {
            add(Outcome::Failure, format!("{bank}: a policy is over PCRs {:?}, not 11", entry.pcrs));
        }
        let Some(key) = key else {
            add(Outcome::NotChecked, format!("{bank}: without .pcrpkey the signature cannot be checked"));
            continue;
        };
        if !entry.pkfp.eq_ignore_ascii_case(&fingerprint(key)) {
            add(Outcome::Failure, format!("{bank}: a policy is signed by another key than .pcrpkey (pkfp)"));
        }
        let (Ok(policy), Ok(signature)) = (hex::decode(&entry.pol), STANDARD.decode(&entry.sig)) else {
            add(Outcome::Failure, format!("{bank}: a policy or signature is not hexadecimal or base64"));
            continue;
        };
        let holds = |with: Bank| key.verify(scheme(with), &hash(with, &[&policy]), &signature).is_ok();
        if !holds(Bank::Sha256) {
            if bank != Bank::Sha256 && holds(bank) {
                let why = "systemd verifies with sha256, so this bank never unseals (systemd-measure before 2026-03)";
                add(Outcome::Warning, format!("{bank}: signed with {bank}; {why}"));
            } else {
                add(Outcome::Failure, format!("{bank}: the signature of a policy is not by the key of .pcrpkey"));
            }
        }
    }
    problems
        .into_iter()
        .map(|((outcome, problem), count)| {
            (outcome, if count > 1 { format!("{problem} ({count} times)") } else { problem })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Computed with Python's `hashlib` from the bytes of TPM 2.0 part 3.
    #[test]
    fn policies_are_those_of_the_specification() {
        let policy = hex::encode(policy_digest(Bank::Sha256, &[7; 32]));
        assert_eq!(policy, "cc72550c0b76b3246d8e115bd8d82f1a37d4332f9bbbd379f8289d863d06cad0");
    }

    #[test]
    fn policies_without_the_profile_are_named_as_what_they_are() {
        let own = vec![(SectionName::Profile, 1)];
        let profile = Profile { number: Some(0), own, base: vec![(SectionName::Linux, 0)] };
        let sections = BTreeMap::from([(0, hash(Bank::Sha256, &[b"linux"])), (1, hash(Bank::Sha256, &[b"ID=x"]))]);
        let digests = Digests { sections: BTreeMap::from([(Bank::Sha256, sections)]), ..Digests::default() };
        let names = BTreeMap::from([(0, SectionName::Linux), (1, SectionName::Profile)]);
        let signed = |choice: &[usize]| -> Vec<String> {
            let policies = policies(Bank::Sha256, choice, &names, &digests).unwrap();
            let entry = |pol: String| Entry { pcrs: vec![11], pkfp: String::new(), pol, sig: String::new() };
            let entries = policies.into_iter().skip(1).map(|(_, policy)| entry(policy)).collect();
            let found = problems(&profile, &Signatures::from([("sha256".to_owned(), entries)]), None, &digests);
            found.into_iter().filter(|(outcome, _)| *outcome == Outcome::Failure).map(|(_, problem)| problem).collect()
        };
        assert_eq!(signed(&[0, 1]), Vec::<String>::new());
        let wrong = signed(&[0]);
        assert!(wrong.len() == 1 && wrong[0].contains("kairos#4827"), "{wrong:?}");
    }

    #[test]
    fn one_choice_for_each_device_tree() {
        let own = vec![(SectionName::Linux, 3), (SectionName::Dtbauto, 4), (SectionName::Dtbauto, 5)];
        let profile = Profile { number: None, own, base: Vec::new() };
        assert_eq!(measured(&profile), [[3, 4], [3, 5]]);
    }
}
