# To be sourced after install.sh: sees to it that there is a redis-server in PATH. The tests start their own ones, so it
# does not become a service of this machine where that can be helped.

ensure_redis() {
    if command -v redis-server >/dev/null; then
        return
    fi
    need redis-cli redis-tools
    # Debian ships one program, which is what it is called; the package redis-server adds the service.
    local same tools=$PWD/target/tools/redis
    same=$(command -v redis-check-rdb || true)
    mkdir -p "$tools"
    ln -sf "$same" "$tools/redis-server"
    PATH=$tools:$PATH
    hash -r
    if [ -z "$same" ] || ! redis-server --version 2>/dev/null | grep -q 'Redis server'; then
        rm "$tools/redis-server"
        hash -r
        install_packages redis-server
    fi
}

ensure_redis
export PATH
