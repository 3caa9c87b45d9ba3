#!/usr/bin/env bash
# Everything the tests need, then all of them: format, lints, tests, documentation tests. Says what it installs.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/install.sh

step() {
    echo
    echo "== $*"
}

step "what the tests need"
if ! command -v cargo >/dev/null; then
    echo "missing: cargo; install the Rust toolchain named in Cargo.toml (rust-version) first" >&2
    exit 1
fi
need cc build-essential
need ps procps
need python3 python3
if ! python3 -c 'import ensurepip' 2>/dev/null; then
    install_packages python3-venv
fi
source scripts/redis.sh
for component in rustfmt clippy; do
    if ! cargo "${component/rustfmt/fmt}" --version >/dev/null 2>&1; then
        echo "installing with rustup: $component"
        rustup component add "$component"
    fi
done
# Each test is a process of its own under nextest, which also ends those that hang.
if ! cargo nextest --version >/dev/null 2>&1; then
    echo "installing with cargo: cargo-nextest"
    # Not being able to install it costs no test: cargo test runs the same ones.
    cargo install --locked --quiet cargo-nextest || echo "cargo-nextest could not be installed; using cargo test"
fi
source scripts/node.sh
echo "$(cargo --version), $(cargo nextest --version 2>/dev/null | head -n 1 || echo 'no nextest'), node $(node --version)," \
    "$(redis-server --version | cut -d' ' -f1-3)"

step "cargo fmt"
cargo fmt --all --check

step "cargo clippy"
cargo clippy --locked --all-targets -- -D warnings

step "documentation tests"
cargo test --locked --doc

step "tests"
if cargo nextest --version >/dev/null 2>&1; then
    cargo nextest run --locked --no-fail-fast
else
    cargo test --locked --no-fail-fast --all-targets
fi

step "conformance suite"
bash scripts/conformance.sh

step "clients of others"
bash scripts/clients.sh

step "a server of others behind Outlast"
bash scripts/upstreams.sh
