#!/usr/bin/env bash
# Installs the C library into a temporary prefix and tests it from there: in C, C++ and Go, under
# AddressSanitizer with UBSan, and under valgrind.
#
# CYCLES: rounds of creating, generating and freeing in the leak test (default 10000).
set -euo pipefail
if [ "$(uname -s)" != Linux ]; then
    echo "the C library is installed and tested on Linux only: nothing was tested"
    exit 0
fi
cd "$(dirname "${BASH_SOURCE[0]}")/.."

demo=$PWD/crates/demo-model/demo-q8_0.gguf
golden=$PWD/tests/golden/one-expert/model.gguf
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-target}
release=$CARGO_TARGET_DIR/${CARGO_BUILD_TARGET:+$CARGO_BUILD_TARGET/}release
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
prefix=$tmp/prefix

say() { printf '\n== %s (after %d s)\n' "$*" "$SECONDS"; }

fail() {
    echo "error: $*" >&2
    exit 1
}

# Runs a command that a checker must abort with a report that contains the first argument.
must_complain() {
    local complaint=$1
    shift
    if "$@" >"$tmp/complaint" 2>&1; then
        fail "not found: $complaint: $*"
    fi
    grep -q "$complaint" "$tmp/complaint" || {
        cat "$tmp/complaint" >&2
        fail "another complaint than $complaint: $*"
    }
    echo "found as expected: $complaint"
}

say "install"
# Not the CUDA library, which cannot be linked into a static program.
make --no-print-directory install CUDA= PREFIX="$prefix" >"$tmp/install.log" 2>&1 || {
    cat "$tmp/install.log" >&2
    exit 1
}
make --no-print-directory install CUDA= PREFIX=/usr DESTDIR="$tmp/staged" >/dev/null 2>&1
diff <(cd "$prefix" && find . | sort) <(cd "$tmp/staged/usr" && find . | sort)
grep -q '^prefix=/usr$' "$tmp/staged/usr/lib/pkgconfig/llama_diffusion.pc"
rm -r "$tmp/staged"

export PKG_CONFIG_PATH=$prefix/lib/pkgconfig LD_LIBRARY_PATH=$prefix/lib
abi=$(sed -n 's/#define DIFFUSION_ABI_VERSION //p' "$prefix/include/llama_diffusion.h")
soname=$(readelf -d "$prefix/lib/libllama_diffusion.so" | sed -n 's/.*SONAME.*\[\(.*\)\]/\1/p')
[ "$soname" = "libllama_diffusion.so.$abi" ] || fail "the SONAME is '$soname', the ABI $abi"
nm -D --defined-only "$prefix/lib/libllama_diffusion.so" | awk '{print $3}' | LC_ALL=C sort |
    diff ffi-tests/exported-symbols.txt -
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml)
[ "$(pkg-config --modversion llama_diffusion)" = "$version" ] || fail "the .pc has another version"
cp -r "$prefix" "$tmp/moved"
moved=$(PKG_CONFIG_PATH=$tmp/moved/lib/pkgconfig pkg-config --define-prefix --cflags --libs llama_diffusion | xargs)
[ "$moved" = "-I$tmp/moved/include -L$tmp/moved/lib -lllama_diffusion" ] || fail "moved, the .pc says: $moved"

read -ra cflags <<<"$(pkg-config --cflags llama_diffusion)"
read -ra libs <<<"$(pkg-config --libs llama_diffusion)"
read -ra static_libs <<<"$(pkg-config --static --libs llama_diffusion)"
strict=(-Wall -Wextra -Wpedantic -Werror)

say "the header is clean C99, C11 and C++11, included twice"
printf '#include <llama_diffusion.h>\n#include <llama_diffusion.h>\n' >"$tmp/twice.c"
for compiler in cc clang; do
    command -v $compiler >/dev/null || continue
    for standard in c99 c11; do
        $compiler -std=$standard "${strict[@]}" "${cflags[@]}" -fsyntax-only "$tmp/twice.c"
    done
    for standard in c++11 c++17; do
        $compiler -x c++ -std=$standard "${strict[@]}" "${cflags[@]}" -fsyntax-only "$tmp/twice.c"
    done
done

# build_c DIRECTORY FLAGS…: all C programs except panic, which needs another library.
build_c() {
    local directory=$1 program
    shift
    mkdir -p "$directory"
    for program in generate canvas errors reuse threads fork cycles tokens broken; do
        cc -std=c99 -O1 -g "${strict[@]}" "$@" "${cflags[@]}" "ffi-tests/c/$program.c" \
            -o "$directory/$program" "${libs[@]}" -pthread
    done
}

