//! `uki build` beside ukify and systemd-measure over a matrix of inputs, and what only one of them can.

use std::collections::BTreeMap;
use std::fs;
use std::io::Cursor;
use std::path::PathBuf;
use std::process::{Command, Output};

use kairos_init::boot::uki::pe::PeHeaders;
use serde_json::Value;
use tempfile::TempDir;

use crate::roots;

/// A folder inside the root of tools with all inputs; what both programs write lies beside them.
struct Case {
    folder: TempDir,
}

impl Case {
    fn new() -> Self {
        let folder = roots::tools_folder();
        for (name, from) in inputs() {
            fs::write(folder.path().join(name), from).unwrap();
        }
        fs::create_dir(folder.path().join("hwids")).unwrap();
        let computer = |name: &str, ids: &[&str]| {
            serde_json::json!({"type": "devicetree", "name": name, "compatible": format!("vendor,{name}"), "hwids": ids}).to_string()
        };
        let ids = ["7a1e2b3c-0011-2233-4455-66778899aabb", "0b1e2b3c-0011-2233-4455-66778899aabb"];
        fs::write(folder.path().join("hwids/b.json"), computer("board-b", &ids)).unwrap();
        fs::write(folder.path().join("hwids/a.json"), computer("board-a", &ids[..1])).unwrap();
        // What was mended in ukify later: it ended SBAT with a NUL, which is against SBAT's format (systemd#33731), and which
        // changes PCR 11 and so all policies.
        let ukify = fs::read_to_string(roots::tools().join("usr/bin/ukify")).unwrap();
        let mended = ukify.replace("+ '\\n\\x00'", "+ '\\n'");
        assert_ne!(ukify, mended, "ukify ends SBAT with a NUL no more: drop this");
        fs::write(folder.path().join("ukify"), mended).unwrap();
        Self { folder }
    }

