//! Sampling: what is left before the next sample is one less after each allocation, and the same after anything else.

use super::*;

/// What is left of each class.
fn left(heap: &Heap) -> [i64; CLASSES] {
    core::array::from_fn(|class| heap.left_with(class, heap.uncounted::<Checked>(class)).expect("a meter"))
}

struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        (self.0 >> 33) as usize % bound
    }
}

/// Allocations and frees in runs, of blocks of this heap and of another, with everything that happens to bins between.
/// `used` is how many blocks come and go before anything is sampled.
fn counts_at(rate: usize, sizes: &[usize], longest: usize, used: usize) {
    let from = allocator(GRANULE);
    let (one, two) = (possess(from, 1), possess(from, 2));
    let mut random = Random(rate as u64);
    let (mut samples, mut wanted, mut live) = (0, 0.0, Vec::new());
    let before: Vec<usize> = (0..used).map(|at| get(from, one, sizes[at % sizes.len()])).collect();
    before.into_iter().for_each(|block| free(from, one, block));
    from.settings().set_sample_rate(rate);
    from.follow_sample_rate::<Checked>(one);
    for round in 0..2_000 {
        let (size, count) = (sizes[random.below(sizes.len())], random.below(longest) + 1);
        let mut expected = left(one);
        let class = class_of(size);
        match random.below(8) {
            0..=2 => {
                for _ in 0..count {
                    wanted += 1.0 - (-(class_size(class) as f64) / rate as f64).exp();
                    if one.counts_as_sample(Some(class), size) {
                        assert_eq!(expected[class], 0, "a sample that comes late, or too soon");
                        samples += 1;
                        expected = left(one);
                    } else {
                        live.push(get(from, one, size));
                        expected[class] -= 1;
                        assert!(expected[class] >= 0, "a sample that was not seen");
                    }
                }
            }
            // One comes and goes, as often as it takes to use up what room there is.
            3 => {
                for _ in 0..8 * count {
                    if !one.counts_as_sample(Some(class), size) {
                        expected[class] -= 1;
                        let block = get(from, one, size);
                        free(from, one, block);
                    } else {
                        expected = left(one);
                    }
                }
            }
            4..=5 => {
                for _ in 0..count.min(live.len()) {
                    let block = live.swap_remove(random.below(live.len()));
                    free(from, one, block);
                }
            }
            6 => {
                for _ in 0..count.min(live.len()) {
                    let block = live.swap_remove(random.below(live.len()));
                    free(from, two, block);
                }
                two.settle::<Checked, _>(from);
            }
            _ => one.collect::<Checked, _>(from),
        }
        assert_eq!(left(one), expected, "round {round}");
        if round % 50 == 0 {
            from.audit::<Checked>();
        }
    }
    // Five deviations: samples are far apart, as rare events are.
    assert!(
        (f64::from(samples) - wanted).abs() < 5.0 * wanted.sqrt() + 5.0,
        "{samples} samples for {wanted:.0}"
    );
    from.settings().set_sample_rate(0);
    from.follow_sample_rate::<Checked>(one);
    assert!(left(one).iter().all(|&left| left > 1 << 40), "samples that are off");
    live.into_iter().for_each(|block| free(from, one, block));
    for heap in [one, two] {
        heap.collect::<Checked, _>(from);
    }
    from.audit::<Checked>();
    assert_eq!(from.claimed_slices(), 0);
}

#[test]
fn what_is_left_is_what_was_not_allocated() {
    for used in [300, 0] {
        counts_at(64 << 10, &[16, 100, 1000, 20_000], 300, used);
        counts_at(512 << 10, &[100], 2_000, used);
        counts_at(1 << 20, &[16, 48], 2_000, used);
        counts_at(2_000, &[16, 100, 1000], 30, used);
    }
}

#[test]
fn a_new_rate_counts_from_the_next_allocation_on() {
    let from = allocator(GRANULE);
    let heap = possess(from, 1);
    let follow = |rate| {
        from.settings().set_sample_rate(rate);
        from.follow_sample_rate::<Checked>(heap);
    };
    let sizes = [16, 100, 1_000, 20_000];
    for size in sizes {
        let blocks = [get(from, heap, size), get(from, heap, size)];
        blocks.into_iter().for_each(|block| free(from, heap, block));
    }
    follow(1);
    assert!(left(heap).iter().all(|&left| left == 0), "of what each byte of is a sample nothing is left");
    follow(0);
    for size in sizes {
        let blocks = [get(from, heap, size), get(from, heap, size)];
        blocks.into_iter().for_each(|block| free(from, heap, block));
    }
    follow(1);
    assert!(left(heap).iter().all(|&left| left == 0) && heap.counts_as_sample(None, 1_000));
}

/// What is clipped near a sample is given back behind it: a bin has the room that it would have without samples.
#[test]
fn a_sample_takes_no_room_for_good() {
    let from = allocator(GRANULE);
    let heap = possess(from, 1);
    let class = class_of(1_000);
    let refill = || {
        while !heap.has_none(class) {
            get(from, heap, 1_000);
        }
        let before = heap.room_unsampled(class);
        while heap.counts_as_sample(Some(class), 1_000) {}
        assert_eq!(heap.room_unsampled(class), before);
        get(from, heap, 1_000);
        heap.room_unsampled(class)
    };
    let block = get(from, heap, 1_000);
    free(from, heap, block);
    let room = refill();
    from.settings().set_sample_rate(20_000);
    from.follow_sample_rate::<Checked>(heap);
    let mut clipped = 0;
    for _ in 0..2_000 {
        assert_eq!(refill(), room);
        clipped += usize::from(heap.left_with(class, heap.uncounted::<Checked>(class)) < Some(10));
    }
    assert!(clipped > 100, "{clipped} times next to a sample");
}

