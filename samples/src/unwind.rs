//! The calling thread's stack, as return addresses.
//!
//! By the unwind tables of the objects that are loaded (`cfi`), which `_dl_find_object` finds without a lock; what they
//! say of an address is kept, so a frame costs a look into a small table as a rule. Where they say nothing (code made at
//! run time) by the frame pointer, if it leads up the stack. Every page of the stack is asked for before it is read: a
//! table that is wrong ends the stack, not the process.
//!
//! What is missing: code without either is where the stack ends, and what other machines than x86-64 have in their
//! tables is not read: there frame pointers are followed.

use super::cfi::{Frame, Rule, Saved};
use super::system::errno;
use core::ffi::{CStr, c_char, c_int, c_void};
use core::mem::MaybeUninit;
use core::ptr;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// Return addresses of a stack at most: the innermost.
pub(super) const MOST: usize = 64;

/// Bytes of the smallest page there is: what is readable is asked for each.
const PAGE: usize = 4096;

/// `struct link_map` of `link.h`, as far as it is public.
#[repr(C)]
struct LinkMap {
    bias: usize,
    name: *const c_char,
}

/// `struct dl_find_object` of `dlfcn.h`.
#[repr(C)]
struct Found {
    flags: u64,
    start: *mut c_void,
    end: *mut c_void,
    map: *const LinkMap,
    frames: *mut c_void,
    reserved: [u64; 7],
}

unsafe extern "C" {
    /// glibc 2.35: async-signal-safe, without a lock.
    fn _dl_find_object(address: *mut c_void, result: *mut Found) -> c_int;
}

/// An object that is loaded.
#[derive(Clone, Copy)]
pub(super) struct Module {
    pub(super) start: usize,
    pub(super) end: usize,
    pub(super) bias: usize,
    /// Its path; empty for the program itself.
    name: *const c_char,
    frames: usize,
}

impl Module {
    /// The object that `address` lies in.
    pub(super) fn of(address: usize) -> Option<Module> {
        let mut found = MaybeUninit::<Found>::zeroed();
        // SAFETY: any address may be asked about, and the result is written if there is one.
        let none = unsafe { _dl_find_object(ptr::with_exposed_provenance_mut(address), found.as_mut_ptr()) };
        if none != 0 {
            return None;
        }
        // SAFETY: written by the call; zero is valid besides.
        let found = unsafe { found.assume_init() };
        // SAFETY: the object's own record, which stays while its functions are on the stack.
        let map = unsafe { found.map.as_ref() }?;
        Some(Module {
            start: found.start.expose_provenance(),
            end: found.end.expose_provenance(),
            bias: map.bias,
            name: map.name,
            frames: found.frames.expose_provenance(),
        })
    }

    fn name(&self) -> &[u8] {
        // SAFETY: the dynamic linker's string, which stays while the object is loaded: its functions are on the stack.
        if self.name.is_null() { b"" } else { unsafe { CStr::from_ptr(self.name) }.to_bytes() }
    }

    /// Whether it is the program itself.
    pub(super) fn is_program(&self) -> bool {
        self.name().is_empty()
    }

    /// Writes its path to `path`, as far as it fits.
    pub(super) fn write_path(&self, path: &mut [u8]) {
        let bytes = self.name();
        if bytes.is_empty() {
            // The program. Cut off if it is too long; on failure nothing is written.
            // SAFETY: `path` can be written to for its length.
            unsafe {
                libc::syscall(libc::SYS_readlink, c"/proc/self/exe".as_ptr(), path.as_mut_ptr(), path.len());
            }
            return;
        }
        for (to, from) in path.iter_mut().zip(bytes) {
            *to = *from;
        }
    }

    fn contains(&self, address: usize) -> bool {
        (self.start..self.end).contains(&address)
    }
}

/// An address in the allocator's library.
static ALLOCATOR: AtomicUsize = AtomicUsize::new(0);

/// Notes an address in the allocator's library.
pub fn set_allocator(address: usize) {
    // Relaxed: before the first stack.
    ALLOCATOR.store(address, Ordering::Relaxed);
}

