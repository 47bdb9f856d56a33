//! fork, by shuttle: at any step of the other threads a child begins, in which they no longer exist. A scheduler in
//! this file runs them up to that step and from then on the child alone. Stores to what a thread owns are steps, too.
//!
//! What the child must find: no live block is handed out a second time, those of the vanished threads can be freed, and
//! each of these threads has taken at most one block with it (a parcel is one, here), and the slices that it had in hand.

use super::world::{Actor, HUGE, MEDIUM, PAGE, World, join, spawn};
use super::*;
use crate::base::SMALL_MAX;
use crate::sync::checker::{config, count_execution, models};
use crate::sync::set_steps;
use shuttle::scheduler::{Schedule, Scheduler, Task, TaskId};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicUsize as Count, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

/// Every place that can be weakened, and the model that must fail then.
const SEEDED: &[SeededBug] = &[
    SeededBug::new(
        "heap.child_keeps_unborn",
        "the look for a list of blocks that were never out",
        "forked_in_slabs",
    ),
    SeededBug::new(
        "heap.child_keeps_taken",
        "the look for a list that is a bin's and a slab's",
        "forked_in_take_over",
    ),
    SeededBug::new(
        "heap.child_keeps_spared",
        "what a slab that was about to be closed says of untouched bytes",
        "forked_in_visits",
    ),
    SeededBug::new(
        "heap.child_keeps_received",
        "the look for a chain that is in two places",
        "forked_in_receive",
    ),
    SeededBug::new(
        "heap.inbox_take_in_hand",
        "the place of what is taken from an inbox",
        "forked_in_receive",
    ),
    SeededBug::new(
        "heap.child_keeps_pieces",
        "the forgetting of pieces whose blocks were taken out",
        "forked_in_exchange",
    ),
    SeededBug::new("heap.parcel_of_all", "the bound on what is sent at a time", "forked_in_parcels"),
    SeededBug::new("heap.child_keeps_left", "the counting anew of a piece's blocks", "forked_in_adoption"),
    SeededBug::new(
        "heap.on_its_way_untold",
        "the order of a run's way and of telling it",
        "forked_in_receive",
    ),
    SeededBug::new(
        "heap.child_keeps_on_its_way",
        "the look for a run that was on its way to its slab's list",
        "forked_in_receive",
    ),
    SeededBug::new(
        "heap.forget_before_adopt",
        "the order of freeing what waits and of forgetting it",
        "forked_in_adoption",
    ),
    SeededBug::new("heap.child_keeps_available", "the forgetting of lists of slabs", "forked_in_slabs"),
    SeededBug::new(
        "heap.child_drops_owners",
        "the heaps of vanished threads, which the child makes idle",
        "forked_in_exchange",
    ),
    SeededBug::new("heap.child_keeps_count", "the counting anew of what is kept", "forked_in_runs"),
    SeededBug::new("heap.child_keeps_spare_count", "the counting anew of spare slices", "forked_in_runs"),
    SeededBug::new(
        "heap.table_given_early",
        "the order of leaving a table and of giving it to others",
        "forked_in_tables",
    ),
    SeededBug::new("heap.entered_without_bin", "the order of a slab's bin and the slab", "forked_in_tables"),
    SeededBug::new("heap.table_mask_kept", "the mask that suits both tables", "forked_in_tables"),
    SeededBug::new(
        "heap.child_lost_uncounted",
        "the look whether a slab that is closed was counted",
        "forked_beyond_the_table",
    ),
    SeededBug::new(
        "heap.child_keeps_hints",
        "the look for idle heaps that are not noted",
        "forked_in_adoption",
    ),
    SeededBug::new("heap.child_keeps_visits", "the end of a vanished visitor's visit", "forked_in_visits"),
    SeededBug::new(
        "heap.child_keeps_torn",
        "the mending of a heap whose visitor vanished",
        "forked_in_visits",
    ),
    SeededBug::new(
        "heap.child_keeps_listed",
        "the look for blocks on fallow pages that are in a list",
        "forked_in_fallow",
    ),
    SeededBug::new(
        "heap.hollow_noted_early",
        "the order of telling pages that were given back, and noting it",
        "forked_in_fallow",
    ),
    SeededBug::new(
        "heap.hollow_noted_late",
        "the order of noting that pages are used again, and telling it",
        "forked_in_fallow",
    ),
    SeededBug::new("rcu.child_keeps_sections", "the closing of vanished threads' sections", "forked_in_runs"),
    SeededBug::new("rcu.child_keeps_lock", "the freeing of a vanished reclaimer's lock", "forked_in_runs"),
];

