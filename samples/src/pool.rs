//! Guarded blocks: samples of up to a page that lie against a page that cannot be touched, and are kept for a while when
//! they are freed, in pages that cannot be touched either. An overflow and a use after free end in a fault, or are found
//! when the block is freed; where it was allocated and freed is kept.
//!
//! The pool is a row of pages, by turns a guard and a block's. A block lies at the end of its page, or, by turns, at its
//! beginning; the rest of the page is filled with a pattern. Places are used again one after the other, so a block that
//! was freed stays as long as the others take. Whoever has a place is told by its state; nobody waits.

use super::own;
use super::watch::Sample;
use super::{system, unwind};
use core::ptr;
use core::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

/// Blocks at a time, those that are kept included.
const PLACES: usize = 128;
/// Places that are looked at for one that is vacant.
const TRIES: usize = 16;
/// What is in a block's page beside the block.
const PATTERN: u8 = 0xb5;
/// What malloc's blocks are aligned to.
const ALIGNMENT: usize = 16;

/// Never used.
const VACANT: u32 = 0;
/// Changing.
const BUSY: u32 = 1;
const LIVE: u32 = 2;
const FREED: u32 = 3;

/// Calls of a stack that are kept.
pub(super) const KEPT: usize = 32;

/// Where something was done. (Relaxed, all of it: written by who has the block's place, and read to report, when it may be
/// half of another one's.)
pub(super) struct Trace {
    thread: AtomicU32,
    depth: AtomicU32,
    stack: [AtomicUsize; KEPT],
}

impl Trace {
    pub(super) const fn new() -> Trace {
        Trace {
            thread: AtomicU32::new(0),
            depth: AtomicU32::new(0),
            stack: [const { AtomicUsize::new(0) }; KEPT],
        }
    }

    /// Here and now.
    #[inline(never)]
    pub(super) fn take(&self) {
        let mut pcs = [0; unwind::MOST];
        let depth = unwind::stack(&mut pcs, 0).min(KEPT);
        for (word, pc) in self.stack.iter().zip(pcs) {
            word.store(pc, Ordering::Relaxed);
        }
        self.depth.store(depth as u32, Ordering::Relaxed);
        self.thread.store(system::thread_id(), Ordering::Relaxed);
    }

    pub(super) fn forget(&self) {
        self.depth.store(0, Ordering::Relaxed);
    }

    pub(super) fn thread(&self) -> u32 {
        self.thread.load(Ordering::Relaxed)
    }

    /// The calls, the innermost first.
    pub(super) fn stack(&self) -> impl Iterator<Item = usize> {
        let depth = self.depth.load(Ordering::Relaxed) as usize;
        self.stack.iter().take(depth).map(|pc| pc.load(Ordering::Relaxed))
    }
}

/// A block, live or freed.
pub(super) struct Place {
    state: AtomicU32,
    /// Which sample it is.
    number: AtomicU32,
    address: AtomicUsize,
    size: AtomicUsize,
    rate: AtomicUsize,
    pub(super) allocated: Trace,
    pub(super) freed: Trace,
}

impl Place {
    const fn new() -> Place {
        Place {
            state: AtomicU32::new(VACANT),
            number: AtomicU32::new(0),
            address: AtomicUsize::new(0),
            size: AtomicUsize::new(0),
            rate: AtomicUsize::new(0),
            allocated: Trace::new(),
            freed: Trace::new(),
        }
    }

    // Relaxed, here and below: written before the state is stored with Release, and read after it, or to report what is
    // wrong.
    pub(super) fn address(&self) -> usize {
        self.address.load(Ordering::Relaxed)
    }

    pub(super) fn size(&self) -> usize {
        self.size.load(Ordering::Relaxed)
    }

    fn is(&self, state: u32) -> bool {
        // Acquire: pairs with the Releases in `allocate` and `free`.
        self.state.load(Ordering::Acquire) == state
    }

