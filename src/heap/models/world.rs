//! What the models of whole paths share: an allocator, and a ledger that knows every live block. No two overlap, and
//! each keeps what its holder wrote. In the end everything is given back, and nothing may be left.
//!
//! Memory that was unmapped too early would fault. So before it is touched the index is asked, which forgets a region
//! before it is unmapped, and shuttle switches threads at atomics and at system calls only.

use super::*;
use crate::base::CLASSES;
use shuttle::thread;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

/// Eight blocks to a slab of one slice, extended by one block at a time.
pub const MEDIUM: usize = 8 << 10;
/// Small blocks that have a page each.
pub const PAGE: usize = 4 << 10;
/// The smallest huge block.
pub const HUGE: usize = LARGE_MAX + 1;

/// One allocator and its ledger.
pub struct World {
    pub base: Base,
    /// Live blocks: address -> bytes and mark.
    ledger: Mutex<BTreeMap<usize, (usize, u8)>>,
    /// Blocks on their way from one thread to another.
    passed: Mutex<Vec<usize>>,
    /// What walks are held against.
    watched: Mutex<Watched>,
}

/// What is known besides the ledger while somebody walks.
#[derive(Default)]
struct Watched {
    /// Calls that hand blocks out, and have not said which.
    getting: usize,
    /// Blocks that are being freed, and how many bytes they had.
    leaving: Vec<(usize, usize)>,
    watches: Vec<Watch>,
}

/// What was live since a walk began: all the while, and at any time.
struct Watch {
    all_along: BTreeMap<usize, usize>,
    meanwhile: Vec<(usize, usize)>,
}

impl World {
    pub fn new() -> Arc<World> {
        Arc::new(World {
            base: Base::new(),
            ledger: Mutex::default(),
            passed: Mutex::default(),
            watched: Mutex::default(),
        })
    }

    fn demand_place(&self, at: usize) -> Place {
        self.base.get().place(at).unwrap_or_else(|misuse| panic!("a live block is taken for: {misuse:?}"))
    }

    fn ends(at: usize, bytes: usize) -> [*mut u8; 2] {
        [at, at + bytes - 16].map(ptr::with_exposed_provenance_mut)
    }

    fn enter(&self, at: usize, bytes: usize) {
        self.demand_place(at);
        let mut ledger = self.ledger.lock().unwrap();
        let below = ledger.range(..at + bytes).next_back();
        assert!(below.is_none_or(|(other, (bytes, _))| other + bytes <= at), "{at:#x} is handed out twice");
        let mark = (at / 16 + ledger.len()) as u8 | 1;
        // SAFETY: the allocator handed the block out, and it is mapped (see above).
        World::ends(at, bytes).into_iter().for_each(|end| unsafe { end.write_bytes(mark, 16) });
        ledger.insert(at, (bytes, mark));
        let mut watched = self.watched.lock().unwrap();
        watched.watches.iter_mut().for_each(|watch| watch.meanwhile.push((at, bytes)));
    }

    /// Takes a block out of the ledger, with what the ledger knew of it: bytes and mark.
    fn leave(&self, at: usize) -> (Place, usize, u8) {
        let place = self.demand_place(at);
        let (bytes, mark) = self.ledger.lock().unwrap().remove(&at).expect("a live block");
        {
            let mut watched = self.watched.lock().unwrap();
            watched.leaving.push((at, bytes));
            watched.watches.iter_mut().for_each(|watch| _ = watch.all_along.remove(&at));
        }
        for end in World::ends(at, bytes) {
            // SAFETY: the block is ours, and mapped.
            let found = unsafe { end.cast::<[u8; 16]>().read() };
            assert_eq!(found, [mark; 16], "the block at {at:#x} was written by another");
        }
        (place, bytes, mark)
    }

    fn gone(&self, at: usize) {
        self.watched.lock().unwrap().leaving.retain(|&(leaving, _)| leaving != at);
    }

    fn gets(&self, begins: bool) {
        let mut watched = self.watched.lock().unwrap();
        watched.getting = if begins { watched.getting + 1 } else { watched.getting - 1 };
    }

