//! dpkg, apk and pacman.

use std::path::Path;
use std::process::Command;

use super::{output, read, sorted, write};
use crate::roots;
use kairos_init::names::TreePath;
use kairos_init::root::packages::{Manager, PackagesError, Place, installed, installed_in};
use kairos_init::root::sysroot::Sysroot;

fn dpkg_query(admin: &Path) -> Vec<String> {
    let format = "${db:Status-Status}\t${Package}\t${Version}\t${Architecture}\t${source:Package}\t${source:Version}\t\
                  ${Maintainer}\t${Homepage}\n";
    let all =
        output(Command::new("dpkg-query").arg(format!("--admindir={}", admin.display())).args(["-W", "-f", format]));
    // Configuration that is left of a package is no package.
    let there = all.lines().filter(|line| !line.starts_with("config-files\t") && !line.starts_with("not-installed\t"));
    sorted(&there.map(|line| line.split_once('\t').unwrap().1).collect::<Vec<_>>().join("\n"))
}

fn ours(root: &Path) -> Vec<String> {
    let packages = read(root).packages.into_iter().map(|package| {
        let source = package.source.as_ref();
        let source_name = source.map_or(&package.name, |source| &source.name);
        let source_version = source.and_then(|source| source.version.as_ref()).unwrap_or(&package.version);
        let or_none = |text: &Option<String>| text.clone().unwrap_or_default();
        format!(
            "{}\t{}\t{}\t{source_name}\t{source_version}\t{}\t{}",
            package.name,
            package.version,
            or_none(&package.architecture),
            or_none(&package.supplier),
            or_none(&package.homepage),
        )
    });
    sorted(&packages.collect::<Vec<_>>().join("\n"))
}

#[test]
fn a_debian_root_has_what_dpkg_query_lists() {
    let root = roots::base();
    let expected = dpkg_query(&root.join("var/lib/dpkg"));
    assert!(expected.len() > 150, "{}", expected.len());
    assert_eq!(ours(&root), expected);
    let packages = read(&root);
    assert_eq!(packages.databases, [(Manager::Dpkg, TreePath::new("var/lib/dpkg/status").unwrap())]);
    assert_eq!(packages.warnings, [""; 0]);
}

/// States, several architectures, versions of sources, continued lines, a name that is not UTF-8.
const STATUS: &[u8] = b"Package: libc6
Status: install ok installed
Multi-Arch: same
Architecture: amd64
Version: 2.41-12
Source: glibc
Maintainer: GNU Libc Maintainers <debian-glibc@lists.debian.org>
Description: x
 Package: trap
 .
 Version: 9

package: libc6
status: hold ok installed
Multi-Arch: same
architecture: i386
version: 2.41-12
source: glibc (2.41-11)
Maintainer: m
Description: x

Package: gone
Status: deinstall ok config-files
Architecture: amd64
Version: 1:1.0~rc1-2+b1
Maintainer: m
Description: x

Package: waits
Status: install ok triggers-pending
Triggers-Pending: ldconfig
Architecture: all
Version: 1:1.0~rc1-2+b1
Maintainer: m
Homepage: https://example.org/a?b=c
Description: x

Package: half
Status: install reinstreq half-installed
Architecture: all
Version: 3
Maintainer: J\xc3\xb6rg M\xfcller
Description: x


";

#[test]
fn every_state_counts_as_dpkg_says() {
    let root = tempfile::tempdir().unwrap();
    write(root.path(), "var/lib/dpkg/status", STATUS.replace(b"M\xfcller", b"Mueller"));
    write(root.path(), "var/lib/dpkg/info/format", "1\n");
    write(root.path(), "var/lib/dpkg/arch", "amd64\ni386\n");
    write(root.path(), "var/lib/dpkg/triggers/File", "");
    let expected = dpkg_query(&root.path().join("var/lib/dpkg"));
    assert_eq!(expected.len(), 4, "{expected:?}");
    assert_eq!(ours(root.path()), expected);
    let warnings = read(root.path()).warnings;
    assert!(matches!(&warnings[..], [only] if only.contains("half 3 is half-installed")), "{warnings:?}");
    // A name in another encoding is no reason to list nothing.
    write(root.path(), "var/lib/dpkg/status", STATUS);
    let supplier = read(root.path()).packages[0].supplier.clone();
    assert_eq!(supplier.as_deref(), Some("J\u{f6}rg M\u{fffd}ller"));
}

