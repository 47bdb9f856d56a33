//! Allocated objects that carry their own header, for workloads that link them or pass them on by one pointer.

use super::calls::{free, malloc};
use super::{Random, Zeroed};

/// The head of an allocated object: a link, the size asked for, and a tag that is repeated in the object's last bytes.
#[repr(C)]
pub struct Node {
    next: *mut Node,
    len: u32,
    tag: u32,
}

// SAFETY: a null pointer to a node is an empty list.
unsafe impl Zeroed for *mut Node {}

impl Node {
    /// The smallest object: a header and the tag behind it.
    pub const MIN_LEN: usize = size_of::<Node>() + 4;

    /// Allocates an object of `len` bytes, at least [`Node::MIN_LEN`], that links to `next`.
    #[inline]
    pub fn new(len: usize, next: *mut Node, random: &mut Random) -> *mut Node {
        debug_assert!(len >= Node::MIN_LEN);
        let node = malloc(len).cast::<Node>();
        if node.is_null() {
            corrupted(node, "malloc answered null");
        }
        let tag = random.next_u32();
        // SAFETY: the object has room for the header and for four bytes at its end; malloc aligns the header.
        unsafe {
            node.write(Node { next, len: len as u32, tag });
            node.byte_add(len - 4).cast::<u32>().write_unaligned(tag);
        }
        node
    }

    /// Whether the tag behind the header agrees with the one in the object's last bytes.
    ///
    /// # Safety
    /// `node` is a live object from [`Node::new`] that no other thread frees now.
    #[inline]
    pub unsafe fn is_intact(node: *mut Node) -> bool {
        // SAFETY: the caller holds the object; a header that was overwritten with a length too small for an object
        // is refused before it is used.
        unsafe {
            let len = (*node).len as usize;
            len >= Node::MIN_LEN && node.byte_add(len - 4).cast::<u32>().read_unaligned() == (*node).tag
        }
    }

    /// The next object of the list.
    ///
    /// # Safety
    /// As [`Node::is_intact`].
    #[inline]
    pub unsafe fn next(node: *mut Node) -> *mut Node {
        // SAFETY: the caller holds the object.
        unsafe { (*node).next }
    }

    /// Links `node` to `next`.
    ///
    /// # Safety
    /// As [`Node::is_intact`], and no other thread reads the link now.
    #[inline]
    pub unsafe fn set_next(node: *mut Node, next: *mut Node) {
        // SAFETY: the caller holds the object.
        unsafe { (*node).next = next };
    }

    /// Verifies and frees a whole list, and says how many objects that were.
    ///
    /// # Safety
    /// `list` is null or the first of a list of live objects that only the caller holds.
    pub unsafe fn free_list(mut list: *mut Node) -> u64 {
        let mut freed = 0;
        while !list.is_null() {
            // SAFETY: the caller holds every object of the list; the link is read before the object goes.
            unsafe {
                if !Node::is_intact(list) {
                    corrupted(list, "an object's contents changed");
                }
                let next = (*list).next;
                // A second holder of the same memory shall notice. Volatile: nothing in this program reads it again.
                (&raw mut (*list).tag).write_volatile(!(*list).tag);
                free(list.cast());
                list = next;
            }
            freed += 1;
        }
        freed
    }
}

#[cold]
#[inline(never)]
fn corrupted(node: *mut Node, what: &str) -> ! {
    eprintln!("workloads: {what}: object {node:p}");
    std::process::abort();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_header_or_end_is_noticed() {
        let mut random = Random::new(1);
        for len in [Node::MIN_LEN, 32, 100, 5000] {
            for at in [8, 12, len - 1] {
                let node = Node::new(len, std::ptr::null_mut(), &mut random);
                // SAFETY: the object is live and ours; every offset changed lies inside it.
                unsafe {
                    assert!(Node::is_intact(node));
                    let byte = node.byte_add(at).cast::<u8>();
                    // The length's lowest bit, so that the changed length still lies inside the test's object.
                    byte.write(byte.read() ^ 1);
                    let noticed = !Node::is_intact(node) || (*node).len as usize > len;
                    assert!(noticed, "{len} bytes, changed at {at}");
                    byte.write(byte.read() ^ 1);
                    assert_eq!(Node::free_list(node), 1);
                }
            }
        }
    }
}
