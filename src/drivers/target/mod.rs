//! [`Target`]: what a hardware target needs, as rules in order, with the file and line that each comes from.
//!
//! Targets are data: `kmod-db/` is built in, a user's file has the same form and goes through the same parser (see
//! `kmod-db/README.md` for the form). This room reads no file: whoever has a path reads it and hands over the text. What a
//! rule matches in a kernel is [`super::select`]'s business.

mod architecture;
mod builtin;
pub mod capture;
mod error;
pub mod glob;
mod parse;
pub mod versions;

use std::collections::BTreeSet;
use std::fmt;

use crate::names::{KernelRelease, ModuleName};

pub use architecture::Architecture;
pub use builtin::{features, targets};
pub use capture::{Capture, CaptureError};
pub use error::TargetError;
pub use parse::parse;

pub use versions::{Asks, Version, Versions};

use glob::Glob;

/// Where an entry is written: for messages, `why` and the report.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Source {
    /// The file: `kmod-db/storage.toml`, or a path as the user gave it.
    pub file: String,
    /// The line of the entry's first key, from 1.
    pub line: usize,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

/// What a rule looks at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Matcher {
    /// The module's path below the module directory, without a compression suffix: `kernel/drivers/nvme/**`.
    Path(Glob),
    /// The module's normalised name: `virtio_*`.
    Module(Glob),
    /// A modalias without a wildcard: the modules that kmod would load for it.
    Alias(String),
    /// With a wildcard: the modules with an alias pattern that, read as text, this one covers: `crypto-*`,
    /// `pci:v*d*sv*sd*bc01*`. Patterns that merely *overlap* are not meant: every driver that names vendor and device and
    /// leaves the class open overlaps with every class.
    AliasGlob(Glob),
    /// A firmware name, asked for by no driver in particular.
    Firmware(Glob),
}

impl Matcher {
    /// The key of the rule in TOML.
    #[must_use]
    pub const fn key(&self) -> &'static str {
        match self {
            Self::Path(_) => "path",
            Self::Module(_) => "module",
            Self::Alias(_) | Self::AliasGlob(_) => "alias",
            Self::Firmware(_) => "firmware",
        }
    }

    /// The pattern as written.
    #[must_use]
    pub fn pattern(&self) -> &str {
        match self {
            Self::Path(glob) | Self::Module(glob) | Self::AliasGlob(glob) | Self::Firmware(glob) => glob.as_str(),
            Self::Alias(alias) => alias,
        }
    }
}

impl fmt::Display for Matcher {
    /// `module virtio_*`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.key(), self.pattern())
    }
}

/// One pattern of a rule: what it matches is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// What is looked at.
    pub matcher: Matcher,
    /// Module paths (or firmware names) that this rule leaves out; another rule or a dependency may still bring them.
    pub except: Vec<Glob>,
    /// Why the rule is there: a fact somebody can check.
    pub evidence: String,
    /// Where it is written.
    pub source: Source,
    /// No warning where it matches nothing: not every kernel has it.
    pub optional: bool,
    /// The image cannot do its work without: refuses `--drop`.
    pub required: bool,
    /// The oldest kernel that must match; older ones may.
    pub since: Option<KernelRelease>,
    /// The oldest kernel that need not match any more.
    pub until: Option<KernelRelease>,
}

impl Rule {
    /// Whether a kernel `release` for which this rule matches nothing is worth a warning.
    #[must_use]
    pub fn is_expected_in(&self, release: &KernelRelease) -> bool {
        !self.optional
            && self.since.as_ref().is_none_or(|since| release >= since)
            && self.until.as_ref().is_none_or(|until| release < until)
    }
}

/// A dependency that no metadata of the kernel knows: where a module of `from` is kept or built in, `to` is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hidden {
    /// The module that asks at run time.
    pub from: ModuleName,
    /// What it asks for.
    pub to: Vec<ModuleName>,
    /// Why.
    pub evidence: String,
    /// Where it is written.
    pub source: Source,
    /// Not every kernel has both ends (for kmod-db's own test; a missing end is never an error).
    pub optional: bool,
}

/// A `request_module()` family: where a module of `from` is kept or built in, every module with a name or an alias that
/// one of the patterns covers is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModuleRequest {
    /// The module that asks at run time.
    pub from: ModuleName,
    /// What it asks for: patterns over the text of the modules' aliases, and over their names.
    pub aliases: Vec<Glob>,
    /// Why.
    pub evidence: String,
    /// Where it is written.
    pub source: Source,
    /// Not every kernel has both ends (for kmod-db's own test).
    pub optional: bool,
}

