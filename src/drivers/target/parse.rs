//! TOML of kmod-db's form -> [`Entries`]. Unknown keys are errors: a misspelt `optional` must not pass silently.

use serde::Deserialize;
use toml::Spanned;

use crate::names::{KernelRelease, ModuleName};

use super::glob::Glob;
use super::versions::{self, Asks, Unversioned, Versions};
use super::{
    Architecture, Entries, Family, FamilyFiles, Hidden, Matcher, ModuleRequest, Rule, Source, TargetError, Unasked,
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFile {
    description: Option<String>,
    architecture: Option<Architecture>,
    #[serde(default)]
    extends: Vec<String>,
    #[serde(default)]
    rule: Vec<Spanned<RawRule>>,
    #[serde(default)]
    hidden: Vec<Spanned<RawHidden>>,
    #[serde(default)]
    request: Vec<Spanned<RawRequest>>,
    #[serde(default)]
    family: Vec<Spanned<RawFamily>>,
    #[serde(default)]
    unasked: Vec<Spanned<RawUnasked>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRule {
    path: Option<OneOrMany>,
    module: Option<OneOrMany>,
    alias: Option<OneOrMany>,
    firmware: Option<OneOrMany>,
    #[serde(default)]
    except: Vec<String>,
    evidence: String,
    since: Option<String>,
    until: Option<String>,
    #[serde(default)]
    optional: bool,
    #[serde(default)]
    required: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawHidden {
    from: OneOrMany,
    to: OneOrMany,
    evidence: String,
    #[serde(default)]
    optional: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRequest {
    from: OneOrMany,
    alias: OneOrMany,
    evidence: String,
    #[serde(default)]
    optional: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFamily {
    driver: OneOrMany,
    files: OneOrMany,
    asks: Option<Asks>,
    unversioned: Option<Unversioned>,
    evidence: String,
    #[serde(default)]
    optional: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawUnasked {
    files: OneOrMany,
    evidence: String,
    #[serde(default)]
    optional: bool,
}

/// One pattern, or several that share their evidence.
#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a string or a list of strings")]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl OneOrMany {
    fn as_slice(&self) -> &[String] {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::Many(many) => many,
        }
    }
}

/// Parses a file of kmod-db's form; `file` is its name for messages.
///
/// # Errors
/// [`TargetError::Form`] with the line: no TOML, a key that is unknown, missing or doubled, a rule that does not have exactly
/// one of `path`, `module`, `alias` and `firmware`, a pattern or name that cannot be, an empty list or evidence.
pub fn parse(text: &str, file: &str) -> Result<Entries, TargetError> {
    let raw: RawFile = toml::from_str(text).map_err(|error| {
        let (line, column) = error.span().map_or((1, 1), |span| place(text, span.start));
        let message = error.message().lines().collect::<Vec<_>>().join(" ");
        TargetError::Form { file: file.to_owned(), line, column, message }
    })?;
    let mut entries = Entries {
        description: raw.description,
        architecture: raw.architecture,
        extends: raw.extends,
        ..Entries::default()
    };
    for rule in &raw.rule {
        let entry = Entry { source: source(file, text, rule.span().start) };
        entry.rules(rule.get_ref(), &mut entries.rules)?;
    }
    for hidden in &raw.hidden {
        let entry = Entry { source: source(file, text, hidden.span().start) };
        entries.hidden.extend(entry.hidden(hidden.get_ref())?);
    }
    for request in &raw.request {
        let entry = Entry { source: source(file, text, request.span().start) };
        entries.requests.extend(entry.requests(request.get_ref())?);
    }
    for family in &raw.family {
        let entry = Entry { source: source(file, text, family.span().start) };
        entries.families.push(entry.family(family.get_ref())?);
    }
    for unasked in &raw.unasked {
        let entry = Entry { source: source(file, text, unasked.span().start) };
        entries.unasked.push(entry.unasked(unasked.get_ref())?);
    }
    Ok(entries)
}

/// Line and column of a byte, from 1.
fn place(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let line = before.bytes().filter(|&b| b == b'\n').count().saturating_add(1);
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count().saturating_add(1);
    (line, column)
}

/// An entry's place is its first key: the line after `[[rule]]`.
fn source(file: &str, text: &str, offset: usize) -> Source {
    let header = text.as_bytes().get(offset) == Some(&b'[');
    Source { file: file.to_owned(), line: place(text, offset).0.saturating_add(usize::from(header)) }
}

/// Turns one raw entry into typed ones, its place at hand for errors.
struct Entry {
    source: Source,
}

impl Entry {
    fn fail(&self, message: impl ToString) -> TargetError {
        let Source { file, line } = self.source.clone();
        TargetError::Form { file, line, column: 1, message: message.to_string() }
    }

    fn evidence(&self, text: &str) -> Result<String, TargetError> {
        if text.trim().is_empty() {
            return Err(self.fail("'evidence' is empty; say what shows that this is needed"));
        }
        Ok(text.to_owned())
    }

    fn list<'a>(&self, key: &str, value: &'a OneOrMany) -> Result<&'a [String], TargetError> {
        match value.as_slice() {
            [] => Err(self.fail(format!("{key:?} is an empty list"))),
            some => Ok(some),
        }
    }

    fn module(&self, name: &str) -> Result<ModuleName, TargetError> {
        ModuleName::new(name).map_err(|error| self.fail(error))
    }

    fn glob(&self, pattern: &str) -> Result<Glob, TargetError> {
        Glob::path(pattern).map_err(|error| self.fail(error))
    }

    fn release(&self, release: Option<&String>) -> Result<Option<KernelRelease>, TargetError> {
        release.map(|r| KernelRelease::new(r).map_err(|error| self.fail(error))).transpose()
    }

    fn rules(&self, raw: &RawRule, rules: &mut Vec<Rule>) -> Result<(), TargetError> {
        let keys = [("path", &raw.path), ("module", &raw.module), ("alias", &raw.alias), ("firmware", &raw.firmware)];
        let mut given = keys.into_iter().filter_map(|(key, value)| Some((key, value.as_ref()?)));
        let (Some((key, patterns)), None) = (given.next(), given.next()) else {
            return Err(self.fail("a rule has exactly one of 'path', 'module', 'alias' and 'firmware'"));
        };
        let except = raw.except.iter().map(|pattern| self.glob(pattern)).collect::<Result<Vec<_>, _>>()?;
        for pattern in self.list(key, patterns)? {
            let matcher = match key {
                "path" => Matcher::Path(self.glob(pattern)?),
                // Names are compared in the kernel's form.
                "module" => Matcher::Module(self.glob(&pattern.replace('-', "_"))?),
                "firmware" => Matcher::Firmware(self.glob(pattern)?),
                _ => {
                    let glob = Glob::alias(pattern).map_err(|error| self.fail(error))?;
                    if glob.is_literal() { Matcher::Alias(pattern.clone()) } else { Matcher::AliasGlob(glob) }
                }
            };
            rules.push(Rule {
                matcher,
                except: except.clone(),
                evidence: self.evidence(&raw.evidence)?,
                source: self.source.clone(),
                optional: raw.optional,
                required: raw.required,
                since: self.release(raw.since.as_ref())?,
                until: self.release(raw.until.as_ref())?,
            });
        }
        Ok(())
    }

    fn hidden(&self, raw: &RawHidden) -> Result<Vec<Hidden>, TargetError> {
        let to: Vec<_> = self.list("to", &raw.to)?.iter().map(|n| self.module(n)).collect::<Result<_, _>>()?;
        let evidence = self.evidence(&raw.evidence)?;
        let hidden = |from: &String| {
            Ok(Hidden {
                from: self.module(from)?,
                to: to.clone(),
                evidence: evidence.clone(),
                source: self.source.clone(),
                optional: raw.optional,
            })
        };
        self.list("from", &raw.from)?.iter().map(hidden).collect()
    }

    fn requests(&self, raw: &RawRequest) -> Result<Vec<ModuleRequest>, TargetError> {
        let alias = |pattern: &String| Glob::alias(pattern).map_err(|error| self.fail(error));
        let aliases: Vec<_> = self.list("alias", &raw.alias)?.iter().map(alias).collect::<Result<_, _>>()?;
        let evidence = self.evidence(&raw.evidence)?;
        let request = |from: &String| {
            Ok(ModuleRequest {
                from: self.module(from)?,
                aliases: aliases.clone(),
                evidence: evidence.clone(),
                source: self.source.clone(),
                optional: raw.optional,
            })
        };
        self.list("from", &raw.from)?.iter().map(request).collect()
    }

    fn unasked(&self, raw: &RawUnasked) -> Result<Unasked, TargetError> {
        Ok(Unasked {
            files: self.list("files", &raw.files)?.iter().map(|g| self.glob(g)).collect::<Result<_, _>>()?,
            evidence: self.evidence(&raw.evidence)?,
            source: self.source.clone(),
            optional: raw.optional,
        })
    }

    fn family(&self, raw: &RawFamily) -> Result<Family, TargetError> {
        let mut versioned = false;
        let mut files = Vec::new();
        for pattern in self.list("files", &raw.files)? {
            files.push(match pattern.contains(versions::PLACEHOLDER) {
                true => {
                    versioned = true;
                    let asks = raw.asks.unwrap_or(Asks::Declared);
                    let versions = Versions::new(pattern, asks, raw.unversioned);
                    FamilyFiles::Versions(versions.map_err(|error| self.fail(error))?)
                }
                false => FamilyFiles::All(self.glob(pattern)?),
            });
        }
        if !versioned && (raw.asks.is_some() || raw.unversioned.is_some()) {
            return Err(self.fail("'asks' and 'unversioned' belong to a family with '<version>' in a name"));
        }
        Ok(Family {
            drivers: self.list("driver", &raw.driver)?.iter().map(|n| self.module(n)).collect::<Result<_, _>>()?,
            files,
            evidence: self.evidence(&raw.evidence)?,
            source: self.source.clone(),
            optional: raw.optional,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        parse(text, "mine.toml").unwrap_err().to_string()
    }

    #[test]
    fn a_rule_with_everything() {
        let text = "description = 'd'\nextends = ['storage']\n\n[[rule]]\nmodule = ['nls-*', 'ext4']\nexcept = ['kernel/x/**']\nevidence = 'e'\nsince = '6.1'\nrequired = true\n";
        let entries = parse(text, "mine.toml").unwrap();
        assert_eq!(entries.extends, ["storage"]);
        let [first, second] = entries.rules.as_slice() else { panic!("a list is flattened") };
        assert_eq!(first.matcher.to_string(), "module nls_*");
        assert_eq!(second.source.to_string(), "mine.toml:5");
        assert!(first.required && !first.optional);
    }

    #[test]
    fn families_have_files_and_versions() {
        let text = "[[request]]\nfrom = 'nf_tables'\nalias = ['nft-chain-*', 'nft-expr-*']\nevidence = 'e'\n\
            [[family]]\ndriver = 'iwlwifi'\nfiles = ['iwlwifi-*-<version>.ucode', 'iwlwifi-*.pnvm']\nasks = 'older'\nevidence = 'e'\n";
        let entries = parse(text, "mine.toml").unwrap();
        assert_eq!(entries.requests[0].aliases.len(), 2);
        assert!(matches!(&entries.families[0].files[0], FamilyFiles::Versions(v) if v.asks() == Asks::Older));
        assert!(matches!(&entries.families[0].files[1], FamilyFiles::All(_)));
        let family = |body: &str| error(&format!("[[family]]\ndriver = 'x'\nevidence = 'e'\n{body}"));
        assert!(family("files = 'a-<version>-<version>'").contains("one '<version>'"));
        assert!(family("files = 'a'\nasks = 'older'").contains("belong to a family with"));
        assert!(family("files = 'a-<version>'\nasks = 'all'").contains("mine.toml:5:8: unknown variant `all`"));
    }

    #[test]
    fn errors_name_the_line_and_the_column() {
        let rule = |body: &str| error(&format!("\n[[rule]]\n{body}\n"));
        assert!(
            rule("modul = 'x'\nevidence = 'e'")
                .contains("mine.toml:3:1: unknown field `modul`, expected one of `path`, `module`"),
            "{}",
            rule("modul = 'x'")
        );
        assert!(rule("evidence = 'e'").contains("mine.toml:3:1: a rule has exactly one of"));
        assert!(rule("module = 'a'\npath = 'b'\nevidence = 'e'").contains("exactly one of"));
        assert!(rule("module = 'a'").contains("missing field `evidence`"));
        assert!(rule("module = 'a'\nevidence = ' '").contains("'evidence' is empty"));
        assert!(rule("module = []\nevidence = 'e'").contains("empty list"));
        assert!(rule("path = 'a/b**'\nevidence = 'e'").contains("whole path component"));
        assert!(rule("module = 3\nevidence = 'e'").contains("expected a string or a list of strings"));
        assert!(error("[[hidden]]\nfrom = 'a/b'\nto = 'x'\nevidence = 'e'").contains("module name \"a/b\""));
        assert!(error("x =").starts_with("mine.toml:1:4: "));
        for text in ["x =", "[[rule]]\nmodule = 3\nevidence = 'e'", "\u{0}"] {
            assert!(!error(text).contains('\n'), "one line: {}", error(text));
        }
    }
}
