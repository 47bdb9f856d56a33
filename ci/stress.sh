#!/bin/sh
# ci/stress.sh SECONDS [SEED]: the storm of tests/stress for so long, first on the Rust interface (with all checks, then as
# released), then on the C interface under LD_PRELOAD. Exits with 0 if every block was intact all the time.
set -eu
cd "$(dirname "$0")/.."
SPECMALLOC_STRESS_SECONDS=${1:?usage: ci/stress.sh SECONDS [SEED]}
SPECMALLOC_STRESS_SEED=${2:-1}
export SPECMALLOC_STRESS_SECONDS SPECMALLOC_STRESS_SEED

cargo test --test stress -- --nocapture
cargo test --release --test stress -- --nocapture
cargo test --package specmalloc-preload --test stress -- --nocapture
