#!/usr/bin/env bash
# Holds what the main job made against real programs.
#   tests/oracles.sh [signature] [changed] [sections] [pcrs] [tree] [modules]      all of them by default
# signature  sbverify and osslsigncode accept the UKI
# changed    both refuse it with one bit changed, sampled over every header field and section that the signature covers
# sections   objdump, objcopy and ukify read every section back, byte for byte what went in
# pcrs       systemd-measure predicts the same PCR 11 and signs the same policies
# tree       the unpacked initrd is the root less what was dropped: owners, modes, links, times, content
# modules    depmod makes the same indexes, modprobe finds every dependency of every kept module
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=lib/all.sh
. "$here/lib/all.sh"

passed=0
failed=0
good() {
    say "PASS $*"
    passed=$((passed + 1))
}
bad() {
    say "FAIL $*"
    failed=$((failed + 1))
}

# same NAME FILE FILE
same() {
    local difference
    if difference=$(cmp "$2" "$3" 2>&1); then good "$1"; else bad "$1: $difference"; fi
}

# tools COMMAND...: a program of Debian 13; files of the scratch folder are under /scratch there.
tools() { as_root chroot "$cache/tools" "$@"; }

# accepts PROGRAM FILE: 0 if the program verifies the signature with our certificate; its words are in $words.
accepts() {
    case $1 in
    sbverify) words=$(sbverify --cert "$test_keys/db.pem" "$2" 2>&1) ;;
    osslsigncode) words=$(osslsigncode verify -CAfile "$test_keys/db.pem" -in "$2" 2>&1) ;;
    esac
}

signature() {
    local file program
    for file in "$uki" "$small"; do
        for program in sbverify osslsigncode; do
            if accepts "$program" "$file"; then
                good "$program accepts $(basename "$file")"
            else
                bad "$program refuses $(basename "$file"): $(tail -n 1 <<<"$words")"
            fi
            if [ "$program" = sbverify ] && grep -qi warning <<<"$words"; then
                bad "sbverify warns: $(grep -i warning <<<"$words" | head -n 1)"
            fi
        done
    done
}

# changed_in FILE PROGRAM LIST: LIST has "OFFSET what" lines; each bit is changed in place and put back.
changed_in() {
    local file=$1 program=$2 offset what number=0 wrong=0
    while read -r offset what; do
        python3 "$here/lib/pe.py" flip "$file" "$offset"
        if accepts "$program" "$file"; then
            say "    $program accepts $(basename "$file") with a bit of $what changed (byte $offset)"
            wrong=$((wrong + 1))
        fi
        unflip "$file" "$offset"
        number=$((number + 1))
    done <<<"$3"
    if [ "$wrong" = 0 ] && [ "$number" -gt 0 ] && accepts "$program" "$file"; then
        good "$program refuses each of $number changed bytes of $(basename "$file"), and accepts it again put back"
    else
        bad "$program on $(basename "$file"): $wrong of $number changed bytes accepted, or not accepted put back"
    fi
}

# A changed header may no longer parse, so this does not go through pe.py's parser.
unflip() {
    python3 -c 'import sys
file = open(sys.argv[1], "r+b"); file.seek(int(sys.argv[2])); byte = file.read(1)[0] ^ 1
file.seek(int(sys.argv[2])); file.write(bytes([byte]))' "$1" "$2"
}

changed() {
    local copy=$scratch/changed.efi
    cp "$small" "$copy"
    changed_in "$copy" sbverify "$(python3 "$here/lib/pe.py" signed "$copy" 5)"
    changed_in "$copy" osslsigncode "$(python3 "$here/lib/pe.py" signed "$copy" 2 | awk 'NR % 4 == 0 || /at byte/')"
    cp "$uki" "$copy"
    changed_in "$copy" sbverify "$(python3 "$here/lib/pe.py" signed "$copy" 8 | grep -E '^[0-9]+ \.(initrd|linux|ucode|cmdline) at')"
    rm -f "$copy"
}

