//! What the process cost: processor time, page faults, memory, mappings, and which library served malloc. Read from the
//! kernel into buffers on the stack, so that asking changes nothing.

use std::ffi::{CStr, c_char};
use std::time::Duration;

/// Resources used so far by the whole process.
#[derive(Clone, Copy)]
pub struct Usage {
    user: Duration,
    system: Duration,
    faults: u64,
}

/// Resources used between two points.
#[derive(Clone, Copy, Debug)]
pub struct Cost {
    /// Processor time in user mode, all threads.
    pub user: Duration,
    /// Processor time in the kernel, all threads.
    pub system: Duration,
    /// Page faults, minor and major.
    pub faults: u64,
}

impl Usage {
    /// The figures as of now.
    pub fn now() -> Usage {
        // SAFETY: rusage is plain numbers; the call fills it in and fails only for a bad pointer.
        let usage = unsafe {
            let mut usage: libc::rusage = std::mem::zeroed();
            libc::getrusage(libc::RUSAGE_SELF, &raw mut usage);
            usage
        };
        let time = |value: libc::timeval| Duration::new(value.tv_sec as u64, value.tv_usec as u32 * 1000);
        Usage {
            user: time(usage.ru_utime),
            system: time(usage.ru_stime),
            faults: (usage.ru_minflt + usage.ru_majflt) as u64,
        }
    }

    /// What was used since then.
    pub fn cost(&self) -> Cost {
        let now = Usage::now();
        Cost {
            user: now.user - self.user,
            system: now.system - self.system,
            faults: now.faults - self.faults,
        }
    }
}

/// Processor time of all threads of the process so far, to the nanosecond.
pub fn processor_time() -> Duration {
    time_on(libc::CLOCK_PROCESS_CPUTIME_ID)
}

/// Processor time of the calling thread so far, to the nanosecond.
pub fn thread_time() -> Duration {
    time_on(libc::CLOCK_THREAD_CPUTIME_ID)
}

fn time_on(clock: libc::clockid_t) -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the call fills the time in; the clock exists on every Linux.
    unsafe { libc::clock_gettime(clock, &raw mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// The size of a page in bytes.
pub fn page_size() -> usize {
    // SAFETY: sysconf only answers.
    unsafe { libc::sysconf(libc::_SC_PAGESIZE) as usize }
}

/// The highest resident memory of the process so far, in KiB (`VmHWM`).
pub fn resident_peak_kib() -> u64 {
    status_field(b"VmHWM:")
}

/// The resident memory of the process now, in KiB (`VmRSS`).
pub fn resident_kib() -> u64 {
    status_field(b"VmRSS:")
}

/// The number of mappings the process has.
pub fn mappings() -> u64 {
    let mut lines = 0;
    read_in_pieces(c"/proc/self/maps", |piece| {
        lines += piece.iter().filter(|&&byte| byte == b'\n').count() as u64
    });
    lines
}

fn status_field(name: &[u8]) -> u64 {
    let mut text = [0u8; 8192];
    let mut len = 0;
    read_in_pieces(c"/proc/self/status", |piece| {
        let room = piece.len().min(text.len() - len);
        text[len..len + room].copy_from_slice(&piece[..room]);
        len += room;
    });
    number_after(&text[..len], name)
}

fn number_after(text: &[u8], name: &[u8]) -> u64 {
    text.split(|&byte| byte == b'\n')
        .find(|line| line.starts_with(name))
        .map(|line| {
            line.iter()
                .filter(|byte| byte.is_ascii_digit())
                .fold(0, |sum, byte| sum * 10 + u64::from(byte - b'0'))
        })
        .unwrap_or(0)
}

fn read_in_pieces(path: &CStr, mut each: impl FnMut(&[u8])) {
    let mut buffer = [0u8; 4096];
    // SAFETY: the path ends in a zero byte, the buffer is as long as said, and the descriptor is ours to close.
    unsafe {
        let file = libc::open(path.as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC);
        if file < 0 {
            return;
        }
        loop {
            let count = libc::read(file, buffer.as_mut_ptr().cast(), buffer.len());
            if count <= 0 {
                break;
            }
            each(&buffer[..count as usize]);
        }
        libc::close(file);
    }
}

/// The path of the object that serves `malloc` in this process.
pub fn who_serves_malloc() -> String {
    // SAFETY: the name ends in a zero byte; dladdr fills the record in, and its names live as long as the object.
    unsafe {
        let malloc = libc::dlsym(libc::RTLD_DEFAULT, c"malloc".as_ptr());
        let mut info: libc::Dl_info = std::mem::zeroed();
        if malloc.is_null() || libc::dladdr(malloc, &raw mut info) == 0 || info.dli_fname.is_null() {
            return "unknown".to_owned();
        }
        CStr::from_ptr(info.dli_fname.cast::<c_char>()).to_string_lossy().into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_answers() {
        assert!(resident_peak_kib() >= resident_kib() / 2 && resident_kib() > 100);
        assert!(mappings() > 5);
        assert!(who_serves_malloc().contains('/'));
        assert_eq!(number_after(b"Name:\tx\nVmHWM:\t   1234 kB\nVmRSS:\t 5 kB\n", b"VmHWM:"), 1234);
    }

    #[test]
    fn touched_memory_is_counted() {
        let before = Usage::now();
        let pages = crate::harness::Table::<u64>::new(1 << 20);
        let mut pages = pages;
        for at in (0..pages.len()).step_by(512) {
            pages[at] = 1;
        }
        assert!(before.cost().faults >= 4, "8 MiB were touched, in pages of 2 MiB at most");
    }
}
