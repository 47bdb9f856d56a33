//! Exchanges whose being one step is what a protocol relies on: a model can take each apart, by the name of a seeded
//! bug.
//!
//! With the bug planted the look and the store are two steps, between which any other thread may run. The orderings
//! stay: what is missing is the one step alone.

use super::atomic::{AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering};

/// What the atomics of this module offer besides their own functions.
pub trait Exchange {
    /// What the atomic holds.
    type Value;

    /// `compare_exchange`, in one step unless `bug` is planted.
    #[cfg_attr(any(loom, shuttle), track_caller)]
    fn exchange(
        &self,
        before: Self::Value,
        after: Self::Value,
        success: Ordering,
        failure: Ordering,
        bug: &str,
    ) -> Result<Self::Value, Self::Value>;

    /// `swap`, in one step unless `bug` is planted.
    #[cfg_attr(any(loom, shuttle), track_caller)]
    fn replace(&self, after: Self::Value, order: Ordering, bug: &str) -> Self::Value;
}

macro_rules! exchange {
    ($atomic:ty, $value:ty $(, $of:ident)?) => {
        impl$(<$of>)? Exchange for $atomic {
            type Value = $value;

            #[inline(always)]
            #[cfg_attr(any(loom, shuttle), track_caller)]
            fn exchange(
                &self,
                before: $value,
                after: $value,
                success: Ordering,
                failure: Ordering,
                _bug: &str,
            ) -> Result<$value, $value> {
                #[cfg(any(loom, shuttle))]
                if super::seeded(_bug) {
                    let now = self.load(Ordering::Acquire);
                    if now != before {
                        return Err(now);
                    }
                    self.store(after, Ordering::Release);
                    return Ok(before);
                }
                self.compare_exchange(before, after, success, failure)
            }

            #[inline(always)]
            #[cfg_attr(any(loom, shuttle), track_caller)]
            fn replace(&self, after: $value, order: Ordering, _bug: &str) -> $value {
                #[cfg(any(loom, shuttle))]
                if super::seeded(_bug) {
                    let before = self.load(Ordering::Acquire);
                    self.store(after, Ordering::Release);
                    return before;
                }
                self.swap(after, order)
            }
        }
    };
}

exchange!(AtomicU32, u32);
exchange!(AtomicU64, u64);
exchange!(AtomicUsize, usize);
exchange!(AtomicPtr<T>, *mut T, T);
