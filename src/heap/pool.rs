//! The pool of heaps: which heap is possessed, and which is idle.
//!
//! A heap is made once and lives forever. The thread that possesses it owns everything in it; when the thread exits
//! the heap becomes idle with its slabs, private lists and inbox as they are, and the next new thread possesses it
//! whole. That is adoption in one step: what the old thread had allocated is local to the new one.
//!
//! The law: the word in the heap says who possesses it, or nobody. Writing one's own number over nobody's is taking
//! possession, writing nobody's over it is giving up; both are one atomic step, and nothing waits. The bits in `idle` are
//! hints where to look: one may be set for a heap that is possessed; when nobody is in the middle of either step, each
//! idle heap's is.

use super::Allocator;
use super::block::Checks;
use super::local::Heap;
use crate::pal::Platform;
use crate::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use crate::sync::{acquire, release, seeded};
use crate::{atomic_array, const_unless_model};
use core::num::NonZeroUsize;
use core::ptr;

/// Heaps that can exist: threads that allocate at the same time. Threads beyond it share (see `global`).
pub const MAX_HEAPS: usize = if cfg!(any(loom, shuttle)) { 4 } else { 1 << 16 };
const WORD: usize = u64::BITS as usize;
const WORDS: usize = MAX_HEAPS.div_ceil(WORD);

/// A thread, by a number that no other thread has at the same time: the address of something of its own.
///
/// In the child of a fork the one thread that there is has the number that it had in the parent, so it knows which heaps
/// are in its own hands, in however many calls that a signal handler interrupted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holder(NonZeroUsize);

impl Holder {
    /// The thread that alone has `number`, which is not zero.
    pub const fn new(number: usize) -> Holder {
        match NonZeroUsize::new(number) {
            Some(number) => Holder(number),
            None => panic!("a thread's number is not zero"),
        }
    }

    pub(super) fn number(self) -> usize {
        self.0.get()
    }
}

/// Who possesses a heap: a [`Holder`], or zero for nobody.
pub struct Possession(AtomicUsize);

const NOBODY: usize = 0;

impl Possession {
    const_unless_model! {
        /// Nobody's.
        pub(super) fn new() -> Possession {
            Possession(AtomicUsize::new(NOBODY))
        }
    }

    /// Who has it; `None` for nobody. Certain only for who has it, and for the one thread of a child.
    pub fn holder(&self) -> Option<Holder> {
        // Relaxed: a hint, but for who has it, whose own store it is.
        NonZeroUsize::new(self.0.load(Ordering::Relaxed)).map(Holder)
    }

    /// Takes it if nobody has it.
    fn take(&self, by: Holder) -> bool {
        if seeded("heap.possess_two_steps") {
            // Relaxed: a seeded bug.
            let free = self.0.load(Ordering::Acquire) == NOBODY;
            self.0.store(by.number(), Ordering::Relaxed);
            return free;
        }
        // Acquire: pairs with the Release in `give_up`, so that everything the last possessor did is seen. Relaxed on
        // failure: nothing is read but the word.
        self.0.compare_exchange(NOBODY, by.number(), acquire("heap.possess"), Ordering::Relaxed).is_ok()
    }

    /// Makes it another thread's: by who has it, or is left with it.
    pub(super) fn pass_to(&self, to: Holder) {
        // Relaxed: nobody takes what is possessed.
        self.0.store(to.number(), Ordering::Relaxed);
    }

    fn give_up(&self) {
        debug_assert!(
            seeded("heap.steal_unpossessed") || self.holder().is_some(),
            "an idle heap was given up"
        );
        // Release: pairs with the Acquire in `take`.
        self.0.store(NOBODY, release("heap.give_up"));
    }
}

/// Every heap of the process.
pub struct Pool {
    heaps: [AtomicPtr<Heap>; MAX_HEAPS],
    idle: [AtomicU64; WORDS],
    made: AtomicU32,
}

impl Pool {
    const_unless_model! {
        /// A pool without heaps.
        pub(super) fn new() -> Pool {
            Pool {
                heaps: atomic_array!(AtomicPtr::new(ptr::null_mut()); MAX_HEAPS),
                idle: atomic_array!(AtomicU64::new(0); WORDS),
                made: AtomicU32::new(0),
            }
        }
    }

    /// Heaps made so far.
    pub fn made(&self) -> usize {
        // Relaxed: a bound for scans; a heap made meanwhile is not missed by anyone who must see it.
        (self.made.load(Ordering::Relaxed) as usize).min(MAX_HEAPS)
    }