/// Forks in each model. Not more, for what vanishes keeps its stack, and the system has no more mappings for stacks.
const MOST: usize = 900;
/// Threads that vanish.
const VICTIMS: usize = 2;
/// The thread that plays the child: the first one that a model starts.
const CHILD: usize = 1;

const CHILD_THREAD: ThreadId = ThreadId::new(2);

/// Runs the threads of a model in turns of random length until a certain step, and the child alone from there: at each
/// step several times, or at one step in every few in a model of many.
#[derive(Default)]
struct Forks {
    most: usize,
    stride: usize,
    random: u64,
    /// The step at which the child begins, and the one that it is.
    at: usize,
    step: usize,
    /// Steps of the first execution, which finds out how many there are.
    steps: usize,
    forked: bool,
}

impl Forks {
    fn draw(&mut self, bound: usize) -> usize {
        // xorshift64 (Marsaglia, 2003).
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random % bound as u64) as usize
    }
}

impl Scheduler for Forks {
    fn new_execution(&mut self) -> Option<Schedule> {
        if self.steps == 0 {
            self.steps = self.step;
            self.at = if self.step == 0 { usize::MAX } else { 0 };
        } else {
            self.most = self.most.checked_sub(1)?;
            // Turns differ: each time round is another one. A few steps more, for other turns may take longer.
            self.at = (self.at + self.stride) % (self.steps + self.steps / 16);
        }
        if self.steps > 0 && self.stride == 0 {
            self.stride = self.steps.div_ceil(self.most);
        }
        (self.step, self.forked) = (0, false);
        Some(Schedule::new(self.random))
    }

    fn next_task(&mut self, tasks: &[&Task], current: Option<TaskId>, _: bool) -> Option<TaskId> {
        let (child, others): (Vec<TaskId>, Vec<TaskId>) =
            tasks.iter().map(|task| task.id()).partition(|id| usize::from(*id) == CHILD);
        let has_child = !child.is_empty();
        self.step += usize::from(has_child && !self.forked);
        if self.forked || others.is_empty() || has_child && self.step >= self.at {
            self.forked = true;
            return child.first().copied();
        }
        match current.filter(|current| others.contains(current)) {
            Some(current) if self.draw(8) != 0 => Some(current),
            _ => Some(others[self.draw(others.len())]),
        }
    }

    fn next_u64(&mut self) -> u64 {
        self.draw(usize::MAX) as u64
    }
}

/// Forks while each victim runs its body, and the child's thread is outside its heap. A body finds some of the blocks
/// that the heaps' owners, the child's thread first, passed on beforehand.
fn explore(prepare: fn(&Actor, [&Actor; VICTIMS]), bodies: [fn(Actor); VICTIMS]) {
    let begun_and_ended = Arc::new([Count::new(0), Count::new(0)]);
    let counts = Arc::clone(&begun_and_ended);
    let model = move || {
        count_execution();
        counts[0].fetch_add(1, Relaxed);
        set_steps(true);
        let world = World::new();
        let (own, heaps) =
            (world.base.possess_as(CHILD_THREAD), [(); VICTIMS].map(|()| world.base.possess()));
        let actors = heaps.map(|heap| Actor::with(&world, heap));
        prepare(&Actor::with(&world, own), [&actors[0], &actors[1]]);
        world.base.get().open_gate(own);
        let counts = Arc::clone(&counts);
        // Victims that are in their bodies: the others have nothing in hand.
        let inside = Arc::new(Count::new(0));
        let vanished = Arc::clone(&inside);
        let child = spawn(&world, move |world| {
            run_child(world, own, vanished.load(Relaxed));
            counts[1].fetch_add(1, Relaxed);
        });
        let victims = heaps.into_iter().zip(bodies).map(|(heap, body)| {
            let inside = Arc::clone(&inside);
            spawn(&world, move |world| {
                inside.fetch_add(1, Relaxed);
                body(Actor::with(world, heap));
                inside.fetch_sub(1, Relaxed);
            })
        });
        join(victims.collect::<Vec<_>>());
        join([child]);
    };
    let scheduler = Forks { most: MOST, random: 0x9e37_79b9_7f4a_7c15, ..Forks::default() };
    let ended = catch_unwind(AssertUnwindSafe(|| {
        shuttle::Runner::new(scheduler, config()).run(model);
    }));
    set_steps(false);
    if let Err(failure) = ended {
        resume_unwind(failure);
    }
    let [begun, ended] = [0, 1].map(|which| begun_and_ended[which].load(Relaxed));
    assert_eq!(ended, begun, "a child did not come to its end");
}