    pub(super) fn is_freed(&self) -> bool {
        self.is(FREED)
    }

    /// Whether there is, or was, a block.
    pub(super) fn is_used(&self) -> bool {
        self.is(LIVE) || self.is(FREED)
    }

    /// Changes `state` to busy, for one of all who try.
    fn take(&self, state: u32) -> bool {
        // Acquire: pairs with the Releases of those who had it.
        self.state.compare_exchange(state, BUSY, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }
}

static ALL: [Place; PLACES] = [const { Place::new() }; PLACES];
/// The next place to be looked at, from the first on.
static NEXT: AtomicU32 = AtomicU32::new(0);
/// The first page; zero as long as there is no pool. And the bytes of a page.
static BASE: AtomicUsize = AtomicUsize::new(0);
static PAGE: AtomicUsize = AtomicUsize::new(0);

const PAGES: usize = 2 * PLACES + 1;

/// Reserves the pool. When the library is loaded. Whether there is one.
pub(super) fn reserve() -> bool {
    // SAFETY: asks for a number.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as usize;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: a new mapping at an address that the system chooses touches nothing that exists.
    let base = unsafe { libc::mmap(ptr::null_mut(), PAGES * page, libc::PROT_NONE, flags, -1, 0) };
    if base == libc::MAP_FAILED {
        return false;
    }
    PAGE.store(page, Ordering::Relaxed);
    BASE.store(base.expose_provenance(), Ordering::Relaxed);
    true
}

/// Which page of the pool `address` lies in.
fn page_of(address: usize) -> Option<usize> {
    // Relaxed: stored before there is a guarded block.
    let (base, page) = (BASE.load(Ordering::Relaxed), PAGE.load(Ordering::Relaxed));
    let offset = address.checked_sub(base).filter(|_| base != 0)?;
    (offset < PAGES * page).then(|| offset / page)
}

fn page_at(number: usize) -> usize {
    // Relaxed: as above.
    BASE.load(Ordering::Relaxed) + (2 * number + 1) * PAGE.load(Ordering::Relaxed)
}

/// The place whose block `address` lies in or beside: in its page, or the one of its neighbours that is nearer.
pub(super) fn beside(address: usize) -> Option<&'static Place> {
    let page = page_of(address)?;
    if page % 2 == 1 {
        return ALL.get(page / 2).filter(|place| place.is_used());
    }
    let before = (page / 2).checked_sub(1).and_then(|number| ALL.get(number));
    let near = [before, ALL.get(page / 2)].into_iter().flatten().filter(|place| place.is_used());
    near.min_by_key(|place| {
        let (from, to) = (place.address(), place.address() + place.size());
        if address < from { from - address } else { address - to.min(address) }
    })
}

/// Whether `address` lies in the pool.
pub(super) fn is_guarded(address: usize) -> bool {
    page_of(address).is_some()
}

/// A guarded block for a sample, all zero; `None` if an ordinary one has to do.
pub(super) fn allocate(size: usize, align: usize, counted: usize, rate: usize) -> Option<*mut u8> {
    // Relaxed (all): as above; and a number that need not be exact.
    let page = PAGE.load(Ordering::Relaxed);
    if size.max(align) > page || BASE.load(Ordering::Relaxed) == 0 {
        return None;
    }
    let turn = NEXT.fetch_add(1, Ordering::Relaxed) as usize;
    let (number, place) = (turn..turn + TRIES)
        .filter_map(|turn| ALL.get(turn % PLACES).map(|place| (turn % PLACES, place)))
        .find(|(_, place)| place.take(VACANT) || place.take(FREED))?;
    let from = page_at(number);
    let memory = ptr::with_exposed_provenance_mut::<u8>(from);
    // SAFETY: the place is this call's, and nobody has memory there.
    if unsafe { libc::mprotect(memory.cast(), page, libc::PROT_READ | libc::PROT_WRITE) } != 0 {
        place.state.store(VACANT, Ordering::Release);
        return None;
    }
    // By the round as well, for there are an even number of places.
    let is_first = (turn + turn / PLACES) % 2 == 1;
    let offset = if is_first { 0 } else { (page - size.max(1)) & !(align.max(ALIGNMENT) - 1) };
    // SAFETY: within the page.
    unsafe {
        memory.write_bytes(PATTERN, offset);
        memory.add(offset + size).write_bytes(PATTERN, page - offset - size);
    }
    let block = from + offset;
    place.address.store(block, Ordering::Relaxed);
    place.size.store(size, Ordering::Relaxed);
    place.rate.store(rate, Ordering::Relaxed);
    place.allocated.take();
    place.freed.forget();
    let sample = Sample { block, size, usable: size, counted, rate, caller: 0 };
    place.number.store(own::allocated(&sample), Ordering::Relaxed);
    // Release: pairs with the Acquires in `take` and `is`.
    place.state.store(LIVE, Ordering::Release);
    Some(ptr::with_exposed_provenance_mut(block))
}

