//! Where the allocator calls this library, and how it comes to know it: when this is loaded, and only if the allocator's
//! library is there. And what the program calls.

use core::ffi::{c_char, c_int, c_void};
use core::ptr;
use core::sync::atomic::{AtomicBool, AtomicPtr, Ordering};
use specmalloc_samples::{
    Sample, Told, Watcher, allocate_guarded, free_guarded, guard, is_guarded, next_guarded, open_shared,
    set_allocator, size_of_guarded, watch,
};

/// `struct specmalloc_samples` of `specmalloc.h`.
#[repr(C)]
struct Samples {
    allocated: extern "C" fn(usize, usize, usize, usize, usize) -> u32,
    freed: extern "C" fn(u32, usize, usize, usize, usize),
}

extern "C" fn allocated(size: usize, counted: usize, rate: usize, block: usize, usable: usize) -> u32 {
    specmalloc_samples::allocated(&Sample { block, size, usable, counted, rate, caller: 0 })
}

extern "C" fn freed(number: u32, size: usize, rate: usize, block: usize, usable: usize) {
    specmalloc_samples::freed(number, &Sample { block, size, usable, counted: 0, rate, caller: 0 });
}

/// Whether the allocator's library is there.
static IS_SERVED: AtomicBool = AtomicBool::new(false);

extern "C" fn loaded() {
    // SAFETY: the name ends in a zero byte.
    let tell = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"specmalloc_on_samples".as_ptr()) };
    if tell.is_null() {
        return;
    }
    open_shared();
    set_allocator(tell.expose_provenance());
    // Relaxed: before there are threads, or before the loader of this library returns.
    IS_SERVED.store(true, Ordering::Relaxed);
    static SAMPLES: Samples = Samples { allocated, freed };
    // SAFETY: the allocator's function of this name has this type; the functions stay, as this library does.
    unsafe {
        core::mem::transmute::<*mut libc::c_void, unsafe extern "C" fn(*const Samples)>(tell)(
            &raw const SAMPLES,
        );
    }
    guard_samples();
}

/// `struct specmalloc_guarded`.
#[repr(C)]
struct Guarded {
    allocate: extern "C" fn(usize, usize, usize, usize) -> *mut u8,
    has: extern "C" fn(usize) -> c_int,
    size: extern "C" fn(usize, c_int) -> usize,
    free: extern "C" fn(usize),
    next: unsafe extern "C" fn(usize, *mut usize) -> usize,
}

extern "C" fn allocate(size: usize, align: usize, counted: usize, rate: usize) -> *mut u8 {
    allocate_guarded(size, align, counted, rate)
}

extern "C" fn has(block: usize) -> c_int {
    is_guarded(block).into()
}

extern "C" fn size(block: usize, is_free: c_int) -> usize {
    size_of_guarded(block, is_free != 0)
}

extern "C" fn free(block: usize) {
    free_guarded(block);
}

unsafe extern "C" fn next(block: usize, size: *mut usize) -> usize {
    next_guarded(block).map_or(0, |(next, bytes)| {
        // SAFETY: the allocator gives the place for it.
        unsafe { size.write(bytes) };
        next
    })
}

/// Whether the allocator's options want guarded blocks.
fn wants_guarded() -> bool {
    // SAFETY: the name ends in a zero byte.
    let get = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"specmalloc_get_option".as_ptr()) };
    let mut value = [0_u8; 2];
    // SAFETY: null, or the allocator's function of this name, which has this type, and writes two bytes at most.
    unsafe {
        !get.is_null()
            && core::mem::transmute::<*mut c_void, unsafe extern "C" fn(*const c_char, *mut u8, usize) -> c_int>(
                get,
            )(c"guarded".as_ptr(), value.as_mut_ptr(), value.len())
                == 1
            && value[0] == b'1'
    }
}

/// Guards samples, if the options want it.
fn guard_samples() {
    static GUARDED: Guarded = Guarded { allocate, has, size, free, next };
    // SAFETY: the name ends in a zero byte.
    let tell = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"specmalloc_on_guarded".as_ptr()) };
    if tell.is_null() || !wants_guarded() || !guard() {
        return;
    }
    // SAFETY: the allocator's function of this name has this type; the functions stay, as this library does.
    unsafe {
        core::mem::transmute::<*mut c_void, unsafe extern "C" fn(*const Guarded)>(tell)(&raw const GUARDED);
    }
}

#[used]
#[unsafe(link_section = ".init_array")]
static LOADED: extern "C" fn() = loaded;

type Function = Option<unsafe extern "C" fn(*mut c_void, *const Told)>;

/// `struct specmalloc_watcher`.
#[repr(C)]
pub struct CWatcher {
    allocated: Function,
    freed: Function,
    context: *mut c_void,
}

/// Who wants to know, of the program; null for nobody.
static WATCHER: AtomicPtr<CWatcher> = AtomicPtr::new(ptr::null_mut());

fn tell(function: fn(&CWatcher) -> Function, told: &Told) {
    // Acquire: pairs with the Release in `specmalloc_watch_samples`: what it stands on is there.
    // SAFETY: null, or what the program promises to leave as it is.
    let watcher = unsafe { WATCHER.load(Ordering::Acquire).as_ref() };
    if let Some(watcher) = watcher
        && let Some(function) = function(watcher)
    {
        // SAFETY: the program registered a function of this type, to be called so.
        unsafe { function(watcher.context, told) };
    }
}

/// Has samples told to the functions of the program's; 0, ENOSYS or EINVAL.
///
/// # Safety
/// `watcher` is null, or one that stays as it is, whose functions do as the header says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn specmalloc_watch_samples(watcher: *const CWatcher) -> c_int {
    static OURS: Watcher = Watcher {
        allocated: |told| tell(|watcher| watcher.allocated, told),
        freed: |told| tell(|watcher| watcher.freed, told),
    };
    // Relaxed: as above.
    if !IS_SERVED.load(Ordering::Relaxed) {
        return libc::ENOSYS;
    }
    // SAFETY: the caller's.
    let is_empty = unsafe { watcher.as_ref() }
        .is_some_and(|watcher| watcher.allocated.is_none() && watcher.freed.is_none());
    if is_empty {
        return libc::EINVAL;
    }
    // Release: pairs with the Acquire in `tell`.
    WATCHER.store(watcher.cast_mut(), Ordering::Release);
    watch((!watcher.is_null()).then_some(&OURS));
    0
}
