//! C++ operator new and delete in every form, with the behaviour that the standard gives the default ones.
//!
//! Four forms do the work: `new(size)`, `new(size, align)`, `delete(block)` and `delete(block, align)`. All others are
//! defined by the standard in terms of those, and here too: they jump to the form below them *through the dynamic
//! symbol*, so that a program that replaces only the basic forms, with a header before each block perhaps, gets its
//! own for `new[]`, sized delete and nothrow new as well.
//!
//! **Failure.** The throwing forms call the new handler until there is memory, or until there is no handler; then
//! they throw `std::bad_alloc`. Both the handler and the thrower are the C++ runtime's, looked up when they are
//! needed, because it may come with a later dlopen or not at all; without one the process ends with a line.
//!
//! **Exceptions.** No C++ exception may pass a Rust frame. So whatever may throw is called from assembly, whose
//! frames unwind by their CFI directives and have nothing to clean up; Rust only says what to call next. The
//! nothrow forms need a `catch`, which assembly does not have: when a handler is installed they jump to the C++
//! runtime's own nothrow form, which calls the throwing form above inside its `try`.

#[cfg(target_arch = "aarch64")]
mod aarch64;
#[cfg(target_arch = "x86_64")]
mod x86_64;

use crate::raw;
use core::ffi::{CStr, c_void};
use core::ptr::null;
use specmalloc::internals::pal::{end_process, to_stderr};

#[cfg(target_arch = "aarch64")]
use aarch64::{drop_size_body, forward_body, nothrow_array_body, nothrow_body, throwing_body};
#[cfg(target_arch = "x86_64")]
use x86_64::{drop_size_body, forward_body, nothrow_array_body, nothrow_body, throwing_body};

/// The address of something to call or to jump to; null for nothing.
type Code = *const c_void;

/// The shared libraries that a C++ runtime comes in, for one that was loaded with RTLD_LOCAL.
const RUNTIMES: [&CStr; 3] = [c"libstdc++.so.6", c"libc++abi.so.1", c"libc++.so.1"];

/// The address of `symbol` in the C++ runtime, searched from `scope` (RTLD_DEFAULT or RTLD_NEXT) and then in the
/// runtimes that are loaded out of sight; null if there is none. May call back into malloc and free.
fn runtime(scope: *mut c_void, symbol: &CStr) -> Code {
    // SAFETY: a search by name; it runs no code of the library found.
    let found = unsafe { libc::dlsym(scope, symbol.as_ptr()) };
    if !found.is_null() {
        return found;
    }
    for name in RUNTIMES {
        // SAFETY: RTLD_NOLOAD loads nothing; it only finds what is there.
        let library = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_LAZY | libc::RTLD_NOLOAD) };
        if library.is_null() {
            continue;
        }
        // SAFETY: as above; the handle was just opened and is given up once.
        let found = unsafe {
            let found = libc::dlsym(library, symbol.as_ptr());
            libc::dlclose(library);
            found
        };
        if !found.is_null() {
            return found;
        }
    }
    null()
}

/// The installed new handler, or null.
extern "C" fn handler() -> Code {
    let get = runtime(libc::RTLD_DEFAULT, c"_ZSt15get_new_handlerv");
    if get.is_null() {
        return null();
    }
    // SAFETY: the symbol is `std::new_handler std::get_new_handler() noexcept`: no arguments, a function pointer back.
    let get = unsafe { core::mem::transmute::<Code, extern "C" fn() -> Code>(get) };
    get()
}

/// [`handler`] for a request at a multiple of `align`: none if no amount of memory would make it possible.
extern "C" fn handler_for(align: usize) -> Code {
    if align.is_power_of_two() { handler() } else { null() }
}

/// Where to jump in order to throw `std::bad_alloc`.
extern "C" fn thrower() -> Code {
    let throw = runtime(libc::RTLD_DEFAULT, c"_ZSt17__throw_bad_allocv");
    if throw.is_null() { out_of_memory as *const () as Code } else { throw }
}