    /// A walk begins, at `from`. By one thread at a time.
    pub fn begin_watch(&self, from: usize) {
        let mut watched = self.watched.lock().unwrap();
        let all_along: BTreeMap<_, _> =
            self.ledger.lock().unwrap().range(from..).map(|(&at, &(bytes, _))| (at, bytes)).collect();
        let meanwhile = all_along.iter().map(|(&at, &bytes)| (at, bytes)).chain(watched.leaving.clone());
        let watch = Watch { meanwhile: meanwhile.collect(), all_along };
        watched.watches.push(watch);
    }

    /// It has told what it `found`: what was live all along, once, and nothing that never was.
    pub fn end_watch(&self, found: &[WalkedBlock]) {
        let mut watched = self.watched.lock().unwrap();
        let watch = watched.watches.pop().expect("a walk that has begun");
        assert!(found.is_sorted_by(|one, next| one.address < next.address), "told twice: {found:x?}");
        for (at, bytes) in watch.all_along {
            let told = found.iter().find(|block| block.address == at);
            assert!(
                told.is_some_and(|block| block.size >= bytes),
                "{at:#x}, {bytes} bytes, was not told: {found:x?}"
            );
        }
        let is_one = |block: &WalkedBlock, (at, bytes): (usize, usize)| {
            (block.address, block.kind) == (at, BlockKind::of(bytes, 1)) && block.blocks == 1
        };
        let was_live = |block: &&WalkedBlock| watch.meanwhile.iter().any(|&was| is_one(block, was));
        let others: Vec<_> = found.iter().filter(|block| !was_live(block)).collect();
        // Those that are being handed out are not in the ledger yet.
        assert!(others.len() <= watched.getting, "never live: {others:x?}");
    }

    /// Bytes of a live block.
    pub fn bytes(&self, at: usize) -> usize {
        self.ledger.lock().unwrap()[&at].0
    }

    /// The live blocks.
    pub fn live(&self) -> Vec<usize> {
        self.ledger.lock().unwrap().keys().copied().collect()
    }

    pub fn pass(&self, at: usize) {
        self.passed.lock().unwrap().push(at);
    }

    /// Whether a block is on its way.
    pub fn is_passed(&self) -> bool {
        !self.passed.lock().unwrap().is_empty()
    }

    pub fn passed(&self) -> Option<usize> {
        self.passed.lock().unwrap().pop()
    }

    /// Tidies all heaps, which nobody possesses any more, and demands that the census is the ledger's.
    fn compare_census(&self) {
        let from = self.base.get();
        // What an idle heap received for another it sends on; so once more than there are heaps.
        for _ in 0..=MAX_HEAPS {
            from.collect_idle::<Checked>(THREAD);
        }
        let mut classes = [0; CLASSES];
        let [mut large, mut huge] = [LiveBlocks::default(); 2];
        for &(bytes, _) in self.ledger.lock().unwrap().values() {
            let (sum, bytes) = match BlockKind::of(bytes, 1) {
                BlockKind::Small(class) => {
                    classes[class] += 1;
                    continue;
                }
                BlockKind::Large => (&mut large, bytes),
                BlockKind::Huge => (&mut huge, bytes.next_multiple_of(from.page_size())),
            };
            *sum = LiveBlocks { blocks: sum.blocks + 1, bytes: sum.bytes + bytes as u64 };
        }
        let heap = self.base.possess();
        let census = from.census::<Checked>(heap);
        from.give_up(heap);
        assert_eq!((census.huge, census.possessed), (huge, 1));
        // What lies in an arena that found no place in the table cannot be counted.
        if self.demand_reachable() == 0 {
            assert_eq!(census.classes.map(|class| class.live), classes);
            assert_eq!(census.large, large);
        }
    }

