//! The set of key files for Trusted Boot: Secure Boot's PK, KEK and db, and the key for PCR policies.
//!
//! Names are those that Kairos' tools look for.

use std::fs::DirBuilder;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rand_core::CryptoRngCore;
use tempfile::NamedTempFile;

use super::certificate::CertificateChain;
use super::enrolment::{Enrolment, EnrolmentRequest};
use super::generate::{CertificateRequest, KeyPair, PcrKey, generate, pcr_key};
use super::{Identity, RsaSigner, SignError};
use crate::cancel::Cancel;

/// The keys that an image is signed with, and those that enrol it.
#[derive(Debug)]
pub struct KeySet {
    /// The platform key.
    pub pk: KeyPair,
    /// The key exchange key.
    pub kek: KeyPair,
    /// The key that signs images.
    pub db: KeyPair,
    /// The key that signs PCR policies.
    pub pcr: PcrKey,
}

impl KeySet {
    /// Makes four keys. The common names are the request's, followed by ` PK`, ` KEK` and ` db`.
    ///
    /// # Errors
    /// What [`generate`] gives; [`SignError::Cancelled`].
    pub fn generate(
        request: &CertificateRequest,
        rng: &mut impl CryptoRngCore,
        cancel: &Cancel,
    ) -> Result<Self, SignError> {
        Self::generate_joined(request, " ", rng, cancel)
    }

    /// The same with another text between the request's name and the role: AuroraBoot has `-`.
    ///
    /// # Errors
    /// As [`KeySet::generate`].
    pub fn generate_joined(
        request: &CertificateRequest,
        joint: &str,
        rng: &mut impl CryptoRngCore,
        cancel: &Cancel,
    ) -> Result<Self, SignError> {
        let mut pair = |role: &str| {
            cancel.check()?;
            let common_name = format!("{}{joint}{role}", request.common_name);
            generate(&CertificateRequest { common_name, ..request.clone() }, rng)
        };
        let (pk, kek, db) = (pair("PK")?, pair("KEK")?, pair("db")?);
        cancel.check()?;
        Ok(Self { pk, kek, db, pcr: pcr_key(request.size, rng)? })
    }

    /// What enrols these keys.
    ///
    /// # Errors
    /// What [`Enrolment::new`] gives.
    pub fn enrolment(&self, request: &EnrolmentRequest) -> Result<Enrolment, SignError> {
        let identity = |pair: &KeyPair| {
            let signer = RsaSigner::parse(pair.key_pem.as_bytes(), "the new key")?;
            Identity::new(Box::new(signer), CertificateChain::parse(&pair.certificate_der, "its certificate")?)
        };
        Enrolment::new(&identity(&self.pk)?, &identity(&self.kek)?, &self.db.certificate_der, request)
    }

    /// Names, contents, and whether everyone may read them.
    fn files<'a>(&'a self, enrolment: &'a Enrolment) -> Vec<(String, &'a [u8], bool)> {
        let mut files = Vec::new();
        for (role, pair, enrol) in
            [("PK", &self.pk, &enrolment.pk), ("KEK", &self.kek, &enrolment.kek), ("db", &self.db, &enrolment.db)]
        {
            files.push((format!("{role}.key"), pair.key_pem.as_bytes(), false));
            files.push((format!("{role}.pem"), pair.certificate_pem.as_bytes(), true));
            files.push((format!("{role}.der"), pair.certificate_der.as_slice(), true));
            files.push((format!("{role}.esl"), enrol.list.as_slice(), true));
            files.push((format!("{role}.auth"), enrol.update.as_slice(), true));
        }
        files.push(("tpm2-pcr-private.pem".to_owned(), self.pcr.private_pem.as_bytes(), false));
        files.push(("tpm2-pcr-public.pem".to_owned(), self.pcr.public_pem.as_bytes(), true));
        files
    }

    /// Writes `PK`, `KEK` and `db` as `.key` (mode 0600), `.pem`, `.der`, `.esl` and `.auth`, `tpm2-pcr-private.pem`
    /// (0600) and `tpm2-pcr-public.pem` into the folder, which is made (0700) if its parent is there: all of them or
    /// none. Gives back their paths.
    ///
    /// # Errors
    /// [`SignError::Exists`] if any of these names is taken: nothing is ever overwritten. [`SignError::Write`].
    pub fn write(&self, enrolment: &Enrolment, folder: &Path) -> Result<Vec<PathBuf>, SignError> {
        let files = self.files(enrolment);
        check_free(folder, &files)?;
        let made = match DirBuilder::new().mode(0o700).create(folder) {
            Ok(()) => true,
            Err(error) if error.kind() == ErrorKind::AlreadyExists => false,
            Err(source) => return Err(SignError::Write { path: folder.to_owned(), source }),
        };
        let written = write_all(folder, &files);
        if written.is_err() && made {
            // What matters is the error at hand; a folder left behind is empty.
            let _ = std::fs::remove_dir(folder);
        }
        written
    }
}

fn check_free(folder: &Path, files: &[(String, &[u8], bool)]) -> Result<(), SignError> {
    for (name, ..) in files {
        let path = folder.join(name);
        match path.symlink_metadata() {
            Ok(_) => return Err(SignError::Exists { path }),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(source) => return Err(SignError::Write { path, source }),
        }
    }
    Ok(())
}

/// Everything goes to temporary files first, which vanish if anything fails; then each gets its name, and loses it
/// again should a later one fail.
fn write_all(folder: &Path, files: &[(String, &[u8], bool)]) -> Result<Vec<PathBuf>, SignError> {
    let mut ready = Vec::with_capacity(files.len());
    for (name, contents, public) in files {
        let path = folder.join(name);
        let file = write_temporary(folder, contents, *public)
            .map_err(|source| SignError::Write { path: path.clone(), source })?;
        ready.push((path, file));
    }
    let mut named: Vec<PathBuf> = Vec::with_capacity(ready.len());
    for (path, file) in ready {
        if let Err(error) = file.persist_noclobber(&path) {
            for path in named {
                let _ = std::fs::remove_file(path);
            }
            return Err(match error.error.kind() {
                ErrorKind::AlreadyExists => SignError::Exists { path },
                _ => SignError::Write { path, source: error.error },
            });
        }
        named.push(path);
    }
    Ok(named)
}

fn write_temporary(folder: &Path, contents: &[u8], public: bool) -> std::io::Result<NamedTempFile> {
    let mode = if public { 0o644 } else { 0o600 };
    let mut file = tempfile::Builder::new()
        .prefix(".kairos-init-")
        .permissions(std::fs::Permissions::from_mode(mode))
        .tempfile_in(folder)?;
    file.write_all(contents)?;
    file.as_file().sync_all()?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_taken_at_the_last_moment_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let twice = [("a", true), ("b", false), ("a", true)].map(|(name, public)| (name.to_owned(), &b"x"[..], public));
        assert!(matches!(write_all(folder.path(), &twice).unwrap_err(), SignError::Exists { .. }));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