trait Replace {
    fn replace(&self, from: &[u8], to: &[u8]) -> Vec<u8>;
}

impl Replace for [u8] {
    fn replace(&self, from: &[u8], to: &[u8]) -> Vec<u8> {
        let at = self.windows(from.len()).position(|window| window == from).unwrap();
        [&self[..at], to, &self[at + from.len()..]].concat()
    }
}

#[test]
fn a_distroless_image_has_a_file_for_each_package() {
    let root = tempfile::tempdir().unwrap();
    write(root.path(), "var/lib/dpkg/status.d/base", "Package: base-files\nVersion: 12\nArchitecture: amd64\n");
    write(root.path(), "var/lib/dpkg/status.d/tz", "Package: tzdata\nVersion: 2025b\nArchitecture: all");
    write(
        root.path(),
        "var/lib/dpkg/status.d/tzdata.md5sums",
        "0123456789abcdef0123456789abcdef  usr/share/zoneinfo/UTC\n",
    );
    let packages = read(root.path());
    let names: Vec<_> = packages.packages.iter().map(|package| package.name.as_str()).collect();
    assert_eq!(names, ["base-files", "tzdata"]);
    let view = Sysroot::open(root.path()).unwrap();
    let packages = installed_in(&view, &|_| false).unwrap();
    assert_eq!(packages.gone.len(), 1, "only one has a list of files: {:?}", packages.gone);
    assert_eq!(packages.packages[0].name, "base-files");
}

#[test]
fn firmware_that_was_dropped_takes_its_package_with_it() {
    let root = Sysroot::open(&roots::base()).unwrap();
    let whole = installed(&root).unwrap();
    let all = installed_in(&root, &|path| root.kind(path).unwrap().is_some()).unwrap();
    assert_eq!(all.packages, whole.packages, "nothing was dropped, and {:?} is gone", all.gone);
    let firmware = TreePath::new("usr/lib/firmware").unwrap();
    let slim = installed_in(&root, &|path| !path.starts_with(&firmware) && root.kind(path).unwrap().is_some()).unwrap();
    for package in &slim.gone {
        let list = roots::base().join(format!("var/lib/dpkg/info/{}.list", package.name));
        assert!(std::fs::read_to_string(list).unwrap().contains("/usr/lib/firmware/"), "{package:?}");
    }
    assert!(slim.gone.iter().any(|package| package.name == "firmware-iwlwifi"), "{:?}", slim.gone);
    assert_eq!(slim.gone.len() + slim.packages.len(), whole.packages.len());
}

#[test]
fn paths_are_asked_for_as_they_are_in_the_root() {
    let root = tempfile::tempdir().unwrap();
    let stanza = |name| format!("Package: {name}\nStatus: install ok installed\nArchitecture: all\nVersion: 1\n\n");
    write(root.path(), "var/lib/dpkg/status", ["merged", "left", "docs", "unlisted"].map(stanza).concat());
    std::fs::create_dir_all(root.path().join("usr/lib/x")).unwrap();
    std::os::unix::fs::symlink("usr/lib", root.path().join("lib")).unwrap();
    write(
        root.path(),
        "var/lib/dpkg/info/merged.list",
        "/.\n/lib\n/lib/x\n/lib/x/file\n/usr/share/doc/merged/copyright\n",
    );
    write(
        root.path(),
        "var/lib/dpkg/info/left.list",
        "/.\n/usr\n/usr/lib\n/usr/lib/y\n/usr/lib/y/../z\n/usr/lib/y/file\n",
    );
    write(root.path(), "var/lib/dpkg/info/docs.list", "/.\n/usr/share/doc/docs/copyright\n");
    let view = Sysroot::open(root.path()).unwrap();
    let asked = std::cell::RefCell::new(Vec::new());
    let found = installed_in(&view, &|path| {
        asked.borrow_mut().push(path.to_string());
        path.as_bytes() == b"usr/lib/x/file"
    });
    let found = found.unwrap();
    assert_eq!(asked.into_inner(), ["/usr/lib/x/file", "/usr/lib/y/file"]);
    assert_eq!(found.gone.len(), 1);
    assert_eq!(found.gone[0].name, "left");
}

