#!/bin/sh
# hide-symbols.sh IN.a OUT.a: makes a static library that exports only the functions of llama_diffusion.h.
#
# Cargo's static library exports all names of llama.cpp, ggml and Rust's standard library, so a program cannot link it
# together with another ggml or another Rust library: "multiple definition". This script joins the members into one
# object whose other symbols are local.
#
# LD, OBJCOPY, NM, AR: replacements for ld, objcopy, nm and ar, such as those of a cross compiler or of LLVM.
set -eu

fail() {
    echo "error: $*" >&2
    exit 1
}

[ $# = 2 ] || fail "usage: hide-symbols.sh IN.a OUT.a"
in=$1 out=$2
: "${LD:=ld}" "${OBJCOPY:=objcopy}" "${NM:=nm}" "${AR:=ar}"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM

defined() { $NM -g --defined-only "$1" 2>/dev/null | awk 'NF == 3 { print $3 }' | LC_ALL=C sort -u; }

defined "$in" | grep '^diffusion_' >"$work/public" || fail "$in defines no function diffusion_*"

# Section groups, which C++ uses for inline functions, are dissolved: a linker keeps one group of each name, and must not
# replace ours, whose symbols are local, with that of another library.
$LD --help | grep -q -e --force-group-allocation ||
    fail "$LD does not know --force-group-allocation: set LD to GNU ld, or use the shared library"
sed 's/^/-u /' "$work/public" >"$work/roots"
$LD -r --force-group-allocation "@$work/roots" "$in" -o "$work/all.o"

# Rust's bitcode serves link-time optimization between crates; other versions of LLVM cannot read it.
$OBJCOPY -R .llvmbc -R .llvmcmd --keep-global-symbols="$work/public" "$work/all.o" "$work/object.o"

# GNU objcopy skips symbols that GCC marks as unique in a process; once they are weak, it makes them local.
defined "$work/object.o" | grep -v '^diffusion_' >"$work/unique" || true
if [ -s "$work/unique" ]; then
    $OBJCOPY --weaken-symbols="$work/unique" "$work/object.o"
    $OBJCOPY --keep-global-symbols="$work/public" "$work/object.o"
fi
defined "$work/object.o" | cmp -s - "$work/public" || fail "$OBJCOPY left other symbols than diffusion_* visible"

rm -f "$out"
$AR rcs "$out" "$work/object.o"
