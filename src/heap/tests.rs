//! Tests of heaps and slabs on the simulated system: what a heap knows of its slabs, and what passes between heaps. The
//! whole allocator is tested against a model in `tests/allocator_model`.

mod colours;
mod counting;
mod fallow;
mod finding;
mod forked;
mod growing;
mod hollow;
mod leaving;
mod limited;
mod many_sizes;
mod populating;
mod sending;
mod slabs;
mod staying;
mod sweeping;
mod unborn;
mod visited;

use super::backend::hints::LOOKS;
use super::*;
use crate::base::{CLASSES, GRANULE, SLICE, SMALL_MAX, class_info, class_of, class_of_aligned, class_size};
use crate::heap::small::remote::Inbox;
use crate::pal::simulated::{Config, Simulated};
use crate::pal::{Misuse, Platform};
use crate::region::Kind;
use crate::sync::atomic::Ordering;
use core::ptr;
use std::boxed::Box;
use std::collections::BTreeSet;
use std::vec::Vec;

type Os = Simulated;

/// An allocator that lives as long as the process.
pub(super) fn allocator(arena_bytes: usize) -> &'static Allocator<Os> {
    allocator_on(Config::default(), arena_bytes)
}

/// One on a system of a certain kind.
fn allocator_on(config: Config, arena_bytes: usize) -> &'static Allocator<Os> {
    // Larger than a test's stack allows to pass by value.
    let make = move || &*Box::leak(Box::new(Allocator::new(Simulated::with(config))));
    let allocator = std::thread::Builder::new().stack_size(32 << 20).spawn(make).unwrap().join().unwrap();
    allocator.start();
    allocator.settings().set_arena_bytes(arena_bytes);
    allocator
}

/// A heap, possessed by the thread with this number.
pub(super) fn possess(from: &Allocator<Os>, number: usize) -> &'static Heap {
    from.pool().possess_any(from, ThreadId::new(number)).unwrap()
}

/// A large block that begins with its run, which has no slice more than it needs.
pub(super) fn get_whole(from: &Allocator<Os>, heap: &Heap, size: usize) -> usize {
    // SAFETY: the test possesses its heaps.
    unsafe { from.allocate::<Checked>(heap, size, SLICE, false) }.expose_provenance()
}

pub(super) fn get(from: &Allocator<Os>, heap: &Heap, size: usize) -> usize {
    // SAFETY: the test possesses its heaps.
    let block = unsafe { from.allocate::<Checked>(heap, size, 1, false) };
    assert!(!block.is_null());
    block.expose_provenance()
}

/// A number below `below`, another one each time.
fn random(state: &mut u64, below: usize) -> usize {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
    (*state >> 33) as usize % below
}

/// As many blocks of `size` bytes as there are in so many MiB.
pub(super) fn build_up(from: &Allocator<Os>, heap: &Heap, size: usize, mib: usize) -> Vec<usize> {
    (0..(mib << 20) / size).map(|_| get(from, heap, size)).collect()
}

pub(super) fn free(from: &Allocator<Os>, heap: &Heap, address: usize) {
    let place = from.place(address).expect("a live block");
    // SAFETY: the test possesses its heaps, and the block is live.
    unsafe { from.free::<Checked>(heap, ptr::with_exposed_provenance_mut(address), place) };
}

/// Frees a block to its slab, past the bin.
fn free_home(from: &Allocator<Os>, heap: &Heap, address: usize) {
    free(from, heap, address);
    heap.empty_bins::<Checked, _>(from);
}

fn slab_of(from: &Allocator<Os>, address: usize) -> &'static Slab {
    match from.place(address) {
        Ok(Place::Slab(slab)) => slab,
        _ => panic!("{address:#x} is no block of a slab"),
    }
}

/// Whether the heap finds the block's slab by one load, as a free does.
fn finds(from: &Allocator<Os>, heap: &Heap, address: usize) -> bool {
    ptr::eq(heap.own_slab(address).slab(), slab_of(from, address))
}

