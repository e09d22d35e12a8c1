//! What the tests of images share: an image in a file, and the programs that look at it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test's helpers fail as tests fail")]

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Output as Ran};

use kairos_init::cancel::Cancel;
use kairos_init::image::{Files, Image, ImageError, Node, Output};
use kairos_init::names::TreePath;
use sha2::{Digest, Sha256};

pub(crate) fn path(path: impl AsRef<[u8]>) -> TreePath {
    TreePath::new(path).unwrap()
}

pub(crate) fn insert(files: &mut Files, at: &str, bytes: impl Into<Vec<u8>>) {
    files.insert(path(at), Node::bytes(bytes)).unwrap();
}

pub(crate) fn try_write(image: &dyn Image, to: &Path) -> Result<(), ImageError> {
    let file = File::options().read(true).write(true).create(true).truncate(true).open(to).unwrap();
    let cancel = Cancel::default();
    let mut out = Output::new(&file, to, &cancel);
    image.write(&mut out)?;
    assert_eq!(out.position(), image.length());
    out.finish()
}

pub(crate) fn write(image: &dyn Image, to: &Path) {
    try_write(image, to).unwrap();
    assert_eq!(fs::metadata(to).unwrap().len(), image.length());
}

/// An image of zeros.
#[derive(Debug)]
pub(crate) struct Holes(pub(crate) u64);

impl Image for Holes {
    fn length(&self) -> u64 {
        self.0
    }

    fn write(&self, out: &mut Output<'_>) -> Result<(), ImageError> {
        out.zeros(self.0)
    }
}

/// Bytes that a file takes on its disk.
pub(crate) fn allocated(file: &Path) -> u64 {
    fs::metadata(file).unwrap().blocks() * 512
}

/// Runs a program in a fixed environment; one that is not there is a failure.
pub(crate) fn run<A: AsRef<OsStr>>(program: &str, arguments: impl IntoIterator<Item = A>) -> Ran {
    Command::new(program)
        .args(arguments)
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .env("LC_ALL", "C.UTF-8")
        .env("TZ", "UTC")
        .env("MTOOLSRC", "/dev/null")
        .output()
        .unwrap_or_else(|error| panic!("{program} is needed for this test: {error}"))
}

/// Runs a program that must succeed, and gives what it printed.
pub(crate) fn printed<A: AsRef<OsStr>>(program: &str, arguments: impl IntoIterator<Item = A>) -> String {
    let ran = run(program, arguments);
    let text = [String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr)].concat();
    assert!(ran.status.success(), "{program}: {}\n{text}", ran.status);
    text
}

/// A file as xorriso is told of it: what lies below `/dev`, as memory file systems do, is a drive to it otherwise.
pub(crate) fn stdio(file: &Path) -> String {
    format!("stdio:{}", file.display())
}

/// Files by path, directories with a slash behind, each with its length and digest.
pub(crate) type Listing = BTreeMap<String, (usize, String)>;

pub(crate) fn digest(bytes: &[u8]) -> (usize, String) {
    (bytes.len(), hex::encode(Sha256::digest(bytes)))
}

/// All files below a folder.
pub(crate) fn folder(dir: &Path) -> Listing {
    let mut found = BTreeMap::new();
    let mut pending = vec![dir.to_owned()];
    while let Some(directory) = pending.pop() {
        for entry in fs::read_dir(&directory).unwrap() {
            let entry = entry.unwrap().path();
            let name = entry.strip_prefix(dir).unwrap().to_str().unwrap().to_owned();
            if entry.is_dir() {
                found.insert(name + "/", digest(b""));
                pending.push(entry);
            } else {
                found.insert(name, digest(&fs::read(entry).unwrap()));
            }
        }
    }
    found
}

/// The same of what goes into an image.
pub(crate) fn listed(files: &Files) -> Listing {
    let entry = |(path, node): (&TreePath, &Node)| {
        let name = String::from_utf8(path.as_bytes().to_vec()).unwrap();
        match node {
            Node::Directory => (name + "/", digest(b"")),
            Node::File { content, .. } => (name, digest(&content.read(u64::MAX).unwrap())),
            Node::Symlink(target) => (name, digest(target)),
        }
    };
    files.iter().map(entry).collect()
}
