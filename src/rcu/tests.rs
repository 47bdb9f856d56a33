use super::interrupt::arm;
use super::*;
use crate::base::GRANULE;
use crate::pal::simulated::{Barrier, Config, Simulated};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::*};

/// A system with or without a barrier; nothing else of it is used here.
fn system(barrier: Barrier) -> Simulated {
    Simulated::with(Config { barrier, reserve: GRANULE, ..Config::default() })
}

/// Slots and links live forever here as they do in a process.
fn forever<T>(value: T) -> &'static T {
    Box::leak(Box::new(value))
}

fn started(os: &Simulated) -> &'static Rcu {
    let rcu = forever(Rcu::new());
    rcu.start(os);
    rcu
}

fn attached(rcu: &Rcu) -> &'static ReaderSlot {
    let slot = forever(ReaderSlot::new());
    // SAFETY: a fresh slot that lives forever.
    unsafe { rcu.attach(slot) };
    slot
}

fn retired(rcu: &Rcu) -> &'static RetireLink {
    let link = forever(RetireLink::new());
    // SAFETY: a fresh link that nobody can find.
    unsafe { rcu.retire(link) };
    link
}

/// Enters on behalf of the slot's thread: the tests with one thread play all of them.
fn enter(rcu: &'static Rcu, slot: &'static ReaderSlot) -> Section<'static> {
    // SAFETY: the slot is attached, and only this thread enters on it.
    unsafe { rcu.enter(slot) }
}

#[test]
fn the_flavour_follows_the_platform_and_is_decided_once() {
    let rcu = Rcu::new();
    assert_eq!(rcu.statistics().flavour, Flavour::Undecided);
    assert_eq!(rcu.synchronize(&system(Barrier::Works), None), Err(GraceError::NoBarrier));
    rcu.start(&system(Barrier::Missing));
    assert_eq!(rcu.statistics().flavour, Flavour::Fence);
    rcu.start(&system(Barrier::Works));
    assert_eq!(rcu.statistics().flavour, Flavour::Fence);
    assert_eq!(rcu.synchronize(&system(Barrier::Missing), None), Ok(()));
    assert_eq!(started(&system(Barrier::Works)).statistics().flavour, Flavour::Membarrier);
}

#[test]
fn a_batch_waits_for_the_sections_that_were_open_and_for_no_others() {
    for os in [system(Barrier::Works), system(Barrier::Missing)] {
        let rcu = started(&os);
        let (early, late) = (attached(rcu), attached(rcu));
        let links = [retired(rcu), retired(rcu)];
        let section = enter(rcu, early);
        assert_eq!(rcu.reclaim(&os, None, |_| panic!("a section is open")), 0);
        let _newer = enter(rcu, late);
        let newer_link = retired(rcu);
        assert_eq!(rcu.reclaim(&os, None, |_| panic!("a section is open")), 0);
        drop(section);
        let mut seen = Vec::new();
        assert_eq!(rcu.reclaim(&os, None, |link| seen.push(core::ptr::from_ref(link))), 2);
        assert!(links.iter().all(|link| seen.contains(&core::ptr::from_ref(*link))));
        assert!(!seen.contains(&core::ptr::from_ref(newer_link)));
        assert_eq!(rcu.statistics().pending, 1);
        assert_eq!(rcu.statistics().grace_periods, 1);
    }
}

#[test]
fn sections_have_ended_when_the_word_is_outside_or_of_another_generation() {
    let word = slot::SectionWord::new();
    let outside = word.read();
    word.enter_owned();
    let open = word.read();
    word.enter_owned();
    let nested = word.read();
    assert!(outside.ended_by(outside) && outside.ended_by(open) && outside.ended_by(nested));
    assert!(!open.ended_by(open) && !open.ended_by(nested) && !nested.ended_by(open));
    word.leave_owned();
    assert_eq!(word.read(), open);
    word.leave_owned();
    let left = word.read();
    assert!(open.ended_by(left) && nested.ended_by(left) && outside.ended_by(left));
    word.enter_owned();
    assert!(open.ended_by(word.read()) && !word.read().ended_by(word.read()));
}

#[test]
fn without_readers_one_call_is_enough() {
    let os = system(Barrier::Works);
    let rcu = started(&os);
    attached(rcu);
    for _ in 0..3 {
        retired(rcu);
    }
    assert_eq!(rcu.reclaim(&os, None, |_| {}), 3);
    assert_eq!(rcu.reclaim(&os, None, |_| {}), 0);
    assert_eq!((rcu.statistics().pending, rcu.statistics().grace_periods), (0, 1));
    rcu.synchronize(&os, None).unwrap();
    assert_eq!(rcu.statistics().grace_periods, 2);
}