/// Nor does it come sooner for what is to be done beside where a free finds no room next to it, and the bin could reach a
/// little further: such a free is the first in a full slab here.
#[test]
fn what_goes_home_next_to_a_sample_brings_it_no_nearer() {
    // What a block counts in the reach of a bin.
    const BLOCK: i64 = 21;
    let from = allocator(GRANULE);
    let heap = possess(from, 1);
    let class = class_of(1_000);
    let mut slabs: Vec<Vec<usize>> = (0..60).map(|_| fill(from, heap, 1_000)).collect();
    let mut rest = slabs.split_off(20);
    from.settings().set_sample_rate(1 << 18);
    from.follow_sample_rate::<Checked>(heap);
    let now = || left(heap)[class];
    let room = || i64::from(heap.room_unsampled(class));
    let slack = || now() - room() - i64::from(heap.uncounted::<Checked>(class)) * BLOCK;
    let mut found = 0;
    for round in 0..400 {
        // Each of these slabs has one free block, which the bin is filled with.
        let gone: Vec<usize> = rest.iter_mut().filter_map(Vec::pop).collect();
        gone.iter().for_each(|&block| free_home(from, heap, block));
        for slab in &mut rest {
            while heap.counts_as_sample(Some(class), 1_000) {}
            slab.push(get(from, heap, 1_000));
            if !(1..BLOCK).contains(&slack()) {
                continue;
            }
            // So many allocations are left beyond the reach of the bin. There is to be less room than that.
            let full = &mut slabs[round % 20];
            while room() >= BLOCK && full.len() > 1 {
                free(from, heap, full.pop().unwrap());
            }
            while room() > 0 && room() + slack() >= BLOCK - 2 && !heap.has_none(class) {
                let block = get(from, heap, 1_000);
                free(from, heap, block);
            }
            let before = now();
            free(from, heap, full.pop().unwrap());
            assert_eq!(now(), before);
            found += 1;
        }
    }
    assert!(found > 10, "{found}");
}

/// The first block of a class that is freed stays at hand, also where samples are far away.
#[test]
fn what_is_freed_first_stays_at_hand() {
    let from = allocator(GRANULE);
    let heap = possess(from, 1);
    from.settings().set_sample_rate(1 << 30);
    from.follow_sample_rate::<Checked>(heap);
    for size in [16, 100, 1_000] {
        let block = get(from, heap, size);
        let before = heap.uncounted::<Checked>(class_of(size));
        free(from, heap, block);
        assert_eq!(heap.uncounted::<Checked>(class_of(size)), before + 1, "{size}");
    }
}

/// A bin of which nothing is freed is filled with many blocks until the next sample is near; one of which something is, with
/// few.
#[test]
fn what_is_built_up_is_filled_with_many() {
    let filled = |frees: bool| {
        let from = allocator(GRANULE);
        let heap = possess(from, 1);
        let class = class_of(100);
        let block = get(from, heap, 100);
        free(from, heap, block);
        from.settings().set_sample_rate(64 << 10);
        from.follow_sample_rate::<Checked>(heap);
        let (mut fills, mut blocks, mut block) = (0, 0, 0);
        for _ in 0..6_000 {
            let was_sample = heap.counts_as_sample(Some(class), 100);
            let left = heap.left_with(class, 0).unwrap();
            if left > 0 {
                block = get(from, heap, 100);
                if !was_sample && (150..300).contains(&left) {
                    fills += 1;
                    blocks += heap.uncounted::<Checked>(class) + 1;
                }
            }
            while !heap.has_none(class) {
                if frees {
                    free(from, heap, block);
                }
                block = get(from, heap, 100);
            }
        }
        assert!(fills > 30, "{fills} times");
        blocks / fills
    };
    let (built, replaced) = (filled(false), filled(true));
    assert!(built >= 2 * replaced, "{built} and {replaced} blocks");
    assert!(built >= 40, "{built} blocks, though nothing was freed");
}

/// A large block's record keeps its sample where that of a slab has something else; a huge one's region serves another.
#[test]
fn a_block_is_no_sample_until_somebody_says_so() {
    let from = allocator(GRANULE);
    let heap = possess(from, 1);
    let small = get(from, heap, 20_000);
    free(from, heap, small);
    heap.collect::<Checked, _>(from);
    for _ in 0..2 {
        let large = get(from, heap, 2 * SLICE);
        assert_eq!(large / SLICE, small / SLICE, "not where the slab was");
        let place = from.place(large).unwrap();
        assert_eq!(place.sample(), 0);
        from.set_sample(place, 7);
        assert_eq!(place.sample(), 7);
        free(from, heap, large);
        let huge = get(from, heap, 20 << 20);
        let place = from.place(huge).unwrap();
        assert_eq!(place.sample(), 0);
        from.set_sample(place, 7);
        assert_eq!(place.sample(), 7);
        free(from, heap, huge);
    }
}
