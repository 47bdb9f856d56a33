//! A storm: many threads use every operation of an allocator at once, hand blocks to one another, unmap huge blocks,
//! exit, and fork children that go on with what they find. Every block carries a pattern that is verified whenever the
//! block changes hands.
//!
//! Children of a fork must not wait for a lock that a vanished thread held, so nothing here locks, and whoever finds
//! something wrong writes one line and aborts.

use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Blocks that lie about for any thread to take.
static EXCHANGE: [AtomicPtr<Head>; 512] = [const { AtomicPtr::new(ptr::null_mut()) }; 512];
/// Set when the threads are to stop.
static OVER: AtomicBool = AtomicBool::new(false);
/// Whether threads fork.
static FORKS: AtomicBool = AtomicBool::new(true);
/// Turns of all threads together.
static TURNS: AtomicUsize = AtomicUsize::new(0);

/// Seconds after which a child of a fork is taken to hang.
const CHILD_SECONDS: u32 = 300;

/// An allocator under test.
///
/// # Safety
/// The functions keep the contract of an allocator: blocks are disjoint, large and aligned enough.
pub unsafe trait Memory: 'static {
    /// Whether signal handlers may allocate.
    const HANDLERS: bool;
    /// A block, or null. `choice` picks one of several functions that can do it.
    fn allocate(size: usize, align: usize, zero: bool, choice: usize) -> *mut u8;
    /// The block with another size, or null and the block as it was.
    ///
    /// # Safety
    /// A live block of this size and alignment.
    unsafe fn resize(block: *mut u8, old: usize, align: usize, size: usize) -> *mut u8;
    /// # Safety
    /// As for `resize`; nobody uses the block any more.
    unsafe fn free(block: *mut u8, size: usize, align: usize);
    /// Bytes that may be used.
    ///
    /// # Safety
    /// As for `resize`.
    unsafe fn usable(block: *mut u8, size: usize, align: usize) -> usize;
    /// Gives back what is free.
    fn trim();
}

/// The start of every block.
#[repr(C)]
struct Head {
    size: usize,
    align: usize,
    seed: u64,
    check: u64,
}

const HEAD: usize = size_of::<Head>();

fn mix(value: u64) -> u64 {
    (value ^ value >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9).rotate_left(31)
}

fn fail(what: &str) -> ! {
    let parts = ["stress: ", what, "\n"];
    for part in parts {
        // SAFETY: a readable slice; nothing can be done about an error.
        let _written = unsafe { libc::write(libc::STDERR_FILENO, part.as_ptr().cast(), part.len()) };
    }
    std::process::abort()
}

fn demand(holds: bool, what: &str) {
    if !holds {
        fail(what);
    }
}

struct Random(u64);

impl Random {
    fn next(&mut self) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        (mix(self.0) >> 8) as usize
    }

    fn below(&mut self, bound: usize) -> usize {
        self.next() % bound
    }
}

/// The words behind the head that carry the pattern: all of a small block, a sample of each page of a large one.
fn words(size: usize) -> impl Iterator<Item = usize> {
    let step = if size <= 2048 { 8 } else { 504 };
    (HEAD..size - 7).step_by(step).chain(size.checked_sub(8).filter(|&last| last >= HEAD))
}

/// Writes head and pattern into a fresh block.
///
/// # Safety
/// The block holds `size` bytes, at least [`HEAD`], and is the caller's.
unsafe fn fill(block: *mut u8, size: usize, align: usize, seed: u64) -> *mut Head {
    let head = block.cast::<Head>();
    // SAFETY: the caller's; blocks are aligned to 8.
    unsafe {
        head.write(Head { size, align, seed, check: mix(seed ^ size as u64) });
        for at in words(size) {
            block.add(at).cast::<u64>().write_unaligned(mix(seed ^ at as u64));
        }
    }
    head
}

/// Demands that a block's first `part` bytes are as `fill` left them.
///
/// # Safety
/// The block is live and the caller's.
unsafe fn verify(head: *mut Head, part: usize) {
    // SAFETY: the caller's.
    unsafe {
        let Head { size, align, seed, check } = head.read();
        demand(check == mix(seed ^ size as u64), "the head of a block has changed");
        demand(head.addr().is_multiple_of(align), "a block is not aligned");
        // The word at the end overlaps the last but one; the later of the two was written last.
        let end = words(size).last().unwrap_or(HEAD);
        for at in words(size).filter(|&at| at + 8 <= part && (at + 8 <= end || at == end)) {
            let word = head.cast::<u8>().add(at).cast::<u64>().read_unaligned();
            demand(word == mix(seed ^ at as u64), "the contents of a block have changed");
        }
    }
}

/// Bytes that most requests are below.
fn size(random: &mut Random) -> usize {
    let shift = match random.below(100) {
        0..70 => random.below(6),
        70..97 => 5 + random.below(6),
        97..99 => 10 + random.below(6),
        _ => 15 + random.below(3),
    };
    HEAD + random.below(32 << shift)
}

