# Module trees of other kernels, for the tests of the indexes, kept in the cache like the roots. Sourced after root.sh.
#
#   debian12  Debian 12's kernel (6.1, plain .ko), indexes by Debian 12's kmod 30: other headings, no modules.weakdep
#   debian11  Debian 11's kernel (5.10): older than any that is promised
#   backports the newest kernel that Debian 13 offers, in its backports: newer than any that is promised
#   cloud     Debian 13's kernel for clouds (.ko.xz)
#   arm64     Debian 13's kernel for arm64 (.ko.xz)
#   unpacked  the modules of 'base' as plain .ko
#   zst, gz   the modules of 'cloud' as .ko.zst and .ko.gz
#   symvers   Module.symvers of the kernel of 'base', from its headers, by release
#   dracut    dracut-install of Debian 13, another program's closure
#   loaders   systemd-boot of other releases than 'base' has: Debian 12, its backports, and the next Debian, by suite
#
# Nothing but usr/lib/modules (and the link lib) is in those of kernels. Indexes are by kmod of 'tools' where nothing else is said.
# shellcheck shell=bash

kernels_recipe=1

# debs DIR SUITE ARCHITECTURE PACKAGE...: downloads the packages to DIR, with package lists of their own. `meta:NAME` stands
# for the kernel image that the metapackage NAME depends on.
debs() {
    local mirror dir=$1 suite=$2 architecture=$3 lists=$1/lists validity=()
    shift 3
    mirror=$(debian_mirror)
    as_root mkdir -p "$dir"
    # Lists of a Debian that is not released yet are good for a week, and a mirror that is a copy of some day has older ones; they are
    # signed all the same.
    [ "$suite" != forky ] || validity=(--aptopt='Acquire::Check-Valid-Until "false"')
    as_root env "KERNEL_PACKAGES=$*" "KERNEL_DEBS=$dir" mmdebstrap --mode=root --variant=custom --skip=check/qemu \
        "${validity[@]}" --architectures="$architecture" --components=main --keyring="$keyring" \
        --customize-hook="$project/tests/lib/download-debs.sh" "$suite" "$lists" ${mirror:+"$mirror"} &&
        as_root rm -rf "$lists"
}

# unpack_modules DIR DEB...: only the module trees of the packages, to DIR/usr/lib/modules.
unpack_modules() {
    local dir=$1 deb
    shift
    as_root mkdir -p "$dir/usr/lib"
    as_root ln -s usr/lib "$dir/lib"
    for deb in "$@"; do
        # linux-base of Debian 14 has lists for some kernels only.
        dpkg-deb --contents "$deb" | grep lib/modules/ >/dev/null || continue
        as_root dpkg-deb --fsys-tarfile "$deb" |
            as_root tar -x -C "$dir" --no-same-owner --wildcards --keep-directory-symlink './*lib/modules/*' || return 1
    done
    # They lead to the sources of the headers' package.
    as_root rm -f "$dir"/usr/lib/modules/*/build "$dir"/usr/lib/modules/*/source
}

# kmod_of ROOT TOOL ARGUMENT...: kmod of ROOT with the loader and libraries of 'tools'.
kmod_of() {
    local root=$1 tool=$2
    shift 2
    as_root "$cache/tools/usr/lib64/ld-linux-x86-64.so.2" \
        --library-path "$root/usr/lib/x86_64-linux-gnu:$root/lib/x86_64-linux-gnu:$cache/tools/usr/lib/x86_64-linux-gnu" \
        --argv0 "$tool" "$root/bin/kmod" "$@"
}

index() { kmod_of "${2:-$cache/tools}" depmod -b "$1" "$(kernel_release "$1")"; }

# each_module DIR PATTERN COMMAND...: COMMAND on the files, many at once, on all cores.
each_module() {
    local dir=$1 pattern=$2
    shift 2
    as_root find "$dir/usr/lib/modules" -name "$pattern" -print0 | as_root xargs -0 -r -n 64 -P "$(nproc)" "$@"
}

