//! Calls of the system that fail: a filter refuses them from some moment on, in a process that is for nothing else.

use super::{behind_a_door, runs_apart};
use crate::again::{case, child};
use crate::support::{fill, pattern, small_units, touch};
use specmalloc::paging::{Cause, Error, PagedOptions, PagedRegion, PagerError};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicUsize, Ordering::Relaxed};
use std::thread;
use std::time::Instant;

// What the kernel calls them; the library's own are tested beside it.
const REGISTER: u32 = 0xc020_aa00;
const COPY: u32 = 0xc028_aa03;
const POISON: u32 = 0xc020_aa08;
const ASK_API: u32 = 0xc018_aa3f;

/// Has all threads of this process refused a call from now on, or, of `ioctl`, one request.
fn refuse(call: libc::c_long, request: Option<u32>, error: i32) {
    let statement =
        |code: u32, k: u32, yes: u8, no: u8| libc::sock_filter { code: code as u16, jt: yes, jf: no, k };
    let (load, equal, end) = (
        libc::BPF_LD | libc::BPF_W | libc::BPF_ABS,
        libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K,
        libc::BPF_RET,
    );
    // The number of the call, and the lower half of its second argument.
    let mut filter = vec![statement(load, 0, 0, 0), statement(equal, call as u32, 1, 0)];
    filter.push(statement(end, libc::SECCOMP_RET_ALLOW, 0, 0));
    if let Some(request) = request {
        filter.extend([statement(load, 24, 0, 0), statement(equal, request, 1, 0)]);
        filter.push(statement(end, libc::SECCOMP_RET_ALLOW, 0, 0));
    }
    filter.push(statement(end, libc::SECCOMP_RET_ERRNO | error as u32, 0, 0));
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    let (mode, all) = (libc::SECCOMP_SET_MODE_FILTER, libc::SECCOMP_FILTER_FLAG_TSYNC);
    // SAFETY: a program as the kernel expects it; this process is for nothing else.
    let is_filtered = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
            && libc::syscall(libc::SYS_seccomp, mode, all, &raw const program) == 0
    };
    assert!(is_filtered, "{}", std::io::Error::last_os_error());
}

/// What this process has: bytes of address space, and descriptors.
fn has() -> (usize, usize) {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: usize = pages.split(' ').next().unwrap().parse().unwrap();
    (pages * 4096, std::fs::read_dir("/proc/self/fd").unwrap().count())
}

/// A region that cannot be made, for what the system says to `call`; nothing of it stays.
fn cannot_be_made(wanted: &str, code: i32) {
    let try_one = || {
        let error = PagedRegion::new(1 << 30, fill).unwrap_err();
        let Error::System { call, error } = &error else { panic!("{error:?}") };
        assert_eq!((*call, error.raw_os_error()), (wanted, Some(code)));
    };
    // Threads that come and go take no address space for a heap each.
    // SAFETY: a setting of the C library's.
    assert_eq!(unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) }, 1);
    try_one();
    let before = has();
    (0..400).for_each(|_| try_one());
    // Threads that were made for it end by themselves.
    let begun = Instant::now();
    let is_as_before = || {
        let after = has();
        after.0 < before.0 + (128 << 20) && after.1 <= before.1 + 2
    };
    while !is_as_before() {
        assert!(begun.elapsed().as_secs() < 5, "{before:?} {:?}", has());
        thread::yield_now();
    }
}

/// A filter of system calls that refuses userfaultfd.
#[test]
fn where_it_is_not_allowed_making_a_region_says_so() {
    if !runs_apart("refused::where_it_is_not_allowed_making_a_region_says_so") {
        return;
    }
    refuse(libc::SYS_userfaultfd, None, libc::EPERM);
    // The device is root's.
    // SAFETY: this process is for nothing else.
    let is_nobody = unsafe { libc::setresuid(65_534, 65_534, 65_534) == 0 };
    assert!(is_nobody, "{}", std::io::Error::last_os_error());
    let error = PagedRegion::new(8192, fill).unwrap_err();
    let Error::NotAllowed { error: cause } = &error else { panic!("{error:?}") };
    assert_eq!(cause.raw_os_error(), Some(libc::EPERM));
    assert!(error.to_string().contains("userfaultfd is not allowed here"), "{error}");
    assert_eq!(std::io::Error::from(error).kind(), std::io::ErrorKind::PermissionDenied);
}

