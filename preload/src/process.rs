//! The functions by which a process changes what it is: for what wants a process of one thread, `unshare` and `setns`;
//! for what it does before it shuts itself off, `prctl`; and for the limits that it sets itself, `setrlimit` and
//! `prlimit`.

use crate::errno;
use crate::next::Next;
use core::ffi::{c_int, c_ulong, c_void};
use core::{mem, ptr};
use specmalloc::internals::global;
use specmalloc::internals::pal::system_call;

type Unshare = unsafe extern "C" fn(c_int) -> c_int;
type Setns = unsafe extern "C" fn(c_int, c_int) -> c_int;

static UNSHARE: Next = Next::new(c"unshare");
static SETNS: Next = Next::new(c"setns");

/// Linux: leaves namespaces. With some flags that fails in a process of several threads, of which the helper would be
/// one.
///
/// # Safety
/// As for the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn unshare(flags: c_int) -> c_int {
    let next = alone(&UNSHARE);
    if next.is_null() {
        return unsupported();
    }
    // SAFETY: the C library's function of this name has this type.
    unsafe { mem::transmute::<*mut c_void, Unshare>(next)(flags) }
}

/// Linux: enters a namespace. As [`unshare`].
///
/// # Safety
/// As for the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn setns(file: c_int, kind: c_int) -> c_int {
    let next = alone(&SETNS);
    if next.is_null() {
        return unsupported();
    }
    // SAFETY: the C library's function of this name has this type.
    unsafe { mem::transmute::<*mut c_void, Setns>(next)(file, kind) }
}

/// Linux: says what the process is, wants or gives up. A process that is about to give up system calls makes those
/// first that the allocator would otherwise make later. (The C library's is a bare system call, too.)
///
/// # Safety
/// As for the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prctl(
    what: c_int,
    second: c_ulong,
    third: c_ulong,
    fourth: c_ulong,
    fifth: c_ulong,
) -> c_int {
    if matches!(what, libc::PR_SET_NO_NEW_PRIVS | libc::PR_SET_SECCOMP) {
        let before = errno::get();
        global::before_a_filter();
        errno::set(before);
    }
    let [second, third, fourth, fifth] = [second, third, fourth, fifth].map(|argument| argument as usize);
    // SAFETY: the caller's.
    errno::returned(unsafe { system_call(libc::SYS_prctl, [what as usize, second, third, fourth, fifth]) })
}

/// POSIX: sets a limit. One of address space is heeded from here on: what is reserved behind blocks would count against
/// it. (The C library's is a bare system call, too.)
///
/// # Safety
/// As for the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn setrlimit(which: c_int, limit: *const libc::rlimit64) -> c_int {
    // SAFETY: the caller's.
    unsafe { prlimit(0, which, limit, ptr::null_mut()) }
}

/// The same under the name that programs of 64-bit files use.
///
/// # Safety
/// As for the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn setrlimit64(which: c_int, limit: *const libc::rlimit64) -> c_int {
    // SAFETY: the caller's.
    unsafe { prlimit(0, which, limit, ptr::null_mut()) }
}

/// Linux: sets and tells a limit of any process. As [`setrlimit`].
///
/// # Safety
/// As for the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prlimit(
    process: libc::pid_t,
    which: c_int,
    new: *const libc::rlimit64,
    old: *mut libc::rlimit64,
) -> c_int {
    // SAFETY: the caller's.
    let done = unsafe {
        let (new, old) = (new.expose_provenance(), old.expose_provenance());
        system_call(libc::SYS_prlimit64, [process as usize, which as usize, new, old])
    };
    if done.is_ok() && !new.is_null() && matches!(which as u32, libc::RLIMIT_AS | libc::RLIMIT_DATA) {
        global::adapt_to_late_limit();
    }
    errno::returned(done)
}

/// The same under the name that programs of 64-bit files use.
///
/// # Safety
/// As for the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prlimit64(
    process: libc::pid_t,
    which: c_int,
    new: *const libc::rlimit64,
    old: *mut libc::rlimit64,
) -> c_int {
    // SAFETY: the caller's.
    unsafe { prlimit(process, which, new, old) }
}

/// The function, once the helper is gone, if the program has one thread.
fn alone(next: &Next) -> *mut c_void {
    let before = errno::get();
    global::dismiss_helper();
    errno::set(before);
    next.get()
}

fn unsupported() -> c_int {
    errno::set(libc::ENOSYS);
    -1
}