fill_debian12() {
    debs "$1/debs" bookworm amd64 meta:linux-image-amd64 kmod libkmod2 &&
        unpack_modules "$1" "$1"/debs/linux-image-*.deb || return 1
    local deb
    for deb in "$1"/debs/*kmod*.deb; do as_root dpkg-deb -x "$deb" "$1/debs/kmod" || return 1; done
    index "$1" "$1/debs/kmod" && as_root rm -rf "$1/debs"
}

fill_packaged() {
    debs "$1/debs" "${4:-$suite}" "$2" "meta:$3" && unpack_modules "$1" "$1"/debs/*.deb && index "$1" && as_root rm -rf "$1/debs"
}
fill_cloud() { fill_packaged "$1" amd64 linux-image-cloud-amd64; }
fill_debian11() { fill_packaged "$1" amd64 linux-image-amd64 bullseye; }
fill_backports() { fill_packaged "$1" amd64 linux-image-amd64 "$suite-backports"; }
fill_arm64() { fill_packaged "$1" arm64 linux-image-arm64; }

# copied_modules DIR FROM: the modules and the kernel build's own files, without indexes.
copied_modules() {
    as_root mkdir -p "$1/usr/lib" && as_root ln -s usr/lib "$1/lib" &&
        as_root cp -a --reflink=auto "$cache/$2/usr/lib/modules" "$1/usr/lib/"
}
fill_unpacked() { copied_modules "$1" base && each_module "$1" '*.ko.xz' xz -d && index "$1"; }
fill_zst() {
    copied_modules "$1" cloud && each_module "$1" '*.ko.xz' xz -d && each_module "$1" '*.ko' zstd -q --rm && index "$1"
}
# Debian's kmod is built without zlib: the indexes are those of the same modules under their other names.
fill_gz() {
    copied_modules "$1" cloud && each_module "$1" '*.ko.xz' xz -d && each_module "$1" '*.ko' gzip -n || return 1
    as_root sed -i 's/\.ko\.xz/.ko.gz/g' "$1"/usr/lib/modules/*/modules.dep && as_root rm "$1"/usr/lib/modules/*/modules.dep.bin
}

fill_symvers() {
    local release
    release=$(kernel_release "$cache/base")
    debs "$1/debs" "$suite" amd64 "linux-headers-$release" || {
        echo "the mirror has no headers of $release any more: remove $cache/base.stamp, so that 'base' is made again"
        return 1
    }
    as_root dpkg-deb --fsys-tarfile "$1"/debs/*.deb | as_root tar -x -C "$1/debs" --wildcards '*/Module.symvers' &&
        as_root find "$1/debs" -name Module.symvers -exec mv {} "$1/$release" \; && as_root rm -rf "$1/debs" && [ -s "$1/$release" ]
}

fill_dracut() {
    debs "$1/debs" "$suite" amd64 dracut-install && as_root dpkg-deb -x "$1"/debs/dracut-install*.deb "$1" && as_root rm -rf "$1/debs"
}

fill_loaders() {
    local release
    for release in bookworm bookworm-backports forky; do
        debs "$1/debs" "$release" amd64 systemd-boot-efi && as_root dpkg-deb -x "$1"/debs/systemd-boot-efi_*.deb "$1/$release" &&
            as_root rm -rf "$1/debs" || return 1
    done
}

root_kernels() {
    root_base
    root_tools
    local name
    for name in debian11 debian12 backports cloud arm64 dracut loaders; do make_root "$name" "$kernels_recipe" "fill_$name"; done
    for name in unpacked symvers; do make_root "$name" "$kernels_recipe-$(kernel_release "$cache/base")" "fill_$name"; done
    for name in zst gz; do make_root "$name" "$kernels_recipe-$(kernel_release "$cache/cloud")" "fill_$name"; done
}
