//! A trace as a file: docs/traces.md describes every byte.

use crate::{Call, Trace};
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use std::io::{self, ErrorKind, Read, Write};

/// How the first line starts; the version follows.
const FIRST: &str = "specmalloc trace ";
/// The version written, and the only one read.
const VERSION: u64 = 1;
/// What a file starts with that is compressed by gzip.
const COMPRESSED: [u8; 2] = [0x1f, 0x8b];
/// The tag after those of the calls: another thread goes on.
const THREAD: u64 = Call::NAMES.len() as u64;

/// Writes `trace`. Returns how many bytes that took.
pub fn write(trace: &Trace, to: impl Write) -> io::Result<u64> {
    let mut packed = GzEncoder::new(Counted { to, bytes: 0 }, Compression::best());
    packed.write_all(head(trace).as_bytes())?;
    packed.write_all(&body(trace))?;
    let mut counted = packed.finish()?;
    counted.to.flush()?;
    Ok(counted.bytes)
}

struct Counted<W> {
    to: W,
    bytes: u64,
}

impl<W: Write> Write for Counted<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.to.write(bytes)?;
        self.bytes += written as u64;
        Ok(written)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

fn head(trace: &Trace) -> String {
    // A name may have any bytes, and this is a line.
    let program: String = trace.program.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
    let (calls, threads, blocks) = (trace.calls().len(), trace.threads(), trace.blocks());
    format!("{FIRST}{VERSION}\nprogram: {program}\ncalls: {calls}\nthreads: {threads}\nblocks: {blocks}\n\n")
}

fn body(trace: &Trace) -> Vec<u8> {
    let mut body = Vec::with_capacity(trace.calls().len() * 3);
    let (mut thread, mut blocks) = (0, 0);
    for entry in trace.calls() {
        if entry.thread != thread {
            thread = entry.thread;
            first(&mut body, THREAD, thread.into());
        }
        let kind = entry.call.kind() as u64;
        let back = |block: u32| u64::from(blocks - 1 - block);
        match entry.call {
            Call::Malloc { size } | Call::Calloc { size } => first(&mut body, kind, size),
            Call::Aligned { size, shift } => {
                first(&mut body, kind, shift.into());
                varint(&mut body, size);
            }
            Call::Realloc { block, size } => {
                first(&mut body, kind, back(block));
                varint(&mut body, size);
            }
            Call::Free { block } => first(&mut body, kind, back(block)),
        }
        blocks += u32::from(entry.call.kind() < 3);
    }
    body
}

/// A tag with a number that begins in its byte.
fn first(body: &mut Vec<u8>, tag: u64, number: u64) {
    let more = number >> 4;
    body.push((tag | (number & 15) << 3 | u64::from(more > 0) << 7) as u8);
    if more > 0 {
        varint(body, more);
    }
}

fn varint(body: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        body.push(number as u8 | 0x80);
        number >>= 7;
    }
    body.push(number as u8);
}

/// The contents of a file, unpacked if it is compressed by gzip.
pub fn unpack(raw: Vec<u8>) -> io::Result<Vec<u8>> {
    if !raw.starts_with(&COMPRESSED) {
        return Ok(raw);
    }
    let mut whole = Vec::new();
    match GzDecoder::new(raw.as_slice()).read_to_end(&mut whole) {
        Ok(_) => Ok(whole),
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => Err(invalid("the file is truncated")),
        Err(error) => Err(invalid(format!("the file is damaged: {error}"))),
    }
}

/// Whether unpacked contents are meant to be a trace of this format.
pub fn is_ours(contents: &[u8]) -> bool {
    contents.starts_with(FIRST.as_bytes())
}

/// Reads unpacked contents.
pub fn read(contents: &[u8]) -> io::Result<Trace> {
    let mut rest = contents;
    let mut line = || {
        let end =
            rest.iter().position(|byte| *byte == b'\n').ok_or_else(|| invalid("the file is truncated"))?;
        let (line, behind) = (&rest[..end], &rest[end + 1..]);
        rest = behind;
        std::str::from_utf8(line).map_err(|_| invalid("the head is no text"))
    };
    let version = line()?.strip_prefix(FIRST).ok_or_else(|| invalid("not a trace of malloc calls"))?;
    if version.parse() != Ok(VERSION) {
        return Err(invalid(format!(
            "a trace of version {version}; this specmalloc reads version {VERSION}"
        )));
    }
    let (mut trace, mut promised) = (Trace::default(), [None; 3]);
    loop {
        let line = line()?;
        if line.is_empty() {
            break;
        }
        // What a later specmalloc has to say besides is passed over.
        let Some((key, value)) = line.split_once(": ") else { continue };
        match key {
            "program" => value.clone_into(&mut trace.program),
            "calls" => promised[0] = value.parse().ok(),
            "threads" => promised[1] = value.parse().ok(),
            "blocks" => promised[2] = value.parse().ok(),
            _ => {}
        }
    }
    let [Some(calls), Some(threads), Some(blocks)]: [Option<u64>; 3] = promised else {
        return Err(invalid("the head does not tell how many calls, threads and blocks there are"));
    };
    let mut body = Body { rest, thread: 0 };
    for call in 0..calls {
        let entry = match body.call(trace.blocks() as u64) {
            Ok(entry) => entry,
            Err(Wrong::Short) => {
                return Err(invalid(format!("the file is truncated: it has {call} of {calls} calls")));
            }
            Err(Wrong::Damaged) => return Err(invalid(format!("the file is damaged at call {call}"))),
        };
        trace.push(entry.0, entry.1).map_err(|fault| invalid(format!("call {call} {fault}")))?;
    }
    let counted = (trace.threads() as u64, trace.blocks() as u64);
    if !body.rest.is_empty() || counted != (threads, blocks) {
        return Err(invalid("the file has more in it than its head tells"));
    }
    Ok(trace)
}

