//! AuroraBoot's `build-uki` and `genkey`: the same flags, so that scripts need another program's name and nothing else.
//!
//! Two differences are meant. Switches take `=true` and `=false` as there; a comma in `--extra-cmdline` is part of the command line
//! (`console=ttyS0,115200`) and does not make two of it.

use std::path::PathBuf;

use anyhow::{Result, anyhow, bail};
use clap::{Args, ValueEnum};
use kairos_init::image::esp::{CmdlineLayout, Extra, SecureBootEnroll, Single};
use kairos_init::image::parse_name;

/// `build-uki`.
#[derive(Debug, Args)]
pub(crate) struct BuildUkiArgs {
    /// The root file system: dir:PATH, or a folder
    #[arg(value_name = "SOURCE")]
    pub(crate) source: String,
    /// Base name of the ISO
    #[arg(long, short, value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// Folder for the artifact
    #[arg(long, short = 'd', value_name = "DIR", default_value = ".")]
    pub(crate) output_dir: PathBuf,
    /// What to make
    #[arg(long, short = 't', value_enum, value_name = "TYPE", default_value = "uki")]
    pub(crate) output_type: OutputTypeArg,
    /// Folder whose files are laid over the root; kernel, modules, stub and boot manager are the root's all the same
    #[arg(long, short = 'o', value_name = "DIR")]
    pub(crate) overlay_rootfs: Option<PathBuf>,
    /// Folder whose files are put into the ISO
    #[arg(long, short = 'i', value_name = "DIR")]
    pub(crate) overlay_iso: Option<PathBuf>,
    /// Title of the boot entries
    #[arg(long, value_name = "TEXT", default_value = "Kairos")]
    pub(crate) boot_branding: String,
    /// Write the release into the boot entries
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_value_t = false, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub(crate) include_version_in_config: bool,
    /// Write what each boot entry adds to the command line into it
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_value_t = false, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub(crate) include_cmdline_in_config: bool,
    /// A further boot entry with this added to the command line; repeatable
    #[arg(long, short = 'c', value_name = "TEXT", conflicts_with = "extend_cmdline", allow_hyphen_values = true)]
    pub(crate) extra_cmdline: Vec<String>,
    /// Add this to the command line
    #[arg(long, short = 'x', value_name = "TEXT", allow_hyphen_values = true)]
    pub(crate) extend_cmdline: Option<String>,
    /// A further UKI of its own with this added to the command line, after a title and a colon; repeatable
    #[arg(long, short = 's', value_name = "TITLE: TEXT", allow_hyphen_values = true)]
    pub(crate) single_efi_cmdline: Vec<String>,
    /// Folder with db.auth, KEK.auth and PK.auth, for the boot manager to enrol
    #[arg(long, value_name = "DIR")]
    pub(crate) public_keys: Option<PathBuf>,
    /// Private key for the PCR policies
    #[arg(long, value_name = "FILE")]
    pub(crate) tpm_pcr_private_key: String,
    /// Private key for the Secure Boot signatures
    #[arg(long, value_name = "FILE")]
    pub(crate) sb_key: String,
    /// Certificate of that key
    #[arg(long, value_name = "FILE")]
    pub(crate) sb_cert: PathBuf,
    /// Warn of UKIs that are larger, in MB
    #[arg(long, value_name = "MB", default_value_t = 1024)]
    pub(crate) efi_size_warn: u64,
    /// Whether the boot manager enrols the keys
    #[arg(long, value_enum, value_name = "WHEN", default_value = "if-safe")]
    pub(crate) secure_boot_enroll: SecureBootEnrollArg,
    /// A bitmap to show while booting (BMP)
    #[arg(long, value_name = "FILE")]
    pub(crate) splash: Option<PathBuf>,
    /// Further command lines as profiles of one UKI
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_value_t = false, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub(crate) cmd_lines_v2: bool,
    /// Take stub and boot manager from the root
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_value_t = false, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub(crate) sdboot_in_source: bool,
    /// The boot manager, systemd-boot [default: the root's own]; not AuroraBoot's, which brings one
    #[arg(long, value_name = "FILE")]
    pub(crate) loader: Option<PathBuf>,
    /// The systemd stub [default: the root's own]; not AuroraBoot's, which brings one
    #[arg(long, value_name = "FILE")]
    pub(crate) stub: Option<PathBuf>,
    /// Time stamp of everything in the image (seconds since 1970) [default: $SOURCE_DATE_EPOCH, else 1980-01-01]
    #[arg(long, value_name = "SECONDS", hide = true)]
    pub(crate) source_date_epoch: Option<i64>,
    /// Is taken and has no effect: no registry is asked
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_value_t = false, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub(crate) allow_insecure_registries: bool,
}

