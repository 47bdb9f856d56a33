//! Text without allocation: a fixed buffer to format into, handed on whole.

use core::fmt;

/// Text of at most `N` bytes; what does not fit is cut off.
pub struct Line<const N: usize> {
    bytes: [u8; N],
    len: usize,
}

impl<const N: usize> Line<N> {
    /// The text of `arguments`.
    pub fn of(arguments: fmt::Arguments<'_>) -> Self {
        let mut line = Line { bytes: [0; N], len: 0 };
        // Writing never fails: what is too long is cut off.
        let _ = fmt::write(&mut line, arguments);
        line
    }

    /// What was written, as bytes of UTF-8 (but for a character that the cut went through).
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl<const N: usize> fmt::Write for Line<N> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let taken = text.len().min(N - self.len);
        self.bytes[self.len..self.len + taken].copy_from_slice(&text.as_bytes()[..taken]);
        self.len += taken;
        Ok(())
    }
}
