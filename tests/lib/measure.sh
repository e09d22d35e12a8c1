# Times programs for the benches, and sets the figures beside their bars. Sourced after common.sh.
# shellcheck shell=bash

declare -A seconds memory
# measure NAME COMMAND...: once to warm up unless one run is all, then $runs times; seconds[NAME] is the median, memory[NAME] the
# most MiB of any process of it. Its files are in $scratch.
measure() {
    local name=$1 run
    shift
    [ "$runs" = 1 ] || as_root "$@" >/dev/null 2>"$scratch/stderr" || die "$name: $(tail -n 1 "$scratch/stderr")"
    : >"$scratch/times"
    for ((run = 0; run < runs; run++)); do
        # What was written before is not to be written back at this one's cost.
        sync -f "$scratch"
        as_root /usr/bin/time -o "$scratch/time" -f '%e %M' "$@" >/dev/null 2>"$scratch/stderr" ||
            die "$name: $(tail -n 1 "$scratch/stderr")"
        cat "$scratch/time" >>"$scratch/times"
    done
    seconds[$name]=$(sort -n "$scratch/times" | awk '{ t[NR] = $1 } END { print t[int((NR + 1) / 2)] }')
    memory[$name]=$(sort -n -k2 "$scratch/times" | awk 'END { printf "%.0f", $2 / 1024 }')
    say "    $name: ${seconds[$name]} s, ${memory[$name]} MiB"
}

ratio() { awk -v a="$1" -v b="$2" 'BEGIN { printf "%.3f", a / (b > 0 ? b : 0.01) }'; }

# The lines of bar and row, for the script to print at its end.
table=""
# bar WHAT VALUE UNIT BAR more|less
bar() {
    local verdict
    verdict=$(awk -v value="$2" -v bar="$4" -v want="$5" \
        'BEGIN { print ((want == "more" ? value >= bar : value <= bar) ? "met" : "MISSED") }')
    table+=$(printf '%-70s %8.2f %-6s (%s %s)  %s' "$1" "$2" "$3" "$([ "$5" = more ] && echo "at least" || echo "at most")" "$4" "$verdict")$'\n'
}
row() { table+=$(printf '%-70s %8.2f %s' "$1" "$2" "$3")$'\n'; }
