#!/bin/sh
# ci/fuzz.sh SECONDS: fuzzes the sequences of C calls and the options for so long each. Needs a nightly toolchain and
# cargo-fuzz (`cargo install cargo-fuzz`). What made a target fail is left in fuzz/artifacts.
set -eu
cd "$(dirname "$0")/../fuzz"
seconds=${1:?usage: ci/fuzz.sh SECONDS}
for target in calls options; do
    # The address sanitizer would look at the fuzzer's own blocks only: those of specmalloc have no red zones.
    cargo +nightly fuzz run --sanitizer none "$target" -- -max_total_time="$seconds" -max_len=2048 -timeout=60
done
