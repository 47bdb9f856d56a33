//! The helper thread: gives memory back by age in a process that has several threads anyway.
//!
//! Never started before the program's own second thread, and only where nothing is held, for `pthread_create` takes
//! locks that a caller of malloc or free may hold: by whoever makes a thread, when it is made; and in a Rust program,
//! whose threads are not announced, by the free that a new thread begins with, or at a thread's end. All signals
//! blocked; an ordinary policy and the processors that the process had when it was loaded, not those of whoever came
//! second; asleep without a timer when nothing is left to give back, and no thread's heap to tidy. It possesses no heap
//! and borrows one for each tick. It ends when one thread of the program is left: see
//! [`HelperState`](crate::heap::HelperState).

use super::fork;
use super::heaps::{arm, exit_thread, with_heap};
use super::lookout::{self, Lookout};
use super::options::Options;
use super::presence::{self, NUMBER, is_allowed};
use super::process::{learn_limits, process};
use super::thread::{EXITED, NOBODY, Thread};
use crate::heap::HelperState;
use crate::pal::{Platform, system_call};
use crate::sync::atomic::{AtomicBool, AtomicUsize, Ordering, fence};
use core::ffi::c_void;
use core::mem::MaybeUninit;
use core::ptr;

/// Milliseconds between two looks at which threads are idle.
const WATCH_MS: u32 = 1000;
/// Milliseconds between two looks of the helper at whether it is to stay where one thread is left; and for how long none
/// may begin before it is not: with the rounds below a tick.
const LINGER_MS: u32 = 20;
const ALONE_MS: u32 = 80;
/// How often it gives back what the last thread has freed, before it ends: at least, and for as long as that one goes
/// on, at most, which is a second.
const LEAST_ROUNDS: usize = 2;
const MOST_ROUNDS: usize = 50;
/// Bytes of stack: what the C library calls at the end of a process, if this is the last thread, has to fit in, too.
const STACK: usize = 256 << 10;
/// Words of a set of processors, for 1,024 of them.
const CPU_WORDS: usize = 1024 / usize::BITS as usize;

/// Whether the helper is to end without waiting for another thread to come.
static DISMISSED: AtomicBool = AtomicBool::new(false);
/// The processors that the process might use when it was loaded, and how many bytes of them the kernel told.
static PROCESSORS: [AtomicUsize; CPU_WORDS] = [const { AtomicUsize::new(0) }; CPU_WORDS];
static PROCESSORS_BYTES: AtomicUsize = AtomicUsize::new(0);

/// Notes the processors of the process. When it is loaded.
extern "C" fn note_processors() {
    let mut words = [0usize; CPU_WORDS];
    // SAFETY: the kernel writes no more bytes than `words` has.
    let told = unsafe {
        let at = words.as_mut_ptr().expose_provenance();
        system_call(libc::SYS_sched_getaffinity, [0, size_of_val(&words), at])
    };
    for (noted, word) in PROCESSORS.iter().zip(words) {
        // Relaxed: read by a thread that is made later.
        noted.store(word, Ordering::Relaxed);
    }
    // Relaxed: as above.
    PROCESSORS_BYTES.store(told.unwrap_or(0), Ordering::Relaxed);
}

#[used]
#[unsafe(link_section = ".init_array")]
static AT_LOAD: extern "C" fn() = note_processors;

/// Makes a thread of the program by `make`; `is_made` tells from what that returns whether there is one. The helper is
/// started here, if need be: whoever makes a thread holds nothing that making a thread needs.
pub fn thread_made<T: Thread, R>(make: impl FnOnce() -> R, is_made: impl FnOnce(&R) -> bool) -> R {
    // The child of a fork is told before it has a second thread, which could not tell that it is one.
    fork::notice();
    // Here the stack is the program's own choice, and not a handler's.
    learn_limits();
    presence::thread_begins();
    let made = make();
    if is_made(&made) {
        start_if::<T>(HelperState::starts_for_another);
    } else {
        presence::thread_ends();
    }
    made
}

/// At the end of a thread of the program: [`exit_thread`]. The last one waits for a helper that has a table of files of
/// its own to be gone: whichever thread is the last of all runs what the program has registered for its end, which may
/// write to the program's files.
pub fn end_thread<T: Thread>(counted: bool) {
    exit_thread::<T>(counted);
    if counted && process().helper().has_nobody() && lookout::has_own_files() {
        dismiss_helper();
    }
}

