//! The memory that calls are noted in, which the process that ordered the recording has made.

use crate::layout::{self, Head, MAGIC, NAME, PROGRAMS, Program, Record, VARIABLE};
use crate::thread;
use core::ffi::{c_char, c_void};
use core::ptr;
use core::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering};

unsafe extern "C" {
    static environ: *const *const c_char;
}

/// The memory; null while nothing is noted.
static HEAD: AtomicPtr<Head> = AtomicPtr::new(ptr::null_mut());
/// The program that this process runs, counted from one.
static PROGRAM: AtomicU32 = AtomicU32::new(0);
/// How many notes there were when a fork began.
static FORKED: AtomicU64 = AtomicU64::new(0);

/// Whether it is known if calls are noted: not before the C library has been set up.
static STATE: AtomicU32 = AtomicU32::new(UNKNOWN);
const UNKNOWN: u32 = 0;
const KNOWN: u32 = 1;

/// Notes a call. Keeps errno.
pub fn note(kind: u64, block: *mut c_void, size: usize, shift: u32) {
    // Relaxed: who opens the memory is one thread, and others see it by the Acquire load.
    if STATE.load(Ordering::Relaxed) == UNKNOWN {
        open();
    }
    // Acquire: pairs with the Release store in `begin`.
    let head = HEAD.load(Ordering::Acquire);
    if head.is_null() {
        return;
    }
    // SAFETY: mapped for good.
    let head = unsafe { &*head };
    // Relaxed: the order of all notes is the order of this counter alone.
    let at = head.next.fetch_add(1, Ordering::Relaxed);
    if at >= head.records {
        return;
    }
    let who = who(head);
    // SAFETY: the records follow the head, and there are more than `at`.
    let record: &Record = unsafe { &*ptr::from_ref(head).add(1).cast::<Record>().add(at as usize) };
    record[1].store(size as u64, Ordering::Relaxed);
    record[2].store(who, Ordering::Relaxed);
    // Release: pairs with the reader's Acquire load, which sees both words above.
    record[0].store((block.addr() as u64) << 16 | kind << 8 | u64::from(shift), Ordering::Release);
}

/// The program and its thread, as a record has them.
fn who(head: &Head) -> u64 {
    // Relaxed (all): a process's and a thread's own.
    let program = PROGRAM.load(Ordering::Relaxed) - 1;
    let word = thread::word();
    let own = word.load(Ordering::Relaxed);
    // With one more than the number, for zero is no thread. A forked child's thread has its parent's.
    if own != 0 && own >> 32 == u64::from(program) {
        return own - 1;
    }
    let number = head.program[program as usize].threads.fetch_add(1, Ordering::Relaxed);
    let who = u64::from(program) << 32 | u64::from(number);
    // A handler that came between has taken one, too: then this one is nobody's.
    word.compare_exchange(own, who + 1, Ordering::Relaxed, Ordering::Relaxed)
        .map_or_else(|now| now - 1, |_| who)
}

/// Opens the memory if this process is to be recorded.
#[cold]
fn open() {
    // SAFETY: the C library's variable, null until it has been set up.
    if unsafe { environ.is_null() } {
        return;
    }
    // Relaxed (both): who wins is all that matters; what it opens is published in `begin`.
    if STATE.compare_exchange(UNKNOWN, KNOWN, Ordering::Relaxed, Ordering::Relaxed).is_err() {
        return;
    }
    // SAFETY: the calling thread's own error number.
    let errno = unsafe { &mut *libc::__errno_location() };
    let before = *errno;
    if let Some(head) = map()
        && wanted(head)
    {
        // SAFETY: three functions that stay in memory. It may allocate, which is not noted yet.
        unsafe { libc::pthread_atfork(Some(before_fork), None, Some(in_child)) };
        begin(head, 0);
    }
    *errno = before;
}

#[used]
#[unsafe(link_section = ".init_array")]
static LOADED: extern "C" fn() = loaded;