#[test]
fn a_reader_that_is_always_inside_again_holds_nothing_up() {
    let os = system(Barrier::Works);
    let rcu = started(&os);
    let slot = attached(rcu);
    let mut section = enter(rcu, slot);
    for _ in 0..100 {
        retired(rcu);
        assert_eq!(rcu.reclaim(&os, None, |_| {}), 0);
        drop(section);
        section = enter(rcu, slot);
        assert_eq!(rcu.reclaim(&os, None, |_| {}), 1);
    }
}

#[test]
fn sections_nest_and_end_in_any_order() {
    let os = system(Barrier::Works);
    let rcu = started(&os);
    let slot = attached(rcu);
    let outer = enter(rcu, slot);
    let inner = enter(rcu, slot);
    retired(rcu);
    assert_eq!(rcu.reclaim(&os, None, |_| {}), 0);
    drop(outer);
    assert!(slot.is_inside());
    assert_eq!(rcu.reclaim(&os, None, |_| {}), 0);
    assert_eq!(rcu.synchronize(&os, Some(slot)), Err(GraceError::InsideSection));
    drop(inner);
    assert_eq!(rcu.reclaim(&os, None, |_| {}), 1);
    assert_eq!(rcu.synchronize(&os, Some(slot)), Ok(()));
}

#[test]
fn synchronize_waits_for_a_section_of_another_thread() {
    let os = system(Barrier::Works);
    let rcu = started(&os);
    let section = enter(rcu, attached(rcu));
    let over = AtomicBool::new(false);
    std::thread::scope(|threads| {
        threads.spawn(|| {
            rcu.synchronize(&os, None).unwrap();
            over.store(true, SeqCst);
        });
        std::thread::sleep(std::time::Duration::from_millis(20));
        let early = over.load(SeqCst);
        drop(section);
        assert!(!early, "the section was open");
    });
    assert!(over.load(SeqCst));
}

#[test]
fn guests_hold_a_grace_period_up_also_when_they_share_a_word() {
    let os = system(Barrier::Works);
    let rcu = started(&os);
    let mut sections: Vec<_> = (0..GUESTS + 5).map(|_| rcu.enter_guest()).collect();
    retired(rcu);
    while let Some(section) = sections.pop() {
        assert_eq!(rcu.reclaim(&os, None, |_| {}), 0);
        drop(section);
    }
    assert_eq!(rcu.reclaim(&os, None, |_| {}), 1);
}

#[test]
fn overlapping_guests_do_not_starve_a_grace_period() {
    let os = system(Barrier::Works);
    let rcu = started(&os);
    let mut section = rcu.enter_guest();
    retired(rcu);
    assert_eq!(rcu.reclaim(&os, None, |_| {}), 0);
    for _ in 0..3 {
        let next = rcu.enter_guest();
        drop(std::mem::replace(&mut section, next));
    }
    assert_eq!(rcu.reclaim(&os, None, |_| {}), 1);
}

#[test]
fn a_barrier_that_fails_parks_what_is_retired_and_is_seldom_tried_again() {
    let os = system(Barrier::Works);
    let rcu = started(&os);
    let slot = attached(rcu);
    attached(rcu);
    os.reconfigure(|config| config.barrier = Barrier::StopsAfter(0));
    let before = os.calls().failed;
    for parked in 1..64 {
        retired(rcu);
        assert_eq!(rcu.reclaim(&os, Some(slot), |_| panic!("no grace period")), 0);
        assert_eq!(rcu.statistics().pending, parked);
        assert_eq!(rcu.synchronize(&os, Some(slot)), Err(GraceError::NoBarrier));
        assert!(rcu.statistics().stopped);
    }
    // At 1, 3, 7, 15, 31 and 63.
    assert_eq!(os.calls().failed - before, 6);
    os.reconfigure(|config| config.barrier = Barrier::Works);
    (0..64).for_each(|_| {
        retired(rcu);
    });
    assert_eq!(rcu.reclaim(&os, Some(slot), |_| {}), 127);
    assert!(!rcu.statistics().stopped);
    retired(rcu);
    assert_eq!(rcu.reclaim(&os, Some(slot), |_| {}), 1);
}

#[test]
fn a_waiter_whose_slot_is_the_only_one_makes_no_call() {
    let os = system(Barrier::Works);
    let rcu = started(&os);
    let slot = attached(rcu);
    let barriers = os.calls().barrier;
    retired(rcu);
    assert_eq!(rcu.reclaim(&os, Some(slot), |_| {}), 1);
    assert_eq!(rcu.synchronize(&os, Some(slot)), Ok(()));
    // A guest is waited for all the same.
    let guest = rcu.enter_guest();
    retired(rcu);
    assert_eq!(rcu.reclaim(&os, Some(slot), |_| panic!("a section is open")), 0);
    drop(guest);
    assert_eq!(rcu.reclaim(&os, Some(slot), |_| {}), 1);
    assert_eq!(os.calls().barrier, barriers);
    // Who has no slot is not alone, nor is the owner of the first one from now on.
    assert_eq!(rcu.synchronize(&os, None), Ok(()));
    attached(rcu);
    assert_eq!(rcu.synchronize(&os, Some(slot)), Ok(()));
    assert_eq!(os.calls().barrier, barriers + 2);
}

