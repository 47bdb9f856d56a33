//! What is counted of samples: how many were allocated and freed, and their bytes, by stack and size. A fixed layout, in
//! which nothing is a pointer: it may lie in a file.
//!
//! Any number of threads and signal handlers write to it. What is written once (stacks, objects) is complete before a
//! number leads to it; counters are counters. The image only grows: where it is full, samples are counted as lost.
//!
//! **The peak.** Each entry keeps what it had at the highest moment, saved when it changes for the first time after
//! that. The moments are numbered: an entry that has not been saved since the last has still what it had. So a new peak
//! costs one number, however many stacks there are.

use super::lives::Lives;
use super::unwind::Module;
use core::sync::atomic::Ordering::Relaxed;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Stacks of a size that can be told apart.
const ENTRIES: usize = 1 << 17;
/// Places of the table that finds them.
const PLACES: usize = 2 * ENTRIES;
/// Return addresses of all stacks together.
const WORDS: usize = 1 << 21;
/// Objects that are loaded, at any time.
const MODULES: usize = 1024;
/// Words of an object's path.
const PATH: usize = 29;

/// A place of the table whose stack may be anybody's is looked for no further than this.
const TRIES: usize = 256;

#[repr(C)]
struct Head {
    /// The process; zero until it has claimed the image.
    pid: AtomicU64,
    /// Bytes for a sample on average: those of the last sample.
    rate: AtomicU64,
    entries: AtomicU64,
    words: AtomicU64,
    modules: AtomicU64,
    lost: AtomicU64,
    /// Bytes that the live samples stand for, roughly; what it was at most, and how often that changed.
    live: AtomicU64,
    peak: AtomicU64,
    moment: AtomicU64,
    /// All samples: the last one's identity.
    samples: AtomicU64,
    padding: [AtomicU64; 502],
}

/// An object: see [`ModuleAt`].
#[repr(C)]
struct ModuleRecord {
    start: AtomicU64,
    end: AtomicU64,
    bias: AtomicU64,
    path: [AtomicU64; PATH],
}

/// The samples of one stack that count as one size, and were drawn at one rate.
#[repr(C)]
struct Entry {
    hash: AtomicU64,
    /// Where the stack lies among the words, and its length in the lowest byte.
    stack: AtomicU64,
    counted: AtomicU64,
    rate: AtomicU64,
    allocated: [AtomicU64; 2],
    freed: [AtomicU64; 2],
    /// What was live at the moment below.
    peak: [AtomicU64; 2],
    moment: AtomicU64,
    /// Nanoseconds between allocation and free, of all that were freed together.
    lived: AtomicU64,
}

/// A sample that has been freed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Freed {
    pub(super) id: u64,
    pub(super) counted: u64,
    /// Bytes for a sample when it was allocated.
    pub(super) rate: u64,
    /// Nanoseconds that it lived.
    pub(super) age: u64,
    pub(super) is_told: bool,
}

/// The samples of one process. Zero bytes are one without samples.
#[repr(C, align(4096))]
pub struct Image {
    head: Head,
    modules: [ModuleRecord; MODULES],
    places: [AtomicU32; PLACES],
    entries: [Entry; ENTRIES],
    lives: Lives,
    words: [AtomicU64; WORDS],
}

/// Samples of one stack.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sampled {
    /// How many.
    pub objects: u64,
    /// Their bytes, as they were asked for.
    pub bytes: u64,
}

/// A stack, and what was sampled there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stack<I> {
    /// Bytes that each of the allocations counts as.
    pub counted: u64,
    /// Bytes for a sample on average, when they were allocated: it may have changed since.
    pub rate: u64,
    /// All samples.
    pub allocated: Sampled,
    /// Those that are live.
    pub live: Sampled,
    /// Those that were live when most was.
    pub peak: Sampled,
    /// Those that were freed.
    pub freed: Sampled,
    /// Nanoseconds between allocation and free, of all that were freed together.
    pub lived: u64,
    /// Addresses of calls, the innermost first.
    pub addresses: I,
}

/// An object that was loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ModuleAt {
    /// Where it begins.
    pub start: u64,
    /// Where it ends.
    pub end: u64,
    /// What is added to the addresses in its file.
    pub bias: u64,
    /// Its path, and zeros; and in the last byte whether it is the program itself.
    path: [u8; PATH * 8],
}

