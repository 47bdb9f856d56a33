//! Reopening, growing and unmapping under readers.

use crate::support::{Folder, filled, goes, is_mapped, memory, pattern, region};
use specmalloc::files::{Error, FileOptions, FileRegion};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

#[test]
fn a_file_grows_where_it_is_while_there_is_room() {
    let file = memory(1000);
    // SAFETY: bytes are added, none is changed.
    let region = unsafe { FileOptions::new().headroom(64 << 10).map(&file).unwrap() };
    let before = region.pin().unwrap();
    file.write_all_at(&filled(50_000), 0).unwrap();
    let grown = region.reopen().unwrap();
    assert_eq!((grown.len, grown.moved), (50_000, false));
    assert_eq!(region.guard().unwrap().as_ptr(), before.as_ptr());
    file.write_all_at(&filled(200_000), 0).unwrap();
    let grown = region.reopen().unwrap();
    assert_eq!((grown.len, grown.moved), (200_000, true));
    assert_eq!(&*region.guard().unwrap(), filled(200_000));
    assert_eq!(&*before, filled(1000));
    let old = before.as_ptr().addr();
    drop(before);
    assert!(goes(&file, old), "the old mapping goes after its readers");
}

#[test]
fn a_file_that_was_replaced_is_another_one() {
    let folder = Folder::new();
    let path = folder.file("data", b"the old one");
    // SAFETY: files are replaced, not changed.
    let region = unsafe { FileRegion::open(&path).unwrap() };
    let before = region.pin().unwrap();
    std::fs::rename(folder.file("next", b"a newer one!"), &path).unwrap();
    assert_eq!(&*region.guard().unwrap(), b"the old one");
    let reopened = region.reopen().unwrap();
    assert_eq!((reopened.len, reopened.moved), (12, true));
    assert_eq!((&*region.guard().unwrap(), &*before), (&b"a newer one!"[..], &b"the old one"[..]));
    std::fs::remove_file(&path).unwrap();
    assert!(matches!(region.reopen(), Err(Error::System { call: "open", .. })));
    assert_eq!(&*region.guard().unwrap(), b"a newer one!");
    // A pipe that nobody writes to, and a folder: neither is waited for.
    let name = std::ffi::CString::new(path.to_str().unwrap()).unwrap();
    // SAFETY: the name ends in a zero byte.
    assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
    assert!(matches!(region.reopen(), Err(Error::System { call: "mmap", .. })));
    std::fs::remove_file(&path).unwrap();
    std::fs::create_dir(&path).unwrap();
    assert!(matches!(region.reopen(), Err(Error::System { call: "mmap", .. })));
    assert_eq!(&*region.guard().unwrap(), b"a newer one!");
}

#[test]
fn a_writable_region_grows_its_file() {
    let folder = Folder::new();
    let path = folder.file("data", b"");
    // SAFETY: bytes are added, none is changed.
    let region = unsafe { FileOptions::new().open_mut(&path).unwrap() };
    for len in [1, 5000, 70_000, 500_000, 400_000] {
        let at = region.len();
        let grown = region.grow(len).unwrap();
        assert_eq!(grown.len, len.max(at));
        region.write_at(at, &filled(len)[at.min(len)..]).unwrap();
    }
    assert_eq!(std::fs::read(&path).unwrap(), filled(500_000));
    let part = memory(10_000);
    // SAFETY: as above.
    let part = unsafe { FileOptions::new().offset(5000).len(1000).map_mut(&part).unwrap() };
    assert_eq!(part.grow(6000).unwrap().len, 6000);
    assert_eq!(part.reopen().unwrap().len, 6000);
    assert_eq!(&part.guard().unwrap()[..5000], &filled(10_000)[5000..]);
}

#[test]
fn unmapping_waits_for_readers_and_says_how_long() {
    let (file, region) = region(10_000);
    let pin = region.pin().unwrap();
    let address = pin.as_ptr().addr();
    let held = Duration::from_millis(50);
    thread::scope(|scope| {
        let region = &region;
        scope.spawn(move || {
            // Since the other began to wait.
            while !region.is_closed() {
                thread::sleep(Duration::from_millis(1));
            }
            thread::sleep(held);
            assert_eq!(pin[9_999], pattern(9_999));
        });
        assert!(region.unmap().unwrap().waited >= held);
        assert!(!is_mapped(&file, address));
    });
    assert!(matches!(region.unmap(), Err(Error::Closed)) && region.is_closed());
}

