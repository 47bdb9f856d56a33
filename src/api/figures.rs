//! The figures of this process: gathered on demand, and published to a shared file when one is asked for.

use super::shared_record::{SharedRecord, VARIABLE};
use super::statistics::{Bet, Bets, ClassStatistics, Statistics, SystemCalls};
use crate::base::{CLASSES, SLICE, class_size};
use crate::global::{Options, Thread, environment, process, with_heap};
use crate::heap::{self, Heap, Usage};
use crate::pal::Platform;
use crate::region::Kind;
use crate::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use core::cell::UnsafeCell;
use core::mem::MaybeUninit;

/// Milliseconds between two publications from slow paths.
const INTERVAL_MS: u64 = 20;

/// The process's figures now.
///
/// Live blocks are exact for the calling thread's heap and for slabs that no thread allocates from at the moment;
/// blocks that are free in another thread's current slabs count as live. What other threads do meanwhile may be seen
/// half done.
pub fn statistics<T: Thread>() -> Statistics {
    let mut figures = Statistics::new();
    with_heap::<T, _>(&Options::new(), |heap| {
        if let Some(heap) = heap {
            gather::<T>(heap, &mut figures);
        }
    });
    figures
}

fn gather<T: Thread>(heap: &Heap, figures: &mut Statistics) {
    let allocator = process();
    let mut handed_out = 0;
    {
        let _section = heap.section(allocator);
        allocator.arenas().each_run(|slab| match slab.usage() {
            Usage::Slab => {
                let class = &mut figures.classes[slab.class()];
                class.slabs += 1;
                class.live_blocks += u64::from(slab.live_estimate());
                handed_out += u64::from(slab.handed_out()) * class_size(slab.class()) as u64;
            }
            Usage::Large => {
                figures.live_blocks += 1;
                figures.live_bytes += slab.requested() as u64;
            }
            Usage::Free | Usage::Later => {}
        });
    }
    let mut small = 0;
    for class in 0..CLASSES {
        let ClassStatistics { block_bytes, live_blocks, .. } = &mut figures.classes[class];
        *block_bytes = class_size(class) as u64;
        *live_blocks = live_blocks.saturating_sub(u64::from(heap.uncounted::<T::Checks>(class)));
        figures.live_blocks += *live_blocks;
        small += *live_blocks * *block_bytes;
    }
    let (space, huge) = (allocator.space(), allocator.huge());
    let counts = space.counts();
    figures.live_bytes += small + huge.live_bytes() as u64;
    figures.live_blocks += huge.live_blocks() as u64;
    figures.cached_bytes = handed_out.saturating_sub(small) + huge.kept_bytes() as u64;
    figures.dirty_bytes = (allocator.arenas().dirty_slices() * SLICE) as u64;
    figures.reserved_bytes = counts.mapped as u64;
    figures.resident_bytes = figures.live_bytes + figures.cached_bytes + figures.dirty_bytes;
    figures.purged_bytes = allocator.arenas().purged_bytes();
    figures.arenas = counts.regions[Kind::Arena as usize] as u64;
    figures.huge = counts.regions[Kind::Huge as usize] as u64;
    figures.regions = figures.arenas + figures.huge + counts.regions[Kind::File as usize] as u64;
    figures.mappings = counts.mappings as u64;
    figures.heaps = allocator.pool().made() as u64;
    figures.threads =
        (0..allocator.pool().made()).filter(|&index| !allocator.pool().is_idle(index)).count() as u64;
    figures.remote_frees = (0..allocator.pool().made())
        .filter_map(|index| allocator.pool().get(index))
        .map(|heap| u64::from(heap.remote_frees()))
        .sum();
    figures.grace_periods = space.rcu().statistics().grace_periods as u64;
    figures.retired_pending = space.rcu().statistics().pending as u64 + counts.retired as u64;
    let calls = space.os().calls();
    figures.calls = SystemCalls {
        map: calls.map,
        unmap: calls.unmap,
        protect: calls.protect,
        remap: calls.remap,
        purge: calls.purge,
        barrier: calls.barrier,
        failed: calls.failed,
    };
    let bet = |which| {
        let [taken, won, lost] = allocator.bet(which);
        Bet { taken, won, lost }
    };
    figures.bets = Bets {
        lookup: bet(heap::Bet::Lookup),
        space: bet(heap::Bet::Space),
        population: bet(heap::Bet::Population),
    };
    figures.peak_live_bytes = raise(&PEAK_LIVE, figures.live_bytes);
    figures.peak_reserved_bytes = raise(&PEAK_RESERVED, figures.reserved_bytes);
}

