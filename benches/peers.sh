#!/usr/bin/env bash
# The program beside its peers: the same root, a warm page cache, one process at a time. Prints medians, ratios and the bars
# that were set; nothing fails for being slow.
#   benches/peers.sh [N]      N runs of each (5); the unslimmed whole run is made once
# Peers, of Debian 13 (in the roots 'tools' and 'dracut' of the tests): mkosi's resolver, dracut-install, depmod, ukify with
# systemd-measure and sbsign, zstd.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=../tests/lib/all.sh
. "$here/../tests/lib/all.sh"
# shellcheck source=../tests/lib/measure.sh
. "$here/../tests/lib/measure.sh"

runs=${1:-5}
[[ $runs =~ ^[1-9][0-9]*$ ]] || die "usage: benches/peers.sh [N]"

install_packages "${quickstart_packages[@]}" zstd cpio time
build_binary
root_base
root_tools
root_kernels
as_root rm -rf "$cache/tools/scratch"
scratch=$cache/tools/scratch # /scratch for the programs in that root
as_root install -d -m 755 -o "$(id -u)" "$scratch"
work=$project/target/peers
mkdir -p "$work"
trap 'as_root rm -rf "$scratch"' EXIT
root=$cache/base
kernel=$(kernel_release "$root")
keys=$work/keys
make_keys "$keys"

step "versions"
say "    $("$binary" version | head -n 1)"
for program in "mkosi --version" "ukify --version" "kmod --version" "sbsign --version" "zstd --version"; do
    # shellcheck disable=SC2086 # a command and its option
    say "    $(as_root chroot "$cache/tools" $program 2>&1 | head -n 1)"
done
say "    $(nproc) cores, root: $root, kernel $kernel, $(find "$root/usr/lib/modules" -name '*.ko*' | wc -l) modules"

step "inventory and selection"
cat >"$work/mkosi_resolver.py" <<'PYTHON'
# mkosi's own functions on the root, with regular expressions about as broad as x86-generic. Only the call of modinfo is
# replaced: the root's own modinfo by chroot, where mkosi would use its sandbox.
import subprocess, sys, types
from pathlib import Path
import mkosi.kmod
root, kernel = Path(sys.argv[1]), sys.argv[2]
mkosi.kmod.modinfo = lambda context, kver, modules: subprocess.run(
    ["chroot", root, "modinfo", "--set-version", kver, "--null", *modules], stdout=subprocess.PIPE, text=True, check=False).stdout.strip()
include = ["^(crypto|arch|fs|block|lib|net)/",
           "^drivers/(ata|scsi|nvme|block|md|virtio|hv|xen|usb|hid|input|char|mmc|message|net/ethernet|net/phy)/"]
context = types.SimpleNamespace(root=root)
files = list(mkosi.kmod.gen_required_kernel_modules(context, kernel, include=include, exclude=[".*"]))
modules = sum(".ko" in file.name for file in files)
assert modules > 500, modules
print(modules, "modules", len(files) - modules, "other paths")
PYTHON
measure plan "$binary" plan --root "$root" --hardware x86-generic --quiet
measure mkosi env PYTHONPATH="$cache/tools/usr/lib/python3/dist-packages" python3 "$work/mkosi_resolver.py" "$root" "$kernel"
bar "inventory + select: mkosi's resolver ${seconds[mkosi]} s, plan ${seconds[plan]} s" "$(ratio "${seconds[mkosi]}" "${seconds[plan]}")" times 10 more
rm -rf "$work/cache"
measure plan-warm "$binary" plan --root "$root" --hardware x86-generic --cache "$work/cache" --quiet
row "plan with a warm --cache ${seconds[plan-warm]} s, without ${seconds[plan]} s" "$(ratio "${seconds[plan]}" "${seconds[plan-warm]}")" times
# The same modules by name. It has no other way to say what it found than to copy it.
"$binary" plan --root "$root" --hardware x86-generic --json --quiet |
    python3 -c 'import json, sys
print("\n".join(item["path"].rsplit("/", 1)[1].split(".ko")[0] for item in json.load(sys.stdin)["modules"]["items"] if item["kept"]))' \
        >"$work/names"
loader=("$cache/tools/usr/lib64/ld-linux-x86-64.so.2" --library-path "$cache/tools/usr/lib/x86_64-linux-gnu")
# shellcheck disable=SC2016 # expanded by the inner shell
measure dracut-install sh -c 'rm -rf "$1" && mkdir "$1" && names=$(cat "$2") && shift 2 && exec "$@" $names' sh "$work/dracut" "$work/names" \
    "${loader[@]}" "$cache/dracut/usr/lib/dracut/dracut-install" -D "$work/dracut" --kerneldir "$root/usr/lib/modules/$kernel" \
    --firmwaredirs "$root/usr/lib/firmware" -m