/// What is left when operator new fails and nothing can throw.
extern "C" fn out_of_memory() -> ! {
    to_stderr(b"specmalloc: out of memory in operator new, and no C++ runtime to throw std::bad_alloc\n");
    end_process()
}

/// Where a nothrow form goes when it cannot serve the request itself: to the form of the same name in the C++
/// runtime, or nowhere (null: the request has failed).
///
/// `installed` is the throwing form that the process uses, `own` the one in this library.
fn forgiving(installed: Code, own: Code, symbol: &CStr) -> Code {
    if installed == own && handler().is_null() {
        return null();
    }
    let next = runtime(libc::RTLD_NEXT, symbol);
    // A program that replaces operator new but has no C++ runtime: its operator new is all there is.
    if next.is_null() && installed != own { installed } else { next }
}

/// The block behind `new(size)`, or null.
extern "C" fn allocate(size: usize) -> *mut u8 {
    raw::malloc(size)
}

/// The block behind `new(size, align)`, or null.
extern "C" fn allocate_aligned(size: usize, align: usize) -> *mut u8 {
    if align.is_power_of_two() { raw::aligned(align, size) } else { core::ptr::null_mut() }
}

/// `operator delete(void*)`.
///
/// # Safety
/// `block` is null or came from an operator new of the same kind, and this call owns it.
#[unsafe(export_name = "_ZdlPv")]
pub unsafe extern "C" fn delete(block: *mut c_void) {
    // SAFETY: the caller hands over the block.
    unsafe { raw::free(block.cast()) }
}

/// `operator delete(void*, std::align_val_t)`.
///
/// # Safety
/// As [`delete`].
#[unsafe(export_name = "_ZdlPvSt11align_val_t")]
pub unsafe extern "C" fn delete_aligned(block: *mut c_void, _align: usize) {
    // SAFETY: the caller hands over the block.
    unsafe { raw::free(block.cast()) }
}