/// All blocks of one fresh slab that serves `size` bytes.
fn fill(from: &Allocator<Os>, heap: &Heap, size: usize) -> Vec<usize> {
    let capacity = class_info(class_of(size)).capacity;
    let blocks: Vec<usize> = (0..capacity).map(|_| get(from, heap, size)).collect();
    assert!(blocks.iter().all(|&block| ptr::eq(slab_of(from, block), slab_of(from, blocks[0]))));
    blocks
}

#[test]
fn the_tables_of_bins_agree_with_the_arithmetic() {
    for size in 0..=SMALL_MAX {
        let at = Some(class_of(size) * Bin::WORDS);
        assert_eq!(Bin::of_granules(size), at, "request of {size}");
        assert_eq!(Bin::of_size(size), at.filter(|_| size <= 1024), "request of {size}");
    }
    assert_eq!(Bin::of_granules(SMALL_MAX + 1), None);
    for align in (0..=16).map(|shift| 1 << shift) {
        for size in 0..=SMALL_MAX + 1 {
            let at = class_of_aligned(size, align).map(|class| class * Bin::WORDS);
            assert_eq!(Bin::of_aligned(size, align), at, "request of {size} at {align}");
        }
    }
}

/// The tags of free blocks are the process's own.
#[test]
fn a_secret_is_chosen_before_the_first_block() {
    let secrets = [1, 2].map(|seed| allocator_on(Config { seed, ..Config::default() }, GRANULE).secret());
    assert!(secrets[0] != secrets[1] && secrets.iter().all(|secret| secret & 1 == 1));
}

#[test]
fn a_slab_knows_which_of_its_blocks_were_handed_out() {
    let from = allocator(GRANULE);
    let heap = possess(from, 1);
    for size in [1 << 10, 2_500, 20 << 10] {
        let _first = fill(from, heap, size);
        let slab = slab_of(from, get(from, heap, size));
        assert!(slab.start() > slab.base() || size < 2_000);
        let (base, size, out) = (slab.start(), slab.info().size as usize, slab.handed_out() as usize);
        assert!(out > 0 && out < slab.info().capacity as usize);
        for index in 0..slab.info().capacity as usize {
            let block = ptr::with_exposed_provenance_mut(base + index * size);
            assert_eq!(slab.is_unborn(block), index >= out);
            assert_eq!(slab.is_block(index * size), index < out);
            // SAFETY: the test possesses the heap.
            assert_eq!(unsafe { slab.has_own_block(base + index * size) }, index < out);
        }
        assert!(
            ![0, base - 16, base + slab.bytes()]
                .map(ptr::without_provenance_mut)
                .map(|at| slab.is_unborn(at))
                .contains(&true)
        );
    }
}

#[test]
fn a_heap_takes_a_slab_that_an_idle_one_can_spare() {
    let from = allocator(GRANULE);
    let (gone, heap) = (possess(from, 1), possess(from, 2));
    let blocks = fill(from, gone, 8 << 10);
    free(from, gone, blocks[0]);
    free(from, gone, blocks[1]);
    gone.collect::<Checked, _>(from);
    from.give_up(gone);
    let again = [get(from, heap, 8 << 10), get(from, heap, 8 << 10)];
    assert!(again.iter().all(|block| blocks[..2].contains(block)), "fresh memory instead");
    assert!(finds(from, heap, blocks[2]) && !finds(from, gone, blocks[2]));
    // All its blocks are out: it is empty when all of them are home.
    let slab = slab_of(from, blocks[2]);
    assert_eq!((slab.standing(), slab.live()), (Standing::Full, blocks.len() as u32));
    blocks[1..].iter().for_each(|&block| free_home(from, heap, block));
    assert_eq!((slab.standing(), slab.live()), (Standing::Available, 1));
    let again: Vec<usize> = blocks[1..].iter().map(|_| get(from, heap, 8 << 10)).collect();
    assert!(again.iter().all(|block| blocks[1..].contains(block)));
    // Nothing of it is left with the idle heap.
    assert!(!blocks.contains(&get(from, heap, 8 << 10)));
}