rm -rf "$work/dracut"
row "the closure of the same modules: dracut-install (and copying) ${seconds[dracut-install]} s, plan ${seconds[plan]} s" \
    "$(ratio "${seconds[dracut-install]}" "${seconds[plan]}")" times

# bench NAME ITEM: the median of a divan bench, in seconds.
bench() {
    (cd "$project" && KAIROS_INIT_TEST_ROOT=$root cargo bench --locked --quiet --bench "$1" -- "$2") |
        awk -F '│' -v item="$2" '$1 ~ item && $3 ~ /s/ { split($3, median, " "); unit["s"] = 1; unit["ms"] = 1e-3; unit["µs"] = 1e-6
            print median[1] * unit[median[2]] }'
}
say "    step by step, within one process: cargo bench --bench inventory"
for item in decompression cold selection warm; do seconds[$item]=$(bench inventory "$item"); done
bar "what modules declare, cold ${seconds[cold]} s; decompressed to the end of .modinfo ${seconds[decompression]} s" \
    "$(ratio "${seconds[cold]}" "${seconds[decompression]}")" times 1.5 less
bar "selection, its metadata at hand" "$(ratio "${seconds[selection]}" 0.001)" ms 60 less
bar "inventory, cached metadata, selection" "$(ratio "${seconds[warm]}" 0.001)" ms 60 less

step "10,000 captured machines, and the population"
# 80 devices each: of the corpus, and of all that people have, so that few machines share one.
python3 - "$here/../kmod-db/pci-population.tsv" "$work/captures" <<'PYTHON'
import os, random, sys
rows = [line.split("\t") for line in open(sys.argv[1]) if not line.startswith("#")]
pool = ["pci:v0000%sd0000%ssv00001028sd000006B9bc02sc00i00" % (row[1].upper(), row[2].upper()) for row in rows]
os.makedirs(sys.argv[2], exist_ok=True)
random.seed(1)
for number in range(10000):
    with open("%s/%05d.capture" % (sys.argv[2], number), "w") as file:
        file.write("kairos-init capture 1\narchitecture x86_64\n" + "\n".join(random.sample(pool, 80)) + "\n")
PYTHON
# Some of them lose their network to x86-generic, for want of a wire: exit code 1 is no failure of the bench.
measure hardware-check sh -c '"$@" || [ $? = 1 ]' sh "$binary" hardware check "$work/captures" --root "$root" --hardware x86-generic --quiet
measure coverage "$binary" hardware coverage --root "$root" --hardware x86-generic --quiet
rm -rf "$work/captures"
bar "hardware check of 10,000 captures" "${seconds[hardware-check]}" s 5 less
bar "hardware check, peak memory" "${memory[hardware-check]}" MiB 200 less
bar "hardware coverage" "${seconds[coverage]}" s 0.5 less

step "indexes of the modules that x86-generic keeps"
slimmed=$work/slimmed
modules=usr/lib/modules/$kernel
as_root rm -rf "$slimmed"
mkdir -p "$slimmed/$modules"
ln -s usr/lib "$slimmed/lib"
cp "$root/$modules"/modules.{order,builtin,builtin.modinfo} "$slimmed/$modules/"
"$binary" plan --root "$root" --hardware x86-generic --json --quiet |
    python3 -c 'import json, sys
print("\n".join(item["path"].lstrip("/") for item in json.load(sys.stdin)["modules"]["items"] if item["kept"]))' |
    (cd "$root" && xargs cp --parents -t "$slimmed")
# shellcheck disable=SC2209 # the name of the tool, not its output
measure depmod "${loader[@]}" \
    --argv0 depmod "$cache/tools/usr/bin/kmod" -b "$slimmed" "$kernel"
# Within one process: the inventory and the selection are there when the indexes are made.
say "    indexes: cargo bench --bench depmod"
seconds[indexes]=$(bench depmod indexes)
bar "index writing: depmod ${seconds[depmod]} s, ours ${seconds[indexes]} s" "$(ratio "${seconds[depmod]}" "${seconds[indexes]}")" times 10 more
rm -rf "$slimmed"

step "a UKI from a 138 MB initrd: assembled, measured (4 banks, 4 phases), signed"
head -c 138000000 /dev/urandom >"$scratch/initrd"
cp "$root/boot/vmlinuz-$kernel" "$scratch/linux"
cp "$root/usr/lib/systemd/boot/efi/linuxx64.efi.stub" "$scratch/stub"
cp "$root/usr/lib/os-release" "$scratch/osrel"
cp "$keys/db.key" "$keys/db.pem" "$keys/tpm2-pcr-private.pem" "$keys/tpm2-pcr-public.pem" "$scratch/"
measure uki-build "$binary" uki build --linux "$scratch/linux" --initrd "$scratch/initrd" --stub "$scratch/stub" \
    --os-release "@$scratch/osrel" --uname "$kernel" --cmdline "console=ttyS0" --sb-key "$scratch/db.key" \
    --sb-cert "$scratch/db.pem" --pcr-key "$scratch/tpm2-pcr-private.pem" --output "$scratch/ours.efi" --quiet
