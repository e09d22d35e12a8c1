//! `plan` and `why` as their users run them: on Debian's root, and on small ones whose configuration asks for something.

use std::process::Output;

use serde_json::Value;

use crate::cli::{Case, program, refused, stderr};
use crate::roots;

fn on_base(arguments: &[&str]) -> Output {
    let mut command = program(arguments);
    command.arg("--root").arg(roots::base()).args(["--hardware", "x86-generic", "--quiet"]).output().unwrap()
}

fn text(output: &Output) -> String {
    assert!(output.status.success(), "{}", stderr(output));
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn json(output: &Output) -> Vec<Value> {
    text(output).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn why_tells_the_chain_from_a_rule() {
    let told = text(&on_base(&["why", "gnss", "amdtee", "kernel/drivers/nvme/host/nvme.ko", "fuse"]));
    for line in [
        "gnss: kept, /usr/lib/modules/",
        "  path kernel/drivers/net/ethernet/** keeps ice (kmod-db/network.toml:",
        "  ice depends on gnss (modules.dep)",
        "  amd_pmf has the soft dependency amdtee (modules.softdep)",
        "nvme: kept, ",
        "fuse: built in",
    ] {
        assert!(told.contains(line), "{line:?} is not in:\n{told}");
    }
    let answers = json(&on_base(&["why", "--json", "nvme_core", "rtl_nic/rtl8168h-2.fw"]));
    let [module, firmware] = answers.as_slice() else { panic!("{answers:?}") };
    assert_eq!(
        (&module["item"], &module["kind"], &module["kept"]),
        (&"nvme_core".into(), &"module".into(), &true.into())
    );
    assert!(module["chain"][0]["source"].as_str().unwrap().starts_with("kmod-db/"));
    assert_eq!(firmware["kind"], "firmware");
    let edges: Vec<_> =
        firmware["chain"].as_array().unwrap().iter().map(|link| link["edge"].as_str().unwrap()).collect();
    assert_eq!((edges[0], *edges.last().unwrap()), ("rule", "firmware"));
}

#[test]
fn why_tells_what_keeps_a_dropped_item() {
    let told = text(&on_base(&["why", "iwlwifi", "--drop", "nvme-tcp"]));
    assert!(told.starts_with("iwlwifi: dropped, ") && told.contains("  nothing in the target asks for it\n"), "{told}");
    assert!(told.contains("  to keep it: --keep iwlwifi (") && told.contains(" more, "), "{told}");
    let told = text(&on_base(&["why", "scsi_debug", "nvme-tcp", "--drop", "nvme-tcp"]));
    assert!(told.contains("leaves it out by its exception kernel/drivers/scsi/scsi_debug.ko"), "{told}");
    assert!(told.contains("to keep it: take --drop nvme-tcp away"), "{told}");
    // Intel's AX200, by the alias that its device has.
    let alias = "pci:v00008086d00002723sv00008086sd00000084bc02sc80i00";
    let answers = json(&on_base(&["why", "--json", alias]));
    assert_eq!((&answers[0]["item"], &answers[0]["alias"]), (&"iwlwifi".into(), &alias.into()));
    let firmware = json(&on_base(&["why", "--json", "--firmware", "amdgpu/navi10_ce.bin"]));
    assert_eq!((&firmware[0]["kept"], &firmware[0]["keep_with"]), (&false.into(), &"--keep amdgpu".into()));
    // Declared, and in no Debian package.
    let missing = text(&on_base(&["why", "--firmware", "3com/typhoon.bin"]));
    assert!(missing.contains("typhoon") && missing.contains("kept"), "{missing}");
}

#[test]
fn what_why_says_of_an_item_is_what_plan_does() {
    let plan = &json(&on_base(&["plan", "--json"]))[0];
    let items = |class: &str| plan[class]["items"].as_array().unwrap().clone();
    for class in ["modules", "firmware"] {
        let kept: Vec<_> = items(class).into_iter().filter(|item| item["kept"] == true).collect();
        let paths: Vec<_> = kept.iter().step_by(97).map(|item| item["path"].as_str().unwrap().to_owned()).collect();
        assert!(!paths.is_empty());
        let arguments: Vec<_> = ["why", "--json"].into_iter().chain(paths.iter().map(String::as_str)).collect();
        let answers = json(&on_base(&arguments));
        assert_eq!(answers.len(), paths.len());
        for (answer, path) in answers.iter().zip(&paths) {
            assert_eq!((&answer["path"], &answer["kept"]), (&path.as_str().into(), &true.into()));
            assert!(!answer["chain"].as_array().unwrap().is_empty(), "{path}");
        }
    }
    // Every kept byte counts for one rule.
    let sum = |key: &str| plan["rules"].as_array().unwrap().iter().map(|rule| rule[key].as_u64().unwrap()).sum::<u64>();
    assert_eq!(sum("modules"), plan["modules"]["kept"].as_u64().unwrap());
    assert_eq!(sum("module_bytes"), plan["modules"]["kept_bytes"].as_u64().unwrap());
    assert_eq!(sum("firmware_bytes"), plan["firmware"]["kept_bytes"].as_u64().unwrap());
    let text = text(&on_base(&["plan"]));
    for heading in ["kept by rule", "modules by directory", "firmware by directory", "firmware, why dropped"] {
        assert!(text.contains(heading), "{heading:?} is not in:\n{text}");
    }
}

#[test]
fn the_roots_own_configuration_is_heard() {
    let case = Case::new();
    let write = |path: &str, text: &str| {
        let path = case.root().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    write("etc/modules-load.d/sound.conf", "# speakers\nsnd\nnot-there\n");
    write("etc/modprobe.d/wifi.conf", "options iwlwifi power_save=1\ninstall loop /bin/true\n");
    let plan = || {
        let mut command = program(&["plan", "--json", "--hardware", "x86-generic", "--root"]);
        json(&command.arg(case.root()).output().unwrap()).remove(0)
    };
    let report = plan();
    let items = report["modules"]["items"].as_array().unwrap();
    let of = |name: &str| items.iter().find(|item| item["path"].as_str().unwrap().ends_with(name)).unwrap();
    assert_eq!(of("/snd.ko.xz")["reason"], "rule modules-load.d snd (/etc/modules-load.d/sound.conf:2)");
    assert_eq!(of("/iwlwifi.ko.xz")["kept"], false);
    let warnings: Vec<_> = report["warnings"].as_array().unwrap().iter().map(|w| w.as_str().unwrap()).collect();
    for part in [
        "/etc/modules-load.d/sound.conf:3: modules-load.d asks for not-there, which kernel",
        "/etc/modprobe.d/wifi.conf: 'options' names iwlwifi (line 1), which is dropped",
        "/etc/modprobe.d/wifi.conf:2: install loop /bin/true: Kairos cannot boot without this module",
    ] {
        assert!(warnings.iter().any(|warning| warning.contains(part)), "{part:?} is not in {warnings:#?}");
    }
}

#[test]
fn wrong_wishes_are_answered() {
    let case = Case::new();
    let hardware = case.dir.path().join("mine.toml");
    let file = hardware.to_str().unwrap();
    let refuses = |arguments: &[&str], words: &[&str]| {
        let mut command = program(arguments);
        command.args(["--quiet", "--root"]).arg(case.root());
        refused(&mut command, &case.root(), &case.out(), words);
    };
    let generic = ["--hardware", "x86-generic"];
    let with = |more: &[&'static str]| ["plan"].iter().chain(&generic).chain(more).copied().collect::<Vec<_>>();
    refuses(&with(&["--keep", "iwlwifi", "--drop", "iwlwifi"]), &["both match iwlwifi", "name it exactly"]);
    refuses(&with(&["--keep", "no-such-*"]), &["matches no module", "--allow-empty"]);
    refuses(&with(&["--drop", "efivarfs"]), &["which Kairos needs", "kmod-db/kairos.toml:"]);
    refuses(&["why", "nvmee"], &["did you mean \"nvme\"?"]);
    refuses(&["why", "--firmware", "nvme"], &["there is no firmware \"nvme\""]);
    for (toml, words) in [
        ("[[rule]]\nmodule = 'x'\nevidence = 'e'\n optinal = true\n", [":4:2: unknown field `optinal`", "`optional`"]),
        ("[[rule]]\nmodule = 'x\n", [":2:", "string"]),
        ("[[rule]]\nmodule = 3\nevidence = 'e'\n", [":2:10: ", "expected a string or a list of strings"]),
        ("extends = ['strage']\n", ["extends \"strage\"", "did you mean \"storage\"?"]),
    ] {
        std::fs::write(&hardware, toml).unwrap();
        refuses(&["plan", "--hardware", file], &words.map(|word| word));
    }
    let mut allowed = program(&with(&["--keep", "no-such-*", "--allow-empty"]));
    let output = allowed.arg("--root").arg(case.root()).output().unwrap();
    assert!(output.status.success() && stderr(&output).contains("warning: --keep \"no-such-*\" matches no module"));
}
