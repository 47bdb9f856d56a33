//! Unwind tables (`.eh_frame_hdr`, `.eh_frame`), as far as a stack of return addresses needs them: where the caller's
//! frame begins, and where its frame pointer was saved. What compilers and the C library write is understood, anything
//! else is "not known". Reads the tables in place, allocates nothing, and never panics.

use core::ptr;

/// How the canonical frame address is found: where the stack pointer was before the call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Frame {
    /// The stack pointer and so much.
    FromStack(i32),
    /// The frame pointer and so much.
    FromPointer(i32),
    /// What lies there: the frame pointer and so much.
    At(i32),
    /// In a table of stubs: one or two words above the stack pointer.
    Stub,
    /// The frame of a signal handler's return: the interrupted registers lie on the stack.
    Signal,
    /// The outermost.
    Last,
}

/// Where the caller's frame pointer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Saved {
    /// Where it was.
    Same,
    /// So far from the canonical frame address.
    FromFrame(i32),
    /// So far from the frame pointer.
    FromPointer(i32),
}

/// What is to be done to get from a function to its caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) frame: Frame,
    pub(super) pointer: Saved,
}

impl Rule {
    /// As one word, not zero; `None` if it does not fit.
    pub(super) fn pack(self) -> Option<u64> {
        let (kind, offset) = match self.frame {
            Frame::FromStack(offset) => (1, offset),
            Frame::FromPointer(offset) => (2, offset),
            Frame::At(offset) => (3, offset),
            Frame::Stub => (4, 0),
            Frame::Signal => (5, 0),
            Frame::Last => (6, 0),
        };
        let (how, from) = match self.pointer {
            Saved::Same => (1, 0),
            Saved::FromFrame(offset) => (2, offset),
            Saved::FromPointer(offset) => (3, offset),
        };
        let from = i16::try_from(from).ok()?;
        Some(kind | how << 8 | u64::from(from as u16) << 16 | u64::from(offset as u32) << 32)
    }

    /// The opposite.
    pub(super) fn unpack(word: u64) -> Option<Rule> {
        let (offset, from) = ((word >> 32) as i32, i32::from((word >> 16) as i16));
        let frame = match word & 0xff {
            1 => Frame::FromStack(offset),
            2 => Frame::FromPointer(offset),
            3 => Frame::At(offset),
            4 => Frame::Stub,
            5 => Frame::Signal,
            6 => Frame::Last,
            _ => return None,
        };
        let pointer = match word >> 8 & 0xff {
            1 => Saved::Same,
            2 => Saved::FromFrame(from),
            3 => Saved::FromPointer(from),
            _ => return None,
        };
        Some(Rule { frame, pointer })
    }
}

// x86-64, by DWARF's numbers.
const POINTER: u64 = 6;
const STACK: u64 = 7;
const RETURN: u64 = 16;

/// Bytes of a table, from where they are to be read.
#[derive(Clone, Copy)]
struct Bytes {
    at: usize,
    end: usize,
}

impl Bytes {
    fn take<T: Copy>(&mut self) -> Option<T> {
        let next = self.at.checked_add(size_of::<T>()).filter(|&next| next <= self.end)?;
        // SAFETY: within a table of a loaded object, which stays while its functions are on the stack; every pattern of
        // bits is a number.
        let value = unsafe { ptr::with_exposed_provenance::<T>(self.at).read_unaligned() };
        self.at = next;
        Some(value)
    }

    fn skip(&mut self, bytes: u64) -> Option<()> {
        let next = self.at.checked_add(bytes as usize).filter(|&next| next <= self.end)?;
        self.at = next;
        Some(())
    }

    /// The next `bytes` alone.
    fn part(&mut self, bytes: u64) -> Option<Bytes> {
        let at = self.at;
        self.skip(bytes)?;
        Some(Bytes { at, end: self.at })
    }

