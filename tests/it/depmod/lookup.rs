//! What finds modules by our indexes finds what it found before: modprobe for names and aliases, depmod for symbols.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;

use kairos_init::drivers::inventory::Declarations;
use kairos_init::drivers::select::{SelectOptions, select};
use kairos_init::drivers::target::{Request, resolve};
use kairos_init::drivers::wishes::Wishes;
use kairos_init::names::ModuleName;

use super::{BUILD, Case, indexes, kmod, run};
use crate::roots;

/// Bytes of arguments that a program takes at once, with room to spare.
const ARGUMENTS: usize = 1 << 20;

/// Writes our indexes over depmod's, and takes away what we do not write.
fn index(root: &Path, release: &str, files: &BTreeMap<String, Vec<u8>>) {
    let directory = root.join("lib/modules").join(release);
    for entry in fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap()) {
        if entry.file_type().unwrap().is_file() && !BUILD.contains(&entry.file_name().to_str().unwrap()) {
            fs::remove_file(entry.path()).unwrap();
        }
    }
    for (name, bytes) in files {
        fs::write(directory.join(name), bytes).unwrap();
    }
}

/// The lines that `modprobe` prints for `words`, by its indexes in `root`.
fn modprobe(program: fn() -> Command, root: &Path, release: &str, option: &str, words: &[String]) -> Vec<String> {
    let mut lines = Vec::new();
    let mut rest = words;
    while !rest.is_empty() {
        let mut bytes = 0;
        let count = rest.iter().take_while(|word| {
            bytes += word.len() + 16;
            bytes < ARGUMENTS
        });
        let (now, later) = rest.split_at(count.count());
        rest = later;
        let mut command = program();
        command.arg("-d").arg(root).args(["-S", release, "-a", option]).args(now);
        let output = run(command);
        // A pattern of a kept module that nothing answers to would be an error.
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        lines.extend(String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned));
    }
    lines
}

/// What a device would say that each alias of the file matches: the wildcards replaced by something that they match.
fn modaliases(alias_file: &[u8]) -> BTreeSet<String> {
    let text = std::str::from_utf8(alias_file).unwrap();
    let patterns = text.lines().filter_map(|line| Some(line.strip_prefix("alias ")?.rsplit_once(' ')?.0));
    // modprobe takes words, and a module without a file would be asked for by what the alias is.
    patterns.filter(|pattern| !pattern.contains(' ')).map(answered).collect()
}

fn answered(pattern: &str) -> String {
    let mut out = String::new();
    let mut characters = pattern.chars();
    while let Some(character) = characters.next() {
        match character {
            '*' | '?' => out.push('0'),
            // The first of a class: `[0-9]`, `[b-e]`.
            '[' => {
                out.extend(characters.next());
                characters.by_ref().find(|character| *character == ']');
            }
            other => out.push(other),
        }
    }
    out
}

fn modprobe_of_debian_13() -> Command {
    kmod("modprobe")
}

/// An older reader.
fn modprobe_of_the_machine() -> Command {
    Command::new("modprobe")
}

#[test]
fn modprobe_finds_the_same_for_every_alias_of_every_kept_module() {
    let case = Case::of("unpacked");
    for seed in [1, 2, 3] {
        let kept = case.subset(seed);
        let directory = case.slimmed(&kept);
        super::depmod(directory.path(), case.release());
        let ours = case.ours(&kept);
        let names: Vec<String> = kept.iter().map(ToString::to_string).collect();
        let aliases: Vec<String> = modaliases(&ours["modules.alias"]).into_iter().collect();
        let ask = || {
            let mut answers = Vec::new();
            for program in [modprobe_of_debian_13 as fn() -> Command, modprobe_of_the_machine] {
                for (option, words) in [("--show-depends", &names), ("-R", &aliases)] {
                    answers.push(modprobe(program, directory.path(), case.release(), option, words));
                }
            }
            answers
        };
        let with_theirs = ask();
        index(directory.path(), case.release(), &ours);
        let with_ours = ask();
        assert_eq!(with_ours, with_theirs);
        let found: BTreeSet<&str> =
            with_ours[0].iter().filter_map(|line| line.strip_prefix("insmod ")).map(str::trim).collect();
        assert_eq!(found.len(), kept.len(), "each kept module is found by its name");
    }
}

