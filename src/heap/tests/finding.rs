//! How a heap finds its own slabs.

use super::*;

#[test]
fn a_heap_finds_its_own_slabs_and_no_others() {
    let from = allocator(GRANULE);
    let (one, two) = (possess(from, 1), possess(from, 2));
    // Slabs of every class, of one slice and of several, by turns of one heap and the other.
    let blocks: Vec<usize> = (0..CLASSES)
        .flat_map(|class| fill(from, if class % 2 == 0 { one } else { two }, class_size(class)))
        .collect();
    for &block in &blocks {
        let own = ptr::eq(slab_of(from, block).owner(), one);
        assert_eq!((finds(from, one, block), finds(from, two, block)), (own, !own), "{block:#x}");
    }
    for &block in &blocks {
        free(from, if finds(from, one, block) { one } else { two }, block);
    }
    for heap in [one, two] {
        heap.collect::<Checked, _>(from);
    }
    assert_eq!(from.claimed_slices(), 0);
    for &block in &blocks {
        assert!(!one.knows(block) && !two.knows(block), "{block:#x} is gone");
    }
}

/// However many slabs a heap has, and whosever lie in between; and what the table of them takes.
#[test]
fn a_heap_finds_its_own_slabs_at_any_size() {
    let from = allocator(GRANULE);
    let (one, two) = (possess(from, 1), possess(from, 2));
    let metadata = from.space().metadata().used();
    let mut blocks = Vec::new();
    for round in 0..12_000 {
        let size = [16 << 10, 20 << 10][round % 2];
        get(from, two, size);
        blocks.push(get(from, one, size));
    }
    let slabs: BTreeSet<usize> = blocks.iter().map(|&block| slab_of(from, block).start()).collect();
    let slices: usize = slabs.iter().map(|&start| slab_of(from, start).slices() as usize).sum();
    assert!(slices > 3_000, "{slices} slices");
    let unknown = slabs.iter().filter(|&&start| !finds(from, one, start)).count();
    assert!(unknown * 50 < slabs.len(), "{unknown} of {} are not found at once", slabs.len());
    let taken = from.space().metadata().used() - metadata;
    assert!(taken < 2 * slices * 128, "{taken} bytes of metadata for {slices} slices each");
    // One that is found another way is found at once from then on.
    let lost = slab_of(from, blocks[0]);
    one.learn_own(slab_of(from, blocks[1]));
    one.learn_own(lost);
    assert!(finds(from, one, blocks[0]));
}

/// What a heap needs of metadata is for those that need it: it grew with every heap that ever had many slabs.
#[test]
fn a_table_that_a_heap_has_left_is_the_next_ones() {
    let from = allocator(GRANULE);
    let heaps: Vec<_> = (1..=8).map(|thread| possess(from, thread)).collect();
    let fresh = heaps[0].entries();
    let mut used = Vec::new();
    for (round, heap) in heaps.iter().cycle().take(24).enumerate() {
        let blocks: Vec<usize> = (0..3_000).map(|_| get(from, heap, 16 << 10)).collect();
        assert!(heap.entries() > 50 * fresh, "{}", heap.entries());
        // Some stay for a while: they are found in the smaller table.
        let (few, most) = blocks.split_at(4 * round);
        most.iter().for_each(|&block| free(from, heap, block));
        heap.collect::<Checked, _>(from);
        assert!(heap.entries() <= fresh.max(16 * few.len()), "{} for {}", heap.entries(), few.len());
        assert!(few.iter().all(|&block| finds(from, heap, block)));
        few.iter().for_each(|&block| free(from, heap, block));
        heap.collect::<Checked, _>(from);
        assert_eq!(heap.entries(), fresh);
        used.push(from.space().metadata().used());
    }
    assert_eq!(
        (from.claimed_slices(), used[23]),
        (0, used[7]),
        "the first of all needs the largest tables: {used:?}"
    );
    assert!(used[23] - used[0] < 4096, "{used:?}");
}

#[test]
fn a_heap_without_memory_for_a_larger_table_goes_on() {
    let from = allocator(GRANULE);
    let heap = possess(from, 1);
    let blocks: Vec<usize> = (0..4).map(|_| get(from, heap, 1 << 10)).collect();
    from.space().os().fail_kind(crate::pal::simulated::CallKind::Map, crate::pal::Errno(12));
    let before = from.space().counts().mapped;
    // One arena is all there is.
    let more: Vec<usize> = (0..900).map(|_| get(from, heap, 16 << 10)).collect();
    assert_eq!(from.space().counts().mapped, before);
    from.space().os().heal();
    blocks.iter().chain(&more).for_each(|&block| free(from, heap, block));
    heap.collect::<Checked, _>(from);
    assert_eq!(from.claimed_slices(), 0);
}
