//! Who possesses a heap.
//!
//! The law: the word in the heap says who possesses it, or nobody. Writing one's own number over nobody's is taking
//! possession, writing nobody's over it is giving up; both are one atomic step, and nothing waits.

use crate::const_unless_model;
use crate::sync::atomic::{AtomicUsize, Ordering};
use crate::sync::{Exchange, acquire, release, seeded};
use core::num::NonZeroUsize;

/// A thread, by a number that no other thread has at the same time: the address of something of its own.
///
/// In the child of a fork the one thread that there is has the number that it had in the parent, so it knows which
/// heaps are in its own hands, in however many calls that a signal handler interrupted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ThreadId(NonZeroUsize);

impl ThreadId {
    /// The thread that alone has `number`, which is not zero.
    pub const fn new(number: usize) -> ThreadId {
        match NonZeroUsize::new(number) {
            Some(number) => ThreadId(number),
            None => panic!("a thread's number is not zero"),
        }
    }

    /// The number.
    pub fn number(self) -> usize {
        self.0.get()
    }
}

/// Who possesses a heap: a [`ThreadId`], or zero for nobody.
pub struct Possession(AtomicUsize);

const NO_POSSESSOR: usize = 0;

impl Possession {
    const_unless_model! {
        /// Nobody's.
        pub(super) fn new() -> Possession {
            Possession(AtomicUsize::new(NO_POSSESSOR))
        }
    }

    /// Who has it; `None` for nobody. Certain only for the possessor, and for the one thread of a child.
    pub fn possessor(&self) -> Option<ThreadId> {
        // Relaxed: a hint, but for the possessor, whose own store it is.
        NonZeroUsize::new(self.0.load(Ordering::Relaxed)).map(ThreadId)
    }

    /// Takes it if nobody has it.
    pub(super) fn take(&self, by: ThreadId) -> bool {
        // Acquire: pairs with the Release in `give_up`, so that everything the last possessor did is seen. Relaxed on
        // failure: nothing is read but the word.
        let order = acquire("heap.possess");
        self.0.exchange(NO_POSSESSOR, by.number(), order, Ordering::Relaxed, "heap.possess_two_steps").is_ok()
    }

    /// Makes it another thread's: by the possessor, or the visitor that is left with it.
    pub(super) fn pass_to(&self, to: ThreadId) {
        // Relaxed: nobody takes what is possessed.
        self.0.store(to.number(), Ordering::Relaxed);
    }

    pub(super) fn give_up(&self) {
        debug_assert!(
            self.possessor().is_some() || seeded("heap.steal_unpossessed"),
            "an idle heap was given up"
        );
        // Release: pairs with the Acquire in `take`.
        self.0.store(NO_POSSESSOR, release("heap.give_up"));
    }
}
