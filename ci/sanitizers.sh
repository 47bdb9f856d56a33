#!/bin/sh
# ci/sanitizers.sh [thread|address]: the library's unit tests, the test of the global allocator and the storm, under
# ThreadSanitizer and AddressSanitizer.
#
# Needs a nightly toolchain; with its rust-src component nothing more would be checked here, for what is tested lies in this
# package. Limits of what it can see:
# - The standard library is not instrumented (that takes -Zbuild-std). What std's precompiled code synchronises is
#   unknown to ThreadSanitizer: see ci/tsan.supp. -Cunsafe-allow-abi-mismatch=sanitizer lets the two be linked.
# - ThreadSanitizer knows no membarrier and no fences. The grace periods' argument is checked by the loom models.
# - The countdown of a slab is a single instruction in assembly, which neither sees.
# - A block of specmalloc has no red zone, so AddressSanitizer finds misuse of stacks, of statics, and of what the
#   tests themselves allocate with the C library; not overruns of specmalloc's own blocks.
# - Neither follows a fork from many threads: the storm does without.
set -eu
cd "$(dirname "$0")/.."
TARGET=$(rustc -vV | sed -n 's/^host: //p')
SUPPRESSIONS=$PWD/ci/tsan.supp
# On the main thread the tests need none of the harness's channels, which ThreadSanitizer does not know.
export RUST_TEST_THREADS=1
export SPECMALLOC_STRESS_FORKS=0 SPECMALLOC_STRESS_TURNS=${SPECMALLOC_STRESS_TURNS:-400}
export TSAN_OPTIONS="suppressions=$SUPPRESSIONS exitcode=66"
export ASAN_OPTIONS="detect_leaks=0"

under() {
    echo "== $1"
    # A target directory each: the flags differ. With --target the flags do not reach build scripts.
    export CARGO_TARGET_DIR=target/sanitizer-"$1"
    export RUSTFLAGS="-Zsanitizer=$1 -Cunsafe-allow-abi-mismatch=sanitizer"
    # Few tests in a process: what each has simulated stays mapped, and ThreadSanitizer leaves less room for mappings.
    set -- cargo +nightly test --quiet --target "$TARGET" --package specmalloc
    "$@" --lib -- --list --format terse | sed -n 's/: test$//p' | xargs -n 15 "$@" --lib -- --exact
    "$@" --test global_allocator --test stress
}

for sanitizer in ${1:-thread address}; do
    under "$sanitizer"
done
