//! How much more memory the process may have: what its control groups leave. (Its own limits, of address space, are asked
//! for by themselves: pages that go back leave no more of that.)
//!
//! Found out by system calls that malloc has no business to make in the middle of a program: a sandbox may forbid them
//! on pain of death. So it is asked once, when `global` says so, and no descriptor is kept, which a program that closes
//! all of them would give another file.
//!
//! A control group's limit holds for all that are in it and below, so every level of the path counts, up to the root as
//! the process sees it. Files that are not there say nothing: a container may see another tree than the one that its
//! path is told in. Of what a group uses, file pages that nobody has used for long do not count: they give way.

use super::system_call;

/// Bytes of a file that are read at most.
const FILE: usize = 4096;
/// Bytes of a path, with the zero at its end.
const PATH: usize = 1024;

/// Where a version of the control groups keeps what.
struct Version {
    /// The controller in the list of a line of /proc/self/cgroup. The lines of the second version have an empty list.
    controller: &'static [u8],
    /// Where the tree may be mounted.
    mounts: &'static [&'static [u8]],
    /// Files with limits.
    limits: &'static [&'static [u8]],
    /// The file with the bytes in use.
    usage: &'static [u8],
    /// The key in memory.stat of file pages not used for long.
    unused: &'static [u8],
}

const VERSIONS: [Version; 2] = [
    Version {
        controller: b"",
        mounts: &[b"/sys/fs/cgroup", b"/sys/fs/cgroup/unified"],
        limits: &[b"/memory.max", b"/memory.high"],
        usage: b"/memory.current",
        unused: b"inactive_file",
    },
    Version {
        controller: b"memory",
        mounts: &[b"/sys/fs/cgroup/memory"],
        limits: &[b"/memory.limit_in_bytes"],
        usage: b"/memory.usage_in_bytes",
        unused: b"total_inactive_file",
    },
];

/// Bytes that the process may still have resident; `usize::MAX` if nothing says how many. All files are looked for below
/// `root`, which is empty but in tests.
pub(super) fn memory_left(root: &[u8]) -> usize {
    with_files(|files| left_by_groups(root, files))
}

/// Microseconds for which tasks have waited for memory, ever: in the process's control group, where the second version
/// is there and tells, and in the system, together: of what is scarce there the group may have enough, and a process
/// that has what is free is the last to notice. `usize::MAX` if nothing tells.
pub(super) fn stalled_us(root: &[u8]) -> usize {
    with_files(|[file, other]| {
        let mut told = |path: &[&[u8]]| Some(read(path, other)?).and_then(stalled);
        let system = told(&[root, b"/proc/pressure/memory"]);
        let groups = read(&[root, b"/proc/self/cgroup"], file);
        let group = groups.and_then(|groups| path_of(groups, b"")).and_then(|path| {
            // The root is the system, unless a container has a namespace of its own: then it has a file that no root has.
            let is_group =
                |mount| !path.is_empty() || read(&[root, mount, b"/cgroup.events"], &mut [0]).is_some();
            let mut mounts = VERSIONS[0].mounts.iter().filter(|mount| is_group(mount));
            mounts.find_map(|mount| told(&[root, mount, path, b"/memory.pressure"]))
        });
        match (group, system) {
            (None, None) => usize::MAX,
            (group, system) => group.unwrap_or(0).saturating_add(system.unwrap_or(0)),
        }
    })
}

/// What a file of pressure says of the time in which some task waited.
fn stalled(file: &[u8]) -> Option<usize> {
    let mut lines = file.split(|&byte| byte == b'\n');
    lines.find_map(|line| {
        let mut fields = line.strip_prefix(b"some ")?.split(|&byte| byte == b' ');
        fields.find_map(|field| number(field.strip_prefix(b"total=")?))
    })
}

