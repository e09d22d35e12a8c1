//! The tree on the EFI system partition: a written contract, taken from what AuroraBoot writes and what kairos-agent, systemd-boot
//! and firmware read. Names, keys and their order stand here as they must be; loaders are Debian's own.

mod agent;
mod broken;
mod menu;

use std::collections::BTreeMap;
use std::io::Cursor;
use std::path::Path;

use kairos_init::image::esp::{
    Architecture, BASE_CMDLINE, CmdlineLayout, EspError, EspRequest, EspTree, Extra, INSTALL_MODE, Layout, Loader,
    Menu, SecureBootEnroll, Single, Uki, tree,
};
use kairos_init::image::{Content, Files, Node};
use kairos_init::names::TreePath;

use crate::roots;

/// Every place where a loader has this text.
fn places(bytes: &[u8], text: &[u8]) -> Vec<usize> {
    let places: Vec<usize> =
        bytes.windows(text.len()).enumerate().filter(|(_, w)| *w == text).map(|(at, _)| at).collect();
    assert!(!places.is_empty());
    places
}

/// `systemd-boot` that says it is another version: the text has the same length, and is there for `.sdmagic` and for itself.
fn patched(number: &str) -> Vec<u8> {
    let mut bytes = roots::base_loader();
    let text = b"LoaderInfo: systemd-boot 257.";
    for place in places(&bytes, text) {
        let at = place + text.len() - 4;
        bytes[at..at + 3].copy_from_slice(number.as_bytes());
    }
    bytes
}

/// Every loader by its number: 258 and 259 are 257 by another name, the others are what they say.
fn loaders() -> BTreeMap<u32, Vec<u8>> {
    BTreeMap::from([
        (252, roots::loader("bookworm")),
        (254, roots::loader("bookworm-backports")),
        (257, roots::base_loader()),
        (258, patched("258")),
        (259, patched("259")),
        (newest().0, newest().1),
    ])
}

/// What the next Debian has.
fn newest() -> (u32, Vec<u8>) {
    let bytes = roots::loader("forky");
    let number = Loader::read(&mut Cursor::new(&bytes), "forky").unwrap().version.number().unwrap();
    assert!(number >= 261, "the newest loader is {number}");
    (number, bytes)
}

fn bytes(content: impl Into<Vec<u8>>) -> Content {
    Content::Bytes(content.into().into())
}

fn path(text: &str) -> TreePath {
    TreePath::new(text).unwrap()
}

/// All files by path; a directory that holds nothing ends in a slash.
fn listing(files: &Files) -> BTreeMap<String, Vec<u8>> {
    let mut out = BTreeMap::new();
    for (path, node) in files.iter() {
        let name = path.to_string();
        match node {
            Node::File { content, executable } => {
                assert!(!executable);
                out.insert(name, content.read(64 << 20).unwrap());
            }
            Node::Directory if !files.iter().any(|(other, _)| other != path && other.starts_with(path)) => {
                out.insert(name + "/", Vec::new());
            }
            Node::Directory => {}
            Node::Symlink(_) => panic!("{name} is a link"),
        }
    }
    out
}

fn texts(files: &Files, below: &str) -> BTreeMap<String, String> {
    let below = format!("{below}/");
    let all = listing(files).into_iter();
    let some = all.filter_map(|(path, bytes)| Some((path.strip_prefix(&below)?.to_owned(), bytes)));
    some.map(|(name, bytes)| (name, String::from_utf8(bytes).unwrap())).collect()
}

fn menu(extra: &[&str], single: &[&str], layout: Layout) -> Menu {
    Menu {
        branding: "Kairos".to_owned(),
        cmdline: format!("{BASE_CMDLINE} {INSTALL_MODE}"),
        extra: extra.iter().map(|text| Extra { title: None, arguments: (*text).to_owned() }).collect(),
        single: single.iter().map(|text| Single::parse(text)).collect(),
        layout,
    }
}

fn request(loader: Option<&[u8]>, menu: &Menu) -> EspRequest {
    let planned = menu.plan().unwrap().0;
    EspRequest {
        loader: loader.map(|loader| (Loader::read(&mut Cursor::new(loader), "x").unwrap(), bytes(loader))),
        ukis: planned
            .into_iter()
            .map(|planned| Uki { content: bytes(format!("UKI {}", planned.name)), planned })
            .collect(),
        version: None,
        include_cmdline: false,
        secure_boot_enroll: SecureBootEnroll::default(),
        keys: None,
    }
}

