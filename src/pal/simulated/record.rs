//! The calls made so far, and which of them are to fail.

use super::super::{CallCounts, Errno};
use std::vec::Vec;

/// What a call asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallKind {
    /// `map`
    Map,
    /// `unmap`
    Unmap,
    /// `empty`
    Empty,
    /// `protect`
    Protect,
    /// `purge`
    Purge,
    /// `resize`
    Resize,
    /// `move_pages`
    Move,
    /// `register_barrier`
    RegisterBarrier,
    /// `heavy_barrier`
    HeavyBarrier,
    /// `are_resident`
    Look,
    /// `split`
    Split,
}

/// One call that could fail and how it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    /// What was asked for.
    pub kind: CallKind,
    /// The address: for `map` the one demanded or zero, for `move_pages` where the pages come from.
    pub addr: usize,
    /// The length in bytes, for `resize` the new one.
    pub len: usize,
    /// The address that the caller was given or that the call acted on, or the error.
    pub result: Result<usize, Errno>,
}

#[derive(Default)]
pub(super) struct Record {
    pub(super) calls: Vec<Call>,
    pub(super) fail_at: Option<u64>,
    pub(super) fail_from: Option<u64>,
    pub(super) fail_kind: Vec<(CallKind, Errno)>,
    /// The call whose caller is to vanish.
    pub(super) vanish_at: Option<u64>,
}

impl Record {
    /// The error that the next call is to fail with, if it is to.
    pub(super) fn injected(&self, kind: CallKind) -> Option<Errno> {
        if let Some(&(_, errno)) = self.fail_kind.iter().find(|(failing, _)| *failing == kind) {
            return Some(errno);
        }
        let ordinal = self.calls.len() as u64;
        let fails = self.fail_at == Some(ordinal) || self.fail_from.is_some_and(|from| from <= ordinal);
        fails.then_some(Errno(match kind {
            CallKind::RegisterBarrier | CallKind::HeavyBarrier => libc::EPERM,
            _ => libc::ENOMEM,
        }))
    }

    /// Whether the caller of the next call is to vanish: once.
    pub(super) fn vanishes(&mut self) -> bool {
        self.vanish_at.take_if(|at| *at == self.calls.len() as u64).is_some()
    }

    pub(super) fn add(&mut self, call: Call) {
        self.calls.push(call);
    }

    pub(super) fn counts(&self) -> CallCounts {
        let mut counts = CallCounts::default();
        for call in &self.calls {
            let counter = match call.kind {
                _ if call.result.is_err() => &mut counts.failed,
                CallKind::Map => &mut counts.map,
                CallKind::Unmap => &mut counts.unmap,
                CallKind::Protect => &mut counts.protect,
                CallKind::Purge => &mut counts.purge,
                CallKind::Resize | CallKind::Move => &mut counts.remap,
                CallKind::HeavyBarrier => &mut counts.barrier,
                CallKind::RegisterBarrier | CallKind::Look | CallKind::Split | CallKind::Empty => continue,
            };
            *counter += 1;
        }
        counts
    }
}
