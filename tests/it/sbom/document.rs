//! The document: valid by SPDX's own tools, its package URLs by the specification's own reader, the same each time.

use std::path::Path;
use std::process::Command;

use super::{output, package, python, read, write};
use crate::roots;
use kairos_init::cancel::Cancel;
use kairos_init::image::ImageError;
use kairos_init::image::sbom::{HashedFile, OsRelease, Sbom, document, hash, purl};
use kairos_init::names::{KernelRelease, TreePath};
use kairos_init::root::packages::{Manager, Source};
use kairos_init::root::sysroot::Sysroot;
use kairos_init::root::tree::{Content, Entry, FileTree, Kind, Seen};

/// A tree of the files and links of these directories.
fn tree(root: &Sysroot, directories: &[&str]) -> FileTree {
    let mut tree = FileTree::new();
    let mut pending: Vec<_> = directories.iter().map(|directory| TreePath::new(directory).unwrap()).collect();
    while let Some(directory) = pending.pop() {
        for entry in root.read_dir(&directory).unwrap() {
            let path = directory.join(&entry.name).unwrap();
            let metadata = root.metadata(&path).unwrap();
            let mut made = Entry::directory(0);
            match entry.kind {
                kairos_init::root::sysroot::EntryType::Directory => pending.push(path.clone()),
                kairos_init::root::sysroot::EntryType::File => {
                    made.kind = Kind::File(Content::Root { path: path.clone(), seen: Seen::of(&metadata) });
                }
                _ => made.kind = Kind::Symlink(root.read_link(&path).unwrap()),
            }
            tree.insert(path, made);
        }
    }
    tree
}

fn hashed(root: &Sysroot, directories: &[&str]) -> Vec<HashedFile> {
    let tree = tree(root, directories);
    hash(root, &tree, tree.iter().map(|(path, _)| path), &Cancel::default()).unwrap()
}

/// The SBOM of Debian's root with a part of its modules and firmware.
fn debian() -> Sbom {
    let root = Sysroot::open(&roots::base()).unwrap();
    let release = root.read_dir(&TreePath::new("usr/lib/modules").unwrap()).unwrap().remove(0).name;
    let release = String::from_utf8(release).unwrap();
    let packages = read(&roots::base());
    Sbom {
        name: "kairos debian/13".to_owned(),
        version: Some("v1.0".to_owned()),
        tool_version: "0.1.0".to_owned(),
        created: 1_735_689_600,
        os_release: OsRelease::parse(&std::fs::read_to_string(roots::base().join("usr/lib/os-release")).unwrap()),
        packages: packages.packages,
        gone: Vec::new(),
        notes: packages.warnings,
        kernel: Some(KernelRelease::new(&release).unwrap()),
        modules: hashed(&root, &[&format!("usr/lib/modules/{release}/kernel/drivers/nvme")]),
        firmware: hashed(&root, &["usr/lib/firmware/amd-ucode", "usr/lib/firmware/rtl_nic"]),
    }
}