#[test]
fn the_slabs_of_a_heap_that_nobody_possesses_go_to_who_frees_their_blocks() {
    let from = allocator(GRANULE);
    let (gone, heap) = (possess(from, 1), possess(from, 2));
    // Full ones, one with free blocks, and one that is current, which stays.
    let full = fill(from, gone, 8 << 10);
    let available = fill(from, gone, 4 << 10);
    let current = [8 << 10, 4 << 10].map(|size| get(from, gone, size));
    free_home(from, gone, available[0]);
    from.give_up(gone);
    for (block, taken) in [(full[0], true), (available[1], true), (current[0], false)] {
        let slab = slab_of(from, block);
        free(from, heap, block);
        assert_eq!(ptr::eq(slab.owner(), heap), taken);
        assert_eq!(ptr::eq(heap.own_slab(block).slab(), slab), taken);
        assert_eq!(ptr::eq(gone.own_slab(block).slab(), slab), !taken);
    }
    assert!(gone.inbox().is_empty() && !from.pool().has_unread_inbox());
    // What is free in them serves the heap.
    assert_eq!(get(from, heap, 8 << 10), full[0]);
    let left = full.iter().chain(&available[2..]).chain(&current[1..]);
    left.for_each(|&block| free(from, heap, block));
    heap.collect::<Checked, _>(from);
    from.collect_idle::<Checked>(heap.caller());
    assert_eq!(from.claimed_slices(), 0);
}

#[test]
fn blocks_for_another_heap_are_sent_sixteen_kibibytes_at_a_time() {
    let from = allocator(GRANULE);
    let (one, two, sender) = (possess(from, 1), possess(from, 2), possess(from, 3));
    let of = |heap| (0..32).map(|_| get(from, heap, 1 << 10)).collect::<Vec<usize>>();
    let (ones, twos) = (of(one), of(two));
    // By turns: each owner has a chain of its own.
    for index in 0..32 {
        assert!(index != 15 || one.inbox().is_empty() && two.inbox().is_empty(), "sent one by one");
        assert!(index < 16 || !one.inbox().is_empty() && !two.inbox().is_empty(), "held back");
        free(from, sender, ones[index]);
        free(from, sender, twos[index]);
    }
    assert_eq!(sender.remote_frees(), 64);
}

#[test]
fn blocks_of_several_slabs_arrive_all_together() {
    let from = allocator(GRANULE);
    let (owner, sender) = (possess(from, 1), possess(from, 2));
    let blocks: Vec<usize> = (0..8).flat_map(|_| fill(from, owner, 1 << 10)).step_by(64).collect();
    assert_eq!(blocks.iter().map(|block| block / SLICE).collect::<BTreeSet<_>>().len(), 8);
    blocks.iter().for_each(|&block| free(from, sender, block));
    assert!(owner.inbox().is_empty(), "too few to be sent");
    sender.settle::<Checked, _>(from);
    assert!(blocks.iter().all(|&block| owner.inbox().holds(ptr::with_exposed_provenance_mut(block))));
    assert!(
        !sender.needs_collecting() && owner.receive::<Checked, _>(from, 9) != 0 && owner.inbox().is_empty()
    );
    assert!(blocks.iter().all(|&block| from.place(block).err() == Some(Misuse::DoubleFree)));
}

#[test]
fn an_inbox_knows_what_it_holds() {
    let mut words = [[0usize; 2]; 4];
    let [a, b, c, other] = [0, 1, 2, 3].map(|index| (&raw mut words[index]).cast::<Block>());
    let inbox = Inbox::new();
    for block in [a, b, c] {
        // SAFETY: memory of this test.
        unsafe { inbox.push::<Checked>(block, block, 5) };
    }
    assert_eq!(
        [a, b, c, other, ptr::null_mut()].map(|block| inbox.holds(block)),
        [true, true, true, false, false]
    );
    let received = crate::sync::atomic::AtomicPtr::new(ptr::null_mut());
    inbox.take(&received);
    assert_eq!(received.load(Ordering::Relaxed), c);
    assert!(inbox.is_empty() && ![a, b, c].into_iter().any(|block| inbox.holds(block)));
}

