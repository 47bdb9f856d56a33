//! What every platform must do: the same checks for the kernel and for the simulation, so that the simulation is
//! known to behave as the kernel does.

use super::{Access, Errno, Platform};

/// Touches every page of a range that is readable and writable, and demands what was written back.
fn fill(platform: &impl Platform, addr: usize, len: usize, value: u64) {
    for page in (addr..addr + len).step_by(platform.page_size()) {
        // SAFETY: the tests fill only ranges that they have just mapped readable and writable.
        unsafe { (page as *mut u64).write_volatile(value + page as u64) };
    }
    assert!(holds(platform, addr, len, value));
}

/// Whether every page still begins as `fill` left it.
fn holds(platform: &impl Platform, addr: usize, len: usize, value: u64) -> bool {
    (addr..addr + len).step_by(platform.page_size()).all(|page| {
        // SAFETY: as in `fill`.
        unsafe { (page as *const u64).read_volatile() == value + page as u64 }
    })
}

/// Whether every word of the range is zero.
fn zero(addr: usize, len: usize) -> bool {
    (addr..addr + len).step_by(8).all(|at| {
        // SAFETY: the tests look only at ranges that are mapped readable.
        unsafe { (at as *const u64).read_volatile() == 0 }
    })
}

/// Runs all checks. Needs 32 pages, and a few addresses behind them that nobody else takes meanwhile.
pub(super) fn run(platform: &impl Platform) {
    let page = platform.page_size();
    assert!(page.is_power_of_two() && (4096..=65536).contains(&page));
    mapping(platform, page);
    placing(platform, page);
    protecting(platform, page);
    purging(platform, page);
    resizing(platform, page);
    moving(platform, page);
    waiting(platform);
    assert!(platform.now_ms() <= platform.now_ms());
    assert!(platform.address_space_limit() >= 32 * page);
}

fn mapping(platform: &impl Platform, page: usize) {
    let before = platform.calls();
    let addr = platform.map(None, 8 * page, Access::ReadWrite).unwrap();
    assert!(addr.is_multiple_of(page) && addr != 0);
    assert!(zero(addr, 8 * page));
    fill(platform, addr, 8 * page, 1);
    platform.name(addr, 8 * page, c"specmalloc test");
    assert!(holds(platform, addr, 8 * page, 1), "a name changes nothing");
    // A hole in the middle leaves both sides as they are.
    // SAFETY: mapped above, unused from here on.
    unsafe { platform.unmap(addr + 3 * page, 2 * page).unwrap() };
    assert!(holds(platform, addr, 3 * page, 1) && holds(platform, addr + 5 * page, 3 * page, 1));
    // SAFETY: as above.
    unsafe { platform.unmap(addr, 3 * page).unwrap() };
    // SAFETY: as above.
    unsafe { platform.unmap(addr + 5 * page, 3 * page).unwrap() };
    let after = platform.calls();
    assert_eq!((after.map - before.map, after.unmap - before.unmap, after.failed - before.failed), (1, 3, 0));
    // What is long, and has a guard.
    let len = (70 << 20) + page;
    let addr = platform.map(None, len, Access::ReadWrite).unwrap();
    fill(platform, addr, len - page, 1);
    // SAFETY: mapped above; nobody looks any more.
    unsafe { platform.protect(addr + len - page, page, Access::None).unwrap() };
    let before = platform.calls();
    // SAFETY: as above.
    unsafe { platform.empty(addr, len, len) };
    assert!(zero(addr, len - page));
    // SAFETY: as above.
    unsafe { platform.unmap(addr, len).unwrap() };
    let after = platform.calls();
    assert_eq!(
        (after.unmap - before.unmap, after.purge - before.purge, after.failed - before.failed),
        (1, 0, 0)
    );
    assert_eq!(platform.map(Some(addr), len, Access::ReadWrite), Ok(addr), "all of it is gone");
    assert!(zero(addr, len - page));
    // SAFETY: as above.
    unsafe { platform.unmap(addr, len).unwrap() };
}

fn placing(platform: &impl Platform, page: usize) {
    let addr = platform.map(None, 4 * page, Access::ReadWrite).unwrap();
    fill(platform, addr, 4 * page, 2);
    let before = platform.calls();
    for (first, pages) in [(0, 4), (1, 2), (3, 1), (0, 1)] {
        let taken = platform.map(Some(addr + first * page), pages * page, Access::ReadWrite);
        assert_eq!(taken, Err(Errno(libc::EEXIST)));
    }
    assert_eq!(platform.calls().failed - before.failed, 4);
    assert!(holds(platform, addr, 4 * page, 2), "what was mapped is untouched");
    // SAFETY: mapped above, unused from here on.
    unsafe { platform.unmap(addr + page, 2 * page).unwrap() };
    assert_eq!(platform.map(Some(addr + page), 2 * page, Access::ReadWrite), Ok(addr + page));
    assert!(zero(addr + page, 2 * page), "a page that comes back is a new one");
    assert!(holds(platform, addr, page, 2) && holds(platform, addr + 3 * page, page, 2));
    // SAFETY: as above; one call may span several mappings.
    unsafe { platform.unmap(addr, 4 * page).unwrap() };
    assert_eq!(platform.map(None, 0, Access::None), Err(Errno(libc::EINVAL)));
    assert_eq!(platform.map(None, 1 << 62, Access::None), Err(Errno(libc::ENOMEM)));
}

