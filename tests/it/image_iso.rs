//! The ISO 9660 image, as other programs read it: xorriso, isoinfo, bsdtar, sgdisk, sfdisk, blkid.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use kairos_init::cancel::Cancel;
use kairos_init::image::iso::{Iso, IsoRequest, PartitionTable};
use kairos_init::image::{Content, DEFAULT_TIME, Files, Image, ImageError, Node, Output};
use kairos_init::names::TreePath;
use proptest::prelude::*;

use crate::image_tools::stdio;

const MIB: u64 = 1 << 20;
const LABEL: &str = "UKI_ISO_INSTALL";
const TABLES: [PartitionTable; 3] = [PartitionTable::None, PartitionTable::Mbr, PartitionTable::Gpt];

/// What an entry is, once it is read back.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Item {
    Directory,
    File { bytes: Vec<u8>, mode: u32 },
    Link(Vec<u8>),
}

type Items = BTreeMap<Vec<u8>, Item>;

fn file(bytes: impl Into<Vec<u8>>) -> Item {
    Item::File { bytes: bytes.into(), mode: 0o644 }
}

fn path(name: impl AsRef<[u8]>) -> TreePath {
    TreePath::new(name).unwrap()
}

fn files(items: &Items) -> Files {
    let mut out = Files::new();
    for (name, item) in items {
        let node = match item {
            Item::Directory => Node::Directory,
            Item::File { bytes, mode } => {
                Node::File { content: Content::Bytes(bytes.as_slice().into()), executable: *mode == 0o755 }
            }
            Item::Link(target) => Node::Symlink(target.clone()),
        };
        out.insert(path(name), node).unwrap();
    }
    out
}

fn request(files: Files) -> IsoRequest {
    IsoRequest {
        files,
        label: LABEL.to_owned(),
        boot_image: None,
        table: PartitionTable::Mbr,
        time: DEFAULT_TIME,
        seed: [7; 32],
    }
}

fn write(request: IsoRequest, to: &Path) -> Result<u64, ImageError> {
    let iso = Iso::new(request)?;
    write_image(&iso, to)?;
    assert_eq!(fs::metadata(to).unwrap().len(), iso.length());
    Ok(iso.length())
}

fn write_image(image: &dyn Image, to: &Path) -> Result<(), ImageError> {
    let file = fs::File::options().read(true).write(true).create(true).truncate(true).open(to).unwrap();
    let cancel = Cancel::default();
    let mut out = Output::new(&file, to, &cancel);
    image.write(&mut out)?;
    out.finish()
}

/// Runs a program that must be there and end well; its two outputs together.
fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).env("LC_ALL", "C.UTF-8").output().expect(program);
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success(), "{program} {arguments:?}: {text}");
    text
}

/// xorriso, which must have nothing to complain about.
fn xorriso(arguments: &[&str]) -> String {
    let text = run("xorriso", &[&["-no_rc"], arguments].concat());
    for word in ["SORRY", "WARNING", "FAILURE", "FATAL", "MISHAP", "HINT"] {
        assert!(!text.contains(word), "xorriso {arguments:?}: {text}");
    }
    text
}

fn read_back(directory: &Path) -> Items {
    let mut out = Items::new();
    let mut pending = vec![directory.to_owned()];
    while let Some(from) = pending.pop() {
        for entry in fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            let metadata = entry.metadata().unwrap();
            let mode = metadata.permissions().mode() & 0o7777;
            let name = entry.path().strip_prefix(directory).unwrap().as_os_str().as_bytes().to_vec();
            let item = if metadata.is_symlink() {
                Item::Link(fs::read_link(entry.path()).unwrap().into_os_string().into_vec())
            } else if metadata.is_dir() {
                assert_eq!(mode, 0o755, "{name:?}");
                pending.push(entry.path());
                Item::Directory
            } else {
                Item::File { bytes: fs::read(entry.path()).unwrap(), mode }
            };
            out.insert(name, item);
        }
    }
    out
}

fn extracted_by_xorriso(iso: &Path, work: &Path) -> Items {
    let to = work.join("xorriso");
    fs::create_dir(&to).unwrap();
    xorriso(&["-osirrox", "on", "-indev", &stdio(iso), "-extract", "/", to.to_str().unwrap()]);
    let items = read_back(&to);
    fs::remove_dir_all(&to).unwrap();
    items
}