#[test]
fn done_may_retire_and_reclaim() {
    let os = system(Barrier::Works);
    let rcu = started(&os);
    let first = retired(rcu);
    let mut again = true;
    let handed = rcu.reclaim(&os, None, |link| {
        if std::mem::take(&mut again) {
            // SAFETY: the link was handed over, so it may be retired once more.
            unsafe { rcu.retire(link) };
        }
        assert_eq!(rcu.reclaim(&os, None, |_| panic!("the lock is held")), 0);
    });
    assert_eq!((handed, rcu.statistics().pending), (1, 1));
    assert_eq!(rcu.reclaim(&os, None, |link| assert!(core::ptr::eq(link, first))), 1);
}

/// A signal handler at every step of entering and leaving, itself with a section.
#[test]
fn a_handler_may_interrupt_an_entry_or_a_leave_anywhere() {
    let os: &'static Simulated = forever(system(Barrier::Works));
    let mut points = 0;
    loop {
        let rcu = started(os);
        let slot = attached(rcu);
        let handler = move || {
            let section = enter(rcu, slot);
            assert!(slot.is_inside());
            assert_eq!(rcu.synchronize(os, Some(slot)), Err(GraceError::InsideSection));
            drop(section);
        };
        let reached = arm(points, handler, || {
            let section = enter(rcu, slot);
            retired(rcu);
            assert!(slot.is_inside());
            assert_eq!(rcu.reclaim(os, None, |_| panic!("a section is open")), 0);
            drop(section);
            assert!(!slot.is_inside());
        });
        assert_eq!(rcu.reclaim(os, None, |_| {}), 1);
        if !reached {
            break;
        }
        points += 1;
    }
    assert!(points >= 7, "only {points} points were interrupted");
}

/// The thread that reclaims vanishes at every step; the child goes on, and every link but the one that it had in its
/// hands comes out exactly once. With and without links that were retired above the batch.
#[test]
fn a_fork_may_interrupt_a_reclaimer_anywhere() {
    let os: &'static Simulated = forever(system(Barrier::Works));
    for above in [false, true] {
        let (mut points, mut lost) = (0, 0);
        loop {
            let rcu = started(os);
            let (vanished, own) = (attached(rcu), attached(rcu));
            let links = forever([const { RetireLink::new() }; 4]);
            let counts = forever([const { AtomicUsize::new(0) }; 4]);
            let count = |link: &RetireLink| {
                let number = links.iter().position(|other| core::ptr::eq(other, link)).unwrap();
                counts[number].fetch_add(1, SeqCst);
            };
            // SAFETY: fresh links that nobody can find.
            links[..3].iter().for_each(|link| unsafe { rcu.retire(link) });
            if above {
                let section = enter(rcu, own);
                assert_eq!(rcu.reclaim(os, Some(own), count), 0);
                // SAFETY: as above.
                unsafe { rcu.retire(&links[3]) };
                drop(section);
            }
            let reached = arm(
                points,
                || resume_unwind(Box::new("vanished")),
                || {
                    let outcome = catch_unwind(AssertUnwindSafe(|| {
                        rcu.reclaim(os, Some(vanished), count);
                        // Inside a section when it vanishes.
                        std::mem::forget(enter(rcu, vanished));
                    }));
                    if let Err(reason) = outcome {
                        assert_eq!(reason.downcast_ref(), Some(&"vanished"));
                    }
                },
            );
            let total = if above { 4 } else { 3 };
            // SAFETY: this thread plays the only one of the child.
            unsafe { rcu.child_after_fork(&|slot| core::ptr::eq(slot, own)) };
            for _ in 0..2 {
                rcu.reclaim(os, Some(own), count);
            }
            let out = counts.iter().map(|count| count.load(SeqCst)).sum::<usize>();
            assert!(counts.iter().all(|count| count.load(SeqCst) <= 1));
            assert!((total - 1..=total).contains(&out), "{out} at point {points}");
            assert_eq!(rcu.statistics().pending, 0, "at point {points}");
            lost += total - out;
            // Nor is one that waits not counted.
            let late = forever(RetireLink::new());
            // SAFETY: as above.
            unsafe { rcu.retire(late) };
            let mut came = 0;
            rcu.reclaim(os, Some(own), |link| came += usize::from(core::ptr::eq(link, late)));
            assert_eq!(came, 1, "at point {points}");
            if !reached {
                break;
            }
            points += 1;
        }
        assert!(points >= 12, "only {points} points were interrupted");
        assert_eq!(lost, 3, "one at each point between list and count");
    }
}

