//! Bytes that are made to go.

use crate::support::{Door, fill, pattern, small_units, touch};
use specmalloc::paging::{Error, Evicted, PagedRegion};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

/// A pager whose bytes are all the number of the generation, which the caller changes.
fn generations() -> (Arc<AtomicUsize>, impl specmalloc::paging::Pager) {
    let generation = Arc::new(AtomicUsize::new(1));
    let its = generation.clone();
    let pager = move |_: usize, to: &mut [u8]| {
        to.fill(its.load(Relaxed) as u8);
        Ok(())
    };
    (generation, pager)
}

#[test]
fn what_is_evicted_is_fetched_again() {
    let (generation, pager) = generations();
    let Some(region) = small_units(10 * 4096, pager) else { return };
    let pin = region.pin().unwrap();
    assert_eq!(region.evict(0..10 * 4096).unwrap(), Evicted::default(), "nothing is there");
    for round in 1..5u8 {
        generation.store(round.into(), Relaxed);
        assert_eq!(touch(pin.as_ptr()), round);
        assert_eq!(*region.hold(4090..4100).unwrap(), [round; 10]);
        assert_eq!(region.resident(), 8192);
        generation.store(100, Relaxed);
        assert_eq!(touch(pin.as_ptr().wrapping_add(5000)), round, "nobody has evicted it");
        // Each unit of which a part lies in the range.
        assert_eq!(region.evict(4000..4097).unwrap(), Evicted { now: 2, later: 0 });
        assert_eq!(region.resident(), 0);
    }
    assert_eq!(region.fetched(), 8);
}

#[test]
fn what_is_held_goes_when_it_is_let_go_of() {
    let (generation, pager) = generations();
    let Some(region) = small_units(3 * 4096, pager) else { return };
    let (first, second) = (region.hold(0..3 * 4096).unwrap(), region.hold(4096..4097).unwrap());
    generation.store(2, Relaxed);
    assert_eq!(region.evict(0..3 * 4096).unwrap(), Evicted { now: 0, later: 3 });
    assert_eq!(region.evict(0..3 * 4096).unwrap(), Evicted { now: 0, later: 3 });
    assert_eq!((first[0], second[0], region.resident()), (1, 1, 3 * 4096));
    drop(first);
    assert_eq!(region.resident(), 4096);
    assert_eq!(*region.hold(0..1).unwrap(), [2]);
    assert_eq!(*region.hold(5000..5001).unwrap(), [1], "it is still held");
    drop(second);
    assert_eq!(*region.hold(5000..5001).unwrap(), [2]);
}

/// Evicted while the pager is at it: what it makes is thrown away, and it is asked again. Nobody waits.
#[test]
fn what_is_being_fetched_is_fetched_once_more() {
    let (generation, door) = (Arc::new(AtomicUsize::new(1)), Arc::new(Door::default()));
    let (its, its_door) = (generation.clone(), door.clone());
    let pager = move |_: usize, to: &mut [u8]| {
        to.fill(its.load(Relaxed) as u8);
        its_door.pass();
        Ok(())
    };
    let Some(region) = small_units(4096, pager) else { return };
    let (region, pin) = (&region, &region.pin().unwrap());
    thread::scope(|scope| {
        let touched = scope.spawn(move || touch(pin.as_ptr()));
        door.wait_for(1);
        let held = scope.spawn(move || region.hold(0..1).unwrap()[0]);
        generation.store(2, Relaxed);
        assert_eq!(region.evict(0..1).unwrap(), Evicted { now: 0, later: 1 });
        door.open();
        assert_eq!((touched.join().unwrap(), held.join().unwrap()), (2, 2));
    });
    assert_eq!(region.fetched(), 2);
}

