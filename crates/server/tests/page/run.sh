#!/usr/bin/env bash
# Tests the page in Chromium. LLAMA_DIFFUSION_SERVER and LLAMA_DIFFUSION_CLI name built programs: with them, the page
# is also tested against the server, and its recordings against the tool.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

skip() {
    echo "page tests: skipped: $1"
    exit 0
}

command -v node >/dev/null || skip "node is not installed"
command -v npm >/dev/null || skip "npm is not installed"
[ "$(node -p 'process.versions.node.split(".")[0]')" -ge 20 ] || skip "node is older than 20"
export CHROMIUM=${CHROMIUM:-$(command -v chromium || command -v chromium-browser || command -v google-chrome || true)}
[ -n "$CHROMIUM" ] || skip "Chromium is not installed (CHROMIUM may name it)"
if ! cmp -s package-lock.json node_modules/.installed; then
    npm ci --no-audit --no-fund --fetch-retries 1 || skip "the Node packages cannot be had"
    cp package-lock.json node_modules/.installed
fi
npm run --silent check
npm run --silent test
