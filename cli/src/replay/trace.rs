//! Reads traces of malloc calls: malloc-bench's protocol buffers, and the text that valgrind writes, which malloc-bench
//! began with. Nothing in a file is trusted: what does not fit is an error, never a panic.

use flate2::read::GzDecoder;
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, ErrorKind, Read};
use std::path::Path;

/// One call. Blocks are numbered; a number is used again when its block was freed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Call {
    Allocate { block: u32, size: usize, align: usize, zero: bool },
    Resize { block: u32, size: usize },
    Free { block: u32 },
}

/// The calls of a program.
#[derive(Debug, Default)]
pub(super) struct Trace {
    pub(super) calls: Vec<Call>,
    /// How many numbers blocks have.
    pub(super) blocks: usize,
    /// Most bytes that were live at a time.
    pub(super) peak_live: u64,
    /// Calls about blocks that are not in the trace.
    pub(super) skipped: u64,
}

/// Reads the trace in a file.
pub(super) fn read(path: &Path) -> io::Result<Trace> {
    let mut raw = Vec::new();
    File::open(path)?.read_to_end(&mut raw)?;
    if raw.starts_with(&[0x1f, 0x8b]) {
        let mut whole = Vec::new();
        GzDecoder::new(BufReader::new(raw.as_slice())).read_to_end(&mut whole)?;
        raw = whole;
    }
    let trace = if raw.starts_with(b"\n") { messages(&raw)? } else { text(&raw) };
    if trace.calls.is_empty() {
        return Err(io::Error::new(ErrorKind::InvalidData, "not a trace of malloc calls"));
    }
    Ok(trace)
}

/// Puts a trace together from calls whose blocks have names of 64 bits.
#[derive(Default)]
struct Builder {
    trace: Trace,
    /// Number and size of the live blocks, by name.
    live: HashMap<u64, (u32, u64)>,
    vacant: Vec<u32>,
    live_bytes: u64,
}

impl Builder {
    fn enter(&mut self, name: u64, block: u32, size: u64) {
        // A name that is live already: its free is missing, and its block stays to the end.
        self.live.insert(name, (block, size));
        self.live_bytes = self.live_bytes.saturating_add(size);
        self.trace.peak_live = self.trace.peak_live.max(self.live_bytes);
    }

    fn allocate(&mut self, name: u64, size: u64, align: u64, zero: bool) {
        let fresh = || {
            self.trace.blocks += 1;
            (self.trace.blocks - 1) as u32
        };
        let block = self.vacant.pop().unwrap_or_else(fresh);
        let align = if align.is_power_of_two() && align <= 1 << 30 { align as usize } else { 0 };
        self.trace.calls.push(Call::Allocate { block, size: size as usize, align, zero });
        self.enter(name, block, size);
    }

    fn leave(&mut self, name: u64) -> Option<u32> {
        let Some((block, size)) = self.live.remove(&name) else {
            self.trace.skipped += 1;
            return None;
        };
        self.live_bytes = self.live_bytes.saturating_sub(size);
        Some(block)
    }

    fn free(&mut self, name: u64) {
        if name != 0
            && let Some(block) = self.leave(name)
        {
            self.trace.calls.push(Call::Free { block });
            self.vacant.push(block);
        }
    }

    fn resize(&mut self, old: u64, name: u64, size: u64) {
        if old == 0 {
            return self.allocate(name, size, 0, false);
        }
        if size == 0 {
            return self.free(old);
        }
        if let Some(block) = self.leave(old) {
            self.trace.calls.push(Call::Resize { block, size: size as usize });
            self.enter(name, block, size);
        }
    }
}

fn number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

/// Reads lines like `--1234-- malloc(24) = 0x5205040`; others are passed over.
fn text(raw: &[u8]) -> Trace {
    let mut builder = Builder::default();
    for line in raw.split(|byte| *byte == b'\n') {
        let _passed_over = std::str::from_utf8(line).ok().and_then(|line| text_line(line, &mut builder));
    }
    builder.trace
}

fn text_line(line: &str, builder: &mut Builder) -> Option<()> {
    let call = line.strip_prefix("--")?.split_once("-- ")?.1;
    let (call, result) = match call.split_once(" = ") {
        Some((call, result)) => (call, number(result.trim())),
        None => (call, None),
    };
    // What valgrind says of realloc(0x0, n) ends with the malloc that it comes down to.
    let call = call.rfind(")malloc(").map_or(call, |at| &call[at + 1..]);
    let (name, rest) = call.split_once('(')?;
    let mut numbers = rest.strip_suffix(')')?.split(',').map(|text| text.rsplit(' ').next().and_then(number));
    let (first, second) = (numbers.next()??, numbers.next().flatten());
    match name {
        "malloc" | "_Znwm" | "_Znam" => builder.allocate(result?, first, 0, false),
        "calloc" => builder.allocate(result?, first.checked_mul(second?)?, 0, true),
        "memalign" => builder.allocate(result?, second?, first, false),
        "realloc" => builder.resize(first, result.unwrap_or(0), second?),
        "free" | "_ZdlPv" | "_ZdaPv" | "_ZdlPvm" | "_ZdaPvm" => builder.free(first),
        _ => return None,
    }
    Some(())
}

fn damaged() -> io::Error {
    io::Error::new(ErrorKind::InvalidData, "a damaged trace")
}

/// The fields of a message, one after the other.
struct Fields<'a>(&'a [u8]);

enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

