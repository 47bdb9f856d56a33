#!/bin/bash
# ci/mutants.sh [rcu|region|index|heap|FILE ...]: changes the code in many small ways, one at a time, and fails if a change
# survives all tests and is not listed in ci/mutants.txt. All four layers by default; of the heap, slabs and what one thread
# does with them. A FILE is one of a layer's, as src/region/stack.rs.
#
# Needs cargo-mutants (`cargo install cargo-mutants`). A layer takes half an hour to three hours on two processors, a small
# file some minutes. What one stage misses goes to the next:
#   1. the layer's own unit tests (under a second for each change),
#   2. all unit tests and the model of the whole allocator,
#   3. the layer's models under loom, and the heap's under shuttle, too; they also demand that each seeded bug is caught.
# A change that runs into the timeout is caught. Results: target/mutants/LAYER, where mutants.out/missed.txt has
# the survivors with their lines.
#
#   ci/mutants.sh steps [LAYER|FILE ...]
#                                   the changes of ci/steps.py instead: two statements swapped, a call left out; in all five
#                                   layers by default, overnight; pal, heaps and paging, too, if they are named. The same
#                                   list, where such a name begins with `step `. It may be killed at any time: the next call
#                                   for the same files goes on where it stopped, as long as no source has changed.
#
# Of `steps`: STEP_BUDGET says how many seconds of tests (as they take without a mutant) are spent on one mutant (12; 0: on
# each as many as there are); besides tests that are known to notice others of its function (ci/noticing.txt). What is not
# noticed within it, though other tests come past it, is told apart, as out of
# budget. STEP_SECONDS ends it after so many, with status 3 while there is more to do. 1: something survived that is not
# listed; 4: something is out of budget, and not listed. Results: target/mutants/steps, or steps-LAYER where one layer or
# file is named, with a line for each mutant in results.txt.
set -euo pipefail
cd "$(dirname "$0")/.."
out=$PWD/target/mutants
list=ci/mutants.txt
export PROPTEST_CASES=${PROPTEST_CASES:-16} CARGO_PROFILE_DEV_DEBUG=0

# stage LAYER TITLE CARGO-MUTANTS-ARGUMENT...: tests what the stages before it have not caught, in `files`. What to build is
# said with --cargo-arg, for it concerns two calls: of the targets that are not asked for, some do not build for a checker.
stage() {
    local layer=$1 title=$2 status=0 results=$out/$1/mutants.out
    shift 2
    [ ! -d "$results" ] || [ -s "$results/missed.txt" ] || return 0
    echo "== $layer: $title"
    cargo mutants --package specmalloc "${files[@]/#/--file=}" \
        --exclude '**/tests/**' --exclude '**/tests.rs' --exclude '**/models/**' --exclude '**/models.rs' \
        --exclude-re '\btests::' --iterate --jobs "${JOBS:-1}" --output "$out/$layer" "$@" || status=$?
    # 2: some were missed. 3: some ran into the timeout.
    case $status in 0 | 2 | 3) ;; *) exit $status ;; esac
    # The next stage leaves out what is caught.
    cat "$results/timeout.txt" >> "$results/caught.txt"
    # It leaves out what did not build, too; but what does not build for a checker was tested before, and missed.
    [ -z "${RUSTFLAGS-}" ] || cat "$results/unviable.txt" >> "$out/$layer/unbuilt.txt"
}

# Names without line and column, which change with every edit.
names() { sed -E 's/^([^:]+):[0-9]+:[0-9]+: /\1: /' "$@" | sort; }

# compare TITLE SURVIVORS: fails if any is not in `accepted`. As often as a name is listed, so many may survive.
compare() {
    local unlisted dead
    unlisted=$(comm -23 "$2" <(echo "$accepted"))
    dead=$(comm -13 "$2" <(echo "$accepted"))
    [ -z "$dead" ] || printf '== %s: listed, but caught now:\n%s\n' "$1" "$dead"
    [ -z "$unlisted" ] || { printf '== %s: survived, and not listed:\n%s\n' "$1" "$unlisted" && return 1; }
}

if [ "${1-}" = steps ]; then
    shift
    tree=$out/steps
    [ $# -ne 1 ] || tree=$out/steps-$(basename "$1" .rs)
    [ $# -gt 0 ] || set -- rcu region index heap global
    # shellcheck disable=SC2046
    exec python3 ci/steps.py run "$tree" "$list" $(for what; do
        case $what in src/*.rs) echo "$what" ;; *) git ls-files "src/${what#src/}" ;; esac
    done | grep -Ev '/(models|tests|huge_tests|[a-z]+_models|audit|interrupt|simulated|twin|conformance)(/|\.rs)')
fi

[ $# -gt 0 ] || set -- rcu region index heap
failed=0
for what; do
    case $what in
        src/*/*.rs) layer=${what#src/} layer=${layer%%/*} files=("$what") ;;
        rcu | region | index) layer=$what files=("src/$what/"*.rs) ;;
        heap) layer=heap files=(src/heap/{block,record}.rs src/heap/small/*.rs) ;;
        *) sed -n '2,4s/^# //p' "$0" >&2 && exit 1 ;;
    esac
    rm -rf "${out:?}/$layer"
    mkdir -p "$out/$layer" && touch "$out/$layer/unbuilt.txt"
    CARGO_TARGET_DIR=$out/target \
        stage "$layer" "its unit tests" --cargo-arg=--lib -- "$layer::"
    CARGO_TARGET_DIR=$out/target CARGO_PROFILE_DEV_OPT_LEVEL=1 \
        stage "$layer" "all unit tests and the model of the allocator" --cargo-arg=--lib --cargo-arg=--test=allocator_model
    for checker in loom $([ "$layer" != heap ] || echo shuttle); do
        CARGO_TARGET_DIR=$out/$checker RUSTFLAGS="--cfg $checker" \
            stage "$layer" "its models under $checker" --profile model --cargo-arg=--lib -- "$layer::"
    done

    # Each line of the list is a name, two spaces, "-- " and a reason.
    names "$out/$layer/mutants.out/missed.txt" "$out/$layer/unbuilt.txt" > "$out/$layer/survivors.txt"
    accepted=$(for file in "${files[@]}"; do sed -n "s|^\($file: .*[^ ]\) *  -- .*|\1|p" "$list"; done | sort)
    compare "$what" "$out/$layer/survivors.txt" || failed=1
done
exit $failed
