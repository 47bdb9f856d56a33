//! The functions that make threads: `pthread_create`, C11's `thrd_create`, and, for what wants a process of one thread,
//! `unshare` and `setns`; for what a process does before it shuts itself off, `prctl`; and, for the limits that it sets
//! itself, `setrlimit` and `prlimit`.
//!
//! Each thread of the program starts in a trampoline, which hooks its exit before it does anything else: so the
//! allocator knows that a thread has ended even if it never allocated, when the C library frees what belonged to it, as
//! the last of all and with locks held. And the helper thread is started here, where nobody can be inside malloc or
//! free.
//!
//! The trampoline jumps to the thread's function and leaves no frame behind: cancellation, `pthread_exit` and debuggers
//! see what they would see without it, and the stack is as it was.

use crate::errno;
use crate::next::Next;
use crate::thread::{EXIT, PreloadThread};
use core::ffi::{c_int, c_long, c_ulong, c_void};
use core::ptr;
use specmalloc::internals::global::{self, Main};

/// What a thread is to run. Two words, returned in two registers.
#[repr(C)]
struct Launch {
    start: *const c_void,
    argument: *mut c_void,
}

// What the C compiler's start-up files would define: an address that stands for this library where handlers are
// registered.
core::arch::global_asm!(
    ".section .rodata.specmalloc,\"a\",@progbits",
    ".p2align 3",
    ".globl __dso_handle",
    ".hidden __dso_handle",
    ".type __dso_handle, @object",
    ".size __dso_handle, 8",
    "__dso_handle:",
    ".quad 0",
    ".text",
);

type Create = unsafe extern "C" fn(
    *mut libc::pthread_t,
    *const libc::pthread_attr_t,
    *const c_void,
    *mut c_void,
) -> c_int;
type CreateC11 = unsafe extern "C" fn(*mut libc::pthread_t, *const c_void, *mut c_void) -> c_int;
type Unshare = unsafe extern "C" fn(c_int) -> c_int;
type Setns = unsafe extern "C" fn(c_int, c_int) -> c_int;

/// `thrd_error` of `threads.h`.
const THRD_ERROR: c_int = 2;
/// `thrd_nomem` of `threads.h`.
const THRD_NOMEM: c_int = 3;

static PTHREAD_CREATE: Next = Next::new(c"pthread_create");
static THRD_CREATE: Next = Next::new(c"thrd_create");
static UNSHARE: Next = Next::new(c"unshare");
static SETNS: Next = Next::new(c"setns");

/// When the library is loaded, by the process's first thread: the others' functions are found, the key of the exit hook
/// is made, and this thread armed.
extern "C" fn loaded() {
    PTHREAD_CREATE.get();
    let _none_left = EXIT.get();
    global::begin_process::<PreloadThread>();
}

#[used]
#[unsafe(link_section = ".init_array")]
static LOADED: extern "C" fn() = loaded;

/// Makes a thread of the program by `create`, which is given what to start and with what argument. Returns `no_memory`
/// if there is not even memory for that.
fn launch(
    start: *const c_void,
    argument: *mut c_void,
    no_memory: c_int,
    create: impl FnOnce(*const c_void, *mut c_void) -> c_int,
) -> c_int {
    let before = errno::get();
    let record = crate::family::malloc(size_of::<Launch>()).cast::<Launch>();
    if record.is_null() {
        errno::set(before);
        return no_memory;
    }
    // SAFETY: the record is large enough and nobody else's.
    unsafe { record.write(Launch { start, argument }) };
    let made = global::thread_made::<PreloadThread, _>(
        || create(trampoline as *const c_void, record.cast()),
        |&error| error == 0,
    );
    if made != 0 {
        // SAFETY: no thread was made that could have it.
        unsafe { crate::family::free(record.cast()) };
    }
    errno::set(before);
    made
}

/// The first function of a new thread, called by the trampoline.
unsafe extern "C" fn begin(record: *mut Launch) -> Launch {
    // SAFETY: `launch` wrote the record for this thread.
    let launch = unsafe { record.read() };
    // Before the thread is armed: it borrows a heap for this, and need not ever possess one.
    // SAFETY: as above.
    unsafe { crate::family::free(record.cast()) };
    global::begin_thread::<PreloadThread>();
    launch
}

