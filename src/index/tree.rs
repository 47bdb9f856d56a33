//! The tree: publishing, finding and unlinking regions.

use super::entry::{Content, Entry, Node, empty};
use super::pages::PageNode;
use super::radix::{
    GRANULES, LIMIT, Level, PAGES, Part, ROOT, ROOT_SPAN, SLICES, granule_index, granule_number, page_index,
    pieces, root_index, slice_index,
};
use crate::pal::{Errno, Platform};
use crate::rcu::{Rcu, Section};
use crate::region::{Kind, Metadata, Region, Stack, zeros};
use crate::sync::atomic::AtomicUsize;
use crate::sync::atomic::Ordering::Relaxed;
use crate::sync::{acquire, release, seeded};

/// Entries of the near table.
const NEAR: usize = if cfg!(any(loom, shuttle)) { 4 } else { 256 };

/// What a lookup outside a reader section finds.
#[derive(Clone, Copy)]
#[must_use]
pub enum Found {
    /// This region. It stays only if the caller knows that it does, by owning a live block in it, say.
    Region(&'static Region),
    /// No region.
    Nothing,
    /// Several regions may meet in this slice: ask again in a section.
    Unsure,
}

/// Where a walk of the immortal nodes ends.
enum Walk {
    Region(&'static Region),
    Nothing,
    Pages(usize),
}

type GranuleNode = Node<GRANULES>;
type SliceNode = Node<SLICES>;

/// The index from address to region.
#[repr(C)] // As `heap::Allocator`.
pub struct Index {
    /// One node each that lost the race to be linked.
    spare_granules: AtomicUsize,
    spare_slices: AtomicUsize,
    pages: Stack<PageNode>,
    /// By granule number modulo the length: the complement of the number of a granule at whose base an arena starts, or
    /// 0, which is nobody's complement.
    near: [AtomicUsize; NEAR],
    root: [Entry; ROOT],
}

impl Index {
    crate::const_unless_model! {
        /// An index of nothing.
        pub fn new() -> Index {
            Index {
                root: empty(),
                near: zeros(),
                spare_granules: AtomicUsize::new(0),
                spare_slices: AtomicUsize::new(0),
                pages: Stack::new(),
            }
        }
    }

    /// Whether an arena starts at the base of the granule that holds `address`. No means "ask
    /// [`Index::lookup_coarse`]".
    ///
    /// A yes about the address of a live block is the arena that holds it, and stays true; a yes about any other
    /// address holds in a section, and the arena may end before that address: its header says where.
    #[inline(always)]
    pub fn is_near_arena(&self, address: usize) -> bool {
        let number = granule_number(address);
        // Relaxed: whoever owns a live block in the arena knows the arena's memory already, and nothing else is read
        // here.
        self.near[number % NEAR].load(Relaxed) == !number
    }

    /// Follows immortal nodes only.
    #[inline(always)]
    fn walk(&self, address: usize) -> Walk {
        if address >= LIMIT {
            return Walk::Nothing;
        }
        match self.lowest(address).0 {
            Content::Empty => Walk::Nothing,
            Content::Region(region) => Walk::Region(region),
            Content::Node(pages) => Walk::Pages(pages),
        }
    }

    /// What the lowest entry for `address`, which is below [`LIMIT`], says, and its level; a node is one of pages.
    #[inline(always)]
    fn lowest(&self, address: usize) -> (Content, Level) {
        // Acquire, here and below: partner is the Release of `publish` (the region is complete) or of `ensure` (the
        // node is).
        let node = match self.root[root_index(address)].load(acquire("index.lookup_root")) {
            // SAFETY: the root leads to nodes of granules only.
            Content::Node(node) => unsafe { GranuleNode::at(node) },
            content => return (content, Level::Root),
        };
        // Acquire: as above.
        let node = match node.entries[granule_index(address)].load(acquire("index.lookup_granule")) {
            // SAFETY: nodes of granules lead to nodes of slices only.
            Content::Node(node) => unsafe { SliceNode::at(node) },
            content => return (content, Level::Granule),
        };
        // Acquire: as above.
        (node.entries[slice_index(address)].load(acquire("index.lookup_slice")), Level::Slice)
    }

