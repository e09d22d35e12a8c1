//! What becomes of firmware.

use super::*;

/// `fw/a.bin` is a link to `fw/v2.bin`, and plain beats compressed.
fn firmware() -> Firmware {
    let file = FirmwareKind::File { bytes: 10 };
    let base = "usr/lib/firmware";
    let at = |name: &str| path(&format!("{base}/{name}"));
    Firmware {
        directories: vec![path(base)],
        entries: BTreeMap::from([
            (at("fw/a.bin"), FirmwareKind::Link { chain: vec![at("fw/v2.bin")] }),
            (at("fw/a.bin.xz"), file.clone()),
            (at("fw/v2.bin"), file.clone()),
            (at("fw/broken"), FirmwareKind::Dangling),
            (at("fw/config.txt"), file.clone()),
            (at("other/x.bin"), file.clone()),
            (at("intel-ucode/06-55-04"), file),
        ]),
        ..Firmware::default()
    }
}

#[test]
fn every_firmware_file_has_its_reason() {
    let mut inventory = kernel("fwuser:\nidle:");
    inventory.firmware = firmware();
    let target = rules(
        "[[rule]]\nmodule = 'fwuser'\nevidence = 'e'\n[[family]]\ndriver = 'fwuser'\nfiles = 'fw/*.txt'\nevidence = 'e'\n\
         [[family]]\ndriver = 'idle'\nfiles = 'other/*'\nevidence = 'e'\n",
    );
    let selection = choose(&inventory, &target, &[], &[]).unwrap();
    let reason = |name: &str| selection.firmware[&path(&format!("usr/lib/firmware/{name}"))].reason.clone();
    assert!(matches!(reason("fw/a.bin"), Reason::Kept(Link { edge: Edge::Firmware, .. })));
    assert!(matches!(reason("fw/config.txt"), Reason::Kept(Link { edge: Edge::Curated, .. })));
    assert_eq!(reason("fw/a.bin.xz"), Reason::Shadowed(path("usr/lib/firmware/fw/a.bin")));
    assert_eq!(reason("fw/broken"), Reason::Dangling);
    assert_eq!(reason("other/x.bin"), Reason::DriverDropped([name("idle")].into()));
    assert_eq!(reason("intel-ucode/06-55-04"), Reason::InUcode);
    let links = chain(&selection, ItemRef::Firmware(&path("usr/lib/firmware/fw/v2.bin")));
    let way: Vec<_> = links.iter().map(|link| link.from.as_str()).collect();
    assert_eq!(way, ["module fwuser", "fwuser", "/usr/lib/firmware/fw/a.bin"]);

    let dropped = choose(&inventory, &target, &["other/*"], &["fw/v2.bin"]).unwrap();
    let is_kept = |name: &str| dropped.firmware[&path(&format!("usr/lib/firmware/{name}"))].kept;
    assert!(is_kept("other/x.bin") && !is_kept("fw/v2.bin"));
    assert!(!is_kept("fw/a.bin"), "a link to what is dropped would dangle");
    assert!(selection.missing_firmware.is_empty());
}

#[test]
fn firmware_that_is_not_there_is_named_with_who_asks() {
    let selection = choose(&kernel("fwuser:"), &only("fwuser"), &[], &[]).unwrap();
    let missing: Vec<_> = selection.missing_firmware.iter().collect();
    assert_eq!(missing, [(&FirmwarePath::new("fw/a.bin").unwrap(), &vec![name("fwuser")])]);
}

/// A root with these firmware files, of 10 bytes each.
fn with_files(modules: &str, files: &[&str]) -> Inventory {
    let mut inventory = kernel(modules);
    let base = "usr/lib/firmware";
    inventory.firmware.directories = vec![path(base)];
    let at = |name: &&str| (path(&format!("{base}/{name}")), FirmwareKind::File { bytes: 10 });
    inventory.firmware.entries = files.iter().map(at).collect();
    inventory
}

fn declares(list: &[(&str, &[&str])]) -> Declarations {
    let firmware = |names: &[&str]| names.iter().map(|name| FirmwarePath::new(name).unwrap()).collect();
    let one = |(module, names): &(&str, &[&str])| {
        (name(module), Declared { firmware: firmware(names), ..Declared::default() })
    };
    list.iter().map(one).collect()
}

/// Names that stay.
fn staying(selection: &Selection) -> Vec<String> {
    let kept = selection.firmware.iter().filter(|(_, item)| item.kept);
    kept.map(|(path, _)| path.to_string().trim_start_matches("/usr/lib/firmware/").to_owned()).collect()
}

const FAMILY: &str = "[[rule]]\nmodule = 'wifi'\nevidence = 'e'\n[[family]]\ndriver = 'wifi'\nevidence = 'e'\n";

