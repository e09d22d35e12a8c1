//! The tree of an image without a role: what AuroraBoot puts into `efiboot.img` and the agent copies to a disk.

use super::entry::{Entry, Program, ProgramKey, check_value};
use super::loader::{Loader, LoaderVersion};
use super::names::{PlannedUki, check_name};
use super::{EspError, FIRMWARE_LIMIT, FIRMWARE_WARNING};
use crate::image::{Content, Files, Node};
use crate::names::TreePath;

/// `secure-boot-enroll` of loader.conf: whether systemd-boot enrols `loader/keys/auto` in a machine without keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SecureBootEnroll {
    /// Never.
    Off,
    /// Where the user chooses it in the menu.
    Manual,
    /// By itself in virtual machines, else in the menu.
    #[default]
    IfSafe,
    /// By itself everywhere.
    Force,
}

impl SecureBootEnroll {
    /// All, in the order of the manual.
    pub const ALL: [Self; 4] = [Self::Off, Self::Manual, Self::IfSafe, Self::Force];

    /// As in loader.conf.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Manual => "manual",
            Self::IfSafe => "if-safe",
            Self::Force => "force",
        }
    }
}

/// The signed updates that put a machine's Secure Boot keys in place.
#[derive(Debug, Clone)]
pub struct EnrolmentKeys {
    /// `PK.auth`
    pub pk: Content,
    /// `KEK.auth`
    pub kek: Content,
    /// `db.auth`
    pub db: Content,
}

/// A UKI that is built and signed.
#[derive(Debug, Clone)]
pub struct Uki {
    /// Its name and its profiles.
    pub planned: PlannedUki,
    /// The file.
    pub content: Content,
}

/// What the tree is made of.
#[derive(Debug, Clone)]
pub struct EspRequest {
    /// The boot manager, signed; without one the tree does not boot by itself.
    pub loader: Option<(Loader, Content)>,
    /// The UKIs, the default first.
    pub ukis: Vec<Uki>,
    /// The release that entries are of (`--include-version-in-config`).
    pub version: Option<String>,
    /// Writes what each entry adds to the command line (`--include-cmdline-in-config`): without it the agent's
    /// `install.skip-entries` finds nothing.
    pub include_cmdline: bool,
    /// Whether the loader enrols keys.
    pub secure_boot_enroll: SecureBootEnroll,
    /// Which.
    pub keys: Option<EnrolmentKeys>,
}

/// A tree, and what is to be said about it.
#[derive(Debug, Clone)]
pub struct EspTree {
    /// The files.
    pub files: Files,
    /// For the user.
    pub warnings: Vec<String>,
}

/// Puts the tree together.
///
/// # Errors
/// [`EspError::NoUki`]; [`EspError::TooOld`] for profiles that the loader's entries cannot choose; names and texts that cannot be;
/// a UKI that firmware would not load.
pub fn tree(request: &EspRequest) -> Result<EspTree, EspError> {
    let mut out = EspTree { files: Files::new(), warnings: Vec::new() };
    if request.ukis.is_empty() {
        return Err(EspError::NoUki);
    }
    for directory in ["EFI/BOOT", "EFI/kairos", "EFI/tools", "loader/entries"] {
        out.files.insert(TreePath::new(directory)?, Node::Directory)?;
    }
    let version = match &request.loader {
        Some((loader, content)) => {
            let path = TreePath::new("EFI/BOOT")?.join(loader.architecture.boot_file())?;
            out.files.insert(path, Node::plain(content.clone()))?;
            out.warnings.extend(loader.warning());
            loader.version.clone()
        }
        None => {
            let why = "there is no boot manager in the tree: no machine starts it; give systemd-boot with --loader";
            out.warnings.push(why.to_owned());
            LoaderVersion::default()
        }
    };
    for uki in &request.ukis {
        add_uki(uki, &version, request, &mut out)?;
    }
    let conf = loader_conf(request.secure_boot_enroll, &version, &mut out.warnings);
    out.files.insert(TreePath::new("loader/loader.conf")?, Node::bytes(conf))?;
    if let Some(keys) = &request.keys {
        for (name, content) in [("PK.auth", &keys.pk), ("KEK.auth", &keys.kek), ("db.auth", &keys.db)] {
            out.files.insert(TreePath::new("loader/keys/auto")?.join(name)?, Node::plain(content.clone()))?;
        }
    }
    Ok(out)
}

