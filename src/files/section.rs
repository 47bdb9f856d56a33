//! Reader sections of this layer's: each thread has a slot of its own, beside the one that its heap may have.

use crate::global::{attach_reader, possess_reader, process};
use crate::rcu::{ReaderSlot, Section};
use crate::sync::CachePadded;
use std::cell::Cell;
use std::ptr;
use std::sync::Mutex;

std::thread_local! {
    /// The thread's slot; null before the first section, and after the thread's destructors have run.
    static SLOT: Cell<*const ReaderSlot> = const { Cell::new(ptr::null()) };
    /// Gives it back.
    static HOLD: Hold = const { Hold };
}

/// Slots that no thread has.
static FREE: Mutex<Vec<&'static ReaderSlot>> = Mutex::new(Vec::new());

struct Hold;

impl Drop for Hold {
    fn drop(&mut self) {
        let slot = SLOT.replace(ptr::null());
        // SAFETY: null, or a slot, which lives forever.
        let Some(slot) = (unsafe { slot.as_ref() }) else { return };
        // With a guard that another thread-local holds, or while a fork left the lock held, the slot is lost.
        if !slot.is_inside()
            && let Ok(mut free) = FREE.try_lock()
        {
            free.push(slot);
        }
    }
}

/// Enters a section. Without a slot, at the end of a thread, as a guest.
#[inline(always)]
pub(crate) fn enter() -> Section<'static> {
    // SAFETY: null, or a slot, which lives forever.
    match unsafe { SLOT.get().as_ref() } {
        // SAFETY: attached, and the calling thread's.
        Some(slot) => unsafe { process().space().rcu().enter(slot) },
        None => enter_first(),
    }
}

#[cold]
#[inline(never)]
fn enter_first() -> Section<'static> {
    match slot() {
        // SAFETY: as above.
        Some(slot) => unsafe { process().space().rcu().enter(slot) },
        None => process().space().rcu().enter_guest(),
    }
}

/// The thread's slot, which it gets here if need be. `None` at the end of a thread.
pub(crate) fn slot() -> Option<&'static ReaderSlot> {
    // SAFETY: null, or a slot, which lives forever.
    if let Some(slot) = unsafe { SLOT.get().as_ref() } {
        return Some(slot);
    }
    HOLD.try_with(|_| ()).ok()?;
    let used = FREE.try_lock().ok().and_then(|mut free| free.pop());
    let slot = match used {
        Some(slot) => {
            possess_reader(slot);
            slot
        }
        None => {
            // On lines of its own: its thread writes it twice for each guard.
            let slot: &'static ReaderSlot = Box::leak(Box::new(CachePadded::new(ReaderSlot::new())));
            // SAFETY: attached once, just here.
            unsafe { attach_reader(slot) };
            slot
        }
    };
    SLOT.set(slot);
    Some(slot)
}