/// What every thread of the program starts with.
#[cfg(target_arch = "x86_64")]
#[unsafe(naked)]
unsafe extern "C" fn trampoline(record: *mut c_void) -> *mut c_void {
    core::arch::naked_asm!(
        ".cfi_startproc",
        "sub rsp, 8",
        ".cfi_adjust_cfa_offset 8",
        "call {begin}",
        "add rsp, 8",
        ".cfi_adjust_cfa_offset -8",
        "mov rdi, rdx",
        "jmp rax",
        ".cfi_endproc",
        begin = sym begin,
    )
}

/// What every thread of the program starts with.
#[cfg(target_arch = "aarch64")]
#[unsafe(naked)]
unsafe extern "C" fn trampoline(record: *mut c_void) -> *mut c_void {
    core::arch::naked_asm!(
        ".cfi_startproc",
        "stp x29, x30, [sp, #-16]!",
        ".cfi_adjust_cfa_offset 16",
        ".cfi_rel_offset x29, 0",
        ".cfi_rel_offset x30, 8",
        "bl {begin}",
        "mov x16, x0",
        "mov x0, x1",
        "ldp x29, x30, [sp], #16",
        ".cfi_adjust_cfa_offset -16",
        ".cfi_restore x29",
        ".cfi_restore x30",
        "br x16",
        ".cfi_endproc",
        begin = sym begin,
    )
}

/// POSIX: makes a thread. Fails as the C library's does.
///
/// # Safety
/// As for the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pthread_create(
    thread: *mut libc::pthread_t,
    attributes: *const libc::pthread_attr_t,
    start: *const c_void,
    argument: *mut c_void,
) -> c_int {
    launch(start, argument, libc::EAGAIN, |start, argument| {
        // SAFETY: the caller's; the trampoline is a thread's function, and the record its argument.
        unsafe { create(thread, attributes, start, argument) }
    })
}

unsafe fn create(
    thread: *mut libc::pthread_t,
    attributes: *const libc::pthread_attr_t,
    start: *const c_void,
    argument: *mut c_void,
) -> c_int {
    let next = PTHREAD_CREATE.get();
    if next.is_null() {
        return libc::EAGAIN;
    }
    // SAFETY: the C library's function of this name has this type; the rest is the caller's.
    unsafe {
        let next = core::mem::transmute::<*mut c_void, Create>(next);
        next(thread, attributes, start, argument)
    }
}

/// Makes a thread that is not one of the program's.
///
/// # Safety
/// As for `pthread_create`.
pub unsafe fn create_unseen(
    thread: *mut libc::pthread_t,
    attributes: *const libc::pthread_attr_t,
    main: Main,
) -> c_int {
    // SAFETY: the caller's.
    unsafe { create(thread, attributes, main as *const c_void, ptr::null_mut()) }
}

/// C11: makes a thread. Fails as the C library's does. (That does not call the `pthread_create` which programs see.)
///
/// # Safety
/// As for the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn thrd_create(
    thread: *mut libc::pthread_t,
    start: *const c_void,
    argument: *mut c_void,
) -> c_int {
    let next = THRD_CREATE.get();
    if next.is_null() {
        return THRD_ERROR;
    }
    launch(start, argument, THRD_NOMEM, |start, argument| {
        // SAFETY: as in `create`. The trampoline's result is its thread's function's, whose int it leaves where it is.
        unsafe {
            let next = core::mem::transmute::<*mut c_void, CreateC11>(next);
            next(thread, start, argument)
        }
    })
}

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
    unsafe { core::mem::transmute::<*mut c_void, Unshare>(next)(flags) }
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
    unsafe { core::mem::transmute::<*mut c_void, Setns>(next)(file, kind) }
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
        global::learn_limits();
        errno::set(before);
    }
    // SAFETY: the caller's.
    unsafe { libc::syscall(libc::SYS_prctl, c_long::from(what), second, third, fourth, fifth) as c_int }
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
    let done = unsafe { libc::syscall(libc::SYS_prlimit64, process, which, new, old) as c_int };
    if done == 0 && !new.is_null() && matches!(which as u32, libc::RLIMIT_AS | libc::RLIMIT_DATA) {
        global::adapt_to_late_limit();
    }
    done
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
