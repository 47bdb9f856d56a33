//! The dynamic symbols of the library: exactly these, so that nothing of Rust's or of the allocator's inside leaks into
//! the programs it is loaded into, and nothing of the family is missing.

mod common;

use std::collections::BTreeSet;
use std::process::Command;

const C: &str = "
    malloc calloc realloc reallocarray free free_sized free_aligned_sized cfree
    memalign aligned_alloc posix_memalign valloc pvalloc malloc_usable_size
    mallinfo mallinfo2 malloc_info malloc_stats malloc_trim mallopt
    __libc_malloc __libc_calloc __libc_realloc __libc_free __libc_memalign __libc_valloc __libc_pvalloc
    __posix_memalign
    dlopen dlmopen
    pthread_create thrd_create unshare setns prctl setrlimit setrlimit64 prlimit prlimit64 mlockall
    specmalloc_get_statistics specmalloc_trim specmalloc_set_option specmalloc_get_option specmalloc_usable_size
    specmalloc_heap_of specmalloc_version specmalloc_held_bytes specmalloc_on_pressure specmalloc_walk
    specmalloc_on_samples specmalloc_on_guarded
";

const CXX: &str = "
    _Znwm _ZnwmRKSt9nothrow_t _ZnwmSt11align_val_t _ZnwmSt11align_val_tRKSt9nothrow_t
    _Znam _ZnamRKSt9nothrow_t _ZnamSt11align_val_t _ZnamSt11align_val_tRKSt9nothrow_t
    _ZdlPv _ZdlPvm _ZdlPvRKSt9nothrow_t
    _ZdlPvSt11align_val_t _ZdlPvmSt11align_val_t _ZdlPvSt11align_val_tRKSt9nothrow_t
    _ZdaPv _ZdaPvm _ZdaPvRKSt9nothrow_t
    _ZdaPvSt11align_val_t _ZdaPvmSt11align_val_t _ZdaPvSt11align_val_tRKSt9nothrow_t
";

#[test]
fn the_exported_symbols_are_exactly_the_documented_ones() {
    let output =
        common::succeed(Command::new("nm").args(["-D", "--defined-only", "-P"]).arg(common::library()));
    let output = String::from_utf8(output.stdout).expect("symbols in ASCII");
    let exported: BTreeSet<&str> = output.lines().filter_map(|line| line.split_whitespace().next()).collect();
    let expected: BTreeSet<&str> = C.split_whitespace().chain(CXX.split_whitespace()).collect();
    let missing: Vec<_> = expected.difference(&exported).collect();
    let extra: Vec<_> = exported.difference(&expected).collect();
    assert!(missing.is_empty() && extra.is_empty(), "missing {missing:?}, not expected {extra:?}");
}

#[test]
fn the_header_is_plain_c_and_cxx() {
    for (compiler, language) in [("cc", "-std=c99"), ("c++", "-std=c++11")] {
        let kind = if compiler == "cc" { "c" } else { "c++" };
        common::succeed(
            Command::new(compiler)
                .args([language, "-pedantic", "-Wall", "-Wextra", "-Werror", "-fsyntax-only", "-x", kind])
                .arg(std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("include/specmalloc.h")),
        );
    }
}
