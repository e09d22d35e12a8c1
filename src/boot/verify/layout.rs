//! The rules that firmware and stub have for the headers. Specification: Microsoft's "PE Format", EDK2's `BasePeCoff.c`, and
//! systemd's `src/boot/pe.c`.

use super::image::Image;
use super::report::{Outcome, Report};
use super::source::{Source, bytes};
use super::texts::version_of;

/// The smallest alignment of sections in memory: a page. With less, firmware that protects memory stops at an assertion.
const PAGE: u64 = 4096;
/// Larger files do not load (systemd#31452).
const SIZE_LIMIT: u64 = 2 << 30;
/// From here some firmware cannot find memory in one piece (systemd#36706, kairos#2356); Kairos' own builder warns here.
const SIZE_WARNING: u64 = 1 << 30;
const NX_COMPAT: u16 = 0x100;
const EFI_APPLICATION: u16 = 10;

/// The machine types that firmware starts.
pub(super) const fn machine_name(machine: u16) -> Option<&'static str> {
    Some(match machine {
        0x8664 => "x86-64",
        0xaa64 => "64-bit Arm",
        0x5064 => "64-bit RISC-V",
        0x6264 => "64-bit LoongArch",
        0x14c => "32-bit x86",
        0x1c4 => "32-bit Arm",
        _ => return None,
    })
}

/// The rules for every EFI program.
pub(super) fn check(image: &Image, report: &mut Report) {
    let fail = |problem: String| (Outcome::Failure, problem);
    let mut problems = Vec::new();
    if image.subsystem != EFI_APPLICATION {
        problems.push(fail(format!("subsystem {} is no EFI application (10)", image.subsystem)));
    }
    let name = machine_name(image.machine);
    if name.is_none() {
        problems.push(fail(format!("machine {:#06x} is not known", image.machine)));
    }
    report.all("machine", problems, || format!("EFI application for {}", name.unwrap_or_default()));

    let mut problems = Vec::new();
    if image.section_alignment < PAGE || !image.section_alignment.is_power_of_two() {
        problems.push(fail(format!(
            "SectionAlignment is {}, less than a page of 4096: firmware that protects memory stalls (kairos#4885)",
            image.section_alignment
        )));
    }
    if !image.file_alignment.is_power_of_two() {
        problems.push(fail(format!("FileAlignment is {}, no power of two", image.file_alignment)));
    }
    let alignment = image.section_alignment.max(PAGE);
    for section in image.sections.iter().filter(|section| !section.virtual_address.is_multiple_of(alignment)) {
        let address = section.virtual_address;
        problems.push(fail(format!("section {:?} is at {address:#x}, not at a multiple of {alignment}", section.name)));
    }
    report.all("alignment", problems, || format!("sections at multiples of {alignment}"));

    let problems: Vec<_> = layout_problems(image).into_iter().map(fail).collect();
    report.all("layout", problems, || format!("{} sections, ascending, without gaps", image.sections.len()));

    let (mebibytes, length) = (image.length >> 20, image.length);
    match length {
        _ if length >= SIZE_LIMIT => {
            report.fail("size", format!("{mebibytes} MiB: 2 GiB and more do not load (systemd#31452)"));
        }
        _ if length > SIZE_WARNING => {
            report
                .warn("size", format!("{mebibytes} MiB: some firmware fails above 1 GiB (kairos#2356, systemd#36706)"));
        }
        _ => report.pass("size", format!("{mebibytes} MiB")),
    }
}

fn layout_problems(image: &Image) -> Vec<String> {
    let mut problems = Vec::new();
    let headers = image.size_of_headers;
    if headers < image.table_end || headers > image.length {
        problems.push(format!("SizeOfHeaders is {headers}, but the section table ends at {}", image.table_end));
    }
    if image.symbols != 0 {
        problems.push("it has a COFF symbol table, which is in nobody's section".to_owned());
    }
    if image.entry >= image.size_of_image {
        problems.push("the entry point is outside of the image".to_owned());
    }
    let (mut raw, mut memory) = (headers, headers);
    for section in &image.sections {
        let name = &section.name;
        if section.virtual_address < memory {
            problems
                .push(format!("section {name:?} begins at {:#x}, within what is before it", section.virtual_address));
        }
        memory = section.virtual_end().max(memory);
        if section.raw_size == 0 {
            continue;
        }
        if section.raw_offset != raw {
            problems.push(format!("the data of section {name:?} is at byte {}, not at {raw}", section.raw_offset));
        }
        if section.raw_end() > image.length {
            problems.push(format!("the file is cut off: section {name:?} ends at byte {}", section.raw_end()));
        }
        raw = section.raw_end();
    }
    if image.size_of_image < memory {
        problems.push(format!("SizeOfImage is {}, but the sections end at {memory}", image.size_of_image));
    } else if image.size_of_image != memory.next_multiple_of(image.section_alignment.max(1)) {
        problems.push(format!("SizeOfImage is {}, not the sections' end {memory} rounded up", image.size_of_image));
    }
    problems
}

