//! Databases that are cut short or have wrong bits: an error or a list, in little time, and never a panic.

use std::time::{Duration, Instant};

use super::rpms;
use crate::roots;
use kairos_init::names::TreePath;
use kairos_init::root::packages::{Form, PackagesError, parse};

/// Numbers that look random and are the same each time.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % limit
    }
}

fn whole(form: Form, bytes: &[u8]) -> usize {
    parse(form, bytes, &TreePath::new("db").unwrap()).unwrap().packages.len()
}

/// Reads it damaged in many ways; gives how many of these were noticed.
fn damage(form: Form, bytes: &[u8], rounds: usize) -> usize {
    let path = TreePath::new("db").unwrap();
    let all = whole(form, bytes);
    assert!(all > 0);
    let mut numbers = Numbers(1);
    let mut noticed = 0;
    let started = Instant::now();
    let mut look = |bytes: &[u8]| match parse(form, bytes, &path) {
        Ok(found) => assert!(found.packages.len() <= all + 2, "{} packages of {all}", found.packages.len()),
        Err(PackagesError::Damaged { .. }) => noticed += 1,
        Err(other) => panic!("{other}"),
    };
    for round in 0..rounds {
        let mut changed = bytes.to_vec();
        match round % 4 {
            0 => changed.truncate(numbers.below(bytes.len())),
            1 => {
                let at = numbers.below(bytes.len());
                changed[at] ^= 1 << numbers.below(8);
            }
            2 => {
                // Where the numbers are.
                let at = numbers.below(bytes.len().min(8192));
                changed[at] = [0, 0xff, 0x80, 0x7f][numbers.below(4)];
            }
            _ => {
                let (from, to) = (numbers.below(bytes.len()), numbers.below(bytes.len()));
                let length = numbers.below(64).min(bytes.len() - from.max(to));
                changed.copy_within(from..from + length, to);
            }
        }
        look(&changed);
    }
    assert!(started.elapsed() < Duration::from_secs(120), "{:?}", started.elapsed());
    noticed
}

#[test]
fn sqlite() {
    let database = rpms::small();
    assert!(damage(Form::RpmSqlite, &database, 8000) > 1000);
}

#[test]
fn a_database_of_sqlite_that_is_cut_short_is_never_whole() {
    let database = rpms::small();
    let path = TreePath::new("db").unwrap();
    // The last pages may be another table's.
    let all = whole(Form::RpmSqlite, &database);
    for pages in 0..database.len() / 512 {
        match parse(Form::RpmSqlite, &database[..pages * 512], &path) {
            Ok(found) => assert!(pages == 0 || found.packages.len() == all, "{pages} pages"),
            Err(PackagesError::Damaged { .. }) => {}
            Err(other) => panic!("{other}"),
        }
    }
}

#[test]
fn a_tree_that_loops_ends() {
    let database = rpms::small();
    let path = TreePath::new("db").unwrap();
    // Each interior page of a table points to the first page, or to itself.
    let interior: Vec<usize> =
        (1..database.len() / 512).map(|page| page * 512).filter(|at| database[*at] == 5).collect();
    assert!(!interior.is_empty());
    for at in interior {
        for target in [1, u32::try_from(at / 512 + 1).unwrap(), 0, u32::MAX] {
            let mut changed = database.clone();
            changed[at + 8..at + 12].copy_from_slice(&target.to_be_bytes());
            match parse(Form::RpmSqlite, &changed, &path) {
                Err(PackagesError::Damaged { .. }) => {}
                Ok(found) => assert_eq!(found.packages.len(), 12, "it was another table's page"),
                Err(other) => panic!("{other}"),
            }
        }
    }
}

#[test]
fn ndb() {
    let (database, _) = rpms::ndb();
    assert!(damage(Form::RpmNdb, &database, 2000) > 500);
}

#[test]
fn dpkg() {
    let status = std::fs::read(roots::base().join("var/lib/dpkg/status")).unwrap();
    damage(Form::Dpkg, &status[..16384], 2000);
}

/// Long lists are read whole, and are in memory once: with every byte of them in an encoding that is none, too.
#[test]
fn a_long_list_takes_little_more_memory_than_its_bytes() {
    const FILE: &str = "KAIROS_INIT_TEST_LONG_LIST";
    const LENGTH: usize = 64 << 20;
    if let Some(file) = std::env::var_os(FILE) {
        let bytes = std::fs::read(file).unwrap();
        let before = crate::image_iso::peak();
        let packages = whole(Form::Dpkg, &bytes);
        println!("packages {packages} peak {} before {before} end", crate::image_iso::peak());
        return;
    }
    let stanza = |number: usize, filler: &[u8]| {
        let fields = format!(
            "Package: lib{number}\nStatus: install ok installed\nPriority: optional\nArchitecture: amd64\nVersion: 1.{number}-1\n\
             Maintainer: A Team <team@example.org>\nHomepage: https://example.org/{number}\nDescription: "
        );
        [fields.as_bytes(), filler, b"\n\n"].concat()
    };
    // Of the usual length; as many as may be; one byte that is no UTF-8; none that is.
    for (name, filler) in
        [("usual", vec![b'x'; 900]), ("many", vec![b'x'; 150]), ("one", vec![0xff; 1]), ("all", vec![0xff; 60_000])]
    {
        let mut list = Vec::with_capacity(LENGTH);
        for number in 0.. {
            // The third has its byte once.
            let filler = if name == "one" && number > 0 { &[b'x'; 900][..] } else { &filler };
            let next = stanza(number, filler);
            if list.len() + next.len() > LENGTH {
                break;
            }
            list.extend(next);
        }
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), list).unwrap();
        let output = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "sbom::hostile::a_long_list_takes_little_more_memory_than_its_bytes", "--nocapture"])
            .env(FILE, file.path())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{name}: {said}");
        let peak: usize = said.split("peak ").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
        eprintln!("{name}: {}", said.lines().find(|line| line.contains("peak")).unwrap());
        assert!(peak < 3 * (LENGTH >> 10), "{name}: {peak} KiB for a list of {} KiB", LENGTH >> 10);
    }
}

/// Each path of an Alpine package is written with its directory: a long one and many files would be more than any memory.
#[test]
fn a_list_of_files_that_would_fill_the_memory_is_refused() {
    let list = format!("P:a\nV:1\nF:{}\n{}\n", "d".repeat(60_000), "R:f\n".repeat(3000));
    let error = parse(Form::Apk, list.as_bytes(), &TreePath::new("installed").unwrap()).unwrap_err();
    assert!(error.to_string().contains("the paths of the package's files have more than"), "{error}");
}
