//! Parsers of the text files that the kernel's build and depmod leave in a module directory. Text in, values out: nothing
//! here opens a file. The formats are kmod's (`tools/depmod.c`) and the kernel build's (`scripts/Makefile.modinst`).

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::names::{FirmwarePath, ModuleName, TreePath};

use super::{AliasList, SoftKind};

/// A line that does not say what its file should.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {problem}")]
pub struct LineError {
    /// From 1. In `modules.builtin.modinfo`: the string, from 1.
    pub line: usize,
    /// What is wrong.
    pub problem: String,
}

/// One line of `modules.dep`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dependency<'a> {
    /// From 1.
    pub line: usize,
    /// The module's name.
    pub name: ModuleName,
    /// Its file below the module directory, as written.
    pub path: &'a str,
    /// What it needs, directly or not, in the file's order.
    pub needs: Vec<ModuleName>,
}

/// `modules.dep`: `kernel/fs/fat/vfat.ko.xz: kernel/fs/fat/fat.ko.xz`.
///
/// # Errors
/// A line without a colon; a path that is absolute, has `..`, or is no module file's.
pub fn dep(text: &str) -> Result<Vec<Dependency<'_>>, LineError> {
    // What is needed has a line of its own: its path is looked at once.
    let mut known: HashMap<&str, ModuleName> = HashMap::new();
    let mut parsed = Vec::new();
    for (line, content) in lines(text) {
        let (path, needs) = content
            .split_once(':')
            .ok_or_else(|| LineError { line, problem: format!("there is no colon in {content:?}") })?;
        let name = file_name(line, path)?;
        known.insert(path, name.clone());
        parsed.push((line, path, name, needs));
    }
    let dependency = |(line, path, name, needs): (usize, _, _, &str)| {
        let needs = needs.split_ascii_whitespace();
        let needs = needs.map(|path| known.get(path).cloned().map_or_else(|| file_name(line, path), Ok));
        Ok(Dependency { line, name, path, needs: needs.collect::<Result<_, _>>()? })
    };
    parsed.into_iter().map(dependency).collect()
}

/// `modules.alias` (and `modules.symbols`): `alias PATTERN MODULE`, in the file's order, patterns raw.
///
/// # Errors
/// A line of another form, a module name that cannot be.
pub fn alias(text: String) -> Result<AliasList, LineError> {
    let mut entries = Vec::new();
    // A module's aliases stand together.
    let mut last: Option<ModuleName> = None;
    for (line, content) in lines(&text) {
        let parsed = content.strip_prefix("alias ").and_then(|rest| rest.rsplit_once(' '));
        let (pattern, module) = parsed.ok_or_else(|| LineError {
            line,
            problem: format!("{content:?} is not of the form 'alias PATTERN MODULE'"),
        })?;
        let module = match last.take() {
            Some(name) if name.as_str() == module => name,
            _ => module_name(line, module)?,
        };
        // Both are addresses in the same text.
        let start = pattern.as_ptr().addr().saturating_sub(text.as_ptr().addr());
        entries.push((start..start.saturating_add(pattern.len()), module.clone()));
        last = Some(module);
    }
    Ok(AliasList::of_text(text, entries))
}

/// `modules.softdep`: `softdep MODULE pre: A B post: C`; several lines of a module add up.
///
/// # Errors
/// As [`alias`].
pub fn softdep(text: &str) -> Result<BTreeMap<ModuleName, Vec<(SoftKind, String)>>, LineError> {
    let mut out: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for (line, content) in lines(text) {
        let (module, tokens) = keyword(line, content, "softdep")?;
        let targets = out.entry(module).or_default();
        let mut kind = SoftKind::Bare;
        for token in tokens.split_ascii_whitespace() {
            match token {
                "pre:" => kind = SoftKind::Pre,
                "post:" => kind = SoftKind::Post,
                target => targets.push((kind, target.to_owned())),
            }
        }
    }
    Ok(out)
}

/// `modules.weakdep`: `weakdep MODULE A B`; several lines of a module add up.
///
/// # Errors
/// As [`alias`].
pub fn weakdep(text: &str) -> Result<BTreeMap<ModuleName, Vec<String>>, LineError> {
    let mut out: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for (line, content) in lines(text) {
        let (module, targets) = keyword(line, content, "weakdep")?;
        out.entry(module).or_default().extend(targets.split_ascii_whitespace().map(str::to_owned));
    }
    Ok(out)
}

