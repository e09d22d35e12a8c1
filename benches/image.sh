#!/usr/bin/env bash
# An ISO of 200 MB: a FAT boot image of one file of 190 MB and what makes it a tree, beside cp of the same files, and xorriso with
# mkfs.vfat and mtools. Prints medians, peak memory, ratios, and the bars that were set; nothing fails for being slow.
#   benches/image.sh [N]      N runs of each (5)
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=../tests/lib/all.sh
. "$here/../tests/lib/all.sh"

runs=${1:-5}
[[ $runs =~ ^[1-9][0-9]*$ ]] || die "usage: benches/image.sh [N]"
install_packages time xorriso mtools dosfstools
build_binary
root_base
scratch=$(mktemp -d "$cache/bench-image.XXXXXX")
trap 'rm -rf "$scratch"' EXIT

step "an ESP tree of 200 MB that does not compress"
tree=$scratch/tree
boot=$cache/base/usr/lib/systemd/boot/efi
mkdir -p "$tree/EFI/BOOT" "$tree/EFI/kairos" "$tree/loader/entries"
head -c 176000000 /dev/urandom >"$scratch/initrd"
"$binary" uki build --stub "$boot/linuxx64.efi.stub" --linux "$cache/base/boot/vmlinuz-$(kernel_release "$cache/base")" \
    --initrd "$scratch/initrd" --cmdline quiet --os-release "@$cache/base/usr/lib/os-release" \
    --output "$tree/EFI/kairos/norole.efi" >/dev/null
rm "$scratch/initrd"
cp "$boot/systemd-bootx64.efi" "$tree/EFI/BOOT/BOOTX64.EFI"
printf 'timeout 5\n' >"$tree/loader/loader.conf"
printf 'title Kairos\nsort-key norole-0\nefi /EFI/kairos/norole.efi\n' >"$tree/loader/entries/norole.conf"
mkdir "$tree/EFI/tools"
for ((file = 0; file < 200; file++)); do head -c 50000 /dev/urandom >"$tree/EFI/tools/file$file"; done

declare -A seconds memory
# measure NAME COMMAND...: once to warm up, then $runs times; seconds[NAME] is the median, memory[NAME] the most MiB of any
# process of it.
measure() {
    local name=$1 run
    shift
    "$@" >/dev/null 2>"$scratch/stderr" || die "$name: $(tail -n 1 "$scratch/stderr")"
    : >"$scratch/times"
    for ((run = 0; run < runs; run++)); do
        # What was written before is not to be written back at this one's cost.
        sync -f "$scratch"
        /usr/bin/time -o "$scratch/time" -f '%e %M' "$@" >/dev/null 2>"$scratch/stderr" ||
            die "$name: $(tail -n 1 "$scratch/stderr")"
        cat "$scratch/time" >>"$scratch/times"
    done
    seconds[$name]=$(sort -n "$scratch/times" | awk '{ t[NR] = $1 } END { print t[int((NR + 1) / 2)] }')
    memory[$name]=$(sort -n -k2 "$scratch/times" | awk 'END { printf "%.0f", $2 / 1024 }')
    say "    $name: ${seconds[$name]} s, ${memory[$name]} MiB"
}

# The same by the peers: a FAT file system of the tree's size and a tenth, and an ISO around it. The time stamps of all are fixed.
cat >"$scratch/peers.sh" <<'PEERS'
set -e
tree=$1 scratch=$2
rm -rf "$scratch/iso" "$scratch/peers.iso"
mkdir "$scratch/iso"
kib=$(du -sk --apparent-size "$tree" | cut -f1)
mkfs.vfat -F 32 -i 12345678 -C "$scratch/iso/efiboot.img" $((kib * 11 / 10 / 1024 * 1024 + 1024))
mcopy -s -i "$scratch/iso/efiboot.img" "$tree/EFI" "$tree/loader" ::
xorriso -as mkisofs -quiet -V UKI_ISO_INSTALL -e efiboot.img -no-emul-boot -o "$scratch/peers.iso" "$scratch/iso"
PEERS

step "medians of $runs"
# A fresh copy each time.
# shellcheck disable=SC2016 # expanded by the inner shell
measure cp sh -c 'rm -rf "$2"; cp -r "$1" "$2"' sh "$tree" "$scratch/copy"
measure ours "$binary" image iso "$tree" --output "$scratch/ours.iso"
PATH=$PATH:/usr/sbin:/sbin measure peers sh "$scratch/peers.sh" "$tree" "$scratch"

ratio() { awk -v a="$1" -v b="$2" 'BEGIN { printf "%.2f", a / (b > 0 ? b : 0.01) }'; }
say ""
# bar WHAT VALUE UNIT BAR
bar() {
    printf '%-70s %8.2f %-6s (at most %s)  %s\n' "$1" "$2" "$3" "$4" "$(awk -v a="$2" -v b="$4" 'BEGIN { print (a <= b ? "met" : "MISSED") }')"
}
bar "image iso beside cp of the tree" "$(ratio "${seconds[ours]}" "${seconds[cp]}")" times 1.3
bar "image iso beside mkfs.vfat, mcopy and xorriso" "$(ratio "${seconds[ours]}" "${seconds[peers]}")" times 1
bar "image iso, peak" "${memory[ours]}" MiB 64
printf '%-70s %8.2f times\n' "the memory of the peers beside ours" "$(ratio "${memory[peers]}" "${memory[ours]}")"
printf '%-70s %8.2f times\n' "the size of our ISO beside the peers'" \
    "$(ratio "$(stat -c %s "$scratch/ours.iso")" "$(stat -c %s "$scratch/peers.iso")")"
