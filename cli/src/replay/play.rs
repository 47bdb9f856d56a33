//! Makes the calls of a trace, each by a thread of its own number.
//!
//! Order between threads is kept in three ways. Calls on one block come one after the other, as the trace has them. No
//! thread is more than two windows of calls ahead of another. And a thread starts when those have ended that ended
//! before it in the trace, so that no more are there at a time than were.

use crate::text::bytes;
use specmalloc_trace::Call;
use specmalloc_trace::steps::{Step, Steps};
use std::cell::UnsafeCell;
use std::collections::BTreeSet;
use std::ffi::c_void;
use std::ptr::null_mut;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

/// Calls of all threads that make a window.
const WINDOW: usize = 4096;
/// What futex is to do, among the threads of this process.
const SLEEP: i32 = libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG;
const WAKE: i32 = libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG;
/// Bytes of a thread's stack.
const STACK: usize = 64 << 10;

/// A block that is handed out, if its start is not null, and how many calls on its slot were made.
struct Slot {
    turn: AtomicU32,
    block: UnsafeCell<Block>,
}

// SAFETY: the block is touched only by the thread whose turn it is.
unsafe impl Sync for Slot {}

struct Block {
    start: *mut u8,
    size: usize,
}

/// A trace on its way.
pub(super) struct Player {
    steps: Steps,
    slots: Vec<Slot>,
    /// For each thread the places of its steps; none where there is one thread.
    places: Vec<Vec<u32>>,
    /// All that a pass needs is made beforehand: the allocator is to see no calls but those of the trace.
    parts: Vec<Part>,
    /// How many calls of each window were made.
    windows: Vec<AtomicU32>,
    failed: AtomicBool,
    why: Mutex<Option<String>>,
}

/// A thread of the trace, and what is given to it. (The first one's is given to the thread that starts the others.)
struct Part {
    player: AtomicPtr<Player>,
    thread: usize,
    /// Once it is started; for the starter alone.
    id: AtomicU64,
    /// The threads that have ended in the trace before this one begins, but not before one that began earlier.
    ended: Vec<usize>,
}

impl Player {
    pub(super) fn new(steps: Steps) -> Result<Player, String> {
        let count = steps.steps.len();
        u32::try_from(count).map_err(|_| "the trace has too many calls".to_owned())?;
        let mut places = vec![Vec::new(); steps.threads];
        if steps.threads > 1 {
            for (place, step) in steps.steps.iter().enumerate() {
                places[step.thread as usize].push(place as u32);
            }
        }
        let slot = |_| Slot { turn: AtomicU32::new(0), block: UnsafeCell::new(Block::NONE) };
        Ok(Player {
            slots: (0..steps.slots).map(slot).collect(),
            parts: parts(&places),
            windows: (0..count.div_ceil(WINDOW)).map(|_| AtomicU32::new(0)).collect(),
            places,
            steps,
            failed: AtomicBool::new(false),
            why: Mutex::new(None),
        })
    }

    /// Goes through the trace once, and frees what is left.
    pub(super) fn play(&mut self) -> Result<(), String> {
        if self.steps.threads > 1 {
            self.play_threads()?;
        } else {
            let (steps, slots) = (&self.steps.steps, &mut self.slots);
            steps
                .iter()
                .try_for_each(|step| make(step, slots[step.slot as usize].block.get_mut(), step.slot))?;
        }
        if let Some(why) = self.why.get_mut().ok().and_then(Option::take) {
            return Err(why);
        }
        for (number, slot) in self.slots.iter_mut().enumerate() {
            slot.block.get_mut().free(number as u32)?;
            *slot.turn.get_mut() = 0;
        }
        self.windows.iter_mut().for_each(|window| *window.get_mut() = 0);
        Ok(())
    }

    /// The first thread of the trace is this one; another one starts the others.
    fn play_threads(&self) -> Result<(), String> {
        for part in &self.parts {
            // Relaxed: before any of them is started.
            part.player.store(std::ptr::from_ref(self).cast_mut(), Ordering::Relaxed);
        }
        let starter = &self.parts[0];
        if !start(starter, start_others) {
            return Err(NO_THREAD.to_owned());
        }
        self.play_part(0);
        join(starter);
        Ok(())
    }

