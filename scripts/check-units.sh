#!/usr/bin/env bash
# Holds the systemd units to what they promise: they verify, and the sandbox is rated better than the threshold.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/install.sh

threshold=20 # tenths: 2.0

if ! command -v systemd-analyze >/dev/null; then
    install_packages systemd
fi

units=$(mktemp -d)
trap 'rm -rf "$units"' EXIT
cp systemd/outlast.service systemd/outlast.socket "$units"
# verify wants the program to be there; where it is installed is not this machine's business.
sed -i 's|^ExecStart=/usr/local/bin/outlast |ExecStart=/bin/true |' "$units/outlast.service"

echo "systemd-analyze verify"
# SYSTEMD_UNIT_PATH with the colon at its end adds the system's own units, which ours name.
complaints=$(SYSTEMD_UNIT_PATH="$units:" systemd-analyze verify --man=no "$units/outlast.service" "$units/outlast.socket" 2>&1) || {
    echo "$complaints" >&2
    echo "the units do not verify" >&2
    exit 1
}
# It warns, and ends well, about keys that it does not know. What it says of other units is not ours to mend.
if grep -F outlast <<<"$complaints" >&2; then
    echo "the units have warnings" >&2
    exit 1
fi

echo "systemd-analyze security (threshold $((threshold / 10)).$((threshold % 10)))"
SYSTEMD_UNIT_PATH="$units:" systemd-analyze security --offline=true --no-pager --threshold="$threshold" \
    "$units/outlast.service" >"$units/report" || {
    cat "$units/report"
    echo "the sandbox is rated worse than the threshold" >&2
    exit 1
}
tail -n 1 "$units/report"