/// What packagers write, the odd with the common.
fn odd() -> Sbom {
    let mut packages = vec![
        package(Manager::Rpm, "Lib+p7_x", "2:1.0~rc1^git-1%2.fc42", "x86_64"),
        package(Manager::Rpm, "kernel-core", "6.12.0-1.fc42", "x86_64"),
        package(Manager::Rpm, "kernel-core", "6.12.0-2.fc42", "x86_64"),
        package(Manager::Dpkg, "libstdc++6", "1:14.2.0-19+b1", "amd64"),
        package(Manager::Dpkg, "libstdc++6", "1:14.2.0-19+b1", "i386"),
        package(Manager::Dpkg, "libstdc--6", "1:14.2.0-19+b1", "i386"),
        package(Manager::Apk, "py3-\u{e9}?#@&=x", "1.0-r0", "x86_64"),
        package(Manager::Pacman, "Bash", "5.2-1", "any"),
    ];
    let odd = [
        (
            Some("GPL-2.0-or-later AND (MIT OR BSD-3-Clause)"),
            Some("https://example.org/a?b=c#d"),
            Some("Fedora Project"),
        ),
        (Some("GPLv2+ and MIT"), Some("not a page"), Some("Red Hat, Inc. (really)")),
        (Some("MIT AND LicenseRef-Fedora-Public-Domain"), Some("http://localhost/x"), None),
        (None, Some("https://user@example.org/"), Some("A \"B\" (team) <a@example.org>")),
        (Some("GPL-2.0"), Some("https://example.community:8080/<x>"), Some("<only@example.org>")),
        (Some("mit\u{7}"), Some("ftp://ftp.gnu.org/gnu"), Some("\u{442}\u{435}\u{441}\u{442}")),
        (Some("MIT, Zlib"), Some("https://10.0.0.1/"), Some("()")),
        (Some("GPL-3.0-or-later WITH GCC-exception-3.1"), Some(""), Some("  ")),
    ];
    for (package, (license, homepage, supplier)) in packages.iter_mut().zip(odd) {
        let owned = |text: Option<&str>| text.map(str::to_owned);
        (package.license, package.homepage, package.supplier) = (owned(license), owned(homepage), owned(supplier));
    }
    packages[3].source = Some(Source { name: "gcc-14".to_owned(), version: Some("14.2.0-19".to_owned()) });
    packages[1].source = Some(Source { name: "kernel".to_owned(), version: Some("6.12.0-1.fc42".to_owned()) });
    packages[7].source = Some(Source { name: "Bash".to_owned(), version: None });
    let file = |path: &[u8], fill| HashedFile {
        path: TreePath::new(path).unwrap(),
        bytes: 1,
        sha1: [fill; 20],
        sha256: [fill; 32],
    };
    Sbom {
        name: "\u{e9} \"odd\" /name".to_owned(),
        version: None,
        tool_version: "0.1.0-rc.1+x".to_owned(),
        created: 0,
        os_release: OsRelease::parse("ID=fedora\nVERSION_ID=\"4 2\"\n"),
        gone: vec![package(Manager::Dpkg, "firmware-iwlwifi", "1", "all")],
        packages,
        notes: vec!["a note".to_owned()],
        kernel: None,
        modules: vec![file(b"usr/lib/modules/a b/\xff\x01.ko", 1), file(b"usr/lib/modules/a b/x.ko", 2)],
        // The same file twice, in one list and in both.
        firmware: vec![
            file(b"usr/lib/firmware/x", 3),
            file(b"usr/lib/firmware/x", 3),
            file(b"usr/lib/modules/a b/x.ko", 2),
        ],
    }
}

fn empty() -> Sbom {
    Sbom {
        name: "empty".to_owned(),
        version: None,
        tool_version: "0".to_owned(),
        created: -1,
        os_release: OsRelease::default(),
        packages: Vec::new(),
        gone: Vec::new(),
        notes: Vec::new(),
        kernel: Some(KernelRelease::new("6.12").unwrap()),
        modules: Vec::new(),
        firmware: Vec::new(),
    }
}

fn json(sbom: &Sbom) -> serde_json::Value {
    serde_json::from_str(&document(sbom)).unwrap()
}

#[test]
fn spdxs_own_tools_say_that_it_is_valid() {
    for (name, sbom) in [("debian", debian()), ("odd", odd()), ("empty", empty())] {
        let folder = tempfile::tempdir().unwrap();
        let text = document(&sbom);
        write(folder.path(), "sbom.spdx.json", &text);
        let file = folder.path().join("sbom.spdx.json");
        let said = |file: &Path| {
            let output = Command::new(roots::spdx_tool("pyspdxtools")).arg("-i").arg(file).output().unwrap();
            (
                output.status.success(),
                format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr)),
            )
        };
        let (valid, messages) = said(&file);
        assert!(valid && messages.is_empty(), "{name}: {messages}");
        // The judge does judge.
        write(folder.path(), "sbom.spdx.json", text.replace("CC0-1.0", "MIT"));
        assert!(!said(&file).0, "{name}");
    }
}

#[test]
fn package_urls_say_what_the_packages_are() {
    let program = "import sys, json\n\
                   from packageurl import PackageURL\n\
                   for line in open(sys.argv[1]):\n\
                   \x20line = line.rstrip('\\n')\n\
                   \x20p = PackageURL.from_string(line)\n\
                   \x20s = p.to_string()\n\
                   # It writes names of apk with small digits in what is encoded.\n\
                   \x20assert s == line or p.type == 'apk' and s.lower() == line.lower(), (s, line)\n\
                   \x20q = p.qualifiers\n\
                   \x20print('\\t'.join([p.type, p.namespace or '', p.name, p.version, q.get('arch', ''), q.get('distro', ''), q.get('epoch', ''), q.get('upstream', '')]))\n";
    let mut urls = String::new();
    let mut expected = Vec::new();
    for sbom in [debian(), odd()] {
        for package in &sbom.packages {
            let url = purl(package, &sbom.os_release);
            assert!(url.is_ascii());
            urls += &format!("{url}\n");
            let rpm = package.manager == Manager::Rpm;
            let (epoch, version) = match package.version.split_once(':') {
                Some((epoch, version)) if rpm => (epoch, version),
                _ => ("", package.version.as_str()),
            };
            let kind = match package.manager {
                Manager::Dpkg => "deb",
                Manager::Rpm => "rpm",
                Manager::Apk => "apk",
                Manager::Pacman => "alpm",
            };
            let upstream = match &package.source {
                Some(Source { name, version: Some(version) }) if *version != package.version => {
                    format!("{name}@{version}")
                }
                Some(Source { name, .. }) if *name != package.name => name.clone(),
                _ => String::new(),
            };
            let os = &sbom.os_release;
            let name = if rpm { package.name.clone() } else { package.name.to_lowercase() };
            let architecture = package.architecture.as_deref().unwrap();
            expected.push(format!(
                "{kind}\t{}\t{name}\t{version}\t{architecture}\t{}-{}\t{epoch}\t{upstream}",
                os.id, os.id, os.version_id
            ));
        }
    }
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "urls", urls);
    let parsed = python(program, &[folder.path().join("urls").to_str().unwrap()]);
    assert_eq!(parsed.lines().collect::<Vec<_>>(), expected);
}

