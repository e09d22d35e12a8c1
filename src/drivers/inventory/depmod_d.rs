//! `depmod.d`: which file depmod takes where several have a module's name, and where it does not look.
//!
//! By depmod.d(5) and what depmod of kmod 34 does:
//!
//! - `search DIRECTORY... built-in`: earlier before later, over all files; `updates` alone where no file has such a line.
//!   Files below none of them have the place of `built-in`, and the last one where that is not named.
//! - `override MODULE KERNEL DIRECTORY`: that file before all others; of several lines the last.
//! - `exclude NAME...`: directories, and files, of that name are not there. `build` and `source` never are.
//! - `external KERNEL DIRECTORY`: modules outside of the module directory. Only known here so that it can be refused.
//!
//! Two files at the same place (`kernel/a/x.ko`, `kernel/b/x.ko`) are a draw: depmod takes the first or the last that the file
//! system names, which is not the same in an image. So this says only what is sure.

use std::collections::{BTreeSet, HashMap};

use regex_lite::RegexBuilder;

use crate::names::KernelRelease;
use crate::root::conf_files;
use crate::root::sysroot::{Sysroot, SysrootError};

/// Bytes that a pattern of kernels may have, and its compiled form: longer ones match nothing.
const PATTERN_LIMIT: usize = 256;
const COMPILED_LIMIT: usize = 64 << 10;

/// What `depmod.d` says for one kernel.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Config {
    /// Paths below the module directory without suffix, and how late they are written: later ones win.
    overrides: HashMap<String, usize>,
    /// Directories of the search order and their places, from 0.
    searches: HashMap<String, usize>,
    /// The place of `built-in`.
    builtin: Option<usize>,
    /// Names that are passed over.
    excludes: BTreeSet<String>,
    /// File and directory of the first `external` line for this kernel.
    external: Option<(String, String)>,
}

impl Config {
    /// The root's configuration for one kernel.
    ///
    /// # Errors
    /// As [`conf_files::files`].
    pub fn load(root: &Sysroot, release: &KernelRelease) -> Result<Self, SysrootError> {
        let mut files = conf_files::files(root, "depmod.d", ".conf")?;
        files.retain(|(path, _)| !path.rsplit('/').next().is_some_and(|name| name.starts_with('.')));
        Ok(Self::parse(&files, release))
    }

    /// What files (path and text), in this order, say for one kernel. Lines that depmod ignores (unknown words, too few) are
    /// ignored.
    pub fn parse(files: &[(String, String)], release: &KernelRelease) -> Self {
        let mut out = Self::default();
        let (mut place, mut late) = (0, 0);
        for (path, text) in files {
            for line in logical_lines(text) {
                // A line is a C string for depmod.
                let line = line.split('\0').next().unwrap_or_default();
                if line.starts_with('#') {
                    continue;
                }
                let mut words = line.split([' ', '\t']).filter(|word| !word.is_empty());
                match words.next() {
                    Some("search") => {
                        for word in words {
                            match word {
                                "built-in" => {
                                    out.builtin.get_or_insert(place);
                                }
                                "external" => {}
                                directory => {
                                    out.searches.entry(directory.to_owned()).or_insert(place);
                                }
                            }
                            place += 1;
                        }
                    }
                    Some("override") => {
                        if let (Some(module), Some(kernel), Some(directory)) =
                            (words.next(), words.next(), words.next())
                            && matches(kernel, release)
                        {
                            late += 1;
                            out.overrides.insert(format!("{directory}/{module}"), late);
                        }
                    }
                    Some("exclude") => out.excludes.extend(words.map(str::to_owned)),
                    Some("external") => {
                        if let (Some(kernel), Some(directory)) = (words.next(), words.next())
                            && matches(kernel, release)
                        {
                            out.external.get_or_insert_with(|| (path.clone(), directory.to_owned()));
                        }
                    }
                    _ => {}
                }
            }
        }
        if place == 0 {
            out.searches.insert("updates".to_owned(), 0);
        }
        out
    }

    /// Whether depmod passes over a file or directory of this name.
    pub fn excludes(&self, name: &[u8]) -> bool {
        matches!(name, b"build" | b"source") || std::str::from_utf8(name).is_ok_and(|name| self.excludes.contains(name))
    }

    /// File and directory of an `external` line for this kernel.
    pub fn external(&self) -> Option<&(String, String)> {
        self.external.as_ref()
    }

