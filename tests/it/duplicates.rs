//! Several files of one module: the inventory against real depmod (kmod 34 of Debian 13), which runs inside the same small roots,
//! so that it reads their `depmod.d`.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use kairos_init::drivers::inventory::{Inventory, InventoryError, check_dependencies, declarations, load};
use kairos_init::root::sysroot::Sysroot;
use tempfile::TempDir;

use crate::roots;

const RELEASE: &str = "6.12.1-test";
const MODULES: [(&str, &str); 3] = [("fat", "fs/fat"), ("vfat", "fs/fat"), ("veth", "drivers/net")];
/// Where depmod's program and libraries are in the tools, and go in the small roots.
const PROGRAM: [&str; 7] = [
    "usr/bin/kmod",
    "usr/lib64/ld-linux-x86-64.so.2",
    "usr/lib/x86_64-linux-gnu/libc.so.6",
    "usr/lib/x86_64-linux-gnu/libcrypto.so.3",
    "usr/lib/x86_64-linux-gnu/liblzma.so.5",
    "usr/lib/x86_64-linux-gnu/libz.so.1",
    "usr/lib/x86_64-linux-gnu/libzstd.so.1",
];
/// Files of a configuration: path and text.
type Config = &'static [(&'static str, &'static str)];
const CONFIGS: [Config; 12] = [
    &[],
    &[("etc/depmod.d/dist.conf", "search updates extra built-in weak-updates\n")],
    &[("usr/lib/depmod.d/a.conf", "search extra built-in updates\nmake_map_files no\n")],
    &[("etc/depmod.d/a.conf", "search built-in updates\n")],
    &[("run/depmod.d/a.conf", "override fat * extra\noverride vfat * extra\noverride veth * extra\n")],
    &[(
        "etc/depmod.d/a.conf",
        "override fat ^6[.]1.* weak-updates\noverride vfat (5|6) weak-updates\noverride veth t$ weak-updates\nsearch updates built-in\n",
    )],
    &[("etc/depmod.d/a.conf", "exclude extra\n")],
    &[("usr/local/lib/depmod.d/a.conf", "exclude dkms\nexclude weak-updates updates2\n")],
    &[("usr/lib/depmod.d/a.conf", "exclude kernel\n"), ("etc/depmod.d/a.conf", "search weak-updates built-in\n")],
    &[
        ("usr/lib/depmod.d/b.conf", "search extra\n"),
        ("lib/depmod.d/a.conf", "search weak-updates \\\n updates built-in\n"),
    ],
    &[("lib/depmod.d/a.conf", "search updates/dkms updates extra\n")],
    &[
        ("etc/depmod.d/a.txt", "exclude kernel\n"),
        ("etc/depmod.d/.a.conf", "exclude kernel\n"),
        ("etc/depmod.d/a.conf", "search upd extr/ built-in\n"),
    ],
];
const PLACES: [&str; 6] = ["kernel", "updates", "updates/dkms", "updates2", "extra", "weak-updates"];

/// The programs and modules that all cases have, to be linked into them.
struct Store(TempDir);

impl Store {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        for file in PROGRAM {
            let target = directory.path().join(file);
            fs::create_dir_all(target.parent().unwrap()).unwrap();
            fs::copy(roots::tools().join(file), target).unwrap();
        }
        let kernel = fs::read_dir(roots::base().join("usr/lib/modules")).unwrap().next().unwrap().unwrap().path();
        for (name, below) in MODULES {
            let file = format!("{name}.ko.xz");
            fs::copy(kernel.join("kernel").join(below).join(&file), directory.path().join(file)).unwrap();
        }
        Self(directory)
    }

    fn root(&self) -> Root<'_> {
        let directory = tempfile::tempdir_in(self.0.path()).unwrap();
        let root = Root { store: self.0.path(), directory };
        for file in PROGRAM {
            root.link(&self.0.path().join(file), &root.path().join(file));
        }
        symlink("usr/lib64", root.path().join("lib64")).unwrap();
        symlink("usr/lib", root.path().join("lib")).unwrap();
        symlink("kmod", root.path().join("usr/bin/depmod")).unwrap();
        fs::create_dir_all(root.modules()).unwrap();
        root
    }
}

