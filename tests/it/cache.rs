//! The metadata cache: faster, and never another answer, whatever is wrong with it.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use kairos_init::drivers::inventory::cache::{Pack, declarations_with};
use kairos_init::drivers::inventory::{self, Declarations, Inventory};
use kairos_init::root::sysroot::Sysroot;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::cli::{Case, program, stderr};
use crate::roots;

struct Real {
    root: Sysroot,
    inventory: Inventory,
    cold: Declarations,
}

impl Real {
    fn new(path: &Path) -> Self {
        let root = Sysroot::open(path).unwrap();
        let inventory = inventory::load(&root, None).unwrap();
        let cold = inventory::declarations(&root, inventory.modules.by_name.values()).unwrap();
        Self { root, inventory, cold }
    }

    fn with(&self, pack: &Pack) -> inventory::cache::Cached {
        declarations_with(&self.root, self.inventory.modules.by_name.values(), pack).unwrap()
    }
}

#[test]
fn a_warm_cache_says_what_the_modules_say() {
    for root in [roots::base(), roots::modules_of("zst"), roots::modules_of("gz"), roots::modules_of("arm64")] {
        let real = Real::new(&root);
        let first = real.with(&Pack::default());
        assert_eq!((first.used, first.declarations == real.cold), (0, true));
        let pack = Pack::parse(&first.fresh.unwrap().to_bytes()).unwrap();
        let second = real.with(&pack);
        assert!(second.declarations == real.cold && second.fresh.is_none() && second.wrong.is_none());
        assert_eq!(second.used, real.cold.len(), "{}: every module has an entry", root.display());
    }
    // Plain modules are looked into as fast.
    let real = Real::new(&roots::modules_of("unpacked"));
    let cached = real.with(&Pack::default());
    assert!(cached.used == 0 && cached.fresh.is_none() && cached.declarations == real.cold);
}

/// Other entries are decoded in each run: one that is wrong is found sooner or later, and then nothing of the pack is used.
#[test]
fn a_wrong_entry_with_a_right_key_is_found() {
    let real = Real::new(&roots::base());
    let bytes = real.with(&Pack::default()).fresh.unwrap().to_bytes();
    let text = String::from_utf8(bytes).unwrap();
    let (body, _) = text.rsplit_once("sha256 ").unwrap();
    let forged = body.replace(".bin", ".bix").replace(".fw", ".fx");
    assert_ne!(forged, body);
    let sum = hex::encode(Sha256::digest(&forged));
    let pack = Pack::parse(format!("{forged}sha256 {sum}\n").as_bytes()).unwrap();
    let found = (0..1_000).find_map(|_| {
        let cached = real.with(&pack);
        cached.wrong.is_some().then_some(cached)
    });
    let found = found.expect("a wrong entry is found");
    assert!(found.declarations == real.cold && found.used == 0);
    assert!(real.with(&found.fresh.unwrap()).wrong.is_none());
}

/// What contradicts `modules.dep` is not blamed on the root before the modules themselves were asked.
#[test]
fn wrong_dependencies_with_a_right_key_are_found_at_once() {
    let planned = Planned::new();
    let (cold, _) = planned.plan();
    let text = fs::read_to_string(planned.pack()).unwrap();
    let (body, _) = text.rsplit_once("sha256 ").unwrap();
    let forge = |line: &str| {
        let mut fields: Vec<_> = line.split('\x1f').collect();
        if fields[0].ends_with("/loop.ko.xz") {
            assert_eq!(fields[5], "", "what it depends on");
            fields[5] = "snd";
        }
        fields.join("\x1f")
    };
    let forged: String = body.lines().map(|line| forge(line) + "\n").collect();
    assert_ne!(forged, body);
    fs::write(planned.pack(), format!("{forged}sha256 {}\n", hex::encode(Sha256::digest(&forged)))).unwrap();
    let (report, warnings) = planned.plan();
    assert_eq!(report, cold);
    assert!(warnings.len() == 1 && warnings[0].contains("something else of loop than the module"), "{warnings:?}");
    assert_eq!(fs::read_to_string(planned.pack()).unwrap(), text, "and it is made anew");
}

