//! The closure beside those that modprobe and dracut-install compute from the same modules: ours holds theirs, and whatever it
//! holds more is there by an edge that they do not know.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use kairos_init::drivers::inventory::{self, Declarations, Inventory};
use kairos_init::drivers::select::{Edge, FirmwareVersions, ItemRef, Reason, SelectOptions, Selection, chain, select};
use kairos_init::drivers::target::{self, Request, Target};
use kairos_init::drivers::wishes::Wishes;
use kairos_init::names::ModuleName;
use kairos_init::root::sysroot::Sysroot;

use crate::inventory::real_root;
use crate::roots;

struct Case {
    inventory: Inventory,
    declarations: Declarations,
    /// kmod-db's edges, without a rule.
    edges: Target,
}

impl Case {
    fn new() -> Self {
        let root = Sysroot::open(&real_root()).unwrap();
        let inventory = inventory::load(&root, None).unwrap();
        let declarations = inventory::declarations(&root, inventory.modules.by_name.values()).unwrap();
        let all = target::resolve(&[Request::Name("x86-generic")]).unwrap();
        Self { inventory, declarations, edges: Target { rules: Vec::new(), ..all } }
    }

    fn release(&self) -> &str {
        self.inventory.kernel.release.as_str()
    }

    /// What is kept where exactly these modules are asked for.
    fn select(&self, roots: &BTreeSet<ModuleName>) -> Selection {
        let names: Vec<_> = roots.iter().map(|name| format!("'{name}'")).collect();
        let rule = format!("[[rule]]\nmodule = [{}]\nevidence = 'test'\n", names.join(", "));
        let target = Target { rules: target::parse(&rule, "roots.toml").unwrap().rules, ..self.edges.clone() };
        let options = SelectOptions { firmware_versions: FirmwareVersions::All, ..SelectOptions::default() };
        select(&self.inventory, &self.declarations, &target, &Wishes::default(), &options).unwrap()
    }

    /// The modules that the rules of x86-generic name, without what follows from them.
    fn generic(&self) -> BTreeSet<ModuleName> {
        let target = target::resolve(&[Request::Name("x86-generic")]).unwrap();
        let options = SelectOptions::default();
        let chosen = select(&self.inventory, &self.declarations, &target, &Wishes::default(), &options).unwrap();
        let by_rule = |reason: &Reason| matches!(reason, Reason::Kept(link) if link.edge == Edge::Rule);
        chosen.modules.into_iter().filter(|(_, item)| by_rule(&item.reason)).map(|(name, _)| name).collect()
    }

    fn sample(&self, mut seed: u64) -> BTreeSet<ModuleName> {
        let names: Vec<_> = self.inventory.modules.by_name.keys().collect();
        let mut out = BTreeSet::new();
        while out.len() < 150 {
            // Knuth's linear congruential generator.
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            out.insert(names[usize::try_from(seed >> 33).unwrap() % names.len()].clone());
        }
        out
    }

    /// Holds the selection against a peer's modules; the edges that the peer does not know explain what is more.
    fn compare(&self, peer: &str, selection: &Selection, theirs: &BTreeSet<ModuleName>, unknown: &[Edge]) {
        let lost: Vec<_> = theirs.iter().filter(|name| !selection.modules[*name].kept).collect();
        assert!(lost.is_empty(), "{peer} brings {} modules that we do not: {lost:?}", lost.len());
        let more: Vec<_> =
            selection.modules.iter().filter(|(name, item)| item.kept && !theirs.contains(*name)).collect();
        for (name, _) in &more {
            let links = chain(selection, ItemRef::Module(name));
            assert!(
                links.iter().any(|link| unknown.contains(&link.edge) || link.from.starts_with("built-in ")),
                "{peer} does not bring {name}, and no edge explains it: {links:?}"
            );
        }
        println!("{peer}: {} modules, ours {} more", theirs.len(), more.len());
    }
}

/// A program with the loader and libraries of Debian 13.
fn debian13(program: &Path) -> Command {
    let tools = roots::tools();
    let mut command = Command::new(tools.join("usr/lib64/ld-linux-x86-64.so.2"));
    command
        .arg("--library-path")
        .arg(tools.join("usr/lib/x86_64-linux-gnu"))
        .args(["--argv0", "modprobe"])
        .arg(program);
    command
}

fn modprobe(case: &Case, roots: &BTreeSet<ModuleName>) -> BTreeSet<ModuleName> {
    let mut command = debian13(&roots::tools().join("usr/bin/kmod"));
    command.args(["-C", "/dev/null", "-S", case.release(), "--show-depends", "-a", "-d"]);
    let output = command.arg(real_root()).args(roots.iter().map(ModuleName::as_str)).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let files = text.lines().filter_map(|line| line.strip_prefix("insmod "));
    files.map(|file| ModuleName::from_file(file.trim().as_bytes()).unwrap()).collect()
}

/// The files that dracut-install puts into a folder: modules by name, firmware by the name that a driver asks for.
fn dracut_install(case: &Case, roots: &BTreeSet<ModuleName>) -> (BTreeSet<ModuleName>, BTreeSet<String>) {
    let out = tempfile::tempdir().unwrap();
    let firmware = real_root().join("usr/lib/firmware");
    let mut command = debian13(&roots::dracut_install());
    command.arg("-D").arg(out.path()).arg("--kerneldir");
    command.arg(real_root().join("usr/lib/modules").join(case.release()));
    command.arg("--firmwaredirs").arg(&firmware).arg("-m").args(roots.iter().map(ModuleName::as_str));
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut files: Vec<PathBuf> = Vec::new();
    let mut pending = vec![out.path().to_owned()];
    while let Some(directory) = pending.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let entry = entry.unwrap();
            match entry.file_type().unwrap().is_dir() {
                true => pending.push(entry.path()),
                false => files.push(entry.path()),
            }
        }
    }
    let names = files.iter().filter_map(|file| ModuleName::from_file(file.to_str()?.as_bytes())).collect();
    let below = |file: &PathBuf| Some(file.to_str()?.split_once("/usr/lib/firmware/")?.1.to_owned());
    (names, files.iter().filter_map(below).collect())
}

fn compare_with_modprobe(case: &Case, roots: &BTreeSet<ModuleName>) -> Selection {
    let selection = case.select(roots);
    let theirs = modprobe(case, roots);
    assert!(theirs.len() >= roots.len());
    case.compare("modprobe", &selection, &theirs, &[Edge::Weakdep, Edge::Curated, Edge::Request]);
    selection
}

fn compare_with_both(case: &Case, roots: &BTreeSet<ModuleName>) {
    let selection = compare_with_modprobe(case, roots);
    let (theirs, firmware) = dracut_install(case, roots);
    assert!(theirs.len() >= roots.len());
    case.compare("dracut-install", &selection, &theirs, &[Edge::Curated, Edge::Request]);

    let fates: BTreeMap<_, _> = selection.firmware.iter().map(|(path, item)| (path.to_string(), item)).collect();
    let lost: Vec<_> = firmware
        .iter()
        .filter(|name| !fates.get(&format!("/usr/lib/firmware/{name}")).is_some_and(|item| item.kept))
        .collect();
    assert!(lost.is_empty(), "dracut-install brings firmware that we do not: {lost:?}");
    println!("dracut-install: {} firmware files", firmware.len());
}

#[test]
fn our_closure_holds_those_of_modprobe_and_dracut() {
    let case = Case::new();
    compare_with_modprobe(&case, &case.generic());
    for seed in 1..=4 {
        compare_with_both(&case, &case.sample(seed));
    }
}
