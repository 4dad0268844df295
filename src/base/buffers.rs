//! Buffers that the connections of one worker take turns with: an idle connection holds none.

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};
use std::rc::Rc;

use bytes::BytesMut;

/// A read takes this much at most; it holds a small page whole, and four records of TLS.
const READ: usize = 64 * 1024;
/// Less room than this is not worth a read.
const LEAST_ROOM: usize = 4 * 1024;
/// Room for a head as most are.
const HEAD: usize = 4 * 1024;
/// Buffers of either kind that are kept.
const MAX_KEPT: usize = 16;

#[derive(Debug, Default)]
pub(crate) struct Buffers {
    reads: RefCell<Vec<BytesMut>>,
    heads: RefCell<Vec<Vec<u8>>>,
}

impl Buffers {
    /// Sees to it that something can be read into `bytes`.
    pub(crate) fn make_room(&self, bytes: &mut BytesMut) {
        if bytes.capacity() == 0 {
            *bytes = self.reads.borrow_mut().pop().unwrap_or_else(|| BytesMut::with_capacity(READ));
        } else if bytes.is_empty() {
            bytes.reserve(READ);
        } else if bytes.capacity() - bytes.len() < LEAST_ROOM {
            bytes.reserve(bytes.len().max(READ));
        }
    }

    /// Takes an empty buffer back.
    pub(crate) fn give_back(&self, bytes: &mut BytesMut) {
        let mut bytes = std::mem::take(bytes);
        let mut kept = self.reads.borrow_mut();
        // Only a buffer that is no longer shared and has not grown.
        if kept.len() < MAX_KEPT && bytes.try_reclaim(READ) && bytes.capacity() <= 2 * READ {
            kept.push(bytes);
        }
    }

    /// An empty buffer for a head, which comes back when it is dropped.
    pub(crate) fn head_buffer(self: &Rc<Self>) -> HeadBuffer {
        HeadBuffer { bytes: self.head(), buffers: self.clone() }
    }

    /// An empty buffer for heads.
    pub(crate) fn head(&self) -> Vec<u8> {
        self.heads.borrow_mut().pop().unwrap_or_else(|| Vec::with_capacity(HEAD))
    }

    /// Takes a buffer for heads back.
    pub(crate) fn keep_head(&self, head: &mut Vec<u8>) {
        let mut head = std::mem::take(head);
        let mut kept = self.heads.borrow_mut();
        if kept.len() < MAX_KEPT && (1..=4 * HEAD).contains(&head.capacity()) {
            head.clear();
            kept.push(head);
        }
    }
}

/// A head that is kept for some time. Its buffer goes back to the pool when it is dropped.
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
