#!/usr/bin/env bash
# Runs the C test of threads under ThreadSanitizer, with the library and ggml instrumented (the
# standard library of Rust is not). Not part of `make test`: it builds everything again, and
# needs an unstable flag of the stable compiler. Needs Linux on x86-64 and gcc.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

triple=x86_64-unknown-linux-gnu
target=${CARGO_TARGET_DIR:-target}/tsan
runtime=$(rustc --print sysroot)/lib/rustlib/$triple/lib/librustc-stable_rt.tsan.a
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

RUSTC_BOOTSTRAP=1 CARGO_TARGET_DIR=$target \
    RUSTFLAGS="-Zsanitizer=thread -Cunsafe-allow-abi-mismatch=sanitizer" \
    CFLAGS="-fsanitize=thread -g1" CXXFLAGS="-fsanitize=thread -g1" \
    cargo build --release --locked -p llama-diffusion-capi --target "$triple"
library=$target/$triple/release/libllama_diffusion.so
[ "$(nm -D "$library" | grep -c 'U __tsan_')" -gt 20 ] || {
    echo "error: $library is not instrumented" >&2
    exit 1
}
cp "$library" "$tmp/$(readelf -d "$library" | sed -n 's/.*SONAME.*\[\(.*\)\]/\1/p')"

# build PROGRAM SOURCE: with Rust's copy of the runtime, which has LLVM's functions.
build() {
    gcc -g -O1 -std=c99 -fsanitize=thread -Iffi-tests/c -Iinclude -c "$2" -o "$tmp/$1.o"
    g++ -no-pie "$tmp/$1.o" -Wl,--whole-archive "$runtime" -Wl,--no-whole-archive \
        -Wl,--export-dynamic "$tmp"/libllama_diffusion.so.* -pthread -ldl -lrt -lm -o "$tmp/$1"
}

# The sanitizer cannot place its tables if addresses are randomized too much.
run() { LD_LIBRARY_PATH=$tmp TSAN_OPTIONS=halt_on_error=1 setarch -R "$@"; }

build threads ffi-tests/c/threads.c
run "$tmp/threads" crates/demo-model/demo-q8_0.gguf

cat >"$tmp/race.c" <<'C'
#include <pthread.h>
static int shared;
static void *write_it(void *unused) { shared++; return unused; }
int main(void) {
    pthread_t other;
    pthread_create(&other, 0, write_it, 0);
    shared++;
    return pthread_join(other, 0);
}
C
build race "$tmp/race.c"
if run "$tmp/race" >"$tmp/complaint" 2>&1 || ! grep -q "data race" "$tmp/complaint"; then
    echo "error: a data race was not found" >&2
    exit 1
fi
echo "threads: no data race; a deliberate one is found"
