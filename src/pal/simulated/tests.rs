//! The simulation against the kernel's behaviour, and what only it can do.

use super::*;
use crate::pal::conformance;
use crate::sync::atomic::Ordering;

const PAGE: usize = 4096;

fn system(change: impl FnOnce(&mut Config)) -> Simulated {
    let mut config = Config { reserve: 1 << 30, ..Config::default() };
    change(&mut config);
    Simulated::with(config)
}

/// Whether the byte at `addr` can be read. The kernel is asked to take it for the start of a path: it answers EFAULT
/// where the process would have got a SIGSEGV.
fn readable(addr: usize) -> bool {
    // SAFETY: the kernel checks the address; no path is opened.
    let answer = unsafe { libc::access(addr as *const libc::c_char, libc::F_OK) };
    answer == 0 || std::io::Error::last_os_error().raw_os_error() != Some(libc::EFAULT)
}

/// Maps `pages` anew, wherever there is room.
fn map(system: &Simulated, pages: usize, access: Access) -> Result<usize, Errno> {
    system.map(None, pages * PAGE, access)
}

fn unmap(system: &Simulated, addr: usize, pages: usize) -> Result<(), Errno> {
    // SAFETY: the tests do not use what they unmap.
    unsafe { system.unmap(addr, pages * PAGE) }
}

/// The mappings, each as its first page behind `base` and the one behind its last.
fn layout(system: &Simulated, base: usize) -> Vec<(usize, usize)> {
    let page = |addr: usize| (addr - base) / PAGE;
    system.mappings().iter().map(|mapping| (page(mapping.range.start), page(mapping.range.end))).collect()
}

#[test]
fn does_what_every_platform_does() {
    for page_size in [4 << 10, 16 << 10, 64 << 10] {
        let system = system(|config| config.page_size = page_size);
        conformance::run(&system);
        assert!(system.unmapped_everything());
    }
}

#[test]
fn what_was_unmapped_faults() {
    let system = system(|_| {});
    let addr = map(&system, 3, Access::ReadWrite).unwrap();
    assert!(readable(addr) && readable(addr + 3 * PAGE - 1) && !readable(addr + 3 * PAGE));
    unmap(&system, addr + PAGE, 1).unwrap();
    assert!(readable(addr) && !readable(addr + PAGE) && readable(addr + 2 * PAGE));
    // SAFETY: mapped above and unused.
    unsafe { system.protect(addr, PAGE, Access::None).unwrap() };
    assert!(!readable(addr) && !readable(addr - 1));
    let reserved = map(&system, 1, Access::None).unwrap();
    assert!(!readable(reserved));
}

#[test]
fn the_address_space_goes_with_the_last_handle() {
    let first = system(|_| {});
    let second = first.clone();
    let other = system(|_| {});
    assert!(first.range().end <= other.range().start || other.range().end <= first.range().start);
    let addr = map(&first, 1, Access::ReadWrite).unwrap();
    drop(first);
    assert!(readable(addr) && second.mapped_bytes() == PAGE && other.unmapped_everything());
    drop(second);
    // Together they would need twice the 128 TiB that a process has.
    for _ in 0..4096 {
        let system = Simulated::new();
        map(&system, 1, Access::ReadWrite).unwrap();
    }
}

#[test]
fn neighbours_that_agree_are_one_mapping() {
    let system = system(|_| {});
    let base = map(&system, 8, Access::ReadWrite).unwrap();
    let protect = |first: usize, pages: usize, access| {
        // SAFETY: mapped above and unused.
        unsafe { system.protect(base + first * PAGE, pages * PAGE, access).unwrap() }
    };
    protect(2, 2, Access::None);
    assert_eq!(layout(&system, base), [(0, 2), (2, 4), (4, 8)]);
    protect(4, 1, Access::None);
    assert_eq!(layout(&system, base), [(0, 2), (2, 5), (5, 8)]);
    protect(2, 3, Access::ReadWrite);
    assert_eq!(layout(&system, base), [(0, 8)]);
    system.name(base + PAGE, PAGE, c"named");
    assert_eq!(layout(&system, base), [(0, 1), (1, 2), (2, 8)]);
    system.name(base, 8 * PAGE, c"named");
    assert_eq!(
        system.mappings(),
        [Mapping { range: base..base + 8 * PAGE, access: Access::ReadWrite, name: Some(c"named") }]
    );
    unmap(&system, base + 3 * PAGE, 1).unwrap();
    system.map(Some(base + 3 * PAGE), PAGE, Access::ReadWrite).unwrap();
    assert_eq!(layout(&system, base), [(0, 3), (3, 4), (4, 8)]);
}

