//! File systems that the root mounts: `fstab` and mount units.

use super::{Wanted, Wish, source};

/// Words in the type field of fstab(5) that name no file system.
const NO_TYPE: [&str; 6] = ["auto", "bind", "ignore", "none", "rbind", "swap"];

/// `/etc/fstab`: the third field of each line; several types are separated by commas.
#[must_use]
pub fn fstab(text: &str, file: &str) -> Vec<Wish> {
    let mut out = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.starts_with('#') {
            continue;
        }
        let types = line.split_ascii_whitespace().nth(2).unwrap_or_default();
        out.extend(types.split(',').filter_map(|kind| wish(kind, "fstab", file, index + 1)));
    }
    out
}

/// A `.mount` unit: `Type=`, and the instances of `modprobe@.service` that it wants.
#[must_use]
pub fn unit(text: &str, file: &str) -> Vec<Wish> {
    let mut out = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let Some((key, value)) = line.split_once('=') else { continue };
        match key.trim() {
            "Type" => out.extend(wish(value.trim(), "mount unit", file, index + 1)),
            "After" | "BindsTo" | "Requires" | "Wants" => {
                let instance = |word: &str| Some(word.strip_prefix("modprobe@")?.strip_suffix(".service")?.to_owned());
                out.extend(value.split_ascii_whitespace().filter_map(instance).map(|name| Wish {
                    wanted: Wanted::Module(name),
                    by: "mount unit",
                    source: source(file, index + 1),
                }));
            }
            _ => {}
        }
    }
    out
}

fn wish(kind: &str, by: &'static str, file: &str, line: usize) -> Option<Wish> {
    if kind.is_empty() || NO_TYPE.contains(&kind) {
        return None;
    }
    // `fuse.sshfs` is a program's name behind the kernel's file system.
    let kind = kind.split('.').next().unwrap_or(kind);
    Some(Wish { wanted: Wanted::Filesystem(kind.to_owned()), by, source: source(file, line) })
}
