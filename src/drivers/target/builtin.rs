//! kmod-db, built in: one table of its files. The text is parsed at run time by the parser that reads a user's file.

use super::{TargetError, parse};

/// What a file of kmod-db is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// In every target: what Kairos cannot boot without, hidden dependencies, firmware families.
    Always,
    /// A name for `--hardware`.
    Target,
    /// A part of targets.
    Class,
    /// A name behind `+`.
    Feature,
}

/// A file of kmod-db.
#[derive(Debug)]
pub(super) struct File {
    kind: Kind,
    name: &'static str,
    /// From the top of the source tree, for messages.
    pub(super) path: &'static str,
    /// What it holds.
    pub(super) text: &'static str,
}

macro_rules! files {
    ($($kind:ident $name:literal,)*) => {
        &[$(File {
            kind: Kind::$kind,
            name: $name,
            path: concat!("kmod-db/", $name, ".toml"),
            text: include_str!(concat!("../../../kmod-db/", $name, ".toml")),
        }),*]
    };
}

static FILES: &[File] = files! {
    Always "kairos",
    Always "hidden",
    Always "firmware",
    Always "requests",
    Always "unasked",
    Target "all",
    Target "x86-generic",
    Target "x86-server",
    Target "x86-mini-pc",
    Target "x86-vm",
    Target "x86-vm-kvm",
    Target "x86-vm-vmware",
    Target "x86-vm-hyperv",
    Target "x86-vm-xen",
    Target "x86-vm-virtualbox",
    Target "x86-cloud",
    Target "arm64-generic",
    Target "arm64-server",
    Target "arm64-vm",
    Target "rpi3",
    Target "rpi4",
    Target "rpi5",
    Target "nvidia-jetson-agx-orin",
    Target "nvidia-jetson-orin-nx",
    Target "nvidia-jetson-thor",
    Target "nvidia-dgx-spark",
    Feature "wifi",
    Feature "bluetooth",
    Feature "sound",
    Feature "gpu-intel",
    Feature "gpu-amd",
    Feature "gpu-nvidia",
    Feature "media",
    Feature "infiniband",
    Feature "can",
    Feature "iscsi",
    Feature "nvme-fabrics",
    Feature "smartnic",
    Feature "serial",
    Feature "staging",
    Feature "k3s",
    Feature "cilium",
    Feature "calico",
    Feature "longhorn",
    Feature "kubevirt",
    Class "console",
    Class "filesystems",
    Class "kubernetes",
    Class "network",
    Class "network-virtual",
    Class "notebook",
    Class "platform-arm64",
    Class "platform-x86",
    Class "rpi",
    Class "storage",
    Class "tegra",
    Class "usb-input",
    Class "virtual",
    Class "vm-basic",
    Class "vm-cloud",
    Class "vm-emulated",
    Class "vm-host",
    Class "vm-host-arm64",
    Class "vm-hyperv",
    Class "vm-kvm",
    Class "vm-passthrough",
    Class "vm-virtualbox",
    Class "vm-vmware",
    Class "vm-xen",
    Class "volumes",
};

/// What belongs to every target.
pub(super) fn always() -> impl Iterator<Item = &'static File> {
    of(Kind::Always)
}

fn of(kind: Kind) -> impl Iterator<Item = &'static File> {
    FILES.iter().filter(move |file| file.kind == kind)
}

/// The built-in targets: name and description, in order.
///
/// # Errors
/// A file of kmod-db does not parse: a defect of this program, which its tests find.
pub fn targets() -> Result<Vec<(&'static str, String)>, TargetError> {
    described(Kind::Target)
}

/// The built-in features: name and description, in order.
///
/// # Errors
/// As [`targets`].
pub fn features() -> Result<Vec<(&'static str, String)>, TargetError> {
    described(Kind::Feature)
}

fn described(kind: Kind) -> Result<Vec<(&'static str, String)>, TargetError> {
    of(kind).map(|file| Ok((file.name, parse(file.text, file.path)?.description.unwrap_or_default()))).collect()
}

pub(super) fn target(name: &str) -> Result<&'static File, TargetError> {
    of(Kind::Target).find(|file| file.name == name).ok_or_else(|| {
        let (hint, known) = known(name, of(Kind::Target));
        TargetError::Target { name: name.to_owned(), hint, known }
    })
}

pub(super) fn feature(request: &str, name: &str) -> Result<&'static File, TargetError> {
    of(Kind::Feature).find(|file| file.name == name).ok_or_else(|| {
        let (hint, known) = known(name, of(Kind::Feature));
        TargetError::Feature { request: request.to_owned(), feature: name.to_owned(), hint, known }
    })
}

/// What `extends` in `file` means by `name`: a class, a feature or a whole target.
pub(super) fn extended(name: &str, file: &str) -> Result<&'static File, TargetError> {
    let all = || FILES.iter().filter(|file| file.kind != Kind::Always);
    all().find(|file| file.name == name).ok_or_else(|| {
        let (hint, known) = known(name, all());
        TargetError::Extends { file: file.to_owned(), name: name.to_owned(), hint, known }
    })
}

/// The hint and the list of an error that an unknown name gives.
fn known(name: &str, files: impl Iterator<Item = &'static File>) -> (String, String) {
    let names: Vec<_> = files.map(|file| file.name).collect();
    let nearest = names
        .iter()
        .map(|known| (strsim::damerau_levenshtein(name, known), *known))
        .filter(|(distance, known)| *distance <= known.len().div_ceil(3))
        .min();
    let hint = nearest.map_or_else(String::new, |(_, known)| format!("did you mean {known:?}? "));
    (hint, if names.is_empty() { "none yet".to_owned() } else { names.join(", ") })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Every file of the folder is in the table, and every file in it parses.
    #[test]
    fn the_table_is_the_folder() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/kmod-db");
        let on_disk: BTreeSet<String> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.ends_with(".toml"))
            .map(|name| format!("kmod-db/{name}"))
            .collect();
        assert_eq!(on_disk, FILES.iter().map(|file| file.path.to_owned()).collect());
        for file in FILES {
            let entries = parse(file.text, file.path).unwrap();
            assert!(entries.description.is_some(), "{} has no description", file.path);
        }
    }
}
