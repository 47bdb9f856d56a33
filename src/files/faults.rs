//! Pages that the file no longer has, read without the process being killed.
//!
//! A thread that reads with faults caught says so in a word of its own: a [`Catcher`] on its stack names the region,
//! which the thread holds. The handler of SIGBUS and SIGSEGV looks whether the address lies in one of them. If so it
//! notes the fault in the region's descriptor, which is immortal, puts a page of zeros over the hole, and returns: the
//! thread goes on, and its result is thrown away. (No frame is jumped over, so whatever the closure holds is dropped as
//! usual.) Everything else goes to whoever was there before.
//!
//! The index is not asked: a pin may be on a region that was superseded, and is out of the index.

use super::error::{Cause, Error, Fault, Result};
use super::source::Source;
use crate::region::Region;
use crate::sync::atomic::{AtomicUsize, Ordering, fence};
use crate::sync::signal_fence;
use core::ffi::{c_int, c_void};
use std::cell::{Cell, UnsafeCell};
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::Once;

/// Bytes in the pages that faults are noted by, whatever the system's are.
const PAGE: usize = 4096;
/// What is covered where pages of the system's size cannot be: a page of hugetlbfs.
const HUGE_PAGE: usize = 2 << 20;

/// A region that the thread reads with faults caught, and the one before.
struct Catcher {
    region: &'static Region,
    previous: *const Catcher,
}

std::thread_local! {
    /// The innermost. Without a destructor, so that the handler may look at it at any time.
    static INNERMOST: Cell<*const Catcher> = const { Cell::new(ptr::null()) };
}

impl Drop for Catcher {
    fn drop(&mut self) {
        signal_fence();
        INNERMOST.set(self.previous);
    }
}

/// Runs `body`, which reads or writes bytes of `region`. The caller holds the region, on this thread.
pub(super) fn caught<T>(region: &'static Region, source: &Source, body: impl FnOnce() -> T) -> Result<T> {
    if let Some(fault) = fault_of(region) {
        return Err(Error::Fault(source.explain(fault)));
    }
    install()?;
    let catcher = Catcher { region, previous: INNERMOST.get() };
    INNERMOST.set(&raw const catcher);
    signal_fence();
    let result = body();
    drop(catcher);
    // Acquire: pairs with the Release in `recover`: if another thread's fault put zeros where `body` read them, it is
    // seen here.
    fence(Ordering::Acquire);
    match fault_of(region) {
        Some(fault) => Err(Error::Fault(source.explain(fault))),
        None => Ok(result),
    }
}

/// What was found wrong with a region's pages, as far as its descriptor says.
pub(super) fn fault_of(region: &'static Region) -> Option<Fault> {
    let word = region.file().fault();
    let cause = match word % 8 {
        0 => return None,
        4 => Cause::Memory,
        5 => Cause::Unmapped,
        _ => Cause::Io,
    };
    let first = region.file().offset() / PAGE * PAGE;
    Some(Fault { offset: (first + word / 8 * PAGE) as u64, cause })
}

/// What was there before, for SIGBUS and SIGSEGV. Written once, before ours is installed.
struct Previous(UnsafeCell<[MaybeUninit<libc::sigaction>; 2]>);

// SAFETY: written under `INSTALL` before the handler that reads it is installed.
unsafe impl Sync for Previous {}

static PREVIOUS: Previous = Previous(UnsafeCell::new([MaybeUninit::uninit(); 2]));
const SIGNALS: [c_int; 2] = [libc::SIGBUS, libc::SIGSEGV];
static INSTALL: Once = Once::new();
/// The error of the installation, if it failed.
static FAILED: AtomicUsize = AtomicUsize::new(0);

/// Which stack a handler before `previous` runs on: the same one. A handler that looks for stack overflows asks for the
/// thread's other stack; that of a Java virtual machine for the thread's own, and the other may be too small for it.
fn stack_of(previous: &libc::sigaction) -> c_int {
    match previous.sa_sigaction {
        libc::SIG_DFL | libc::SIG_IGN => libc::SA_ONSTACK,
        _ => previous.sa_flags & libc::SA_ONSTACK,
    }
}

/// Installs the handlers, once.
#[inline]
fn install() -> Result<()> {
    INSTALL.call_once(|| {
        for (index, signal) in SIGNALS.into_iter().enumerate() {
            // SAFETY: both structures are as the C library defines them; what was there is written before ours can run
            // for the signal.
            let done = unsafe {
                let previous = PREVIOUS.0.get().cast::<libc::sigaction>().add(index);
                let mut ours: libc::sigaction = std::mem::zeroed();
                ours.sa_sigaction = handler as extern "C" fn(_, _, _) as usize;
                libc::sigemptyset(&mut ours.sa_mask);
                libc::sigaction(signal, ptr::null(), previous) == 0 && {
                    ours.sa_flags = libc::SA_SIGINFO | stack_of(&*previous);
                    libc::sigaction(signal, &ours, ptr::null_mut()) == 0
                }
            };
            if !done {
                let code = std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EINVAL);
                // Relaxed: `Once` orders it.
                FAILED.store(code as usize, Ordering::Relaxed);
            }
        }
    });
    // Relaxed: as above.
    match FAILED.load(Ordering::Relaxed) {
        0 => Ok(()),
        code => {
            let error = std::io::Error::from_raw_os_error(code as i32);
            Err(Error::System { call: "sigaction", error })
        }
    }
}

