//! Options: from the `static` of a Rust program, from the environment, from the C interface. The last one wins.
//!
//! `SPECMALLOC_CONF=key:value,...`. Sizes take a suffix K, M or G; switches are `on` and `off`. A key or value there
//! that is not known gives one line on standard error and changes nothing.

use super::lookout;
use super::presence;
use super::process::{environment, process};
use crate::base::GRANULE;
use crate::pal::to_stderr;
use crate::sync::atomic::{AtomicBool, Ordering};

/// What one of the three sets; `None` leaves an option as it is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    pub(crate) dirty_bytes: Option<usize>,
    pub(crate) dirty_percent: Option<usize>,
    pub(crate) helper: Option<bool>,
    pub(crate) reserve: Option<bool>,
    pub(crate) keep_huge: Option<bool>,
    pub(crate) huge_pages: Option<bool>,
    pub(crate) arena_bytes: Option<usize>,
    pub(crate) names: Option<bool>,
    pub(crate) deepbind: Option<bool>,
    pub(crate) profile: Option<usize>,
    pub(crate) guarded: Option<bool>,
    pub(crate) hard_limit: Option<usize>,
    pub(crate) soft_limit: Option<usize>,
    pub(crate) pressure: Option<bool>,
}

/// Why an option was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OptionError {
    /// There is no option of that name.
    UnknownKey,
    /// The option does not take that value.
    BadValue,
}

/// Whether dlopen does as it is told: see [`honours_deepbind`](super::honours_deepbind).
static DEEPBIND: AtomicBool = AtomicBool::new(false);

/// Whether samples are to be guarded.
static GUARDED: AtomicBool = AtomicBool::new(false);

/// Largest share of the live bytes that may be dirty, in percent.
const MOST_PERCENT: usize = 1000;

/// Smallest arena that may be asked for, in bytes.
const LEAST_ARENA: usize = 1 << 20;

/// Bytes for a sample on average, where no number is given.
const SAMPLE_RATE: usize = 512 << 10;
/// The largest such number.
pub const MOST_RATE: usize = 1 << 40;

/// The variable that options are read from.
const VARIABLE: &core::ffi::CStr = c"SPECMALLOC_CONF";

impl Options {
    /// The defaults, in one place: slow paths pass them on.
    pub const NONE: &'static Options = &Options::new();

    /// The defaults.
    pub const fn new() -> Options {
        Options {
            dirty_bytes: None,
            dirty_percent: None,
            helper: None,
            reserve: None,
            keep_huge: None,
            huge_pages: None,
            arena_bytes: None,
            names: None,
            deepbind: None,
            profile: None,
            guarded: None,
            hard_limit: None,
            soft_limit: None,
            pressure: None,
        }
    }

    /// Sets the share of the live bytes that may be dirty.
    pub(crate) const fn set_dirty_percent(&mut self, percent: usize) -> Result<(), OptionError> {
        if percent > MOST_PERCENT {
            return Err(OptionError::BadValue);
        }
        self.dirty_percent = Some(percent);
        Ok(())
    }

    /// Sets the address space that is mapped at a time.
    pub(crate) const fn set_arena_size(&mut self, bytes: usize) -> Result<(), OptionError> {
        if !bytes.is_power_of_two() || bytes < LEAST_ARENA || bytes > GRANULE {
            return Err(OptionError::BadValue);
        }
        self.arena_bytes = Some(bytes);
        Ok(())
    }

    /// Sets one option from text.
    pub(super) fn set(&mut self, key: &[u8], value: &[u8]) -> Result<(), OptionError> {
        let bad = OptionError::BadValue;
        match key {
            b"dirty_max" => self.dirty_bytes = Some(size(value).ok_or(bad)?),
            b"dirty_percent" => self.set_dirty_percent(size(value).ok_or(bad)?)?,
            b"helper" => self.helper = Some(switch(value).ok_or(bad)?),
            b"huge_pages" => self.huge_pages = Some(switch(value).ok_or(bad)?),
            b"reserve" => self.reserve = Some(switch(value).ok_or(bad)?),
            b"keep_huge" => self.keep_huge = Some(switch(value).ok_or(bad)?),
            b"arena_size" => self.set_arena_size(size(value).ok_or(bad)?)?,
            b"names" => self.names = Some(switch(value).ok_or(bad)?),
            // Of the environment only: `forbids_membarrier` looks before anything else is done.
            b"membarrier" => _ = switch(value).ok_or(bad)?,
            b"deepbind" => self.deepbind = Some(switch(value).ok_or(bad)?),
            b"profile" => self.profile = Some(rate(value).ok_or(bad)?),
            b"pressure" => self.pressure = Some(switch(value).ok_or(bad)?),
            b"guarded" => self.guarded = Some(switch(value).ok_or(bad)?),
            b"limit" => self.hard_limit = Some(limit(size(value).ok_or(bad)?)),
            b"soft_limit" => self.soft_limit = Some(limit(size(value).ok_or(bad)?)),
            _ => return Err(OptionError::UnknownKey),
        }
        Ok(())
    }

