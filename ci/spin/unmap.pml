/*
 * The life of a region, on paper: threads register, read and exit, owners unmap or retire, a reclaimer runs grace
 * periods, and a fork takes all threads but one away at any step.
 *
 * Checked: no access to a region that is unmapped; no region unmapped twice; nobody waits for ever (an invalid end
 * state); every region that was given up is unmapped in the end, in the parent and in the child.
 *
 * spin runs one step after another, so what a processor reorders is written out: a reader's mark may stay in its store
 * buffer, where only a heavy barrier or its own fence gets it out. Orderings of the code itself are loom's part.
 *
 * -D names choose how much there is of everything:
 *   OWNERS=1|2  regions that their owner gives up
 *   FIRST=n     threads with one section each, one after another
 *   SECOND=n    the same beside them, 0 for none
 *   RIVALS      two threads give the first region up
 *   FORK        with a fork
 * and each name in an #ifdef plants one bug; ci/spin.sh demands that every one of them is found.
 */

#define SLOTS 2
#define REGIONS 2

bool membarrier;		/* the flavour */

/* A slot: what others see of its word, and what a waiter noted. */
bool attached[SLOTS], taken[SLOTS];
bool buffered[SLOTS];		/* the mark is stored and not visible yet */
bool inside[SLOTS];
byte generation[SLOTS];		/* modulo 4: there are fewer sections than that */
bool snap_inside[SLOTS];
byte snap_generation[SLOTS];

/* A region. */
bool linked[REGIONS] = true;
bool mapped[REGIONS] = true;
bool excluded[REGIONS];
byte pins[REGIONS];
bool left_to_last_pin[REGIONS];	/* its grace period is over; the last unpin unmaps */

/* The reclaimer. Sets of regions are bit masks. */
mtype = { idle, waiting, cutting };
mtype step = idle;
bool locked;
byte pending, batch, ready;

/* What only the properties look at. */
bool forked;
byte retired;			/* regions whose retire is done */
byte in_done = REGIONS;		/* the region whose `done` runs */
bool late[SLOTS];		/* the open section began after the snapshot of the batch that is on its way */
byte lost = REGIONS;		/* the region whose `done` ran in a thread that vanished */

#define BIT(r) (1 << (r))
#define ENDED(s, was_inside, was_generation) \
	(!was_inside || !inside[s] || CHANGED(s, was_generation))
#ifdef EVEN_ONLY
#define CHANGED(s, was) false
#else
#define CHANGED(s, was) (generation[s] != was)
#endif
#define SNAPSHOT_ENDED(s) ENDED(s, snap_inside[s], snap_generation[s])
#ifdef NO_WAIT
#define ALL_ENDED true
#else
#define ALL_ENDED (SNAPSHOT_ENDED(0) && SNAPSHOT_ENDED(1))
#endif

/* Everything that is in a store buffer becomes visible. */
inline heavy_barrier() {
	d_step {
#ifndef NO_HEAVY_BARRIER
		if
		:: membarrier ->
			if :: buffered[0] -> inside[0] = true; buffered[0] = false :: else fi;
			if :: buffered[1] -> inside[1] = true; buffered[1] = false :: else fi
		:: else			/* the waiter's own fence: it has nothing buffered */
		fi
#else
		skip
#endif
	}
}

/* ---- readers ---- */

inline mark(s) {
	atomic {
		late[s] = (step == waiting);
		if
		:: buffered[s] = true		/* visible later */
		:: inside[s] = true		/* visible at once */
		fi
	};
#ifndef NO_ENTRY_FENCE
	if
	:: !membarrier && buffered[s] -> d_step { inside[s] = true; buffered[s] = false }
	:: else
	fi
#endif
}

inline leave(s) {
	d_step {
		buffered[s] = false;
		inside[s] = false;
		late[s] = false;
		generation[s] = (generation[s] + 1) % 4
	}
}

inline try_pin(r) {
	atomic {
#ifdef PIN_EXCLUDED
		pins[r]++; pinned = true
#else
		if :: !excluded[r] -> pins[r]++; pinned = true :: else fi
#endif
	}
}

inline unmap(r) {
	assert(mapped[r]);
	assert(pins[r] == 0);
	mapped[r] = false
}