/// The tree that a loader gets of its own, with `--cmdline-layout auto`.
fn made(loader: &[u8], extra: &[&str], single: &[&str]) -> EspTree {
    let version = Loader::read(&mut Cursor::new(loader), "x").unwrap().version;
    let layout = CmdlineLayout::Auto.decide(&version).unwrap();
    tree(&request(Some(loader), &menu(extra, single, layout))).unwrap()
}

fn write_tree(files: &Files, folder: &Path) {
    for (path, node) in files.iter() {
        let path = folder.join(path.as_path());
        match node {
            Node::Directory => std::fs::create_dir_all(path).unwrap(),
            Node::File { content, .. } => std::fs::write(path, content.read(64 << 20).unwrap()).unwrap(),
            Node::Symlink(_) => panic!("a link"),
        }
    }
}

#[test]
fn loaders_are_read() {
    for (number, loader) in loaders() {
        let read = Loader::read(&mut Cursor::new(&loader), "x").unwrap();
        assert_eq!((read.version.number(), read.architecture), (Some(number), Architecture::X64));
        assert_eq!(read.warning(), None);
        // What a loader's parser compares with is in it as text.
        let has = |text: &[u8]| loader.windows(text.len()).any(|window| window == text);
        if !matches!(number, 258 | 259) {
            assert_eq!(read.version.knows_uki(), has(b"\0uki\0"), "{number}");
            assert_eq!(read.version.knows_if_safe(), has(b"\0if-safe\0"), "{number}");
        }
    }
    let arm = std::fs::read(roots::arm64().join("usr/lib/systemd/boot/efi/systemd-bootaa64.efi")).unwrap();
    let read = Loader::read(&mut Cursor::new(&arm), "x").unwrap();
    assert_eq!(read.architecture.boot_file(), "BOOTAA64.EFI");
}

#[test]
fn what_is_no_loader_is_refused() {
    let refused = |bytes: &[u8]| match Loader::read(&mut Cursor::new(bytes), "x.efi") {
        Err(EspError::Loader { problem, .. }) => problem,
        other => panic!("{other:?}"),
    };
    assert!(refused(&roots::stub()).contains("stub"));
    assert!(refused(b"#!/bin/sh").contains("PE"));
    let mut large = roots::base_loader();
    large.resize(17 << 20, 0);
    assert!(refused(&large).contains("bytes"));
    // A program that is no systemd-boot is taken, with the oldest keys.
    let mut other = roots::base_loader();
    for place in places(&other, b"LoaderInfo: systemd-boot") {
        other[place + 12..place + 24].copy_from_slice(b"another-boot");
    }
    let made = made(&other, &["a"], &[]);
    assert!(made.warnings.join("").contains("does not tell its version"), "{:?}", made.warnings);
    assert_eq!(
        texts(&made.files, "/loader/entries")["norole_install-mode_a.conf"],
        "title Kairos\nsort-key norole_install-mode_a-0\nefi /EFI/kairos/norole_install-mode_a.efi\n"
    );
}

#[test]
fn the_tree_is_auroraboots() {
    let loader = newest().1;
    let keys = kairos_init::image::esp::EnrolmentKeys { pk: bytes("pk"), kek: bytes("kek"), db: bytes("db") };
    let request = EspRequest { keys: Some(keys), ..request(Some(&loader), &menu(&[], &[], Layout::Profiles)) };
    let made = tree(&request).unwrap();
    let expected = BTreeMap::from([
        ("/EFI/BOOT/BOOTX64.EFI".to_owned(), loader.clone()),
        ("/EFI/kairos/norole.efi".to_owned(), b"UKI norole".to_vec()),
        ("/EFI/tools/".to_owned(), Vec::new()),
        (
            "/loader/loader.conf".to_owned(),
            b"timeout 5\nconsole-mode max\neditor no\nsecure-boot-enroll if-safe\n".to_vec(),
        ),
        (
            "/loader/entries/norole.conf".to_owned(),
            b"title Kairos\nsort-key norole-0\nuki /EFI/kairos/norole.efi\nprofile 0\n".to_vec(),
        ),
        ("/loader/keys/auto/PK.auth".to_owned(), b"pk".to_vec()),
        ("/loader/keys/auto/KEK.auth".to_owned(), b"kek".to_vec()),
        ("/loader/keys/auto/db.auth".to_owned(), b"db".to_vec()),
    ]);
    assert_eq!(listing(&made.files), expected);
    assert_eq!(made.warnings, Vec::<String>::new());
    // Without a loader: the keys that every one understands, and a word about it.
    let without = tree(&EspRequest { loader: None, ..request }).unwrap();
    assert!(without.warnings.join("").contains("no boot manager"));
    assert_eq!(
        texts(&without.files, "/loader/entries")["norole.conf"],
        "title Kairos\nsort-key norole-0\nefi /EFI/kairos/norole.efi\n"
    );
}

