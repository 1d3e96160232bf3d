#!/usr/bin/env bash
# Checks and measures a machine with an NVIDIA GPU (CUDA 12.8 or newer), and writes one JSON file:
# what tools/device-check.sh checks, then prefill and denoising steps of the 26B-A4B geometry with
# random weights (no download), with a profile, growing prefixes, batches of canvases, and libllama
# in the same run.
#
#   tools/gpu-check.sh [RESULT.json]
#
# DEVICE    the device, CUDA0 by default; CPU tests the script without a GPU, on a small model
# MODELS    what to measure, "26b-a4b:q4_k_m 26b-a4b:q8_0" by default ("tiny:q8_0" on the CPU)
# BIN       a folder with prebuilt programs: llama-diffusion-bench, and those of
#           tools/device-check.sh
# SECONDS_LEFT  start no measurement after this many seconds (default: 570, without the build)
#
# Exits with 1 if a check fails or no measurement could be made. The result lists under "failed"
# what failed or was skipped for lack of time.
set -euo pipefail
result=$(realpath -m "${1:-gpu-check.json}")
cd "$(dirname "${BASH_SOURCE[0]}")/.."

device=${DEVICE:-CUDA0}
limit=${SECONDS_LEFT:-570}
target=${CARGO_TARGET_DIR:-target}
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

if [ "$device" = CPU ]; then
    features=()
    place=(-dev none)
    models=${MODELS:-tiny:q8_0}
    prefixes=0,64,256
else
    features=(--features cuda)
    target+=/cuda # as in the Makefile
    place=(-dev "$device")
    models=${MODELS:-26b-a4b:q4_k_m 26b-a4b:q8_0}
    prefixes=0,1024,8192,32768
fi

if [ -n "${BIN:-}" ]; then
    bench=$BIN/llama-diffusion-bench
else
    flags=(--release --locked --target-dir "$target" "${features[@]}")
    cargo build "${flags[@]}" --bin llama-diffusion-bench
    bench=$target/${CARGO_BUILD_TARGET:+$CARGO_BUILD_TARGET/}release/llama-diffusion-bench
fi
SECONDS=0

if [ "$device" != CPU ] && ! "$bench" --list-devices | grep -q "^ *$device:"; then
    echo "error: there is no device $device; there are:" >&2
    "$bench" --list-devices >&2
    exit 1
fi

say() { printf '\n== %s (after %d s)\n' "$*" "$SECONDS" >&2; }

say "checks of $device"
passed=false
echo null >"$tmp/golden"
if tools/device-check.sh "$device" "$tmp/golden" >&2; then
    passed=true
fi
[ -n "${BIN:-}" ] || SECONDS=0 # the programs have been built

measured=0
: >"$tmp/results"
: >"$tmp/failed"

# measure NAME ARGUMENT…: one run of the benchmark; its object joins the results.
measure() {
    local name=$1
    shift
    say "$name"
    if [ "$SECONDS" -ge "$limit" ]; then
        echo "left out: $limit s are over" >&2
        printf '%s\n' "$name: left out for lack of time" >>"$tmp/failed"
    elif timeout $((limit - SECONDS + 30)) "$bench" "${place[@]}" "$@" -o json >"$tmp/one" 2>"$tmp/log"; then
        # Each run is one named object: no JSON tool is needed to join them.
        [ "$measured" -eq 0 ] || printf ',\n' >>"$tmp/results"
        printf '{"name": "%s", "result": ' "$name" >>"$tmp/results"
        cat "$tmp/one" >>"$tmp/results"
        printf '}' >>"$tmp/results"
        measured=$((measured + 1))
    else
        tail -n 5 "$tmp/log" >&2
        printf '%s\n' "$name: $(tail -n 1 "$tmp/log")" >>"$tmp/failed"
    fi
}

for model in $models; do
    measure "$model, prefixes" --synthetic "$model" -p "$prefixes" --steps 10 -r 3
    measure "$model, profile" --synthetic "$model" -p "$(cut -d, -f2 <<<"$prefixes")" -r 3 --profile
    for batch in 2 4 8; do
        measure "$model, batch of $batch" --synthetic "$model" -p 256 --steps 10 -r 3 --parallel "$batch"
    done
done
# A step consists of computation alone if graphs are captured, none dropped, and only a few KB cross the bus.
say "graphs and bytes of the steps measured so far"
grep -oE '"(test|graphs_captured|captures_dropped|step_bytes)": [^,]*[0-9a-z]"?' "$tmp/results" | paste -sd' ' |
    sed 's/"test"/\n&/g' | grep graphs_captured >&2 || true
for model in $models; do
    measure "$model, against libllama" --synthetic "$model" -p 256 --steps 16 -r 3 --compare-upstream
done

quoted() { sed 's/\\/\\\\/g; s/"/\\"/g; s/.*/"&"/' "$1" | paste -sd, -; }
"$bench" --list-devices >"$tmp/devices"
{
    printf '{\n"version": "%s",\n' "$("$bench" --version)"
    printf '"device": "%s",\n"devices": [%s],\n' "$device" "$(quoted "$tmp/devices")"
    printf '"checks_passed": %s,\n"golden": %s,\n' "$passed" "$(cat "$tmp/golden")"
    printf '"seconds": %d,\n"failed": [%s],\n"measured": [\n' "$SECONDS" "$(quoted "$tmp/failed")"
    cat "$tmp/results"
    printf '\n]\n}\n'
} >"$result"
say "written: $result"
[ "$passed" = true ] && [ "$measured" -gt 0 ]
