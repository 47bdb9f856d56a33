#!/bin/sh
# ci/models.sh: every model of the protocols on the real code, under loom and under shuttle, and every seeded bug, which a
# model must catch. `ci/models.sh list` prints the seeded bugs with the models that catch them, and runs those tests only.
set -eu
cd "$(dirname "$0")/.."
filter=
[ "${1-}" = list ] && filter=every_seeded

for checker in loom shuttle; do
    echo "== $checker"
    # A target directory each: the flags differ.
    CARGO_TARGET_DIR=target/$checker RUSTFLAGS="--cfg $checker" \
        cargo test --release --package specmalloc --lib -- $filter ${filter:+--nocapture}
done