/// Firmware that a driver asks for without declaring it, or of which it asks for one version after the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Family {
    /// The drivers; one that is kept or built in is enough.
    pub drivers: Vec<ModuleName>,
    /// Names of firmware files, without the suffix of a compressed form.
    pub files: Vec<FamilyFiles>,
    /// Why.
    pub evidence: String,
    /// Where it is written.
    pub source: Source,
    /// Not every distribution has it (for kmod-db's own test).
    pub optional: bool,
}

/// Firmware that no driver asks for by its name: another name leads to it, or nothing does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unasked {
    /// Names of firmware files.
    pub files: Vec<Glob>,
    /// Why.
    pub evidence: String,
    /// Where it is written.
    pub source: Source,
    /// Not every distribution has it (for kmod-db's own test).
    pub optional: bool,
}

/// What a captured machine has besides its devices' drivers.
const CAPTURED: [&str; 1] = ["k3s"];

/// The files of a family.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FamilyFiles {
    /// All that match.
    All(Glob),
    /// Versions of the same file, of which the driver loads one.
    Versions(Versions),
}

impl FamilyFiles {
    /// The pattern as written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::All(glob) => glob.as_str(),
            Self::Versions(versions) => versions.as_str(),
        }
    }
}

/// What a hardware target needs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Target {
    /// The names that were asked for, joined with `, `.
    pub name: String,
    /// The kernels that it is for; `None`: any.
    pub architecture: Option<Architecture>,
    /// Rules in their order; the first that matches an item gives its reason.
    pub rules: Vec<Rule>,
    /// Hidden dependencies.
    pub hidden: Vec<Hidden>,
    /// Families of modules that are asked for by alias.
    pub requests: Vec<ModuleRequest>,
    /// Families of firmware.
    pub families: Vec<Family>,
    /// Firmware that nobody asks for by its name.
    pub unasked: Vec<Unasked>,
}

/// One file of kmod-db's form, parsed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Entries {
    /// One sentence for `hardware list`.
    pub description: Option<String>,
    /// The kernels that it is for.
    pub architecture: Option<Architecture>,
    /// The entries of these files come first.
    pub extends: Vec<String>,
    /// Rules, a list of patterns flattened.
    pub rules: Vec<Rule>,
    /// Hidden dependencies.
    pub hidden: Vec<Hidden>,
    /// Families of modules that are asked for by alias.
    pub requests: Vec<ModuleRequest>,
    /// Families of firmware.
    pub families: Vec<Family>,
    /// Firmware that nobody asks for by its name.
    pub unasked: Vec<Unasked>,
}

/// A hardware target that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request<'a> {
    /// `NAME` or `NAME+FEATURE+...`.
    Name(&'a str),
    /// A file of the user's.
    File {
        /// As given, for messages.
        path: &'a str,
        /// What it holds.
        text: &'a str,
    },
}

/// Whether an argument of `--hardware` is a file and not a name: it has a slash or ends in `.toml` or `.capture`.
#[must_use]
pub fn is_file(argument: &str) -> bool {
    argument.contains('/') || argument.ends_with(".toml") || argument.ends_with(".capture")
}

