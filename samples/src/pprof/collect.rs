//! From what a process has counted to a profile: samples become estimates for all allocations, objects the parts of
//! them that hold code, with their build ids. Names of code that was made at run time are looked up now, for only now
//! they are there; all others can be found later, in the files (`symbols`).

use super::data::{KINDS, Line, Location, Mapping, Profile, Stack};
use super::objects::Object;
use crate::image::{Image, ModuleAt, Sampled};
use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Segments begin and end with pages when they are loaded.
const PAGE: u64 = 4096;

/// What was allocated and freed up to some moment, and how long it lived, by stack, by what its allocations count as, and by
/// their rate.
pub type Before = HashMap<(Vec<u64>, u64, u64), (Sampled, Sampled, u64)>;

/// What `image` has been told so far.
pub fn before(image: &Image) -> Before {
    let stacks = image.stacks();
    stacks
        .map(|stack| {
            let known = (stack.allocated, stack.freed, stack.lived);
            ((stack.addresses.collect(), stack.counted, stack.rate), known)
        })
        .collect()
}

/// What `image` says now, of a process that was noted for so long; what was allocated and freed `before` that is left
/// out. It is shown by `first_kind` if nothing is said.
pub fn profile(image: &Image, before: &Before, first_kind: &str, duration: Duration) -> Profile {
    profile_below(Path::new("/"), image, before, first_kind, duration)
}

/// The same of a process whose files lie below `root`, as one in a container.
pub fn profile_below(
    root: &Path,
    image: &Image,
    before: &Before,
    first_kind: &str,
    duration: Duration,
) -> Profile {
    let pid = image.pid();
    let mut collected = Collected { profile: Profile::default(), numbers: HashMap::new() };
    let mut samples = 0;
    for stack in image.stacks() {
        let key = (stack.addresses.collect::<Vec<u64>>(), stack.counted, stack.rate);
        let before = before.get(&key).copied().unwrap_or_default();
        let allocated = since(stack.allocated, before.0);
        samples += allocated.objects;
        let factor = factor(stack.counted, stack.rate);
        let blocks = [allocated, stack.live, stack.peak].into_iter().flat_map(|what| whole(what, factor));
        let freed = Sampled {
            objects: since(stack.freed, before.1).objects,
            bytes: stack.lived.saturating_sub(before.2),
        };
        let values: Vec<i64> = blocks.chain(whole(freed, factor)).collect();
        if values.iter().any(|&value| value != 0) {
            let locations = key.0.into_iter().map(|address| collected.location(address)).collect();
            collected.profile.stacks.push(Stack { locations, values });
        }
    }
    let mut profile = collected.profile;
    let mut program = None;
    for module in image.modules() {
        let own = mappings(root, &module);
        if module.path().1 {
            program = own.first().map(|mapping| mapping.path.clone());
        }
        profile.mappings.extend(own);
    }
    let jitted = code_made_at_run_time(root, pid);
    for location in &mut profile.locations {
        let holds = |mapping: &Mapping| (mapping.start..mapping.end).contains(&location.address);
        location.mapping = profile.mappings.iter().position(holds);
        let name = jitted.iter().find(|code| (code.start..code.end).contains(&location.address));
        if let (None, Some(code)) = (location.mapping, name) {
            location.lines = vec![Line { function: code.name.clone(), ..Line::default() }];
        }
    }
    keep_used(&mut profile, program.as_deref());
    profile.kinds = KINDS.map(|(name, unit)| (name.to_owned(), unit.to_owned())).to_vec();
    profile.first_kind = first_kind.to_owned();
    profile.rate = image.rate() as i64;
    profile.time = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as i64);
    profile.duration = duration.as_nanos() as i64;
    profile.comments = vec![format!("process {pid}, {samples} samples, {} lost", image.lost())];
    profile
}

/// Locations, each once.
struct Collected {
    profile: Profile,
    numbers: HashMap<u64, usize>,
}

impl Collected {
    fn location(&mut self, address: u64) -> usize {
        *self.numbers.entry(address).or_insert_with(|| {
            self.profile.locations.push(Location { address, ..Location::default() });
            self.profile.locations.len() - 1
        })
    }
}

/// What came to `before` until there was `now`.
fn since(now: Sampled, before: Sampled) -> Sampled {
    Sampled {
        objects: now.objects.saturating_sub(before.objects),
        bytes: now.bytes.saturating_sub(before.bytes),
    }
}

/// How many allocations a sample stands for, of such that count as `counted` bytes: each is sampled with the
/// probability `1 - exp(-counted / rate)`.
fn factor(counted: u64, rate: u64) -> f64 {
    if rate <= 1 { 1.0 } else { -1.0 / (-(counted.max(1) as f64) / rate as f64).exp_m1() }
}

/// Objects and bytes, or whatever is added up of them, that samples stand for.
fn whole(sampled: Sampled, factor: f64) -> [i64; 2] {
    [sampled.objects, sampled.bytes].map(|sampled| (sampled as f64 * factor).round() as i64)
}

/// Where what a process calls `path` lies, if its files lie below `root`.
pub(super) fn below(root: &Path, path: &str) -> PathBuf {
    root.join(if root == Path::new("/") { path } else { path.trim_start_matches('/') })
}

