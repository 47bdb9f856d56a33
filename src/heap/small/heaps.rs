//! All heaps, and what they stand on.

use super::Heap;
use super::hollow::LEAST_IDLE;
use super::own::Tables;
use super::pool::Pool;
use super::watch::Watch;
use crate::base::{SLICE, class_info};
use crate::const_unless_model;
use crate::heap::backend::Backend;
use crate::heap::block::Checks;
use crate::heap::possession::ThreadId;
use crate::heap::record::Slab;
use crate::pal::Platform;
use crate::region::Prefer;
use crate::sync::atomic::{AtomicUsize, Ordering};
use crate::sync::{full_fence, seeded};
use core::ops::Deref;
use core::ptr;

/// All heaps. Stands on the backend, and lends its functions.
#[repr(C)] // As `Allocator`.
pub struct Heaps<P: Platform> {
    secret: AtomicUsize,
    backend: Backend<P>,
    pool: Pool,
    watch: Watch,
    tables: Tables,
}

impl<P: Platform> Deref for Heaps<P> {
    type Target = Backend<P>;

    #[inline(always)]
    fn deref(&self) -> &Backend<P> {
        &self.backend
    }
}

impl<P: Platform> Heaps<P> {
    const_unless_model! {
        /// No heaps.
        pub(in crate::heap) fn new(os: P) -> Heaps<P> {
            Heaps {
                backend: Backend::new(os),
                pool: Pool::new(),
                watch: Watch::new(),
                tables: Tables::new(),
                secret: AtomicUsize::new(0),
            }
        }
    }

    /// Chooses the secret. Any number of threads may race here before the first allocation.
    pub(in crate::heap) fn choose_secret(&self) {
        let secret = self.os().entropy() as usize | 1;
        // Relaxed (both): one of the racing threads wins; the others' exchanges have seen its value, so their later
        // loads see it, too.
        let _ = self.secret.compare_exchange(0, secret, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// The process's secret, for the tags of free blocks.
    pub(in crate::heap) fn secret(&self) -> usize {
        // Relaxed: set before the first heap is made.
        self.secret.load(Ordering::Relaxed)
    }

    /// What the heaps stand on.
    pub fn backend(&self) -> &Backend<P> {
        &self.backend
    }

    /// Which heap is whose.
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// Which heaps can be visited.
    pub(in crate::heap) fn watch(&self) -> &Watch {
        &self.watch
    }

    /// Tables of slabs that no heap uses.
    pub(super) fn tables(&self) -> &Tables {
        &self.tables
    }

    /// Gives a heap up: it is idle afterwards, and may be another thread's at once. Blocks that were sent to it
    /// meanwhile are the helper's to look after.
    pub fn give_up(&self, heap: &Heap) {
        self.pool.give_up(heap);
        // Partner: the fence in `Heap::post`: either we see what was sent, or the sender sees that the heap is idle.
        full_fence("heap.give_up_fence");
        if heap.has_mail() && !seeded("heap.give_up_blind") {
            self.ring();
        }
    }

    /// Tidies the heaps that nobody possesses: takes in what was sent to them, and gives back what is empty, and pages of
    /// free blocks where these are many.
    pub fn collect_idle<C: Checks>(&self, by: ThreadId) {
        self.tidy_idle::<C>(by, LEAST_IDLE);
    }

    /// The same, with all pages of free blocks, as for a trim.
    pub(in crate::heap) fn trim_idle<C: Checks>(&self, by: ThreadId) {
        self.tidy_idle::<C>(by, 1);
    }

    fn tidy_idle<C: Checks>(&self, by: ThreadId, least: usize) {
        for index in self.pool.idle_heaps() {
            if let Some(idle) = self.pool.possess(index, by) {
                let is_roomy = || idle.is_roomy(self.page_size());
                if least < LEAST_IDLE || idle.needs_collecting() || self.watch.warm.has(index) || is_roomy() {
                    idle.collect::<C, P>(self);
                    idle.give_back_pages::<C, P>(self, least);
                }
                self.give_up(idle);
            }
        }
    }

    /// A fresh slab of `class` for `heap`, current there; in slices that it has to spare, or has claimed. `None`
    /// without memory, and if an idle heap had an available one to spare, which is `heap`'s now.
    pub(super) fn new_slab<C: Checks>(&self, heap: &Heap, class: usize) -> Option<&'static Slab> {
        let slices = class_info(class).slices as usize;
        let (base, dirty) = match self.take_kept(heap.claimant(), slices) {
            Some(base) => (base, slices),
            None if self.pool.steal::<C, P>(self, heap, class) => return None,
            None => {
                heap.hollow_before_growing::<C, P>(self, slices * SLICE);
                let claim = self.claim(heap.claimant(), slices, 1, Prefer::Dirty)?;
                (claim.base, slices - claim.clean)
            }
        };
        // SAFETY: the slices are the heap's; records live as long as their arena, which claimed slices hold.
        let slab = unsafe { &*Slab::of(base) };
        slab.open(class, ptr::from_ref(heap).cast_mut(), dirty);
        self.count_slab(base, true);
        Some(slab)
    }
}