/// The union of targets, with what every target has: Kairos' own needs, hidden dependencies, firmware families.
///
/// # Errors
/// A name or feature that does not exist (with the nearest that do), a file that does not parse, a circle of `extends`.
pub fn resolve(requests: &[Request<'_>]) -> Result<Target, TargetError> {
    let mut union = Union::default();
    let mut names = Vec::new();
    for file in builtin::always() {
        union.add(file)?;
    }
    for request in requests {
        match *request {
            Request::Name(text) => {
                let mut parts = text.split('+');
                union.add(builtin::target(parts.next().unwrap_or_default())?)?;
                for feature in parts {
                    union.add(builtin::feature(text, feature)?)?;
                }
                names.push(text);
            }
            Request::File { path, text } => {
                let entries = if capture::is_capture(text) { captured(text, path)? } else { parse(text, path)? };
                union.add_entries(entries, path)?;
                names.push(path);
            }
        }
    }
    union.target.name = names.join(", ");
    Ok(union.target)
}

/// A captured machine as a file of kmod-db's form: a rule for each of its devices, over what every machine needs that runs
/// Kubernetes.
fn captured(text: &str, path: &str) -> Result<Entries, TargetError> {
    let capture = Capture::parse(text, path)?;
    let line = |device: &str| text.lines().position(|line| line == device).map_or(1, |index| index + 1);
    let rule = |device: String| Rule {
        except: Vec::new(),
        evidence: "A device of the captured machine.".to_owned(),
        source: Source { file: path.to_owned(), line: line(&device) },
        // Most devices have no driver, or one that is built in.
        optional: true,
        required: false,
        since: None,
        until: None,
        matcher: Matcher::Alias(device),
    };
    Ok(Entries {
        architecture: capture.architecture,
        extends: CAPTURED.iter().map(|name| (*name).to_owned()).collect(),
        rules: capture.devices.into_iter().map(rule).collect(),
        ..Entries::default()
    })
}

/// Collects files, each once, what a file extends before the file itself.
#[derive(Default)]
struct Union {
    target: Target,
    done: BTreeSet<String>,
    open: Vec<String>,
}

impl Union {
    fn add(&mut self, file: &builtin::File) -> Result<(), TargetError> {
        if self.open.iter().any(|open| open == file.path) {
            return Err(TargetError::Circle { file: file.path.to_owned() });
        }
        if !self.done.insert(file.path.to_owned()) {
            return Ok(());
        }
        self.add_entries(parse(file.text, file.path)?, file.path)
    }

    fn add_entries(&mut self, entries: Entries, path: &str) -> Result<(), TargetError> {
        self.open.push(path.to_owned());
        for name in &entries.extends {
            self.add(builtin::extended(name, path)?)?;
        }
        self.open.pop();
        if let Some(own) = entries.architecture {
            match self.target.architecture.replace(own) {
                Some(other) if other != own => {
                    return Err(TargetError::Architectures { file: path.to_owned(), own, other });
                }
                _ => {}
            }
        }
        self.target.rules.extend(entries.rules);
        self.target.hidden.extend(entries.hidden);
        self.target.requests.extend(entries.requests);
        self.target.families.extend(entries.families);
        self.target.unasked.extend(entries.unasked);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(request: Request<'_>) -> String {
        resolve(&[request]).unwrap_err().to_string()
    }

    #[test]
    fn every_target_has_what_kairos_needs() {
        for (name, _) in targets().unwrap() {
            let target = resolve(&[Request::Name(name)]).unwrap();
            let required: Vec<_> = target.rules.iter().filter(|r| r.required).map(|r| r.matcher.pattern()).collect();
            for module in ["efivarfs", "overlay", "squashfs", "loop", "dm_crypt", "dm_verity", "vfat"] {
                assert!(required.contains(&module), "{name} does not require {module}");
            }
            assert!(!target.hidden.is_empty() && !target.families.is_empty());
        }
    }

    #[test]
    fn names_that_do_not_exist_are_answered_with_the_nearest() {
        let unknown = error(Request::Name("x86-generc"));
        let start = "no hardware target \"x86-generc\" is built in; did you mean \"x86-generic\"? built in are: all, x86-generic, ";
        assert!(unknown.starts_with(start), "{unknown}");
        assert!(unknown.ends_with("; a file of your own needs a '/' in its path or the ending .toml"), "{unknown}");
        assert!(error(Request::Name("x86-generic+wify")).contains("did you mean \"wifi\""));
        let both = resolve(&[Request::Name("x86-vm"), Request::Name("rpi4")]).unwrap_err().to_string();
        assert!(both.contains("is for aarch64, and another target of the same union for x86_64"), "{both}");
        assert!(error(Request::Name("x86-generic+gpu")).contains("no feature \"gpu\""));
        assert!(error(Request::Name("")).contains("no hardware target \"\""));
    }

    #[test]
    fn a_file_extends_what_is_built_in() {
        let text = "extends = ['x86-generic']\n[[rule]]\nmodule = 'i915'\nevidence = 'our panels'\n";
        let target = resolve(&[Request::File { path: "./mine.toml", text }]).unwrap();
        let plain = resolve(&[Request::Name("x86-generic")]).unwrap();
        assert_eq!(target.rules.len(), plain.rules.len() + 1);
        assert_eq!(target.rules.last().unwrap().source.to_string(), "./mine.toml:3");
        let twice = resolve(&[Request::Name("x86-generic"), Request::File { path: "./mine.toml", text }]).unwrap();
        assert_eq!(twice.rules, target.rules, "a union holds each file once");
        let unknown = error(Request::File { path: "a.toml", text: "extends = ['storge']" });
        assert!(unknown.starts_with("a.toml extends \"storge\"") && unknown.contains("\"storage\""), "{unknown}");
    }

    #[test]
    fn versions_silence_the_warning_only() {
        let entries = parse("[[rule]]\nmodule = 'x'\nevidence = 'e'\nsince = '6.1'\nuntil = '6.12'\n", "t").unwrap();
        let rule = &entries.rules[0];
        let expected = |release: &str| rule.is_expected_in(&KernelRelease::new(release).unwrap());
        assert!(!expected("5.10.0-9-amd64"));
        assert!(expected("6.1.0-31-amd64") && expected("6.8.0-100-generic"));
        assert!(!expected("6.12.107+deb13-amd64"));
    }
}
