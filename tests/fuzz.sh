#!/usr/bin/env bash
# Fuzzes every parser: builds tests/fuzz, runs each target, as many at a time as there are cores.
#   tests/fuzz.sh [SECONDS [TARGET...]]      20 seconds of each by default
# The seeds are in tests/fuzz/corpus; what is found on the way is kept in target/fuzz for the next time.
# Exit code 1 if an input broke a target: it is in tests/fuzz/artifacts, and tests/fuzz/README.md says what to do with it.
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=lib/all.sh
. "$here/lib/all.sh"
cd "$project" || die "cannot enter $project"

seconds=${1:-20}
shift || true
[[ $seconds =~ ^[0-9]+$ ]] || die "the first argument is a number of seconds: $seconds"
out=$project/target/fuzz
triple=$(rustc -vV | sed -n 's/^host: //p')

need_rust
install_packages "${fuzz_packages[@]}"
cargo_fuzz=$(cargo_tool cargo-fuzz "$cargo_fuzz_version") || exit 1

# cargo-fuzz does not know --locked.
cargo fetch --locked --quiet --manifest-path "$here/fuzz/Cargo.toml" ||
    die "tests/fuzz/Cargo.lock does not fit: run 'cargo metadata --manifest-path tests/fuzz/Cargo.toml >/dev/null' and commit it"
# Without a sanitizer stable Rust is enough: the project forbids unsafe code.
step "building the fuzz targets"
"$cargo_fuzz" build --fuzz-dir "$here/fuzz" --sanitizer none --codegen-units 16 --target-dir "$out" >"$out.log" 2>&1 || {
    tail -n 40 "$out.log" >&2
    die "the fuzz targets cannot be built: $out.log"
}
if [ $# = 0 ]; then
    mapfile -t targets < <("$cargo_fuzz" list --fuzz-dir "$here/fuzz")
    [ ${#targets[@]} -gt 0 ] || die "there are no fuzz targets in tests/fuzz/Cargo.toml"
else
    targets=("$@")
fi

# one TARGET: says in a line how it went; what it wrote is in target/fuzz/TARGET.log.
one() {
    local name=$1 found=$here/fuzz/artifacts/$1 options=() verdict=0
    mkdir -p "$out/corpus/$name" "$found"
    [ ! -e "$here/fuzz/dictionaries/$name.dict" ] || options+=("-dict=$here/fuzz/dictionaries/$name.dict")
    # What is new goes to the first folder.
    options+=("$out/corpus/$name")
    [ ! -d "$here/fuzz/corpus/$name" ] || options+=("$here/fuzz/corpus/$name")
    "$out/$triple/release/$name" "${options[@]}" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=512 \
        -print_final_stats=1 -artifact_prefix="$found/" \
        >"$out/$name.log" 2>&1 || verdict=1
    local runs peak
    runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$out/$name.log")
    peak=$(sed -n 's/^stat::peak_rss_mb: *//p' "$out/$name.log")
    if [ "$verdict" = 0 ]; then
        say "    $name: ${runs:-?} inputs, at most ${peak:-?} MiB"
    else
        tail -n 30 "$out/$name.log" >&2
        say "    $name: FAILED; see $out/$name.log; the input: $(sed -n 's/.*Test unit written to //p' "$out/$name.log" | tail -n 1)"
    fi
    return "$verdict"
}

step "fuzzing ${#targets[@]} targets, $seconds s each"
failed=0
running=0
cores=$(nproc)
for name in "${targets[@]}"; do
    if [ "$running" -ge "$cores" ]; then
        wait -n || failed=1
        running=$((running - 1))
    fi
    one "$name" &
    running=$((running + 1))
done
while [ "$running" -gt 0 ]; do
    wait -n || failed=1
    running=$((running - 1))
done
[ "$failed" = 0 ] || die "a fuzz target failed"