/// A root with a few modules, in which depmod can be run.
struct Root<'a> {
    store: &'a Path,
    directory: TempDir,
}

impl Root<'_> {
    fn path(&self) -> &Path {
        self.directory.path()
    }

    fn modules(&self) -> PathBuf {
        self.path().join("lib/modules").join(RELEASE)
    }

    fn link(&self, from: &Path, to: &Path) {
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::hard_link(from, to).unwrap();
    }

    fn add(&self, module: &str, directory: &str) {
        let file = format!("{module}.ko.xz");
        self.link(&self.store.join(&file), &self.modules().join(directory).join(&file));
    }

    fn write(&self, path: &str, content: &[u8]) {
        let path = self.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    fn depmod(&self) -> String {
        for file in ["order", "builtin", "builtin.modinfo"] {
            fs::write(self.modules().join(format!("modules.{file}")), b"").unwrap();
        }
        let output = Command::new("chroot").arg(self.path()).args(["/usr/bin/depmod", RELEASE]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        self.index()
    }

    fn index(&self) -> String {
        fs::read_to_string(self.modules().join("modules.dep")).unwrap()
    }

    fn load(&self) -> Result<Inventory, InventoryError> {
        load(&Sysroot::open(self.path()).unwrap(), None)
    }
}

/// SplitMix64.
fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mixed = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// Puts each module into some places. The files that are there, by path below the module directory.
fn fill(root: &Root<'_>, seed: u64) -> Vec<(&'static str, String)> {
    let mut state = seed;
    let mut out = Vec::new();
    for (module, below) in MODULES {
        let (mut places, file) = (random(&mut state) % 64, format!("{module}.ko.xz"));
        if places == 0 {
            places = 1;
        }
        let chosen = PLACES.iter().enumerate().filter(|(index, _)| places >> index & 1 == 1).map(|(_, place)| *place);
        for place in chosen {
            if place != "weak-updates" {
                let directory = if place == "kernel" { format!("kernel/{below}") } else { place.to_owned() };
                root.add(module, &directory);
                out.push((module, format!("{directory}/{file}")));
                continue;
            }
            // A link as RHEL and SUSE make them: to another kernel's module (here: anywhere), to this one's, to nothing.
            let target = match random(&mut state) % 3 {
                0 => {
                    root.link(&root.store.join(&file), &root.path().join("opt").join(&file));
                    format!("/opt/{file}")
                }
                1 => format!("../extra/{file}"),
                _ => format!("/opt/gone/{file}"),
            };
            fs::create_dir_all(root.modules().join(place)).unwrap();
            symlink(&target, root.modules().join(place).join(&file)).unwrap();
            let exists = target.starts_with("/opt") && !target.contains("gone")
                || target.starts_with("..") && out.contains(&(module, format!("extra/{file}")));
            if exists {
                out.push((module, format!("{place}/{file}")));
            }
        }
    }
    out
}

/// Whether a configuration says something of the first directory of a path.
fn is_named(config: Config, file: &str) -> bool {
    let first = |path: &str| path.split('/').next().unwrap().to_owned();
    let text: String = config.iter().map(|(_, text)| *text).collect();
    let lines = text.lines().filter(|line| !line.starts_with("exclude"));
    let words: BTreeSet<String> = lines.flat_map(|line| line.split_whitespace().map(first)).collect();
    words.contains(&first(file)) || !words.contains("search") && first(file) == "updates"
}

#[test]
fn of_several_files_of_a_module_the_one_is_expected_that_depmod_takes() {
    let store = Store::new();
    let (mut cases, mut refused, mut draws, mut excluded, mut shadowed) = (0, 0, 0, 0, 0);
    for (number, config) in (0..).zip(CONFIGS) {
        for seed in 0..12 {
            let root = store.root();
            config.iter().for_each(|(path, text)| root.write(path, text.as_bytes()));
            let files = fill(&root, number * 1000 + seed);
            let what = format!("{config:?} {files:?}");
            let index = root.depmod();
            let inventory = root.load().unwrap_or_else(|error| panic!("{what}: {error}\n{index}"));
            cases += 1;

            let listed: BTreeSet<&str> = index.lines().map(|line| line.split(':').next().unwrap()).collect();
            let ours = inventory.modules.by_name.values().map(|module| module.relative.as_str()).collect();
            assert_eq!(listed, ours, "{what}");

            // The other files in the index by hand.
            for (module, file) in &files {
                let winner = inventory.modules.by_name.values().find(|known| known.name.as_str() == *module);
                let Some(winner) = winner else {
                    excluded += 1;
                    continue;
                };
                if winner.relative == *file {
                    continue;
                }
                fs::write(root.modules().join("modules.dep"), index.replace(&winner.relative, file)).unwrap();
                let same = |path: &str| path.split('/').next().unwrap().to_owned();
                let draw = same(file) == same(&winner.relative)
                    || !is_named(config, file) && !is_named(config, &winner.relative);
                match root.load() {
                    Ok(_) => {
                        assert!(draw, "{file} instead of {} is wrong: {what}", winner.relative);
                        draws += 1;
                    }
                    Err(InventoryError::NotFirst { listed, better, .. }) => {
                        assert!(listed.to_string().ends_with(file.as_str()), "{what}");
                        assert!(files.iter().any(|(name, path)| name == module && better.to_string().ends_with(path)));
                        refused += 1;
                    }
                    Err(InventoryError::Excluded { .. }) => excluded += 1,
                    Err(error) => panic!("{error}: {what}"),
                }
            }
            // Without those that may go depmod finds the same.
            for path in &inventory.modules.shadowed {
                fs::remove_file(root.path().join(path.as_path())).unwrap();
                shadowed += 1;
            }
            let sorted = |index: &str| index.lines().map(str::to_owned).collect::<BTreeSet<_>>();
            assert_eq!(sorted(&root.depmod()), sorted(&index), "{what}");
            let inventory = root.load().unwrap();
            assert!(inventory.modules.shadowed.is_empty(), "{what}: {:?}", inventory.modules.shadowed);
        }
    }
    println!("{cases} cases, {refused} refused, {draws} draws, {excluded} excluded, {shadowed} shadowed");
    assert!(cases >= 60 && refused > 100 && draws > 10 && excluded > 10 && shadowed > 100);
}

#[test]
fn a_stale_choice_names_both_files() {
    let store = Store::new();
    let root = store.root();
    ["kernel", "updates"].iter().for_each(|place| root.add("veth", place));
    root.depmod();
    fs::write(root.modules().join("modules.dep"), "kernel/veth.ko.xz:\n").unwrap();
    let modules = format!("/usr/lib/modules/{RELEASE}");
    assert_eq!(
        root.load().unwrap_err().to_string(),
        format!(
            "{modules}/modules.dep names {modules}/kernel/veth.ko.xz as the module veth, but by depmod's search order {modules}/updates/veth.ko.xz comes first: the index is older than that file or than depmod.d; run 'depmod {RELEASE}' inside the root"
        )
    );
}

#[test]
fn a_link_is_a_module_and_what_it_leads_to_stays() {
    let store = Store::new();
    let root = store.root();
    root.add("fat", "kernel");
    fs::create_dir(root.modules().join("updates")).unwrap();
    symlink("../kernel/fat.ko.xz", root.modules().join("updates/fat.ko.xz")).unwrap();
    assert_eq!(root.depmod(), "updates/fat.ko.xz:\n");
    assert_eq!(root.load().unwrap().modules.shadowed, []);
    // One that no index names.
    fs::create_dir(root.modules().join("weak-updates")).unwrap();
    root.link(&root.store.join("veth.ko.xz"), &root.path().join("opt/veth.ko.xz"));
    symlink("/opt/veth.ko.xz", root.modules().join("weak-updates/veth.ko.xz")).unwrap();
    let error = root.load().unwrap_err().to_string();
    assert!(error.contains("1 module files are not listed") && error.contains("weak-updates/veth.ko.xz"), "{error}");
    // One that leads to nothing.
    fs::remove_file(root.path().join("opt/veth.ko.xz")).unwrap();
    assert_eq!(root.load().unwrap().modules.by_name.len(), 1);
}

#[test]
fn a_module_that_needs_more_than_its_line_says_is_refused() {
    let store = Store::new();
    let root = store.root();
    ["fat", "vfat"].iter().for_each(|module| root.add(module, "kernel"));
    let index = root.depmod();
    let check = || {
        let inventory = root.load().unwrap();
        let sysroot = Sysroot::open(root.path()).unwrap();
        let declared = declarations(&sysroot, inventory.modules.by_name.values()).unwrap();
        check_dependencies(&inventory.kernel, &inventory.modules, &declared).map_err(|error| error.to_string())
    };
    assert_eq!(check(), Ok(()));
    fs::write(root.modules().join("modules.dep"), index.replace(": kernel/fat.ko.xz", ":")).unwrap();
    assert_eq!(
        check().unwrap_err(),
        format!(
            "modules.dep is older than the module /usr/lib/modules/{RELEASE}/kernel/vfat.ko.xz: it does not say that this needs fat; run 'depmod {RELEASE}' inside the root"
        )
    );
    root.write(&format!("lib/modules/{RELEASE}/modules.builtin"), b"kernel/fs/fat/fat.ko\n");
    assert_eq!(check(), Ok(()), "what is built in needs no file");
}

#[test]
fn hostile_lines_do_no_harm() {
    let store = Store::new();
    let root = store.root();
    ["kernel", "updates", "extra"].iter().for_each(|place| root.add("veth", place));
    let many = format!("search {}\n", "a/b ".repeat(100_000));
    let deep = format!("override veth {}x{} extra\n", "(".repeat(50_000), ")".repeat(50_000));
    let lines: [&[u8]; 14] = [
        b"search\n",
        b"search ../../../etc / // . .. ~ \xff\xfe\n",
        b"override\noverride veth\noverride veth *\noverride veth [ extra\noverride veth *? extra\n",
        b"override veth ((((.{9,999}){9,999}){9,999}){9,999}) extra\n",
        b"override ../veth * kernel\noverride veth * ../../extra\n",
        b"exclude\nexclude . .. ../kernel / kernel/ veth\n",
        b"external\nexternal *\nexternal [ /opt\nexternal * /nothing/there\n",
        b"include /etc/shadow\nmake_map_files yes no\nunknown words\n",
        b"\0\0\0search extra\n\0",
        b"search extra\r\n\r\n",
        b"\\",
        b"\\\n\\\n\\\n#\\\nsearch extra\n",
        many.as_bytes(),
        deep.as_bytes(),
    ];
    for line in lines {
        root.write("etc/depmod.d/a.conf", line);
        let what = String::from_utf8_lossy(line.get(..60).unwrap_or(line)).into_owned();
        // depmod itself does not survive the expressions that grow without end.
        let grows = line.len() > 50_000 || line.windows(7).any(|part| part == b"{9,999}");
        let index = if grows { root.index() } else { root.depmod() };
        let inventory = root.load().unwrap_or_else(|error| panic!("{what:?}: {error}\n{index}"));
        assert_eq!(inventory.modules.by_name.len(), 1, "{what:?}");
    }
    root.write("etc/depmod.d/a.conf", &vec![b'#'; (1 << 20) + 1]);
    let error = root.load().unwrap_err().to_string();
    assert!(error.contains("/etc/depmod.d/a.conf"), "{error}");

    root.link(&root.store.join("fat.ko.xz"), &root.path().join("opt/fat.ko.xz"));
    root.write("etc/depmod.d/a.conf", b"external * /opt\n");
    assert!(root.depmod().contains("/opt/fat.ko.xz:"));
    let error = root.load().unwrap_err().to_string();
    assert!(error.contains("by 'external /opt' in /etc/depmod.d/a.conf: move it"), "{error}");

    // Directory links that lead around.
    root.write("etc/depmod.d/a.conf", b"");
    fs::remove_file(root.path().join("opt/fat.ko.xz")).unwrap();
    fs::write(root.modules().join("modules.dep"), "updates/veth.ko.xz:\n").unwrap();
    for (target, name) in [(".", "a"), ("..", "b"), ("/", "c"), ("/opt", "d"), ("/opt", "e"), ("f", "f")] {
        symlink(target, root.modules().join(name)).unwrap();
    }
    symlink("/opt", root.path().join("opt/again")).unwrap();
    assert_eq!(root.load().unwrap().modules.shadowed.len(), 2);
}