inline unpin(r) {
	pins[r]--;
	if :: pins[r] == 0 && left_to_last_pin[r] -> unmap(r) :: else fi
}

inline section(s, r) {
#ifdef NO_LIGHT_BARRIER
	found = linked[r];
	mark(s);
#else
	mark(s);
	found = linked[r];
#endif
	if
	:: found ->
#ifdef EARLY_LEAVE
		leave(s);
		assert(mapped[r])
#else
		if :: try_pin(r) :: skip fi;
		atomic { assert(mapped[r]); leave(s) }
#endif
	:: !found && late[s] ->
		/* The batch gets done without this reader, so it may stay until then. */
		!late[s];
		leave(s)
	:: !found ->
		leave(s)
	fi;
	if
	:: pinned ->
		atomic { assert(mapped[r]); pinned = false; unpin(r) };
		/* It still knows the descriptor and pins again, without a section and without looking it up. */
		try_pin(r);
		if
		:: pinned -> atomic { assert(mapped[r]); pinned = false; unpin(r) }
		:: !pinned
		fi
	:: !pinned
	fi
}

/* So many threads, one after another, each with one section. */
proctype Reader(byte lives) {
	byte s, r;
	bool found, pinned;

	{ do
	:: atomic { lives != 0 ->
			/* A thread starts with a slot of its own, new or left by one that exited. */
			lives--;
			if :: r = 0 :: OWNERS == 2 -> r = 1 fi;
			if :: !taken[0] -> s = 0 :: else -> s = 1 fi;
			taken[s] = true
		};
#ifndef ATTACH_LATE
		attached[s] = true;
#endif
#ifdef FRESH_GENERATION
		generation[s] = 0;
#endif
		section(s, r);
		/* It exits: the slot stays attached. */
		d_step { attached[s] = true; found = false; taken[s] = false; s = 0; r = 0 }
	:: lives == 0 -> break
	od } unless { forked }
}

/* ---- grace periods ---- */

inline take_snapshots(s) {
	s = 0;
	do
	:: s < SLOTS ->
		atomic {
			snap_inside[s] = inside[s] && attached[s];
			snap_generation[s] = generation[s];
			s++
		}
	:: s == SLOTS -> s = 0; break
	od
}

inline done(r) {
	atomic {
		if
		:: pins[r] == 0 -> unmap(r)
		:: pins[r] != 0 ->
#ifdef TWO_STEPS
			goto_sleep = true
		fi
	};
	if
	:: goto_sleep -> left_to_last_pin[r] = true; goto_sleep = false
	:: else
	fi
#else
			left_to_last_pin[r] = true
		fi
	}
#endif
}

inline hand_over(r) {
	do
	:: step == idle && ready != 0 ->
		if :: ready & BIT(0) -> r = 0 :: else -> r = 1 fi;
#ifdef DONE_BEFORE_POP
		done(r);
		ready = ready & ~BIT(r)
#else
		atomic { ready = ready & ~BIT(r); in_done = r };
		done(r);
		d_step { in_done = REGIONS; r = 0 }
#endif
	:: else -> break
	od
}

inline reclaim(s, r) {
	if
	:: atomic { !locked -> locked = true };
		hand_over(r);
		if
		:: step == idle && pending != 0 ->
#ifdef TAKE_BATCH
			atomic { s = pending; pending = 0 };
			batch = s;
#else
			batch = pending;
#endif
#ifdef SNAPSHOT_FIRST
			take_snapshots(s);
			heavy_barrier();
#else
			heavy_barrier();
			take_snapshots(s);
#endif
			step = waiting
		:: else
		fi;
		if
		:: atomic { step == waiting && ALL_ENDED -> step = cutting; late[0] = false; late[1] = false }
		:: else
		fi;
		if
		:: step == cutting ->
#ifdef BATCH_GROWS
			batch = batch | pending;
#endif
			pending = pending & ~batch;
			ready = batch;
			step = idle
		:: else
		fi;
		hand_over(r);
		locked = false
	:: locked
	fi
}

