//! Signals, forks and filters: each in a process of its own.

use crate::again::{case, child};
use crate::support::{Door, fill, pattern, small_units, touch};
use specmalloc::paging::{Error, PagedRegion, PagerError};
use std::os::unix::process::ExitStatusExt;
use std::sync::OnceLock;

mod refused;
mod threads;

/// Whether this is the process of its own that the test `name` runs in; otherwise starts that, and demands that it passes.
fn runs_apart(name: &str) -> bool {
    let is_apart = case().is_some();
    if !is_apart {
        let output = child(name, "run");
        assert!(output.status.success(), "{output:?}");
    }
    is_apart
}

/// A door, and a pager that passes it before it fills.
fn behind_a_door()
-> (&'static Door, impl Fn(usize, &mut [u8]) -> Result<(), PagerError> + Copy + Send + Sync + 'static) {
    let door: &'static Door = Box::leak(Box::default());
    let pager = move |offset: usize, to: &mut [u8]| {
        door.pass();
        fill(offset, to)
    };
    (door, pager)
}

/// What the child did at last in vain is a signal that ends it.
#[test]
fn a_raw_access_to_what_cannot_be_fetched_is_a_signal() {
    const NAME: &str = "a_raw_access_to_what_cannot_be_fetched_is_a_signal";
    let Some(case) = case() else {
        if small_units(1, fill).is_none() {
            return;
        }
        for case in ["error", "panic", "asked before", "own unit"] {
            let output = child(NAME, case);
            // Before Linux 6.6 there is no poison, and it is the other one.
            let signals = [Some(libc::SIGBUS), Some(libc::SIGSEGV)];
            assert!(signals.contains(&output.status.signal()), "{case}: {output:?}");
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(said.contains("until here") && !said.contains("survived"), "{case}: {output:?}");
        }
        return;
    };
    static REGION: OnceLock<PagedRegion> = OnceLock::new();
    let its = case.clone();
    let pager = move |offset: usize, to: &mut [u8]| -> Result<(), PagerError> {
        match &*its {
            _ if offset != 4096 => fill(offset, to),
            "panic" => panic!("as a test"),
            "own unit" => {
                let pin = REGION.get().unwrap().pin()?;
                to.fill(touch(pin.as_ptr().wrapping_add(offset)));
                Ok(())
            }
            _ => Err("as a test".into()),
        }
    };
    let region = REGION.get_or_init(|| small_units(8192, pager).unwrap());
    let pin = region.pin().unwrap();
    assert_eq!(touch(pin.as_ptr()), pattern(0));
    if case == "asked before" {
        region.hold(4096..4097).unwrap_err();
    }
    println!("until here");
    println!("survived: {}", touch(pin.as_ptr().wrapping_add(5000)));
}

extern "C" fn refused(_: libc::c_int) {
    // SAFETY: ends the process, as a handler may.
    unsafe { libc::_exit(78) };
}

/// A child has what was there; the rest is an error, or a signal, never zeros. The parent goes on.
#[test]
fn a_child_of_fork_has_what_was_there() {
    if !runs_apart("a_child_of_fork_has_what_was_there") {
        return;
    }
    let Some(region) = small_units(10 * 4096, fill) else { return };
    let pin = region.pin().unwrap();
    let held = region.hold(4096..8192).unwrap();
    assert_eq!(touch(pin.as_ptr()), pattern(0));
    // Others fault, hold and evict meanwhile.
    let stop = &std::sync::atomic::AtomicBool::new(false);
    let other = &small_units(10 * 4096, fill).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let pin = other.pin().unwrap();
            for at in (0..10 * 4096).step_by(1000).cycle() {
                if stop.load(std::sync::atomic::Ordering::Relaxed) {
                    break;
                }
                assert_eq!(touch(pin.as_ptr().wrapping_add(at)), pattern(at));
                other.evict(at..at + 1).unwrap();
            }
        });
        scopeguard::defer!(stop.store(true, std::sync::atomic::Ordering::Relaxed));
        for round in 0..50 {
            // SAFETY: the child uses what the library promises after a fork, and exits.
            let child = unsafe { libc::fork() };
            if child == 0 {
                let works = || {
                    assert_eq!(held[5], pattern(4101));
                    assert_eq!(touch(pin.as_ptr().wrapping_add(7)), pattern(7));
                    assert_eq!(region.hold(0..8192).unwrap()[4000], pattern(4000));
                    assert!(matches!(region.hold(8192..8193), Err(Error::Forked)));
                    assert!(matches!(region.evict(0..1), Err(Error::Forked)));
                    // One of its own, with threads of its own.
                    let own = small_units(8192, fill).unwrap();
                    assert_eq!(touch(own.pin().unwrap().as_ptr().wrapping_add(5000)), pattern(5000));
                    own.unmap().unwrap();
                    if round % 2 == 0 {
                        // Raw, and not there: a signal, not zeros.
                        // SAFETY: a handler that only exits.
                        unsafe { libc::signal(libc::SIGSEGV, refused as extern "C" fn(_) as usize) };
                        panic!("{} is read", touch(pin.as_ptr().wrapping_add(9000)));
                    }
                };
                let worked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(works)).is_ok();
                // SAFETY: ends the child.
                unsafe { libc::_exit(if worked { 77 } else { 1 }) };
            }
            let mut status = 0;
            // SAFETY: waits for the child.
            assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
            let wanted = if round % 2 == 0 { 78 } else { 77 };
            assert_eq!(status, wanted << 8, "the child failed: {status:x}");
        }
    });
    assert_eq!(touch(pin.as_ptr().wrapping_add(9000)), pattern(9000), "the parent is served");
}

