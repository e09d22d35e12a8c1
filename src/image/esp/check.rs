//! Whether a tree that is there already would boot, before an image is made of it.
//!
//! What is looked at is what firmware, systemd-boot and the agent look at, with FAT's eyes: names are compared without regard to
//! case. Not looked at: what is inside of a UKI (`verify` does that), and `EFI/tools`, which nothing reads.

use std::collections::BTreeMap;

use super::EspError;
use super::entry::{Pairs, ProgramKey};
use super::loader::{Architecture, Loader};
use super::names::NOROLE;
use super::roles::{MAX_CONF, Role};
use super::tree::{SecureBootEnroll, check_size};
use crate::boot::sign::variables::SignedUpdate;
use crate::boot::uki::pe::PeHeaders;
use crate::boot::verify::{Database, Outcome, Source, verify_signature};
use crate::image::{Content, Files, ImageError, Node};
use crate::names::TreePath;

/// A signed update of Secure Boot's variables has less.
const MAX_AUTH: u64 = 1 << 20;

/// What was found in a tree that boots.
#[derive(Debug, Clone)]
pub struct Checked {
    /// The boot managers, one for each architecture.
    pub loaders: BTreeMap<Architecture, Loader>,
    /// The UKIs, with the bytes of each.
    pub ukis: BTreeMap<TreePath, u64>,
    /// The entries.
    pub entries: Vec<TreePath>,
    /// Whether it is an installed system's: `active` and not `norole`.
    pub is_installed: bool,
    /// For the user.
    pub warnings: Vec<String>,
}

/// A UKI of the tree.
struct Program {
    path: TreePath,
    profiles: usize,
    is_shown: bool,
}

/// Checks a tree; with `db` also that firmware with these keys starts the boot managers and the UKIs.
///
/// # Errors
/// The first thing that keeps a machine from booting it, or Kairos' agent from installing it.
pub fn check(files: &Files, db: Option<&Database>) -> Result<Checked, EspError> {
    let tree = Tree::new(files)?;
    let mut warnings = Vec::new();
    let loaders = loaders(&tree, db, &mut warnings)?;
    let mut ukis = ukis(&tree, &loaders, db, &mut warnings)?;
    let entries = entries(&tree, &loaders, &mut ukis, &mut warnings)?;
    let is_installed = tree.file("efi/kairos/active.efi").is_some();
    let role = if is_installed { Role::Active.as_str() } else { NOROLE };
    check_role(&tree, role, &entries)?;
    for uki in ukis.values().filter(|uki| !uki.is_shown) {
        warnings.push(format!("no entry in /loader/entries starts {}", uki.path));
    }
    loader_conf(&tree, &loaders, &mut warnings)?;
    keys(&tree)?;
    let sizes = ukis.into_values().map(|uki| (uki.path.clone(), tree.length(&uki.path))).collect();
    Ok(Checked { loaders, ukis: sizes, entries, is_installed, warnings })
}

fn bad(path: &TreePath, problem: impl Into<String>) -> EspError {
    EspError::Tree { path: path.clone(), problem: problem.into() }
}

/// The files as FAT finds them.
struct Tree<'a> {
    files: &'a Files,
    /// By path in lower case.
    by_name: BTreeMap<String, &'a TreePath>,
}

impl<'a> Tree<'a> {
    fn new(files: &'a Files) -> Result<Self, EspError> {
        let mut by_name = BTreeMap::new();
        for (path, _) in files.iter() {
            let folded = String::from_utf8_lossy(path.as_bytes()).to_lowercase();
            if let Some(other) = by_name.insert(folded, path) {
                return Err(bad(
                    path,
                    format!(
                        "and {other} are one name on the EFI system partition, which does not tell upper from lower case; remove one"
                    ),
                ));
            }
        }
        Ok(Self { files, by_name })
    }

    fn file(&self, folded: &str) -> Option<(&'a TreePath, &'a Content)> {
        let path = *self.by_name.get(folded)?;
        match self.files.get(path)? {
            Node::File { content, .. } => Some((path, content)),
            Node::Directory | Node::Symlink(_) => None,
        }
    }

