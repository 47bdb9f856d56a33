# stress-ng: malloc, calloc, realloc and free of all sizes by four processes with threads and checks of contents,
# beside processes that fork and threads that come and go.
served stress-ng --version
preloaded stress-ng --malloc 4 --malloc-bytes 64M --malloc-pthreads 2 --fork 2 --pthread 2 --timeout 10s \
    --verify --metrics-brief 2>&1 | tee stress.log
grep -q 'successful run completed' stress.log || fail "the run was not successful"
if grep -iE 'fail:|corrupt|terminated on signal' stress.log; then fail "stress-ng found something"; fi
