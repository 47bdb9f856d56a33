//! What the program does itself with samples: functions that it registers, called when one is allocated and when it is
//! freed.
//!
//! They are called by the thread that allocates or frees, outside of the allocator, and may allocate and free: what they
//! do so is noted, and not told. A thread that is inside one is found in a small table; where that is full the sample is
//! noted and not told. A free is told only of what was told when it was allocated.

use super::system;
use core::ptr;
use core::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

/// An allocation that is a sample.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// The block's address.
    pub block: usize,
    /// Bytes that may be used.
    pub usable: usize,
    /// Bytes that were asked for.
    pub size: usize,
    /// Bytes that it counts as, and the others that it stands for.
    pub counted: usize,
    /// Bytes for a sample on average.
    pub rate: usize,
    /// An address on the stack that lies in the outermost frame of the allocator; zero where the allocator is known by
    /// [`set_allocator`](super::set_allocator).
    pub caller: usize,
}

/// A sample, as it is told.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Told {
    /// Its identity: of no other sample of this process.
    pub id: u64,
    /// The block's address.
    pub block: usize,
    /// Bytes that were asked for.
    pub size: usize,
    /// Bytes that may be used.
    pub usable: usize,
    /// Bytes that it counts as: it stands for `1 / (1 - exp(-counted / rate))` allocations.
    pub counted: usize,
    /// Bytes for a sample on average.
    pub rate: usize,
    /// Nanoseconds since it was allocated.
    pub age: u64,
    stack: *const usize,
    depth: usize,
}

impl Told {
    pub(super) fn new(sample: &Sample, id: u64, counted: usize, age: u64, stack: &[usize]) -> Told {
        let &Sample { block, size, usable, rate, .. } = sample;
        Told { id, block, size, usable, counted, rate, age, stack: stack.as_ptr(), depth: stack.len() }
    }

    /// Addresses of the calls that led to this allocation or free, the innermost first.
    pub fn stack(&self) -> &[usize] {
        // SAFETY: made of a slice that outlives this, for it is only lent to the program's functions.
        unsafe { core::slice::from_raw_parts(self.stack, self.depth) }
    }
}

/// Functions that want to know of samples.
pub struct Watcher {
    /// A sample has been allocated, and nobody has its address yet.
    pub allocated: fn(&Told),
    /// A sample is about to be freed; its bytes are still there.
    pub freed: fn(&Told),
}

static WATCHER: AtomicPtr<Watcher> = AtomicPtr::new(ptr::null_mut());

/// Has samples told to `watcher` from now on; to nobody, if it is `None`. Other threads may be inside the one before for a
/// while.
///
/// Its functions are called by any thread, wherever that allocates or frees, with whatever locks it holds: they must wait
/// for none of those. They may allocate and free; that is not told. A panic of theirs ends the process.
pub fn watch(watcher: Option<&'static Watcher>) {
    let watcher = watcher.map_or(ptr::null_mut(), |watcher| ptr::from_ref(watcher).cast_mut());
    // Release: pairs with the Acquire in `watcher`: what it stands on is there.
    WATCHER.store(watcher, Ordering::Release);
}

/// Who wants to know.
pub(super) fn watcher() -> Option<&'static Watcher> {
    // Acquire: pairs with the Release in `watch`.
    // SAFETY: null, or one that stays.
    unsafe { WATCHER.load(Ordering::Acquire).as_ref() }
}

/// Threads that are inside a function of the watcher's, with their process, for a fork leaves the words of others behind.
/// (Relaxed, all of them: a thread looks for its own number, which it alone writes.)
static INSIDE: [AtomicUsize; 64] = [const { AtomicUsize::new(0) }; 64];

/// Bits of a thread's number.
const THREAD: u32 = 47;

/// Calls `function` with what `told` makes, unless the thread is inside one already, or no place is left. Whether it did.
pub(super) fn call(function: fn(&Told), told: &Told) -> bool {
    let process = (system::pid() as usize) << THREAD;
    let own = process | system::thread();
    let is_of_this_process = |word: usize| word != 0 && word >> THREAD == process >> THREAD;
    if INSIDE.iter().any(|place| place.load(Ordering::Relaxed) == own) {
        return false;
    }
    for place in &INSIDE {
        let before = place.load(Ordering::Relaxed);
        if !is_of_this_process(before)
            && place.compare_exchange(before, own, Ordering::Relaxed, Ordering::Relaxed).is_ok()
        {
            let unwound = Abort;
            function(told);
            core::mem::forget(unwound);
            place.store(0, Ordering::Relaxed);
            return true;
        }
    }
    false
}

/// Ends the process if it is dropped.
struct Abort;

impl Drop for Abort {
    fn drop(&mut self) {
        // SAFETY: ends the process.
        unsafe { libc::abort() };
    }
}
