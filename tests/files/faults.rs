//! Pages that are gone.

use crate::support::{filled, pattern, region};
use specmalloc::files::{Cause, Error, Fault, FileOptions, FileRegion, memfd};
use std::fs::File;
use std::io::Read as _;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

fn fault<T: std::fmt::Debug>(result: Result<T, Error>) -> Fault {
    match result {
        Err(Error::Fault(fault)) => fault,
        other => panic!("no fault: {other:?}"),
    }
}

type Read = fn(&FileRegion) -> Result<(), Error>;

const GONE: Fault = Fault { offset: 8192, cause: Cause::Truncated };

#[test]
fn every_way_to_read_says_which_page_is_gone() {
    let reads: [Read; 5] = [
        |region| region.with_faults_caught(|bytes| drop(std::hint::black_box(bytes.to_vec()))),
        |region| region.read_at(8000, &mut [0; 1000]).map(drop),
        |region| region.read_exact_at(8192, &mut [0]),
        |region| {
            region.pin()?.slice(8000..).with_faults_caught(|bytes| drop(std::hint::black_box(bytes.to_vec())))
        },
        |region| {
            let mut cursor = region.cursor()?;
            while cursor.read_array::<100>().is_ok() {}
            cursor.read_array::<100>().map(drop)
        },
    ];
    for read in reads {
        let (file, region) = region(20_000);
        read(&region)
            .or_else(|error| match error {
                Error::OutOfRange { .. } => Ok(()),
                error => Err(error),
            })
            .unwrap();
        let pin = region.pin().unwrap();
        file.set_len(8192).unwrap();
        assert_eq!(fault(read(&region)), GONE);
        assert_eq!(fault(region.guard().map(drop)), GONE, "the region takes no more readers");
        assert_eq!(fault(region.pin().map(drop)), GONE);
        assert_eq!(fault(region.read_at(0, &mut [0])), GONE);
        assert_eq!(pin[..8192], filled(8192), "what is there can be read");
        let reopened = region.reopen().unwrap();
        assert_eq!((reopened.len, reopened.moved), (8192, true));
        assert_eq!(&*region.guard().unwrap(), filled(8192));
        assert_eq!(fault(pin.with_faults_caught(|bytes| bytes[0])), GONE, "the pin is on the old mapping");
        let mut copied = Vec::new();
        assert_eq!(region.copy_to(1..8192, &mut copied).unwrap(), 8191);
        assert_eq!(copied, filled(8192)[1..]);
    }
}

#[test]
fn a_pin_on_what_was_superseded_is_guarded_too() {
    let (file, region) = region(20_000);
    let pin = region.pin().unwrap();
    let mut cursor = region.cursor().unwrap();
    file.set_len(100_000_000).unwrap();
    assert!(region.reopen().unwrap().moved);
    file.set_len(8192).unwrap();
    assert_eq!(fault(pin.with_faults_caught(|bytes| bytes.to_vec())), GONE);
    let error = cursor.read_to_end(&mut Vec::new()).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::UnexpectedEof);
    assert_eq!(region.read_at(0, &mut [0; 100]).unwrap(), 100);
}

#[test]
fn closures_nest_and_may_panic() {
    let ((short, outer), (_file, inner)) = (region(20_000), region(20_000));
    short.set_len(8192).unwrap();
    let caught = std::panic::catch_unwind(|| inner.with_faults_caught(|_| panic!("as a test")));
    assert!(caught.is_err());
    let result = outer.with_faults_caught(|bytes| {
        // A fault of the outer one's, inside the inner one's closure, which is sound.
        let inside = inner.with_faults_caught(|own| (own[9000], bytes[9000])).unwrap();
        assert_eq!(inside, (pattern(9000), 0));
        assert!(matches!(outer.unmap(), Err(Error::InsideGuard)));
    });
    assert_eq!(fault(result), GONE);
}

#[test]
fn holes_are_read_as_zeros_and_a_file_may_grow_again() {
    let (file, region) = region(20_000);
    // SAFETY: changes the file.
    let punched = unsafe {
        let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        libc::fallocate(file.as_raw_fd(), mode, 4096, 8192)
    };
    assert_eq!(punched, 0);
    let sum = |bytes: &[u8]| bytes[4096..12_288].iter().map(|&byte| usize::from(byte)).sum::<usize>();
    assert_eq!(region.with_faults_caught(sum).unwrap(), 0);
    file.set_len(100).unwrap();
    assert_eq!(region.read_at(0, &mut [0; 4096]).unwrap(), 4096, "the rest of the last page is zeros");
    file.set_len(20_000).unwrap();
    assert_eq!(region.with_faults_caught(sum).unwrap(), 0, "nobody looked while it was short");
    file.set_len(100).unwrap();
    assert_eq!(region.reopen().unwrap().len, 100);
    assert_eq!(&*region.guard().unwrap(), filled(100));
    file.set_len(20_000).unwrap();
    assert!(!region.reopen().unwrap().moved);
    assert_eq!(region.guard().unwrap()[100..], [0; 19_900]);
}

