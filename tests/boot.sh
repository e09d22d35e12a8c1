#!/usr/bin/env bash
# Boots what the main job made, in QEMU with OVMF (emulated: no KVM is needed, so it takes minutes).
#   tests/boot.sh [measured] [loaded] [tampered] [drivers] [guests] [enroll] [unseal] [media] [sticks]
# all by default, as many at a time as there are processors and memory for: what a part says is printed when it is done
# measured  Secure Boot enforced, TPM 2.0: the slimmed UKI reaches the marker unit, PCR 4, 7 and 11 are what was predicted,
#           and so is every event of them in the machine's log
# loaded    the same through systemd-boot
# tampered  Secure Boot enforced: with one byte changed in .initrd or in .cmdline it does not start
# drivers   a machine with dozens of emulated devices: the same drivers bind with the slimmed and the unslimmed UKI
# media     under enforced Secure Boot: the ISO as optical disc, with and without a partition table; the raw image as a disk that
#           is larger than it, whose persistent file system grows while it is mounted; and there images are written on FAT, which
#           the kernel here may not have
# sticks    the ISO as USB stick, with an MBR and with a GPT, under enforced Secure Boot; and a firmware without keys, which the
#           ISO's boot manager gives those in loader/keys/auto: the next boot is enforced
# unseal    a disk that is bound to our PCR key unlocks under each profile, and not for another key
# guests    the UKIs of x86-vm-kvm and x86-vm-vmware, on the devices that QEMU has of these: the same drivers bind, and both
#           are smaller than x86-generic's
# enroll    a firmware without keys: systemd-boot enrols those of 'keys generate'; then the UKI that is signed by them boots with
#           Secure Boot on, the firmware takes signed updates of its variables and refuses wrong ones, and a UKI that another
#           key signed does not start
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=lib/all.sh
. "$here/lib/all.sh"

vms=$test_dir/vm
parts=(drivers guests media sticks unseal measured loaded enroll tampered) # the longest first

# verdict NAME COMMAND...: runs a check and says how it went.
verdict() {
    local name=$1
    shift
    if "$@"; then
        say "PASS $name"
    else
        say "FAIL $name"
        return 1
    fi
}

# vm NAME UKI OPTION...: one machine; its traces stay in target/test/vm/NAME.
vm() {
    local name=$1 uki=$2
    shift 2
    python3 "$here/lib/vm.py" --work "$vms/$name" --uki "$uki" --virt-fw-vars "$virt_fw_vars" "$@"
}

measured() {
    step "boot under enforced Secure Boot, with a TPM"
    vm measured "$slim" --keys "$test_keys" --tpm --timeout 600 || return 1
    python3 "$here/lib/check_boot.py" measured "$vms/measured/guest.txt" "$test_dir/slim/pcrs.json" &&
        events measured "$slim"
}