# run_c DIRECTORY CHECKER…: all at once, because some take long under a checker.
run_c() {
    local directory=$1 pids=() pid
    shift
    "$@" "$directory/generate" "$demo" "$golden" &
    pids+=($!)
    "$@" "$directory/canvas" "$demo" &
    pids+=($!)
    "$@" "$directory/errors" "$demo" "$PWD/Makefile" &
    pids+=($!)
    "$@" "$directory/reuse" "$demo" &
    pids+=($!)
    "$@" "$directory/threads" "$demo" &
    pids+=($!)
    "$@" "$directory/broken" nothing "$demo" &
    pids+=($!)
    for pid in "${pids[@]}"; do
        wait "$pid"
    done
}

say "C"
build_c "$tmp/c"
run_c "$tmp/c"
"$tmp/c/fork" "$demo"
"$tmp/c/cycles" "$golden" "${CYCLES:-10000}"

say "C under AddressSanitizer and UBSan"
build_c "$tmp/asan" -fsanitize=address,undefined -fno-sanitize-recover=all
run_c "$tmp/asan"
must_complain "detected memory leaks" "$tmp/asan/broken" leak "$demo"
must_complain "heap-use-after-free" "$tmp/asan/broken" use-after-free "$demo"
must_complain "heap-buffer-overflow" "$tmp/asan/broken" overflow "$demo"
must_complain "signed integer overflow" "$tmp/asan/broken" undefined "$demo"

say "C++"
for compiler in c++ clang++; do
    command -v $compiler >/dev/null || continue
    $compiler -std=c++11 -O1 -g "${strict[@]}" "${cflags[@]}" ffi-tests/cpp/{wrapper,other}.cpp \
        -o "$tmp/wrapper" "${libs[@]}"
    "$tmp/wrapper" "$demo"
done
c++ -std=c++11 -O1 -g -fsanitize=address,undefined -fno-sanitize-recover=all "${cflags[@]}" \
    ffi-tests/cpp/{wrapper,other}.cpp -o "$tmp/wrapper" "${libs[@]}"
"$tmp/wrapper" "$demo"
c++ -std=c++11 "${strict[@]}" "${cflags[@]}" ffi-tests/cpp/tokens.cpp -o "$tmp/tokens-cpp" "${libs[@]}"

say "Go"
(
    cd bindings/go
    # Go's cache does not notice that pkg-config reports another prefix.
    export CGO_CPPFLAGS=-DPREFIX=$prefix
    unformatted=$(gofmt -l .)
    [ -z "$unformatted" ] || fail "gofmt: $unformatted"
    go vet ./...
    DIFFUSION_TEST_MODEL=$demo go test -count=1 ./...
    go build -o "$tmp/tokens-go" ./cmd/tokens
)

say "the static library, by pkg-config and by CMake; the shared one by CMake"
cc -std=c99 -static "${cflags[@]}" ffi-tests/c/tokens.c -o "$tmp/tokens-static" "${static_libs[@]}" \
    2>"$tmp/static.log" || {
    cat "$tmp/static.log" >&2
    exit 1
}
cmake -S ffi-tests/cmake -B "$tmp/cmake" -DCMAKE_PREFIX_PATH="$tmp/moved" >/dev/null
cmake --build "$tmp/cmake" >/dev/null
archive=$prefix/lib/libllama_diffusion.a
# In the static library, functions of ggml throw and catch C++ exceptions.
cc -std=c99 -Wl,--gc-sections "${cflags[@]}" ffi-tests/c/errors.c -o "$tmp/errors-static" \
    "$archive" "${static_libs[@]:2}"
"$tmp/errors-static" "$demo" "$PWD/Makefile"

say "the static library together with another ggml, in C and C++"
nm -g --defined-only "$archive" | awk 'NF == 3 { print $3 }' | LC_ALL=C sort |
    diff ffi-tests/exported-symbols.txt -
for cache in "$release"/build/llama-diffusion-*/out/build/CMakeCache.txt; do
    source=$(sed -n 's/^LLAMA_CPP_DIR:.*=//p' "$cache")
done
options=(-DCMAKE_BUILD_TYPE=Debug -DBUILD_SHARED_LIBS=OFF)
for off in GGML_NATIVE GGML_OPENMP GGML_LLAMAFILE GGML_CPU_REPACK GGML_ALL_WARNINGS LLAMA_ALL_WARNINGS \
    LLAMA_BUILD_{APP,COMMON,EXAMPLES,SERVER,TESTS,TOOLS}; do
    options+=("-D$off=OFF")