extern "C" fn handler(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: this thread's errno; the kernel's `info` is readable.
    unsafe {
        let errno = *libc::__errno_location();
        let recovered = recover(signal, &*info);
        *libc::__errno_location() = errno;
        if !recovered {
            hand_on(signal, info, context);
        }
    }
}

/// Covers the page if the thread reads it with faults caught. Async-signal-safe: a thread-local without a destructor,
/// fields of an immortal descriptor, and one system call.
fn recover(signal: c_int, info: &libc::siginfo_t) -> bool {
    // SEGV_MAPERR: nothing is mapped there. (Or something is, which may not be touched: that is a bug of the program's.)
    const MAPERR: c_int = 1;
    // Sent by a process, not by a fault.
    if info.si_code <= 0 || signal == libc::SIGSEGV && info.si_code != MAPERR {
        return false;
    }
    // SAFETY: a fault has an address.
    let address = unsafe { info.si_addr() }.addr();
    let mut catcher = INNERMOST.get();
    // SAFETY: null, or a catcher on this thread's stack, which is taken off the list before it ends.
    while let Some(it) = unsafe { catcher.as_ref() } {
        if it.region.contains(address) {
            return cover(signal, info.si_code, it.region, address);
        }
        catcher = it.previous;
    }
    false
}

fn cover(signal: c_int, code: c_int, region: &'static Region, address: usize) -> bool {
    const MEMORY: [c_int; 2] = [4, 5]; // BUS_MCEERR_AR, BUS_MCEERR_AO.
    let cause = match signal {
        libc::SIGSEGV => 5,
        _ if MEMORY.contains(&code) => 4,
        _ => 1,
    };
    region.file().set_fault((address - region.base()) / PAGE * 8 + cause);
    // Release: pairs with the Acquire in `caught`. What carries it from thread to thread is the page that comes next.
    fence(Ordering::Release);
    let replaces = if signal == libc::SIGSEGV { libc::MAP_FIXED_NOREPLACE } else { libc::MAP_FIXED };
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | replaces;
    let cover = |page: usize| {
        let at = ptr::with_exposed_provenance_mut(address / page * page);
        // SAFETY: a page of a region that this thread holds, and that nobody can read.
        let covered = unsafe { libc::mmap(at, page, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0) };
        covered != libc::MAP_FAILED || std::io::Error::last_os_error().raw_os_error() == Some(libc::EEXIST)
    };
    // SAFETY: reads a constant of the system.
    cover(unsafe { libc::sysconf(libc::_SC_PAGESIZE) as usize }) || cover(HUGE_PAGE)
}

/// Does what would have been done had this handler not been installed.
unsafe fn hand_on(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    let index = usize::from(signal == SIGNALS[1]);
    // SAFETY: written before this handler was installed; the rest is what the kernel does before it calls a handler.
    // Everything that is called may be called in a handler.
    unsafe {
        let previous = *PREVIOUS.0.get().cast::<libc::sigaction>().add(index);
        let is_fault = (*info).si_code > 0;
        let action = previous.sa_sigaction;
        if action == libc::SIG_IGN && !is_fault {
            return;
        }
        if action == libc::SIG_DFL || action == libc::SIG_IGN {
            // A fault comes again when this returns, and ends the process; a signal that was sent is sent again.
            let mut default: libc::sigaction = std::mem::zeroed();
            default.sa_sigaction = libc::SIG_DFL;
            libc::sigaction(signal, &default, ptr::null_mut());
            if !is_fault {
                libc::raise(signal);
            }
            return;
        }
        if previous.sa_flags & libc::SA_RESETHAND != 0 {
            let mut default: libc::sigaction = std::mem::zeroed();
            default.sa_sigaction = libc::SIG_DFL;
            libc::sigaction(signal, &default, ptr::null_mut());
        }
        let (mut mask, mut before) = (previous.sa_mask, MaybeUninit::uninit());
        libc::sigaddset(&mut mask, signal);
        libc::pthread_sigmask(libc::SIG_BLOCK, &mask, before.as_mut_ptr());
        if previous.sa_flags & libc::SA_NODEFER != 0 {
            let mut own = MaybeUninit::uninit();
            libc::sigemptyset(own.as_mut_ptr());
            libc::sigaddset(own.as_mut_ptr(), signal);
            libc::pthread_sigmask(libc::SIG_UNBLOCK, own.as_ptr(), ptr::null_mut());
        }
        if previous.sa_flags & libc::SA_SIGINFO != 0 {
            let handler: extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void) =
                std::mem::transmute::<usize, _>(action);
            handler(signal, info, context);
        } else {
            let handler: extern "C" fn(c_int) = std::mem::transmute::<usize, _>(action);
            handler(signal);
        }
        libc::pthread_sigmask(libc::SIG_SETMASK, before.as_ptr(), ptr::null_mut());
    }
}
