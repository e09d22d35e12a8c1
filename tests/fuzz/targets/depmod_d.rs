//! `depmod.d`: patterns of kernels among the words, and an order of files that is one.
#![no_main]

use kairos_init::drivers::inventory::depmod_d::Config;
use kairos_init::names::KernelRelease;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let text = String::from_utf8_lossy(bytes).into_owned();
    let release = KernelRelease::new("6.12.107+deb13-amd64").expect("a release");
    let config = Config::parse(&[("/etc/depmod.d/a.conf".to_owned(), text.clone())], &release);
    assert!(config.excludes(b"build") && config.excludes(b"source"));
    if let Some((file, directory)) = config.external() {
        assert!(file == "/etc/depmod.d/a.conf" && !directory.is_empty());
    }
    let files = ["kernel/drivers/a/x.ko.xz", "updates/x.ko", "extra/a/x.ko", "kernel/x.ko", "x.ko"];
    for a in files {
        for b in files {
            assert!(!(config.prefers(a, b) && config.prefers(b, a)), "{a} {b}");
        }
    }
    // Read in two files at the end of a line it is the same as in one.
    if let Some((first, second)) = text.split_once("\n\n").filter(|(first, _)| !first.contains('\\')) {
        let two = [first, second].map(|text| ("/etc/depmod.d/a.conf".to_owned(), text.to_owned()));
        assert_eq!(Config::parse(&two, &release), config);
    }
});