/// `--output-type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum OutputTypeArg {
    /// An ISO
    Iso,
    /// A container image: not made yet
    Container,
    /// The files of the EFI system partition
    Uki,
}

/// `--secure-boot-enroll`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum SecureBootEnrollArg {
    /// Never
    Off,
    /// Where the user chooses it
    Manual,
    /// By itself in virtual machines
    IfSafe,
    /// By itself everywhere
    Force,
}

impl From<SecureBootEnrollArg> for SecureBootEnroll {
    fn from(arg: SecureBootEnrollArg) -> Self {
        match arg {
            SecureBootEnrollArg::Off => Self::Off,
            SecureBootEnrollArg::Manual => Self::Manual,
            SecureBootEnrollArg::IfSafe => Self::IfSafe,
            SecureBootEnrollArg::Force => Self::Force,
        }
    }
}

/// What `build-uki` is asked for, checked, without clap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BuildUki {
    /// The root.
    pub(crate) root: PathBuf,
    /// Base name of the ISO; by default it is made of the root's release.
    pub(crate) name: Option<String>,
    /// Where the artifact goes.
    pub(crate) output_dir: PathBuf,
    /// An ISO, or the tree alone.
    pub(crate) iso: bool,
    /// Laid over the root.
    pub(crate) overlay_rootfs: Option<PathBuf>,
    /// Put into the ISO.
    pub(crate) overlay_iso: Option<PathBuf>,
    /// Title of the entries.
    pub(crate) branding: String,
    /// Writes the key `version`.
    pub(crate) include_version: bool,
    /// Writes the key `cmdline`.
    pub(crate) include_cmdline: bool,
    /// Further command lines.
    pub(crate) extra: Vec<Extra>,
    /// Added to the default command line.
    pub(crate) extend: Option<String>,
    /// UKIs of their own.
    pub(crate) single: Vec<Single>,
    /// Where further command lines go.
    pub(crate) layout: CmdlineLayout,
    /// Folder of `PK.auth`, `KEK.auth` and `db.auth`.
    pub(crate) public_keys: Option<PathBuf>,
    /// For the PCR policies.
    pub(crate) pcr_key: PathBuf,
    /// For Secure Boot.
    pub(crate) sb_key: PathBuf,
    /// Its certificate.
    pub(crate) sb_cert: PathBuf,
    /// A UKI of more bytes is warned of.
    pub(crate) size_warning: u64,
    /// Whether keys are enrolled.
    pub(crate) enroll: SecureBootEnroll,
    /// A bitmap.
    pub(crate) splash: Option<PathBuf>,
    /// Time stamp of everything.
    pub(crate) source_date_epoch: Option<i64>,
    /// systemd-boot; the root's where none is named.
    pub(crate) loader: Option<PathBuf>,
    /// systemd's stub; the root's where none is named.
    pub(crate) stub: Option<PathBuf>,
}

