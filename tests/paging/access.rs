//! Bytes that are touched, held and read.

use crate::support::{Door, fill, pattern, small_units, touch};
use specmalloc::paging::{Cause, Error, PagedOptions, PagedRegion, PagerError};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread;

#[test]
fn every_way_to_read_finds_the_pagers_bytes() {
    for len in [0, 1, 4095, 4096, 4097, 1_000_001] {
        let Some(region) = small_units(len, fill) else { return };
        let wanted: Vec<u8> = (0..len).map(pattern).collect();
        let pin = region.pin().unwrap();
        assert_eq!((0..len).map(|at| touch(pin.as_ptr().wrapping_add(at))).collect::<Vec<u8>>(), wanted);
        assert_eq!(region.fetched(), len.div_ceil(4096));
        assert_eq!(region.resident(), len.next_multiple_of(4096));
        // SAFETY: the pager makes the same bytes each time.
        assert_eq!(unsafe { pin.bytes() }, wanted);
        assert_eq!(&*region.hold(0..len).unwrap(), wanted);
        let mut read = vec![0; len + 10];
        assert_eq!(region.read_at(0, &mut read).unwrap(), len);
        assert_eq!(read[..len], wanted);
        assert_eq!(region.fetched(), len.div_ceil(4096), "nothing is fetched twice");
        assert_eq!(region.read_at(len + 1, &mut read).unwrap(), 0);
        assert!(matches!(region.read_exact_at(0, &mut read), Err(Error::OutOfRange { .. })));
        assert!(matches!(region.hold(0..len + 1), Err(Error::OutOfRange { .. })));
        assert!(matches!(region.evict(0..len + 1), Err(Error::OutOfRange { .. })));
    }
    // What lies behind the last byte of the last page is zero.
    let region = small_units(100, fill).unwrap();
    assert_eq!(touch(region.pin().unwrap().as_ptr().wrapping_add(100)), 0);
}

#[test]
fn units_are_of_the_size_that_was_asked_for() {
    if small_units(1, fill).is_none() {
        return;
    }
    for unit in [0, 1, 2048, 4097, 12_288, 2 << 30] {
        assert!(matches!(
            PagedOptions::new().unit(unit).map(1, fill),
            Err(Error::BadUnit { unit: said }) if said == unit
        ));
    }
    for unit in [4096, 64 << 10, 2 << 20] {
        let region = PagedOptions::new().unit(unit).map(10 << 20, fill).unwrap();
        let pin = region.pin().unwrap();
        assert_eq!(touch(pin.as_ptr().wrapping_add((6 << 20) - 1)), pattern((6 << 20) - 1));
        assert_eq!((region.fetched(), region.resident()), (1, unit));
        let held = region.hold((6 << 20) - 1..(6 << 20) + 1).unwrap();
        assert_eq!(*held, [pattern((6 << 20) - 1), pattern(6 << 20)]);
        assert_eq!(region.fetched(), 2);
    }
}

/// Far more than there is memory for: nothing is there but what was touched.
#[test]
fn regions_larger_than_memory() {
    let tens = |offset: usize, to: &mut [u8]| -> Result<(), PagerError> {
        to.fill((offset >> 30) as u8);
        Ok(())
    };
    if small_units(1, fill).is_none() {
        return;
    }
    let region = PagedRegion::new(1 << 40, tens).unwrap();
    let pin = region.pin().unwrap();
    for gigabyte in [0, 1, 200, 1023] {
        assert_eq!(touch(pin.as_ptr().wrapping_add(gigabyte << 30)), gigabyte as u8);
    }
    assert_eq!(region.fetched(), 4);
    assert_eq!(region.evict(1 << 30..2 << 30).unwrap().now, 1);
    drop(pin);
    region.unmap().unwrap();
}

/// Many threads fault at the same time, and all pagers run at the same time: each waits for all others.
#[test]
fn faults_are_served_in_parallel() {
    const THREADS: usize = 16;
    let door = Arc::new(Door::default());
    let its = door.clone();
    let pager = move |offset: usize, to: &mut [u8]| {
        its.pass();
        fill(offset, to)
    };
    let Some(region) = small_units(THREADS * 4096, pager) else { return };
    let pin = &region.pin().unwrap();
    thread::scope(|scope| {
        for number in 0..THREADS {
            scope.spawn(move || {
                let at = number * 4096 + number;
                assert_eq!(touch(pin.as_ptr().wrapping_add(at)), pattern(at));
            });
        }
        // All of them are at the door at once, or this waits forever.
        door.wait_for(THREADS);
        door.open();
    });
    assert_eq!(region.fetched(), THREADS);
}

