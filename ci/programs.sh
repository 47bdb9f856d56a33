#!/bin/bash
# Runs real programs with a malloc library preloaded and checks what they compute.
#
#   ci/programs.sh [--install] [LIBRARY] [NAME...]
#
# LIBRARY   the library to preload; "none" for the programs' own malloc, which tells whether a check is right.
#           Default: libspecmalloc.so of the profile preload, else of release.
# NAME      a check, tests/programs/NAME.sh. Default: all but the long ones, see ci/long-programs.sh.
# --install installs the Debian packages that ci/packages.txt lists for these checks, where they are missing.
#
# A check is a script of its own: it runs in an empty folder and fails by its exit status. Its log stays when it fails.
# Prints one line per check, and 'N passed, N failed' at the end.
set -u
root=$(cd "$(dirname "$0")/.." && pwd)
limit=${PROGRAMS_TIMEOUT:-180}

install=
if [ "${1-}" = --install ]; then
    install=yes
    shift
fi

library=
case "${1-}" in
    none) shift ;;
    *.so*) library=$(realpath -e "$1") || exit 1; shift ;;
    *)
        for profile in preload release; do
            candidate=$root/target/$profile/libspecmalloc.so
            [ -z "$library" ] && [ -e "$candidate" ] && library=$candidate
        done
        if [ -z "$library" ]; then
            echo "no libspecmalloc.so; build it with: cargo build --profile preload -p specmalloc-preload" >&2
            exit 1
        fi
        ;;
esac
echo "library: ${library:-none}"

names=("$@")
if [ ${#names[@]} -eq 0 ]; then
    for script in "$root"/tests/programs/*.sh; do
        names+=("$(basename "$script" .sh)")
    done
fi

if [ -n "$install" ]; then
    missing=()
    while read -r package check; do
        [[ " any ${names[*]} " == *" $check "* ]] || continue
        dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
    done < <(grep -v '^#' "$root/ci/packages.txt")
    if [ ${#missing[@]} -gt 0 ]; then
        apt-get update -q || exit 1
        DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${missing[@]}" || exit 1
    fi
fi

logs=$(mktemp -d "${TMPDIR:-/tmp}/specmalloc-programs.XXXXXX")
passed=0 failed=0
for name in "${names[@]}"; do
    log=$logs/$name.log
    mkdir -p "$logs/$name"
    start=$SECONDS
    # A session of its own, so that a server that a failure leaves behind can be ended with it.
    LIBRARY=$library ROOT=$root setsid -w timeout --foreground -k 5 "$limit" \
        bash "$root/tests/programs/lib/check" "$logs/$name" "$root/tests/programs/$name.sh" \
        >"$log" 2>&1 </dev/null
    status=$?
    if [ -s "$logs/$name/.session" ]; then
        pkill -KILL -s "$(cat "$logs/$name/.session")"
    fi
    if [ "$status" -eq 0 ]; then
        passed=$((passed + 1))
        echo "ok $name ($((SECONDS - start)) s)"
        rm -rf "${logs:?}/$name" "$log"
    else
        failed=$((failed + 1))
        [ "$status" -eq 124 ] && echo "no end within $limit s" >>"$log"
        echo "FAILED $name ($((SECONDS - start)) s, status $status), log: $log"
        tail -n 25 "$log" | sed 's/^/    /'
    fi
done
find "$logs" -type d -empty -delete
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
