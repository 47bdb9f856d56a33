#!/bin/sh
# Checks the Promela model of the unmap protocol with spin: the model as it is must pass, and must fail with each of
# its seeded bugs. Prints a table; the exit status says whether all of it came out as it must.
#
# Needs spin and a C compiler (Debian: spin, gcc). Installs nothing.
set -u
cd "$(dirname "$0")/spin" || exit 2

missing=
command -v spin >/dev/null || missing="$missing spin"
command -v gcc >/dev/null || missing="$missing gcc"
if [ -n "$missing" ]; then
    echo "ci/spin.sh needs the Debian package(s):$missing" >&2
    exit 2
fi

dir=$(mktemp -d) || exit 2
trap 'rm -rf "$dir"' EXIT
trap 'exit 130' INT TERM
cp unmap.pml "$dir" && cd "$dir" || exit 2
status=0

# check EXPECTED LABEL DEFINES: searches all of the model and prints a row. No partial order reduction: the escape on
# fork depends on a global, which that does not consider. A search cut short by depth or memory counts as broken.
check() {
    expected=$1
    label=$2
    shift 2
    # A bug is found after few states: compiling takes longer than searching.
    optimise=-O0
    if [ "$expected" = passes ]; then
        optimise=-O2
    fi
    if ! spin -a "$@" unmap.pml >log 2>&1 ||
        ! gcc $optimise -w -DSAFETY -DNOREDUCE -DMEMLIM=3000 -o pan pan.c >>log 2>&1; then
        cat log
        exit 2
    fi
    ./pan -m10000 >log 2>&1
    states=$(sed -n 's/^ *\([0-9.e+]*\) states, stored.*/\1/p' log)
    why=$(sed -n 's/^pan:1: \(.*\) (at depth.*/\1/p' log)
    if grep -q "max search depth too small\|out of memory" log; then
        result=broken
    elif [ -n "$why" ]; then
        result=fails
    elif grep -q "errors: 0" log && ! grep -q "Search not completed" log; then
        result=passes
    else
        result=broken
    fi
    verdict=ok
    if [ "$result" != "$expected" ]; then
        verdict=WRONG
        status=1
    fi
    printf '%-5s %-7s %9s  %-34s %s\n' "$verdict" "$result" "$states" "$label" "$why"
}

readers="-DOWNERS=1 -DFIRST=2 -DSECOND=0"
two_owners="-DOWNERS=2 -DFIRST=1 -DSECOND=0"

# The words of these options are meant to be split.
# shellcheck disable=SC2086
{
    printf '%-5s %-7s %9s  %-34s %s\n' "" result states model found
    check passes "one reader, a fork" $readers -DFORK
    check passes "two readers, a fork" -DOWNERS=1 -DFIRST=1 -DSECOND=1 -DFORK
    check passes "two owners, a fork" $two_owners -DFORK
    check passes "two readers, slots change hands" -DOWNERS=1 -DFIRST=2 -DSECOND=1
    check passes "two who unmap one region, a fork" -DOWNERS=1 -DFIRST=1 -DSECOND=0 -DRIVALS -DFORK
    for bug in NO_HEAVY_BARRIER NO_LIGHT_BARRIER NO_ENTRY_FENCE SNAPSHOT_FIRST NO_WAIT EARLY_LEAVE ATTACH_LATE \
        RETIRE_LINKED UNLINK_LATE NO_EXCLUDE PIN_EXCLUDED NO_DRAIN TWO_STEPS \
        TAKE_BATCH DONE_BEFORE_POP CHILD_KEEPS_SECTIONS CHILD_KEEPS_LOCK; do
        check fails "$bug" $readers -DFORK -D$bug
    done
    # A fork would free the waiter that these leave waiting.
    check fails EVEN_ONLY $readers -DEVEN_ONLY
    check fails FRESH_GENERATION $readers -DFRESH_GENERATION
    check fails UNLINK_FIRST -DOWNERS=1 -DFIRST=1 -DSECOND=0 -DRIVALS -DUNLINK_FIRST
    check fails BATCH_GROWS $two_owners -DFORK -DBATCH_GROWS
}
exit $status