    /// Demands that every region that is mapped can be reached: arenas from the table, but for those that found no
    /// place there, and huge ones from a block or from among those that are kept; and that the counters say what can be
    /// counted. Returns how many arenas found no place. While nobody is in the middle of anything.
    fn demand_reachable(&self) -> usize {
        let from = self.base.get();
        let (arenas, huge, figures) = (from.arenas(), from.huge(), from.huge_figures());
        let mut found = [const { Vec::new() }; crate::region::KINDS];
        for at in self.base.os.mappings().into_iter().flat_map(|mapping| mapping.range.step_by(SLICE)) {
            if let Found::Region(region) = from.space().index().lookup_coarse(at)
                && region.base() == at
            {
                found[region.kind() as usize].push(region);
            }
        }
        let counts = from.space().counts();
        assert_eq!(
            found.each_ref().map(Vec::len),
            counts.regions,
            "regions attached and regions in the index"
        );
        let [of_arenas, of_huge, ..] = found;
        let outside = of_arenas.iter().filter(|region| Arenas::is_outside(region)).count();
        assert_eq!(of_arenas.len(), arenas.listed() + outside, "arenas in the index and in the table");
        let (mut live, mut kept) = (Vec::new(), Vec::new());
        of_huge.into_iter().for_each(|region| match region.huge().used() {
            0 => kept.push(region),
            _ => live.push(region),
        });
        let ledger = self.ledger.lock().unwrap();
        assert!(
            live.iter().all(|region| ledger.contains_key(&(region.base() + region.huge().colour()))),
            "a huge block that nobody has"
        );
        assert_eq!(live.len(), figures.live_blocks().get(), "huge blocks");
        let used = live.into_iter().map(|region| region.huge().used()).sum::<usize>();
        assert_eq!(used, figures.live_bytes().get(), "their bytes");
        let is_kept = |region: &Region| huge.each_kept().any(|kept| ptr::eq(kept, region));
        assert!(kept.into_iter().all(is_kept), "a huge region that nothing leads to");
        let (mut held, heap) = (0, self.base.possess());
        {
            let _section = heap.section(from);
            arenas.each_run(|slab| {
                if matches!(slab.usage(), Usage::Slab | Usage::Large) {
                    held += slab.slices() as usize;
                }
            });
        }
        from.give_up(heap);
        assert_eq!(held, from.claimed_slices(), "slices of blocks and slabs, and slices claimed");
        let is_small = |(bytes, _): &&(usize, u8)| matches!(BlockKind::of(*bytes, 1), BlockKind::Small(_));
        let small = ledger.values().filter(is_small).count();
        assert!(from.audit::<Checked>().is_none_or(|live| live == small), "live blocks of slabs");
        outside
    }

    /// Demands that no counter has wrapped, not even for a moment: each counts what lies in the address space that
    /// there is.
    pub fn demand_bounds(&self) {
        let (from, most) = (self.base.get(), self.base.os.range().len());
        let counts = from.space().counts();
        let bytes = [
            from.huge_figures().kept_bytes().get(),
            from.huge_figures().live_bytes().get(),
            counts.mapped,
            counts.metadata,
        ];
        assert!(bytes.iter().all(|bytes| *bytes <= most), "kept, live, mapped, metadata: {bytes:x?}");
        let slices = [from.claimed_slices(), from.dirty_slices()];
        assert!(slices.iter().all(|slices| *slices <= most / SLICE), "claimed, dirty: {slices:x?}");
        let others = [from.huge_figures().live_blocks().get(), counts.retired, counts.mappings];
        assert!(others.iter().all(|other| *other <= most / from.page_size()), "blocks, retired: {others:x?}");
        assert!(counts.regions.iter().all(|regions| *regions <= most / SLICE), "{:x?}", counts.regions);
    }

    /// Demands that the census knows of nothing that is left.
    fn demand_nothing(&self, heap: &Heap) {
        let from = self.base.get();
        let census = from.census::<Checked>(heap);
        assert_eq!(census.classes, [ClassCensus::default(); CLASSES]);
        assert_eq!([census.small, census.large, census.huge], [LiveBlocks::default(); 3]);
        let bytes = [census.free_bytes, census.kept_bytes, census.claimed_bytes, census.dirty_bytes];
        assert_eq!(bytes, [0; 4], "free, kept, claimed, dirty");
        assert_eq!((census.regions, census.retired, census.possessed), ([0; crate::region::KINDS], 0, 1));
        let (mapped, metadata) = (self.base.os.mapped_bytes() as u64, from.space().counts().metadata as u64);
        assert_eq!((census.mapped_bytes, mapped), (metadata, metadata));
        assert!(census.mappings >= self.base.os.mappings().len() as u64);
        let [lookup, space] = [census.bets.lookup, census.bets.space];
        assert_eq!((lookup.taken, space.taken), (lookup.won + lookup.lost, space.won + space.lost));
    }

