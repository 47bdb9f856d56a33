//! An entry of the index: one word that is empty, names a region, or names the node below.

use crate::region::{InPlace, Region};
use crate::sync::Exchange;
use crate::sync::atomic::AtomicUsize;
use crate::sync::atomic::Ordering;

/// What an entry says.
#[derive(Clone, Copy)]
pub(super) enum Content {
    /// Nothing is there.
    Empty,
    /// All that the entry stands for belongs to this region.
    Region(&'static Region),
    /// The address of a node; its type follows from the level.
    Node(usize),
}

/// Which of the three, in the two low bits; regions and nodes are aligned to more.
const TAG: usize = 3;
const REGION: usize = 1;
const NODE: usize = 2;

impl Content {
    fn pack(self) -> usize {
        match self {
            Content::Empty => 0,
            Content::Region(region) => core::ptr::from_ref(region).expose_provenance() | REGION,
            Content::Node(address) => address | NODE,
        }
    }

    /// # Safety
    /// `bits` was made by [`Content::pack`].
    #[inline(always)]
    unsafe fn unpack(bits: usize) -> Content {
        match bits & TAG {
            // SAFETY: the tag says that the rest is the exposed address of a descriptor, which is immortal.
            REGION => Content::Region(unsafe { &*core::ptr::with_exposed_provenance(bits & !TAG) }),
            NODE => Content::Node(bits & !TAG),
            _ => Content::Empty,
        }
    }
}

impl PartialEq for Content {
    fn eq(&self, other: &Content) -> bool {
        self.pack() == other.pack()
    }
}

/// An atomic entry. Zero is empty.
pub(super) struct Entry(AtomicUsize);

impl Entry {
    crate::const_unless_model! {
        pub(super) fn new() -> Entry {
            Entry(AtomicUsize::new(0))
        }
    }

    #[inline(always)]
    #[cfg_attr(any(loom, shuttle), track_caller)]
    pub(super) fn load(&self, order: Ordering) -> Content {
        // SAFETY: only `store` and `exchange` write the word, and they write what `pack` makes; zero is empty.
        unsafe { Content::unpack(self.0.load(order)) }
    }

    #[cfg_attr(any(loom, shuttle), track_caller)]
    pub(super) fn store(&self, content: Content, order: Ordering) {
        self.0.store(content.pack(), order);
    }

    /// Compare-and-swap; the error is what was there instead, read with `failure`.
    #[cfg_attr(any(loom, shuttle), track_caller)]
    pub(super) fn exchange(
        &self,
        from: Content,
        to: Content,
        success: Ordering,
        failure: Ordering,
    ) -> Result<(), Content> {
        match self.0.compare_exchange(from.pack(), to.pack(), success, failure) {
            Ok(_) => Ok(()),
            // SAFETY: as in `load`.
            Err(now) => Err(unsafe { Content::unpack(now) }),
        }
    }

    /// The same where there is nothing yet, in one step unless `bug` is planted.
    pub(super) fn link(
        &self,
        to: Content,
        success: Ordering,
        failure: Ordering,
        bug: &str,
    ) -> Result<(), Content> {
        match self.0.exchange(Content::Empty.pack(), to.pack(), success, failure, bug) {
            Ok(_) => Ok(()),
            // SAFETY: as in `load`.
            Err(now) => Err(unsafe { Content::unpack(now) }),
        }
    }
}

/// A number of empty entries.
#[cfg(not(any(loom, shuttle)))]
pub(super) const fn empty<const N: usize>() -> [Entry; N] {
    [const { Entry::new() }; N]
}

/// A number of empty entries.
#[cfg(any(loom, shuttle))]
pub(super) fn empty<const N: usize>() -> [Entry; N] {
    core::array::from_fn(|_| Entry::new())
}

/// An immortal node: of granules or of slices.
#[repr(align(64))]
pub(super) struct Node<const N: usize> {
    pub(super) entries: [Entry; N],
}

// SAFETY: a node is made of atomics, which are valid when zero wherever `ZERO_IS_VALID`; zero is what `Entry::new`
// makes.
unsafe impl<const N: usize> InPlace for Node<N> {
    unsafe fn construct(at: *mut Node<N>) {
        let entries = at.cast::<Entry>();
        for index in 0..N {
            // SAFETY: the caller's memory holds `N` entries; written one by one, a node may be larger than the stack.
            unsafe { entries.add(index).write(Entry::new()) };
        }
    }
}

impl<const N: usize> Node<N> {
    pub(super) fn content(&'static self) -> Content {
        Content::Node(core::ptr::from_ref(self).expose_provenance())
    }

    /// # Safety
    /// `address` comes from the [`Node::content`] of a node of the same type.
    #[inline(always)]
    pub(super) unsafe fn at(address: usize) -> &'static Node<N> {
        // SAFETY: passed on; nodes are immortal.
        unsafe { &*core::ptr::with_exposed_provenance(address) }
    }
}