fn extracted_by_bsdtar(iso: &Path, work: &Path) -> Items {
    let to = work.join("bsdtar");
    fs::create_dir(&to).unwrap();
    let said = run("bsdtar", &["-x", "-p", "-P", "-f", iso.to_str().unwrap(), "-C", to.to_str().unwrap()]);
    assert_eq!(said, "");
    let items = read_back(&to);
    fs::remove_dir_all(&to).unwrap();
    items
}

/// In short.
fn said(item: &Item) -> String {
    match item {
        Item::Directory => "a directory".to_owned(),
        Item::File { bytes, mode } => format!("a file of {} bytes, {mode:o}", bytes.len()),
        Item::Link(target) => format!("a link to {:?}", String::from_utf8_lossy(target)),
    }
}

/// xorriso leaves out doubled and trailing slashes. bsdtar forgets a slash where a target goes on in another entry (of xorriso's
/// images as well), which is for targets of more than 120 bytes at the earliest.
fn same_target(read: &[u8], item: &Item, reader: &str) -> bool {
    let Item::Link(target) = item else { return false };
    let parts = |target: &[u8]| -> Vec<Vec<u8>> {
        let parts = target.split(|byte| *byte == b'/').filter(|part| !part.is_empty());
        parts.map(<[u8]>::to_vec).collect()
    };
    let all = |target: &[u8]| target.iter().copied().filter(|byte| *byte != b'/').collect::<Vec<_>>();
    match reader {
        "bsdtar" => target.len() > 120 && all(read) == all(target),
        _ => read.starts_with(b"/") == target.starts_with(b"/") && parts(read) == parts(target),
    }
}

#[track_caller]
fn assert_same(read: &Items, wanted: &Items, reader: &str) {
    for (name, item) in wanted {
        let name_text = String::from_utf8_lossy(name);
        match read.get(name) {
            Some(other) if other == item => {}
            Some(Item::Link(other)) if same_target(other, item, reader) => {}
            other => {
                panic!("{reader}: {name_text}: {} and not {}", other.map_or("nothing".to_owned(), said), said(item))
            }
        }
    }
    let more: Vec<_> =
        read.keys().filter(|name| !wanted.contains_key(*name)).map(|n| String::from_utf8_lossy(n)).collect();
    assert!(more.is_empty(), "{reader} has read more: {more:?}");
}

/// A FAT file system of some MiB, by mkfs.vfat, with a file in it.
fn fat(work: &Path, mib: u64) -> Vec<u8> {
    let image = work.join("fat.img");
    fs::File::create(&image).unwrap().set_len(mib * MIB).unwrap();
    run("/usr/sbin/mkfs.vfat", &["-F", "32", "-n", "BOOT", image.to_str().unwrap()]);
    let bytes = fs::read(&image).unwrap();
    fs::remove_file(image).unwrap();
    bytes
}

/// What is in a Kairos ISO, and what else a user may lay over it.
fn kairos(work: &Path, mib: u64) -> Items {
    Items::from([
        (b"efiboot.img".to_vec(), file(fat(work, mib))),
        (b"config.yaml".to_vec(), file(b"#cloud-config\n".to_vec())),
        (b"empty".to_vec(), file(b"".to_vec())),
        (b"data".to_vec(), Item::Directory),
        (b"data/nothing".to_vec(), Item::Directory),
        (b"data/run.sh".to_vec(), Item::File { bytes: b"#!/bin/sh\n".to_vec(), mode: 0o755 }),
        ("data/Überraschung 😀.txt".into(), file(vec![0xa5; 70_000])),
        (b"data.d".to_vec(), file(b"between".to_vec())),
        (b"link".to_vec(), Item::Link(b"data/run.sh".to_vec())),
    ])
}

fn boots(items: &Items, table: PartitionTable) -> IsoRequest {
    IsoRequest { boot_image: Some(path("efiboot.img")), table, ..request(files(items)) }
}