sections() {
    local name section
    for name in uki small; do
        local file=${!name} dumped=$scratch/$name.sections
        cp "$file" "$scratch/$name.efi"
        python3 "$here/lib/pe.py" dump "$file" "$dumped"
        while read -r section _; do
            [[ $section == .* ]] || continue
            tools objcopy --dump-section "$section=/scratch/objcopy" "/scratch/$name.efi" /scratch/objcopied 2>/dev/null || true
            cmp -s "$scratch/objcopy" "$dumped/${section#.}" || bad "objcopy reads another $section of $name"
            as_root rm -f "$scratch/objcopy"
        done < <(python3 "$here/lib/pe.py" sections "$file")
        good "objcopy reads the same sections of $name as our own reader"
        tools objdump -h "/scratch/$name.efi" >"$scratch/objdump" 2>&1
        if grep -q "pei-x86-64" "$scratch/objdump" && ! grep -qiE 'warning|error' "$scratch/objdump"; then
            good "objdump reads the headers of $name"
        else
            bad "objdump on $name: $(grep -iE 'warning|error' "$scratch/objdump" | head -n 1)"
        fi
        tools ukify --json=short inspect "/scratch/$name.efi" >"$scratch/ukify.json" 2>"$scratch/ukify.err" ||
            bad "ukify inspect: $(tail -n 1 "$scratch/ukify.err")"
        "$binary" uki inspect --json "$file" >"$scratch/inspect.json" || bad "uki inspect failed on $name"
        if python3 "$here/lib/check_uki.py" inspect "$scratch/ukify.json" "$scratch/inspect.json" "$dumped"; then
            good "ukify inspect and uki inspect say the same of $name, and so do the sections"
        else
            bad "ukify inspect and uki inspect differ on $name"
        fi
    done
    local kernel
    kernel=$(kernel_release "$cache/boot")
    same ".linux is the kernel of the root" "$scratch/uki.sections/linux" "$cache/boot/boot/vmlinuz-$kernel"
    same ".osrel is os-release of the root" "$scratch/uki.sections/osrel" "$cache/boot/usr/lib/os-release"
    same ".uname is the kernel's release" "$scratch/uki.sections/uname" <(printf %s "$kernel")
    same ".pcrpkey is the public key" "$scratch/uki.sections/pcrpkey" "$test_keys/tpm2-pcr-public.pem"
    same ".initrd of the small UKI is what was given" "$scratch/small.sections/initrd" "$test_dir/small.initrd"
    same ".cmdline of the small UKI is what was given" "$scratch/small.sections/cmdline" <(printf %s "$small_cmdline")
}

pcrs() {
    local name section options
    for name in uki small; do
        local file=${!name} dumped=$scratch/$name.sections
        python3 "$here/lib/pe.py" dump "$file" "$dumped"
        options=()
        for section in linux osrel cmdline initrd ucode splash dtb uname sbat pcrpkey; do
            [ -s "$dumped/$section" ] && options+=("--$section=/scratch/$name.sections/$section")
        done
        options+=(--bank=sha1 --bank=sha256 --bank=sha384 --bank=sha512)
        tools /usr/lib/systemd/systemd-measure calculate --json=short "${options[@]}" --phase= --phase=enter-initrd \
            --phase=enter-initrd:leave-initrd --phase=enter-initrd:leave-initrd:sysinit \
            --phase=enter-initrd:leave-initrd:sysinit:ready >"$scratch/measure.json" ||
            bad "systemd-measure calculate failed on $name"
        cp "$test_keys/tpm2-pcr-private.pem" "$test_keys/tpm2-pcr-public.pem" "$scratch/"
        tools /usr/lib/systemd/systemd-measure sign "${options[@]}" --private-key=/scratch/tpm2-pcr-private.pem \
            --public-key=/scratch/tpm2-pcr-public.pem >"$scratch/sign.json" 2>"$scratch/sign.err" ||
            bad "systemd-measure sign failed on $name: $(tail -n 1 "$scratch/sign.err")"
        "$binary" uki measure --json "$file" >"$scratch/ours.json" || bad "uki measure failed on $name"
        if python3 "$here/lib/check_uki.py" measure "$scratch/measure.json" "$scratch/ours.json"; then
            good "systemd-measure and uki measure predict the same for $name: four banks, five phase paths"
        else
            bad "systemd-measure and uki measure differ on $name"
        fi
        if python3 "$here/lib/check_uki.py" sign "$scratch/sign.json" "$dumped/pcrsig"; then
            good "systemd-measure signs the same policies for $name, byte for byte in the SHA-256 bank"
        else
            bad "systemd-measure and .pcrsig differ on $name"
        fi
        [ "$name" = small ] || if python3 "$here/lib/check_uki.py" predicted "$scratch/measure.json" "$test_dir/slim/pcrs.json"; then
            good "pcrs.json holds the same"
        else
            bad "pcrs.json differs from systemd-measure"
        fi
    done
}

