//! The document's elements, as the JSON schema of SPDX 2.3 names them.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use sha1::Sha1;
use sha2::{Digest, Sha256};

use super::{HashedFile, Sbom, license, purl, time};
use crate::names::TreePath;
use crate::root::packages::{Manager, Package};

const NONE: &str = "NOASSERTION";
const DOCUMENT: &str = "SPDXRef-DOCUMENT";
const IMAGE: &str = "SPDXRef-Image";
const KERNEL: &str = "SPDXRef-Kernel";
const FIRMWARE: &str = "SPDXRef-Firmware";

/// The whole document.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Document<'a> {
    spdx_version: &'static str,
    data_license: &'static str,
    #[serde(rename = "SPDXID")]
    id: &'static str,
    name: &'a str,
    document_namespace: String,
    creation_info: CreationInfo,
    #[serde(skip_serializing_if = "String::is_empty")]
    comment: String,
    packages: Vec<Element<'a>>,
    files: Vec<FileElement>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    has_extracted_licensing_infos: Vec<ExtractedLicense>,
    relationships: Vec<Relationship>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct CreationInfo {
    created: String,
    creators: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    license_list_version: Option<String>,
}

/// A package in SPDX's sense.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Element<'a> {
    #[serde(rename = "SPDXID")]
    id: String,
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    version_info: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    supplier: Option<String>,
    download_location: &'static str,
    files_analyzed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    package_verification_code: Option<VerificationCode>,
    #[serde(skip_serializing_if = "Option::is_none")]
    homepage: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    source_info: Option<String>,
    license_concluded: &'static str,
    license_declared: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    license_comments: Option<String>,
    copyright_text: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    summary: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    comment: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    primary_package_purpose: Option<&'static str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    external_refs: Vec<ExternalRef>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct VerificationCode {
    package_verification_code_value: String,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ExternalRef {
    reference_category: &'static str,
    reference_type: &'static str,
    reference_locator: String,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct FileElement {
    #[serde(rename = "SPDXID")]
    id: String,
    file_name: String,
    file_types: [&'static str; 1],
    checksums: [Checksum; 2],
    license_concluded: &'static str,
    copyright_text: &'static str,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Checksum {
    algorithm: &'static str,
    checksum_value: String,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ExtractedLicense {
    license_id: String,
    extracted_text: &'static str,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Relationship {
    spdx_element_id: String,
    relationship_type: &'static str,
    related_spdx_element: String,
}

impl<'a> Document<'a> {
    /// The document without its namespace.
    pub(super) fn new(sbom: &'a Sbom) -> Self {
        let mut packages = vec![image(sbom)];
        packages.extend(sbom.kernel.as_ref().map(|release| Element {
            version_info: Some(release.as_str()),
            comment: Some("The kernel of the image, with the files of it that were kept."),
            primary_package_purpose: Some("OPERATING_SYSTEM"),
            ..analyzed(KERNEL, "linux", &sbom.modules)
        }));
        if sbom.kernel.is_none() && !sbom.modules.is_empty() {
            packages.push(analyzed(KERNEL, "linux", &sbom.modules));
        }
        if !sbom.firmware.is_empty() {
            packages.push(Element {
                comment: Some("The firmware files that were kept."),
                primary_package_purpose: Some("FIRMWARE"),
                ..analyzed(FIRMWARE, "firmware", &sbom.firmware)
            });
        }
        let mut licenses = BTreeSet::new();
        let listed: BTreeMap<String, &Package> =
            sbom.packages.iter().map(|package| (package_id(package), package)).collect();
        // In the order of the packages, not of their numbers.
        let mut listed: Vec<_> = listed.into_iter().collect();
        listed.sort_by_key(|(_, package)| *package);
        packages.extend(listed.into_iter().map(|(id, package)| element(id, package, sbom, &mut licenses)));

        let mut relationships = vec![relationship(DOCUMENT, "DESCRIBES", IMAGE)];
        relationships.extend(packages.iter().skip(1).map(|package| relationship(IMAGE, "CONTAINS", &package.id)));
        let mut files = BTreeMap::new();
        for (owner, list) in [(KERNEL, &sbom.modules), (FIRMWARE, &sbom.firmware)] {
            let list: BTreeMap<&TreePath, &HashedFile> = list.iter().map(|file| (&file.path, file)).collect();
            relationships.extend(list.keys().map(|path| relationship(owner, "CONTAINS", &file_id(path))));
            files.extend(list);
        }
        let has_extracted_licensing_infos = licenses.into_iter().map(|license_id| ExtractedLicense {
            license_id,
            extracted_text: "The package database names this licence and does not hold its text.",
        });
        Self {
            spdx_version: "SPDX-2.3",
            data_license: "CC0-1.0",
            id: DOCUMENT,
            name: &sbom.name,
            document_namespace: String::new(),
            creation_info: CreationInfo {
                created: time::utc(sbom.created),
                creators: vec![format!("Tool: kairos-init-{}", sbom.tool_version)],
                // MAJOR.MINOR of MAJOR.MINOR.PATCH.
                license_list_version: ::spdx::license_version().rsplit_once('.').map(|(version, _)| version.to_owned()),
            },
            comment: comment(sbom),
            packages,
            files: files.into_values().map(file).collect(),
            has_extracted_licensing_infos: has_extracted_licensing_infos.collect(),
            relationships,
        }
    }

    /// Makes the namespace of the digest of the document without it: a UUID of RFC 9562's version 8. The host need not answer.
    pub(super) fn set_namespace(&mut self, digest: &[u8]) {
        let mut uuid: [u8; 16] = digest.get(..16).and_then(|start| start.try_into().ok()).unwrap_or_default();
        let [_, _, _, _, _, _, version, _, variant, ..] = &mut uuid;
        *version = *version & 0x0f | 0x80;
        *variant = *variant & 0x3f | 0x80;
        let mut uuid = hex::encode(uuid);
        for at in [20, 16, 12, 8] {
            uuid.insert(at, '-');
        }
        self.document_namespace = format!("https://kairos.io/spdxdocs/{}-{uuid}", identifier(self.name));
    }
}

fn image(sbom: &Sbom) -> Element<'_> {
    Element {
        version_info: sbom.version.as_deref(),
        summary: Some(sbom.os_release.pretty_name.as_str()).filter(|name| !name.is_empty()),
        primary_package_purpose: Some("OPERATING_SYSTEM"),
        ..named(IMAGE.to_owned(), &sbom.name)
    }
}

/// What is named and not analysed.
fn named(id: String, name: &str) -> Element<'_> {
    Element {
        id,
        name,
        download_location: NONE,
        license_concluded: NONE,
        license_declared: NONE,
        copyright_text: NONE,
        ..Element::default()
    }
}

/// What is listed file by file (SPDX 2.3, 7.9: SHA-1 of the files' SHA-1 sums in order).
fn analyzed<'a>(id: &str, name: &'a str, files: &[HashedFile]) -> Element<'a> {
    let sums: BTreeMap<&TreePath, String> = files.iter().map(|file| (&file.path, hex::encode(file.sha1))).collect();
    let mut sums: Vec<String> = sums.into_values().collect();
    sums.sort_unstable();
    let code = (!sums.is_empty()).then(|| hex::encode(Sha1::digest(sums.concat())));
    Element {
        files_analyzed: code.is_some(),
        package_verification_code: code
            .map(|package_verification_code_value| VerificationCode { package_verification_code_value }),
        ..named(id.to_owned(), name)
    }
}