#[test]
fn every_reader_sees_the_tree() {
    let work = tempfile::tempdir().unwrap();
    let items = kairos(work.path(), 34);
    for table in TABLES {
        let iso = work.path().join("x.iso");
        write(boots(&items, table), &iso).unwrap();
        assert_same(&extracted_by_xorriso(&iso, work.path()), &items, "xorriso");
        assert_same(&extracted_by_bsdtar(&iso, work.path()), &items, "bsdtar");

        let name = iso.to_str().unwrap();
        let said = run("isoinfo", &["-d", "-i", name]);
        for line in [
            "CD-ROM is in ISO 9660 format",
            "Volume id: UKI_ISO_INSTALL",
            "Application id: KAIROS-INIT",
            "Logical block size is: 2048",
            "El Torito VD version 1 found",
            "Rock Ridge signatures version 1 found",
            "Eltorito validation header:",
        ] {
            assert!(said.contains(line), "{line}: {said}");
        }
        // By the names of ISO 9660 alone, and by those of Rock Ridge.
        let said = run("isoinfo", &["-f", "-i", name]);
        let mut names: Vec<_> = said.lines().collect();
        names.sort_unstable();
        assert_eq!(
            names,
            [
                "/CONFIG.YAML;1",
                "/DATA",
                "/DATA.D;1",
                "/DATA/NOTHING",
                "/DATA/RUN.SH;1",
                "/DATA/__BERRASCHUNG_____.TXT;1",
                "/EFIBOOT.IMG;1",
                "/EMPTY.;1",
                "/LINK.;1",
            ]
        );
        let said = run("isoinfo", &["-f", "-R", "-i", name]);
        let mut names: Vec<_> = said.lines().collect();
        names.sort_unstable();
        assert_eq!(names, items.keys().map(|n| format!("/{}", String::from_utf8_lossy(n))).collect::<Vec<_>>());
        let said = run("isoinfo", &["-l", "-R", "-i", name]);
        for line in ["-rwxr-xr-x   1    0    0", "drwxr-xr-x   3    0    0", "link -> data/run.sh", "Jan  1 1980"] {
            assert!(said.contains(line), "{line}: {said}");
        }
    }
}

#[test]
fn firmware_and_systems_find_the_boot_image() {
    let work = tempfile::tempdir().unwrap();
    // 32 MiB are one sector more than the catalogue can count.
    for (mib, load_size) in [(20, 20 * 2048), (32, 0), (40, 0)] {
        let items = kairos(work.path(), mib);
        let Item::File { bytes: image, .. } = &items[&b"efiboot.img"[..]] else { panic!() };
        for table in TABLES {
            let iso = work.path().join("x.iso");
            let length = write(boots(&items, table), &iso).unwrap();
            let name = iso.to_str().unwrap();
            let said = xorriso(&["-indev", &stdio(&iso), "-report_el_torito", "plain", "-report_system_area", "plain"]);
            let line = said.lines().find(|line| line.starts_with("El Torito boot img :")).unwrap();
            let words: Vec<_> = line.split_whitespace().skip(6).collect();
            let lba: u64 = words[6].parse().unwrap();
            assert_eq!(words[..6], ["UEFI", "y", "none", "0x0000", "0x00", &load_size.to_string()], "{said}");
            assert!(said.contains("/efiboot.img"), "{said}");
            assert_eq!(lba * 2048 % MIB, 0);
            let mut read = vec![0; image.len()];
            fs::File::open(&iso).unwrap().read_exact_at(&mut read, lba * 2048).unwrap();
            assert!(read == *image);

            // udev's blkid: the label is found on the whole disk, and on the disk only.
            let said = run("/usr/sbin/blkid", &["-p", "-o", "export", name]);
            assert!(said.contains("TYPE=iso9660") && said.contains("LABEL=UKI_ISO_INSTALL"), "{said}");
            if table == PartitionTable::None {
                let said = Command::new("/usr/sbin/sfdisk").args(["--json", name]).output().expect("sfdisk");
                assert!(!said.status.success());
                continue;
            }
            let said: serde_json::Value = serde_json::from_str(&run("/usr/sbin/sfdisk", &["--json", name])).unwrap();
            let said = &said["partitiontable"];
            let [partition] = said["partitions"].as_array().unwrap().as_slice() else { panic!("{said}") };
            assert_eq!(partition["start"], lba * 4);
            assert_eq!(partition["size"], mib * 2048);
            let checked = run("/usr/sbin/sgdisk", &["-v", name]);
            assert!(checked.contains("No problems found"), "{checked}");
            assert!(!checked.contains("Caution") && !checked.contains("Warning"), "{checked}");
            match table {
                PartitionTable::Gpt => {
                    assert_eq!(said["label"], "gpt");
                    assert_eq!(partition["type"], "C12A7328-F81F-11D2-BA4B-00A0C93EC93B");
                    assert_eq!(said["lastlba"], length / 512 - 34);
                    assert!(!checked.contains("converting"), "{checked}");
                }
                _ => {
                    assert_eq!(said["label"], "dos");
                    assert_eq!(partition["type"], "ef");
                    assert_ne!(said["id"], "0x00000000");
                }
            }
        }
    }
}

