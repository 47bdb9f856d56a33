//! Regions that end while they are used.

use crate::support::{Door, fill, pattern, small_units, touch};
use specmalloc::files::{FileRegion, memfd};
use specmalloc::paging::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

/// Those who wait in a fault, and those who hold, go on; the memory goes after them.
#[test]
fn dropped_while_a_thread_waits_in_a_fault() {
    let door = Arc::new(Door::default());
    let its = door.clone();
    let pager = move |offset: usize, to: &mut [u8]| {
        its.pass();
        fill(offset, to)
    };
    let Some(region) = small_units(8192, pager) else { return };
    let pin = region.pin().unwrap();
    let waiting = thread::spawn(move || [touch(pin.as_ptr()), touch(pin.as_ptr().wrapping_add(5000))]);
    door.wait_for(1);
    let error = region.unmap_within(Duration::from_millis(5)).unwrap_err();
    assert!(matches!(error, Error::TimedOut { .. }), "{error:?}");
    door.open();
    assert_eq!(waiting.join().unwrap(), [pattern(0), pattern(5000)]);
}

/// Who waits for another one to fetch is told that the region is closed; who fetches goes on.
#[test]
fn closed_while_a_thread_waits_for_another_to_fetch() {
    let door = Arc::new(Door::default());
    let its = door.clone();
    let pager = move |offset: usize, to: &mut [u8]| {
        its.pass();
        fill(offset, to)
    };
    let Some(region) = small_units(4096, pager) else { return };
    let region = &region;
    thread::scope(|scope| {
        let fetches = scope.spawn(move || region.hold(0..1).map(|held| held[0]));
        door.wait_for(1);
        let waits = scope.spawn(move || region.hold(0..1).map(|held| held[0]));
        thread::sleep(Duration::from_millis(10));
        region.close();
        assert!(matches!(waits.join().unwrap(), Err(Error::Closed)));
        door.open();
        assert_eq!(fetches.join().unwrap().unwrap(), pattern(0));
    });
    assert!(matches!(region.pin().map(drop), Err(Error::Closed)));
    assert!(matches!(region.hold(0..1).map(drop), Err(Error::Closed)), "what is there, too");
    assert!(matches!(region.hold(0..0).map(drop), Ok(())), "of nothing there is always enough");
}

#[test]
fn unmapping_waits_for_readers_and_not_for_oneself() {
    let Some(region) = small_units(8192, fill) else { return };
    let held = region.hold(0..8192).unwrap();
    let unmapper = Arc::new(AtomicI32::new(0));
    let its = unmapper.clone();
    let reader = thread::spawn(move || {
        // Until the other, which calls nothing else any more that waits, has looked in vain and sleeps.
        let sleeps = |thread: i32| {
            let status = std::fs::read_to_string(format!("/proc/self/task/{thread}/stat")).unwrap();
            status.contains(") S ")
        };
        while !matches!(its.load(SeqCst), thread if thread != 0 && sleeps(thread)) {
            thread::yield_now();
        }
        thread::sleep(Duration::from_millis(20));
        held[8191]
    });
    // SAFETY: has no effect.
    unmapper.store(unsafe { libc::gettid() }, SeqCst);
    let waited = region.unmap().unwrap().waited;
    assert_eq!(reader.join().unwrap(), pattern(8191));
    assert!(waited >= Duration::from_millis(20), "{waited:?}");
    let file = memfd("other", 4096).unwrap();
    // SAFETY: nobody changes the file.
    let file = unsafe { FileRegion::map(&file).unwrap() };
    let guard = file.guard().unwrap();
    let error = small_units(8192, fill).unwrap().unmap().unwrap_err();
    assert!(matches!(error, Error::InsideGuard), "{error:?}");
    drop(guard);
    small_units(8192, fill).unwrap().unmap().unwrap();
}