# events NAME IMAGE...: the event log of a machine that was booted, against the programs that it loaded.
events() {
    local name=$1 images
    shift
    images=$(IFS=:; printf %s "$*")
    local uki=${*: -1} through=() other=$vms/$name/replayed.efi said
    [ $# = 1 ] || through=(--loader "$1")
    python3 "$here/lib/guest_blobs.py" "$vms/$name/guest.txt" "$vms/$name/sent" || return 1
    (cd "$project" && EVENTLOG_MACHINE=$vms/$name/sent EVENTLOG_IMAGES=$images cargo test --locked --quiet --test it -- \
        --exact eventlog::a_machine_is_as_predicted --ignored) || return 1
    "$binary" uki measure "$uki" "${through[@]}" --efivars "$vms/$name/sent" --replay "$vms/$name/sent/eventlog" || return 1
    "$binary" uki build --reuse-initrd "$test_dir/slim" --cmdline other --sb-key "$test_keys/db.key" --sb-cert "$test_keys/db.pem" \
        --pcr-key "$test_keys/tpm2-pcr-private.pem" --output "$other" >/dev/null || return 1
    if said=$("$binary" uki measure "$other" "${through[@]}" --efivars "$vms/$name/sent" --replay "$vms/$name/sent/eventlog" 2>&1); then
        say "    FAIL a UKI with another command line is said to be the one that was measured"
        return 1
    fi
    grep -q 'PCR 11: differs: .*\.cmdline' <<<"$said" || {
        say "    FAIL the command line is not named as what differs: $said"
        return 1
    }
}

loaded() {
    local loader=$test_dir/loader.efi
    step "boot under enforced Secure Boot, with a TPM, through systemd-boot"
    sbsign --key "$test_keys/db.key" --cert "$test_keys/db.pem" --output "$loader" \
        "$cache/boot/usr/lib/systemd/boot/efi/systemd-bootx64.efi" || return 1
    vm loaded "$slim" --loader "$loader" --keys "$test_keys" --tpm --timeout 600 &&
        python3 "$here/lib/check_boot.py" measured "$vms/loaded/guest.txt" "$test_dir/slim/pcrs.json" &&
        events loaded "$loader" "$slim"
}

# tampered SECTION: the firmware must say that it refuses, and neither the stub nor the kernel may say a word.
tampered() {
    local changed=$test_dir/tampered.efi good=0
    step "boot under enforced Secure Boot with one bit of $1 changed"
    cp "$slim" "$changed"
    python3 "$here/lib/pe.py" flip "$changed" "$1"
    vm "tampered$1" "$changed" --keys "$test_keys" --timeout 300 --until 'Security Violation|Access Denied' \
        --fail 'EFI stub|Linux version' || good=1
    rm -f "$changed"
    if grep -aqE 'EFI stub|Linux version' "$vms/tampered$1/console.log"; then
        say "    FAIL the kernel started"
        good=1
    fi
    return $good
}

drivers() {
    local name
    for name in full slim; do
        step "boot on a machine with dozens of devices: $name"
        vm "drivers-$name" "$test_dir/$name/uki/EFI/kairos/norole.efi" --devices many --memory 8192 --timeout 900 ||
            return 1
    done
    python3 "$here/lib/check_boot.py" drivers "$vms/drivers-full/guest.txt" "$vms/drivers-slim/guest.txt"
}

# guests: the machine with everything is one of KVM, with the boots that 'drivers' has made.
guests() {
    local name devices size
    [ -e "$vms/drivers-full/guest.txt" ] || drivers || return 1
    for name in kvm vmware; do
        devices=vmware
        [ "$name" = vmware ] || devices=many
        make_out "vm-$name" --hardware "x86-vm-$name" --compression zstd:12
        size=$(stat -c %s "$test_dir/vm-$name/uki/EFI/kairos/norole.efi")
        say "    x86-vm-$name: $size bytes, x86-generic: $(stat -c %s "$slim") bytes"
        [ "$size" -lt "$(stat -c %s "$slim")" ] || return 1
        step "boot x86-vm-$name on its devices"
        vm "guest-$name" "$test_dir/vm-$name/uki/EFI/kairos/norole.efi" --devices "$devices" --memory 8192 --timeout 900 ||
            return 1
    done
    step "boot the unslimmed UKI on VMware's devices"
    vm guest-full "$test_dir/full/uki/EFI/kairos/norole.efi" --devices vmware --memory 8192 --timeout 900 || return 1
    python3 "$here/lib/check_boot.py" drivers "$vms/drivers-full/guest.txt" "$vms/guest-kvm/guest.txt" &&
        python3 "$here/lib/check_boot.py" guests "$vms/guest-full/guest.txt" "$vms/guest-vmware/guest.txt"
}

enroll() {
    local loader=$enroll_dir/systemd-boot.efi
    make_enroll
    step "enrol keys in a firmware without any, and boot"
    vm enroll "$enroll_dir/own.efi" --setup-mode --loader "$loader" --auth "$enroll_dir/keys" --timeout 400 || return 1
    judge_enroll "$vms/enroll/guest.txt" || return 1
    step "with these keys enrolled, boot what another key signed"
    vm enroll-other "$enroll_dir/other.efi" --variables "$vms/enroll/vars.fd" --loader "$loader" --timeout 300 \
        --until 'Security.*[Vv]iolation|Access [Dd]enied' --fail 'EFI stub|Linux version'
}

# unseal: a disk that is enrolled with our PCR key under the first profile is unlocked under it and under the second, always only at a
# signed phase, and not by a UKI that another key vouches for.
unseal() {
    local dir=$test_dir/unseal loader=$test_dir/unseal/loader.efi good=0
    rm -rf "$dir"
    mkdir -p "$dir"
    root_unseal
    make_root loaders "$kernels_recipe" fill_loaders # a boot manager whose entries can name profiles
    make_keys "$test_keys"
    make_keys "$dir/others"
    truncate -s 64M "$dir/disk.img"
    "$binary" uki sign "$cache/unseal/usr/lib/systemd/boot/efi/systemd-bootx64.efi" --sb-key "$test_keys/db.key" \
        --sb-cert "$test_keys/db.pem" --output "$loader" >/dev/null || return 1
    unseal_uki own "$test_keys/tpm2-pcr-private.pem"
    unseal_uki updated "$test_keys/tpm2-pcr-private.pem" --extend-cmdline updated=1
    unseal_uki other "$dir/others/tpm2-pcr-private.pem"
    "$binary" uki verify "$dir/own/uki/EFI/kairos/norole.efi" --db "$test_keys/db.pem" \
        --pcr-public-key "$test_keys/tpm2-pcr-public.pem" --upgrade-from "$dir/updated/uki/EFI/kairos/norole.efi" >"$dir/verify.txt" || {
        cat "$dir/verify.txt"
        return 1
    }
    unseal_boot first own "" "" unlocked || good=1
    unseal_boot second own "[1s]" "second=1" unlocked || good=1
    unseal_boot other other "" "" refused || good=1
    return $good
}

# unseal_uki NAME PCR_KEY OPTION...
unseal_uki() {
    local name=$1 key=$2
    shift 2
    as_root "$binary" --root "$cache/unseal" --stage build --target uki --hardware x86-vm-kvm --output "$test_dir/unseal/$name" \
        --sb-key "$test_keys/db.key" --sb-cert "$test_keys/db.pem" --pcr-key "$key" --profile 'Second: second=1' \
        --loader "$cache/loaders/forky/usr/lib/systemd/boot/efi/systemd-bootx64.efi" \
        --compression zstd:3 --quiet "$@" >/dev/null 2>&1 || die "the UKI $name could not be built"
}

# unseal_boot NAME UKI ENTRY WORD VERDICT: one boot on the same disk and TPM.
unseal_boot() {
    local name=$1 guest=$vms/unseal-$1/guest.txt
    step "unseal: boot $2, entry ${3:-of the first profile}"
    vm "unseal-$name" "$test_dir/unseal/$2/uki/EFI/kairos/norole.efi" --keys "$test_keys" --loader "$test_dir/unseal/loader.efi" \
        ${3:+--entry "*@$3*"} --tpm --tpm-state "$test_dir/unseal/tpm" --disk "$test_dir/unseal/disk.img" --timeout 600 || return 1
    python3 "$here/lib/check_boot.py" unseal "$guest" "$name" "$4" "$5"
}

# make_media: what the whole run ships, and ISOs with other partition tables, of the same tree.
make_media() {
    local out=$test_dir/media beside=$test_dir/beside table
    step "main job: ISO and disk image"
    mkdir -p "$beside"
    head -c 70000 /dev/urandom >"$beside/more.sysext.raw"
    printf '#cloud-config\n' >"$test_dir/cloud_config.yaml"
    (main_job "$cache/boot" "$out" "$test_keys" --hardware x86-vm-kvm --compression zstd:3 --artifact uki,iso,raw --name test \
        --public-keys "$test_keys" --secure-boot-enroll force --overlay-iso "$beside" \
        --install-data "$test_dir/cloud_config.yaml") >/dev/null 2>"$test_dir/media.log" || {
        tail -n 3 "$test_dir/media.log"
        die "the images could not be made"
    }
    (cd "$out" && sha256sum --check --quiet --strict SHA256SUMS) || die "the images are not what SHA256SUMS says"
    for table in gpt none; do
        "$binary" image iso "$out/uki" --partition-table "$table" --overlay-iso "$beside" \
            --install-data "$test_dir/cloud_config.yaml" --output "$out/$table.iso" >/dev/null || die "no ISO with the table $table"
    done
    # The disk that the image was copied to is larger, and the last partition was made so: the first boot's work, but for
    # that of the file system.
    cp --sparse=always "$out/test.raw" "$out/larger.raw"
    truncate --size=+8G "$out/larger.raw"
    { sgdisk --move-second-header "$out/larger.raw" &&
        sgdisk --delete=3 --new=3:0:0 --change-name=3:persistent "$out/larger.raw"; } >>"$test_dir/media.log" 2>&1 ||
        die "sgdisk cannot enlarge the partition: see $test_dir/media.log"
}

# make_stick: a FAT file system with the program, a small tree, and what writes images of it.
make_stick() {
    local dir=$test_dir/stick kernel=("$cache"/boot/boot/vmlinuz-*)
    rm -rf "$dir"
    mkdir -p "$dir"
    cp -r "$test_dir/media/uki" "$dir/tree"
    echo small >"$dir/initrd"
    "$binary" uki build --linux "${kernel[0]}" --initrd "$dir/initrd" --cmdline small --os-release 'ID=small' \
        --stub "$cache/boot/usr/lib/systemd/boot/efi/linuxx64.efi.stub" --sb-key "$test_keys/db.key" --sb-cert "$test_keys/db.pem" \
        --pcr-key "$test_keys/tpm2-pcr-private.pem" --output "$dir/tree/EFI/kairos/norole.efi" >/dev/null || return 1
    truncate --size=600M "$dir/stick.img"
    mkfs.vfat -F 32 -n STICK "$dir/stick.img" >/dev/null &&
        mcopy -s -i "$dir/stick.img" "$binary" "$here/lib/write-images" "$dir/tree" ::
}

# judge_stick: what the guest wrote there is what this machine writes here.
judge_stick() {
    local dir=$test_dir/stick kind
    fsck.fat -n "$dir/stick.img" >"$dir/fsck.log" || {
        cat "$dir/fsck.log"
        return 1
    }
    "$here/lib/write-images" "$binary" "$dir/tree" "$dir" >/dev/null || return 1
    for kind in esp iso raw; do
        mcopy -n -i "$dir/stick.img" "::$kind" "$dir/$kind.guest" && cmp "$dir/$kind" "$dir/$kind.guest" || return 1
    done
    say "    ok   the images that the guest wrote on FAT are those that are written here"
}

# media: what the whole run ships, as machines meet it.
media() {
    local good=0
    medium cdrom test.iso medium --keys "$test_keys" || good=1
    medium cdrom none.iso medium --keys "$test_keys" || good=1
    make_stick || return 1
    medium disk larger.raw disk --keys "$test_keys" --disk "$test_dir/stick/stick.img" && judge_stick || good=1
    return $good
}

sticks() {
    local good=0
    medium usb test.iso medium --keys "$test_keys" || good=1
    medium usb gpt.iso gpt --keys "$test_keys" || good=1
    # The machine has no keys, so nothing is enforced at first: the boot manager enrols those of the medium and resets.
    medium usb test.iso medium --setup-mode || good=1
    return $good
}

# medium HOW FILE KIND OPTION...: one boot from an image of make_media.
medium() {
    local how=$1 file=$2 kind=$3 name
    shift 3
    name=media-$how-${file%.*}-${1#--}
    step "boot $file as $how ($1)"
    python3 "$here/lib/vm.py" --work "$vms/$name" --medium "$how:$test_dir/media/$file" --virt-fw-vars "$virt_fw_vars" \
        --timeout 600 "$@" &&
        python3 "$here/lib/check_boot.py" medium "$vms/$name/guest.txt" "$kind" "$test_dir/media"
}

# part NAME: its verdicts; fails if one of them does.
part() {
    local section good=0
    case $1 in
    measured) verdict "boots under Secure Boot, PCR 4, 7 and 11 as predicted" measured ;;
    loaded) verdict "boots through systemd-boot, PCR 4, 7 and 11 as predicted" loaded ;;
    tampered)
        for section in .initrd .cmdline; do
            verdict "does not start with one bit of $section changed" tampered "$section" || good=1
        done
        return $good
        ;;
    drivers) verdict "no driver lost" drivers ;;
    guests) verdict "guests keep their drivers" guests ;;
    enroll) verdict "keys are enrolled, and hold" enroll ;;
    unseal) verdict "a disk unlocks for signed policies, and for no other" unseal ;;
    media) verdict "ISO and disk image boot, and the disk grows" media ;;
    sticks) verdict "ISO boots as USB stick, and enrols keys" sticks ;;
    esac
}

