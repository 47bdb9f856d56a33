//! Any sequence of calls of the C interface, made by a few threads in turn: blocks hold what was written to them, have
//! the size and alignment that was asked for, and nothing aborts.

#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use specmalloc::internals::api::raw;
use specmalloc::internals::global::{NOBODY, Thread, exit_thread};
use specmalloc::internals::heap::{Checked, Heap, ThreadId};
use std::cell::Cell;
use std::ptr;

/// Threads that the calls are spread over; they are played by the one that runs the fuzzer.
const PLAYERS: usize = 3;
/// Largest request; a little above the smallest huge block.
const MOST: usize = 9 << 20;
/// Bytes at each end of a block that are written and compared.
const ENDS: usize = 64;

thread_local! {
    static PLAYER: Cell<usize> = const { Cell::new(0) };
    static HEAPS: [Cell<*const Heap>; PLAYERS] = const { [const { Cell::new(&raw const NOBODY) }; PLAYERS] };
}

struct Player;

// SAFETY: each player has a cell of its own, which starts as asked.
unsafe impl Thread for Player {
    type Checks = Checked;
    const GUARDED: bool = true;
    const ANNOUNCED: bool = false;

    fn heap() -> *const Heap {
        HEAPS.with(|heaps| heaps[PLAYER.get()].get())
    }
    fn change_heap(before: *const Heap, heap: *const Heap) -> bool {
        HEAPS.with(|heaps| {
            let cell = &heaps[PLAYER.get()];
            let changes = ptr::eq(cell.get(), before);
            if changes {
                cell.set(heap);
            }
            changes
        })
    }
    fn id() -> ThreadId {
        ThreadId::new(1 + PLAYER.get())
    }
    fn call_at_exit(_counted: bool) -> bool {
        true
    }
}

#[derive(Arbitrary, Debug)]
enum Call {
    Malloc(Size),
    Calloc(u8, Size),
    Aligned(u8, Size),
    Realloc(u8, Size),
    Free(u8),
    FreeSized(u8),
    Trim,
    /// The calls that follow are another player's.
    Switch(u8),
    /// The player exits; what it does from now on goes through borrowed heaps, unless it starts again.
    Exit {
        again: bool,
    },
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Size {
    Small(u16),
    Large(u32),
}

impl Size {
    fn bytes(self) -> usize {
        match self {
            Size::Small(size) => size.into(),
            Size::Large(size) => size as usize % MOST,
        }
    }
}

struct Block {
    at: *mut u8,
    size: usize,
    tag: u8,
}

impl Block {
    fn new(at: *mut u8, size: usize, tag: u8) -> Block {
        assert!(at.addr() % 16 == 0 || size == 0);
        // SAFETY: a live block of at least `size` bytes.
        unsafe {
            assert!(raw::usable_size::<Player>(at) >= size);
            for offset in (0..size.min(ENDS)).chain(size.saturating_sub(ENDS)..size) {
                at.add(offset).write(tag ^ offset as u8);
            }
        }
        Block { at, size, tag }
    }

    /// Compares the bytes below `part`.
    fn check(&self, part: usize) {
        for offset in (0..self.size.min(ENDS)).chain(self.size.saturating_sub(ENDS)..self.size) {
            // SAFETY: a live block of at least `size` bytes.
            assert!(offset >= part || unsafe { self.at.add(offset).read() } == self.tag ^ offset as u8);
        }
    }
}

fn pick(blocks: &mut Vec<Block>, index: u8) -> Option<Block> {
    if blocks.is_empty() { None } else { Some(blocks.swap_remove(usize::from(index) % blocks.len())) }
}

fuzz_target!(|calls: Vec<Call>| {
    let mut blocks: Vec<Block> = Vec::new();
    for (number, call) in calls.iter().enumerate() {
        let tag = number as u8;
        match *call {
            Call::Malloc(size) => {
                let block = raw::malloc::<Player>(size.bytes());
                blocks.push(Block::new(block, size.bytes(), tag));
            }
            Call::Calloc(count, size) => {
                let bytes = usize::from(count) * size.bytes();
                if bytes <= MOST {
                    let block = raw::calloc::<Player>(count.into(), size.bytes());
                    // SAFETY: a live block of so many bytes.
                    assert!(
                        unsafe { std::slice::from_raw_parts(block, bytes) }.iter().all(|&byte| byte == 0)
                    );
                    blocks.push(Block::new(block, bytes, tag));
                }
            }
            Call::Aligned(shift, size) => {
                let align = 1 << (shift % 25);
                let block = raw::aligned::<Player>(align, size.bytes());
                assert_eq!(block.addr() % align, 0);
                blocks.push(Block::new(block, size.bytes(), tag));
            }
            Call::Realloc(index, size) if size.bytes() > 0 => {
                if let Some(old) = pick(&mut blocks, index) {
                    old.check(old.size);
                    // SAFETY: a live block.
                    let at = unsafe { raw::realloc::<Player>(old.at, size.bytes()) };
                    Block { at, ..old }.check(size.bytes());
                    blocks.push(Block::new(at, size.bytes(), tag));
                }
            }
            Call::Realloc(..) => {}
            Call::Free(index) | Call::FreeSized(index) => {
                if let Some(block) = pick(&mut blocks, index) {
                    block.check(block.size);
                    // SAFETY: a live block, freed once.
                    unsafe {
                        match call {
                            Call::Free(_) => raw::free::<Player>(block.at),
                            _ => raw::free_sized::<Player>(block.at, block.size),
                        }
                    }
                }
            }
            Call::Trim => {
                raw::trim::<Player>();
            }
            Call::Switch(player) => PLAYER.set(usize::from(player) % PLAYERS),
            Call::Exit { again } => {
                exit_thread::<Player>(true);
                if again {
                    Player::change_heap(Player::heap(), &raw const NOBODY);
                }
            }
        }
    }
    for block in blocks {
        block.check(block.size);
        // SAFETY: as above.
        unsafe { raw::free::<Player>(block.at) };
    }
});