    /// Starts the other threads, each in its time, and sees them end.
    fn start_others(&self) {
        for part in &self.parts[1..] {
            part.ended.iter().for_each(|&thread| join(&self.parts[thread]));
            let first = self.places[part.thread].first().map_or(0, |place| *place as usize);
            self.wait_for_window(first / WINDOW);
            if !start(part, play_part) {
                self.fail(NO_THREAD.to_owned());
            }
        }
        self.parts[1..].iter().for_each(join);
    }

    fn play_part(&self, thread: usize) {
        let (mut window, mut made) = (0, 0);
        for &place in &self.places[thread] {
            let own = place as usize / WINDOW;
            if own != window {
                self.add(window, made);
                (window, made) = (own, 0);
                self.wait_for_window(own);
            }
            let step = &self.steps.steps[place as usize];
            let slot = &self.slots[step.slot as usize];
            // Acquire: pairs with the Release store below of whoever came before.
            self.wait(|| slot.turn.load(Ordering::Acquire) == step.turn);
            // Relaxed: one more call or less does not matter.
            if self.failed.load(Ordering::Relaxed) {
                return;
            }
            // SAFETY: it is this thread's turn, until it says so below.
            if let Err(why) = make(step, unsafe { &mut *slot.block.get() }, step.slot) {
                return self.fail(why);
            }
            // Release: the block goes to whoever comes next.
            slot.turn.store(step.turn + 1, Ordering::Release);
            made += 1;
        }
        self.add(window, made);
    }

    fn size(&self, window: usize) -> u32 {
        WINDOW.min(self.steps.steps.len() - window * WINDOW) as u32
    }

    /// Notes that calls of a window were made. Whoever makes the last one wakes those who wait for it.
    fn add(&self, window: usize, made: u32) {
        let count = &self.windows[window];
        // Release: pairs with the Acquire load of whoever waits for the window.
        if count.fetch_add(made, Ordering::Release) + made == self.size(window) {
            // SAFETY: wakes who sleeps at this address; nothing is read or written.
            unsafe { libc::syscall(libc::SYS_futex, count.as_ptr(), WAKE, i32::MAX) };
        }
    }

    /// Until all calls are made that come before the window before `window`.
    ///
    /// It is enough to ask for the last two windows of these: who made their calls has waited for those before.
    fn wait_for_window(&self, window: usize) {
        for before in window.saturating_sub(3)..window.saturating_sub(1) {
            let (count, size) = (&self.windows[before], self.size(before));
            loop {
                // Acquire: pairs with the Release addition of each thread.
                let made = count.load(Ordering::Acquire);
                // Relaxed: seen sooner or later.
                if made == size || self.failed.load(Ordering::Relaxed) {
                    break;
                }
                // Who fails wakes nobody.
                let most = libc::timespec { tv_sec: 0, tv_nsec: 50_000_000 };
                // SAFETY: sleeps while the number is `made`; both are there until it returns.
                unsafe { libc::syscall(libc::SYS_futex, count.as_ptr(), SLEEP, made, &raw const most) };
            }
        }
    }

    fn wait(&self, done: impl Fn() -> bool) {
        let mut looks = 0;
        // Relaxed: seen sooner or later.
        while !done() && !self.failed.load(Ordering::Relaxed) {
            looks += 1;
            match looks {
                ..1024 if looks % 64 > 0 => std::hint::spin_loop(),
                ..1024 => std::thread::yield_now(),
                // Whoever is waited for may have much to do before.
                _ => std::thread::sleep(Duration::from_micros(50)),
            }
        }
    }

    /// The others stop, too.
    fn fail(&self, why: String) {
        if let Ok(mut first) = self.why.lock() {
            first.get_or_insert(why);
        }
        self.failed.store(true, Ordering::Relaxed);
    }
}

const NO_THREAD: &str = "no thread could be started";

