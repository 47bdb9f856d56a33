//! The image of this process: made at its first sample, or opened when the library is loaded; and in a child of a fork,
//! one of its own.

use super::image::Image;
use super::watch::{self, Sample, Told};
use super::{file, system, unwind};
use core::ptr;
use core::sync::atomic::{AtomicPtr, AtomicU32, Ordering};

/// The image that this process writes to; null before the first sample.
static IMAGE: AtomicPtr<Image> = AtomicPtr::new(ptr::null_mut());

/// Whether there is to be one: elects the thread that makes it.
static STAGE: AtomicU32 = AtomicU32::new(UNASKED);
const UNASKED: u32 = 0;
const OPENING: u32 = 1;
/// There is none: no memory, or the file has no room.
const NONE: u32 = 2;
/// It is the process's own, and a child's copy is the child's.
const OWN: u32 = 3;
/// It lies in a file, which a child of a fork shares.
const SHARED: u32 = 4;

/// Opens the file that the environment names, if it does. When the library is loaded: the process may give up opening
/// files later.
pub fn open_shared() {
    file::learn_path();
    // Relaxed: elects one thread.
    if STAGE.compare_exchange(UNASKED, OPENING, Ordering::Relaxed, Ordering::Relaxed).is_err() {
        return;
    }
    match file::open() {
        Some(image) => publish(image, SHARED),
        // Relaxed: nothing is published.
        None => STAGE.store(UNASKED, Ordering::Relaxed),
    }
}

fn publish(image: &'static Image, stage: u32) {
    // Release: pairs with the Acquire in `image`.
    IMAGE.store(ptr::from_ref(image).cast_mut(), Ordering::Release);
    // Relaxed: elects.
    STAGE.store(stage, Ordering::Relaxed);
}

fn image() -> Option<&'static Image> {
    // Acquire: pairs with the Release in `publish`.
    // SAFETY: null, or an image that is never unmapped.
    let image = unsafe { IMAGE.load(Ordering::Acquire).as_ref() };
    match image {
        None => make(),
        // Relaxed: stored before a fork that makes a difference.
        Some(image) if STAGE.load(Ordering::Relaxed) == SHARED && !image.is_of(system::pid()) => child(image),
        Some(image) => Some(image),
    }
}

#[cold]
fn make() -> Option<&'static Image> {
    // Relaxed: elects one thread. The others' samples of this moment are not noted.
    if STAGE.compare_exchange(UNASKED, OPENING, Ordering::Relaxed, Ordering::Relaxed).is_err() {
        return None;
    }
    let Some(image) = file::map_own() else {
        // Relaxed: there is none.
        STAGE.store(NONE, Ordering::Relaxed);
        return None;
    };
    publish(image, OWN);
    Some(image)
}

/// In the child of a fork, whose image is its parent's: gets one of its own, with what the parent had.
#[cold]
fn child(parents: &Image) -> Option<&'static Image> {
    // Relaxed: a handler of the child's that comes in meanwhile notes nothing.
    if STAGE.compare_exchange(SHARED, OPENING, Ordering::Relaxed, Ordering::Relaxed).is_err() {
        return None;
    }
    let own = file::open();
    match own {
        Some(own) => {
            own.copy_from(parents);
            publish(own, SHARED);
        }
        // Relaxed (both): the child has one thread.
        None => {
            IMAGE.store(ptr::null_mut(), Ordering::Relaxed);
            STAGE.store(NONE, Ordering::Relaxed);
        }
    }
    own
}

/// What this process has counted so far, if anything.
pub fn noted() -> Option<&'static Image> {
    // Acquire: pairs with the Release in `publish`.
    // SAFETY: null, or an image that is never unmapped.
    unsafe { IMAGE.load(Ordering::Acquire).as_ref() }
}

/// Notes an allocation with the calling thread's stack. Returns what it is known by; zero if it is not noted.
#[inline(never)]
pub fn allocated(sample: &Sample) -> u32 {
    system::with_errno_kept(|| {
        let Some(image) = image() else { return 0 };
        let mut pcs = [0; unwind::MOST];
        let count = unwind::stack(&mut pcs, sample.caller);
        let stack = pcs.get(..count).unwrap_or_default();
        let (number, id) = image.allocated(stack, sample.size, sample.counted, sample.rate, system::now());
        if number != 0
            && let Some(watcher) = watch::watcher()
        {
            let told = Told::new(sample, id, sample.counted, 0, stack);
            if watch::call(watcher.allocated, &told) {
                image.set_told(number);
            }
        }
        number
    })
}

/// Notes that the sample that is known as `number` is freed.
#[inline(never)]
pub fn freed(number: u32, sample: &Sample) {
    system::with_errno_kept(|| {
        let Some(freed) = image().and_then(|image| image.freed(number, sample.size, system::now())) else {
            return;
        };
        if freed.is_told
            && let Some(watcher) = watch::watcher()
        {
            let mut pcs = [0; unwind::MOST];
            let count = unwind::stack(&mut pcs, sample.caller);
            let stack = pcs.get(..count).unwrap_or_default();
            // What it stands for was said when it was allocated.
            let sample = Sample { rate: freed.rate as usize, ..*sample };
            let told = Told::new(&sample, freed.id, freed.counted as usize, freed.age, stack);
            watch::call(watcher.freed, &told);
        }
    });
}
