//! Keys: read, paired, and kept out of the image.

use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::{PipelineError, PolicyRequest};
use crate::boot::build::{Policies, PolicyKey};
use crate::boot::sign::authenticode::Signing;
use crate::boot::sign::certificate::{load_certificate, load_public_key};
use crate::boot::sign::command::{CommandSigner, SignerInput};
use crate::boot::sign::{Hash, Identity, Passphrase, PublicKey, RsaSigner, Signer, keys};
use crate::image::{Files, Node};
use crate::root::sysroot::{EntryType, Sysroot};
use crate::root::tree::{Content, FileTree, Kind};

/// A file of the root larger than this is no key.
const MAX_KEY: u64 = 1 << 20;

/// Files with keys.
#[derive(Debug, Clone, Default)]
pub struct KeyFiles {
    /// Secure Boot keys and their certificates; a certificate without a key needs the external signer.
    pub secure_boot: Vec<(Option<PathBuf>, PathBuf)>,
    /// Private PCR policy keys.
    pub pcr: Vec<PathBuf>,
    /// Public PCR policy keys: the external signer has their private halves, or signatures are attached later.
    pub pcr_public: Vec<PathBuf>,
    /// Signs where a private key is not given.
    pub signer: Option<ExternalSigner>,
    /// Of the keys that are encrypted.
    pub passphrase: Option<Passphrase>,
}

/// A command that signs.
#[derive(Clone)]
pub struct ExternalSigner {
    /// For the shell.
    pub command: String,
    /// What it gets.
    pub input: SignerInput,
    /// An environment variable that is not for it: the passphrase of keys in files.
    pub hidden: Option<String>,
}

impl std::fmt::Debug for ExternalSigner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The command may hold a PIN.
        f.debug_struct("ExternalSigner").field("input", &self.input).finish_non_exhaustive()
    }
}

/// Loaded keys.
#[derive(Debug, Default)]
pub struct Keys {
    /// For Secure Boot signatures.
    pub secure_boot: Vec<Identity>,
    /// For the PCR policies.
    pub pcr: Vec<PcrKey>,
    /// What the user should know of the files.
    pub warnings: Vec<String>,
}

/// A key for PCR policies.
pub struct PcrKey {
    /// The public half.
    pub public: PublicKey,
    /// What signs, if it can be had now.
    pub signer: Option<Box<dyn Signer>>,
    /// Whether the private half was given.
    pub is_private: bool,
}

impl std::fmt::Debug for PcrKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("PcrKey").field(&self.public).finish()
    }
}

impl Keys {
    /// Who signs the file.
    #[must_use]
    pub fn signings(&self, hash: Hash) -> Vec<Signing<'_>> {
        self.secure_boot.iter().map(|identity| Signing { identity, hash }).collect()
    }

    /// What `.pcrsig` is made of. Each key vouches for the phase paths at its place, or for the default ones.
    ///
    /// # Errors
    /// More lists of phase paths than keys; lists where private and public keys are both given, whose order nobody can tell.
    pub fn policies(&self, request: &PolicyRequest) -> Result<Policies<'_>, PipelineError> {
        let lists = request.phases.len();
        if lists > self.pcr.len() {
            return Err(PipelineError::Phases {
                problem: format!("{lists} times, and there are {} PCR keys", self.pcr.len()),
            });
        }
        let with_private = self.pcr.iter().filter(|key| key.is_private).count();
        if lists > 0 && with_private > 0 && with_private < self.pcr.len() {
            let problem =
                "with private and with public PCR keys: which list is whose cannot be told; give keys of one kind";
            return Err(PipelineError::Phases { problem: problem.to_owned() });
        }
        let keys = self.pcr.iter().enumerate().map(|(index, key)| PolicyKey {
            public: &key.public,
            signer: key.signer.as_deref(),
            phases: request.phases_of(index),
        });
        Ok(Policies {
            keys: keys.collect(),
            banks: request.banks.clone(),
            reference: request.reference.clone(),
            public_key: request.public_key.clone(),
        })
    }
}

