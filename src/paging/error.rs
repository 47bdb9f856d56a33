//! What can go wrong with a region whose bytes the program fetches, as values.

use std::any::Any;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// An error of a pager's own.
pub type PagerError = Box<dyn std::error::Error + Send + Sync>;

/// Why an operation on a region did not do what it says.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Error {
    /// The process may not have a userfaultfd.
    NotAllowed {
        /// What the system said: `EPERM` where a filter of system calls or the system's settings are against it,
        /// `ENOSYS` or `EINVAL` where the kernel is too old.
        error: Arc<io::Error>,
    },
    /// The system refused.
    System {
        /// What was asked of it.
        call: &'static str,
        /// What it said.
        error: Arc<io::Error>,
    },
    /// A unit is a power of two, of whole pages, and at most 1 GiB long.
    BadUnit {
        /// What was asked for.
        unit: usize,
    },
    /// The range does not lie in the region.
    OutOfRange {
        /// Where it ends.
        end: usize,
        /// How long the region is.
        len: usize,
    },
    /// Bytes could not be fetched. They are asked for again when their range was evicted.
    Failed {
        /// Where in the region the unit begins.
        offset: usize,
        /// Why not.
        cause: Cause,
    },
    /// The region was closed: it takes no more readers.
    Closed,
    /// The calling thread is fetching these bytes, and would wait for itself.
    InsidePager,
    /// The calling thread holds a guard on a mapped file, and would wait for itself.
    InsideGuard,
    /// Half a billion readers hold the same bytes.
    Busy,
    /// Readers were still there when the time was up. The region goes after the last one.
    TimedOut {
        /// How long that took.
        waited: Duration,
    },
    /// The region is that of a process of which this one is a child by `fork`, and the bytes were not there then.
    Forked,
}

/// Why bytes could not be fetched.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Cause {
    /// The pager said so.
    Pager(Arc<dyn std::error::Error + Send + Sync>),
    /// The pager panicked, with these words.
    Panicked(Arc<str>),
    /// The system would not take them: there is no memory, say.
    System(Arc<io::Error>),
}

/// What an operation on a region returns.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub(super) fn last(call: &'static str) -> Error {
        Error::System { call, error: Arc::new(io::Error::last_os_error()) }
    }
}

impl Cause {
    pub(super) fn of_panic(panic: &(dyn Any + Send)) -> Cause {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
        Cause::Panicked(text.unwrap_or("no words").into())
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Cause::Pager(error) => error.fmt(to),
            Cause::Panicked(words) => write!(to, "the pager panicked: {words}"),
            Cause::System(error) => error.fmt(to),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::NotAllowed { error } => write!(
                to,
                "userfaultfd is not allowed here ({error}): it takes Linux 5.11, \
                 and a filter of system calls that lets it pass"
            ),
            Error::System { call, error } => write!(to, "{call}: {error}"),
            Error::BadUnit { unit } => write!(to, "{unit} is no power of two of whole pages, up to 1 GiB"),
            Error::OutOfRange { end, len } => write!(to, "the range ends at {end}, and the region at {len}"),
            Error::Failed { offset, cause } => {
                write!(to, "the bytes at {offset} could not be fetched: {cause}")
            }
            Error::Closed => to.write_str("the region was closed"),
            Error::InsidePager => to.write_str("the calling thread is fetching these bytes"),
            Error::InsideGuard => to.write_str("the calling thread holds a guard"),
            Error::Busy => to.write_str("too many readers hold these bytes"),
            Error::TimedOut { waited } => write!(to, "readers were still there after {waited:?}"),
            Error::Forked => to.write_str("the region is the parent process's, and the bytes were not there"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::NotAllowed { error } | Error::System { error, .. } => Some(&**error),
            Error::Failed { cause: Cause::Pager(error), .. } => Some(&**error),
            Error::Failed { cause: Cause::System(error), .. } => Some(&**error),
            _ => None,
        }
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> io::Error {
        let kind = match &error {
            Error::NotAllowed { error } | Error::System { error, .. } => error.kind(),
            Error::Failed { cause: Cause::System(error), .. } => error.kind(),
            Error::OutOfRange { .. } => io::ErrorKind::UnexpectedEof,
            Error::TimedOut { .. } => io::ErrorKind::TimedOut,
            _ => io::ErrorKind::Other,
        };
        io::Error::new(kind, error)
    }
}
