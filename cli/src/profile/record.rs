//! `specmalloc profile record`.

use crate::output::{Output, tell, write_whole};
use crate::{Failure, child, library, run, target};
use clap::{Args, ValueHint};
use specmalloc_samples::pprof::{self, Profile};
use specmalloc_samples::{Image, ProfileFile};
use std::convert::Infallible;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

const HELP: &str = "\
Each byte has the same chance to make its allocation a sample, whose stack is noted; figures are estimated
from those. With a small rate they are better, and the program is slower and takes more memory: a page for
each sample that is live.

Examples:
  specmalloc profile record -- python3 program.py
  specmalloc profile record -o heap.pb.gz --rate 64K -- ./program
  specmalloc profile record --follow-fork -- make -j8
  specmalloc profile record --rate 1 -- ./small && specmalloc profile report --leaks

Ends as the program ends: with its exit status, or by its signal; the profile is written either way. If the
program runs another one in its place (exec), the profile is of the last. 125: specmalloc itself failed, or
the program succeeded and its profile could not be written, 126: the program could not be run, 127: it was
not found.";

#[derive(Args)]
#[command(after_help = HELP)]
pub(super) struct Record {
    /// The file to write.
    #[arg(short, long, value_name = "FILE", default_value = super::FILE)]
    output: PathBuf,
    /// Bytes for a sample on average, with K, M or G; 1 for every allocation.
    #[arg(long, value_name = "BYTES", default_value = "512K", value_parser = rate)]
    rate: String,
    #[command(flatten)]
    first: super::First,
    /// Write the profiles of the processes that the program starts, too, each with its number in its file's name.
    #[arg(long)]
    follow_fork: bool,
    /// The program and its arguments.
    #[arg(required = true, trailing_var_arg = true, value_name = "PROGRAM", value_hint = ValueHint::CommandWithArguments)]
    command: Vec<OsString>,
}

/// A rate as the allocator takes it.
pub(super) fn rate(text: &str) -> Result<String, String> {
    let digits = text.trim_end_matches(['k', 'K', 'm', 'M', 'g', 'G']);
    let is_size = text.len() - digits.len() <= 1 && digits.parse::<u16>().is_ok_and(|number| number > 0);
    let is_size = is_size || digits == text && digits.parse::<u32>().is_ok_and(|number| number > 0);
    if is_size { Ok(text.to_owned()) } else { Err("not a number of bytes above zero".to_owned()) }
}

pub(super) fn execute(record: &Record) -> Result<Infallible, Failure> {
    library::demand_proc()?;
    let library = library::find()?;
    let (name, arguments) = record.command.split_first().expect("clap demands a program");
    for notice in target::notices(name) {
        tell!("{notice}");
    }
    let mut command = Command::new(name);
    let file = super::load(&mut command, &library)?;
    let output = Output::new(&record.output)?;
    let option = format!("profile:{}", record.rate);
    let options = run::joined(std::env::var_os("SPECMALLOC_CONF"), OsStr::new(&option));
    command.args(arguments).env("SPECMALLOC_CONF", options);
    let start = Instant::now();
    let (pid, status) = child::run(&mut command).map_err(|error| {
        output.discard();
        Failure::start(name, &error)
    })?;
    let written = write(record, &output, name, pid, &file, start.elapsed());
    // What the program ends with comes first.
    if !written && status.success() {
        return Err(Failure::own("not all of what was noted is written".to_owned()));
    }
    child::end_as(status)
}

/// Writes what the processes have noted. What fails is told; says whether nothing did.
fn write(
    record: &Record,
    output: &Output<'_>,
    name: &OsStr,
    pid: u32,
    file: &ProfileFile,
    took: Duration,
) -> bool {
    let images: Vec<&Image> = file.claimed().collect();
    // Its last, if it ran several programs, one in the place of the other.
    let own = images.iter().rposition(|image| image.pid() == u64::from(pid));
    let profile = |image: &Image| pprof::profile(image, &pprof::Before::new(), record.first.kind(), took);
    let (mut others, mut whole) = (0, true);
    for (number, image) in images.iter().enumerate() {
        if Some(number) == own || image.stacks().next().is_none() {
            continue;
        }
        others += 1;
        if record.follow_fork {
            let earlier = images[..number].iter().filter(|other| other.pid() == image.pid()).count();
            whole &= save(&of_process(&record.output, image.pid(), earlier), &profile(image));
        }
    }
    match own {
        Some(own) => {
            if !save(output.path, &profile(images[own])) {
                output.discard();
                whole = false;
            }
        }
        None => {
            output.discard();
            tell!("{}: nothing was noted, for it was not served", name.display());
        }
    }
    if others > 0 && !record.follow_fork {
        tell!("{others} more processes were served: --follow-fork writes their profiles, too");
    }
    whole
}

/// Whether that went well.
pub(super) fn save(path: &Path, profile: &Profile) -> bool {
    let shown = path.display();
    if let Err(error) = write_whole(path, &profile.bytes()) {
        tell!("{shown}: {error}");
        return false;
    }
    if profile.stacks.is_empty() {
        tell!("{shown}: no samples, for it allocated little: a smaller --rate takes more");
    } else {
        tell!("{shown} is written: specmalloc profile report {shown}");
    }
    true
}

/// The file for a process that was started by the program; `earlier` programs ran in the same process before.
fn of_process(path: &Path, pid: u64, earlier: usize) -> PathBuf {
    const END: &str = ".pb.gz";
    let text = path.to_string_lossy();
    let (begin, end) = text.strip_suffix(END).map_or((&*text, ""), |begin| (begin, END));
    let number = if earlier == 0 { String::new() } else { format!("-{}", earlier + 1) };
    PathBuf::from(format!("{begin}.{pid}{number}{end}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_sizes_above_zero() {
        for good in ["1", "512K", "3m", "1G", "100000"] {
            assert_eq!(rate(good).as_deref(), Ok(good));
        }
        for wrong in ["", "0", "K", "1KK", "-1", "12x", "on", "0K", "99999G"] {
            assert!(rate(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn each_process_has_a_file_of_its_own() {
        let of = |path: &str, earlier| of_process(Path::new(path), 7, earlier).to_str().unwrap().to_owned();
        assert_eq!([of("a/heap.pb.gz", 0), of("heap", 1)], ["a/heap.7.pb.gz", "heap.7-2"]);
    }
}