# lanes: how many machines at a time. Each has one processor and up to 8 GiB.
lanes() {
    local processors memory
    processors=$(nproc)
    memory=$(awk '$1 == "MemAvailable:" { print int($2 / 8388608) }' /proc/meminfo)
    [ "$processors" -lt "$memory" ] || processors=$memory
    [ "$processors" -gt 1 ] && echo "$processors" || echo 1
}

# lane PART...: one after the other, each with what it says in a file of its own, printed when it is done.
lane() {
    local name good=0 started log
    for name in "$@"; do
        started=$SECONDS log=$vms/$name.log
        # In a subshell: die ends that.
        (part "$name") >"$log" 2>&1 || {
            good=1
            grep -q '^FAIL ' "$log" || echo "FAIL $name" >>"$log"
        }
        say "$(cat "$log")"$'\n'"    $name: $((SECONDS - started)) s"
    done
    return $good
}

[ $# -gt 0 ] || set -- "${parts[@]}"
for name in "$@"; do
    [[ " ${parts[*]} " == *" $name "* ]] || die "no such part: $name (${parts[*]})"
done
install_packages "${quickstart_packages[@]}" "${boot_packages[@]}" sbsigntool gdisk
install_virt_fw_vars
build_binary
make_keys "$test_keys"
root_boot
slim=$test_dir/slim/uki/EFI/kairos/norole.efi

# What several parts look at is made before they run side by side.
mkdir -p "$vms"
asked=" $* "
if [[ $asked =~ \ (measured|loaded|tampered|drivers|guests)\  ]]; then make_slim; fi
if [[ $asked =~ \ (drivers|guests)\  ]]; then make_full; fi
if [[ $asked =~ \ (media|sticks)\  ]]; then make_media; fi
if [[ $asked =~ \ (measured|loaded)\  ]]; then (cd "$project" && cargo test --locked --quiet --test it --no-run); fi

trap 'trap - TERM; kill 0' INT TERM
running=0
failed=0
most=$(lanes)
for name in "${parts[@]}"; do
    [[ $asked == *" $name "* ]] || continue
    todo=("$name")
    case $name in
    drivers) [[ $asked != *" guests "* ]] || todo+=(guests) ;; # which compares with what 'drivers' has booted
    guests) [[ $asked != *" drivers "* ]] || continue ;;
    esac
    if [ "$running" -ge "$most" ]; then
        wait -n || failed=1
        running=$((running - 1))
    fi
    lane "${todo[@]}" &
    running=$((running + 1))
done
while [ "$running" -gt 0 ]; do
    wait -n || failed=1
    running=$((running - 1))
done
logs=("${@/#/$vms/}")
say "$(cat "${logs[@]/%/.log}" | grep -c '^PASS ') passed, $(cat "${logs[@]/%/.log}" | grep -c '^FAIL ') failed"
[ "$failed" = 0 ]
