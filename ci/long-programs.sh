#!/bin/bash
# The long checks of real programs: PostgreSQL under pgbench, CPython's whole test suite, and a Java virtual machine in a
# program with mapped files. Half an hour or so.
#
#   ci/long-programs.sh [--install] [LIBRARY] [NAME...]      as ci/programs.sh; NAME is postgresql, cpython or jvm
root=$(cd "$(dirname "$0")/.." && pwd)
arguments=() names=()
for word in "$@"; do
    case $word in
        --install | none | *.so*) arguments+=("$word") ;;
        *) names+=("long/$word") ;;
    esac
done
[ ${#names[@]} -gt 0 ] || names=(long/postgresql long/cpython long/jvm)
PROGRAMS_TIMEOUT=${PROGRAMS_TIMEOUT:-5400} exec "$root/ci/programs.sh" "${arguments[@]}" "${names[@]}"
