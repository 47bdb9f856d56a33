//! How far the runs are, in a line of the terminal that is gone at the end, whichever that is.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressFinish, ProgressStyle, TermLike};
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsRawFd;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The line, or one that nobody sees where there is no terminal, or the program writes to it.
pub(super) fn bar(hidden: bool) -> ProgressBar {
    // However the runs end, by a signal, too.
    let bar = ProgressBar::no_length().with_finish(ProgressFinish::AndClear);
    bar.set_draw_target(if hidden || !io::stderr().is_terminal() {
        ProgressDrawTarget::hidden()
    } else {
        ProgressDrawTarget::term_like_with_hz(Box::<Line>::default(), 20)
    });
    let style =
        ProgressStyle::with_template("{elapsed_precise} {bar:24} {pos}/{len} runs, {eta} left: {msg}");
    bar.set_style(style.expect("is well formed"));
    bar
}

/// The terminal that standard error is. Lines are not filled with blanks to their ends: the `^C` that it writes for Ctrl-C
/// would come to stand in the next line, and that be cleared instead.
/// What is written is held until all of it is there.
#[derive(Debug, Default)]
struct Line(Mutex<String>);

impl Line {
    fn text(&self) -> MutexGuard<'_, String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn moved(&self, count: usize, way: char) -> io::Result<()> {
        if count == 0 { Ok(()) } else { self.write_str(&format!("\x1b[{count}{way}")) }
    }
}

impl TermLike for Line {
    fn width(&self) -> u16 {
        let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
        // SAFETY: `size` is valid for the write.
        let told = unsafe { libc::ioctl(io::stderr().as_raw_fd(), libc::TIOCGWINSZ, &raw mut size) };
        if told == 0 && size.ws_col > 0 { size.ws_col } else { 80 }
    }

    fn move_cursor_up(&self, count: usize) -> io::Result<()> {
        self.moved(count, 'A')
    }

    fn move_cursor_down(&self, count: usize) -> io::Result<()> {
        self.moved(count, 'B')
    }

    fn move_cursor_right(&self, count: usize) -> io::Result<()> {
        self.moved(count, 'C')
    }

    fn move_cursor_left(&self, count: usize) -> io::Result<()> {
        self.moved(count, 'D')
    }

    fn write_line(&self, text: &str) -> io::Result<()> {
        self.write_str(&format!("{text}\n"))
    }

    fn write_str(&self, text: &str) -> io::Result<()> {
        if !text.bytes().all(|byte| byte == b' ') {
            self.text().push_str(text);
        }
        Ok(())
    }

    fn clear_line(&self) -> io::Result<()> {
        self.write_str("\r\x1b[2K")
    }

    fn flush(&self) -> io::Result<()> {
        let text = std::mem::take(&mut *self.text());
        io::stderr().write_all(text.as_bytes())
    }
}