/// In a thread that was not announced, where nothing can be held: arms it, and starts the helper if need be.
pub fn thread_found<T: Thread>() {
    arm::<T>(true);
    start_helper::<T>();
}

/// Starts the helper if one is wanted and there is none. Only where no lock of the C library can be held.
pub fn start_helper<T: Thread>() {
    start_if::<T>(HelperState::starts);
}

/// Starts the helper if that is allowed and `takes_on` takes on the duty.
fn start_if<T: Thread>(takes_on: fn(&HelperState) -> bool) {
    if is_allowed() && takes_on(process().helper()) {
        // Relaxed: the helper writes it, which is made after this.
        NUMBER.store(0, Ordering::Relaxed);
        if !spawn::<T>() {
            process().helper().failed();
        }
    }
}

fn spawn<T: Thread>() -> bool {
    let (mut attributes, mut all, mut before) =
        (MaybeUninit::uninit(), MaybeUninit::uninit(), MaybeUninit::uninit());
    let mut thread = MaybeUninit::uninit();
    // SAFETY: each object is initialised by the call before its first use. The thread inherits the mask: it starts with
    // every signal blocked, and ours is as it was afterwards.
    unsafe {
        if libc::pthread_attr_init(attributes.as_mut_ptr()) != 0 {
            return false;
        }
        libc::sigfillset(all.as_mut_ptr());
        libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), before.as_mut_ptr());
        libc::pthread_attr_setdetachstate(attributes.as_mut_ptr(), libc::PTHREAD_CREATE_DETACHED);
        // Fails where static TLS needs more than that: then the default size serves.
        let _default = libc::pthread_attr_setstacksize(attributes.as_mut_ptr(), STACK);
        let created = T::create_thread(thread.as_mut_ptr(), attributes.as_ptr(), run::<T>);
        libc::pthread_sigmask(libc::SIG_SETMASK, before.as_ptr(), ptr::null_mut());
        libc::pthread_attr_destroy(attributes.as_mut_ptr());
        created == 0
    }
}

extern "C" fn run<T: Thread>(_: *mut c_void) -> *mut c_void {
    // It possesses no heap, ever.
    T::change_heap(&raw const NOBODY, &raw const EXITED);
    settle_in();
    let mut lookout = Lookout::new();
    loop {
        process().settings().set_helper(true);
        help::<T>(&mut lookout);
        process().settings().set_helper(false);
        let begun = process().helper().begun();
        let mut is_wanted = false;
        for round in 1..=MOST_ROUNDS {
            with_heap::<T, _>(Options::NONE, |heap| {
                heap.map(|heap| process().leave_alone::<T::Checks>(heap))
            });
            let (has_mail, is_used) = (process().has_mail(), process().has_untidied());
            if !has_mail && (is_dismissed() || round >= LEAST_ROUNDS && !is_used) {
                break;
            }
            // The last thread, which has waited for the others, is about to free what they left; and then it may be
            // silent, and nobody else ever receives what was sent or gives back what it freed.
            process().bell().linger(process().os(), LINGER_MS);
            is_wanted = is_allowed() && process().helper().begun() != begun;
            if is_wanted {
                break;
            }
        }
        if !is_wanted && process().helper().ends(is_allowed) {
            return ptr::null_mut();
        }
    }
}

/// Takes a name, the policy of an ordinary thread and the processors of the process. What the system refuses stays as
/// it was inherited.
fn settle_in() {
    let ordinary = libc::sched_param { sched_priority: 0 };
    // Relaxed: noted before there was a second thread.
    let words: [usize; CPU_WORDS] = core::array::from_fn(|word| PROCESSORS[word].load(Ordering::Relaxed));
    let bytes = PROCESSORS_BYTES.load(Ordering::Relaxed);
    // SAFETY: the name is a string of less than 16 characters; the others are read for as long as they say.
    unsafe {
        // Relaxed: read by those who wait for the helper's end.
        NUMBER.store(system_call(libc::SYS_gettid, []).unwrap_or(0) as i32, Ordering::Relaxed);
        if lookout::is_shut_off() {
            // A filter of system calls may kill for what follows. The helper runs as its maker does.
            return;
        }
        let name = c"specmalloc".as_ptr().expose_provenance();
        let _named = system_call(libc::SYS_prctl, [libc::PR_SET_NAME as usize, name]);
        let policy = [0, libc::SCHED_OTHER as usize, (&raw const ordinary).expose_provenance()];
        let _set = system_call(libc::SYS_sched_setscheduler, policy);
        if bytes > 0 {
            let at = words.as_ptr().expose_provenance();
            let _set = system_call(libc::SYS_sched_setaffinity, [0, bytes, at]);
        }
    }
}

