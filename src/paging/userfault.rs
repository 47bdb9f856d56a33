//! userfaultfd, as the kernel defines it: what is read from the descriptor, and what is asked of it.
//!
//! Not in the crate `libc`; taken from the kernel's own description, `userfaultfd(2)` and `ioctl_userfaultfd(2)`. The test
//! at the end of this file has the sizes and numbers that a C compiler makes of the kernel's header.

use super::error::{Error, Result};
use core::ffi::c_int;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

const API: u64 = 0xaa;
const GROUP: u32 = 0xaa;
/// Since Linux 5.11, without privileges too: faults of the program's own code only.
const USER_MODE_ONLY: c_int = 1;
/// A message names the thread that faults.
const FEATURE_THREAD_ID: u64 = 1 << 8;
/// `Copy` leaves those asleep who wait for the pages.
const MODE_DONTWAKE: u64 = 1;
/// Since Linux 6.6: pages whose touch is a SIGBUS.
const FEATURE_POISON: u64 = 1 << 14;
const MODE_MISSING: u64 = 1;
const EVENT_PAGEFAULT: u8 = 0x12;

#[repr(C)]
struct Api {
    api: u64,
    features: u64,
    ioctls: u64,
}

#[repr(C)]
struct Range {
    start: u64,
    len: u64,
}

#[repr(C)]
struct Register {
    range: Range,
    mode: u64,
    ioctls: u64,
}

#[repr(C)]
struct Copy {
    to: u64,
    from: u64,
    len: u64,
    mode: u64,
    /// How many bytes were copied, or an error below zero.
    copied: i64,
}

#[repr(C)]
struct Poison {
    range: Range,
    mode: u64,
    done: i64,
}

/// What is read from the descriptor, where the event is a fault.
#[repr(C)]
struct Message {
    event: u8,
    _reserved: [u8; 7],
    _flags: u64,
    address: u64,
    thread: u32,
    _more: u32,
}

const ASK_API: libc::Ioctl = libc::_IOWR::<Api>(GROUP, 0x3f);
const ASK_REGISTER: libc::Ioctl = libc::_IOWR::<Register>(GROUP, 0x00);
const ASK_WAKE: libc::Ioctl = libc::_IOR::<Range>(GROUP, 0x02);
const ASK_COPY: libc::Ioctl = libc::_IOWR::<Copy>(GROUP, 0x03);
const ASK_POISON: libc::Ioctl = libc::_IOWR::<Poison>(GROUP, 0x08);
/// Of `/dev/userfaultfd`, since Linux 6.1: whoever may open that may have all faults.
const ASK_NEW: libc::Ioctl = libc::_IO(GROUP, 0x00);

/// A thread that waits for a page.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fault {
    /// What it touched.
    pub address: usize,
    /// Its number; zero where the kernel does not say.
    pub thread: u32,
}

/// A descriptor on which faults are read.
pub(super) struct Userfault {
    descriptor: OwnedFd,
    kernel: bool,
    poisons: bool,
}

impl Userfault {
    /// One for all faults if the process may have that, else for those of its own code.
    pub(super) fn open() -> Result<Userfault> {
        let (descriptor, kernel) = match create(0).or_else(|_| create_by_device()) {
            Ok(descriptor) => (descriptor, true),
            Err(_) => {
                (create(USER_MODE_ONLY).map_err(|error| Error::NotAllowed { error: error.into() })?, false)
            }
        };
        // The kernel refuses features that it does not have. (Which it has it would say as well, but then the descriptor
        // were used up.)
        let wanted = [FEATURE_THREAD_ID | FEATURE_POISON, FEATURE_THREAD_ID, 0];
        let mut error = io::Error::from_raw_os_error(libc::EINVAL);
        for features in wanted {
            let mut api = Api { api: API, features, ioctls: 0 };
            // SAFETY: the structure is the kernel's.
            match unsafe { ask(&descriptor, ASK_API, &mut api) } {
                Ok(()) => {
                    let poisons = features & FEATURE_POISON != 0;
                    return Ok(Userfault { descriptor, kernel, poisons });
                }
                Err(refused) => error = refused,
            }
        }
        Err(Error::NotAllowed { error: error.into() })
    }

    /// Whether the kernel's own accesses are served, too: those of `read` and `write`, say.
    pub(super) fn serves_kernel(&self) -> bool {
        self.kernel
    }

    /// Whether [`Userfault::poison`] is there.
    pub(super) fn poisons(&self) -> bool {
        self.poisons
    }

    /// Has a thread that touches a missing page of a range wait here.
    ///
    /// # Safety
    /// The range is memory of the caller's that nobody uses yet.
    pub(super) unsafe fn register(&self, start: usize, len: usize) -> Result<()> {
        let range = Range { start: start as u64, len: len as u64 };
        let mut register = Register { range, mode: MODE_MISSING, ioctls: 0 };
        // SAFETY: the structure is the kernel's; the rest the caller's.
        unsafe { ask(&self.descriptor, ASK_REGISTER, &mut register) }
            .map_err(|error| Error::System { call: "UFFDIO_REGISTER", error: error.into() })
    }

