//! A pool of buffers for the connections of one worker. An idle connection holds none.

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};
use std::rc::Rc;

use bytes::BytesMut;

/// Capacity of a read buffer: a small page, or four TLS records.
const READ: usize = 64 * 1024;
/// A read buffer with less room than this is enlarged before a read.
const MIN_ROOM: usize = 4 * 1024;
/// Capacity of a head buffer. Most heads are smaller.
const HEAD: usize = 4 * 1024;
/// The maximum number of buffers of each kind in the pool.
const MAX_KEPT: usize = 16;

#[derive(Debug, Default)]
pub(crate) struct Buffers {
    reads: RefCell<Vec<BytesMut>>,
    heads: RefCell<Vec<Vec<u8>>>,
}

impl Buffers {
    /// Ensures that `bytes` has room for a read.
    pub(crate) fn make_room(&self, bytes: &mut BytesMut) {
        if bytes.capacity() == 0 {
            *bytes = self.reads.borrow_mut().pop().unwrap_or_else(|| BytesMut::with_capacity(READ));
        } else if bytes.is_empty() {
            bytes.reserve(READ);
        } else if bytes.capacity() - bytes.len() < MIN_ROOM {
            bytes.reserve(bytes.len().max(READ));
        }
    }

    /// Returns an empty read buffer to the pool.
    pub(crate) fn give_back(&self, bytes: &mut BytesMut) {
        let mut bytes = std::mem::take(bytes);
        let mut kept = self.reads.borrow_mut();
        // Buffers that are still shared or have grown are dropped.
        if kept.len() < MAX_KEPT && bytes.try_reclaim(READ) && bytes.capacity() <= 2 * READ {
            kept.push(bytes);
        }
    }

    /// An empty head buffer, which returns to the pool when it is dropped.
    pub(crate) fn head_buffer(self: &Rc<Self>) -> HeadBuffer {
        HeadBuffer { bytes: self.head(), buffers: self.clone() }
    }

    /// An empty head buffer.
    pub(crate) fn head(&self) -> Vec<u8> {
        self.heads.borrow_mut().pop().unwrap_or_else(|| Vec::with_capacity(HEAD))
    }

    /// Returns a head buffer to the pool.
    pub(crate) fn keep_head(&self, head: &mut Vec<u8>) {
        let mut head = std::mem::take(head);
        let mut kept = self.heads.borrow_mut();
        if kept.len() < MAX_KEPT && (1..=4 * HEAD).contains(&head.capacity()) {
            head.clear();
            kept.push(head);
        }
    }
}

/// A head buffer that returns to the pool when it is dropped.
#[derive(Debug)]
pub(crate) struct HeadBuffer {
    bytes: Vec<u8>,
    buffers: Rc<Buffers>,
}

impl Deref for HeadBuffer {
    type Target = Vec<u8>;

    fn deref(&self) -> &Vec<u8> {
        &self.bytes
    }
}

impl DerefMut for HeadBuffer {
    fn deref_mut(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }
}

impl Drop for HeadBuffer {
    fn drop(&mut self) {
        self.buffers.keep_head(&mut self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_buffer_returns_to_the_pool_when_it_is_dropped() {
        fn fails(mut head: HeadBuffer) -> Result<(), ()> {
            head.extend_from_slice(b"GET / HTTP/1.1\r\n\r\n");
            Err(())
        }
        let buffers = Rc::new(Buffers::default());
        let first = buffers.head_buffer();
        let address = first.as_ptr();
        assert!(buffers.heads.borrow().is_empty());
        fails(first).unwrap_err();
        assert_eq!(buffers.heads.borrow().len(), 1, "returned on an early exit, too");
        let second = buffers.head_buffer();
        assert!(second.is_empty() && second.as_ptr() == address, "the same buffer, without its contents");
        drop(second);

        // A buffer that has grown is freed, and so are more than the pool holds.
        let mut large = buffers.head_buffer();
        large.reserve(4 * HEAD + 1);
        drop(large);
        assert_eq!(buffers.heads.borrow().len(), 0);
        drop((0..MAX_KEPT + 1).map(|_| buffers.head_buffer()).collect::<Vec<_>>());
        assert_eq!(buffers.heads.borrow().len(), MAX_KEPT);
    }
}
