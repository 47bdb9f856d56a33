//! Nodes of single pages: where regions meet inside one slice. Regions of files ([`Kind::File`](crate::region::Kind))
//! may begin and end between slices, arenas and huge blocks do not.
//!
//! Unlike the nodes above it a page node comes and goes: it lives while at least one region has pages in it. `users`
//! counts them and decides, much as the state word of a region does:
//!
//! 1. A region joins by adding one to `users` unless it is zero, and only then writes its entries.
//! 2. A region leaves by clearing its entries and then subtracting one. Whoever makes it zero owns the node's end: it
//!    unlinks the node and retires it. Zero is final until the node has gone through a grace period and the pool.
//! 3. Whoever wants to join and finds zero unlinks the node itself and puts another one there; nobody waits for the
//!    owner.
//! 4. Joining and leaving happen inside a reader section, so that a node which is about to be unlinked is not the same
//!    node in a next life.

mod linking;

use super::entry::{Content, Entry, empty};
use super::radix::PAGES;
use crate::rcu::RetireLink;
use crate::region::{InPlace, Link, Linked, Region, Retired, RetiredAs};
use crate::sync::atomic::AtomicUsize;
use crate::sync::atomic::Ordering::Relaxed;
use crate::sync::{acquire, if_first, release, seeded};
use core::ops::Range;

/// A node of the pages of one slice.
#[repr(C, align(128))]
pub(in crate::index) struct PageNode {
    retired: Retired,
    link: Link,
    users: AtomicUsize,
    entries: [Entry; PAGES],
}

// SAFETY: made of atomics, which are valid when zero wherever `ZERO_IS_VALID`. Zero is what the constructors make but
// for the word in `retired`, which `take`'s caller sets through `begin` before anybody else knows the node.
unsafe impl InPlace for PageNode {
    unsafe fn construct(at: *mut PageNode) {
        let node = PageNode {
            retired: Retired::new(RetiredAs::PageNode),
            link: Link::new(),
            users: AtomicUsize::new(0),
            entries: empty(),
        };
        // SAFETY: passed on.
        unsafe { at.write(node) };
    }
}

// SAFETY: page nodes live in metadata, which is immortal, aligned as the type says and below 2^48.
unsafe impl Linked for PageNode {
    fn link(&self) -> &Link {
        &self.link
    }
}

impl PageNode {
    pub(in crate::index) fn content(&'static self) -> Content {
        Content::Node(core::ptr::from_ref(self).expose_provenance())
    }

    /// # Safety
    /// `address` comes from [`PageNode::content`].
    #[inline]
    pub(in crate::index) unsafe fn at(address: usize) -> &'static PageNode {
        // SAFETY: passed on; the memory of page nodes is immortal.
        unsafe { &*core::ptr::with_exposed_provenance(address) }
    }

    /// Fills a node that nobody else knows, for its first user.
    pub(in crate::index) fn begin(&self, pages: &Range<usize>, region: &'static Region) {
        debug_assert!(self.is_blank());
        self.retired.set(RetiredAs::PageNode);
        // Relaxed, all: published by the Release that links the node.
        self.users.store(1, Relaxed);
        for page in pages.clone() {
            self.entries[page].store(Content::Region(region), Relaxed);
        }
    }

    /// Undoes [`PageNode::begin`] on a node that was not linked after all.
    pub(in crate::index) fn abandon(&self, pages: &Range<usize>) {
        // Relaxed, all: nobody else knows the node.
        self.users.store(0, Relaxed);
        for page in pages.clone() {
            self.entries[page].store(Content::Empty, Relaxed);
        }
    }

    /// Adds a region to a linked node and publishes its pages; `false` if the node is at its end.
    #[must_use]
    pub(in crate::index) fn join(&self, pages: &Range<usize>, region: &'static Region) -> bool {
        if_first(|| self.add_user(), || self.publish(pages, region), "index.page_written_first")
    }

    fn add_user(&self) -> bool {
        // Relaxed: only the guess for the exchange below.
        let mut users = self.users.load(Relaxed);
        loop {
            if users == 0 && !seeded("index.page_join_zero") {
                return false;
            }
            // Relaxed: joining carries nothing; the entries publish the region themselves.
            match self.users.compare_exchange_weak(users, users + 1, Relaxed, Relaxed) {
                Ok(_) => return true,
                Err(now) => users = now,
            }
        }
    }

    fn publish(&self, pages: &Range<usize>, region: &'static Region) {
        for page in pages.clone() {
            // Release: partner is the Acquire of `find`: the region is complete.
            self.entries[page].store(Content::Region(region), release("index.page_publish_relaxed"));
        }
    }

    /// Takes a region's pages out; `true` if the caller made the node empty and must unlink and retire it.
    #[must_use]
    pub(in crate::index) fn leave(&self, pages: &Range<usize>) -> bool {
        for page in pages.clone() {
            // Relaxed: readers are held off by the grace period of the region.
            self.entries[page].store(Content::Empty, Relaxed);
        }
        // Relaxed: that all entries are cleared before the node is used again is seen to by its grace period, which
        // waits for the sections of all that leave (rule 4) as for those of readers. It cannot miss one: a guest enters
        // with a full fence before it subtracts, and the last one subtracts before the barrier.
        self.users.fetch_sub(1, Relaxed) == 1
    }

    /// The region that has `page`.
    #[inline]
    pub(in crate::index) fn find(&self, page: usize) -> Option<&'static Region> {
        // Acquire: partner is the Release of `join`, or that of the entry that linked the node.
        match self.entries[page].load(acquire("index.page_find_relaxed")) {
            Content::Region(region) => Some(region),
            Content::Empty | Content::Node(_) => None,
        }
    }

    /// Whether no region has a page here.
    pub(in crate::index) fn is_blank(&self) -> bool {
        // Relaxed: a check by the one thread that knows the node.
        self.users.load(Relaxed) == 0
            && self.entries.iter().all(|entry| entry.load(Relaxed) == Content::Empty)
    }

    pub(in crate::index) fn retire_link(&'static self) -> &'static RetireLink {
        let _ = core::ptr::from_ref(self).expose_provenance();
        self.retired.link()
    }
}
