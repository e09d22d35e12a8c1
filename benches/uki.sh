#!/usr/bin/env bash
# A UKI with an initrd of 512 MiB: assembled, measured (4 banks, 4 phases) and signed; verified; made of the last one. Beside cp of the
# result, the five bare hashes of it side by side, and ukify with systemd-measure and sbsign. Prints medians, ratios, and the bars
# that were set; nothing fails for being slow.
#   benches/uki.sh [N]      N runs of each (5)
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=../tests/lib/all.sh
. "$here/../tests/lib/all.sh"
# shellcheck source=../tests/lib/measure.sh
. "$here/../tests/lib/measure.sh"

runs=${1:-5}
[[ $runs =~ ^[1-9][0-9]*$ ]] || die "usage: benches/uki.sh [N]"
install_packages "${quickstart_packages[@]}" openssl cpio time
build_binary
root_base
root_tools
scratch=$cache/tools/scratch # /scratch for the programs in that root
as_root rm -rf "$scratch"
as_root install -d -m 755 -o "$(id -u)" "$scratch"
trap 'as_root rm -rf "$scratch"' EXIT
make_keys "$scratch/keys"
keys=$scratch/keys

step "an initrd of 512 MiB that does not compress"
mkdir "$scratch/tree"
head -c 536000000 /dev/urandom >"$scratch/tree/file"
ln -s file "$scratch/tree/init"
(cd "$scratch/tree" && find . | cpio -o -H newc --quiet -R 0:0) >"$scratch/initrd"
rm -r "$scratch/tree"
kernel=$(kernel_release "$cache/base")
cp "$cache/base/boot/vmlinuz-$kernel" "$scratch/linux"
cp "$cache/base/usr/lib/systemd/boot/efi/linuxx64.efi.stub" "$scratch/stub"
cp "$cache/base/usr/lib/os-release" "$scratch/osrel"

sign=(--sb-key "$keys/db.key" --sb-cert "$keys/db.pem" --pcr-key "$keys/tpm2-pcr-private.pem")
build=("$binary" uki build --stub "$scratch/stub" --linux "$scratch/linux" --initrd "$scratch/initrd" --cmdline quiet
    --os-release "@$scratch/osrel" "${sign[@]}" --output "$scratch/uki.efi")
step "medians of $runs"
measure build "${build[@]}"
measure cp cp "$scratch/uki.efi" "$scratch/copy"
# shellcheck disable=SC2016 # expanded by the inner shell
measure hashes sh -c 'for hash in sha1 sha256 sha256 sha384 sha512; do openssl dgst -$hash "$1" & done; wait' sh "$scratch/uki.efi"
measure verify "$binary" uki verify "$scratch/uki.efi" --db "$keys/db.pem" --pcr-public-key "$keys/tpm2-pcr-public.pem"

# An output folder of the whole run, as far as it is looked at.
mkdir -p "$scratch/out/uki/EFI/kairos"
mv "$scratch/uki.efi" "$scratch/out/uki/EFI/kairos/norole.efi"
digests=""
for bank in sha1 sha256 sha384 sha512; do digests+=",\"$bank\":\"$(openssl dgst -r -$bank "$scratch/initrd" | cut -d' ' -f1)\""; done
echo "{\"initrd\":{\"digests\":{${digests#,}}}}" >"$scratch/out/report.json"
measure reuse "$binary" uki build --reuse-initrd "$scratch/out" --cmdline other "${sign[@]}" --output "$scratch/uki.efi"
cat >"$scratch/ukify.sh" <<'UKIFY'
set -e
ukify build --stub /scratch/stub --linux /scratch/linux --initrd /scratch/initrd --cmdline quiet --os-release @/scratch/osrel \
    --pcr-private-key /scratch/keys/tpm2-pcr-private.pem --pcr-public-key /scratch/keys/tpm2-pcr-public.pem \
    --pcr-banks sha1,sha256,sha384,sha512 --secureboot-private-key /scratch/keys/db.key \
    --secureboot-certificate /scratch/keys/db.pem --signtool sbsign --output /scratch/ukify.efi
UKIFY
measure ukify chroot "$cache/tools" sh /scratch/ukify.sh

slower=$(printf '%s\n%s\n' "${seconds[cp]}" "${seconds[hashes]}" | sort -n | tail -n 1)
bar "build beside the slower of cp and five hashes" "$(ratio "${seconds[build]}" "$slower")" times 1.3 less
bar "verify beside the same" "$(ratio "${seconds[verify]}" "$slower")" times 1.3 less
bar "--reuse-initrd beside cp" "$(ratio "${seconds[reuse]}" "${seconds[cp]}")" times 1.5 less
for name in build verify reuse; do bar "$name, peak" "${memory[$name]}" MiB 64 less; done
row "ukify, systemd-measure and sbsign beside build" "$(ratio "${seconds[ukify]}" "${seconds[build]}")" times
row "the memory of ukify beside build's" "$(ratio "${memory[ukify]}" "${memory[build]}")" times

say
printf '%s' "$table"
