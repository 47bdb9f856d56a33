//! The gate, by loom: an owner that comes and goes, and a visitor. The owner's entry is the load and the store that it
//! is on x86-64, and the visitor's barrier falls before or behind both (`Gate::pass_instruction`).

use super::*;
use crate::heap::lives::Round;
use crate::pal::Access;
use crate::pal::simulated::Barrier;
use crate::sync::checker::{explore, models};
use loom::cell::UnsafeCell;
use loom::thread;
use std::sync::Arc;

/// Every place that can be weakened, and the model that must fail then.
const SEEDED: &[SeededBug] = &[
    SeededBug::new("heap.gate_two_steps", "that no barrier falls between test and mark", "visited"),
    SeededBug::new("heap.gate_leave", "the owner's half of the barrier", "visited"),
    SeededBug::new("heap.gate_enter", "the acquire of an owner that comes in", "visited"),
    SeededBug::new("heap.gate_release", "the release of a visitor that has been inside", "visited"),
    SeededBug::new("heap.visit_unbarred", "the barrier between mark and look", "visited"),
    SeededBug::new("heap.visit_unlooked", "the look behind the barrier", "visited"),
    SeededBug::new("heap.knock", "the acquire of an owner that takes marks off", "visited"),
    SeededBug::new("heap.visit_end", "the release of a visit", "visited"),
    SeededBug::new("heap.hand_over", "the release of an owner that exits while it is visited", "gone"),
    SeededBug::new("heap.visit_gone", "the acquire of a visitor that finds the owner gone", "gone"),
    SeededBug::new("heap.visit_forgets_gone", "the heap of an owner that is gone", "handed_over"),
    SeededBug::new(
        "heap.tidy_fence",
        "the fence between the note and the look at the inbox",
        "sent_to_a_tidied",
    ),
    SeededBug::new("heap.tidied_unprobed", "the probe that is set with the mark", "used_after_tidied"),
    SeededBug::new("heap.ring_before_open", "the order of opening a gate and the bell", "noticed"),
    SeededBug::new("heap.back_silently", "the bell when the owner of a tidied heap is back", "noticed"),
    SeededBug::new("heap.post_undisturbed", "the look whether the owner was tidied", "sent_to_a_tidied"),
    SeededBug::new("heap.used_unnoted", "that the owner of a swept heap is back", "swept"),
    SeededBug::new("heap.hollow_unvisited", "that free blocks are given back in a visit only", "hollowed"),
];

const OWNER: ThreadId = ThreadId::new(2);
const VISITOR: ThreadId = ThreadId::new(3);

/// A heap with a gate, and something that whoever is inside may touch.
struct Gated {
    base: Base,
    heap: &'static Heap,
    inside: UnsafeCell<u32>,
}

// SAFETY: the checker verifies that accesses do not overlap.
unsafe impl Sync for Gated {}
// SAFETY: as above.
unsafe impl Send for Gated {}

impl Gated {
    fn new(barrier: Barrier) -> Arc<Gated> {
        let config = Config { reserve: 16 * GRANULE, barrier, ..Config::default() };
        let base = Base::on(Simulated::with(config));
        let heap = base.possess_as(OWNER);
        base.get().open_gate(heap);
        Arc::new(Gated { base, heap, inside: UnsafeCell::new(0) })
    }

    fn touch(&self) {
        // SAFETY: the checker verifies that no access overlaps.
        self.inside.with_mut(|value| unsafe { *value += 1 });
    }

    fn step(&self) {
        self.inside(|| self.touch());
    }

    /// The owner does something in a step, unless it is refused.
    fn inside(&self, body: impl FnOnce()) {
        if self.heap.gate().enter() || self.base.get().readmit(self.heap, OWNER) {
            body();
            self.heap.gate().leave();
        }
    }

    /// The owner frees a block in a step.
    fn frees(&self, block: usize) {
        self.inside(|| {
            let place = self.base.get().place(block).expect("a live block");
            // SAFETY: the owner is inside, and the block is its.
            unsafe {
                self.base.get().free::<Checked>(self.heap, ptr::with_exposed_provenance_mut(block), place)
            };
        });
    }

    fn visit(&self) {
        self.base.get().visit::<Checked>(VISITOR, Gate::mark, |_| true, |_| self.touch());
    }
}