fn run_child(world: &World, own: &'static Heap, vanished: usize) {
    let from = world.base.get();
    // SAFETY: the scheduler runs no other thread from here on.
    unsafe { from.child_after_fork(CHILD_THREAD, 0) };
    from.audit_child::<Checked>();
    let actor = Actor::gated(world, own, CHILD_THREAD);
    let sizes = [MEDIUM, MEDIUM, MEDIUM, SLICE, MEDIUM, MEDIUM, HUGE, MEDIUM, MEDIUM, MEDIUM, SLICE, MEDIUM];
    let fresh = sizes.map(|bytes| actor.get(bytes, false));
    fresh.into_iter().for_each(|at| actor.free(at));
    // As the next threads of the child, too: all that the vanished ones held is used again.
    let others: Vec<_> =
        (0..VICTIMS).map(|_| Actor::with(world, world.base.possess_as(CHILD_THREAD))).collect();
    for (turn, at) in world.live().into_iter().enumerate() {
        others.get(turn % (VICTIMS + 1)).unwrap_or(&actor).free(at);
    }
    let again: Vec<_> = others.iter().flat_map(|other| sizes.map(|bytes| other.get(bytes, false))).collect();
    again.into_iter().for_each(|at| actor.free(at));
    others.into_iter().for_each(Actor::leave);
    actor.leave();
    for _ in 0..=MAX_HEAPS {
        from.collect_idle::<Checked>(CHILD_THREAD);
    }
    let heap = world.base.possess_as(CHILD_THREAD);
    (0..3).for_each(|_| from.give_back_all(heap.claimant()));
    let lost = Mutex::new((0, 0));
    {
        let _section = heap.section(from);
        from.arenas().each_run(|slab| {
            let (blocks, slices) = match slab.usage() {
                Usage::Slab => (slab.live() as usize, slab.slices() as usize),
                Usage::Large => (1, slab.slices() as usize),
                Usage::Free | Usage::Later => return,
            };
            let mut lost = lost.lock().unwrap();
            *lost = (lost.0 + blocks, lost.1 + slices);
        });
    }
    let (blocks, slices) = lost.into_inner().unwrap();
    let blocks = blocks + from.huge_figures().live_blocks().get();
    assert!(blocks <= vanished, "{blocks} blocks are lost");
    // Slices that belong to no block: some that it was to get or had just lost or that were being purged, or all six of
    // an empty arena that was being closed to be unmapped.
    let others = from.claimed_slices() - slices;
    assert!(others <= 6 * vanished, "{others} slices are lost");
    assert!(from.space().counts().retired <= vanished, "regions are never unmapped");
}

/// Slabs that fill, are used up, become empty, and are tidied.
fn forked_in_slabs() {
    let body = |actor: Actor| {
        let mut blocks: Vec<_> = (0..11).map(|_| actor.get(MEDIUM, false)).collect();
        (0..3).for_each(|_| actor.free(blocks.swap_remove(1)));
        blocks.push(actor.get(MEDIUM, false));
        actor.heap.collect::<Checked, _>(actor.from);
        blocks.push(actor.get(MEDIUM, false));
        blocks.into_iter().for_each(|at| actor.free(at));
        let at = actor.get(MEDIUM, false);
        actor.free(at);
        actor.leave();
    };
    explore(|_, _| {}, [body, body]);
}

/// A bin that takes the list of a slab over.
fn forked_in_take_over() {
    let prepare = |_: &Actor, actors: [&Actor; VICTIMS]| {
        for actor in actors {
            let blocks = [(); 6].map(|()| actor.get(MEDIUM, false));
            // Three stay in the bin, the others go home.
            blocks[..5].iter().for_each(|&at| actor.free(at));
        }
    };
    let body = |actor: Actor| {
        let blocks = [(); 5].map(|()| actor.get(MEDIUM, false));
        actor.free(blocks[0]);
    };
    explore(prepare, [body, body]);
}