/// As apk-tools 2.14 writes it.
const APK: &str = "C:Q1p78yvTLG094tHE1+dToJGbmYzQE=
P:musl
V:1.2.5-r9
A:x86_64
S:408131
I:667648
T:the musl c library (libc) implementation
U:https://musl.libc.org/
L:MIT
o:musl
m:Natanael Copa <ncopa@alpinelinux.org>
t:1739297862
c:0784374d561435f87d4f1cc6fe30a0ee7d9b1a1d
p:so:libc.musl-x86_64.so.1=1
F:lib
R:ld-musl-x86_64.so.1
a:0:0:755
Z:Q1IuyUd5fOrOiV2Oi+OmtzC79uEHQ=
R:libc.musl-x86_64.so.1
a:0:0:777

C:Q1abc=
P:linux-firmware-i915
V:20250211-r0
A:x86_64
L:custom:multiple
o:linux-firmware
F:lib/firmware
F:lib/firmware/i915
R:kbl_dmc_ver1_04.bin.zst

";

#[test]
fn an_alpine_root_has_what_its_file_lists() {
    for place in ["lib/apk/db/installed", "usr/lib/apk/db/installed"] {
        let root = tempfile::tempdir().unwrap();
        write(root.path(), place, APK);
        let view = Sysroot::open(root.path()).unwrap();
        let packages = installed_in(&view, &|path| path.as_bytes() == b"lib/libc.musl-x86_64.so.1").unwrap();
        assert_eq!(packages.databases, [(Manager::Apk, TreePath::new(place).unwrap())]);
        let musl = &packages.packages[..];
        assert_eq!(musl.len(), 1);
        let (musl, gone) = (&musl[0], &packages.gone[0]);
        assert_eq!(
            (musl.name.as_str(), musl.version.as_str(), musl.architecture.as_deref()),
            ("musl", "1.2.5-r9", Some("x86_64"))
        );
        assert_eq!(musl.license.as_deref(), Some("MIT"));
        assert_eq!(musl.homepage.as_deref(), Some("https://musl.libc.org/"));
        assert_eq!(musl.supplier.as_deref(), Some("Natanael Copa <ncopa@alpinelinux.org>"));
        assert_eq!(gone.name, "linux-firmware-i915");
        assert_eq!(gone.source.as_ref().unwrap().name, "linux-firmware");
    }
}

