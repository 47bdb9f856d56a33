//! Seeded bugs: places that the argument for a protocol relies on, each of which a model build can weaken.
//!
//! In a normal build [`seeded`] is the constant `false` and leaves nothing behind. In a model build a test plants one
//! bug by name and demands that the checker finds the failure. Each layer's models list theirs as [`SeededBug`]s.

/// One seeded bug: its name, what it takes away, and the test that must catch it.
#[derive(Clone, Copy, Debug)]
pub struct SeededBug {
    /// `layer.place`: the argument of [`seeded`] at the place.
    pub name: &'static str,
    /// The step or ordering that is missing when the bug is planted.
    pub removes: &'static str,
    /// The model that must fail with it.
    pub caught_by: &'static str,
}

/// Whether the bug `name` is planted: always `false` outside model builds.
#[cfg(not(any(loom, shuttle)))]
#[inline(always)]
pub const fn seeded(_name: &str) -> bool {
    false
}

#[cfg(any(loom, shuttle))]
std::thread_local! {
    // A checker runs all its threads as coroutines of one thread of the OS: the plant reaches all of them, and no
    // model that runs beside it.
    static PLANTED: std::cell::Cell<Option<&'static str>> = const { std::cell::Cell::new(None) };
}

/// Whether the bug `name` is planted.
#[cfg(any(loom, shuttle))]
pub fn seeded(name: &str) -> bool {
    PLANTED.with(std::cell::Cell::get) == Some(name)
}

/// Plants `bug` while `model` runs and answers whether the model failed.
#[cfg(any(loom, shuttle))]
pub fn plant(bug: &'static str, model: impl FnOnce() + std::panic::UnwindSafe) -> bool {
    PLANTED.with(|planted| planted.set(Some(bug)));
    let failed = std::panic::catch_unwind(model).is_err();
    PLANTED.with(|planted| planted.set(None));
    failed
}
