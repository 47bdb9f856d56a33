//! What a region is: its descriptor, its kind, and the pool that descriptors come from and go back to.

use super::metadata::{InPlace, Metadata};
use super::notes::{ArenaNotes, FileNotes, HeapNotes, HugeNotes, Notes};
use super::slices::SliceMap;
use super::stack::{Link, Linked, Stack};
use super::state::{Exclusion, Phase, Pinning, State};
use crate::base::{GRANULE, SLICE};
use crate::pal::{Errno, Platform};
use crate::rcu::RetireLink;
use crate::sync::atomic::Ordering::Relaxed;
use crate::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize};
use crate::sync::seeded;

/// What a region is used for. More kinds may come; whoever matches on it has a default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[repr(u32)]
pub enum Kind {
    /// Cut into slices; at most a granule long.
    Arena = 0,
    /// One block.
    Huge = 1,
    /// Pages of a file: `files`.
    File = 2,
    /// Memory of a heap that is a value: `heaps`. Cut into slices as an arena is, or one block.
    Heap = 3,
}

/// Number of kinds.
pub(crate) const KINDS: usize = 4;

impl Kind {
    const fn from_bits(bits: u32) -> Kind {
        match bits {
            0 => Kind::Arena,
            1 => Kind::Huge,
            2 => Kind::File,
            _ => Kind::Heap,
        }
    }
}

/// What a [`Retired`] link is embedded in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum RetiredAs {
    /// A [`Region`].
    Region = 0,
    /// A node of the index that holds single pages.
    PageNode = 1,
}

/// The first field of everything that is retired through one `Rcu`: the link, and what it is embedded in.
#[repr(C)]
pub struct Retired {
    link: RetireLink,
    what: AtomicU32,
}

impl Retired {
    crate::const_unless_model! {
        /// A link that is not retired, embedded in a `what`.
        pub fn new(what: RetiredAs) -> Retired {
            Retired { link: RetireLink::new(), what: AtomicU32::new(what as u32) }
        }
    }

    /// What to hand to `Rcu::retire`. Exposes the address of the whole object for [`Retired::recover`].
    pub fn link(&self) -> &RetireLink {
        &self.link
    }

    /// Says again what this is embedded in, for memory that began as zeros.
    pub fn set(&self, what: RetiredAs) {
        // Relaxed: written before the object is published, and never changed after.
        self.what.store(what as u32, Relaxed);
    }

    /// The object around a link that came out of a grace period: what it is, and its address.
    ///
    /// # Safety
    /// `link` is the `link` of a `Retired` that is the first field of an object whose provenance was exposed.
    pub unsafe fn recover(link: &RetireLink) -> (RetiredAs, usize) {
        let address = core::ptr::from_ref(link).addr();
        // SAFETY: by the caller's promise a `Retired` begins at this address; `repr(C)` puts its link first.
        let retired = unsafe { &*core::ptr::with_exposed_provenance::<Retired>(address) };
        // Relaxed: constant since before the object was published.
        let what = match retired.what.load(Relaxed) {
            0 => RetiredAs::Region,
            _ => RetiredAs::PageNode,
        };
        (what, address)
    }
}

/// One life of one descriptor: what a handle keeps to find its region again, or to learn that it is gone.
#[derive(Clone, Copy)]
pub struct RegionId {
    region: &'static Region,
    generation: u64,
}

impl RegionId {
    /// The descriptor, which may by now describe another region.
    pub fn region(&self) -> &'static Region {
        self.region
    }

    /// Pins the region of this life; needs no section, for descriptors are immortal. A pin on a later life of the
    /// descriptor is given back, and the result is [`Pinning::Detached`].
    pub fn try_pin<P: Platform>(&self, os: &P) -> Pinning {
        let pinning = self.region.state.try_pin();
        if pinning == Pinning::Pinned
            && self.region.generation() != self.generation
            && !seeded("region.no_generation_check")
        {
            self.region.state.unpin(os);
            return Pinning::Detached;
        }
        pinning
    }
}

