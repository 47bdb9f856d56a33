#!/bin/sh
# ci/mutants.sh [FILE...]: changes the code of a layer in many small ways, and lists the changes that no unit test or model
# of the allocator notices. Needs cargo-mutants (`cargo install cargo-mutants`); takes hours for all files. Result:
# target/mutants/mutants.out/missed.txt.
#
# Not every survivor is a gap: many orderings, figures and hints may change without a difference that a test on one machine
# can see. Orderings are what the seeded bugs of the loom models are for.
set -eu
cd "$(dirname "$0")/.."
[ $# -gt 0 ] || set -- src/rcu/*.rs src/region/*.rs src/index/*.rs src/heap/*.rs
files=
for file in "$@"; do
    files="$files --file $file"
done
# shellcheck disable=SC2086 # a list of words
PROPTEST_CASES=64 cargo mutants --package specmalloc $files --exclude '**/tests/**' --exclude '**/tests.rs' \
    --exclude '**/models.rs' --exclude-re seeded --jobs "${JOBS:-1}" --timeout 300 --output target/mutants \
    -- --lib --test allocator_model
