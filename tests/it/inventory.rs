//! The inventory of a real Debian root, and of roots that were damaged on purpose.
//!
//! `KAIROS_INIT_TEST_ROOT` names the real root; `tests/run.sh` makes it.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use kairos_init::drivers::inventory::modinfo::{read_modinfo, read_modinfo_fully};
use kairos_init::drivers::inventory::{
    Compression, FirmwareKind, Inventory, InventoryError, Module, declarations, load, microcode,
};
use kairos_init::names::{KernelRelease, ModuleName, TreePath};
use kairos_init::root::sysroot::Sysroot;
use rayon::prelude::*;

pub(crate) fn real_root() -> PathBuf {
    let root = std::env::var_os("KAIROS_INIT_TEST_ROOT")
        .map_or_else(|| PathBuf::from("/var/cache/kairos-init-tests/base"), PathBuf::from);
    assert!(root.join("usr/lib/modules").is_dir(), "there is no test root at {}: run tests/run.sh", root.display());
    root
}

fn real() -> (Sysroot, Inventory) {
    let root = Sysroot::open(&real_root()).unwrap();
    let inventory = load(&root, None).unwrap();
    (root, inventory)
}

/// What modinfo(8) says of a field of many files, as one sorted list.
fn modinfo_says(field: &str, files: &[PathBuf]) -> Vec<String> {
    let output = Command::new("modinfo").args(["-F", field]).args(files).output().expect("modinfo (kmod) is needed");
    assert!(output.status.success(), "modinfo: {}", String::from_utf8_lossy(&output.stderr));
    let mut lines: Vec<_> = String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

#[test]
fn a_real_root_has_its_kernel_modules_and_firmware() {
    let (root, inventory) = real();
    let directory = real_root().join("usr/lib/modules").join(inventory.kernel.release.as_str());
    let on_disk = Command::new("find").arg(&directory).args(["-name", "*.ko*", "-type", "f"]).output().unwrap();
    assert_eq!(inventory.modules.by_name.len(), String::from_utf8(on_disk.stdout).unwrap().lines().count());
    let image = inventory.kernel.image.as_ref().unwrap();
    assert_eq!(image.to_string(), format!("/boot/vmlinuz-{}", inventory.kernel.release));
    assert!(inventory.other_kernels.is_empty());
    for module in inventory.modules.by_name.values() {
        let file = real_root().join(module.path.as_path());
        assert_eq!(fs::metadata(file).unwrap().len(), module.bytes, "{}", module.path);
    }
    let fat = &inventory.modules.dependencies[&ModuleName::new("vfat").unwrap()];
    assert_eq!(fat, &[ModuleName::new("fat").unwrap()]);
    assert!(inventory.modules.builtin.contains(&ModuleName::new("fuse").unwrap()));
    assert!(inventory.modules.builtin_aliases.iter().any(|(alias, _)| alias == "fs-fuseblk"));
    assert!(inventory.modules.index_files.contains("modules.alias.bin"));
    assert!(root.file(image).is_ok());
}

#[test]
fn every_link_below_firmware_is_classified_as_the_system_resolves_it() {
    let (_, inventory) = real();
    let top = real_root().join("usr/lib/firmware");
    let found =
        Command::new("find").arg(&top).args(["!", "-type", "d", "-printf", "%P\\t%y\\t%Y\\n"]).output().unwrap();
    let mut seen = 0;
    for line in String::from_utf8(found.stdout).unwrap().lines() {
        let mut words = line.split('\t');
        let (name, kind, behind) = (words.next().unwrap(), words.next().unwrap(), words.next().unwrap());
        let path = TreePath::new(format!("usr/lib/firmware/{name}")).unwrap();
        let ours = match &inventory.firmware.entries[&path] {
            FirmwareKind::File { .. } => ("f", "f"),
            FirmwareKind::Link { chain } => {
                let last = real_root().join(chain.last().unwrap().as_path());
                assert_eq!(fs::canonicalize(top.join(name)).unwrap(), last);
                ("l", "f")
            }
            FirmwareKind::DirectoryLink { target, .. } => {
                assert_eq!(fs::canonicalize(top.join(name)).unwrap(), real_root().join(target.as_path()));
                ("l", "d")
            }
            FirmwareKind::Dangling => ("l", "N"),
        };
        assert_eq!(ours, (kind, behind), "{name}");
        seen += 1;
    }
    assert_eq!(seen, inventory.firmware.entries.len());
    assert!(seen > 1000, "the test root has the distribution's firmware");
}

/// The short cut through compressed modules against the whole file, on every module of the kernel.
#[test]
fn modinfo_is_the_same_by_the_short_cut_and_by_the_elf_headers() {
    let (root, inventory) = real();
    let modules: Vec<&Module> = inventory.modules.by_name.values().collect();
    let differ: Vec<_> = modules
        .par_iter()
        .filter(|module| read_modinfo(&root, module).unwrap() != read_modinfo_fully(&root, module).unwrap())
        .map(|module| &module.relative)
        .collect();
    assert_eq!(differ, Vec::<&String>::new());
}

#[test]
fn firmware_and_dependencies_are_what_modinfo_prints() {
    let (root, inventory) = real();
    let modules: Vec<&Module> = inventory.modules.by_name.values().step_by(7).collect();
    let files: Vec<PathBuf> = modules.iter().map(|module| real_root().join(module.path.as_path())).collect();
    let mut firmware: Vec<String> = Vec::new();
    let mut aliases: Vec<String> = Vec::new();
    for module in &modules {
        let info = read_modinfo(&root, module).unwrap();
        aliases.extend(info.aliases().map(|alias| alias.into_owned()));
        firmware.extend(info.values("firmware").map(|name| name.into_owned()));
        assert_eq!(info.name().as_ref(), Some(&module.name));
        assert!(info.vermagic().unwrap().starts_with(inventory.kernel.release.as_str()));
    }
    aliases.sort();
    firmware.sort();
    assert_eq!(aliases, modinfo_says("alias", &files));
    assert_eq!(firmware, modinfo_says("firmware", &files));
    assert!(firmware.len() > 50);
}

#[test]
fn declared_firmware_is_found_where_the_root_has_it() {
    let (root, inventory) = real();
    let (mut found, mut missing) = (0, 0);
    for declared in declarations(&root, inventory.modules.by_name.values()).unwrap().values() {
        for name in &declared.firmware {
            let matches = inventory.firmware.lookup(name);
            if !name.is_glob() {
                let exists = real_root().join("usr/lib/firmware").join(name.as_str()).is_file();
                assert_eq!(matches.len(), usize::from(exists), "{name}");
            }
            for one in matches {
                found += 1;
                for path in &one.keep {
                    assert!(fs::symlink_metadata(real_root().join(path.as_path())).is_ok(), "{path} of {name}");
                }
            }
            missing += usize::from(inventory.firmware.lookup(name).is_empty());
        }
    }
    assert!(found > 1000 && missing > 100, "found {found}, missing {missing}");
}

#[test]
fn microcode_is_the_files_put_together() {
    let root = Sysroot::open(&real_root()).unwrap();
    let found = microcode(&root).unwrap();
    for (vendor, bytes) in [("intel-ucode", &found.intel), ("amd-ucode", &found.amd)] {
        let mut files: Vec<_> = fs::read_dir(real_root().join("usr/lib/firmware").join(vendor))
            .unwrap_or_else(|_| panic!("the test root has {vendor}"))
            .map(|entry| entry.unwrap().path())
            .collect();
        files.sort();
        let expected: Vec<u8> = files.iter().flat_map(|file| fs::read(file).unwrap()).collect();
        assert!(!expected.is_empty() && *bytes == expected, "{vendor}");
    }
}

/// A root with one kernel of a few real modules, as `write` changes it.
struct Small {
    directory: tempfile::TempDir,
}

const RELEASE: &str = "6.1.0-1-test";
const MODULES: [&str; 3] = ["kernel/fs/fat/fat.ko", "kernel/fs/fat/vfat.ko", "kernel/drivers/net/veth.ko"];

impl Small {
    fn new() -> Self {
        let small = Self { directory: tempfile::tempdir().unwrap() };
        small.write("modules.dep", b"fat.ko.xz:\nvfat.ko.xz: fat.ko.xz\nveth.ko.xz:\n");
        let source = Sysroot::open(&real_root()).unwrap();
        let inventory = load(&source, None).unwrap();
        for path in MODULES {
            let name = ModuleName::from_file(path.as_bytes()).unwrap();
            let module = &inventory.modules.by_name[&name];
            assert_eq!(module.compression, Compression::Xz);
            let bytes = fs::read(real_root().join(module.path.as_path())).unwrap();
            small.write(&format!("{name}.ko.xz"), &bytes);
        }
        small
    }

    fn modules(&self) -> PathBuf {
        self.directory.path().join("lib/modules").join(RELEASE)
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        let path = self.modules().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    fn root(&self) -> Sysroot {
        Sysroot::open(self.directory.path()).unwrap()
    }

    fn load(&self) -> Result<Inventory, InventoryError> {
        load(&self.root(), None)
    }

    /// What reading one module's `.modinfo` says, by the short cut and in full.
    fn modinfo(&self, name: &str) -> [Result<Vec<String>, String>; 2] {
        let inventory = self.load().unwrap();
        let module = &inventory.modules.by_name[&ModuleName::new(name).unwrap()];
        [read_modinfo, read_modinfo_fully].map(|read| match read(&self.root(), module) {
            Ok(info) => Ok(info.depends().iter().map(ModuleName::to_string).collect()),
            Err(error) => Err(error.to_string()),
        })
    }
}

fn unpacked(file: &Path) -> Vec<u8> {
    let output = Command::new("xz").args(["-dc"]).arg(file).output().expect("xz is needed");
    assert!(output.status.success());
    output.stdout
}

fn piped(program: &str, arguments: &[&str], input: &[u8]) -> Vec<u8> {
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap_or_else(|_| panic!("{program} is needed"));
    let mut stdin = child.stdin.take().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(move || stdin.write_all(input).unwrap());
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success());
        output.stdout
    })
}

