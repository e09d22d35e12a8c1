#!/usr/bin/env bash
# Called by mmdebstrap with a folder whose package lists are there: downloads $KERNEL_PACKAGES to $KERNEL_DEBS.
# `meta:NAME` stands for the kernel image that the metapackage NAME depends on.
set -euo pipefail
export APT_CONFIG=$MMDEBSTRAP_APT_CONFIG
cd "$KERNEL_DEBS"
packages=()
for package in $KERNEL_PACKAGES; do
    if [[ $package = meta:* ]]; then
        image=$(apt-cache depends --no-recommends --no-suggests "${package#meta:}" |
            awk '$1 == "Depends:" && $2 ~ /^linux-image-/ && !found { print $2; found = 1 }')
        [ -n "$image" ] || {
            echo "${package#meta:} depends on no kernel image" >&2
            exit 1
        }
        # From Debian 14 on the modules and the lists beside them are packages of their own, and the image depends on both.
        mapfile -t split < <(apt-cache depends --no-recommends --no-suggests "$image" |
            awk '$1 == "Depends:" && $2 ~ /^linux-(base|modules)-[0-9]/ { print $2 }')
        packages+=("${split[@]}")
        package=$image
    fi
    packages+=("$package")
done
# As root: nobody else may write there, and apt would warn.
apt-get -q -o APT::Sandbox::User=root download "${packages[@]}"