/// The descriptor of a region. Immortal; its lives are told apart by the generation.
///
/// Which thread may touch what:
/// 1. `base`, `len`, `mapped`, `held`, `kind`, `mappings` are written only between [`Descriptors::take`] and `attach`,
///    by the thread that took the descriptor; `generation` by `detach`. They may be read at any time; what they say
///    holds for a reader in a section that looked the region up, for a holder of a pin that has re-checked the
///    generation, and for the owner of a live block.
/// 2. `state` changes by its transitions only. `cut` is written by the owner of the only block.
/// 3. `slices` changes by its own rules, and only while the region is attached.
/// 4. `retired` belongs to the thread that won `exclude`; `link` to the pool or list that the descriptor is in.
/// 5. `notes` belong to the layer above, which may use them while the region is attached.
#[repr(C, align(128))]
pub struct Region {
    retired: Retired,
    link: Link,
    state: State,
    kind: AtomicU32,
    generation: AtomicU64,
    base: AtomicUsize,
    len: AtomicUsize,
    mapped: AtomicUsize,
    held: AtomicUsize,
    cut: AtomicUsize,
    mappings: AtomicU32,
    notes: Notes,
    slices: SliceMap,
}

// SAFETY: all fields are atomics or made of atomics, which are valid when zero wherever `ZERO_IS_VALID`; zero is what
// their constructors make, `RetiredAs::Region` included.
unsafe impl InPlace for Region {
    unsafe fn construct(at: *mut Region) {
        // SAFETY: passed on.
        unsafe { at.write(Region::new()) };
    }
}

// SAFETY: descriptors live in metadata, which is immortal, aligned as the type says and below 2^48.
unsafe impl Linked for Region {
    fn link(&self) -> &Link {
        &self.link
    }
}

const _: () = assert!(align_of::<Region>() >= super::stack::STACK_ALIGN);

/// What a new region is to be.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// What it is used for.
    pub kind: Kind,
    /// Its first address.
    pub base: usize,
    /// Bytes that may be used from there.
    pub len: usize,
    /// Bytes mapped, the guard included.
    pub mapped: usize,
    /// Bytes of address space from the base that are held for it, mapped or not: zero where the system chose the place.
    pub held: usize,
    /// Mappings (VMAs) that it consists of.
    pub mappings: u32,
}

impl Region {
    crate::const_unless_model! {
        /// A detached descriptor.
        pub fn new() -> Region {
            Region {
                retired: Retired::new(RetiredAs::Region),
                link: Link::new(),
                state: State::new(),
                kind: AtomicU32::new(0),
                generation: AtomicU64::new(0),
                base: AtomicUsize::new(0),
                len: AtomicUsize::new(0),
                mapped: AtomicUsize::new(0),
                held: AtomicUsize::new(0),
                cut: AtomicUsize::new(0),
                mappings: AtomicU32::new(0),
                notes: Notes::new(),
                slices: SliceMap::new(),
            }
        }
    }

    /// Begins a new life with no slices and no pins. By the thread that took the descriptor.
    pub fn attach(&self, shape: Shape) {
        debug_assert!(self.state.phase() == Phase::Detached && shape.len <= shape.mapped && shape.len > 0);
        // Relaxed, all: published by the Release of `State::attach`, and to those that come through the index by the
        // Release that publishes the entry.
        self.kind.store(shape.kind as u32, Relaxed);
        self.base.store(shape.base, Relaxed);
        self.len.store(shape.len, Relaxed);
        self.mapped.store(shape.mapped, Relaxed);
        self.held.store(shape.held, Relaxed);
        self.cut.store(0, Relaxed);
        self.mappings.store(shape.mappings, Relaxed);
        self.notes.clear();
        self.state.attach();
    }

    /// Ends a life: drained to detached, and a new generation. By the thread that won `exclude`, when the memory is
    /// gone.
    pub fn detach(&self) {
        // Relaxed: one owner; the Release of the next `State::attach` publishes it, and no pin succeeds before that.
        self.generation.store(self.generation() + 1, Relaxed);
        self.state.detach();
    }

    /// The state word.
    #[inline]
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Tries to exclude: see [`State::exclude`].
    pub fn exclude(&self) -> Exclusion {
        self.state.exclude()
    }

    /// Bitmaps of an arena.
    #[inline]
    pub fn slices(&self) -> &SliceMap {
        &self.slices
    }

    /// What it is used for.
    #[inline]
    pub fn kind(&self) -> Kind {
        // Relaxed, here and below: constant for a life; rule 1 says for whom the life does not end meanwhile.
        Kind::from_bits(self.kind.load(Relaxed))
    }

    /// The first address.
    #[inline]
    pub fn base(&self) -> usize {
        // Relaxed: as in `kind`.
        self.base.load(Relaxed)
    }

    /// Bytes that may be used.
    #[inline]
    pub fn len(&self) -> usize {
        // Relaxed: as in `kind`.
        self.len.load(Relaxed)
    }

    /// Whether it describes nothing, as a descriptor that was never attached does.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes mapped, the guard included.
    pub fn mapped(&self) -> usize {
        // Relaxed: as in `kind`.
        self.mapped.load(Relaxed)
    }