/// What is wrong with a call.
pub(super) enum Wrong {
    /// There is no such block; what was there, if anything.
    NotLive(Option<&'static Place>),
    /// Something was written at this address, beside the block that is to be freed.
    Written(usize, &'static Place),
}

/// The bytes of the live block that starts at `address`, which lies in the pool.
pub(super) fn size_of_block(address: usize) -> Result<usize, Wrong> {
    match place_of(address) {
        Some(place) if place.is(LIVE) && place.address() == address => Ok(place.size()),
        place => Err(Wrong::NotLive(place.filter(|place| place.is_used()))),
    }
}

fn place_of(address: usize) -> Option<&'static Place> {
    page_of(address).filter(|page| page % 2 == 1).and_then(|page| ALL.get(page / 2))
}

/// Frees the block that starts at `address`, which lies in the pool.
pub(super) fn free(address: usize) -> Result<(), Wrong> {
    let place = place_of(address);
    // Of several frees one takes it.
    let Some(place) = place.filter(|place| place.address() == address && place.take(LIVE)) else {
        return Err(Wrong::NotLive(place.filter(|place| place.is_used())));
    };
    // Relaxed: stored before there was a block.
    let page = PAGE.load(Ordering::Relaxed);
    let from = address & !(page - 1);
    let (size, rate) = (place.size(), place.rate.load(Ordering::Relaxed));
    if let Some(at) = written_beside(from, page, address - from, size) {
        return Err(Wrong::Written(at, place));
    }
    let sample = Sample { block: address, size, usable: size, counted: 0, rate, caller: 0 };
    own::freed(place.number.load(Ordering::Relaxed), &sample);
    place.freed.take();
    let memory = ptr::with_exposed_provenance_mut(from);
    // SAFETY: a page of the pool, which was the block's.
    unsafe {
        libc::madvise(memory, page, libc::MADV_DONTNEED);
        libc::mprotect(memory, page, libc::PROT_NONE);
    }
    // Release: pairs with the Acquires in `take` and `is`.
    place.state.store(FREED, Ordering::Release);
    Ok(())
}

/// The byte nearest to the block that is not as it was filled.
fn written_beside(from: usize, page: usize, offset: usize, size: usize) -> Option<usize> {
    // SAFETY: the page is there, and nobody's but for the block.
    let is_written =
        |at: &usize| unsafe { ptr::with_exposed_provenance::<u8>(*at).read_volatile() != PATTERN };
    let behind = (from + offset + size..from + page).find(is_written);
    behind.or_else(|| (from..from + offset).rev().find(is_written))
}

/// The live block with the lowest address above `address`, and its bytes.
pub(super) fn next(address: usize) -> Option<(usize, usize)> {
    ALL.iter()
        .filter(|place| place.is(LIVE) && place.address() > address)
        .map(|place| (place.address(), place.size()))
        .next()
}
