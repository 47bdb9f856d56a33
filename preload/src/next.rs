//! Functions of the libraries behind this one, under names that this one takes over.

use core::ffi::{CStr, c_char, c_int, c_void};
use core::mem::transmute;
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

/// The dynamic linker's.
pub static DLOPEN: Next = Next::new(c"dlopen");

/// The address of `name` in glibc itself, whatever else defines it; null without glibc.
pub fn in_libc(name: &CStr) -> *mut c_void {
    let open = DLOPEN.get();
    if open.is_null() {
        return open;
    }
    // SAFETY: dlopen's type. The names are strings; RTLD_NOLOAD loads nothing, and the handle is given up once.
    unsafe {
        let open = transmute::<*mut c_void, unsafe extern "C" fn(*const c_char, c_int) -> *mut c_void>(open);
        let libc = open(c"libc.so.6".as_ptr(), libc::RTLD_LAZY | libc::RTLD_NOLOAD);
        if libc.is_null() {
            return libc;
        }
        let found = libc::dlsym(libc, name.as_ptr());
        libc::dlclose(libc);
        found
    }
}
