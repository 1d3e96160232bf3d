#!/bin/sh
# Installs missing build tools with the system's package manager: cmake, ninja, a C and a C++ compiler, libclang with
# its headers; with the argument "test" also what the tests of the C library need (on Linux, where they run): Go,
# pkg-config, valgrind. Prints nothing if nothing is missing.
set -eu

have() { command -v "$1" >/dev/null 2>&1; }

# True if one of the file patterns matches.
any_file() {
    for file in "$@"; do
        [ -e "$file" ] && return 0
    done
    return 1
}

have_libclang() {
    [ -n "${LIBCLANG_PATH:-}" ] && return 0
    case $(uname -s) in
    Darwin)
        any_file "$(xcode-select -p 2>/dev/null)"/usr/lib/libclang.dylib \
            "$(xcode-select -p 2>/dev/null)"/Toolchains/XcodeDefault.xctoolchain/usr/lib/libclang.dylib \
            /opt/homebrew/opt/llvm/lib/libclang.dylib /usr/local/opt/llvm/lib/libclang.dylib
        ;;
    *)
        # Without the headers that belong to it (stddef.h), libclang cannot parse anything.
        any_file /usr/lib*/libclang.so* /usr/lib*/libclang-[0-9]*.so* /usr/lib/*/libclang.so* \
            /usr/lib/*/libclang-[0-9]*.so* /usr/lib*/llvm*/lib*/libclang.so* /usr/local/lib/libclang.so* &&
            any_file /usr/lib*/clang/*/include/stddef.h /usr/lib*/llvm*/lib*/clang/*/include/stddef.h \
                /usr/local/lib/clang/*/include/stddef.h
        ;;
    esac
}

as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif have sudo; then
        sudo "$@"
    else
        echo "error: run as root: $*" >&2
        exit 1
    fi
}

if ! have cargo; then
    echo "error: Rust is missing: install it with rustup (https://rustup.rs), then open a new shell" >&2
    exit 1
fi

# Names that each package manager's case below turns into package names.
missing=
have cmake || missing="$missing cmake"
have ninja || missing="$missing ninja"
have cc || missing="$missing cc"
have c++ || missing="$missing c++"
have_libclang || missing="$missing libclang"
if [ "${1:-}" = test ] && [ "$(uname -s)" = Linux ]; then
    have go || missing="$missing go"
    have pkg-config || missing="$missing pkg-config"
    have valgrind || missing="$missing valgrind"
fi
[ -n "$missing" ] || exit 0

# packages NINJA CC C++ LIBCLANG GO PKG-CONFIG: prints the missing ones with the names of this system.
packages() {
    for word in $missing; do
        case $word in
        ninja) echo "$1" ;;
        cc) echo "$2" ;;
        c++) echo "$3" ;;
        libclang) echo "$4" ;;
        go) echo "$5" ;;
        pkg-config) echo "$6" ;;
        *) echo "$word" ;;
        esac
    done
}

echo "installing:$missing" >&2
# The word lists are split intentionally.
# shellcheck disable=SC2046
if have apt-get; then
    as_root apt-get update -qq
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
        $(packages ninja-build 'gcc libc6-dev' g++ libclang-dev golang-go pkg-config)
elif have dnf; then
    as_root dnf install -y -q $(packages ninja-build gcc gcc-c++ clang-devel golang pkgconf-pkg-config)
elif have pacman; then
    as_root pacman -Sy --needed --noconfirm $(packages ninja gcc gcc clang go pkgconf)
elif have apk; then
    as_root apk add $(packages ninja 'gcc musl-dev linux-headers' g++ clang-dev go pkgconf)
elif have brew; then
    if ! have cc || ! have c++; then
        echo "error: a C++ compiler is missing: install it with xcode-select --install" >&2
        exit 1
    fi
    brew install $(packages ninja '' '' llvm go pkgconf)
else
    echo "error: install these with your system's package manager:$missing" >&2
    exit 1
fi
