#!/usr/bin/env bash
# Runs the tool on emulated processors, with qemu's user-mode emulation (Debian: qemu-user).
#
#   tools/cpus-check.sh [portable] [plug-ins] [native] [aarch64]     default: all four
#
# portable   the feature `portable` answers on processors with AVX2 and rejects older ones with one sentence
# plug-ins   the features `portable,dynamic-backends` answer on older ones, too (takes 11 CPU-minutes to build)
# native     a build for this machine rejects a lesser processor with one sentence
# aarch64    a cross build passes the golden cases (Debian: g++-aarch64-linux-gnu; rustup target add
#            aarch64-unknown-linux-gnu)
#
# PROFILE=dev builds Rust code faster; ggml is optimized in every profile.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

profile=${PROFILE:-release}
directory=$profile
[ "$profile" != dev ] || directory=debug
target=${CARGO_TARGET_DIR:-target}/cpus-check
question=(-p "What is the capital of Norway?" -s 1 -t 2)
failed=0

say() { printf '\n== %s (after %d s)\n' "$*" "$SECONDS"; }

need() {
    command -v "$1" >/dev/null || {
        echo "error: $1 is missing: install it with apt-get install $2" >&2
        exit 1
    }
}

# build FEATURES: the tool.
build() {
    cargo build --locked --profile "$profile" --bin llama-diffusion-cli --target-dir "$target" --features "$1"
}

# on CPU: status and output of the question, the latter in $output.
on() {
    local status=0
    output=$(qemu-x86_64 -cpu "$1" "$target/$directory/llama-diffusion-cli" "${question[@]}" 2>&1) || status=$?
    printf '%-16s status %d: %s\n' "$1" "$status" "$(grep -m1 -e '^The capital' -e '^error' <<<"$output" || echo nothing)"
    return "$status"
}

answers() {
    if ! on "$1" || ! grep -qx 'The capital of Norway is Oslo.' <<<"$output"; then
        echo "FAILED: no answer on $1" >&2
        failed=1
    fi
}

refuses() {
    if on "$1" || ! grep -q 'this build is for processors with .* which this one lacks' <<<"$output"; then
        echo "FAILED: no sentence on $1" >&2
        failed=1
    fi
}

portable() {
    build portable
    answers Haswell
    answers Skylake-Server
    refuses Nehalem
}

plug_ins() {
    build portable,dynamic-backends
    local cpu
    for cpu in Nehalem Haswell Skylake-Server; do
        answers "$cpu"
    done
}

native() {
    build default
    refuses Nehalem
}

aarch64() {
    need qemu-aarch64 qemu-user
    need aarch64-linux-gnu-g++ g++-aarch64-linux-gnu
    local system=/usr/aarch64-linux-gnu
    CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc \
        CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER="qemu-aarch64 -L $system" \
        BINDGEN_EXTRA_CLANG_ARGS_aarch64_unknown_linux_gnu="-I$system/include" \
        cargo test --locked --profile "$profile" --target aarch64-unknown-linux-gnu \
        --target-dir "$target" --test engine -- golden:: || failed=1
}

[ $# -gt 0 ] || set -- portable plug-ins native aarch64
need qemu-x86_64 qemu-user
for check in "$@"; do
    say "$check"
    case $check in
    portable | native | aarch64) "$check" ;;
    plug-ins) plug_ins ;;
    *)
        echo "error: there is no check '$check'" >&2
        exit 2
        ;;
    esac
done
[ "$failed" = 0 ] || exit 1
say "all passed"
