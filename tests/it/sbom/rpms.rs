//! rpm: databases of packages that rpmbuild made, in each form that is read.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use tempfile::TempDir;

use super::{output, python, read, sorted, write};
use kairos_init::names::TreePath;
use kairos_init::root::packages::{Form, Manager, Package, PackagesError, installed, installed_in, parse};
use kairos_init::root::sysroot::Sysroot;

/// Enough that the table needs several pages above its leaves.
const PACKAGES: usize = 300;

/// What `rpm -qa` is asked for; [`shown`] is the same of ours.
const FORMAT: &str =
    "%{NAME}\t%{EVR}\t%|ARCH?{%{ARCH}}:{}|\t%{LICENSE}\t%|URL?{%{URL}}:{}|\t%|VENDOR?{%{VENDOR}}:{}|\t%{SOURCERPM}\n";

fn shown(package: &Package) -> String {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let source = package.source.as_ref().unwrap();
    format!(
        "{}\t{}\t{}\t{}\t{}\t{}\t{}-{}.src.rpm",
        package.name,
        package.version,
        text(&package.architecture),
        text(&package.license),
        text(&package.homepage),
        text(&package.supplier),
        source.name,
        source.version.as_ref().unwrap(),
    )
}

/// A spec of many packages: epochs, architectures, licences, and one with so many files that its header fills many pages.
fn spec() -> String {
    let mut spec = "%global debug_package %{nil}\n%global __os_install_post %{nil}\n%global _binary_payload w0.gzdio\n\
                    AutoReqProv: no\nName: base\nVersion: 1.0~rc1\nRelease: 3.fc42\nSummary: x\nLicense: MIT\n\
                    URL: https://example.org/base?a=b\nVendor: Example Project\n%description\nx\n"
        .to_owned();
    let licenses = [
        "GPL-2.0-or-later AND (MIT OR BSD-3-Clause)",
        "GPLv2+ and LGPLv2+",
        "LicenseRef-Fedora-Public-Domain",
        "M\u{ef}T",
    ];
    for number in 0..PACKAGES {
        let epoch = ["", "Epoch: 2\n", "Epoch: 0\n"][number % 3];
        let arch = ["", "BuildArch: noarch\n"][number % 2];
        let name = if number == 7 { "gpg-pubkey".to_owned() } else { format!("lib+p{number}_x") };
        spec += &format!(
            "%package -n {name}\nSummary: s\nVersion: {number}.1^git\nRelease: {number}%{{?dist}}\n{epoch}{arch}License: {}\n\
             %description -n {name}\n{}\n%files -n {name}\n%ghost /var/log/{number}\n",
            licenses[number % licenses.len()],
            "words ".repeat(number * 7 % 900),
        );
        if number == 11 {
            spec += "/usr/share/many\n";
        } else if number % 5 != 0 {
            spec += &format!("/usr/lib/p/{number}\n%dir /usr/lib/p\n");
        }
    }
    spec +=
        "%install\nmkdir -p %{buildroot}/usr/lib/p %{buildroot}/usr/share/many %{buildroot}/var/log\ncd %{buildroot}\n";
    spec += &format!("for n in $(seq 0 {PACKAGES}); do echo > usr/lib/p/$n; echo > var/log/$n; done\n");
    spec += "for n in $(seq 2000); do echo > usr/share/many/a-file-with-a-long-name-$n; done\n%files\n";
    // What is in no package would be an error.
    spec.replace("%install\n", "%global _unpackaged_files_terminate_build 0\n%install\n")
}

/// The packages, built once.
fn rpms() -> &'static (TempDir, Vec<PathBuf>) {
    static RPMS: OnceLock<(TempDir, Vec<PathBuf>)> = OnceLock::new();
    RPMS.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("base.spec"), spec()).unwrap();
        let top = format!("_topdir {}", folder.path().join("top").display());
        output(
            Command::new("rpmbuild")
                .args(["-bb", "--quiet", "--target", "x86_64", "--define", &top])
                .arg(folder.path().join("base.spec")),
        );
        let mut files = Vec::new();
        for arch in ["noarch", "x86_64"] {
            let arch = folder.path().join("top/RPMS").join(arch);
            files.extend(std::fs::read_dir(arch).unwrap().map(|entry| entry.unwrap().path()));
        }
        files.sort();
        assert_eq!(files.len(), PACKAGES + 1);
        (folder, files)
    })
}

