//! The figures of this process: gathered on demand, and published to a shared file when one is asked for.

use super::detail::{ArenaDetail, HugeDetail};
use super::shared_record::{SharedRecord, VARIABLE};
use super::statistics::{Statistics, SystemCalls};
use crate::global::{MOST_RATE, Options, Thread};
use crate::global::{environment, is_shut_off, process, sample_at, with_heap_to_free};
use crate::heap::{ArenaCensus, Census, Heap, HeapCensus};
use crate::pal::{Platform, system_call};
use crate::region::Kind;
use crate::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use core::cell::UnsafeCell;
use core::mem::MaybeUninit;

/// Milliseconds between two publications from slow paths.
const INTERVAL_MS: u64 = 20;

/// The process's figures now.
///
/// Live blocks are exact for the calling thread's heap, and for others once they have been tidied: until then, free
/// blocks in the bins of another live thread, and those on their way to it, count as live. What other threads do
/// meanwhile may be seen half done.
pub fn statistics<T: Thread>() -> Statistics {
    counted::<T>(|_, _| 0)
}

/// As [`statistics`]; and the system is asked what of huge blocks and of arenas is not resident, for the program never
/// touched it: a call for a thousand pages, and a thousand calls at most for either, and none once the process has shut
/// itself off from such.
pub fn exact_statistics<T: Thread>() -> Statistics {
    counted::<T>(|heap, census| {
        if is_shut_off() {
            return 0;
        }
        let untouched = process().untouched_bytes(heap) as u64;
        untouched.min(census.huge.bytes + census.kept_bytes) + process().absent_bytes(census)
    })
}

/// The figures, where so many bytes as `absent` says are known not to be resident, of those that the census counts.
fn counted<T: Thread>(absent: impl Fn(&Heap, &Census) -> u64) -> Statistics {
    let take = |heap: Option<&Heap>| {
        let heap = heap?;
        let census = process().census::<T::Checks>(heap);
        Some((census, absent(heap, &census)))
    };
    with_heap_to_free::<T, _>(Options::NONE, take).map_or(Statistics::new(), |(census, absent)| {
        let mut figures = figures(&census);
        figures.resident_bytes -= absent;
        figures
    })
}

/// The figures in the layout that is published, with the peaks.
fn figures(census: &Census) -> Statistics {
    let mut figures = Statistics::new();
    for (figure, class) in figures.classes.iter_mut().zip(&census.classes) {
        figure.live_blocks = class.live;
        figure.slabs = class.slabs;
    }
    figures.live_bytes = census.live_bytes();
    figures.live_blocks = census.live_blocks();
    figures.cached_bytes = census.free_bytes + census.kept_bytes + census.behind_bytes;
    figures.dirty_bytes = census.dirty_bytes.saturating_sub(census.spared_bytes);
    figures.reserved_bytes = census.mapped_bytes;
    figures.metadata_bytes = census.metadata_bytes + census.record_bytes;
    figures.resident_bytes =
        figures.live_bytes + figures.cached_bytes + figures.dirty_bytes + figures.metadata_bytes;
    figures.purged_bytes = census.purged_bytes;
    figures.regions = census.regions.iter().sum();
    figures.arenas = census.regions[Kind::Arena as usize];
    figures.huge = census.regions[Kind::Huge as usize];
    figures.mappings = census.mappings;
    figures.heaps = census.heaps;
    figures.threads = census.possessed;
    figures.remote_frees = census.remote_frees;
    figures.grace_periods = census.grace_periods;
    figures.retired_pending = census.retired;
    figures.calls = SystemCalls::of(census.calls);
    figures.bets = census.bets;
    figures.peak_live_bytes = raise(&PEAK_LIVE, figures.live_bytes);
    figures.peak_reserved_bytes = raise(&PEAK_RESERVED, figures.reserved_bytes);
    figures
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
    /// Whether the last figures of this process are there, or on their way.
    is_finished: AtomicBool,
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
    is_finished: AtomicBool::new(false),
};

/// The sample rate that another process has asked for, and that of before. (Relaxed, both: who publishes is alone.)
struct Asked {
    /// Zero while nobody asks.
    rate: AtomicUsize,
    before: AtomicUsize,
}

static ASKED: Asked = Asked { rate: AtomicUsize::new(0), before: AtomicUsize::new(0) };