/// An owner makes two steps while another thread visits its heap.
fn visited() {
    explore(3, || {
        let gated = Gated::new(Barrier::Works);
        let visitor = {
            let gated = Arc::clone(&gated);
            thread::spawn(move || gated.visit())
        };
        gated.step();
        gated.step();
        visitor.join().unwrap();
        // Nobody is inside, and the owner comes in again, whatever mark was left.
        assert!(gated.heap.gate().enter() || gated.base.get().readmit(gated.heap, OWNER));
    });
}

/// An owner exits while its heap is visited, or while a visitor knocks whose barrier fails: it is given up once.
fn handed_over() {
    for barrier in [Barrier::Works, Barrier::StopsAfter(1)] {
        explore(3, move || {
            let gated = Gated::new(barrier);
            let owner = {
                let gated = Arc::clone(&gated);
                thread::spawn(move || {
                    gated.step();
                    gated.base.get().leave_heap::<Checked>(gated.heap, OWNER);
                })
            };
            gated.visit();
            let possessed = gated.base.get().pool().possess(0, VISITOR);
            if possessed.is_some() {
                gated.touch();
            }
            owner.join().unwrap();
            let next = possessed.or_else(|| gated.base.get().pool().possess(0, VISITOR));
            assert!(next.is_some(), "nobody has given the heap up");
            assert!(gated.heap.visit().knock(VISITOR), "a visit has no end");
        });
    }
}

/// An owner that is refused exits while a visitor ends its visit: either the visitor has the heap then, or the owner.
fn gone() {
    explore(3, || {
        let gated = Gated::new(Barrier::Works);
        assert!(gated.heap.visit().knock(VISITOR));
        let owner = {
            let gated = Arc::clone(&gated);
            thread::spawn(move || {
                gated.touch();
                if !gated.heap.visit().hand_over() {
                    assert!(gated.heap.visit().knock(OWNER));
                    gated.touch();
                }
            })
        };
        if !gated.heap.visit().end(VISITOR) {
            gated.touch();
        }
        owner.join().unwrap();
    });
}

/// A block is sent to a heap that the helper tidies at the same time: it does not sleep while the block lies there.
fn sent_to_a_tidied() {
    explore(2, || {
        let gated = Gated::new(Barrier::Works);
        let (from, owner, sender) = (gated.base.get(), gated.heap, gated.base.possess());
        let helpers = gated.base.possess_as(VISITOR);
        // SAFETY: this thread plays the owner.
        let block = unsafe { from.allocate::<Checked>(owner, 8 << 10, 1, false) }.expose_provenance();
        owner.gate().probe();
        let over = Arc::new(AtomicUsize::new(0));
        let helper = {
            let (gated, over) = (Arc::clone(&gated), Arc::clone(&over));
            thread::spawn(move || {
                let from = gated.base.get();
                from.watch_heaps::<Checked>(helpers);
                // Relaxed: the bell orders it.
                let awake = || from.has_untidied() || over.load(Ordering::Relaxed) != 0;
                from.bell().doze(from.space().os(), None, awake);
            })
        };
        let place = from.place(block).expect("a live block");
        // SAFETY: this thread possesses the heap, and the block is its.
        unsafe { from.free::<Checked>(sender, ptr::with_exposed_provenance_mut(block), place) };
        if owner.inbox().is_empty() || from.has_untidied() {
            // The block went home, or the helper will look again: it may sleep on, but for the end of this model.
            over.store(1, Ordering::Relaxed);
            from.ring();
        }
        helper.join().unwrap();
    });
}

/// A thread comes to have a heap, or is back in one that was tidied, while the helper falls asleep: that is awake, for
/// what the thread frees and keeps is to be looked after.
fn noticed() {
    // Somebody comes back to a heap that was tidied, or that was left; or to one that was tidied before it was left.
    for [tidied, left] in [[false, true], [true, false], [true, true]] {
        explore(3, move || {
            let gated = Gated::new(Barrier::Works);
            let (from, heap) = (gated.base.get(), gated.heap);
            let helpers = gated.base.possess_as(VISITOR);
            if tidied {
                from.make_round::<Checked>(helpers, Round::Untidied);
            }
            if left {
                from.abandon::<Checked>(heap, OWNER);
                assert!(from.pool().possess(heap.index() as usize, OWNER).is_some());
            }
            assert!(!from.has_untidied());
            let owner = {
                let gated = Arc::clone(&gated);
                thread::spawn(move || {
                    if left {
                        gated.base.get().open_gate(gated.heap);
                    } else {
                        gated.step();
                    }
                })
            };
            while !from.has_untidied() {
                from.bell().doze(from.space().os(), None, || from.has_untidied());
            }
            owner.join().unwrap();
        });
    }
}

