//! Where mappings lie.

use crate::support::{filled, is_mapped, memory, pattern};
use specmalloc::files::FileOptions;
use std::os::unix::fs::FileExt;

const HUGE_PAGE: usize = 2 << 20;

/// Mappings of `file` that there are.
fn mappings(file: &std::fs::File) -> usize {
    use std::os::unix::fs::MetadataExt;
    let number = file.metadata().unwrap().ino().to_string();
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    maps.lines().filter(|line| line.split_whitespace().nth(4) == Some(&number)).count()
}

#[test]
fn what_a_huge_page_fits_into_lies_in_memory_as_in_the_file() {
    let len = 3 * HUGE_PAGE + 12_345;
    let file = memory(len);
    for offset in [0, 1, 4096, 4097, HUGE_PAGE - 4096, HUGE_PAGE, HUGE_PAGE + 700_000] {
        for headroom in [None, Some(0), Some(5000), Some(HUGE_PAGE)] {
            let mut options = FileOptions::new();
            options = options.offset(offset as u64);
            if let Some(headroom) = headroom {
                options = options.headroom(headroom);
            }
            // SAFETY: nobody changes the file.
            let region = unsafe { options.map(&file).unwrap() };
            let guard = region.guard().unwrap();
            assert_eq!(guard.as_ptr().addr() % HUGE_PAGE, offset % HUGE_PAGE, "{offset} {headroom:?}");
            assert_eq!(guard.len(), len - offset);
            for at in (0..guard.len()).step_by(40_961).chain([guard.len() - 1]) {
                assert_eq!(guard[at], pattern(offset + at));
            }
            let at = guard.as_ptr().addr();
            drop(guard);
            assert_eq!(mappings(&file), 1);
            region.unmap().unwrap();
            assert!(!is_mapped(&file, at) && mappings(&file) == 0);
        }
    }
}

#[test]
fn a_file_that_grows_into_a_huge_page_is_placed_anew() {
    let file = memory(5000);
    // SAFETY: bytes are added, none is changed.
    let region = unsafe { FileOptions::new().headroom(0).map(&file).unwrap() };
    file.write_all_at(&filled(2 * HUGE_PAGE), 0).unwrap();
    assert!(region.reopen().unwrap().moved);
    assert_eq!(region.guard().unwrap().as_ptr().addr() % HUGE_PAGE, 0);
    assert_eq!(&*region.guard().unwrap(), filled(2 * HUGE_PAGE));
}
