//! The Rust interface: a global allocator whose fast path is inlined into the caller.

use super::figures;
use super::resizing::to_grow;
#[cfg(feature = "profile")]
use super::samples;
use super::statistics::Statistics;
use crate::base::{SLICE, SMALL_MAX};
#[cfg(feature = "profile")]
use crate::global::Sample;
use crate::global::{
    ExitKey, NOBODY, Options, Thread, end_thread, process, tell_if_due, thread_found, was_counted, with_heap,
    with_heap_to_free, with_relief,
};
use crate::heap::{Bin, Block, BlockKind, Checks, Heap, Place, Slab, ThreadId};
use core::alloc::{GlobalAlloc, Layout};
use core::cell::Cell;
use core::ffi::c_void;
use core::ptr;

/// The allocator, for a `#[global_allocator]` static.
///
/// ```
/// use specmalloc::SpecMalloc;
///
/// #[global_allocator]
/// static ALLOC: SpecMalloc = SpecMalloc::new();
///
/// let numbers: Vec<u64> = (0..1000).collect();
/// assert_eq!(numbers.iter().sum::<u64>(), 499_500);
/// assert!(ALLOC.statistics().live_bytes >= 8000);
/// ```
pub struct SpecMalloc {
    pub(super) options: Options,
}

/// Rust threads keep their heap in a `thread_local!`. As std says, signal handlers must not allocate; so nothing guards
/// against them here, and there is no gate: what a thread keeps while it lives stays with it, however long it sleeps.
/// Pointers and layouts are trusted in release builds and checked in debug builds.
pub struct RustThread;

std::thread_local! {
    static HEAP: Cell<*const Heap> = const { Cell::new(&raw const NOBODY) };
}

/// Destructors of keys run after those of thread-locals, which may allocate and free.
static EXIT: ExitKey = ExitKey::new(at_exit);

/// At the end of a thread, where no lock of the C library's is held: so the helper may be started, should it not have
/// been when the threads that are left began.
unsafe extern "C" fn at_exit(counted: *mut c_void) {
    end_thread::<RustThread>(was_counted(counted));
    crate::global::start_helper::<RustThread>();
}

/// When the program is loaded: nobody tells when it is about to shut itself off.
extern "C" fn loaded() {
    crate::global::learn_limits();
}

#[used]
#[unsafe(link_section = ".init_array")]
static LOADED: extern "C" fn() = loaded;

#[cfg(debug_assertions)]
type RustChecks = crate::heap::Checked;
#[cfg(not(debug_assertions))]
type RustChecks = crate::heap::Trusting;

// SAFETY: a thread-local cell without a destructor, which starts as asked.
unsafe impl Thread for RustThread {
    type Checks = RustChecks;
    const GUARDED: bool = false;
    const ANNOUNCED: bool = false;

    #[inline(always)]
    fn heap() -> *const Heap {
        HEAP.get()
    }
    fn change_heap(before: *const Heap, heap: *const Heap) -> bool {
        let changes = ptr::eq(HEAP.get(), before);
        if changes {
            HEAP.set(heap);
        }
        changes
    }
    fn id() -> ThreadId {
        HEAP.with(|heap| ThreadId::new(ptr::from_ref(heap).addr()))
    }
    fn rest() {
        figures::rest_shared::<RustThread>();
    }
    fn call_at_exit(counted: bool) -> bool {
        EXIT.arm(counted)
    }

    #[cfg(feature = "profile")]
    fn allocated(sample: &Sample) -> u32 {
        specmalloc_samples::allocated(&super::profile::told(sample))
    }

    #[cfg(feature = "profile")]
    fn freed(number: u32, sample: &Sample) {
        specmalloc_samples::freed(number, &super::profile::told(sample));
    }
}

impl SpecMalloc {
    /// The allocator with its default options.
    pub const fn new() -> SpecMalloc {
        SpecMalloc { options: Options::new() }
    }

    /// Bytes that may be free and still resident, beside a share of what is live (see
    /// [`SpecMalloc::dirty_percent`]). Default: 4 MiB.
    pub const fn dirty_max(mut self, bytes: usize) -> SpecMalloc {
        self.options.dirty_bytes = Some(bytes);
        self
    }