#[test]
fn ten_thousand_units_once_each() {
    const UNITS: usize = 10_000;
    let counts: Arc<Vec<AtomicUsize>> = Arc::new((0..UNITS).map(|_| AtomicUsize::new(0)).collect());
    let its = counts.clone();
    let pager = move |offset: usize, to: &mut [u8]| {
        its[offset / 4096].fetch_add(1, Relaxed);
        fill(offset, to)
    };
    let Some(region) = small_units(UNITS * 4096, pager) else { return };
    let (region, pin) = (&region, &region.pin().unwrap());
    thread::scope(|scope| {
        for number in 0..8 {
            scope.spawn(move || {
                for step in 0..UNITS {
                    // Two go up and two go down, and half of each touch and half of each hold.
                    let unit = if number % 4 < 2 { step } else { UNITS - 1 - step };
                    let at = unit * 4096 + 17;
                    let found = match number % 2 {
                        0 => touch(pin.as_ptr().wrapping_add(at)),
                        _ => region.hold(at..at + 1).unwrap()[0],
                    };
                    assert_eq!(found, pattern(at));
                }
            });
        }
    });
    assert!(counts.iter().all(|count| count.load(Relaxed) == 1));
    assert_eq!((region.fetched(), region.resident()), (UNITS, UNITS * 4096));
}

#[test]
fn a_pagers_error_is_a_typed_error_until_it_is_evicted() {
    let broken = Arc::new(AtomicUsize::new(1));
    let its = broken.clone();
    let pager = move |offset: usize, to: &mut [u8]| {
        match its.load(Relaxed) {
            1 if offset == 8192 => return Err("the disk is on fire".into()),
            2 if offset == 8192 => panic!("as a test, at {offset}"),
            _ => {}
        }
        fill(offset, to)
    };
    let Some(region) = small_units(20_000, pager) else { return };
    for kind in [1, 2] {
        broken.store(kind, Relaxed);
        region.evict(0..20_000).unwrap();
        let before = region.fetched();
        for _ in 0..2 {
            let mut bytes = [0; 20_000];
            for error in [
                region.hold(8000..8193).map(drop).unwrap_err(),
                region.read_exact_at(0, &mut bytes).unwrap_err(),
            ] {
                let Error::Failed { offset: 8192, cause } = &error else { panic!("{error:?}") };
                match (kind, cause) {
                    (1, Cause::Pager(cause)) => assert_eq!(cause.to_string(), "the disk is on fire"),
                    (2, Cause::Panicked(words)) => assert_eq!(&**words, "as a test, at 8192"),
                    other => panic!("{other:?}"),
                }
                assert!(error.to_string().starts_with("the bytes at 8192 could not be fetched: "), "{error}");
            }
            assert_eq!(
                bytes[..8192],
                (0..8192).map(pattern).collect::<Vec<u8>>(),
                "what came before is there"
            );
        }
        assert_eq!(region.fetched() - before, 3, "the pager is asked once");
        assert_eq!(*region.hold(12_288..12_289).unwrap(), [pattern(12_288)], "the others can be had");
        // It is whole again, but nobody has evicted it yet.
        broken.store(0, Relaxed);
        assert!(region.hold(8192..8193).is_err());
        assert_eq!(region.evict(8192..8193).unwrap().now, 1);
        assert_eq!(*region.hold(8192..8193).unwrap(), [pattern(8192)]);
        let pin = region.pin().unwrap();
        assert_eq!(touch(pin.as_ptr().wrapping_add(9000)), pattern(9000));
    }
}

