//! Reads traces that others have recorded: malloc-bench's protocol buffers, and the text that valgrind writes, which malloc-bench
//! began with. Nothing in a file is trusted: what does not fit is an error, never a panic.

use specmalloc_trace::{Call, LARGEST_SHIFT, Trace};
use std::collections::HashMap;
use std::io::{self, ErrorKind};

/// Reads what a file has in it, unpacked.
pub(super) fn read(contents: &[u8]) -> io::Result<Trace> {
    let trace = if contents.starts_with(b"\n") { messages(contents)? } else { text(contents)? };
    if trace.calls().is_empty() {
        return Err(io::Error::new(ErrorKind::InvalidData, "not a trace of malloc calls"));
    }
    Ok(trace)
}

/// Puts a trace together from calls whose blocks have names of 64 bits. They are all one thread's.
#[derive(Default)]
struct Builder {
    trace: Trace,
    /// Numbers of the live blocks, by name.
    live: HashMap<u64, u32>,
}

impl Builder {
    fn push(&mut self, call: Call) -> io::Result<u32> {
        self.trace.push(0, call).map_err(|fault| io::Error::new(ErrorKind::InvalidData, fault.to_string()))
    }

    fn allocate(&mut self, name: u64, call: Call) -> io::Result<()> {
        // A name that is live already: its free is missing.
        if let Some(block) = self.live.remove(&name) {
            self.push(Call::Free { block })?;
        }
        let block = self.push(call)?;
        self.live.insert(name, block);
        Ok(())
    }

    fn leave(&mut self, name: u64) -> Option<u32> {
        let block = self.live.remove(&name);
        self.trace.skipped += u64::from(block.is_none());
        block
    }

    fn free(&mut self, name: u64) -> io::Result<()> {
        if name != 0
            && let Some(block) = self.leave(name)
        {
            self.push(Call::Free { block })?;
        }
        Ok(())
    }

    fn resize(&mut self, old: u64, name: u64, size: u64) -> io::Result<()> {
        if old == 0 {
            return self.allocate(name, Call::Malloc { size });
        }
        if size == 0 {
            return self.free(old);
        }
        if let Some(block) = self.leave(old) {
            self.push(Call::Realloc { block, size })?;
            if let Some(block) = self.live.insert(name, block) {
                self.push(Call::Free { block })?;
            }
        }
        Ok(())
    }
}

/// An allocation with an alignment, if that is one.
fn aligned(size: u64, align: u64) -> Call {
    match align.trailing_zeros() {
        shift if align.is_power_of_two() && align > 16 && shift <= LARGEST_SHIFT.into() => {
            Call::Aligned { size, shift: shift as u8 }
        }
        _ => Call::Malloc { size },
    }
}

fn number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

/// Reads lines like `--1234-- malloc(24) = 0x5205040`; others are passed over.
fn text(raw: &[u8]) -> io::Result<Trace> {
    let mut builder = Builder::default();
    for line in raw.split(|byte| *byte == b'\n') {
        std::str::from_utf8(line).ok().and_then(|line| text_line(line, &mut builder)).unwrap_or(Ok(()))?;
    }
    Ok(builder.trace)
}

/// Nothing for a line to pass over.
fn text_line(line: &str, builder: &mut Builder) -> Option<io::Result<()>> {
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
    Some(match name {
        "malloc" | "_Znwm" | "_Znam" => builder.allocate(result?, Call::Malloc { size: first }),
        "calloc" => builder.allocate(result?, Call::Calloc { size: first.checked_mul(second?)? }),
        "memalign" => builder.allocate(result?, aligned(second?, first)),
        "realloc" => builder.resize(first, result.unwrap_or(0), second?),
        "free" | "_ZdlPv" | "_ZdaPv" | "_ZdlPvm" | "_ZdaPvm" => builder.free(first),
        _ => return None,
    })
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
            1 => builder.allocate(first, aligned(second, third))?,
            2 => builder.free(first)?,
            // Result, old block, size.
            3 => builder.resize(second, first, third)?,
            // Result, count, size.
            4 => {
                let size = second.checked_mul(third).ok_or_else(damaged)?;
                builder.allocate(first, Call::Calloc { size })?;
            }
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

    fn calls(trace: &Trace) -> Vec<Call> {
        trace.calls().iter().map(|entry| entry.call).collect()
    }

    #[test]
    fn valgrinds_lines_are_read() {
        let trace = text(TEXT).unwrap();
        let expected = [
            Call::Malloc { size: 24 },
            Call::Malloc { size: 72 },
            Call::Calloc { size: 32 },
            Call::Realloc { block: 1, size: 100 },
            Call::Free { block: 0 },
            Call::Aligned { size: 10, shift: 6 },
            Call::Free { block: 1 },
        ];
        assert_eq!((calls(&trace), trace.blocks()), (expected.to_vec(), 4));
        assert_eq!((trace.peak_live(), trace.skipped), (156, 1));
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
            Call::Malloc { size: 300 },
            Call::Calloc { size: 15 },
            Call::Realloc { block: 0, size: 9 },
            Call::Free { block: 1 },
        ];
        assert_eq!((calls(&trace), trace.peak_live()), (expected.to_vec(), 315));
        for len in 0..whole.len() {
            let _ = messages(&whole[..len]);
            let mut damaged = whole.clone();
            damaged[len] = 0xff;
            let _ = messages(&damaged);
        }
    }

    #[test]
    fn what_is_neither_is_refused() {
        assert_eq!(read(&file()).unwrap().calls().len(), 4);
        assert_eq!(read(TEXT).unwrap().calls().len(), 7);
        assert!(read(b"no trace").unwrap_err().to_string().contains("not a trace"));
    }
}