    /// Share of the live bytes that may be free and still resident, in percent, up to 1000. Default: 12.
    /// Where what goes beyond it is faulted in again at once, half as much again may stay.
    ///
    /// # Panics
    /// On a larger share: where the allocator is a static, that is an error of the compiler.
    pub const fn dirty_percent(mut self, percent: usize) -> SpecMalloc {
        assert!(self.options.set_dirty_percent(percent).is_ok(), "dirty_percent: at most 1000");
        self
    }

    /// Whether a process with several threads gets a helper thread that gives memory back by age. Default: yes.
    pub const fn helper(mut self, on: bool) -> SpecMalloc {
        self.options.helper = Some(on);
        self
    }

    /// Whether that thread looks, once a second while something is free and resident, at what the system and the control
    /// group say of memory, and gives back what is free when it is scarce: it opens files then, in a table of its own,
    /// which a filter of system calls may not allow. Default: no. (The preload library does, until a filter comes.)
    pub const fn pressure(mut self, on: bool) -> SpecMalloc {
        self.options.pressure = Some(on);
        self
    }

    /// Whether address space is reserved behind huge blocks, so that they grow in place. Default: yes, unless the
    /// process's address space is limited.
    pub const fn reserve(mut self, on: bool) -> SpecMalloc {
        self.options.reserve = Some(on);
        self
    }

    /// Whether memory that is steadily used up is populated by huge pages, where the system has them for who asks
    /// (`madvise` in `/sys/kernel/mm/transparent_hugepage/enabled`). Default: yes.
    pub const fn huge_pages(mut self, on: bool) -> SpecMalloc {
        self.options.huge_pages = Some(on);
        self
    }

    /// Whether the allocator's mappings have names in `/proc/PID/maps`, where the kernel gives them any. Default: no.
    pub const fn names(mut self, on: bool) -> SpecMalloc {
        self.options.names = Some(on);
        self
    }

    /// Bytes of address space that are mapped at a time: a power of two from 1 MiB to 32 MiB. Default: 32 MiB, less
    /// where the process's address space is limited.
    ///
    /// # Panics
    /// On any other number: where the allocator is a static, that is an error of the compiler.
    ///
    /// ```
    /// # use specmalloc::SpecMalloc;
    /// static SMALL: SpecMalloc = SpecMalloc::new().arena_size(4 << 20);
    /// ```
    /// ```compile_fail
    /// # use specmalloc::SpecMalloc;
    /// static ODD: SpecMalloc = SpecMalloc::new().arena_size(3 << 20);
    /// ```
    pub const fn arena_size(mut self, bytes: usize) -> SpecMalloc {
        assert!(
            self.options.set_arena_size(bytes).is_ok(),
            "arena_size: a power of two from 1 MiB to 32 MiB"
        );
        self
    }

    /// The process's figures now. The kernel is asked which pages of huge blocks are resident (mincore): a call for a
    /// thousand pages, and a thousand calls at most. A filter of system calls that kills for that kills here.
    pub fn statistics(&self) -> Statistics {
        figures::exact_statistics::<RustThread>()
    }

    /// Gives back to the system what is free in whole slices and huge blocks. Returns whether anything was.
    pub fn trim(&self) -> bool {
        crate::global::trim::<RustThread>()
    }

    /// Bytes that the block at `block`, of `layout`, can hold.
    ///
    /// # Safety
    /// `block` is a live block that this allocator handed out for `layout`.
    pub unsafe fn usable_size(&self, block: *mut u8, layout: Layout) -> usize {
        match BlockKind::of(layout.size(), layout.align()) {
            BlockKind::Small(class) => crate::base::class_size(class),
            _ => self.place(block, layout).usable(),
        }
    }

