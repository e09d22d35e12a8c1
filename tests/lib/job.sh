# The program under test: built, given keys, run on a root. Sourced after common.sh, install.sh and root.sh.
# shellcheck shell=bash

# build_binary: sets $binary to the static release binary.
build_binary() {
    need_rust
    local tuple described
    tuple=$(rustc -vV | sed -n 's/^host: //p')
    step "building the release binary"
    (cd "$project" && cargo build --release --locked --quiet) || die "cargo build --release failed"
    binary=${CARGO_TARGET_DIR:-$project/target}/$tuple/release/kairos-init
    need "$binary" "cargo build --release should have made it (.cargo/config.toml names the target)"
    described=$(file -b "$binary")
    case $described in
    *"statically linked"* | *"static-pie linked"*) ;;
    *) die "$binary is not static: $described" ;;
    esac
    say "    $binary: $(stat -c %s "$binary") bytes, static"
}

# make_keys DIR: Secure Boot and PCR keys, unless they are there.
make_keys() {
    [ -e "$1/db.key" ] && [ -e "$1/tpm2-pcr-private.pem" ] && return 0
    step "generating keys in $1"
    mkdir -p "$(dirname "$1")"
    "$binary" keys generate --output "$1" --quiet >/dev/null || die "keys generate failed in $1"
}

# main_job ROOT OUT KEYS OPTION...: the program's main job; OUT is replaced. Prints the program's own size report.
main_job() {
    local root=$1 out=$2 keys=$3
    shift 3
    as_root rm -rf "$out"
    as_root "$binary" --root "$root" --stage build --target uki --output "$out" --sb-key "$keys/db.key" \
        --sb-cert "$keys/db.pem" --pcr-key "$keys/tpm2-pcr-private.pem" --quiet "$@" ||
        die "the main job failed on $root"
    [ "$(id -u)" = 0 ] || as_root chown -R "$(id -u):$(id -g)" "$out"
    need "$out/uki/EFI/kairos/norole.efi" "the main job ended well without writing it"
}

# What the tests look at, made once for this binary and this root.
test_dir=$project/target/test
test_keys=$test_dir/keys

# make_out NAME OPTION...: the main job on the root 'boot', in target/test/NAME, unless it is there already.
make_out() {
    local out=$test_dir/$1 stamp=$test_dir/$1.stamp want
    shift
    make_keys "$test_keys"
    want="$(fingerprint "$binary" "$cache/boot.stamp" "$test_keys/db.pem") $*"
    [ "$(cat "$stamp" 2>/dev/null)" = "$want" ] && return 0
    rm -f "$stamp"
    step "main job on $cache/boot into $out: $*"
    local started=$SECONDS
    main_job "$cache/boot" "$out" "$test_keys" "$@" >/dev/null
    say "    $((SECONDS - started)) s, $(stat -c %s "$out/uki/EFI/kairos/norole.efi") bytes"
    echo "$want" >"$stamp"
}

slim_options=(--hardware x86-generic --artifact uki,iso,raw --name kairos)
make_slim() { make_out slim "${slim_options[@]}"; }
make_full() { make_out full --compression zstd:3; }