#[test]
fn the_image_depends_on_the_request_only() {
    let work = tempfile::tempdir().unwrap();
    let items = kairos(work.path(), 34);
    let (one, other) = (work.path().join("one.iso"), work.path().join("other.iso"));
    write(boots(&items, PartitionTable::Gpt), &one).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(1100));
    write(boots(&items, PartitionTable::Gpt), &other).unwrap();
    assert!(fs::read(&one).unwrap() == fs::read(&other).unwrap());
    write(IsoRequest { seed: [8; 32], ..boots(&items, PartitionTable::Gpt) }, &other).unwrap();
    assert!(fs::read(&one).unwrap() != fs::read(&other).unwrap());

    // From a folder, in whatever order the file system gives.
    let folder = work.path().join("folder");
    fs::create_dir(&folder).unwrap();
    for name in ["b", "a", "d", "c"] {
        fs::write(folder.join(name), name.repeat(100_000)).unwrap();
    }
    write(request(Files::scan(&folder).unwrap()), &one).unwrap();
    let copy = work.path().join("copy");
    fs::create_dir(&copy).unwrap();
    for name in ["d", "c", "b", "a"] {
        fs::write(copy.join(name), name.repeat(100_000)).unwrap();
    }
    write(request(Files::scan(&copy).unwrap()), &other).unwrap();
    assert!(fs::read(&one).unwrap() == fs::read(&other).unwrap());
    assert_same(&extracted_by_xorriso(&one, work.path()), &read_back(&folder), "xorriso");
}

#[test]
fn many_files_in_one_directory_with_names_that_are_alike() {
    let work = tempfile::tempdir().unwrap();
    let mut items = Items::from([(b"d".to_vec(), Item::Directory)]);
    for n in 0..5000 {
        items.insert(
            format!("d/{}{n:04}.conf", "a very long name that is cut ".repeat(4)).into_bytes(),
            file(n.to_string()),
        );
    }
    let iso = work.path().join("x.iso");
    write(request(files(&items)), &iso).unwrap();
    assert_same(&extracted_by_xorriso(&iso, work.path()), &items, "xorriso");
    assert_same(&extracted_by_bsdtar(&iso, work.path()), &items, "bsdtar");
    let said = run("isoinfo", &["-f", "-i", iso.to_str().unwrap()]);
    let names: Vec<_> = said.lines().filter(|line| line.ends_with(";1")).collect();
    let mut unique = names.clone();
    unique.sort_unstable();
    unique.dedup();
    assert_eq!((names.len(), unique.len()), (5000, 5000));
}

#[test]
fn the_longest_of_everything() {
    let work = tempfile::tempdir().unwrap();
    let mut items = Items::new();
    for length in [100, 113, 114, 220, 249, 250, 251, 252, 253] {
        items.insert("n".repeat(length).into_bytes(), file(length.to_string()));
    }
    let deep = vec!["deeper"; 40].join("/");
    for (end, _) in deep.match_indices('/') {
        items.insert(deep.as_bytes()[..end].to_vec(), Item::Directory);
    }
    items.insert(deep.into_bytes(), file(b"deep".to_vec()));
    let targets = [
        "/",
        "/usr",
        ".",
        "..",
        "../../a/./b",
        "a/../..",
        "/a//b",
        "a/",
        "//a",
        &"x".repeat(255),
        &"x/".repeat(2000),
        &vec!["y".repeat(200); 20].join("/"),
        &format!("{}/z", "y".repeat(247)),
        &format!("{}/z", "y".repeat(248)),
        &format!("{}/z", "y".repeat(249)),
    ]
    .map(str::to_owned);
    for (n, target) in targets.into_iter().enumerate() {
        items.insert(format!("link{n}{}", "l".repeat(n * 16)).into_bytes(), Item::Link(target.into_bytes()));
    }
    let iso = work.path().join("x.iso");
    write(request(files(&items)), &iso).unwrap();
    assert_same(&extracted_by_bsdtar(&iso, work.path()), &items, "bsdtar");
    // xorriso refuses to read or write longer ones, which Linux reads.
    items.retain(|_, item| !matches!(item, Item::Link(target) if target.len() > 800));
    write(request(files(&items)), &iso).unwrap();
    assert_same(&extracted_by_xorriso(&iso, work.path()), &items, "xorriso");
}