#[test]
fn known_package_urls() {
    let url =
        |manager, name, version, arch, os: &str| purl(&package(manager, name, version, arch), &OsRelease::parse(os));
    let cases = [
        (
            url(Manager::Dpkg, "curl", "7.50.3-1", "i386", "ID=debian\nVERSION_ID=9"),
            "pkg:deb/debian/curl@7.50.3-1?arch=i386&distro=debian-9",
        ),
        (
            url(Manager::Rpm, "curl", "7.50.3-1.fc25", "i386", "ID=fedora\nVERSION_ID=25"),
            "pkg:rpm/fedora/curl@7.50.3-1.fc25?arch=i386&distro=fedora-25",
        ),
        (
            url(Manager::Rpm, "bash", "0:5-1", "s390x", "ID=rhel\nVERSION_ID=9.4"),
            "pkg:rpm/redhat/bash@5-1?arch=s390x&distro=rhel-9.4&epoch=0",
        ),
        (
            url(Manager::Rpm, "g++", "5-1", "x86_64", "ID=opensuse-tumbleweed"),
            "pkg:rpm/opensuse/g%2B%2B@5-1?arch=x86_64&distro=opensuse-tumbleweed",
        ),
        (url(Manager::Apk, "curl", "7.83.0-r0", "x86", ""), "pkg:apk/alpine/curl@7.83.0-r0?arch=x86"),
        (
            url(Manager::Pacman, "containers-common", "1:0.47.4-4", "x86_64", "ID=arch"),
            "pkg:alpm/arch/containers-common@1:0.47.4-4?arch=x86_64&distro=arch",
        ),
    ];
    for (found, expected) in cases {
        assert_eq!(found, expected);
    }
}

#[test]
fn licences_and_pages_are_declared_only_where_they_are_that() {
    let json = json(&odd());
    let of = |name: &str, field: &str| {
        let packages = json["packages"].as_array().unwrap();
        packages.iter().find(|package| package["name"] == name).unwrap()[field].clone()
    };
    assert_eq!(of("Lib+p7_x", "licenseDeclared"), "GPL-2.0-or-later AND (MIT OR BSD-3-Clause)");
    assert_eq!(of("Lib+p7_x", "supplier"), "Organization: Fedora Project");
    assert_eq!(of("kernel-core", "licenseDeclared"), "NOASSERTION");
    assert_eq!(of("kernel-core", "licenseComments"), "As the package database has it: GPLv2+ and MIT");
    assert_eq!(of("kernel-core", "sourceInfo"), "built from kernel 6.12.0-1.fc42");
    assert!(of("kernel-core", "homepage").is_null());
    assert_eq!(of("libstdc++6", "supplier"), "Person: A \"B\" [team] (a@example.org)");
    assert_eq!(json["hasExtractedLicensingInfos"][0]["licenseId"], "LicenseRef-Fedora-Public-Domain");
    let comment = json["comment"].as_str().unwrap();
    assert!(comment.contains("a note\n") && comment.contains("firmware-iwlwifi 1"), "{comment}");
}

