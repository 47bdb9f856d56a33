//! What is known of the terminal that the command writes to: whether there is one, how wide it is, and colours.

use clap::ValueEnum;
use std::fmt::Display;
use std::io::IsTerminal;
use std::os::fd::AsRawFd;

/// When there are colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Colour {
    /// On a terminal, unless NO_COLOR is set or TERM is dumb.
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// Whether the stream is a terminal.
pub(crate) fn is_terminal(stream: &impl IsTerminal) -> bool {
    stream.is_terminal()
}

/// Whether the terminal knows nothing but lines.
pub(crate) fn is_dumb() -> bool {
    std::env::var_os("TERM").is_some_and(|term| term == "dumb")
}

/// Columns of the terminal that standard output is, else what COLUMNS says, else 80.
pub(crate) fn width() -> usize {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    let output = std::io::stdout().as_raw_fd();
    // SAFETY: `size` is valid for the write.
    if unsafe { libc::ioctl(output, libc::TIOCGWINSZ, &raw mut size) } == 0 && size.ws_col > 0 {
        return usize::from(size.ws_col);
    }
    let columns = std::env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok());
    columns.filter(|columns| *columns > 0).unwrap_or(80)
}

/// Colours, or none.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Colours(bool);

impl Colours {
    /// As `when` says, for a stream that is a terminal or not.
    pub(crate) fn new(when: Colour, terminal: bool) -> Self {
        let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()) && !is_dumb();
        Self(match when {
            Colour::Auto => terminal && wanted,
            Colour::Always => true,
            Colour::Never => false,
        })
    }

    fn paint(self, code: u8, text: impl Display) -> String {
        if self.0 { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_string() }
    }

    /// What is well.
    pub(crate) fn good(self, text: impl Display) -> String {
        self.paint(32, text)
    }

    /// What is amiss.
    pub(crate) fn bad(self, text: impl Display) -> String {
        self.paint(31, text)
    }

    /// What matters less.
    pub(crate) fn faint(self, text: impl Display) -> String {
        self.paint(2, text)
    }

    /// Headings.
    pub(crate) fn strong(self, text: impl Display) -> String {
        self.paint(1, text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_colours_where_they_are_asked_for() {
        assert_eq!(Colours::new(Colour::Always, false).good("x"), "\x1b[32mx\x1b[0m");
        assert_eq!(Colours::new(Colour::Never, true).bad("x"), "x");
        assert_eq!(Colours::new(Colour::Auto, false).strong("x"), "x");
        assert!(width() > 0);
    }
}