# unpacked: the initrd of the UKI in $scratch/initrd.
unpacked() {
    [ ! -d "$scratch/initrd" ] || return 0
    [ -s "$scratch/uki.sections/initrd" ] || python3 "$here/lib/pe.py" dump "$uki" "$scratch/uki.sections"
    step "unpacking the initrd"
    mkdir "$scratch/initrd"
    zstd -q -d --long=27 -c "$scratch/uki.sections/initrd" >"$scratch/initrd.cpio" || bad "zstd cannot decompress .initrd"
    (cd "$scratch/initrd" && as_root cpio -idm --quiet --no-absolute-filenames <"$scratch/initrd.cpio") ||
        bad "cpio cannot unpack .initrd"
    rm -f "$scratch/initrd.cpio"
}

tree() {
    unpacked
    if as_root python3 "$here/lib/check_tree.py" "$cache/boot" "$scratch/initrd" "$test_dir/slim/report.json"; then
        good "the unpacked initrd is the root less what was dropped"
    else
        bad "the unpacked initrd is not the root less what was dropped"
    fi
}

modules() {
    unpacked
    local kernel
    kernel=$(kernel_release "$cache/boot")
    step "depmod and modprobe on the unpacked initrd"
    tools depmod -b /scratch/initrd -o /scratch/depmod "$kernel" >"$scratch/depmod.log" 2>&1 || bad "depmod failed"
    if [ -s "$scratch/depmod.log" ]; then bad "depmod complains: $(head -n 1 "$scratch/depmod.log")"; else good "depmod has nothing to complain of"; fi
    # shellcheck disable=SC2016 # expanded by the inner shell
    tools sh -c 'cd /scratch/initrd/usr/lib/modules/"$1" && find . -name "*.ko*" | sed "s|.*/||; s|\.ko.*||" | sort |
        while read -r name; do
            modprobe -C /dev/null -d /scratch/initrd -S "$1" --ignore-install --show-depends "$name" || echo "failed $name"
        done' sh "$kernel" >"$scratch/show-depends" 2>&1
    if as_root python3 "$here/lib/check_modules.py" "$scratch/initrd/usr/lib/modules/$kernel" \
        "$scratch/depmod/lib/modules/$kernel" "$scratch/show-depends" "$test_dir/slim/report.json"; then
        good "every dependency of every kept module is there, and the indexes name only what is there"
    else
        bad "dependencies or indexes of the kept modules"
    fi
}

[ $# -gt 0 ] || set -- signature changed sections pcrs tree modules
install_packages "${quickstart_packages[@]}" "${oracle_packages[@]}"
build_binary
root_boot
root_tools
make_slim
uki=$test_dir/slim/uki/EFI/kairos/norole.efi

# Inside Debian 13's root, so that its programs see it; removed at the end.
as_root rm -rf "$cache/tools/scratch"
scratch=$cache/tools/scratch
as_root install -d -m 755 -o "$(id -u)" "$scratch"
trap 'as_root rm -rf "$scratch"' EXIT

small=$test_dir/small.efi
small_cmdline="quiet console=ttyS0"
kernel=$(kernel_release "$cache/boot")
(cd "$here/lib" && find guest | sort | cpio -o -H newc --quiet | zstd -q -19) >"$test_dir/small.initrd"
"$binary" uki build --linux "$cache/boot/boot/vmlinuz-$kernel" --initrd "$test_dir/small.initrd" --cmdline "$small_cmdline" \
    --os-release "@$cache/boot/usr/lib/os-release" --uname "$kernel" \
    --stub "$cache/boot/usr/lib/systemd/boot/efi/linuxx64.efi.stub" --sb-key "$test_keys/db.key" \
    --sb-cert "$test_keys/db.pem" --pcr-key "$test_keys/tpm2-pcr-private.pem" --output "$small" --quiet ||
    die "uki build failed"

for part in "$@"; do
    case $part in
    signature | changed | sections | pcrs | tree | modules)
        step "$part"
        "$part"
        ;;
    *) die "no such part: $part (signature, changed, sections, pcrs, tree, modules)" ;;
    esac
done
say "$passed passed, $failed failed"
[ "$failed" = 0 ]