/// Pages that are laid fallow, and tilled, or go with their slab.
fn forked_in_fallow() {
    let prepare = |own: &Actor, actors: [&Actor; VICTIMS]| {
        for actor in actors {
            let blocks = [(); 6].map(|()| actor.get(PAGE, false));
            [0, 1, 3, 4].into_iter().for_each(|index| actor.free(blocks[index]));
            actor.heap.collect::<Checked, _>(actor.from);
            if std::ptr::eq(actor.heap, actors[1].heap) {
                [2, 5].into_iter().for_each(|index| own.world.pass(blocks[index]));
            }
        }
    };
    let tilling = |actor: Actor| {
        actor.heap.give_back_pages::<Checked, _>(actor.from, 1);
        let at = actor.get(PAGE, false);
        actor.heap.collect::<Checked, _>(actor.from);
        actor.free(at);
    };
    let closing = |actor: Actor| {
        actor.heap.give_back_pages::<Checked, _>(actor.from, 1);
        while let Some(at) = actor.world.passed() {
            actor.free(at);
        }
        actor.heap.collect::<Checked, _>(actor.from);
    };
    explore(prepare, [tilling, closing]);
}

/// Blocks that go home, and slabs that change their heap.
fn forked_in_exchange() {
    let prepare = |own: &Actor, actors: [&Actor; VICTIMS]| {
        for actor in actors {
            (0..9).for_each(|_| own.world.pass(actor.get(MEDIUM, false)));
        }
    };
    let body = |actor: Actor| {
        for _ in 0..9 {
            actor.world.passed().into_iter().for_each(|at| actor.free(at));
        }
        let at = actor.get(MEDIUM, false);
        actor.heap.settle::<Checked, _>(actor.from);
        actor.world.passed().into_iter().for_each(|at| actor.free(at));
        actor.free(at);
        actor.heap.collect::<Checked, _>(actor.from);
        actor.leave();
    };
    let leaver = |actor: Actor| {
        let world = actor.world;
        actor.leave();
        let next = Actor::with(world, world.base.possess());
        for _ in 0..4 {
            world.passed().into_iter().for_each(|at| next.free(at));
        }
        next.leave();
    };
    explore(prepare, [body, leaver]);
}

/// Blocks that wait for a heap whose thread has gone meanwhile: the thread that held them back frees them itself, one
/// after the other, and only one of them is in its hands.
fn forked_in_adoption() {
    let prepare = |own: &Actor, [sender, _]: [&Actor; VICTIMS]| {
        let gone = Actor::new(own.world);
        // One more would be sent.
        let blocks = [(); 4].map(|()| gone.get(16, false));
        blocks[..3].iter().for_each(|&at| sender.free(at));
        gone.leave();
    };
    explore(prepare, [|actor| actor.leave(), |actor| actor.leave()]);
}

/// Two pieces that wait, each of which is a parcel: one is in the hands of who sends them while the other waits or is there.
fn forked_in_parcels() {
    let prepare = |_: &Actor, [sender, owner]: [&Actor; VICTIMS]| {
        // Slabs of which some have the same piece. (Of each, one block more would be sent.)
        for bytes in [48, 32, 16] {
            if sender.heap.pinned() < 2 {
                sender.free(owner.get(bytes, false));
                owner.get(SLICE, false);
            }
        }
        assert_eq!(sender.heap.pinned(), 2, "pieces that wait");
    };
    explore(prepare, [|actor| actor.heap.settle::<Checked, _>(actor.from), |_| ()]);
}

/// An inbox that is read: the blocks that were sent are in it, or on their way to their slabs, or there. Each of them
/// comes alone, or two at a time.
fn forked_in_receive() {
    fn send<const BYTES: usize>(own: &Actor, [owner, sender]: [&Actor; VICTIMS]) {
        let world = own.world;
        (0..7).for_each(|_| world.pass(owner.get(BYTES, false)));
        for _ in 0..6 {
            world.passed().into_iter().for_each(|at| sender.free(at));
        }
        sender.heap.settle::<Checked, _>(sender.from);
    }
    // The owner reads it as it leaves.
    for prepare in [send::<MEDIUM>, send::<48>] {
        explore(prepare, [|actor| actor.leave(), |actor| actor.leave()]);
    }
}

