//! The instructions at which a test lets a signal handler interrupt a thread, or the thread vanish.
//!
//! In every other build [`point`] is empty.

/// A place between two steps that another step of this layer could tell apart.
#[cfg(not(test))]
#[inline(always)]
pub(super) fn point() {}

#[cfg(all(test, not(shuttle)))]
pub(super) use testing::arm;
#[cfg(test)]
pub(super) use testing::point;

#[cfg(test)]
mod testing {
    use std::cell::RefCell;

    type Handler = Box<dyn FnOnce()>;

    std::thread_local! {
        /// How many points to pass before the handler runs, and the handler.
        static ARMED: RefCell<Option<(usize, Handler)>> = const { RefCell::new(None) };
    }

    #[cfg(not(shuttle))]
    /// Runs `body` with `handler` called at the point number `at`, counted from zero, that this thread passes; the
    /// handler itself is not interrupted. Returns whether there was such a point.
    pub(in crate::rcu) fn arm(at: usize, handler: impl FnOnce() + 'static, body: impl FnOnce()) -> bool {
        ARMED.with(|armed| *armed.borrow_mut() = Some((at, Box::new(handler))));
        body();
        ARMED.with(|armed| armed.borrow_mut().take()).is_none()
    }

    pub(in crate::rcu) fn point() {
        let due = ARMED.with(|armed| {
            let mut armed = armed.borrow_mut();
            match armed.take() {
                Some((0, handler)) => Some(handler),
                Some((left, handler)) => {
                    *armed = Some((left - 1, handler));
                    None
                }
                None => None,
            }
        });
        if let Some(handler) = due {
            handler();
        }
    }
}
