//! The passphrase of an encrypted private key, and opening such a key: PKCS#8 `EncryptedPrivateKeyInfo` with PBES2
//! (RFC 5958, RFC 8018), which is what `openssl genpkey -aes256` and `openssl pkcs8 -topk8` write.
//!
//! Left out: the older schemes, which derive the key with MD5 or one round of anything (RFC 1421's `Proc-Type`, PBES1).
//! What the derived key leaves on the stack is wiped by nobody: the crate that does the arithmetic does not offer it.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::PathBuf;
use std::str::FromStr;

use der::Decode;
use pkcs8::EncryptedPrivateKeyInfo;
use pkcs8::pkcs5::pbes2::Kdf;
use pkcs8::pkcs5::{EncryptionScheme, Error};
use zeroize::Zeroizing;

use super::SignError;

/// Longest passphrase, bytes: OpenSSL's limit.
const LIMIT: usize = 1024;
/// Most rounds of PBKDF2 that are done: about ten seconds.
const MAX_ITERATIONS: u32 = 10_000_000;
/// Most memory that scrypt may ask for, bytes. OpenSSL's own files ask for 16 MiB, and it refuses more than 32.
const MAX_SCRYPT_MEMORY: u64 = 256 << 20;
/// Most passes of scrypt over that memory.
const MAX_SCRYPT_PASSES: u16 = 16;

/// A passphrase. Wiped when dropped, printed by nothing.
#[derive(Clone)]
pub struct Passphrase(Zeroizing<Vec<u8>>);

impl Passphrase {
    /// The first line of these bytes, as OpenSSL takes it from a file. `from` is where they came from, for messages.
    ///
    /// # Errors
    /// [`SignError::NoPassphrase`] if the line is empty or longer than 1024 bytes.
    pub fn new(bytes: &[u8], from: &str) -> Result<Self, SignError> {
        let no = |reason: String| SignError::NoPassphrase { from: from.to_owned(), reason };
        let line = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        match line.len() {
            0 => Err(no("it is empty".to_owned())),
            1..=LIMIT => Ok(Self(Zeroizing::new(line.to_vec()))),
            _ => Err(no(format!("it is longer than {LIMIT} bytes"))),
        }
    }
}

impl fmt::Debug for Passphrase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Passphrase(..)")
    }
}

/// Where a passphrase is to be found, written `file:PATH`, `fd:NUMBER` or `env:NAME`. Never the passphrase itself: every
/// user of a machine can read the command lines of all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PassphraseSource {
    /// The first line of a file.
    File(PathBuf),
    /// The first line of what an open file descriptor gives.
    Descriptor(u32),
    /// An environment variable.
    Environment(String),
}

impl FromStr for PassphraseSource {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once(':') {
            Some(("file", path)) if !path.is_empty() => Ok(Self::File(path.into())),
            Some(("fd", number)) => {
                number.parse().map(Self::Descriptor).map_err(|_| "fd: wants the number of an open file".to_owned())
            }
            Some(("env", name)) if !name.is_empty() && !name.contains('=') => Ok(Self::Environment(name.to_owned())),
            // The text is not repeated: it may be a passphrase that was put there by mistake.
            _ => Err("give file:PATH, fd:NUMBER or env:NAME, not the passphrase itself".to_owned()),
        }
    }
}

impl fmt::Display for PassphraseSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "file {}", path.display()),
            Self::Descriptor(number) => write!(f, "file descriptor {number}"),
            Self::Environment(name) => write!(f, "environment variable {name}"),
        }
    }
}

impl PassphraseSource {
    /// Reads the passphrase. `environment` looks up a variable: the library itself has no environment.
    ///
    /// # Errors
    /// [`SignError::NoPassphrase`].
    pub fn read(&self, environment: impl FnOnce(&str) -> Option<Vec<u8>>) -> Result<Passphrase, SignError> {
        let from = self.to_string();
        let no = |reason: String| SignError::NoPassphrase { from: from.clone(), reason };
        let path = match self {
            Self::File(path) => path.clone(),
            // Opening it anew needs no unsafe code; for a pipe that is the same as reading from it.
            Self::Descriptor(number) => PathBuf::from(format!("/proc/self/fd/{number}")),
            Self::Environment(name) => {
                let value = environment(name).ok_or_else(|| no("it is not set".to_owned()))?;
                return Passphrase::new(&Zeroizing::new(value), &from);
            }
        };
        let file = File::open(path).map_err(|error| no(error.to_string()))?;
        // All room at once: a vector that grows leaves copies behind.
        let mut buffer = Zeroizing::new([0; LIMIT + 2]);
        let length = read_line(file, buffer.as_mut()).map_err(|error| no(error.to_string()))?;
        Passphrase::new(buffer.get(..length).unwrap_or_default(), &from)
    }
}