/// `modules.builtin`: `kernel/fs/fuse/fuse.ko` for each module that is part of the kernel image.
///
/// # Errors
/// As [`dep`] for the path.
pub fn builtin(text: &str) -> Result<BTreeSet<ModuleName>, LineError> {
    lines(text).map(|(line, path)| file_name(line, path)).collect()
}

/// `modules.order`: paths without a suffix of compression, in load order. `modules.builtin` has the same form.
///
/// # Errors
/// As [`dep`] for the path.
pub fn order(text: &str) -> Result<Vec<String>, LineError> {
    lines(text).map(|(line, path)| file_name(line, path).map(|_| path.to_owned())).collect()
}

/// `modules.devname`: `MODULE NODE TYPE MAJOR:MINOR`, module and node (`net/tun`) of each line.
///
/// # Errors
/// As [`alias`]; a node that is absolute or has `..`.
pub fn devname(text: &str) -> Result<Vec<(ModuleName, String)>, LineError> {
    let mut out = Vec::new();
    for (line, content) in lines(text) {
        let mut words = content.split_ascii_whitespace();
        let (Some(module), Some(node)) = (words.next(), words.next()) else {
            return Err(LineError { line, problem: format!("{content:?} is not of the form 'MODULE NODE DEVICE'") });
        };
        relative(line, node)?;
        out.push((module_name(line, module)?, node.to_owned()));
    }
    Ok(out)
}

/// What of `modules.builtin.modinfo` is used.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BuiltinInfo {
    /// `alias=`: pattern and built-in module, in the file's order.
    pub aliases: AliasList,
    /// `firmware=`: names that cannot be are left out, as in a module's own `.modinfo`.
    pub firmware: BTreeMap<ModuleName, Vec<FirmwarePath>>,
}

/// `modules.builtin.modinfo`: NUL-terminated `module.key=value` strings.
///
/// # Errors
/// A string of another form, a module name that cannot be. Values may be any bytes.
pub fn builtin_modinfo(bytes: &[u8]) -> Result<BuiltinInfo, LineError> {
    let mut out = BuiltinInfo::default();
    for (index, string) in bytes.split(|&b| b == 0).enumerate().filter(|(_, string)| !string.is_empty()) {
        let line = index + 1;
        let string = String::from_utf8_lossy(string);
        // Of the first dot: neither a module's name nor a key has one.
        let parsed = string.split_once('=').and_then(|(head, value)| Some((head.split_once('.')?, value)));
        let ((module, key), value) = parsed
            .ok_or_else(|| LineError { line, problem: format!("{string:?} is not of the form 'module.key=value'") })?;
        match key {
            "alias" => out.aliases.push((value.to_owned(), module_name(line, module)?)),
            "firmware" => {
                if let Ok(name) = FirmwarePath::new(value) {
                    out.firmware.entry(module_name(line, module)?).or_default().push(name);
                }
            }
            _ => {}
        }
    }
    Ok(out)
}

/// Lines with their number from 1, without comments and empty ones.
fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let content = |line: &&str| !line.is_empty() && !line.starts_with('#');
    text.lines().enumerate().map(|(index, line)| (index + 1, line.trim_end())).filter(move |(_, line)| content(line))
}

fn keyword<'a>(line: usize, content: &'a str, word: &str) -> Result<(ModuleName, &'a str), LineError> {
    let rest = content
        .strip_prefix(word)
        .and_then(|rest| rest.strip_prefix(' '))
        .ok_or_else(|| LineError { line, problem: format!("{content:?} does not begin with '{word} '") })?;
    let (module, rest) = rest.split_once(' ').unwrap_or((rest, ""));
    Ok((module_name(line, module)?, rest))
}

fn module_name(line: usize, name: &str) -> Result<ModuleName, LineError> {
    ModuleName::new(name).map_err(|error| LineError { line, problem: error.to_string() })
}

