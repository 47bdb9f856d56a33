//! Functions of the libraries behind this one, under names that this one takes over.

use core::ffi::{CStr, c_void};
use core::ptr;
use core::sync::atomic::{AtomicPtr, Ordering};

/// A function of the same name in the libraries behind this one.
pub struct Next {
    name: &'static CStr,
    found: AtomicPtr<c_void>,
}

impl Next {
    pub const fn new(name: &'static CStr) -> Next {
        Next { name, found: AtomicPtr::new(ptr::null_mut()) }
    }

    /// The function; null if there is none. Looked up when the library is loaded, or by the first caller of the
    /// function, who may as well be held up by the dynamic linker as by what was called.
    pub fn get(&self) -> *mut c_void {
        // Relaxed (both): an address of code that was there before this library.
        let found = self.found.load(Ordering::Relaxed);
        if !found.is_null() {
            return found;
        }
        // SAFETY: the name is a string.
        let found = unsafe { libc::dlsym(libc::RTLD_NEXT, self.name.as_ptr()) };
        self.found.store(found, Ordering::Relaxed);
        found
    }
}