/// Gives memory back until no helper is needed or allowed any more.
fn help<T: Thread>(lookout: &mut Lookout) {
    let (helper, bell, os) = (process().helper(), process().bell(), process().space().os());
    let mut watched = os.now_ms();
    loop {
        let now = os.now_ms();
        let is_due = now.saturating_sub(watched) >= u64::from(WATCH_MS);
        if is_due {
            watched = now;
        }
        let seen = if is_due { lookout.look(|| process().look_outside()) } else { None };
        // Without memory for a heap there is more to do, later.
        let more = with_heap::<T, _>(Options::NONE, |heap| {
            let Some(heap) = heap else { return true };
            if is_due {
                process().watch_heaps::<T::Checks>(heap);
            }
            if let Some(seen) = seen {
                process().heed::<T::Checks>(heap, seen);
            }
            process().tick::<T::Checks>(heap)
        });
        let is_alone = helper.is_alone();
        if !is_allowed() || is_alone && stays_alone() {
            return;
        }
        if is_alone {
            continue;
        }
        if more {
            bell.pause(os, process().tick_ms());
        } else {
            T::rest();
            let watches = process().has_untidied();
            // Whoever comes to a tidied heap rings.
            let is_awake =
                || !is_allowed() || process().has_idle_memory() || !watches && process().has_untidied();
            helper.sleeps(bell, os, watches.then_some(WATCH_MS), is_awake);
        }
    }
}

/// Lingers, and says whether one thread was left all along, which is so only if no other has begun: threads that follow
/// each other leave the one that makes them alone for moments. Comes back for a tick.
fn stays_alone() -> bool {
    let (helper, bell, os) = (process().helper(), process().bell(), process().space().os());
    let (begun, tick) = (helper.begun(), process().tick_ms());
    let mut lingered = 0;
    loop {
        if !is_dismissed() {
            bell.linger(os, LINGER_MS);
        }
        lingered += LINGER_MS;
        if lingered >= ALONE_MS && helper.begun() == begun {
            return helper.is_alone();
        }
        if lingered >= tick {
            return false;
        }
    }
}

fn is_dismissed() -> bool {
    // Relaxed: a hint to hurry.
    DISMISSED.load(Ordering::Relaxed)
}

/// Ends the helper if one thread of the program is left, and waits until the kernel no longer knows it: before a call
/// that fails in a process of several threads. Not from malloc and free.
pub fn dismiss_helper() {
    fork::notice();
    let (helper, os) = (process().helper(), process().space().os());
    // Relaxed: as in `is_dismissed`.
    DISMISSED.store(true, Ordering::Relaxed);
    while helper.is_alone() && helper.is_present() {
        process().bell().shake(os);
        os.yield_now();
    }
    // Relaxed: as above.
    DISMISSED.store(false, Ordering::Relaxed);
    // Pairs with the full fence of the last heap that the helper gave up: whoever sees it absent sees its number.
    fence(Ordering::Acquire);
    // Relaxed: ordered by the fence.
    let number = NUMBER.load(Ordering::Relaxed);
    // SAFETY: no signal is sent: the kernel only looks whether the process has such a thread.
    let lives = || unsafe {
        let process = system_call(libc::SYS_getpid, []).unwrap_or(0);
        system_call(libc::SYS_tgkill, [process, number as usize, 0]).is_ok()
    };
    while helper.is_alone() && number != 0 && lives() {
        os.yield_now();
    }
    if number != 0 {
        // SAFETY: nothing is changed. The kernel takes the thread off its lists, which is all that the above sees, and then
        // lets go of what it shared, under the one lock for both: a call that takes that lock, too, comes after.
        let _either = unsafe { system_call(libc::SYS_getpriority, [libc::PRIO_PGRP as usize, 0]) };
    }
}
