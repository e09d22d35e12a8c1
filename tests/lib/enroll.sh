# What the boot test 'enroll' starts and expects. Sourced after job.sh.
# shellcheck shell=bash

enroll_dir=$test_dir/enroll

# make_enroll: in target/test/enroll keys (keys), systemd-boot signed by db (systemd-boot.efi), and two small UKIs with the same
# contents: own.efi, signed by db, and other.efi, signed by a key that is enrolled nowhere.
make_enroll() {
    local root=$cache/boot release kernel later number=0
    rm -rf "$enroll_dir"
    mkdir -p "$enroll_dir/initrd/updates" "$enroll_dir/initrd/bin"
    release=$(kernel_release "$root")
    kernel=$root/boot/vmlinuz-$release
    step "generating keys, updates and UKIs in $enroll_dir"
    "$binary" keys generate --output "$enroll_dir/keys" --quiet >/dev/null
    "$binary" keys generate --output "$enroll_dir/others" --quiet >/dev/null
    sbsign --key "$enroll_dir/keys/db.key" --cert "$enroll_dir/keys/db.pem" --output "$enroll_dir/systemd-boot.efi" \
        "$root/usr/lib/systemd/boot/efi/systemd-bootx64.efi" 2>/dev/null

    # Updates for a machine with these keys, each with what the firmware is expected to do.
    later=$(date +%s)
    : >"$enroll_dir/verdicts"
    update accepted db $((later + 1000)) KEK keys/db.esl others/KEK.pem
    cp "$enroll_dir/keys/db.auth" "$(next_update refused db replayed)"
    update refused db $((later + 3000)) KEK keys/db.esl
    # One byte of the contents changed: the last of the file.
    printf '\377' | dd of="$(last_update)" bs=1 seek=$(($(stat -c %s "$(last_update)") - 1)) conv=notrunc status=none
    update refused db $((later + 4000)) db keys/db.esl
    update refused KEK $((later + 1000)) KEK keys/KEK.esl others/KEK.pem
    update accepted KEK $((later + 1000)) PK keys/KEK.esl others/KEK.pem
    update accepted dbx $((later + 1000)) KEK others/PK.pem
    update refused PK $((later + 1000)) KEK others/PK.pem
    update accepted PK $((later + 1000)) PK keys/PK.pem

    # busybox, and chattr with its libraries: efivarfs protects its files from accidents.
    local library
    for library in "$(command -v chattr)" $(ldd "$(command -v chattr)" | grep -o '/[^ ]*'); do
        install -D -m 755 "$library" "$enroll_dir/initrd$library"
    done
    for library in $(busybox --list); do ln -sf busybox "$enroll_dir/initrd/bin/$library"; done
    rm -f "$enroll_dir/initrd/bin/busybox" # it lists itself
    install -m 755 "$(command -v busybox)" "$enroll_dir/initrd/bin/busybox"
    install -m 755 "$project/tests/lib/enrol-init" "$enroll_dir/initrd/init"
    mkdir "$enroll_dir/initrd"/{dev,proc,sys}
    xz -dc "$root/usr/lib/modules/$release/kernel/fs/efivarfs/efivarfs.ko.xz" >"$enroll_dir/initrd/efivarfs.ko"
    (cd "$enroll_dir/initrd" && find . | cpio -o -H newc --quiet -R 0:0) >"$enroll_dir/initrd.cpio"

    # The key as careful people keep it.
    echo "correct horse battery staple" >"$enroll_dir/passphrase"
    openssl pkcs8 -topk8 -v2 aes-256-cbc -scrypt -in "$enroll_dir/keys/db.key" -out "$enroll_dir/db.encrypted.key" \
        -passout "file:$enroll_dir/passphrase"
    uki own --sb-key "$enroll_dir/db.encrypted.key" --sb-cert "$enroll_dir/keys/db.pem" \
        --key-passphrase "file:$enroll_dir/passphrase"
    uki other --sb-key "$enroll_dir/others/db.key" --sb-cert "$enroll_dir/others/db.pem"
}

# uki NAME OPTION...: with the kernel and the stub of make_enroll's root.
uki() {
    local name=$1
    shift
    "$binary" uki build --linux "$kernel" --stub "$root/usr/lib/systemd/boot/efi/linuxx64.efi.stub" \
        --initrd "$enroll_dir/initrd.cpio" --cmdline "console=ttyS0 panic=5" --os-release "@$root/etc/os-release" \
        --output "$enroll_dir/$name.efi" --quiet "$@" >/dev/null || die "uki build failed"
}

# next_update VERDICT VARIABLE WHAT: prints the path of the next update, and notes what is expected of it.
next_update() {
    local number
    number=$(printf %02d $(($(wc -l <"$enroll_dir/verdicts") + 1)))
    echo "$number-$2-$3 $1" >>"$enroll_dir/verdicts"
    last_update
}
last_update() { echo "$enroll_dir/initrd/updates/$(tail -n 1 "$enroll_dir/verdicts" | cut -d' ' -f1).auth"; }

# update VERDICT VARIABLE TIME SIGNER FILE...: an update by 'keys variable', which is expected to be accepted or refused.
update() {
    local verdict=$1 variable=$2 time=$3 signer=$4 path
    shift 4
    path=$(next_update "$verdict" "$variable" "by$signer")
    (
        cd "$enroll_dir"
        "$binary" keys variable "$variable" "$@" --output "$path" --key "keys/$signer.key" --cert "keys/$signer.pem" \
            --source-date-epoch "$time" >/dev/null
        "$binary" keys variable "$variable" "$@" --output "${path/%.auth/.esl}" >/dev/null
    ) || die "keys variable failed"
    mv "${path/%.auth/.esl}" "$enroll_dir/"
}

# judge_enroll GUEST.txt: what the guest said is what must be: Secure Boot on, each variable holding what was enrolled, and
# after each update what it put there, or what was there before.
judge_enroll() {
    local name number verdict target
    declare -A now
    for name in PK KEK db; do now[$name]=$(sha256sum <"$enroll_dir/keys/$name.esl" | cut -d' ' -f1); done
    now[dbx]=none
    {
        echo begin
        echo "SecureBoot 1"
        echo "SetupMode 0"
        for name in PK KEK db; do echo "contents $name ${now[$name]}"; done
        while read -r number verdict; do
            target=${number#*-}
            target=${target%%-*}
            [ "$verdict" = refused ] || now[$target]=$(sha256sum <"$enroll_dir/$number.esl" | cut -d' ' -f1)
            echo "update $number $verdict ${now[$target]}"
        done <"$enroll_dir/verdicts"
        echo end
    } >"$enroll_dir/expected.txt"
    # The firmware writes to this serial port too, before the guest does.
    tr -d '\r' <"$1" | sed -n '/^begin$/,$p' | diff "$enroll_dir/expected.txt" - &&
        say "    ok   the keys are enrolled, and $(grep -c update "$enroll_dir/expected.txt") updates were judged as expected"
}