#[test]
fn of_versions_the_newest_that_the_driver_asks_for_stays() {
    let files = ["w-a-7.bin", "w-a-8.bin", "w-a-10.bin", "w-a-11.bin", "w-b-2.bin", "w-b-3.bin", "w-c-1.bin"];
    let inventory = with_files("wifi:", &files);
    let declared = declares(&[("wifi", &["w-a-10.bin", "w-a-8.bin", "w-d-5.bin"])]);
    let run = |asks: &str, versions: FirmwareVersions, drop: &[&str]| {
        let target = rules(&format!("{FAMILY}files = 'w-*-<version>.bin'\nasks = '{asks}'\n"));
        let options = SelectOptions { firmware_versions: versions, ..options(&[], drop) };
        select(&inventory, &declared, &target, &Wishes::default(), &options).unwrap()
    };
    let newest = |asks| staying(&run(asks, FirmwareVersions::Newest, &[]));
    let all = |asks| staying(&run(asks, FirmwareVersions::All, &[]));
    assert_eq!(newest("declared"), ["w-a-10.bin"]);
    assert_eq!(all("declared"), ["w-a-10.bin", "w-a-8.bin"]);
    // 11 is newer than what the driver knows; of b and c it declares nothing, so that all stay.
    assert_eq!(newest("older"), ["w-a-10.bin", "w-b-2.bin", "w-b-3.bin", "w-c-1.bin"]);
    assert_eq!(all("older"), ["w-a-10.bin", "w-a-7.bin", "w-a-8.bin", "w-b-2.bin", "w-b-3.bin", "w-c-1.bin"]);
    assert_eq!(newest("any"), ["w-a-11.bin", "w-b-3.bin", "w-c-1.bin"]);

    let selection = run("older", FirmwareVersions::Newest, &[]);
    let reason = |name: &str| selection.firmware[&path(&format!("usr/lib/firmware/{name}"))].reason.clone();
    assert_eq!(reason("w-a-8.bin"), Reason::OlderVersion(path("usr/lib/firmware/w-a-10.bin")));
    assert_eq!(reason("w-a-11.bin"), Reason::OtherVersion(name("wifi")));
    let missing: Vec<_> = selection.missing_firmware.keys().map(FirmwarePath::as_str).collect();
    assert_eq!(missing, ["w-d-5.bin"], "of a group of which nothing is there");
    // What --drop takes away makes room for the one before it.
    assert_eq!(staying(&run("declared", FirmwareVersions::Newest, &["w-a-10.bin"])), ["w-a-8.bin"]);
}

#[test]
fn firmware_that_is_not_kept_says_who_would_ask() {
    let inventory =
        with_files("wifi:\nidle:\nblocked:", &["a.bin", "b.bin", "c.bin", "d/e.bin", "mystery.bin", "nobody.bin"]);
    let declared = declares(&[("idle", &["a.bin"]), ("blocked", &["b.bin"]), ("wifi", &["gone.bin"])]);
    let target = rules(
        "[[rule]]\nmodule = ['blocked', 'wifi']\nevidence = 'e'\n[[family]]\ndriver = 'idle'\nfiles = 'c.*'\nevidence = 'e'\n\
         [[family]]\ndriver = 'nowhere'\nfiles = 'd/**'\nevidence = 'e'\n\
         [[unasked]]\nfiles = 'nobody.*'\nevidence = 'e'\n",
    );
    let mut wishes = Wishes::default();
    wishes.modprobe.add("blacklist blocked\n", "/etc/modprobe.d/b.conf");
    let run = |unknown_firmware| {
        let options = SelectOptions { unknown_firmware, ..SelectOptions::default() };
        select(&inventory, &declared, &target, &wishes, &options).unwrap()
    };
    let selection = run(UnknownFirmware::Drop);
    let reason = |name: &str| selection.firmware[&path(&format!("usr/lib/firmware/{name}"))].reason.clone();
    assert_eq!(reason("a.bin"), Reason::DriverDropped([name("idle")].into()));
    assert_eq!(reason("c.bin"), Reason::DriverDropped([name("idle")].into()));
    assert_eq!(reason("d/e.bin"), Reason::DriverAbsent(name("nowhere")));
    assert_eq!(
        reason("b.bin"),
        Reason::DriverBlacklisted(name("blocked"), "/etc/modprobe.d/b.conf:1: blacklist blocked".into())
    );
    assert_eq!(reason("nobody.bin"), Reason::Unasked("t.toml:13".into()));
    assert_eq!(reason("mystery.bin"), Reason::Unknown);
    assert!(selection.modules["blocked"].kept && staying(&selection).is_empty());
    let unknown: Vec<_> = selection.unknown_firmware.iter().map(ToString::to_string).collect();
    assert_eq!(unknown, ["/usr/lib/firmware/mystery.bin"]);
    let kept = run(UnknownFirmware::Keep);
    assert_eq!(staying(&kept), ["mystery.bin"]);
    assert_eq!(kept.unknown_firmware, selection.unknown_firmware);
}