/// A region that is dropped goes with the next one that is made, as does, a little later, one that goes while the thread
/// is inside a section.
#[test]
fn what_was_dropped_goes_when_others_are_made() {
    if !runs_apart("what_was_dropped_goes_when_others_are_made") {
        return;
    }
    let file = specmalloc::files::memfd("read", 4096).unwrap();
    // SAFETY: nobody changes the file.
    let file = unsafe { specmalloc::files::FileRegion::map(&file).unwrap() };
    let Some(_first) = small_units(4096, fill) else { return };
    let make = || {
        let region = small_units(4096, fill).unwrap();
        let at = region.pin().unwrap().as_ptr().wrapping_add(77);
        // By this thread, so that no other has to do with it.
        assert_eq!(region.hold(77..78).unwrap()[0], pattern(77));
        (region, at)
    };
    // SAFETY: a look at pages that may not be there.
    let is_there = |at: *const u8| unsafe {
        libc::msync(at.wrapping_sub(77).cast_mut().cast(), 4096, libc::MS_ASYNC) == 0
            && at.read_volatile() == pattern(77)
    };
    let other = |_: usize, to: &mut [u8]| -> Result<(), PagerError> {
        to.fill(!pattern(77));
        Ok(())
    };
    let (region, at) = make();
    drop(region);
    let _second = small_units(4096, other).unwrap();
    assert!(!is_there(at));
    let (region, at) = make();
    let guard = file.guard().unwrap();
    drop(region);
    drop(guard);
    assert!(is_there(at));
    let _more = [(); 2].map(|()| small_units(4096, other).unwrap());
    assert!(!is_there(at));
}

/// Runs `body` in a child of fork, which is ended if it takes ten seconds; so is this process, if its test does.
fn in_child(body: impl FnOnce() -> bool) {
    // SAFETY: the child uses what the library promises after a fork, and exits; alarms end the process.
    let child = unsafe {
        libc::alarm(30);
        libc::fork()
    };
    if child == 0 {
        // SAFETY: as above.
        unsafe { libc::alarm(10) };
        let is_fine = body();
        // SAFETY: ends the child.
        unsafe { libc::_exit(i32::from(!is_fine)) };
    }
    let mut status = 0;
    // SAFETY: waits for the child.
    assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
    assert_eq!(status, 0, "the child failed, or was ended");
}

/// What a child lets go of that was its parent's is served in the parent as before.
#[test]
fn a_child_that_drops_its_parents_last_region_ends_nobody_there() {
    if !runs_apart("a_child_that_drops_its_parents_last_region_ends_nobody_there") {
        return;
    }
    let Some(region) = small_units(10 * 4096, fill) else { return };
    in_child(|| {
        // SAFETY: the child uses it no more.
        drop(unsafe { std::ptr::read(&region) });
        true
    });
    let pin = region.pin().unwrap();
    for at in (0..10 * 4096).step_by(1000) {
        assert_eq!(touch(pin.as_ptr().wrapping_add(at)), pattern(at));
    }
}

/// The thread that fetches is not there in a child, which does not wait for it.
#[test]
fn a_child_waits_for_no_thread_of_its_parent() {
    if !runs_apart("a_child_waits_for_no_thread_of_its_parent") {
        return;
    }
    let (door, pager) = behind_a_door();
    let Some(region) = small_units(4096, pager) else { return };
    std::thread::scope(|scope| {
        let fetches = scope.spawn(|| region.hold(0..1).map(|held| held[0]));
        door.wait_for(1);
        in_child(|| matches!(region.hold(0..1), Err(Error::Forked)));
        door.open();
        assert_eq!(fetches.join().unwrap().unwrap(), pattern(0));
    });
}

/// As many threads as wait in faults are not made.
#[test]
fn faults_wait_where_there_are_threads_enough() {
    if !runs_apart("faults_wait_where_there_are_threads_enough") {
        return;
    }
    let (door, pager) = behind_a_door();
    let Some(region) = small_units(100 * 4096, pager) else { return };
    let pin = &region.pin().unwrap();
    std::thread::scope(|scope| {
        for unit in 0..100 {
            scope.spawn(move || {
                assert_eq!(touch(pin.as_ptr().wrapping_add(unit * 4096)), pattern(unit * 4096))
            });
        }
        door.wait_for(60);
        std::thread::sleep(std::time::Duration::from_millis(100));
        let names = std::fs::read_dir("/proc/self/task")
            .unwrap()
            .map(|task| std::fs::read_to_string(task.unwrap().path().join("comm")).unwrap_or_default());
        let pagers = names.filter(|name| name.trim() == "pager").count();
        door.open();
        assert!((60..=64).contains(&pagers), "{pagers} threads");
    });
}
