#!/usr/bin/env bash
# Tests the server with the clients that people use, unmodified. LLAMA_DIFFUSION_SERVER names a built server.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
: "${LLAMA_DIFFUSION_SERVER:?is not set: it names the server to test}"

skip() {
    echo "client tests: skipped: $1"
    exit 0
}

python=${PYTHON:-python3}
command -v "$python" >/dev/null || skip "$python is not installed"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || skip "$python is older than 3.11"
command -v npm >/dev/null || skip "npm is not installed"
[ "$(node -p 'process.versions.node.split(".")[0]')" -ge 20 ] || skip "node is older than 20"

# environment DIRECTORY LIST: installed once for each list of versions.
environment() {
    cmp -s "$2" "$1/installed.txt" && return
    "$python" -m venv --clear "$1" || skip "$python has no venv"
    "$1/bin/pip" install --quiet --retries 1 --requirement "$2" || return
    cp "$2" "$1/installed.txt"
}

# plugin COMMIT: llama.vim as it was then, fetched once; git checks it by its name. LLAMA_VIM names another folder with it.
plugin() {
    LLAMA_VIM=$PWD/llama.vim
    [ "$(cat llama.vim/.git/HEAD 2>/dev/null)" != "$1" ] || return 0
    rm -rf llama.vim
    git init --quiet llama.vim || return
    timeout 30 git -C llama.vim fetch --quiet --depth 1 https://github.com/ggml-org/llama.vim "$1" || return
    git -C llama.vim checkout --quiet --detach FETCH_HEAD
}

environment venv requirements.txt || skip "the Python packages cannot be had"
# Its own pins would collide with the others. Without it, only its test is skipped.
environment aider requirements-aider.txt || rm -rf aider
# There are wheels for some machines only.
environment neovim requirements-neovim.txt || rm -rf neovim
[ -n "${LLAMA_VIM:-}" ] || plugin 381730b05805d6561283482dda18097b0189a6d8 || rm -rf llama.vim
export LLAMA_VIM
if ! cmp -s package-lock.json node_modules/.installed; then
    npm ci --no-audit --no-fund --fetch-retries 1 || skip "the Node packages cannot be had"
    cp package-lock.json node_modules/.installed
fi

log=$(mktemp)
"$LLAMA_DIFFUSION_SERVER" --host 127.0.0.1 --port 0 --alias demo >"$log" 2>&1 &
server=$!
trap 'kill $server 2>/dev/null; wait $server 2>/dev/null || true; rm -f "$log"' EXIT
for _ in $(seq 100); do
    SERVER_URL=$(sed -n 's/.*listening on \(http:[^ ]*\).*/\1/p' "$log")
    [ -z "$SERVER_URL" ] || ! "$python" -c "import urllib.request as u; u.urlopen('$SERVER_URL/health')" 2>/dev/null || break
    kill -0 $server 2>/dev/null || { cat "$log"; exit 1; }
    sleep 0.1
done
export SERVER_URL
venv/bin/python -m pytest -q -rs -p no:cacheprovider -W ignore clients.py llama_vim.py
node --test clients.js