/// An error is there for as long as its bytes are not.
#[test]
fn a_pagers_error_goes_with_the_eviction() {
    #[derive(Debug)]
    struct Tracked(Arc<()>);
    impl std::fmt::Display for Tracked {
        fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            write!(to, "one of {}", Arc::strong_count(&self.0))
        }
    }
    impl std::error::Error for Tracked {}
    let counts = Arc::new(());
    let its = counts.clone();
    let pager =
        move |_: usize, _: &mut [u8]| -> Result<(), PagerError> { Err(Box::new(Tracked(its.clone()))) };
    let Some(region) = small_units(4 * 4096, pager) else { return };
    for _ in 0..2 {
        (0..4).for_each(|unit| assert!(region.hold(unit * 4096..unit * 4096 + 1).is_err()));
        assert_eq!(Arc::strong_count(&counts), 6);
        assert_eq!(region.evict(4096..3 * 4096).unwrap().now, 2);
        assert_eq!(Arc::strong_count(&counts), 4);
        region.evict(0..4 * 4096).unwrap();
        assert_eq!(Arc::strong_count(&counts), 2);
    }
}

/// What a pager does not fill is zero, whatever the thread fetched before.
#[test]
fn a_pager_begins_with_zeros() {
    let pager = |offset: usize, to: &mut [u8]| -> Result<(), PagerError> {
        assert!(to.iter().all(|&byte| byte == 0), "something at {offset}");
        to[..100].fill(1);
        Ok(())
    };
    let Some(region) = small_units(20 * 4096, pager) else { return };
    let pin = region.pin().unwrap();
    for unit in 0..10 {
        let at = pin.as_ptr().wrapping_add(unit * 4096);
        assert_eq!((touch(at), touch(at.wrapping_add(100))), (1, 0));
    }
    let held = region.hold(10 * 4096..20 * 4096).unwrap();
    assert!(held.iter().enumerate().all(|(at, &byte)| byte == u8::from(at % 4096 < 100)));
}

/// The kernel may not read them either, and what the pager makes of them then is what is there.
#[test]
fn a_pager_that_has_the_kernel_read_its_own_region() {
    let own: Arc<std::sync::OnceLock<PagedRegion>> = Arc::default();
    let (its, file) = (own.clone(), specmalloc::files::memfd("written", 0).unwrap());
    let pager = move |offset: usize, to: &mut [u8]| {
        let pin = its.get().ok_or("not yet")?.pin()?;
        // SAFETY: the kernel says what it cannot read.
        let written = unsafe {
            libc::write(std::os::fd::AsRawFd::as_raw_fd(&file), pin.as_ptr().wrapping_add(offset).cast(), 100)
        };
        let error = std::io::Error::last_os_error();
        assert_eq!((written, error.raw_os_error()), (-1, Some(libc::EFAULT)));
        fill(offset, to)
    };
    let Some(region) = small_units(3 * 4096, pager) else { return };
    let region = own.get_or_init(|| region);
    // (Who waits in a fault meanwhile may be told as the kernel is: by a signal.)
    assert_eq!(*region.hold(5000..5001).unwrap(), [pattern(5000)]);
    assert_eq!(*region.hold(0..1).unwrap(), [pattern(0)]);
}

/// A pager that needs the bytes it is asked for is told, and may use all other ones.
#[test]
fn a_pager_that_reads_its_own_region() {
    let own: Arc<std::sync::OnceLock<PagedRegion>> = Arc::default();
    let its = own.clone();
    let pager = move |offset: usize, to: &mut [u8]| {
        let region = its.get().ok_or("not yet")?;
        match offset {
            0 => fill(0, to),
            4096 => Ok(region.read_exact_at(offset, to)?),
            _ => {
                // By a fault and by a call.
                let pin = region.pin()?;
                to.fill(touch(pin.as_ptr().wrapping_add(offset - 8192)).wrapping_add(1));
                region.read_exact_at(offset - 8192, &mut to[..1]).map_err(PagerError::from)
            }
        }
    };
    let Some(region) = small_units(4 * 8192, pager) else { return };
    let region = own.get_or_init(|| region);
    let held = region.hold(16_384..16_386).unwrap();
    assert_eq!(*held, [pattern(0), pattern(0) + 1]);
    let error = region.hold(4096..4097).unwrap_err();
    let Error::Failed { cause: Cause::Pager(cause), .. } = error else { panic!("{error:?}") };
    assert!(matches!(cause.downcast_ref::<Error>(), Some(Error::InsidePager)), "{cause:?}");
}
