//! The little of an ELF file that tells whether a preloaded malloc will be used: its word size and machine, its
//! dynamic loader, and whether it defines an allocator itself.
//!
//! Reads 64-bit little-endian files, the only kind that the library is built for. Sizes and offsets come from the file
//! and are not trusted: what does not fit is an error, never a panic or a large allocation.

use memchr::memmem;
use std::ffi::CStr;
use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;

/// More than any real file's tables; what claims more is taken for damaged.
const MAX_TABLE: u64 = 1 << 28;
/// How much of a table is read at a time.
const PIECE: usize = 1 << 18;
/// Bytes of a symbol.
const SYMBOL: usize = 24;
/// As the kernel has it, with the zero behind it.
const LONGEST_PATH: u64 = 4096;

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

/// What each of these ends with, and the zero behind it.
const ENDING: &[u8] = b"alloc\0";
/// More bytes than any of these has.
const LONGEST_NAME: usize = 16;

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
    let strings = linked(section, sections)?;
    let entries = bytes(file, section.u64(24)?, section.u64(32)?)?;
    let mut names = Vec::new();
    for entry in entries.chunks_exact(16) {
        if Bytes(entry).u64(0)? == DT_NEEDED {
            let at = Bytes(entry).u64(8)?;
            let most = strings.u64(32)?.saturating_sub(at).min(LONGEST_PATH);
            let name = bytes(file, strings.u64(24)?.saturating_add(at), most)?;
            let name = CStr::from_bytes_until_nul(&name).map_err(|_| damaged())?;
            names.push(name.to_string_lossy().into_owned());
        }
    }
    Ok(names)
}

/// The section with the strings that a section's names are in.
fn linked<'a>(section: Bytes, sections: &'a [Vec<u8>]) -> io::Result<Bytes<'a>> {
    sections.get(section.u32(40)? as usize).map(|strings| Bytes(strings)).ok_or_else(damaged)
}

/// The first of [`ALLOCATORS`] that the symbol table `section` defines.
///
/// Programs have millions of bytes of names: these are searched for the few first, and the symbols for who has them.
fn defined_allocator(file: &File, section: Bytes, sections: &[Vec<u8>]) -> io::Result<Option<usize>> {
    let names = names_of_allocators(file, linked(section, sections)?)?;
    let mut first: Option<usize> = None;
    if names.is_empty() {
        return Ok(first);
    }
    in_pieces(file, section, SYMBOL, 0, |_, symbols| {
        for symbol in symbols.chunks_exact(SYMBOL) {
            let symbol = Bytes(symbol);
            let name = u64::from(symbol.u32(0)?);
            // Section 0: used here, defined elsewhere.
            if let Ok(found) = names.binary_search_by_key(&name, |name| name.0)
                && symbol.u16(6)? != 0
            {
                first = first.into_iter().chain([names[found].1]).min();
            }
        }
        Ok(())
    })?;
    Ok(first)
}

/// Where names of [`ALLOCATORS`] begin among the strings of a section, which may be within longer names that end so, and
/// which each is.
fn names_of_allocators(file: &File, strings: Bytes) -> io::Result<Vec<(u64, usize)>> {
    let mut names = Vec::new();
    in_pieces(file, strings, 1, LONGEST_NAME, |place, piece| {
        for end in memmem::find_iter(piece, ENDING).map(|at| at + ENDING.len() - 1) {
            for (which, name) in ALLOCATORS.iter().enumerate() {
                if piece[..end].ends_with(name.as_bytes()) {
                    names.push((place + (end - name.len()) as u64, which));
                }
            }
        }
        Ok(())
    })?;
    names.sort_unstable();
    names.dedup();
    Ok(names)
}

/// Has a section looked at in pieces of whole entries, each with its place in it; the last bytes of one, as many as
/// `again`, are the first of the next.
fn in_pieces(
    file: &File,
    section: Bytes,
    entry: usize,
    again: usize,
    mut look: impl FnMut(u64, &[u8]) -> io::Result<()>,
) -> io::Result<()> {
    let (start, len) = (section.u64(24)?, section.u64(32)?);
    is_inside(file, start, len)?;
    let mut piece = vec![0; PIECE / entry * entry];
    let mut place = 0;
    loop {
        let read = (len - place).min(piece.len() as u64) as usize;
        file.read_exact_at(&mut piece[..read], start + place)?;
        look(place, &piece[..read])?;
        if place + read as u64 == len {
            return Ok(());
        }
        place += (read - again) as u64;
    }
}

fn damaged() -> io::Error {
    io::Error::new(ErrorKind::InvalidData, "a damaged ELF file")
}

fn is_inside(file: &File, offset: u64, len: u64) -> io::Result<()> {
    let end = offset.checked_add(len).ok_or_else(damaged)?;
    if end > file.metadata()?.len() { Err(damaged()) } else { Ok(()) }
}

fn bytes(file: &File, offset: u64, len: u64) -> io::Result<Vec<u8>> {
    if len > MAX_TABLE {
        return Err(damaged());
    }
    is_inside(file, offset, len)?;
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
    fn names_are_found_across_pieces_and_at_the_end_of_longer_ones() {
        let path = std::env::temp_dir().join(format!("specmalloc-names-{}", std::process::id()));
        let mut strings = vec![b'x'; 3 * PIECE];
        let mut put = |at: usize, name: &str| strings[at..at + name.len()].copy_from_slice(name.as_bytes());
        put(PIECE - 3, "\0malloc\0");
        put(2 * PIECE - 9, "_rjem_malloc\0");
        put(3 * PIECE - 14, "sn_rust_alloc\0");
        std::fs::write(&path, [&[0; 8], strings.as_slice()].concat()).unwrap();
        let mut section = [0; 64];
        section[24..32].copy_from_slice(&8_u64.to_le_bytes());
        section[32..40].copy_from_slice(&(strings.len() as u64).to_le_bytes());
        let names = names_of_allocators(&File::open(&path).unwrap(), Bytes(&section)).unwrap();
        std::fs::remove_file(path).unwrap();
        let [malloc, rjem, rust] = ["malloc", "_rjem_malloc", "sn_rust_alloc"]
            .map(|name| ALLOCATORS.iter().position(|known| *known == name).unwrap());
        let piece = PIECE as u64;
        assert_eq!(
            names,
            [(piece - 2, malloc), (2 * piece - 9, rjem), (2 * piece - 3, malloc), (3 * piece - 14, rust)]
        );
        assert!(
            ALLOCATORS.iter().all(|name| {
                name.len() < LONGEST_NAME && format!("{name}\0").as_bytes().ends_with(ENDING)
            })
        );
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
