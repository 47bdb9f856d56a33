//! An allocator on a simulated system beside a reference model of it: the set of live blocks, each with a pattern in
//! it.
//!
//! Every operation is checked as it happens, and [`Driver::check`] compares the two after each: all live blocks are
//! intact, none overlaps another, and the allocator tells the starts of live blocks from all other addresses. In the
//! end [`Driver::finish`] frees everything and looks for leaks.

mod figures;

use crate::pattern::{fill, has_its_pages, is_intact, is_zero};
use specmalloc::internals::base::{GRANULE, SLICE, SMALL_MAX};
use specmalloc::internals::heap::{Allocator, BlockKind, Checks, Heap, LARGE_MAX, Place, ThreadId};
use specmalloc::internals::pal::simulated::{CallKind, Config, Simulated};
use std::collections::{BTreeMap, VecDeque};
use std::marker::PhantomData;

/// Heaps that are possessed at a time: the threads that a test plays.
pub const HANDS: usize = 3;
/// Addresses of freed blocks that are remembered.
const FREED: usize = 24;

/// One step. `hand` says which heap acts, `pick` chooses among the live blocks.
#[derive(Clone, Copy, Debug)]
pub enum Step {
    Allocate {
        hand: usize,
        size: usize,
        align: usize,
        zero: bool,
    },
    AllocateMany {
        hand: usize,
        size: usize,
        count: usize,
    },
    Free {
        hand: usize,
        pick: usize,
    },
    FreeMany {
        hand: usize,
        pick: usize,
        count: usize,
    },
    Reallocate {
        hand: usize,
        pick: usize,
        size: usize,
    },
    GiveUp {
        hand: usize,
    },
    Settle {
        hand: usize,
    },
    Collect {
        hand: usize,
    },
    CollectIdle,
    Purge {
        hand: usize,
        most: usize,
    },
    Tick {
        hand: usize,
    },
    Relieve {
        hand: usize,
    },
    /// As in the child of a fork by `hand`: the other hands' threads do not exist any more.
    Fork {
        hand: usize,
    },
    /// As in the child of a fork by a thread without a heap.
    ForkByGuest,
    /// Every hand gives up, and the heaps are tidied until nothing moves: then all figures are exact. Afterwards, if
    /// asked for, everything free is given back.
    Count {
        relieve: bool,
    },
}

/// The thread that a hand stands for.
fn holder(hand: usize) -> ThreadId {
    ThreadId::new(1 + hand % HANDS)
}

/// A thread that has no heap of its own.
const GUEST: ThreadId = ThreadId::new(1 + HANDS);

struct Live {
    size: usize,
    align: usize,
    usable: usize,
    seed: u8,
}

pub struct Driver<C: Checks> {
    pub os: Simulated,
    pub allocator: &'static Allocator<Simulated>,
    hands: [Option<&'static Heap>; HANDS],
    live: BTreeMap<usize, Live>,
    freed: VecDeque<usize>,
    /// Requests that were refused.
    pub refused: usize,
    tally: figures::Tally,
    seeds: u8,
    checks: PhantomData<C>,
}

impl<C: Checks> Driver<C> {
    /// An allocator on a system of this kind. It is dropped by [`Driver::finish`].
    pub fn new(config: Config, tune: impl FnOnce(&Allocator<Simulated>)) -> Driver<C> {
        Driver::on(Simulated::with(config), tune)
    }

    /// An allocator on this system.
    pub fn on(os: Simulated, tune: impl FnOnce(&Allocator<Simulated>)) -> Driver<C> {
        let handle = os.clone();
        // An allocator is larger than a test's stack allows to pass by value.
        let make = move || &*Box::leak(Box::new(Allocator::new(handle)));
        let maker = std::thread::Builder::new().stack_size(32 << 20).spawn(make).unwrap();
        let allocator = maker.join().unwrap();
        allocator.start();
        allocator.adapt();
        tune(allocator);
        Driver {
            os,
            allocator,
            hands: [None; HANDS],
            live: BTreeMap::new(),
            freed: VecDeque::new(),
            refused: 0,
            tally: figures::Tally::default(),
            seeds: 0,
            checks: PhantomData,
        }
    }