done
build_ggml() {
    cmake -S "$source" -B "$tmp/ggml" "${options[@]}" -DCMAKE_{C,CXX}_FLAGS=-DGGML_MAX_NAME=128
    cmake --build "$tmp/ggml" --target ggml --parallel "$(nproc)"
}
build_ggml >"$tmp/ggml.log" 2>&1 || {
    cat "$tmp/ggml.log" >&2
    exit 1
}
ggml_src=$tmp/ggml/ggml/src
ggml=("$ggml_src/libggml.a" "$ggml_src/libggml-cpu.a" "$ggml_src/libggml-base.a" -lstdc++ -lm -lpthread -ldl)
ggml_flags=(-DGGML_MAX_NAME=128 -isystem "$source/ggml/include")
for order in first last; do
    case $order in
    first) libraries=("$archive" "${ggml[@]}") ;;
    last) libraries=("${ggml[@]}" "$archive" -lstdc++ -lm) ;;
    esac
    cc -std=c99 "${strict[@]}" "${ggml_flags[@]}" "${cflags[@]}" -Dmain=tokens_main -c ffi-tests/c/tokens.c -o "$tmp/tokens.o"
    cc -std=c99 "${strict[@]}" "${ggml_flags[@]}" ffi-tests/c/beside.c "$tmp/tokens.o" -o "$tmp/beside-c-$order" "${libraries[@]}"
    c++ -std=c++11 "${strict[@]}" "${cflags[@]}" -Dmain=tokens_main -c ffi-tests/cpp/tokens.cpp -o "$tmp/tokens.o"
    c++ -std=c++11 "${strict[@]}" "${ggml_flags[@]}" -x c++ ffi-tests/c/beside.c -x none "$tmp/tokens.o" \
        -o "$tmp/beside-cpp-$order" "${libraries[@]}"
done
# The library as Cargo builds it clashes.
must_complain "multiple definition" c++ -std=c++11 "${ggml_flags[@]}" -x c++ ffi-tests/c/beside.c -x none "$tmp/tokens.o" \
    -o "$tmp/clash" "$release/libllama_diffusion.a" "${ggml[@]}"

say "the same tokens from Rust, C, C++ and Go"
cargo build --release --locked --example tokens 2>/dev/null
compared=0
story=$(sed -n '/"task":"stories"/{s/.*"tokens":\[\([0-9,]*\)\].*/\1/p;q}' tests/quality/prompts.jsonl | tr , ' ')
[ -n "$story" ] || fail "no story among the prompts"
for model in "$demo" tests/golden/*/model.gguf; do
    prompt=(5 6 7 8 9)
    # A story, in its template: it does not answer arbitrary tokens.
    [ "$model" != "$demo" ] || read -ra prompt <<<"$story"
    for seed in 0 42; do
        arguments=("$model" "$seed" 40 "${prompt[@]}")
        "$release/examples/tokens" "${arguments[@]}" >"$tmp/expected"
        [ -s "$tmp/expected" ] || fail "no tokens from $model"
        for program in c/tokens asan/tokens tokens-cpp tokens-go tokens-static \
            cmake/with_llama_diffusion cmake/with_static beside-{c,cpp}-{first,last}; do
            "$tmp/$program" "${arguments[@]}" | cmp - "$tmp/expected"
            compared=$((compared + 1))
        done
    done
done
echo "$compared answers are identical to Rust's"

# Two things that the installed library cannot do: panic on demand, and run under a valgrind that
# does not support the newest instructions of this machine.
say "a library for valgrind, with a panic on demand"
# Cargo names the files of this build and of the usual one the same, and must not confuse them.
forget_library() { rm -f "$release"/{,deps/}libllama_diffusion.*; }
trap 'forget_library; rm -rf "$tmp"' EXIT
forget_library
cargo rustc --release --locked -p llama-diffusion-capi --features portable -- --cfg llama_diffusion_test_panic \
    >"$tmp/build.log" 2>&1 || {
    cat "$tmp/build.log" >&2
    exit 1
}
mkdir "$tmp/portable"
cp "$release/libllama_diffusion.so" "$tmp/portable/$soname"
cc -std=c99 -O1 -g "${strict[@]}" "${cflags[@]}" ffi-tests/c/panic.c -o "$tmp/c/panic" \
    "$tmp/portable/$soname"
export LD_LIBRARY_PATH=$tmp/portable
# Valgrind reports Rust's record of the main thread as "possibly lost".
valgrind=(valgrind -q --error-exitcode=9 --leak-check=full --show-leak-kinds=definite
    --errors-for-leak-kinds=definite)

say "C under valgrind"
run_c "$tmp/c" "${valgrind[@]}"
"${valgrind[@]}" "$tmp/c/panic" "$demo"
must_complain "definitely lost" "${valgrind[@]}" "$tmp/c/broken" leak "$golden"
must_complain "Invalid read" "${valgrind[@]}" "$tmp/c/broken" use-after-free "$golden"
must_complain "Invalid write" "${valgrind[@]}" "$tmp/c/broken" overflow "$demo"

say "all passed"
