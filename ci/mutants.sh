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
#   ci/mutants.sh steps FILE ...    the changes of ci/steps.py instead: two statements swapped, a call left out. In a copy of the
#                                   last commit; the same stages, and the same list, where such a name begins with `step `.
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

# What a step mutant must get past. 3: it does not build. 124: it hangs, and is caught.
steps() {
    local tree=$out/steps layer file status=0
    mkdir -p "$out" && git worktree prune
    [ -d "$tree" ] || git worktree add --quiet --detach "$tree" HEAD
    git -C "$tree" checkout --quiet --force --detach "$(git rev-parse HEAD)"
    for file; do
        layer=${file#src/} layer=${layer%%/*}
        python3 ci/steps.py run "$tree" "
            export CARGO_TARGET_DIR=$out/steps-target
            cargo test -q -p specmalloc --lib --no-run 2> $out/steps.log || exit 3
            timeout 300 cargo test -q -p specmalloc --lib $layer:: || exit 1
            timeout 600 cargo test -q -p specmalloc --lib --test allocator_model || exit 1
            for checker in loom shuttle; do
                [ \$checker = loom ] || [ $layer = heap ] || continue
                CARGO_TARGET_DIR=$out/\$checker RUSTFLAGS=\"--cfg \$checker\" timeout 1200 \
                    cargo test -q --profile model -p specmalloc --lib $layer:: || exit 1
            done
        " "$file" | tee -a "$out/steps.txt" | sed -n 's/^SURVIVED: \([^:]*\): /\1: step /p' > "$out/steps-survivors.txt" || true
        unlisted=$(comm -23 <(sort "$out/steps-survivors.txt") \
            <(sed -n "s|^\($file: step .*[^ ]\) *  -- .*|\1|p" "$list" | sort))
        [ -z "$unlisted" ] || { status=1 && printf '== %s: survived, and not listed:\n%s\n' "$file" "$unlisted"; }
    done
    return $status
}

if [ "${1-}" = steps ]; then
    shift
    steps "$@"
    exit
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

    # Each line of the list is a name, two spaces, "-- " and a reason. As often as a name is listed, so many may survive.
    names "$out/$layer/mutants.out/missed.txt" "$out/$layer/unbuilt.txt" > "$out/$layer/survivors.txt"
    accepted=$(for file in "${files[@]}"; do sed -n "s|^\($file: .*[^ ]\) *  -- .*|\1|p" "$list"; done | sort)
    unlisted=$(comm -23 "$out/$layer/survivors.txt" <(echo "$accepted"))
    dead=$(comm -13 "$out/$layer/survivors.txt" <(echo "$accepted"))
    [ -z "$dead" ] || printf '== %s: listed, but caught now:\n%s\n' "$what" "$dead"
    [ -z "$unlisted" ] || { failed=1 && printf '== %s: survived, and not listed:\n%s\n' "$what" "$unlisted"; }
done
exit $failed