fn items() -> impl Strategy<Value = Items> {
    let name = prop_oneof!["[a-zA-Z0-9._ -]{1,12}", "[a-c]{1,2}", "\\PC{1,60}", "[x.]{60,250}",];
    let name = name.prop_map(|mut name| {
        name.retain(|character| character != '/');
        let mut end = name.len().min(250);
        while !name.is_char_boundary(end) {
            end -= 1;
        }
        name.truncate(end);
        if name.chars().all(|character| character == '.') { format!("{name}x") } else { name }
    });
    let item = prop_oneof![
        Just(Item::Directory),
        (prop::collection::vec(any::<u8>(), 0..5000), any::<bool>())
            .prop_map(|(bytes, program)| Item::File { bytes, mode: if program { 0o755 } else { 0o644 } }),
        "[a-z./]{1,300}".prop_map(|target| Item::Link(target.into_bytes())),
    ];
    let depth = prop::collection::vec(any::<prop::sample::Index>(), 60);
    (prop::collection::vec((name, item), 0..60), depth).prop_map(|(entries, parents)| {
        let mut items = Items::new();
        let mut directories = vec![String::new()];
        for ((name, item), parent) in entries.into_iter().zip(parents) {
            let name = format!("{}{name}", directories[parent.index(directories.len())]);
            if items.contains_key(name.as_bytes()) || name.len() > 2000 {
                continue;
            }
            if item == Item::Directory {
                directories.push(format!("{name}/"));
            }
            items.insert(name.into_bytes(), item);
        }
        items
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_tree_is_read_back(items in items()) {
        let work = tempfile::tempdir().unwrap();
        let iso = work.path().join("x.iso");
        write(request(files(&items)), &iso).unwrap();
        assert_same(&extracted_by_xorriso(&iso, work.path()), &items, "xorriso");
        assert_same(&extracted_by_bsdtar(&iso, work.path()), &items, "bsdtar");
    }
}

/// A large image that takes no room: a mark at each 64 MiB.
#[derive(Debug)]
struct Sparse(u64);

impl Sparse {
    const STEP: u64 = 64 * MIB;
}

impl Image for Sparse {
    fn length(&self) -> u64 {
        self.0
    }

    fn write(&self, out: &mut Output<'_>) -> Result<(), ImageError> {
        let end = out.position() + self.0;
        for at in (0..self.0).step_by(64 << 20) {
            out.write(&at.to_le_bytes())?;
            out.zeros((Self::STEP - 8).min(end - out.position()))?;
        }
        Ok(())
    }
}

#[test]
fn a_file_of_more_than_four_gib_has_several_sections() {
    let work = tempfile::tempdir().unwrap();
    let length = 9 * 1024 * MIB + 9;
    let mut files = files(&Items::from([(b"after".to_vec(), file(b"after".to_vec()))]));
    files.insert(path("big"), Node::plain(Content::Image(std::sync::Arc::new(Sparse(length))))).unwrap();
    let iso = work.path().join("x.iso");
    write(request(files), &iso).unwrap();
    let name = iso.to_str().unwrap();
    let said = run("bsdtar", &["-t", "-v", "-f", name]);
    assert!(said.lines().any(|line| line.contains(&format!(" {length} ")) && line.ends_with(" big")), "{said}");
    let said = xorriso(&["-indev", &stdio(&iso), "-find", "/", "-name", "big", "-exec", "report_lba"]);
    let sections: Vec<Vec<u64>> = (said.lines().filter(|line| line.starts_with("File data lba:")))
        .map(|line| line.split([':', ',']).skip(1).filter_map(|word| word.trim().parse().ok()).collect())
        .collect();
    assert_eq!(sections.len(), 3, "{said}");
    let image = fs::File::open(&iso).unwrap();
    let mut at = 0_u64;
    for section in sections {
        let (lba, bytes) = (section[1], section[2] * 2048);
        let mut mark = [0; 8];
        let first = at.next_multiple_of(Sparse::STEP);
        image.read_exact_at(&mut mark, lba * 2048 + first - at).unwrap();
        assert_eq!(u64::from_le_bytes(mark), first);
        at += bytes;
    }
    assert!(at >= length);
}

/// In this process, without the other tests: what it took of memory at most, in KiB.
pub(crate) fn peak() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
fn a_large_tree_takes_little_memory() {
    const FOLDER: &str = "KAIROS_INIT_TEST_LARGE_TREE";
    if let Some(folder) = std::env::var_os(FOLDER) {
        let folder = PathBuf::from(folder);
        let files = Files::scan(&folder.join("tree")).unwrap();
        write(IsoRequest { boot_image: Some(path("efiboot.img")), ..request(files) }, &folder.join("x.iso")).unwrap();
        println!("peak {} end", peak());
        return;
    }
    let work = tempfile::tempdir().unwrap();
    let tree = work.path().join("tree");
    fs::create_dir(&tree).unwrap();
    fs::write(tree.join("efiboot.img"), vec![0x5a; 190 << 20]).unwrap();
    for n in 0..2000 {
        fs::write(tree.join(format!("file{n}")), vec![0x5b; 5000]).unwrap();
    }
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "image_iso::a_large_tree_takes_little_memory", "--nocapture"])
        .env(FOLDER, work.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}");
    let peak: u64 = said.split("peak ").nth(1).unwrap().split(" end").next().unwrap().parse().unwrap();
    assert!(peak < 24 << 10, "{peak} KiB");
    let said = xorriso(&["-indev", &stdio(&work.path().join("x.iso")), "-du", "/"]);
    assert!(said.contains("'/'"), "{said}");
}

