//! What the root's own configuration does to a selection, and families of aliases.

use super::*;
use crate::drivers::target::Source;
use crate::drivers::wishes::{Wanted, Wish};

fn wish(wanted: Wanted, line: usize) -> Wish {
    Wish { wanted, by: "test", source: Source { file: "/etc/x".into(), line } }
}

fn modprobe(text: &str) -> Wishes {
    let mut wishes = Wishes::default();
    wishes.modprobe.add(text, "/etc/modprobe.d/x.conf");
    wishes
}

fn run(inventory: &Inventory, target: &Target, wishes: &Wishes, options: &SelectOptions) -> Selection {
    select(inventory, &Declarations::new(), target, wishes, options).unwrap()
}

#[test]
fn wishes_are_rules() {
    let mut inventory = kernel("a:\nlib:\nnfs: lib\nbond:\nx:\nidle:");
    inventory.modules.builtin.insert(name("ext4"));
    if let Some(module) = inventory.modules.by_name.get_mut("x") {
        module.relative = "kernel/hid/x.ko.xz".to_owned();
    }
    inventory.modules.aliases.push(("fs-nfs".into(), name("nfs")));
    inventory.modules.aliases.push(("netdev-bond0".into(), name("bond")));
    let module = |name: &str| Wanted::Module(name.to_owned());
    let filesystem = |name: &str| Wanted::Filesystem(name.to_owned());
    let wishes = Wishes {
        wishes: vec![
            wish(filesystem("nfs"), 1),
            wish(filesystem("ext4"), 2),
            wish(filesystem("tmpfs"), 3),
            wish(module("netdev-bond0"), 4),
            wish(Wanted::Directory("hid".into()), 5),
            wish(module("gone"), 6),
        ],
        ..Wishes::default()
    };
    let selection = run(&inventory, &only("a"), &wishes, &SelectOptions::default());
    assert_eq!(kept(&selection), ["a", "bond", "lib", "nfs", "x"]);
    assert_eq!(told(&selection, "lib"), ["test nfs Rule nfs [/etc/x:1]", "nfs Depends lib [modules.dep]"]);
    assert_eq!(
        selection.warnings,
        ["/etc/x:6: test asks for gone, which kernel 6.12 has neither as a module nor built in"]
    );
    let dropped = run(&inventory, &only("a"), &wishes, &options(&[], &["bond"]));
    assert!(!dropped.modules["bond"].kept);
    assert!(dropped.warnings.contains(&"--drop \"bond\" takes away bond, which test asks for (/etc/x:4)".to_owned()));
}

#[test]
fn modprobe_configuration_adds_edges() {
    let mut inventory = kernel("a:\nsoft:\nweak:\ninst:\naliased:\nsilent:");
    inventory.modules.soft.insert(name("a"), vec![(SoftKind::Pre, "my-alias".into())]);
    let wishes = modprobe(
        "softdep a* pre: soft\nweakdep a weak\ninstall a modprobe inst && modprobe --ignore-install a\n\
         alias my-al* aliased\noptions silent x=1\noptions a y=1\noptions other z=1\n",
    );
    let selection = run(&inventory, &only("a"), &wishes, &SelectOptions::default());
    assert_eq!(kept(&selection), ["a", "aliased", "inst", "soft", "weak"]);
    assert_eq!(told(&selection, "inst").last().unwrap(), "a Install inst [/etc/modprobe.d/x.conf:3]");
    assert_eq!(told(&selection, "weak").last().unwrap(), "a Weakdep weak [/etc/modprobe.d/x.conf:2]");
    assert_eq!(
        selection.warnings,
        [
            "/etc/modprobe.d/x.conf: 'options' names silent (line 5), which is dropped; --keep it, or take the lines away"
        ]
    );
}

#[test]
fn an_alias_goes_before_a_built_in_of_the_same_name() {
    let mut inventory = kernel("a:\ncrc32-generic:");
    inventory.modules.builtin.insert(name("crc32"));
    inventory.modules.aliases.push(("crc32".into(), name("crc32-generic")));
    inventory.modules.soft.insert(name("a"), vec![(SoftKind::Pre, "crc32".into())]);
    assert_eq!(kept(&choose(&inventory, &only("a"), &[], &[]).unwrap()), ["a", "crc32_generic"]);
}

#[test]
fn weak_dependencies_without_an_index_come_from_the_module() {
    let inventory = kernel("phy:\nnet:");
    let declared = Declared { weak: vec!["phy".into()], ..Declared::default() };
    let declarations = [(name("net"), declared)].into();
    let selection =
        select(&inventory, &declarations, &only("net"), &Wishes::default(), &SelectOptions::default()).unwrap();
    assert_eq!(told(&selection, "phy").last().unwrap(), "net Weakdep phy [.modinfo of the module]");
}

