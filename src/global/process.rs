//! The allocator of this process, and its environment.

use crate::heap::Allocator;
use crate::pal::Linux;
use core::ffi::CStr;

static PROCESS: Allocator<Linux> = Allocator::new(Linux::new());

/// The allocator of this process.
#[inline(always)]
pub fn process() -> &'static Allocator<Linux> {
    &PROCESS
}

/// Notes what the process may have of memory, by calls that a sandbox may forbid later. When it is loaded.
extern "C" fn learn_limits() {
    process().learn_limits();
}

#[used]
#[unsafe(link_section = ".init_array")]
static AT_LOAD: extern "C" fn() = learn_limits;

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