    /// Puts pages where there are none, each as a whole, and wakes nobody. An error comes with how many bytes are there.
    ///
    /// # Safety
    /// The range is registered here, as long as `from`, and the caller alone puts pages there.
    pub(super) unsafe fn copy(&self, to: usize, from: &[u8]) -> std::result::Result<(), (usize, io::Error)> {
        let mut done = 0;
        while done < from.len() {
            let rest = &from[done..];
            let (from, len) = (rest.as_ptr().expose_provenance() as u64, rest.len() as u64);
            let mut copy = Copy { to: (to + done) as u64, from, len, mode: MODE_DONTWAKE, copied: 0 };
            // SAFETY: the structure is the kernel's, and it reads `rest` only; the rest the caller's.
            let outcome = unsafe { ask(&self.descriptor, ASK_COPY, &mut copy) };
            // A part may be done, with or without an error.
            done += usize::try_from(copy.copied).unwrap_or(0);
            match outcome {
                Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => {}
                Err(error) => return Err((done, error)),
                Ok(()) => {}
            }
        }
        Ok(())
    }

    /// Makes the touch of pages, where there are none, a SIGBUS, and wakes who waits for them.
    ///
    /// # Safety
    /// The range is registered here, and may be made unusable.
    pub(super) unsafe fn poison(&self, start: usize, len: usize) -> io::Result<()> {
        let mut done = 0;
        while done < len {
            let range = Range { start: (start + done) as u64, len: (len - done) as u64 };
            let mut poison = Poison { range, mode: 0, done: 0 };
            // SAFETY: the structure is the kernel's; the rest the caller's.
            let outcome = unsafe { ask(&self.descriptor, ASK_POISON, &mut poison) };
            done += usize::try_from(poison.done).unwrap_or(0);
            match outcome {
                Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => {}
                outcome => outcome?,
            }
        }
        Ok(())
    }

    /// Has those who wait for pages of a range try again.
    pub(super) fn wake(&self, start: usize, len: usize) {
        let mut range = Range { start: start as u64, len: len as u64 };
        // SAFETY: the structure is the kernel's, and no memory is changed. Of a range of whole pages it does not fail.
        let _ = unsafe { ask(&self.descriptor, ASK_WAKE, &mut range) };
    }

    /// A fault, if one is to be read.
    pub(super) fn read(&self) -> Option<Fault> {
        let mut message = MaybeUninit::<Message>::uninit();
        let len = size_of::<Message>();
        // SAFETY: the buffer is as long as said.
        let read = unsafe { libc::read(self.as_raw_fd(), message.as_mut_ptr().cast(), len) };
        if read != len as isize {
            return None;
        }
        // SAFETY: read as a whole; any bytes are a message.
        let message = unsafe { message.assume_init() };
        let fault = Fault { address: message.address as usize, thread: message.thread };
        // No other event was asked for.
        (message.event == EVENT_PAGEFAULT).then_some(fault)
    }
}

impl AsRawFd for Userfault {
    fn as_raw_fd(&self) -> RawFd {
        self.descriptor.as_raw_fd()
    }
}

fn create(flags: c_int) -> io::Result<OwnedFd> {
    // SAFETY: makes a descriptor.
    let made = unsafe { libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC | libc::O_NONBLOCK | flags) };
    own(made as c_int)
}

fn create_by_device() -> io::Result<OwnedFd> {
    let device = std::fs::File::options().read(true).write(true).open("/dev/userfaultfd")?;
    // SAFETY: makes a descriptor.
    own(unsafe { libc::ioctl(device.as_raw_fd(), ASK_NEW, libc::O_CLOEXEC | libc::O_NONBLOCK) })
}

fn own(descriptor: c_int) -> io::Result<OwnedFd> {
    if descriptor < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: made just now, and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// # Safety
/// `argument` is what the kernel expects there, and what it does is the caller's matter.
unsafe fn ask<T>(descriptor: &OwnedFd, request: libc::Ioctl, argument: &mut T) -> io::Result<()> {
    // SAFETY: the caller's.
    match unsafe { libc::ioctl(descriptor.as_raw_fd(), request, &raw mut *argument) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::mem::offset_of;

    #[test]
    fn sizes_and_numbers_are_the_kernels() {
        assert_eq!([size_of::<Api>(), size_of::<Range>(), size_of::<Register>()], [24, 16, 32]);
        assert_eq!([size_of::<Copy>(), size_of::<Poison>(), size_of::<Message>()], [40, 32, 32]);
        assert_eq!([offset_of!(Copy, copied), offset_of!(Poison, done)], [32, 24]);
        assert_eq!([offset_of!(Message, address), offset_of!(Message, thread)], [16, 24]);
        let numbers = [ASK_API, ASK_REGISTER, ASK_WAKE, ASK_COPY, ASK_POISON, ASK_NEW];
        assert_eq!(numbers, [0xc018_aa3f, 0xc020_aa00, 0x8010_aa02, 0xc028_aa03, 0xc020_aa08, 0xaa00]);
    }
}
