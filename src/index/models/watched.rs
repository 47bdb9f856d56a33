//! The platform of the models in which memory is unmapped: here, and in the heap's.

use crate::pal::simulated::{Config, Simulated};
use crate::pal::{Access, CallCounts, Errno, Platform};
use crate::sync::atomic::AtomicU32;
use loom::cell::UnsafeCell;
use std::collections::BTreeMap;
use std::ffi::CStr;
use std::sync::{Arc, Mutex};

/// What stands for the memory of a mapping.
struct Memory(UnsafeCell<()>);

// SAFETY: the checker verifies every access, and all threads of a model are coroutines of one.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

/// A simulated system that shows regions to the checker as cells. Clones are handles to the same one.
#[derive(Clone)]
pub(crate) struct Watched {
    system: Simulated,
    cells: Arc<Mutex<BTreeMap<usize, Arc<Memory>>>>,
}

impl Watched {
    pub(crate) fn new() -> Watched {
        // As much address space as the index of a model tells apart.
        let system = Simulated::with(Config { reserve: 8 << 20, ..Config::default() });
        Watched { system, cells: Arc::default() }
    }

    /// Watches the region that begins at `base`.
    pub(crate) fn watch(&self, base: usize) {
        self.cells.lock().unwrap().insert(base, Arc::new(Memory(UnsafeCell::new(()))));
    }

    /// What a reader of the memory at `base` does.
    pub(crate) fn touch(&self, base: usize) {
        let cell = self.cells.lock().unwrap().get(&base).cloned();
        // SAFETY: the checker verifies that no write overlaps.
        cell.expect("touched after the unmap").0.with(|value| unsafe { value.read() });
    }
}

// SAFETY: passes everything on to a system that keeps the promise.
unsafe impl Platform for Watched {
    fn page_size(&self) -> usize {
        self.system.page_size()
    }
    fn map(&self, at: Option<usize>, len: usize, access: Access) -> Result<usize, Errno> {
        self.system.map(at, len, access)
    }
    unsafe fn unmap(&self, addr: usize, len: usize) -> Result<(), Errno> {
        let cell = self.cells.lock().unwrap().remove(&addr);
        if let Some(cell) = cell {
            // SAFETY: the checker verifies that no access overlaps.
            cell.0.with_mut(|value| unsafe { value.write(()) });
        }
        // SAFETY: passed on.
        unsafe { self.system.unmap(addr, len) }
    }

    unsafe fn empty(&self, addr: usize, len: usize, used: usize) {
        // SAFETY: passed on.
        unsafe { self.system.empty(addr, len, used) };
    }

    unsafe fn protect(&self, addr: usize, len: usize, access: Access) -> Result<(), Errno> {
        // SAFETY: passed on.
        unsafe { self.system.protect(addr, len, access) }
    }
    unsafe fn purge(&self, addr: usize, len: usize) -> Result<(), Errno> {
        // SAFETY: passed on.
        unsafe { self.system.purge(addr, len) }
    }
    unsafe fn resize(&self, addr: usize, old: usize, new: usize) -> Result<(), Errno> {
        // SAFETY: passed on.
        unsafe { self.system.resize(addr, old, new) }
    }
    unsafe fn move_pages(&self, from: usize, to: usize, len: usize) -> Result<(), Errno> {
        // SAFETY: passed on.
        unsafe { self.system.move_pages(from, to, len) }
    }
    fn prefer_huge_pages(&self, addr: usize, len: usize, preferred: bool) -> Result<(), Errno> {
        self.system.prefer_huge_pages(addr, len, preferred)
    }
    fn name(&self, addr: usize, len: usize, name: &'static CStr) {
        self.system.name(addr, len, name);
    }
    fn register_barrier(&self) -> Result<(), Errno> {
        self.system.register_barrier()
    }
    fn heavy_barrier(&self) -> Result<(), Errno> {
        self.system.heavy_barrier()
    }
    fn wait(&self, word: &AtomicU32, expected: u32, timeout_ms: Option<u32>) {
        self.system.wait(word, expected, timeout_ms);
    }
    fn wake(&self, word: &AtomicU32, count: u32) {
        self.system.wake(word, count);
    }
    fn yield_now(&self) {
        self.system.yield_now();
    }
    fn now_ms(&self) -> u64 {
        self.system.now_ms()
    }
    fn now_ns(&self) -> u64 {
        self.system.now_ns()
    }
    fn address_space_limit(&self) -> usize {
        self.system.address_space_limit()
    }
    fn memory_left(&self) -> usize {
        self.system.memory_left()
    }
    fn entropy(&self) -> u64 {
        self.system.entropy()
    }
    fn calls(&self) -> CallCounts {
        self.system.calls()
    }
}
