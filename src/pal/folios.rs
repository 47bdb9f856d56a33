//! Which pages the system populates several of at a fault, and keeps together as one *folio* until it is split.

use super::limits::{number, read};

/// Sizes in bytes of the folios of anonymous memory that a process may get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Folios {
    /// The largest that come where nobody has asked for any; 0 if they are single pages.
    pub unasked: usize,
    /// The smallest that come at all; [`Folios::HUGE`] if the system has no others.
    pub least: usize,
}

const SETTINGS: &[u8] = b"/sys/kernel/mm/transparent_hugepage/";
/// The sizes in KiB, as the system writes them, the largest first: of what a page table maps as one, and since Linux 6.8
/// of those below. (No references: each would be work at every start of a program.)
const SIZES: [[u8; 4]; 8] = [*b"2048", *b"1024", *b" 512", *b" 256", *b" 128", *b"  64", *b"  32", *b"  16"];

/// What a file of settings has chosen.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Setting {
    Always,
    /// What is chosen for all sizes.
    Inherit,
    /// Where it is asked for.
    Asked,
    Never,
}

impl Folios {
    /// Bytes of a huge page.
    pub const HUGE: usize = 2 << 20;
    /// Single pages, but where a program asks for huge ones.
    pub const NONE: Folios = Folios { unasked: 0, least: Folios::HUGE };

    /// What the system's settings say, which are looked for below `root`, empty but in tests.
    pub(super) fn of_system(root: &[u8]) -> Folios {
        let all = setting(&[root, SETTINGS, b"enabled"]) == Some(Setting::Always);
        let mut folios = Folios { unasked: if all { Folios::HUGE } else { 0 }, least: Folios::HUGE };
        for kib in &SIZES {
            let parts = [root, SETTINGS, b"hugepages-", kib.trim_ascii_start(), b"kB/enabled"];
            // An older system has one size.
            let Some(chosen) = setting(&parts) else { break };
            let bytes = number(kib).map_or(0, |kib| kib << 10);
            if chosen != Setting::Never {
                folios.least = bytes;
            }
            if chosen == Setting::Always || all && chosen == Setting::Inherit {
                folios.unasked = folios.unasked.max(bytes);
            }
        }
        folios
    }
}

/// What the file whose path is made of `parts` has chosen: the word in brackets.
fn setting(parts: &[&[u8]]) -> Option<Setting> {
    let mut file = [0; 64];
    let text = read(parts, &mut file)?;
    let word = text.split(|&byte| byte == b'[').nth(1)?.split(|&byte| byte == b']').next()?;
    match word {
        b"always" => Some(Setting::Always),
        b"inherit" => Some(Setting::Inherit),
        b"madvise" => Some(Setting::Asked),
        b"never" => Some(Setting::Never),
        _ => None,
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;
    use crate::pal::limits::tests::Root;
    use crate::pal::{Access, Linux, Platform};
    use std::format;
    use std::fs::File;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::FileExt;

    #[test]
    fn the_sizes_are_what_the_settings_say() {
        let root = Root::new("folios");
        let told = || Folios::of_system(root.path().as_os_str().as_bytes());
        let set = |file: &str, chosen: &str| {
            let words = ["always", "inherit", "madvise", "never"]
                .map(|word| if word == chosen { format!("[{word}]") } else { word.into() });
            root.write(
                &format!("sys/kernel/mm/transparent_hugepage/{file}enabled"),
                &(words.join(" ") + "\n"),
            );
        };
        assert_eq!(told(), Folios::NONE, "nothing is known");
        set("", "madvise");
        assert_eq!(told(), Folios::NONE);
        set("", "always");
        assert_eq!(told(), Folios { unasked: 2 << 20, least: 2 << 20 }, "an older system");
        for kib in [2048, 1024, 512, 256, 128, 64, 32, 16] {
            set(&format!("hugepages-{kib}kB/"), "never");
        }
        set("hugepages-2048kB/", "inherit");
        assert_eq!(told(), Folios { unasked: 2 << 20, least: 2 << 20 });
        set("", "madvise");
        assert_eq!(told(), Folios::NONE);
        set("hugepages-64kB/", "inherit");
        assert_eq!(told(), Folios { unasked: 0, least: 64 << 10 }, "for who asks");
        set("hugepages-64kB/", "madvise");
        set("hugepages-128kB/", "always");
        assert_eq!(told(), Folios { unasked: 128 << 10, least: 64 << 10 });
        set("hugepages-16kB/", "always");
        assert_eq!(told(), Folios { unasked: 128 << 10, least: 16 << 10 });
        set("hugepages-2048kB/", "always");
        assert_eq!(told(), Folios { unasked: 2 << 20, least: 16 << 10 });
        set("", "what is this");
        assert_eq!(told(), Folios { unasked: 2 << 20, least: 16 << 10 });
    }

    /// The word of a file of the system's that has one for each page.
    fn word(file: &str, number: usize) -> Option<u64> {
        let mut word = [0; 8];
        File::open(file).ok()?.read_exact_at(&mut word, 8 * number as u64).ok()?;
        Some(u64::from_ne_bytes(word))
    }

    /// Whether a page is part of a larger one; `None` where it is not there, or the process may not know.
    fn is_part(address: usize, page: usize) -> Option<bool> {
        const COMPOUND: u64 = 3 << 15;
        let frame = word("/proc/self/pagemap", address / page)? & ((1 << 55) - 1);
        (frame != 0).then_some(word("/proc/kpageflags", frame as usize)? & COMPOUND != 0)
    }

    #[test]
    fn a_folio_is_taken_apart_by_one_of_its_pages() {
        let linux = Linux::new();
        let (page, len) = (linux.page_size(), 2 * Folios::HUGE);
        let at = linux.map(None, len, Access::ReadWrite).unwrap();
        let huge = at.next_multiple_of(Folios::HUGE);
        let last = huge + Folios::HUGE - page;
        let _refused = linux.prefer_huge_pages(at, len, true);
        for touched in (huge..=last).step_by(page) {
            // SAFETY: mapped above, and nobody else's.
            unsafe { core::ptr::with_exposed_provenance_mut::<usize>(touched).write(touched) };
        }
        // Where it came as one, and that can be seen: as root, on a system that has huge pages.
        if is_part(last, page) == Some(true) {
            // SAFETY: as above.
            unsafe { linux.split(huge + page) };
            assert_eq!(is_part(last, page), Some(false));
            // SAFETY: as above.
            assert_eq!(unsafe { core::ptr::with_exposed_provenance::<usize>(last).read() }, last);
        } else {
            std::eprintln!("not seen: no huge page, or none that this process may look at");
        }
        // SAFETY: nothing uses it any more.
        unsafe { linux.unmap(at, len).unwrap() };
    }
}
