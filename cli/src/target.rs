//! Whether the program about to run will be served, told before it runs.
//!
//! A preloaded library is used by a program that the dynamic loader starts, that runs with no more rights than its
//! caller, and that has no malloc of its own. What is none of these runs all the same, with a notice.

use crate::elf::{self, Image};
use std::ffi::{CString, OsStr, OsString};
use std::fs::{self, File};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

#[cfg(target_arch = "x86_64")]
const MACHINE: u16 = 62;
#[cfg(target_arch = "aarch64")]
const MACHINE: u16 = 183;

/// Interpreters of interpreters that the kernel follows.
const MAX_INTERPRETERS: usize = 5;

/// What keeps the program called `name` from being served, one line each.
///
/// A script is judged by its interpreter. A program that cannot be read or found has nothing to tell: running it says
/// what is wrong, if anything.
pub(crate) fn notices(name: &OsStr) -> Vec<String> {
    let mut notices = Vec::new();
    let Some(path) = program(name) else { return notices };
    if let Ok(image) = File::open(&path).and_then(|file| elf::read(&file)) {
        notices.extend(judge(&image).map(|why| format!("{} is not served: it {why}", path.display())));
    }
    if more_rights(&path) {
        notices.push(format!("{} is not served: it {MORE_RIGHTS}", path.display()));
    }
    notices
}

/// Why a program that [has more rights](more_rights) uses no preloaded malloc.
pub(crate) const MORE_RIGHTS: &str = "runs with more rights than its caller (setuid, setgid or file \
                                      capabilities), and the dynamic loader ignores LD_PRELOAD there";

/// The file that running `name` loads: for a script, its interpreter's, and for one that names none, the shell's.
pub(crate) fn program(name: &OsStr) -> Option<PathBuf> {
    let mut name = name.to_owned();
    for _ in 0..=MAX_INTERPRETERS {
        let path = file_of(&name)?;
        // (What may be run need not be readable.)
        let Ok(file) = File::open(&path) else { return path.exists().then_some(path) };
        match interpreter(&file) {
            Some(interpreter) => name = interpreter,
            None if is_for_shell(&file) => return Some(SHELL.into()),
            None => return Some(path),
        }
    }
    None
}

/// The file that is called `name` as a program.
pub(crate) fn file_of(name: &OsStr) -> Option<PathBuf> {
    resolve(name, std::env::var_os("PATH"))
}

/// What execvp runs a file by that the kernel does not know how to run.
pub(crate) const SHELL: &str = "/bin/sh";

/// Whether it is such a file: neither a program nor a script that names its interpreter.
pub(crate) fn is_for_shell(file: &File) -> bool {
    let is_file = file.metadata().is_ok_and(|about| about.is_file());
    is_file && interpreter(file).is_none() && elf::read(file).is_ok_and(|image| image == Image::Other)
}

/// Why a program of this image uses no preloaded malloc, if that is so.
pub(crate) fn judge(image: &Image) -> Option<String> {
    match image {
        Image::Other => None,
        Image::OtherFormat => Some("is built for another word size than libspecmalloc.so".into()),
        Image::Elf { machine, .. } if *machine != MACHINE => Some("is built for another machine".into()),
        Image::Elf { loader: None, .. } => Some("is statically linked".into()),
        Image::Elf { loader: Some(loader), .. } if loader.contains("ld-musl") => {
            Some("is built for musl, and libspecmalloc.so for glibc".into())
        }
        Image::Elf { own_malloc: Some(name), .. } => Some(format!("brings its own malloc ({name})")),
        Image::Elf { .. } => None,
    }
}

/// Whether the kernel would start the file with other ids or more capabilities than the caller's.
pub(crate) fn more_rights(path: &Path) -> bool {
    let Ok(metadata) = fs::metadata(path) else { return false };
    // SAFETY: no arguments, no memory; they always succeed.
    let (uid, gid) = unsafe { (libc::getuid(), libc::getgid()) };
    let capable = CString::new(path.as_os_str().as_bytes()).is_ok_and(|path| {
        // SAFETY: both strings end in a zero byte; with no room for the value only its length is asked.
        let len = unsafe {
            libc::getxattr(path.as_ptr(), c"security.capability".as_ptr(), std::ptr::null_mut(), 0)
        };
        len > 0
    });
    gains(metadata.permissions().mode(), (metadata.uid(), metadata.gid()), capable, (uid, gid))
}

/// As [`more_rights`], from the file's mode, its owner and group, whether it has capabilities, and the caller's ids.
fn gains(mode: u32, owner: (u32, u32), capable: bool, caller: (u32, u32)) -> bool {
    let setuid = mode & libc::S_ISUID != 0 && owner.0 != caller.0;
    // Without the group's execute bit the setgid bit meant mandatory locking, and changes no id.
    let setgid = mode & libc::S_ISGID != 0 && mode & libc::S_IXGRP != 0 && owner.1 != caller.1;
    setuid || setgid || capable && caller.0 != 0
}