/// What the tables say of addresses that were met lately. The two words of an entry are written one after the other by
/// any thread; the first is the address, scrambled by the second, so what does not belong together is not found.
const KEPT: usize = 2048;
static RULES: [[AtomicU64; 2]; KEPT] = [const { [const { AtomicU64::new(0) }; 2] }; KEPT];

/// The tables say nothing.
const UNKNOWN: u64 = 0xff;

fn rule(pc: usize) -> Option<Rule> {
    let hash = (pc as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    let [key, value] = RULES.get(hash as usize % KEPT)?;
    // Relaxed (all): as said above.
    let word = value.load(Ordering::Relaxed);
    if key.load(Ordering::Relaxed) ^ word == pc as u64 {
        return Rule::unpack(word);
    }
    let rule = Module::of(pc).and_then(|module| super::cfi::rule(module.frames, module.end, pc));
    let word = match rule {
        Some(rule) => rule.pack()?,
        None => UNKNOWN,
    };
    value.store(word, Ordering::Relaxed);
    key.store(pc as u64 ^ word, Ordering::Relaxed);
    rule
}

/// The registers of a frame.
#[derive(Clone, Copy)]
struct Registers {
    pc: usize,
    stack: usize,
    pointer: usize,
}

/// A stack that is being read.
struct Reader {
    /// The last page that can be read.
    page: usize,
}

impl Reader {
    fn word(&mut self, at: usize) -> Option<usize> {
        if !at.is_multiple_of(size_of::<usize>()) {
            return None;
        }
        if at / PAGE != self.page {
            if !is_readable(at) {
                return None;
            }
            self.page = at / PAGE;
        }
        // SAFETY: the page is there, and it is a stack's: of the calling thread, if anybody's.
        Some(unsafe { ptr::with_exposed_provenance::<usize>(at).read_volatile() })
    }
}

/// Whether eight bytes at `at` can be read: a system call that reads them before it refuses what is asked.
fn is_readable(at: usize) -> bool {
    const NO_SUCH_WAY: c_int = -1;
    // SAFETY: changes nothing, and reads memory as the kernel does.
    let refused = unsafe {
        libc::syscall(libc::SYS_rt_sigprocmask, NO_SUCH_WAY, at, ptr::null_mut::<c_void>(), size_of::<u64>())
    };
    refused == 0 || errno() != libc::EFAULT
}

/// By the frame pointer: the caller's saved above its own frame.
fn by_pointer(reader: &mut Reader, frame: Registers) -> Option<Registers> {
    // Right at the stack pointer for a function that has nothing else on the stack.
    if frame.pointer < frame.stack {
        return None;
    }
    let (pointer, pc) = (reader.word(frame.pointer)?, reader.word(frame.pointer + 8)?);
    Some(Registers { pc, stack: frame.pointer + 16, pointer })
}

/// The frame that a signal handler interrupted: `ucontext_t` lies where its return has left the stack pointer.
fn interrupted(reader: &mut Reader, frame: Registers) -> Option<Registers> {
    const REGISTERS: usize = 40;
    const POINTER: usize = REGISTERS + 10 * 8;
    const STACK: usize = REGISTERS + 15 * 8;
    const PC: usize = REGISTERS + 16 * 8;
    let mut at = |offset| reader.word(frame.stack.checked_add(offset)?);
    Some(Registers { pc: at(PC)?, stack: at(STACK)?, pointer: at(POINTER)? })
}

/// The caller of a frame, and whether its address is that of an instruction that was interrupted, and not of one to
/// return to.
fn caller_of(reader: &mut Reader, frame: Registers, is_exact: bool) -> Option<(Registers, bool)> {
    let known =
        if cfg!(target_arch = "x86_64") { rule(frame.pc.wrapping_sub(usize::from(!is_exact))) } else { None };
    let Some(rule) = known else { return by_pointer(reader, frame).map(|next| (next, false)) };
    let offset = |base: usize, by: i32| base.wrapping_add(by as usize);
    let begin = match rule.frame {
        Frame::Last => return None,
        Frame::Signal => return interrupted(reader, frame).map(|next| (next, true)),
        Frame::FromStack(by) => offset(frame.stack, by),
        Frame::FromPointer(by) => offset(frame.pointer, by),
        Frame::At(by) => reader.word(offset(frame.pointer, by))?,
        Frame::Stub => frame.stack + if frame.pc & 15 >= 11 { 16 } else { 8 },
    };
    // A stack grows downwards.
    if begin <= frame.stack {
        return None;
    }
    let pointer = match rule.pointer {
        Saved::Same => frame.pointer,
        Saved::FromFrame(by) => reader.word(offset(begin, by))?,
        Saved::FromPointer(by) => reader.word(offset(frame.pointer, by))?,
    };
    Some((Registers { pc: reader.word(begin - 8)?, stack: begin, pointer }, false))
}

#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn here() -> Registers {
    let (pc, stack, pointer): (usize, usize, usize);
    // SAFETY: reads registers.
    unsafe {
        core::arch::asm!("lea {0}, [rip]", "mov {1}, rsp", "mov {2}, rbp", out(reg) pc, out(reg) stack, out(reg) pointer,
                         options(nomem, nostack, preserves_flags));
    }
    Registers { pc, stack, pointer }
}

