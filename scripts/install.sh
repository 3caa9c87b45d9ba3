# To be sourced: installs what a script finds missing, and says so. Works as root and as a user with sudo.

# install_packages NAME...: from the distribution.
install_packages() {
    if ! command -v apt-get >/dev/null; then
        echo "missing: $* (no apt-get here: install it by other means)" >&2
        return 1
    fi
    echo "installing with apt-get: $*"
    local as_root=()
    if [ "$(id -u)" -ne 0 ]; then
        as_root=(sudo)
    fi
    "${as_root[@]}" apt-get update -qq
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}

# need COMMAND PACKAGE: the package that has a command, unless the command is there.
need() {
    if ! command -v "$1" >/dev/null; then
        install_packages "$2"
    fi
}