fn element<'a>(id: String, package: &'a Package, sbom: &Sbom, licenses: &mut BTreeSet<String>) -> Element<'a> {
    let mut license_declared = NONE;
    let mut license_comments = None;
    if let Some(text) = package.license.as_deref() {
        match license::references(text) {
            Some(references) => {
                license_declared = text;
                licenses.extend(references);
            }
            None => license_comments = Some(format!("As the package database has it: {text}")),
        }
    }
    let source_info = package.source.as_ref().map(|source| match &source.version {
        Some(version) => format!("built from {} {version}", source.name),
        None => format!("built from {}", source.name),
    });
    Element {
        version_info: Some(&package.version),
        supplier: package.supplier.as_deref().and_then(|supplier| self::supplier(supplier, package.manager)),
        homepage: package.homepage.as_deref().filter(|homepage| is_web_page(homepage)),
        source_info,
        license_declared,
        license_comments,
        external_refs: vec![ExternalRef {
            reference_category: "PACKAGE-MANAGER",
            reference_type: "purl",
            reference_locator: purl(package, &sbom.os_release),
        }],
        ..named(id, &package.name)
    }
}

/// `Person: NAME (ADDRESS)` of `NAME <ADDRESS>`; a vendor of rpm is an organization.
fn supplier(text: &str, manager: Manager) -> Option<String> {
    // Parentheses would be taken for the address.
    let plain = |text: &str| text.trim().trim_matches('"').replace('(', "[").replace(')', "]").trim().to_owned();
    let kind = if manager == Manager::Rpm { "Organization" } else { "Person" };
    let (name, address) = match text.split_once('<') {
        Some((name, rest)) => (plain(name), plain(rest.split('>').next().unwrap_or_default())),
        None => (plain(text), String::new()),
    };
    match (name.as_str(), address.as_str()) {
        ("", "") => None,
        ("", address) => Some(format!("{kind}: {address}")),
        (name, "") => Some(format!("{kind}: {name}")),
        (name, address) => Some(format!("{kind}: {name} ({address})")),
    }
}

