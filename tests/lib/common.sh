# Shared by the test scripts: where things are, how to say what happens. Sourced, not run.
# shellcheck shell=bash

project=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)

# What takes long to make and never changes (Debian roots, a Python environment, cargo-deny) is kept here between runs.
cache=${KAIROS_INIT_CACHE:-/var/cache/kairos-init-tests}
if ! mkdir -p "$cache" 2>/dev/null || ! [ -w "$cache" ]; then
    cache=$project/target/test-cache
    mkdir -p "$cache"
fi

say() { printf '%s\n' "$*"; }
step() { printf '==> %s\n' "$*"; }

# die WHAT: one line to stderr, and the script ends with 1.
die() {
    printf '%s: %s\n' "$(basename "$0")" "$*" >&2
    exit 1
}

# A root file system has files that only root may read or make.
as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    else
        sudo -- "$@"
    fi
}

# need FILE WHY: ends the script if FILE is missing.
need() { [ -e "$1" ] || die "$1 is missing: $2"; }

# fingerprint FILE...: changes when one of the files does.
fingerprint() { cat "$@" | sha256sum | cut -c1-16; }
