//! Our indexes against real kmod's: depmod of Debian 13 (it writes the newest layout), run with its own loader and libraries,
//! on the module trees of several kernels.

mod lookup;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use kairos_init::drivers::depmod::binary::read;
use kairos_init::drivers::depmod::{DepmodError, indexes};
use kairos_init::drivers::inventory::{Inventory, load};
use kairos_init::names::ModuleName;
use kairos_init::root::sysroot::Sysroot;
use rayon::prelude::*;

use crate::roots;

/// Files that are the kernel build's own, which depmod reads.
const BUILD: [&str; 3] = ["modules.order", "modules.builtin", "modules.builtin.modinfo"];

/// A root with modules, and what depmod makes of parts of it.
struct Case {
    path: PathBuf,
    root: Sysroot,
    inventory: Inventory,
    /// Where depmod finds the same modules in a form that it reads, and how they are named there.
    theirs: Option<(PathBuf, &'static str, &'static str)>,
}

impl Case {
    fn at(path: PathBuf) -> Self {
        let root = Sysroot::open(&path).unwrap();
        let inventory = load(&root, None).unwrap();
        Self { path, root, inventory, theirs: None }
    }

    fn of(name: &str) -> Self {
        Self::at(roots::modules_of(name))
    }

    fn release(&self) -> &str {
        self.inventory.kernel.release.as_str()
    }

    fn all(&self) -> BTreeSet<ModuleName> {
        self.inventory.modules.by_name.keys().cloned().collect()
    }

    fn closure(&self, names: impl IntoIterator<Item = ModuleName>) -> BTreeSet<ModuleName> {
        let mut kept = BTreeSet::new();
        for name in names {
            kept.extend(self.inventory.modules.dependencies[&name].iter().cloned());
            kept.insert(name);
        }
        kept
    }

    /// Some modules and all that they need, always the same for a seed; as often few as many.
    fn subset(&self, seed: u64) -> BTreeSet<ModuleName> {
        let names: Vec<_> = self.inventory.modules.by_name.keys().collect();
        // SplitMix64: seeds that follow each other give numbers that have nothing in common.
        let mut state = seed;
        let mut below = |limit: usize| {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            usize::try_from((mixed ^ (mixed >> 31)) >> 33).unwrap() % limit
        };
        let size = 1 << below(usize::try_from(names.len().ilog2()).unwrap());
        let size = (size + below(size)).min(names.len());
        self.closure((0..size).map(|_| names[below(names.len())].clone()))
    }

    /// A root whose module directory has the kept modules (as links into the real root) and no index.
    fn slimmed(&self, kept: &BTreeSet<ModuleName>) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        let modules = directory.path().join("lib/modules").join(self.release());
        fs::create_dir_all(&modules).unwrap();
        let (path, [ours, theirs]) = match &self.theirs {
            Some((path, ours, theirs)) => (path, [*ours, *theirs]),
            None => (&self.path, ["", ""]),
        };
        let source = path.join("usr/lib/modules").join(self.release());
        let mut made = BTreeSet::new();
        for name in kept {
            let relative = self.inventory.modules.by_name[name].relative.replace(ours, theirs);
            let link = modules.join(&relative);
            if made.insert(link.parent().unwrap().to_owned()) {
                fs::create_dir_all(link.parent().unwrap()).unwrap();
            }
            symlink(source.join(relative), link).unwrap();
        }
        for name in BUILD {
            fs::copy(source.join(name), modules.join(name)).unwrap();
        }
        directory
    }

    fn ours(&self, kept: &BTreeSet<ModuleName>) -> BTreeMap<String, Vec<u8>> {
        indexes(&self.root, &self.inventory, kept).unwrap()
    }

    /// What depmod writes for the kept modules.
    fn theirs(&self, kept: &BTreeSet<ModuleName>) -> BTreeMap<String, Vec<u8>> {
        let mut files = depmod(self.slimmed(kept).path(), self.release());
        if let Some((_, ours, theirs)) = self.theirs {
            let text = String::from_utf8(files["modules.dep"].clone()).unwrap();
            files.insert("modules.dep".to_owned(), text.replace(theirs, ours).into_bytes());
            let mut entries = read(&files["modules.dep.bin"]).unwrap();
            entries.iter_mut().for_each(|entry| entry.value = entry.value.replace(theirs, ours));
            let bytes = kairos_init::drivers::depmod::binary::write(entries).unwrap();
            files.insert("modules.dep.bin".to_owned(), bytes);
        }
        files
    }

    /// Every index is depmod's for the kept modules: equal byte for byte, so the binary ones have
    /// the newest layout.
    fn check(&self, kept: &BTreeSet<ModuleName>, what: &str) {
        let (ours, theirs) = (self.ours(kept), self.theirs(kept));
        let what = format!("{} of {}, {} modules", what, self.path.display(), kept.len());
        let names = |files: &BTreeMap<String, Vec<u8>>| files.keys().cloned().collect::<Vec<_>>();
        let written: BTreeMap<_, _> = theirs
            .iter()
            .filter(|(name, _)| !BUILD.contains(&name.as_str()))
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect();
        assert_eq!(names(&ours), names(&written), "{what}");
        for (name, theirs) in &written {
            let ours = &ours[name];
            if ours == theirs {
                continue;
            }
            if name.ends_with(".bin") {
                let (ours, theirs) = (read(ours).unwrap(), read(theirs).unwrap());
                let difference = ours.iter().zip(&theirs).find(|(ours, theirs)| ours != theirs);
                panic!("{name}, {what}: {} and {} entries, {difference:?}", ours.len(), theirs.len());
            } else {
                let lines = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
                let (ours, theirs) = (lines(ours), lines(theirs));
                let difference = ours.lines().zip(theirs.lines()).find(|(ours, theirs)| ours != theirs);
                panic!("{name}, {what}: {difference:?}");
            }
        }
    }

    fn check_subsets(&self, count: u64) {
        (0..count).into_par_iter().for_each(|seed| self.check(&self.subset(seed), &format!("subset {seed}")));
    }
}

