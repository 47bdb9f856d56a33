//! Files of code: their build ids, and which of their bytes lie where in memory.

use object::{Object as _, ObjectSegment, ReadCache, SegmentFlags};
use std::fmt::Write;
use std::fs::File;
use std::path::Path;

/// A part of the file that is loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Where it is in the file.
    pub offset: u64,
    /// How many bytes of it.
    pub bytes: u64,
    /// Its address, as the file has it.
    pub address: u64,
    /// Whether it may be executed.
    pub is_code: bool,
}

/// What is known of a file of code.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Object {
    /// In hexadecimal digits; empty for none.
    pub build_id: String,
    /// Its parts that are loaded.
    pub segments: Vec<Segment>,
}

impl Object {
    /// `None` if there is no such file, or it has no code.
    pub fn read(path: &Path) -> Option<Object> {
        // Not of what one would wait for, as a pipe.
        let cache = ReadCache::new(path.is_file().then(|| File::open(path).ok())??);
        let file = object::File::parse(&cache).ok()?;
        let segment = |segment: object::Segment<'_, '_, _>| {
            let (offset, bytes) = segment.file_range();
            let is_code = matches!(
                segment.flags(),
                SegmentFlags::Elf { p_flags, .. } if p_flags.0 & object::elf::PF_X.0 != 0
            );
            Segment { offset, bytes, address: segment.address(), is_code }
        };
        let build_id = file.build_id().ok().flatten().unwrap_or_default();
        let segments = file.segments().map(segment).collect();
        Some(Object { build_id: digits(build_id), segments })
    }

    /// The address that the file has for what lies at `offset` in it.
    pub fn address_of(&self, offset: u64) -> Option<u64> {
        let holds = |segment: &&Segment| {
            offset.checked_sub(segment.offset).is_some_and(|inside| inside < segment.bytes)
        };
        self.segments.iter().find(holds).map(|segment| segment.address + (offset - segment.offset))
    }
}

/// In hexadecimal.
pub(super) fn digits(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a string takes all");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_has_code_and_every_offset_in_it_an_address() {
        let own = Object::read(&std::env::current_exe().unwrap()).unwrap();
        let code = own.segments.iter().find(|segment| segment.is_code).unwrap();
        assert_eq!(own.address_of(code.offset + code.bytes - 1), Some(code.address + code.bytes - 1));
        assert_eq!(own.address_of(u64::MAX), None);
        for wrong in ["/dev/null", "/no/such/file", "/etc/passwd", "/"] {
            assert_eq!(Object::read(Path::new(wrong)), None, "{wrong}");
        }
    }
}