fn relative(line: usize, path: &str) -> Result<(), LineError> {
    if path.starts_with('/') {
        return Err(LineError { line, problem: format!("the path {path:?} is absolute") });
    }
    // Only these make a path that leads out of the root or that cannot be: no other is worth building one.
    if !path.contains("..") && !path.contains('\0') {
        return Ok(());
    }
    TreePath::new(path).map(drop).map_err(|error| LineError { line, problem: error.to_string() })
}

fn file_name(line: usize, path: &str) -> Result<ModuleName, LineError> {
    relative(line, path)?;
    ModuleName::from_file(path.as_bytes())
        .ok_or_else(|| LineError { line, problem: format!("{path:?} is not the path of a module file") })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn name(text: &str) -> ModuleName {
        ModuleName::new(text).unwrap()
    }

    #[test]
    fn dependencies_keep_their_order() {
        let parsed = dep("# c\na/x-y.ko.xz: b/z.ko c/w.ko.zst\nb/z.ko:\n").unwrap();
        assert_eq!(parsed.len(), 2);
        assert_eq!((parsed[0].line, parsed[0].path, &parsed[0].name), (2, "a/x-y.ko.xz", &name("x_y")));
        assert_eq!(parsed[0].needs, [name("z"), name("w")]);
        assert!(parsed[1].needs.is_empty());
    }

    #[test]
    fn hostile_paths_are_refused_with_their_line() {
        for text in ["a.ko:\n../b.ko:", "a.ko:\n/b.ko:", "a.ko:\nb.ko: x/../../y.ko", "a.ko:\nb.so:", "a.ko:\nnothing"]
        {
            assert_eq!(dep(text).unwrap_err().line, 2, "{text}");
        }
        assert_eq!(order("a.ko\n/etc/x.ko").unwrap_err().line, 2);
        assert_eq!(builtin("a.ko\n\nb").unwrap_err().line, 3);
        assert_eq!(devname("a n c1:1\nb ../n c1:2").unwrap_err().line, 2);
    }

    #[test]
    fn soft_and_weak_dependencies_add_up() {
        let parsed = softdep("softdep a pre: x y post: z\nsoftdep a bare\n").unwrap();
        let kinds: Vec<_> = parsed[&name("a")].iter().map(|(kind, target)| (*kind, target.as_str())).collect();
        assert_eq!(
            kinds,
            [(SoftKind::Pre, "x"), (SoftKind::Pre, "y"), (SoftKind::Post, "z"), (SoftKind::Bare, "bare")]
        );
        assert_eq!(weakdep("weakdep a x\nweakdep a y").unwrap()[&name("a")], ["x", "y"]);
        assert_eq!(softdep("soft a").unwrap_err().line, 1);
    }

    #[test]
    fn aliases_are_raw_and_devnames_have_nodes() {
        let parsed = alias("alias pci:v*d-[0-9]* a-b\n# c\nalias of:N* with C space c\n".to_owned()).unwrap();
        let parsed: Vec<_> = parsed.iter().collect();
        assert_eq!(parsed, [("pci:v*d-[0-9]*", &name("a_b")), ("of:N* with C space", &name("c"))]);
        assert_eq!(devname("tun net/tun c10:200").unwrap(), [(name("tun"), "net/tun".to_owned())]);
    }

    #[test]
    fn the_modinfo_of_built_in_modules_is_read() {
        let parsed =
            builtin_modinfo(b"fuse.alias=fs-fuse\0x.author=B\xe9\0x.firmware=a/b.bin\0x.firmware=/no\0").unwrap();
        assert_eq!(parsed.aliases.iter().collect::<Vec<_>>(), [("fs-fuse", &name("fuse"))]);
        assert_eq!(parsed.firmware[&name("x")], [FirmwarePath::new("a/b.bin").unwrap()]);
        assert_eq!(builtin_modinfo(b"a.b=c\0junk\0").unwrap_err().line, 2);
    }

    proptest! {
        #[test]
        fn no_text_makes_a_parser_panic_or_lets_a_path_out(text in "[a-z/.:# \n-]{0,200}") {
            if let Ok(parsed) = dep(&text) {
                for one in parsed {
                    prop_assert!(!one.path.starts_with('/') && !one.path.split('/').any(|c| c == ".."));
                }
            }
            let _ = (alias(text.clone()), softdep(&text), weakdep(&text), order(&text), devname(&text));
            let _ = builtin_modinfo(text.as_bytes());
        }
    }
}
