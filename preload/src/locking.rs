//! `mlockall`: what the process has is to be resident from then on. Of ours that is what blocks lie in. The address space
//! behind them, which is reserved or waits for others, would be memory that nobody asked for, several times theirs.
//!
//! So all is locked as it is touched first (MCL_ONFAULT). Then each mapping is looked at: what is the program's is locked
//! as it asked, and of ours the part in use is touched.

use crate::errno;
use core::ffi::{CStr, c_int};
use specmalloc::internals::global;
use specmalloc::internals::pal::{Errno, system_call};

/// Makes pages resident as a write would (Linux 5.14).
const MADV_POPULATE_WRITE: usize = 23;

const MAPS: &CStr = c"/proc/self/maps";

/// POSIX: keeps memory resident. Where that is all that will be mapped, from its mapping on, nothing is reserved behind
/// blocks: it would be memory. (The C library's is a bare system call, too.)
///
/// # Safety
/// As for the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mlockall(flags: c_int) -> c_int {
    let (current, future) = (flags & libc::MCL_CURRENT != 0, flags & libc::MCL_FUTURE != 0);
    let waits = flags & libc::MCL_ONFAULT != 0;
    let done = match current && !waits && can_populate() {
        true => lock_current(flags),
        false => lock_all(flags),
    };
    if done.is_ok() && future && !waits {
        global::reserve_nothing();
    }
    errno::returned(done)
}

fn lock_all(flags: c_int) -> Result<usize, Errno> {
    // SAFETY: changes what is resident, and nothing else.
    unsafe { system_call(libc::SYS_mlockall, [flags as usize]) }
}

fn can_populate() -> bool {
    // SAFETY: of no pages.
    unsafe { system_call(libc::SYS_madvise, [0, 0, MADV_POPULATE_WRITE]) }.is_ok()
}

/// Locks what there is with MCL_CURRENT among the `flags`, all of which hold afterwards.
fn lock_current(flags: c_int) -> Result<usize, Errno> {
    lock_all(libc::MCL_CURRENT | libc::MCL_ONFAULT)?;
    if !each_mapping(lock_mapping) {
        return lock_all(flags);
    }
    match flags & !libc::MCL_CURRENT {
        0 => Ok(0),
        // What there is stays as it was locked.
        rest => lock_all(rest),
    }
}

/// As mlockall does, goes on where the system refuses: what cannot be touched, or is no memory.
fn lock_mapping(start: usize, end: usize) {
    let _refused = match global::in_use(start) {
        // SAFETY: as in `lock_all`.
        None => unsafe { system_call(libc::SYS_mlock, [start, end - start]) },
        Some(used) => {
            let (start, end) = (start.max(used.start), end.min(used.end));
            // SAFETY: the contents stay as they are; what is unmapped meanwhile is not touched.
            unsafe { system_call(libc::SYS_madvise, [start, end.saturating_sub(start), MADV_POPULATE_WRITE]) }
        }
    };
}

/// Calls `visit` with where each mapping of the process begins and ends. `false` if that cannot be known.
fn each_mapping(mut visit: impl FnMut(usize, usize)) -> bool {
    let (here, how) = (libc::AT_FDCWD as usize, libc::O_RDONLY | libc::O_CLOEXEC);
    let path = MAPS.as_ptr().expose_provenance();
    // SAFETY: the path is a string.
    let Ok(file) = (unsafe { system_call(libc::SYS_openat, [here, path, how as usize]) }) else {
        return false;
    };
    let mut text = [0_u8; 1024];
    let mut line = Line::default();
    let mut has_begun = false;
    loop {
        // SAFETY: the kernel writes no further than the buffer.
        let got =
            unsafe { system_call(libc::SYS_read, [file, text.as_mut_ptr().expose_provenance(), text.len()]) };
        let Some(text) = got.ok().filter(|&got| got > 0).and_then(|got| text.get(..got)) else { break };
        has_begun = true;
        for &byte in text {
            if let Some((start, end)) = line.read(byte) {
                visit(start, end);
            }
        }
    }
    // SAFETY: opened above.
    let _ = unsafe { system_call(libc::SYS_close, [file]) };
    has_begun
}

/// What was read of a line: two numbers in hexadecimal with a hyphen between them, and anything behind a blank.
#[derive(Default)]
struct Line {
    start: usize,
    number: usize,
    is_read: bool,
}

impl Line {
    /// Reads on; the two numbers where they are known.
    fn read(&mut self, byte: u8) -> Option<(usize, usize)> {
        match (byte, char::from(byte).to_digit(16)) {
            (b'\n', _) => *self = Line::default(),
            _ if self.is_read => {}
            (_, Some(digit)) => self.number = self.number << 4 | digit as usize,
            (b'-', _) => (self.start, self.number) = (self.number, 0),
            _ => {
                self.is_read = true;
                return Some((self.start, self.number));
            }
        }
        None
    }
}
