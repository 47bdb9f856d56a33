//! What libspecmalloc_profile.so notes of samples, read from its file: amounts at known places, and stacks from anywhere.

mod common;

use common::library::{build, library};
use specmalloc_samples::{Image, ProfileFile, VARIABLE};
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::process::Command;

/// Functions of a file by name: where they begin and end there.
type Functions = BTreeMap<String, (u64, u64)>;

fn functions(file: &Path) -> Functions {
    let output = common::succeed(Command::new("nm").args(["-S", "--defined-only"]).arg(file));
    let text = String::from_utf8(output.stdout).expect("text");
    let parse = |line: &str| {
        let mut words = line.split(' ');
        let mut number = || u64::from_str_radix(words.next()?, 16).ok();
        let (at, size) = (number()?, number()?);
        (words.next()?.eq_ignore_ascii_case("t")).then_some(())?;
        Some((words.next()?.to_owned(), (at, at + size)))
    };
    text.lines().filter_map(parse).collect()
}

/// Bytes: all, live, and at the peak.
type Amounts = [f64; 3];

/// What an image says of the stacks that come by a function; and by how much that may be wrong.
fn amounts(image: &Image, files: &[(&Path, Functions)], name: &str) -> (Amounts, u64) {
    let ranges: Vec<_> = image
        .modules()
        .filter_map(|module| {
            let path = String::from_utf8_lossy(module.path().0).into_owned();
            let (_, functions) = files.iter().find(|(file, _)| path == file.to_str().expect("ASCII"))?;
            let &(from, to) = functions.get(name)?;
            Some(module.bias + from..module.bias + to)
        })
        .collect();
    let (mut sums, mut samples) = ([0.0; 3], 0);
    for stack in image.stacks() {
        let weight = -1.0 / (-(stack.counted as f64) / stack.rate as f64).exp_m1();
        let mut addresses = stack.addresses;
        if addresses.any(|address| ranges.iter().any(|range| range.contains(&address))) {
            samples += stack.allocated.objects;
            for (sum, sampled) in sums.iter_mut().zip([stack.allocated, stack.live, stack.peak]) {
                *sum += weight * sampled.bytes as f64;
            }
        }
    }
    (sums, samples)
}

/// A program that has run with its samples noted.
struct Run {
    file: ProfileFile,
    files: Vec<(&'static Path, Functions)>,
    /// What it says itself.
    said: Vec<(String, Amounts)>,
}

fn run(case: &str, rate: &str) -> Run {
    let file = ProfileFile::create(8).expect("a file in memory");
    let program = common::compile("profile.c", &[]);
    let plugin = common::compile("plugin.c", &["-shared", "-fPIC"]);
    let profiler = build("preload", "specmalloc-profile", "libspecmalloc_profile.so");
    let mut command = Command::new(&program);
    command.arg(case).env("PLUGIN", &plugin).env("SPECMALLOC_CONF", format!("profile:{rate}"));
    command.env("LD_PRELOAD", format!("{}:{}", library().display(), profiler.display()));
    let variable = VARIABLE.to_str().expect("ASCII");
    command.env(variable, format!("/proc/{}/fd/{}", std::process::id(), file.fd()));
    let output = common::succeed(&mut command);
    let text = String::from_utf8(output.stdout).expect("text");
    let parse = |line: &str| {
        let mut words = line.split(' ');
        let name = words.next().expect("a name").to_owned();
        let mut number = || words.next().and_then(|word| word.parse().ok()).expect("a number");
        (name, [number(), number(), number()])
    };
    let files =
        [&program, &plugin].map(|path| (&*Box::leak(path.clone().into_boxed_path()), functions(path)));
    Run { file, files: files.into(), said: text.lines().map(parse).collect() }
}

impl Run {
    /// Demands that what an image says is what the program says: exactly where every allocation was a sample, or else
    /// but for what so many samples leave to chance.
    fn is_true(&self, image: &Image, which: Range<usize>) {
        assert!(self.said.len() > 1 && image.lost() == 0);
        let rate = image.rate() as f64;
        for (name, truth) in &self.said {
            let (sums, _) = amounts(image, &self.files, name);
            for (at, (&sum, &truth)) in sums.iter().zip(truth).enumerate().take(which.end).skip(which.start) {
                let leeway = if rate <= 1.0 { 0.0 } else { 5.0 * (rate * truth).sqrt() + rate / 50.0 };
                assert!(
                    (sum - truth).abs() <= leeway,
                    "{name}, {at}: {sum:.0} for {truth:.0}, give or take {leeway:.0}"
                );
            }
        }
    }

    fn image(&self) -> &'static Image {
        let mut images = self.file.claimed();
        let image = images.next().expect("an image");
        assert!(images.next().is_none(), "one process");
        image
    }
}

#[test]
fn amounts_are_those_of_their_places() {
    for rate in ["16K", "512K"] {
        let run = run("amounts", rate);
        run.is_true(run.image(), 0..3);
    }
}

/// Blocks that realloc leaves where they are: what was a sample is one, and what was none is none. And what is aligned is
/// of the size that was asked for.
#[test]
fn blocks_that_are_resized_where_they_are_stay_what_they_were() {
    for rate in ["2K", "64K"] {
        let run = run("resized", rate);
        // (Of all that was ever allocated little is known: what is one sample is several, one after the other.)
        run.is_true(run.image(), 1..2);
    }
}

/// Who attaches may ask for fewer samples than who did before.
#[test]
fn samples_stand_for_what_they_did_when_they_were_taken() {
    let run = run("rates", "4K");
    run.is_true(run.image(), 0..3);
}

/// With every allocation a sample nothing is left to chance: each stack must be complete.
#[test]
fn stacks_are_read_from_anywhere() {
    let run = run("stacks", "1");
    run.is_true(run.image(), 0..2);
}

#[test]
fn a_library_that_is_gone_was_there() {
    let run = run("plugin", "1");
    let all = |name| amounts(run.image(), &run.files, name).0[0];
    let said = |name| run.said.iter().find(|(said, _)| said == name).expect("an amount").1[0];
    assert_eq!(all("leaf"), said("leaf"));
    // And what the dynamic linker allocates when the library's thread-local memory is used for the first time.
    let more = all("plugin_block") - said("plugin_block");
    assert!((0.0..200_000.0).contains(&more), "{more} bytes more");
}

#[test]
fn a_child_has_an_image_of_its_own() {
    let run = run("forks", "1");
    let images: Vec<_> = run.file.claimed().collect();
    let child = run.said.iter().find(|(name, _)| name == "child").expect("its number").1[0] as u64;
    assert!(images.len() == 2 && images[1].pid() == child && images[0].pid() != child);
    let amounts = |image: &Image, name| amounts(image, &run.files, name).0;
    assert_eq!(amounts(images[0], "stays")[..2], [200_000.0, 200_000.0]);
    assert_eq!(amounts(images[0], "childs")[..2], [0.0, 0.0]);
    assert_eq!(amounts(images[1], "stays")[..2], [200_000.0, 100_000.0]);
    assert_eq!(amounts(images[1], "childs")[..2], [150_000.0, 150_000.0]);
}

#[test]
fn many_threads_that_are_interrupted() {
    let run = run("many_threads", "1K");
    let image = run.image();
    let (sums, samples) = amounts(image, &run.files, "busy");
    assert!(samples > 1_000 && sums[1].abs() < 1.0, "{samples} samples, {} bytes live", sums[1]);
    assert_eq!(image.lost(), 0);
}
