//! The functions that make threads: `pthread_create` and C11's `thrd_create`.
//!
//! Each thread of the program starts in a trampoline, which hooks its exit before it does anything else: so the
//! allocator knows that a thread has ended even if it never allocated, when the C library frees what belonged to it, as
//! the last of all and with locks held. And the helper thread is started here, where nobody can be inside malloc or
//! free.
//!
//! The trampoline jumps to the thread's function and leaves no frame behind: cancellation, `pthread_exit` and debuggers
//! see what they would see without it, and the stack is as it was.

use crate::next::Next;
use crate::thread::{EXIT, PTHREAD_CREATE, PreloadThread, create};
use crate::{errno, raw};
use core::ffi::{c_int, c_void};
use core::mem::MaybeUninit;
use core::ptr;
use specmalloc::internals::global;

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

type CreateC11 = unsafe extern "C" fn(*mut libc::pthread_t, *const c_void, *mut c_void) -> c_int;

/// `thrd_error` of `threads.h`.
const THRD_ERROR: c_int = 2;
/// `thrd_nomem` of `threads.h`.
const THRD_NOMEM: c_int = 3;

static THRD_CREATE: Next = Next::new(c"thrd_create");

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
/// if there is not even memory for that. Where the system has no addresses left for the thread's stack, those of what is
/// free are given back first.
///
/// # Safety
/// `attributes` are a thread's, or null.
unsafe fn launch(
    start: *const c_void,
    argument: *mut c_void,
    attributes: *const libc::pthread_attr_t,
    no_memory: c_int,
    create: impl Fn(*const c_void, *mut c_void) -> c_int,
) -> c_int {
    let before = errno::get();
    let record = raw::malloc(size_of::<Launch>()).cast::<Launch>();
    if record.is_null() {
        errno::set(before);
        return no_memory;
    }
    // SAFETY: the record is large enough and nobody else's.
    unsafe { record.write(Launch { start, argument }) };
    let made = global::thread_made::<PreloadThread, _>(
        || {
            let made = create(trampoline as *const c_void, record.cast());
            // SAFETY: the caller's.
            if made == 0 || !unsafe { makes_room(attributes) } {
                return made;
            }
            create(trampoline as *const c_void, record.cast())
        },
        |&error| error == 0,
    );
    if made != 0 {
        // SAFETY: no thread was made that could have it.
        unsafe { raw::free(record.cast()) };
    }
    errno::set(before);
    made
}

/// Gives back what is free if there is no room for the stack of a thread with these attributes. Returns whether there is
/// room then.
///
/// # Safety
/// They are a thread's, or null.
#[cold]
unsafe fn makes_room(attributes: *const libc::pthread_attr_t) -> bool {
    let (mut usual, mut stack, mut guard) = (MaybeUninit::uninit(), 0, 0);
    // SAFETY: the caller's; what is initialised here is used only after that, and each size is written by its call.
    unsafe {
        let is_usual = attributes.is_null();
        if is_usual && libc::pthread_attr_init(usual.as_mut_ptr()) != 0 {
            return false;
        }
        let attributes = if is_usual { usual.as_ptr() } else { attributes };
        libc::pthread_attr_getstacksize(attributes, &raw mut stack);
        libc::pthread_attr_getguardsize(attributes, &raw mut guard);
        if is_usual {
            libc::pthread_attr_destroy(usual.as_mut_ptr());
        }
    }
    // There may be by now: another thread has given something back.
    let has_room = || global::has_room(stack.saturating_add(guard));
    has_room() || {
        global::make_room::<PreloadThread>();
        has_room()
    }
}

/// The first function of a new thread, called by the trampoline.
unsafe extern "C" fn begin(record: *mut Launch) -> Launch {
    // SAFETY: `launch` wrote the record for this thread.
    let launch = unsafe { record.read() };
    // Before the thread is armed: it borrows a heap for this, and need not ever possess one.
    // SAFETY: as above.
    unsafe { raw::free(record.cast()) };
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
    let create = |start, argument| {
        // SAFETY: the caller's; the trampoline is a thread's function, and the record its argument.
        unsafe { create(thread, attributes, start, argument) }
    };
    // SAFETY: the caller's.
    unsafe { launch(start, argument, attributes, libc::EAGAIN, create) }
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
    let create = |start, argument| {
        // SAFETY: as in `create`. The trampoline's result is its thread's function's, whose int it leaves where it is.
        unsafe {
            let next = core::mem::transmute::<*mut c_void, CreateC11>(next);
            next(thread, start, argument)
        }
    };
    // SAFETY: no attributes.
    unsafe { launch(start, argument, ptr::null(), THRD_NOMEM, create) }
}
