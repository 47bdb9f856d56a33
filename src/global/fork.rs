//! fork: the child has one thread, and the heaps and reader slots of the others belong to nobody.
//!
//! The child finds out in two ways: by a handler registered with pthread_atfork, and, because `_Fork` and raw `clone`
//! call no handlers and other libraries' handlers may allocate before ours, by a word in memory that the kernel wipes
//! in the child (MADV_WIPEONFORK), which the slow paths look at. The parent does nothing and waits for nobody.

use super::presence;
use super::pressure;
use super::process::process;
use super::thread::{Thread, is_here};
use crate::heap::ThreadId;
use crate::pal::{Access, Platform, system_call};
use crate::sync::atomic::{AtomicPtr, AtomicU32, Ordering};
use core::mem::MaybeUninit;
use core::ptr;

/// One in the process that wrote it, zero in a child that has not noticed yet. Null where the kernel cannot wipe.
static WITNESS: AtomicPtr<AtomicU32> = AtomicPtr::new(ptr::null_mut());

/// The [`Own`] of whichever kind of thread the process has, once one is armed.
static OWN: AtomicPtr<()> = AtomicPtr::new(ptr::null_mut());

/// Tells which thread the calling one is, and whether it has begun and not ended.
type Own = fn() -> (ThreadId, bool);

fn own<T: Thread>() -> (ThreadId, bool) {
    (T::id(), is_here::<T>())
}

const MADV_WIPEONFORK: usize = 18;

/// Maps the witness. Before the first heap.
pub(super) fn prepare() {
    let os = process().space().os();
    let size = os.page_size();
    let Ok(page) = os.map(None, size, Access::ReadWrite) else { return };
    let word = ptr::with_exposed_provenance_mut::<AtomicU32>(page);
    // SAFETY: the page was mapped just now and is ours.
    if unsafe { system_call(libc::SYS_madvise, [page, size, MADV_WIPEONFORK]) }.is_ok() {
        // SAFETY: as above; zero is a valid AtomicU32.
        // Relaxed: published by the Release below.
        unsafe { &*word }.store(1, Ordering::Relaxed);
        // Release: pairs with the Acquire in `notice`. A thread that saw the page and not the word would take its
        // process for a child.
        WITNESS.store(word, Ordering::Release);
    }
}

/// Registers the handler for children. When the program, or the library that this is a part of, is loaded: that takes
/// locks of the C library, which the caller of a malloc or free may hold, and allocates.
extern "C" fn install() {
    // SAFETY: the handler is a function of this library, which is never unloaded while it is in use.
    let _no_memory = unsafe { libc::pthread_atfork(None, None, Some(in_child)) };
}

#[used]
#[unsafe(link_section = ".init_array")]
static AT_LOAD: extern "C" fn() = install;

/// What reader slots that stand alone know the calling thread by: not zero, and the same in the child of a fork.
pub(super) fn number() -> usize {
    // SAFETY: reads a register.
    unsafe { libc::pthread_self() as usize }
}

/// Remembers what kind of threads the process has. Before one of them has a heap.
pub(super) fn learn<T: Thread>() {
    let function = own::<T> as Own as *mut ();
    // Relaxed (both): read by the child of this process, which has one thread.
    if OWN.load(Ordering::Relaxed) != function {
        OWN.store(function, Ordering::Relaxed);
    }
}

extern "C" fn in_child() {
    notice();
}

/// Tidies up if this is a child that has not done so yet.
#[inline]
pub(super) fn notice() {
    // Acquire: pairs with the Release in `prepare`.
    let word = WITNESS.load(Ordering::Acquire);
    // SAFETY: null or the witness page, which stays mapped.
    if let Some(word) = unsafe { word.as_ref() }
        && word.load(Ordering::Relaxed) == 0
    {
        tidy(word);
    }
}

#[cold]
fn tidy(word: &AtomicU32) {
    // Relaxed: the child has one thread. First the word: what follows must not come back here.
    word.store(1, Ordering::Relaxed);
    // Relaxed: as above.
    let own = OWN.load(Ordering::Relaxed);
    // Without a thread that ever had a heap there are readers at most.
    let own = match own.is_null() {
        true => || (ThreadId::new(number()), false),
        // SAFETY: `learn` stored a function of this type.
        false => unsafe { core::mem::transmute::<*mut (), Own>(own) },
    };
    // A handler that forked in the middle of this would have its child do all of it, and return to the rest.
    let (mut all, mut before) = (MaybeUninit::uninit(), MaybeUninit::uninit());
    // SAFETY: each set is initialised by the call before its first use. The witness was wiped, so this is a child, and
    // its only thread is here.
    unsafe {
        libc::sigfillset(all.as_mut_ptr());
        libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), before.as_mut_ptr());
        let (thread, is_counted) = own();
        process().child_after_fork(thread, number());
        presence::forget(is_counted);
        pressure::forget_others(thread.number());
        libc::pthread_sigmask(libc::SIG_SETMASK, before.as_ptr(), ptr::null_mut());
    }
}
