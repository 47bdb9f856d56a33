//! Retired things on their way through a grace period: intrusive lists that need no memory of their own.
//!
//! One stack takes what is retired. The reclaimer does not take links off it when a grace period begins: it notes the
//! top link, and everything from there down is the batch, while newer links pile up above. When the grace period is
//! over the batch is cut off. So at no instruction is a link held in a register only, and every step may be repeated:
//! in the child of a fork the next reclaimer goes on where a vanished one stopped.

use crate::const_unless_model;
use crate::rcu::interrupt;
use crate::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};
use crate::sync::{acquire, release};
use core::ptr;

/// The link by which a thing is retired, embedded in it: a region's descriptor or a node of the index.
///
/// `next` belongs to the thread that retires until the link is pushed, then to the holder of the reclaimer's lock.
#[repr(transparent)]
pub struct RetireLink {
    next: AtomicPtr<RetireLink>,
}

impl RetireLink {
    const_unless_model! {
        /// A link that is not retired.
        pub fn new() -> RetireLink {
            RetireLink { next: AtomicPtr::new(ptr::null_mut()) }
        }
    }

    fn next(&self) -> *mut RetireLink {
        // Relaxed: written before the release that published the link, and after that under the reclaimer's lock.
        self.next.load(Ordering::Relaxed)
    }
}

impl Default for RetireLink {
    fn default() -> Self {
        Self::new()
    }
}

/// The links between `retire` and `done`.
///
/// 1. `pending` is pushed to by anyone; only the holder of the reclaimer's lock removes from it.
/// 2. `batch` and `ready` are read and written only by the holder of the reclaimer's lock.
/// 3. A link is reachable from exactly one of `pending` and `ready`, except between the steps of `cut_batch`.
pub(super) struct RetireList {
    pending: AtomicPtr<RetireLink>,
    /// The top link of the batch, inside the stack `pending`.
    batch: AtomicPtr<RetireLink>,
    /// Links whose grace period is over.
    ready: AtomicPtr<RetireLink>,
    retired: AtomicUsize,
    handed: AtomicUsize,
}

impl RetireList {
    const_unless_model! {
        pub(super) fn new() -> RetireList {
            RetireList {
                pending: AtomicPtr::new(ptr::null_mut()),
                batch: AtomicPtr::new(ptr::null_mut()),
                ready: AtomicPtr::new(ptr::null_mut()),
                retired: AtomicUsize::new(0),
                handed: AtomicUsize::new(0),
            }
        }
    }

    /// How many links are between `retire` and `done`; exact when nobody is in the middle of either.
    pub(super) fn len(&self) -> usize {
        // Relaxed: a count, not a promise. `handed` first, so that links retired and handed over in between are not
        // taken off uncounted.
        let handed = self.handed.load(Ordering::Relaxed);
        self.retired.load(Ordering::Relaxed).saturating_sub(handed)
    }

    /// Puts `link` on the stack.
    ///
    /// # Safety
    /// As for [`super::Rcu::retire`].
    pub(super) unsafe fn push(&self, link: &RetireLink) {
        let new = ptr::from_ref(link).cast_mut();
        // Relaxed: a count, not a promise.
        self.retired.fetch_add(1, Ordering::Relaxed);
        // Relaxed: a first guess, which the compare-exchange corrects.
        let mut head = self.pending.load(Ordering::Relaxed);
        loop {
            // Relaxed: the release below publishes it.
            link.next.store(head, Ordering::Relaxed);
            // Release: partner is the heavy barrier behind `note_batch`, or the acquire in `cut_batch` for a link above
            // the batch: the unlinking, which came before, comes before the barrier of the link's grace period.
            match self.pending.compare_exchange_weak(
                head,
                new,
                release("rcu.retire_relaxed"),
                Ordering::Relaxed,
            ) {
                Ok(_) => return,
                Err(now) => head = now,
            }
        }
    }

    /// Makes everything that is retired by now the batch; `false` if that is nothing. May be repeated until the heavy
    /// barrier that follows it, and nothing is done with the batch before that.
    pub(super) fn note_batch(&self) -> bool {
        // Relaxed: the heavy barrier is a full fence, so this load followed by it acquires what `push` released. Later
        // pushes are read-modify-writes and carry on what earlier ones released, so the top link publishes all below
        // it.
        let top = self.pending.load(Ordering::Relaxed);
        // Relaxed: the reclaimer's lock orders the accesses to `batch`.
        self.batch.store(top, Ordering::Relaxed);
        !top.is_null()
    }

    /// Moves the batch, whose grace period is over, from `pending` to `ready`, which is empty or is the batch already.
    /// May be repeated after having been abandoned at any instruction.
    pub(super) fn cut_batch(&self) {
        // Relaxed: the reclaimer's lock orders the accesses to `batch`.
        let top = self.batch.load(Ordering::Relaxed);
        // Acquire (if there is more): partner is the release in `push`, for the `next` of the links above the batch.
        // Relaxed (if not): the batch was acquired by the heavy barrier, and the stack is empty afterwards.
        if let Err(mut above) = self.pending.compare_exchange(
            top,
            ptr::null_mut(),
            Ordering::Relaxed,
            acquire("rcu.above_relaxed"),
        ) {
            // SAFETY: links on the stack live until they are handed to `done`, which is after this, and only the
            // holder of the lock, that is this thread, takes links off the stack.
            while let Some(link) = unsafe { above.as_ref() } {
                above = link.next();
                if above == top {
                    // Relaxed: the reclaimer's lock orders the accesses to `next` after the push.
                    link.next.store(ptr::null_mut(), Ordering::Relaxed);
                    break;
                }
            }
        }
        interrupt::point();
        // Relaxed: the reclaimer's lock orders the accesses to `ready`.
        self.ready.store(top, Ordering::Relaxed);
    }

    /// Takes a link whose grace period is over.
    pub(super) fn pop_ready(&self) -> Option<&RetireLink> {
        // Relaxed: the reclaimer's lock orders the accesses to `ready`.
        let top = self.ready.load(Ordering::Relaxed);
        // SAFETY: links live until they are handed to `done`, and this one is taken off before it is.
        let link = unsafe { top.as_ref() }?;
        interrupt::point();
        // Relaxed: as above.
        self.ready.store(link.next(), Ordering::Relaxed);
        interrupt::point();
        // Relaxed: a count, not a promise.
        self.handed.fetch_add(1, Ordering::Relaxed);
        Some(link)
    }

    /// In the child of a fork: counts anew. A thread that vanished may have counted a link that it had not pushed yet,
    /// or taken one and not counted it, and whoever asks whether links wait would be told so for ever.
    pub(super) fn recount(&self) {
        let mut waiting = 0;
        for list in [&self.pending, &self.ready] {
            // Relaxed, all: the child has one thread.
            let mut link = list.load(Ordering::Relaxed);
            // SAFETY: links live until they are handed to `done`, and these are on a list still.
            while let Some(next) = unsafe { link.as_ref() } {
                waiting += 1;
                link = next.next();
            }
        }
        self.retired.store(waiting, Ordering::Relaxed);
        self.handed.store(0, Ordering::Relaxed);
    }
}