/// Gives `body` room for two files, or says that nothing is known. Not on the stack, which may be that of a handler or
/// a coroutine: a malloc that comes here must not need much of it.
fn with_files(body: impl FnOnce(&mut [[u8; FILE]; 2]) -> usize) -> usize {
    let (access, kind) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    // SAFETY: a new mapping, wherever the kernel likes.
    let mapped =
        unsafe { system_call(libc::SYS_mmap, [0, 2 * FILE, access as usize, kind as usize, usize::MAX, 0]) };
    let Ok(at) = mapped else { return usize::MAX };
    // SAFETY: mapped just now, as large as that, zero, and nobody else's.
    let left = body(unsafe { &mut *core::ptr::with_exposed_provenance_mut::<[[u8; FILE]; 2]>(at) });
    // SAFETY: as above; the body has returned nothing that lies there.
    let _unmapped = unsafe { system_call(libc::SYS_munmap, [at, 2 * FILE]) };
    left
}

/// A limit of the process in bytes, or `usize::MAX`.
pub(super) fn limit(which: libc::__rlimit_resource_t) -> usize {
    let mut limit = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: the call writes `limit` and nothing else.
    let asked = unsafe {
        let at = (&raw mut limit).expose_provenance();
        system_call(libc::SYS_prlimit64, [0, which as usize, 0, at])
    };
    match asked {
        Ok(_) if limit.rlim_cur != libc::RLIM_INFINITY => {
            usize::try_from(limit.rlim_cur).unwrap_or(usize::MAX)
        }
        _ => usize::MAX,
    }
}

/// What the control groups leave, of both versions and at every level.
fn left_by_groups(root: &[u8], [file, other]: &mut [[u8; FILE]; 2]) -> usize {
    let Some(groups) = read(&[root, b"/proc/self/cgroup"], file) else { return usize::MAX };
    let mut left = usize::MAX;
    for version in &VERSIONS {
        let Some(path) = path_of(groups, version.controller) else { continue };
        for level in levels(path) {
            for mount in version.mounts {
                left = left.min(left_in_group(version, &[root, mount, level], other));
            }
        }
    }
    left
}

fn left_in_group(version: &Version, group: &[&[u8]; 3], file: &mut [u8; FILE]) -> usize {
    let mut figure =
        |name: &[u8], key: &[u8]| value_of(read(&[group[0], group[1], group[2], name], file)?, key);
    let limit = version.limits.iter().filter_map(|name| figure(name, b"")).min();
    // (The first version's word for no limit is a very high one.)
    let Some(limit) = limit.filter(|&limit| limit < usize::MAX >> 4) else { return usize::MAX };
    let unused = figure(b"/memory.stat", version.unused).unwrap_or(0);
    let used = figure(version.usage, b"").unwrap_or(0).saturating_sub(unused);
    limit.saturating_sub(used)
}

/// The path of the group that a line of /proc/self/cgroup (`number:controllers:path`) tells for `controller`, without a
/// slash at its end.
fn path_of<'a>(groups: &'a [u8], controller: &[u8]) -> Option<&'a [u8]> {
    let path = groups.split(|&byte| byte == b'\n').find_map(|line| {
        let mut fields = line.splitn(3, |&byte| byte == b':');
        let (_, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        controllers.split(|&byte| byte == b',').any(|one| one == controller).then_some(path)
    })?;
    // One that is outside of what the process sees has dots in it; then the root is all that can be asked.
    let is_inside = path.first() == Some(&b'/') && !path.windows(3).any(|part| part == b"/..");
    Some(if is_inside { path.strip_suffix(b"/").unwrap_or(path) } else { b"" })
}

/// A path and those above it, up to the empty one.
fn levels(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    core::iter::successors(Some(path), |level| Some(&level[..level.iter().rposition(|&byte| byte == b'/')?]))
}

/// The number behind `key` and a space at the start of a line, or the first of the file if the key is empty.
fn value_of(file: &[u8], key: &[u8]) -> Option<usize> {
    let mut lines = file.split(|&byte| byte == b'\n');
    if key.is_empty() {
        return number(lines.next()?);
    }
    lines.find_map(|line| number(line.strip_prefix(key)?.strip_prefix(b" ")?))
}

/// A number in decimal; `None` for anything else ("max"), and for what is too large.
pub(super) fn number(text: &[u8]) -> Option<usize> {
    core::str::from_utf8(text).ok()?.trim_ascii().parse().ok()
}