#[cfg(target_arch = "aarch64")]
#[inline(always)]
fn here() -> Registers {
    let (pc, stack, pointer): (usize, usize, usize);
    // SAFETY: reads registers.
    unsafe {
        core::arch::asm!("adr {0}, .", "mov {1}, sp", "mov {2}, x29", out(reg) pc, out(reg) stack, out(reg) pointer,
                         options(nomem, nostack, preserves_flags));
    }
    Registers { pc, stack, pointer }
}

/// Writes the stack that a signal has interrupted to `pcs`, the innermost address first: that of the signal's context.
/// Returns how many.
pub(super) fn interrupted_stack(pcs: &mut [usize; MOST], context: usize) -> usize {
    if cfg!(not(target_arch = "x86_64")) {
        return 0;
    }
    let mut reader = Reader { page: 0 };
    let handlers = Registers { pc: 0, stack: context, pointer: 0 };
    let (mut frame, mut is_exact) = (interrupted(&mut reader, handlers), true);
    let mut count = 0;
    while let Some((registers, place)) = frame.zip(pcs.get_mut(count)) {
        if registers.pc == 0 {
            break;
        }
        *place = registers.pc - usize::from(!is_exact);
        count += 1;
        let next = caller_of(&mut reader, registers, is_exact);
        is_exact = next.is_some_and(|(_, exact)| exact);
        frame = next.map(|(next, _)| next);
    }
    count
}

/// Writes the calling thread's return addresses to `pcs`, the innermost first, without those inside this library
/// and the allocator's: by the objects that they are, or, where they are no objects of their own, without those of
/// frames up to the one that the address `caller` lies in. Returns how many.
#[inline(never)]
pub(super) fn stack(pcs: &mut [usize; MOST], caller: usize) -> usize {
    let mut frame = here();
    let mut reader = Reader { page: frame.stack / PAGE };
    let own = Module::of(frame.pc);
    // Relaxed: one word, which says it all.
    let allocator = Module::of(ALLOCATOR.load(Ordering::Relaxed));
    let is_ours = |frame: Registers| match caller {
        0 => [own, allocator].iter().flatten().any(|module| module.contains(frame.pc)),
        // A frame lies below where its caller's stack pointer is.
        _ => frame.stack <= caller,
    };
    let (mut count, mut is_exact, mut is_inside) = (0, true, true);
    // (Of signal frames that lead to each other there is no end.)
    for _ in 0..4 * MOST {
        let Some((next, exact)) = caller_of(&mut reader, frame, is_exact) else { break };
        (frame, is_exact) = (next, exact);
        if frame.pc == 0 {
            break;
        }
        is_inside = is_inside && is_ours(frame);
        if is_inside {
            continue;
        }
        let Some(place) = pcs.get_mut(count) else { break };
        // Of the call, and not of what comes after it, which may be another function's.
        *place = frame.pc - usize::from(!is_exact);
        count += 1;
    }
    count
}