impl<'a> Fields<'a> {
    fn varint(&mut self) -> io::Result<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let (&byte, rest) = self.0.split_first().ok_or_else(damaged)?;
            self.0 = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(damaged())
    }

    fn take(&mut self, bytes: u64) -> io::Result<&'a [u8]> {
        let (taken, rest) = usize::try_from(bytes)
            .ok()
            .and_then(|bytes| self.0.split_at_checked(bytes))
            .ok_or_else(damaged)?;
        self.0 = rest;
        Ok(taken)
    }

    /// The next field's number and value.
    fn next(&mut self) -> io::Result<Option<(u64, Value<'a>)>> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let key = self.varint()?;
        let value = match key & 7 {
            0 => Value::Number(self.varint()?),
            1 => Value::Bytes(self.take(8)?),
            2 => {
                let bytes = self.varint()?;
                Value::Bytes(self.take(bytes)?)
            }
            5 => Value::Bytes(self.take(4)?),
            _ => return Err(damaged()),
        };
        Ok(Some((key >> 3, value)))
    }

    /// The numbers in fields 1 to 3, zero for those that are not there.
    fn numbers(mut self) -> io::Result<[u64; 3]> {
        let mut numbers = [0; 3];
        while let Some((field, value)) = self.next()? {
            if let (1..=3, Value::Number(number)) = (field, value) {
                numbers[field as usize - 1] = number;
            }
        }
        Ok(numbers)
    }
}

/// Reads a `Tracefile`: field 1 is a line each, in which the number of the field is the call.
fn messages(raw: &[u8]) -> io::Result<Trace> {
    let (mut builder, mut lines) = (Builder::default(), Fields(raw));
    while let Some((field, value)) = lines.next()? {
        let (1, Value::Bytes(line)) = (field, value) else { continue };
        let Some((call, Value::Bytes(body))) = Fields(line).next()? else { continue };
        let [first, second, third] = Fields(body).numbers()?;
        match call {
            // Result, size, alignment.
            1 => builder.allocate(first, second, third, false),
            2 => builder.free(first),
            // Result, old block, size.
            3 => builder.resize(second, first, third),
            // Result, count, size.
            4 => builder.allocate(first, second.checked_mul(third).ok_or_else(damaged)?, 0, true),
            _ => return Err(damaged()),
        }
    }
    Ok(builder.trace)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &[u8] = b"==7== Memcheck\n\
        --7-- malloc(24) = 0x5205040\n\
        --7-- realloc(0x0,72)malloc(72) = 0x5205080\n\
        --7-- calloc(2,16) = 0x5205100\n\
        --7-- realloc(0x5205080,100) = 0x5205200\n\
        --7-- free(0x5205040)\n\
        --7-- memalign(alignment 64, size 10) = 0x5205040\n\
        --7-- free(0x0)\n\
        --7-- free(0x999)\n\
        --7-- _ZdlPv(0x5205200)\n";

    #[test]
    fn valgrinds_lines_are_read() {
        let trace = text(TEXT);
        let allocate = |block, size, align, zero| Call::Allocate { block, size, align, zero };
        let expected = [
            allocate(0, 24, 0, false),
            allocate(1, 72, 0, false),
            allocate(2, 32, 0, true),
            Call::Resize { block: 1, size: 100 },
            Call::Free { block: 0 },
            allocate(0, 10, 64, false),
            Call::Free { block: 1 },
        ];
        assert_eq!((trace.calls.as_slice(), trace.blocks), (&expected[..], 3));
        assert_eq!((trace.peak_live, trace.skipped), (156, 1));
    }

    /// A field of a message.
    fn field(number: u8, body: &[u8]) -> Vec<u8> {
        [&[number << 3 | 2, body.len() as u8], body].concat()
    }

    fn file() -> Vec<u8> {
        let malloc = field(1, &[0x08, 1, 0x10, 0xac, 0x02]); // id 1, 300 bytes
        let calloc = field(4, &[0x08, 2, 0x10, 3, 0x18, 5]);
        let realloc = field(3, &[0x08, 3, 0x10, 1, 0x18, 9]);
        let free = field(2, &[0x08, 2]);
        [malloc, calloc, realloc, free].iter().flat_map(|line| field(1, line)).chain([0x10, 2]).collect()
    }

    #[test]
    fn messages_are_read_and_damaged_ones_are_errors_or_shorter() {
        let whole = file();
        let trace = messages(&whole).unwrap();
        let expected = [
            Call::Allocate { block: 0, size: 300, align: 0, zero: false },
            Call::Allocate { block: 1, size: 15, align: 0, zero: true },
            Call::Resize { block: 0, size: 9 },
            Call::Free { block: 1 },
        ];
        assert_eq!((trace.calls.as_slice(), trace.peak_live), (&expected[..], 315));
        for len in 0..whole.len() {
            let _ = messages(&whole[..len]);
            let mut damaged = whole.clone();
            damaged[len] = 0xff;
            let _ = messages(&damaged);
        }
    }

    #[test]
    fn a_file_may_be_compressed_and_has_to_be_a_trace() {
        use std::io::Write;
        let path = std::env::temp_dir().join(format!("specmalloc-trace-{}", std::process::id()));
        let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        packed.write_all(&file()).unwrap();
        for (contents, calls) in [(file(), 4), (packed.finish().unwrap(), 4), (TEXT.to_vec(), 7)] {
            std::fs::write(&path, contents).unwrap();
            assert_eq!(read(&path).unwrap().calls.len(), calls);
        }
        std::fs::write(&path, "no trace").unwrap();
        assert!(read(&path).unwrap_err().to_string().contains("not a trace"));
        std::fs::remove_file(&path).unwrap();
        assert_eq!(read(&path).unwrap_err().kind(), ErrorKind::NotFound);
    }
}
