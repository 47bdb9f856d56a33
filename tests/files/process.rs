//! Regions, signals and forks: each in a process of its own.

use crate::again::{case, child};
use crate::support::{filled, pattern, region};
use specmalloc::files::Error;
use std::os::unix::process::ExitStatusExt;

/// A region whose second half is gone, and which one has been read with faults caught.
fn broken() -> specmalloc::files::Pin {
    let (file, region) = region(8192);
    region.with_faults_caught(|bytes| bytes[0]).unwrap();
    let pin = region.pin().unwrap();
    file.set_len(4096).unwrap();
    pin
}

#[expect(unconditional_recursion, reason = "so that the stack overflows")]
fn overflow(depth: usize) -> usize {
    let frame = std::hint::black_box([depth; 1000]);
    overflow(depth + 1) + frame[depth % 1000]
}

extern "C" fn plain(_: libc::c_int) {
    // SAFETY: writes and exits, as a handler may.
    unsafe {
        libc::write(1, c"handler".as_ptr().cast(), 7);
        libc::_exit(7);
    }
}

/// Ends the process with 8 if it runs on the thread's other stack, with 9 if on its own.
extern "C" fn which_stack(_: libc::c_int) {
    // SAFETY: asks and exits, as a handler may.
    unsafe {
        let mut other: libc::stack_t = std::mem::zeroed();
        libc::sigaltstack(std::ptr::null(), &mut other);
        libc::_exit(if other.ss_flags & libc::SS_ONSTACK != 0 { 8 } else { 9 });
    }
}

/// A Java virtual machine handles stack overflows on the thread's own stack; the other one may be too small for that.
#[test]
fn a_handler_runs_on_the_stack_that_it_asked_for() {
    let Some(case) = case() else {
        for (case, code) in [("own", 9), ("other", 8)] {
            let told = child("a_handler_runs_on_the_stack_that_it_asked_for", case);
            assert_eq!(told.status.code(), Some(code), "{told:?}");
        }
        return;
    };
    // SAFETY: a handler that only asks and exits.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = which_stack as extern "C" fn(_) as usize;
        action.sa_flags = if case == "own" { 0 } else { libc::SA_ONSTACK };
        assert_eq!(libc::sigaction(libc::SIGBUS, &action, std::ptr::null_mut()), 0);
    }
    println!("{}", broken()[5000]);
}

#[test]
fn what_is_not_ours_goes_to_whoever_was_there() {
    let Some(case) = case() else {
        let bus = child("what_is_not_ours_goes_to_whoever_was_there", "bare access");
        assert_eq!(bus.status.signal(), Some(libc::SIGBUS), "{bus:?}");
        let deep = child("what_is_not_ours_goes_to_whoever_was_there", "stack overflow");
        assert_eq!(deep.status.signal(), Some(libc::SIGABRT), "{deep:?}");
        assert!(String::from_utf8_lossy(&deep.stderr).contains("has overflowed its stack"));
        let wild = child("what_is_not_ours_goes_to_whoever_was_there", "wild pointer");
        assert_eq!(wild.status.signal(), Some(libc::SIGSEGV), "{wild:?}");
        let sent = child("what_is_not_ours_goes_to_whoever_was_there", "sent");
        assert_eq!(sent.status.signal(), Some(libc::SIGBUS), "{sent:?}");
        for case in ["handler", "handler before"] {
            let handled = child("what_is_not_ours_goes_to_whoever_was_there", case);
            assert_eq!(handled.status.code(), Some(7), "{handled:?}");
            assert!(String::from_utf8_lossy(&handled.stdout).ends_with("handler"));
        }
        let panicked = child("what_is_not_ours_goes_to_whoever_was_there", "panic");
        assert!(panicked.status.success(), "{panicked:?}");
        return;
    };
    let handle = || {
        // SAFETY: a handler that only writes and exits.
        unsafe { libc::signal(libc::SIGBUS, plain as extern "C" fn(_) as usize) }
    };
    if case == "handler" {
        handle();
    }
    let pin = broken();
    match case.as_str() {
        "bare access" | "handler" => println!("{}", pin[5000]),
        "handler before" => {
            handle();
            println!("{}", pin[5000]);
        }
        "stack overflow" => println!("{}", overflow(0)),
        // SAFETY: there is nothing, which is the point.
        "wild pointer" => println!("{}", unsafe { std::ptr::without_provenance::<u8>(8).read_volatile() }),
        // Rust's own handler waits for a fault to come again, and lets the first one that is sent pass.
        // SAFETY: signals to this thread.
        "sent" => println!("{}", unsafe { libc::raise(libc::SIGBUS) + libc::raise(libc::SIGBUS) }),
        "panic" => {
            let caught =
                std::panic::catch_unwind(|| pin.with_faults_caught(|bytes| assert_eq!(bytes[5000], 1)));
            assert!(caught.is_err(), "the closure ran to its panic, on zeros");
            assert!(matches!(pin.with_faults_caught(|_| ()), Err(Error::Fault(_))));
            return;
        }
        other => panic!("{other}"),
    }
    panic!("survived");
}

/// The child of a fork has one thread; guards and pins of the others are gone with them, its own stay.
#[test]
fn a_fork_among_readers() {
    if case().is_none() {
        let output = child("a_fork_among_readers", "run");
        return assert!(output.status.success(), "{output:?}");
    }
    let (_file, region) = region(100_000);
    let (_other_file, other) = crate::support::region(5000);
    let (region, other) = (&region, &other);
    let stop = &std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for reader in 0..4usize {
            scope.spawn(move || {
                let mut at = reader;
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    at = at.wrapping_mul(5) + 1;
                    let guard = region.guard().unwrap();
                    assert_eq!(guard[at % 100_000], pattern(at % 100_000));
                }
            });
        }
        scopeguard::defer!(stop.store(true, std::sync::atomic::Ordering::Relaxed));
        for _ in 0..100 {
            let own = other.guard().unwrap();
            // SAFETY: the child does nothing but what the library promises after a fork, and exits.
            let child = unsafe { libc::fork() };
            if child == 0 {
                let works = || {
                    assert_eq!(*own, filled(5000));
                    assert!(matches!(other.unmap(), Err(Error::InsideGuard)));
                    drop(own);
                    assert_eq!(&*region.guard().unwrap(), filled(100_000));
                    other.unmap().unwrap();
                    region.unmap().unwrap();
                };
                let worked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(works)).is_ok();
                // SAFETY: ends the child.
                unsafe { libc::_exit(i32::from(!worked)) };
            }
            drop(own);
            let mut status = 0;
            // SAFETY: waits for the child.
            assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
            assert_eq!(status, 0, "the child failed");
        }
    });
}