#[test]
fn all_files_are_contained_with_the_sums_that_coreutils_print() {
    let sbom = debian();
    let json = json(&sbom);
    let files = json["files"].as_array().unwrap();
    assert_eq!(files.len(), sbom.modules.len() + sbom.firmware.len());
    assert!(sbom.modules.len() > 5 && sbom.firmware.len() > 20, "{} {}", sbom.modules.len(), sbom.firmware.len());
    for (program, algorithm) in [("sha1sum", 0), ("sha256sum", 1)] {
        let mut sums = Command::new(program);
        sums.current_dir(roots::base()).args(files.iter().map(|file| file["fileName"].as_str().unwrap()));
        let ours: Vec<_> = files
            .iter()
            .map(|file| {
                let sum = file["checksums"][algorithm]["checksumValue"].as_str().unwrap();
                format!("{sum}  {}", file["fileName"].as_str().unwrap())
            })
            .collect();
        assert_eq!(output(&mut sums).lines().collect::<Vec<_>>(), ours);
    }
    let relationships = json["relationships"].as_array().unwrap();
    let of = |from: &str| relationships.iter().filter(|relationship| relationship["spdxElementId"] == from).count();
    assert_eq!(of("SPDXRef-DOCUMENT"), 1);
    assert_eq!(of("SPDXRef-Image"), sbom.packages.len() + 2);
    assert_eq!((of("SPDXRef-Kernel"), of("SPDXRef-Firmware")), (sbom.modules.len(), sbom.firmware.len()));
    // SPDX 2.3, 7.9.
    let mut sums: Vec<String> = sbom.modules.iter().map(|module| hex::encode(module.sha1)).collect();
    sums.sort();
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "sums", sums.concat());
    let code = output(Command::new("sha1sum").arg(folder.path().join("sums")));
    let kernel =
        json["packages"].as_array().unwrap().iter().find(|package| package["SPDXID"] == "SPDXRef-Kernel").unwrap();
    assert_eq!(kernel["packageVerificationCode"]["packageVerificationCodeValue"], code.split_once(" ").unwrap().0);
    assert_eq!(kernel["versionInfo"], sbom.kernel.unwrap().as_str());
}

#[test]
fn the_same_image_has_the_same_document() {
    let sbom = debian();
    let text = document(&sbom);
    let mut again = sbom.clone();
    again.packages.reverse();
    again.modules.reverse();
    again.firmware.reverse();
    assert!(document(&again) == text, "the order of what is given shows in the document");
    for threads in [1, 3] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        assert!(pool.install(|| document(&debian())) == text, "{threads} threads make another document");
    }
    // What differs has another namespace.
    let mut namespaces = vec![json(&sbom)["documentNamespace"].as_str().unwrap().to_owned()];
    assert!(namespaces[0].starts_with("https://kairos.io/spdxdocs/kairos-debian-13-"), "{namespaces:?}");
    again.created += 1;
    namespaces.push(json(&again)["documentNamespace"].as_str().unwrap().to_owned());
    again.modules[0].sha256[0] ^= 1;
    namespaces.push(json(&again)["documentNamespace"].as_str().unwrap().to_owned());
    namespaces.sort();
    namespaces.dedup();
    assert_eq!(namespaces.len(), 3);
}

#[test]
fn only_files_of_the_tree_are_hashed_and_a_change_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "lib/a", "content");
    write(folder.path(), "lib/c", "");
    std::os::unix::fs::symlink("a", folder.path().join("lib/b")).unwrap();
    let root = Sysroot::open(folder.path()).unwrap();
    let path = |path: &str| TreePath::new(path).unwrap();
    let mut tree = tree(&root, &["lib"]);
    tree.insert(path("lib/d"), Entry { kind: Kind::HardLink(path("lib/a")), ..Entry::directory(0) });
    tree.insert(path("lib/e"), Entry::file(b"content".to_vec(), 0));
    let wanted: Vec<_> =
        ["lib/e", "lib/d", "lib/c", "lib/b", "lib/a", "lib/a", "lib", "lib/z"].iter().map(|p| path(p)).collect();
    let found = hash(&root, &tree, &wanted, &Cancel::default()).unwrap();
    let names: Vec<_> = found.iter().map(|file| (file.path.to_string(), file.bytes)).collect();
    let expected = [("/lib/a", 7), ("/lib/c", 0), ("/lib/d", 7), ("/lib/e", 7)];
    assert_eq!(names, expected.map(|(name, bytes)| (name.to_owned(), bytes)));
    assert!(found[0].sha256 == found[2].sha256 && found[2].sha1 == found[3].sha1);
    write(folder.path(), "lib/a", "contenu");
    let error = hash(&root, &tree, &wanted, &Cancel::default()).unwrap_err();
    assert!(matches!(error, ImageError::Changed { .. }), "{error}");
    let cancel = Cancel::default();
    cancel.cancel();
    write(folder.path(), "lib/c", "");
    assert!(hash(&root, &self::tree(&root, &["lib"]), &wanted, &cancel).is_err());
}