    /// The place of a block of `layout`: by arithmetic for blocks in arenas, through the index for huge ones.
    fn place(&self, block: *mut u8, layout: Layout) -> Place {
        let address = block.expose_provenance();
        if !RustChecks::ON && BlockKind::of(layout.size(), layout.align()) != BlockKind::Huge {
            // SAFETY: by `GlobalAlloc`'s contract the pointer is a live block of this allocator and of this layout.
            let place = unsafe { Place::trusted(address) };
            // A slab that nobody owns is none: the contract is broken, and the index tells how.
            if !matches!(place, Place::Slab(slab) if slab.owner().is_null()) {
                return place;
            }
        }
        // Trusted pointers hold what they point into.
        let _section = RustChecks::ON.then(|| process().space().rcu().enter_guest());
        match process().place(address) {
            Ok(place) => place,
            Err(misuse) => crate::pal::broken_contract(misuse, crate::pal::Call::Free, address),
        }
    }

    #[inline(always)]
    fn allocate_once(&self, layout: Layout, zero: bool) -> *mut u8 {
        with_heap::<RustThread, _>(&self.options, |heap| match heap {
            // SAFETY: the heap is possessed here.
            Some(heap) => unsafe {
                process().allocate::<RustChecks>(heap, layout.size(), layout.align(), zero)
            },
            None => ptr::null_mut(),
        })
    }

    #[cold]
    #[inline(never)]
    fn allocate_slow(&self, layout: Layout, zero: bool) -> *mut u8 {
        #[cfg(feature = "profile")]
        // SAFETY: a thread's heap is one.
        if unsafe { samples::are_counted(RustThread::heap()) } {
            let frame = 0_u8;
            let caller = (&raw const frame).addr();
            return samples::allocate::<RustThread>(layout.size(), layout.align(), zero, caller);
        }
        let once = || self.allocate_once(layout, zero);
        let block = with_relief::<RustThread>(layout.size(), once, once);
        figures::pulse::<RustThread>();
        block
    }

    #[cold]
    #[inline(never)]
    unsafe fn free_slow(&self, block: *mut u8, layout: Layout) {
        let place = self.place(block, layout);
        #[cfg(feature = "profile")]
        if place.sample() != 0 {
            let frame = 0_u8;
            samples::freed::<RustThread>(place, block, (&raw const frame).addr());
        }
        let is_first = ptr::eq(RustThread::heap(), &raw const NOBODY);
        with_heap_to_free::<RustThread, _>(&self.options, |heap| match (heap, place) {
            // SAFETY: the block is the caller's; the heap is possessed here.
            (Some(heap), place) => unsafe { process().free::<RustChecks>(heap, block, place) },
            // SAFETY: as above; an owner is a heap, and lives forever.
            (None, Place::Slab(slab)) => unsafe {
                let owner = &*slab.owner();
                owner.inbox().push::<RustChecks>(block.cast(), block.cast(), owner.secret());
            },
            (None, _) => {}
        });
        if is_first {
            // Where the helper is started must hold nothing of the C library's: an allocation may be inside
            // `dl_iterate_phdr`, whose lock a `dlclose` in another thread takes after the one that `pthread_create`
            // takes. But a thread that begins by a free is one that std has just started: it frees the closure that it
            // was given.
            thread_found::<RustThread>();
        }
        figures::pulse::<RustThread>();
    }

    /// # Safety
    /// The thread possesses `heap`, which owns `slab`, and the block, which lies there.
    #[inline(never)]
    unsafe fn free_beyond(&self, heap: *const Heap, slab: &Slab, block: *mut u8) {
        // SAFETY: the caller's; heaps live forever.
        unsafe {
            if !(*heap).free_home::<RustChecks>(slab, block.cast()) {
                (*heap).free_beyond::<RustChecks, _>(process(), slab, block.cast());
            }
        }
    }
}

impl Default for SpecMalloc {
    fn default() -> SpecMalloc {
        SpecMalloc::new()
    }
}