    /// The files right in a directory, by name in lower case.
    fn in_directory(&self, directory: &'a str) -> impl Iterator<Item = (&str, &'a TreePath, &'a Content)> {
        let names = self.by_name.keys().filter_map(move |folded| {
            let name = folded.strip_prefix(directory)?.strip_prefix('/')?;
            (!name.contains('/')).then_some((folded, name))
        });
        names.filter_map(|(folded, name)| self.file(folded).map(|(path, content)| (name, path, content)))
    }

    fn length(&self, path: &TreePath) -> u64 {
        match self.files.get(path) {
            Some(Node::File { content, .. }) => content.length(),
            _ => 0,
        }
    }
}

fn loaders(
    tree: &Tree<'_>,
    db: Option<&Database>,
    warnings: &mut Vec<String>,
) -> Result<BTreeMap<Architecture, Loader>, EspError> {
    let mut loaders = BTreeMap::new();
    for (name, path, content) in tree.in_directory("efi/boot") {
        let Some(architecture) = Architecture::of_boot_file(name) else { continue };
        warnings.extend(check_size(path, content.length())?);
        let loader = Loader::read(&mut content.open()?, &path.to_string())?;
        if loader.architecture != architecture {
            return Err(bad(
                path,
                format!("is a program for {}, which does not start on {architecture}", loader.architecture),
            ));
        }
        check_signed(path, content, db)?;
        warnings.extend(loader.warning());
        loaders.insert(architecture, loader);
    }
    if loaders.is_empty() { Err(EspError::NoLoader) } else { Ok(loaders) }
}

fn ukis(
    tree: &Tree<'_>,
    loaders: &BTreeMap<Architecture, Loader>,
    db: Option<&Database>,
    warnings: &mut Vec<String>,
) -> Result<BTreeMap<String, Program>, EspError> {
    let mut ukis = BTreeMap::new();
    for (name, path, content) in tree.in_directory("efi/kairos").filter(|(name, ..)| name.ends_with(".efi")) {
        warnings.extend(check_size(path, content.length())?);
        let pe = PeHeaders::read(&mut content.open()?, &path.to_string())?;
        if pe.section(".linux").is_none() {
            return Err(bad(path, "is an EFI program without a kernel (.linux), no UKI; build one with --target uki"));
        }
        let architecture = Architecture::of_machine(pe.machine);
        if !architecture.is_some_and(|architecture| loaders.contains_key(&architecture)) {
            let of =
                |architecture: Option<Architecture>| architecture.map_or("an unknown machine", Architecture::as_str);
            let have: Vec<&str> = loaders.keys().map(|architecture| architecture.as_str()).collect();
            return Err(bad(
                path,
                format!(
                    "is for {}, and the boot manager for {}; give that of the same architecture",
                    of(architecture),
                    have.join(" and ")
                ),
            ));
        }
        check_signed(path, content, db)?;
        let profiles = pe.sections.iter().filter(|section| section.name() == ".profile").count();
        ukis.insert(format!("efi/kairos/{name}"), Program { path: path.clone(), profiles, is_shown: false });
    }
    if ukis.is_empty() { Err(EspError::NoUki) } else { Ok(ukis) }
}

/// Refuses a program that firmware with this db does not start.
fn check_signed(path: &TreePath, content: &Content, db: Option<&Database>) -> Result<(), EspError> {
    let Some(db) = db else { return Ok(()) };
    let verify = |source: &dyn Source| verify_signature(source, db, &Database::default());
    let report = match content {
        Content::Bytes(bytes) => verify(&&**bytes)?,
        Content::File { folder, path, .. } => verify(&folder.file(path).map_err(ImageError::from)?)?,
        Content::Image(_) => {
            return Err(bad(path, "is made while the image is written: its signature cannot be looked at"));
        }
    };
    let problem = report.checks.iter().find(|finding| finding.outcome == Outcome::Failure);
    match problem {
        Some(finding) => Err(EspError::Unsigned { path: path.clone(), problem: finding.reason.clone() }),
        None => Ok(()),
    }
}

