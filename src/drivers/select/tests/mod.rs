//! Tiny kernels, made by hand: one question each.

mod configured;
mod firmware;

use std::collections::BTreeMap;

use super::*;
use crate::drivers::inventory::{Compression, Declared, Firmware, FirmwareKind, Kernel, Modules, SoftKind};
use crate::drivers::target;
use crate::names::KernelRelease;

fn name(name: &str) -> ModuleName {
    ModuleName::new(name).unwrap()
}

fn path(path: &str) -> TreePath {
    TreePath::new(path).unwrap()
}

/// Modules `NAME: DEPENDENCY...`, one a line.
fn kernel(modules: &str) -> Inventory {
    let mut out = Modules::default();
    for line in modules.lines() {
        let (module, dependencies) = line.split_once(':').unwrap();
        let relative = format!("kernel/{module}.ko.xz");
        out.by_name.insert(
            name(module),
            Module {
                name: name(module),
                path: path(&format!("usr/lib/modules/6.12/{relative}")),
                relative,
                bytes: 1000,
                compression: Compression::Xz,
            },
        );
        out.dependencies.insert(name(module), dependencies.split_whitespace().map(name).collect());
    }
    Inventory {
        kernel: Kernel {
            release: KernelRelease::new("6.12").unwrap(),
            image: None,
            modules: path("usr/lib/modules/6.12"),
        },
        other_kernels: Vec::new(),
        modules: out,
        firmware: Firmware::default(),
    }
}

/// A target with these rules and nothing else.
fn rules(text: &str) -> Target {
    let entries = target::parse(text, "t.toml").unwrap();
    Target {
        architecture: None,
        name: "t".into(),
        rules: entries.rules,
        hidden: entries.hidden,
        families: entries.families,
        requests: entries.requests,
        unasked: entries.unasked,
    }
}

/// A target of one rule for one module.
fn only(module: &str) -> Target {
    rules(&format!("[[rule]]\nmodule = '{module}'\nevidence = 'e'\n"))
}

fn options(keep: &[&str], drop: &[&str]) -> SelectOptions {
    let patterns = |texts: &[&str]| texts.iter().map(|text| Pattern::new(text).unwrap()).collect();
    SelectOptions { keep: patterns(keep), drop: patterns(drop), ..SelectOptions::default() }
}

fn choose(inventory: &Inventory, target: &Target, keep: &[&str], drop: &[&str]) -> Result<Selection, SelectError> {
    let declared = Declared { firmware: vec![FirmwarePath::new("fw/a.bin").unwrap()], ..Declared::default() };
    select(inventory, &[(name("fwuser"), declared)].into(), target, &Wishes::default(), &options(keep, drop))
}

fn kept(selection: &Selection) -> Vec<&str> {
    selection.modules.iter().filter(|(_, item)| item.kept).map(|(name, _)| name.as_str()).collect()
}

/// `rule>a -depends>b`, from the rule to the item.
fn told(selection: &Selection, module: &str) -> Vec<String> {
    let links = chain(selection, ItemRef::Module(&name(module)));
    links.iter().map(|link| format!("{} {:?} {} [{}]", link.from, link.edge, link.to, link.source)).collect()
}

#[test]
fn circles_end() {
    let mut inventory = kernel("a: b\nb: c\nc: a\nd:");
    inventory.modules.soft.insert(name("c"), vec![(SoftKind::Pre, "b".into())]);
    let selection = choose(&inventory, &only("a"), &[], &[]).unwrap();
    assert_eq!(kept(&selection), ["a", "b", "c"]);
    assert_eq!(
        told(&selection, "c"),
        ["module a Rule a [t.toml:2]", "a Depends b [modules.dep]", "b Depends c [modules.dep]"]
    );
    assert_eq!(selection.modules["d"].reason, Reason::NotAsked);
    assert!(told(&selection, "d").is_empty());
}