/// `SPECMALLOC_TEST_SECONDS` says how long, if it is not to be short.
#[test]
fn evictions_race_readers() {
    const UNITS: usize = 8;
    let seconds = std::env::var("SPECMALLOC_TEST_SECONDS").ok().and_then(|text| text.parse().ok());
    let time = seconds.map_or(Duration::from_millis(500), Duration::from_secs);
    let generation = Arc::new(AtomicUsize::new(1));
    let its = generation.clone();
    let pager = move |_: usize, to: &mut [u8]| {
        let now = its.load(Relaxed).to_ne_bytes();
        to.chunks_exact_mut(8).for_each(|word| word.copy_from_slice(&now));
        Ok(())
    };
    let Some(region) = small_units(UNITS * 4096, pager) else { return };
    // The last generation of which all that came before is evicted.
    let (evicted, stop) = (&AtomicUsize::new(0), &AtomicBool::new(false));
    let (region, pin, generation) = (&region, &region.pin().unwrap(), &*generation);
    let reads = thread::scope(|scope| {
        let readers: Vec<_> = (0..UNITS)
            .map(|unit| {
                scope.spawn(move || {
                    let mut reads = 0usize;
                    while !stop.load(Relaxed) {
                        // One reader for each unit by calls: nobody else holds it, so it finds what is new.
                        let oldest = evicted.load(SeqCst);
                        let held = region.hold(unit * 4096..(unit + 1) * 4096).unwrap();
                        let words: Vec<usize> = held
                            .chunks_exact(8)
                            .map(|word| usize::from_ne_bytes(word.try_into().unwrap()))
                            .collect();
                        assert!(words.iter().all(|&word| word == words[0]), "a mixture");
                        assert!(words[0] >= oldest, "{} where {oldest} is gone", words[0]);
                        drop(held);
                        // Raw: any generation, but a page is of one.
                        let other = pin.as_ptr().wrapping_add((unit + 1) % UNITS * 4096).cast::<usize>();
                        // SAFETY: the region is pinned.
                        let word = unsafe { other.read_volatile() };
                        assert!((1..=generation.load(SeqCst)).contains(&word));
                        reads += 1;
                    }
                    reads
                })
            })
            .collect();
        let begun = Instant::now();
        let mut unit = 0;
        while begun.elapsed() < time {
            let new = generation.fetch_add(1, SeqCst) + 1;
            region.evict(0..UNITS * 4096).unwrap();
            evicted.store(new, SeqCst);
            unit = (unit + 1) % UNITS;
            region.evict(unit * 4096..unit * 4096 + 1).unwrap();
            thread::yield_now();
        }
        stop.store(true, Relaxed);
        readers.into_iter().map(|reader| reader.join().unwrap()).sum::<usize>()
    });
    assert!(reads > 0 && generation.load(Relaxed) > 10, "{reads} reads, {generation:?} generations");
    println!("{reads} reads, {} generations, {} fetched", generation.load(Relaxed), region.fetched());
}

/// The last unit of a region is as long as what is left, and what lies behind it in memory is somebody else's.
#[test]
fn nothing_behind_the_last_unit_is_taken_away() {
    let region = match PagedRegion::new((64 << 10) + 5000, fill) {
        Err(Error::NotAllowed { .. }) => return,
        region => region.unwrap(),
    };
    let behind = region.pin().unwrap().as_ptr().wrapping_add((64 << 10) + 8192);
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE;
    // SAFETY: takes addresses that nobody has.
    let page = unsafe {
        libc::mmap(behind.cast_mut().cast(), 4096, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0)
    };
    if page.cast_const() != behind.cast() {
        eprintln!("somebody else has what lies behind: not tested");
        return;
    }
    let page: *mut u8 = page.cast();
    // SAFETY: mapped above.
    unsafe { page.write(7) };
    let all = (64 << 10) + 5000;
    for _ in 0..2 {
        assert_eq!(region.hold(all - 1..all).unwrap()[0], pattern(all - 1));
        assert_eq!(region.evict(0..all).unwrap().now, 1);
    }
    // SAFETY: as above.
    unsafe {
        assert_eq!(page.read(), 7);
        libc::munmap(page.cast(), 4096);
    }
}
