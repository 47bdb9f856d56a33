#!/bin/bash
# The long checks of real programs: PostgreSQL under pgbench, and CPython's whole test suite. Half an hour or so.
#
#   ci/long-programs.sh [--install] [LIBRARY] [NAME...]      as ci/programs.sh; NAME is postgresql or cpython
root=$(cd "$(dirname "$0")/.." && pwd)
arguments=() names=()
for word in "$@"; do
    case $word in
        --install | none | *.so*) arguments+=("$word") ;;
        *) names+=("long/$word") ;;
    esac
done
[ ${#names[@]} -gt 0 ] || names=(long/postgresql long/cpython)
PROGRAMS_TIMEOUT=${PROGRAMS_TIMEOUT:-5400} exec "$root/ci/programs.sh" "${arguments[@]}" "${names[@]}"
