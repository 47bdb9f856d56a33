//! The allocator of this process, and its environment.

use crate::base::{GRANULE, SLICE};
use crate::heap::Allocator;
use crate::pal::Linux;
use crate::region::Kind;
use crate::sync::atomic::{AtomicBool, Ordering};
use core::ffi::CStr;
use core::ops::Range;

static PROCESS: Allocator<Linux> = Allocator::new(Linux::new());

/// The allocator of this process.
#[inline(always)]
pub fn process() -> &'static Allocator<Linux> {
    &PROCESS
}

/// Notes how much memory the process may have, once. That opens and reads some ten files, which would be an eighth of
/// what a program that ends at once costs; but a sandbox may forbid it later on pain of death. So it is done when the
/// process is about to shut itself off, to have a second thread, or more memory than one arena holds, whichever comes
/// first; and where the first cannot be known, when it is loaded.
pub fn learn_limits() {
    static LEARNED: AtomicBool = AtomicBool::new(false);
    // Relaxed (both): elects one thread; nobody waits for what it learns.
    if !LEARNED.load(Ordering::Relaxed) && !LEARNED.swap(true, Ordering::Relaxed) {
        process().learn_limits();
    }
}

/// The process has set itself a limit: no address space is reserved that would count against it.
pub fn adapt_to_late_limit() {
    process().adapt_to_late_limit();
}

/// Whether the system would map `len` bytes somewhere at this moment.
pub fn has_room(len: usize) -> bool {
    process().space().has_room(len)
}

/// What the process maps is memory from then on: no address space is reserved.
pub fn reserve_nothing() {
    process().settings().set_reserve(false);
}

/// What blocks may lie in of the region of ours that holds `address`, from its start; `None` if there is no such region,
/// or it is one whose bytes are the program's.
pub fn in_use(address: usize) -> Option<Range<usize>> {
    let space = process().space();
    let section = space.rcu().enter_guest();
    let region = space.find(address, &section)?;
    let bytes = match region.kind() {
        Kind::Arena => region.slices().end_of_claims() * SLICE,
        Kind::Huge => region.huge().used(),
        Kind::File | Kind::Heap => return None,
    };
    Some(region.base()..region.base() + bytes)
}

/// The same as [`learn_limits`] if more address space is mapped by now than one arena takes.
pub(super) fn learn_limits_if_large() {
    if process().space().mapped() > GRANULE {
        learn_limits();
    }
}

/// The value of an environment variable, read in place: nothing is allocated. `None` in setuid programs.
pub fn environment(name: &CStr) -> Option<&'static CStr> {
    unsafe extern "C" {
        static environ: *const *const core::ffi::c_char;
    }
    // SAFETY: getauxval reads the auxiliary vector.
    if unsafe { libc::getauxval(libc::AT_SECURE) } != 0 {
        return None;
    }
    let name = name.to_bytes();
    // SAFETY: the C library keeps `environ` a null-terminated array of strings, or null before it is set up; start-up
    // happens before the program can change it from another thread.
    unsafe {
        let mut entry = environ;
        while !entry.is_null() && !(*entry).is_null() {
            let bytes = CStr::from_ptr(*entry).to_bytes();
            if bytes.len() > name.len() && bytes.starts_with(name) && bytes[name.len()] == b'=' {
                return Some(CStr::from_ptr((*entry).add(name.len() + 1)));
            }
            entry = entry.add(1);
        }
    }
    None
}
