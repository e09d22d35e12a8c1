//! systemd's own reader of entries (`bootctl list` of Debian 13): what is in the menu, in which order, and what boots by default.

use std::process::Command;

use kairos_init::image::Files;
use kairos_init::image::esp::installed;
use serde_json::Value;

use super::{bytes, made, newest, path, write_tree};
use crate::roots;

/// The ids of the entries, in the menu's order, and the default one.
fn bootctl(files: &Files) -> (Vec<String>, Option<String>) {
    let entries = list(files).0;
    let id = |entry: &Value| entry["id"].as_str().unwrap().to_owned();
    let default = entries.iter().find(|entry| entry["isDefault"] == true).map(id);
    (entries.iter().map(id).collect(), default)
}

/// All that it says.
fn list(files: &Files) -> (Vec<Value>, String) {
    let folder = tempfile::tempdir().unwrap();
    write_tree(files, folder.path());
    let tools = roots::tools();
    let library = tools.join("usr/lib/x86_64-linux-gnu");
    // It wants the root of a file system.
    let script = "mount --bind \"$1\" \"$1\" && exec \"$2\" --library-path \"$3:$3/systemd\" \"$4\" --esp-path=\"$1\" list --json=short --no-pager";
    let output = Command::new("unshare")
        .args(["--mount", "sh", "-ec", script, "sh"])
        .arg(folder.path())
        .arg(tools.join("usr/lib64/ld-linux-x86-64.so.2"))
        .arg(library)
        .arg(tools.join("usr/bin/bootctl"))
        .env("SYSTEMD_RELAX_ESP_CHECKS", "1")
        .output()
        .unwrap();
    let problem = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "bootctl list: {problem}");
    let text = String::from_utf8(output.stdout).unwrap();
    (serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}")), problem)
}

#[test]
fn bootctl_shows_all_entries_and_the_default_is_ours() {
    let (ids, default) = bootctl(&made(&roots::base_loader(), &["a=b"], &["Zed: x"]).files);
    assert_eq!(ids, ["norole.conf", "norole_install-mode_a_b.conf", "zed.conf"]);
    assert_eq!(default.as_deref(), Some("norole.conf"));
    // The reason for keys by version: a reader of 257 finds a program in its own entries, and none in those for newer ones.
    let (entries, problem) = list(&made(&roots::base_loader(), &["a=b"], &[]).files);
    assert!(
        entries.iter().all(|entry| entry["efi"].as_str().is_some_and(|path| path.starts_with("/EFI/kairos/norole")))
    );
    assert!(!problem.contains("Unknown line"), "{problem}");
    let (entries, problem) = list(&made(&newest().1, &["a=b"], &[]).files);
    assert!(entries.len() == 2 && entries.iter().all(|entry| entry["efi"].is_null()), "{entries:?}");
    assert!(problem.contains("Unknown line 'uki'") && problem.contains("Unknown line 'profile'"), "{problem}");
}

#[test]
fn an_installed_disk_boots_active_whatever_else_there_is() {
    let made = made(&roots::base_loader(), &["a=b", "interactive-install"], &["Interactive setup: x", "Zed: y"]);
    assert!(made.warnings.is_empty());
    let disk = installed(&made.files).unwrap();
    let order = |role: &str| {
        [
            role.to_owned() + ".conf",
            format!("{role}_install-mode_interactive-install.conf"),
            format!("{role}_install-mode_a_b.conf"),
        ]
    };
    let mut expected: Vec<String> =
        ["active", "passive", "recovery", "statereset"].iter().flat_map(|role| order(role)).collect();
    expected.extend(["zed.conf", "interactive_setup.conf"].map(str::to_owned));
    assert_eq!(bootctl(&disk), (expected.clone(), Some("active.conf".to_owned())));

    // As after a boot that went well: the counter of the active entry is gone.
    let mut blessed = disk.clone();
    rename(&mut blessed, "active+3.conf", "active.conf");
    assert_eq!(bootctl(&blessed), (expected.clone(), Some("active.conf".to_owned())));

    // As after three that did not: passive is next, once nothing of active is left.
    let mut failed = disk.clone();
    for name in ["active", "active_install-mode_a_b", "active_install-mode_interactive-install"] {
        rename(&mut failed, &format!("{name}+3.conf"), &format!("{name}+0-3.conf"));
    }
    let (ids, default) = bootctl(&failed);
    assert_eq!((ids[0].as_str(), default.as_deref()), ("passive.conf", Some("passive.conf")));

    // And with the agent's own sort keys another entry would boot: why ours are not those.
    let mut agents = blessed;
    for name in ["interactive_setup+3.conf", "active_install-mode_a_b+3.conf"] {
        let entry = path(&format!("loader/entries/{name}"));
        let Some(kairos_init::image::Node::File { content, .. }) = agents.get(&entry) else { panic!("{name}") };
        let text = String::from_utf8(content.read(4096).unwrap()).unwrap();
        let text = text.replace("sort-key 0010\n", "sort-key 0001\n").replace("sort-key 0001-1\n", "sort-key 0001\n");
        agents.insert(entry, kairos_init::image::Node::plain(bytes(text))).unwrap();
    }
    let (ids, default) = bootctl(&agents);
    assert_eq!(default.as_deref(), Some("interactive_setup.conf"));
    assert_eq!(ids[..3], ["interactive_setup.conf", "active_install-mode_a_b.conf", "active.conf"]);
}

fn rename(files: &mut Files, from: &str, to: &str) {
    let node = files.remove(&path(&format!("loader/entries/{from}"))).unwrap();
    files.insert(path(&format!("loader/entries/{to}")), node).unwrap();
}
