//! What guards and pins show, and how long it stays.

use crate::support::{Folder, filled, goes, is_mapped, memory, pattern, region};
use specmalloc::files::{Error, FileOptions, FileRegion};
use std::thread;

#[test]
fn any_part_of_a_file_can_be_mapped() {
    let file = memory(20_000);
    for offset in [0, 1, 4095, 4096, 4097, 12_288, 19_999, 20_000] {
        for len in [0, 1, 4095, 4096, 4097, 20_000] {
            // SAFETY: nobody changes the file.
            let part = unsafe { FileOptions::new().offset(offset).len(len).map(&file) };
            if offset as usize + len > 20_000 {
                assert!(matches!(part, Err(Error::OutOfRange { file: 20_000, .. })), "{offset}, {len}");
                continue;
            }
            let part = part.unwrap();
            let wanted: Vec<u8> = (offset as usize..offset as usize + len).map(pattern).collect();
            assert_eq!(&*part.guard().unwrap(), wanted, "{offset}, {len}");
            assert_eq!(&*part.pin().unwrap(), wanted);
            assert_eq!((part.len(), part.is_empty()), (len, len == 0));
        }
        // SAFETY: as above.
        let rest = unsafe { FileOptions::new().offset(offset).map(&file).unwrap() };
        assert_eq!(rest.len(), 20_000 - offset as usize);
    }
}

#[test]
fn an_empty_file_is_a_region_without_bytes() {
    let (file, region) = region(0);
    assert_eq!(&*region.guard().unwrap(), b"");
    assert_eq!(region.read_at(0, &mut [0; 8]).unwrap(), 0);
    file.set_len(10).unwrap();
    assert_eq!(region.reopen().unwrap().len, 10);
    assert_eq!(&*region.guard().unwrap(), [0; 10]);
}

/// Sparse: only the pages that are read have memory.
#[test]
fn a_file_may_be_larger_than_memory() {
    // SAFETY: asks for numbers.
    let memory = unsafe { libc::sysconf(libc::_SC_PHYS_PAGES) * libc::sysconf(libc::_SC_PAGESIZE) } as usize;
    let len = memory.next_power_of_two() * 2 + 1;
    let folder = Folder::new();
    let path = folder.file("data", b"first");
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    if file.set_len(len as u64).is_err() {
        return println!("skipped: the file system has no files of that size");
    }
    std::os::unix::fs::FileExt::write_all_at(&file, b"last", len as u64 - 4).unwrap();
    // SAFETY: nobody changes the file.
    let region = unsafe { FileRegion::open(&path).unwrap() };
    let guard = region.guard().unwrap();
    assert_eq!(
        (guard.len(), &guard[..5], &guard[len - 4..], guard[len / 2]),
        (len, &b"first"[..], &b"last"[..], 0)
    );
    let mut word = [0; 4];
    assert_eq!((region.read_at(len - 4, &mut word).unwrap(), &word), (4, b"last"));
}

#[test]
fn files_by_name_descriptor_and_for_writing() {
    let folder = Folder::new();
    let path = folder.file("data", &filled(5000));
    // SAFETY: the bytes are written when nobody borrows them.
    unsafe {
        let read = FileRegion::open(&path).unwrap();
        let copy = FileOptions::new().open_copy(&path).unwrap();
        let shared = FileOptions::new().open_mut(&path).unwrap();
        assert!(matches!(read.write_at(0, b"x"), Err(Error::ReadOnly)));
        assert!(matches!(read.grow(6000), Err(Error::ReadOnly)));
        copy.write_at(10, b"private").unwrap();
        assert_eq!(
            (&read.guard().unwrap()[10..17], &copy.guard().unwrap()[10..17]),
            (&filled(17)[10..], &b"private"[..])
        );
        shared.write_at(4990, b"everybody's").unwrap_err();
        shared.write_at(4989, b"everybody's").unwrap();
        shared.flush().unwrap();
        assert_eq!(&read.guard().unwrap()[4989..], b"everybody's");
        assert_eq!(&std::fs::read(&path).unwrap()[4989..], b"everybody's");
        assert!(matches!(
            FileRegion::open(folder.path().join("absent")),
            Err(Error::System { call: "open", .. })
        ));
    }
}

#[test]
fn a_pin_outlives_everything() {
    let (file, region) = region(10_000);
    let pin = region.pin().unwrap();
    let part = pin.slice(5000..=5999).slice(1..);
    let address = part.as_ptr().addr();
    drop(pin);
    region.unmap_later().unwrap();
    assert!(matches!(region.guard(), Err(Error::Closed)) && matches!(region.pin(), Err(Error::Closed)));
    drop(region);
    let more: Vec<_> = (0..4).map(|_| part.clone()).collect();
    let bytes = bytes::Bytes::from_owner(part);
    let threads: Vec<_> = more.into_iter().map(|pin| thread::spawn(move || pin.to_vec())).collect();
    for thread in threads {
        assert_eq!(thread.join().unwrap(), filled(6000)[5001..]);
    }
    assert_eq!(bytes, filled(6000)[5001..]);
    assert!(is_mapped(&file, address));
    drop(bytes);
    assert!(goes(&file, address), "it goes with the last pin");
}

#[test]
#[should_panic(expected = "out of range")]
fn a_slice_beyond_the_end_panics() {
    let (_file, region) = region(100);
    let _part = region.pin().unwrap().slice(50..101);
}

#[test]
fn slices_end_at_no_number_that_wraps_around() {
    use std::ops::Bound::{Excluded, Unbounded};
    let (_file, region) = region(100);
    let pin = region.pin().unwrap();
    let is_refused = |part: (std::ops::Bound<usize>, std::ops::Bound<usize>)| {
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| pin.slice(part))).is_err()
    };
    assert!(is_refused((Unbounded, std::ops::Bound::Included(usize::MAX))));
    assert!(is_refused((Excluded(usize::MAX), Unbounded)));
    assert_eq!((pin.slice((Excluded(97), Unbounded)).len(), pin.slice(100..).len()), (2, 0));
}

#[test]
fn one_thread_holds_guards_of_many_regions_in_any_order() {
    let regions: Vec<_> = (1..20).map(|len| region(len * 1000).1).collect();
    let mut guards: Vec<_> = regions.iter().map(|region| region.guard().unwrap()).collect();
    while !guards.is_empty() {
        let guard = guards.swap_remove(guards.len() / 2);
        assert_eq!(&*guard, filled(guard.len()));
    }
    for region in regions {
        region.unmap().unwrap();
    }
}

#[test]
fn a_guard_in_a_thread_local_is_held_to_the_threads_end() {
    std::thread_local! {
        static LAST: std::cell::RefCell<Option<Box<dyn std::any::Any>>> = const { std::cell::RefCell::new(None) };
    }
    let region: &'static FileRegion = Box::leak(Box::new(region(100).1));
    for _ in 0..3 {
        thread::spawn(|| {
            LAST.with(|last| *last.borrow_mut() = Some(Box::new(region.guard().unwrap())));
        })
        .join()
        .unwrap();
    }
    region.unmap().unwrap();
}
