//! Packages and the SBOM, held against dpkg-query, rpm, pacman, pyspdxtools and packageurl-python.

mod databases;
mod document;
mod hostile;
mod rpms;

use std::path::Path;
use std::process::Command;

use kairos_init::root::packages::{Manager, Package, Packages, installed};
use kairos_init::root::sysroot::Sysroot;

fn read(root: &Path) -> Packages {
    installed(&Sysroot::open(root).unwrap()).unwrap()
}

/// What a command prints, which must succeed.
fn output(command: &mut Command) -> String {
    let output =
        command.output().unwrap_or_else(|error| panic!("{command:?}: {error}: run tests/run.sh, which installs it"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Lines, sorted.
fn sorted(text: &str) -> Vec<String> {
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

fn write(root: &Path, path: &str, text: impl AsRef<[u8]>) {
    let path = root.join(path);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

/// A package without anything that need not be.
fn package(manager: Manager, name: &str, version: &str, architecture: &str) -> Package {
    Package {
        name: name.to_owned(),
        version: version.to_owned(),
        architecture: Some(architecture.to_owned()),
        manager,
        source: None,
        license: None,
        homepage: None,
        supplier: None,
    }
}

/// Runs a Python program of the environment of spdx-tools.
fn python(program: &str, arguments: &[&str]) -> String {
    output(Command::new(crate::roots::spdx_tool("python3")).args(["-c", program]).args(arguments))
}