    /// The heap of a hand, possessed if need be. `None` without memory.
    fn heap(&mut self, hand: usize) -> Option<&'static Heap> {
        let by = holder(hand);
        let hand = &mut self.hands[hand % HANDS];
        if hand.is_none() {
            *hand = self.allocator.pool().possess_any(self.allocator, by);
        }
        if hand.is_none() {
            self.refused += 1;
        }
        let heap = *hand;
        self.tally.heaps = self.tally.heaps.max(self.hands.iter().flatten().count());
        heap
    }

    pub fn run(&mut self, step: Step) {
        match step {
            Step::Allocate { hand, size, align, zero } => self.allocate(hand, size, align, zero),
            Step::AllocateMany { hand, size, count } => {
                (0..count).for_each(|_| self.allocate(hand, size, 1, false));
            }
            Step::Free { hand, pick } => self.free(hand, pick),
            Step::FreeMany { hand, pick, count } => (0..count).for_each(|_| self.free(hand, pick)),
            Step::Reallocate { hand, pick, size } => self.reallocate(hand, pick, size),
            Step::GiveUp { hand } => {
                if let Some(heap) = self.hands[hand % HANDS].take() {
                    heap.settle::<C, _>(self.allocator);
                    self.allocator.give_up(heap);
                }
            }
            Step::Count { relieve } => self.count(relieve),
            Step::CollectIdle => self.allocator.collect_idle::<C>(GUEST),
            Step::Fork { hand } => {
                let own = self.heap(hand);
                self.hands = [None; HANDS];
                self.hands[hand % HANDS] = own;
                // SAFETY: this thread plays all of them.
                unsafe { self.allocator.child_after_fork(holder(hand), 0) };
            }
            Step::ForkByGuest => {
                self.hands = [None; HANDS];
                // SAFETY: as above.
                unsafe { self.allocator.child_after_fork(GUEST, 0) };
            }
            Step::Settle { hand }
            | Step::Collect { hand }
            | Step::Purge { hand, .. }
            | Step::Tick { hand }
            | Step::Relieve { hand } => {
                let Some(heap) = self.heap(hand) else { return };
                match step {
                    Step::Settle { .. } => heap.settle::<C, _>(self.allocator),
                    Step::Collect { .. } => heap.collect::<C, _>(self.allocator),
                    Step::Purge { most, .. } => {
                        self.allocator.purge(heap.claimant(), most);
                    }
                    Step::Tick { .. } => {
                        self.allocator.tick::<C>(heap);
                    }
                    _ => self.allocator.give_back_all(heap.claimant()),
                }
            }
        }
    }

    fn allocate(&mut self, hand: usize, size: usize, align: usize, zero: bool) {
        let Some(heap) = self.heap(hand) else { return };
        // SAFETY: the heap is possessed by this test.
        let block = unsafe { self.allocator.allocate::<C>(heap, size, align, zero) };
        if block.is_null() {
            self.refused += 1;
            return;
        }
        if zero {
            // SAFETY: the block is ours and holds so many bytes.
            assert!(is_zero(unsafe { std::slice::from_raw_parts(block, size) }), "{size} bytes are not zero");
        }
        self.enter(block, size, align);
    }

    /// Enters a block into the model and fills all of it that may be used.
    fn enter(&mut self, block: *mut u8, size: usize, align: usize) {
        let address = block.expose_provenance();
        assert!(address.is_multiple_of(align.max(16)), "{address:#x} is not a multiple of {align}");
        let usable = self.place(address, size, align).usable();
        assert!(usable >= size, "{usable} bytes for {size}");
        let before = self.live.range(..=address).next_back();
        assert!(
            before.is_none_or(|(&other, live)| other + live.usable <= address),
            "overlap at {address:#x}"
        );
        let after = self.live.range(address..).next();
        assert!(after.is_none_or(|(&other, _)| address + usable <= other), "overlap at {address:#x}");
        self.seeds = self.seeds.wrapping_add(1);
        // SAFETY: the block is ours, and says that it holds so many bytes.
        fill(unsafe { std::slice::from_raw_parts_mut(block, usable) }, self.seeds);
        self.live.insert(address, Live { size, align, usable, seed: self.seeds });
    }