#[test]
fn a_heap_needs_collecting_when_there_is_something_to_give_back() {
    let from = allocator(GRANULE);
    let (owner, sender) = (possess(from, 1), possess(from, 2));
    assert!(!owner.needs_collecting());
    let block = get(from, owner, 1 << 10);
    let other = get(from, owner, 1 << 10);
    assert!(owner.needs_collecting(), "it has a current slab");
    owner.collect::<Checked, _>(from);
    assert!(!owner.needs_collecting(), "only live blocks are left");
    free(from, sender, block);
    assert!(sender.needs_collecting() && !owner.needs_collecting(), "a block is held back");
    sender.settle::<Checked, _>(from);
    assert!(owner.needs_collecting() && !sender.needs_collecting(), "a block was sent");
    owner.settle::<Checked, _>(from);
    assert!(!owner.needs_collecting());
    free(from, owner, other);
    assert!(owner.needs_collecting(), "a block is in a bin");
    owner.collect::<Checked, _>(from);
    assert!(!owner.needs_collecting());
    assert_eq!(from.claimed_slices(), 0);
}

#[test]
fn what_was_released_is_looked_at_once_in_so_many_slices() {
    let from = allocator(GRANULE);
    let heap = possess(from, 1);
    let due = |slices| (0..9).map(|_| heap.claimant().adds_up(slices, 8)).collect::<Vec<bool>>();
    let all = |turn: usize| (1..10).map(|count| count % turn == 0).collect::<Vec<bool>>();
    assert_eq!(due(1), all(8));
    assert!(!heap.claimant().adds_up(6, 8) && heap.claimant().adds_up(1, 8), "one was left from before");
    assert_eq!((due(4), due(8), due(100)), (all(2), all(1), all(1)));
}

#[test]
fn a_claim_asks_the_arena_that_served_last_first() {
    // Twelve slices of each arena can be claimed.
    let from = allocator(14 * SLICE);
    let heap = possess(from, 1);
    let blocks: Vec<usize> = (0..18).map(|_| get_whole(from, heap, 2 * SLICE)).collect();
    let arenas = blocks.iter().map(|block| block / GRANULE).collect::<BTreeSet<_>>().len();
    // The first run in each arena is claimed as it is mapped; those that are full are not asked.
    assert_eq!((arenas, heap.lookups()), (3, Bet { taken: 15, won: 15, lost: 0 }));
    assert_eq!(from.bets().lookup, heap.lookups());
}

#[test]
fn a_claim_and_a_look_at_the_figures_cost_the_same_among_many_arenas() {
    let from = allocator(GRANULE);
    let heap = possess(from, 1);
    let mut large = Vec::new();
    // The most nodes of hints that a claim looks at, and arenas that it asks in vain.
    let dearest = |arenas: u64, large: &mut Vec<usize>| {
        while from.space().counts().regions[Kind::Arena as usize] < arenas as usize {
            large.push(get(from, heap, LARGE_MAX));
        }
        let lost = heap.lookups().lost;
        let costs = [SLICE, 2 * SLICE, 5 * SLICE, LARGE_MAX, 1 << 10].map(|size| {
            LOOKS.set(0);
            large.push(get(from, heap, size));
            LOOKS.get()
        });
        LOOKS.set(0);
        let census = from.census::<Checked>(heap);
        assert_eq!(census.large.blocks + census.small.blocks, large.len() as u64);
        (costs.into_iter().max(), LOOKS.get(), heap.lookups().lost - lost)
    };
    let few = dearest(10, &mut large);
    let many = dearest(1500, &mut large);
    assert!(few.0 <= Some(20) && few.1 <= 10 && few.2 == 0, "{few:?}");
    assert!(many.0 <= Some(20) && many.1 <= 10 && many.2 == 0, "{many:?} among many, {few:?} among few");
    // Most of them go.
    let kept = large.split_off(large.len() - 100);
    large.drain(..).for_each(|block| free(from, heap, block));
    from.give_back_all(heap.claimant());
    assert!(from.space().counts().regions[Kind::Arena as usize] < 30);
    large.extend(kept);
    // The first claims correct what the hints say of whole groups of arenas.
    let corrected = dearest(10, &mut large);
    assert!(corrected.0 <= Some(20 + 3 * 1500 / 64), "{corrected:?}");
    let after = dearest(10, &mut large);
    assert!(after.0 <= Some(20) && after.1 <= 10 && after.2 <= 1, "{after:?} after many, {few:?} before");
    // The vacant positions serve first.
    let position = |block: usize| from.arena_of(block).arena().position().expect("in the table");
    let fresh: Vec<usize> = (0..200).map(|_| get(from, heap, LARGE_MAX)).collect();
    assert!(fresh.iter().all(|&block| position(block) < 60 || position(block) > 1400));
}