/// Whether the text is a URL of a host with a name, as readers of SPDX demand it.
fn is_web_page(text: &str) -> bool {
    let rest = ["https://", "http://", "ftp://"].iter().find_map(|scheme| text.strip_prefix(scheme));
    let host = rest.and_then(|rest| rest.split(['/', '?', '#', ':']).next()).unwrap_or_default();
    let is_label = |label: &str| !label.is_empty() && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    let top = host.rsplit('.').next().unwrap_or_default();
    let is_plain = |c: char| c.is_ascii_graphic() && !matches!(c, '"' | '<' | '>' | '\\' | '^' | '`' | '{' | '|' | '}');
    host.contains('.')
        && host.split('.').all(is_label)
        && top.len() >= 2
        && top.bytes().all(|b| b.is_ascii_alphabetic())
        && text.chars().all(is_plain)
}

fn file(file: &HashedFile) -> FileElement {
    FileElement {
        id: file_id(&file.path),
        file_name: format!(".{}", file.path),
        file_types: ["BINARY"],
        checksums: [
            Checksum { algorithm: "SHA1", checksum_value: hex::encode(file.sha1) },
            Checksum { algorithm: "SHA256", checksum_value: hex::encode(file.sha256) },
        ],
        license_concluded: NONE,
        copyright_text: NONE,
    }
}

fn relationship(from: &str, kind: &'static str, to: &str) -> Relationship {
    Relationship { spdx_element_id: from.to_owned(), relationship_type: kind, related_spdx_element: to.to_owned() }
}

/// An identifier may have letters, digits, `.` and `-`: what tells two names apart is a part of a digest.
fn package_id(package: &Package) -> String {
    let Package { manager, name, version, architecture, .. } = package;
    let key = format!("{manager}\0{name}\0{version}\0{}", architecture.as_deref().unwrap_or_default());
    format!("SPDXRef-Package-{manager}-{}-{}", identifier(name), digest(key.as_bytes()))
}

fn file_id(path: &TreePath) -> String {
    format!("SPDXRef-File-{}-{}", identifier(&String::from_utf8_lossy(path.file_name())), digest(path.as_bytes()))
}

fn digest(key: &[u8]) -> String {
    hex::encode(Sha256::digest(key).get(..8).unwrap_or_default())
}

fn identifier(text: &str) -> String {
    text.chars().map(|c| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' }).collect()
}

fn comment(sbom: &Sbom) -> String {
    let mut lines = sbom.notes.clone();
    if !sbom.gone.is_empty() {
        let gone: BTreeSet<String> =
            sbom.gone.iter().map(|package| format!("{} {}", package.name, package.version)).collect();
        let gone: Vec<String> = gone.into_iter().collect();
        lines.push(format!(
            "Listed by the package database, but nothing of them except for documentation is in the image: {}",
            gone.join(", ")
        ));
    }
    lines.join("\n")
}