fn entries(
    tree: &Tree<'_>,
    loaders: &BTreeMap<Architecture, Loader>,
    ukis: &mut BTreeMap<String, Program>,
    warnings: &mut Vec<String>,
) -> Result<Vec<TreePath>, EspError> {
    let mut entries = Vec::new();
    for (_, path, content) in tree.in_directory("loader/entries").filter(|(name, ..)| name.ends_with(".conf")) {
        let bytes = content.read(MAX_CONF)?;
        let text = std::str::from_utf8(&bytes).map_err(|_| bad(path, "is no text; write it anew"))?;
        let pairs = Pairs::parse(text);
        entry(tree, path, &pairs, loaders, ukis, warnings)?;
        entries.push(path.clone());
    }
    match entries.is_empty() {
        true => Err(bad(&TreePath::new("loader/entries")?, "has no .conf file: the boot menu would be empty")),
        false => Ok(entries),
    }
}

fn entry(
    tree: &Tree<'_>,
    path: &TreePath,
    pairs: &Pairs,
    loaders: &BTreeMap<Architecture, Loader>,
    ukis: &mut BTreeMap<String, Program>,
    warnings: &mut Vec<String>,
) -> Result<(), EspError> {
    if let Some(key) = pairs.repeated() {
        return Err(bad(path, format!("has the key {key:?} twice, of which Kairos' agent keeps one; remove one")));
    }
    if pairs.get("title").is_none_or(|title| title.trim().is_empty()) {
        return Err(bad(path, "has no title, without which Kairos' agent refuses it"));
    }
    if pairs.get("efi").is_some() && pairs.get("uki").is_some() {
        return Err(bad(path, "has both efi and uki: systemd-boot leaves it out of the menu; remove one"));
    }
    let (key, program) =
        pairs.program().ok_or_else(|| bad(path, "has neither the key efi nor uki, so it starts nothing"))?;
    let folded = program.trim().trim_start_matches(['/', '\\']).replace('\\', "/").to_lowercase();
    if tree.file(&folded).is_none() {
        return Err(bad(
            path,
            format!("starts {program:?}, which is not in the tree: systemd-boot leaves it out of the menu"),
        ));
    }
    let profile = match pairs.get("profile") {
        None => None,
        Some(text) => Some(
            text.trim()
                .parse::<usize>()
                .map_err(|_| bad(path, format!("has the profile {text:?}, which is no number")))?,
        ),
    };
    for loader in loaders.values() {
        check_version(path, key, profile, loader, warnings)?;
    }
    if profile.is_some_and(|profile| profile > 0) && key == ProgramKey::Efi {
        return Err(bad(
            path,
            "chooses a profile with the key efi, where systemd-boot always starts the first; write uki",
        ));
    }
    let Some(uki) = ukis.get_mut(&folded) else { return Ok(()) };
    uki.is_shown = true;
    match profile {
        Some(profile) if profile > 0 && profile >= uki.profiles => {
            let (path_of_uki, count) = (&uki.path, uki.profiles.max(1));
            Err(bad(path, format!("chooses profile {profile}, and {path_of_uki} has {count}, counted from 0")))
        }
        _ => Ok(()),
    }
}

fn check_version(
    path: &TreePath,
    key: ProgramKey,
    profile: Option<usize>,
    loader: &Loader,
    warnings: &mut Vec<String>,
) -> Result<(), EspError> {
    let version = &loader.version;
    let too_old = |what: String| {
        let advice = "give a newer systemd-boot, or build the entries for this one";
        Err(EspError::TooOld { loader: version.to_string(), wanted: format!("{path} {what}"), advice })
    };
    if key == ProgramKey::Uki && !version.knows_uki() {
        if version.number().is_some() {
            return too_old("has the key uki, which needs systemd-boot 258: it would not be in the menu".to_owned());
        }
        warnings.push(format!(
            "{path} has the key uki, which needs systemd-boot 258, and the boot manager does not tell its version"
        ));
    }
    match profile {
        Some(profile) if profile > 0 && !version.knows_profiles() => match version.number() {
            Some(_) => {
                too_old(format!("chooses profile {profile}, which needs systemd-boot 259: it would start the first"))
            }
            None => {
                warnings.push(format!(
                    "{path} chooses profile {profile}, which needs systemd-boot 259, and the boot manager does not tell its version"
                ));
                Ok(())
            }
        },
        _ => Ok(()),
    }
}

