#!/usr/bin/env bash
# Runs the official MCP conformance suite, both requirement sets, against one server that hosts
# tests/fixtures/conformance/server.mjs as a stdio child. Exits 0 only when every scenario ends as
# tests/fixtures/conformance/scenarios.txt says, unexpected passes included. Both summaries come last.
#
# usage: scripts/conformance.sh [OUTLAST-BINARY]      (default: $OUTLAST_BIN, else target/debug/outlast)
set -euo pipefail

. "$(dirname "${BASH_SOURCE[0]}")/server-under-test.sh"

binary=$(realpath -m "${1:-${OUTLAST_BIN:-$root/target/debug/outlast}}")
fixture=$root/tests/fixtures/conformance
dir=$root/target/conformance
suite=@modelcontextprotocol/conformance
version=0.2.0-alpha.12

use_node_22
mkdir -p "$dir"
installed=$(node -p "require('$dir/node_modules/$suite/package.json').version" 2>/dev/null || true)
if [ "$installed" != "$version" ]; then
    npm install --prefix "$dir" --ignore-scripts --no-audit --no-fund --silent "$suite@$version" ||
        die "npm could not install $suite@$version"
fi

node "$fixture/check.mjs" || die "the fixture itself is broken"

# One hosted server, so its tools keep their own names, and no tools of the host's: the suite calls the first one listed.
cat >"$dir/config.toml" <<CONFIG
[admin]
listen = ""

[tools]
code = false
root = "$dir"

[servers.fixture]
command = "node"
args = ["$fixture/server.mjs"]
CONFIG
start_server "$binary" "$dir" test_simple_text

for revision in 2025-11-25 2026-07-28; do
    echo "running the requirements of $revision; the log is target/conformance/$revision.log"
    rm -rf "$dir/results-$revision"
    mkdir -p "$dir/results-$revision"
    # The suite's exit code knows nothing of scenarios that are expected to fail: the list judges.
    timeout 900 node "$dir/node_modules/$suite/dist/index.js" server --url "$url" --requirements "$revision" \
        -o "$dir/results-$revision" >"$dir/$revision.log" 2>&1 || true
done
kill -0 "$server_pid" 2>/dev/null || {
    tail -n 30 "$dir/server.log" >&2
    die "the server died under the suite"
}
stop_server

node "$fixture/judge.mjs" "$fixture/scenarios.txt" "$dir" 2025-11-25 2026-07-28
