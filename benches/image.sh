#!/usr/bin/env bash
# An ISO of 200 MB: a FAT boot image of one file of 190 MB and what makes it a tree, beside cp of the same files, and xorriso with
# mkfs.vfat and mtools. Prints medians, peak memory, ratios, and the bars that were set; nothing fails for being slow.
#   benches/image.sh [N]      N runs of each (5)
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=../tests/lib/all.sh
. "$here/../tests/lib/all.sh"
# shellcheck source=../tests/lib/measure.sh
. "$here/../tests/lib/measure.sh"

runs=${1:-5}
[[ $runs =~ ^[1-9][0-9]*$ ]] || die "usage: benches/image.sh [N]"
install_packages time xorriso mtools dosfstools
build_binary
root_base
scratch=$(mktemp -d "$cache/bench-image.XXXXXX")
trap 'as_root rm -rf "$scratch"' EXIT

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

bar "image iso beside cp of the tree" "$(ratio "${seconds[ours]}" "${seconds[cp]}")" times 1.3 less
bar "image iso beside mkfs.vfat, mcopy and xorriso" "$(ratio "${seconds[ours]}" "${seconds[peers]}")" times 1 less
bar "image iso, peak" "${memory[ours]}" MiB 64 less
row "the memory of the peers beside ours" "$(ratio "${memory[peers]}" "${memory[ours]}")" times
row "the size of our ISO beside the peers'" "$(ratio "$(stat -c %s "$scratch/ours.iso")" "$(stat -c %s "$scratch/peers.iso")")" times

say
printf '%s' "$table"