impl Asked {
    /// The rate from now on where it is `now`, and another process asks for `rate`, zero for none any more: then it is what
    /// it was before, unless the program has set another meanwhile.
    fn next(&self, rate: usize, now: usize) -> usize {
        let asked = self.rate.swap(rate, Ordering::Relaxed);
        let is_asked = asked != 0 && asked == now;
        if rate == 0 {
            return if is_asked { self.before.load(Ordering::Relaxed) } else { now };
        }
        if !is_asked {
            self.before.store(now, Ordering::Relaxed);
        }
        rate
    }
}

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
    unsafe { system_call(libc::SYS_getpid, []) }.unwrap_or(0)
}

fn shared() -> Option<&'static SharedRecord> {
    // Acquire: pairs with the Release in `open_shared`.
    if SHARED.state.load(Ordering::Acquire) != OPEN {
        return None;
    }
    // SAFETY: written before OPEN, never again.
    let record = unsafe { (*SHARED.record.get()).assume_init_ref() };
    let own = pid();
    // Relaxed (both): a child has one thread when it comes here first, or a handler of it.
    if SHARED.pid.swap(own, Ordering::Relaxed) != own {
        SHARED.is_finished.store(false, Ordering::Relaxed);
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
        publish::<T>(record, is_new);
    }
}

/// From the helper, before it sleeps: publishes the figures, which threads that idle do not, however much has changed
/// since one of them did.
pub fn rest_shared<T: Thread>() {
    // Relaxed: as in `pulse`. A child of a fork publishes from its first slow path on.
    if SHARED.state.load(Ordering::Relaxed) == OPEN
        && SHARED.pid.load(Ordering::Relaxed) == pid()
        && !SHARED.is_finished.load(Ordering::Relaxed)
        && let Some(record) = shared()
    {
        SHARED.last_ms.store(process().space().os().now_ms(), Ordering::Relaxed);
        publish::<T>(record, false);
    }
}

fn publish<T: Thread>(record: &SharedRecord, is_new: bool) {
    record.publish(&statistics::<T>());
    publish_detail::<T>(record);
    // Who asked the parent of a child does not read what the child notes.
    if let Some(rate) = record.take_asked_rate().or(is_new.then_some(0)) {
        sample_at(ASKED.next(rate.min(MOST_RATE), process().settings().sample_rate()));
    }
}

/// Writes what heaps and arenas have now.
fn publish_detail<T: Thread>(record: &SharedRecord) {
    with_heap_to_free::<T, _>(Options::NONE, |heap| {
        let Some(heap) = heap else { return };
        record.publish_detail(|detail| {
            process().each_share(heap, |number, live, cached| detail.share(number, live, cached));
            process().each_heap::<T::Checks>(heap, |number, has| {
                let HeapCensus { possessor, bin_bytes, spare_bytes, remote_frees, has_mail } = has;
                detail.heap(number, possessor as u64, spare_bytes as u64, remote_frees, has_mail);
                detail.in_bins(number, bin_bytes);
            });
            process().each_arena(|ArenaCensus { base, len, claimed_bytes, dirty_bytes }| {
                let [base, bytes, claimed_bytes, dirty_bytes] =
                    [base, len, claimed_bytes, dirty_bytes].map(|figure| figure as u64);
                detail.arena(ArenaDetail { base, bytes, claimed_bytes, dirty_bytes });
            });
            process().each_huge(heap, |found| {
                let [base, bytes, used_bytes, dirty_bytes] = found.map(|figure| figure as u64);
                detail.huge(HugeDetail { base, bytes, used_bytes, dirty_bytes })
            });
        });
    });
}

/// Publishes the last figures: the process is ending by itself. Nobody can ask the system about it later, so this does.
pub fn finish_shared<T: Thread>() {
    if let Some(record) = shared() {
        // Relaxed: a hint: what the helper finds now is not as exact.
        SHARED.is_finished.store(true, Ordering::Relaxed);
        publish_detail::<T>(record);
        record.finish(&exact_statistics::<T>());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn when_nobody_asks_any_more_the_rate_is_what_it_was() {
        let asked = Asked { rate: AtomicUsize::new(0), before: AtomicUsize::new(0) };
        assert_eq!([asked.next(64, 0), asked.next(0, 64)], [64, 0]);
        // Of two that ask at a time the first may have been killed.
        assert_eq!([asked.next(64, 512), asked.next(8, 64), asked.next(0, 8)], [64, 8, 512]);
        // The program's own wish is newer.
        assert_eq!([asked.next(64, 512), asked.next(0, 32)], [64, 32]);
        assert_eq!([asked.next(64, 512), asked.next(8, 32), asked.next(0, 8)], [64, 8, 32]);
        assert_eq!(asked.next(0, 512), 512, "nobody had asked");
    }
}
