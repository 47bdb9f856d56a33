//! A Java virtual machine in the same process: both handle faults, in either order of installation.
//!
//! ```text
//! cargo build --release --features files --example beside_java
//! target/release/examples/beside_java LIBJVM CLASSES java|files
//! ```
//!
//! The virtual machine finds null pointers, the ends of stacks, and pages of its own mapped files that are gone, by
//! signals. A region of specmalloc's finds pages that its file no longer has by the same ones. The last argument says
//! whose handlers come first. CLASSES holds `Faults.class`, see `tests/programs/long/jvm.sh`.

use specmalloc::files::{Cause, Error, FileRegion, memfd};
use std::ffi::{CStr, CString, c_char, c_int, c_long, c_void};
use std::io;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Where the functions stand that are called here, in the tables that jni.h describes.
const DESTROY: usize = 3;
const FIND_CLASS: usize = 6;
const DESCRIBE: usize = 16;
const METHOD: usize = 113;
const CALL_INT: usize = 131;
const REGISTER: usize = 215;
const VERSION: c_int = 0x10008;

type Table = *const *const *const c_void;

#[repr(C)]
struct Setting {
    text: *const c_char,
    extra: *const c_void,
}

#[repr(C)]
struct Arguments {
    version: c_int,
    count: c_int,
    options: *const Setting,
    ignore_unknown: u8,
}

#[repr(C)]
struct Native {
    name: *const c_char,
    signature: *const c_char,
    function: *const c_void,
}

/// The function of a table at a place.
///
/// # Safety
/// `F` is its type.
unsafe fn function<F: Copy>(table: Table, place: usize) -> F {
    // SAFETY: the caller's; functions are as long as pointers.
    unsafe { std::mem::transmute_copy(&*(*table).add(place)) }
}

static READ: AtomicUsize = AtomicUsize::new(0);

/// Reads a file that becomes shorter, and says what was found: 1 for the error that is due.
fn read_what_is_gone() -> i32 {
    const PAGES: usize = 4;
    let look = || -> Result<i32, Error> {
        let file = memfd("beside java", (PAGES * 4096) as u64)?;
        // SAFETY: what goes while it is read is what this is about, and faults are caught.
        let region = unsafe { FileRegion::map(&file)? };
        let sum = |bytes: &[u8]| bytes.iter().step_by(512).map(|&byte| i32::from(byte)).sum::<i32>();
        assert_eq!(region.with_faults_caught(sum)?, 0);
        file.set_len(4096).expect("is shortened");
        let found = region.with_faults_caught(|bytes| sum(bytes) + 7);
        READ.fetch_add(1, Ordering::Relaxed);
        Ok(match found {
            Err(Error::Fault(fault)) if fault.offset == 4096 && fault.cause == Cause::Truncated => 1,
            _ => 0,
        })
    };
    look().unwrap_or(-1)
}

/// Called by Java.
extern "C" fn read_from_java(_table: *const c_void, _class: *const c_void) -> c_int {
    read_what_is_gone()
}

/// Starts a virtual machine: its table of functions, and that of the calling thread.
fn start(library: &CStr, classes: &str) -> io::Result<(Table, Table)> {
    // SAFETY: a string; what a library does when it is loaded is its own matter.
    let loaded = unsafe { libc::dlopen(library.as_ptr(), libc::RTLD_NOW | libc::RTLD_GLOBAL) };
    let create = match loaded.is_null() {
        true => ptr::null_mut(),
        // SAFETY: a string, and a library that was loaded.
        false => unsafe { libc::dlsym(loaded, c"JNI_CreateJavaVM".as_ptr()) },
    };
    if create.is_null() {
        return Err(io::Error::other("not a Java virtual machine"));
    }
    type Create = unsafe extern "C" fn(*mut Table, *mut Table, *const Arguments) -> c_int;
    // SAFETY: the type that jni.h gives it.
    let create: Create = unsafe { std::mem::transmute(create) };
    let text = CString::new(format!("-Djava.class.path={classes}"))?;
    let options = [Setting { text: text.as_ptr(), extra: ptr::null() }];
    let arguments = Arguments { version: VERSION, count: 1, options: options.as_ptr(), ignore_unknown: 0 };
    let (mut machine, mut thread) = (ptr::null(), ptr::null());
    // SAFETY: as jni.h describes it.
    match unsafe { create(&mut machine, &mut thread, &arguments) } {
        0 => Ok((machine, thread)),
        code => Err(io::Error::other(format!("JNI_CreateJavaVM: {code}"))),
    }
}

/// Calls `Faults.run`, which calls [`read_from_java`], and returns what it does: how many of its faults were found.
fn run_java(thread: Table) -> io::Result<c_int> {
    type FindClass = unsafe extern "C" fn(Table, *const c_char) -> *const c_void;
    type Method = unsafe extern "C" fn(Table, *const c_void, *const c_char, *const c_char) -> *const c_void;
    type Register = unsafe extern "C" fn(Table, *const c_void, *const Native, c_int) -> c_int;
    type CallInt = unsafe extern "C" fn(Table, *const c_void, *const c_void, *const c_long) -> c_int;
    type Describe = unsafe extern "C" fn(Table);
    // SAFETY: all of it as jni.h describes it; the table is this thread's.
    unsafe {
        let class = function::<FindClass>(thread, FIND_CLASS)(thread, c"Faults".as_ptr());
        let read = read_from_java as extern "C" fn(_, _) -> _;
        let native =
            Native { name: c"read".as_ptr(), signature: c"()I".as_ptr(), function: read as *const c_void };
        let method = match class.is_null() {
            true => ptr::null(),
            false => {
                function::<Register>(thread, REGISTER)(thread, class, &native, 1);
                function::<Method>(thread, METHOD)(thread, class, c"run".as_ptr(), c"()I".as_ptr())
            }
        };
        let found = match method.is_null() {
            true => -1,
            false => function::<CallInt>(thread, CALL_INT)(thread, class, method, ptr::null()),
        };
        function::<Describe>(thread, DESCRIBE)(thread);
        Ok(found)
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, library, classes, first] = &arguments[..] else {
        return Err("beside_java LIBJVM CLASSES java|files".into());
    };
    if first == "files" {
        assert_eq!(read_what_is_gone(), 1, "before there is a virtual machine");
    }
    let (machine, thread) = start(&CString::new(library.as_str())?, classes)?;
    let over = AtomicBool::new(false);
    let found = std::thread::scope(|scope| {
        // Threads of which Java knows nothing.
        let readers: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    while !over.load(Ordering::Relaxed) {
                        assert_eq!(read_what_is_gone(), 1, "beside a virtual machine");
                    }
                })
            })
            .collect();
        let found = run_java(thread);
        over.store(true, Ordering::Relaxed);
        let read = readers.into_iter().map(|reader| reader.join()).collect::<Result<Vec<()>, _>>();
        (found, read.is_ok())
    });
    assert_eq!(read_what_is_gone(), 1, "in a thread of Java's");
    // SAFETY: as jni.h describes it, by the thread that has made it.
    unsafe { function::<unsafe extern "C" fn(Table) -> c_int>(machine, DESTROY)(machine) };
    let (found, read) = (found.0?, found.1);
    println!("{first} first: {found} found by Java, {} by regions", READ.load(Ordering::Relaxed));
    if found == 5 && read { Ok(()) } else { Err("a fault was not found".into()) }
}