#[test]
fn what_was_cut_off_a_large_block_is_free() {
    let from = allocator(GRANULE);
    let heap = possess(from, 1);
    let block = get_whole(from, heap, 5 * SLICE);
    let place = from.place(block).unwrap();
    assert_eq!(place.usable(), 5 * SLICE);
    // SAFETY: the block is live, and large before and after.
    let same = unsafe { from.resize(heap, place, 2 * SLICE, 1) };
    assert_eq!((same.map(|block| block.addr()), place.usable()), (Some(block), 2 * SLICE));
    let usage = |slice: usize| from.place(block + slice * SLICE).err();
    let (interior, nothing) = (Some(Misuse::Interior), Some(Misuse::Nothing));
    assert_eq!([0, 1, 2, 3, 4].map(usage), [None, interior, nothing, nothing, nothing]);
    assert_eq!((from.dirty_slices(), from.claimed_slices()), (3, 2));
    free(from, heap, block);
    assert_eq!([0, 1, 2].map(usage), [Some(Misuse::DoubleFree), nothing, nothing]);
}

#[test]
fn where_a_large_block_was_there_was_one_block() {
    let from = allocator(GRANULE);
    let heap = possess(from, 1);
    let block = get(from, heap, SLICE);
    free(from, heap, block);
    let misuse = [block, block + 16].map(|at| from.place(at).err());
    assert_eq!(misuse, [Some(Misuse::DoubleFree), Some(Misuse::Nothing)]);
}

#[test]
fn a_full_slab_is_available_from_its_first_free_and_gone_with_its_last() {
    let from = allocator(GRANULE);
    let heap = possess(from, 1);
    for size in [8 << 10, 20 << 10] {
        let blocks = fill(from, heap, size);
        let slab = slab_of(from, blocks[0]);
        let next = get(from, heap, size);
        assert_eq!((slab.standing(), slab.live()), (Standing::Full, slab.info().capacity));
        let claimed = from.claimed_slices();
        for (freed, &block) in blocks.iter().enumerate() {
            assert!(!ptr::eq(heap.own_slab(next).slab(), slab) && from.claimed_slices() == claimed);
            free_home(from, heap, block);
            let live = slab.info().capacity - 1 - freed as u32;
            // In a slice behind the first of a run that is closed, nothing is known of what lived there.
            let gone = from.place(block).err();
            let gone = gone == Some(Misuse::DoubleFree) || live == 0 && gone == Some(Misuse::Nothing);
            assert!(gone && (live == 0 || (slab.standing(), slab.live()) == (Standing::Available, live)));
        }
        // Its slices are kept for the next, of any class; until they are asked for.
        assert_eq!(from.claimed_slices(), claimed);
        heap.collect::<Checked, _>(from);
        assert_eq!(claimed - from.claimed_slices(), slab_of(from, next).slices() as usize);
    }
}

#[test]
fn a_block_freed_as_the_fast_path_does_it_is_handed_out_again() {
    let from = allocator(GRANULE);
    let heap = possess(from, 1);
    let block = fill(from, heap, 1 << 10)[0];
    let (slab, at) = (slab_of(from, block), ptr::with_exposed_provenance_mut::<Block>(block));
    let key = Block::key(at, heap.secret());
    // A block that is handed out leaves its room to another.
    get(from, heap, 1 << 10);
    // SAFETY: the test possesses the heap, and the block.
    unsafe {
        assert!((*heap.own_slab(block).slab()).has_own_block(block) && !Block::is_free(at, key));
        let bin = heap.bin_at(slab.bin());
        assert!(bin.take_room());
        bin.push::<Checked>(at, key);
        assert!(Block::is_free(at, key));
    }
    assert_eq!(from.place(block).err(), Some(Misuse::DoubleFree));
    assert_eq!(get(from, heap, 1 << 10), block);
}

