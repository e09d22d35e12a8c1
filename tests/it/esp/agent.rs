//! kairos-agent's installation, written anew from its rules, on what we write: its reader of entries, and its change of roles.

use std::collections::BTreeMap;

use kairos_init::image::esp::{Layout, installed, tree};

use super::{listing, loaders, made, menu, newest, request, texts};

/// Lines, each split at its first single space; the last of a key counts.
fn read(text: &str) -> BTreeMap<String, String> {
    let split = |line: &str| match line.split_once(' ') {
        Some((key, value)) => (key.to_owned(), value.to_owned()),
        None => (line.to_owned(), String::new()),
    };
    text.strip_suffix('\n').unwrap().split('\n').map(split).collect()
}

const ROLES: [(&str, &str); 4] =
    [("active", ""), ("passive", " (fallback)"), ("recovery", " recovery"), ("statereset", " state reset (auto)")];

/// A file that is not an entry, or an entry's values.
#[derive(Debug, Clone, PartialEq)]
enum File {
    Bytes(Vec<u8>),
    Entry(BTreeMap<String, String>),
}

fn files(listing: BTreeMap<String, Vec<u8>>) -> BTreeMap<String, File> {
    let file = |path: &String, bytes: Vec<u8>| match path.ends_with(".conf") {
        true => File::Entry(read(&String::from_utf8(bytes).unwrap())),
        false => File::Bytes(bytes),
    };
    listing.into_iter().map(|(path, bytes)| (path.clone(), file(&path, bytes))).collect()
}

/// `pkg/uki/install.go`: copies for each role, removal of norole, sort keys, counters.
fn install(tree: BTreeMap<String, File>) -> BTreeMap<String, File> {
    let mut out = BTreeMap::new();
    for (path, file) in tree {
        let (folder, name) = path.rsplit_once('/').unwrap();
        if !name.starts_with("norole") {
            out.insert(path, file);
            continue;
        }
        for (role, suffix) in ROLES {
            let mut file = file.clone();
            if let File::Entry(values) = &mut file {
                let key = if values.contains_key("efi") { "efi" } else { "uki" };
                let program = values[key].replace("norole", role);
                values.insert(key.to_owned(), program);
                let title = format!("{}{suffix}", values["title"]);
                values.insert("title".to_owned(), title);
            }
            out.insert(format!("{folder}/{}", name.replace("norole", role)), file);
        }
    }
    let counted = |(path, mut file): (String, File)| {
        let (true, File::Entry(values)) = (path.starts_with("/loader/entries/"), &mut file) else {
            return (path, file);
        };
        let name = path.rsplit('/').next().unwrap();
        let role = ROLES.iter().position(|(role, _)| name.contains(role));
        values.insert("sort-key".to_owned(), role.map_or("0010".to_owned(), |role| format!("000{}", role + 1)));
        (path.replace(".conf", "+3.conf"), file)
    };
    out.into_iter().map(counted).collect()
}

#[test]
fn the_agent_reads_what_it_needs() {
    for (number, loader) in loaders() {
        let made = made(&loader, &["a=b c", "d"], &["Zed: x", "y=z"]);
        let entries = texts(&made.files, "/loader/entries");
        assert!(entries.len() >= 5);
        let files = listing(&made.files);
        for (name, text) in entries {
            let values = read(&text);
            assert_eq!(values.len(), text.lines().count(), "{number} {name}: a key is there twice");
            assert!(!values["title"].is_empty() && values["title"].trim() == values["title"], "{name}");
            let program = values.get("efi").or(values.get("uki")).unwrap();
            assert!(files.contains_key(program), "{number} {name}: {program}");
            assert!(!values.contains_key("efi") || !values.contains_key("uki"));
        }
    }
}

#[test]
fn an_installed_disk_is_the_agents() {
    for (number, loader) in loaders() {
        let made = made(&loader, &["a=b"], &["Zed: x"]);
        let agents = install(files(listing(&made.files)));
        let ours = files(listing(&installed(&made.files).unwrap()));
        assert_eq!(ours.keys().collect::<Vec<_>>(), agents.keys().collect::<Vec<_>>(), "{number}");
        assert!(ours.contains_key("/loader/entries/active+3.conf") && ours.contains_key("/EFI/kairos/statereset.efi"));
        assert!(!ours.keys().any(|path| path.contains("norole")));
        let mut others = Vec::new();
        for (path, file) in &ours {
            // The one difference, told in `roles.rs`: further UKIs of a role are sorted behind the first.
            match (file, &agents[path]) {
                (File::Entry(ours), File::Entry(theirs)) if ours != theirs => {
                    let without = |values: &BTreeMap<String, String>| {
                        values.clone().into_iter().filter(|(key, _)| key != "sort-key").collect::<BTreeMap<_, _>>()
                    };
                    assert_eq!(without(ours), without(theirs), "{number} {path}");
                    assert_eq!(ours["sort-key"], format!("{}-1", theirs["sort-key"]), "{number} {path}");
                    others.push(path.as_str());
                }
                (ours, theirs) => assert_eq!(ours, theirs, "{number} {path}"),
            }
        }
        assert_eq!(others.len(), if number >= 259 { 0 } else { 4 }, "{number}: {others:?}");
    }
}

#[test]
fn titles_and_counters_are_as_written() {
    let loader = newest().1;
    let made = tree(&request(Some(&loader), &menu(&["a"], &[], Layout::Profiles))).unwrap();
    let entries = texts(&installed(&made.files).unwrap(), "/loader/entries");
    let expected: Vec<String> =
        ROLES.iter().flat_map(|(role, _)| [format!("{role}+3.conf"), format!("{role}-profile1+3.conf")]).collect();
    let mut names: Vec<String> = expected;
    names.sort();
    assert_eq!(entries.keys().cloned().collect::<Vec<_>>(), names);
    assert_eq!(
        entries["passive+3.conf"],
        "title Kairos (fallback)\nsort-key 0002\nuki /EFI/kairos/passive.efi\nprofile 0\n"
    );
    assert_eq!(
        entries["statereset-profile1+3.conf"],
        "title Kairos (a) state reset (auto)\nsort-key 0004\nuki /EFI/kairos/statereset.efi\nprofile 1\n"
    );
    // Once more changes nothing: there is no norole left, and every entry has its counter.
    let once = installed(&made.files).unwrap();
    assert_eq!(listing(&installed(&once).unwrap()), listing(&once));
}