/// Defines a form that allocates, and throws where it cannot.
macro_rules! throwing {
    ($(#[$doc:meta])* $name:ident, $symbol:literal, $allocate:path, $handler:path) => {
        $(#[$doc])*
        ///
        /// # Safety
        /// May throw, so the caller must not be Rust.
        #[unsafe(naked)]
        #[unsafe(export_name = $symbol)]
        pub unsafe extern "C-unwind" fn $name(_size: usize, _align: usize) -> *mut c_void {
            throwing_body!($symbol, $allocate, $handler, thrower)
        }
    };
}

/// Defines a nothrow form: `$serve` if the process uses this library's `$throwing` form, else by way of the C++
/// runtime.
macro_rules! nothrow {
    ($(#[$doc:meta])* $name:ident, $symbol:literal, $throwing:literal, $body:ident, $serve:tt) => {
        $(#[$doc])*
        ///
        /// # Safety
        /// None beyond the calling convention; the arguments are those of the longest form.
        #[unsafe(naked)]
        #[unsafe(export_name = $symbol)]
        pub unsafe extern "C" fn $name(_size: usize, _second: usize, _third: usize) -> *mut c_void {
            extern "C" fn next(installed: Code, own: Code) -> Code {
                const SYMBOL: &CStr = match CStr::from_bytes_with_nul(concat!($symbol, "\0").as_bytes()) {
                    Ok(symbol) => symbol,
                    Err(_) => unreachable!(),
                };
                forgiving(installed, own, SYMBOL)
            }
            $body!($throwing, $serve, next)
        }
    };
}

/// Defines forms that are another form with fewer arguments.
macro_rules! forward {
    ($($(#[$doc:meta])* $name:ident, $symbol:literal => $target:literal;)*) => {$(
        $(#[$doc])*
        ///
        /// # Safety
        /// As the form it stands for.
        #[unsafe(naked)]
        #[unsafe(export_name = $symbol)]
        pub unsafe extern "C-unwind" fn $name() {
            forward_body!($symbol, $target)
        }
    )*};
}

throwing! {
    /// `operator new(std::size_t)`.
    new, "_Znwm", allocate, handler
}
throwing! {
    /// `operator new(std::size_t, std::align_val_t)`. An alignment that is not a power of two is a failure.
    new_aligned, "_ZnwmSt11align_val_t", allocate_aligned, handler_for
}

nothrow! {
    /// `operator new(std::size_t, std::nothrow_t const&) noexcept`.
    new_nothrow, "_ZnwmRKSt9nothrow_t", "_Znwm", nothrow_body, allocate
}
nothrow! {
    /// `operator new(std::size_t, std::align_val_t, std::nothrow_t const&) noexcept`.
    new_aligned_nothrow, "_ZnwmSt11align_val_tRKSt9nothrow_t", "_ZnwmSt11align_val_t", nothrow_body, allocate_aligned
}
nothrow! {
    /// `operator new[](std::size_t, std::nothrow_t const&) noexcept`.
    new_array_nothrow, "_ZnamRKSt9nothrow_t", "_Znam", nothrow_array_body, "_ZnwmRKSt9nothrow_t"
}
nothrow! {
    /// `operator new[](std::size_t, std::align_val_t, std::nothrow_t const&) noexcept`.
    new_array_aligned_nothrow, "_ZnamSt11align_val_tRKSt9nothrow_t", "_ZnamSt11align_val_t",
    nothrow_array_body, "_ZnwmSt11align_val_tRKSt9nothrow_t"
}

forward! {
    /// `operator new[](std::size_t)`.
    new_array, "_Znam" => "_Znwm";
    /// `operator new[](std::size_t, std::align_val_t)`.
    new_array_aligned, "_ZnamSt11align_val_t" => "_ZnwmSt11align_val_t";

    /// `operator delete[](void*)`.
    delete_array, "_ZdaPv" => "_ZdlPv";
    /// `operator delete(void*, std::size_t)`.
    delete_sized, "_ZdlPvm" => "_ZdlPv";
    /// `operator delete[](void*, std::size_t)`.
    delete_array_sized, "_ZdaPvm" => "_ZdaPv";
    /// `operator delete(void*, std::nothrow_t const&)`.
    delete_nothrow, "_ZdlPvRKSt9nothrow_t" => "_ZdlPv";
    /// `operator delete[](void*, std::nothrow_t const&)`.
    delete_array_nothrow, "_ZdaPvRKSt9nothrow_t" => "_ZdaPv";

    /// `operator delete[](void*, std::align_val_t)`.
    delete_array_aligned, "_ZdaPvSt11align_val_t" => "_ZdlPvSt11align_val_t";
    /// `operator delete(void*, std::align_val_t, std::nothrow_t const&)`.
    delete_aligned_nothrow, "_ZdlPvSt11align_val_tRKSt9nothrow_t" => "_ZdlPvSt11align_val_t";
    /// `operator delete[](void*, std::align_val_t, std::nothrow_t const&)`.
    delete_array_aligned_nothrow, "_ZdaPvSt11align_val_tRKSt9nothrow_t" => "_ZdaPvSt11align_val_t";
}

/// `operator delete(void*, std::size_t, std::align_val_t)`.
///
/// # Safety
/// As [`delete`].
#[unsafe(naked)]
#[unsafe(export_name = "_ZdlPvmSt11align_val_t")]
pub unsafe extern "C-unwind" fn delete_sized_aligned() {
    drop_size_body!("_ZdlPvSt11align_val_t")
}

/// `operator delete[](void*, std::size_t, std::align_val_t)`.
///
/// # Safety
/// As [`delete`].
#[unsafe(naked)]
#[unsafe(export_name = "_ZdaPvmSt11align_val_t")]
pub unsafe extern "C-unwind" fn delete_array_sized_aligned() {
    drop_size_body!("_ZdaPvSt11align_val_t")
}