#[test]
fn what_pacman_installed_is_what_pacman_lists() {
    let work = tempfile::tempdir().unwrap();
    let root = work.path().join("root");
    std::fs::create_dir_all(root.join("var/lib/pacman")).unwrap();
    for (name, version, arch) in
        [("bash", "5.2.037-5", "x86_64"), ("tzdata", "2025b-1", "any"), ("shadow", "1:4.18.0-1", "x86_64")]
    {
        let info = format!(
            "pkgname = {name}\npkgbase = {name}-base\npkgver = {version}\npkgdesc = x\nurl = https://example.org/{name}\n\
             builddate = 1\npackager = A Packager <a@example.org>\nsize = 1\narch = {arch}\nlicense = MIT\nlicense = Zlib\n"
        );
        let folder = work.path().join(name);
        write(&folder, ".PKGINFO", info);
        write(&folder, &format!("usr/bin/{name}"), "x");
        let file = work.path().join(format!("{name}-{version}-{arch}.pkg.tar"));
        output(Command::new("tar").arg("-cf").arg(&file).arg("-C").arg(&folder).args([".PKGINFO", "usr"]));
        let conf = work.path().join("pacman.conf");
        std::fs::write(&conf, "[options]\nArchitecture = x86_64\nSigLevel = Never\nLocalFileSigLevel = Never\n")
            .unwrap();
        let mut pacman = Command::new("pacman");
        pacman
            .args(["-U", "--noconfirm", "--config"])
            .arg(&conf)
            .arg("-r")
            .arg(&root)
            .arg("--cachedir")
            .arg(work.path());
        output(pacman.arg(&file));
    }
    let expected = output(Command::new("pacman").arg("-Q").arg("-r").arg(&root).env("LC_ALL", "C"));
    let packages = read(&root);
    let ours = packages.packages.iter().map(|package| format!("{} {}", package.name, package.version));
    assert_eq!(sorted(&ours.collect::<Vec<_>>().join("\n")), sorted(&expected));
    let bash = &packages.packages[0];
    assert_eq!(bash.license.as_deref(), Some("MIT, Zlib"));
    assert_eq!(bash.source.as_ref().unwrap().name, "bash-base");
    assert_eq!(bash.supplier.as_deref(), Some("A Packager <a@example.org>"));
    let view = Sysroot::open(&root).unwrap();
    let packages = installed_in(&view, &|path| path.as_bytes() == b"usr/bin/bash").unwrap();
    let gone: Vec<_> = packages.gone.iter().map(|package| package.name.as_str()).collect();
    assert_eq!(gone, ["shadow", "tzdata"]);
}

#[test]
fn no_database_is_said() {
    let root = tempfile::tempdir().unwrap();
    let packages = read(root.path());
    assert!(packages.packages.is_empty());
    assert!(packages.warnings[0].contains("no package database"), "{:?}", packages.warnings);
}

#[test]
fn what_is_broken_is_an_error_with_its_line() {
    let cases = [
        (
            "var/lib/dpkg/status",
            "Package: a\nStatus: install ok installed\nVersion: 1\n\nPackage: b\nStatus: install ok installed\n",
            5,
            "no version",
        ),
        ("var/lib/dpkg/status", "Package: a\nno field\n", 2, "no field"),
        ("var/lib/dpkg/status", "Package: a\nVersion: 1\nVersion: 2\n", 3, "twice"),
        ("var/lib/dpkg/status", "Package: a\nStatus: install ok instaled\nVersion: 1\n", 1, "none of dpkg's"),
        ("var/lib/dpkg/status", "Package: a b\nStatus: install ok installed\nVersion: 1\n", 1, "no name"),
        ("lib/apk/db/installed", "P:a\nV:1\n\nP:b\n", 4, "no version"),
        ("lib/apk/db/installed", "P:a\nV:1\nwrong\n", 3, "no field"),
        ("var/lib/pacman/local/a-1/desc", "%NAME%\na\n\nwrong\n", 4, "no field"),
        ("var/lib/pacman/local/a-1/desc", "%NAME%\na\n", 1, "no version"),
    ];
    for (file, text, line, problem) in cases {
        let root = tempfile::tempdir().unwrap();
        write(root.path(), file, text);
        match installed(&Sysroot::open(root.path()).unwrap()) {
            Err(PackagesError::Damaged { path, place, problem: found }) => {
                assert_eq!((path.to_string(), place), (format!("/{file}"), Place::Line(line)), "{text}");
                assert!(found.contains(problem), "{found}");
            }
            other => panic!("{text}: {other:?}"),
        }
    }
}

#[test]
fn a_link_out_of_the_root_is_not_followed() {
    let root = tempfile::tempdir().unwrap();
    let outside = tempfile::tempdir().unwrap();
    write(outside.path(), "status", "Package: secret\nVersion: 1\n");
    std::fs::create_dir_all(root.path().join("var/lib/dpkg")).unwrap();
    std::os::unix::fs::symlink(outside.path().join("status"), root.path().join("var/lib/dpkg/status")).unwrap();
    assert!(read(root.path()).packages.is_empty());
}
