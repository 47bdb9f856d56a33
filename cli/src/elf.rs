//! The little of an ELF file that tells whether a preloaded malloc will be used: its word size and machine, its
//! dynamic loader, and whether it defines an allocator itself.
//!
//! Reads 64-bit little-endian files, the only kind that the library is built for. Sizes and offsets come from the file
//! and are not trusted: what does not fit is an error, never a panic or a large allocation.

use std::ffi::CStr;
use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;

/// More than any real file's tables; what claims more is taken for damaged.
const MAX_TABLE: u64 = 1 << 28;

const PT_INTERP: u32 = 3;
const SHT_SYMTAB: u32 = 2;
const SHT_DYNAMIC: u32 = 6;
const SHT_DYNSYM: u32 = 11;
const DT_NEEDED: u64 = 1;

/// What is of interest in an executable file.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Image {
    /// ELF of another word size or byte order than the library's.
    OtherFormat,
    /// ELF that this machine could load.
    Elf {
        /// `e_machine`.
        machine: u16,
        /// The dynamic loader's path; none in a statically linked program.
        loader: Option<String>,
        /// The name by which the program defines an allocator of its own.
        own_malloc: Option<&'static str>,
        /// The libraries that it is linked to.
        needed: Vec<String>,
    },
    /// Not ELF.
    Other,
}

/// Definitions that give an allocator inside the program away: `malloc` itself, and the entry points under which the
/// known ones are linked into programs that call them directly. The first one that is there is named.
const ALLOCATORS: [&str; 8] = [
    "malloc",
    "je_malloc",
    "_rjem_malloc",
    "mi_malloc",
    "tc_malloc",
    "sn_malloc",
    "sn_rust_alloc",
    "rpmalloc",
];

/// Reads what is of interest in `file`.
pub(crate) fn read(file: &File) -> io::Result<Image> {
    let mut head = [0; 64];
    match file.read_exact_at(&mut head, 0) {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(Image::Other),
        Err(error) => return Err(error),
    }
    if head[..4] != *b"\x7fELF" {
        return Ok(Image::Other);
    }
    if head[4..6] != [2, 1] {
        return Ok(Image::OtherFormat);
    }
    let head = Bytes(&head);
    let segments = table(file, head.u64(32)?, head.u16(54)?, head.u16(56)?)?;
    let sections = table(file, head.u64(40)?, head.u16(58)?, head.u16(60)?)?;
    let loader = match segments.iter().find(|segment| Bytes(segment).u32(0).ok() == Some(PT_INTERP)) {
        None => None,
        Some(segment) => {
            let path = bytes(file, Bytes(segment).u64(8)?, Bytes(segment).u64(32)?)?;
            Some(CStr::from_bytes_until_nul(&path).map_err(|_| damaged())?.to_string_lossy().into_owned())
        }
    };
    let mut own: Option<usize> = None;
    let mut needed = Vec::new();
    for section in &sections {
        if Bytes(section).u32(4)? == SHT_DYNAMIC {
            needed.extend(libraries(file, Bytes(section), &sections)?);
        }
        if matches!(Bytes(section).u32(4)?, SHT_DYNSYM | SHT_SYMTAB) {
            let found = defined_allocator(file, Bytes(section), &sections)?;
            own = own.into_iter().chain(found).min();
        }
    }
    let own_malloc = own.map(|place| ALLOCATORS[place]);
    Ok(Image::Elf { machine: head.u16(18)?, loader, own_malloc, needed })
}

/// The libraries that the dynamic section `section` names.
fn libraries(file: &File, section: Bytes, sections: &[Vec<u8>]) -> io::Result<Vec<String>> {
    let strings = linked_strings(file, section, sections)?;
    let entries = bytes(file, section.u64(24)?, section.u64(32)?)?;
    let mut names = Vec::new();
    for entry in entries.chunks_exact(16) {
        if Bytes(entry).u64(0)? == DT_NEEDED {
            let name = strings.get(Bytes(entry).u64(8)? as usize..).unwrap_or_default();
            let name = CStr::from_bytes_until_nul(name).map_err(|_| damaged())?;
            names.push(name.to_string_lossy().into_owned());
        }
    }
    Ok(names)
}

/// The strings that a section's names are in.
fn linked_strings(file: &File, section: Bytes, sections: &[Vec<u8>]) -> io::Result<Vec<u8>> {
    let strings = sections.get(section.u32(40)? as usize).ok_or_else(damaged)?;
    bytes(file, Bytes(strings).u64(24)?, Bytes(strings).u64(32)?)
}