#[test]
fn every_form_of_compression_is_read() {
    let small = Small::new();
    let plain = unpacked(&small.modules().join("vfat.ko.xz"));
    for (suffix, bytes) in [
        ("", plain.clone()),
        (".gz", piped("gzip", &["-c"], &plain)),
        (".zst", piped("zstd", &["-qc"], &plain)),
        (".xz", piped("xz", &["-c", "--check=crc32", "--x86", "--lzma2=dict=1MiB"], &plain)),
    ] {
        fs::remove_file(small.modules().join("vfat.ko.xz")).ok();
        small.write(&format!("vfat.ko{suffix}"), &bytes);
        small.write("modules.dep", format!("fat.ko.xz:\nvfat.ko{suffix}: fat.ko.xz\nveth.ko.xz:\n").as_bytes());
        assert_eq!(small.modinfo("vfat"), [Ok(vec!["fat".to_owned()]), Ok(vec!["fat".to_owned()])], "{suffix}");
        fs::remove_file(small.modules().join(format!("vfat.ko{suffix}"))).unwrap();
    }
}

#[test]
fn damaged_modules_are_named() {
    let small = Small::new();
    let plain = unpacked(&small.modules().join("vfat.ko.xz"));
    let xz = fs::read(small.modules().join("vfat.ko.xz")).unwrap();
    let packed = |bytes: &[u8]| piped("xz", &["-0c"], bytes);
    // sh_offset of every section far behind the end; sh_size of 4 GiB; the section table behind the end.
    let changed = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = plain.clone();
        change(&mut bytes);
        bytes
    };
    let table = usize::try_from(u64::from_le_bytes(plain[0x28..0x30].try_into().unwrap())).unwrap();
    let sections = usize::from(u16::from_le_bytes(plain[0x3c..0x3e].try_into().unwrap()));
    let in_all = |offset: usize, value: u64| {
        changed(&|bytes| {
            for section in 1..sections {
                let at = table + section * 64 + offset;
                bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
            }
        })
    };
    let far_offsets = in_all(0x18, u64::MAX - 4);
    let far_table = changed(&|bytes| bytes[0x28..0x30].copy_from_slice(&u64::MAX.to_le_bytes()));
    let no_list = changed(&|bytes| {
        while let Some(at) = memchr::memmem::find(bytes, b".modinfo") {
            bytes[at + 1] = b'M';
        }
    });
    for (what, file, bytes) in [
        ("truncated", "vfat.ko.xz", xz[..xz.len() / 8].to_vec()),
        ("not xz", "vfat.ko.xz", b"hello".to_vec()),
        ("empty", "vfat.ko.xz", Vec::new()),
        ("not elf", "vfat.ko.xz", packed(b"hello")),
        ("truncated elf", "vfat.ko", plain[..plain.len() / 2].to_vec()),
        ("offsets out of the file", "vfat.ko", far_offsets),
        ("table out of the file", "vfat.ko", far_table),
        ("4 GiB", "vfat.ko", in_all(0x20, 4 << 30)),
        ("no .modinfo", "vfat.ko", no_list),
        ("a bomb", "vfat.ko.xz", packed(&vec![0; (256 << 20) + 1])),
    ] {
        fs::remove_file(small.modules().join("vfat.ko.xz")).ok();
        fs::remove_file(small.modules().join("vfat.ko")).ok();
        small.write(file, &bytes);
        small.write("modules.dep", format!("fat.ko.xz:\n{file}: fat.ko.xz\nveth.ko.xz:\n").as_bytes());
        for result in small.modinfo("vfat") {
            let message = result.expect_err(what);
            let start = format!("cannot read the module /lib/modules/{RELEASE}/{file}: ");
            assert!(message.starts_with(&start) && !message.contains('\n'), "{what}: {message}");
        }
    }
}

