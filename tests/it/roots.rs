//! The real roots that tests work on: made by `tests/run.sh`, missing is a failure.

use std::path::{Path, PathBuf};

use tempfile::TempDir;

/// The cache of `tests/lib/root.sh`.
fn cache() -> PathBuf {
    std::env::var_os("KAIROS_INIT_CACHE").map_or_else(|| PathBuf::from("/var/cache/kairos-init-tests"), PathBuf::from)
}

fn existing(path: PathBuf) -> PathBuf {
    assert!(path.exists(), "{} is missing: run tests/run.sh, which makes it", path.display());
    path
}

/// Debian 13 with a kernel, the stub and all firmware. Never written to.
pub(crate) fn base() -> PathBuf {
    existing(std::env::var_os("KAIROS_INIT_TEST_ROOT").map_or_else(|| cache().join("base"), PathBuf::from))
}

/// The module tree of another kernel, or of the same in another form: `debian12`, `cloud`, ... of `tests/lib/kernels.sh`.
pub(crate) fn modules_of(name: &str) -> PathBuf {
    existing(cache().join(name))
}

/// Debian 13 with its own tools: ukify, systemd-measure, kmod.
pub(crate) fn tools() -> PathBuf {
    existing(cache().join("tools"))
}

/// dracut-install of Debian 13.
pub(crate) fn dracut_install() -> PathBuf {
    existing(cache().join("dracut/usr/lib/dracut/dracut-install"))
}

/// Debian 13 for 64-bit Arm, unpacked: kernel, stub, firmware.
pub(crate) fn arm64() -> PathBuf {
    existing(cache().join("arm64-base"))
}

/// A program of the environment of `install_spdx_tools` in `tests/lib/install.sh`.
pub(crate) fn spdx_tool(name: &str) -> PathBuf {
    existing(cache().join("sbom-venv/bin").join(name))
}

/// A folder inside of [`tools`], for files that its programs read and write.
pub(crate) fn tools_folder() -> TempDir {
    tempfile::Builder::new().prefix("kairos-init-test-").tempdir_in(tools().join("tmp")).unwrap()
}

/// A file of that folder as the programs inside see it.
pub(crate) fn inside_tools(folder: &TempDir, name: &str) -> String {
    let path = folder.path().join(name);
    format!("/{}", path.strip_prefix(tools()).unwrap().display())
}

/// The systemd stub of [`base`].
pub(crate) fn stub() -> Vec<u8> {
    std::fs::read(existing(base().join("usr/lib/systemd/boot/efi/linuxx64.efi.stub"))).unwrap()
}

/// The kernel image of [`base`].
pub(crate) fn kernel() -> Vec<u8> {
    let boot = base().join("boot");
    let images = std::fs::read_dir(&boot).unwrap().map(|entry| entry.unwrap().path());
    let image = images.filter(|path| name(path).starts_with("vmlinuz-")).max().unwrap();
    std::fs::read(image).unwrap()
}

fn name(path: &Path) -> String {
    path.file_name().unwrap().to_string_lossy().into_owned()
}

/// systemd-boot of another release: a suite of `tests/lib/kernels.sh`.
pub(crate) fn loader(suite: &str) -> Vec<u8> {
    std::fs::read(existing(cache().join("loaders").join(suite).join(LOADER))).unwrap()
}

/// systemd-boot of [`base`].
pub(crate) fn base_loader() -> Vec<u8> {
    std::fs::read(existing(base().join(LOADER))).unwrap()
}

const LOADER: &str = "usr/lib/systemd/boot/efi/systemd-bootx64.efi";
