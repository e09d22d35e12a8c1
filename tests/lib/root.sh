# The root file systems that the tests work on, made once and kept in the cache. Sourced after common.sh and install.sh.
#
#   base   what the main job gets: Debian 13 with a kernel and every firmware and microcode package of the distribution
#   boot   a copy of base with the marker unit of the boot tests, and e2fsprogs for it
#   unseal the guest of the boot test of that name: Debian 13 with what unlocks a disk by its TPM
#   arm64-base  the same packages for 64-bit Arm, unpacked (nothing of it can run here), with the firmware of base
#   tools  Debian 13's own programs, as oracles: ukify, systemd-measure, mkosi, depmod, modprobe
#
# Each is built as a temporary folder and renamed when it is complete. NAME.stamp holds the version of its recipe: a
# changed recipe builds the root again. Nothing may write into a finished root.
# shellcheck shell=bash

suite=trixie
base_recipe=1
tools_recipe=1
keyring=/usr/share/keyrings/debian-archive-keyring.gpg

# The Debian mirror of this machine; nothing where it has none (Ubuntu): mmdebstrap then takes its default.
debian_mirror() {
    {
        cat /etc/apt/sources.list.d/*.sources | awk '/^URIs:/ { print $2 }'
        cat /etc/apt/sources.list /etc/apt/sources.list.d/*.list |
            awk '$1 == "deb" { for (i = 2; i <= NF; i++) if ($i ~ /^[a-z+]+:\/\//) print $i }'
    } 2>/dev/null | awk '/\/debian\/?$/ && !found { print; found = 1 }' || true
}

# make_root NAME RECIPE FUNCTION: FUNCTION fills the folder that it is given.
make_root() {
    local name=$1 recipe=$2 fill=$3 dir=$cache/$1 stamp=$cache/$1.stamp
    [ "$(cat "$stamp" 2>/dev/null)" = "$recipe" ] && [ -d "$dir" ] && return 0
    step "making the root '$name' in $cache (kept for the next time)"
    as_root rm -rf "$dir" "$stamp" "$dir".tmp.*
    local new
    new=$(mktemp -d "$dir.tmp.XXXXXX")
    as_root chmod 755 "$new"
    "$fill" "$new" >"$cache/$name.log" 2>&1 || {
        tail -n 5 "$cache/$name.log" >&2
        die "the root '$name' could not be made: see $cache/$name.log"
    }
    as_root mv "$new" "$dir"
    echo "$recipe" >"$stamp"
}

# bootstrap DIR COMPONENTS PACKAGES OPTION...
bootstrap() {
    local mirror dir=$1 components=$2 packages=$3
    shift 3
    mirror=$(debian_mirror)
    as_root mmdebstrap --variant=minbase --components="$components" --keyring="$keyring" --include="$packages" "$@" \
        "$suite" "$dir" ${mirror:+"$mirror"}
}

# What systemd loads to speak to a TPM.
tss_packages=libtss2-esys-3.0.2-0t64,libtss2-mu-4.0.1-0t64,libtss2-rc0t64,libtss2-tcti-device0t64
root_packages=systemd,systemd-sysv,udev,kmod,dbus,iproute2,zstd

fill_base() {
    bootstrap "$1" main,non-free-firmware \
        "$root_packages,linux-image-amd64,systemd-boot-efi" \
        --customize-hook="$project/tests/lib/add-firmware.sh"
}

fill_tools() {
    bootstrap "$1" main \
        systemd-ukify,systemd-boot-efi,python3-pefile,mkosi,kmod,sbsigntool,binutils,cpio,zstd,xz-utils,file,time
}

# The packages' scripts would have to run: no system, but all that a UKI is made of. Firmware is the same on every architecture.
fill_arm64-base() {
    local mirror
    mirror=$(debian_mirror)
    as_root mmdebstrap --variant=extract --skip=check/qemu --architectures=arm64 --components=main --keyring="$keyring" \
        --include="$root_packages,linux-image-arm64,systemd-boot-efi" "$suite" "$1" ${mirror:+"$mirror"} &&
        as_root cp -a --reflink=auto "$cache/base/usr/lib/firmware" "$1/usr/lib/" && index "$1"
}

fill_boot() {
    local dir=$1 guest=$project/tests/lib/guest deb
    as_root cp -a --reflink=auto "$cache/base/." "$dir" &&
        debs "$dir/debs" "$suite" amd64 e2fsprogs libext2fs2t64 || return 1
    for deb in "$dir"/debs/*.deb; do as_root dpkg-deb --fsys-tarfile "$deb" | as_root tar -x -C "$dir" --keep-directory-symlink || return 1; done
    as_root rm -rf "$dir/debs" &&
        as_root install -m 755 "$guest/kairos-init-test" "$guest/kairos-init-tpm-log" "$dir/usr/local/sbin/" &&
        as_root install -D -m 644 -t "$dir/usr/local/lib" "$guest/kairos-init-tpm" &&
        as_root install -m 644 "$guest/kairos-init-test.service" "$dir/etc/systemd/system/" &&
        as_root ln -s ../kairos-init-test.service "$dir/etc/systemd/system/multi-user.target.wants/"
}

# A guest that can unlock a disk by its TPM. systemd would extend PCR 11 by itself, some words too few: this root has no initrd.
fill_unseal() {
    local dir=$1 guest=$project/tests/lib/guest unit
    bootstrap "$dir" main "$root_packages,linux-image-amd64,systemd-boot-efi,cryptsetup-bin,systemd-cryptsetup,$tss_packages" || return 1
    for unit in systemd-pcrphase-sysinit systemd-pcrphase systemd-pcrphase-initrd systemd-pcrmachine systemd-tpm2-setup \
        systemd-tpm2-setup-early; do
        as_root ln -sf /dev/null "$dir/etc/systemd/system/$unit.service" || return 1
    done
    as_root install -m 755 "$guest/kairos-init-unseal" "$dir/usr/local/sbin/kairos-init-test" &&
        as_root install -D -m 644 -t "$dir/usr/local/lib" "$guest/kairos-init-tpm" &&
        as_root install -m 644 "$guest/kairos-init-test.service" "$dir/etc/systemd/system/" &&
        as_root ln -s ../kairos-init-test.service "$dir/etc/systemd/system/multi-user.target.wants/"
}

root_base() { make_root base "$base_recipe" fill_base; }
root_unseal() { make_root unseal "$base_recipe-$(fingerprint "$project"/tests/lib/guest/*)" fill_unseal; }
root_arm64() {
    root_base
    root_tools
    make_root arm64-base "$base_recipe" fill_arm64-base
}
root_tools() { make_root tools "$tools_recipe" fill_tools; }
root_boot() {
    root_base
    make_root boot "$base_recipe-$(fingerprint "$project"/tests/lib/guest/*)" fill_boot
}

# kernel_release DIR: the only kernel of a root that was made here.
kernel_release() { ls "$1/usr/lib/modules"; }
