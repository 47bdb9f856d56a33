//! Cells of what one thread at a time owns. Under shuttle a model may ask that each store be a step, at which another
//! thread may run: so that a fork finds the owner at any place between two stores.

#[cfg(not(shuttle))]
pub use crate::sync::signal_fence as step;
#[cfg(not(shuttle))]
pub use core::cell::Cell;

#[cfg(all(test, shuttle))]
pub(crate) use steps::set_steps;
#[cfg(shuttle)]
pub use steps::{Cell, step};

#[cfg(shuttle)]
mod steps {
    std::thread_local! {
        // The checker runs all threads of a model on one of the system's.
        static STEPS: core::cell::Cell<bool> = const { core::cell::Cell::new(false) };
    }

    /// Says whether each store is a step, at which another thread may run.
    #[cfg(test)]
    pub(crate) fn set_steps(on: bool) {
        STEPS.with(|steps| steps.set(on));
    }

    /// Between two looks at words that another thread may be writing: the compiler keeps their order, and a model may
    /// run that thread.
    pub fn step() {
        if STEPS.with(core::cell::Cell::get) {
            shuttle::thread::yield_now();
        }
    }

    /// Core's cell, as far as it is used, whose stores are steps.
    #[repr(transparent)]
    pub struct Cell<T>(core::cell::Cell<T>);

    impl<T> Cell<T> {
        /// See [`core::cell::Cell::new`].
        pub const fn new(value: T) -> Cell<T> {
            Cell(core::cell::Cell::new(value))
        }

        /// A step, and then [`core::cell::Cell::set`].
        pub fn set(&self, value: T) {
            step();
            self.0.set(value);
        }
    }

    impl<T: Copy> Cell<T> {
        /// See [`core::cell::Cell::get`].
        pub fn get(&self) -> T {
            self.0.get()
        }

        /// [`core::cell::Cell::replace`], its store a step.
        pub fn replace(&self, value: T) -> T {
            let before = self.get();
            self.set(value);
            before
        }
    }
}
