//! TOML of kmod-db's form, and the version patterns in it.
#![no_main]

use kairos_init::drivers::target::glob::Glob;
use kairos_init::drivers::target::versions::Unversioned;
use kairos_init::drivers::target::{self, Asks, Entries, FamilyFiles, Request, TargetError, Versions};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    match target::parse(text, "fuzz.toml") {
        Ok(entries) => {
            is_sound(&entries, text.lines().count());
            // What is built in is parsed each time, which takes long.
            if !entries.extends.is_empty() {
                let _ = target::resolve(&[Request::File { path: "fuzz.toml", text }]);
            }
        }
        Err(TargetError::Form { line, column, message, .. }) => {
            // The end of a text that ends in a line break is on the line behind it.
            assert!(line >= 1 && line <= text.matches('\n').count() + 1 && column >= 1, "{line}:{column}");
            assert!(!message.contains('\n'), "{message:?} is not one line");
        }
        Err(other) => panic!("parsing gives no other error than of form: {other}"),
    }
    versions(text);
});

fn is_sound(entries: &Entries, lines: usize) {
    let sources = entries.rules.iter().map(|rule| (&rule.source, &rule.evidence));
    let sources = sources.chain(entries.hidden.iter().map(|hidden| (&hidden.source, &hidden.evidence)));
    let sources = sources.chain(entries.requests.iter().map(|request| (&request.source, &request.evidence)));
    let sources = sources.chain(entries.families.iter().map(|family| (&family.source, &family.evidence)));
    for (source, evidence) in sources {
        assert!((1..=lines).contains(&source.line), "line {} of {lines}", source.line);
        assert!(!evidence.trim().is_empty());
    }
    for rule in &entries.rules {
        assert!(!rule.matcher.pattern().is_empty());
    }
    for family in &entries.families {
        assert!(!family.drivers.is_empty() && !family.files.is_empty());
        for files in &family.files {
            let versioned = matches!(files, FamilyFiles::Versions(_));
            assert_eq!(versioned, files.as_str().contains("<version>"));
        }
    }
}

/// The first line is a pattern, the others are names.
fn versions(text: &str) {
    let mut lines = text.lines();
    let Some(pattern) = lines.next() else { return };
    for unversioned in [None, Some(Unversioned::Oldest), Some(Unversioned::Newest)] {
        let Ok(versions) = Versions::new(pattern, Asks::Any, unversioned) else { return };
        let parsed: Vec<_> = lines.clone().take(8).filter_map(|name| versions.parse(name)).collect();
        if let Ok(any) = Glob::path(versions.any()) {
            let meant = lines.clone().take(8).filter(|name| versions.parse(name).is_some());
            meant.for_each(|name| assert!(any.matches(name), "{any:?} leaves {name:?} out"));
        }
        for a in &parsed {
            for b in &parsed {
                assert_eq!(a.version.cmp(&b.version), b.version.cmp(&a.version).reverse());
                assert_eq!(a.version == b.version, a.version.cmp(&b.version).is_eq(), "{a:?} {b:?}");
                for c in &parsed {
                    assert!(!(a.version <= b.version && b.version <= c.version) || a.version <= c.version);
                }
            }
        }
    }
}