#[test]
fn what_the_index_says_is_held_against_the_tree() {
    let message = |small: &Small| small.load().unwrap_err().to_string();
    let small = Small::new();
    small.write("modules.dep", b"fat.ko.xz:\ngone.ko.xz:\n");
    assert_eq!(
        message(&small),
        "/lib/modules/6.1.0-1-test/modules.dep line 2: there is no module file gone.ko.xz: run 'depmod 6.1.0-1-test' inside the root"
    );
    small.write("modules.dep", b"fat.ko.xz:\nvfat.ko.xz: fat.ko.xz\n");
    assert_eq!(
        message(&small),
        "1 module files are not listed in /lib/modules/6.1.0-1-test/modules.dep (/lib/modules/6.1.0-1-test/veth.ko.xz is the first): run 'depmod 6.1.0-1-test' inside the root"
    );
    small.write("modules.dep", b"fat.ko.xz:\nfat.ko.xz:\n");
    assert!(message(&small).contains("line 2: a second file"));
    small.write("modules.dep", b"fat.ko.xz: ../../../etc/x.ko\n");
    assert!(
        message(&small).contains("modules.dep line 1: path \"../../../etc/x.ko\" has a '..' component"),
        "{}",
        message(&small)
    );
    fs::remove_file(small.modules().join("modules.dep")).unwrap();
    small.write("modules.order", b"fat.ko\n");
    assert!(message(&small).contains("modules.dep is missing in the root: run 'depmod 6.1.0-1-test' inside the root"));
}