impl BuildUkiArgs {
    /// Checks what AuroraBoot checks, and says what is not to be had here.
    ///
    /// # Errors
    /// A source that is no folder, an output that cannot be made, folders and files that are not there, keys on a token.
    pub(crate) fn resolve(self) -> Result<BuildUki> {
        let root = source(&self.source)?;
        if self.output_type == OutputTypeArg::Container {
            bail!("--output-type container: container images are not made yet; use uki or iso");
        }
        let iso = self.output_type == OutputTypeArg::Iso;
        if self.overlay_iso.is_some() && !iso {
            bail!("--overlay-iso is for --output-type iso");
        }
        for (option, folder) in [("overlay-rootfs", &self.overlay_rootfs), ("overlay-iso", &self.overlay_iso)] {
            if let Some(folder) = folder.as_ref().filter(|folder| !folder.is_dir()) {
                bail!("--{option} {}: there is no such folder", folder.display());
            }
        }
        if let Some(folder) = &self.public_keys {
            for name in ["db.auth", "KEK.auth", "PK.auth"] {
                if !folder.join(name).is_file() {
                    bail!("--public-keys {}: there is no {name} in it; `genkey` makes all three", folder.display());
                }
            }
        }
        if self.sdboot_in_source && (self.loader.is_some() || self.stub.is_some()) {
            bail!("--sdboot-in-source takes stub and boot manager from the root: leave it out, or --loader and --stub");
        }
        let Some(size_warning) = self.efi_size_warn.checked_mul(1 << 20) else {
            bail!("--efi-size-warn {}: that is more than any file has", self.efi_size_warn);
        };
        let name = self.name.filter(|name| !name.is_empty());
        Ok(BuildUki {
            root,
            name: name.map(|name| parse_name(&name)).transpose().map_err(|problem| anyhow!("--name: {problem}"))?,
            output_dir: self.output_dir,
            iso,
            overlay_rootfs: self.overlay_rootfs,
            overlay_iso: self.overlay_iso,
            branding: self.boot_branding,
            include_version: self.include_version_in_config,
            include_cmdline: self.include_cmdline_in_config,
            extra: self.extra_cmdline.into_iter().map(|arguments| Extra { title: None, arguments }).collect(),
            extend: self.extend_cmdline.filter(|text| !text.is_empty()),
            single: self.single_efi_cmdline.iter().map(|text| Single::parse(text)).collect(),
            layout: if self.cmd_lines_v2 { CmdlineLayout::Profiles } else { CmdlineLayout::Entries },
            public_keys: self.public_keys,
            pcr_key: key_file("tpm-pcr-private-key", &self.tpm_pcr_private_key)?,
            sb_key: key_file("sb-key", &self.sb_key)?,
            sb_cert: self.sb_cert,
            size_warning,
            enroll: self.secure_boot_enroll.into(),
            splash: self.splash,
            source_date_epoch: self.source_date_epoch,
            loader: self.loader,
            stub: self.stub,
        })
    }
}

/// `dir:PATH`, or the path of a folder.
fn source(text: &str) -> Result<PathBuf> {
    if let Some(path) = text.strip_prefix("dir:") {
        let path = PathBuf::from(path);
        if !path.is_dir() {
            bail!("{text}: there is no such folder");
        }
        return Ok(path);
    }
    if std::path::Path::new(text).is_dir() {
        return Ok(PathBuf::from(text));
    }
    bail!(
        "{text} is no folder: container images (docker:, oci:, file:, ocifile:) are not read yet; unpack it and name the folder \
         (example: dir:/path/to/root)"
    )
}

fn key_file(option: &str, text: &str) -> Result<PathBuf> {
    if text.starts_with("pkcs11:") {
        bail!(
            "--{option} {text}: keys on a token are used through a command that signs; use the run with --signer (the README shows \
             one for PKCS #11)"
        );
    }
    Ok(PathBuf::from(text))
}

/// `genkey`.
#[derive(Debug, Args)]
pub(crate) struct GenkeyArgs {
    /// Name in the certificates: NAME-PK, NAME-KEK, NAME-db
    #[arg(value_name = "NAME")]
    pub(crate) name: String,
    /// Folder for the keys
    #[arg(long, short, value_name = "DIR", default_value = "keys/")]
    pub(crate) output: PathBuf,
    /// Days until the certificates expire
    #[arg(long, short, value_name = "DAYS", default_value_t = 365, value_parser = clap::value_parser!(u32).range(1..=36500))]
    pub(crate) expiration_in_days: u32,
    /// Leave Microsoft's certificates out of db and KEK: a machine whose cards need them may show no picture any more
    #[arg(long = "skip-microsoft-certs-I-KNOW-WHAT-IM-DOING", num_args = 0..=1, require_equals = true, default_value_t = false, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub(crate) skip_microsoft: bool,
    /// A folder with a machine's variables in files named db and KEK, to be trusted as well
    #[arg(long, value_name = "DIR")]
    pub(crate) custom_cert_dir: Option<PathBuf>,
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Whole {
        #[command(flatten)]
        args: BuildUkiArgs,
    }