#[test]
fn each_loader_gets_what_it_understands() {
    for (number, loader) in loaders() {
        let made = made(&loader, &["a=b"], &["Zed: c"]);
        let entries = texts(&made.files, "/loader/entries");
        let ukis: Vec<String> = texts(&made.files, "/EFI/kairos").into_keys().collect();
        let key = if number >= 258 { "uki" } else { "efi" };
        let mut expected = BTreeMap::new();
        let mut add = |name: &str, title: &str, sort_key: &str, file: &str, profile: Option<u32>| {
            let profile =
                profile.filter(|_| number >= 259).map_or_else(String::new, |number| format!("profile {number}\n"));
            let text = format!("title {title}\nsort-key {sort_key}\n{key} /EFI/kairos/{file}.efi\n{profile}");
            expected.insert(name.to_owned(), text);
        };
        add("norole.conf", "Kairos", "norole-0", "norole", Some(0));
        add("zed.conf", "Kairos (Zed)", "zed-0", "zed", Some(0));
        if number >= 259 {
            add("norole-profile1.conf", "Kairos (a=b)", "norole-1", "norole", Some(1));
            add("zed-profile1.conf", "Kairos (Zed) (a=b)", "zed-1", "zed", Some(1));
            assert_eq!(ukis, ["norole.efi", "zed.efi"], "{number}");
        } else {
            let extra = "norole_install-mode_a_b";
            add(&format!("{extra}.conf"), "Kairos", &format!("{extra}-0"), extra, None);
            assert_eq!(ukis, ["norole.efi", "norole_install-mode_a_b.efi", "zed.efi"], "{number}");
        }
        assert_eq!(entries, expected, "{number}");
        let conf = texts(&made.files, "/loader").remove("loader.conf").unwrap();
        let enroll = if number == 252 { "manual" } else { "if-safe" };
        assert_eq!(conf, format!("timeout 5\nconsole-mode max\neditor no\nsecure-boot-enroll {enroll}\n"), "{number}");
        assert_eq!(made.warnings.iter().any(|text| text.contains("if-safe")), number == 252, "{:?}", made.warnings);
    }
}

#[test]
fn profiles_asked_for_need_their_loader() {
    for (number, loader) in loaders() {
        let version = Loader::read(&mut Cursor::new(&loader), "x").unwrap().version;
        assert_eq!(CmdlineLayout::Profiles.decide(&version).is_ok(), number >= 259);
        let made = tree(&request(Some(&loader), &menu(&["a"], &[], Layout::Profiles)));
        match made {
            Err(error @ EspError::TooOld { .. }) if number < 259 => {
                let text = error.to_string();
                assert!(text.starts_with("a loader too old for the entries asked for: systemd-boot "), "{text}");
                assert!(text.contains("--cmdline-layout entries"), "{text}");
            }
            made => assert!(made.is_ok() && number >= 259, "{number}"),
        }
    }
}