    fn with_keys() -> Self {
        let case = Self::new();
        let script = "openssl genrsa -out pcr.key 2048 2>/dev/null; openssl pkey -in pcr.key -pubout -out pcr.pub
            openssl genrsa -out pcr2.key 3072 2>/dev/null; openssl pkey -in pcr2.key -pubout -out pcr2.pub";
        let made = Command::new("sh").args(["-ec", script]).current_dir(case.folder.path()).output().unwrap();
        assert!(made.status.success(), "{made:?}");
        case
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn inside(&self, name: &str) -> String {
        roots::inside_tools(&self.folder, name)
    }

    /// Options in which `{NAME}` stands for a file: for both programs.
    fn options(&self, options: &[&str], inside: bool) -> Vec<String> {
        let one = |option: &&str| match option.split_once('{') {
            Some((head, rest)) => {
                let (name, tail) = rest.split_once('}').unwrap();
                let file = if inside { self.inside(name) } else { self.path(name).display().to_string() };
                format!("{head}{file}{tail}")
            }
            None => (*option).to_owned(),
        };
        options.iter().map(one).collect()
    }

    /// What ukify makes of these options.
    fn ukify(&self, options: &[&str], output: &str) -> Vec<u8> {
        let mut command = Command::new("chroot");
        command.arg(roots::tools()).args(["python3", &self.inside("ukify"), "build", "--stub", &self.inside("stub")]);
        let done = command.args(self.options(options, true)).arg("--output").arg(self.inside(output)).output().unwrap();
        assert!(done.status.success(), "{}", stderr(&done));
        fs::read(self.path(output)).unwrap()
    }

    fn ours(&self, options: &[&str], output: &str) -> Output {
        let mut command = program(&["uki", "build", "--stub"]);
        command.arg(self.path("stub")).args(self.options(options, false)).arg("--output").arg(self.path(output));
        command.output().unwrap()
    }

    fn built(&self, options: &[&str], output: &str) -> Vec<u8> {
        let done = self.ours(options, output);
        assert!(done.status.success(), "{}", stderr(&done));
        fs::read(self.path(output)).unwrap()
    }
}

fn program(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kairos-init"));
    command.args(arguments);
    command
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn inputs() -> Vec<(&'static str, Vec<u8>)> {
    let noise = |seed: u32, length: usize| -> Vec<u8> {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state.to_be_bytes()[0]
        };
        (0..length).map(|_| next()).collect()
    };
    let efi = roots::base().join("usr/lib/systemd/boot/efi");
    vec![
        ("stub", roots::stub()),
        ("addon.stub", fs::read(efi.join("addonx64.efi.stub")).unwrap()),
        ("linux", roots::kernel()),
        ("initrd1", noise(1, 500_001)),
        ("initrd2", noise(2, 10)),
        ("ucode", noise(3, 1_000)),
        ("tree", noise(4, 777)),
        ("tree1", noise(5, 700)),
        ("tree2", noise(6, 701)),
        ("note", b"a note\n".to_vec()),
        ("sbom", b"{}".to_vec()),
        ("osrel", b"ID=test\nNAME=Test\n".to_vec()),
        ("splash.bmp", bitmap(40, 30, 24)),
    ]
}

fn bitmap(width: u32, height: u32, depth: u16) -> Vec<u8> {
    let row = (u32::from(depth) * width).div_ceil(32) * 4;
    let size = 54 + row * height;
    let mut out = b"BM".to_vec();
    for word in [size, 0, 54, 40, width, height] {
        out.extend(word.to_le_bytes());
    }
    out.extend([1, 0]);
    out.extend(depth.to_le_bytes());
    out.extend([0; 24]);
    out.resize(size as usize, 0x55);
    out
}

/// Sections in file order: name, content; and the fields of the headers that the specification fixes.
type Image = (Vec<(String, Vec<u8>)>, Vec<(String, u32, u32, u32, u32, u32)>, Vec<u64>);

fn image(file: &[u8]) -> Image {
    let pe = PeHeaders::read(&mut Cursor::new(file), "a UKI").unwrap();
    let (mut contents, mut table) = (Vec::new(), Vec::new());
    for section in &pe.sections {
        let start = section.raw_offset as usize;
        let content = file[start..start + section.content_size() as usize].to_vec();
        table.push((
            section.name(),
            u32::try_from(content.len()).unwrap(),
            section.virtual_address,
            section.raw_size,
            section.raw_offset,
            section.characteristics,
        ));
        contents.push((section.name(), content));
    }
    let fields = [
        u64::from(pe.entry_point),
        u64::from(pe.size_of_image),
        u64::from(pe.dll_characteristics),
        u64::from(pe.machine),
        pe.sections.len() as u64,
    ];
    (contents, table, fields.to_vec())
}

/// The same sections in the same order with the same content and headers; ukify's policies are among ours, in order.
fn same(case: &Case, options: &[&str]) {
    let theirs = image(&case.ukify(options, "theirs.efi"));
    let ours = image(&case.built(options, "ours.efi"));
    let names = |image: &Image| image.0.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&ours), names(&theirs), "{options:?}");
    for ((name, our), (_, their)) in ours.0.iter().zip(&theirs.0) {
        if name == ".pcrsig" {
            same_policies(our, their);
        } else {
            assert!(our == their, "{name} differs: {options:?}");
        }
    }
    // Where .pcrsig is longer, what comes after it lies elsewhere: only its own header and those before it can be equal.
    let until = ours.1.iter().position(|(name, ..)| name == ".pcrsig").unwrap_or(ours.1.len());
    assert_eq!(ours.1[..until], theirs.1[..until], "{options:?}");
    match until == ours.1.len() {
        true => assert_eq!(ours.2, theirs.2, "{options:?}"),
        false => assert_eq!((ours.2[0], &ours.2[2..]), (theirs.2[0], &theirs.2[2..]), "{options:?}"),
    }
}

fn same_policies(ours: &[u8], theirs: &[u8]) {
    let parse = |bytes: &[u8]| serde_json::from_slice::<BTreeMap<String, Vec<Value>>>(bytes).unwrap();
    let (ours, theirs) = (parse(ours), parse(theirs));
    assert!(!theirs.is_empty() && theirs.values().all(|list| !list.is_empty()));
    for (bank, list) in &theirs {
        let mut own = ours[bank].iter();
        for entry in list {
            let same = own.by_ref().find(|our| our["pol"] == entry["pol"] && our["pkfp"] == entry["pkfp"]);
            let same = same.unwrap_or_else(|| panic!("{bank}: {entry} is not in ours, or elsewhere"));
            // The signatures of the other banks are made with the bank's hash there, which no verifier takes.
            if bank == "sha256" {
                assert_eq!(same["sig"], entry["sig"]);
            }
        }
    }
}

const BASE: [&str; 4] =
    ["--linux={linux}", "--initrd={initrd1}", "--cmdline=console=ttyS0  quiet\n", "--os-release=@{osrel}"];