#[test]
fn duplicates_and_links_are_modules_as_depmod_lists_them() {
    let small = Small::new();
    let bytes = fs::read(small.modules().join("veth.ko.xz")).unwrap();
    small.write("updates/veth.ko.xz", &bytes);
    fs::create_dir_all(small.directory.path().join("opt")).unwrap();
    fs::rename(small.modules().join("fat.ko.xz"), small.directory.path().join("opt/fat.ko.xz")).unwrap();
    fs::create_dir(small.modules().join("weak-updates")).unwrap();
    std::os::unix::fs::symlink("/opt/fat.ko.xz", small.modules().join("weak-updates/fat.ko.xz")).unwrap();
    small.write("modules.dep", b"weak-updates/fat.ko.xz:\nvfat.ko.xz: weak-updates/fat.ko.xz\nupdates/veth.ko.xz:\n");
    let inventory = small.load().unwrap();
    let fat = &inventory.modules.by_name[&ModuleName::new("fat").unwrap()];
    assert_eq!((fat.path.to_string().as_str(), fat.relative.as_str()), ("/opt/fat.ko.xz", "weak-updates/fat.ko.xz"));
    let shadowed: Vec<_> = inventory.modules.shadowed.iter().map(TreePath::to_string).collect();
    assert_eq!(shadowed, [format!("/lib/modules/{RELEASE}/veth.ko.xz")]);
}

#[test]
fn kernels_that_are_not_there_are_explained() {
    let small = Small::new();
    let other = KernelRelease::new("5.0").unwrap();
    let error = load(&small.root(), Some(&other)).unwrap_err().to_string();
    assert_eq!(error, format!("no kernel 5.0 in the root; there is {RELEASE}"));
    let empty = tempfile::tempdir().unwrap();
    let error = load(&Sysroot::open(empty.path()).unwrap(), None).unwrap_err().to_string();
    assert!(error.contains("install the distribution's kernel package"), "{error}");
    let newest: BTreeMap<KernelRelease, ()> =
        ["6.1.0-1-test", "6.1.0-10-test"].map(|r| (KernelRelease::new(r).unwrap(), ())).into();
    assert_eq!(newest.keys().next_back().unwrap().as_str(), "6.1.0-10-test");
}