/// A part for each thread, whose calls are at these places.
fn parts(places: &[Vec<u32>]) -> Vec<Part> {
    let end = |thread: usize| places[thread].last().copied();
    // Those that run, the first to end at the front. The first thread of all is not waited for.
    let mut running = BTreeSet::new();
    (0..places.len())
        .map(|thread| {
            let mut ended = Vec::new();
            let first = places[thread].first().copied();
            while running.first().is_some_and(|(end, _)| *end < first) {
                ended.extend(running.pop_first().map(|(_, other)| other));
            }
            if thread > 0 {
                running.insert((end(thread), thread));
            }
            Part { player: AtomicPtr::default(), thread, id: AtomicU64::new(0), ended }
        })
        .collect()
}

/// Starts a thread by the C library's own function: std's would allocate more than that does.
fn start(part: &Part, main: extern "C" fn(*mut c_void) -> *mut c_void) -> bool {
    let mut id = 0;
    // SAFETY: attributes that are made and given up here; the part is there until the thread has been joined.
    let error = unsafe {
        let mut attributes = std::mem::zeroed();
        libc::pthread_attr_init(&raw mut attributes);
        libc::pthread_attr_setstacksize(&raw mut attributes, STACK.max(libc::PTHREAD_STACK_MIN));
        let argument = std::ptr::from_ref(part).cast_mut().cast();
        let error = libc::pthread_create(&raw mut id, &raw const attributes, main, argument);
        libc::pthread_attr_destroy(&raw mut attributes);
        error
    };
    if error == 0 {
        // Relaxed: whoever starts a thread sees it end, too.
        part.id.store(id, Ordering::Relaxed);
    }
    error == 0
}

/// Sees a thread end, if it was started and that was not done.
fn join(part: &Part) {
    // Relaxed: as above.
    let id = part.id.swap(0, Ordering::Relaxed);
    if id != 0 {
        // SAFETY: a thread that was started here, and is joined once.
        unsafe { libc::pthread_join(id, null_mut()) };
    }
}

/// The player, and the number of the thread.
///
/// # Safety
/// `part` is what `start` was given.
unsafe fn given(part: *mut c_void) -> (&'static Player, usize) {
    // SAFETY: the player waits for the thread. Relaxed: it was stored before the thread was started.
    unsafe {
        let part = &*part.cast::<Part>();
        (&*part.player.load(Ordering::Relaxed), part.thread)
    }
}

extern "C" fn play_part(part: *mut c_void) -> *mut c_void {
    // SAFETY: what `start` was given.
    let (player, thread) = unsafe { given(part) };
    player.play_part(thread);
    null_mut()
}

extern "C" fn start_others(part: *mut c_void) -> *mut c_void {
    // SAFETY: what `start` was given.
    unsafe { given(part) }.0.start_others();
    null_mut()
}

const PAGE: usize = 4096;
const MARK: usize = size_of::<usize>();

/// Makes one call of the trace.
fn make(step: &Step, block: &mut Block, slot: u32) -> Result<(), String> {
    let size = step.size as usize;
    // SAFETY: any sizes may be asked for; the block is null, or one of malloc's that nobody has freed.
    let start = unsafe {
        match step.kind {
            0 => libc::malloc(size),
            1 => libc::calloc(1, size),
            2 => aligned(1 << step.shift, size),
            3 => {
                block.look(slot)?;
                libc::realloc(block.start.cast(), size)
            }
            _ => return block.free(slot),
        }
    };
    block.note(slot, start.cast(), size)
}

const _: () = assert!(Call::NAMES.len() == 5, "malloc, calloc, aligned, realloc, and free above");

/// # Safety
/// `align` is a power of two.
unsafe fn aligned(align: usize, size: usize) -> *mut c_void {
    let mut start = null_mut();
    // SAFETY: the caller's; `start` is valid for the write.
    let error = unsafe { libc::posix_memalign(&raw mut start, align.max(size_of::<usize>()), size) };
    if error == 0 { start } else { null_mut() }
}

impl Block {
    const NONE: Block = Block { start: null_mut(), size: 0 };

