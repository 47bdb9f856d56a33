//! The files that tell about the machine and about a process on it, under a root that a test may choose.

use crate::Failure;
use crate::output::read_lossily;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// A machine, and the process that is asked about.
pub(crate) struct Machine {
    root: PathBuf,
    /// The name of the process's folder in /proc.
    process: String,
    /// What only the kernel itself tells.
    pub(super) kernel: Kernel,
}

/// What was asked of the kernel.
#[derive(Clone, Debug)]
pub(super) struct Kernel {
    /// As `uname -r` has it.
    pub(super) release: String,
    /// Whether membarrier has the expedited command; none if a filter refuses the call.
    pub(super) membarrier: Option<bool>,
    /// Whether mappings can have names.
    pub(super) names: bool,
    /// Processors that are online.
    pub(super) processors: u64,
}

impl Machine {
    /// This one, and the process `pid`, or this process.
    pub(crate) fn this(pid: Option<u32>) -> Result<Self, Failure> {
        let process = pid.map_or("self".to_owned(), |pid| pid.to_string());
        let machine = Self { root: "/".into(), process, kernel: Kernel::ask() };
        match (pid, fs::read_to_string(machine.path("/proc/PROCESS/limits"))) {
            (Some(pid), Err(error)) if error.kind() == io::ErrorKind::NotFound => {
                Err(Failure::own(format!("there is no process {pid}")))
            }
            (Some(pid), Err(error)) => Err(Failure::own(format!("process {pid}: {error}"))),
            _ => Ok(machine),
        }
    }

    #[cfg(test)]
    pub(super) fn at(root: &Path, kernel: Kernel) -> Self {
        Self { root: root.to_owned(), process: "self".to_owned(), kernel }
    }

    /// The real path of a file; PROCESS stands for the process asked about.
    pub(super) fn path(&self, file: &str) -> PathBuf {
        let file = file.replace("PROCESS", &self.process);
        self.root.join(Path::new(&file).strip_prefix("/").unwrap_or(Path::new(&file)))
    }

    /// The text of a file, without blanks around it; nothing if it cannot be read.
    pub(super) fn read(&self, file: &str) -> Option<String> {
        read_lossily(self.path(file)).ok().map(|text| text.trim().to_owned())
    }

    /// The number that is in a file.
    pub(super) fn number(&self, file: &str) -> Option<u64> {
        self.read(file)?.parse().ok()
    }

    /// The value in brackets in a file of the kind `always [madvise] never`.
    pub(super) fn choice(&self, file: &str) -> Option<String> {
        let text = self.read(file)?;
        let (_, rest) = text.split_once('[')?;
        Some(rest.split_once(']')?.0.to_owned())
    }

    /// The number behind `name` at the start of a line, in bytes if it is in kB.
    pub(super) fn field(&self, file: &str, name: &str) -> Option<u64> {
        let text = self.read(file)?;
        let mut words = text.lines().find_map(|line| line.strip_prefix(name))?.split_whitespace();
        let number: u64 = words.next()?.parse().ok()?;
        Some(if words.next() == Some("kB") { number * 1024 } else { number })
    }

    /// The names in a folder.
    pub(super) fn names(&self, folder: &str) -> Vec<String> {
        let entries = fs::read_dir(self.path(folder)).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
    }

    /// The process asked about, if it is not just any.
    pub(super) fn asked(&self) -> Option<&str> {
        Some(self.process.as_str()).filter(|process| *process != "self")
    }

    /// What the process is called in sentences.
    pub(super) fn whose(&self) -> String {
        self.asked().map_or("a process here".to_owned(), |process| format!("process {process}"))
    }
}

impl Kernel {
    fn ask() -> Self {
        // SAFETY: a record of byte arrays that the call fills in; the mapping is new and unmapped again; the other calls
        // touch no memory of ours.
        unsafe {
            let mut names: libc::utsname = std::mem::zeroed();
            libc::uname(&raw mut names);
            let release = std::ffi::CStr::from_ptr(names.release.as_ptr()).to_string_lossy().into_owned();
            let commands = libc::syscall(libc::SYS_membarrier, libc::MEMBARRIER_CMD_QUERY, 0, 0);
            let expedited = i64::from(libc::MEMBARRIER_CMD_PRIVATE_EXPEDITED);
            let refused = commands < 0 && *libc::__errno_location() == libc::EPERM;
            let page = libc::sysconf(libc::_SC_PAGESIZE) as usize;
            let (access, flags) = (libc::PROT_READ, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
            let mapping = libc::mmap(std::ptr::null_mut(), page, access, flags, -1, 0);
            let name = c"specmalloc doctor";
            let named = mapping != libc::MAP_FAILED
                && libc::prctl(libc::PR_SET_VMA, libc::PR_SET_VMA_ANON_NAME, mapping, page, name.as_ptr())
                    == 0;
            if mapping != libc::MAP_FAILED {
                libc::munmap(mapping, page);
            }
            Self {
                release,
                membarrier: (!refused).then_some(commands >= 0 && commands & expedited != 0),
                names: named,
                processors: libc::sysconf(libc::_SC_NPROCESSORS_ONLN).max(1) as u64,
            }
        }
    }

    /// Major and minor version.
    pub(super) fn version(&self) -> (u32, u32) {
        let mut numbers =
            self.release.split(|char: char| !char.is_ascii_digit()).map(|n| n.parse().unwrap_or(0));
        (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    /// A machine of `files`, on which nothing is amiss that is not in them. Its folder is removed with it.
    pub(crate) struct Made(pub(crate) Machine);

    impl Drop for Made {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0.root);
        }
    }

    pub(crate) fn made(files: &[(&str, &str)]) -> Made {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let root = std::env::temp_dir().join(format!("specmalloc-doctor-{}-{number}", std::process::id()));
        let kernel =
            Kernel { release: "6.18.1-x".to_owned(), membarrier: Some(true), names: true, processors: 8 };
        let machine = Machine::at(&root, kernel);
        fs::create_dir_all(&root).unwrap();
        for (file, text) in files {
            let path = machine.path(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        Made(machine)
    }

    #[test]
    fn files_are_read_as_the_kernel_writes_them() {
        let made = made(&[
            ("/a", " 12\n"),
            ("/b", "always [madvise] never\n"),
            ("/c", "MemTotal:       100 kB\nCount: 7\n"),
        ]);
        let machine = &made.0;
        assert_eq!(
            (machine.number("/a"), machine.number("/b"), machine.number("/none")),
            (Some(12), None, None)
        );
        assert_eq!(machine.choice("/b").as_deref(), Some("madvise"));
        assert_eq!(
            (machine.field("/c", "MemTotal:"), machine.field("/c", "Count:")),
            (Some(102_400), Some(7))
        );
        assert_eq!(machine.names("/").len(), 3);
    }

    #[test]
    fn this_kernel_answers() {
        let kernel = Kernel::ask();
        assert!(kernel.version() >= (3, 0) && kernel.processors > 0, "{kernel:?}");
    }
}
