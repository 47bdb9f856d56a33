//! Where stacks begin: with whoever wanted memory. How Rust's standard library asks its allocator for it, and the
//! allocator's own door, is the same in each stack and tells nobody anything, so the innermost frames are left out that
//! are only that. (Of programs in C the whole allocator is an object of its own, and is never noted.)

use super::data::{DROP_FRAMES, Line, Profile};
use regex::Regex;

/// What matches the whole name of such a function, as pprof takes it.
fn entry() -> Regex {
    Regex::new(&format!("^(?:{DROP_FRAMES})$")).expect("a regular expression")
}

/// Leaves such frames out, as far as names are known.
pub(super) fn leave_out(profile: &mut Profile) {
    let entry = entry();
    let entries = |lines: &[Line]| lines.iter().take_while(|line| entry.is_match(&line.function)).count();
    for stack in &mut profile.stacks {
        let is_only_that = |&&at: &&usize| {
            let lines = &profile.locations[at].lines;
            !lines.is_empty() && entries(lines) == lines.len()
        };
        let most = stack.locations.len().saturating_sub(1);
        let only = stack.locations[..most].iter().take_while(is_only_that).count();
        stack.locations.drain(..only);
    }
    for location in &mut profile.locations {
        let count = entries(&location.lines);
        if count < location.lines.len() {
            location.lines.drain(..count);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::data::{Location, Stack};
    use super::*;

    #[test]
    fn entries_are_known_by_their_names() {
        let is_entry = |name| entry().is_match(name);
        for entry in [
            "alloc::alloc::alloc",
            "alloc::alloc::exchange_malloc",
            "<alloc::alloc::Global>::alloc_impl_runtime",
            "<alloc::alloc::Global as core::alloc::Allocator>::allocate",
            "__rust_alloc",
            "__rustc::__rust_alloc_zeroed",
            "__rustc::__rg_realloc",
            "__rdl_alloc",
            "std::sys::alloc::unix::<impl core::alloc::global::GlobalAlloc for std::alloc::System>::alloc",
            "<specmalloc::api::rust::SpecMalloc as core::alloc::global::GlobalAlloc>::alloc",
            "<my::Counting as core::alloc::global::GlobalAlloc>::realloc",
            "specmalloc::api::rust::SpecMalloc::get",
        ] {
            assert!(is_entry(entry), "{entry}");
        }
        for other in [
            "alloc::raw_vec::RawVecInner<A>::finish_grow",
            "<alloc::vec::Vec<T> as core::clone::Clone>::clone",
            "alloc::boxed::Box<T>::new",
            "specmalloc::api::walk::walk",
            "<my::Counting as core::alloc::global::GlobalAlloc>::dealloc",
            "__rust_begin_short_backtrace",
            "malloc",
            "",
        ] {
            assert!(!is_entry(other), "{other}");
        }
    }

    #[test]
    fn stacks_begin_with_the_first_other_function() {
        let at = |address, functions: &[&str]| {
            let line = |function: &&str| Line { function: (*function).to_owned(), ..Line::default() };
            Location { address, mapping: None, lines: functions.iter().map(line).collect() }
        };
        let stack = |locations: &[usize]| Stack { locations: locations.to_vec(), values: vec![1] };
        let mut profile = Profile {
            locations: vec![
                at(1, &["__rust_alloc"]),
                at(2, &["alloc::alloc::alloc", "alloc::alloc::exchange_malloc", "build"]),
                at(3, &["main"]),
                at(4, &[]),
            ],
            // One that the allocator is entered in again from, by a function of the program's; unknown ones; and nothing
            // else.
            stacks: [&[0, 1, 2][..], &[1, 2], &[2, 0, 1, 2], &[3, 0, 2], &[0], &[]].map(stack).to_vec(),
            ..Profile::default()
        };
        leave_out(&mut profile);
        let left: Vec<_> = profile.stacks.iter().map(|stack| stack.locations.clone()).collect();
        assert_eq!(left, [&[1, 2][..], &[1, 2], &[2, 0, 1, 2], &[3, 0, 2], &[0], &[]]);
        assert_eq!([0, 1, 2, 3].map(|at: usize| profile.locations[at].lines.len()), [1, 1, 1, 0]);
        assert_eq!(profile.locations[1].lines[0].function, "build");
    }
}
