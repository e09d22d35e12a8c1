//! A key that lives elsewhere (a token, an HSM, a service): a command signs with it.

use std::fmt;
use std::io::{Read, Write};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

use rsa::RsaPublicKey;
use rsa::pkcs8::DecodePublicKey;

use super::{Hash, PublicKey, SignError, Signer};

/// Bytes of an answer that are read: a signature by RSA 4096 has 512.
const ANSWER_LIMIT: u64 = 64 * 1024;

/// What the command gets on its standard input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SignerInput {
    /// The digest alone, as cloud services and `openssl pkeyutl -pkeyopt digest:sha256` take it.
    #[default]
    Digest,
    /// The digest in a `DigestInfo`, DER, as the mechanism RSA-PKCS of PKCS #11 takes it.
    DigestInfo,
}

/// Signs by running a command of the shell. It gets the digest on standard input, the environment variables `KAIROS_INIT_KEY`
/// (which key: `sb`, `pcr`) and `KAIROS_INIT_HASH` (`sha256`, ...), and writes the signature (RSASSA-PKCS1-v1_5, raw) to standard
/// output. Every answer is verified before it is used.
pub struct CommandSigner {
    command: String,
    key: &'static str,
    input: SignerInput,
    public: PublicKey,
    hidden: Option<String>,
    /// Held while the command runs: many a token takes one session at a time.
    running: Mutex<()>,
}

impl CommandSigner {
    /// A command for the key with this public half; `key` is what it is called in `KAIROS_INIT_KEY`.
    #[must_use]
    pub fn new(command: &str, key: &'static str, input: SignerInput, public: PublicKey) -> Self {
        Self { command: command.to_owned(), key, input, public, hidden: None, running: Mutex::new(()) }
    }

    /// The command does not see this environment variable.
    #[must_use]
    pub fn without(self, hidden: Option<String>) -> Self {
        Self { hidden, ..self }
    }

    fn run(&self, hash: Hash, digest: &[u8]) -> Result<Vec<u8>, String> {
        let _running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let mut command = Command::new("/bin/sh");
        if let Some(hidden) = &self.hidden {
            command.env_remove(hidden);
        }
        let mut child = command
            .args(["-c", &self.command])
            .env("KAIROS_INIT_KEY", self.key)
            .env("KAIROS_INIT_HASH", hash.as_str())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("/bin/sh cannot be started: {error}"))?;
        let mut input = match self.input {
            SignerInput::Digest => Vec::new(),
            SignerInput::DigestInfo => hash.digest_info_prefix().to_vec(),
        };
        input.extend(digest);
        if let Some(mut stdin) = child.stdin.take()
            && let Err(error) = stdin.write_all(&input)
            && error.kind() != std::io::ErrorKind::BrokenPipe
        {
            return Err(format!("it does not take the digest: {error}"));
        }
        let mut answer = Vec::new();
        if let Some(stdout) = child.stdout.take() {
            // What is beyond the limit makes the command fail at its next write.
            stdout.take(ANSWER_LIMIT).read_to_end(&mut answer).map_err(|error| error.to_string())?;
        }
        let status = child.wait().map_err(|error| error.to_string())?;
        match status.success() {
            true => Ok(answer),
            false => Err(format!("it ended with {status}; what it said is above")),
        }
    }
}

impl fmt::Debug for CommandSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The command may hold a PIN.
        f.debug_struct("CommandSigner").field("key", &self.key).field("public", &self.public).finish_non_exhaustive()
    }
}

impl Signer for CommandSigner {
    fn name(&self) -> &str {
        match self.key {
            "pcr" => "the PCR key behind --signer",
            _ => "the Secure Boot key behind --signer",
        }
    }

    fn public_key(&self) -> &PublicKey {
        &self.public
    }

    fn sign(&self, hash: Hash, digest: &[u8]) -> Result<Vec<u8>, SignError> {
        let failed = |reason: String| SignError::Signing { name: self.name().to_owned(), reason };
        let signature = self.run(hash, digest).map_err(failed)?;
        verify(&self.public, hash, digest, &signature).map_err(|reason| {
            failed(format!(
                "its answer of {} bytes {reason}; it must write the raw signature of the digest (RSASSA-PKCS1-v1_5) and nothing \
                 else, made with the key of KAIROS_INIT_KEY={}",
                signature.len(),
                self.key
            ))
        })?;
        Ok(signature)
    }
}

/// A signature that was made elsewhere, for one digest.
#[derive(Debug, Clone)]
pub struct GivenSignature {
    name: String,
    public: PublicKey,
    signature: Vec<u8>,
}

impl GivenSignature {
    /// The signature (raw, RSASSA-PKCS1-v1_5) by the key with this public half; `name` is for messages.
    #[must_use]
    pub fn new(name: &str, public: PublicKey, signature: Vec<u8>) -> Self {
        Self { name: name.to_owned(), public, signature }
    }
}

impl Signer for GivenSignature {
    fn name(&self) -> &str {
        &self.name
    }

    fn public_key(&self) -> &PublicKey {
        &self.public
    }

    fn sign(&self, hash: Hash, digest: &[u8]) -> Result<Vec<u8>, SignError> {
        verify(&self.public, hash, digest, &self.signature).map_err(|reason| SignError::Signing {
            name: self.name.clone(),
            reason: format!("what it holds {reason}"),
        })?;
        Ok(self.signature.clone())
    }
}

/// Whether a signature is right: what others made is not trusted.
///
/// # Errors
/// What is wrong with it, to be put behind "its answer".
pub fn verify(key: &PublicKey, hash: Hash, digest: &[u8], signature: &[u8]) -> Result<(), String> {
    let public = RsaPublicKey::from_public_key_der(key.spki_der()).map_err(|error| error.to_string())?;
    public
        .verify(hash.padding(), digest, signature)
        .map_err(|_| "is no signature of this digest by the public key that was given".to_owned())
}