/// An owner frees while its heap is tidied, just used or probed before: what it frees afterwards is found again.
fn used_after_tidied() {
    for probed in [false, true] {
        explore(2, move || {
            let gated = Gated::new(Barrier::Works);
            let (from, heap) = (gated.base.get(), gated.heap);
            // SAFETY: this thread plays the owner.
            let block = unsafe { from.allocate::<Checked>(heap, 8 << 10, 1, false) }.expose_provenance();
            let helpers = gated.base.possess_as(VISITOR);
            if probed {
                heap.gate().probe();
            }
            let owner = {
                let gated = Arc::clone(&gated);
                thread::spawn(move || gated.frees(block))
            };
            if probed {
                from.watch_heaps::<Checked>(helpers);
            } else {
                from.make_round::<Checked>(helpers, Round::Untidied);
            }
            owner.join().unwrap();
            assert!(from.has_untidied() || !heap.needs_collecting(), "nobody looks at it again");
        });
    }
}

/// An owner allocates and frees while another thread that grows sweeps its heap, which was passed before or is passed now:
/// what it keeps afterwards can be swept again.
fn swept() {
    for probed in [false, true] {
        explore(2, move || {
            let gated = Gated::new(Barrier::Works);
            let (from, heap, grower) = (gated.base.get(), gated.heap, gated.base.possess_as(VISITOR));
            // SAFETY: this thread plays the owner.
            let block = unsafe { from.allocate::<Checked>(heap, 8 << 10, 1, false) }.expose_provenance();
            if probed {
                heap.gate().probe();
            }
            let owner = {
                let gated = Arc::clone(&gated);
                thread::spawn(move || {
                    // SAFETY: the owner is inside.
                    gated.inside(|| unsafe {
                        assert!(
                            !gated.base.get().allocate::<Checked>(gated.heap, 8 << 10, 1, false).is_null()
                        );
                    });
                    gated.frees(block);
                })
            };
            from.sweep::<Checked>(grower);
            owner.join().unwrap();
            let is_seen = from.watch().is_unswept(heap.index() as usize);
            assert!(is_seen || !heap.needs_collecting(), "nobody sweeps it again");
        });
    }
}

/// An owner takes a free block of two pages again while another thread gives back what only free blocks touch: what it
/// writes there stays.
fn hollowed() {
    explore(2, || {
        let gated = Gated::new(Barrier::Works);
        let (from, heap) = (gated.base.get(), gated.heap);
        // SAFETY: this thread plays the owner.
        let take = || unsafe { from.allocate::<Checked>(heap, 8 << 10, 1, false) };
        let (_stays, block) = (take(), take().expose_provenance());
        let place = from.place(block).expect("a live block");
        // SAFETY: as above.
        unsafe { from.free::<Checked>(heap, ptr::with_exposed_provenance_mut(block), place) };
        heap.collect::<Checked, _>(from);
        let visitors = gated.base.possess_as(VISITOR);
        let owner = {
            let gated = Arc::clone(&gated);
            thread::spawn(move || {
                let (from, heap) = (gated.base.get(), gated.heap);
                if !heap.gate().enter() && !from.readmit(heap, OWNER) {
                    return None;
                }
                // SAFETY: the owner is inside.
                let block = unsafe { from.allocate::<Checked>(heap, 8 << 10, 1, false) };
                // SAFETY: the block is the owner's, and has a second page.
                unsafe { block.add(4096).cast::<usize>().write(1) };
                // For the checker, which knows nothing of what is in memory: system calls come in one order or another.
                let _mapped = from.space().os().map(None, 4096, Access::ReadWrite);
                heap.gate().leave();
                Some(block.expose_provenance() + 4096)
            })
        };
        from.make_round::<Checked>(visitors, Round::All);
        if let Some(word) = owner.join().unwrap() {
            // SAFETY: the block is live.
            let kept = unsafe { ptr::with_exposed_provenance::<usize>(word).read() };
            assert_eq!(kept, 1, "given back though live");
        }
    });
}

models! { visited handed_over gone sent_to_a_tidied used_after_tidied swept noticed hollowed }
