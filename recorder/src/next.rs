//! The functions behind this library, looked up at the first call of any of them.
//!
//! Looking up may allocate, before there is anything to allocate with: such blocks lie in a small arena of this
//! library's, and stay there.

use core::cell::UnsafeCell;
use core::ffi::{CStr, c_int, c_void};
use core::mem::transmute;
use core::ptr;
use core::sync::atomic::{AtomicPtr, AtomicU32, AtomicUsize, Ordering};

type Malloc = unsafe extern "C" fn(usize) -> *mut c_void;
type Pair = unsafe extern "C" fn(usize, usize) -> *mut c_void;
type Realloc = unsafe extern "C" fn(*mut c_void, usize) -> *mut c_void;
type Free = unsafe extern "C" fn(*mut c_void);
type Memalign = unsafe extern "C" fn(*mut *mut c_void, usize, usize) -> c_int;

/// A function that was looked up.
struct Next(AtomicPtr<c_void>);

impl Next {
    const fn new() -> Next {
        Next(AtomicPtr::new(ptr::null_mut()))
    }

    fn find(&self, name: &CStr) {
        // SAFETY: the name is a string. Relaxed: `DONE` orders it.
        self.0.store(unsafe { libc::dlsym(libc::RTLD_NEXT, name.as_ptr()) }, Ordering::Relaxed);
    }

    /// Not null: every C library has the functions that are looked up.
    fn get(&self) -> *mut c_void {
        // Relaxed: `DONE` orders it.
        self.0.load(Ordering::Relaxed)
    }
}

/// The functions, once they are known.
pub struct Functions {
    malloc: Next,
    calloc: Next,
    realloc: Next,
    free: Next,
    memalign: Next,
    aligned_alloc: Next,
    posix_memalign: Next,
}

static FUNCTIONS: Functions = Functions {
    malloc: Next::new(),
    calloc: Next::new(),
    realloc: Next::new(),
    free: Next::new(),
    memalign: Next::new(),
    aligned_alloc: Next::new(),
    posix_memalign: Next::new(),
};

/// How far they are: nobody has asked, somebody looks them up, done.
static STATE: AtomicU32 = AtomicU32::new(UNKNOWN);
const UNKNOWN: u32 = 0;
const LOOKING: u32 = 1;
const DONE: u32 = 2;

/// The functions; none for whoever allocates while they are looked up, which the first call of a process does, before
/// there are threads.
pub fn functions() -> Option<&'static Functions> {
    // Acquire: pairs with the Release store below.
    if STATE.load(Ordering::Acquire) == DONE {
        return Some(&FUNCTIONS);
    }
    look_up()
}

#[cold]
fn look_up() -> Option<&'static Functions> {
    // Relaxed (both): who wins is all that matters.
    if STATE.compare_exchange(UNKNOWN, LOOKING, Ordering::Relaxed, Ordering::Relaxed).is_err() {
        return None;
    }
    let next = &FUNCTIONS;
    for (function, name) in [
        (&next.malloc, c"malloc"),
        (&next.calloc, c"calloc"),
        (&next.realloc, c"realloc"),
        (&next.free, c"free"),
        (&next.memalign, c"memalign"),
        (&next.aligned_alloc, c"aligned_alloc"),
        (&next.posix_memalign, c"posix_memalign"),
    ] {
        function.find(name);
    }
    // Release: pairs with the Acquire load above.
    STATE.store(DONE, Ordering::Release);
    Some(next)
}

/// The functions themselves.
///
/// # Safety
/// Of each: as of the C library's function of its name.
impl Functions {
    pub unsafe fn malloc(&self, size: usize) -> *mut c_void {
        // SAFETY: the function of this name has this type; the rest is the caller's. So in all of them.
        unsafe { transmute::<*mut c_void, Malloc>(self.malloc.get())(size) }
    }
    pub unsafe fn calloc(&self, count: usize, size: usize) -> *mut c_void {
        // SAFETY: as above.
        unsafe { transmute::<*mut c_void, Pair>(self.calloc.get())(count, size) }
    }
    pub unsafe fn realloc(&self, old: *mut c_void, size: usize) -> *mut c_void {
        // SAFETY: as above.
        unsafe { transmute::<*mut c_void, Realloc>(self.realloc.get())(old, size) }
    }
    pub unsafe fn free(&self, block: *mut c_void) {
        // SAFETY: as above.
        unsafe { transmute::<*mut c_void, Free>(self.free.get())(block) }
    }
    pub unsafe fn memalign(&self, alignment: usize, size: usize) -> *mut c_void {
        // SAFETY: as above.
        unsafe { transmute::<*mut c_void, Pair>(self.memalign.get())(alignment, size) }
    }
    pub unsafe fn aligned_alloc(&self, alignment: usize, size: usize) -> *mut c_void {
        // SAFETY: as above.
        unsafe { transmute::<*mut c_void, Pair>(self.aligned_alloc.get())(alignment, size) }
    }
    pub unsafe fn posix_memalign(&self, out: *mut *mut c_void, alignment: usize, size: usize) -> c_int {
        // SAFETY: as above.
        unsafe { transmute::<*mut c_void, Memalign>(self.posix_memalign.get())(out, alignment, size) }
    }
}

const ROOM: usize = 64 << 10;

#[repr(C, align(16))]
struct Arena(UnsafeCell<[u8; ROOM]>);

// SAFETY: bytes that are handed out once each, to one owner.
unsafe impl Sync for Arena {}

static ARENA: Arena = Arena(UnsafeCell::new([0; ROOM]));
static USED: AtomicUsize = AtomicUsize::new(0);

/// A block of zeros in the arena, aligned to 16; null if it is used up.
pub fn early(size: usize) -> *mut c_void {
    let Some(needed) = size.max(1).checked_next_multiple_of(16).filter(|needed| *needed <= ROOM) else {
        return ptr::null_mut();
    };
    // Relaxed: each gets bytes of its own.
    let start = USED.fetch_add(needed, Ordering::Relaxed);
    match start.checked_add(needed) {
        // SAFETY: within the arena.
        Some(end) if end <= ROOM => unsafe { ARENA.0.get().cast::<u8>().add(start).cast() },
        _ => ptr::null_mut(),
    }
}

/// If the block is one of the arena: how many bytes there are from its start to the arena's end.
pub fn early_bytes(block: *mut c_void) -> Option<usize> {
    let at = block.addr().wrapping_sub(ARENA.0.get().addr());
    ROOM.checked_sub(at).filter(|bytes| *bytes > 0)
}
