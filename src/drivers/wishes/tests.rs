use super::*;
use crate::drivers::inventory::SoftKind;
use crate::names::ModuleName;

fn wanted(wishes: &[Wish]) -> Vec<(Wanted, usize)> {
    wishes.iter().map(|wish| (wish.wanted.clone(), wish.source.line)).collect()
}

fn module(name: &str) -> Wanted {
    Wanted::Module(name.to_owned())
}

fn filesystem(name: &str) -> Wanted {
    Wanted::Filesystem(name.to_owned())
}

#[test]
fn modprobe_directives_are_read_as_kmod_reads_them() {
    let mut modprobe = Modprobe::default();
    let text = "# comment\nalias net-pf-* my-mod\nalias x off\n\nblacklist nouveau\nsoftdep i915 pre: a b \\\n  post: c\n\
        weakdep lan78xx microchip\ninstall sctp /bin/false\noptions snd-pcsp index=-2\nremove x y\nblacklist\n  options  y\tz\n";
    modprobe.add(text, "/etc/modprobe.d/a.conf");
    assert_eq!((modprobe.aliases[0].module.as_str(), modprobe.aliases[0].value.as_str()), ("my_mod", "net-pf-*"));
    assert_eq!(modprobe.aliases.len(), 1);
    assert_eq!(modprobe.blacklist.len(), 1);
    assert_eq!(modprobe.blacklist[0].source.to_string(), "/etc/modprobe.d/a.conf:5");
    let soft = [(SoftKind::Pre, "a"), (SoftKind::Pre, "b"), (SoftKind::Post, "c")].map(|(k, n)| (k, n.to_owned()));
    assert_eq!(modprobe.soft[0].value, soft);
    assert_eq!((modprobe.weak[0].value[0].as_str(), modprobe.weak[0].source.line), ("microchip", 8));
    assert!(modprobe.install[0].disables() && modprobe.install[0].loads().is_empty());
    let options: Vec<_> = modprobe.options.iter().map(|o| (o.module.as_str(), o.source.line)).collect();
    assert_eq!(options, [("snd_pcsp", 10), ("y", 13)]);
    let name = ModuleName::new("nf-x").unwrap();
    assert!(modprobe::names("nf_*", &name) && !modprobe::names("nf", &name));
}

#[test]
fn install_commands_load_modules() {
    let mut modprobe = Modprobe::default();
    modprobe.add(
        "install a-b /sbin/modprobe --ignore-install a_b && { modprobe -q c-d opt=1 >/dev/null; modprobe -a e f; }\n",
        "x",
    );
    assert!(!modprobe.install[0].disables());
    assert_eq!(modprobe.install[0].loads(), ["c-d", "e", "f"]);
}

#[test]
fn lists_of_modules() {
    assert_eq!(
        wanted(&lists::modules_load("# c\n; c\n br_netfilter \n\nfs-xfs\n", "x")),
        [(module("br_netfilter"), 3), (module("fs-xfs"), 5)]
    );
    assert_eq!(wanted(&lists::modules("loop max_loop=8 # why\n#x\n", "x", "y")), [(module("loop"), 1)]);
    let text = "# add_drivers+=\" no \"\nadd_drivers+=\" nvme =drivers/hid\n  vmd.ko \"\nforce_drivers=xen-blkfront other\n\
        filesystems+=' xfs '\nadd_drivers+=\" $more \"\nomit_drivers+=\" x \"\n";
    assert_eq!(
        wanted(&lists::dracut(text, "x")),
        [
            (module("nvme"), 2),
            (Wanted::Directory("drivers/hid".into()), 2),
            (module("vmd"), 3),
            (module("xen-blkfront"), 4),
            (filesystem("xfs"), 5),
        ]
    );
    assert!(lists::dracut("add_drivers+=\" open", "x").len() == 1);
}

#[test]
fn mounted_file_systems() {
    let fstab = "# <fs> <dir> <type>\n/dev/a / ext4,xfs defaults 0 1\n/dev/b none swap sw\nx /m fuse.sshfs\n/a /b none bind\n\n";
    assert_eq!(
        wanted(&mounts::fstab(fstab, "x")),
        [(filesystem("ext4"), 2), (filesystem("xfs"), 2), (filesystem("fuse"), 4)]
    );
    let unit = "[Unit]\nAfter=modprobe@fuse.service x.service\n[Mount]\nType=fusectl\nWhat=x\n";
    assert_eq!(wanted(&mounts::unit(unit, "x")), [(module("fuse"), 2), (filesystem("fusectl"), 4)]);
}

#[test]
fn the_first_directory_wins_and_masks_are_honoured() -> Result<(), Box<dyn std::error::Error>> {
    let dir = tempfile::tempdir()?;
    let write = |path: &str, text: &str| {
        let path = dir.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap())?;
        std::fs::write(path, text)
    };
    write("etc/modprobe.d/b.conf", "blacklist etc\n")?;
    write("usr/lib/modprobe.d/b.conf", "blacklist usr\n")?;
    write("usr/lib/modprobe.d/a.conf", "blacklist first\n")?;
    write("usr/lib/modprobe.d/masked.conf", "blacklist masked\n")?;
    write("usr/lib/modprobe.d/ignored", "blacklist ignored\n")?;
    std::os::unix::fs::symlink("/dev/null", dir.path().join("etc/modprobe.d/masked.conf"))?;
    std::os::unix::fs::symlink("usr/lib", dir.path().join("lib"))?;
    write("etc/modules", "bonding\n")?;
    write("usr/lib/systemd/system/sys-x.mount", "[Mount]\nType=configfs\n")?;
    let wishes = Wishes::load(&Sysroot::open(dir.path())?)?;
    let blacklist: Vec<_> = wishes.modprobe.blacklist.iter().map(|b| b.module.as_str()).collect();
    assert_eq!(blacklist, ["first", "etc"]);
    assert_eq!(wanted(&wishes.wishes), [(module("bonding"), 1), (filesystem("configfs"), 2)]);
    assert_eq!(Wishes::load(&Sysroot::open(tempfile::tempdir()?.path())?)?, Wishes::default());
    Ok(())
}