/// Reads and pairs keys.
///
/// # Errors
/// A file that cannot be read or used; a key and a certificate that do not belong together; a certificate without anything that
/// signs.
pub fn load_keys(files: &KeyFiles) -> Result<Keys, PipelineError> {
    let mut warnings = Vec::new();
    let mut encrypted = false;
    let mut load = |path: &Path| -> Result<RsaSigner, PipelineError> {
        let file = keys::load_key_with(path, files.passphrase.as_ref())?;
        encrypted |= file.encrypted;
        if file.world_readable {
            warnings.push(format!(
                "every user of this machine can read the private key {0}: chmod 600 {0}",
                path.display()
            ));
        }
        Ok(file.signer)
    };
    let external = |key: &'static str, public: &PublicKey| {
        files.signer.as_ref().map(|signer| {
            CommandSigner::new(&signer.command, key, signer.input, public.clone()).without(signer.hidden.clone())
        })
    };
    let mut secure_boot = Vec::new();
    for (key, certificate) in &files.secure_boot {
        let chain = load_certificate(certificate)?;
        let signer: Box<dyn Signer> = match (key, external("sb", chain.public_key())) {
            (Some(key), _) => Box::new(load(key)?),
            (None, Some(signer)) => Box::new(signer),
            (None, None) => {
                return Err(PipelineError::Missing {
                    what: format!("the private key of {}", certificate.display()),
                    advice: "give --sb-key, or a command that signs with --signer".to_owned(),
                });
            }
        };
        secure_boot.push(Identity::new(signer, chain)?);
    }
    let mut pcr = Vec::new();
    for path in &files.pcr {
        let signer = load(path)?;
        pcr.push(PcrKey { public: signer.public_key().clone(), signer: Some(Box::new(signer)), is_private: true });
    }
    for path in &files.pcr_public {
        let public = load_public_key(path)?;
        // The public half of a key that is there (ukify wants both) is no key of its own.
        if pcr.iter().any(|key: &PcrKey| key.public == public) {
            continue;
        }
        let signer = external("pcr", &public).map(|signer| Box::new(signer) as Box<dyn Signer>);
        if signer.is_none() {
            warnings.push(format!(
                "nothing signs the PCR policies for {}: no disk unlocks with this image until `uki sign --attach-pcrsig` attached \
                 their signatures",
                path.display()
            ));
        }
        pcr.push(PcrKey { public, signer, is_private: false });
    }
    if files.passphrase.is_some() && !encrypted {
        warnings
            .push("a passphrase was given, and no key is encrypted: anyone who has the file has the key".to_owned());
    }
    Ok(Keys { secure_boot, pcr, warnings })
}

/// The private keys that are files, with their bytes. A key that came through a pipe is in no file.
fn private_keys(files: &KeyFiles) -> impl Iterator<Item = Result<(&PathBuf, Zeroizing<Vec<u8>>), PipelineError>> {
    let keys = files.secure_boot.iter().filter_map(|(key, _)| key.as_ref()).chain(&files.pcr);
    let keys = keys.filter(|key| std::fs::metadata(key).is_ok_and(|metadata| metadata.is_file()));
    keys.map(|key| Ok((key, keys::read(key, "a private key")?.0)))
}

/// Refuses a tree that holds one of the private keys, be it the very file or a copy.
pub(super) fn refuse_keys(root: &Sysroot, tree: &FileTree, files: &KeyFiles) -> Result<(), PipelineError> {
    for key in private_keys(files) {
        let (key, bytes) = key?;
        for (path, entry) in tree.iter() {
            let (root, source, seen) = match &entry.kind {
                Kind::File(Content::Root { path, seen }) => (root, path, seen),
                Kind::File(Content::Layer { layer, path, seen }) => (&*layer.0, path, seen),
                _ => continue,
            };
            if seen.length == bytes.len() as u64
                && root.kind(source)? == Some(EntryType::File)
                && *Zeroizing::new(root.read(source, MAX_KEY)?) == *bytes
            {
                return Err(PipelineError::KeyInRoot { key: key.clone(), path: path.clone() });
            }
        }
    }
    Ok(())
}

/// The same for what lies beside the UKI, on the ISO or the OEM partition.
pub(super) fn refuse_keys_beside(all: &[&Files], files: &KeyFiles) -> Result<(), PipelineError> {
    for key in private_keys(files) {
        let (key, bytes) = key?;
        for (path, node) in all.iter().flat_map(|files| files.iter()) {
            let Node::File { content, .. } = node else { continue };
            if content.length() == bytes.len() as u64 && *Zeroizing::new(content.read(MAX_KEY)?) == *bytes {
                return Err(PipelineError::KeyBeside { key: key.clone(), path: path.clone() });
            }
        }
    }
    Ok(())
}