    fn unsigned(&mut self) -> Option<u64> {
        let (mut value, mut shift) = (0u64, 0u32);
        loop {
            let byte = self.take::<u8>()?;
            value |= u64::from(byte & 0x7f).checked_shl(shift).unwrap_or(0);
            if byte & 0x80 == 0 {
                return Some(value);
            }
            shift += 7;
        }
    }

    fn signed(&mut self) -> Option<i64> {
        let (mut value, mut shift) = (0i64, 0u32);
        loop {
            let byte = self.take::<u8>()?;
            value |= i64::from(byte & 0x7f).checked_shl(shift).unwrap_or(0);
            shift += 7;
            if byte & 0x80 == 0 {
                let is_negative = byte & 0x40 != 0 && shift < 64;
                return Some(if is_negative { value | -1i64 << shift } else { value });
            }
        }
    }

    /// A pointer in the encoding `how`, absolute or relative to where it stands.
    fn pointer(&mut self, how: u8) -> Option<usize> {
        let at = self.at;
        let value = match how & 0x0f {
            0x00 | 0x04 | 0x0c => self.take::<u64>()? as usize,
            0x02 => usize::from(self.take::<u16>()?),
            0x03 => self.take::<u32>()? as usize,
            0x0a => self.take::<i16>()? as usize,
            0x0b => self.take::<i32>()? as usize,
            _ => return None,
        };
        match how & 0xf0 {
            0x00 => Some(value),
            0x10 => Some(at.wrapping_add(value)),
            _ => None,
        }
    }

    /// A record's own bytes, behind its length.
    fn record(&mut self) -> Option<Bytes> {
        let len = self.take::<u32>()?;
        if len == 0 || len == u32::MAX { None } else { self.part(u64::from(len)) }
    }
}

/// What several functions have in common.
struct Common {
    code: u64,
    data: i64,
    how: u8,
    has_length: bool,
    is_signal: bool,
    program: Bytes,
}

fn common(at: usize, end: usize) -> Option<Common> {
    let mut bytes = Bytes { at, end }.record()?;
    if bytes.take::<u32>()? != 0 {
        return None;
    }
    let version = bytes.take::<u8>()?;
    let mut letters = bytes;
    while bytes.take::<u8>()? != 0 {}
    let (code, data) = (bytes.unsigned()?, bytes.signed()?);
    let register = if version == 1 { u64::from(bytes.take::<u8>()?) } else { bytes.unsigned()? };
    let mut common = Common { code, data, how: 0, has_length: false, is_signal: false, program: bytes };
    if register != RETURN {
        return None;
    }
    if letters.take::<u8>()? != b'z' {
        return if letters.at == bytes.at { None } else { Some(common) };
    }
    common.has_length = true;
    let len = bytes.unsigned()?;
    let mut values = bytes.part(len)?;
    loop {
        match letters.take::<u8>()? {
            0 => break,
            b'L' => _ = values.take::<u8>()?,
            b'P' => {
                let how = values.take::<u8>()?;
                // Only its length matters.
                values.pointer(how & 0x0f)?;
            }
            b'R' => common.how = values.take::<u8>()?,
            b'S' => common.is_signal = true,
            b'B' => {}
            _ => return None,
        }
    }
    common.program = bytes;
    Some(common)
}

/// Where the entry of `pc`'s function is, by the sorted table at `header`.
fn entry(header: usize, end: usize, pc: usize) -> Option<usize> {
    /// Relative to the header, four bytes with a sign; and four bytes without one.
    const SORTED: u8 = 0x3b;
    const COUNT: u8 = 0x03;
    let mut bytes = Bytes { at: header, end };
    let [version, table, count, sorted] = bytes.take::<[u8; 4]>()?;
    if version != 1 || count != COUNT || sorted != SORTED {
        return None;
    }
    bytes.pointer(table)?;
    let count = bytes.take::<u32>()? as usize;
    let first = bytes.at;
    let row = |index: usize| {
        let [from, to] = Bytes { at: first + index * 8, end }.take::<[i32; 2]>()?;
        Some((header.wrapping_add(from as usize), header.wrapping_add(to as usize)))
    };
    let (mut low, mut high) = (0, count);
    while low < high {
        let middle = low + (high - low) / 2;
        if row(middle)?.0 <= pc { low = middle + 1 } else { high = middle }
    }
    Some(row(low.checked_sub(1)?)?.1)
}