/// `SPECMALLOC_TEST_SECONDS` says how long, if it is not to be short.
#[test]
fn sixteen_readers_race_a_truncation() {
    let seconds = std::env::var("SPECMALLOC_TEST_SECONDS").ok().and_then(|text| text.parse().ok());
    let time = seconds.map_or(Duration::from_millis(300), Duration::from_secs);
    let (file, region) = region(256 << 10);
    let (stop, faults, reads) = (AtomicBool::new(false), AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for reader in 0..16 {
            let (region, stop, faults, reads) = (&region, &stop, &faults, &reads);
            scope.spawn(move || {
                let mut buffer = vec![0; 100_000];
                while !stop.load(Ordering::Relaxed) {
                    let outcome = match reader % 3 {
                        0 => region.with_faults_caught(|bytes| drop(std::hint::black_box(bytes.to_vec()))),
                        1 => region.read_at(100_000, &mut buffer).map(drop),
                        _ => region.pin().and_then(|pin| {
                            pin.with_faults_caught(|bytes| drop(std::hint::black_box(bytes.to_vec())))
                        }),
                    };
                    match outcome {
                        Ok(()) => reads.fetch_add(1, Ordering::Relaxed),
                        Err(Error::Fault(fault)) => {
                            assert!(
                                fault.offset.is_multiple_of(4096) && fault.offset < 256 << 10,
                                "{fault:?}"
                            );
                            faults.fetch_add(1, Ordering::Relaxed);
                            region.reopen().unwrap();
                            0
                        }
                        Err(error) => panic!("{error}"),
                    };
                }
            });
        }
        scopeguard::defer!(stop.store(true, Ordering::Relaxed));
        let begun = Instant::now();
        while begun.elapsed() < time || faults.load(Ordering::Relaxed) == 0 {
            file.set_len(4096 * (begun.elapsed().subsec_nanos() as u64 % 64)).unwrap();
            std::thread::yield_now();
            file.set_len(256 << 10).unwrap();
            region.reopen().unwrap();
        }
    });
    region.unmap().unwrap();
    println!("{} reads, {} faults", reads.load(Ordering::Relaxed), faults.load(Ordering::Relaxed));
}

#[test]
fn a_full_disk_is_an_error_of_the_call() {
    let folder = crate::support::Folder::new();
    let small = folder.path().join("small");
    std::fs::create_dir(&small).unwrap();
    let path = std::ffi::CString::new(small.to_str().unwrap()).unwrap();
    // SAFETY: mounts a small file system over a folder of the test's own.
    let mounted = unsafe {
        libc::mount(c"none".as_ptr(), path.as_ptr(), c"tmpfs".as_ptr(), 0, c"size=1m".as_ptr().cast())
    };
    if mounted != 0 {
        return println!("skipped: no file system may be mounted here");
    }
    let run = || {
        let file = File::options().read(true).write(true).create_new(true).open(small.join("data")).unwrap();
        // SAFETY: the bytes are written when nobody borrows them.
        let region = unsafe { FileOptions::new().headroom(8 << 20).map_mut(&file).unwrap() };
        region.grow(500 << 10).unwrap();
        region.write_at(0, &filled(500 << 10)).unwrap();
        let full = region.grow(2 << 20);
        assert!(
            matches!(&full, Err(Error::System { call: "fallocate", error })
            if error.raw_os_error() == Some(libc::ENOSPC)),
            "{full:?}"
        );
        assert_eq!(region.reopen().unwrap().len, 500 << 10);
        // Without a reservation the write finds out.
        file.set_len(2 << 20).unwrap();
        // SAFETY: as above.
        let sparse = unsafe { FileOptions::new().reserve(false).map_mut(&file).unwrap() };
        let written = fault(sparse.write_at(500 << 10, &vec![1; 1500 << 10]));
        assert_eq!(written.cause, Cause::Io);
        assert!((500 << 10..2 << 20).contains(&written.offset), "{written:?}");
        // SAFETY: as above.
        assert!(unsafe { FileOptions::new().map_mut(&file) }.is_err());
    };
    let outcome = std::panic::catch_unwind(run);
    // SAFETY: undoes the mount.
    unsafe { libc::umount2(path.as_ptr(), libc::MNT_DETACH) };
    outcome.unwrap();
}

#[test]
fn the_system_takes_advice_and_locks() {
    use specmalloc::files::Advice;
    let file = memfd("test", 100_000).unwrap();
    // SAFETY: the bytes are written when nobody borrows them.
    let region = unsafe { FileOptions::new().offset(100).populate().map_mut(&file).unwrap() };
    for advice in [Advice::Sequential, Advice::WillNeed, Advice::Random, Advice::Normal] {
        region.advise(advice).unwrap();
    }
    region.advise_range(Advice::WillNeed, 50_000..60_000).unwrap();
    region.write_at(0, b"x").unwrap();
    region.flush_async().unwrap();
    region.flush_range(0..1).unwrap();
    region.flush_async_range(99_000..1_000_000).unwrap();
    match region.lock() {
        Ok(()) => region.unlock().unwrap(),
        Err(error) => assert!(matches!(error, Error::System { call: "mlock", .. })),
    }
    let mut told = Vec::new();
    let read = region.prefault(|done, all| {
        told.push((done, all));
        std::ops::ControlFlow::Break(())
    });
    assert_eq!((read.unwrap(), told), (99_900, vec![(99_900, 99_900)]));
    file.set_len(50_000).unwrap();
    let gone = region.prefault(|_, _| std::ops::ControlFlow::Continue(()));
    assert_eq!(fault(gone), Fault { offset: 53_248, cause: Cause::Truncated });
}
