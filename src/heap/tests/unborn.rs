//! What slabs found resident and have not come to handing out, and how it goes back.

use super::forked::{resident_bytes, write};
use super::*;
use crate::heap::small::hollow::LEAST_IDLE;

/// A heap that had large blocks, all of them written, and has a block of each of some sizes where they were.
fn sparse() -> (&'static Allocator<Os>, &'static Heap, Vec<(usize, usize)>) {
    let from = allocator(GRANULE);
    let heap = possess(from, 1);
    from.settings().set_dirty(None, Some(1 << 30));
    let full = build_up(from, heap, 60_000, 12);
    full.iter().for_each(|&block| write(block, 60_000));
    full.iter().for_each(|&block| free(from, heap, block));
    heap.collect::<Checked, _>(from);
    let sizes = (1..=40).map(|step| step * 200);
    let blocks = sizes.map(|size| (get(from, heap, size), size)).collect();
    (from, heap, blocks)
}

#[test]
fn what_nobody_was_handed_goes_back_when_it_is_asked_for() {
    let (from, heap, blocks) = sparse();
    assert!(
        from.dirty_slices() > 0
            && blocks.iter().all(|&(at, _)| !slab_of(from, at).unborn_pages(1).is_empty())
    );
    blocks.iter().for_each(|&(at, size)| write(at, size));
    let bytes: usize = blocks.iter().map(|&(at, _)| slab_of(from, at).bytes()).sum();
    let told = || from.census::<Checked>(heap).behind_bytes as usize;
    assert!(told() > bytes / 2);
    from.trim::<Checked>(heap);
    let resident = resident_bytes(from);
    assert!(resident < bytes / 4, "{resident} of {bytes} bytes");
    // The rest of a block's last page, and what was not worth a call.
    assert!(told() < bytes / 8, "{} bytes are told behind blocks", told());
    from.audit::<Checked>();
    // What comes next is handed out from there, and what was live is as it was.
    let intact = |&(at, size): &(usize, usize)| {
        // SAFETY: a live block of the test's.
        unsafe { core::slice::from_raw_parts(ptr::with_exposed_provenance::<u8>(at), size) }
            .iter()
            .all(|&byte| byte == 1)
    };
    assert!(blocks.iter().all(intact));
    let more: Vec<_> =
        blocks.iter().flat_map(|&(_, size)| [(); 30].map(|()| get(from, heap, size))).collect();
    for (block, (_, size)) in more.iter().zip(blocks.iter().flat_map(|block| [block; 30])) {
        write(*block, *size);
    }
    assert!(blocks.iter().all(intact));
    more.into_iter().chain(blocks.into_iter().map(|(at, _)| at)).for_each(|block| free(from, heap, block));
    from.trim::<Checked>(heap);
    assert_eq!((from.claimed_slices(), from.dirty_slices()), (0, 0));
}

/// An idle heap may keep a quarter of a MiB so; and is asked once.
#[test]
fn an_idle_heap_keeps_little_that_nobody_was_handed() {
    let (from, heap, blocks) = sparse();
    let page = from.page_size();
    heap.collect::<Checked, _>(from);
    assert!(heap.is_roomy(page) && !heap.is_roomy(page));
    let unborn = || blocks.iter().map(|&(at, _)| slab_of(from, at).unborn_pages(page).len()).sum::<usize>();
    assert!(unborn() > LEAST_IDLE);
    heap.give_back_pages::<Checked, _>(from, usize::MAX);
    assert!(unborn() > LEAST_IDLE);
    heap.give_back_pages::<Checked, _>(from, LEAST_IDLE);
    assert_eq!(unborn(), 0);
    let purged = from.purged_bytes();
    heap.give_back_pages::<Checked, _>(from, 1);
    assert_eq!(from.purged_bytes(), purged, "a second time");
}

/// A slab takes what other slabs had all of for resident: not after it went.
#[test]
fn what_went_back_is_not_taken_for_resident() {
    let from = allocator(GRANULE);
    let heap = possess(from, 1);
    let _stays = get(from, heap, 16);
    let full = fill(from, heap, 300);
    full.iter().for_each(|&block| free(from, heap, block));
    heap.collect::<Checked, _>(from);
    let slab = slab_of(from, get(from, heap, 300));
    assert!(slab.found_resident() > SLICE / 2);
    heap.give_back_pages::<Checked, _>(from, 1);
    assert!(slab.found_resident() < SLICE / 2, "more than is linked");
}
