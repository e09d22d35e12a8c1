//! Package URLs: the names by which vulnerability databases know packages (<https://github.com/package-url/purl-spec>).

use super::OsRelease;
use crate::root::packages::{Manager, Package};

/// The package's URL: `pkg:deb/debian/libc6@2.41-12?arch=amd64&distro=debian-13&upstream=glibc`.
///
/// The namespace is the distribution's `ID`, by the names that the specification's examples and vulnerability databases use. `upstream`,
/// which is no part of the specification, names the source package where that is another: Debian's, Ubuntu's and SUSE's
/// advisories are about source packages, and scanners read them by that key.
#[must_use]
pub fn purl(package: &Package, os: &OsRelease) -> String {
    let (kind, default) = match package.manager {
        Manager::Dpkg => ("deb", "debian"),
        Manager::Rpm => ("rpm", ""),
        Manager::Apk => ("apk", "alpine"),
        Manager::Pacman => ("alpm", "arch"),
    };
    let namespace = match os.id.as_str() {
        "" => default,
        "rhel" => "redhat",
        id if id.starts_with("opensuse") => "opensuse",
        id => id,
    };
    // Names of rpm tell lower from upper case, the others' do not.
    let (name, epoch, version) = match package.manager {
        Manager::Rpm => match package.version.split_once(':') {
            Some((epoch, version)) => (package.name.clone(), epoch, version),
            None => (package.name.clone(), "", package.version.as_str()),
        },
        _ => (package.name.to_lowercase(), "", package.version.as_str()),
    };
    let mut purl = format!("pkg:{kind}/");
    if !namespace.is_empty() {
        encode(namespace, &mut purl);
        purl.push('/');
    }
    encode(&name, &mut purl);
    purl.push('@');
    encode(version, &mut purl);
    let distro = match (os.id.as_str(), os.version_id.as_str()) {
        ("", _) => String::new(),
        (id, "") => id.to_owned(),
        (id, version) => format!("{id}-{version}"),
    };
    let architecture = package.architecture.as_deref().unwrap_or_default();
    // In the order of the keys.
    let qualifiers = [("arch", architecture), ("distro", &distro), ("epoch", epoch), ("upstream", &upstream(package))];
    let set = qualifiers.iter().filter(|(_, value)| !value.is_empty());
    for ((key, value), separator) in set.zip(std::iter::once('?').chain(std::iter::repeat('&'))) {
        purl.push(separator);
        purl.push_str(key);
        purl.push('=');
        encode(value, &mut purl);
    }
    purl
}

/// `NAME`, or `NAME@VERSION` where the version differs too; empty where the package is named as its source.
fn upstream(package: &Package) -> String {
    match &package.source {
        Some(source) => match &source.version {
            Some(version) if *version != package.version && package.manager == Manager::Dpkg => {
                format!("{}@{version}", source.name)
            }
            _ if source.name == package.name => String::new(),
            _ => source.name.clone(),
        },
        None => String::new(),
    }
}

/// Percent-encoding of all but letters, digits, `.`, `-`, `_`, `~` and `:`.
fn encode(text: &str, out: &mut String) {
    for byte in text.bytes() {
        match byte {
            b'.' | b'-' | b'_' | b'~' | b':' => out.push(char::from(byte)),
            _ if byte.is_ascii_alphanumeric() => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
}
