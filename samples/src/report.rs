//! What is wrong with a guarded block, on standard error: what was done to it, by which calls, and by which it was
//! allocated and freed. And the handler of the signal that tells of the first.
//!
//! Functions are told as files and offsets in them, for their names cannot be had in a signal handler: `addr2line -Cfie
//! FILE OFFSET` has them.

use super::pool::{self, KEPT, Place, Trace};
use super::system;
use super::unwind::{self, Module};
use core::cell::UnsafeCell;
use core::ffi::{c_int, c_void};
use core::fmt::{self, Write};
use core::mem::{self, MaybeUninit};
use core::ptr;
use core::sync::atomic::{AtomicBool, Ordering};

/// A line that is written at once.
struct Line {
    bytes: [u8; 512],
    len: usize,
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for (place, byte) in self.bytes.iter_mut().skip(self.len).take(text.len()).zip(text.bytes()) {
            *place = byte;
            self.len += 1;
        }
        Ok(())
    }
}

fn tell(text: fmt::Arguments<'_>) {
    let mut line = Line { bytes: [0; 512], len: 0 };
    // What is too long is cut off.
    let _always = line.write_fmt(format_args!("{text}\n"));
    // SAFETY: writes bytes of this function's own.
    unsafe { libc::write(2, line.bytes.as_ptr().cast(), line.len) };
}

fn tell_call(pc: usize) {
    let Some(module) = Module::of(pc) else { return tell(format_args!("    {pc:#x}")) };
    let mut path = [0; 256];
    module.write_path(&mut path);
    let path = path.split(|&byte| byte == 0).next().unwrap_or_default();
    let path = core::str::from_utf8(path).unwrap_or("?");
    tell(format_args!("    {pc:#x} {path}+{:#x}", pc - module.bias));
}

/// Of several that would report one does; the process is going to end.
fn is_first() -> bool {
    static IS_TOLD: AtomicBool = AtomicBool::new(false);
    // Relaxed: elects one.
    !IS_TOLD.swap(true, Ordering::Relaxed)
}

fn end() -> ! {
    // SAFETY: ends the process.
    unsafe { libc::abort() }
}

/// Says where `address` lies.
fn tell_block(what: &str, access: &str, address: usize, place: Option<&Place>) {
    let Some(place) = place else {
        return tell(format_args!("specmalloc: {what}{access} {address:#x}, among guarded blocks"));
    };
    let (from, size) = (place.address(), place.size());
    let (distance, side) = match address {
        _ if address < from => (from - address, "before"),
        _ if address < from + size => (address - from, "inside"),
        _ => (address - from - size, "behind"),
    };
    tell(format_args!(
        "specmalloc: {what}{access} {address:#x}, {distance} bytes {side} a block of {size} bytes at {from:#x}"
    ));
}

fn tell_trace(what: &str, trace: &Trace) {
    tell(format_args!("  {what} by thread {} at", trace.thread()));
    trace.stack().for_each(tell_call);
}

fn tell_traces(place: &Place) {
    tell_trace("allocated", &place.allocated);
    if place.is_freed() {
        tell_trace("freed", &place.freed);
    }
}

/// Here and now.
fn tell_own(what: &str) {
    let own = Trace::new();
    own.take();
    tell_trace(what, &own);
}

/// A call of the allocator's with what is no live block.
pub(super) fn misuse(address: usize, place: Option<&Place>, is_free: bool) -> ! {
    if is_first() {
        let is_block = place.is_some_and(|place| place.address() == address);
        let what = match (is_free, is_block) {
            (true, true) => "double free of",
            (true, false) => "free of what is no block,",
            (false, true) => "use after free of",
            (false, false) => "use of what is no block,",
        };
        tell_block(what, "", address, place);
        tell_own("done");
        if let Some(place) = place {
            tell_traces(place);
        }
    }
    end()
}

/// A block that is being freed, beside which something was written.
pub(super) fn written(address: usize, place: &Place) -> ! {
    if is_first() {
        let is_behind = address >= place.address();
        tell_block(if is_behind { "overflow" } else { "underflow" }, ", a write to", address, Some(place));
        tell_own("found when it was freed");
        tell_traces(place);
    }
    end()
}

/// What was there before [`on_fault`].
struct Before(UnsafeCell<MaybeUninit<libc::sigaction>>);

// SAFETY: written once, before the handler is installed.
unsafe impl Sync for Before {}

static BEFORE: Before = Before(UnsafeCell::new(MaybeUninit::zeroed()));

/// Has faults told if they are those of guarded blocks. When the library is loaded.
pub(super) fn watch_faults() {
    // SAFETY: zero is a valid `sigaction`; the handler is one of three arguments, as its flags say; what was there is
    // written to a static that nobody reads yet.
    unsafe {
        libc::sigaction(libc::SIGSEGV, ptr::null(), (*BEFORE.0.get()).as_mut_ptr());
        let mut action: libc::sigaction = mem::zeroed();
        action.sa_sigaction = on_fault as extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void) as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        libc::sigaction(libc::SIGSEGV, &raw const action, ptr::null_mut());
    }
}

extern "C" fn on_fault(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: the kernel's.
    let (address, code) = unsafe { ((*info).si_addr().addr(), (*info).si_code) };
    if code > 0 && pool::is_guarded(address) && is_first() {
        tell_fault(address, context);
    }
    pass_on(signal, info, context);
}

#[inline(never)]
fn tell_fault(address: usize, context: *mut c_void) {
    let place = pool::beside(address);
    let what = match place {
        Some(place) if place.is_freed() => "use after free",
        Some(place) if address < place.address() => "underflow",
        Some(_) => "overflow",
        None => "access",
    };
    tell_block(what, access(context), address, place);
    tell(format_args!("  done by thread {} at", system::thread_id()));
    let mut pcs = [0; unwind::MOST];
    let depth = unwind::interrupted_stack(&mut pcs, context.expose_provenance());
    pcs.iter().take(depth.min(KEPT)).for_each(|&pc| tell_call(pc));
    if let Some(place) = place {
        tell_traces(place);
    }
}

/// What a fault was about.
fn access(context: *mut c_void) -> &'static str {
    #[cfg(target_arch = "x86_64")]
    {
        // SAFETY: the context of a signal, as the kernel has written it.
        let error =
            unsafe { (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs[libc::REG_ERR as usize] };
        if error & 2 != 0 { ", a write to" } else { ", a read of" }
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        let _unknown = context;
        ", at"
    }
}

/// To whoever was there before, or to the system, which ends the process where the fault is.
fn pass_on(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: written before the handler was installed, and not changed since.
    let before = unsafe { (*BEFORE.0.get()).assume_init_ref() };
    match before.sa_sigaction {
        libc::SIG_DFL | libc::SIG_IGN => {
            // SAFETY: zero is a valid `sigaction`, of the default. The fault comes again when the handler has returned; a
            // signal that was sent is sent again.
            unsafe {
                let action: libc::sigaction = mem::zeroed();
                libc::sigaction(signal, &raw const action, ptr::null_mut());
                if (*info).si_code <= 0 {
                    libc::raise(signal);
                }
            }
        }
        // SAFETY: a handler that was installed with these flags has this type.
        handler if before.sa_flags & libc::SA_SIGINFO != 0 => unsafe {
            mem::transmute::<usize, extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void)>(handler)(
                signal, info, context,
            );
        },
        // SAFETY: as above.
        handler => unsafe { mem::transmute::<usize, extern "C" fn(c_int)>(handler)(signal) },
    }
}
