//! The functions of `specmalloc.h`. Their contracts are written there.

use crate::guarded::{self, Guarded};
use crate::line::Line;
use crate::raw::{self, OptionError};
use crate::samples::{self, Samples};
use core::ffi::{CStr, c_char, c_int, c_void};
use core::sync::atomic::{AtomicPtr, Ordering};

/// Stores the figures in the first `size` bytes at `out`; returns how many bytes are known.
///
/// # Safety
/// `out` may be written to for `size` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn specmalloc_get_statistics(out: *mut u64, size: usize) -> usize {
    // `struct specmalloc_statistics`, field by field: a test compares the names.
    let known = raw::figures(&raw::exact_statistics());
    let shared = size.min(size_of_val(&known));
    // SAFETY: the caller lets us write `size` bytes; `known` has at least `shared`, all of them initialised.
    unsafe {
        let out = out.cast::<u8>();
        core::ptr::copy_nonoverlapping((&raw const known).cast::<u8>(), out, shared);
        out.add(shared).write_bytes(0, size - shared);
    }
    size_of_val(&known)
}

/// Gives free memory back; 1 if there was any.
#[unsafe(no_mangle)]
pub extern "C" fn specmalloc_trim() -> c_int {
    raw::trim().into()
}

/// The text at `string`, if there is any and it is UTF-8.
///
/// # Safety
/// `string` is null, or ends with a zero byte and stays as it is for `'a`.
unsafe fn text<'a>(string: *const c_char) -> Option<&'a str> {
    // SAFETY: the caller's promise; not null.
    (!string.is_null()).then(|| unsafe { CStr::from_ptr(string) })?.to_str().ok()
}

/// Sets an option; 0, ENOENT or EINVAL.
///
/// # Safety
/// `name` and `value` are strings.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn specmalloc_set_option(name: *const c_char, value: *const c_char) -> c_int {
    // SAFETY: the caller passes strings, which outlive the call.
    let (name, value) = unsafe { (text(name), text(value)) };
    let Some(name) = name else { return libc::ENOENT };
    let Some(value) = value else { return libc::EINVAL };
    match raw::set_option(name, value) {
        Ok(()) => 0,
        Err(OptionError::UnknownKey) => libc::ENOENT,
        Err(OptionError::BadValue) => libc::EINVAL,
    }
}

/// Stores an option's value at `value`; its length, or -1.
///
/// # Safety
/// `name` is a string, `value` may be written to for `size` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn specmalloc_get_option(
    name: *const c_char,
    value: *mut c_char,
    size: usize,
) -> c_int {
    // SAFETY: the caller passes a string, which outlives the call.
    let Some(found) = unsafe { text(name) }.and_then(raw::get_option) else { return -1 };
    let found = Line::<256>::of(format_args!("{found}"));
    let found = found.as_bytes();
    if size > 0 {
        let shown = found.len().min(size - 1);
        // SAFETY: `shown` bytes and the final zero are within the `size` bytes that the caller lets us write.
        unsafe {
            core::ptr::copy_nonoverlapping(found.as_ptr(), value.cast(), shown);
            value.add(shown).write(0);
        }
    }
    found.len() as c_int
}

/// What a program registers to be called when memory is short.
type OnPressure = unsafe extern "C" fn(usize, usize, c_int);

static ON_PRESSURE: AtomicPtr<c_void> = AtomicPtr::new(core::ptr::null_mut());

/// Registers the function, null for none.
#[unsafe(no_mangle)]
pub extern "C" fn specmalloc_on_pressure(function: *mut c_void) {
    // Relaxed: a function's address, which leads to nothing that is written.
    ON_PRESSURE.store(function, Ordering::Relaxed);
    raw::on_pressure((!function.is_null()).then_some(call));
}

fn call(pressure: raw::Pressure) {
    // Relaxed: as above.
    let function = ON_PRESSURE.load(Ordering::Relaxed);
    if !function.is_null() {
        // SAFETY: the program registered a function of this type.
        unsafe {
            let function = core::mem::transmute::<*mut c_void, OnPressure>(function);
            function(pressure.held, pressure.wanted, pressure.is_failing.into());
        }
    }
}

/// Bytes that count against the limits.
#[unsafe(no_mangle)]
pub extern "C" fn specmalloc_held_bytes() -> usize {
    raw::held_bytes()
}

/// What a walk tells a program: its own word, a block, its usable bytes and its class; the walk ends if it returns
/// anything but 0.
type Visit = unsafe extern "C" fn(*mut c_void, *mut c_void, usize, c_int) -> c_int;

/// The classes of blocks that have none.
const LARGE: c_int = -1;
const HUGE: c_int = -2;

/// Tells `visit` of each live block; returns what that returned last.
///
/// # Safety
/// `visit` may be called with `context`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn specmalloc_walk(visit: Visit, context: *mut c_void) -> c_int {
    let mut told = 0;
    raw::walk(|block| {
        let class = match block.kind {
            raw::BlockKind::Small(class) => class as c_int,
            raw::BlockKind::Large => LARGE,
            raw::BlockKind::Huge => HUGE,
        };
        let at = core::ptr::without_provenance_mut(block.address);
        // SAFETY: the caller's.
        told = unsafe { visit(context, at, block.size, class) };
        told == 0
    });
    told
}

/// Usable bytes of a block.
///
/// # Safety
/// `pointer` is null or the start of a live block.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn specmalloc_usable_size(pointer: *const c_void) -> usize {
    // SAFETY: the same promise.
    unsafe { crate::family::plain::usable_size(pointer.cast_mut()) }
}

/// The heap of any pointer, 0 for none.
#[unsafe(no_mangle)]
pub extern "C" fn specmalloc_heap_of(pointer: *const c_void) -> usize {
    raw::heap_of(pointer.cast())
}

/// Has samples told to functions of the program's.
///
/// # Safety
/// `samples` is null, or points to functions that do as the header says for as long as the process runs.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn specmalloc_on_samples(samples: *const Samples) {
    // Reads the environment: else the first allocation of all would do so, and get a bin that is filled before it knows
    // that its blocks are to be counted.
    let _rate = raw::get_option("profile");
    // SAFETY: the caller's.
    samples::tell(unsafe { samples.as_ref() }.unwrap_or(&Samples::NONE));
}

/// Has samples be guarded blocks of another library's.
///
/// # Safety
/// `guarded` points to functions that do as the header says for as long as the process runs.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn specmalloc_on_guarded(guarded: *const Guarded) {
    // SAFETY: the caller's.
    if let Some(guarded) = unsafe { guarded.as_ref() } {
        guarded::have(guarded);
    }
}

/// The library's version.
#[unsafe(no_mangle)]
pub extern "C" fn specmalloc_version() -> *const c_char {
    concat!(env!("CARGO_PKG_VERSION"), "\0").as_ptr().cast()
}
