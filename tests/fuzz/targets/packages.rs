//! Package databases: the first byte says in which form. An error or a list, sorted, of words that can be printed; and what it lists
//! makes a document.
#![no_main]

use kairos_init::image::sbom::{OsRelease, Sbom, document, purl};
use kairos_init::names::TreePath;
use kairos_init::root::packages::{Form, PackagesError, parse};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Some((form, bytes)) = bytes.split_first() else { return };
    let forms = [Form::Dpkg, Form::Apk, Form::Pacman, Form::RpmSqlite, Form::RpmNdb];
    let form = forms[usize::from(*form) % forms.len()];
    let found = match parse(form, bytes, &TreePath::root()) {
        Ok(found) => found,
        Err(PackagesError::Damaged { .. }) => return,
        Err(other) => panic!("{other}"),
    };
    assert!(found.packages.is_sorted() && found.gone.is_empty());
    let os_release = OsRelease { id: "debian".to_owned(), version_id: "13".to_owned(), pretty_name: String::new() };
    for package in &found.packages {
        for word in [Some(&package.name), Some(&package.version), package.architecture.as_ref()].into_iter().flatten() {
            assert!(!word.is_empty() && !word.contains(|c: char| c.is_control() || c.is_whitespace()), "{word:?}");
        }
        let purl = purl(package, &os_release);
        assert!(purl.bytes().all(|byte| byte.is_ascii_graphic()), "{purl}");
    }
    let sbom = Sbom {
        name: "x".to_owned(),
        version: None,
        tool_version: "0".to_owned(),
        created: 0,
        os_release,
        packages: found.packages,
        gone: Vec::new(),
        notes: found.warnings,
        kernel: None,
        modules: Vec::new(),
        firmware: Vec::new(),
    };
    let document = document(&sbom);
    assert!(serde_json::from_str::<serde_json::Value>(&document).is_ok());
});