    /// Writes to a block that was handed out: to its start, and once in each page.
    fn note(&mut self, slot: u32, start: *mut u8, size: usize) -> Result<(), String> {
        if start.is_null() && size > 0 {
            return Err(format!("the allocator had no {} for a block", bytes(size as u64)));
        }
        *self = Block { start, size };
        // SAFETY: the block has `size` bytes, which are this program's.
        unsafe {
            (0..size).step_by(PAGE).skip(1).for_each(|at| start.add(at).write_volatile(1));
            if size >= MARK {
                start.cast::<usize>().write_unaligned(slot as usize);
            }
        }
        Ok(())
    }

    /// Looks at what was written to the block.
    fn look(&self, slot: u32) -> Result<(), String> {
        if self.start.is_null() || self.size < MARK {
            return Ok(());
        }
        // SAFETY: a block that is handed out has `size` bytes, and these were written.
        let found = unsafe { self.start.cast::<usize>().read_unaligned() };
        if found == slot as usize {
            Ok(())
        } else {
            Err(format!("the block at {:p} was overwritten by another", self.start))
        }
    }

    fn free(&mut self, slot: u32) -> Result<(), String> {
        if self.start.is_null() {
            return Ok(());
        }
        self.look(slot)?;
        // SAFETY: a block of malloc's that nobody has freed.
        unsafe { libc::free(self.start.cast()) };
        *self = Block::NONE;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use specmalloc_trace::Trace;

    #[test]
    fn threads_make_the_calls_in_an_order_that_the_trace_allows() {
        let mut trace = Trace::default();
        let (mut live, threads) = (Vec::new(), 20);
        for call in 0..50_000_u32 {
            // Later threads come when earlier ones have gone.
            let thread = if call < 100 { call % 5 } else { call % 5 + call / 100 % (threads - 5) };
            let thread = thread.min(trace.threads() as u32);
            let call = match live.len() {
                0..50 => Call::Malloc { size: u64::from(call % 999) },
                len if call % 3 == 0 => Call::Realloc { block: live[call as usize % len], size: 77 },
                len => Call::Free { block: live.swap_remove(call as usize % len) },
            };
            let block = trace.push(thread, call).unwrap();
            if call.kind() == 0 {
                live.push(block);
            }
        }
        let mut player = Player::new(Steps::take(&mut trace)).unwrap();
        for _ in 0..2 {
            player.play().unwrap();
        }
    }

    #[test]
    fn who_waits_for_others_calls_sleeps_and_is_woken() {
        let mut trace = Trace::default();
        for call in 0..WINDOW as u32 * 3 {
            trace.push(0, Call::Malloc { size: call.into() }).unwrap();
        }
        let player = Player::new(Steps::take(&mut trace)).unwrap();
        let waiter = AtomicU32::new(0);
        std::thread::scope(|scope| {
            let handle = scope.spawn(|| {
                // SAFETY: always succeeds.
                waiter.store(unsafe { libc::gettid() } as u32, Ordering::Relaxed);
                player.wait_for_window(2);
            });
            let sleeps = || {
                let stat = format!("/proc/self/task/{}/stat", waiter.load(Ordering::Relaxed));
                std::fs::read_to_string(stat).is_ok_and(|stat| stat.contains(") S "))
            };
            player.add(0, 1);
            let begun = std::time::Instant::now();
            while !sleeps() {
                assert!(begun.elapsed() < Duration::from_secs(20), "it never sleeps");
            }
            player.add(0, WINDOW as u32 - 1);
            handle.join().unwrap();
        });
    }

    #[test]
    fn an_overwritten_block_and_one_that_there_is_no_memory_for_are_errors() {
        let step = |kind, size, shift| Step { size, slot: 3, turn: 0, thread: 0, kind, shift };
        let mut block = Block::NONE;
        make(&step(2, 64, 12), &mut block, 3).unwrap();
        assert!(block.start.addr().is_multiple_of(4096));
        // SAFETY: the block has 64 bytes.
        unsafe { block.start.write(77) };
        assert!(make(&step(4, 0, 0), &mut block, 3).unwrap_err().contains("overwritten"));
        assert!(make(&step(0, u64::MAX / 4, 0), &mut block, 3).unwrap_err().contains("had no"));
    }
}
