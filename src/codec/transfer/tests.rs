//! Relays bodies over connections that read and write pieces of any size.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::rc::Rc;

use tokio::io::ReadBuf;

use crate::codec::body::Decoder;
use crate::codec::chunked::BodyError;
use crate::codec::message::Length;
use crate::codec::transfer::*;

/// A connection that reads and writes pieces of pseudo-random sizes and is sometimes not ready.
struct Fickle {
    incoming: VecDeque<u8>,
    written: Vec<u8>,
    flushed: usize,
    seed: u64,
}

impl Fickle {
    fn new(incoming: &[u8], seed: u64) -> Self {
        Self { incoming: incoming.iter().copied().collect(), written: Vec::new(), flushed: 0, seed }
    }

    /// 0 for not ready.
    fn next(&mut self, most: usize) -> usize {
        self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let roll = (self.seed >> 33) as usize;
        match roll % 4 {
            0 => 0,
            1 => 1.min(most),
            2 => (1 + roll % 7).min(most),
            _ => most,
        }
    }
}

impl AsyncRead for Fickle {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let most = buffer.remaining().min(self.incoming.len());
        if self.incoming.is_empty() {
            return Poll::Ready(Ok(()));
        }
        match self.next(most) {
            0 => {
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            count => {
                let bytes: Vec<u8> = self.incoming.drain(..count).collect();
                buffer.put_slice(&bytes);
                Poll::Ready(Ok(()))
            }
        }
    }
}

impl AsyncWrite for Fickle {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.next(bytes.len()) {
            0 => {
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            count => {
                self.written.extend_from_slice(&bytes[..count]);
                Poll::Ready(Ok(count))
            }
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let all: Vec<u8> = slices.iter().flat_map(|slice| slice.iter().copied()).collect();
        self.as_mut().poll_write(cx, &all)
    }

    fn poll_flush(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.flushed = self.written.len();
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

fn chunked(body: &[u8], size: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    for chunk in body.chunks(size) {
        bytes.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        bytes.extend_from_slice(chunk);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.extend_from_slice(b"0\r\nX-Trailer: 1\r\n\r\n");
    bytes
}

/// The body that was written, and the number of bytes after it.
fn read_back(written: &[u8], length: Length) -> (Vec<u8>, usize) {
    let mut bytes = written.to_vec();
    let mut decoder = Decoder::new(length);
    let piece = decoder.decode(&mut bytes).unwrap();
    assert!(decoder.is_over() || length == Length::UntilClose);
    (bytes[piece.start..piece.end].to_vec(), written.len() - piece.taken)
}

#[tokio::test]
async fn a_body_is_relayed_completely_with_any_pieces_and_framing() {
    let body: Vec<u8> = (0..3000_u32).map(|number| number as u8).collect();
    let known = Length::Known(body.len() as u64);
    for seed in 0..200 {
        for (from, to) in [
            (known, known),
            (Length::Chunked, Length::Chunked),
            (Length::Chunked, Length::UntilClose),
            (Length::UntilClose, Length::Chunked),
            (Length::UntilClose, Length::UntilClose),
        ] {
            let next = if from == Length::UntilClose { &b""[..] } else { b"HTTP/1.1 200 OK\r\n" };
            let mut incoming = match from {
                Length::Chunked => chunked(&body, 1 + seed as usize * 13),
                Length::Known(_) | Length::UntilClose => body.clone(),
            };
            incoming.extend_from_slice(next);
            let mut one = Fickle::new(&incoming, seed);
            let mut other = Fickle::new(b"", seed + 1000);
            let mut receiver = Receiver::new(Rc::default());
            let mut sender = Sender::default();
            sender.head().extend_from_slice(b"HEAD");
            sender.begin_body(to);
            receiver.begin_body(0, from).unwrap();
            poll_fn(|cx| poll_pipe(cx, (&mut receiver, &mut one), (&mut sender, &mut other))).await.unwrap();
            assert_eq!(other.flushed, other.written.len(), "everything has been flushed");
            let written = other.written.strip_prefix(b"HEAD").unwrap();
            assert_eq!(read_back(written, to), (body.clone(), 0), "{seed} {from:?} {to:?}");
            assert_eq!(receiver.taken, body.len() as u64);
            // What follows is still there, wherever it was cut.
            let mut left = receiver.head().to_vec();
            left.extend(one.incoming);
            assert_eq!(left, next);
        }
    }
}

#[tokio::test]
async fn a_truncated_body_is_an_error_and_stays_truncated() {
    for (from, incoming) in [
        (Length::Known(10), &b"half"[..]),
        (Length::Chunked, b"5\r\nhello\r\n"),
        (Length::Chunked, b"5\r\nhel"),
    ] {
        let mut one = Fickle::new(incoming, 7);
        let mut other = Fickle::new(b"", 8);
        let mut receiver = Receiver::new(Rc::default());
        let mut sender = Sender::default();
        sender.begin_body(if from == Length::Chunked { from } else { Length::Known(10) });
        receiver.begin_body(0, from).unwrap();
        let piped = poll_fn(|cx| poll_pipe(cx, (&mut receiver, &mut one), (&mut sender, &mut other))).await;
        assert!(
            matches!(piped, Err(PipeError::Receive(ReceiveError::Body(BodyError::Truncated)))),
            "{piped:?}"
        );
        assert!(!other.written.ends_with(b"0\r\n\r\n"));
    }
}

#[test]
fn chunks_that_were_received_together_are_sent_as_one() {
    let mut receiver = Receiver::new(Rc::default());
    receiver.bytes.extend_from_slice(&chunked(&[b'x'; 4096], 64));
    receiver.begin_body(0, Length::Chunked).unwrap();
    assert_eq!(receiver.data().len(), 4096);
}

#[test]
fn an_idle_receiver_holds_no_buffer() {
    let mut receiver = Receiver::new(Rc::default());
    receiver.bytes.extend_from_slice(b"data");
    receiver.begin_body(0, Length::Known(4)).unwrap();
    receiver.consume(4);
    assert_eq!(receiver.bytes.capacity(), 0);
    receiver.bytes.reserve(64 * 1024);
    receiver.bytes.extend_from_slice(&[b'x'; 20_000]);
    receiver.begin_body(0, Length::Known(20_000)).unwrap();
    assert_eq!(receiver.take().len(), 20_000);
    assert_eq!(receiver.bytes.capacity(), 0);
}