/// The start of the file whose path is made of `parts`.
pub(super) fn read<'a>(parts: &[&[u8]], file: &'a mut [u8]) -> Option<&'a [u8]> {
    let mut path = [0; PATH];
    let mut length = 0;
    for part in parts {
        // One byte is left for the zero.
        let end = length + part.len();
        path[..PATH - 1].get_mut(length..end)?.copy_from_slice(part);
        length = end;
    }
    // SAFETY: the path is a string on our stack.
    let opened = unsafe {
        let (here, how) = (libc::AT_FDCWD as usize, libc::O_RDONLY | libc::O_CLOEXEC);
        system_call(libc::SYS_openat, [here, path.as_ptr().expose_provenance(), how as usize])
    };
    let descriptor = opened.ok()?;
    let mut length = 0;
    while length < file.len() {
        let rest = &mut file[length..];
        // SAFETY: the kernel writes no further than the rest of the buffer.
        let got = unsafe {
            system_call(libc::SYS_read, [descriptor, rest.as_mut_ptr().expose_provenance(), rest.len()])
        };
        match got {
            Ok(got) if got > 0 => length += got,
            _ => break,
        }
    }
    // SAFETY: the descriptor was opened above, and nobody else knows it.
    let _closed = unsafe { system_call(libc::SYS_close, [descriptor]) };
    Some(&file[..length])
}