fn add_uki(uki: &Uki, loader: &LoaderVersion, request: &EspRequest, out: &mut EspTree) -> Result<(), EspError> {
    let name = &uki.planned.name;
    check_name(name)?;
    let file = format!("{name}.efi");
    let path = TreePath::new("EFI/kairos")?.join(&file)?;
    if out.files.get(&path).is_some() {
        return Err(EspError::FileName { name: name.clone(), problem: "there is another UKI of this name".to_owned() });
    }
    out.warnings.extend(check_size(&path, uki.content.length())?);
    out.files.insert(path, Node::plain(uki.content.clone()))?;
    if uki.planned.profiles.len() > 1 && !loader.knows_profiles() {
        return Err(EspError::TooOld {
            loader: loader.to_string(),
            wanted: format!("{name}.efi has profiles, for which entries need systemd-boot 259"),
            advice: "give a newer systemd-boot with --loader, or choose --cmdline-layout entries",
        });
    }
    for (number, menu) in uki.planned.profiles.iter().enumerate() {
        check_value("command line", &menu.cmdline)?;
        let entry = Entry {
            title: menu.title.clone(),
            sort_key: format!("{name}-{number}"),
            program: Program {
                key: if loader.knows_uki() { ProgramKey::Uki } else { ProgramKey::Efi },
                path: format!("/EFI/kairos/{file}"),
                profile: loader.knows_profiles().then_some(number),
            },
            version: request.version.clone(),
            cmdline: request.include_cmdline.then(|| menu.added.clone()),
        };
        let conf = match number {
            0 => format!("{name}.conf"),
            _ => format!("{name}-profile{number}.conf"),
        };
        let path = TreePath::new("loader/entries")?.join(&conf)?;
        if out.files.get(&path).is_some() {
            let problem = format!("there is another entry {conf}");
            return Err(EspError::FileName { name: name.clone(), problem });
        }
        out.files.insert(path, Node::bytes(entry.to_text()?))?;
    }
    Ok(())
}

/// Refuses what firmware does not load; a warning for what some does not.
pub(super) fn check_size(path: &TreePath, bytes: u64) -> Result<Option<String>, EspError> {
    let mebibytes = bytes.div_ceil(1 << 20);
    if bytes >= FIRMWARE_LIMIT {
        let problem = format!(
            "has {mebibytes} MiB: firmware does not load EFI programs of 2 GiB and more (systemd#31452); drop drivers (--hardware) or \
             files"
        );
        return Err(EspError::Tree { path: path.clone(), problem });
    }
    Ok((bytes > FIRMWARE_WARNING)
        .then(|| format!("{path} has {mebibytes} MiB: some firmware fails above 1 GiB (kairos#2356, systemd#36706)")))
}

/// loader.conf as AuroraBoot writes it. No `default`: an entry that was named there would be tried for ever, where without
/// it one without tries left goes to the end of the menu.
fn loader_conf(enroll: SecureBootEnroll, loader: &LoaderVersion, warnings: &mut Vec<String>) -> String {
    let mut enroll = enroll;
    if enroll == SecureBootEnroll::IfSafe && !loader.knows_if_safe() {
        warnings.push(format!(
            "{loader} does not know secure-boot-enroll if-safe (253): manual is written, so keys are enrolled where the user chooses it \
             in the menu"
        ));
        enroll = SecureBootEnroll::Manual;
    }
    format!("timeout 5\nconsole-mode max\neditor no\nsecure-boot-enroll {}\n", enroll.as_str())
}
