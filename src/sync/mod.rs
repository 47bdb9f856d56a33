//! `sync`: the one door to atomics. `core` in a normal build, loom or shuttle under a model checker.
//!
//! May import `base` only. Everything above takes its atomics from here, so that the models run the real code.
//!
//! What differs under a checker is named here once: an atomic may not be zero bytes when it is zero
//! ([`ZERO_IS_VALID`]) and cannot be made in a constant ([`const_unless_model`]), and membarrier does not exist there
//! ([`light_barrier`] is a full fence).

mod cell;
#[cfg(all(test, any(loom, shuttle)))]
mod census;
#[cfg(all(test, any(loom, shuttle)))]
pub(crate) mod checker;
mod counter;
mod exchange;
mod seeded;

#[cfg(all(test, any(loom, shuttle)))]
pub use census::atomic;
#[cfg(not(any(loom, shuttle)))]
pub use core::sync::atomic;
#[cfg(all(loom, not(test)))]
pub use loom::sync::atomic;
#[cfg(all(shuttle, not(test)))]
pub use shuttle::sync::atomic;

#[cfg(all(test, shuttle))]
pub(crate) use cell::set_steps;
pub use cell::{Cell, step};
pub use counter::Counter;
pub use crossbeam_utils::CachePadded;
pub use exchange::Exchange;
#[cfg(any(loom, shuttle))]
pub use seeded::is_any_planted;
#[cfg(all(test, loom))]
pub(crate) use seeded::set_bare;
pub use seeded::{
    SeededBug, acquire, acquire_fence, full_fence, if_first, in_order, release, release_fence, seeded,
};

/// Whether freshly mapped (zero) memory is a valid value of every type made of this module's atomics. Where it is
/// not, constructors write each field in place.
pub const ZERO_IS_VALID: bool = !cfg!(any(loom, shuttle));

/// Half of an asymmetric barrier: orders this thread's earlier accesses before its later ones, provided that the
/// other side runs a heavy barrier (membarrier) between its own. Costs no instruction; only the compiler is held.
///
/// Under a model checker it is a full fence, and so is the heavy side: that is what the pair amounts to.
#[inline(always)]
#[cfg_attr(any(loom, shuttle), track_caller)]
pub fn light_barrier() {
    #[cfg(not(any(loom, shuttle)))]
    core::sync::atomic::compiler_fence(core::sync::atomic::Ordering::SeqCst);
    #[cfg(any(loom, shuttle))]
    if !seeded::is_bare() {
        atomic::fence(atomic::Ordering::SeqCst);
    }
}

/// Keeps the compiler from moving accesses across, for code that a signal handler on the same thread may interrupt.
#[inline(always)]
pub fn signal_fence() {
    core::sync::atomic::compiler_fence(core::sync::atomic::Ordering::SeqCst);
}

/// Tells the processor, or the model's scheduler, that this thread waits for another.
#[inline(always)]
pub fn spin_hint() {
    #[cfg(not(any(loom, shuttle)))]
    core::hint::spin_loop();
    #[cfg(loom)]
    loom::thread::yield_now();
    #[cfg(shuttle)]
    shuttle::thread::yield_now();
}

/// Defines a constructor that is `const` with core's atomics, and an ordinary function with a checker's, whose
/// atomics cannot be made in a constant.
macro_rules! const_unless_model {
    ($(#[$attr:meta])* $vis:vis fn $name:ident($($arg:ident : $ty:ty),* $(,)?) -> $ret:ty $body:block) => {
        #[cfg(not(any(loom, shuttle)))]
        $(#[$attr])*
        $vis const fn $name($($arg: $ty),*) -> $ret $body
        #[cfg(any(loom, shuttle))]
        $(#[$attr])*
        $vis fn $name($($arg: $ty),*) -> $ret $body
    };
}

/// An array of atomics that all start alike: a constant with core's atomics, built at run time with a checker's.
macro_rules! atomic_array {
    ($init:expr; $len:expr) => {{
        #[cfg(not(any(loom, shuttle)))]
        let array = [const { $init }; $len];
        #[cfg(any(loom, shuttle))]
        let array = core::array::from_fn::<_, { $len }, _>(|_| $init);
        array
    }};
}

pub(crate) use {atomic_array, const_unless_model};