/// A small root, a folder for the cache, and what `plan` says.
struct Planned {
    case: Case,
    cache: PathBuf,
}

impl Planned {
    fn new() -> Self {
        let case = Case::new();
        let cache = case.dir.path().join("cache");
        Self { case, cache }
    }

    /// The report without its warnings, and what of the warnings speaks of the cache.
    fn plan(&self) -> (Value, Vec<String>) {
        let mut command = program(&["plan", "--json", "--quiet", "--hardware", "x86-generic", "--root"]);
        let output = command.arg(self.case.root()).arg("--cache").arg(&self.cache).output().unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        let mut report: Value = serde_json::from_slice(&output.stdout).unwrap();
        let warnings = report.as_object_mut().unwrap().remove("warnings").unwrap();
        let warnings = warnings.as_array().unwrap().iter().map(|warning| warning.as_str().unwrap().to_owned());
        (report, warnings.filter(|warning| warning.starts_with("--cache: ")).collect())
    }

    fn pack(&self) -> PathBuf {
        fs::read_dir(&self.cache).unwrap().next().unwrap().unwrap().path()
    }
}

#[test]
fn whatever_is_wrong_with_a_cache_is_told_and_does_no_harm() {
    let planned = Planned::new();
    let (cold, warnings) = planned.plan();
    assert!(warnings.is_empty(), "{warnings:?}");
    let pack = planned.pack();
    let good = fs::read(&pack).unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!((mode(&planned.cache), mode(&pack)), (0o755, 0o644));
    let same = |word: Option<&str>| {
        let (report, warnings) = planned.plan();
        assert_eq!(report, cold);
        match word {
            None => assert!(warnings.is_empty(), "{warnings:?}"),
            Some(word) => assert!(warnings.len() == 1 && warnings[0].contains(word), "{word:?}: {warnings:?}"),
        }
    };
    same(None);
    for changed in [&good[..good.len() / 2], b"", b"\xff\xfe", &[&good[..40], b"X", &good[41..]].concat()] {
        fs::write(&pack, changed).unwrap();
        same(Some("it is made anew"));
        assert_eq!(fs::read(&pack).unwrap(), good, "and it is");
    }
    // Another module of the same size, with the same times.
    let modules = planned.case.root().join("usr/lib/modules/6.12.107-test/kernel");
    let (file, other) = (modules.join("snd.ko.xz"), fs::read(modules.join("loop.ko.xz")).unwrap());
    let times = fs::metadata(&file).unwrap().modified().unwrap();
    let own = fs::read(&file).unwrap();
    let mut replaced = other[..other.len().min(own.len())].to_vec();
    replaced.resize(own.len(), 0);
    let handle = fs::File::options().write(true).truncate(true).open(&file).unwrap();
    std::io::Write::write_all(&mut &handle, &replaced).unwrap();
    handle.set_modified(times).unwrap();
    let mut command = program(&["plan", "--quiet", "--hardware", "x86-generic", "--root"]);
    let without = command.arg(planned.case.root()).output().unwrap();
    let mut command = program(&["plan", "--quiet", "--hardware", "x86-generic", "--root"]);
    let with = command.arg(planned.case.root()).arg("--cache").arg(&planned.cache).output().unwrap();
    assert_eq!((with.status.code(), with.stdout, with.stderr), (without.status.code(), without.stdout, without.stderr));
    fs::write(&file, own).unwrap();

    for (path, bits) in [(&pack, 0o664), (&planned.cache, 0o777)] {
        let before = mode(path);
        fs::set_permissions(path, fs::Permissions::from_mode(bits)).unwrap();
        same(Some("others could have changed it"));
        fs::set_permissions(path, fs::Permissions::from_mode(before)).unwrap();
    }
    let names: BTreeSet<_> = fs::read_dir(&planned.cache).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names.len(), 1, "no temporary file is left: {names:?}");
    fs::remove_dir_all(&planned.cache).unwrap();
    fs::write(&planned.cache, "a file").unwrap();
    let (report, warnings) = planned.plan();
    assert_eq!(report, cold);
    assert!(warnings[0].contains("is not a folder"), "{warnings:?}");
}
