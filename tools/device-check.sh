#!/usr/bin/env bash
# Checks the engine on a device: golden cases of Hugging Face transformers in every placement, weights
# and caches of every type, batches, chats, threads, too little memory.
#
#   tools/device-check.sh [--quick] DEVICE[,DEVICE…] [REPORT.json]
#
# DEVICE is a name of --list-devices, such as CUDA0, Vulkan0 or CPU; models are also distributed over
# several. `software` is Vulkan on this machine's processor, for machines without a GPU: two devices of
# Mesa's llvmpipe, from the system or downloaded (tools/software_vulkan.sh).
#
# --quick runs every golden case and every placement once, instead of every case in every placement,
# and weights in the types of the public files only.
#
# FEATURES  the Cargo features of the build, by default the one that the device's name implies
# BIN       a folder with prebuilt programs: llama-diffusion-cli, and the tests device and
#           device_golden
#
# Prints a table of the golden cases, and writes it to REPORT.json. Exits with 1 if a check fails, and
# with 3 and one line with the reason where there is no software device.
set -euo pipefail
if [ "${1:-}" = --quick ]; then
    export DIFFUSION_TEST_QUICK=1
    shift
fi
if [ $# -lt 1 ] || [ $# -gt 2 ]; then
    sed -n '2,/^set/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2
    exit 2
fi
device=$1
report=$(realpath -m "${2:-/dev/null}")
cd "$(dirname "${BASH_SOURCE[0]}")/.."

target=${CARGO_TARGET_DIR:-target}
RUNNER=
if [ "$device" = software ]; then
    environment=$(tools/software_vulkan.sh "$target/software-vulkan") || exit
    eval "$environment"
    # ggml lists a device each time it is named.
    export GGML_VK_VISIBLE_DEVICES=0,0
    device=Vulkan0,Vulkan1
fi

case $device in
CPU*) feature= ;;
CUDA*) feature=cuda ;;
MTL* | Metal*) feature=metal ;;
Vulkan*) feature=vulkan ;;
*) feature=${FEATURES:?"error: name the Cargo features of the device $device"} ;;
esac
features=${FEATURES:-$feature}

if [ -n "${BIN:-}" ]; then
    cli=$BIN/llama-diffusion-cli
    tests=("$BIN/device" "$BIN/device_golden")
else
    # As in the Makefile: a build with other features has its own folder.
    flags=(--release --locked --target-dir "$target${features:+/$features}" --features "$features")
    # One command: cargo would compile for the tests and again for the program.
    built=$(cargo build "${flags[@]}" -p llama-diffusion -p llama-diffusion-cli --bin llama-diffusion-cli \
        --test device --test device_golden --message-format=json-render-diagnostics)
    executable() { sed -n 's/.*"executable":"\([^"]*\/'"$1"'\)".*/\1/p' <<<"$built" | tail -n 1; }
    hash='-[0-9a-f]*'
    tests=("$(executable "device$hash")" "$(executable "device_golden$hash")")
    cli=$(executable llama-diffusion-cli)
fi

# Words of a command, split intentionally.
# shellcheck disable=SC2086
run() { $RUNNER "$@"; }

devices=$(run "$cli" --list-devices)
printf '%s\n' "$devices" >&2
for name in ${device//,/ }; do
    if ! grep -q "^ *$name:" <<<"$devices"; then
        echo "error: there is no device $name" >&2
        exit 1
    fi
done

export DIFFUSION_TEST_DEVICE=$device DIFFUSION_TEST_REPORT=$report
failed=0
for program in "${tests[@]}"; do
    # One after the other: they share the device, and the output stays in order.
    run "$program" --nocapture --test-threads=1 || failed=1
done
exit "$failed"
