//! Names and patterns: paths stay inside, releases have a total order, matching is what it says it is.
#![no_main]

use std::cmp::Ordering;

use kairos_init::drivers::select::Pattern;
use kairos_init::drivers::target::glob::{Glob, alias_matches};
use kairos_init::names::{FirmwarePath, KernelRelease, ModuleName, TreePath};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    tree_path(bytes);
    if let Some(name) = ModuleName::from_file(bytes) {
        assert_eq!(ModuleName::new(name.as_str()).as_ref(), Ok(&name), "a normal name stays as it is");
    }
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(name) = FirmwarePath::new(text) {
        assert!(TreePath::new("lib/firmware").and_then(|dir| dir.join(name.as_str())).is_ok(), "{name} leads out");
    }
    let lines: Vec<&str> = text.lines().take(6).collect();
    releases(&lines);
    if let [pattern, names @ ..] = lines.as_slice() {
        names.iter().for_each(|name| globs(pattern, name));
    }
});

fn tree_path(bytes: &[u8]) {
    let Ok(path) = TreePath::new(bytes) else { return };
    let components = || path.as_bytes().split(|&b| b == b'/');
    assert!(path.is_root() || components().all(|c| !matches!(c, b"" | b"." | b"..")), "{path} is not normal");
    assert!(path.as_path().is_relative());
    assert_eq!(TreePath::new(path.as_bytes()).as_ref(), Ok(&path));
    assert!(!path.to_string().contains(char::is_control));
    // Joined in any two parts it is the same path.
    for at in (0..bytes.len()).filter(|&at| bytes[at] == b'/').take(8) {
        let head = TreePath::new(&bytes[..at]).expect("a part of a path");
        assert_eq!(head.join(&bytes[at + 1..]).as_ref(), Ok(&path));
    }
    if let Some(parent) = path.parent() {
        assert!(path.starts_with(&parent) && path != parent);
        assert_eq!(parent.join(path.file_name()).as_ref(), Ok(&path));
        assert_eq!(path.strip_prefix(&parent), Some(path.file_name()));
    }
}

fn releases(lines: &[&str]) {
    let releases: Vec<KernelRelease> = lines.iter().filter_map(|line| KernelRelease::new(line).ok()).collect();
    for a in &releases {
        assert_eq!(a.cmp(a), Ordering::Equal);
        for b in &releases {
            assert_eq!(a.cmp(b), b.cmp(a).reverse(), "{a} {b}");
            assert_eq!(a == b, a.cmp(b).is_eq(), "{a} {b}");
            for c in &releases {
                assert!(!(a <= b && b <= c) || a <= c, "{a} {b} {c}");
            }
        }
    }
}

fn globs(pattern: &str, name: &str) {
    // As kmod's: an unclosed bracket stands for itself. Slow patterns show as timeouts.
    let hostile = alias_matches(pattern, name);
    let small = pattern.len() <= 64 && name.len() <= 64;
    if let Ok(glob) = Glob::alias(pattern) {
        assert_eq!(glob.matches(name), hostile, "{pattern:?} {name:?}");
        if small {
            assert_eq!(hostile, slow(pattern.as_bytes(), name.as_bytes(), false), "{pattern:?} {name:?}");
        }
        assert!(!glob.is_literal() || glob.matches(pattern));
    }
    if let Ok(glob) = Glob::path(pattern) {
        let matched = glob.matches(name);
        assert!(!matched || name.as_bytes().starts_with(glob.literal().as_bytes()), "{pattern:?} {name:?}");
        if small {
            assert_eq!(matched, slow(pattern.as_bytes(), name.as_bytes(), true), "{pattern:?} {name:?}");
        }
    }
    assert_eq!(Pattern::new(pattern).is_ok(), Glob::path(pattern).is_ok());
}

/// The same question, answered element by element over all places of the name that are reached.
fn slow(pattern: &[u8], name: &[u8], path: bool) -> bool {
    let mut reached = vec![false; name.len() + 1];
    reached[0] = true;
    let mut rest = pattern;
    while let Some((&first, tail)) = rest.split_first() {
        let mut next = vec![false; name.len() + 1];
        let component_begins = rest.len() == pattern.len() || pattern[pattern.len() - rest.len() - 1] == b'/';
        let take = |next: &mut Vec<bool>, reached: &[bool], fits: &dyn Fn(u8) -> bool| {
            for (at, &byte) in name.iter().enumerate() {
                next[at + 1] |= reached[at] && fits(byte) && !(path && byte == b'/');
            }
        };
        match first {
            b'*' if path && component_begins && tail == b"*" => {
                // The rest of the name, whatever it is.
                return reached.iter().any(|&r| r);
            }
            b'*' if path && component_begins && tail.starts_with(b"*/") => {
                // No component, or some, each with its slash.
                for at in 0..=name.len() {
                    next[at] = reached[at] || (at > 0 && name[at - 1] == b'/' && (0..at).any(|from| reached[from]));
                }
                rest = &tail[2..];
            }
            b'*' => {
                for at in 0..=name.len() {
                    let longer = at > 0 && next[at - 1] && !(path && name[at - 1] == b'/');
                    next[at] = reached[at] || longer;
                }
                rest = tail;
            }
            b'?' => {
                take(&mut next, &reached, &|_| true);
                rest = tail;
            }
            b'[' => {
                let negated = matches!(tail.first(), Some(b'!' | b'^'));
                let set = &tail[usize::from(negated)..];
                let (ranges, length) = ranges(set);
                take(&mut next, &reached, &|byte| {
                    ranges.iter().any(|&(low, high)| (low..=high).contains(&byte)) != negated
                });
                rest = &set[length..];
            }
            literal => {
                for (at, &byte) in name.iter().enumerate() {
                    let same = byte == literal || (!path && b"-_".contains(&byte) && b"-_".contains(&literal));
                    next[at + 1] |= reached[at] && same;
                }
                rest = tail;
            }
        }
        reached = next;
    }
    reached[name.len()]
}

/// The ranges of a closed set, and the bytes up to and with its `]`.
fn ranges(set: &[u8]) -> (Vec<(u8, u8)>, usize) {
    let (mut out, mut at) = (Vec::new(), 0);
    while at == 0 || set[at] != b']' {
        match (set.get(at + 1), set.get(at + 2)) {
            (Some(b'-'), Some(&high)) if high != b']' => {
                out.push((set[at], high));
                at += 3;
            }
            _ => {
                out.push((set[at], set[at]));
                at += 1;
            }
        }
    }
    (out, at + 1)
}
