//! A stack of immortal objects that wait to be used again: lock-free, and safe against the ABA problem by a tag.

use crate::sync::atomic::Ordering::Relaxed;
use crate::sync::atomic::{AtomicU64, AtomicUsize};
use crate::sync::{acquire, release, seeded};
use core::marker::PhantomData;

/// Alignment of everything that can be in a stack: the low bits of its address carry a part of the tag.
pub(crate) const STACK_ALIGN: usize = 128;

/// Bits of an address in user space: 47 on x86-64, up to 48 elsewhere unless a program asks for more.
const ADDRESS_BITS: u32 = 48;

/// Bits of an address that are not zero in every object; the bits above them are the tag's.
const INDEX_BITS: u32 = ADDRESS_BITS - STACK_ALIGN.ilog2();

const _: () = assert!(u64::BITS - INDEX_BITS == 23, "`retagged` says so");

/// The next object below in a stack; embedded in each.
pub struct Link {
    /// Address of the object below, 0 at the bottom.
    below: AtomicUsize,
}

impl Link {
    crate::const_unless_model! {
        /// A link that is in no stack.
        pub fn new() -> Link {
            Link { below: AtomicUsize::new(0) }
        }
    }
}

impl Default for Link {
    fn default() -> Link {
        Link::new()
    }
}

/// What can be kept in a [`Stack`].
///
/// # Safety
/// Values live in memory that is never unmapped or used for anything else, at a multiple of 128 bytes, below 2^48;
/// `link` always returns the same link, which nothing but the stack touches.
pub unsafe trait Linked: Sync + 'static {
    /// The link embedded in the value.
    fn link(&self) -> &Link;
}

/// The head of a stack: the address of the top object and a tag that each removal changes, in one word.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Head(u64);

impl Head {
    const fn address(self) -> usize {
        ((self.0 & ((1 << INDEX_BITS) - 1)) as usize) * STACK_ALIGN
    }

    const fn tag(self) -> u64 {
        self.0 >> INDEX_BITS
    }

    /// `address` on top, with the tag of `self`.
    const fn with_top(self, address: usize) -> Head {
        debug_assert!(address.is_multiple_of(STACK_ALIGN) && address >> ADDRESS_BITS == 0);
        Head(self.tag() << INDEX_BITS | (address / STACK_ALIGN) as u64)
    }

    /// The next tag; the tag wraps after 2^23 removals, which would all have to happen within one `take`.
    fn retagged(self) -> Head {
        Head(self.0.wrapping_add(u64::from(!seeded("region.pool_no_tag")) << INDEX_BITS))
    }
}

/// A lock-free stack of objects that are out of use.
pub struct Stack<T: Linked> {
    head: AtomicU64,
    holds: PhantomData<&'static T>,
}

impl<T: Linked> Stack<T> {
    /// An empty stack.
    #[cfg(not(any(loom, shuttle)))]
    pub const fn new() -> Stack<T> {
        Stack { head: AtomicU64::new(0), holds: PhantomData }
    }

    /// An empty stack.
    #[cfg(any(loom, shuttle))]
    pub fn new() -> Stack<T> {
        Stack { head: AtomicU64::new(0), holds: PhantomData }
    }

    /// Takes the object that was given last.
    pub fn take(&self) -> Option<&'static T> {
        // Acquire: partner is the Release of `give`: the object's link and fields are as its giver left them.
        let mut head = Head(self.head.load(acquire("region.pool_take_relaxed")));
        loop {
            // SAFETY: every non-zero address in `head` comes from `give`, and objects live forever.
            let top = unsafe { at::<T>(head.address()) }?;
            // Relaxed: read under the Acquire that found `top`. If the object has been taken meanwhile the value may be
            // that of another stack, but then the tag has changed and the exchange fails.
            let below = top.link().below.load(Relaxed);
            // Acquire on failure: as for the load above. On success the head is the one acquired before.
            match self.head.compare_exchange_weak(
                head.0,
                head.with_top(below).retagged().0,
                Relaxed,
                acquire("region.pool_take_again"),
            ) {
                Ok(_) => return Some(top),
                Err(now) => head = Head(now),
            }
        }
    }

    /// Gives an object that the caller alone uses, and lets go of it.
    pub fn give(&self, object: &'static T) {
        let address = core::ptr::from_ref(object).expose_provenance();
        // Relaxed: only the guess for the exchange below.
        let mut head = Head(self.head.load(Relaxed));
        loop {
            // Relaxed: published by the exchange.
            object.link().below.store(head.address(), Relaxed);
            // Release: partner is the Acquire of `take`.
            match self.head.compare_exchange_weak(
                head.0,
                head.with_top(address).0,
                release("region.pool_give_relaxed"),
                Relaxed,
            ) {
                Ok(_) => return,
                Err(now) => head = Head(now),
            }
        }
    }

    /// What is in the stack, the top first, while nobody changes it.
    #[cfg(any(test, feature = "simulated"))]
    pub fn each(&self) -> impl Iterator<Item = &'static T> + use<T> {
        let object = |address| {
            // SAFETY: addresses in `head` and in links come from `give`, and objects live forever.
            unsafe { at::<T>(address) }
        };
        // Relaxed (both): nobody changes them.
        let top = object(Head(self.head.load(Relaxed)).address());
        core::iter::successors(top, move |above| object(above.link().below.load(Relaxed)))
    }

    /// Whether the stack is empty right now.
    pub fn is_empty(&self) -> bool {
        // Relaxed: an answer that is already old.
        Head(self.head.load(Relaxed)).address() == 0
    }
}

impl<T: Linked> Default for Stack<T> {
    fn default() -> Stack<T> {
        Stack::new()
    }
}

/// The object at `address`, or `None` for 0.
///
/// # Safety
/// A non-zero address is that of a live `T` whose provenance was exposed.
unsafe fn at<T: Linked>(address: usize) -> Option<&'static T> {
    // SAFETY: passed on.
    unsafe { core::ptr::with_exposed_provenance::<T>(address).as_ref() }
}