/// rpm on the root with its database at `directory`.
fn rpm(root: &Path, directory: &str) -> Command {
    let mut rpm = Command::new("rpm");
    rpm.arg("--root").arg(root).args(["--dbpath", &format!("/{directory}"), "--define", "_db_backend sqlite"]);
    rpm
}

/// A root with the first `count` packages in rpm's database; the first of all is gpg-pubkey.
fn root_with(count: usize, directory: &str) -> TempDir {
    let root = tempfile::tempdir().unwrap();
    let chosen = rpms().1.iter().take(count);
    output(
        rpm(root.path(), directory).args(["--justdb", "--nodeps", "--ignorearch", "--noscripts", "-i"]).args(chosen),
    );
    root
}

fn query(root: &Path, directory: &str) -> Vec<String> {
    let all = output(rpm(root, directory).args(["-qa", "--qf", FORMAT]));
    sorted(&all.lines().filter(|line| !line.starts_with("gpg-pubkey")).collect::<Vec<_>>().join("\n"))
}

fn ours(root: &Path) -> Vec<String> {
    sorted(&read(root).packages.iter().map(shown).collect::<Vec<_>>().join("\n"))
}

/// Runs SQL on a database, one statement after the other; with `copy`, while it is open, its files are copied there.
fn sql(database: &Path, statements: &[&str], copy: Option<&Path>) {
    let program = "import sqlite3, sys, shutil, os\n\
                   db = sqlite3.connect(sys.argv[1], isolation_level=None)\n\
                   for s in sys.argv[3:]: db.execute(s).fetchall()\n\
                   if sys.argv[2]:\n\
                   \x20for e in ('', '-wal'): shutil.copy(sys.argv[1] + e, os.path.join(sys.argv[2], 'rpmdb.sqlite' + e))\n";
    let copy = copy.map_or(String::new(), |copy| copy.display().to_string());
    let mut arguments = vec![database.to_str().unwrap(), copy.as_str()];
    arguments.extend(statements);
    python(program, &arguments);
}

#[test]
fn every_package_of_rpms_own_database_is_read() {
    for directory in ["usr/lib/sysimage/rpm", "var/lib/rpm"] {
        let root = root_with(PACKAGES + 1, directory);
        let expected = query(root.path(), directory);
        assert_eq!(expected.len(), PACKAGES, "all but gpg-pubkey");
        assert!(expected.iter().any(|line| line.contains("\t2:")) && expected.iter().any(|line| line.contains("\t0:")));
        assert_eq!(ours(root.path()), expected);
        let path = TreePath::new(format!("{directory}/rpmdb.sqlite")).unwrap();
        let found = read(root.path());
        assert_eq!(found.databases, [(Manager::Rpm, path)]);
        assert_eq!(found.warnings, [""; 0]);
        if directory == "usr/lib/sysimage/rpm" {
            // Fedora's link, which leads to the same database.
            std::fs::create_dir_all(root.path().join("var/lib")).unwrap();
            std::os::unix::fs::symlink("../../usr/lib/sysimage/rpm", root.path().join("var/lib/rpm")).unwrap();
            assert_eq!(ours(root.path()), expected);
        }
    }
}

#[test]
fn every_size_of_page_is_read() {
    let root = root_with(PACKAGES + 1, "var/lib/rpm");
    let expected = query(root.path(), "var/lib/rpm");
    let database = root.path().join("var/lib/rpm/rpmdb.sqlite");
    for size in ["512", "1024", "16384", "65536"] {
        let page = format!("PRAGMA page_size={size}");
        sql(&database, &["PRAGMA journal_mode=DELETE", &page, "VACUUM"], None);
        let header = std::fs::read(&database).unwrap();
        assert_eq!(header[16..18], if size == "65536" { [0, 1] } else { size.parse::<u16>().unwrap().to_be_bytes() });
        assert_eq!(ours(root.path()), expected, "{size}");
    }
}

