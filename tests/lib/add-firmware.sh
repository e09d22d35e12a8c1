#!/usr/bin/env bash
# Called by mmdebstrap with the new root, while its package lists are there: installs every firmware and microcode package of
# non-free-firmware but raspi-firmware (writes to /boot), live-task-* (no firmware), dahdi (build scripts) and
# firmware-nvidia-gsp (conflicts with the Tesla one).
set -euo pipefail
dir=$1

# Two packages ask about their licence.
chroot "$dir" debconf-set-selections <<'ANSWERS'
firmware-ipw2x00 firmware-ipw2x00/license/accepted boolean true
firmware-ivtv firmware-ivtv/license/accepted boolean true
ANSWERS

# apt knows its lists in whatever form they lie there.
packages=$(chroot "$dir" apt-cache dumpavail |
    awk '/^Package:/ { name = $2 } /^Section: non-free-firmware/ { print name }' |
    grep -vE '^(raspi-firmware|live-task|firmware-nvidia-gsp|dahdi)' | sort -u)
[ "$(wc -l <<<"$packages")" -gt 20 ] || {
    echo "only these packages of non-free-firmware were found: $packages" >&2
    exit 1
}
# shellcheck disable=SC2086 # a list of names
chroot "$dir" env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $packages \
    firmware-linux-free firmware-ath9k-htc firmware-carl9170