measure ukify chroot "$cache/tools" ukify build --linux=/scratch/linux --initrd=/scratch/initrd --stub=/scratch/stub \
    --os-release=@/scratch/osrel --uname="$kernel" --cmdline="console=ttyS0" --measure \
    --pcr-private-key=/scratch/tpm2-pcr-private.pem --pcr-public-key=/scratch/tpm2-pcr-public.pem \
    --pcr-banks=sha1,sha256,sha384,sha512 --secureboot-private-key=/scratch/db.key \
    --secureboot-certificate=/scratch/db.pem --output=/scratch/theirs.efi
bar "uki build: ukify ${seconds[ukify]} s, ours ${seconds[uki-build]} s" "$(ratio "${seconds[ukify]}" "${seconds[uki-build]}")" times 6 more
bar "uki build, peak memory (ukify ${memory[ukify]} MiB)" "${memory[uki-build]}" MiB 64 less
as_root rm -f "$scratch/initrd" "$scratch/ours.efi" "$scratch/theirs.efi"

step "the whole run beside zstd alone on the same cpio: same level, window, job size, two workers"
# whole NAME LEVEL OPTION...: what `measure` times.
whole() {
    local name=$1 level=$2
    shift 2
    as_root rm -rf "$work/out"
    # shellcheck disable=SC2016 # expanded by the inner shell: the output folder of the run before is in the way
    measure "$name" sh -c 'rm -rf "$1"; shift; exec "$@"' sh "$work/out" "$binary" --root "$root" --stage build \
        --target uki --output "$work/out" --sb-key "$keys/db.key" --sb-cert "$keys/db.pem" \
        --pcr-key "$keys/tpm2-pcr-private.pem" --compression "zstd:$level" --jobs 2 --quiet "$@"
}
for level in 3 12; do
    whole "whole-$level" "$level" --hardware x86-generic
    python3 "$here/../tests/lib/pe.py" dump "$work/out/uki/EFI/kairos/norole.efi" "$work/sections"
    zstd -q -d -f --long=27 "$work/sections/initrd" -o "$scratch/initrd.cpio"
    measure "zstd-$level" chroot "$cache/tools" zstd -q -c "-$level" --long=27 -T2 -B16777216 /scratch/initrd.cpio
    text="whole run, level $level: ${seconds[whole-$level]} s, zstd alone ${seconds[zstd-$level]} s"
    relation=$(ratio "${seconds[whole-$level]}" "${seconds[zstd-$level]}")
    if [ "$level" = 12 ]; then bar "$text" "$relation" times 1.25 less; else row "$text" "$relation" times; fi
done
row "uncompressed cpio" "$(awk -v b="$(stat -c %s "$scratch/initrd.cpio")" 'BEGIN { print b / 1048576 }')" MiB
bar "whole run, slimmed, level 12, peak memory" "${memory[whole-12]}" MiB 400 less
cp "$work/out/report.json" "$work/slim.json"
whole root-to-iso 12 --hardware x86-generic --artifact uki,iso
bar "root to ISO, level 12: ${seconds[root-to-iso]} s, zstd alone ${seconds[zstd-12]} s" "$(ratio "${seconds[root-to-iso]}" "${seconds[zstd-12]}")" times 1.3 less
once=$runs
runs=1
whole whole-full 12
runs=$once
bar "whole run, unslimmed, level 12, peak memory (${seconds[whole-full]} s)" "${memory[whole-full]}" MiB 400 less
rm -rf "$work/sections" "$scratch/initrd.cpio"

step "modules and firmware, compressed at level 12: all of them beside the kept ones"
# packed: bytes of the files named on standard input, as the initrd would hold them.
packed() {
    (cd "$root" && as_root cpio -o -H newc --quiet) >"$scratch/part.cpio"
    as_root chroot "$cache/tools" zstd -q -c -12 --long=27 -T0 /scratch/part.cpio | wc -c
}
all=$( (cd "$root" && find usr/lib/modules usr/lib/firmware) | packed)
kept=$( (
    cd "$root"
    find usr/lib/modules usr/lib/firmware -type d
    find usr/lib/modules -name 'modules.*'
    python3 -c 'import json, sys
report = json.load(open(sys.argv[1]))
print("\n".join(item["path"].lstrip("/") for what in ("modules", "firmware") for item in report[what]["items"] if item["kept"]))' \
        "$work/slim.json"
) | packed)
rm -f "$scratch/part.cpio"
bar "modules + firmware: all $((all >> 20)) MiB, kept $((kept >> 20)) MiB" "$(ratio "$all" "$kept")" times 5 more

say
printf '%s' "$table"
