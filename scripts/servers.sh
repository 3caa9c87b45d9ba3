#!/usr/bin/env bash
# Runs the servers of tests/servers/list.json directly and through Outlast, and compares what they list and answer.
# Needs npm, python3 with venv (or uv), git, and the registries on the first run; no part of the tests of a change.
#
#     scripts/servers.sh [NAME...]        with names: those only, and docs/servers.md stays as it is
set -euo pipefail
cd "$(dirname "$0")/.."

outlast=${OUTLAST:-target/debug/outlast}
if [[ -z ${OUTLAST:-} ]]; then
    cargo build --bin outlast
fi
cache=${OUTLAST_SERVERS_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/outlast-servers}
table=docs/servers.md
if (($# > 0)); then
    table=$(mktemp)
    trap 'rm -f "$table"' EXIT
fi
python3 tests/servers/compare.py tests/servers/list.json "$(realpath "$outlast")" "$cache" "$table" "$@"