    /// Gives everything back and demands that nothing is left.
    pub fn finish(&self) {
        let from = self.base.get();
        self.compare_census();
        let actor = Actor::new(self);
        while let Some(at) = self.passed() {
            actor.free(at);
        }
        actor.leave();
        assert!(self.ledger.lock().unwrap().is_empty());
        // What an idle heap received for another it sends on; so once more than there are heaps.
        for _ in 0..=MAX_HEAPS {
            from.collect_idle::<Checked>(THREAD);
        }
        assert_eq!(from.claimed_slices(), 0, "blocks were lost");
        let heap = self.base.possess();
        for _ in 0..3 {
            from.give_back_all(heap.claimant());
        }
        let counts = from.space().counts();
        assert_eq!(counts.regions, [0; crate::region::KINDS], "regions were lost");
        assert_eq!(counts.retired, 0);
        self.demand_nothing(heap);
    }
}

/// A thread with its heap.
pub struct Actor<'a> {
    pub world: &'a World,
    pub from: &'static Allocator<Simulated>,
    pub heap: &'static Heap,
    /// Who the thread is, if it uses the heap's gate.
    gated: Option<ThreadId>,
}

impl<'a> Actor<'a> {
    pub fn new(world: &'a World) -> Actor<'a> {
        Actor::with(world, world.base.possess())
    }

    pub fn with(world: &'a World, heap: &'static Heap) -> Actor<'a> {
        Actor { world, from: world.base.get(), heap, gated: None }
    }

    /// A thread that uses the open gate of its heap, which it possesses as `id`: others may visit it.
    pub fn gated(world: &'a World, heap: &'static Heap, holder: ThreadId) -> Actor<'a> {
        Actor { gated: Some(holder), ..Actor::with(world, heap) }
    }

    /// Does something in the thread's heap, or in a borrowed one while that is visited.
    pub fn step<R>(&self, body: impl FnOnce(&Heap) -> R) -> R {
        let Some(holder) = self.gated else { return body(self.heap) };
        if self.heap.gate().enter() || self.from.readmit(self.heap, holder) {
            let result = body(self.heap);
            self.heap.gate().leave();
            return result;
        }
        let borrowed = loop {
            match self.from.pool().lend(self.from, holder) {
                Some(heap) => break heap,
                None => thread::yield_now(),
            }
        };
        let result = body(borrowed);
        borrowed.settle::<Checked, _>(self.from);
        self.from.give_up(borrowed);
        result
    }

    pub fn get(&self, bytes: usize, zero: bool) -> usize {
        self.try_get(bytes, zero).expect("memory enough")
    }

    /// A block, unless there is no address space for it.
    pub fn try_get(&self, bytes: usize, zero: bool) -> Option<usize> {
        // SAFETY: this thread possesses the heap, and is inside.
        self.got(bytes, zero, |heap| unsafe { self.from.allocate::<Checked>(heap, bytes, 1, zero) })
    }

    /// A large block for one that has to move to grow, unless there is no room to grow.
    pub fn try_get_to_grow(&self, bytes: usize) -> Option<usize> {
        self.got(bytes, false, |heap| self.from.allocate_to_grow(heap.claimant(), bytes, true))
    }

    fn got(&self, bytes: usize, zero: bool, get: impl FnOnce(&Heap) -> *mut u8) -> Option<usize> {
        self.world.gets(true);
        let block = self.step(get);
        if block.is_null() {
            self.world.gets(false);
            return None;
        }
        let at = block.expose_provenance();
        if zero {
            self.world.demand_place(at);
            for end in World::ends(at, bytes) {
                // SAFETY: the block is ours, and mapped.
                assert_eq!(unsafe { end.cast::<[u8; 16]>().read() }, [0; 16], "not zero");
            }
        }
        self.world.enter(at, bytes);
        self.world.gets(false);
        Some(at)
    }

    pub fn free(&self, at: usize) {
        self.world.demand_bounds();
        let (place, ..) = self.world.leave(at);
        self.step(|heap| {
            // What the fast path of a free asks.
            // SAFETY: a slab that a heap finds at once is its own, and holds its arena; its fields are atomics here.
            if let Some(slab) = unsafe { heap.own_slab(at).slab().as_ref() }
                && slab.starts_block(at)
            {
                assert!(ptr::eq(slab.owner(), heap), "a heap takes another's slab for its own");
                assert_eq!(heap.own_slab(at).bin(), slab.bin(), "a block goes into another class's bin");
            }
            // SAFETY: this thread possesses the heap and the block, and is inside.
            unsafe { self.from.free::<Checked>(heap, ptr::with_exposed_provenance_mut(at), place) };
        });
        self.world.gone(at);
    }

    /// Frees a block, and gives back what the heap keeps: for models of what happens to free slices.
    pub fn release(&self, at: usize) {
        self.free(at);
        self.step(|heap| heap.collect::<Checked, _>(self.from));
    }

    pub fn resize(&self, at: usize, bytes: usize) -> usize {
        self.world.gets(true);
        let (place, before, mark) = self.world.leave(at);
        // SAFETY: this thread possesses the heap and the block, whose kind stays, and is inside.
        let resized = self.step(|heap| unsafe { self.from.resize(heap, place, bytes, 1) });
        let now = resized.map_or(at, pointer_address);
        self.world.demand_place(now);
        // SAFETY: the block is ours, and mapped.
        let kept = unsafe { ptr::with_exposed_provenance::<[u8; 16]>(now).read() };
        assert_eq!(kept, [mark; 16], "the contents did not come along to {now:#x}");
        self.world.enter(now, if resized.is_some() { bytes } else { before });
        self.world.gone(at);
        self.world.gets(false);
        now
    }

    /// What a thread does when it exits.
    pub fn leave(self) {
        match self.gated {
            Some(holder) => self.from.leave_heap::<Checked>(self.heap, holder),
            None => {
                self.heap.settle::<Checked, _>(self.from);
                self.from.give_up(self.heap);
            }
        }
    }
}

