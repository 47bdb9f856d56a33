//! Reads traces that others have recorded: malloc-bench's protocol buffers, and the text that valgrind writes, which malloc-bench
//! began with. Nothing in a file is trusted: what does not fit is an error, never a panic.

use specmalloc_trace::{Call, LARGEST_SHIFT, Trace};
use std::collections::HashMap;
use std::io::{self, ErrorKind};

/// Reads what a file has in it, unpacked.
pub(super) fn read(contents: &[u8]) -> io::Result<Trace> {
    if contents.starts_with(b"version https://git-lfs") {
        return Err(wrong("a pointer of Git LFS in place of a trace: git lfs pull gets that"));
    }
    let mut builder = Builder::default();
    if contents.starts_with(b"\n") {
        messages(contents, &mut builder)
            .map_err(|error| wrong(&format!("{error} after {} calls", builder.trace.calls().len())))?;
    } else {
        text(contents, &mut builder)?;
    }
    if builder.trace.calls().is_empty() {
        return Err(wrong("not a trace of malloc calls"));
    }
    Ok(builder.trace)
}

fn wrong(why: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, why)
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
        self.trace.push(0, call).map_err(|fault| wrong(&format!("a call {fault}")))
    }

    /// A block without a name is not heard of again.
    fn allocate(&mut self, name: Option<u64>, call: Call) -> io::Result<()> {
        // A name that is live already: its free is missing.
        if let Some(block) = name.and_then(|name| self.live.remove(&name)) {
            self.push(Call::Free { block })?;
        }
        let block = self.push(call)?;
        self.live.extend(name.map(|name| (name, block)));
        Ok(())
    }

    fn leave(&mut self, name: u64) -> Option<u32> {
        let block = self.live.remove(&name);
        self.trace.skipped += u64::from(block.is_none());
        block
    }

    fn free(&mut self, name: Option<u64>) -> io::Result<()> {
        if let Some(block) = name.and_then(|name| self.leave(name)) {
            self.push(Call::Free { block })?;
        }
        Ok(())
    }

    fn resize(&mut self, old: Option<u64>, name: Option<u64>, size: u64) -> io::Result<()> {
        // What realloc does with a block that is to have no bytes is for each allocator to say.
        let Some(old) = old.filter(|_| size > 0) else {
            self.free(old)?;
            return self.allocate(name, Call::Malloc { size });
        };
        let Some(block) = self.leave(old) else { return Ok(()) };
        if let Some(other) = name.and_then(|name| self.live.insert(name, block)) {
            self.push(Call::Free { block: other })?;
        }
        self.push(Call::Realloc { block, size }).map(drop)
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

/// Reads lines like `--1234-- malloc(24) = 0x5205040`, of the process that makes the first call; others are passed over.
fn text(raw: &[u8], builder: &mut Builder) -> io::Result<()> {
    let mut process = None;
    for line in raw.split(|byte| *byte == b'\n') {
        let line = std::str::from_utf8(line).unwrap_or_default();
        let Some((own, call)) = line.strip_prefix("--").and_then(|line| line.split_once("-- ")) else {
            continue;
        };
        if process.is_none_or(|process| process == own)
            && let Some(result) = text_call(call, builder)
        {
            process = Some(own);
            result?;
        }
    }
    Ok(())
}

/// Nothing for what is no call.
fn text_call(call: &str, builder: &mut Builder) -> Option<io::Result<()>> {
    let (call, result) = match call.split_once(" = ") {
        Some((call, result)) => (call, number(result.trim())),
        None => (call, None),
    };
    // What valgrind says of realloc(0x0, n) and realloc(p, 0) ends with the call that they come down to.
    let inner = [")malloc(", ")free("].iter().find_map(|inner| call.rfind(inner));
    let (name, rest) = inner.map_or(call, |at| &call[at + 1..]).split_once('(')?;
    // Each may have a word before it: `memalign(al 64, size 10)`, `_ZnwmSt11align_val_t(size 10, al 64)`.
    let arguments = rest.strip_suffix(')')?.split(',').map(|text| {
        let (word, value) = text.trim().rsplit_once(' ').unwrap_or(("", text));
        number(value).map(|value| (word, value))
    });
    let arguments = arguments.collect::<Option<Vec<_>>>()?;
    let (&(_, first), second) = (arguments.first()?, arguments.get(1).map(|argument| argument.1));
    let called = |word: &str, place: usize| {
        let named = arguments.iter().find(|argument| argument.0 == word);
        named.or(arguments.get(place)).map(|argument| argument.1)
    };
    let allocation = match name {
        "malloc" => Call::Malloc { size: first },
        "calloc" => Call::Calloc { size: first.checked_mul(second?)? },
        "memalign" | "aligned_alloc" | "posix_memalign" => aligned(called("size", 1)?, called("al", 0)?),
        "realloc" => {
            let (size, result) = (second?, result.filter(|name| *name != 0));
            // There was no memory, or it was a free; the first leaves the block.
            return Some(match (result, size) {
                (None, 1..) => Ok(()),
                (None, 0) => builder.free(Some(first).filter(|name| *name != 0)),
                _ => builder.resize(Some(first).filter(|name| *name != 0), result, size),
            });
        }
        _ if name.starts_with("_Znw") || name.starts_with("_Zna") => {
            aligned(called("size", 0)?, called("al", 1).unwrap_or(1))
        }
        _ if name.starts_with("free") || name.starts_with("_Zdl") || name.starts_with("_Zda") => {
            return Some(builder.free(Some(first).filter(|name| *name != 0)));
        }
        _ => return None,
    };
    // There was no memory.
    if result? == 0 {
        return Some(Ok(()));
    }
    Some(builder.allocate(result, allocation))
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

    /// The numbers in fields 1 to 3, of those that are there.
    fn numbers(mut self) -> io::Result<[Option<u64>; 3]> {
        let mut numbers = [None; 3];
        while let Some((field, value)) = self.next()? {
            if let (1..=3, Value::Number(number)) = (field, value) {
                numbers[field as usize - 1] = Some(number);
            }
        }
        Ok(numbers)
    }
}

/// Reads a `Tracefile`: field 1 is a line each, in which the number of the field is the call. Blocks are numbered from
/// zero; null is a number that is not there.
fn messages(raw: &[u8], builder: &mut Builder) -> io::Result<()> {
    let mut lines = Fields(raw);
    while let Some((field, value)) = lines.next()? {
        let (1, Value::Bytes(line)) = (field, value) else { continue };
        let Some((call, Value::Bytes(body))) = Fields(line).next()? else { continue };
        let [first, second, third] = Fields(body).numbers()?;
        let [two, three] = [second, third].map(Option::unwrap_or_default);
        match call {
            // Result, size, alignment.
            1 => builder.allocate(first, aligned(two, three))?,
            2 => builder.free(first)?,
            // Result, old block, size.
            3 => builder.resize(second, first, three)?,
            // Result, count, size.
            4 => {
                let size = two.checked_mul(three).ok_or_else(damaged)?;
                builder.allocate(first, Call::Calloc { size })?;
            }
            _ => return Err(damaged()),
        }
    }
    Ok(())
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

    fn text_trace(raw: &[u8]) -> Trace {
        let mut builder = Builder::default();
        text(raw, &mut builder).unwrap();
        builder.trace
    }

    fn message_trace(raw: &[u8]) -> io::Result<Trace> {
        let mut builder = Builder::default();
        messages(raw, &mut builder).map(|()| builder.trace)
    }

    #[test]
    fn valgrinds_lines_are_read() {
        let trace = text_trace(TEXT);
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

    #[test]
    fn aligned_operators_failed_calls_and_reallocs_to_nothing_are_read_as_valgrind_has_them() {
        // What valgrind 3.19 says.
        let trace = text_trace(
            b"--7-- _ZnwmSt11align_val_t(size 64, al 32) = 0x10\n\
            --7-- _ZdlPvmSt11align_val_t(0x10)\n\
            --7-- _ZnamSt11align_val_tRKSt9nothrow_t(size 7, al 64) = 0x10\n\
            --7-- _ZdaPvSt11align_val_tRKSt9nothrow_t(0x10)\n\
            --7-- _ZnwmRKSt9nothrow_t(4) = 0x20\n\
            --7-- realloc(0x20,0)free(0x20)\n\
            --7--  = 0\n\
            --7-- malloc(1152921504606846976) = 0x0\n\
            --7-- malloc_usable_size(0x20) = 1\n\
            --8-- malloc(1) = 0x30\n\
            --7-- memalign(al 64, size 1152921504606846976) = 0x0\n\
            --7-- calloc(3,5) = 0x30\n\
            --7-- realloc(0x30,1152921504606846976) = 0x0\n\
            --7-- realloc(0x30,0) = 0x40\n\
            --7-- free(0x40)\n\
            --8-- free(0x30)\n",
        );
        let expected = [
            Call::Aligned { size: 64, shift: 5 },
            Call::Free { block: 0 },
            Call::Aligned { size: 7, shift: 6 },
            Call::Free { block: 1 },
            Call::Malloc { size: 4 },
            Call::Free { block: 2 },
            Call::Calloc { size: 15 },
            Call::Free { block: 3 },
            Call::Malloc { size: 0 },
            Call::Free { block: 4 },
        ];
        assert_eq!((calls(&trace), trace.skipped), (expected.to_vec(), 0));
    }

    /// A field of a message.
    fn field(number: u8, body: &[u8]) -> Vec<u8> {
        [&[number << 3 | 2, body.len() as u8], body].concat()
    }

    fn file() -> Vec<u8> {
        let malloc = field(1, &[0x08, 0, 0x10, 0xac, 0x02]); // id 0, 300 bytes
        let calloc = field(4, &[0x08, 2, 0x10, 3, 0x18, 5]);
        let realloc = field(3, &[0x08, 3, 0x10, 0, 0x18, 9]);
        let free = field(2, &[0x08, 2]);
        [malloc, calloc, realloc, free].iter().flat_map(|line| field(1, line)).chain([0x10, 2]).collect()
    }

    #[test]
    fn messages_are_read_and_damaged_ones_are_errors_or_shorter() {
        let whole = file();
        let trace = message_trace(&whole).unwrap();
        let expected = [
            Call::Malloc { size: 300 },
            Call::Calloc { size: 15 },
            Call::Realloc { block: 0, size: 9 },
            Call::Free { block: 1 },
        ];
        assert_eq!((calls(&trace), trace.peak_live()), (expected.to_vec(), 315));
        for len in 0..whole.len() {
            let _ = message_trace(&whole[..len]);
            let mut damaged = whole.clone();
            damaged[len] = 0xff;
            let _ = message_trace(&damaged);
        }
        let error = read(&whole[..whole.len() - 5]).unwrap_err().to_string();
        assert_eq!(error, "a damaged trace after 3 calls");
    }

    #[test]
    fn the_first_block_of_a_message_is_number_zero_and_null_is_no_number() {
        let lines = [
            field(1, &[0x08, 0, 0x10, 7]),
            field(2, &[0x08, 0]),
            field(2, &[]),
            field(3, &[0x08, 0, 0x18, 9]),
            field(3, &[0x08, 1, 0x10, 0, 0x18, 11]),
            field(1, &[0x10, 5]),
            field(2, &[0x08, 1]),
        ];
        let raw: Vec<u8> = lines.iter().flat_map(|line| field(1, line)).collect();
        let trace = message_trace(&raw).unwrap();
        let expected = [
            Call::Malloc { size: 7 },
            Call::Free { block: 0 },
            Call::Malloc { size: 9 },
            Call::Realloc { block: 1, size: 11 },
            Call::Malloc { size: 5 },
            Call::Free { block: 1 },
        ];
        assert_eq!((calls(&trace), trace.skipped), (expected.to_vec(), 0));
    }

    #[test]
    fn what_is_neither_is_refused() {
        assert_eq!(read(&file()).unwrap().calls().len(), 4);
        assert_eq!(read(TEXT).unwrap().calls().len(), 7);
        assert!(read(b"no trace").unwrap_err().to_string().contains("not a trace"));
        assert!(
            read(b"version https://git-lfs.github.com/spec/v1\n").unwrap_err().to_string().contains("pull")
        );
    }
}