/// What was allowed once serves all regions.
#[test]
fn one_descriptor_serves_all_regions() {
    if !runs_apart("refused::one_descriptor_serves_all_regions") {
        return;
    }
    let Some(_first) = small_units(4096, fill) else { return };
    refuse(libc::SYS_userfaultfd, None, libc::EPERM);
    refuse(libc::SYS_ioctl, Some(ASK_API), libc::EPERM);
    let second = small_units(4096, fill).expect("a region more");
    assert_eq!(touch(second.pin().unwrap().as_ptr()), pattern(0));
}

/// A kernel that knows no feature that is asked for, and not even none.
#[test]
fn where_the_interface_is_another_making_a_region_says_so() {
    if !runs_apart("refused::where_the_interface_is_another_making_a_region_says_so") {
        return;
    }
    refuse(libc::SYS_ioctl, Some(ASK_API), libc::EINVAL);
    let error = PagedRegion::new(8192, fill).unwrap_err();
    assert!(matches!(error, Error::NotAllowed { .. }), "{error:?}");
}

#[test]
fn memory_that_cannot_be_registered_goes_again() {
    if !runs_apart("refused::memory_that_cannot_be_registered_goes_again") || small_units(1, fill).is_none() {
        return;
    }
    refuse(libc::SYS_ioctl, Some(REGISTER), libc::ENOMEM);
    cannot_be_made("UFFDIO_REGISTER", libc::ENOMEM);
}

#[test]
fn where_there_are_no_descriptors_making_a_region_says_so() {
    if !runs_apart("refused::where_there_are_no_descriptors_making_a_region_says_so")
        || small_units(1, fill).is_none()
    {
        return;
    }
    refuse(libc::SYS_eventfd2, None, libc::EMFILE);
    cannot_be_made("eventfd", libc::EMFILE);
}

#[test]
fn where_there_are_no_threads_making_a_region_says_so() {
    if !runs_apart("refused::where_there_are_no_threads_making_a_region_says_so")
        || small_units(1, fill).is_none()
    {
        return;
    }
    refuse(libc::SYS_clone3, None, libc::EAGAIN);
    refuse(libc::SYS_clone, None, libc::EAGAIN);
    cannot_be_made("pthread_create", libc::EAGAIN);
}

/// Until there are threads again those that are there serve one after the other, and then as many as need be are made.
#[test]
fn faults_are_served_in_parallel_once_there_are_threads_again() {
    if !runs_apart("refused::faults_are_served_in_parallel_once_there_are_threads_again") {
        return;
    }
    let (door, pager) = behind_a_door();
    let Some(region) = small_units(200 * 4096, fill) else { return };
    let other = &small_units(20 * 4096, pager).unwrap();
    // Root has no limit of threads.
    // SAFETY: this process is for nothing else.
    let _is_nobody = unsafe { libc::setresuid(65_534, 65_534, 65_534) == 0 };
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    let few = |limit: &libc::rlimit, soft| {
        let limit = libc::rlimit { rlim_cur: soft, ..*limit };
        // SAFETY: as above.
        assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NPROC, &raw const limit) }, 0);
    };
    // SAFETY: written by the call.
    assert_eq!(unsafe { libc::getrlimit(libc::RLIMIT_NPROC, &raw mut limit) }, 0);
    few(&limit, 1);
    assert!(thread::Builder::new().spawn(|| ()).is_err(), "a thread beyond the limit");
    let pin = region.pin().unwrap();
    for unit in 0..200 {
        assert_eq!(touch(pin.as_ptr().wrapping_add(unit * 4096)), pattern(unit * 4096));
    }
    few(&limit, limit.rlim_cur);
    let pin = &other.pin().unwrap();
    // SAFETY: ends this process, if it waits forever.
    unsafe { libc::alarm(20) };
    thread::scope(|scope| {
        for unit in 0..20 {
            scope.spawn(move || {
                assert_eq!(touch(pin.as_ptr().wrapping_add(unit * 4096)), pattern(unit * 4096));
            });
        }
        door.wait_for(20);
        door.open();
    });
}

