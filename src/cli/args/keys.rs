//! The flags of `keys ...`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use kairos_init::boot::sign::Guid;

use super::PassphraseArgs;

/// `keys ...`.
#[derive(Debug, Subcommand)]
pub(crate) enum KeysCommand {
    /// Make Secure Boot keys (PK, KEK, db), the files that enrol them, and a PCR key; never overwrites
    Generate(KeysGenerateArgs),
    /// Make the contents of a Secure Boot variable, or with a key the signed update that replaces it
    ///
    /// For machines that have keys already: what is named is all that the variable holds afterwards. PK and KEK are signed by
    /// PK, db and dbx by KEK.
    Variable(KeysVariableArgs),
    /// Show what a file of keys, certificates or Secure Boot variables holds
    Show {
        /// A private key or certificates (PEM, DER), signature lists (.esl), a signed update (.auth), a file of efivarfs
        file: PathBuf,
        /// Passphrase of an encrypted private key.
        #[command(flatten)]
        passphrase: PassphraseArgs,
    },
}

/// `keys generate`.
#[derive(Debug, Args)]
pub(crate) struct KeysGenerateArgs {
    /// Folder for the keys
    #[arg(long, short, value_name = "DIR", default_value = "keys")]
    pub(crate) output: PathBuf,
    /// Common name of the certificates: NAME PK, NAME KEK, NAME db
    #[arg(long, value_name = "NAME", default_value = "Kairos")]
    pub(crate) name: String,
    /// Organization in the certificates
    #[arg(long, value_name = "TEXT")]
    pub(crate) organization: Option<String>,
    /// Country in the certificates: two capital letters
    #[arg(long, value_name = "CC")]
    pub(crate) country: Option<String>,
    /// Days until the certificates expire
    #[arg(long, short, value_name = "DAYS", default_value_t = 3650, value_parser = clap::value_parser!(u32).range(1..=36500))]
    pub(crate) expiration_in_days: u32,
    /// Size of the Secure Boot keys in bits
    #[arg(long, value_name = "BITS", default_value = "2048", value_parser = ["2048", "3072", "4096"])]
    pub(crate) bits: String,
    /// Trust this in db as well: a certificate (PEM, DER), or what a machine exports (.esl, .auth, efivarfs); repeatable
    #[arg(long, value_name = "FILE")]
    pub(crate) custom_db_cert: Vec<PathBuf>,
    /// Trust this in KEK as well; repeatable
    #[arg(long, value_name = "FILE")]
    pub(crate) custom_kek_cert: Vec<PathBuf>,
    /// A folder with a machine's variables in files named db and KEK: the same as naming each
    #[arg(long, value_name = "DIR")]
    pub(crate) custom_cert_dir: Option<PathBuf>,
    /// GUID of the owner of the certificates [default: derived from each certificate]
    #[arg(long, value_name = "GUID")]
    pub(crate) owner: Option<Guid>,
    /// Leave Microsoft's certificates out of db and KEK: cards with an option ROM (graphics, network, storage) then do not
    /// start, and a machine that cannot do without may show no picture any more, not even its setup
    #[arg(
        long = "without-microsoft-certificates-which-can-brick-machines",
        alias = "skip-microsoft-certs-I-KNOW-WHAT-IM-DOING"
    )]
    pub(crate) without_microsoft: bool,
    /// Time of signing in the .auth files (seconds since 1970) [default: $SOURCE_DATE_EPOCH, else now]; machines refuse an earlier one than they have
    #[arg(long, value_name = "SECONDS")]
    pub(crate) source_date_epoch: Option<u64>,
}

/// `keys variable`.
#[derive(Debug, Args)]
pub(crate) struct KeysVariableArgs {
    /// The variable
    #[arg(value_enum, value_name = "PK|KEK|db|dbx")]
    pub(crate) variable: VariableArg,
    /// What it shall hold: certificates (PEM, DER), signature lists (.esl), updates (.auth); none: the variable is deleted
    #[arg(value_name = "FILE")]
    pub(crate) entries: Vec<PathBuf>,
    /// Microsoft's certificates for db or KEK as well
    #[arg(long)]
    pub(crate) microsoft_certificates: bool,
    /// Private key to sign the update with: RSA, PEM or DER [default: plain signature lists are written]
    #[arg(long, value_name = "FILE", requires = "cert")]
    pub(crate) key: Option<PathBuf>,
    /// Certificate of that key: PEM or DER
    #[arg(long, value_name = "FILE", requires = "key")]
    pub(crate) cert: Option<PathBuf>,
    /// Passphrase of an encrypted private key.
    #[command(flatten)]
    pub(crate) passphrase: PassphraseArgs,
    /// GUID of the owner of the certificates [default: derived from each certificate]
    #[arg(long, value_name = "GUID")]
    pub(crate) owner: Option<Guid>,
    /// Time of signing (seconds since 1970) [default: $SOURCE_DATE_EPOCH, else now]; machines refuse an update that is not later than the one before
    #[arg(long, value_name = "SECONDS")]
    pub(crate) source_date_epoch: Option<u64>,
    /// Where to write it; an existing file is not overwritten
    #[arg(long, short, value_name = "FILE")]
    pub(crate) output: PathBuf,
}

/// A variable of Secure Boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum VariableArg {
    /// The platform key
    #[value(name = "PK")]
    Pk,
    /// The key exchange keys
    #[value(name = "KEK")]
    Kek,
    /// What may start
    #[value(name = "db")]
    Db,
    /// What must not start
    #[value(name = "dbx")]
    Dbx,
}