/// Runs of slices and regions: claimed, grown, released, purged, unmapped.
fn forked_in_runs() {
    let body = |actor: Actor| {
        let blocks = [SLICE, 2 * SLICE, HUGE].map(|bytes| actor.get(bytes, false));
        let grown = actor.resize(blocks[0], 2 * SLICE);
        actor.free(blocks[1]);
        actor.free(blocks[2]);
        actor.from.purge(actor.heap.claimant(), usize::MAX);
        actor.free(grown);
        actor.from.give_back_all(actor.heap.claimant());
        actor.leave();
    };
    explore(|_, _| {}, [body, body]);
}

/// A heap that is visited: that of the child's thread, and that of another that comes and goes.
fn forked_in_visits() {
    let prepare = |own: &Actor, actors: [&Actor; VICTIMS]| {
        for actor in [own, actors[1]] {
            let mut blocks: Vec<_> = (0..9).map(|_| actor.get(MEDIUM, false)).collect();
            actor.free(blocks.swap_remove(1));
            blocks.into_iter().for_each(|at| own.world.pass(at));
        }
        own.from.open_gate(actors[1].heap);
        // A few blocks on their way to both.
        (0..14).for_each(|_| own.world.passed().into_iter().for_each(|at| actors[0].free(at)));
        actors[0].heap.settle::<Checked, _>(own.from);
    };
    let visitor = |actor: Actor| {
        actor.from.watch_heaps::<Checked>(actor.heap);
        actor.from.watch_heaps::<Checked>(actor.heap);
        actor.from.visit::<Checked>(
            THREAD,
            Gate::mark,
            |_| true,
            |idle| idle.collect::<Checked, _>(actor.from),
        );
        actor.leave();
    };
    let owner = |actor: Actor| {
        let actor = Actor::gated(actor.world, actor.heap, THREAD);
        for _ in 0..3 {
            let at = actor.get(MEDIUM, false);
            actor.world.passed().into_iter().for_each(|at| actor.free(at));
            actor.free(at);
        }
        actor.leave();
    };
    explore(prepare, [visitor, owner]);
}

/// A heap's table of slabs, which is left for a larger one, and for the first when what is free goes back: the audit of the
/// child sees whether one was another heap's next too early, or the mask too long for a moment.
fn forked_in_tables() {
    // A slab of four slices: more than a heap's first table has places.
    let prepare = |_: &Actor, actors: [&Actor; VICTIMS]| {
        actors.into_iter().for_each(|actor| actor.free(actor.get(SMALL_MAX, false)));
    };
    let growing = |actor: Actor| actor.free(actor.get(MEDIUM, false));
    explore(prepare, [growing, growing]);
    let shrinking = |actor: Actor| actor.heap.collect::<Checked, _>(actor.from);
    explore(prepare, [shrinking, shrinking]);
    // A slab of another class takes the place of one in the arena before.
    let full = |own: &Actor, actors: [&Actor; VICTIMS]| {
        actors.into_iter().for_each(|actor| _ = actor.get(MEDIUM, false));
        (0..2).for_each(|_| _ = own.get(2 * SLICE, false));
    };
    let entering = |actor: Actor| actor.free(actor.get(PAGE, false));
    explore(full, [entering, entering]);
}

/// What lies in an arena that found no place in the table is not counted anew, and goes back all the same.
fn forked_beyond_the_table() {
    let prepare = |own: &Actor, actors: [&Actor; VICTIMS]| {
        // Two arenas of six slices are all that the table has.
        (0..6).for_each(|_| _ = own.get(2 * SLICE, false));
        actors.into_iter().for_each(|actor| actor.free(actor.get(MEDIUM, false)));
    };
    let body = |actor: Actor| actor.free(actor.get(MEDIUM, false));
    explore(prepare, [body, body]);
}

models! { forked_in_fallow forked_in_tables forked_beyond_the_table forked_in_visits forked_in_slabs forked_in_take_over forked_in_exchange forked_in_adoption forked_in_parcels forked_in_receive forked_in_runs }
