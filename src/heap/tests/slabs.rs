//! Where slabs stand with their heap, and what they and large blocks leave behind.

use super::*;
use crate::heap::small::Standing;

#[test]
fn a_slab_whose_blocks_are_all_out_is_full_when_its_heap_was_collected() {
    let from = allocator(GRANULE);
    let heap = possess(from, 1);
    for size in [1 << 10, 20 << 10] {
        let blocks = fill(from, heap, size);
        let slab = slab_of(from, blocks[0]);
        assert_eq!(slab.standing(), Standing::Current);
        heap.collect::<Checked, _>(from);
        assert_eq!(slab.standing(), Standing::Full);
        from.audit::<Checked>();
        free_home(from, heap, blocks[0]);
        assert_eq!(slab.standing(), Standing::Available);
        from.audit::<Checked>();
    }
}

/// A slab that was available, and has nothing free but what was never handed out, is current again, and nothing else.
#[test]
fn an_available_slab_that_is_not_used_up_is_current_again() {
    let from = allocator(GRANULE);
    let heap = possess(from, 1);
    for size in [1 << 10, 20 << 10] {
        let slab = slab_of(from, get(from, heap, size));
        let out = slab.handed_out();
        (1..out).for_each(|_| _ = get(from, heap, size));
        heap.collect::<Checked, _>(from);
        assert_eq!((slab.standing(), slab.free_count()), (Standing::Available, 0));
        assert!(ptr::eq(slab_of(from, get(from, heap, size)), slab));
        assert!(slab.standing() == Standing::Current && slab.handed_out() > out);
        from.audit::<Checked>();
    }
}

/// The next slab there begins with pages, as many as were touched; unless they were purged meanwhile. And a walk that looked
/// at the first one is told that it is over, before there is another.
#[test]
fn a_slab_knows_what_was_resident_when_it_was_opened() {
    let from = allocator(GRANULE);
    let heap = possess(from, 1);
    let _stays = get(from, heap, 16);
    let mut colours = 0;
    for size in [1 << 10, 2_500, 20 << 10] {
        let info = class_info(class_of(size));
        let all = (info.capacity * info.size) as usize;
        let mut base = None;
        from.give_back_all(heap.claimant());
        for resident in [0, all, 0] {
            let blocks = fill(from, heap, size);
            let slab = slab_of(from, blocks[0]);
            colours += slab.start() - slab.base();
            let found = if resident == 0 { 0 } else { slab.start() - slab.base() + resident };
            assert_eq!((slab.base(), slab.found_resident()), (*base.get_or_insert(slab.base()), found));
            let life = slab.life().expect("it is open");
            blocks.iter().for_each(|&block| free(from, heap, block));
            heap.collect::<Checked, _>(from);
            assert!(slab.life().is_none() && !slab.is_in(life));
            if resident > 0 {
                from.give_back_all(heap.claimant());
            }
        }
    }
    assert!(colours > 0, "a slab whose blocks begin behind its start");
}

/// What a slab found resident is so when it is closed, too, though it used less: of blocks so small that not all are linked
/// at once.
#[test]
fn a_slab_that_was_hardly_used_leaves_what_it_found_resident() {
    let from = allocator(GRANULE);
    let heap = possess(from, 1);
    let _stays = get(from, heap, 16);
    for size in [100, 300] {
        let mut blocks = fill(from, heap, size);
        let first = slab_of(from, blocks[0]);
        let resident = first.start() - first.base() + blocks.len() * first.info().size as usize;
        for _ in 0..3 {
            blocks.drain(..).for_each(|block| free(from, heap, block));
            heap.collect::<Checked, _>(from);
            blocks.push(get(from, heap, size));
            let slab = slab_of(from, blocks[0]);
            assert_eq!((slab.base(), slab.found_resident()), (first.base(), resident));
        }
    }
}

/// As the interfaces free a large block inside the step: as long as the heap has room for its run.
#[test]
fn a_large_block_stays_with_the_heap_while_that_has_room() {
    let from = allocator(GRANULE);
    let heap = possess(from, 1);
    let blocks: Vec<usize> = (0..=40).map(|_| get(from, heap, 3 * SLICE - 9_000)).collect();
    let keep = |block| match from.place(block) {
        Ok(Place::Large(slab)) => from.keep_large(heap.claimant(), slab),
        _ => panic!("{block:#x} is no large block"),
    };
    let kept: Vec<usize> = blocks.iter().copied().take_while(|&block| keep(block)).collect();
    assert!((1..40).contains(&kept.len()) && heap.spare_slices() == 3 * kept.len(), "{} runs", kept.len());
    assert!(kept.iter().all(|&block| from.place(block).err() == Some(Misuse::DoubleFree)));
    from.audit::<Checked>();
    // Where there was no room nothing was done.
    blocks[kept.len()..].iter().for_each(|&block| free(from, heap, block));
    let last = heap.spare_slices();
    let again = get(from, heap, 3 * SLICE - 9_000);
    assert!(blocks.iter().any(|block| block / SLICE == again / SLICE) && heap.spare_slices() == last - 3);
    from.audit::<Checked>();
}

/// A heap that grows looks at what it has in free blocks of several pages, and leaves it there if it is little.
#[test]
fn what_little_is_free_in_slabs_stays_while_a_heap_grows() {
    let from = allocator(GRANULE);
    let heap = possess(from, 1);
    let blocks: Vec<usize> = (0..2_000).map(|_| get(from, heap, 9_000)).collect();
    blocks.iter().step_by(30).for_each(|&block| free(from, heap, block));
    heap.collect::<Checked, _>(from);
    let _more = build_up(from, heap, 4_000, 40);
    assert_eq!((from.hollow().get(), from.purged_bytes()), (0, 0));
}
