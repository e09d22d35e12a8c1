//! The house's order: rooms import downwards only.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// What each wing may name of the crate, besides itself and the vocabulary.
fn allowed() -> BTreeMap<&'static str, &'static [&'static str]> {
    BTreeMap::from([
        ("names", &[][..]),
        ("cancel", &[]),
        ("root", &[]),
        ("drivers", &["root"]),
        ("boot", &[]),
        ("image", &["root", "boot"]),
        ("size", &["root", "drivers", "boot", "image"]),
        ("pipeline", &["root", "drivers", "boot", "image", "size"]),
    ])
}

const VOCABULARY: [&str; 2] = ["names", "cancel"];

fn sources(directory: &Path, out: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, out);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            out.push(path);
        }
    }
}

#[test]
fn wings_import_downwards_only() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let allowed = allowed();
    let mut files = Vec::new();
    sources(&src, &mut files);
    let mut seen = 0;
    let mut wrong = Vec::new();
    for file in files {
        let below = file.strip_prefix(&src).unwrap();
        let wing = below.iter().next().unwrap().to_str().unwrap().trim_end_matches(".rs");
        if matches!(wing, "main" | "lib" | "cli") {
            continue;
        }
        let may = allowed.get(wing).unwrap_or_else(|| panic!("{wing} is a wing without a place in the order"));
        for line in std::fs::read_to_string(&file).unwrap().lines() {
            for after in line.split("crate::").skip(1) {
                let name: String = after.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                if !allowed.contains_key(name.as_str()) {
                    continue;
                }
                seen += 1;
                if name != wing && !VOCABULARY.contains(&name.as_str()) && !may.contains(&name.as_str()) {
                    wrong.push(format!("{}: {}", below.display(), line.trim()));
                }
            }
        }
    }
    assert!(seen > 50, "only {seen} imports found: this test no longer reads what it should");
    assert!(wrong.is_empty(), "imports against the order of the house:\n{}", wrong.join("\n"));
}