#[test]
fn names_are_auroraboots() {
    let base = format!("{BASE_CMDLINE} {INSTALL_MODE}");
    // Flag, value: file, title, what follows the default command line, the key `cmdline`.
    let table = [
        ("extra", "foo=bar", "norole_install-mode_foo_bar", "Kairos", " foo=bar", "install-mode foo=bar"),
        ("extra", "Foo  Bar", "norole_install-mode_foo_bar", "Kairos", " Foo  Bar", "install-mode Foo  Bar"),
        ("extra", "a=/x/y,z", "norole_install-mode_a_x_y_z", "Kairos", " a=/x/y,z", "install-mode a=/x/y,z"),
        ("extra", "a=", "norole_install-mode_a", "Kairos", " a=", "install-mode a="),
        ("single", "My Entry: key=value", "my_entry", "Kairos (My Entry)", "  key=value", "install-mode  key=value"),
        ("single", "My Entry:key=value", "my_entry", "Kairos (My Entry)", " key=value", "install-mode key=value"),
        (
            "single",
            "key=value other",
            "single_entry_key_value_other",
            "Kairos",
            " key=value other",
            "install-mode key=value other",
        ),
        ("single", "install-mode", "single_entry", "Kairos", " install-mode", "install-mode install-mode"),
        ("single", "url=http://x", "url=http", "Kairos (url=http)", " //x", "install-mode //x"),
    ];
    for (flag, value, name, title, added, key) in table {
        let menu = match flag {
            "extra" => menu(&[value], &[], Layout::Entries),
            _ => menu(&[], &[value], Layout::Entries),
        };
        let planned = menu.plan().unwrap().0;
        let [default, uki] = planned.as_slice() else { panic!("{value}: {planned:?}") };
        let of = |uki: &kairos_init::image::esp::PlannedUki| {
            assert_eq!(uki.profiles.len(), 1);
            let entry = uki.profiles[0].clone();
            (uki.name.clone(), entry.title, entry.cmdline, entry.added)
        };
        assert_eq!(of(default), ("norole".to_owned(), "Kairos".to_owned(), base.clone(), String::new()));
        assert_eq!(of(uki), (name.to_owned(), title.to_owned(), format!("{base}{added}"), key.to_owned()), "{value}");
    }
    // Extended: the default's name, and what was added in its entry.
    let extended = Menu { cmdline: format!("{base} more=1"), ..menu(&[], &[], Layout::Entries) };
    let planned = extended.plan().unwrap().0;
    assert_eq!((planned[0].name.as_str(), planned[0].profiles[0].added.as_str()), ("norole", "install-mode more=1"));
}

#[test]
fn version_and_command_line_are_written_where_asked_for() {
    let loader = newest().1;
    let request = EspRequest {
        version: Some("v3.4.5".to_owned()),
        include_cmdline: true,
        ..request(Some(&loader), &menu(&["interactive-install"], &[], Layout::Profiles))
    };
    let entries = texts(&tree(&request).unwrap().files, "/loader/entries");
    assert_eq!(
        entries["norole.conf"],
        "title Kairos\nsort-key norole-0\nuki /EFI/kairos/norole.efi\nprofile 0\nversion v3.4.5\ncmdline \n"
    );
    assert_eq!(
        entries["norole-profile1.conf"],
        "title Kairos (interactive-install)\nsort-key norole-1\nuki /EFI/kairos/norole.efi\nprofile 1\nversion v3.4.5\ncmdline install-mode interactive-install\n"
    );
}

#[test]
fn nothing_is_injected() {
    let loader = newest().1;
    let good = request(Some(&loader), &menu(&[], &[], Layout::Profiles));
    let bad = [
        EspRequest { version: Some("v1\nefi /EFI/evil.efi".to_owned()), ..good.clone() },
        {
            let mut bad = good.clone();
            bad.ukis[0].planned.profiles[0].title = "Kairos\nefi /EFI/evil.efi".to_owned();
            bad
        },
        {
            let mut bad = good.clone();
            bad.ukis[0].planned.profiles[0].cmdline.push('\n');
            bad
        },
    ];
    for request in bad {
        assert!(matches!(tree(&request), Err(EspError::Text { .. })));
    }
    let mut outside = good.clone();
    outside.ukis[0].planned.name = "../../evil".to_owned();
    assert!(matches!(tree(&outside), Err(EspError::FileName { .. })));
    let menu = Menu { branding: "Kairos\nefi /x".to_owned(), ..menu(&[], &[], Layout::Profiles) };
    assert!(matches!(menu.plan(), Err(EspError::Text { .. })));
    assert!(matches!(tree(&EspRequest { ukis: Vec::new(), ..good }), Err(EspError::NoUki)));
}

#[test]
fn what_firmware_does_not_load_is_not_packed() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("large");
    let loader = newest().1;
    for (length, warned) in
        [(1_u64 << 30, Some(false)), ((1 << 30) + 1, Some(true)), ((2 << 30) - 1, Some(true)), (2 << 30, None)]
    {
        std::fs::File::create(&file).unwrap().set_len(length).unwrap();
        let mut request = request(Some(&loader), &menu(&[], &[], Layout::Profiles));
        request.ukis[0].content = Content::file(&file).unwrap();
        match (tree(&request), warned) {
            (Ok(made), Some(warned)) => assert_eq!(made.warnings.len() == 1, warned, "{length}: {:?}", made.warnings),
            (Err(error), None) => assert!(error.to_string().contains("norole.efi has 2048 MiB"), "{error}"),
            (made, _) => panic!("{length}: {made:?}"),
        }
    }
}
