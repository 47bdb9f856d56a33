//! System calls, made here and not by the C library's functions of their names.
//!
//! A program may have functions of its own that are called `munmap`, `open` or `syscall`: ISO C leaves these names to it,
//! and what it exports is what a library's calls by name reach. glibc's malloc calls names that nobody else may have. A
//! system call of our own is no cancellation point either, takes no lock, and leaves `errno` alone.

use super::Errno;
use core::ffi::c_long;

/// The kernel returns the negative of an error number, from here on.
const LEAST: isize = -4095;

/// Makes the system call `number` with up to six arguments, the others zero.
///
/// # Safety
/// What the kernel reads, writes, maps and unmaps for these arguments is the caller's to have so treated.
#[inline(always)]
pub unsafe fn system_call<const N: usize>(number: c_long, arguments: [usize; N]) -> Result<usize, Errno> {
    let argument = |index: usize| arguments.get(index).copied().unwrap_or(0);
    // SAFETY: the caller's.
    let returned = unsafe { raw(number as usize, core::array::from_fn(argument)) };
    match returned as isize {
        error @ LEAST..=-1 => Err(Errno(-error as i32)),
        _ => Ok(returned),
    }
}

/// What the kernel returns.
///
/// # Safety
/// As for [`system_call`].
#[cfg(all(target_arch = "x86_64", target_pointer_width = "64", not(miri)))]
#[inline(always)]
unsafe fn raw(number: usize, [first, second, third, fourth, fifth, sixth]: [usize; 6]) -> usize {
    let returned;
    // SAFETY: the registers are those of the kernel's convention, which keeps all others, and the stack. That memory may
    // be read and written is what the compiler assumes of an `asm!` that does not say otherwise.
    unsafe {
        core::arch::asm!(
            "syscall",
            inlateout("rax") number => returned,
            in("rdi") first,
            in("rsi") second,
            in("rdx") third,
            in("r10") fourth,
            in("r8") fifth,
            in("r9") sixth,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    returned
}

/// What the kernel returns.
///
/// # Safety
/// As for [`system_call`].
#[cfg(all(target_arch = "aarch64", target_pointer_width = "64", not(miri)))]
#[inline(always)]
unsafe fn raw(number: usize, [first, second, third, fourth, fifth, sixth]: [usize; 6]) -> usize {
    let returned;
    // SAFETY: as on the other architecture.
    unsafe {
        core::arch::asm!(
            "svc 0",
            in("x8") number,
            inlateout("x0") first => returned,
            in("x1") second,
            in("x2") third,
            in("x3") fourth,
            in("x4") fifth,
            in("x5") sixth,
            options(nostack),
        );
    }
    returned
}

/// What the kernel returns, by way of the C library.
///
/// # Safety
/// As for [`system_call`].
#[cfg(any(
    not(any(target_arch = "x86_64", target_arch = "aarch64")),
    not(target_pointer_width = "64"),
    miri
))]
unsafe fn raw(number: usize, [first, second, third, fourth, fifth, sixth]: [usize; 6]) -> usize {
    // SAFETY: the caller's.
    let call = || unsafe { libc::syscall(number as c_long, first, second, third, fourth, fifth, sixth) };
    match super::errno::kept_errno(-1, call) {
        Ok(returned) => returned as usize,
        Err(Errno(error)) => -(error as isize) as usize,
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_returns_is_a_value_or_an_errno_and_all_arguments_arrive() {
        const FLAGS: i32 = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        let (bytes, access) = (1 << 16, (libc::PROT_READ | libc::PROT_WRITE) as usize);
        let file = std::fs::File::open("/proc/self/exe").expect("it runs");
        let descriptor = std::os::fd::AsRawFd::as_raw_fd(&file) as usize;
        // SAFETY: new mappings, and what was mapped here.
        unsafe {
            *libc::__errno_location() = 77;
            assert_eq!(system_call(libc::SYS_close, [usize::MAX]), Err(Errno(libc::EBADF)));
            // The least number of an error, which filters answer, and this call always: nobody traces himself.
            let (attach, own) = (libc::PTRACE_ATTACH as usize, std::process::id() as usize);
            assert_eq!(system_call(libc::SYS_ptrace, [attach, own, 0, 0]), Err(Errno(libc::EPERM)));
            assert_eq!(system_call(libc::SYS_getpid, []), Ok(std::process::id() as usize));
            let at = system_call(libc::SYS_mmap, [0, bytes, access, FLAGS as usize, usize::MAX, 0])
                .expect("memory");
            assert_eq!((at as *const u64).read(), 0);
            assert_eq!(system_call(libc::SYS_munmap, [at, bytes]), Ok(0));
            // The fifth and the sixth.
            let kind = libc::MAP_PRIVATE as usize;
            let read = libc::PROT_READ as usize;
            let at = system_call(libc::SYS_mmap, [0, 4096, read, kind, descriptor, 0]).expect("a file");
            assert_eq!((at as *const [u8; 4]).read(), *b"\x7fELF");
            assert_eq!(system_call(libc::SYS_munmap, [at, 4096]), Ok(0));
            let odd = system_call(libc::SYS_mmap, [0, 4096, read, kind, descriptor, 1]);
            assert_eq!(odd, Err(Errno(libc::EINVAL)), "no multiple of a page");
            assert_eq!(*libc::__errno_location(), 77);
        }
    }

    /// The instruction writes two registers beside the one that it answers in. Whether the compiler had something there is
    /// chance, so no run tells that they are forgotten.
    #[test]
    fn the_registers_that_the_instruction_changes_are_told() {
        let text = include_str!("system_call.rs");
        let (_, operands) = text.split_once("\"syscall\",\n").expect("the instruction");
        let (operands, _) = operands.split_once(");\n").expect("its end");
        for told in ["lateout(\"rcx\") _,", "lateout(\"r11\") _,", "inlateout(\"rax\") number => returned,"] {
            assert!(operands.lines().any(|line| line.trim() == told), "{told}");
        }
        assert!(!operands.contains("nomem") && !operands.contains("readonly"), "the kernel reads and writes");
    }
}
