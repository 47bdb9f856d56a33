//! Where images lie: in memory of the process's own, or in a file that another process has made and reads. The file has
//! room for several, one for each process; a process maps its own only.

use super::image::Image;
use super::system::{errno, pid};
use core::ffi::{CStr, c_char, c_int};
use core::sync::atomic::{AtomicPtr, AtomicU64, Ordering};
use core::{mem, ptr};

/// The environment variable that carries the path of the file.
pub const VARIABLE: &CStr = c"SPECMALLOC_PROFILE";

/// Images in a file: 15 GiB of it, of which only what is used has memory.
pub const IMAGES: usize = 256;

const MAGIC: u64 = u64::from_le_bytes(*b"specprof");
const VERSION: u64 = 3;

/// The first page of a file.
#[repr(C, align(4096))]
struct Header {
    magic: u64,
    version: u64,
    image_bytes: u64,
    images: u64,
    /// Images claimed, those beyond what there are included.
    claimed: AtomicU64,
}

impl Header {
    /// Whether this is a file of images as they are here.
    fn is_ours(&self) -> bool {
        self.magic == MAGIC && self.version == VERSION && self.image_bytes == size_of::<Image>() as u64
    }
}

/// A file descriptor that nobody else knows; closed when dropped.
struct Descriptor(c_int);

impl Drop for Descriptor {
    fn drop(&mut self) {
        // SAFETY: the descriptor is open, and nobody else's.
        unsafe { libc::close(self.0) };
    }
}

/// Maps `len` bytes of a file from `offset` on; or of memory, without one. To be written, too.
fn map(file: Option<&Descriptor>, offset: usize, len: usize) -> Option<usize> {
    let flags = match file {
        Some(_) => libc::MAP_SHARED,
        None => libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
    };
    let (access, fd) = (libc::PROT_READ | libc::PROT_WRITE, file.map_or(-1, |file| file.0));
    // SAFETY: a new mapping at an address that the system chooses touches nothing that exists.
    let base = unsafe { libc::mmap(ptr::null_mut(), len, access, flags, fd, offset as libc::off_t) };
    (base != libc::MAP_FAILED).then(|| base.expose_provenance())
}

/// # Safety
/// An image is mapped at `at`, for good.
unsafe fn image_at(at: usize) -> &'static Image {
    // SAFETY: the caller's; an image is atomics only, for which any bytes are valid.
    unsafe { &*ptr::with_exposed_provenance(at) }
}

/// An image in memory of the process's own.
pub(super) fn map_own() -> Option<&'static Image> {
    let at = map(None, 0, size_of::<Image>())?;
    // SAFETY: mapped just now.
    let image = unsafe { image_at(at) };
    let _first = image.claim(pid());
    Some(image)
}

/// The file's path: where the environment had it when this library was loaded. Null for none.
static PATH: AtomicPtr<c_char> = AtomicPtr::new(ptr::null_mut());

/// Finds out whether the environment names a file. When the library is loaded. (Nowhere in a setuid program.)
pub(super) fn learn_path() {
    unsafe extern "C" {
        fn secure_getenv(name: *const c_char) -> *mut c_char;
    }
    // SAFETY: the name ends in a zero byte, and nobody changes the environment yet.
    let path = unsafe { secure_getenv(VARIABLE.as_ptr()) };
    // Relaxed: before there is a second thread.
    PATH.store(path, Ordering::Relaxed);
}

/// Opens the file, and claims an image there. No descriptor stays open.
pub(super) fn open() -> Option<&'static Image> {
    // Relaxed: stored when the library was loaded.
    let path = PATH.load(Ordering::Relaxed);
    if path.is_null() {
        return None;
    }
    // SAFETY: a string of the environment that the process began with, which stays where it is.
    let fd = unsafe { libc::open(path, libc::O_RDWR | libc::O_CLOEXEC | libc::O_NONBLOCK) };
    if fd < 0 {
        return None;
    }
    let file = Descriptor(fd);
    let images = images(&file)?;
    let at = map(Some(&file), 0, size_of::<Header>())?;
    // SAFETY: as long as that, by `images`; the maker of the file wrote it, and only its atomic changes.
    let header = unsafe { &*ptr::with_exposed_provenance::<Header>(at) };
    // Relaxed: deals out distinct numbers.
    let index =
        if header.is_ours() { header.claimed.fetch_add(1, Ordering::Relaxed) as usize } else { images };
    // SAFETY: mapped above, and not used any more.
    unsafe { libc::munmap(ptr::with_exposed_provenance_mut(at), size_of::<Header>()) };
    if index >= images {
        return None;
    }
    let at = map(Some(&file), size_of::<Header>() + index * size_of::<Image>(), size_of::<Image>())?;
    // SAFETY: mapped just now, within the file, which is sealed.
    let image = unsafe { image_at(at) };
    image.claim(pid()).then_some(image)
}