#[test]
fn a_census_knows_what_is_live_in_the_current_slabs_of_its_heap() {
    let from = allocator(GRANULE);
    let heap = possess(from, 1);
    let (class, bytes) = (class_of(1 << 10), class_size(class_of(1 << 10)) as u64);
    let mut blocks = Vec::new();
    // Some free blocks are in the bin, some on the slab's list.
    for (more, fewer) in [(6, 0), (1, 3), (0, 2), (5, 1), (0, 5)] {
        blocks.extend((0..more).map(|_| get(from, heap, 1 << 10)));
        blocks.drain(..fewer).for_each(|block| free(from, heap, block));
        let census = from.census::<Checked>(heap);
        assert_eq!(census.classes[class], ClassCensus { live: blocks.len() as u64, slabs: 1 });
        assert_eq!(
            (census.small.blocks, census.small.bytes),
            (blocks.len() as u64, blocks.len() as u64 * bytes)
        );
        let handed_out = u64::from(slab_of(from, blocks[0]).handed_out()) * bytes;
        assert_eq!(census.small.bytes + census.free_bytes, handed_out);
    }
}

/// What is free in the bins of a heap that is only lent is nobody's.
#[test]
fn a_census_knows_what_guests_have_left() {
    let from = allocator(GRANULE);
    let (guest, asks) = (ThreadId::new(1), possess(from, 2));
    let lent = from.pool().lend(from, guest).expect("memory");
    let blocks = [(); 4].map(|()| get(from, lent, 1 << 10));
    blocks[1..].iter().for_each(|&block| free(from, lent, block));
    from.give_up(lent);
    let census = from.census::<Checked>(asks);
    assert_eq!((census.small.blocks, census.small.bytes), (1, class_size(class_of(1 << 10)) as u64));
}

#[test]
fn after_a_fork_the_slabs_of_a_vanished_thread_serve_again() {
    let from = allocator(GRANULE);
    let (gone, heap) = (possess(from, 1), possess(from, 2));
    let available = fill(from, gone, 8 << 10);
    let current = get(from, gone, 8 << 10);
    available[..2].iter().for_each(|&block| free_home(from, gone, block));
    // SAFETY: this thread plays all of them.
    unsafe { from.child_after_fork(heap.caller(), 0) };
    assert!(from.pool().is_idle(gone.index() as usize) && !from.pool().is_idle(heap.index() as usize));
    let again = [get(from, heap, 8 << 10), get(from, heap, 8 << 10)];
    assert!(again.iter().all(|block| available[..2].contains(block)), "fresh memory instead");
    // That slab is the heap's now, and nobody else's.
    let fresh = get(from, heap, 8 << 10);
    assert!(
        ![available[0], current].iter().any(|&block| ptr::eq(slab_of(from, block), slab_of(from, fresh)))
    );
    available.iter().chain([&current, &fresh]).for_each(|&block| free(from, heap, block));
    heap.collect::<Checked, _>(from);
    from.collect_idle::<Checked>(heap.caller());
    assert_eq!(from.claimed_slices(), 0);
}

#[test]
fn a_section_of_a_heap_keeps_what_it_found() {
    let from = allocator(GRANULE);
    let heap = possess(from, 1);
    let section = heap.section(from);
    let region = from.space().map_region(Kind::Huge, SLICE, 1, 0).unwrap();
    assert!(from.space().retire_region(region));
    (0..3).for_each(|_| assert_eq!(from.space().reap(None), 0));
    drop(section);
    (0..3).for_each(|_| _ = from.space().reap(Some(heap.slot())));
    assert_eq!(from.space().counts().retired, 0);
}
