#![doc = include_str!("../README.md")]
#![cfg_attr(not(any(feature = "std", panic = "unwind")), no_std)]

mod api;
mod base;
#[cfg(all(feature = "files", not(any(loom, shuttle))))]
pub mod files;
#[cfg(not(any(loom, shuttle)))]
mod global;
mod heap;
#[cfg(all(feature = "heaps", not(any(loom, shuttle))))]
pub mod heaps;
mod index;
#[cfg(all(feature = "paging", not(any(loom, shuttle))))]
pub mod paging;
// What of it needs no system.
#[cfg(all(test, loom))]
#[path = "paging/waiting/mod.rs"]
mod paging_waiting;
mod pal;
mod rcu;
mod region;
mod sync;

#[cfg(all(feature = "std", not(any(loom, shuttle))))]
pub use api::SpecMalloc;
#[cfg(all(feature = "profile", not(any(loom, shuttle))))]
pub use api::profile;
pub use api::statistics::{Bet, Bets, ClassStatistics, Statistics, SystemCalls};
#[cfg(all(feature = "std", not(any(loom, shuttle))))]
pub use global::Pressure;
pub use heap::{BlockKind, WalkedBlock};

pub(crate) use sync::{atomic_array, const_unless_model};

/// What a library without std panics with, if this one has none in it either: a program that uses the same build of it
/// has std's.
#[doc(hidden)]
#[macro_export]
#[cfg(not(any(feature = "std", panic = "unwind")))]
macro_rules! panic_handler {
    () => {
        #[panic_handler]
        fn panicked(panic: &core::panic::PanicInfo<'_>) -> ! {
            $crate::internals::pal::panicked(panic)
        }
    };
}

#[doc(hidden)]
#[macro_export]
#[cfg(any(feature = "std", panic = "unwind"))]
macro_rules! panic_handler {
    () => {};
}

/// What the workspace's other crates and the tests are made with: the layers, as they are today. It promises nothing,
/// not even to be here tomorrow.
#[doc(hidden)]
pub mod internals {
    pub mod api {
        pub use crate::api::*;
    }
    pub mod base {
        pub use crate::base::*;
    }
    #[cfg(not(any(loom, shuttle)))]
    pub mod global {
        pub use crate::global::*;
    }
    pub mod heap {
        pub use crate::heap::*;
    }
    pub mod index {
        pub use crate::index::*;
    }
    pub mod pal {
        pub use crate::pal::*;
    }
    pub mod rcu {
        pub use crate::rcu::*;
    }
    pub mod region {
        pub use crate::region::*;
    }
    pub mod sync {
        pub use crate::sync::*;
    }
}
