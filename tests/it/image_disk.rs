//! Raw disks, held against sgdisk, sfdisk, fsck.fat, e2fsck and qemu-img. Without these programs the tests fail.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a test's helpers fail as tests fail"
)]

use std::fs;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use kairos_init::image::disk::{Disk, DiskRequest, OEM_LENGTH};
use kairos_init::image::fat::FatSize;
use kairos_init::image::{DEFAULT_TIME, Files, Image};

use crate::image_tools::{allocated, insert, listed, printed, run, write};

const MIB: u64 = 1 << 20;

fn esp() -> Files {
    let mut files = Files::new();
    insert(&mut files, "EFI/BOOT/BOOTX64.EFI", vec![1; 100_000]);
    insert(&mut files, "EFI/kairos/active.efi", vec![2; 3_000_000]);
    insert(&mut files, "loader/loader.conf", "default active*\n");
    files
}

fn oem() -> Files {
    let mut files = Files::new();
    insert(&mut files, "90_custom.yaml", "#cloud-config\n");
    files
}

fn disk(esp: &Files, oem: &Files, seed: u8) -> Disk {
    Disk::new(&DiskRequest {
        esp,
        esp_size: FatSize::Fit { free: 100 * MIB },
        oem,
        oem_length: OEM_LENGTH,
        persistent_length: 300 * MIB + 1,
        seed: [seed; 32],
        time: DEFAULT_TIME,
    })
    .unwrap()
}

/// A partition in a file of its own.
fn cut(image: &Path, start: u64, length: u64, to: &str) -> PathBuf {
    let mut file = fs::File::open(image).unwrap();
    file.seek(SeekFrom::Start(start)).unwrap();
    let mut bytes = Vec::new();
    file.take(length).read_to_end(&mut bytes).unwrap();
    let to = image.with_file_name(to);
    fs::File::create(&to).unwrap().write_all(&bytes).unwrap();
    to
}

#[test]
fn a_disk_is_what_kairos_makes() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("disk.raw");
    let disk = disk(&esp(), &oem(), 7);
    write(&disk, &image);
    let said = printed("sgdisk", ["-v".as_ref(), image.as_os_str()]);
    assert!(said.contains("No problems found") && !said.contains("Caution") && !said.contains("Warning"), "{said}");
    let table = run("sfdisk", ["--json".as_ref(), image.as_os_str()]);
    let table: serde_json::Value = serde_json::from_slice(&table.stdout).unwrap();
    let table = &table["partitiontable"];
    assert_eq!(table["label"], "gpt");
    let partitions = table["partitions"].as_array().unwrap();
    let expected = [
        ("efi", "C12A7328-F81F-11D2-BA4B-00A0C93EC93B", "vfat", "COS_GRUB"),
        ("oem", "0FC63DAF-8483-4772-8E79-3D69D8477DE4", "ext4", "COS_OEM"),
        ("persistent", "0FC63DAF-8483-4772-8E79-3D69D8477DE4", "ext4", "COS_PERSISTENT"),
    ];
    assert_eq!(partitions.len(), expected.len());
    let mut identifiers = vec![table["id"].as_str().unwrap().to_owned()];
    for ((read, own), (name, kind, system, label)) in partitions.iter().zip(disk.partitions()).zip(expected) {
        assert_eq!((read["name"].as_str(), read["type"].as_str(), own.name), (Some(name), Some(kind), name));
        let (start, size) = (read["start"].as_u64().unwrap() * 512, read["size"].as_u64().unwrap() * 512);
        assert_eq!((start, size), (own.offset, own.length));
        assert!(start.is_multiple_of(MIB) && size.is_multiple_of(MIB), "{read}");
        let part = cut(&image, start, size, name);
        let blkid = printed("blkid", ["-p".as_ref(), "-o".as_ref(), "export".as_ref(), part.as_os_str()]);
        assert!(blkid.contains(&format!("\nLABEL={label}\n")), "{blkid}");
        assert!(blkid.contains(&format!("\nTYPE={system}\n")), "{blkid}");
        let uuid = blkid.lines().find_map(|line| line.strip_prefix("UUID=")).unwrap();
        identifiers.extend([read["uuid"].as_str().unwrap().to_owned(), uuid.to_uppercase()]);
        match name {
            "efi" => {
                printed("fsck.fat", ["-n".as_ref(), part.as_os_str()]);
                let info = printed("minfo", ["-i".as_ref(), part.as_os_str(), "::".as_ref()]);
                assert!(info.contains("hidden sectors: 2048"), "{info}");
            }
            "oem" => {
                crate::image_ext4::check(&part);
                assert_eq!(crate::image_ext4::dumped(&part, dir.path()), listed(&oem()));
            }
            _ => crate::image_ext4::check(&part),
        }
    }
    // RFC 9562: version 8, variant 10, for all but the serial number of FAT; none twice.
    for identifier in identifiers.iter().filter(|identifier| identifier.len() == 36) {
        assert_eq!(identifier.as_bytes()[14], b'8', "{identifier}");
        assert!(b"89AB".contains(&identifier.as_bytes()[19]), "{identifier}");
    }
    let distinct: std::collections::BTreeSet<_> = identifiers.iter().collect();
    assert_eq!((identifiers.len(), distinct.len()), (7, 7), "{identifiers:?}");
    assert!(allocated(&image) < 16 * MIB, "{}", allocated(&image));
    assert!(disk.length() > 450 * MIB);
}

/// What the first boot does: the table is moved to the end of a larger disk, the last partition and its file system grow.
#[test]
fn persistent_grows_to_the_end_of_a_larger_disk() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("disk.raw");
    let disk = disk(&esp(), &oem(), 7);
    write(&disk, &image);
    fs::File::options().write(true).open(&image).unwrap().set_len(2 << 30).unwrap();
    printed("sgdisk", ["-e".as_ref(), image.as_os_str()]);
    let grow = ["-d", "3", "-n", "3:0:0", "-c", "3:persistent"].map(AsRef::as_ref);
    printed("sgdisk", grow.into_iter().chain([image.as_os_str()]));
    let said = printed("sgdisk", ["-v".as_ref(), image.as_os_str()]);
    assert!(said.contains("No problems found"), "{said}");
    let start = disk.partitions()[2].offset;
    let part = cut(&image, start, (2 << 30) - start - MIB, "persistent");
    printed("resize2fs", ["-f".as_ref(), part.as_os_str()]);
    crate::image_ext4::check(&part);
}

#[test]
fn a_disk_depends_on_its_files_and_its_seed_only() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = |seed: u8, name: &str| {
        let to = dir.path().join(name);
        write(&disk(&esp(), &oem(), seed), &to);
        fs::read(to).unwrap()
    };
    let first = bytes(1, "one");
    assert!(first == bytes(1, "two"));
    assert!(first != bytes(2, "three"));
}

#[test]
fn the_disk_becomes_a_virtual_machines() {
    let dir = tempfile::tempdir().unwrap();
    let (image, other) = (dir.path().join("disk.raw"), dir.path().join("disk.qcow2"));
    write(&disk(&esp(), &oem(), 7), &image);
    let arguments = ["convert", "-f", "raw", "-O", "qcow2"].map(AsRef::as_ref);
    printed("qemu-img", arguments.into_iter().chain([image.as_os_str(), other.as_os_str()]));
    printed("qemu-img", ["check".as_ref(), other.as_os_str()]);
    let said = printed("qemu-img", ["compare".as_ref(), image.as_os_str(), other.as_os_str()]);
    assert!(said.contains("Images are identical"), "{said}");
}
