//! The pool of heaps: which heap is possessed, and which is idle.
//!
//! A heap is made once and lives forever. The thread that possesses it owns everything in it; when the thread exits
//! the heap becomes idle with its slabs, private lists and inbox as they are, and the next new thread possesses it
//! whole. That is adoption in one step: what the old thread had allocated is local to the new one.
//!
//! The word in the heap decides (see `possession`). The bits in `idle` are hints where to look: one may be set for a
//! heap that is possessed; when nobody is in the middle of taking or giving up, each idle heap's is set.

use super::exchange::AT_ONCE;
use super::{Heap, Heaps};
use crate::heap::block::Checks;
use crate::heap::mend::Mend;
use crate::heap::possession::ThreadId;
use crate::pal::Platform;
use crate::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering};
use crate::sync::{acquire, release, seeded};
use crate::{atomic_array, const_unless_model};
use core::ptr;

/// Heaps that can exist.
pub const MAX_HEAPS: usize = if cfg!(any(loom, shuttle)) { 5 } else { 1 << 16 };
/// Of these, how many are only ever lent for an operation, so that there is one soon for each of the threads that have
/// none of their own; and what threads have in them that keep none lies in these few, whoever comes and goes.
const LENT: usize = if cfg!(any(loom, shuttle)) { 1 } else { 64 };
/// Heaps that there may be beside them.
const KEPT: usize = MAX_HEAPS - LENT;
/// Entries of the table of keepers.
const KEEPERS: usize = if cfg!(any(loom, shuttle)) { 1 } else { 256 };
/// In a place of the heaps that are lent: somebody makes one.
const BEING_MADE: u32 = u32::MAX;
const WORD: usize = u64::BITS as usize;
const WORDS: usize = MAX_HEAPS.div_ceil(WORD);

/// Every heap of the process.
#[repr(C)] // As `Allocator`.
pub struct Pool {
    made: AtomicU32,
    /// By number of a thread, hashed: the index of the heap that it keeps, plus one; zero for none. The last that began
    /// to keep one has the entry.
    keepers: [AtomicU32; KEEPERS],
    /// The index of each heap that is only ever lent, plus one; zero for none, `BEING_MADE` for one that is to be.
    lent: [AtomicU32; LENT],
    heaps: [AtomicPtr<Heap>; MAX_HEAPS],
    idle: [AtomicU64; WORDS],
}

impl Pool {
    const_unless_model! {
        /// A pool without heaps.
        pub(in crate::heap) fn new() -> Pool {
            Pool {
                heaps: atomic_array!(AtomicPtr::new(ptr::null_mut()); MAX_HEAPS),
                idle: atomic_array!(AtomicU64::new(0); WORDS),
                made: AtomicU32::new(0),
                keepers: atomic_array!(AtomicU32::new(0); KEEPERS),
                lent: atomic_array!(AtomicU32::new(0); LENT),
            }
        }
    }

    /// Heaps made so far.
    pub fn made(&self) -> usize {
        // Relaxed: a bound for scans; a heap made meanwhile is not missed by anyone who must see it.
        self.made.load(Ordering::Relaxed) as usize
    }