/// The first of [`ALLOCATORS`] that the symbol table `section` defines.
fn defined_allocator(file: &File, section: Bytes, sections: &[Vec<u8>]) -> io::Result<Option<usize>> {
    let strings = linked_strings(file, section, sections)?;
    let symbols = bytes(file, section.u64(24)?, section.u64(32)?)?;
    let mut first: Option<usize> = None;
    for symbol in symbols.chunks_exact(24) {
        let symbol = Bytes(symbol);
        // Section 0: used here, defined elsewhere.
        if symbol.u16(6)? == 0 {
            continue;
        }
        let name = strings.get(symbol.u32(0)? as usize..).unwrap_or_default();
        let known = ALLOCATORS.into_iter().position(|known| {
            name.strip_prefix(known.as_bytes()).is_some_and(|rest| rest.first() == Some(&0))
        });
        first = first.into_iter().chain(known).min();
    }
    Ok(first)
}

fn damaged() -> io::Error {
    io::Error::new(ErrorKind::InvalidData, "a damaged ELF file")
}

fn bytes(file: &File, offset: u64, len: u64) -> io::Result<Vec<u8>> {
    if len > MAX_TABLE
        || offset.checked_add(len).is_none_or(|end| end > file.metadata().map_or(0, |m| m.len()))
    {
        return Err(damaged());
    }
    let mut bytes = vec![0; len as usize];
    file.read_exact_at(&mut bytes, offset)?;
    Ok(bytes)
}

/// The `count` entries of `size` bytes at `offset`.
fn table(file: &File, offset: u64, size: u16, count: u16) -> io::Result<Vec<Vec<u8>>> {
    if size == 0 || count == 0 {
        return Ok(Vec::new());
    }
    let all = bytes(file, offset, u64::from(size) * u64::from(count))?;
    Ok(all.chunks_exact(usize::from(size)).map(<[u8]>::to_vec).collect())
}

/// Little-endian numbers at offsets.
#[derive(Clone, Copy)]
struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn array<const N: usize>(self, at: usize) -> io::Result<[u8; N]> {
        self.0.get(at..).and_then(<[u8]>::first_chunk).copied().ok_or_else(damaged)
    }
    fn u16(self, at: usize) -> io::Result<u16> {
        self.array(at).map(u16::from_le_bytes)
    }
    fn u32(self, at: usize) -> io::Result<u32> {
        self.array(at).map(u32::from_le_bytes)
    }
    fn u64(self, at: usize) -> io::Result<u64> {
        self.array(at).map(u64::from_le_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_program_is_dynamic_and_every_truncation_of_it_is_an_error_or_harmless() {
        let own = File::open("/proc/self/exe").unwrap();
        let Image::Elf { loader: Some(_), own_malloc: None, needed, .. } = read(&own).unwrap() else {
            panic!("{:?}", read(&own))
        };
        assert!(needed.iter().any(|name| name.starts_with("libc.so")), "{needed:?}");
        let path = std::env::temp_dir().join(format!("specmalloc-elf-{}", std::process::id()));
        let whole = std::fs::read("/proc/self/exe").unwrap();
        // The tables lie at the front and at the end.
        for len in (0..200).chain((whole.len() - 2000..whole.len()).step_by(50)) {
            std::fs::write(&path, &whole[..len]).unwrap();
            let image = read(&File::open(&path).unwrap());
            assert!(image.is_err() || len < 64, "{len}: {image:?}");
        }
        // Every header byte set to its extreme: no panic, whatever comes out.
        for byte in 4..64 {
            let mut head = whole[..4096].to_vec();
            head[byte] = 0xff;
            std::fs::write(&path, &head).unwrap();
            let _ = read(&File::open(&path).unwrap());
        }
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn libc_defines_malloc() {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let libc = maps
            .split_whitespace()
            .find(|word| word.contains("/libc.so") || word.contains("/libc-"))
            .unwrap();
        let Image::Elf { own_malloc, .. } = read(&File::open(libc).unwrap()).unwrap() else {
            panic!("{libc}")
        };
        assert_eq!(own_malloc, Some("malloc"));
    }

    #[test]
    fn text_is_not_elf_and_32_bits_are_another_format() {
        let path = std::env::temp_dir().join(format!("specmalloc-not-elf-{}", std::process::id()));
        let image = |contents: &[u8]| {
            std::fs::write(&path, contents).unwrap();
            read(&File::open(&path).unwrap()).unwrap()
        };
        assert_eq!(image(b"#!/bin/sh\n"), Image::Other);
        let mut head = [0; 64];
        head[..6].copy_from_slice(b"\x7fELF\x01\x01");
        assert_eq!(image(&head), Image::OtherFormat);
        std::fs::remove_file(path).unwrap();
    }
}
