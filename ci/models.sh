#!/bin/sh
# ci/models.sh: every model of the protocols on the real code, under loom and under shuttle, and every seeded bug, which a
# model must catch; with the numbers at the end. A few minutes, most of them for building. What the models ran is noted, and
# tests/layering/census.txt brought up to date: it fails if a function that touches an atomic or makes a system call runs in
# none beside another thread, and no reason is given there.
#
#   ci/models.sh list     the seeded bugs only: what each takes away, the model that catches it, and what that model said
#   ci/models.sh long     all of it with a wider search: one preemption more under loom, ten times the schedules under
#                         shuttle (half an hour)
#   ci/models.sh build    builds them only
set -eu
cd "$(dirname "$0")/.."
filter=
case "${1-}" in
    list) filter=every_seeded ;;
    long) wider=yes ;;
    build) build=--no-run ;;
esac

log=$(mktemp) || exit 2
census=$(mktemp) || exit 2
trap 'rm -f "$log" "$census"' EXIT
trap 'exit 130' INT TERM
status=0
[ -n "$filter" ] || export SPECMALLOC_MODEL_CENSUS="$census"
for checker in loom shuttle; do
    echo "== $checker"
    if [ -n "${wider-}" ]; then
        SPECMALLOC_MODEL_EFFORT=$([ $checker = loom ] && echo 1 || echo 9)
        export SPECMALLOC_MODEL_EFFORT
    fi
    # A target directory each: the flags differ.
    CARGO_TARGET_DIR=target/$checker RUSTFLAGS="--cfg $checker" \
        cargo test --profile model --package specmalloc --lib ${build-} -- $filter --nocapture >"$log" 2>&1 || status=$?
    if [ $status -ne 0 ]; then
        cat "$log"
        exit $status
    fi
    [ -z "${build-}" ] || continue
    # What concerns the models and the bugs; the rest is what checkers and caught panics say.
    sed -n 's/^specmalloc:://; /: [0-9]* executions$/p; / caught by /p; /^[a-z]*\.[a-z_.]*: /p; /^test result/p' "$log"
    awk -v checker=$checker '
        /: [0-9]+ executions$/ { models++; executions += $(NF - 1) }
        / caught by / { bugs++ }
        END { print checker ": " models + 0 " models, " executions + 0 " executions, " bugs + 0 " seeded bugs caught" }
    ' "$log"
done
[ -n "$filter${build-}" ] || cargo test --quiet --package specmalloc --test layering -- --ignored write_the_census