    /// The place of a live block, found as the interface with these checks finds it.
    fn place(&self, address: usize, size: usize, align: usize) -> Place {
        let kind = BlockKind::of(size, align);
        let place = if C::ON || kind == BlockKind::Huge {
            self.allocator.place(address).expect("a live block has a place")
        } else {
            // SAFETY: a live block in an arena.
            unsafe { Place::trusted(address) }
        };
        match place {
            Place::Slab(slab) => assert_eq!(kind, BlockKind::Small(slab.class())),
            Place::Large(_) => assert_eq!(kind, BlockKind::Large),
            Place::Huge(_) => assert_eq!(kind, BlockKind::Huge),
        }
        place
    }

    fn bytes(&self, address: usize, usable: usize) -> &[u8] {
        // SAFETY: the range lies in a live block.
        unsafe { std::slice::from_raw_parts(std::ptr::with_exposed_provenance(address), usable) }
    }

    fn pick(&self, pick: usize) -> Option<usize> {
        self.live.keys().nth(pick % self.live.len().max(1)).copied()
    }

    fn free(&mut self, hand: usize, pick: usize) {
        let (Some(address), Some(heap)) = (self.pick(pick), self.heap(hand)) else { return };
        let live = self.live.remove(&address).unwrap();
        assert!(is_intact(self.bytes(address, live.usable), live.usable, live.seed));
        let place = self.place(address, live.size, live.align);
        self.tally.note_free(heap, place);
        // SAFETY: the block was live, and the heap is possessed by this test.
        unsafe { self.allocator.free::<C>(heap, std::ptr::with_exposed_provenance_mut(address), place) };
        self.note_freed(address);
    }

    fn note_freed(&mut self, address: usize) {
        self.freed.push_back(address);
        if self.freed.len() > FREED {
            self.freed.pop_front();
        }
    }

    /// As the interfaces do it: in place or by moving pages if the kind of block stays, else by copying.
    fn reallocate(&mut self, hand: usize, pick: usize, size: usize) {
        let (Some(address), Some(heap)) = (self.pick(pick), self.heap(hand)) else { return };
        let Live { size: old_size, align, usable, seed } = self.live[&address];
        let (old, new) = (BlockKind::of(old_size, align), BlockKind::of(size, align));
        if old == new && !matches!(old, BlockKind::Small(_)) {
            let place = self.place(address, old_size, align);
            // SAFETY: the block is live, the heap possessed, and the kinds agree.
            let resized = unsafe { self.allocator.resize(heap, place, size, align) };
            self.tally.note_resize(place, usable, size, resized.is_some_and(|block| block.addr() == address));
            if let Some(block) = resized {
                self.live.remove(&address);
                if block.addr() != address {
                    self.note_freed(address);
                }
                self.check_moved(block, old_size.min(size), usable, seed);
                return self.enter(block, size, align);
            }
        }
        let mut block = std::ptr::null_mut();
        if size > old_size.max(SMALL_MAX) && new == BlockKind::Large && align <= SLICE {
            let was_large = old == BlockKind::Large;
            block = self.allocator.allocate_to_grow(heap.claimant(), size, was_large);
        }
        if block.is_null() {
            // SAFETY: the heap is possessed by this test.
            block = unsafe { self.allocator.allocate::<C>(heap, size, align, false) };
        }
        if block.is_null() {
            self.refused += 1;
            return;
        }
        let kept = old_size.min(size);
        let place = self.place(address, old_size, align);
        self.tally.note_free(heap, place);
        self.live.remove(&address);
        let from = std::ptr::with_exposed_provenance_mut::<u8>(address);
        // SAFETY: two live blocks of at least so many bytes; the old one is freed once.
        unsafe {
            std::ptr::copy_nonoverlapping(from, block, kept);
            self.allocator.free::<C>(heap, from, place);
        }
        self.note_freed(address);
        self.check_moved(block, kept, usable, seed);
        self.enter(block, size, align);
    }

