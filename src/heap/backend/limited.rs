//! What is taken under a limit that the program has set: see [`Limit`](crate::heap::ground::Limit).

use super::Backend;
use crate::heap::ground::Claimant;
use crate::pal::Platform;

impl<P: Platform> Backend<P> {
    /// The caller is about to take `bytes`. `None` if more would be held then than may be, though what is free is given
    /// back; or else what to hand to [`Backend::has_taken`]. Who takes nothing more may do so beyond the limit, too.
    #[inline(always)]
    pub(super) fn may_take(&self, by: &Claimant, bytes: usize) -> Option<usize> {
        if bytes == 0 || !self.settings().has_limit() {
            return Some(0);
        }
        self.promise(by, bytes).then_some(bytes)
    }

    /// What was `promised` is counted by now, or was not to be had.
    #[inline(always)]
    pub(super) fn has_taken(&self, by: &Claimant, promised: usize) {
        if promised != 0 {
            self.keep_promise(by, promised);
        }
    }

    #[cold]
    #[inline(never)]
    fn promise(&self, by: &Claimant, bytes: usize) -> bool {
        // What is free gives way, so it does not keep use from having fallen.
        let live = self.held_bytes().saturating_sub(self.dirty_bytes());
        self.limit().look_down(live, self.settings().soft_limit());
        let hard = self.settings().hard_limit();
        // First without a promise: one that cannot be kept would be in others' way.
        !self.is_beyond(by, bytes, hard) && self.limit().promise(bytes, hard, || self.held_bytes())
    }

    #[cold]
    #[inline(never)]
    fn keep_promise(&self, by: &Claimant, bytes: usize) {
        self.limit().keep(bytes);
        let soft = self.settings().soft_limit();
        if self.is_beyond(by, 0, soft) {
            self.limit().look_up(self.held_bytes(), soft);
        }
    }

    /// Whether more than `limit` is held with `more` bytes, once as much as need be of what is free is given back.
    #[inline(never)]
    fn is_beyond(&self, by: &Claimant, more: usize, limit: usize) -> bool {
        for gives_kept in [false, true] {
            let beyond = self.held_bytes().saturating_add(more).saturating_sub(limit);
            if beyond == 0 {
                return false;
            }
            if gives_kept {
                // Slices that the heap keeps are not dirty before they are given back.
                self.give_back_kept_slices(by);
            }
            // (To purge where nothing is dirty would look as if the system refused.)
            self.give_back_some(by, beyond.min(self.dirty_bytes()));
        }
        self.held_bytes().saturating_add(more) > limit
    }
}
