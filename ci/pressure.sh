#!/bin/bash
# Memory that becomes scarce in a real control group (the second version, with a memory controller): what a process has
# free and resident goes to its neighbour before the group is out of memory. Needs the right to make a group below its
# own: root on a machine of one's own, or
#
#   systemd-run --user --scope -p Delegate=yes ci/pressure.sh [LIBRARY]
#
# Two programs in a group that gets a limit while they run, 256 MiB, and is slowed down from 180 MiB on: one needs 100
# MiB for a moment twice a second, and has them free and resident in between; the other takes 90 MiB, a MiB at a time.
# With `pressure:off` the group stands still, or runs out of memory: that tells that the check is right. Ends with 77
# where there can be no such group.
set -u
root=$(cd "$(dirname "$0")/.." && pwd)
library=$(realpath "${1:-$root/target/preload/libspecmalloc.so}")
if [ ! -e "$library" ]; then
    echo "no $library; build it with: cargo build --profile preload -p specmalloc-preload" >&2
    exit 1
fi

mount=$(awk '$3 == "cgroup2" { print $2; exit }' /proc/mounts)
base=$mount$(sed -n 's/^0:://p' /proc/self/cgroup)
base=${base%/}
group=$base/specmalloc-pressure-$$
folder=$(mktemp -d)
keeper=
tidy_up() {
    [ -n "$keeper" ] && kill -KILL "$keeper" 2>/dev/null
    wait 2>/dev/null
    [ -d "$group" ] && rmdir "$group"
    rm -rf "$folder"
}
trap tidy_up EXIT
no_group() { echo "no control group of the second version with a memory controller can be made here: $1"; exit 77; }
[ -n "$mount" ] || no_group "none is mounted"
grep -qw memory "$base/cgroup.controllers" || no_group "$base has no such controller"
grep -qw memory "$base/cgroup.subtree_control" || echo +memory 2>/dev/null >"$base/cgroup.subtree_control" ||
    no_group "$base does not hand it on"

program=${PRESSURE_PROGRAM:-}
if [ -z "$program" ]; then
    program=$folder/scarce
    cc -O1 -fno-builtin -pthread -I "$root/preload/include" -o "$program" "$root/ci/scarce.c" -ldl || exit 1
fi

# One run with an option: how the neighbour ended, and what the first had free and resident before and after.
run() {
    mkdir "$group" 2>/dev/null || no_group "mkdir $group"
    [ -e "$group/memory.swap.max" ] && echo 0 >"$group/memory.swap.max"
    : >"$folder/told"
    (
        echo "$BASHPID" >"$group/cgroup.procs"
        SPECMALLOC_CONF="$1" LD_PRELOAD=$library exec "$program" keep >"$folder/told"
    ) &
    keeper=$!
    for _ in $(seq 300); do
        grep -q before "$folder/told" && break
        sleep 0.1
    done
    echo 180M >"$group/memory.high"
    echo 256M >"$group/memory.max"
    (
        echo "$BASHPID" >"$group/cgroup.procs"
        exec timeout -s KILL 40 "$program" take 90
    )
    took=$?
    echo max >"$group/memory.high"
    kill -TERM "$keeper"
    wait "$keeper"
    kept=$?
    keeper=
    killed=$(awk '$1 == "oom_kill" { print $2 }' "$group/memory.events")
    for _ in $(seq 50); do
        rmdir "$group" 2>/dev/null && break
        sleep 0.1
    done
    before=$(sed -n 's/before: //p' "$folder/told") after=$(sed -n 's/after: //p' "$folder/told")
    echo "$1: free and resident ${before:-?} MiB, then ${after:-?} at times; the neighbour ended with $took," \
        "the first with $kept; $killed killed for want of memory"
}

failed=0
run pressure:on
[ "$took" = 0 ] && [ "$kept" = 0 ] && [ "$killed" = 0 ] && [ "${before:-0}" -gt 80 ] &&
    [ "${after:-999}" -lt "$before" ] || failed=1
run pressure:off
if [ "$took" = 0 ] && [ "$killed" = 0 ]; then
    echo "without it there was no want of memory: the check tells nothing"
    failed=1
fi
exit $failed
