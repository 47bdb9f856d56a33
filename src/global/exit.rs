//! How the end of a thread is noticed: a key of thread-specific data, whose destructor runs when the thread returns,
//! calls `pthread_exit` or is cancelled, after the destructors of thread-locals.
//!
//! In glibc neither making a key nor setting a value takes a lock, so both may happen in the middle of a malloc inside
//! the C library. (`__cxa_thread_atexit_impl` takes the dynamic linker's.) A value of a key beyond the first 32 is kept
//! in a table that glibc allocates.

use crate::sync::atomic::{AtomicU32, Ordering};
use core::ffi::c_void;
use core::ptr;

/// A key whose destructor is the hook of a kind of thread.
pub struct ExitKey {
    /// The key plus one; zero before it is made.
    key: AtomicU32,
    hook: unsafe extern "C" fn(*mut c_void),
}

impl ExitKey {
    /// A key that is not made yet. `hook` is called with what [`was_counted`] takes.
    pub const fn new(hook: unsafe extern "C" fn(*mut c_void)) -> ExitKey {
        ExitKey { key: AtomicU32::new(0), hook }
    }

    /// The key, made at the first call; `None` if the program has taken all that there are.
    pub fn get(&self) -> Option<libc::pthread_key_t> {
        // Acquire: pairs with the Release below; a key is a number, and the C library knows it from its creation on.
        let made = self.key.load(Ordering::Acquire);
        if made != 0 {
            return Some(made - 1);
        }
        let mut key = 0;
        // SAFETY: `key` is written before it is read; the hook is a function of this library, which stays in memory.
        if unsafe { libc::pthread_key_create(&mut key, Some(self.hook)) } != 0 {
            return None;
        }
        match self.key.compare_exchange(0, key + 1, Ordering::Release, Ordering::Acquire) {
            Ok(_) => Some(key),
            Err(first) => {
                // SAFETY: made just now and used by nobody.
                let _deleted = unsafe { libc::pthread_key_delete(key) };
                Some(first - 1)
            }
        }
    }

    /// Sees to it that the hook runs when the calling thread ends. Returns whether it will. May allocate.
    pub fn arm(&self, counted: bool) -> bool {
        // SAFETY: the key exists.
        self.get().is_some_and(|key| unsafe { libc::pthread_setspecific(key, exit_value(counted)) } == 0)
    }
}

/// What the hook is called with: whether the thread is counted among the program's.
pub fn exit_value(counted: bool) -> *mut c_void {
    ptr::without_provenance_mut(1 + usize::from(counted))
}

/// Whether [`ExitKey::arm`] was told that the thread is counted.
pub fn was_counted(given: *mut c_void) -> bool {
    given == exit_value(true)
}