/// Highest figures seen so far: peaks are those of the moments at which somebody looked.
static PEAK_LIVE: AtomicU64 = AtomicU64::new(0);
static PEAK_RESERVED: AtomicU64 = AtomicU64::new(0);

fn raise(peak: &AtomicU64, now: u64) -> u64 {
    // Relaxed: a figure.
    peak.fetch_max(now, Ordering::Relaxed).max(now)
}

/// Where the figures are published, if anywhere. The state says who may touch `record`.
struct Shared {
    state: AtomicUsize,
    record: UnsafeCell<MaybeUninit<SharedRecord>>,
    pid: AtomicUsize,
    last_ms: AtomicU64,
}

const UNASKED: usize = 0;
const OPENING: usize = 1;
const NONE: usize = 2;
const OPEN: usize = 3;

// SAFETY: `record` is written by the one thread that moved `state` from UNASKED to OPENING, and read after OPEN.
unsafe impl Sync for Shared {}

static SHARED: Shared = Shared {
    state: AtomicUsize::new(UNASKED),
    record: UnsafeCell::new(MaybeUninit::uninit()),
    pid: AtomicUsize::new(0),
    last_ms: AtomicU64::new(0),
};

/// Opens the shared file if the environment names one. Once, when the library is loaded.
pub fn open_shared() {
    // Relaxed: elects one thread.
    if SHARED.state.compare_exchange(UNASKED, OPENING, Ordering::Relaxed, Ordering::Relaxed).is_err() {
        return;
    }
    let Some(record) = environment(VARIABLE).and_then(|path| SharedRecord::open(path).ok()) else {
        // Relaxed: nothing to publish.
        SHARED.state.store(NONE, Ordering::Relaxed);
        return;
    };
    // SAFETY: only this thread is between OPENING and OPEN.
    unsafe { (*SHARED.record.get()).write(record) };
    // Relaxed: read by the same process.
    SHARED.pid.store(pid(), Ordering::Relaxed);
    // Release: pairs with the Acquire in `shared`.
    SHARED.state.store(OPEN, Ordering::Release);
}

fn pid() -> usize {
    // SAFETY: no arguments.
    unsafe { libc::getpid() as usize }
}

fn shared() -> Option<&'static SharedRecord> {
    // Acquire: pairs with the Release in `open_shared`.
    if SHARED.state.load(Ordering::Acquire) != OPEN {
        return None;
    }
    // SAFETY: written before OPEN, never again.
    let record = unsafe { (*SHARED.record.get()).assume_init_ref() };
    let own = pid();
    // Relaxed: a child has one thread when it comes here first, or a handler of it.
    if SHARED.pid.swap(own, Ordering::Relaxed) != own {
        record.after_fork();
    }
    Some(record)
}

/// From slow paths: publishes the figures if a while has passed since the last time.
#[inline]
pub fn pulse<T: Thread>() {
    // Relaxed: a hint; `shared` orders.
    if SHARED.state.load(Ordering::Relaxed) == OPEN {
        pulse_open::<T>();
    }
}

#[cold]
fn pulse_open<T: Thread>() {
    let now = process().space().os().now_ms();
    // Relaxed (both): who moves the clock publishes.
    let last = SHARED.last_ms.load(Ordering::Relaxed);
    // A child of a fork has published nothing yet, whatever its parent has.
    let is_new = SHARED.pid.load(Ordering::Relaxed) != pid();
    if (is_new || now.saturating_sub(last) >= INTERVAL_MS)
        && SHARED.last_ms.compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed).is_ok()
        && let Some(record) = shared()
    {
        record.publish(&statistics::<T>());
    }
}

/// Publishes the last figures: the process is ending by itself.
pub fn finish_shared<T: Thread>() {
    if let Some(record) = shared() {
        record.finish(&statistics::<T>());
    }
}
