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

environment venv requirements.txt || skip "the Python packages cannot be had"
# Its own pins would collide with the others. Without it, only its test is skipped.
environment aider requirements-aider.txt || rm -rf aider
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
venv/bin/python -m pytest -q -rs -p no:cacheprovider -W ignore clients.py
node --test clients.js
