#!/usr/bin/env bash
# Prints the table of targets that stands in kmod-db/README.md: what each keeps of Debian 13's kernel and firmware, its UKI (zstd
# level 12, unsigned), and how much of what the whole kernel drives of the devices that people have is driven still.
#   benches/sizes.sh
# The UKIs are made of the tests' roots 'base' and 'arm64-base'. Devices of the population are those of x86 machines.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=../tests/lib/all.sh
. "$here/../tests/lib/all.sh"

install_packages "${quickstart_packages[@]}"
build_binary
root_base
root_arm64
work=$project/target/sizes
as_root rm -rf "$work"
mkdir -p "$work"

# shares TARGET: percent, rounded down, of the sightings of disk controllers, Ethernet and USB controllers.
shares() {
    "$binary" hardware coverage --root "$cache/base" --hardware "$1" --json --quiet | python3 -c 'import json, sys
classes = json.load(sys.stdin)["classes"]
def share(wanted):
    sums = [sum_ for name, sum_ in classes.items() if wanted(name)]
    driven = sum(s["driven_seen"] for s in sums)
    return "%.2f %%" % (int(10000 * sum(s["kept_seen"] for s in sums) / driven) / 100)
print(" | ".join(share(wanted) for wanted in (lambda name: name.startswith("storage/"), lambda name: name == "net/ethernet",
                                              lambda name: name == "usb controller")))'
}

# rows ROOT: name, modules, bytes, firmware, bytes of each target that is for the root's kernel.
rows() {
    "$binary" hardware list --root "$1" --json --quiet | python3 -c 'import json, sys
for target in json.load(sys.stdin)["targets"]:
    if "modules" in target:
        print(target["name"], target["modules"], target["module_bytes"], target["firmware"], target["firmware_bytes"])'
}

mib() { awk -v bytes="$1" 'BEGIN { printf "%.1f MiB", bytes / 1048576 }'; }

echo "| target | modules | firmware | UKI | storage | Ethernet | USB |"
echo "|---|---|---|---|---|---|---|"
# table ROOT WITH_SHARES
table() {
    local name modules module_bytes firmware firmware_bytes uki row
    rows "$1" >"$work/rows"
    while read -r name modules module_bytes firmware firmware_bytes; do
        [ "$2" = yes ] || [ "$name" != all ] || continue
        as_root "$binary" --root "$1" --stage build --target uki --hardware "$name" --output "$work/out" --unsigned --quiet \
            >/dev/null 2>"$work/stderr" </dev/null || die "$name: $(tail -n 1 "$work/stderr")"
        uki=$(stat -c %s "$work/out/uki/EFI/kairos/norole.efi")
        as_root rm -rf "$work/out"
        row="| \`$name\` | $modules, $(mib "$module_bytes") | $firmware, $(mib "$firmware_bytes") | $(mib "$uki") |"
        if [ "$2" = yes ]; then row="$row $(shares "$name") |"; else row="$row | | |"; fi
        echo "$row"
    done <"$work/rows"
}

table "$cache/base" yes
table "$cache/arm64-base" no
as_root rm -rf "$work"