/// How many images the file has room for; `None` if its size is not that of a file of images.
fn images(file: &Descriptor) -> Option<usize> {
    // SAFETY: zero is a valid `stat`, which the call fills in.
    let size = unsafe {
        let mut stat: libc::stat = mem::zeroed();
        if libc::fstat(file.0, &mut stat) != 0 || stat.st_mode & libc::S_IFMT != libc::S_IFREG {
            return None;
        }
        stat.st_size as usize
    };
    let bytes = size.checked_sub(size_of::<Header>())?;
    (bytes > 0 && bytes.is_multiple_of(size_of::<Image>())).then(|| bytes / size_of::<Image>())
}

/// A file of images as its maker sees it: made empty, handed down by path, read at any time.
pub struct ProfileFile {
    file: Descriptor,
    images: usize,
}

impl ProfileFile {
    /// Makes a file in memory with room for `images`. It has no name in any directory and is gone with its last user;
    /// others open it as `/proc/PID/fd/N` with this process's id and [`ProfileFile::fd`].
    pub fn create(images: usize) -> Result<ProfileFile, c_int> {
        let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
        // SAFETY: the name ends in a zero byte.
        let fd = unsafe { libc::memfd_create(c"specmalloc profile".as_ptr(), flags) };
        if fd < 0 {
            return Err(errno());
        }
        let file = Descriptor(fd);
        let bytes = size_of::<Header>() + images * size_of::<Image>();
        let seals = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL;
        // SAFETY: `fd` is open; neither call touches memory of this process.
        let sealed = unsafe {
            libc::ftruncate(fd, bytes as libc::off_t) == 0 && libc::fcntl(fd, libc::F_ADD_SEALS, seals) == 0
        };
        if !sealed {
            return Err(errno());
        }
        let at = map(Some(&file), 0, size_of::<Header>()).ok_or_else(errno)?;
        let header = Header {
            magic: MAGIC,
            version: VERSION,
            image_bytes: size_of::<Image>() as u64,
            images: images as u64,
            claimed: AtomicU64::new(0),
        };
        // SAFETY: mapped just now, long enough, and nobody else has opened the file yet.
        unsafe { ptr::with_exposed_provenance_mut::<Header>(at).write(header) };
        Ok(ProfileFile { file, images })
    }

    /// Opens a file that another process has made; `None` if it is not one, or cannot be opened.
    pub fn open(path: &CStr) -> Option<ProfileFile> {
        // SAFETY: the path ends in a zero byte.
        let fd = unsafe { libc::open(path.as_ptr(), libc::O_RDWR | libc::O_CLOEXEC | libc::O_NONBLOCK) };
        if fd < 0 {
            return None;
        }
        let file = Descriptor(fd);
        let images = images(&file)?;
        let at = map(Some(&file), 0, size_of::<Header>())?;
        // SAFETY: as long as that, by `images`; the maker of the file wrote it, and only its atomic changes.
        let is_ours = unsafe { &*ptr::with_exposed_provenance::<Header>(at) }.is_ours();
        is_ours.then_some(ProfileFile { file, images })
    }

    /// The descriptor that other processes may open by `/proc`.
    pub fn fd(&self) -> c_int {
        self.file.0
    }

    /// The images that processes have claimed.
    pub fn claimed(&self) -> impl Iterator<Item = &'static Image> {
        (0..self.images)
            .map_while(|index| {
                let at = map(
                    Some(&self.file),
                    size_of::<Header>() + index * size_of::<Image>(),
                    size_of::<Image>(),
                );
                // SAFETY: mapped just now, within the file.
                at.map(|at| unsafe { image_at(at) })
            })
            .take_while(|image| image.pid() != 0)
    }
}
