#!/usr/bin/env bash
# Fuzzes every target of tests/fuzz. With cargo-fuzz by libFuzzer, whose findings are kept under target/fuzz; else the same
# targets with inputs that are changed at random. Either begins with the seeds in tests/fuzz/seeds. No nightly toolchain is
# needed: where there is none, the stable one is allowed the flags that cargo-fuzz passes.
#
# usage: scripts/fuzz.sh [SECONDS-FOR-ALL [TARGET…]]      (default: 20, all targets)
set -euo pipefail
cd "$(dirname "$0")/.."

seconds=${1:-20}
[ $# -eq 0 ] || shift
if [ $# -gt 0 ]; then
    targets=("$@")
else
    targets=()
    for program in tests/fuzz/fuzz_targets/*.rs; do
        targets+=("$(basename "$program" .rs)")
    done
fi
each=$((seconds / ${#targets[@]}))
[ "$each" -ge 1 ] || each=1

if ! cargo fuzz --version >/dev/null 2>&1; then
    echo "no cargo-fuzz here (cargo install --locked cargo-fuzz): inputs are changed at random, $each s per target"
    FUZZ_SECONDS=$each cargo test --locked --test fuzz -- --nocapture --test-threads=1
    exit
fi

cargo_fuzz=(env RUSTC_BOOTSTRAP=1 cargo fuzz)
if cargo +nightly --version >/dev/null 2>&1; then
    cargo_fuzz=(cargo +nightly fuzz)
fi
# The sanitizers look for faults of memory, which safe code does not have; without them it runs several times faster.
fuzz=(--fuzz-dir tests/fuzz --target-dir target/fuzz-build --sanitizer none)
"${cargo_fuzz[@]}" build "${fuzz[@]}"
failed=
for target in "${targets[@]}"; do
    corpus=target/fuzz/corpus/$target
    mkdir -p "$corpus" target/fuzz/artifacts
    log=target/fuzz/$target.log
    if "${cargo_fuzz[@]}" run "${fuzz[@]}" "$target" "$corpus" "tests/fuzz/seeds/$target" -- \
        -max_total_time="$each" -timeout=10 -rss_limit_mb=2048 -max_len=4096 -print_final_stats=1 \
        -artifact_prefix="target/fuzz/artifacts/$target-" >"$log" 2>&1; then
        runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
        echo "ok    $target: ${runs:-?} runs in $each s"
    else
        failed="$failed${failed:+, }$target"
        echo "FAIL  $target: the input is under target/fuzz/artifacts"
        tail -n 30 "$log"
    fi
done
[ -z "$failed" ] || {
    echo "fuzz.sh: failed: $failed" >&2
    exit 1
}
