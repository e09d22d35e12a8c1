# Installs packages that are missing. Sourced after common.sh.
# shellcheck shell=bash

quickstart_packages=(mmdebstrap debian-archive-keyring gcc libc6-dev file python3)
boot_packages=(qemu-system-x86 ovmf swtpm swtpm-tools mtools dosfstools python3-venv busybox-static cpio sbsigntool)
oracle_packages=(sbsigntool osslsigncode binutils cpio zstd)
test_packages=(kmod openssl xz-utils systemd-boot-efi shellcheck time efitools ovmf softhsm2 opensc python3-venv
    dosfstools mtools gdisk fdisk e2fsprogs xorriso genisoimage libarchive-tools qemu-utils rpm
    pacman-package-manager exfat-fuse exfatprogs strace)
# The fuzzer that libfuzzer-sys brings is C++.
fuzz_packages=(g++)

# install_packages PACKAGE...: only what is missing is installed, and only then are the package lists fetched.
install_packages() {
    command -v apt-get >/dev/null || die "needs Debian or Ubuntu: there is no apt-get here to install: $*"
    local missing round
    # Twice, since apt may remove one of them for the sake of another: a newer qemu-utils than the qemu-system-x86 that there is.
    for round in first second; do
        mapfile -t missing < <(missing_of "$@")
        [ ${#missing[@]} -gt 0 ] || return 0
        step "installing ${missing[*]}"
        [ "$round" = second ] || as_root apt-get -q update >/dev/null ||
            say "apt-get update failed: going on with the package lists that are here"
        as_root env DEBIAN_FRONTEND=noninteractive apt-get -q -y install --no-install-recommends "${missing[@]}" >/dev/null ||
            die "apt-get could not install: ${missing[*]}"
    done
    mapfile -t missing < <(missing_of "$@")
    [ ${#missing[@]} = 0 ] || die "these packages exclude others that are needed: ${missing[*]}"
}

# missing_of PACKAGE...: those that are not installed.
missing_of() {
    local package
    for package in "$@"; do
        dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null | grep -qx installed || say "$package"
    done | sort -u
}

# need_rust: Rust comes from its own installer, which is not ours to run.
need_rust() { command -v cargo >/dev/null || die "cargo is not on PATH: install Rust first"; }

cargo_deny_version=0.20.2
cargo_fuzz_version=0.13.2
# cargo_tool NAME VERSION: prints the path of a program that cargo builds, which is kept in the cache.
cargo_tool() {
    local name=$1 version=$2 home=$cache/$1-$2
    if [ ! -x "$home/bin/$name" ]; then
        step "installing $name $version in $cache (kept for the next time)" >&2
        # In a fresh folder outside the project: its .cargo/config.toml is for the project only.
        (cd / && cargo install "$name" --version "$version" --locked --debug --quiet --root "$home" >&2) || return 1
    fi
    say "$home/bin/$name"
}

# virt_fw_vars: path of the program that enrols keys in the variables of OVMF, from PyPI, in an environment of its own.
virt_fw_vars=$cache/venv/bin/virt-fw-vars
install_virt_fw_vars() {
    [ -e "$cache/venv.stamp" ] && return 0
    step "installing virt-firmware in $cache/venv"
    rm -rf "$cache/venv"
    if ! { python3 -m venv "$cache/venv" && "$cache/venv/bin/pip" install -q --disable-pip-version-check virt-firmware; }; then
        die "virt-firmware could not be installed with pip in $cache/venv"
    fi
    touch "$cache/venv.stamp"
}

# What judges an SBOM, from PyPI, in an environment of its own: pyspdxtools and packageurl-python.
sbom_venv=$cache/sbom-venv
install_spdx_tools() {
    [ -e "$sbom_venv.stamp" ] && return 0
    step "installing spdx-tools in $sbom_venv"
    rm -rf "$sbom_venv"
    if ! { python3 -m venv "$sbom_venv" && "$sbom_venv/bin/pip" install -q --disable-pip-version-check spdx-tools==0.8.5 packageurl-python==0.17.6; }; then
        die "spdx-tools could not be installed with pip in $sbom_venv"
    fi
    touch "$sbom_venv.stamp"
}