#[test]
fn unmapping_waits_for_guards_of_other_threads() {
    let (_file, region) = region(10_000);
    let (inside, is_inside) = channel();
    let left = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let guard = region.guard().unwrap();
            inside.send(()).unwrap();
            thread::sleep(Duration::from_millis(50));
            assert_eq!(guard[5000], pattern(5000));
            left.store(true, Ordering::SeqCst);
        });
        is_inside.recv().unwrap();
        region.unmap().unwrap();
        assert!(left.load(Ordering::SeqCst));
    });
}

#[test]
fn unmapping_inside_ones_own_guard_is_an_error() {
    let (_file, region) = region(10);
    let (_other_file, other) = crate::support::region(10);
    let guard = region.guard().unwrap();
    assert!(matches!(region.unmap(), Err(Error::InsideGuard)));
    assert!(matches!(other.unmap(), Err(Error::InsideGuard)));
    assert!(matches!(region.unmap_within(Duration::from_secs(100)), Err(Error::InsideGuard)));
    assert_eq!(&*guard, &*region.guard().unwrap());
    region.unmap_later().unwrap();
    assert_eq!(&*guard, filled(10), "whoever was there goes on");
    drop(guard);
    other.unmap().unwrap();
}

#[test]
fn there_is_a_limit_to_waiting() {
    let (_file, region) = region(10);
    let pin = region.pin().unwrap();
    assert!(matches!(region.try_unmap(), Err(Error::Busy)) && !region.is_closed());
    assert_eq!(&*region.guard().unwrap(), filled(10));
    let limit = Duration::from_millis(20);
    assert!(matches!(region.unmap_within(limit), Err(Error::TimedOut { waited }) if waited >= limit));
    assert!(region.is_closed());
    assert_eq!(&*pin, filled(10));
    let (file, region) = crate::support::region(10);
    let address = region.guard().unwrap().as_ptr().addr();
    let gone = region.try_unmap().unwrap();
    assert!(if gone { !is_mapped(&file, address) } else { goes(&file, address) });
    assert!(matches!(region.try_unmap(), Err(Error::Closed)));
    let (_file, region) = crate::support::region(10);
    region.unmap_within(Duration::from_secs(1000)).unwrap();
}

/// Readers of all kinds, and one who reopens, grows, replaces; at last it unmaps.
#[test]
fn readers_never_see_anything_but_a_file() {
    const ROUNDS: usize = 300;
    let folder = Folder::new();
    let path = folder.file("data", &filled(1000));
    // SAFETY: bytes are added, none is changed.
    let region = unsafe { FileOptions::new().headroom(10_000).open(&path).unwrap() };
    let reads = AtomicUsize::new(0);
    thread::scope(|scope| {
        for reader in 0..4usize {
            let (region, reads) = (&region, &reads);
            scope.spawn(move || {
                let mut at = reader;
                let mut held = Vec::new();
                loop {
                    at = at.wrapping_mul(7) + 1;
                    let look = |bytes: &[u8]| assert_eq!(bytes[at % bytes.len()], pattern(at % bytes.len()));
                    let outcome = match reader {
                        0 | 1 => region.guard().map(|guard| look(&guard)),
                        2 => region.pin().map(|pin| {
                            look(&pin);
                            held.push(pin);
                            if held.len() > 20 {
                                look(&held.swap_remove(at % 20));
                            }
                        }),
                        _ => region.with_faults_caught(look),
                    };
                    match outcome {
                        Ok(()) => reads.fetch_add(1, Ordering::Relaxed),
                        Err(Error::Closed) => break,
                        Err(error) => panic!("{error}"),
                    };
                }
                held.iter().for_each(|pin| assert_eq!(pin[999], pattern(999)));
            });
        }
        scopeguard::defer!(drop(region.unmap_later()));
        for round in 0..ROUNDS {
            let len = 1000 + round * 97 % 30_000;
            if round % 3 == 0 {
                std::fs::rename(folder.file("next", &filled(len)), &path).unwrap();
            } else {
                let file = std::fs::File::options().append(true).open(&path).unwrap();
                let ends = file.metadata().unwrap().len() as usize;
                let more: Vec<u8> = (ends..ends + 700).map(pattern).collect();
                std::io::Write::write_all(&mut &file, &more).unwrap();
            }
            region.reopen().unwrap();
        }
        // Pins are held until their threads see that it is closed.
        region.unmap().unwrap();
    });
    assert!(reads.load(Ordering::Relaxed) > 0);
}