/// A handler forks in the middle of the calling thread's own reclaim and section: both go on in the child.
#[test]
fn a_fork_in_a_handler_leaves_the_interrupted_reclaim_and_section_alone() {
    let os: &'static Simulated = forever(system(Barrier::Works));
    let rcu = started(os);
    let (own, other) = (attached(rcu), attached(rcu));
    let section = enter(rcu, own);
    std::mem::forget(enter(rcu, other));
    std::mem::forget(rcu.enter_guest());
    retired(rcu);
    let fork = || {
        // SAFETY: this thread plays the only one of the child.
        unsafe { rcu.child_after_fork(&|slot| core::ptr::eq(slot, own)) };
    };
    let reached = arm(0, fork, || {
        assert_eq!(rcu.reclaim(os, Some(own), |_| panic!("the own section is open")), 0);
    });
    assert!(reached);
    drop(section);
    assert_eq!(rcu.reclaim(os, Some(own), |_| {}), 1);
}

#[test]
fn a_fork_in_a_handler_leaves_the_lock_with_the_interrupted_reclaim() {
    let os: &'static Simulated = forever(system(Barrier::Works));
    let rcu = started(os);
    let own = attached(rcu);
    retired(rcu);
    let fork = || {
        // SAFETY: this thread plays the only one of the child.
        unsafe { rcu.child_after_fork(&|slot| core::ptr::eq(slot, own)) };
        assert_eq!(rcu.reclaim(os, Some(own), |_| panic!("the interrupted reclaim has the lock")), 0);
    };
    let mut handed = 0;
    assert!(arm(0, fork, || handed = rcu.reclaim(os, Some(own), |_| {})));
    assert_eq!(handed, 1);
}

#[test]
fn a_guest_that_a_fork_closed_leaves_without_harm() {
    let os = system(Barrier::Works);
    let rcu = started(&os);
    let own = attached(rcu);
    let section = rcu.enter_guest();
    // SAFETY: this thread plays the only one of the child.
    unsafe { rcu.child_after_fork(&|slot| core::ptr::eq(slot, own)) };
    drop(section);
    retired(rcu);
    assert_eq!(rcu.reclaim(&os, Some(own), |_| {}), 1);
    let next = rcu.enter_guest();
    retired(rcu);
    assert_eq!(rcu.reclaim(&os, Some(own), |_| {}), 0);
    drop(next);
}

/// Says so when it is dropped, that is also when its thread fails: the others would run on for ever.
struct Ended<'a>(&'a AtomicBool);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

/// Real threads, the real barrier where the kernel has one: no reader finds a thing that was freed under it.
#[test]
fn readers_and_a_reclaimer_race() {
    const THINGS: usize = 64;
    let barriers = [system(Barrier::Missing), system(Barrier::Works)];
    for os in barriers.iter().take(if system(Barrier::Works).register_barrier().is_ok() { 2 } else { 1 }) {
        let rcu = started(os);
        let live = forever([const { AtomicBool::new(false) }; THINGS]);
        let links = forever([const { RetireLink::new() }; THINGS]);
        let free = |link: &RetireLink| {
            let number = links.iter().position(|other| core::ptr::eq(other, link)).unwrap();
            live[number].store(false, Relaxed);
        };
        let (published, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
        live[0].store(true, Relaxed);
        std::thread::scope(|threads| {
            let ended = Ended(&stop);
            for _ in 0..2 {
                threads.spawn(|| {
                    let slot = attached(rcu);
                    while !stop.load(Relaxed) {
                        let section = enter(rcu, slot);
                        let thing = published.load(Acquire);
                        assert!(live[thing].load(Relaxed), "thing {thing} was freed under a reader");
                        drop(section);
                    }
                });
            }
            let own = attached(rcu);
            for round in 0..20_000 {
                let (old, new) = (round % THINGS, (round + 1) % THINGS);
                while live[new].load(Relaxed) {
                    rcu.reclaim(os, Some(own), free);
                }
                live[new].store(true, Relaxed);
                published.store(new, Release);
                if round % 16 == 0 {
                    rcu.synchronize(os, Some(own)).unwrap();
                    live[old].store(false, Relaxed);
                } else {
                    // SAFETY: unpublished above, and the link was handed over when the thing was last freed.
                    unsafe { rcu.retire(&links[old]) };
                }
            }
            drop(ended);
        });
        while rcu.statistics().pending != 0 {
            rcu.reclaim(os, None, free);
        }
        assert_eq!(live.iter().filter(|thing| thing.load(Relaxed)).count(), 1);
    }
}
