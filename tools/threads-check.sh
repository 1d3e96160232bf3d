#!/usr/bin/env bash
# Measures how much longer a denoising step takes when threads have to wait for cores, as ratios to an undisturbed run.
# More threads than cores are asked for, too: the engine must not start them. Needs an idle machine, taskset (util-linux)
# and the benchmark:
#
#   cargo build --release --bin llama-diffusion-bench && tools/threads-check.sh
#
# BENCH: the benchmark of another build, to compare.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bench=${BENCH:-${CARGO_TARGET_DIR:-target}/release/llama-diffusion-bench}
cores=$(nproc)

# step WORDS…: milliseconds of a step, measured by the benchmark that these words run.
step() {
    timeout "${LIMIT:-300}" "$@" -p 0 -r "$repetitions" --steps 16 -o jsonl 2>/dev/null |
        sed -n 's/.*"test":"dn.*"avg_ms":\([0-9.]*\).*/\1/p'
}

row() {
    awk -v what="$1" -v time="$2" -v quiet="$3" -v bar="$4" 'BEGIN {
        if (time == "") { printf "  %-44s no result within the limit\n", what; exit }
        printf "  %-44s %9.2f ms  %7.2f", what, time, time / quiet
        printf bar == "" ? "\n" : "  (at most %s)\n", bar
    }'
}

check() {
    repetitions=$1
    shift
    echo "$*"
    local quiet one neighbour
    quiet=$(step "$@" -t "$cores")
    row "$cores threads, quiet" "$quiet" "$quiet" ""
    row "$((2 * cores)) threads" "$(step "$@" -t $((2 * cores)))" "$quiet" 4
    row "$((4 * cores)) threads" "$(step "$@" -t $((4 * cores)))" "$quiet" ""
    taskset -c "$((cores - 1))" sh -c 'while :; do :; done' &
    neighbour=$!
    row "$cores threads, one core busy" "$(step "$@" -t "$cores")" "$quiet" 3
    kill "$neighbour"
    wait "$neighbour" 2>/dev/null || true
    one=$(step taskset -c 0 "$@" -t 1)
    row "taskset -c 0, default threads, to -t 1" "$(step taskset -c 0 "$@")" "$one" 1.1
}

check 20 "$bench" -m crates/demo-model/demo-q8_0.gguf
check 3 "$bench" --synthetic small:q8_0