#[test]
fn moved_pages_do_not_merge_until_they_are_home() {
    let system = system(|_| {});
    let base = map(&system, 8, Access::ReadWrite).unwrap();
    // SAFETY: mapped above; the ranges do not overlap and nobody uses their contents.
    unsafe { system.move_pages(base, base + 4 * PAGE, 2 * PAGE).unwrap() };
    assert_eq!(layout(&system, base), [(0, 4), (4, 6), (6, 8)]);
    // SAFETY: as above.
    unsafe { system.move_pages(base + 4 * PAGE, base, 2 * PAGE).unwrap() };
    assert_eq!(layout(&system, base), [(0, 4), (4, 6), (6, 8)]);
    unmap(&system, base + 4 * PAGE, 2).unwrap();
    system.map(Some(base + 4 * PAGE), 2 * PAGE, Access::ReadWrite).unwrap();
    assert_eq!(layout(&system, base), [(0, 8)]);
}

#[test]
fn limits_are_kept_and_failures_change_nothing() {
    let out_of_memory = Errno(libc::ENOMEM);
    let system = system(|config| {
        config.mapping_limit = 3;
        config.address_space_limit = 16 * PAGE;
        config.commit_limit = 10 * PAGE;
    });
    assert_eq!(system.address_space_limit(), 16 * PAGE);
    assert_eq!(map(&system, 17, Access::None), Err(out_of_memory));
    assert_eq!(map(&system, 11, Access::ReadWrite), Err(out_of_memory));
    let addr = map(&system, 16, Access::None).unwrap();
    let protect = |first: usize, pages: usize| {
        // SAFETY: mapped above and unused.
        unsafe { system.protect(addr + first * PAGE, pages * PAGE, Access::ReadWrite) }
    };
    assert_eq!(protect(0, 11), Err(out_of_memory));
    protect(4, 2).unwrap();
    assert_eq!(layout(&system, addr), [(0, 4), (4, 6), (6, 16)]);
    // A fourth and a fifth mapping, by protecting and by cutting a hole.
    let before = system.mappings();
    assert_eq!(protect(8, 1), Err(out_of_memory));
    assert_eq!(unmap(&system, addr + PAGE, 1), Err(out_of_memory));
    assert_eq!(system.mappings(), before);
    // At the end of a mapping the count stays.
    unmap(&system, addr + 15 * PAGE, 1).unwrap();
    // SAFETY: the last nine pages are one mapping.
    assert_eq!(unsafe { system.resize(addr + 6 * PAGE, 9 * PAGE, 10 * PAGE) }, Ok(()));
    // SAFETY: as above.
    assert_eq!(unsafe { system.resize(addr + 6 * PAGE, 10 * PAGE, 11 * PAGE) }, Err(out_of_memory));
    system.reconfigure(|config| config.mapping_limit = 5);
    protect(8, 1).unwrap();
    assert_eq!(system.mappings().len(), 5);
    system.reconfigure(|config| config.mapping_limit = 1);
    unmap(&system, addr, 16).unwrap();
    assert_eq!(
        system.calls(),
        CallCounts { map: 1, unmap: 2, protect: 2, remap: 1, failed: 6, ..CallCounts::default() }
    );
}

#[test]
fn the_call_that_is_to_fail_fails() {
    let workload = |system: &Simulated| {
        let registered = system.register_barrier();
        let addr = map(system, 4, Access::None)?;
        // SAFETY: mapped above and unused.
        unsafe { system.protect(addr, 4 * PAGE, Access::ReadWrite)? };
        // SAFETY: as above.
        unsafe { system.purge(addr, PAGE)? };
        // SAFETY: as above.
        unsafe { system.resize(addr, 4 * PAGE, 2 * PAGE)? };
        // SAFETY: as above.
        unsafe { system.move_pages(addr, addr + PAGE, PAGE)? };
        registered.and_then(|()| system.heavy_barrier())?;
        unmap(system, addr, 2)
    };
    let calm = system(|_| {});
    workload(&calm).unwrap();
    let calls = calm.record();
    use CallKind::*;
    assert_eq!(
        calls.iter().map(|call| call.kind).collect::<Vec<_>>(),
        [RegisterBarrier, Map, Protect, Purge, Resize, Move, HeavyBarrier, Unmap]
    );
    for ordinal in 0..calls.len() {
        let failing = system(|_| {});
        failing.fail_at(ordinal as u64);
        let errno = workload(&failing).unwrap_err();
        assert_eq!(errno.0, if [0, 6].contains(&ordinal) { libc::EPERM } else { libc::ENOMEM });
        let record = failing.record();
        assert_eq!(record[ordinal].result, Err(errno));
        assert_eq!(record.iter().filter(|call| call.result.is_err()).count(), 1);
        assert_eq!(failing.unmapped_everything(), ordinal == 1);
    }
    let dead = system(|_| {});
    dead.fail_from(1);
    assert_eq!(map(&dead, 1, Access::ReadWrite).map(|_| ()), Ok(()));
    assert_eq!([1, 2].map(|pages| map(&dead, pages, Access::ReadWrite)), [Err(Errno(libc::ENOMEM)); 2]);
    dead.heal();
    dead.fail_kind(Purge, Errno(libc::EINVAL));
    let addr = map(&dead, 1, Access::ReadWrite).unwrap();
    // SAFETY: mapped above and unused.
    assert_eq!(unsafe { dead.purge(addr, PAGE) }, Err(Errno(libc::EINVAL)));
}