fn allocate<M: Memory>(random: &mut Random, size: usize) -> *mut Head {
    let align = if random.below(8) == 0 { 16 << random.below(10) } else { 16 };
    let zero = random.below(4) == 0;
    let block = M::allocate(size, align, zero, random.next());
    if block.is_null() {
        return ptr::null_mut();
    }
    // SAFETY: a fresh block of this size.
    unsafe {
        if zero {
            let dirty = words(size).any(|at| block.add(at).cast::<u64>().read_unaligned() != 0);
            demand(!dirty, "a zeroed block is not zero");
        }
        let usable = M::usable(block, size, align);
        demand(usable >= size, "a block is shorter than what was asked for");
        block.add(usable - 1).write(0xa5);
        fill(block, size, align, random.next() as u64)
    }
}

/// Verifies and frees a block, or null.
fn free<M: Memory>(head: *mut Head) {
    if !head.is_null() {
        // SAFETY: blocks in tables and in the exchange are live, and whoever takes one has it alone.
        unsafe {
            verify(head, usize::MAX);
            let Head { size, align, .. } = head.read();
            (*head).check = 0;
            M::free(head.cast(), size, align);
        }
    }
}

fn resize<M: Memory>(random: &mut Random, head: *mut Head, size: usize) -> *mut Head {
    // SAFETY: as in `free`.
    unsafe {
        let Head { size: old, align, seed, .. } = head.read();
        let moved = M::resize(head.cast(), old, align, size);
        if moved.is_null() {
            return head;
        }
        // C's realloc promises the alignment of malloc only.
        let align = if moved.addr().is_multiple_of(align) { align } else { 16 };
        let head = moved.cast::<Head>();
        demand((*head).size == old && (*head).seed == seed, "realloc lost the contents");
        (*head).align = align;
        verify(head, size.min(old));
        fill(moved, size, align, random.next() as u64)
    }
}

/// What a thread holds.
struct Table([*mut Head; 48]);

impl Table {
    fn new() -> Table {
        Table([ptr::null_mut(); 48])
    }

    fn clear<M: Memory>(&mut self) {
        self.0.iter_mut().for_each(|slot| free::<M>(std::mem::replace(slot, ptr::null_mut())));
    }
}

/// One thread's turn.
fn turn<M: Memory>(random: &mut Random, table: &mut Table) {
    let slot = random.below(table.0.len());
    match random.below(1000) {
        0..500 => {
            free::<M>(table.0[slot]);
            let size = size(random);
            table.0[slot] = allocate::<M>(random, size);
        }
        500..750 => {
            // AcqRel: pairs with itself in the thread that put the block there, and in the one that takes this one.
            table.0[slot] = EXCHANGE[random.below(EXCHANGE.len())].swap(table.0[slot], Ordering::AcqRel);
        }
        750..980 if !table.0[slot].is_null() => {
            let size = size(random);
            table.0[slot] = resize::<M>(random, table.0[slot], size);
        }
        750..980 => {}
        980..997 => {
            // The unmap storm: huge blocks come, grow and go.
            let size = (4 << 20) + (1 << 12 << random.below(11));
            let mut head = allocate::<M>(random, size);
            if !head.is_null() && random.below(2) == 0 {
                let size = (5 << 20) + random.below(8 << 20);
                head = resize::<M>(random, head, size);
            }
            free::<M>(head);
        }
        997 => M::trim(),
        998 => {
            // A thread that leaves blocks behind and exits.
            let seed = random.next() as u64;
            let made = std::thread::Builder::new().stack_size(128 << 10).spawn(move || {
                let (mut random, mut table) = (Random(seed), Table::new());
                (0..200).for_each(|_| calm_turn::<M>(&mut random, &mut table));
                for head in table.0 {
                    free::<M>(EXCHANGE[random.below(EXCHANGE.len())].swap(head, Ordering::AcqRel));
                }
            });
            demand(made.is_ok_and(|thread| thread.join().is_ok()), "a thread did not come to its end");
        }
        _ if random.below(4) == 0 && FORKS.load(Ordering::Relaxed) => fork::<M>(random, table),
        _ => {}
    }
}

/// A turn without threads and children of its own.
fn calm_turn<M: Memory>(random: &mut Random, table: &mut Table) {
    let slot = random.below(table.0.len());
    if random.below(3) == 0 {
        table.0[slot] = EXCHANGE[random.below(EXCHANGE.len())].swap(table.0[slot], Ordering::AcqRel);
    } else {
        free::<M>(table.0[slot]);
        let size = size(random);
        table.0[slot] = allocate::<M>(random, size);
    }
}