#[cfg(all(test, not(any(loom, shuttle))))]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::fs;
    use std::os::unix::ffi::OsStrExt;
    use std::path::{Path, PathBuf};
    use std::string::{String, ToString};
    use std::vec::Vec;

    /// A directory in place of the root of the file system.
    pub(in crate::pal) struct Root(PathBuf);

    impl Root {
        pub fn new(name: &str) -> Root {
            let path = std::env::temp_dir().join(std::format!("specmalloc-{name}-{}", std::process::id()));
            let _gone = fs::remove_dir_all(&path);
            Root(path)
        }

        pub fn path(&self) -> &Path {
            &self.0
        }

        pub fn write(&self, path: &str, text: &str) -> &Root {
            let path = self.0.join(path);
            fs::create_dir_all(path.parent().unwrap_or(Path::new("/"))).unwrap();
            fs::write(path, text).unwrap();
            self
        }

        fn left(&self) -> usize {
            with_files(|files| left_by_groups(self.0.as_os_str().as_bytes(), files))
        }
    }

    impl Drop for Root {
        fn drop(&mut self) {
            let _gone = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn the_least_that_any_level_leaves_counts() {
        let root = Root::new("levels");
        assert_eq!(root.left(), usize::MAX, "no control groups");
        root.write("proc/self/cgroup", "0::/a/b\n");
        assert_eq!(root.left(), usize::MAX, "nothing is mounted");
        root.write("sys/fs/cgroup/a/b/memory.max", "max\n").write("sys/fs/cgroup/a/b/memory.high", "max\n");
        assert_eq!(root.left(), usize::MAX, "no limit");
        root.write("sys/fs/cgroup/a/memory.max", "1000000\n")
            .write("sys/fs/cgroup/a/memory.current", "400000\n");
        assert_eq!(root.left(), 600_000, "that of the level above");
        root.write("sys/fs/cgroup/a/memory.stat", "anon 5\ninactive_file 100000\nfile 9\n");
        assert_eq!(root.left(), 700_000, "pages of files give way");
        root.write("sys/fs/cgroup/a/b/memory.high", "500000\n");
        assert_eq!(root.left(), 500_000, "the high mark of the lowest");
        root.write("sys/fs/cgroup/a/b/memory.max", "600000\n");
        assert_eq!(root.left(), 500_000, "the lower one of its two");
        root.write("sys/fs/cgroup/a/b/memory.max", "450000\n");
        assert_eq!(root.left(), 450_000, "whichever that is");
        root.write("sys/fs/cgroup/memory.max", "7\n").write("sys/fs/cgroup/memory.current", "8\n");
        assert_eq!(root.left(), 0, "the root of a container");
    }

    #[test]
    fn the_first_version_is_read_where_it_is_mounted() {
        let root = Root::new("first");
        root.write("proc/self/cgroup", "5:cpu,cpuacct:/x\n4:hugetlb,memory:/docker/0123\n0::/\n");
        // In a container without a namespace of its own: the path is the host's, the root is the container's.
        let group = "sys/fs/cgroup/memory/";
        root.write(&(group.to_string() + "memory.limit_in_bytes"), "9223372036854771712\n");
        assert_eq!(root.left(), usize::MAX);
        root.write(&(group.to_string() + "memory.limit_in_bytes"), "314572800\n");
        root.write(&(group.to_string() + "memory.usage_in_bytes"), "14572800\n");
        root.write(&(group.to_string() + "memory.stat"), "inactive_file 1\ntotal_inactive_file 4572800\n");
        assert_eq!(root.left(), 304_572_800);
    }

    #[test]
    fn pressure_is_that_of_the_group_and_of_the_system() {
        let root = Root::new("pressure");
        let told = || stalled_us(root.0.as_os_str().as_bytes());
        assert_eq!(told(), usize::MAX, "nothing tells");
        let line = |kind, total| std::format!("{kind} avg10=0.00 avg60=1.50 avg300=0.00 total={total}\n");
        root.write("proc/pressure/memory", &(line("some", 27_821_880) + &line("full", 5)));
        assert_eq!(told(), 27_821_880);
        root.write("proc/self/cgroup", "4:memory:/x\n0::/a/b\n");
        assert_eq!(told(), 27_821_880, "the group does not tell");
        root.write("sys/fs/cgroup/a/b/memory.pressure", &(line("some", 12) + &line("full", 7)));
        assert_eq!(told(), 27_821_892);
        root.write("proc/self/cgroup", "0::/\n");
        root.write("sys/fs/cgroup/memory.pressure", &(line("some", 3) + &line("full", 2)));
        assert_eq!(told(), 27_821_880, "the root of all groups is the system");
        root.write("sys/fs/cgroup/cgroup.events", "populated 1\nfrozen 0\n");
        assert_eq!(told(), 27_821_883, "the root of a container");
        root.write("proc/pressure/memory", "some avg10=0.00\nfull total=7\n");
        assert_eq!(told(), 3);
        root.write("sys/fs/cgroup/memory.pressure", "nothing");
        assert_eq!(told(), usize::MAX);
    }

    #[test]
    fn what_the_process_may_have_is_told_of_this_machine() {
        let left = memory_left(b"");
        assert!(left > 1 << 20, "this test has some: {left}");
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_harm(text in prop::collection::vec(any::<u8>(), 0..300), key in "[a-z_]{0,5}") {
            let _value = value_of(&text, key.as_bytes());
            if let Some(path) = path_of(&text, key.as_bytes()) {
                prop_assert!(path.is_empty() || path[0] == b'/' && !path.ends_with(b"/") || path.ends_with(b"//"));
                prop_assert_eq!(levels(path).last(), Some(&b""[..]));
            }
        }

        #[test]
        fn a_path_is_found_among_others_and_has_as_many_levels_as_names(
            names in prop::collection::vec("[a-z0-9.:_-]{1,9}", 0..6),
            others in prop::collection::vec(("[0-9]{1,2}", "[a-z]{1,9}"), 0..6),
            first in any::<bool>(),
        ) {
            prop_assume!(names.iter().all(|name| !name.starts_with("..")));
            let path: String = names.iter().map(|name| std::format!("/{name}")).collect();
            let mut lines: Vec<String> = others.iter().filter(|(_, other)| other != "memory")
                .map(|(number, other)| std::format!("{number}:{other},x:/elsewhere\n")).collect();
            let controllers = if first { "memory" } else { "" };
            lines.insert(lines.len() / 2, std::format!("3:{controllers}:{path}\n"));
            let text = lines.concat();
            let found = path_of(text.as_bytes(), controllers.as_bytes()).unwrap();
            prop_assert_eq!(found, path.as_bytes());
            prop_assert_eq!(levels(found).count(), names.len() + 1);
        }

        #[test]
        fn a_number_is_read_back(value in any::<usize>(), before in "[a-z]{1,5}") {
            let text = std::format!("{before}_x 7\n{before} {value}\nz 1\n");
            prop_assert_eq!(value_of(text.as_bytes(), before.as_bytes()), Some(value));
            prop_assert_eq!(value_of(std::format!("{value}\n").as_bytes(), b""), Some(value));
        }
    }
}