#[test]
fn barriers_come_in_three_flavours() {
    let flavours = [Barrier::Works, Barrier::Missing, Barrier::StopsAfter(2)].map(|barrier| {
        let system = system(|config| config.barrier = barrier);
        let registered = system.register_barrier();
        (registered, [(); 4].map(|()| system.heavy_barrier()), system.calls().barrier)
    });
    let (missing, stopped) = (Err(Errno(libc::ENOSYS)), Err(Errno(libc::EPERM)));
    assert_eq!(flavours[1], (missing, [missing; 4], 0));
    // A sandbox may refuse membarrier to this test, too.
    if flavours[0].0.is_ok() {
        assert_eq!(flavours[0], (Ok(()), [Ok(()); 4], 4));
        assert_eq!(flavours[2], (Ok(()), [Ok(()), Ok(()), stopped, stopped], 2));
    }
}

#[test]
fn the_clock_goes_when_it_is_told() {
    let system = system(|_| {});
    let before = system.now_ms();
    assert_eq!(system.now_ms(), before);
    let word = AtomicU32::new(0);
    std::thread::scope(|scope| {
        // An hour of the machine's time: only the simulated clock ends it.
        let sleeper = scope.spawn(|| system.wait(&word, 0, Some(3_600_000)));
        while !sleeper.is_finished() {
            system.advance_ms(1_000_000);
            std::thread::yield_now();
        }
    });
    assert!(system.now_ms() >= before + 3_600_000);
}

#[test]
fn a_wake_wakes_as_many_as_it_says() {
    let system = system(|_| {});
    let (word, other) = (AtomicU32::new(0), AtomicU32::new(0));
    let returned = AtomicU32::new(0);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                system.wait(&word, 0, None);
                returned.fetch_add(1, Ordering::SeqCst);
            });
        }
        while system.0.parking.len() < 3 {
            std::thread::yield_now();
        }
        system.wake(&other, u32::MAX);
        system.wake(&word, 0);
        assert_eq!(system.0.parking.len(), 3);
        system.wake(&word, 2);
        assert_eq!(system.0.parking.len(), 1);
        while returned.load(Ordering::SeqCst) < 2 {
            std::thread::yield_now();
        }
        assert_eq!(system.0.parking.len(), 1);
        system.wake(&word, 2);
    });
    assert_eq!(returned.load(Ordering::SeqCst), 3);
}

#[test]
fn equal_seeds_draw_equal_numbers() {
    let draw = |seed| {
        let system = system(|config| config.seed = seed);
        [(); 4].map(|()| system.entropy())
    };
    assert_eq!(draw(7), draw(7));
    assert_ne!(draw(7), draw(8));
}

#[test]
fn there_is_an_end_to_the_address_space() {
    let system = system(|config| config.reserve = crate::base::GRANULE);
    let range = system.range();
    assert_eq!(system.map(Some(range.end), PAGE, Access::None), Err(Errno(libc::EEXIST)));
    assert_eq!(system.map(None, range.len() + PAGE, Access::None), Err(Errno(libc::ENOMEM)));
    assert_eq!(system.map(None, range.len(), Access::None), Ok(range.start));
    assert_eq!(system.map(None, PAGE, Access::None), Err(Errno(libc::ENOMEM)));
}

#[test]
fn a_broken_contract_is_a_panic() {
    let breaks = |act: &dyn Fn(&Simulated, usize)| {
        let system = system(|_| {});
        let addr = map(&system, 4, Access::ReadWrite).unwrap();
        unmap(&system, addr + PAGE, 1).unwrap();
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| act(&system, addr)));
        assert_eq!(layout(&system, addr), [(0, 1), (2, 4)]);
        *outcome.expect_err("a contract was broken").downcast::<String>().expect("a message")
    };
    assert!(breaks(&|system, addr| unmap(system, addr, 2).unwrap()).starts_with("unmapping "));
    // SAFETY: the contract is broken on purpose; so in each line below. The simulation refuses before it acts.
    assert!(breaks(&|system, addr| unsafe { system.purge(addr, 4 * PAGE).unwrap() }).starts_with("purging "));
    // SAFETY: see above.
    let message = breaks(&|system, addr| unsafe { system.protect(addr + PAGE, PAGE, Access::None).unwrap() });
    assert!(message.starts_with("protecting "));
    // SAFETY: see above.
    let message = breaks(&|system, addr| unsafe { system.resize(addr, 2 * PAGE, PAGE).unwrap() });
    assert!(message.starts_with("resizing "));
    // SAFETY: see above.
    let message =
        breaks(&|system, addr| unsafe { system.move_pages(addr + 2 * PAGE, addr, 2 * PAGE).unwrap() });
    assert!(message.starts_with("moving to "));
    let message = breaks(&|system, addr| unmap(system, addr + 1, 1).unwrap());
    assert!(message.ends_with("is not the start of a page"));
}