    /// The heap at `index`, unless it is just being made.
    pub fn get(&self, index: usize) -> Option<&'static Heap> {
        // Acquire: pairs with the Release in `make`; the heap is complete.
        // SAFETY: heaps live forever.
        unsafe { self.heaps.get(index)?.load(acquire("heap.made_read")).as_ref() }
    }

    /// Possesses an idle heap that is not only lent, the lowest, so that few heaps serve many short threads.
    pub fn possess_idle(&self, by: ThreadId) -> Option<&'static Heap> {
        for word in 0..self.made().div_ceil(WORD) {
            // Relaxed: a hint where to try.
            let mut bits = self.idle[word].load(Ordering::Relaxed);
            while bits != 0 {
                let index = word * WORD + bits.trailing_zeros() as usize;
                if self.is_kept(index)
                    && let Some(heap) = self.possess(index, by)
                {
                    return Some(heap);
                }
                bits &= bits - 1;
            }
        }
        None
    }

    /// Whether the heap at `index` is one that threads may keep.
    fn is_kept(&self, index: usize) -> bool {
        self.get(index).is_some_and(|heap| !heap.is_lent() || seeded("heap.lent_kept"))
    }

    /// Possesses the heap at `index` if it is idle.
    pub fn possess(&self, index: usize, by: ThreadId) -> Option<&'static Heap> {
        let heap = self.get(index).filter(|heap| heap.possession().take(by))?;
        // Relaxed: a hint. Our own `give_up` sets it again.
        self.idle[index / WORD].fetch_and(!(1 << (index % WORD)), Ordering::Relaxed);
        Some(heap)
    }

    /// Makes a heap idle: the first half of [`Heaps::give_up`].
    pub(in crate::heap) fn give_up(&self, heap: &Heap) {
        let index = heap.index() as usize;
        heap.possession().give_up();
        // Relaxed: a hint. Set after the step: whoever clears it from then on possesses the heap, and sets it again.
        self.idle[index / WORD].fetch_or(1 << (index % WORD), Ordering::Relaxed);
    }

    /// Whether blocks were sent to a heap that nobody possesses.
    pub fn has_unread_inbox(&self) -> bool {
        let unread = |index| self.get(index).is_some_and(Heap::has_mail);
        // Not by the hints: whoever has just given a heap up may not have set its.
        (0..self.made()).any(|index| unread(index) && self.is_idle(index))
    }

    /// Whether the heap at `index` is idle (at this moment), for certain.
    pub fn is_idle(&self, index: usize) -> bool {
        self.get(index).is_some_and(|heap| heap.possession().possessor().is_none())
    }

    /// The heaps that are idle as far as the hints say, for scans that may miss one.
    pub fn idle_heaps(&self) -> impl Iterator<Item = usize> {
        // Relaxed: hints.
        let hinted =
            |index: usize| self.idle[index / WORD].load(Ordering::Relaxed) & (1 << (index % WORD)) != 0;
        (0..self.made()).filter(move |&index| hinted(index) && self.is_idle(index))
    }

    /// Possesses an idle heap or makes one; `None` when there is no memory, or all are taken.
    pub fn possess_any<P: Platform>(&self, from: &Heaps<P>, by: ThreadId) -> Option<&'static Heap> {
        self.possess_idle(by).or_else(|| self.make(KEPT, from, by, false))
    }

    /// The same for one operation: one of the heaps that are only ever lent, if one of these is idle or can be made.
    pub fn lend<P: Platform>(&self, from: &Heaps<P>, by: ThreadId) -> Option<&'static Heap> {
        for place in &self.lent {
            // Relaxed: `get` pairs with the heap's publication.
            let heap = match place.load(Ordering::Relaxed) {
                0 => self.make_lent(place, from, by),
                BEING_MADE => None,
                number => self.possess(number as usize - 1, by),
            };
            if heap.is_some() {
                return heap;
            }
        }
        self.possess_any(from, by)
    }

    fn make_lent<P: Platform>(
        &self,
        place: &AtomicU32,
        from: &Heaps<P>,
        by: ThreadId,
    ) -> Option<&'static Heap> {
        if !seeded("heap.lent_unelected") {
            // Relaxed (both): elects one thread, and the store after it is that thread's.
            place.compare_exchange(0, BEING_MADE, Ordering::Relaxed, Ordering::Relaxed).ok()?;
        }
        let heap = self.make(MAX_HEAPS, from, by, true);
        place.store(heap.map_or(0, |heap| heap.index() + 1), Ordering::Relaxed);
        heap
    }

    /// As [`Pool::possess_any`] for a thread that keeps the heap until it exits: see [`Pool::keeps_no_more`]. The heap
    /// `wanted` if that is idle.
    pub fn possess_to_keep<P: Platform>(
        &self,
        from: &Heaps<P>,
        by: ThreadId,
        wanted: Option<&Heap>,
    ) -> Option<&'static Heap> {
        let heap = wanted
            .filter(|heap| !heap.is_lent())
            .and_then(|heap| self.possess(heap.index() as usize, by))
            .or_else(|| self.possess_any(from, by))?;
        // As far as it has been tidied or not, it is this thread's from here on.
        from.watch().warm.remove(heap.index() as usize);
        // Relaxed: read by threads of the same number, which this thread's end comes before.
        self.keeper(by).store(heap.index() + 1, Ordering::Relaxed);
        Some(heap)
    }

    fn keeper(&self, thread: ThreadId) -> &AtomicU32 {
        // Fibonacci hashing: numbers of threads differ in the middle bits.
        let hash = (thread.number() as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 48;
        &self.keepers[hash as usize % KEEPERS]
    }

    /// A heap that `thread`, which keeps none, possesses all the same: a thread that had its number before has ended
    /// where nothing could notice it, and none has taken its entry since.
    pub fn left_by(&self, thread: ThreadId) -> Option<&'static Heap> {
        // Relaxed: as in `possess_to_keep`. An entry is cleared before its heap is given up, so a heap that the thread
        // only borrows, in a call that it has interrupted, is not found here.
        let index = self.keeper(thread).load(Ordering::Relaxed).checked_sub(1)?;
        self.get(index as usize).filter(|heap| heap.possession().possessor() == Some(thread))
    }

    /// The calling thread, which keeps `heap`, is about to give it up.
    pub fn keeps_no_more(&self, heap: &Heap, thread: ThreadId) {
        // Relaxed (both): as in `possess_to_keep`.
        let _others =
            self.keeper(thread).compare_exchange(heap.index() + 1, 0, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Whether no more heaps can be made.
    pub fn is_full(&self) -> bool {
        self.made() >= KEPT && self.lent().count() == LENT
    }

    /// Whether `thread` is in the middle of an operation for which it has borrowed one of the heaps that are only lent.
    pub fn lends_to(&self, thread: ThreadId) -> bool {
        self.lent().any(|heap| heap.possession().possessor() == Some(thread))
    }

    /// Whether there is a heap that is only lent.
    pub(in crate::heap) fn has_lent(&self) -> bool {
        self.lent().next().is_some()
    }

    /// The heaps that are only lent.
    fn lent(&self) -> impl Iterator<Item = &'static Heap> {
        self.lent.iter().filter_map(|place| {
            // Relaxed: as in `lend`.
            let number = place.load(Ordering::Relaxed);
            if number == BEING_MADE { None } else { self.get(number.checked_sub(1)? as usize) }
        })
    }

    fn make<P: Platform>(
        &self,
        end: usize,
        from: &Heaps<P>,
        by: ThreadId,
        is_lent: bool,
    ) -> Option<&'static Heap> {
        if self.made() >= end {
            return None;
        }
        let memory = from
            .space()
            .metadata()
            .allocate(from.space().os(), size_of::<Heap>(), align_of::<Heap>())
            .ok()?;
        let heap = memory.cast::<Heap>().as_ptr();
        // Relaxed (both): only the number counts. Where another thread makes the last one meanwhile, the memory stays
        // with the metadata.
        let index = self
            .made
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |made| {
                ((made as usize) < end).then_some(made + 1)
            })
            .ok()?;
        // SAFETY: metadata memory is ours, large and aligned enough, and never unmapped.
        let heap = unsafe {
            Heap::construct(heap, index, from.secret(), is_lent);
            &*heap
        };
        from.tally().reach(index);
        let _ours = heap.possession().take(by);
        // SAFETY: the slot lives forever with its heap, and is attached here only.
        unsafe { from.space().rcu().attach(heap.slot()) };
        // Release: pairs with the Acquire in `get`.
        self.heaps[index as usize].store(ptr::from_ref(heap).cast_mut(), release("heap.made_publish"));
        Some(heap)
    }

    /// Takes an available slab of `class` from one idle heap, if there is any: threads that went away leave partly
    /// used slabs, and those are used before fresh memory. Looks at a few heaps only. Returns whether it took one.
    pub fn steal<C: Checks, P: Platform>(&self, from: &Heaps<P>, heap: &Heap, class: usize) -> bool {
        const TRIES: usize = 16;
        let (mut tries, mut most) = (0, AT_ONCE);
        for index in self.idle_heaps() {
            let by = heap.caller();
            let idle =
                if !seeded("heap.steal_unpossessed") { self.possess(index, by) } else { self.get(index) };
            if let Some(idle) = idle {
                let received = idle.receive::<C, P>(from, most);
                if received != 0 {
                    idle.send_all::<C, P>(from);
                }
                most -= received;
                let gave = idle.give_away(class, heap);
                from.give_up(idle);
                if gave {
                    return true;
                }
            }
            tries += 1;
            if tries == TRIES {
                break;
            }
        }
        false
    }

    /// Every heap.
    pub(in crate::heap) fn each(&self) -> impl Iterator<Item = &'static Heap> {
        (0..self.made()).filter_map(|index| self.get(index))
    }
}

