//! What enrols keys in a machine: the contents of PK, KEK and db, and the signed updates that put them there.

use std::path::Path;

use super::certificate::parse_certificates;
use super::guid::Guid;
use super::keys::read;
use super::microsoft;
use super::pem;
use super::signature_list::{Signature, SignatureEntry, SignatureList};
use super::variables::{SignedUpdate, Variable, sign_variable};
use super::{Identity, SignError};

/// What goes into KEK and db beside one's own certificate.
#[derive(Debug, Clone, Default)]
pub struct EnrolmentRequest {
    /// The owner of one's own certificates; each has one derived from its SHA-256 where none is named.
    pub owner: Option<Guid>,
    /// Leaves out Microsoft's certificates. A machine with option ROMs signed by Microsoft (graphics, network, storage)
    /// may not come up again: only for machines that are known to have none.
    pub without_microsoft: bool,
    /// More entries for KEK.
    pub kek: Vec<SignatureEntry>,
    /// More entries for db.
    pub db: Vec<SignatureEntry>,
    /// When the updates are signed: seconds since 1970, UTC. The caller reads the clock.
    pub time: u64,
}

/// One variable's contents and the update that enrols it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnrolmentFiles {
    /// Signature lists: `.esl`.
    pub list: Vec<u8>,
    /// The signed update: `.auth`.
    pub update: Vec<u8>,
}

/// The files that enrol three certificates: PK and KEK signed by the platform key, db by the key exchange key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Enrolment {
    /// The platform key.
    pub pk: EnrolmentFiles,
    /// The key exchange keys.
    pub kek: EnrolmentFiles,
    /// What may start.
    pub db: EnrolmentFiles,
}

impl Enrolment {
    /// Makes the files. The same keys and request give the same bytes.
    ///
    /// # Errors
    /// What [`sign_variable`] and [`SignatureList::encode`] give.
    pub fn new(pk: &Identity, kek: &Identity, db: &[u8], request: &EnrolmentRequest) -> Result<Self, SignError> {
        let own = |identity: &Identity| identity.chain().ders().next().unwrap_or_default().to_vec();
        let files = |variable, certificate, more: &[SignatureEntry], signer: &Identity| {
            let mut entries = vec![entry(certificate, request.owner)];
            if !request.without_microsoft {
                entries.extend(microsoft::entries(variable));
            }
            for entry in more {
                // The same certificate under another owner's name is still the same.
                if !entries.iter().any(|known| known.signature == entry.signature) {
                    entries.push(entry.clone());
                }
            }
            let list = SignatureList::encode(&entries)?;
            let update = sign_variable(variable, &list, request.time, signer)?;
            Ok::<_, SignError>(EnrolmentFiles { list, update })
        };
        Ok(Self {
            pk: files(Variable::Pk, own(pk), &[], pk)?,
            kek: files(Variable::Kek, own(kek), &request.kek, pk)?,
            db: files(Variable::Db, db.to_vec(), &request.db, kek)?,
        })
    }
}

fn entry(certificate: Vec<u8>, owner: Option<Guid>) -> SignatureEntry {
    let owner = owner.unwrap_or_else(|| Guid::derived(&certificate));
    SignatureEntry { owner, signature: Signature::X509(certificate) }
}

/// Reads what shall be trusted as well: certificates in PEM or DER, or signature lists as a machine exports them (`.esl`,
/// `.auth`, a file of efivarfs). `owner` is for certificates; a signature list names its own owners.
///
/// # Errors
/// [`SignError::Read`], [`SignError::TooLarge`]; [`SignError::Unexpected`] or [`SignError::Damaged`] for what is none of
/// these, or holds no entry.
pub fn load_entries(path: &Path, owner: Option<Guid>) -> Result<Vec<SignatureEntry>, SignError> {
    let name = path.display().to_string();
    let (bytes, _) = read(path, "certificates or signature lists")?;
    // DER of a certificate begins with a SEQUENCE of two length bytes; no list and no update does.
    if pem::is_pem(&bytes) || bytes.starts_with(&[0x30, 0x82]) || bytes.is_empty() {
        return Ok(parse_certificates(&bytes, &name)?.into_iter().map(|der| entry(der, owner)).collect());
    }
    if SignedUpdate::is_one(&bytes) {
        // It is signed, so it can be told whether it was changed.
        SignedUpdate::parse(&bytes, &name)?.signed_for()?;
    }
    let entries = SignatureList::parse(&bytes, &name)?;
    match entries.is_empty() {
        true => Err(SignError::Damaged { name, reason: "it has no entry".to_owned() }),
        false => Ok(entries),
    }
}