    /// The heap at `index`, unless it is just being made.
    pub fn get(&self, index: usize) -> Option<&'static Heap> {
        // Acquire: pairs with the Release in `make`; the heap is complete.
        // SAFETY: heaps live forever.
        unsafe { self.heaps[index].load(acquire("heap.made_read")).as_ref() }
    }

    /// Possesses an idle heap, the lowest, so that few heaps serve many short threads.
    pub fn possess_idle(&self, by: Holder) -> Option<&'static Heap> {
        for word in 0..self.made().div_ceil(WORD) {
            // Relaxed: a hint where to try.
            let mut bits = self.idle[word].load(Ordering::Relaxed);
            while bits != 0 {
                let index = word * WORD + bits.trailing_zeros() as usize;
                if let Some(heap) = self.possess(index, by) {
                    return Some(heap);
                }
                bits &= bits - 1;
            }
        }
        None
    }

    /// Possesses the heap at `index` if it is idle.
    pub fn possess(&self, index: usize, by: Holder) -> Option<&'static Heap> {
        let heap = self.get(index).filter(|heap| heap.possession().take(by))?;
        // Relaxed: a hint. Our own `give_up` sets it again.
        self.idle[index / WORD].fetch_and(!(1 << (index % WORD)), Ordering::Relaxed);
        Some(heap)
    }

    /// Makes a heap idle: the first half of [`Allocator::give_up`].
    pub(super) fn give_up(&self, heap: &Heap) {
        let index = heap.index() as usize;
        heap.possession().give_up();
        // Relaxed: a hint, and after the step: no possessor's clearing comes later.
        self.idle[index / WORD].fetch_or(1 << (index % WORD), Ordering::Relaxed);
    }

    /// Whether blocks were sent to a heap that nobody possesses.
    pub fn has_unread_inbox(&self) -> bool {
        let unread = |index| self.get(index).is_some_and(|heap| !heap.inbox().is_empty());
        // Not by the hints: who has just given a heap up may not have set its.
        (0..self.made()).any(|index| unread(index) && self.is_idle(index))
    }

    /// Whether the heap at `index` is idle (at this moment), for certain.
    pub fn is_idle(&self, index: usize) -> bool {
        self.get(index).is_some_and(|heap| heap.possession().holder().is_none())
    }

    /// The heaps that are idle as far as the hints say, for scans that may miss one.
    pub fn idle_heaps(&self) -> impl Iterator<Item = usize> {
        // Relaxed: hints.
        let hinted =
            |index: usize| self.idle[index / WORD].load(Ordering::Relaxed) & (1 << (index % WORD)) != 0;
        (0..self.made()).filter(move |&index| hinted(index) && self.is_idle(index))
    }

    /// In the child of a fork: a thread that vanished may have left a heap idle without its hint.
    pub(super) fn renew_hints(&self) {
        for index in (0..self.made()).filter(|&index| self.is_idle(index)) {
            // Relaxed: the child has one thread.
            self.idle[index / WORD].fetch_or(1 << (index % WORD), Ordering::Relaxed);
        }
    }

    /// Possesses an idle heap or makes one; `None` when there is no memory or there are [`MAX_HEAPS`] already.
    pub fn possess_any<P: Platform>(&self, from: &Allocator<P>, by: Holder) -> Option<&'static Heap> {
        self.possess_idle(by).or_else(|| self.make(from, by))
    }

    fn make<P: Platform>(&self, from: &Allocator<P>, by: Holder) -> Option<&'static Heap> {
        let memory = from
            .space()
            .metadata()
            .allocate(from.space().os(), size_of::<Heap>(), align_of::<Heap>())
            .ok()?;
        let heap = memory.cast::<Heap>().as_ptr();
        // Relaxed: only the number counts. It may pass MAX_HEAPS: `made` is clamped where it is read.
        let index = self.made.fetch_add(1, Ordering::Relaxed);
        if index as usize >= MAX_HEAPS {
            // Relaxed: as above. The memory stays with the metadata; this happens to a process with 65,536 threads.
            self.made.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        // SAFETY: metadata memory is ours, large and aligned enough, and never unmapped.
        let heap = unsafe {
            Heap::construct(heap, index, from.secret());
            &*heap
        };
        let _ours = heap.possession().take(by);
        // SAFETY: the slot lives forever with its heap, and is attached here only.
        unsafe { from.space().rcu().attach(heap.slot()) };
        // Release: pairs with the Acquire in `get`.
        self.heaps[index as usize].store(ptr::from_ref(heap).cast_mut(), release("heap.made_publish"));
        Some(heap)
    }

    /// Takes an available slab of `class` from one idle heap, if there is any: threads that went away leave partly
    /// used slabs, and those are used before fresh memory. Looks at a few heaps only.
    pub fn steal<C: Checks, P: Platform>(
        &self,
        from: &Allocator<P>,
        heap: &Heap,
        class: usize,
    ) -> Option<&'static super::slab::Slab> {
        const TRIES: usize = 4;
        let mut tries = 0;
        for index in self.idle_heaps() {
            let by = heap.holder();
            let idle =
                if seeded("heap.steal_unpossessed") { self.get(index) } else { self.possess(index, by) };
            if let Some(idle) = idle {
                if idle.receive::<C, P>(from) {
                    idle.send_all::<C, P>(from);
                }
                let slab = idle.give_away(class, heap);
                from.give_up(idle);
                if slab.is_some() {
                    return slab;
                }
            }
            tries += 1;
            if tries == TRIES {
                break;
            }
        }
        None
    }

    /// In the child of a fork: the heaps that threads were in which do not exist here.
    pub(super) fn torn(&self, own: Holder) -> impl Iterator<Item = &'static Heap> {
        (0..self.made()).filter_map(|index| self.get(index)).filter(move |heap| heap.is_torn(own))
    }
}
