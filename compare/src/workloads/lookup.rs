//! *lookup-arenas*: which of 64 arenas an address lies in, asked for one address after the other, beside a thread that maps
//! a region and unmaps it every tenth of a millisecond (`--calm`: without). It is specmalloc's index by itself, in a
//! section each, whatever serves malloc; with `--limit` one load from a flat array; with `--tree` a search in a tree under
//! a lock for readers and writers.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::RwLock;
use specmalloc::internals::index::Space;
use specmalloc::internals::pal::Linux;
use specmalloc::internals::rcu::ReaderSlot;
use specmalloc::internals::region::{Kind, Region};
use specmalloc::internals::sync::CachePadded;

use crate::harness::{Job, Outcome, Table, beside, thread_time};

/// Looks that are timed together.
const BATCH: u64 = 4 << 20;
const ARENAS: usize = 64;
const ARENA: usize = 32 << 20;
/// Addresses that are looked up, in all arenas alike.
const ADDRESSES: usize = 1_024;
/// What the other thread maps.
const REGION: usize = 8 << 20;
const PAUSE: Duration = Duration::from_micros(100);

static SPACE: Space<Linux> = Space::new(Linux::new());

/// Something that knows which addresses are in use.
trait Map: Sync {
    /// Where the arena begins that holds this address.
    fn find(&self, address: usize, reader: usize) -> usize;
    /// A region comes and goes again.
    fn disturb(&self);
}

/// The index under test: a slot for each reader, and the last one for the other thread.
struct Index(&'static [CachePadded<ReaderSlot>]);

impl Index {
    fn of_readers(readers: usize) -> Index {
        SPACE.start();
        // As in the allocator, where each has a line of its own: the owner writes it at each look.
        let slots = Vec::leak((0..=readers).map(|_| CachePadded::new(ReaderSlot::new())).collect());
        // SAFETY: fresh slots that live forever.
        slots.iter().for_each(|slot| unsafe { SPACE.rcu().attach(slot) });
        Index(slots)
    }

    fn unmap(&self, region: &'static Region) {
        SPACE
            .unmap_now(region, self.0.last().map(|slot| &**slot))
            .expect("nobody pins it, and this thread is in no section");
    }
}

impl Map for Index {
    #[inline(always)]
    fn find(&self, address: usize, reader: usize) -> usize {
        // SAFETY: attached, and the reader's own.
        let section = unsafe { SPACE.rcu().enter(&self.0[reader]) };
        SPACE.find(address, &section).map_or(0, |region| region.base())
    }

    fn disturb(&self) {
        if let Ok(region) = SPACE.map_region(Kind::Huge, REGION, 1, 0) {
            self.unmap(region);
        }
    }
}

/// By the number of the arena, in an array that spans all of them.
struct Flat {
    first: usize,
    bases: Table<AtomicU64>,
}

impl Map for Flat {
    #[inline(always)]
    fn find(&self, address: usize, _reader: usize) -> usize {
        // Relaxed: nothing is followed.
        self.bases[(address - self.first) / ARENA].load(Ordering::Relaxed) as usize
    }

    fn disturb(&self) {
        // Relaxed: as above. A place that no arena has.
        self.bases[self.bases.len() - 1].fetch_xor(1, Ordering::Relaxed);
    }
}

/// By the first address.
struct Tree(RwLock<BTreeMap<usize, usize>>);

impl Map for Tree {
    #[inline(always)]
    fn find(&self, address: usize, _reader: usize) -> usize {
        self.0.read().range(..=address).next_back().map_or(0, |found| *found.0)
    }

    fn disturb(&self) {
        self.0.write().insert(0, REGION);
        self.0.write().remove(&0);
    }
}

/// Finds nothing: what the rest of the loop costs.
struct Nothing;

impl Map for Nothing {
    #[inline(always)]
    fn find(&self, address: usize, _reader: usize) -> usize {
        black_box(address) / ARENA * ARENA
    }

    fn disturb(&self) {}
}

pub fn run(job: &Job) -> Outcome {
    let index = Index::of_readers(job.threads);
    let arenas: Vec<&Region> = (0..ARENAS)
        .map(|_| SPACE.map_region(Kind::Arena, ARENA, ARENA, 0).expect("there is address space"))
        .collect();
    let mut random = job.random(0);
    let mut addresses: Table<u64> = Table::new(ADDRESSES);
    for (at, address) in addresses.iter_mut().enumerate() {
        *address = (arenas[at % ARENAS].base() + random.below(ARENA)) as u64;
    }
    random.shuffle(&mut addresses);
    let bases = arenas.iter().map(|arena| arena.base());
    let outcome = if job.flags.limit {
        let first = bases.clone().min().expect("there are some");
        let last = bases.clone().max().expect("there are some");
        let flat = Flat { first, bases: Table::new((last - first) / ARENA + 2) };
        // Relaxed: before there are threads.
        bases.for_each(|base| flat.bases[(base - first) / ARENA].store(base as u64, Ordering::Relaxed));
        look_up(job, &addresses, &flat)
    } else if job.flags.tree {
        look_up(job, &addresses, &Tree(RwLock::new(bases.map(|base| (base, ARENA)).collect())))
    } else {
        look_up(job, &addresses, &index)
    };
    arenas.into_iter().for_each(|arena| index.unmap(arena));
    outcome
}

fn look_up(job: &Job, addresses: &[u64], map: &impl Map) -> Outcome {
    let empty = nanoseconds(addresses, &Nothing, 0, BATCH);
    let spent = AtomicU64::new(0);
    let look = |index| {
        let (mut share, mut looks) = (job.share(index, job.threads), 0);
        loop {
            let more = share.take(BATCH);
            if more == 0 {
                return looks;
            }
            looks += more;
            let nanoseconds = nanoseconds(addresses, map, index, more) * more as f64;
            // Relaxed: a sum, read after the join.
            spent.fetch_add(nanoseconds as u64, Ordering::Relaxed);
        }
    };
    let disturb = |(): &mut ()| {
        map.disturb();
        std::thread::sleep(PAUSE);
    };
    let mut outcome = beside([job.threads, usize::from(!job.flags.calm)], look, |_| (), disturb);
    let each = spent.into_inner() as f64 / outcome.ops.max(1) as f64;
    outcome.extras.push(("lookup_ps", ((each - empty) * 1_000.0).round()));
    outcome
}

/// Processor time of one look, in nanoseconds, over `count` of them.
fn nanoseconds(addresses: &[u64], map: &impl Map, reader: usize, count: u64) -> f64 {
    let start = thread_time();
    let mut left = count;
    while left > 0 {
        let looks = left.min(addresses.len() as u64);
        for &address in &addresses[..looks as usize] {
            let found = map.find(address as usize, reader);
            assert!(found == address as usize / ARENA * ARENA, "{found:#x} for {address:#x}");
        }
        left -= looks;
    }
    (thread_time() - start).as_nanos() as f64 / count.max(1) as f64
}