    const KEYS: [&str; 6] = ["--tpm-pcr-private-key", "pcr.pem", "--sb-key", "db.key", "--sb-cert", "db.pem"];

    fn parse(more: &[&str]) -> Result<BuildUki> {
        Whole::try_parse_from(["build-uki"].iter().chain(&KEYS).chain(more))?.args.resolve()
    }

    #[test]
    fn defaults_are_auroraboots() {
        let built = parse(&["dir:/usr"]).unwrap();
        let expected = BuildUki {
            source_date_epoch: None,
            root: "/usr".into(),
            name: None,
            output_dir: ".".into(),
            iso: false,
            overlay_rootfs: None,
            overlay_iso: None,
            branding: "Kairos".to_owned(),
            include_version: false,
            include_cmdline: false,
            extra: Vec::new(),
            extend: None,
            single: Vec::new(),
            layout: CmdlineLayout::Entries,
            public_keys: None,
            pcr_key: "pcr.pem".into(),
            sb_key: "db.key".into(),
            sb_cert: "db.pem".into(),
            size_warning: 1 << 30,
            enroll: SecureBootEnroll::IfSafe,
            splash: None,
            loader: None,
            stub: None,
        };
        assert_eq!(built, expected);
        assert_eq!(parse(&["/usr"]).unwrap(), expected);
    }

    #[test]
    fn short_flags_and_switches() {
        let built = parse(&[
            "-n",
            "x",
            "-d",
            "/out",
            "-t",
            "iso",
            "-o",
            "/usr",
            "-i",
            "/etc",
            "-c",
            "console=ttyS0,115200",
            "-c",
            "b",
            "-s",
            "T: u",
            "--cmd-lines-v2=true",
            "--include-version-in-config",
            "--include-cmdline-in-config=false",
            "--efi-size-warn",
            "2048",
            "--secure-boot-enroll",
            "force",
            "dir:/usr",
        ])
        .unwrap();
        assert_eq!((built.name.as_deref(), built.iso, built.layout), (Some("x"), true, CmdlineLayout::Profiles));
        assert_eq!(
            built.extra.iter().map(|extra| extra.arguments.as_str()).collect::<Vec<_>>(),
            ["console=ttyS0,115200", "b"]
        );
        assert_eq!(built.single, [Single { title: Some("T".to_owned()), arguments: " u".to_owned() }]);
        assert_eq!((built.include_version, built.include_cmdline), (true, false));
        assert_eq!((built.size_warning, built.enroll), (2 << 30, SecureBootEnroll::Force));
        assert_eq!(parse(&["-x", "more=1", "/usr"]).unwrap().extend.as_deref(), Some("more=1"));
    }

    #[test]
    fn what_is_not_to_be_had_is_told() {
        for (more, wanted) in [
            (&["docker:some/image"][..], "container images"),
            (&["some/image:v1"], "container images"),
            (&["dir:/nowhere"], "no such folder"),
            (&["-t", "container", "/usr"], "container"),
            (&["-i", "/etc", "/usr"], "--overlay-iso is for"),
            (&["-o", "/nowhere", "/usr"], "--overlay-rootfs /nowhere"),
            (&["--public-keys", "/usr", "/usr"], "no db.auth"),
            (&["-x", "a", "-c", "b", "/usr"], "cannot be used with"),
            (&["--sdboot-in-source", "--loader", "x", "/usr"], "--sdboot-in-source takes"),
            (&["-t", "raw", "/usr"], "possible values"),
            (&[], "required"),
        ] {
            let error = format!("{:#}", parse(more).unwrap_err());
            assert!(error.contains(wanted), "{more:?}: {error}");
        }
        let token = ["build-uki", "--tpm-pcr-private-key", "x", "--sb-key", "pkcs11:token=x", "--sb-cert", "y", "/usr"];
        let error = Whole::try_parse_from(token).unwrap().args.resolve().unwrap_err().to_string();
        assert!(error.contains("--signer"), "{error}");
    }
}
