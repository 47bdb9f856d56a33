//! Limits of a Rust program: see `global::pressure`, and `heap::ground::limit` for what counts against them.

use super::rust::SpecMalloc;
use crate::global::{self, Pressure, limit, process};

impl SpecMalloc {
    /// Bytes that the allocator may hold for the process, 0 for no limit, which is the default. A request beyond that
    /// gives back what is free, calls the function of [`SpecMalloc::on_pressure`], and fails if that is not enough.
    pub const fn limit(mut self, bytes: usize) -> SpecMalloc {
        self.options.hard_limit = Some(limit(bytes));
        self
    }

    /// Bytes beyond which the function of [`SpecMalloc::on_pressure`] is called, 0 for no limit, which is the default.
    /// Free memory is given back sooner the nearer use comes to it.
    pub const fn soft_limit(mut self, bytes: usize) -> SpecMalloc {
        self.options.soft_limit = Some(limit(bytes));
        self
    }

    /// Sets [`SpecMalloc::limit`] while the process runs. What is held beyond a lower limit stays.
    pub fn set_limit(&self, bytes: usize) {
        global::set_limits(Some(bytes), None);
    }

    /// Sets [`SpecMalloc::soft_limit`] while the process runs.
    pub fn set_soft_limit(&self, bytes: usize) {
        global::set_limits(None, Some(bytes));
    }

    /// Registers the function that is called when use comes beyond the soft limit (again, once it has fallen a sixteenth
    /// below), and when a request is about to fail; `None` for none. It is called by the thread that allocates, with
    /// nothing of the allocator's held, by several threads at a time if need be, and may itself allocate and free. If
    /// less is held after it, the request is tried again. The caller may hold locks of its own, so the function must
    /// wait for none that is held where memory is allocated; and it must not unwind.
    ///
    /// It is not called in a thread that has signals blocked, as one in a signal handler has, nor inside itself.
    ///
    /// ```
    /// # use specmalloc::SpecMalloc;
    /// # use std::sync::Mutex;
    /// #[global_allocator]
    /// static ALLOC: SpecMalloc = SpecMalloc::new().soft_limit(1 << 30).limit(2 << 30);
    /// static CACHE: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());
    ///
    /// ALLOC.on_pressure(Some(|pressure| {
    ///     if let Ok(mut cache) = CACHE.try_lock() {
    ///         let keep = if pressure.is_failing { 0 } else { cache.len() / 2 };
    ///         cache.truncate(keep);
    ///     }
    /// }));
    /// ```
    pub fn on_pressure(&self, function: Option<fn(Pressure)>) {
        global::on_pressure(function);
    }

    /// Bytes that the allocator holds for the process, which is what counts against the limits: what is resident, or may
    /// be, of slabs, of large blocks in whole slices of 64 KiB, of huge ones in whole pages, and of memory that is free.
    pub fn held_bytes(&self) -> usize {
        process().held_bytes()
    }
}