/// The agent copies, verifies and upgrades by these names.
fn check_role(tree: &Tree<'_>, role: &str, entries: &[TreePath]) -> Result<(), EspError> {
    if tree.file(&format!("efi/kairos/{role}.efi")).is_none() {
        return Err(bad(
            &TreePath::new(format!("EFI/kairos/{role}.efi"))?,
            "is not there: Kairos' agent takes the image by this name",
        ));
    }
    let is_entry = |path: &TreePath| {
        let name = String::from_utf8_lossy(path.file_name()).to_lowercase();
        name.strip_prefix(role).is_some_and(|rest| rest == ".conf" || rest.starts_with('+'))
    };
    match entries.iter().any(is_entry) {
        true => Ok(()),
        false => Err(bad(
            &TreePath::new(format!("loader/entries/{role}.conf"))?,
            "is not there: Kairos' agent takes the entry by this name",
        )),
    }
}

fn loader_conf(
    tree: &Tree<'_>,
    loaders: &BTreeMap<Architecture, Loader>,
    warnings: &mut Vec<String>,
) -> Result<(), EspError> {
    let Some((path, content)) = tree.file("loader/loader.conf") else {
        return Err(bad(
            &TreePath::new("loader/loader.conf")?,
            "is not there: Kairos' agent fails without it, and the menu is not shown",
        ));
    };
    let pairs = Pairs::parse(&String::from_utf8_lossy(&content.read(MAX_CONF)?));
    if let Some(key) = pairs.repeated() {
        return Err(bad(path, format!("has the key {key:?} twice; remove one")));
    }
    if pairs.get("default").is_some() {
        warnings.push(format!(
            "{path} has a default entry: one that fails is tried for ever, where without it the next is tried"
        ));
    }
    let Some(enroll) = pairs.get("secure-boot-enroll").map(str::trim) else { return Ok(()) };
    let Some(enroll) = SecureBootEnroll::ALL.into_iter().find(|known| known.as_str() == enroll) else {
        return Err(bad(path, format!("has secure-boot-enroll {enroll:?}: it is off, manual, if-safe or force")));
    };
    if enroll == SecureBootEnroll::IfSafe
        && let Some(loader) = loaders.values().find(|loader| !loader.version.knows_if_safe())
    {
        warnings.push(format!(
            "{path} has secure-boot-enroll if-safe, which {} does not know: it takes it as manual",
            loader.version
        ));
    }
    Ok(())
}

/// All three or none: systemd-boot enrols nothing where one is missing, or leaves the machine without a platform key.
fn keys(tree: &Tree<'_>) -> Result<(), EspError> {
    const NAMES: [&str; 3] = ["PK", "KEK", "db"];
    let found = NAMES.map(|name| tree.file(&format!("loader/keys/auto/{}.auth", name.to_lowercase())));
    let has_any = tree.in_directory("loader/keys/auto").next().is_some();
    for (name, file) in NAMES.into_iter().zip(found) {
        let Some((path, content)) = file else {
            if has_any {
                let path = TreePath::new(format!("loader/keys/auto/{name}.auth"))?;
                return Err(bad(&path, "is not there, and the others are: the boot manager enrols all three or fails"));
            }
            continue;
        };
        let update = SignedUpdate::parse(&content.read(MAX_AUTH)?, &path.to_string());
        let variable = update.and_then(|update| update.signed_for()).map(|(variable, _)| variable.name().to_owned());
        match variable {
            Ok(variable) if variable == name => {}
            Ok(variable) => return Err(bad(path, format!("is a signed update of {variable}, not of {name}"))),
            Err(error) => return Err(bad(path, format!("is no signed update of {name}: {error}"))),
        }
    }
    Ok(())
}
