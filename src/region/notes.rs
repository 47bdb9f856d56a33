//! What the layer above notes of a region, in words of the descriptor: of an arena one thing, of a huge block another,
//! of a file's pages a third, of a heap's memory a fourth. All zero when the region is attached, and to be used while it is.

use crate::base::{align_down, align_up};
use crate::sync::atomic::AtomicUsize;
use crate::sync::atomic::Ordering::Relaxed;
use crate::sync::{Counter, acquire, release};

/// Words of a descriptor that belong to the layer above.
const NOTES: usize = 4;
/// Bytes of the smallest page.
const PAGE: usize = 4096;
/// Set in an arena's first note while it is populated by huge pages.
const HUGE_PAGES: usize = 1 << 63;

/// The words, whatever they say.
#[repr(transparent)]
pub(super) struct Notes([AtomicUsize; NOTES]);

impl Notes {
    crate::const_unless_model! {
        pub(super) fn new() -> Notes {
            Notes(super::zeros())
        }
    }

    /// By whoever attaches the region.
    pub(super) fn clear(&self) {
        for note in &self.0 {
            // Relaxed: published by the Release of `State::attach`, and by that of the entry in the index.
            note.store(0, Relaxed);
        }
    }
}

/// What is noted of an arena.
#[repr(transparent)]
pub struct ArenaNotes(Notes);

impl ArenaNotes {
    pub(super) fn of(notes: &Notes) -> &ArenaNotes {
        // SAFETY: `repr(transparent)`.
        unsafe { &*core::ptr::from_ref(notes).cast() }
    }

    /// Its position in the table of arenas; `None` for one that found no place there: no claim meets it again, and it
    /// goes when it is empty. Asked by whoever holds a part of the arena, or is in a section in which it did.
    pub fn position(&self) -> Option<usize> {
        // Relaxed: written before the arena is entered in the table.
        (self.0.0[0].load(Relaxed) & !HUGE_PAGES).checked_sub(1)
    }

    /// Notes its position, before the arena is entered there, or that it was not entered.
    pub fn set_position(&self, position: Option<usize>) {
        // Relaxed (both): published with the entry.
        let huge_pages = self.0.0[0].load(Relaxed) & HUGE_PAGES;
        self.0.0[0].store(position.map_or(0, |position| position + 1) | huge_pages, Relaxed);
    }

    /// Notes that it is populated by huge pages, before anybody else knows of it.
    pub fn begin_huge_pages(&self) {
        // Relaxed: published with the entry.
        self.0.0[0].fetch_or(HUGE_PAGES, Relaxed);
    }

    /// Notes that it is populated by single pages again; whether it was not so before. Of two threads that say so one is
    /// told. By whoever holds a part of the arena.
    pub fn end_huge_pages(&self) -> bool {
        // Relaxed (both): it is a bit of its own, and nothing else is known by it. Looked at first: a purge is to write
        // no line that claims read.
        self.0.0[0].load(Relaxed) & HUGE_PAGES != 0
            && self.0.0[0].fetch_and(!HUGE_PAGES, Relaxed) & HUGE_PAGES != 0
    }

    /// Ticks of the helper since it became empty.
    pub fn empty_for(&self) -> &Counter {
        Counter::of(&self.0.0[1])
    }

    /// How many slabs it has.
    pub fn slabs(&self) -> &AtomicUsize {
        &self.0.0[2]
    }

    /// The end of the slices that have ever been in use, as far as the arena's bitmaps do not tell any more.
    pub fn reached(&self) -> &AtomicUsize {
        &self.0.0[3]
    }
}

/// What is noted of a huge block: by whoever holds it, or holds the region that waits to be used again. Handing either
/// over orders.
#[repr(transparent)]
pub struct HugeNotes(Notes);

impl HugeNotes {
    pub(super) fn of(notes: &Notes) -> &HugeNotes {
        // SAFETY: `repr(transparent)`.
        unsafe { &*core::ptr::from_ref(notes).cast() }
    }

    /// Bytes that the program uses, whole pages, what is before its block among them; zero while nobody does.
    pub fn used(&self) -> usize {
        // Relaxed, here and below: as said.
        align_down(self.0.0[0].load(Relaxed), PAGE)
    }

    /// Bytes behind the start of the region at which the block begins, or began last: fewer than in a page.
    pub fn colour(&self) -> usize {
        self.0.0[0].load(Relaxed) % PAGE
    }

    /// Bytes that the program uses if the block becomes one of `size` bytes; `None` if there are not as many.
    pub fn used_for(&self, size: usize, page: usize) -> Option<usize> {
        align_up(size.max(1).checked_add(self.colour())?, page)
    }

    /// Notes how many bytes the program uses, and where the block begins.
    pub fn set_used(&self, bytes: usize, colour: usize) {
        debug_assert!(bytes.is_multiple_of(PAGE) && colour < PAGE);
        self.0.0[0].store(bytes + colour, Relaxed);
    }