/// How deep rules are remembered.
const DEPTH: usize = 8;

/// What a program has said so far.
#[derive(Clone, Copy)]
struct Rules {
    rule: Rule,
    register: u64,
    offset: i64,
    is_expression: bool,
}

impl Rules {
    fn settle(&mut self) -> Option<()> {
        let offset = i32::try_from(self.offset).ok()?;
        self.rule.frame = match self.register {
            STACK => Frame::FromStack(offset),
            POINTER => Frame::FromPointer(offset),
            // Where it matters, a later instruction says more.
            _ => return Some(()),
        };
        self.is_expression = false;
        Some(())
    }

    /// The register `number` is saved `offset` from the frame address.
    fn save(&mut self, number: u64, offset: i64) -> Option<()> {
        if number == POINTER {
            self.rule.pointer = Saved::FromFrame(i32::try_from(offset).ok()?);
        } else if number == RETURN && offset != -8 {
            return None;
        }
        Some(())
    }

    /// The frame address is what an expression says: of those that are written by compilers and linkers.
    fn frame_expression(&mut self, mut bytes: Bytes) -> Option<()> {
        self.is_expression = true;
        let first = bytes.take::<u8>()?;
        let offset = bytes.signed()?;
        self.rule.frame = match (first, bytes.take::<u8>()) {
            // The frame pointer and so much, and what lies there.
            (0x76, Some(0x06)) if bytes.at == bytes.end => Frame::At(i32::try_from(offset).ok()?),
            // A stub: the stack pointer and 8, and the return address to tell whether a word was pushed.
            (0x77, Some(0x80)) if offset == 8 => Frame::Stub,
            _ => return None,
        };
        Some(())
    }

    fn pointer_expression(&mut self, mut bytes: Bytes) -> Option<()> {
        if bytes.take::<u8>()? != 0x76 {
            return None;
        }
        let offset = bytes.signed()?;
        self.rule.pointer = Saved::FromPointer(i32::try_from(offset).ok()?);
        (bytes.at == bytes.end).then_some(())
    }
}

/// Runs a program from `from` up to `pc`.
fn run(mut bytes: Bytes, common: &Common, from: usize, pc: usize, rules: &mut Rules) -> Option<()> {
    let initial = *rules;
    let mut remembered = [initial; DEPTH];
    let (mut depth, mut at) = (0usize, from);
    while bytes.at < bytes.end {
        let byte = bytes.take::<u8>()?;
        let low = u64::from(byte & 0x3f);
        let delta = match byte >> 6 {
            1 => low,
            2 => {
                let offset = (bytes.unsigned()? as i64).wrapping_mul(common.data);
                rules.save(low, offset)?;
                continue;
            }
            3 => {
                restore(rules, &initial, low);
                continue;
            }
            _ => match byte {
                0x00 => continue,
                0x01 => {
                    at = bytes.pointer(common.how)?;
                    if at > pc {
                        return Some(());
                    }
                    continue;
                }
                0x02 => u64::from(bytes.take::<u8>()?),
                0x03 => u64::from(bytes.take::<u16>()?),
                0x04 => u64::from(bytes.take::<u32>()?),
                0x0a => {
                    *remembered.get_mut(depth)? = *rules;
                    depth += 1;
                    continue;
                }
                0x0b => {
                    depth = depth.checked_sub(1)?;
                    *rules = *remembered.get(depth)?;
                    continue;
                }
                _ => {
                    other(byte, &mut bytes, common, rules, &initial)?;
                    continue;
                }
            },
        };
        at = at.wrapping_add(delta.wrapping_mul(common.code) as usize);
        if at > pc {
            return Some(());
        }
    }
    Some(())
}

fn restore(rules: &mut Rules, initial: &Rules, number: u64) {
    if number == POINTER {
        rules.rule.pointer = initial.rule.pointer;
    }
}