/// Reads until the first line ends, the file does, or the buffer is full.
fn read_line(mut file: impl Read, buffer: &mut [u8]) -> std::io::Result<usize> {
    let mut length = 0;
    while let Some(room) = buffer.get_mut(length..).filter(|room| !room.is_empty()) {
        let read = match file.read(room) {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            read => read?,
        };
        length += read;
        if read == 0 || buffer.get(..length).is_some_and(|read| read.contains(&b'\n')) {
            break;
        }
    }
    Ok(length)
}

/// Opens `EncryptedPrivateKeyInfo`; gives back `PrivateKeyInfo`. `name` is for messages.
///
/// # Errors
/// [`SignError::Encrypted`] without a passphrase, [`SignError::Passphrase`] with a wrong one, [`SignError::Encryption`].
pub(super) fn open(der: &[u8], name: &str, passphrase: Option<&Passphrase>) -> Result<Zeroizing<Vec<u8>>, SignError> {
    let unknown = |way: String| SignError::Encryption { name: name.to_owned(), way };
    let info =
        EncryptedPrivateKeyInfo::from_der(der).map_err(|_| unknown("a scheme other than PBES2 with AES".into()))?;
    check(&info.encryption_algorithm).map_err(unknown)?;
    let Some(Passphrase(passphrase)) = passphrase else {
        return Err(SignError::Encrypted { name: name.to_owned() });
    };
    let wrong = || SignError::Passphrase { name: name.to_owned() };
    // Decrypted here rather than by `EncryptedPrivateKeyInfo`, which would leave a copy behind where the end is wrong.
    let mut buffer = Zeroizing::new(info.encrypted_data.to_vec());
    let length = match info.encryption_algorithm.decrypt_in_place(passphrase.as_slice(), &mut buffer) {
        Ok(opened) => opened.len(),
        // CBC notices most wrong keys by the padding, which comes out as a failure to decrypt.
        Err(Error::DecryptFailed | Error::EncryptFailed) => return Err(wrong()),
        Err(error) => return Err(unknown(error.to_string())),
    };
    buffer.truncate(length);
    // And one in 256 by what is behind it.
    match pkcs8::PrivateKeyInfo::from_der(&buffer) {
        Ok(_) => Ok(buffer),
        Err(_) => Err(wrong()),
    }
}

/// Refuses what would take the machine's time or memory, and what is not read, before a passphrase is asked for.
fn check(scheme: &EncryptionScheme<'_>) -> Result<(), String> {
    let EncryptionScheme::Pbes2(parameters) = scheme else { return Err("PBES1".to_owned()) };
    match &parameters.kdf {
        Kdf::Pbkdf2(kdf) if kdf.iteration_count > MAX_ITERATIONS => {
            Err(format!("{} rounds of PBKDF2, more than {MAX_ITERATIONS}", kdf.iteration_count))
        }
        Kdf::Scrypt(kdf) => {
            let memory = u64::from(kdf.block_size).saturating_mul(128).saturating_mul(kdf.cost_parameter);
            match memory <= MAX_SCRYPT_MEMORY && kdf.parallelization <= MAX_SCRYPT_PASSES {
                true => Ok(()),
                false => Err(format!("scrypt with {memory} bytes of memory in {} passes", kdf.parallelization)),
            }
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_named_and_the_passphrase_never_repeated() {
        for (text, source) in [
            ("file:/a:b", PassphraseSource::File("/a:b".into())),
            ("fd:3", PassphraseSource::Descriptor(3)),
            ("env:KEY", PassphraseSource::Environment("KEY".to_owned())),
        ] {
            assert_eq!(text.parse(), Ok(source));
        }
        for wrong in ["hunter2", "pass:hunter2", "fd:hunter2", "file:", "env:", ""] {
            let error = wrong.parse::<PassphraseSource>().unwrap_err();
            assert!(!error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn the_first_line_counts() {
        let text = |bytes: &[u8]| Passphrase::new(bytes, "x").map(|passphrase| passphrase.0.to_vec());
        assert_eq!(text(b"a b\r\nsecond\n").unwrap(), b"a b");
        assert_eq!(text(b"a b").unwrap(), b"a b");
        assert_eq!(text(b"\nx").unwrap_err().to_string(), "cannot read the passphrase from x: it is empty");
        assert!(text(&[b'a'; LIMIT]).is_ok());
        assert!(text(&[b'a'; LIMIT + 1]).unwrap_err().to_string().ends_with("it is longer than 1024 bytes"));
        assert_eq!(format!("{:?}", Passphrase::new(b"hunter2", "x").unwrap()), "Passphrase(..)");
    }
}