#[test]
fn a_log_that_was_not_copied_back_counts() {
    let root = root_with(PACKAGES + 1, "var/lib/rpm");
    let whole = query(root.path(), "var/lib/rpm");
    let other = tempfile::tempdir().unwrap();
    let copy = other.path().join("var/lib/rpm");
    std::fs::create_dir_all(&copy).unwrap();
    let statements = [
        "PRAGMA journal_mode=WAL",
        "PRAGMA wal_autocheckpoint=0",
        "DELETE FROM Packages WHERE hnum % 2 = 0",
        // Not committed: it does not count.
        "BEGIN",
        "PRAGMA cache_size=1",
        "DELETE FROM Packages WHERE hnum % 3 = 0",
    ];
    let database = root.path().join("var/lib/rpm/rpmdb.sqlite");
    sql(&database, &statements, Some(&copy));
    assert!(std::fs::metadata(copy.join("rpmdb.sqlite-wal")).unwrap().len() > 4096);
    let ours = ours(other.path());
    let expected = query(other.path(), "var/lib/rpm");
    assert!(expected.len() < whole.len() && expected.len() > whole.len() / 3, "{}", expected.len());
    assert_eq!(ours, expected);
    // A log with a frame that is broken counts up to there, as SQLite has it.
    sql(&database, &statements[..3], Some(&copy));
    let log = std::fs::read(copy.join("rpmdb.sqlite-wal")).unwrap();
    std::fs::write(copy.join("rpmdb.sqlite-wal"), &log[..log.len() / 2]).unwrap();
    let ours = self::ours(other.path());
    assert_eq!(ours, query(other.path(), "var/lib/rpm"));
}

/// A log that is damaged: what SQLite makes of it, or an error; and where something of it is lost, it is said.
#[test]
fn a_damaged_log_counts_as_far_as_sqlite_says() {
    let root = root_with(60, "var/lib/rpm");
    let target = tempfile::tempdir().unwrap();
    let database = root.path().join("var/lib/rpm/rpmdb.sqlite");
    python(include_str!("damaged_log.py"), &[database.to_str().unwrap(), target.path().to_str().unwrap()]);
    let whole = std::fs::read_to_string(target.path().join("whole/seen")).unwrap();
    let (mut errors, mut warned, mut equal) = (0, 0, 0);
    let mut names: Vec<_> = std::fs::read_dir(target.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
    names.sort();
    for case in names.into_iter().filter(|path| path.is_dir()) {
        let seen = std::fs::read_to_string(case.join("seen")).unwrap();
        let name = case.file_name().unwrap().to_str().unwrap();
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(root.path().join("var/lib")).unwrap();
        std::fs::rename(&case, root.path().join("var/lib/rpm")).unwrap();
        match installed(&Sysroot::open(root.path()).unwrap()) {
            Err(PackagesError::Damaged { .. }) => errors += 1,
            Err(error) => panic!("{name}: {error}"),
            Ok(found) => {
                let ours: Vec<_> = found.packages.iter().map(|package| package.name.clone()).collect();
                let theirs = sorted(&seen.replace("gpg-pubkey\n", ""));
                assert_eq!(sorted(&ours.join("\n")), theirs, "{name}");
                equal += 1;
                warned += found.warnings.len();
                // A log that ends between two pages, or that is not there, is as good as any.
                let cannot_be_known =
                    ["end-", "no-log", "log-empty", "log-header-only", "again", "other-", "small-page-size"];
                let is_lost = seen != whole && !cannot_be_known.iter().any(|start| name.starts_with(start));
                // Salts tell old frames from new ones: what is damaged there looks like an old one.
                let looks_old = name.contains("-salt") || name.starts_with("random-");
                assert!(!is_lost || looks_old || !found.warnings.is_empty(), "{name}: nothing is said of what is lost");
                for warning in &found.warnings {
                    assert!(warning.starts_with("/var/lib/rpm/rpmdb.sqlite-wal, the newest changes of "), "{warning}");
                }
            }
        }
    }
    assert!(equal > 200 && warned > 100 && errors > 3, "{equal} equal, {warned} warned, {errors} errors");
}

#[test]
fn a_change_that_was_interrupted_is_an_error() {
    let root = root_with(4, "var/lib/rpm");
    write(root.path(), "var/lib/rpm/rpmdb.sqlite-journal", [0xd9, 0xd5, 0x05, 0xf9, 0x20, 0xa1, 0x63, 0xd7, 0]);
    let error = installed(&Sysroot::open(root.path()).unwrap()).unwrap_err();
    assert!(matches!(error, PackagesError::Unfinished { .. }), "{error}");
    write(root.path(), "var/lib/rpm/rpmdb.sqlite-journal", [0; 512]);
    assert_eq!(read(root.path()).packages.len(), 3);
}

#[test]
fn an_empty_database_has_no_packages() {
    let root = tempfile::tempdir().unwrap();
    output(rpm(root.path(), "var/lib/rpm").arg("--initdb"));
    let found = read(root.path());
    assert!(found.packages.is_empty() && found.warnings.is_empty() && found.databases.len() == 1);
}

#[test]
fn berkeley_db_is_named_and_not_read() {
    let root = tempfile::tempdir().unwrap();
    write(root.path(), "var/lib/rpm/Packages", [0; 4096]);
    let warnings = read(root.path()).warnings;
    assert!(
        matches!(&warnings[..], [only] if only.contains("/var/lib/rpm/Packages") && only.contains("--rebuilddb")),
        "{warnings:?}"
    );
}

#[test]
fn a_package_whose_files_were_dropped_is_gone() {
    let root = root_with(PACKAGES + 1, "var/lib/rpm");
    let view = Sysroot::open(root.path()).unwrap();
    let kept = TreePath::new("usr/share/many/a-file-with-a-long-name-1999").unwrap();
    let found = installed_in(&view, &|path| *path == kept).unwrap();
    let files = output(rpm(root.path(), "var/lib/rpm").args([
        "-qa",
        "--qf",
        "[%{=NAME}\t%{FILENAMES}\t%{FILEFLAGS:fflags}\n]",
    ]));
    let mut owners: Vec<&str> = files
        .lines()
        .filter_map(|line| {
            let fields: Vec<&str> = line.split('\t').collect();
            let ghost = fields[2].contains('g');
            (!ghost && fields[0] != "gpg-pubkey" && !fields[1].starts_with("/usr/share/many")).then_some(fields[0])
        })
        .collect();
    owners.sort_unstable();
    owners.dedup();
    let mut gone: Vec<_> = found.gone.iter().map(|package| package.name.as_str()).collect();
    gone.sort_unstable();
    assert_eq!(gone, owners);
    assert!(found.packages.iter().any(|package| package.name == "lib+p11_x"));
}

/// `fixtures/packages/ndb.db.zst`, made by an rpm with that form, and what the same rpm lists of it.
pub(super) fn ndb() -> (Vec<u8>, Vec<String>) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/packages");
    let unpacked = |name| zstd::decode_all(std::fs::File::open(folder.join(name)).unwrap()).unwrap();
    (unpacked("ndb.db.zst"), sorted(&String::from_utf8(unpacked("ndb.txt.zst")).unwrap()))
}