/// Forks a child that verifies and frees what this thread holds and what lies in the exchange, works on, and exits.
fn fork<M: Memory>(random: &mut Random, table: &mut Table) {
    type Fork = unsafe extern "C" fn() -> libc::pid_t;
    // `_Fork` runs no handlers: the allocator has to notice by itself.
    // SAFETY: a look-up by name.
    let bare = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"_Fork".as_ptr()) };
    let child = if random.below(2) == 0 && !bare.is_null() {
        // SAFETY: the C library's function of that name has this type.
        unsafe { std::mem::transmute::<*mut libc::c_void, Fork>(bare)() }
    } else {
        // SAFETY: the child calls the allocator and _exit only.
        unsafe { libc::fork() }
    };
    match child {
        -1 => {}
        0 => {
            // SAFETY: plain system calls.
            unsafe { libc::alarm(CHILD_SECONDS) };
            table.clear::<M>();
            for slot in &EXCHANGE {
                free::<M>(slot.swap(ptr::null_mut(), Ordering::AcqRel));
            }
            (0..500).for_each(|_| calm_turn::<M>(random, table));
            free::<M>(allocate::<M>(random, 6 << 20));
            table.clear::<M>();
            M::trim();
            // SAFETY: ends the child.
            unsafe { libc::_exit(0) }
        }
        child => {
            let mut status = 0;
            // SAFETY: the status is a local; a handler may interrupt the wait.
            while unsafe { libc::waitpid(child, &mut status, 0) } == -1 {}
            demand(
                libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0,
                "a child of a fork came to grief",
            );
        }
    }
}

/// Allocates, frees and takes blocks from the exchange, in whatever the signal interrupted.
extern "C" fn handler<M: Memory>(_: libc::c_int) {
    // SAFETY: answers with the address of this thread's errno.
    let errno = unsafe { *libc::__errno_location() };
    let mut random = Random(ptr::from_ref(&errno).addr() as u64 ^ TURNS.load(Ordering::Relaxed) as u64);
    for _ in 0..3 {
        let size = HEAD + random.below(3000);
        let head = allocate::<M>(&mut random, size);
        free::<M>(EXCHANGE[random.below(EXCHANGE.len())].swap(head, Ordering::AcqRel));
    }
    // SAFETY: as above.
    unsafe { *libc::__errno_location() = errno };
}

/// Lets SIGPROF interrupt whoever runs, every `microseconds` of processor time; zero ends it.
fn interrupt<M: Memory>(microseconds: libc::suseconds_t) {
    let each = libc::timeval { tv_sec: 0, tv_usec: microseconds };
    let timer = libc::itimerval { it_interval: each, it_value: each };
    // SAFETY: the action is initialised before its use; the handler has the type that a handler without SA_SIGINFO has.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler::<M> as extern "C" fn(libc::c_int) as libc::sighandler_t;
        action.sa_flags = libc::SA_RESTART;
        demand(libc::sigaction(libc::SIGPROF, &action, ptr::null_mut()) == 0, "sigaction failed");
        // The first field of the kernel's and of the library's structure alike; only the pointer's type differs.
        demand(libc::syscall(libc::SYS_setitimer, libc::ITIMER_PROF, &timer, 0) == 0, "setitimer failed");
    }
}

/// How long and how wide.
pub struct Storm {
    threads: usize,
    turns: usize,
    forks: bool,
    time: Duration,
    seed: u64,
}

impl Storm {
    /// 16 threads (`SPECMALLOC_STRESS_THREADS`) with 1,500 turns each (`.._TURNS`), and as many more as fit into
    /// `.._SECONDS`. Children are forked unless `.._FORKS` is 0.
    pub fn from_environment() -> Storm {
        let number = |name: &str| std::env::var(name).ok().map(|text| text.parse().expect(name));
        Storm {
            threads: number("SPECMALLOC_STRESS_THREADS").unwrap_or(16) as usize,
            turns: number("SPECMALLOC_STRESS_TURNS").unwrap_or(1500) as usize,
            forks: number("SPECMALLOC_STRESS_FORKS") != Some(0),
            time: Duration::from_secs(number("SPECMALLOC_STRESS_SECONDS").unwrap_or(0)),
            seed: number("SPECMALLOC_STRESS_SEED").unwrap_or(1),
        }
    }

    /// Runs the storm and frees everything.
    pub fn run<M: Memory>(self) {
        let end = Instant::now() + self.time;
        FORKS.store(self.forks, Ordering::Relaxed);
        if M::HANDLERS {
            interrupt::<M>(2000);
        }
        std::thread::scope(|scope| {
            for thread in 0..self.threads as u64 {
                scope.spawn(move || {
                    let mut random = Random(mix(self.seed ^ thread << 32));
                    let mut table = Table::new();
                    for done in 0.. {
                        if done >= self.turns
                            && (done % 64 == 0 && Instant::now() >= end || OVER.load(Ordering::Relaxed))
                        {
                            break;
                        }
                        turn::<M>(&mut random, &mut table);
                        TURNS.fetch_add(1, Ordering::Relaxed);
                    }
                    OVER.store(true, Ordering::Relaxed);
                    table.clear::<M>();
                });
            }
        });
        if M::HANDLERS {
            interrupt::<M>(0);
        }
        for slot in &EXCHANGE {
            free::<M>(slot.swap(ptr::null_mut(), Ordering::AcqRel));
        }
        println!("{} turns of {} threads", TURNS.load(Ordering::Relaxed), self.threads);
    }
}