/// A program that allocates nothing before it forks has its handlers, too.
extern "C" fn loaded() {
    // Relaxed: as in `note`.
    if STATE.load(Ordering::Relaxed) == UNKNOWN {
        open();
    }
}

fn map() -> Option<&'static Head> {
    // SAFETY: the name is a string, and the environment is there; of the file only the size is asked; a mapping
    // wherever the kernel has room, of a file that does not become shorter.
    unsafe {
        let path = libc::getenv(VARIABLE.as_ptr());
        if path.is_null() {
            return None;
        }
        let file = libc::open(path, libc::O_RDWR | libc::O_CLOEXEC);
        if file < 0 {
            return None;
        }
        let bytes = libc::lseek(file, 0, libc::SEEK_END) as usize;
        let start = if bytes >= size_of::<Head>() && bytes < isize::MAX as usize {
            libc::mmap(ptr::null_mut(), bytes, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED, file, 0)
        } else {
            libc::MAP_FAILED
        };
        libc::close(file);
        if start == libc::MAP_FAILED {
            return None;
        }
        let head = &*start.cast::<Head>();
        (head.magic == MAGIC && layout::bytes(head.records) <= bytes as u64).then_some(head)
    }
}

/// The name of the process, as the kernel has it of what it runs.
fn name() -> [u8; NAME] {
    let mut name = [0; NAME];
    // SAFETY: the kernel writes at most 16 bytes.
    unsafe { libc::prctl(libc::PR_GET_NAME, name.as_mut_ptr()) };
    name
}

fn process() -> u32 {
    // SAFETY: always succeeds.
    unsafe { libc::getpid() as u32 }
}

/// Whether this process is to be recorded, in a program that it has just begun.
fn wanted(head: &Head) -> bool {
    if head.name[0] != 0 && head.name != name() {
        return false;
    }
    let own = process();
    // Relaxed (both): who wins is all that matters.
    let first = head.first.compare_exchange(0, own, Ordering::Relaxed, Ordering::Relaxed);
    head.follow != 0 || first.is_ok() || first == Err(own)
}

/// Notes the calls of this process from now on.
fn begin(head: &'static Head, parent: u32) {
    // Relaxed: a number of its own.
    let index = head.programs.fetch_add(1, Ordering::Relaxed) as usize;
    if index >= PROGRAMS {
        return;
    }
    let program: &Program = &head.program[index];
    // Relaxed (all): ordered by the Release store.
    program.process.store(process(), Ordering::Relaxed);
    program.parent.store(parent, Ordering::Relaxed);
    program.forked.store(FORKED.load(Ordering::Relaxed), Ordering::Relaxed);
    for (word, bytes) in program.name.iter().zip(name().chunks_exact(8)) {
        let bytes = bytes.try_into().unwrap_or_default();
        word.store(u64::from_le_bytes(bytes), Ordering::Relaxed);
    }
    // Release: pairs with the reader's Acquire load.
    program.there.store(1, Ordering::Release);
    PROGRAM.store(index as u32 + 1, Ordering::Relaxed);
    // Release: pairs with the Acquire load in `note`.
    HEAD.store(ptr::from_ref(head).cast_mut(), Ordering::Release);
}

extern "C" fn before_fork() {
    // Acquire: pairs with the Release store in `begin`.
    let head = HEAD.load(Ordering::Acquire);
    if !head.is_null() {
        // SAFETY: mapped for good. Relaxed: the child reads what its own thread wrote.
        FORKED.store(unsafe { &*head }.next.load(Ordering::Relaxed), Ordering::Relaxed);
    }
}

/// The child has the memory and is another process: it begins anew, or is not recorded.
extern "C" fn in_child() {
    // Relaxed: the child has one thread.
    let head = HEAD.swap(ptr::null_mut(), Ordering::Relaxed);
    if head.is_null() {
        return;
    }
    // SAFETY: mapped for good.
    let head = unsafe { &*head };
    if head.follow != 0 {
        begin(head, PROGRAM.load(Ordering::Relaxed));
    }
}
