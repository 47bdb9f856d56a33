//! Any name and value of an option: what is accepted reads back, what is refused changes nothing, and the allocator
//! works whatever is set.

#![no_main]

use libfuzzer_sys::fuzz_target;
use specmalloc::SpecMalloc;
use specmalloc::internals::api::raw::{OptionError, get_option, set_option};
use std::alloc::{GlobalAlloc, Layout};

/// `helper` is not among them: a fuzzer does not start threads by the thousand.
const NAMES: [&str; 7] =
    ["dirty_max", "dirty_percent", "reserve", "keep_huge", "huge_pages", "arena_size", "soft_limit"];

static ALLOC: SpecMalloc = SpecMalloc::new();

/// What the text stands for, spelled out another way than the allocator does it.
fn meaning(name: &str, value: &str) -> Option<usize> {
    if ["reserve", "keep_huge", "huge_pages"].contains(&name) {
        let (on, off) = (["on", "1", "true"], ["off", "0", "false"]);
        return if on.contains(&value) { Some(1) } else { off.contains(&value).then_some(0) };
    }
    let digits = value.trim_end_matches(['k', 'K', 'm', 'M', 'g', 'G']);
    let unit = match &value[digits.len()..] {
        "" => 1u128,
        "k" | "K" => 1 << 10,
        "m" | "M" => 1 << 20,
        "g" | "G" => 1 << 30,
        _ => return None,
    };
    if digits.is_empty() || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let number =
        digits.bytes().fold(0u128, |sum, digit| sum.saturating_mul(10).saturating_add((digit - b'0').into()));
    let number = usize::try_from(number.saturating_mul(unit)).ok()?;
    match name {
        "dirty_percent" => Some(number).filter(|&share| share <= 1000),
        "arena_size" => {
            Some(number).filter(|bytes| bytes.is_power_of_two() && (1 << 20..=32 << 20).contains(bytes))
        }
        _ => Some(number),
    }
}

fuzz_target!(|input: (u8, &str, &str)| {
    let (choice, other, value) = input;
    let name = NAMES.get(usize::from(choice) % (NAMES.len() + 1)).copied().unwrap_or(other);
    if name == "helper" {
        return;
    }
    let before = get_option(name);
    let outcome = set_option(name, value);
    match (NAMES.contains(&name), meaning(name, value)) {
        (false, _) => assert_eq!((outcome, get_option(name)), (Err(OptionError::UnknownKey), None)),
        (true, None) => assert_eq!((outcome, get_option(name)), (Err(OptionError::BadValue), before)),
        (true, Some(meant)) => assert_eq!((outcome, get_option(name)), (Ok(()), Some(meant))),
    }
    for size in [100, 100_000, 5 << 20] {
        let layout = Layout::from_size_align(size, 8).unwrap();
        // SAFETY: a block that is freed at once with its own layout.
        unsafe { ALLOC.dealloc(ALLOC.alloc(layout), layout) };
    }
});