/// The file that running `name` would run: as it is if it has a slash, else the first executable one on `path`.
fn resolve(name: &OsStr, path: Option<OsString>) -> Option<PathBuf> {
    if name.as_bytes().contains(&b'/') {
        return Some(name.into());
    }
    // What execvp takes for a missing PATH.
    let path = path.unwrap_or_else(|| "/bin:/usr/bin".into());
    std::env::split_paths(&path).map(|folder| folder.join(name)).find(|file| can_run(file))
}

/// Whether the file is one to be run.
pub(crate) fn can_run(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
}

/// The program that `#!` in the first line names; for `#!/usr/bin/env NAME`, NAME.
fn interpreter(file: &File) -> Option<OsString> {
    // The kernel reads 256 bytes.
    let mut line = [0; 256];
    let len = file.read_at(&mut line, 0).ok()?;
    let line = &line[..len];
    let line = line.strip_prefix(b"#!")?.split(|byte| *byte == b'\n').next()?;
    let mut words = line.split(|byte| b" \t".contains(byte)).filter(|word| !word.is_empty());
    let first = words.next()?;
    if Path::new(OsStr::from_bytes(first)).file_name() != Some(OsStr::new("env")) {
        return Some(OsString::from_vec(first.to_vec()));
    }
    // env's own options and assignments come before the program.
    let program = words.find(|word| !word.starts_with(b"-") && !word.contains(&b'='));
    Some(OsString::from_vec(program.unwrap_or(first).to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(loader: Option<&str>, own_malloc: Option<&'static str>) -> Image {
        Image::Elf { machine: MACHINE, loader: loader.map(str::to_owned), own_malloc, needed: Vec::new() }
    }

    #[test]
    fn ordinary_programs_are_served_and_the_others_are_named() {
        let glibc = Some("/lib64/ld-linux-x86-64.so.2");
        assert_eq!(judge(&image(glibc, None)), None);
        assert_eq!(judge(&Image::Other), None);
        assert!(judge(&image(None, None)).unwrap().contains("statically"));
        assert!(judge(&image(None, Some("malloc"))).unwrap().contains("statically"));
        assert!(judge(&image(glibc, Some("_rjem_malloc"))).unwrap().contains("own malloc (_rjem_malloc)"));
        assert!(judge(&image(Some("/lib/ld-musl-x86_64.so.1"), None)).unwrap().contains("musl"));
        assert!(judge(&Image::OtherFormat).unwrap().contains("word size"));
        let other = Image::Elf { machine: MACHINE + 1, loader: None, own_malloc: None, needed: Vec::new() };
        assert!(judge(&other).unwrap().contains("machine"));
    }

    #[test]
    fn rights_grow_only_where_the_caller_has_not_got_them() {
        let (user, root) = ((1000, 1000), (0, 0));
        assert!(gains(0o104755, root, false, user) && !gains(0o104755, root, false, root));
        assert!(gains(0o102755, (1000, 42), false, user) && !gains(0o102755, user, false, user));
        assert!(!gains(0o102745, (1000, 42), false, user));
        assert!(gains(0o100755, root, true, user) && !gains(0o100755, root, true, root));
        assert!(!gains(0o100755, root, false, user));
    }

    #[test]
    fn names_are_looked_up_as_execvp_does() {
        assert_eq!(resolve("sh".as_ref(), None), Some("/bin/sh".into()));
        assert_eq!(resolve("sh".as_ref(), Some("/nowhere:/bin".into())), Some("/bin/sh".into()));
        assert_eq!(resolve("./sh".as_ref(), None), Some("./sh".into()));
        assert_eq!(resolve("no such program".as_ref(), None), None);
    }

    #[test]
    fn scripts_lead_to_their_interpreter() {
        let path = std::env::temp_dir().join(format!("specmalloc-script-{}", std::process::id()));
        let interpreter = |line: &str| {
            fs::write(&path, line).unwrap();
            interpreter(&File::open(&path).unwrap()).map(|name| name.into_string().unwrap())
        };
        assert_eq!(interpreter("#!/bin/sh\nexit").as_deref(), Some("/bin/sh"));
        assert_eq!(interpreter("#! /usr/bin/perl -w\n").as_deref(), Some("/usr/bin/perl"));
        assert_eq!(interpreter("#!/usr/bin/env python3").as_deref(), Some("python3"));
        assert_eq!(interpreter("#!/usr/bin/env -S A=1 node -x\n").as_deref(), Some("node"));
        assert_eq!(interpreter("#!/usr/bin/env\n").as_deref(), Some("/usr/bin/env"));
        assert_eq!(interpreter("exit 0\n"), None);
        for (text, by) in [("exit 0\n", SHELL), ("", SHELL), ("#!/bin/cat\n", "/bin/cat")] {
            fs::write(&path, text).unwrap();
            assert_eq!(program(path.as_os_str()), Some(by.into()), "{text}");
        }
        assert_eq!(program("/proc".as_ref()), Some("/proc".into()));
        fs::remove_file(path).unwrap();
    }
}
