# CPython's whole test suite, every object from malloc. A test that fails counts if it passes without the library.
python=/usr/bin/python3
export PYTHONMALLOC=malloc PYTHONDONTWRITEBYTECODE=1
served $python -c 1
# Where the kernel's vsock has no loopback, a stream test of it waits for ever.
suite() { "$@" $python -m test -j2 --timeout 600 -i '*VSOCKSocketStreamTest*' --fromfile tests "--tempdir=$PWD"; }
failed() { sed -n '/^[0-9]* tests\{0,1\} failed/,/^$/p' "$1" | grep -o 'test_[A-Za-z0-9_]*' | sort -u || true; }

$python -m test --list-tests >tests
suite preloaded >served.txt 2>&1 || true
tail -3 served.txt
grep -q '^Total duration' served.txt || fail "the suite did not come to its end: $(tail -20 served.txt)"
failed served.txt >suspects
if [ -s suspects ]; then
    echo "fail with the library: $(tr '\n' ' ' <suspects)"
    cp suspects tests
    # Again, with and without: some tests depend on time, on other load, or on the machine.
    suite preloaded >again.txt 2>&1 || true
    suite env >plain.txt 2>&1 || true
    failed again.txt >still
    failed plain.txt >anyway
    comm -23 still anyway >own
    echo "fail without it too: $(tr '\n' ' ' <anyway)"
    if [ -s own ]; then
        grep -E -A20 '^(ERROR|FAIL|Fatal|specmalloc):' again.txt || true
        fail "fail only with the library: $(tr '\n' ' ' <own)"
    fi
fi