#[test]
fn soft_and_weak_dependencies_may_be_aliases() {
    let mut inventory = kernel("ext4:\ncrc32c_generic:\ncrc32c_intel:\nled:\nphy:\nbare:\nother:");
    let modules = &mut inventory.modules;
    let soft = [(SoftKind::Pre, "crypto-crc32c"), (SoftKind::Post, "platform:leds-gpio"), (SoftKind::Bare, "bare")];
    modules.soft.insert(name("ext4"), soft.map(|(kind, wanted)| (kind, wanted.to_owned())).into());
    modules.weak.insert(name("ext4"), vec!["phy".into(), "names-nothing".into()]);
    for (alias, module) in [
        ("crypto-crc32c", "crc32c_generic"),
        ("crypto_crc32c", "crc32c_intel"),
        ("platform:leds-*", "led"),
        ("pci:v*", "other"),
    ] {
        modules.aliases.push((alias.into(), name(module)));
    }
    let selection = choose(&inventory, &only("ext4"), &[], &[]).unwrap();
    assert_eq!(kept(&selection), ["bare", "crc32c_generic", "crc32c_intel", "ext4", "led", "phy"]);
    assert_eq!(
        told(&selection, "crc32c_intel").last().unwrap(),
        "ext4 Alias crc32c_intel [modules.softdep, alias crypto-crc32c]"
    );
    assert_eq!(told(&selection, "phy").last().unwrap(), "ext4 Weakdep phy [modules.weakdep]");
}

#[test]
fn what_is_built_in_satisfies() {
    let mut inventory = kernel("ext4: jbd2\nnls_utf8:");
    inventory.modules.builtin.extend([name("jbd2"), name("fat"), name("crc32c")]);
    inventory.modules.soft.insert(name("ext4"), vec![(SoftKind::Pre, "crc32c".into())]);
    let target = rules(
        "[[rule]]\nmodule = ['ext4', 'fat', 'crc*']\nevidence = 'e'\n[[hidden]]\nfrom = 'fat'\nto = 'nls_utf8'\nevidence = 'e'\n",
    );
    let selection = choose(&inventory, &target, &[], &[]).unwrap();
    assert_eq!(kept(&selection), ["ext4", "nls_utf8"]);
    assert_eq!(told(&selection, "nls_utf8"), ["built-in fat Curated nls_utf8 [t.toml:5]"]);
    assert!(selection.warnings.is_empty(), "{:?}", selection.warnings);
}

#[test]
fn a_dependency_that_does_not_exist_is_an_error_where_it_matters() {
    let inventory = kernel("a: gone\nb:");
    let error = choose(&inventory, &only("a"), &[], &[]).unwrap_err().to_string();
    assert!(error.contains("a depends on gone, which is neither a module file nor built in"), "{error}");
    assert_eq!(kept(&choose(&inventory, &only("b"), &[], &[]).unwrap()), ["b"]);
}

#[test]
fn rules_that_match_nothing_are_told_unless_they_say_so() {
    let rule = |more: &str| rules(&format!("[[rule]]\npath = 'kernel/nothing/**'\nevidence = 'e'\n{more}\n"));
    let warnings = |more: &str| choose(&kernel("a:"), &rule(more), &[], &[]).unwrap().warnings;
    assert_eq!(
        warnings(""),
        ["t.toml:2: path kernel/nothing/** matches neither a module nor a built-in of kernel 6.12"]
    );
    assert!(warnings("optional = true").is_empty());
    assert!(warnings("since = '6.13'").is_empty());
    assert_eq!(warnings("since = '6.12'").len(), 1);
}

