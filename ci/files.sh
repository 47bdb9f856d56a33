#!/bin/sh
# ci/files.sh: the tests of mapped files with the long race: sixteen readers against a truncation, for half a minute.
# SPECMALLOC_TEST_SECONDS says how long.
set -eu
cd "$(dirname "$0")/.."
export SPECMALLOC_TEST_SECONDS="${SPECMALLOC_TEST_SECONDS:-30}"
exec cargo test --release --package specmalloc --features files --test files -- --nocapture
