//! Who wants to know of samples: two functions, or none. `specmalloc.h` says what they are told, and what they may do.

use core::mem::transmute;
use core::ptr;
use core::sync::atomic::{AtomicPtr, Ordering};
use specmalloc::internals::global::{Sample, process};

/// `struct specmalloc_samples`.
#[repr(C)]
pub struct Samples {
    allocated: Option<Allocated>,
    freed: Option<Freed>,
}

impl Samples {
    /// Nobody.
    pub const NONE: Samples = Samples { allocated: None, freed: None };
}

type Allocated = unsafe extern "C" fn(usize, usize, usize, usize, usize) -> u32;
type Freed = unsafe extern "C" fn(u32, usize, usize, usize, usize);

/// What a sample is known by that nobody wants to know of: probes still do.
const NOBODYS: u32 = u32::MAX;

static ALLOCATED: AtomicPtr<()> = AtomicPtr::new(ptr::null_mut());
static FREED: AtomicPtr<()> = AtomicPtr::new(ptr::null_mut());

/// Has samples told to those functions from now on.
pub fn tell(samples: &Samples) {
    // Release (both): pair with the Acquires below: what the functions stand on is there.
    FREED.store(samples.freed.map_or(ptr::null_mut(), |function| function as *mut ()), Ordering::Release);
    ALLOCATED
        .store(samples.allocated.map_or(ptr::null_mut(), |function| function as *mut ()), Ordering::Release);
}

/// A sample is allocated. What it is known by.
pub fn allocated(sample: &Sample) -> u32 {
    // Acquire: pairs with the Release in `tell`.
    let function = ALLOCATED.load(Ordering::Acquire);
    if function.is_null() {
        return NOBODYS;
    }
    // SAFETY: `tell` stored a function of this type, which may be called as the header says.
    let number = unsafe {
        let function = transmute::<*mut (), Allocated>(function);
        let &Sample { block, size, usable, counted, .. } = sample;
        function(size, counted, process().settings().sample_rate(), block, usable)
    };
    if number == 0 { NOBODYS } else { number }
}

/// The sample that is known as `number` is about to be freed.
pub fn freed(number: u32, sample: &Sample) {
    // Acquire: pairs with the Release in `tell`.
    let function = FREED.load(Ordering::Acquire);
    if number != NOBODYS && !function.is_null() {
        // SAFETY: as above.
        unsafe {
            let function = transmute::<*mut (), Freed>(function);
            let &Sample { block, size, usable, .. } = sample;
            function(number, size, process().settings().sample_rate(), block, usable);
        }
    }
}
