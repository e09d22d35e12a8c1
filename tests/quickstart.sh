#!/usr/bin/env bash
# From a fresh Debian or Ubuntu machine with Rust to a slim, signed UKI:
#   tests/quickstart.sh [--boot]
# Installs what it needs, makes a Debian 13 root with every firmware package (kept for the next time), builds the program,
# generates keys, runs the main job into target/quickstart/out and prints what it saved.
# --boot also boots the result in QEMU, Secure Boot enforced, and shows its console until it asks for a login.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=lib/all.sh
. "$here/lib/all.sh"

boot=no
case "$*" in
"") ;;
--boot) boot=yes ;;
*) die "usage: tests/quickstart.sh [--boot]" ;;
esac

out=$project/target/quickstart/out
keys=$project/target/quickstart/keys

install_packages "${quickstart_packages[@]}"
build_binary
root_base
make_keys "$keys"
step "main job: $cache/base becomes $out"
started=$SECONDS
main_job "$cache/base" "$out" "$keys" --hardware x86-generic
say "    $((SECONDS - started)) s"

if [ "$boot" = yes ]; then
    install_packages "${boot_packages[@]}"
    install_virt_fw_vars
    step "booting it (emulated: this takes a minute or two)"
    python3 "$here/lib/vm.py" --uki "$out/uki/EFI/kairos/norole.efi" --work "$project/target/quickstart/vm" --keys "$keys" \
        --virt-fw-vars "$virt_fw_vars" --tpm --timeout 600 --until ' login: ' --show
fi