fn protecting(platform: &impl Platform, page: usize) {
    let addr = platform.map(None, 4 * page, Access::None).unwrap();
    // SAFETY: mapped above.
    unsafe { platform.protect(addr + page, 2 * page, Access::ReadWrite).unwrap() };
    assert!(zero(addr + page, 2 * page));
    fill(platform, addr + page, 2 * page, 3);
    // SAFETY: mapped above; nobody looks while it is inaccessible.
    unsafe { platform.protect(addr + page, page, Access::None).unwrap() };
    // SAFETY: as above.
    unsafe { platform.protect(addr + page, page, Access::ReadWrite).unwrap() };
    assert!(holds(platform, addr + page, 2 * page, 3), "protection keeps the contents");
    // SAFETY: mapped above, unused from here on.
    unsafe { platform.unmap(addr, 4 * page).unwrap() };
}

fn purging(platform: &impl Platform, page: usize) {
    let addr = platform.map(None, 4 * page, Access::ReadWrite).unwrap();
    fill(platform, addr, 4 * page, 4);
    let before = platform.calls();
    // SAFETY: mapped above; the contents are not needed.
    unsafe { platform.purge(addr + page, 2 * page).unwrap() };
    assert_eq!(platform.calls().purge - before.purge, 1);
    assert!(zero(addr + page, 2 * page));
    assert!(holds(platform, addr, page, 4) && holds(platform, addr + 3 * page, page, 4));
    fill(platform, addr, 4 * page, 5);
    // SAFETY: mapped above, unused from here on.
    unsafe { platform.unmap(addr, 4 * page).unwrap() };
}

fn resizing(platform: &impl Platform, page: usize) {
    // The middle of eight pages is given up, so that there is room to grow into and something that is in the way.
    let addr = platform.map(None, 8 * page, Access::ReadWrite).unwrap();
    fill(platform, addr, 8 * page, 6);
    // SAFETY: mapped above; what is cut off is not used.
    unsafe { platform.unmap(addr + 3 * page, 4 * page).unwrap() };
    let before = platform.calls();
    // SAFETY: the first three pages are one mapping.
    unsafe { platform.resize(addr, 3 * page, 6 * page).unwrap() };
    assert!(holds(platform, addr, 3 * page, 6) && zero(addr + 3 * page, 3 * page));
    // SAFETY: as above; a page is free behind the six, the one after it is taken.
    let taken = unsafe { platform.resize(addr, 6 * page, 8 * page) };
    assert_eq!(taken, Err(Errno(libc::ENOMEM)));
    assert!(holds(platform, addr, 3 * page, 6) && holds(platform, addr + 7 * page, page, 6));
    // SAFETY: as above; what is cut off is not used.
    unsafe { platform.resize(addr, 6 * page, 2 * page).unwrap() };
    let after = platform.calls();
    assert_eq!((after.remap - before.remap, after.failed - before.failed), (2, 1));
    assert!(holds(platform, addr, 2 * page, 6));
    assert_eq!(platform.map(Some(addr + 2 * page), 5 * page, Access::None), Ok(addr + 2 * page));
    // SAFETY: mapped above, unused from here on.
    unsafe { platform.unmap(addr, 8 * page).unwrap() };
}

fn moving(platform: &impl Platform, page: usize) {
    let from = platform.map(None, 4 * page, Access::ReadWrite).unwrap();
    let to = platform.map(None, 6 * page, Access::ReadWrite).unwrap();
    for at in (from..from + 4 * page).step_by(page) {
        // SAFETY: mapped above.
        unsafe { (at as *mut u64).write_volatile((at - from) as u64 + 7) };
    }
    fill(platform, to, 6 * page, 8);
    // SAFETY: two mappings that do not overlap; what `to` holds is not needed.
    unsafe { platform.move_pages(from, to + page, 4 * page).unwrap() };
    assert!(zero(from, 4 * page), "the old place stays mapped, and is empty");
    for at in (0..4 * page).step_by(page) {
        // SAFETY: mapped above.
        assert_eq!(unsafe { ((to + page + at) as *const u64).read_volatile() }, at as u64 + 7);
    }
    assert!(holds(platform, to, page, 8) && holds(platform, to + 5 * page, page, 8));
    fill(platform, from, 4 * page, 9);
    fill(platform, to, 6 * page, 10);
    // SAFETY: mapped above, unused from here on.
    unsafe { platform.unmap(from, 4 * page).unwrap() };
    // SAFETY: as above.
    unsafe { platform.unmap(to, 6 * page).unwrap() };
}

fn waiting(platform: &impl Platform) {
    use crate::sync::atomic::{AtomicU32, Ordering};

    let word = AtomicU32::new(1);
    platform.wait(&word, 0, None);
    platform.wait(&word, 1, Some(1));
    platform.wake(&word, u32::MAX);
    std::thread::scope(|scope| {
        let woken = scope.spawn(|| {
            while word.load(Ordering::SeqCst) == 1 {
                platform.wait(&word, 1, None);
            }
        });
        while !woken.is_finished() {
            word.store(2, Ordering::SeqCst);
            platform.wake(&word, 1);
            platform.yield_now();
        }
    });
}