    /// Bytes of address space that are held for it.
    pub fn held(&self) -> usize {
        // Relaxed: as in `kind`.
        self.held.load(Relaxed)
    }

    /// Bytes from the base that the index knows it by: what is mapped, the guard included, up to the end of the granule
    /// where that is held for it, so that nothing finer than granules is needed; else as far as it is whole slices.
    pub fn named(&self) -> usize {
        match self.mapped() {
            mapped if self.held() > 0 => mapped.next_multiple_of(GRANULE),
            mapped if mapped.is_multiple_of(SLICE) => mapped,
            _ => self.len(),
        }
    }

    /// Mappings (VMAs) that it consists of.
    pub fn mappings(&self) -> u32 {
        // Relaxed: as in `kind`.
        self.mappings.load(Relaxed)
    }

    /// Notes that nothing behind the first `bytes` is mapped for it any more. By the owner of the region's only block.
    pub fn cut(&self, bytes: usize) {
        // Relaxed: as in `kind`; retiring the region orders it for whoever unmaps it.
        self.cut.store(bytes, Relaxed);
    }

    /// What unmapping it takes: all that was mapped, or what was not cut off.
    pub fn left(&self) -> usize {
        // Relaxed: as above.
        match self.cut.load(Relaxed) {
            0 => self.mapped(),
            cut => cut,
        }
    }

    /// Bytes from the base that may be resident: all of it, but of a huge block whose holder knows better.
    pub fn may_be_resident(&self) -> usize {
        if self.kind() == Kind::Huge { self.huge().dirty() } else { self.mapped() }
    }

    /// Which life this is.
    pub fn generation(&self) -> u64 {
        // Relaxed: a holder of a pin reads it after the Acquire of `try_pin`, which saw this life's `attach`.
        self.generation.load(Relaxed)
    }

    /// Whether `address` lies in the region.
    #[inline]
    pub fn contains(&self, address: usize) -> bool {
        address.wrapping_sub(self.base()) < self.len()
    }

    /// A handle to the present life. The caller is in a section, holds a pin, or owns a live block.
    pub fn id(&'static self) -> RegionId {
        RegionId { region: self, generation: self.generation() }
    }

    /// What the layer above notes of an arena: all zero when the region is attached.
    #[inline]
    pub fn arena(&self) -> &ArenaNotes {
        ArenaNotes::of(&self.notes)
    }

    /// What the layer above notes of a huge block: all zero when the region is attached.
    #[inline]
    pub fn huge(&self) -> &HugeNotes {
        HugeNotes::of(&self.notes)
    }

    /// What the layer above notes of a file's pages: all zero when the region is attached.
    #[inline]
    pub fn file(&self) -> &FileNotes {
        FileNotes::of(&self.notes)
    }

    /// What the layer above notes of a heap's memory: all zero when the region is attached.
    #[inline]
    pub fn heap(&self) -> &HeapNotes {
        HeapNotes::of(&self.notes)
    }

    /// What to hand to `Rcu::retire`, by the thread that won `exclude`.
    pub fn retire_link(&'static self) -> &'static RetireLink {
        let _ = core::ptr::from_ref(self).expose_provenance();
        self.retired.link()
    }

    /// The invariants that hold while the region is attached and its owner looks.
    pub fn is_valid(&self) -> bool {
        let ends = self.base().checked_add(self.mapped()).is_some();
        ends && self.len() <= self.mapped() && (self.kind() != Kind::Arena || self.slices.is_valid())
    }
}

impl Default for Region {
    fn default() -> Region {
        Region::new()
    }
}

/// Where descriptors come from and go back to.
pub struct Descriptors {
    free: Stack<Region>,
}

impl Descriptors {
    crate::const_unless_model! {
        /// An empty pool.
        pub fn new() -> Descriptors {
            Descriptors { free: Stack::new() }
        }
    }

    /// A detached descriptor for the caller alone.
    ///
    /// # Errors
    /// The system's, when it was asked for metadata.
    pub fn take<P: Platform>(&self, os: &P, metadata: &Metadata) -> Result<&'static Region, Errno> {
        match self.free.take() {
            Some(region) => Ok(region),
            None => metadata.create(os),
        }
    }

    /// Gives a detached descriptor back.
    pub fn recycle(&self, region: &'static Region) {
        debug_assert!(region.state.phase() == Phase::Detached, "recycle: not detached");
        self.free.give(region);
    }
}

impl Default for Descriptors {
    fn default() -> Descriptors {
        Descriptors::new()
    }
}