impl ModuleAt {
    /// Its path, and whether it is the program itself, and no library.
    pub fn path(&self) -> (&[u8], bool) {
        let (path, is_program) = self.path.split_at(PATH * 8 - 1);
        (path.split(|&byte| byte == 0).next().unwrap_or_default(), is_program != [0])
    }
}

fn hash(pcs: &[usize], counted: usize, rate: usize) -> u64 {
    let mix =
        |hash: u64, word: usize| (hash ^ word as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
    pcs.iter().fold(mix(mix(1, counted), rate), |hash, &pc| mix(hash, pc)) | 1
}

impl Image {
    /// Notes whose it is. `false` if it is somebody's.
    pub(super) fn claim(&self, pid: u64) -> bool {
        self.head.pid.compare_exchange(0, pid, Relaxed, Relaxed).is_ok()
    }

    pub(super) fn is_of(&self, pid: u64) -> bool {
        self.head.pid.load(Relaxed) == pid
    }

    /// The process that wrote it; zero for none.
    pub fn pid(&self) -> u64 {
        self.head.pid.load(Relaxed)
    }

    /// Bytes for a sample on average: those of the last one.
    pub fn rate(&self) -> u64 {
        self.head.rate.load(Relaxed)
    }

    /// Samples for which there was no room.
    pub fn lost(&self) -> u64 {
        self.head.lost.load(Relaxed)
    }

    /// Notes an allocation at `now`, in nanoseconds: see [`super::allocated`]. Its number, and its identity; zero if it
    /// is not noted.
    pub(super) fn allocated(
        &self,
        pcs: &[usize],
        size: usize,
        counted: usize,
        rate: usize,
        now: u64,
    ) -> (u32, u64) {
        let Some((entry_number, place)) = self.find(pcs, counted, rate).zip(self.lives.take()) else {
            self.head.lost.fetch_add(1, Relaxed);
            return (0, 0);
        };
        self.head.rate.store(rate as u64, Relaxed);
        let Some(entry) = self.entries.get(entry_number as usize) else { return (0, 0) };
        let id = self.head.samples.fetch_add(1, Relaxed) + 1;
        let number = self.lives.begin(place, id, entry_number, now);
        self.save(entry);
        count(&entry.allocated, size);
        let weight = weight(counted as u64, rate as u64);
        let live = self.head.live.fetch_add(weight, Relaxed).wrapping_add(weight);
        if live > self.head.peak.load(Relaxed) {
            self.head.peak.store(live, Relaxed);
            self.head.moment.fetch_add(1, Relaxed);
        }
        (number, id)
    }

    /// The program is told of the sample that is known as `number`.
    pub(super) fn set_told(&self, number: u32) {
        self.lives.set_told(number);
    }

    /// Notes a free at `now`, in nanoseconds: see [`super::freed`]. `None` of what was not noted, as in the child of a fork
    /// the little that its parent has changed before the child has looked.
    pub(super) fn freed(&self, sample: u32, size: usize, now: u64) -> Option<Freed> {
        let life = self.lives.end(sample)?;
        let entry = self.entries.get(life.entry as usize)?;
        let age = now.saturating_sub(life.born);
        let (counted, rate) = (entry.counted.load(Relaxed), entry.rate.load(Relaxed));
        let freed = Freed { id: life.id, counted, rate, age, is_told: life.is_told };
        self.save(entry);
        count(&entry.freed, size);
        entry.lived.fetch_add(age, Relaxed);
        let weight = weight(counted, rate);
        let _before = self.head.live.fetch_update(Relaxed, Relaxed, |live| Some(live.saturating_sub(weight)));
        Some(freed)
    }

    /// Before an entry changes.
    fn save(&self, entry: &Entry) {
        let moment = self.head.moment.load(Relaxed);
        if entry.moment.load(Relaxed) != moment {
            let live = entry.live();
            for (word, value) in entry.peak.iter().zip([live.objects, live.bytes]) {
                word.store(value, Relaxed);
            }
            entry.moment.store(moment, Relaxed);
        }
    }

    /// The entry of a stack, size and rate: its number.
    fn find(&self, pcs: &[usize], counted: usize, rate: usize) -> Option<u32> {
        let hash = hash(pcs, counted, rate);
        let mut made = None;
        for step in 0..TRIES {
            let place = self.places.get(((hash >> 20) as usize % PLACES) ^ step)?;
            // Acquire: pairs with the Release below: the entry is complete.
            let mut found = place.load(Ordering::Acquire);
            if found == 0 {
                let number = match made {
                    Some(number) => number,
                    None => self.make(pcs, counted, rate, hash)?,
                };
                made = Some(number);
                // Release: pairs with the Acquire above and in this exchange.
                match place.compare_exchange(0, number + 1, Ordering::Release, Ordering::Acquire) {
                    Ok(_) => return Some(number),
                    Err(others) => found = others,
                }
            }
            let number = found - 1;
            let entry = self.entries.get(number as usize)?;
            if entry.hash.load(Relaxed) == hash
                && entry.counted.load(Relaxed) == counted as u64
                && entry.rate.load(Relaxed) == rate as u64
                && self.addresses(entry).eq(pcs.iter().map(|&pc| pc as u64))
            {
                return Some(number);
            }
        }
        None
    }

    /// Writes a new entry, which nothing leads to yet.
    fn make(&self, pcs: &[usize], counted: usize, rate: usize, hash: u64) -> Option<u32> {
        let take = |counter: &AtomicU64, count: usize, most: usize| {
            let taken = counter.fetch_update(Relaxed, Relaxed, |used| {
                Some(used + count as u64).filter(|&used| used <= most as u64)
            });
            taken.ok().map(|before| before as usize)
        };
        let first = take(&self.head.words, pcs.len(), WORDS)?;
        let number = take(&self.head.entries, 1, ENTRIES)?;
        let entry = self.entries.get(number)?;
        for (word, &pc) in self.words.get(first..)?.iter().zip(pcs) {
            word.store(pc as u64, Relaxed);
            self.learn(pc);
        }
        entry.hash.store(hash, Relaxed);
        entry.counted.store(counted as u64, Relaxed);
        entry.rate.store(rate as u64, Relaxed);
        entry.stack.store((first as u64) << 8 | pcs.len() as u64, Relaxed);
        Some(number as u32)
    }

    fn addresses(&self, entry: &Entry) -> impl Iterator<Item = u64> {
        let stack = entry.stack.load(Relaxed);
        let words = self.words.get((stack >> 8) as usize..).unwrap_or_default();
        words.iter().take((stack & 0xff) as usize).map(|word| word.load(Relaxed))
    }

    /// Notes the object that `pc` lies in, unless it is known.
    fn learn(&self, pc: usize) {
        let known = (self.head.modules.load(Relaxed) as usize).min(MODULES);
        let is_known = |module: &ModuleRecord| {
            (module.start.load(Relaxed)..module.end.load(Relaxed)).contains(&(pc as u64))
        };
        if self.modules.iter().take(known).any(is_known) {
            return;
        }
        let Some(module) = Module::of(pc) else { return };
        let Some(record) = self.modules.get(self.head.modules.fetch_add(1, Relaxed) as usize) else { return };
        let mut path = [0; PATH * 8];
        if let Some((last, path)) = path.split_last_mut() {
            *last = u8::from(module.is_program());
            module.write_path(path);
        }
        for (word, bytes) in record.path.iter().zip(path.as_chunks::<8>().0) {
            word.store(u64::from_le_bytes(*bytes), Relaxed);
        }
        record.bias.store(module.bias as u64, Relaxed);
        record.end.store(module.end as u64, Relaxed);
        record.start.store(module.start as u64, Relaxed);
    }

    /// In the child of a fork: begins with what its parent had, whose blocks it has.
    pub(super) fn copy_from(&self, parents: &Image) {
        let head = |image: &Self| [image.head.entries.load(Relaxed), image.head.words.load(Relaxed)];
        let [entries, words] = head(parents).map(|used| used as usize);
        let copy = |to: &AtomicU64, from: &AtomicU64| to.store(from.load(Relaxed), Relaxed);
        for (to, from) in self.words.iter().zip(&parents.words).take(words) {
            copy(to, from);
        }
        for (to, from) in self.entries.iter().zip(&parents.entries).take(entries) {
            copy(&to.hash, &from.hash);
            copy(&to.stack, &from.stack);
            copy(&to.counted, &from.counted);
            copy(&to.rate, &from.rate);
            // What was allocated there before counts for the child as far as it is live.
            let live = from.live();
            for (word, value) in to.allocated.iter().zip([live.objects, live.bytes]) {
                word.store(value, Relaxed);
            }
        }
        self.lives.copy_from(&parents.lives);
        copy(&self.head.samples, &parents.head.samples);
        for (to, from) in self.places.iter().zip(&parents.places) {
            let number = from.load(Relaxed);
            if number != 0 && number as usize <= entries {
                to.store(number, Relaxed);
            }
        }
        for (to, from) in self.modules.iter().zip(&parents.modules) {
            for (to, from) in to.path.iter().zip(&from.path) {
                copy(to, from);
            }
            copy(&to.bias, &from.bias);
            copy(&to.end, &from.end);
            copy(&to.start, &from.start);
        }
        let Head { rate, entries, words, modules, live, peak, moment, .. } = &self.head;
        copy(rate, &parents.head.rate);
        copy(entries, &parents.head.entries);
        copy(words, &parents.head.words);
        copy(modules, &parents.head.modules);
        copy(live, &parents.head.live);
        copy(peak, &parents.head.live);
        moment.store(1, Relaxed);
    }

    /// Every stack at which samples were allocated.
    pub fn stacks(&self) -> impl Iterator<Item = Stack<impl Iterator<Item = u64>>> {
        let moment = self.head.moment.load(Relaxed);
        let made = self.head.entries.load(Relaxed) as usize;
        self.entries.iter().take(made).filter(|entry| entry.allocated[0].load(Relaxed) > 0).map(
            move |entry| {
                let live = entry.live();
                let [objects, bytes] = entry.peak.each_ref().map(|word| word.load(Relaxed));
                let is_saved = entry.moment.load(Relaxed) == moment;
                Stack {
                    counted: entry.counted.load(Relaxed),
                    rate: entry.rate.load(Relaxed),
                    allocated: read(&entry.allocated),
                    live,
                    peak: if is_saved { Sampled { objects, bytes } } else { live },
                    freed: read(&entry.freed),
                    lived: entry.lived.load(Relaxed),
                    addresses: self.addresses(entry),
                }
            },
        )
    }

    /// The objects that functions of stacks lie in.
    pub fn modules(&self) -> impl Iterator<Item = ModuleAt> {
        let known = self.head.modules.load(Relaxed) as usize;
        self.modules.iter().take(known).filter(|module| module.start.load(Relaxed) != 0).map(|module| {
            let mut path = [0; PATH * 8];
            for (bytes, word) in path.as_chunks_mut::<8>().0.iter_mut().zip(&module.path) {
                *bytes = word.load(Relaxed).to_le_bytes();
            }
            let [start, end, bias] =
                [&module.start, &module.end, &module.bias].map(|word| word.load(Relaxed));
            ModuleAt { start, end, bias, path }
        })
    }
}

impl Entry {
    fn live(&self) -> Sampled {
        let (allocated, freed) = (read(&self.allocated), read(&self.freed));
        Sampled {
            objects: allocated.objects.saturating_sub(freed.objects),
            bytes: allocated.bytes.saturating_sub(freed.bytes),
        }
    }
}

fn read(words: &[AtomicU64; 2]) -> Sampled {
    let [objects, bytes] = words.each_ref().map(|word| word.load(Relaxed));
    Sampled { objects, bytes }
}

fn count(words: &[AtomicU64; 2], size: usize) {
    let [objects, bytes] = words;
    objects.fetch_add(1, Relaxed);
    bytes.fetch_add(size as u64, Relaxed);
}

/// Bytes that a sample stands for, near enough to tell a peak: `counted / (1 - exp(-counted / rate))`.
fn weight(counted: u64, rate: u64) -> u64 {
    if counted >= rate.saturating_mul(2) { counted } else { rate + counted / 2 }
}

#[cfg(test)]
mod tests;