#[test]
fn rules_see_paths_names_and_aliases() {
    let mut inventory = kernel("net-a:\nnet-b:\nnet-sub-c:\ndisk-x:");
    for (module, relative) in
        [("net_a", "kernel/net/a.ko.zst"), ("net_b", "kernel/net/b.ko"), ("net_sub_c", "kernel/net/sub/c.ko.gz")]
    {
        if let Some(module) = inventory.modules.by_name.get_mut(module) {
            relative.clone_into(&mut module.relative);
        }
    }
    inventory.modules.aliases.push(("pci:v00001234d*sv*sd*bc*sc*i*".into(), name("disk_x")));
    inventory.modules.aliases.push(("pci:v*d*sv*sd*bc02sc00i*".into(), name("net_a")));
    let chosen = |rule: &str| {
        let target = rules(&format!("[[rule]]\n{rule}\nevidence = 'e'\n"));
        kept(&choose(&inventory, &target, &[], &[]).unwrap()).join(" ")
    };
    assert_eq!(chosen("path = 'kernel/net/*.ko'"), "net_a net_b");
    assert_eq!(chosen("path = 'kernel/net/**'\nexcept = ['kernel/net/b.ko']"), "net_a net_sub_c");
    assert_eq!(chosen("module = 'disk-?'"), "disk_x");
    assert_eq!(chosen("alias = 'pci:v00001234d00005678sv00000000sd00000000bc01sc00i00'"), "disk_x");
    assert_eq!(chosen("alias = 'pci:*bc02*'"), "net_a", "a pattern that leaves the class open is not of the class");
}

#[test]
fn keep_and_drop() {
    let inventory = kernel("a: lib\nlib:\nextra:\nboot:");
    let target = rules(
        "[[rule]]\nmodule = 'boot'\nrequired = true\nevidence = 'the root is on it'\n[[rule]]\nmodule = 'a'\nevidence = 'e'\n",
    );
    let choose = |keep: &[&str], drop: &[&str]| choose(&inventory, &target, keep, drop);
    let error = |keep: &[&str], drop: &[&str]| choose(keep, drop).unwrap_err().to_string();
    assert_eq!(kept(&choose(&["ext*"], &[]).unwrap()), ["a", "boot", "extra", "lib"]);
    assert_eq!(
        told(&choose(&["kernel/extra.ko"], &[]).unwrap(), "extra")[0],
        "--keep kernel/extra.ko Rule extra [the command line]"
    );
    let dropped = choose(&[], &["a"]).unwrap();
    assert_eq!(kept(&dropped), ["boot"]);
    assert_eq!(dropped.modules["a"].reason, Reason::Dropped("a".into()));
    assert!(error(&[], &["lib"]).contains("without which the kept module a cannot load"));
    assert_eq!(kept(&choose(&[], &["lib", "a"]).unwrap()), ["boot"]);
    assert!(error(&[], &["bo*"]).contains("boot, which Kairos needs: the root is on it (t.toml:2)"));
    assert!(error(&["extr"], &[]).contains("(did you mean \"extra\"?)"));
    assert_eq!(kept(&choose(&["extra"], &["e*"]).unwrap()), ["a", "boot", "extra", "lib"], "the exact name wins");
    assert_eq!(kept(&choose(&["*"], &["extra"]).unwrap()), ["a", "boot", "lib"], "the exact name wins");
    assert!(error(&["extra"], &["extra"]).contains("both match extra"));
}

#[test]
fn soft_dependencies_that_are_dropped_are_told() {
    let mut inventory = kernel("a:\nsoft:\nbuilt:");
    inventory.modules.soft.insert(name("a"), vec![(SoftKind::Pre, "soft".into())]);
    inventory.modules.builtin.insert(name("vfs"));
    let selection = choose(&inventory, &only("a"), &[], &["soft"]).unwrap();
    assert_eq!(kept(&selection), ["a"]);
    assert_eq!(selection.warnings, ["--drop \"soft\" takes away soft, which a asks for (modules.softdep)"]);
    let error = choose(&inventory, &only("a"), &[], &["vfs"]).unwrap_err().to_string();
    assert!(error.contains("vfs is built into the kernel"), "{error}");
}