/// What the stub demands of the kernel, and whether the UKI promises more than it holds.
pub(super) fn check_kernel(source: &dyn Source, image: &Image, report: &mut Report) -> std::io::Result<()> {
    let kernels: Vec<_> = image.sections.iter().filter(|section| section.name == ".linux").collect();
    if kernels.is_empty() {
        report.fail("kernel", "it has no .linux section: it is no UKI");
    }
    for section in kernels {
        let Some((start, end)) = section.content(image.length) else {
            report.fail("kernel", "the .linux section is not whole");
            continue;
        };
        let header = bytes(source, start, (end - start).min(super::image::HEADER_LIMIT))?;
        let kernel = match Image::parse(&header, end - start) {
            Ok(kernel) => kernel,
            Err(error) => {
                report.fail("kernel", format!("it is no PE image ({error}), so that the stub cannot start it"));
                continue;
            }
        };
        let problems = kernel_problems(&kernel, image);
        report.all("kernel", problems, || {
            format!("a PE image for {}", machine_name(kernel.machine).unwrap_or("this machine"))
        });
        match (image.dll_characteristics & NX_COMPAT != 0, kernel.dll_characteristics & NX_COMPAT != 0) {
            (true, false) => report
                .fail("nx", "the UKI claims NX_COMPAT, its kernel does not: it crashes where firmware enforces it"),
            (false, true) => report
                .warn("nx", "the kernel has NX_COMPAT, the UKI does not claim it: firmware that asks for it refuses"),
            (both, _) => report.pass("nx", if both { "UKI and kernel: NX_COMPAT" } else { "neither claims NX_COMPAT" }),
        }
    }
    Ok(())
}

fn kernel_problems(kernel: &Image, image: &Image) -> Vec<(Outcome, String)> {
    let mut problems = Vec::new();
    let mut fail = |problem: String| problems.push((Outcome::Failure, problem));
    if kernel.machine != image.machine {
        fail(format!("it is for machine {:#06x}, the UKI for {:#06x}", kernel.machine, image.machine));
    }
    if kernel.relocations.1 != 0 {
        fail("it has base relocations, which the stub does not apply".to_owned());
    }
    if kernel.entry >= kernel.size_of_image {
        fail("its entry point is outside of its image".to_owned());
    }
    for section in &kernel.sections {
        if section.raw_size > section.virtual_size {
            fail(format!("its section {:?} is larger in the file than in memory", section.name));
        }
        if section.raw_end() > kernel.length {
            fail(format!("its section {:?} ends at byte {} of {}", section.name, section.raw_end(), kernel.length));
        }
    }
    if kernel.major_image_version < 1 {
        let old = "its MajorImageVersion is 0: the stub starts it by the old handover protocol, which newer ones drop";
        problems.push((Outcome::Warning, old.to_owned()));
    }
    problems
}

/// The stub's version, from the words that it carries for boot managers.
pub(super) fn check_stub(source: &dyn Source, image: &Image, report: &mut Report) -> std::io::Result<Option<String>> {
    let Some((start, end)) = image.named(".sdmagic").and_then(|section| section.content(image.length)) else {
        report.warn("stub", "it has no .sdmagic section: not systemd's stub, or an old one");
        return Ok(None);
    };
    let version = version_of(&bytes(source, start, (end - start).min(512))?, "systemd-stub");
    match &version {
        Some(version) => report.pass("stub", format!("systemd-stub {version}")),
        None => report.warn("stub", "its .sdmagic section does not say systemd-stub"),
    }
    Ok(version)
}