/// The parts of an object that hold code.
fn mappings(root: &Path, module: &ModuleAt) -> Vec<Mapping> {
    let mut path = String::from_utf8_lossy(module.path().0).into_owned();
    if root == Path::new("/")
        && let Ok(whole) = fs::canonicalize(&path)
    {
        // As the program was started from here, this is where its relative paths begin, as a rule.
        path = whole.to_string_lossy().into_owned();
    }
    let Some(object) = Object::read(&below(root, &path)) else {
        // The kernel's own, or a file that is gone. As linkers lay objects out.
        let offset = module.start.wrapping_sub(module.bias);
        return vec![Mapping { start: module.start, end: module.end, offset, path, build_id: String::new() }];
    };
    let code = object.segments.iter().filter(|segment| segment.is_code);
    code.map(|segment| {
        let start = module.bias.wrapping_add(segment.address);
        let before = segment.offset % PAGE;
        Mapping {
            start: start.wrapping_sub(before),
            end: start.wrapping_add(segment.bytes),
            offset: segment.offset - before,
            path: path.clone(),
            build_id: object.build_id.clone(),
        }
    })
    .collect()
}

/// Leaves out the mappings that no location lies in. The program comes first, or, if nobody knows its file, where stacks
/// begin.
fn keep_used(profile: &mut Profile, program: Option<&str>) {
    let mut begin = vec![0usize; profile.mappings.len()];
    let mut order: Vec<usize> = profile.locations.iter().filter_map(|location| location.mapping).collect();
    order.sort_unstable();
    order.dedup();
    for stack in &profile.stacks {
        let outermost = stack.locations.last().and_then(|&location| profile.locations[location].mapping);
        if let Some(mapping) = outermost {
            begin[mapping] += 1;
        }
    }
    let is_program = |mapping: usize| program == Some(profile.mappings[mapping].path.as_str());
    order.sort_by_key(|&mapping| std::cmp::Reverse((is_program(mapping), begin[mapping])));
    let new: HashMap<usize, usize> = order.iter().enumerate().map(|(new, &old)| (old, new)).collect();
    profile.mappings = order.iter().map(|&mapping| profile.mappings[mapping].clone()).collect();
    for location in &mut profile.locations {
        location.mapping = location.mapping.map(|mapping| new[&mapping]);
    }
}

/// A function that was made at run time.
#[derive(Debug, PartialEq, Eq)]
struct Code {
    start: u64,
    end: u64,
    name: String,
}

/// What a compiler inside the process has told in the file that perf reads, too. Only from the user's own, for anybody
/// may write one.
fn code_made_at_run_time(root: &Path, pid: u64) -> Vec<Code> {
    // A pipe in its place is not waited for.
    let opened = File::options()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(below(root, &format!("/tmp/perf-{pid}.map")));
    let Ok(file) = opened else { return Vec::new() };
    // SAFETY: no arguments, no memory; it always succeeds.
    let own = unsafe { libc::geteuid() };
    let is_own = file.metadata().is_ok_and(|about| about.is_file() && [own, 0].contains(&about.uid()));
    if !is_own {
        return Vec::new();
    }
    // A later line is about younger code.
    let lines = BufReader::new(file).split(b'\n').map_while(Result::ok);
    let mut all: Vec<Code> = lines.filter_map(|line| code(&String::from_utf8_lossy(&line))).collect();
    all.reverse();
    all
}

/// A line such as `7f0012340000 1a0 name of it`.
fn code(line: &str) -> Option<Code> {
    let mut words = line.splitn(3, ' ');
    let mut number = || {
        let word = words.next()?;
        u64::from_str_radix(word.strip_prefix("0x").unwrap_or(word), 16).ok()
    };
    let (start, bytes) = (number()?, number()?);
    Some(Code { start, end: start.checked_add(bytes)?, name: words.next()?.trim().to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_scaled_by_their_probability() {
        assert!((factor(1, 1000) - 1000.5).abs() < 0.1 && (factor(1000, 1000) - 1.582).abs() < 0.001);
        assert!(factor(100_000, 1000) == 1.0 && factor(16, 1) == 1.0);
        assert_eq!(whole(Sampled { objects: 2, bytes: 100 }, 10.25), [21, 1025]);
    }

    #[test]
    fn perfs_maps_are_read() {
        let expected = Code { start: 0x1000, end: 0x1020, name: "LazyCompile:~a b.js:1".to_owned() };
        assert_eq!(code("1000 20 LazyCompile:~a b.js:1"), Some(expected));
        assert_eq!(code("0x1000 0x20 f").unwrap().end, 0x1020);
        for wrong in ["", "1000", "1000 20", "x 20 f", "ffffffffffffffff 20 f"] {
            assert_eq!(code(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_name_of_any_bytes_hides_no_other() {
        let pid = std::process::id();
        let path = format!("/tmp/perf-{pid}.map");
        fs::write(&path, b"1000 20 one\n2000 20 \xff\n3000 20 three\n").unwrap();
        let names: Vec<String> =
            code_made_at_run_time(Path::new("/"), pid.into()).into_iter().map(|code| code.name).collect();
        fs::remove_file(path).unwrap();
        assert_eq!(names, ["three", "\u{fffd}", "one"]);
    }

    #[test]
    fn the_program_comes_first_and_what_nothing_lies_in_is_left_out() {
        let mapping = |path: &str| Mapping { path: path.to_owned(), ..Mapping::default() };
        let at = |address, mapping| Location { address, mapping, lines: Vec::new() };
        let all = |outermost| Profile {
            mappings: ["unused", "library", "program"].map(mapping).to_vec(),
            locations: vec![at(1, Some(1)), at(2, Some(2)), at(3, None)],
            stacks: vec![Stack { locations: vec![0, 2, outermost], values: vec![] }],
            ..Profile::default()
        };
        // (Deep stacks are cut off, and begin somewhere.)
        for (outermost, known) in [(1, None), (1, Some("program")), (0, Some("program"))] {
            let mut profile = all(outermost);
            keep_used(&mut profile, known);
            assert_eq!(profile.mappings, ["program", "library"].map(mapping));
            assert_eq!(profile.locations, [at(1, Some(1)), at(2, Some(0)), at(3, None)]);
        }
    }
}