inline synchronize(s) {
	heavy_barrier();
	s = 0;
	do
	:: s < SLOTS ->
		atomic { seen_inside = inside[s] && attached[s]; seen_generation = generation[s] };
		ENDED(s, seen_inside, seen_generation);
		s++
	:: atomic { s == SLOTS -> s = 0; seen_inside = false; seen_generation = 0 }; break
	od
}

/* Excluding readers that would pin and dropping the base reference is one step, which one of several wins. */
inline exclude(r) {
#ifdef NO_EXCLUDE
	won = true
#else
	atomic { won = !excluded[r]; excluded[r] = true }
#endif
}

inline unlink(r) {
	atomic { assert(linked[r]); linked[r] = false }
}

/* By the winner alone: another could unlink what lies there by then. */
inline detach(r) {
#ifdef UNLINK_FIRST
	unlink(r);
	exclude(r)
#else
	exclude(r);
	if :: won -> unlink(r) :: else fi
#endif
}

inline wait_for_pins(r) {
#ifndef NO_DRAIN
	pins[r] == 0
#else
	skip
#endif
}

inline unmap_and_wait(r, s) {
#ifdef UNLINK_LATE
	exclude(r);
	if :: won -> synchronize(s); unlink(r) :: else fi;
#else
	detach(r);
	if :: won -> synchronize(s) :: else fi;
#endif
	if
	:: won ->
		wait_for_pins(r);
		atomic { unmap(r) }
	:: else
	fi
}

/* Each gives one region up: by retiring it, or by an unmap that waits. A rival may have been there before. */
proctype Owner(byte own) {
	byte r, s, seen_generation;
	bool seen_inside, goto_sleep, won;

	{ if
	:: unmap_and_wait(own, s)
	:: /* free: never waits */
#ifdef RETIRE_LINKED
		atomic { pending = pending | BIT(own); retired = retired | BIT(own) };
		detach(own);
#else
		detach(own);
		if
		:: won -> atomic { pending = pending | BIT(own); retired = retired | BIT(own) }
		:: else
		fi;
#endif
		reclaim(s, r)
	fi } unless { forked }
}

/* ---- the thread that stays: it reclaims what is left, and may fork at any step of the others ---- */

#define SOMETHING_TO_DO \
	(!locked && ((step == waiting && ALL_ENDED) || step == cutting || (step == idle && (pending != 0 || ready != 0))))

inline child_after_fork(s) {
	lost = in_done;
	s = 0;
	do
	:: s < SLOTS ->
		atomic {
			buffered[s] = false;
#ifndef CHILD_KEEPS_SECTIONS
			if :: inside[s] -> leave(s) :: else fi;
#endif
			s++
		}
	:: s == SLOTS -> s = 0; break
	od;
#ifndef CHILD_KEEPS_LOCK
	locked = false
#endif
}

/* Given up for good, and neither pinned by a vanished thread nor with one in the middle of its `done`. */
#define OWED(r) ((retired & BIT(r)) && lost != r && pins[r] == 0)
#define PAID(r) (!OWED(r) || !mapped[r])

proctype Helper() {
	byte r, s, seen_generation;
	bool seen_inside, goto_sleep, won;

	do
	:: SOMETHING_TO_DO -> reclaim(s, r)
	:: !mapped[0] && (OWNERS == 1 || !mapped[1]) -> goto end
#ifdef FORK
	:: atomic { forked = true; _nr_pr == 2 }; break
#endif
	od;
	/* The child. */
	child_after_fork(s);
	do
	:: SOMETHING_TO_DO -> reclaim(s, r)
	:: PAID(0) && PAID(1) -> break
	od;
	r = 0;
	do
	:: r < REGIONS ->
		if
		:: linked[r] && pins[r] == 0 -> unmap_and_wait(r, s)
		:: else
		fi;
		r++
	:: r == REGIONS -> break
	od;
end:	skip
}

init {
	if :: membarrier = true :: membarrier = false fi;
	atomic {
		run Helper();
		run Owner(0);
		if :: OWNERS == 2 -> run Owner(1) :: else fi;
#ifdef RIVALS
		run Owner(0);
#endif
		run Reader(FIRST);
		if :: SECOND != 0 -> run Reader(SECOND) :: else fi
	}
}