/// What failed while it was evicted is fetched once more, and can be read then.
#[test]
fn what_cannot_be_poisoned_can_be_read_when_it_is_there() {
    if !runs_apart("refused::what_cannot_be_poisoned_can_be_read_when_it_is_there")
        || small_units(1, fill).is_none()
    {
        return;
    }
    refuse(libc::SYS_ioctl, Some(POISON), libc::EINVAL);
    static CALLS: AtomicUsize = AtomicUsize::new(0);
    let every_second = |offset: usize, to: &mut [u8]| -> Result<(), PagerError> {
        if CALLS.fetch_add(1, Relaxed).is_multiple_of(2) { Err("as a test".into()) } else { fill(offset, to) }
    };
    let (region, stop) = (&small_units(4096, every_second).unwrap(), &AtomicBool::new(false));
    thread::scope(|scope| {
        scope.spawn(move || {
            // Once for each fetch, a little after the pager.
            let mut seen = 0;
            for pause in (0..200).cycle() {
                while CALLS.load(Relaxed) == seen && !stop.load(Relaxed) {
                    std::hint::spin_loop();
                }
                if stop.load(Relaxed) {
                    break;
                }
                seen = CALLS.load(Relaxed);
                (0..pause).for_each(|_| std::hint::spin_loop());
                region.evict(0..4096).unwrap();
            }
        });
        let (mut read, begun) = (0, Instant::now());
        while CALLS.load(Relaxed) < 5000 && (begun.elapsed().as_secs() < 2 || read == 0) {
            match region.hold(0..4096) {
                Ok(held) => {
                    read += 1;
                    assert_eq!(held[100], pattern(100));
                }
                Err(error) => assert!(matches!(error, Error::Failed { offset: 0, .. }), "{error:?}"),
            }
        }
        stop.store(true, Relaxed);
    });
}

/// The signal that the process is to end with as it wants to.
static AWAITED: AtomicI32 = AtomicI32::new(0);

extern "C" fn signalled(signal: libc::c_int) {
    // SAFETY: ends the process, as a handler may.
    unsafe { libc::_exit(if signal == AWAITED.load(Relaxed) { 77 } else { 1 }) };
}

/// The kernel has no memory for pages, or cannot poison them: an error to who asks, and a signal to who does not.
#[test]
fn what_the_kernel_does_not_take_is_an_error() {
    const NAME: &str = "refused::what_the_kernel_does_not_take_is_an_error";
    let Some(case) = case() else {
        if small_units(1, fill).is_none() {
            return;
        }
        for case in ["copy", "poison", "poison, asked before"] {
            let output = child(NAME, case);
            assert_eq!(output.status.code(), Some(77), "{case}: {output:?}");
        }
        return;
    };
    let fails = Arc::new(AtomicBool::new(true));
    let its = fails.clone();
    let is_copy = case == "copy";
    let pager = move |offset: usize, to: &mut [u8]| -> Result<(), PagerError> {
        if offset == 8192 && its.load(Relaxed) && !is_copy {
            return Err("as a test".into());
        }
        fill(offset, to)
    };
    let region = PagedOptions::new().unit(8192).map(24_576, pager).unwrap();
    let pin = region.pin().unwrap();
    for signal in [libc::SIGBUS, libc::SIGSEGV] {
        // SAFETY: a handler that only exits.
        unsafe { libc::signal(signal, signalled as extern "C" fn(_) as usize) };
    }
    if is_copy {
        assert_eq!(touch(pin.as_ptr()), pattern(0));
        refuse(libc::SYS_ioctl, Some(COPY), libc::ENOMEM);
        for round in 2..5 {
            for _ in 0..2 {
                let error = region.hold(8192..8193).unwrap_err();
                let Error::Failed { offset: 8192, cause: Cause::System(cause) } = error else {
                    panic!("{error:?}")
                };
                assert_eq!(cause.raw_os_error(), Some(libc::ENOMEM));
            }
            assert_eq!((region.fetched(), region.resident()), (round, 8192), "once until it is evicted");
            assert_eq!(region.evict(8192..16_384).unwrap().now, 1);
        }
        AWAITED.store(libc::SIGBUS, Relaxed);
    } else {
        refuse(libc::SYS_ioctl, Some(POISON), libc::EINVAL);
        for _ in 0..2 {
            fails.store(true, Relaxed);
            let error = region.hold(8192..8193).unwrap_err();
            assert!(matches!(error, Error::Failed { offset: 8192, cause: Cause::Pager(_) }), "{error:?}");
            fails.store(false, Relaxed);
            assert_eq!(region.evict(0..24_576).unwrap().now, 1);
            assert_eq!(touch(pin.as_ptr().wrapping_add(9000)), pattern(9000));
            region.evict(0..24_576).unwrap();
            assert_eq!(*region.hold(16_383..16_385).unwrap(), [pattern(16_383), pattern(16_384)]);
            region.evict(0..24_576).unwrap();
        }
        fails.store(true, Relaxed);
        if case.ends_with("before") {
            region.hold(8192..8193).unwrap_err();
        }
        AWAITED.store(libc::SIGSEGV, Relaxed);
    }
    panic!("{} is read", touch(pin.as_ptr().wrapping_add(9000)));
}
