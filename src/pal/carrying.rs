//! Pages that go where a filter of system calls knows no madvise.

use super::{Errno, system_call};
use core::ffi::c_int;

/// What dropping pages does, where the system is Linux 5.7 or later: they move elsewhere, and are unmapped there. What they
/// leave is mapped as it was, and reads as zero. (But if a program had locked it, the whole mapping is locked no more. What
/// would keep that, munlock or mprotect before it, may be forbidden on pain of death, or fail on the way back.)
///
/// # Safety
/// As for [`Platform::purge`](super::Platform::purge), of pages of `page` bytes.
#[cold]
pub(super) unsafe fn carry_away(addr: usize, len: usize, page: usize) -> Result<(), Errno> {
    const FLAGS: c_int = libc::MREMAP_MAYMOVE | libc::MREMAP_DONTUNMAP;
    // SAFETY: the caller's.
    match unsafe { system_call(libc::SYS_mremap, [addr, len, len, FLAGS as usize]) } {
        // SAFETY: where the pages have gone there was nothing.
        Ok(elsewhere) => unsafe { system_call(libc::SYS_munmap, [elsewhere, len]) }.map(|_| ()),
        // Of several mappings, as where a program has locked some of its blocks: each call takes pages of one.
        Err(Errno(libc::EFAULT)) if len > page => {
            let half = (len / 2).next_multiple_of(page);
            // SAFETY: the caller's.
            unsafe {
                carry_away(addr, half, page)?;
                carry_away(addr + half, len - half, page)
            }
        }
        Err(error) => Err(error),
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;
    use crate::pal::{Access, Linux, Platform};

    static LINUX: Linux = Linux::new();

    /// New pages, in each of which its number from one on is written: where.
    fn numbered(pages: usize) -> impl Fn(usize) -> *mut usize {
        let at = LINUX.map(None, pages * LINUX.page_size(), Access::ReadWrite).expect("memory");
        let word =
            move |index| core::ptr::with_exposed_provenance_mut::<usize>(at + index * LINUX.page_size());
        // SAFETY: mapped just now, and nobody else's.
        (0..pages).for_each(|index| unsafe { word(index).write(index + 1) });
        word
    }

    #[test]
    fn pages_that_are_carried_away_leave_zeros_and_nothing_resident() {
        let (page, pages) = (LINUX.page_size(), 16);
        let word = numbered(pages);
        // SAFETY: mapped just now, and nobody else's.
        unsafe {
            carry_away(word(4).addr(), 8 * page, page).expect("Linux 5.7");
            for index in 0..pages {
                let is_gone = (4..12).contains(&index);
                let mut resident = [0];
                LINUX.are_resident(word(index).addr(), &mut resident).expect("a page");
                assert_eq!(resident[0] & 1 == 0, is_gone, "{index}");
                assert_eq!(word(index).read(), if is_gone { 0 } else { index + 1 });
            }
            LINUX.unmap(word(0).addr(), pages * page).expect("ours");
        }
    }

    /// Bytes of the mappings that have this name.
    fn bytes_named(name: &str) -> usize {
        let maps = std::fs::read_to_string("/proc/self/maps").expect("mappings");
        let named = maps.lines().filter(|line| line.ends_with(&std::format!("[anon:{name}]")));
        let ends = named.filter_map(|line| line.split(' ').next()?.split_once('-'));
        let number = |text| usize::from_str_radix(text, 16).expect("an address");
        ends.map(|(start, end)| number(end) - number(start)).sum()
    }

    #[test]
    fn nothing_stays_where_pages_were_carried() {
        let (linux, bytes) = (Linux::new(), 16 * LINUX.page_size());
        let at = linux.map(None, bytes, Access::ReadWrite).expect("memory");
        linux.allow_names(true);
        linux.name(at, bytes, c"carried away");
        // (Systems older than 5.17 have no names.)
        let named = bytes_named("carried away");
        assert!([0, bytes].contains(&named));
        // SAFETY: mapped just now, and nobody else's.
        unsafe {
            core::ptr::with_exposed_provenance_mut::<u8>(at).write(1);
            carry_away(at, bytes, linux.page_size()).expect("Linux 5.7");
            assert_eq!(bytes_named("carried away"), named);
            linux.unmap(at, bytes).expect("ours");
        }
    }

    /// Has a filter answer the calling thread's calls of madvise, until the thread ends.
    fn refuse_advice(error: i32) {
        // (The number of the call is the first word of what a filter is given.)
        let what = |code: u32, skipped, operand| libc::sock_filter {
            code: code as u16,
            jt: 0,
            jf: skipped,
            k: operand,
        };
        let mut filter = [
            what(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0),
            what(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 1, libc::SYS_madvise as u32),
            what(libc::BPF_RET | libc::BPF_K, 0, libc::SECCOMP_RET_ERRNO | error as u32),
            what(libc::BPF_RET | libc::BPF_K, 0, libc::SECCOMP_RET_ALLOW),
        ];
        let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
        // SAFETY: the kernel reads the filter.
        unsafe {
            assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
            assert_eq!(libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program), 0);
        }
    }

    #[test]
    fn whatever_a_filter_answers_pages_go() {
        let purge = |error| {
            refuse_advice(error);
            let page = LINUX.page_size();
            let at = LINUX.map(None, page, Access::ReadWrite).expect("memory");
            let word = core::ptr::with_exposed_provenance_mut::<usize>(at);
            // SAFETY: mapped just now, and nobody else's.
            unsafe {
                word.write(1);
                LINUX.purge(at, page).expect("they are carried away");
                assert_eq!(word.read(), 0);
                LINUX.unmap(at, page).expect("ours");
            }
        };
        for error in [libc::EPERM, libc::EACCES, libc::ENOSYS] {
            std::thread::spawn(move || purge(error)).join().expect("pages go");
        }
    }

    /// Some of what goes is locked, and so a mapping of its own.
    #[test]
    fn pages_of_several_mappings_are_carried_away() {
        let (page, pages) = (LINUX.page_size(), 16);
        let word = numbered(pages);
        // SAFETY: mapped just now, and nobody else's.
        unsafe {
            assert_eq!(libc::mlock(word(5).cast(), 2 * page), 0);
            carry_away(word(1).addr(), 14 * page, page).expect("Linux 5.7");
            (0..pages).for_each(|index| {
                assert_eq!(word(index).read(), if (1..15).contains(&index) { 0 } else { index + 1 });
            });
            LINUX.unmap(word(0).addr(), pages * page).expect("ours");
        }
    }
}