#[test]
fn families_of_aliases_follow_their_asker() {
    let mut inventory = kernel("core:\nchain_a:\nexpr_b:\nother:");
    for (alias, module) in [("nft-chain-2-nat", "chain_a"), ("nft_expr-b", "expr_b"), ("net-pf-2", "other")] {
        inventory.modules.aliases.push((alias.into(), name(module)));
    }
    let entry = "[[request]]\nfrom = ['builtin-core', 'core']\nalias = ['nft-chain-*', 'nft-expr-*']\nevidence = 'e'\n";
    let with = |rule: &str| rules(&format!("{entry}[[rule]]\nmodule = '{rule}'\nevidence = 'e'\n"));
    let selection = choose(&inventory, &with("core"), &[], &[]).unwrap();
    assert_eq!(kept(&selection), ["chain_a", "core", "expr_b"]);
    assert_eq!(told(&selection, "chain_a").last().unwrap(), "core Request chain_a [t.toml:2, alias nft-chain-*]");
    assert_eq!(kept(&choose(&inventory, &with("other"), &[], &[]).unwrap()), ["other"]);
    inventory.modules.builtin.insert(name("builtin-core"));
    assert_eq!(kept(&choose(&inventory, &with("other"), &[], &[]).unwrap()), ["chain_a", "expr_b", "other"]);
}

#[test]
fn lines_that_keep_a_required_module_from_loading_are_told() {
    let inventory = kernel("boot:\nuser: dep\ndep:");
    let target = rules(
        "[[rule]]\nmodule = 'boot'\nrequired = true\nevidence = 'e'\n[[rule]]\nmodule = 'user'\nevidence = 'e'\n",
    );
    for line in ["install boot /bin/false", "blacklist boot"] {
        let selection = run(&inventory, &target, &modprobe(line), &SelectOptions::default());
        assert_eq!(
            selection.warnings,
            [format!("/etc/modprobe.d/x.conf:1: {line}: Kairos cannot boot without this module; take the line away")]
        );
    }
    assert!(
        run(&inventory, &target, &modprobe("blacklist dep\nblacklist user"), &SelectOptions::default())
            .warnings
            .is_empty()
    );
}

#[test]
fn an_empty_pattern_is_an_error_unless_allowed() {
    let inventory = kernel("a:");
    let error = choose(&inventory, &only("a"), &["nothing*"], &[]).unwrap_err().to_string();
    assert!(
        error.starts_with("--keep \"nothing*\" matches no module") && error.ends_with("--allow-empty goes on without")
    );
    let allowed = SelectOptions { allow_empty: true, ..options(&["nothing*"], &["none"]) };
    let selection = run(&inventory, &only("a"), &Wishes::default(), &allowed);
    assert_eq!((kept(&selection), selection.warnings.len()), (vec!["a"], 2));
}

fn why(
    selection: &Selection,
    inventory: &Inventory,
    target: &Target,
    item: &str,
) -> Result<Vec<Explanation>, SelectError> {
    let evidence =
        Evidence { inventory, declarations: &Declarations::new(), target, wishes: &Wishes::default(), selection };
    explain(&evidence, item, false)
}

#[test]
fn why_answers_by_name_path_and_alias() {
    let mut inventory = kernel("a: lib\nlib:\nidle-x: helper\nhelper:");
    inventory.modules.builtin.insert(name("core"));
    inventory.modules.aliases.push(("pci:v*d*".into(), name("idle-x")));
    inventory.modules.aliases.push(("pci:v0d*".into(), name("a")));
    let target = rules(
        "[[rule]]\nmodule = 'a'\nevidence = 'e'\n[[rule]]\npath = 'kernel/**'\nexcept = ['kernel/[hi]*']\nevidence = 'e'\n",
    );
    let selection = choose(&inventory, &target, &[], &[]).unwrap();
    let ask = |item: &str| why(&selection, &inventory, &target, item).unwrap();
    assert_eq!((ask("lib")[0].kept, ask("lib")[0].chain.len()), (true, 1));
    for item in ["idle-x", "idle_x", "kernel/idle-x.ko", "/usr/lib/modules/6.12/kernel/idle-x.ko.xz"] {
        let answer = &ask(item)[0];
        assert_eq!((answer.kept, answer.keep_with.as_deref()), (false, Some("--keep idle_x")), "{item}");
        assert_eq!(answer.notes, ["path kernel/** (t.toml:5) leaves it out by its exception kernel/[hi]*"]);
    }
    assert_eq!(ask("helper")[0].notes.last().unwrap(), "needed by idle_x, dropped as well");
    assert_eq!(ask("core")[0].reason, "built into the kernel");
    let by_alias: Vec<_> = ask("pci:v0d1").into_iter().map(|answer| (answer.item, answer.alias.unwrap())).collect();
    assert_eq!(by_alias, [("idle_x".into(), "pci:v0d1".into()), ("a".into(), "pci:v0d1".into())]);
    let error = why(&selection, &inventory, &target, "helperr").unwrap_err().to_string();
    assert!(error.ends_with("did you mean \"helper\"?"), "{error}");
}
