//! How threads begin and end in a Rust program on specmalloc: threads of std, and of others, which Rust code that they
//! call makes allocate for the first time when their thread-locals are gone.

use specmalloc::SpecMalloc;
use std::cell::Cell;
use std::ffi::c_void;
use std::hint::black_box;
use std::ptr;
use std::sync::atomic::{AtomicU32, Ordering};

#[global_allocator]
static ALLOC: SpecMalloc = SpecMalloc::new();

/// The key whose destructor allocates.
static KEY: AtomicU32 = AtomicU32::new(0);

std::thread_local! {
    static ROUNDS_LEFT: Cell<usize> = const { Cell::new(0) };
}

/// Called once in each round of destructors; allocates in the last one asked for.
unsafe extern "C" fn late(value: *mut c_void) {
    ROUNDS_LEFT.set(ROUNDS_LEFT.get() - 1);
    if ROUNDS_LEFT.get() > 0 {
        // SAFETY: the key exists.
        assert_eq!(unsafe { libc::pthread_setspecific(KEY.load(Ordering::SeqCst), value) }, 0);
    } else {
        drop(black_box(vec![1u8; 1000]));
    }
}

extern "C" fn allocates_in_round(round: *mut c_void) -> *mut c_void {
    ROUNDS_LEFT.set(round.addr());
    // SAFETY: the key exists.
    assert_eq!(unsafe { libc::pthread_setspecific(KEY.load(Ordering::SeqCst), round) }, 0);
    ptr::null_mut()
}

extern "C" fn frees(block: *mut c_void) -> *mut c_void {
    // SAFETY: a box that was given up for this thread.
    drop(unsafe { Box::from_raw(block.cast::<[u8; 100]>()) });
    ptr::null_mut()
}

extern "C" fn allocates(_: *mut c_void) -> *mut c_void {
    drop(black_box(vec![1u8; 1000]));
    ptr::null_mut()
}

/// Runs a thread that std knows nothing of.
fn run(main: extern "C" fn(*mut c_void) -> *mut c_void, argument: *mut c_void) {
    let mut thread = 0;
    // SAFETY: a thread's function, and a place for its number, which is joined once.
    unsafe {
        assert_eq!(libc::pthread_create(&mut thread, ptr::null(), main, argument), 0);
        assert_eq!(libc::pthread_join(thread, ptr::null_mut()), 0);
    }
}

/// Waits until there is a helper. The test hangs if that never happens.
fn wait_for_the_helper() {
    let is_helper = |task: std::io::Result<std::fs::DirEntry>| {
        let name = std::fs::read_to_string(task.expect("an entry").path().join("comm"));
        name.is_ok_and(|name| name == "specmalloc\n")
    };
    while !std::fs::read_dir("/proc/self/task").expect("the list of threads").any(is_helper) {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
}

/// One test, for the heaps of a process are counted.
#[test]
fn threads_leave_nothing_behind() {
    // It came with this thread, which has a heap beside the harness's own, and before anybody's end.
    wait_for_the_helper();
    let mut key = 0;
    // SAFETY: the destructor is a function of this program.
    assert_eq!(unsafe { libc::pthread_key_create(&mut key, Some(late)) }, 0);
    KEY.store(key, Ordering::SeqCst);
    let before = ALLOC.statistics();
    for _ in 0..200 {
        for round in 1..=4 {
            run(allocates_in_round, ptr::without_provenance_mut(round));
        }
        run(frees, Box::into_raw(Box::new([1u8; 100])).cast());
        run(allocates, ptr::null_mut());
        std::thread::spawn(|| drop(black_box(vec![1u8; 1000]))).join().expect("no failure");
        std::thread::spawn(|| {}).join().expect("no failure");
    }
    let now = ALLOC.statistics();
    // One that allocated in the last round may have left a heap, for the next thread with its thread-locals' addresses.
    assert!(
        now.threads <= before.threads + 1,
        "{} threads possess heaps, {} before",
        now.threads,
        before.threads
    );
    assert!(now.heaps <= before.heaps + 4, "{} heaps, {} before", now.heaps, before.heaps);
}