    /// The first region that ends above `from`, as [`Index::lookup`] would find it at the first address that it has
    /// there.
    #[inline(never)]
    pub fn first_from(&self, from: usize, _section: &Section<'_>) -> Option<&'static Region> {
        let end = LIMIT.min(from.saturating_add(ROOT * ROOT_SPAN));
        let mut at = from;
        while at < end {
            let (content, level) = self.lowest(at);
            let found = match content {
                Content::Empty => None,
                Content::Region(region) => Some(region),
                Content::Node(node) => {
                    // SAFETY: nodes of slices lead to nodes of pages only; the section keeps them.
                    let node = unsafe { PageNode::at(node) };
                    (page_index(at)..PAGES).find_map(|page| node.find(page))
                }
            };
            // (In a model addresses that differ in their upper bits have one entry.)
            if let Some(region) = found.filter(|region| region.base() + region.named() > at) {
                return Some(region);
            }
            at = (at / level.span() + 1) * level.span();
        }
        None
    }

    /// The region that holds `address`, or that the rest of its granule is held for. The descriptor is immortal, but
    /// what it describes stays only until the section ends, unless the caller pins it or claims a slice of it.
    #[inline]
    pub fn lookup(&self, address: usize, _section: &Section<'_>) -> Option<&'static Region> {
        self.at(address)
    }

    /// As [`Index::lookup`], where a section is not needed or cannot be shown.
    #[inline]
    pub(super) fn at(&self, address: usize) -> Option<&'static Region> {
        match self.walk(address) {
            Walk::Region(region) => Some(region),
            Walk::Nothing => None,
            // SAFETY: nodes of slices lead to nodes of pages only.
            Walk::Pages(node) => unsafe { PageNode::at(node) }.find(page_index(address)),
        }
    }

    /// The region that holds `address`, for a caller that is in no section: any address is allowed, nothing that can go
    /// away is followed.
    #[inline]
    pub fn lookup_coarse(&self, address: usize) -> Found {
        match self.walk(address) {
            Walk::Region(region) => Found::Region(region),
            Walk::Nothing => Found::Nothing,
            Walk::Pages(_) => Found::Unsure,
        }
    }

    /// Publishes an attached region, of which the caller mapped every byte. Afterwards lookups find it.
    ///
    /// # Errors
    /// No memory for nodes, or the region lies above the 47 bits that the index holds (`ENOMEM` both), or the system
    /// has placed it in what another region leaves of its last granule (`EEXIST`): then nothing was published.
    pub(super) fn insert<P: Platform>(
        &self,
        os: &P,
        rcu: &Rcu,
        metadata: &Metadata,
        region: &'static Region,
    ) -> Result<(), Errno> {
        let (start, end) = (region.base(), region.base() + region.named());
        if end > LIMIT {
            return Err(Errno(libc::ENOMEM));
        }
        let mut blank: [Option<&'static PageNode>; 2] = [None; 2];
        let prepared = self.prepare(os, metadata, start, end, &mut blank);
        if prepared.is_ok() {
            let mut blank = blank.iter_mut();
            for piece in pieces(start, end) {
                match piece {
                    Part::Whole(level, at) => self.change(level, at, Content::Empty, Content::Region(region)),
                    Part::Pages(at, pages) => {
                        // A range has at most two ragged ends, and `prepare` got a node for each.
                        let mut none = None;
                        self.publish_pages(rcu, at, &pages, region, blank.next().unwrap_or(&mut none));
                    }
                }
            }
            if region.kind() == Kind::Arena {
                let number = granule_number(start);
                // Relaxed: see `is_near_arena`. If the place is taken, lookups of this arena take the longer way.
                let _ = self.near[number % NEAR].compare_exchange(0, !number, Relaxed, Relaxed);
            }
        }
        for node in blank.into_iter().flatten() {
            self.pages.give(node);
        }
        prepared
    }

    /// Makes everything that publishing `start..end` needs, so that publishing cannot fail half-way.
    fn prepare<P: Platform>(
        &self,
        os: &P,
        metadata: &Metadata,
        start: usize,
        end: usize,
        blank: &mut [Option<&'static PageNode>; 2],
    ) -> Result<(), Errno> {
        let mut blank = blank.iter_mut();
        for piece in pieces(start, end) {
            let (at, depth) = match piece {
                Part::Whole(Level::Root, _) => continue,
                Part::Whole(Level::Granule, at) => (at, 1),
                Part::Whole(Level::Slice, at) => (at, 2),
                Part::Pages(at, _) => (at, 3),
            };
            let root = &self.root[root_index(at)];
            let granules: &GranuleNode = ensure(root, &self.spare_granules, || metadata.create(os))?;
            if depth >= 2 {
                let entry = &granules.entries[granule_index(at)];
                let _: &SliceNode = ensure(entry, &self.spare_slices, || metadata.create(os))?;
            }
            if depth == 3
                && let Some(blank) = blank.next()
            {
                *blank = Some(match self.pages.take() {
                    Some(node) => node,
                    None => metadata.create(os)?,
                });
            }
        }
        Ok(())
    }

    /// Unlinks an excluded region: lookups that begin after the next grace period do not find it.
    pub(super) fn remove(&self, rcu: &Rcu, region: &'static Region) {
        let (start, end) = (region.base(), region.base() + region.named());
        if region.kind() == Kind::Arena {
            let number = granule_number(start);
            if !seeded("index.near_late") {
                // Relaxed: the grace period that follows orders it.
                let _ = self.near[number % NEAR].compare_exchange(!number, 0, Relaxed, Relaxed);
            }
        }
        for piece in pieces(start, end) {
            match piece {
                Part::Whole(level, at) => self.change(level, at, Content::Region(region), Content::Empty),
                Part::Pages(at, pages) => self.unlink_pages(rcu, at, &pages),
            }
        }
    }

    /// A node of pages that came out of a grace period: it can be used again.
    pub(super) fn recycle(&self, node: &'static PageNode) {
        debug_assert!(node.is_blank());
        self.pages.give(node);
    }

    /// Changes the entry at `level` that stands for `at` onwards from one content to another, or, where a node has been
    /// put in its place, the entries below it. The nodes above are there.
    fn change(&self, level: Level, at: usize, from: Content, to: Content) {
        let root = &self.root[root_index(at)];
        if level == Level::Root {
            let Some(granules) = replace(root, from, to) else { return };
            // SAFETY: the root leads to nodes of granules only.
            for entry in &unsafe { GranuleNode::at(granules) }.entries {
                change_granule(entry, from, to);
            }
            return;
        }
        // Relaxed: as in `slice_entry`.
        let Content::Node(granules) = root.load(Relaxed) else {
            debug_assert!(false, "index: a region lies above another");
            return;
        };
        // SAFETY: as above.
        let entry = &unsafe { GranuleNode::at(granules) }.entries[granule_index(at)];
        if level == Level::Granule {
            return change_granule(entry, from, to);
        }
        if let Some(entry) = self.slice_entry(at) {
            let below = replace(entry, from, to);
            debug_assert!(below.is_none(), "index: pages are in use inside a whole slice");
        }
    }

    /// The entry of the slice at `at`, below nodes that are there.
    pub(super) fn slice_entry(&self, at: usize) -> Option<&'static Entry> {
        // Relaxed, both: whoever inserts a region has acquired the nodes above it in `ensure`; whoever removes it came
        // to know of it from whoever inserted it.
        let Content::Node(granules) = self.root[root_index(at)].load(Relaxed) else { return None };
        // SAFETY: the root leads to nodes of granules only.
        let entry = &unsafe { GranuleNode::at(granules) }.entries[granule_index(at)];
        let Content::Node(slices) = entry.load(Relaxed) else { return None };
        // SAFETY: nodes of granules lead to nodes of slices only.
        Some(&unsafe { SliceNode::at(slices) }.entries[slice_index(at)])
    }
}

impl Default for Index {
    fn default() -> Index {
        Index::new()
    }
}

/// Changes an entry that stands for a granule, or all entries of the node that is in its place.
fn change_granule(entry: &Entry, from: Content, to: Content) {
    let Some(slices) = replace(entry, from, to).filter(|_| !seeded("index.fold_blind")) else { return };
    // SAFETY: nodes of granules lead to nodes of slices only.
    for entry in &unsafe { SliceNode::at(slices) }.entries {
        if to != Content::Empty || !seeded("index.unlink_folded_late") {
            // Pages of files may lie in what the region leaves of its last granule: they stay.
            let _pages = replace(entry, from, to);
        }
    }
}

/// Changes one entry, unless it leads to a node: then returns that.
fn replace(entry: &Entry, from: Content, to: Content) -> Option<usize> {
    // Release: partner is the Acquire of `walk`: a region published is complete. Acquire on failure: partner is the
    // Release of `ensure`: the node found is complete.
    match entry.exchange(from, to, release("index.publish_relaxed"), acquire("index.replace_relaxed")) {
        Err(Content::Node(node)) => Some(node),
        // Another region: the system has placed it in the rest of a granule that is held for this one.
        Ok(()) | Err(_) => None,
    }
}

/// The node that `entry` leads to; links one if there is none.
fn ensure<const N: usize>(
    entry: &Entry,
    spare: &AtomicUsize,
    create: impl FnOnce() -> Result<&'static Node<N>, Errno>,
) -> Result<&'static Node<N>, Errno> {
    // Acquire: partner is the Release below.
    if let Content::Node(node) = entry.load(acquire("index.ensure_relaxed")) {
        // SAFETY: entries of one level lead to nodes of one type.
        return Ok(unsafe { Node::at(node) });
    }
    // Acquire: partner is the Release below that put the spare node there.
    let node = match spare.swap(0, acquire("index.spare_take_relaxed")) {
        0 => create()?,
        // SAFETY: the word holds the address of a blank node of this type.
        address => unsafe { Node::at(address) },
    };
    // Release: partner is the Acquire of `walk`: the node's entries are made. Acquire on failure: likewise, of the
    // winner.
    let orders = [release("index.node_relaxed"), acquire("index.ensure_lost")];
    match entry.link(node.content(), orders[0], orders[1], "index.node_two_steps") {
        Ok(()) => Ok(node),
        Err(now) => {
            let address = core::ptr::from_ref(node).expose_provenance();
            // Release: partner is the Acquire above. If there is a spare node already this one is lost: 4 or 16 KiB,
            // and only when two races are lost before the next node is needed.
            let _ = spare.compare_exchange(0, address, release("index.spare_put_relaxed"), Relaxed);
            match now {
                // SAFETY: as above.
                Content::Node(winner) => Ok(unsafe { Node::at(winner) }),
                Content::Empty | Content::Region(_) => Err(Errno(libc::EEXIST)),
            }
        }
    }
}