fn pointer_address(block: *mut u8) -> usize {
    block.expose_provenance()
}

/// Starts a thread of the model.
pub fn spawn(world: &Arc<World>, body: impl FnOnce(&World) + Send + 'static) -> thread::JoinHandle<()> {
    let world = Arc::clone(world);
    thread::spawn(move || body(&world))
}

/// A thread that claims a few slices for a moment, beside others who cut runs off.
pub fn claims_slices(world: &World) {
    let actor = Actor::new(world);
    let blocks = [(); 3].map(|()| actor.get(SLICE, false));
    thread::yield_now();
    blocks.into_iter().for_each(|at| actor.free(at));
    actor.leave();
}

/// Waits for threads of the model.
pub fn join(threads: impl IntoIterator<Item = thread::JoinHandle<()>>) {
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

/// A helper that sleeps whenever it finds nothing idle, and does nothing else: so what threads leave behind stays.
/// Whoever makes memory idle has to wake it then, also if there was some before.
pub struct Dozing {
    over: Arc<AtomicUsize>,
    thread: thread::JoinHandle<()>,
}

impl Dozing {
    pub fn start(world: &Arc<World>) -> Dozing {
        let over = Arc::new(AtomicUsize::new(0));
        let told = Arc::clone(&over);
        let thread = spawn(world, move |world| {
            let from = world.base.get();
            // Relaxed: the bell orders it.
            let is_over = || told.load(Ordering::Relaxed) != 0;
            while !is_over() {
                if from.has_idle_memory() {
                    thread::yield_now();
                } else {
                    from.bell().doze(&world.base.os, None, || is_over() || from.has_idle_memory());
                }
            }
        });
        Dozing { over, thread }
    }

    /// Once the others have ended: if they left idle memory, the helper is awake, or was woken. Else it sleeps for
    /// ever, which the checker reports.
    pub fn end(self, world: &World) {
        let from = world.base.get();
        self.over.store(1, Ordering::Relaxed);
        if !from.has_idle_memory() {
            from.ring();
        }
        self.thread.join().unwrap();
    }
}
