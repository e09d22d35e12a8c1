#!/usr/bin/env bash
# Every test there is, in one run: installs what they need, runs each step, times it, prints a table.
#   tests/run.sh [STEP...]      all of them by default:
# format   cargo fmt --check, and shellcheck on the scripts
# clippy   cargo clippy on all targets, warnings are errors
# deny     cargo-deny: bans, licences, sources
# test     cargo test: unit tests and tests/it
# job      the main job on a Debian 13 root, slimmed and unslimmed
# repeat   the main job again, elsewhere, later, with one worker and with two: equal byte for byte
# oracles  tests/oracles.sh
# fuzz     tests/fuzz.sh, 20 seconds for each target
# boot     tests/boot.sh
# Exit code 1 if a step failed.
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=lib/all.sh
. "$here/lib/all.sh"
cd "$project" || die "cannot enter $project"

format() {
    cargo fmt --all --check && cargo fmt --manifest-path "$here/fuzz/Cargo.toml" --check && shellcheck -x -P "$here" "$here"/*.sh "$project"/benches/*.sh "$project/.ci/run" "$here/lib/add-firmware.sh" "$here/lib/download-debs.sh" "$here"/lib/guest/kairos-init-{test,unseal,tpm,tpm-log} "$here"/lib/{enrol-init,write-images}
}

clippy() { cargo clippy --locked --all-targets --quiet -- -D warnings; }

deny() {
    local deny
    deny=$(cargo_tool cargo-deny "$cargo_deny_version") || return 1
    "$deny" --log-level warn check bans licenses sources || return 1
    say "not checked: advisories, since the advisory database cannot be fetched where these tests run"
}

# The tests in tests/it hold the program against the real root. They make and remove a million small files: where there is room, in
# memory.
test_() (
    scratch=${TMPDIR:-/tmp}
    free=$(awk '$1 == "MemAvailable:" { print int($2 / 1048576) }' /proc/meminfo)
    [ -w /dev/shm ] && [ "$free" -ge 12 ] && scratch=/dev/shm
    scratch=$(mktemp -d "$scratch/kairos-init-test.XXXXXX") || die "mktemp failed"
    # Some tests run the program as another user.
    chmod 755 "$scratch"
    trap 'as_root rm -rf "$scratch"' EXIT
    env "TMPDIR=$scratch" cargo test --locked --quiet
)

job() (
    build_binary
    make_slim
    make_full
    size=$(stat -c %s "$binary")
    [ "$size" -lt $((12 << 20)) ] || die "the binary has $size bytes: 12 MiB are the limit"
)

repeat() (
    build_binary
    make_slim
    again=$(mktemp -d "${TMPDIR:-/tmp}/kairos-init-repeat.XXXXXX") || die "mktemp failed"
    trap 'as_root rm -rf "$again"' EXIT
    for jobs in 1 2; do
        main_job "$cache/boot" "$again/$jobs/deeper" "$test_keys" "${slim_options[@]}" --jobs "$jobs" >/dev/null
        diff -r "$test_dir/slim" "$again/$jobs/deeper" || die "the main job with --jobs $jobs made something else"
        say "    equal byte for byte with --jobs $jobs"
        as_root rm -rf "$again/$jobs"
    done
)

oracles() { "$here/oracles.sh"; }
fuzz() { "$here/fuzz.sh" 20; }
boot() { "$here/boot.sh"; }

steps=(format clippy deny test job repeat oracles fuzz boot)
[ $# -gt 0 ] || set -- "${steps[@]}"
for name in "$@"; do
    [[ " ${steps[*]} " == *" $name "* ]] || die "no such step: $name (${steps[*]})"
done

need_rust
install_packages "${quickstart_packages[@]}" "${boot_packages[@]}" "${oracle_packages[@]}" "${test_packages[@]}" \
    "${fuzz_packages[@]}"
install_spdx_tools
table=""
failed=0
passed=0
timed() {
    local name=$1 started=$SECONDS verdict=passed
    say
    step "step $name"
    case $name in test) test_ ;; *) "$name" ;; esac || verdict=FAILED
    [ "$verdict" = passed ] && passed=$((passed + 1)) || failed=$((failed + 1))
    table+=$(printf '%-8s  %-6s  %5d s' "$name" "$verdict" $((SECONDS - started)))$'\n'
}

# The roots wait for the mirror and the disk most of the time: they are made while the compiler is at work.
trap 'trap - TERM; kill 0' INT TERM
mkdir -p "$project/target"
roots_log=$project/target/roots.log
roots_started=$SECONDS
(
    # In a subshell: die ends that.
    (root_boot && root_tools && root_kernels && root_arm64 && root_unseal)
    made=$?
    echo "    $((SECONDS - roots_started)) s"
    exit "$made"
) >"$roots_log" 2>&1 &
roots_pid=$!
# wait_for_roots: once; what was said of them is printed.
wait_for_roots() {
    [ -n "$roots_pid" ] || return 0
    say
    step "the roots"
    local verdict=passed
    wait "$roots_pid" || verdict=FAILED failed=1
    roots_pid=""
    cat "$roots_log"
    table+=$(printf '%-8s  %-6s  %7s' roots "$verdict" "$(tail -n 1 "$roots_log" | tr -s ' ')")$'\n'
}
for name in "$@"; do
    case $name in format | clippy | deny) ;; *) wait_for_roots ;; esac
    timed "$name"
done
wait_for_roots

say
printf '%s' "$table"
say "$passed passed, $failed failed"
[ "$failed" = 0 ]