#[test]
fn the_database_of_suse_is_read() {
    let (database, expected) = ndb();
    let root = tempfile::tempdir().unwrap();
    write(root.path(), "usr/lib/sysimage/rpm/Packages.db", &database);
    let expected: Vec<_> = expected.into_iter().filter(|line| !line.starts_with("gpg-pubkey")).collect();
    assert_eq!(expected.len(), PACKAGES, "two pages of slots");
    assert_eq!(ours(root.path()), expected);
    // Beside one of SQLite, that one counts and the other is named.
    let sqlite = root_with(4, "usr/lib/sysimage/rpm");
    write(sqlite.path(), "usr/lib/sysimage/rpm/Packages.db", &database);
    let found = read(sqlite.path());
    assert_eq!(found.packages.len(), 3);
    assert!(found.warnings[0].contains("Packages.db is another rpm database"), "{:?}", found.warnings);
}

/// A small database of SQLite with pages of 512 bytes, so that there are many of them.
pub(super) fn small() -> Vec<u8> {
    let root = root_with(13, "var/lib/rpm");
    let database = root.path().join("var/lib/rpm/rpmdb.sqlite");
    sql(&database, &["PRAGMA journal_mode=DELETE", "PRAGMA page_size=512", "VACUUM"], None);
    let bytes = std::fs::read(&database).unwrap();
    assert_eq!(parse(Form::RpmSqlite, &bytes, &TreePath::new("db").unwrap()).unwrap().packages.len(), 12);
    bytes
}

#[test]
#[ignore = "writes what fixtures/packages/ndb.* are made of to the folder KAIROS_INIT_RPMS"]
fn packages_for_the_fixture() {
    let folder = PathBuf::from(std::env::var_os("KAIROS_INIT_RPMS").unwrap());
    for file in &rpms().1 {
        std::fs::copy(file, folder.join(file.file_name().unwrap())).unwrap();
    }
}
