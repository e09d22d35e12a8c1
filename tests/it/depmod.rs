//! Our indexes against depmod's and modprobe's: of the distribution in the test root (it writes the newest layout), run with
//! the root's own loader and libraries, and modprobe of the machine too (an older reader).

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Output};

use kairos_init::drivers::depmod::binary::{Entry, read};
use kairos_init::drivers::depmod::{DepmodError, indexes};
use kairos_init::drivers::inventory::{Inventory, load};
use kairos_init::names::ModuleName;
use kairos_init::root::sysroot::Sysroot;

use crate::inventory::real_root;

/// Files that are the kernel build's own, which depmod reads.
const BUILD: [&str; 3] = ["modules.order", "modules.builtin", "modules.builtin.modinfo"];

struct Case {
    root: Sysroot,
    inventory: Inventory,
}

impl Case {
    fn new() -> Self {
        let root = Sysroot::open(&real_root()).unwrap();
        let inventory = load(&root, None).unwrap();
        Self { root, inventory }
    }

    fn release(&self) -> &str {
        self.inventory.kernel.release.as_str()
    }

    /// A few modules, always the same for a seed, and all that they need.
    fn subset(&self, mut seed: u64) -> BTreeSet<ModuleName> {
        let names: Vec<_> = self.inventory.modules.by_name.keys().collect();
        let mut kept = BTreeSet::new();
        while kept.len() < 300 {
            // Knuth's linear congruential generator.
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let name = names[usize::try_from(seed >> 33).unwrap() % names.len()];
            kept.insert(name.clone());
            kept.extend(self.inventory.modules.dependencies[name].iter().cloned());
        }
        kept
    }

    /// A root whose module directory has the kept modules (as links into the real root) and no index.
    fn slimmed(&self, kept: &BTreeSet<ModuleName>) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        let modules = directory.path().join("lib/modules").join(self.release());
        fs::create_dir_all(&modules).unwrap();
        for name in kept {
            let module = &self.inventory.modules.by_name[name];
            let link = modules.join(&module.relative);
            fs::create_dir_all(link.parent().unwrap()).unwrap();
            symlink(real_root().join(module.path.as_path()), link).unwrap();
        }
        for name in BUILD {
            fs::copy(real_root().join("usr/lib/modules").join(self.release()).join(name), modules.join(name)).unwrap();
        }
        directory
    }

    fn ours(&self, kept: &BTreeSet<ModuleName>) -> BTreeMap<String, Vec<u8>> {
        indexes(&self.root, &self.inventory, kept).unwrap()
    }
}

