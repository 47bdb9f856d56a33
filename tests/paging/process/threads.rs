//! The threads that serve faults: how many there are, what they hold, and when they let go.

use super::{behind_a_door, runs_apart};
use crate::support::{Door, fill, pattern, small_units, touch};
use specmalloc::files::{FileRegion, memfd};
use std::sync::atomic::{AtomicI32, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

/// The numbers of the library's threads.
fn pagers() -> Vec<String> {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap().map(|task| task.unwrap().path());
    let is_one = |task: &std::path::PathBuf| {
        std::fs::read_to_string(task.join("comm")).is_ok_and(|name| name.trim() == "pager")
    };
    tasks.filter(is_one).map(|task| task.to_str().unwrap().to_owned()).collect()
}

/// The signals that a thread has blocked, each a bit.
fn blocked(task: &str) -> u64 {
    let status = std::fs::read_to_string(format!("{task}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("SigBlk:")).unwrap();
    u64::from_str_radix(line.trim(), 16).unwrap()
}

/// One fault after the other needs one thread, and one that waits for the next; a few more where that one is slow to
/// come back.
#[test]
fn as_many_threads_as_faults_at_a_time() {
    if !runs_apart("threads::as_many_threads_as_faults_at_a_time") {
        return;
    }
    let Some(region) = small_units(200 * 4096, fill) else { return };
    let pin = region.pin().unwrap();
    for unit in 0..200 {
        assert_eq!(touch(pin.as_ptr().wrapping_add(unit * 4096)), pattern(unit * 4096));
        thread::sleep(Duration::from_millis(2));
    }
    let threads = pagers().len();
    assert!((1..=32).contains(&threads), "{threads} threads");
}

/// The program's signals are for its own threads, which have the ones blocked that they had.
#[test]
fn signals_are_not_for_the_librarys_threads() {
    if !runs_apart("threads::signals_are_not_for_the_librarys_threads") {
        return;
    }
    let before = blocked("/proc/thread-self");
    let Some(region) = small_units(4096, fill) else { return };
    assert_eq!(blocked("/proc/thread-self"), before);
    // One is there, and has its name.
    assert_eq!(touch(region.pin().unwrap().as_ptr()), pattern(0));
    let own = [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE, libc::SIGTRAP, libc::SIGABRT];
    let never = [libc::SIGKILL, libc::SIGSTOP];
    let wanted = (1..32).filter(|signal| !own.contains(signal) && !never.contains(signal));
    let wanted = wanted.fold(0, |set, signal| set | 1 << (signal - 1));
    let names = pagers();
    assert!(!names.is_empty());
    for task in names {
        // (While a thread is made the C library blocks all signals in it.)
        let begun = Instant::now();
        while blocked(&task) & 0x7fff_ffff != wanted {
            assert!(begun.elapsed().as_secs() < 3, "{:x}, not {wanted:x}", blocked(&task));
            thread::yield_now();
        }
    }
}

/// While a pager is at it other regions are unmapped.
#[test]
fn a_pager_holds_up_no_grace_period() {
    if !runs_apart("threads::a_pager_holds_up_no_grace_period") {
        return;
    }
    let (door, pager) = behind_a_door();
    let Some(region) = small_units(4096, pager) else { return };
    let pin = &region.pin().unwrap();
    thread::scope(|scope| {
        scope.spawn(|| assert_eq!(touch(pin.as_ptr()), pattern(0)));
        door.wait_for(1);
        let unmapped = small_units(4096, fill).unwrap().unmap_within(Duration::from_secs(3));
        door.open();
        unmapped.unwrap();
    });
}

/// Who unmaps a region waits for those who are in a section of another, and goes on when they are not.
#[test]
fn unmapping_goes_on_after_the_guards_of_others() {
    if !runs_apart("threads::unmapping_goes_on_after_the_guards_of_others") {
        return;
    }
    let Some(region) = small_units(4096, fill) else { return };
    let door = Door::default();
    let file = memfd("read", 4096).unwrap();
    // SAFETY: nobody changes the file.
    let file = unsafe { FileRegion::map(&file).unwrap() };
    thread::scope(|scope| {
        scope.spawn(|| {
            let guard = file.guard().unwrap();
            door.pass();
            thread::sleep(Duration::from_millis(100));
            drop(guard);
        });
        door.wait_for(1);
        door.open();
        region.unmap_within(Duration::from_secs(10)).unwrap();
    });
    // Who is not waited for is not late.
    assert!((0..20).any(|_| small_units(4096, fill).unwrap().unmap_within(Duration::ZERO).is_ok()));
}

/// Until the page at an address is nobody's, for some seconds.
fn goes(at: *const u8) -> bool {
    let begun = Instant::now();
    // SAFETY: a look at a page that may not be there.
    while unsafe { libc::msync(at.cast_mut().cast(), 4096, libc::MS_ASYNC) } == 0 {
        if begun.elapsed().as_secs() >= 3 {
            return false;
        }
        thread::sleep(Duration::from_millis(1));
    }
    true
}

extern "C" fn stays(_: libc::c_int) {
    loop {
        // SAFETY: waits, as a handler may.
        unsafe { libc::pause() };
    }
}

/// A region whose last user is the thread that serves a fault in it.
#[test]
fn who_served_the_last_fault_lets_the_region_go() {
    if !runs_apart("threads::who_served_the_last_fault_lets_the_region_go") {
        return;
    }
    let (door, pager) = behind_a_door();
    let Some(_other) = small_units(4096, fill) else { return };
    let region = small_units(4096, pager).unwrap();
    let pin = region.pin().unwrap();
    let at = pin.as_ptr().addr();
    // SAFETY: the thread that touches has no right to soon: if it comes to nothing it stays there.
    unsafe { libc::signal(libc::SIGSEGV, stays as extern "C" fn(_) as usize) };
    let _touches = thread::spawn(move || touch(std::ptr::with_exposed_provenance(at)));
    door.wait_for(1);
    drop((region, pin));
    door.open();
    assert!(goes(std::ptr::with_exposed_provenance(at)));
}

static TOUCHES: AtomicI32 = AtomicI32::new(0);

extern "C" fn signalled(_: libc::c_int) {
    // SAFETY: ends the process, as a handler may, well if the thread is the one that is to be signalled.
    unsafe { libc::_exit(i32::from(libc::gettid() != TOUCHES.load(Relaxed))) };
}

/// Who touches what is gone, without a right to, does not wait forever.
#[test]
fn who_touches_what_is_gone_is_told() {
    if !runs_apart("threads::who_touches_what_is_gone_is_told") {
        return;
    }
    let Some(_other) = small_units(4096, fill) else { return };
    let [region, next] = [(); 2].map(|()| small_units(4096, fill).unwrap());
    let file = memfd("read", 4096).unwrap();
    // SAFETY: nobody changes the file.
    let file = unsafe { FileRegion::map(&file).unwrap() };
    let at = region.pin().unwrap().as_ptr().addr();
    // SAFETY: a handler that only exits; an alarm ends what waits forever.
    unsafe {
        libc::signal(libc::SIGSEGV, signalled as extern "C" fn(_) as usize);
        libc::alarm(10);
    }
    let guard = file.guard().unwrap();
    drop(region);
    let touches = thread::spawn(move || {
        // SAFETY: about the calling thread.
        TOUCHES.store(unsafe { libc::gettid() }, Relaxed);
        touch(std::ptr::with_exposed_provenance(at))
    });
    // It has come to the page, which is still there, or will when that is gone.
    thread::sleep(Duration::from_millis(50));
    drop(guard);
    // Whoever unmaps another one takes it along. (Nothing is mapped where it was.)
    next.unmap().unwrap();
    panic!("{:?} is read", touches.join());
}
