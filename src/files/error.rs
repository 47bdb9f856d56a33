//! What can go wrong with a mapped file, as values.

use std::fmt;
use std::io;
use std::time::Duration;

/// Why an operation on a mapped file did not do what it says.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// The system refused.
    System {
        /// What was asked of it.
        call: &'static str,
        /// What it said.
        error: io::Error,
    },
    /// The process has as many mappings as the system lets it have.
    TooManyMappings {
        /// The system's setting `vm.max_map_count`.
        limit: usize,
    },
    /// The range does not lie in the file.
    OutOfRange {
        /// Where in the file it ends.
        end: u64,
        /// Where the file ends.
        file: u64,
    },
    /// The region was unmapped: it takes no more readers.
    Closed,
    /// The calling thread holds a guard, and would wait for itself.
    InsideGuard,
    /// Somebody pins the region, or is changing it.
    Busy,
    /// Readers were still there when the time was up. The region takes no more of them and goes after the last one.
    TimedOut {
        /// How long that took.
        waited: Duration,
    },
    /// The region is not writable, or its file is not.
    ReadOnly,
    /// A page of the file could not be had. The region takes no more readers until it is reopened.
    Fault(Fault),
}

/// Which page of the file could not be had, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Where the page begins in the file, in bytes.
    pub offset: u64,
    /// Why it could not be had.
    pub cause: Cause,
}

/// Why a page could not be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Cause {
    /// The file ends before it.
    Truncated,
    /// The file system could not read it, or could not give it room where it had none.
    Io,
    /// There are no huge pages left for it.
    OutOfHugePages,
    /// The memory that holds it is broken.
    Memory,
    /// Somebody has unmapped it behind our back.
    Unmapped,
}

/// What an operation on a mapped file returns.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub(crate) fn last(call: &'static str) -> Error {
        Error::System { call, error: io::Error::last_os_error() }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str(match self {
            Cause::Truncated => "the file ends before it",
            Cause::Io => "the file system could not provide it",
            Cause::OutOfHugePages => "there are no huge pages left",
            Cause::Memory => "the memory that holds it is broken",
            Cause::Unmapped => "it was unmapped by somebody else",
        })
    }
}

impl fmt::Display for Error {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::System { call, error } => write!(to, "{call}: {error}"),
            Error::TooManyMappings { limit } => write!(
                to,
                "the process has as many mappings as vm.max_map_count allows ({limit}): raise it, or map fewer files"
            ),
            Error::OutOfRange { end, file } => {
                write!(to, "the range ends at {end}, and the file at {file}")
            }
            Error::Closed => to.write_str("the region was unmapped"),
            Error::InsideGuard => to.write_str("the calling thread holds a guard"),
            Error::Busy => to.write_str("somebody pins the region, or is changing it"),
            Error::TimedOut { waited } => write!(to, "readers were still there after {waited:?}"),
            Error::ReadOnly => to.write_str("the region is not writable"),
            Error::Fault(fault) => {
                write!(to, "the page at offset {} of the file is gone: {}", fault.offset, fault.cause)
            }
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::System { error, .. } => Some(error),
            _ => None,
        }
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> io::Error {
        match error {
            Error::System { error, .. } => error,
            Error::TimedOut { .. } => io::Error::new(io::ErrorKind::TimedOut, error),
            Error::ReadOnly => io::Error::new(io::ErrorKind::PermissionDenied, error),
            Error::Fault(Fault { cause: Cause::Truncated, .. }) | Error::OutOfRange { .. } => {
                io::Error::new(io::ErrorKind::UnexpectedEof, error)
            }
            error => io::Error::other(error),
        }
    }
}