/// kmod of the test root under the name of one of its tools.
fn kmod(tool: &str) -> Command {
    let root = real_root();
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

/// Lines of `modules.dep` as sets of what a module needs: depmod's order within a line needs the modules' symbols.
fn needs(dep: &[u8]) -> Vec<(String, BTreeSet<String>)> {
    let text = std::str::from_utf8(dep).unwrap();
    let set = |words: &str| words.split_ascii_whitespace().map(str::to_owned).collect();
    text.lines().map(|line| line.split_once(':').unwrap()).map(|(path, rest)| (path.to_owned(), set(rest))).collect()
}

/// The same of `modules.dep.bin`.
fn needs_of_entries(entries: &[Entry]) -> Vec<(&str, u32, Vec<(String, BTreeSet<String>)>)> {
    entries.iter().map(|entry| (entry.key.as_str(), entry.priority, needs(entry.value.as_bytes()))).collect()
}

fn assert_same(ours: &BTreeMap<String, Vec<u8>>, theirs: &BTreeMap<String, Vec<u8>>) {
    for name in ["modules.alias", "modules.symbols", "modules.softdep", "modules.weakdep", "modules.devname"] {
        assert!(ours[name] == theirs[name], "{name} differs");
    }
    assert_eq!(needs(&ours["modules.dep"]), needs(&theirs["modules.dep"]));
    let entries = |files: &BTreeMap<String, Vec<u8>>, name| read(&files[name]).unwrap();
    for name in ["modules.alias.bin", "modules.symbols.bin"] {
        let (ours, theirs) = (entries(ours, name), entries(theirs, name));
        assert!(!ours.is_empty() && ours.len() == theirs.len(), "{name}: {} and {} entries", ours.len(), theirs.len());
        for (ours, theirs) in ours.iter().zip(&theirs) {
            assert_eq!(ours, theirs, "{name}");
        }
    }
    let (ours_dep, theirs_dep) = (entries(ours, "modules.dep.bin"), entries(theirs, "modules.dep.bin"));
    assert_eq!(needs_of_entries(&ours_dep), needs_of_entries(&theirs_dep));
    // Nothing that depmod makes from the modules is missing: the rest speaks of the kernel's build.
    let rest: Vec<_> = theirs.keys().filter(|name| !ours.contains_key(*name)).map(String::as_str).collect();
    assert!(rest.iter().all(|name| name.starts_with("modules.builtin") || *name == "modules.order"), "{rest:?}");
}

/// What modprobe says with the indexes in `root`, for each kept module and for aliases of them.
fn modprobe_says(mut modprobe: Command, root: &Path, release: &str, arguments: &[&str]) -> String {
    modprobe.arg("-d").arg(root).args(["-S", release, "-a"]).args(arguments);
    let output = run(modprobe);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn write_indexes(root: &Path, release: &str, files: &BTreeMap<String, Vec<u8>>) {
    for (name, bytes) in files {
        fs::write(root.join("lib/modules").join(release).join(name), bytes).unwrap();
    }
}

/// Aliases without wildcards, and patterns with something in place of them.
fn modaliases(alias_file: &[u8]) -> Vec<String> {
    let text = std::str::from_utf8(alias_file).unwrap();
    let patterns = text.lines().filter_map(|line| Some(line.strip_prefix("alias ")?.rsplit_once(' ')?.0));
    patterns
        .filter(|pattern| !pattern.contains(['[', ' ']))
        .map(|pattern| pattern.replace(['*', '?'], "0"))
        .collect()
}

#[test]
fn indexes_of_subsets_are_those_of_depmod_and_modprobe_reads_them() {
    let case = Case::new();
    for seed in 1..=3 {
        let kept = case.subset(seed);
        let directory = case.slimmed(&kept);
        let theirs = depmod(directory.path(), case.release());
        let ours = case.ours(&kept);
        assert_same(&ours, &theirs);

        let names: Vec<&str> =
            [&["--show-depends"][..], &kept.iter().map(ModuleName::as_str).collect::<Vec<_>>()].concat();
        let aliases = modaliases(&ours["modules.alias"]);
        let aliases: Vec<&str> = ["-R"].into_iter().chain(aliases.iter().map(String::as_str)).collect();
        let ask = || {
            let mut answers = Vec::new();
            for arguments in [&names, &aliases] {
                for modprobe in [kmod("modprobe"), Command::new("modprobe")] {
                    answers.push(modprobe_says(modprobe, directory.path(), case.release(), arguments));
                }
            }
            answers
        };
        let sets = |answers: Vec<String>| -> Vec<BTreeSet<String>> {
            answers.iter().map(|text| text.lines().map(str::to_owned).collect()).collect()
        };
        let with_theirs = sets(ask());
        for name in theirs.keys().filter(|name| !BUILD.contains(&name.as_str()) && !name.starts_with("modules.builtin"))
        {
            fs::remove_file(directory.path().join("lib/modules").join(case.release()).join(name)).unwrap();
        }
        write_indexes(directory.path(), case.release(), &ours);
        let with_ours = sets(ask());
        assert_eq!(with_ours, with_theirs);
        let insmod = with_ours[0].iter().filter(|line| line.starts_with("insmod ")).count();
        assert_eq!(insmod, kept.len());
    }
}

#[test]
fn indexes_of_all_modules_are_those_of_depmod() {
    let case = Case::new();
    let kept: BTreeSet<ModuleName> = case.inventory.modules.by_name.keys().cloned().collect();
    let directory = case.slimmed(&kept);
    assert_same(&case.ours(&kept), &depmod(directory.path(), case.release()));
}

#[test]
fn a_set_that_could_not_load_is_refused() {
    let case = Case::new();
    let set = |name: &str| BTreeSet::from([ModuleName::new(name).unwrap()]);
    let error = indexes(&case.root, &case.inventory, &set("vfat")).unwrap_err();
    assert_eq!(error.to_string(), "the module vfat is kept without fat, which it needs to load: keep both, or none");
    assert!(matches!(indexes(&case.root, &case.inventory, &set("nothing")), Err(DepmodError::Unknown(..))));
}