// SAFETY: blocks are disjoint, at least as large and aligned as their layout asks, and live until they are freed;
// nothing here unwinds.
unsafe impl GlobalAlloc for SpecMalloc {
    #[inline(always)]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if let BlockKind::Small(class) = BlockKind::of(layout.size(), layout.align()) {
            let heap = RustThread::heap();
            // SAFETY: the thread possesses its heap, or it is NOBODY, whose lists are empty.
            let block = unsafe { (*heap).pop::<RustChecks>(class) };
            if !block.is_null() {
                return block.cast();
            }
        }
        self.allocate_slow(layout, false)
    }

    #[inline(always)]
    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        if !RustChecks::ON
            && let BlockKind::Small(class) = BlockKind::of(layout.size(), layout.align())
            && crate::base::class_info(class).slices == 1
        {
            let heap = RustThread::heap();
            // SAFETY: a live block of this layout lies in a slab of one slice, which it holds.
            let slab = unsafe { &*Slab::of(block.expose_provenance()) };
            if ptr::eq(slab.owner(), heap) {
                // SAFETY: the thread possesses its heap, and the block is the caller's to give.
                unsafe {
                    let bin = (*heap).bin_at(class * Bin::WORDS);
                    if !bin.take_room() {
                        return self.free_beyond(heap, slab, block);
                    }
                    bin.push::<RustChecks>(block.cast(), Block::key(block.cast(), (*heap).secret()));
                }
                return;
            }
        }
        // SAFETY: the caller's.
        unsafe { self.free_slow(block, layout) }
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if let BlockKind::Small(_) = BlockKind::of(layout.size(), layout.align()) {
            // SAFETY: the caller's.
            let block = unsafe { self.alloc(layout) };
            if !block.is_null() {
                // SAFETY: the block is ours and at least as large.
                unsafe { block.write_bytes(0, layout.size()) };
            }
            return block;
        }
        self.allocate_slow(layout, true)
    }

    #[inline]
    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let (old, new) = (BlockKind::of(layout.size(), layout.align()), BlockKind::of(size, layout.align()));
        if let (BlockKind::Small(old), BlockKind::Small(new)) = (old, new)
            && old == new
        {
            return block;
        }
        // SAFETY: the caller's.
        unsafe { self.realloc_slow(block, layout, size, old == new) }
    }
}

impl SpecMalloc {
    /// # Safety
    /// As for `GlobalAlloc::realloc`.
    #[inline(never)]
    unsafe fn realloc_slow(&self, block: *mut u8, layout: Layout, size: usize, same_kind: bool) -> *mut u8 {
        if same_kind {
            let place = self.place(block, layout);
            #[cfg(feature = "profile")]
            let (frame, is_counted) = (0_u8, process().settings().sample_rate() != 0);
            #[cfg(feature = "profile")]
            let lifted = samples::lift(place, block, (&raw const frame).addr());
            let stays = with_heap::<RustThread, _>(&self.options, |heap| {
                // SAFETY: the heap is possessed here, the block is the caller's, and the kinds agree: equal kinds that
                // are not of one class are large or huge.
                heap.and_then(|heap| unsafe { process().resize(heap, place, size, layout.align()) })
            });
            if let Some(stays) = stays {
                tell_if_due::<RustThread>(size);
                #[cfg(feature = "profile")]
                if is_counted || lifted.is_some() {
                    samples::resized::<RustThread>(lifted, stays, size, (&raw const frame).addr());
                }
                return stays;
            }
            #[cfg(feature = "profile")]
            samples::put_back(place, lifted);
        }
        // SAFETY: the caller's: `size` is not zero and does not overflow when rounded up to the alignment.
        unsafe {
            let mut moved = ptr::null_mut();
            if size > layout.size() && layout.align() <= SLICE && size > SMALL_MAX {
                moved = to_grow::<RustThread>(&self.options, size, same_kind);
                #[cfg(feature = "profile")]
                if !moved.is_null() && process().settings().sample_rate() != 0 {
                    let frame = 0_u8;
                    samples::resized::<RustThread>(None, moved, size, (&raw const frame).addr());
                }
            }
            if moved.is_null() {
                moved = self.alloc(Layout::from_size_align_unchecked(size, layout.align()));
            }
            if !moved.is_null() {
                ptr::copy_nonoverlapping(block, moved, size.min(layout.size()));
                self.dealloc(block, layout);
            }
            moved
        }
    }
}
