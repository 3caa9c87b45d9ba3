#!/usr/bin/env bash
# Runs the programs of tests/clients, which are made with the official SDKs of today and of the past and with the
# Inspector, against one server with the diagnostics tools and a hosted server. Prints one line per check, and what which
# client does in which revision as the table that docs/protocol.md shows; exits 0 only when all passed.
#
# usage: scripts/clients.sh [OUTLAST-BINARY]      (default: $OUTLAST_BIN, else target/debug/outlast)
#        CLIENTS_URL=http://… scripts/clients.sh  (against a server that runs already)
set -euo pipefail

. "$(dirname "${BASH_SOURCE[0]}")/server-under-test.sh"

binary=$(realpath -m "${1:-${OUTLAST_BIN:-$root/target/debug/outlast}}")
dir=$root/target/clients

use_node_22
command -v python3 >/dev/null || die "needs python3"

install_node_clients "$dir"
if ! cmp -s "$dir/requirements.txt" "$dir/venv/installed.txt"; then
    rm -rf "$dir/venv"
    python3 -m venv "$dir/venv"
    "$dir/venv/bin/pip" install --quiet --disable-pip-version-check -r "$dir/requirements.txt" ||
        die "pip could not install tests/clients/requirements.txt"
    cp "$dir/requirements.txt" "$dir/venv/installed.txt"
fi

if [ -n "${CLIENTS_URL:-}" ]; then
    url=$CLIENTS_URL
else
    # The fixture of the conformance suite has prompts, resources and completion.
    cat >"$dir/config.toml" <<CONFIG
[admin]
listen = ""

[tools]
root = "$dir"

[servers.fixture]
command = "node"
args = ["$root/tests/fixtures/conformance/server.mjs"]
CONFIG
    start_server "$binary" "$dir" echo --diagnostics
fi

echo "building the client made with rmcp"
cargo build --quiet --locked --manifest-path "$root/tests/clients/rmcp/Cargo.toml" --target-dir "$root/target/clients-rmcp" ||
    die "cargo could not build tests/clients/rmcp"

failed=
cd "$dir"
: >checks.log
for client in "node typescript.mjs" "node typescript-v2.mjs" "node typescript-old.mjs" "venv/bin/python python_client.py" \
    "$root/target/clients-rmcp/debug/outlast-rmcp-client" "bash inspector.sh"; do
    # A client that never ends is a failed one. Words are split here on purpose.
    timeout 300 $client "$url" | tee -a checks.log || failed="$failed${failed:+, }${client##* }"
done

node matrix.mjs checks.log "$root/docs/protocol.md" || failed="$failed${failed:+, }the table of docs/protocol.md"
[ -z "$failed" ] || die "failed: $failed"
echo "all clients are served"