    /// Whether depmod takes `file` and not `other` (paths below the module directory of files of one module), in whatever
    /// order it meets them.
    pub fn prefers(&self, file: &str, other: &str) -> bool {
        self.replaces(file, other) && !self.replaces(other, file)
    }

    /// Whether depmod, which has `old`, takes `new` when it meets that.
    fn replaces(&self, new: &str, old: &str) -> bool {
        let override_of = |file: &str| self.overrides.get(stem(file));
        match (override_of(new), override_of(old)) {
            (None, None) => {}
            // The same path but for the suffix: the one that is met last.
            (new, old) => return new >= old,
        }
        let place = |file: &str, but: Option<&str>| {
            let directories = ancestors(file).filter(|directory| !but.is_some_and(|but| is_below(but, directory)));
            directories.filter_map(|directory| self.searches.get(directory)).min().copied().or(self.builtin)
        };
        // A directory that holds both counts for the new file alone, in depmod.
        match (place(new, None), place(old, Some(new))) {
            (Some(new), Some(old)) => new < old,
            (new, old) => new.is_some() && old.is_none(),
        }
    }
}

/// `*`, or an extended regular expression of POSIX.
fn matches(pattern: &str, release: &KernelRelease) -> bool {
    if pattern == "*" {
        return true;
    }
    pattern.len() <= PATTERN_LIMIT
        && RegexBuilder::new(pattern)
            .size_limit(COMPILED_LIMIT)
            .build()
            .is_ok_and(|pattern| pattern.is_match(release.as_str()))
}

/// A backslash takes the line's end away, or itself.
fn logical_lines(text: &str) -> Vec<String> {
    let mut out = Vec::new();
    let mut line = String::new();
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match character {
            '\n' => out.push(std::mem::take(&mut line)),
            '\\' => line.extend(characters.next().filter(|character| *character != '\n')),
            _ => line.push(character),
        }
    }
    out.push(line);
    out
}

/// A file's path up to the first dot of its name.
fn stem(file: &str) -> &str {
    let directory = file.rfind('/').map_or(0, |slash| slash + 1);
    let dot = file.get(directory..).and_then(|name| name.find('.'));
    dot.and_then(|dot| file.get(..directory + dot)).unwrap_or(file)
}

/// The directories of a path: `a/b/x.ko` -> `a/b`, `a`.
fn ancestors(file: &str) -> impl Iterator<Item = &str> {
    file.rmatch_indices('/').filter_map(|(slash, _)| file.get(..slash))
}

fn is_below(file: &str, directory: &str) -> bool {
    file.strip_prefix(directory).is_some_and(|rest| rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> Config {
        let release = KernelRelease::new("6.12.1-test").unwrap();
        Config::parse(&[("/etc/depmod.d/a.conf".to_owned(), text.to_owned())], &release)
    }

    #[test]
    fn updates_come_first_where_nothing_is_said() {
        let config = config("# search kernel\nmake_map_files yes\n");
        assert!(config.prefers("updates/dkms/x.ko", "kernel/x.ko"));
        assert!(!config.prefers("updates2/x.ko", "kernel/x.ko"));
        assert!(!config.prefers("kernel/a/x.ko", "kernel/b/x.ko"));
        assert!(!config.prefers("updates/a/x.ko", "updates/b/x.ko"), "whichever is met last");
    }

    #[test]
    fn overrides_come_before_the_search_order_and_the_last_first() {
        let config = config("override x * extra\noverride x 5.0 kernel\noverride x ^6[.] b\nsearch built-in\n");
        assert!(config.prefers("b/x.ko.xz", "extra/x.ko"));
        assert!(config.prefers("extra/x.ko", "kernel/x.ko"));
        assert!(!config.prefers("b/x.ko", "b/x.ko.xz"));
    }

    #[test]
    fn lines_are_joined_and_cut_as_depmod_does() {
        let config = config("# a \\\nsearch a\nsearch b \\\n c\\d\nsearch e\0 f\nexclude g");
        let mut searches: Vec<_> = config.searches.iter().map(|(name, place)| (*place, name.as_str())).collect();
        searches.sort_unstable();
        assert_eq!(searches, [(0, "b"), (1, "cd"), (2, "e")]);
        assert!(config.excludes(b"g") && config.excludes(b"build") && !config.excludes(b"h"));
    }
}
