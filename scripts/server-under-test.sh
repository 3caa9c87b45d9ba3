# Sourced by the scripts here that test a running server: Node, a server on a free port, and its end.
# shellcheck shell=bash

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
server_pid=

die() {
    echo "$(basename "$0"): $*" >&2
    exit 1
}

# use_node_22: makes `node` one of at least version 22. Debian's is older: then the npm package that carries the binary
# is taken into target/node22.
use_node_22() {
    command -v node >/dev/null && command -v npm >/dev/null || die "needs node and npm"
    [ "$(node -p 'process.versions.node.split(".")[0]')" -ge 22 ] && return
    local arch
    case "$(uname -s) $(uname -m)" in
    "Linux x86_64") arch=x64 ;;
    "Linux aarch64") arch=arm64 ;;
    *) die "needs Node 22 or newer; $(node --version) is here" ;;
    esac
    local bin=$root/target/node22/node_modules/node-linux-$arch/bin
    if [ ! -x "$bin/node" ]; then
        mkdir -p "$root/target/node22"
        npm install --prefix "$root/target/node22" --ignore-scripts --no-audit --no-fund --silent \
            "node-linux-$arch@22" || die "npm could not install node-linux-$arch@22"
    fi
    PATH=$bin:$PATH
}

# install_node_clients DIR: puts the programs of tests/clients into DIR, together with the packages that they need, because
# that is where Node looks for them.
install_node_clients() {
    local dir=$1
    mkdir -p "$dir"
    find "$root/tests/clients" -maxdepth 1 -type f -exec cp {} "$dir/" \;
    if ! cmp -s "$dir/package.json" "$dir/node_modules/.installed.json"; then
        npm install --prefix "$dir" --ignore-scripts --no-audit --no-fund --silent ||
            die "npm could not install tests/clients/package.json"
        cp "$dir/package.json" "$dir/node_modules/.installed.json"
    fi
}

# start_server BINARY DIR TOOL FLAG…: starts `outlast serve` with DIR/config.toml and a fresh data directory in DIR, on a
# free loopback port, and waits until it lists TOOL. Sets `url`; the server ends when the script does.
start_server() {
    local binary=$1 dir=$2 tool=$3 port
    shift 3
    [ -x "$binary" ] || die "no program $binary: build it with \`cargo build\`, or name another one"
    port=$(node -e 'const s = require("net").createServer().listen(0, "127.0.0.1", () => {
        console.log(s.address().port); s.close(); })')
    url=http://127.0.0.1:$port/mcp
    rm -rf "$dir/data"
    trap stop_server EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
    "$binary" serve --config "$dir/config.toml" --data-dir "$dir/data" --listen "127.0.0.1:$port" "$@" \
        2>"$dir/server.log" &
    server_pid=$!
    node "$root/scripts/await-tool.mjs" "$url" "$tool" "$server_pid" || {
        tail -n 30 "$dir/server.log" >&2
        die "the server did not become ready; its log is $dir/server.log"
    }
}

# stop_server: ends the server of this script and no other, gently first.
stop_server() {
    [ -n "$server_pid" ] || return 0
    local pid=$server_pid tries=0
    server_pid=
    kill -TERM "$pid" 2>/dev/null || true
    while kill -0 "$pid" 2>/dev/null && [ "$tries" -lt 250 ]; do
        sleep 0.1
        tries=$((tries + 1))
    done
    kill -KILL "$pid" 2>/dev/null || true
    wait "$pid" 2>/dev/null || true
}
