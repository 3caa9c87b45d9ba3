#!/usr/bin/env bash
# Puts a server made with the official TypeScript SDK (Streamable HTTP, with sessions) behind Outlast and compares what it
# lists and answers with what it does directly, its sessions being lost in between. Prints one line per check; exits 0 only
# when all passed.
#
# usage: scripts/upstreams.sh [OUTLAST-BINARY]    (default: $OUTLAST_BIN, else target/debug/outlast)
set -euo pipefail

. "$(dirname "${BASH_SOURCE[0]}")/server-under-test.sh"

binary=$(realpath -m "${1:-${OUTLAST_BIN:-$root/target/debug/outlast}}")
dir=$root/target/clients
use_node_22

install_node_clients "$dir"

cd "$dir"
node remote-server.mjs 0 >remote.out &
remote=$!
stop_all() {
    kill "$remote" 2>/dev/null || true
    stop_server
}
trap stop_all EXIT
for _ in $(seq 200); do
    direct=$(head -n 1 remote.out)
    [ -n "$direct" ] && break
    sleep 0.05
done
[ -n "$direct" ] || die "the remote server did not start"

mkdir -p "$dir/upstream"
cat >"$dir/upstream/config.toml" <<CONFIG
[admin]
listen = ""

[tools]
code = false

[servers.remote]
url = "$direct"
CONFIG
start_server "$binary" "$dir/upstream" echo
trap stop_all EXIT
timeout 120 node remote.mjs "$direct" "$url" "$remote"
echo "the remote server answers through Outlast as it does directly"
