//! Every function that the library takes from libc and ld.so, with the reason why it may: whoever calls malloc or free
//! may be inside libc, with any lock of libc's own held, or in a signal handler. So nothing that they run takes a lock
//! of libc's, or calls what may; what does is called at load, where a thread is made, or in the helper.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

/// Where a function is called, and why it is safe there.
const REASONS: &[(&str, &str)] = &[
    ("in malloc and free: reads a clock, through the vDSO", "clock_gettime"),
    (
        "in malloc and free: an address in thread-local memory that is there from the start",
        "__errno_location",
    ),
    (
        "in the child of a fork, also if a malloc or free is the first to notice it: reads the thread pointer",
        "pthread_self",
    ),
    ("in malloc and free: bytes", "bcmp memcpy memmove memset strlen"),
    ("in malloc and free, until it starts: looks a constant up in the auxiliary vector", "getauxval"),
    ("in malloc, where the auxiliary vector has no page size: a constant", "sysconf"),
    ("in malloc, until it starts: the options' text, read in place", "environ"),
    (
        "in malloc, when a thread that was not announced allocates first, and at load: an exchange in a table; no lock. A \
         value of a key beyond the first 32 is kept in a table that it allocates: the thread is one that may by then",
        "pthread_key_create __pthread_key_create pthread_key_delete pthread_setspecific",
    ),
    (
        "in malloc and free, in the child of a fork, and where a thread is made: one system call",
        "pthread_sigmask sigfillset",
    ),
    (
        "where a thread is made, for the helper: works on the object that it is given; sizes and states allocate nothing",
        "pthread_attr_init pthread_attr_setdetachstate pthread_attr_setstacksize pthread_attr_destroy",
    ),
    (
        "where a thread could not be made: reads the object that the program gave, or a new one",
        "pthread_attr_getstacksize pthread_attr_getguardsize",
    ),
    (
        "at the start of a thread, where the program has taken all keys: takes the lock of the dynamic linker, and allocates; \
         nothing of libc's is held before a thread's own function",
        "__cxa_thread_atexit_impl",
    ),
    ("at load: takes a lock, and allocates", "__register_atfork"),
    (
        "at load, or in the first call of a function of the same name that this library has taken over, whose caller may be \
         held up by the dynamic linker as well",
        "dlsym dlclose",
    ),
    (
        "the C startup code's, at load and at the end",
        "__cxa_finalize __gmon_start__ _ITM_deregisterTMCloneTable _ITM_registerTMCloneTable",
    ),
    (
        "std's, when this library itself is broken: a panic says where, and the process ends",
        "__tls_get_addr _dl_find_object abort dl_iterate_phdr fwrite getcwd getenv gettid lseek64 readlink realpath stat64 statx \
         write pthread_mutex_lock pthread_mutex_unlock pthread_once",
    ),
];

/// The functions that `library` takes from others.
fn imports(library: &Path) -> BTreeSet<String> {
    let output = common::succeed(Command::new("nm").args(["-D", "--undefined-only", "-P"]).arg(library));
    let output = String::from_utf8(output.stdout).expect("symbols in ASCII");
    let names = output.lines().filter_map(|line| line.split_whitespace().next());
    names.map(|name| name.split('@').next().expect("a name").to_owned()).collect()
}

#[test]
fn each_function_of_libc_is_called_for_a_reason() {
    let mut reasons = BTreeMap::new();
    for (reason, names) in REASONS {
        for name in names.split_whitespace() {
            assert!(reasons.insert(name, reason).is_none(), "{name} has two reasons");
        }
    }
    let without: Vec<_> =
        imports(common::library()).into_iter().filter(|name| !reasons.contains_key(name.as_str())).collect();
    assert!(without.is_empty(), "no reason why {without:?} may be called inside malloc or free");
}

/// Making a thread takes locks. It is called by the name that the library has taken over, never by the one that it
/// imports.
#[test]
fn no_thread_is_made_but_where_the_program_makes_one() {
    let taken = imports(common::library());
    for name in ["pthread_create", "thrd_create", "pthread_join", "pthread_atfork", "fork", "__libc_malloc"] {
        assert!(!taken.contains(name), "{name} is imported");
    }
}
