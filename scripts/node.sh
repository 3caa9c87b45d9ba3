# To be sourced after install.sh: puts a Node.js that the clients of the tests accept in front of PATH.

node_wanted=22

node_major() {
    node --version 2>/dev/null | sed -E 's/^v([0-9]+)\..*/\1/'
}

ensure_node() {
    local major tools=$PWD/target/tools
    PATH=$tools/node_modules/.bin:$PATH
    major=$(node_major || true)
    if [ "${major:-0}" -ge "$node_wanted" ]; then
        return
    fi
    local architecture
    case $(uname -m) in
        x86_64) architecture=x64 ;;
        aarch64) architecture=arm64 ;;
        *)
            echo "missing: Node.js $node_wanted or newer (this machine has ${major:-none})" >&2
            return 1
            ;;
    esac
    need npm npm
    echo "installing with npm into target/tools: Node.js $node_wanted (this machine has ${major:-none})"
    mkdir -p "$tools/node_modules/.bin"
    npm install --silent --no-audit --no-fund --no-save --prefix "$tools" "node-linux-$architecture@$node_wanted"
    ln -sf "../node-linux-$architecture/bin/node" "$tools/node_modules/.bin/node"
    hash -r
}

ensure_node
export PATH