/// kmod of Debian 13 under the name of one of its tools.
fn kmod(tool: &str) -> Command {
    let root = roots::tools();
    let mut command = Command::new(root.join("usr/lib64/ld-linux-x86-64.so.2"));
    command.arg("--library-path").arg(root.join("usr/lib/x86_64-linux-gnu")).args(["--argv0", tool]);
    command.arg(root.join("usr/bin/kmod"));
    command
}

fn run(mut command: Command) -> Output {
    command.output().unwrap_or_else(|error| panic!("{command:?}: {error}; run tests/run.sh"))
}

fn depmod(root: &Path, release: &str) -> BTreeMap<String, Vec<u8>> {
    let mut command = kmod("depmod");
    command.arg("-b").arg(root).arg(release);
    let output = run(command);
    assert!(output.status.success() && output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    let directory = root.join("lib/modules").join(release);
    let files = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap());
    let files = files.filter(|entry| entry.file_type().unwrap().is_file());
    files.map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap())).collect()
}

#[test]
fn indexes_of_200_subsets_of_plain_modules_are_those_of_depmod() {
    Case::of("unpacked").check_subsets(200);
}

#[test]
fn indexes_of_subsets_of_an_older_kernel_indexed_by_an_older_kmod_are_those_of_depmod() {
    let case = Case::of("debian12");
    assert!(!case.inventory.modules.index_files.contains("modules.weakdep"), "kmod 30 does not write it");
    case.check_subsets(20);
}

#[test]
fn indexes_of_subsets_of_xz_modules_are_those_of_depmod() {
    Case::at(roots::base()).check_subsets(5);
    Case::of("cloud").check_subsets(5);
    Case::of("arm64").check_subsets(5);
}

#[test]
fn indexes_of_subsets_of_zstd_modules_are_those_of_depmod() {
    Case::of("zst").check_subsets(5);
}

#[test]
fn indexes_of_subsets_of_gzip_modules_are_those_of_depmod() {
    // Debian's kmod is built without zlib: it is asked about the same modules in their other form.
    let mut case = Case::of("gz");
    case.theirs = Some((roots::modules_of("cloud"), ".ko.gz", ".ko.xz"));
    case.check_subsets(5);
}

#[test]
fn indexes_of_all_modules_and_of_none_are_those_of_depmod() {
    for case in [Case::of("unpacked"), Case::of("debian12"), Case::of("cloud")] {
        case.check(&case.all(), "all");
        case.check(&BTreeSet::new(), "none");
    }
}

#[test]
fn a_set_that_could_not_load_is_refused() {
    let case = Case::at(roots::base());
    let set = |name: &str| BTreeSet::from([ModuleName::new(name).unwrap()]);
    let error = indexes(&case.root, &case.inventory, &set("vfat")).unwrap_err();
    assert_eq!(error.to_string(), "the module vfat is kept without fat, which it needs to load: keep both, or none");
    assert!(matches!(indexes(&case.root, &case.inventory, &set("nothing")), Err(DepmodError::Unknown(..))));
}