    /// A block of `usable` bytes filled with `seed` came to `block`, of which `kept` bytes count.
    fn check_moved(&self, block: *mut u8, kept: usize, usable: usize, seed: u8) {
        let bytes = self.bytes(block.expose_provenance(), kept);
        // Only a block of less than a word has no stamp at its start.
        let whole = usable >= 8 || kept == 0;
        assert!(whole && is_intact(bytes, kept.saturating_sub(7), seed), "the contents did not come along");
    }

    /// Compares the allocator with the model.
    pub fn check(&self) {
        for (&address, live) in &self.live {
            let bytes = self.bytes(address, live.usable);
            // Of large blocks every byte is compared when they are freed.
            let good = match live.usable {
                ..=SMALL_MAX => is_intact(bytes, live.usable, live.seed),
                _ => has_its_pages(bytes, live.seed),
            };
            assert!(good, "{address:#x} changed");
        }
        self.compare_figures();
        if !C::ON {
            return;
        }
        let probe = |address: usize| {
            let (place, live) = (self.allocator.place(address), self.live.contains_key(&address));
            assert_eq!(place.is_ok(), live, "{address:#x}: {:?}", place.err());
        };
        self.freed.iter().for_each(|&address| probe(address));
        for (&address, live) in &self.live {
            [0, 1, 8, 16, live.usable - 1, live.usable].iter().for_each(|offset| probe(address + offset));
            probe(address / GRANULE * GRANULE);
        }
        probe(std::ptr::from_ref(self).addr());
        self.hands.iter().flatten().for_each(|&heap| probe(std::ptr::from_ref(heap).addr()));
    }

    /// Frees everything and gives it back: only metadata may still be mapped.
    pub fn finish(mut self) {
        self.os.heal();
        self.check();
        assert!(self.heap(0).is_some(), "no heap");
        for turn in 0.. {
            if self.live.is_empty() {
                break;
            }
            self.free(turn, turn / 2);
        }
        (1..HANDS).for_each(|hand| self.run(Step::GiveUp { hand }));
        let heap = self.heap(0).unwrap();
        // What was sent from heap to heap may have to be sent on.
        for _ in 0..3 {
            heap.collect::<C, _>(self.allocator);
            self.allocator.collect_idle::<C>(GUEST);
            self.allocator.give_back_all(heap.claimant());
            self.os.advance_ms(1000);
        }
        self.count(true);
        let allocator = self.allocator;
        assert_eq!((allocator.claimed_slices(), allocator.dirty_slices()), (0, 0));
        assert_eq!(
            (allocator.huge_figures().live_blocks().get(), allocator.huge_figures().live_bytes().get()),
            (0, 0)
        );
        assert_eq!(allocator.huge_figures().kept_bytes().get(), 0);
        let counts = allocator.space().counts();
        assert_eq!(counts.regions.iter().sum::<usize>(), 0, "regions are left");
        // Without its barrier the allocator never again knows that a retired region is unused.
        let lost_barrier =
            self.os.record().iter().any(|call| call.kind == CallKind::HeavyBarrier && call.result.is_err());
        assert!(lost_barrier || (counts.retired, counts.mapped) == (0, 0), "{counts:?}");
        // What the system refused to unmap before it was a region's stays mapped: nobody remembers it.
        let record = self.os.record();
        let refused = record.iter().filter(|call| call.kind == CallKind::Unmap && call.result.is_err());
        let lost: usize = refused.map(|call| call.len).sum();
        let extra = self.os.mapped_bytes() - (counts.mapped + counts.metadata);
        assert!(extra <= lost, "{extra} bytes are lost: {counts:?}");
        self.hands = [None; HANDS];
        // SAFETY: leaked in `on`; nobody uses it any more.
        drop(unsafe { Box::from_raw(std::ptr::from_ref(allocator).cast_mut()) });
    }

    /// A block of each kind can be had, used and freed.
    pub fn works(&mut self) {
        let refused = self.refused;
        for size in [1, 40, 3000, 20_000, 70_000, 1 << 20, LARGE_MAX + 1] {
            self.allocate(1, size, 1, true);
        }
        assert_eq!(self.refused, refused, "there is memory, but not for everything");
        self.check();
    }
}
