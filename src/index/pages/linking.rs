//! How nodes of pages come into the index and leave it.

use super::PageNode;
use crate::index::entry::Content;
use crate::index::tree::Index;
use crate::rcu::Rcu;
use crate::region::Region;
use crate::sync::atomic::Ordering::Relaxed;
use crate::sync::{acquire, release, seeded};
use core::ops::Range;

impl Index {
    /// Publishes some pages of one slice, in the node that is there or in `blank`, which is then used up.
    pub(in crate::index) fn publish_pages(
        &self,
        rcu: &Rcu,
        at: usize,
        pages: &Range<usize>,
        region: &'static Region,
        blank: &mut Option<&'static PageNode>,
    ) {
        let Some(entry) = self.slice_entry(at) else { return debug_assert!(false, "index: not prepared") };
        // So that the node found is not unlinked, retired and linked again between the look and the step. The fence at
        // the entry would publish the region, too; the orderings below do not count on it.
        let without = [
            "index.page_without_section",
            "index.page_link_relaxed",
            "index.page_publish_relaxed",
            "index.page_edit_relaxed",
        ];
        let _section = (!without.into_iter().any(seeded)).then(|| rcu.enter_guest());
        loop {
            // Acquire: partner is the Release below: the node is complete.
            match entry.load(acquire("index.page_edit_relaxed")) {
                Content::Empty => {
                    let Some(node) = *blank else { return debug_assert!(false, "index: not prepared") };
                    node.begin(pages, region);
                    // Release: partner is the Acquire of `walk`: the node and the region are complete.
                    let order = release("index.page_link_relaxed");
                    if entry.link(node.content(), order, Relaxed, "index.page_link_two_steps").is_ok() {
                        *blank = None;
                        return;
                    }
                    if !seeded("index.page_not_abandoned") {
                        node.abandon(pages);
                    }
                }
                Content::Node(address) => {
                    // SAFETY: nodes of slices lead to nodes of pages only.
                    let node = unsafe { PageNode::at(address) };
                    if node.join(pages, region) {
                        return;
                    }
                    // Relaxed: only takes away; rule 3 of `pages`.
                    let _ = entry.exchange(node.content(), Content::Empty, Relaxed, Relaxed);
                }
                Content::Region(_) => return debug_assert!(false, "index: two regions in one place"),
            }
        }
    }

    /// Takes a region's pages out of one slice, and retires the node if they were the last.
    pub(in crate::index) fn unlink_pages(&self, rcu: &Rcu, at: usize, pages: &Range<usize>) {
        let Some(entry) = self.slice_entry(at) else { return debug_assert!(false, "index: not there") };
        let _section = (!seeded("index.page_without_section")).then(|| rcu.enter_guest());
        // Relaxed: whoever inserted the region has acquired or made the node.
        let Content::Node(address) = entry.load(Relaxed) else {
            return debug_assert!(false, "index: not there");
        };
        // SAFETY: nodes of slices lead to nodes of pages only.
        let node = unsafe { PageNode::at(address) };
        if !node.leave(pages) {
            return;
        }
        // Relaxed: only takes away; if it fails, someone who wanted to join has done it.
        let _ = entry.exchange(node.content(), Content::Empty, Relaxed, Relaxed);
        if !seeded("index.page_without_grace") {
            // SAFETY: the node is unlinked, `users` was made zero by this thread alone, and links are recovered in
            // `Space`.
            unsafe { rcu.retire(node.retire_link()) };
        } else {
            self.recycle(node);
        }
    }
}