#[test]
fn what_cannot_be_is_refused() {
    let refused = |request: IsoRequest, why: &str| {
        let error = Iso::new(request).unwrap_err();
        assert!(error.to_string().contains(why), "{error}");
        error
    };
    let one = |name: &str, item: Item| request(files(&Items::from([(name.as_bytes().to_vec(), item)])));
    for label in ["", "UKI ISO", "ä", &"X".repeat(33)] {
        refused(IsoRequest { label: label.to_owned(), ..request(Files::new()) }, "volume label");
    }
    refused(IsoRequest { time: 1 << 40, ..request(Files::new()) }, "1900 to 2155");
    for length in [254, 255] {
        let error = refused(one(&format!("a/{}", "n".repeat(length)), file(b"".to_vec())), "shorten it");
        let ImageError::Unrepresentable { path, format, .. } = error else { panic!("{error}") };
        assert_eq!((path.file_name().len(), format), (length, "ISO 9660"));
    }
    refused(one("link", Item::Link(vec![b'x'; 4096])), "/link cannot be in a ISO 9660 image");
    refused(one("link", Item::Link(Vec::new())), "a link to nothing");
    let boots = |request: IsoRequest| IsoRequest { boot_image: Some(path("efiboot.img")), ..request };
    refused(boots(request(Files::new())), "it is not in the tree");
    refused(boots(one("efiboot.img", Item::Directory)), "it is no regular file");
    refused(boots(one("efiboot.img", Item::Link(b"x".to_vec()))), "it is no regular file");
    refused(boots(one("efiboot.img", file(b"".to_vec()))), "it is empty");
    let mut huge = Files::new();
    huge.insert(path("huge"), Node::plain(Content::Image(std::sync::Arc::new(Sparse(9 << 40))))).unwrap();
    refused(request(huge), "leave files out");
    let mut many = Files::new();
    for n in 0..=65_535 {
        many.insert(path(format!("{n}")), Node::Directory).unwrap();
    }
    refused(request(many), "65537 directories");
}

#[test]
fn a_file_that_changes_meanwhile_is_an_error() {
    let work = tempfile::tempdir().unwrap();
    let folder = work.path().join("folder");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("file"), "before").unwrap();
    let iso = Iso::new(request(Files::scan(&folder).unwrap())).unwrap();
    fs::write(folder.join("file"), "and after").unwrap();
    let error = write_image(&iso, &work.path().join("x.iso")).unwrap_err();
    assert!(matches!(&error, ImageError::Changed { path } if path.ends_with("folder/file")), "{error}");

    /// Says one length and writes another.
    #[derive(Debug)]
    struct Liar(u64);
    impl Image for Liar {
        fn length(&self) -> u64 {
            10
        }
        fn write(&self, out: &mut Output<'_>) -> Result<(), ImageError> {
            out.zeros(self.0)
        }
    }
    for length in [9, 11] {
        let mut files = Files::new();
        files.insert(path("liar"), Node::plain(Content::Image(std::sync::Arc::new(Liar(length))))).unwrap();
        let iso = Iso::new(request(files)).unwrap();
        let error = write_image(&iso, &work.path().join("x.iso")).unwrap_err().to_string();
        assert!(error.contains(&format!("{length} bytes were written where 10 were laid out")), "{error}");
    }
}