fn invalid(why: impl Into<String>) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, why.into())
}

enum Wrong {
    Short,
    Damaged,
}

struct Body<'a> {
    rest: &'a [u8],
    thread: u32,
}

impl Body<'_> {
    fn byte(&mut self) -> Result<u64, Wrong> {
        let (&byte, rest) = self.rest.split_first().ok_or(Wrong::Short)?;
        self.rest = rest;
        Ok(byte.into())
    }

    fn varint(&mut self) -> Result<u64, Wrong> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = byte & 0x7f;
            if bits << shift >> shift != bits {
                return Err(Wrong::Damaged);
            }
            number |= bits << shift;
            if byte < 0x80 {
                return Ok(number);
            }
        }
        Err(Wrong::Damaged)
    }

    /// A tag, and the number with it.
    fn first(&mut self) -> Result<(u64, u64), Wrong> {
        let byte = self.byte()?;
        let (tag, low) = (byte & 7, byte >> 3 & 15);
        let more = if byte < 0x80 { 0 } else { self.varint()? };
        if more >> 60 > 0 { Err(Wrong::Damaged) } else { Ok((tag, low | more << 4)) }
    }

    /// The next call, when `blocks` have been allocated.
    fn call(&mut self, blocks: u64) -> Result<(u32, Call), Wrong> {
        let (mut tag, mut number) = self.first()?;
        if tag == THREAD {
            self.thread = number.try_into().map_err(|_| Wrong::Damaged)?;
            (tag, number) = self.first()?;
        }
        let block = || {
            let block = blocks.checked_sub(number).and_then(|block| block.checked_sub(1));
            block.and_then(|block| block.try_into().ok()).ok_or(Wrong::Damaged)
        };
        let call = match tag {
            0 => Call::Malloc { size: number },
            1 => Call::Calloc { size: number },
            2 => {
                let shift = number.try_into().map_err(|_| Wrong::Damaged)?;
                Call::Aligned { shift, size: self.varint()? }
            }
            3 => Call::Realloc { block: block()?, size: self.varint()? },
            4 => Call::Free { block: block()? },
            _ => return Err(Wrong::Damaged),
        };
        Ok((self.thread, call))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trace() -> Trace {
        let mut trace = Trace { program: "a\nb".to_owned(), ..Trace::default() };
        let calls = [
            (0, Call::Malloc { size: 15 }),
            (0, Call::Calloc { size: 16 }),
            (1, Call::Aligned { size: 1 << 40, shift: 12 }),
            (0, Call::Realloc { block: 0, size: 2047 }),
            (2, Call::Malloc { size: u64::MAX }),
            (1, Call::Free { block: 2 }),
            (1, Call::Free { block: 0 }),
            (0, Call::Malloc { size: 0 }),
        ];
        calls.into_iter().for_each(|(thread, call)| assert!(trace.push(thread, call).is_ok()));
        trace
    }

    fn plain(trace: &Trace) -> Vec<u8> {
        [head(trace).into_bytes(), body(trace)].concat()
    }

    #[test]
    fn what_is_written_is_read_and_small() {
        let trace = trace();
        let mut file = Vec::new();
        let bytes = write(&trace, &mut file).unwrap();
        assert_eq!(bytes, file.len() as u64);
        let again = read(&unpack(file).unwrap()).unwrap();
        assert_eq!(again.program, "a?b");
        assert_eq!(again, Trace { program: again.program.clone(), ..trace.clone() });
        // Tags of threads, and the two large sizes, among them.
        assert_eq!(body(&trace).len(), 1 + 2 + (1 + 1 + 6) + (1 + 1 + 2) + (1 + 10) + (1 + 1) + 1 + (1 + 1));
    }

    #[test]
    fn a_file_that_is_cut_or_damaged_anywhere_is_an_error_and_no_panic() {
        let whole = plain(&trace());
        let mut packed = Vec::new();
        write(&trace(), &mut packed).unwrap();
        for file in [&whole, &packed] {
            for len in 0..file.len() {
                assert!(unpack(file[..len].to_vec()).and_then(|file| read(&file)).is_err(), "{len}");
                for byte in [0xff, 0x85, file[len] ^ 1] {
                    let mut damaged = file.clone();
                    damaged[len] = byte;
                    let _ = unpack(damaged).and_then(|file| read(&file));
                }
            }
        }
        assert!(read(&[whole, vec![0]].concat()).unwrap_err().to_string().contains("more in it"));
    }

    #[test]
    fn errors_say_what_is_wrong() {
        let why = |contents: &str, body: &[u8]| {
            read(&[contents.as_bytes(), body].concat()).unwrap_err().to_string()
        };
        assert!(why("specmalloc trace 2\n", b"").contains("version 2; this specmalloc reads version 1"));
        assert!(why("specmalloc profile 1\n", b"").contains("not a trace"));
        assert!(why("specmalloc trace 1\n", b"").contains("truncated"));
        assert!(why("specmalloc trace 1\n\n", b"").contains("does not tell how many"));
        let two = "specmalloc trace 1\nlater: x\ncalls: 3\nthreads: 1\nblocks: 1\n\n";
        assert!(why(two, &[0x08, 0x04]).contains("truncated: it has 2 of 3 calls"));
        assert!(why(two, &[0x08, 0x04, 0x04]).contains("call 2 is about block 0, which was freed before"));
        assert!(why(two, &[0x08, 0x0c, 0x04]).contains("damaged at call 1"));
        assert!(why(two, &[0x08, 0x04, 0x07]).contains("damaged at call 2"));
    }
}