fn with(more: &[&'static str]) -> Vec<&'static str> {
    BASE.iter().copied().chain(more.iter().copied()).collect()
}

#[test]
fn ukify_makes_the_same_of_each_input() {
    let case = Case::with_keys();
    let banks = "--pcr-banks=sha1,sha256,sha384,sha512";
    for more in [
        &[][..],
        &["--initrd={initrd2}", "--initrd={initrd1}"],
        &["--microcode={ucode}", "--splash={splash.bmp}", "--uname=6.1.2-three"],
        &["--devicetree={tree}", "--devicetree-auto={tree1}", "--devicetree-auto={tree2}", "--hwids={hwids}"],
        &["--section=.note:@{note}", "--section=.mine:some text"],
        &["--pcr-private-key={pcr.key}", "--pcr-public-key={pcr.pub}", banks],
        &["--pcr-private-key={pcr.key}", "--pcr-public-key={pcr.pub}", "--pcr-banks=sha256", "--phases=enter-initrd"],
        &[
            "--pcr-private-key={pcr.key}",
            "--pcr-public-key={pcr.pub}",
            "--phases=enter-initrd",
            "--pcr-private-key={pcr2.key}",
            "--pcr-public-key={pcr2.pub}",
            "--phases=enter-initrd:leave-initrd enter-initrd:leave-initrd:sysinit",
            "--pcrpkey={pcr.pub}",
            "--pcr-banks=sha256",
        ],
    ] {
        same(&case, &with(more));
    }
}

/// Profiles that ukify makes programs of and joins; ours from the same programs.
#[test]
fn profiles_are_joined_and_signed_as_by_ukify() {
    let case = Case::with_keys();
    for (name, options) in [
        ("one.efi", &["--stub={addon.stub}", "--profile=ID=one\nTITLE=One", "--cmdline=one=1"][..]),
        (
            "two.efi",
            &[
                "--stub={addon.stub}",
                "--profile=ID=two\nTITLE=Two",
                "--cmdline=two=2",
                "--initrd={initrd2}",
                "--uname=9.9",
            ],
        ),
    ] {
        case.ukify(options, name);
    }
    let keys = ["--pcr-private-key={pcr.key}", "--pcr-public-key={pcr.pub}", "--pcr-banks=sha1,sha256,sha384,sha512"];
    let joined = ["--join-profile={one.efi}", "--join-profile={two.efi}"];
    let (keys, joined) = (with(&keys), joined);
    let mut theirs = keys.clone();
    theirs.push("--profile=ID=main\n");
    theirs.extend(joined);
    let mut ours = keys;
    ours.extend(joined);
    let theirs = image(&case.ukify(&theirs, "theirs.efi"));
    let ours = image(&case.built(&ours, "ours.efi"));
    assert_eq!(ours.0.len(), theirs.0.len());
    for ((name, our), (other, their)) in ours.0.iter().zip(&theirs.0) {
        assert_eq!(name, other);
        match name.as_str() {
            ".pcrsig" => same_policies(our, their),
            _ => assert!(our == their, "{name} differs"),
        }
    }
    assert_eq!(ours.0.iter().filter(|(name, _)| name == ".pcrsig").count(), 3);
}

/// Each way to boot is measured for itself: those that `uki measure` lists are all there are, systemd-measure computes the same for
/// each, and the policies in each profile's `.pcrsig` are for these values.
#[test]
fn profiles_and_device_trees_are_measured_each_for_itself() {
    let case = Case::with_keys();
    fs::write(
        case.path("entries"),
        "# further entries\nRescue: systemd.unit=rescue.target\n\nFactory Reset: reset=1\n",
    )
    .unwrap();
    let options = [
        "--pcr-key={pcr.key}",
        "--profile=Debug mode: debug",
        "--profile=@{entries}",
        "--dtbauto={tree1}",
        "--dtbauto={tree2}",
        "--hwids={hwids}",
    ];
    case.built(&with(&options), "ours.efi");
    let measured = program(&["uki", "measure", "--json"]).arg(case.path("ours.efi")).output().unwrap();
    let measured: Value = serde_json::from_slice(&measured.stdout).unwrap();
    let variants = measured["variants"].as_array().unwrap();
    let number = |value: &Value| value.as_u64().map(|number| usize::try_from(number).unwrap());
    let which = |variant: &Value| {
        let title = variant["title"].as_str().unwrap().to_owned();
        (number(&variant["profile"]).unwrap(), title, number(&variant["dtbauto"]))
    };
    let titles = ["main", "Debug mode", "Rescue", "Factory Reset"];
    let cmdlines = ["", " debug", " systemd.unit=rescue.target", " reset=1"];
    let trees = [Some(0), Some(1), None];
    let expected: Vec<_> = (0..4).flat_map(|n| trees.map(|tree| (n, titles[n].to_owned(), tree))).collect();
    assert_eq!(variants.iter().map(which).collect::<Vec<_>>(), expected);
    assert_eq!(measured["sha256"], variants[0]["pcrs"]["sha256"]);
    let hash = |variant: &Value| variant["pcrs"]["sha256"][0]["hash"].as_str().unwrap().to_owned();
    let hashes: BTreeMap<_, _> = variants.iter().map(|variant| (hash(variant), ())).collect();
    assert_eq!(hashes.len(), variants.len(), "no two boot alike");

    let sections = image(&fs::read(case.path("ours.efi")).unwrap()).0;
    let content =
        |name: &str, index: usize| sections.iter().filter(|(other, _)| other == name).nth(index).unwrap().1.clone();
    for variant in variants {
        let (profile, _, tree) = which(variant);
        assert_eq!(
            String::from_utf8(content(".cmdline", profile)).unwrap(),
            format!("console=ttyS0 quiet{}", cmdlines[profile])
        );
        let mut command = Command::new("chroot");
        command.arg(roots::tools()).args([
            "/usr/lib/systemd/systemd-measure",
            "sign",
            "--private-key",
            &case.inside("pcr.key"),
        ]);
        let common = ["linux", "osrel", "initrd", "uname", "sbat", "pcrpkey", "hwids"].map(|name| (name, 0));
        let chosen = tree.map(|tree| ("dtbauto", tree));
        for (name, index) in common.into_iter().chain([("cmdline", profile), ("profile", profile)]).chain(chosen) {
            fs::write(case.path(&format!("part.{name}")), content(&format!(".{name}"), index)).unwrap();
            // systemd-measure 257 takes one of these for the other: `--hwids` is measured as `.dtbauto`. The stub does not.
            let option = match name {
                "hwids" => "dtbauto",
                "dtbauto" => "hwids",
                name => name,
            };
            command.arg(format!("--{option}={}", case.inside(&format!("part.{name}"))));
        }
        command.args(["sha1", "sha256", "sha384", "sha512"].map(|bank| format!("--bank={bank}")));
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        same_policies(&content(".pcrsig", profile), &output.stdout);
    }
}

/// ukify reads what we write, and says the same of it as `uki inspect`.
#[test]
fn both_read_what_the_other_wrote() {
    let case = Case::new();
    let options = with(&["--microcode={ucode}", "--splash={splash.bmp}", "--section=.sbom:@{sbom}", "--uname=1.2"]);
    case.built(&options, "our-inspected.efi");
    case.ukify(&options, "their-inspected.efi");
    for name in ["our-inspected.efi", "their-inspected.efi"] {
        let theirs = Command::new("chroot")
            .arg(roots::tools())
            .args(["ukify", "--json=short", "inspect", &case.inside(name)])
            .output()
            .unwrap();
        let ours = program(&["uki", "inspect", "--json"]).arg(case.path(name)).output().unwrap();
        let parse = |output: &Output| serde_json::from_slice::<Value>(&output.stdout).unwrap();
        assert_eq!(parse(&ours), parse(&theirs), "{name}");
    }
}

#[test]
fn an_addon_is_the_same_as_ukifys() {
    let case = Case::new();
    let options = ["--stub={addon.stub}", "--cmdline=debug", "--sbat=sbat,1,x,sbat,1,y\nmine,1,Mine,mine,1,none"];
    let theirs = image(&case.ukify(&options, "their-addon.efi"));
    let mut command = program(&["uki", "build"]);
    command.args(case.options(&options, false)).arg("--output").arg(case.path("our-addon.efi"));
    let done = command.output().unwrap();
    assert!(done.status.success(), "{}", stderr(&done));
    assert_eq!(image(&fs::read(case.path("our-addon.efi")).unwrap()), theirs);
    let mut command = program(&["uki", "build", "--linux"]);
    command.arg(case.path("linux")).args(case.options(&options, false)).arg("--output").arg(case.path("no.efi"));
    let refused = command.output().unwrap();
    assert!(!refused.status.success() && stderr(&refused).contains("an addon has no --linux"), "{}", stderr(&refused));
}

/// Kernels of 64-bit Arm: as they are, compressed as a whole, and such that unpack themselves; the release is read out of all.
#[test]
fn kernels_of_arm64_in_every_form() {
    let case = Case::new();
    let root = roots::arm64();
    let boot = fs::read_dir(root.join("boot")).unwrap().map(|entry| entry.unwrap().path());
    let kernel = boot.into_iter().find(|path| path.to_string_lossy().contains("vmlinuz-")).unwrap();
    let release = kernel.file_name().unwrap().to_string_lossy().replace("vmlinuz-", "");
    let image_bytes = fs::read(&kernel).unwrap();
    fs::write(case.path("Image"), &image_bytes).unwrap();
    let stub = root.join("usr/lib/systemd/boot/efi/linuxaa64.efi.stub");
    for script in ["gzip -nk -1 Image", "zstd -qk -1 Image", "xz -0 -k Image", "xz --format=lzma -0 -k Image"] {
        let done = Command::new("sh").args(["-ec", script]).current_dir(case.folder.path()).output().unwrap();
        assert!(done.status.success(), "{script}: {}", stderr(&done));
    }
    // As drivers/firmware/efi/libstub/Makefile.zboot makes it: a small EFI program with the compressed kernel behind it.
    for (name, kind, packed) in
        [("zboot.gz", "gzip", "Image.gz"), ("zboot.zst", "zstd22", "Image.zst"), ("zboot.xz", "xzkern", "Image.xz")]
    {
        let mut program = fs::read(root.join("usr/lib/systemd/boot/efi/addonaa64.efi.stub")).unwrap();
        let pe = PeHeaders::read(&mut Cursor::new(&program), "the addon").unwrap();
        for (index, section) in pe.sections.iter().enumerate() {
            let at = pe.table_offset + index * 40 + 8;
            program[at..at + 4].copy_from_slice(&section.raw_size.to_le_bytes());
        }
        let payload = fs::read(case.path(packed)).unwrap();
        let start = u32::try_from(program.len()).unwrap();
        program.extend(&payload);
        program[4..8].copy_from_slice(b"zimg");
        program[8..12].copy_from_slice(&start.to_le_bytes());
        program[12..16].copy_from_slice(&u32::try_from(payload.len()).unwrap().to_le_bytes());
        program[0x18..0x18 + kind.len()].copy_from_slice(kind.as_bytes());
        fs::write(case.path(name), program).unwrap();
    }
    for name in ["Image", "Image.gz", "Image.zst", "Image.xz", "Image.lzma", "zboot.gz", "zboot.zst", "zboot.xz"] {
        let mut command = program(&["uki", "build", "--stub"]);
        command.arg(&stub).arg("--linux").arg(case.path(name)).arg("--output").arg(case.path("arm64.efi"));
        let done = command.output().unwrap();
        assert!(done.status.success(), "{name}: {}", stderr(&done));
        let sections = image(&fs::read(case.path("arm64.efi")).unwrap()).0;
        let content = |wanted: &str| sections.iter().find(|(name, _)| name == wanted).unwrap().1.clone();
        assert_eq!(String::from_utf8_lossy(&content(".uname")), release, "{name}");
        let expected = if name.starts_with("zboot") { fs::read(case.path(name)).unwrap() } else { image_bytes.clone() };
        assert!(content(".linux") == expected, "{name}");
    }
}

#[test]
fn what_the_stub_would_not_take_is_refused() {
    let case = Case::new();
    let refused = |more: &[&'static str], words: &[&str]| {
        let done = case.ours(&with(more), "refused.efi");
        assert_eq!(done.status.code(), Some(1), "{more:?}: {}", stderr(&done));
        let text = stderr(&done);
        words.iter().for_each(|word| assert!(text.contains(word), "{word} in {text}"));
        assert!(!case.path("refused.efi").exists());
    };
    let mut cut = bitmap(40, 30, 24);
    cut.truncate(2_000);
    cut[2..6].copy_from_slice(&2_000_u32.to_le_bytes());
    fs::write(case.path("cut.bmp"), cut).unwrap();
    let mut packed = bitmap(40, 30, 8);
    packed[30] = 1;
    fs::write(case.path("packed.bmp"), packed).unwrap();
    refused(&["--splash={cut.bmp}"], &["cut.bmp", "is cut short"]);
    refused(&["--splash={packed.bmp}"], &["is compressed"]);
    refused(&["--splash={note}"], &["is no bitmap file"]);
    refused(&["--section=.linux:x"], &["is not given by --section"]);
    refused(&["--section=.muchtoolong:x"], &["1 to 8 printable ASCII characters"]);
    refused(&["--section=.reloc:x"], &[".reloc", "given twice"]);
    refused(&["--profile=Main: a"], &["there is another one with the id main"]);
    refused(&["--join-profile={initrd1}"], &["not a valid PE file"]);
    refused(&["--join-profile={linux}"], &["cannot be joined as a profile"]);
    refused(&["--phases=enter-initrd"], &["there are 0 PCR keys"]);
    fs::create_dir_all(case.path("nohwids")).unwrap();
    refused(&["--hwids={nohwids}"], &["no .json file"]);
}
