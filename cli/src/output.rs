//! What the command writes: standard output, and files as a whole when the work is done. And what it reads of the kernel's.

use crate::Failure;
use std::fs;
use std::io::{self, Write};
use std::path::Path;

/// Says something beside what was asked for, to standard error. Who does not want to hear of it need not: nothing ends, or is
/// left undone, because nobody reads that.
macro_rules! tell {
    ($($text:tt)*) => {{
        use std::io::Write as _;
        let _nobody_hears = writeln!(std::io::stderr(), "specmalloc: {}", format_args!($($text)*));
    }};
}
pub(crate) use tell;

/// Reads a file of the kernel's: names of programs and paths in it have any bytes, and names are cut off anywhere.
pub(crate) fn read_lossily(path: impl AsRef<Path>) -> io::Result<String> {
    fs::read(path).map(|text| String::from_utf8_lossy(&text).into_owned())
}

/// Writes to standard output. That nobody reads it to its end is no failure; that it cannot be written is one.
pub(crate) fn print(text: &[u8]) -> Result<(), Failure> {
    let mut output = io::stdout();
    printed(output.write_all(text).and_then(|()| output.flush()))
}

/// How writing to standard output ended, as [`print`] has it.
pub(crate) fn printed(written: io::Result<()>) -> Result<(), Failure> {
    match written {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::own(format!("standard output: {error}")))
        }
        _ => Ok(()),
    }
}

/// Writes a file as a whole: what could be written in part only is not left behind, unless it was there before.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let was_there = path.exists();
    fs::write(path, bytes).inspect_err(|_| {
        if !was_there {
            let _gone_already = fs::remove_file(path);
        }
    })
}

/// A file that is written when a program has run.
pub(crate) struct Output<'a> {
    pub(crate) path: &'a Path,
    /// Whether it is this command's, and goes if there is nothing to write.
    is_new: bool,
}

impl<'a> Output<'a> {
    /// Opened before the program runs: a file that cannot be written is told now, not after an hour's work. What it has
    /// stays until there is something else, and what was not there is not there until then: this command may be killed.
    pub(crate) fn new(path: &'a Path) -> Result<Self, Failure> {
        let output = Self { path, is_new: fs::symlink_metadata(path).is_err() };
        fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(|error| Failure::own(format!("{}: {error}", path.display())))?;
        output.discard();
        Ok(output)
    }

    pub(crate) fn discard(&self) {
        if self.is_new {
            let _gone_already = fs::remove_file(self.path);
        }
    }

    /// Writes the file as a whole.
    pub(crate) fn write(&self, bytes: &[u8]) -> Result<(), Failure> {
        write_whole(self.path, bytes)
            .map_err(|error| Failure::own(format!("{}: {error}", self.path.display())))
    }
}