/// An instruction that says something about a register or the frame.
fn other(byte: u8, bytes: &mut Bytes, common: &Common, rules: &mut Rules, initial: &Rules) -> Option<()> {
    match byte {
        0x05 | 0x2f => {
            let (number, factor) = (bytes.unsigned()?, bytes.unsigned()? as i64);
            let offset = factor.wrapping_mul(common.data);
            rules.save(number, if byte == 0x05 { offset } else { offset.wrapping_neg() })
        }
        0x06 => {
            restore(rules, initial, bytes.unsigned()?);
            Some(())
        }
        0x07 => {
            if bytes.unsigned()? == RETURN {
                rules.rule.frame = Frame::Last;
                rules.is_expression = true;
            }
            Some(())
        }
        0x08 => {
            if bytes.unsigned()? == POINTER {
                rules.rule.pointer = Saved::Same;
            }
            Some(())
        }
        0x09 => {
            // In another register, which is not followed.
            let (number, _register) = (bytes.unsigned()?, bytes.unsigned()?);
            (number != POINTER && number != RETURN).then_some(())
        }
        0x0c | 0x12 => {
            rules.register = bytes.unsigned()?;
            rules.offset = if byte == 0x0c {
                bytes.unsigned()? as i64
            } else {
                bytes.signed()?.wrapping_mul(common.data)
            };
            rules.settle()
        }
        0x0d => {
            rules.register = bytes.unsigned()?;
            rules.settle()
        }
        0x0e => {
            rules.offset = bytes.unsigned()? as i64;
            rules.settle()
        }
        0x13 => {
            rules.offset = bytes.signed()?.wrapping_mul(common.data);
            rules.settle()
        }
        0x0f => {
            let len = bytes.unsigned()?;
            let expression = bytes.part(len)?;
            rules.frame_expression(expression)
        }
        0x10 => {
            let (number, len) = (bytes.unsigned()?, bytes.unsigned()?);
            let expression = bytes.part(len)?;
            match number {
                POINTER => rules.pointer_expression(expression),
                RETURN => None,
                _ => Some(()),
            }
        }
        0x11 => {
            let (number, factor) = (bytes.unsigned()?, bytes.signed()?);
            rules.save(number, factor.wrapping_mul(common.data))
        }
        0x14..=0x16 => {
            // A value and no place: of the frame pointer it is not followed.
            let (number, value) = (bytes.unsigned()?, bytes.unsigned()?);
            if byte == 0x16 {
                bytes.skip(value)?;
            }
            (number != POINTER && number != RETURN).then_some(())
        }
        0x2e => bytes.unsigned().map(|_| ()),
        _ => None,
    }
}

/// The rule for `pc`, an address in an object whose `.eh_frame_hdr` is at `header` and whose last byte is before `end`.
/// `None` if the table does not say, or says something that is not understood.
pub(super) fn rule(header: usize, end: usize, pc: usize) -> Option<Rule> {
    let at = entry(header, end, pc)?;
    let mut bytes = Bytes { at, end }.record()?;
    let back_from = bytes.at;
    let back = bytes.take::<u32>()? as usize;
    let common = common(back_from.checked_sub(back)?, end)?;
    let first = bytes.pointer(common.how)?;
    let len = bytes.pointer(common.how & 0x0f)?;
    if pc.wrapping_sub(first) >= len {
        return None;
    }
    if common.has_length {
        let len = bytes.unsigned()?;
        bytes.skip(len)?;
    }
    if common.is_signal {
        return Some(Rule { frame: Frame::Signal, pointer: Saved::Same });
    }
    let mut rules = Rules {
        rule: Rule { frame: Frame::FromStack(8), pointer: Saved::Same },
        register: STACK,
        offset: 8,
        is_expression: false,
    };
    run(common.program, &common, first, usize::MAX, &mut rules)?;
    run(bytes, &common, first, pc, &mut rules)?;
    let is_known = rules.is_expression || rules.register == STACK || rules.register == POINTER;
    is_known.then_some(rules.rule)
}