impl Mend for Pool {
    fn mend(&self) {
        for keeper in &self.keepers {
            // Relaxed: the child has one thread.
            keeper.store(0, Ordering::Relaxed);
        }
        for place in &self.lent {
            // Relaxed (both): as above. Who was making it vanished.
            if place.load(Ordering::Relaxed) == BEING_MADE {
                place.store(0, Ordering::Relaxed);
            }
        }
        let is_forgotten = |&index: &usize| self.is_idle(index) && !seeded("heap.child_keeps_hints");
        for index in (0..self.made()).filter(is_forgotten) {
            // Relaxed: the child has one thread.
            self.idle[index / WORD].fetch_or(1 << (index % WORD), Ordering::Relaxed);
        }
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
impl Pool {
    /// As if all heaps that threads may keep had been made and were possessed for good.
    pub(crate) fn pretend_taken(&self) {
        // Relaxed: before there are other threads.
        self.made.store(KEPT as u32, Ordering::Relaxed);
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;
    use crate::base::GRANULE;
    use crate::heap::tests::allocator;
    use crate::pal::Errno;
    use crate::pal::simulated::CallKind;

    const THREAD: ThreadId = ThreadId::new(64);

    #[test]
    fn where_all_heaps_are_taken_some_are_left_to_borrow() {
        let from = allocator(GRANULE);
        let pool = from.pool();
        pool.pretend_taken();
        assert!(
            pool.possess_to_keep(from, THREAD, None).is_none() && !pool.is_full() && !pool.lends_to(THREAD)
        );
        let heaps: Vec<_> = (0..LENT).map(|_| pool.lend(from, THREAD).expect("one of them")).collect();
        assert!(heaps.iter().all(|heap| heap.is_lent()));
        // Whoever asks in vain costs nothing.
        let memory = from.space().metadata().used();
        (0..100).for_each(|_| assert!(pool.lend(from, THREAD).is_none()));
        assert_eq!(from.space().metadata().used(), memory);
        assert!(pool.is_full() && pool.lends_to(THREAD));
        from.give_up(heaps[7]);
        // Idle, and not to be kept.
        assert!(pool.possess_to_keep(from, THREAD, Some(heaps[7])).is_none());
        assert!(ptr::eq(pool.lend(from, THREAD).expect("the one that is idle"), heaps[7]));
        assert_eq!(pool.made(), MAX_HEAPS);
    }

    #[test]
    fn what_is_lent_is_lent_again_and_never_kept() {
        let from = allocator(GRANULE);
        let pool = from.pool();
        let lent = pool.lend(from, THREAD).expect("memory");
        from.give_up(lent);
        let kept = pool.possess_to_keep(from, THREAD, Some(lent)).expect("memory");
        assert!(lent.is_lent() && !kept.is_lent());
        for _ in 0..100 {
            let again = pool.lend(from, ThreadId::new(128)).expect("the idle one");
            assert!(ptr::eq(again, lent) && pool.lends_to(ThreadId::new(128)));
            from.give_up(again);
        }
        assert_eq!(pool.made(), 2);
        // While somebody has it there is another.
        let (first, second) = (pool.lend(from, THREAD), pool.lend(from, THREAD));
        assert!(second.is_some_and(Heap::is_lent) && !ptr::eq(first.unwrap(), second.unwrap()));
    }

    #[test]
    fn a_heap_that_could_not_be_made_is_made_later() {
        let from = allocator(GRANULE);
        let pool = from.pool();
        from.space().os().fail_kind(CallKind::Map, Errno(libc::ENOMEM));
        while pool.lend(from, THREAD).is_some() {}
        let made = pool.made();
        from.space().os().heal();
        assert!(pool.lend(from, THREAD).is_some_and(Heap::is_lent) && pool.made() == made + 1);
    }

    /// Whoever was making a heap may vanish in a fork.
    #[test]
    fn a_child_makes_the_heap_that_was_to_be_lent() {
        let from = allocator(GRANULE);
        let pool = from.pool();
        pool.lent[0].store(BEING_MADE, Ordering::Relaxed);
        // SAFETY: there is no other thread.
        unsafe { from.child_after_fork(THREAD, 0) };
        let heap = pool.lend(from, THREAD).expect("memory");
        assert_eq!(pool.lent[0].load(Ordering::Relaxed), heap.index() + 1);
    }

    #[test]
    fn a_thread_that_wants_a_heap_gets_it_if_it_is_idle() {
        let from = allocator(GRANULE);
        let pool = from.pool();
        let keep = |wanted| pool.possess_to_keep(from, THREAD, wanted).expect("memory");
        let [first, second, third] = [keep(None), keep(None), keep(None)];
        assert!(!ptr::eq(keep(Some(third)), third), "somebody has it");
        [first, third].into_iter().for_each(|heap| from.give_up(heap));
        assert!(ptr::eq(keep(Some(third)), third) && ptr::eq(keep(Some(second)), first));
    }

    #[test]
    fn who_ends_unnoticed_leaves_the_heap_to_the_next_of_the_same_number() {
        let from = allocator(GRANULE);
        let pool = from.pool();
        let other = ThreadId::new(128);
        let keep = |thread| {
            pool.left_by(thread).or_else(|| pool.possess_to_keep(from, thread, None)).expect("memory")
        };
        let left = keep(THREAD);
        assert!(!ptr::eq(keep(other), left));
        // The thread is gone, and another has its number.
        for _ in 0..100 {
            assert!(ptr::eq(keep(THREAD), left));
        }
        pool.keeps_no_more(left, THREAD);
        from.give_up(left);
        // A call of this thread that a handler interrupted has borrowed it: it is not left by anybody.
        assert!(ptr::eq(pool.possess_any(from, THREAD).expect("idle"), left));
        assert!(pool.left_by(THREAD).is_none());
        assert!(!ptr::eq(keep(THREAD), left));
        assert_eq!(pool.made(), 3);
    }
}
