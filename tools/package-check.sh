#!/usr/bin/env bash
# Checks what `cargo publish` would upload: the packages are put into a folder of vendored packages, and a fresh project
# depends on them. It builds and answers without a network, without this repository and without the contents of Cargo's
# home. Then the tools are installed from there, and the documentation is built as on docs.rs.
#
# Needs the packages of Cargo.lock in Cargo's home (`cargo fetch --locked`).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
repository=$PWD
limit=10485760 # of crates.io, for a compressed package

say() { printf '\n== %s (after %d s)\n' "$*" "$SECONDS"; }

fail() {
    echo "error: $*" >&2
    exit 1
}

tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

say "package"
cargo package --workspace --exclude llama-diffusion-capi --exclude llama-diffusion-testing \
    --locked --offline --no-verify --allow-dirty --target-dir "$tmp/package" \
    2>"$tmp/package.log" || {
    cat "$tmp/package.log" >&2
    exit 1
}
for crate in "$tmp"/package/package/*.crate; do
    bytes=$(wc -c <"$crate")
    echo "$(basename "$crate"): $bytes bytes"
    [ "$bytes" -lt "$limit" ] || fail "$crate is larger than crates.io takes ($limit bytes)"
done

say "a folder of vendored packages"
cargo vendor --locked --offline --quiet "$tmp/vendor" >/dev/null
for crate in "$tmp"/package/package/*.crate; do
    tar -xzf "$crate" -C "$tmp/vendor"
    package=$tmp/vendor/$(basename "$crate" .crate)
    printf '{"files":{},"package":"%s"}' "$(sha256sum "$crate" | cut -d' ' -f1)" >"$package/.cargo-checksum.json"
done

# From here on only the folder is available: no network, an empty Cargo home.
cd "$tmp"
export CARGO_HOME=$tmp/home CARGO_NET_OFFLINE=true CARGO_TARGET_DIR=$tmp/target CARGO_PROFILE_DEV_DEBUG=0
export CCACHE_BASEDIR=$tmp # the next run, in another directory, reuses what this one compiled
unset LLAMA_CPP_DIR
mkdir "$tmp/home"
cat >"$tmp/home/config.toml" <<CONFIG
[source.crates-io]
replace-with = "vendored"
[source.vendored]
directory = "$tmp/vendor"
CONFIG

say "a fresh project"
cargo new --quiet --vcs none "$tmp/project"
cd "$tmp/project"
cargo add --quiet llama-diffusion
cp "$tmp"/vendor/llama-diffusion-[0-9]*/examples/tokens.rs src/main.rs
cargo build --quiet
"$CARGO_TARGET_DIR/debug/project" "$repository/tests/golden/one-expert/model.gguf" 42 40 5 6 7 8 9 >"$tmp/tokens"
[ -s "$tmp/tokens" ] || fail "the project prints no tokens"
echo "answers: $(tr '\n' ' ' <"$tmp/tokens" | cut -c1-60)"

say "the tools"
cargo install --quiet --debug --root "$tmp/installed" llama-diffusion-cli
answer=$("$tmp/installed/bin/llama-diffusion-cli" -p "What is the capital of Norway?" 2>/dev/null)
echo "answers: $answer"
case $answer in *Oslo*) ;; *) fail "the installed tool does not answer" ;; esac

say "the documentation, as docs.rs builds it"
cd "$tmp"/vendor/llama-diffusion-[0-9]*
DOCS_RS=1 RUSTDOCFLAGS="-D warnings" cargo doc --quiet --no-deps --lib
[ -f "$CARGO_TARGET_DIR/doc/llama_diffusion/index.html" ] || fail "no documentation"

say "all passed"