#[test]
fn the_whole_tree_and_the_slimmed_one_answer_the_same_for_each_alias_of_kept_modules() {
    let case = Case::of("unpacked");
    let kept = generic(&case);
    let directory = case.slimmed(&kept);
    let ours = case.ours(&kept);
    index(directory.path(), case.release(), &ours);
    let aliases: Vec<String> = modaliases(&ours["modules.alias"]).into_iter().collect();
    assert!(aliases.len() > 5000, "{}", aliases.len());
    let before = modprobe(modprobe_of_debian_13, &case.path, case.release(), "-R", &aliases);
    let after = modprobe(modprobe_of_debian_13, directory.path(), case.release(), "-R", &aliases);
    // Before, dropped modules answer too where they have the same alias.
    let is_kept = |name: &String| kept.contains(&ModuleName::new(name).unwrap());
    let before: Vec<String> = before.into_iter().filter(is_kept).collect();
    assert!(before == after, "{:?}", before.iter().zip(&after).find(|(before, after)| before != after));
    let found: BTreeSet<&String> = after.iter().collect();
    assert!(found.len() > 500, "{}", found.len());
}

/// What x86-generic keeps.
fn generic(case: &Case) -> BTreeSet<ModuleName> {
    let target = resolve(&[Request::Name("x86-generic")]).unwrap();
    let selection =
        select(&case.inventory, &Declarations::new(), &target, &Wishes::default(), &SelectOptions::default()).unwrap();
    selection.modules.iter().filter(|(_, item)| item.kept).map(|(name, _)| name.clone()).collect()
}

#[test]
fn depmod_finds_no_unresolved_symbol_in_a_slimmed_tree() {
    let case = Case::of("unpacked");
    let symvers = roots::modules_of("symvers").join(case.release());
    let complaints = |kept: &BTreeSet<ModuleName>| {
        let directory = case.slimmed(kept);
        let mut command = kmod("depmod");
        command.args(["-e", "-E"]).arg(&symvers).arg("-b").arg(directory.path()).arg(case.release());
        let output = run(command);
        assert!(output.status.success());
        String::from_utf8(output.stderr).unwrap()
    };
    for kept in [generic(&case), case.subset(7), case.subset(8)] {
        assert_eq!(complaints(&kept), "");
    }
    // The question is one that has another answer too.
    let alone = complaints(&BTreeSet::from([ModuleName::new("vfat").unwrap()]));
    assert!(alone.contains("needs unknown symbol fat_"), "{alone}");
}

/// A root with modules that were built after the kernel: copies of `fat` and `failover` under other names, later in depmod's order.
#[test]
fn symbols_of_a_dropped_addition_are_those_of_the_module_that_it_had_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let cloud = roots::modules_of("cloud");
    let status = Command::new("cp").arg("-a").arg(cloud.join("usr")).arg(directory.path()).status().unwrap();
    assert!(status.success());
    std::os::unix::fs::symlink("usr/lib", directory.path().join("lib")).unwrap();
    let release = Case::of("cloud").release().to_owned();
    let modules = directory.path().join("usr/lib/modules").join(&release);
    fs::create_dir(modules.join("updates")).unwrap();
    for (from, to) in [("fs/fat/fat", "new-fat"), ("fs/fat/fat", "newer-fat"), ("net/core/failover", "new-failover")] {
        fs::copy(modules.join(format!("kernel/{from}.ko.xz")), modules.join(format!("updates/{to}.ko.xz"))).unwrap();
    }
    super::depmod(directory.path(), &release);

    let case = Case::at(directory.path().to_owned());
    let name = |name: &str| ModuleName::new(name).unwrap();
    let users = |of: &ModuleName| -> Vec<ModuleName> {
        let needs = case.inventory.modules.dependencies.iter();
        needs.filter(|(_, needs)| needs.contains(of)).map(|(user, _)| user.clone()).collect()
    };
    assert_eq!(users(&name("fat")), [], "depmod gives the symbols to the later module");
    case.check(&case.all(), "all");
    // Without the additions and what needs them, in all combinations.
    for dropped in [&["new_fat"][..], &["newer_fat"], &["new_fat", "newer_fat"], &["new_failover"], &["fat"]] {
        let dropped: BTreeSet<ModuleName> =
            dropped.iter().map(|dropped| name(dropped)).flat_map(|name| [users(&name), vec![name]].concat()).collect();
        let kept: BTreeSet<ModuleName> = case.all().difference(&dropped).cloned().collect();
        assert!(indexes(&case.root, &case.inventory, &kept).is_ok());
        case.check(&kept, &format!("all but {dropped:?}"));
    }
}
