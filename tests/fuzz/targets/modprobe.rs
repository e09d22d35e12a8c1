//! The root's own wishes: `modprobe.d`, `modules-load.d`, `/etc/modules`, dracut's configuration, `fstab`, mount units.
#![no_main]

use kairos_init::drivers::wishes::{Modprobe, Wanted, Wish, lists, modprobe, mounts};
use kairos_init::names::ModuleName;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let text = String::from_utf8_lossy(bytes);
    let lines = text.lines().count();
    let number = |line: usize| assert!((1..=lines).contains(&line), "line {line} of {lines}");
    let wishes = [
        lists::modules_load(&text, "f"),
        lists::modules(&text, "f", "by"),
        lists::dracut(&text, "f"),
        mounts::fstab(&text, "f"),
        mounts::unit(&text, "f"),
    ];
    for Wish { wanted, source, .. } in wishes.iter().flatten() {
        number(source.line);
        let (Wanted::Module(name) | Wanted::Filesystem(name) | Wanted::Directory(name)) = wanted;
        assert!(!name.contains('\n'), "{name:?} is on two lines");
    }
    let mut all = Modprobe::default();
    all.add(&text, "f");
    let module = ModuleName::new("snd_hda_intel").expect("a module's name");
    let places = all.aliases.iter().map(|d| (&d.module, &d.source));
    let places = places.chain(all.soft.iter().map(|d| (&d.module, &d.source)));
    let places = places.chain(all.weak.iter().map(|d| (&d.module, &d.source)));
    let places = places.chain(all.install.iter().map(|d| (&d.module, &d.source)));
    let places = places.chain(all.options.iter().map(|d| (&d.module, &d.source)));
    let places = places.chain(all.blacklist.iter().map(|d| (&d.module, &d.source)));
    for (name, source) in places {
        number(source.line);
        assert!(!name.is_empty() && !name.contains(['-', ' ', '\t', '\n']), "{name:?} is no module's name");
        let _ = modprobe::names(name, &module);
    }
    for targets in all.soft.iter().map(|d| d.value.len()).chain(all.weak.iter().map(|d| d.value.len())) {
        assert!(targets <= text.len());
    }
    for install in &all.install {
        let _ = install.disables();
        for loaded in install.loads() {
            assert!(loaded.replace('-', "_") != install.module, "a module loads itself");
        }
    }
});