    /// The program does not use it any more: the bytes that it used. Of two threads that say so one finds zero.
    pub fn end_use(&self) -> usize {
        self.set_sample(0);
        align_down(self.0.0[0].fetch_and(PAGE - 1, Relaxed), PAGE)
    }

    /// Which sample it is; zero for none.
    pub fn sample(&self) -> u32 {
        self.0.0[3].load(Relaxed) as u32
    }

    /// Notes which sample it is.
    pub fn set_sample(&self, sample: u32) {
        self.0.0[3].store(sample as usize, Relaxed);
    }

    /// Bytes that become resident together, once that is settled; before that, a page.
    pub fn unit(&self) -> Option<usize> {
        let unit = self.0.0[2].load(Relaxed);
        (unit > 0).then_some(unit)
    }

    /// Notes how many bytes become resident together.
    pub fn set_unit(&self, bytes: usize) {
        self.0.0[2].store(bytes, Relaxed);
    }

    /// Bytes from the start that may be resident.
    pub fn dirty(&self) -> usize {
        self.0.0[1].load(Relaxed)
    }

    /// Notes how many bytes from the start may be resident.
    pub fn set_dirty(&self, bytes: usize) {
        self.0.0[1].store(bytes, Relaxed);
    }
}

/// What is noted of pages of a file. The region may reach beyond the file's end, so that the file may grow under it.
#[repr(transparent)]
pub struct FileNotes(Notes);

impl FileNotes {
    pub(super) fn of(notes: &Notes) -> &FileNotes {
        // SAFETY: `repr(transparent)`.
        unsafe { &*core::ptr::from_ref(notes).cast() }
    }

    /// Notes where the bytes begin, in memory and in the file, and how many there are, before the region is published.
    pub(crate) fn begin(&self, start: usize, offset: usize, bytes: usize) {
        // Relaxed (all): published with the region.
        self.0.0[3].store(start, Relaxed);
        self.0.0[1].store(offset, Relaxed);
        self.0.0[0].store(bytes, Relaxed);
    }

    /// Where in memory the bytes begin: beside how many there are, for whoever reads them.
    #[inline]
    pub fn start(&self) -> usize {
        // Relaxed: constant for a life.
        self.0.0[3].load(Relaxed)
    }

    /// Where in the file the bytes begin.
    #[inline]
    pub fn offset(&self) -> usize {
        // Relaxed: constant for a life.
        self.0.0[1].load(Relaxed)
    }

    /// How many bytes of the file there are.
    #[inline]
    pub fn bytes(&self) -> usize {
        // Acquire: partner is the Release of `set_bytes`: the file has them.
        self.0.0[0].load(acquire("region.file_bytes_relaxed"))
    }

    /// The file has become longer or shorter, as far as it lies in the region.
    pub fn set_bytes(&self, bytes: usize) {
        // Release: partner is the Acquire of `bytes`.
        self.0.0[0].store(bytes, release("region.file_grown_relaxed"));
    }

    /// What was found wrong with the pages first, in the words of the layer above; zero if nothing was.
    #[inline]
    pub fn fault(&self) -> usize {
        // Relaxed: what it says is complete in itself.
        self.0.0[2].load(Relaxed)
    }

    /// Notes that something is wrong with the pages, unless something was before.
    pub fn set_fault(&self, fault: usize) {
        // Relaxed (both): as above.
        let _earlier = self.0.0[2].compare_exchange(0, fault, Relaxed, Relaxed);
    }
}

/// What is noted of memory of a heap that is a value.
#[repr(transparent)]
pub struct HeapNotes(Notes);

impl HeapNotes {
    pub(super) fn of(notes: &Notes) -> &HeapNotes {
        // SAFETY: `repr(transparent)`.
        unsafe { &*core::ptr::from_ref(notes).cast() }
    }

    /// Notes whose memory it is, where in the heap's file it lies, and what of it is in use. Before anybody but the heap
    /// knows of it.
    pub fn begin(&self, owner: usize, offset: usize, in_use: usize) {
        // Relaxed (all): whoever holds a block in it came to it after that; to anybody else it is not theirs either way.
        self.0.0[1].store(in_use, Relaxed);
        self.0.0[0].store(owner, Relaxed);
        self.0.0[3].store(offset, Relaxed);
    }

    /// Whose memory it is: a number that is no other heap's while that heap is there.
    #[inline]
    pub fn owner(&self) -> usize {
        // Relaxed: as in `begin`.
        self.0.0[0].load(Relaxed)
    }

    /// Where in the heap's file it lies.
    pub fn offset(&self) -> usize {
        // Relaxed: as in `begin`.
        self.0.0[3].load(Relaxed)
    }

    /// How much of it is in use, in the words of the layer above.
    pub fn use_word(&self) -> &AtomicUsize {
        &self.0.0[1]
    }

    /// The next region in the heap's list.
    pub fn next(&self) -> &AtomicUsize {
        &self.0.0[2]
    }
}
