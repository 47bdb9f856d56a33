//! Mapped files in a program whose allocator is the system's: readers, changes and a fork, without a heap of ours.

use specmalloc::files::{FileRegion, memfd};
use std::os::unix::fs::FileExt;

#[test]
fn nothing_is_needed_of_the_allocator() {
    let file = memfd("alone", 0).unwrap();
    file.write_all_at(b"alone", 0).unwrap();
    // SAFETY: bytes are added, none is changed.
    let region = unsafe { FileRegion::map(&file).unwrap() };
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    assert!(region.guard().unwrap().starts_with(b"alone"));
                }
            });
        }
        // Also where a check fails: the scope waits for the readers first.
        scopeguard::defer!(stop.store(true, std::sync::atomic::Ordering::Relaxed));
        for _ in 0..50 {
            let own = region.guard().unwrap();
            // SAFETY: the child uses what the library promises after a fork, and exits.
            let child = unsafe { libc::fork() };
            if child == 0 {
                drop(own);
                let unmapped = region.unmap().is_ok();
                // SAFETY: ends the child.
                unsafe { libc::_exit(i32::from(!unmapped)) };
            }
            drop(own);
            let mut status = 0;
            // SAFETY: waits for the child.
            assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
            assert_eq!(status, 0, "readers that are gone were waited for");
        }
    });
    region.unmap().unwrap();
}