    /// Puts into force what is set here.
    pub(super) fn apply(&self) {
        let settings = process().settings();
        settings.set_dirty(self.dirty_percent, self.dirty_bytes);
        settings.set_limits(self.hard_limit, self.soft_limit);
        if self.soft_limit.is_some() {
            process().limit().begin_anew();
        }
        if let Some(on) = self.reserve {
            settings.set_reserve(on);
        }
        if let Some(on) = self.keep_huge {
            settings.set_keep_huge(on);
        }
        if let Some(on) = self.huge_pages {
            process().population().allow(on);
        }
        if let Some(bytes) = self.arena_bytes {
            settings.set_arena_bytes(bytes);
        }
        if let Some(on) = self.helper {
            presence::allow(on);
        }
        if let Some(on) = self.pressure {
            lookout::heed(on);
        }
        if let Some(on) = self.names {
            process().space().os().allow_names(on);
        }
        if let Some(bytes) = self.profile {
            settings.set_sample_rate(bytes);
        }
        if let Some(on) = self.guarded {
            // Relaxed: read by the library that has guarded blocks, when it is loaded.
            GUARDED.store(on, Ordering::Relaxed);
            if on && settings.sample_rate() == 0 {
                settings.set_sample_rate(SAMPLE_RATE);
            }
        }
        if let Some(on) = self.deepbind {
            // Relaxed: read by whoever loads a library afterwards.
            DEEPBIND.store(on, Ordering::Relaxed);
        }
    }
}

/// As the option `profile` with a number; the largest there is, if it is larger.
pub fn sample_at(rate: usize) {
    process().settings().set_sample_rate(rate.min(MOST_RATE));
}

/// What the option `guarded` says.
pub(super) fn wants_guarded() -> bool {
    // Relaxed: a switch.
    GUARDED.load(Ordering::Relaxed)
}

/// What the option `deepbind` says.
pub(super) fn honours_deepbind() -> bool {
    // Relaxed: a switch.
    DEEPBIND.load(Ordering::Relaxed)
}

/// The environment's options, key and value and both together.
fn pairs() -> impl Iterator<Item = (&'static [u8], &'static [u8], &'static [u8])> {
    let text = environment(VARIABLE).map_or(&b""[..], core::ffi::CStr::to_bytes);
    text.split(|&byte| byte == b',').filter(|pair| !pair.is_empty()).map(|pair| {
        let mut parts = pair.splitn(2, |&byte| byte == b':');
        (parts.next().unwrap_or(b""), parts.next().unwrap_or(b""), pair)
    })
}

/// Whether the environment wants membarrier not to be used.
pub(super) fn forbids_membarrier() -> bool {
    pairs().any(|(key, value, _)| key == b"membarrier" && switch(value) == Some(false))
}

/// Reads the environment's options and puts them into force.
pub(super) fn read_environment() {
    let mut options = Options::new();
    for (key, value, pair) in pairs() {
        match options.set(key, value) {
            Ok(()) => {}
            Err(OptionError::UnknownKey) => complain(b"unknown option in SPECMALLOC_CONF: ", pair),
            Err(OptionError::BadValue) => complain(b"bad value in SPECMALLOC_CONF: ", pair),
        }
    }
    options.apply();
}

/// One line on standard error, written at once, so that it stays one among those of other processes.
fn complain(what: &[u8], pair: &[u8]) {
    let mut line = [b'\n'; 256];
    let text = [b"specmalloc: ", what, pair].into_iter().flatten();
    let len = line.iter_mut().take(255).zip(text).map(|(place, &byte)| *place = byte).count();
    to_stderr(line.get(..=len).unwrap_or(&line));
}

/// A limit as it is set and told, in which 0 is none, as the settings have it.
pub const fn limit(bytes: usize) -> usize {
    if bytes == 0 { usize::MAX } else { bytes }
}

fn switch(value: &[u8]) -> Option<bool> {
    match value {
        b"on" | b"1" | b"true" => Some(true),
        b"off" | b"0" | b"false" => Some(false),
        _ => None,
    }
}

/// Bytes for a sample on average; zero for none.
fn rate(value: &[u8]) -> Option<usize> {
    let by_switch = || switch(value).map(|on| if on { SAMPLE_RATE } else { 0 });
    size(value).or_else(by_switch).filter(|&bytes| bytes <= MOST_RATE)
}

/// A number with an optional suffix K, M or G, in bytes.
#[inline(never)]
fn size(value: &[u8]) -> Option<usize> {
    let (digits, shift) = match value.split_last()? {
        (b'k' | b'K', digits) => (digits, 10),
        (b'm' | b'M', digits) => (digits, 20),
        (b'g' | b'G', digits) => (digits, 30),
        _ => (value, 0),
    };
    if digits.is_empty() {
        return None;
    }
    let mut number: usize = 0;
    for &digit in digits {
        let digit = digit.checked_sub(b'0').filter(|&digit| digit < 10)?;
        number = number.checked_mul(10)?.checked_add(usize::from(digit))?;
    }
    number.checked_mul(1 << shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_switches_are_read_whole_or_refused() {
        for (text, bytes) in [("0", 0), ("17", 17), ("4K", 4096), ("3m", 3 << 20), ("2G", 2 << 30)] {
            assert_eq!(size(text.as_bytes()), Some(bytes), "{text}");
        }
        for text in ["", "K", "-1", "1T", "1 ", "0x10", "99999999999999999999", "18446744073709551615K"] {
            assert_eq!(size(text.as_bytes()), None, "{text}");
        }
        assert_eq!((switch(b"on"), switch(b"off"), switch(b"yes")), (Some(true), Some(false), None));
    }

    #[test]
    fn a_wrong_option_changes_nothing() {
        let mut options = Options::new();
        assert_eq!(options.set(b"dirty_maximum", b"1"), Err(OptionError::UnknownKey));
        assert_eq!(options.set(b"arena_size", b"3M"), Err(OptionError::BadValue));
        assert_eq!(options.set(b"dirty_percent", b"1001"), Err(OptionError::BadValue));
        assert!(options.arena_bytes.is_none() && options.dirty_percent.is_none());
        assert_eq!(options.set(b"arena_size", b"4M"), Ok(()));
        assert_eq!(options.arena_bytes, Some(4 << 20));
    }
}
