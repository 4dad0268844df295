//! Protects against floods of valid HTTP/2 frames that cost the gateway work and serve no request.
//!
//! Each connection has a credit. Frames that serve no request are charged. Useful frames and time restore some credit.
//! A connection without credit is closed with ENHANCE_YOUR_CALM. `docs/hardening.md` lists the costs.

use std::cell::{Cell, RefCell};
use std::task::Waker;
use std::time::Duration;

use tokio::time::Instant;

use crate::edge::http2::stream_windows::StreamWindows;

/// The credit of a new connection, and the most that it can have.
const MAX_CREDIT: u32 = 10_000;
/// The credit that is restored each second.
const CREDIT_PER_SECOND: u32 = 100;
/// A DATA frame that is shorter, and not the last one, is charged.
const SMALL_FRAME_BYTES: u32 = 64;

/// RFC 9113 section 6.
mod kind {
    pub(crate) const DATA: u8 = 0;
    pub(crate) const HEADERS: u8 = 1;
    pub(crate) const PRIORITY: u8 = 2;
    pub(crate) const RST_STREAM: u8 = 3;
    pub(crate) const SETTINGS: u8 = 4;
    pub(crate) const PING: u8 = 6;
    pub(crate) const WINDOW_UPDATE: u8 = 8;
    pub(crate) const CONTINUATION: u8 = 9;
    /// Not a frame type: the bytes before the first frame.
    pub(crate) const PREFACE: u8 = u8::MAX;
}

const END_STREAM: u8 = 0x1;
const END_HEADERS: u8 = 0x4;
const HEADER: usize = 9;
/// The identifier of SETTINGS_INITIAL_WINDOW_SIZE (RFC 9113 section 6.5.2).
const INITIAL_WINDOW_SIZE: u16 = 4;
/// The reserved bit of a stream identifier and of a window increment (RFC 9113 sections 4.1 and 6.9).
const RESERVED: u32 = 1 << 31;
/// Length of the connection preface (RFC 9113 section 3.4).
const PREFACE_BYTES: usize = 24;

/// Reads the frame headers in the bytes of one direction.
#[derive(Debug)]
struct Frames {
    header: [u8; HEADER],
    /// Bytes of the next header that have been received.
    filled: usize,
    /// Bytes before the next header.
    skip: usize,
    /// The type and the stream of the current frame.
    kind: u8,
    stream: u32,
    /// The current setting of a SETTINGS frame, or the payload of a WINDOW_UPDATE frame.
    entry: [u8; 6],
    entry_filled: usize,
    /// The types of frames whose payload is counted.
    counted: &'static [u8],
    /// Payload bytes of these frames so far.
    bytes: u64,
}

#[derive(Debug, Clone, Copy)]
struct Frame {
    kind: u8,
    flags: u8,
    length: u32,
}

/// What `Frames::scan` reports.
#[derive(Debug, Clone, Copy)]
enum Event {
    Frame(Frame),
    InitialWindow(u32),
    WindowUpdate { stream: u32, bytes: u32 },
}

impl Frame {
    fn has(self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

impl Frames {
    fn new(skip: usize, counted: &'static [u8]) -> Self {
        Self {
            header: [0; HEADER],
            filled: 0,
            skip,
            kind: kind::PREFACE,
            stream: 0,
            entry: [0; 6],
            entry_filled: 0,
            counted,
            bytes: 0,
        }
    }

    /// Calls `each` with every frame whose header ends in `bytes`, and with every change of a window.
    fn scan(&mut self, mut bytes: &[u8], mut each: impl FnMut(Event)) {
        loop {
            let skipped = self.skip.min(bytes.len());
            self.bytes += if self.counted.contains(&self.kind) { skipped as u64 } else { 0 };
            if matches!(self.kind, kind::SETTINGS | kind::WINDOW_UPDATE) {
                self.scan_windows(&bytes[..skipped], &mut each);
            }
            self.skip -= skipped;
            bytes = &bytes[skipped..];
            let here = (HEADER - self.filled).min(bytes.len());
            if here == 0 {
                return;
            }
            self.header[self.filled..self.filled + here].copy_from_slice(&bytes[..here]);
            self.filled += here;
            bytes = &bytes[here..];
            if self.filled < HEADER {
                return;
            }
            let [a, b, c, kind, flags, stream @ ..] = self.header;
            let length = u32::from_be_bytes([0, a, b, c]);
            (self.filled, self.skip, self.kind) = (0, length as usize, kind);
            (self.stream, self.entry_filled) = (u32::from_be_bytes(stream) & !RESERVED, 0);
            each(Event::Frame(Frame { kind, flags, length }));
        }
    }

    /// Reads a part of the payload of a SETTINGS or WINDOW_UPDATE frame.
    fn scan_windows(&mut self, payload: &[u8], each: &mut impl FnMut(Event)) {
        let size = if self.kind == kind::SETTINGS { 6 } else { 4 };
        for byte in payload {
            self.entry[self.entry_filled] = *byte;
            self.entry_filled += 1;
            if self.entry_filled < size {
                continue;
            }
            self.entry_filled = 0;
            let [a, b, c, d, e, f] = self.entry;
            if self.kind == kind::WINDOW_UPDATE {
                let bytes = u32::from_be_bytes([a, b, c, d]) & !RESERVED;
                each(Event::WindowUpdate { stream: self.stream, bytes });
            } else if u16::from_be_bytes([a, b]) == INITIAL_WINDOW_SIZE {
                each(Event::InitialWindow(u32::from_be_bytes([c, d, e, f])));
            }
        }
    }

    /// Whether a frame header, or a frame of a field block, has been received in part.
    fn is_incomplete_head(&self) -> bool {
        self.filled > 0 || (self.skip > 0 && matches!(self.kind, kind::HEADERS | kind::CONTINUATION))
    }
}

#[derive(Debug)]
pub(crate) struct FloodGuard {
    received: RefCell<Frames>,
    sent: RefCell<Frames>,
    credit: Cell<u32>,
    /// When the passed time was last added to the credit.
    refilled: Cell<Instant>,
    /// Since when a field block has been incomplete.
    unfinished: Cell<Option<Instant>>,
    in_headers: Cell<bool>,
    windows: RefCell<StreamWindows>,
    /// Bytes of request bodies received so far.
    pub(crate) data_received: Cell<u64>,
    /// Requests in progress, and how many of them wait for the client.
    answering: Cell<usize>,
    waiting: Cell<usize>,
    /// Wakes the task of the connection when a request stops waiting for the client.
    waker: RefCell<Waker>,
    /// The credit is used up: the connection is closed at once.
    pub(crate) is_exhausted: Cell<bool>,
    /// A request has stalled for too long: the connection is closed when the other requests are finished.
    pub(crate) closing: Cell<bool>,
}

impl FloodGuard {
    pub(crate) fn new() -> Self {
        Self {
            received: RefCell::new(Frames::new(PREFACE_BYTES, &[kind::DATA])),
            sent: RefCell::new(Frames::new(0, &[kind::DATA, kind::HEADERS, kind::CONTINUATION])),
            credit: Cell::new(MAX_CREDIT),
            refilled: Cell::new(Instant::now()),
            unfinished: Cell::new(None),
            in_headers: Cell::new(false),
            windows: RefCell::new(StreamWindows::new()),
            data_received: Cell::new(0),
            answering: Cell::new(0),
            waiting: Cell::new(0),
            waker: RefCell::new(Waker::noop().clone()),
            is_exhausted: Cell::new(false),
            closing: Cell::new(false),
        }
    }

    /// Accounts for received bytes.
    pub(crate) fn received(&self, bytes: &[u8]) {
        let mut frames = self.received.borrow_mut();
        frames.scan(bytes, |event| match event {
            Event::Frame(frame) => self.account(frame),
            Event::InitialWindow(bytes) => self.windows.borrow_mut().set_initial(bytes),
            Event::WindowUpdate { stream, bytes } => self.windows.borrow_mut().grant(stream, bytes),
        });
        self.data_received.set(frames.bytes);
        // Nothing else can be received while a field block is incomplete.
        let within = self.in_headers.get() || frames.is_incomplete_head();
        match (within, self.unfinished.get()) {
            (true, None) => self.unfinished.set(Some(Instant::now())),
            (false, Some(_)) => self.unfinished.set(None),
            (true, Some(_)) | (false, None) => {}
        }
    }

    /// Accounts for bytes that are sent, and returns the bytes of responses (heads and bodies) sent so far.
    pub(crate) fn sent(&self, bytes: &[u8]) -> u64 {
        let mut frames = self.sent.borrow_mut();
        frames.scan(bytes, |event| match event {
            // A client may open two windows for each piece.
            Event::Frame(Frame { kind: kind::DATA, .. }) => self.restore(2),
            // The client or the upstream made an error.
            Event::Frame(Frame { kind: kind::RST_STREAM, .. }) => self.charge(40),
            Event::Frame(_) | Event::InitialWindow(_) | Event::WindowUpdate { .. } => {}
        });
        frames.bytes
    }

    /// The request of a stream begins.
    pub(crate) fn begin(&self, stream: u32) {
        self.answering.set(self.answering.get() + 1);
        self.windows.borrow_mut().begin(stream);
    }

    /// A request has ended.
    pub(crate) fn end(&self, stream: u32) {
        self.answering.set(self.answering.get() - 1);
        self.windows.borrow_mut().end(stream);
    }

    /// Whether the client's window for a stream is used up, after `sent` bytes of the response.
    pub(crate) fn is_window_closed(&self, stream: u32, sent: u64) -> bool {
        self.windows.borrow().is_closed(stream, sent)
    }

    /// A request begins or stops waiting for the client.
    pub(crate) fn set_waiting(&self, waits: bool) {
        let all_waited = self.all_wait();
        self.waiting.set(if waits { self.waiting.get() + 1 } else { self.waiting.get() - 1 });
        if all_waited && !waits {
            self.waker.borrow().wake_by_ref();
        }
    }

    pub(crate) fn set_waker(&self, waker: &Waker) {
        self.waker.borrow_mut().clone_from(waker);
    }

    /// Whether no request is in progress.
    pub(crate) fn has_no_requests(&self) -> bool {
        self.answering.get() == 0
    }

    /// Whether all requests wait for the client.
    pub(crate) fn all_wait(&self) -> bool {
        self.answering.get() == self.waiting.get()
    }

    fn account(&self, frame: Frame) {
        match frame.kind {
            // The end of a body. Empty ones can also be sent for streams that are closed.
            kind::DATA if frame.has(END_STREAM) => self.charge(if frame.length == 0 { 5 } else { 0 }),
            kind::DATA if frame.length == 0 => self.charge(100),
            kind::DATA if frame.length < SMALL_FRAME_BYTES => self.charge(1),
            kind::DATA => self.restore(1),
            kind::HEADERS => {
                self.head(frame);
                // Covers the PRIORITY and WINDOW_UPDATE frames of a request.
                self.restore(10);
            }
            kind::CONTINUATION => {
                self.head(frame);
                self.charge(if frame.length < SMALL_FRAME_BYTES { 200 } else { 20 });
            }
            kind::PRIORITY | kind::WINDOW_UPDATE => self.charge(1),
            // Requests that the client cancels after they began.
            kind::RST_STREAM => self.charge(40),
            kind::SETTINGS => self.charge(200),
            kind::PING => self.charge(50),
            _ => self.charge(20),
        }
    }

    fn head(&self, frame: Frame) {
        self.in_headers.set(!frame.has(END_HEADERS));
        if frame.has(END_HEADERS) {
            // A frame that is incomplete now began later.
            self.unfinished.set(None);
        }
    }

    /// A response of iMIS has been relayed to its end.
    pub(crate) fn relayed(&self) {
        self.restore(30);
    }

    pub(crate) fn charge(&self, points: u32) {
        if self.credit.get() < points {
            // The clock is read only when the credit seems used up.
            let now = Instant::now();
            let passed = now - self.refilled.get();
            self.refilled.set(now);
            self.restore(
                u32::try_from(passed.as_millis() * u128::from(CREDIT_PER_SECOND) / 1000)
                    .unwrap_or(MAX_CREDIT),
            );
        }
        match self.credit.get().checked_sub(points) {
            Some(left) => self.credit.set(left),
            None => self.is_exhausted.set(true),
        }
    }

    fn restore(&self, points: u32) {
        self.credit.set(self.credit.get().saturating_add(points).min(MAX_CREDIT));
    }

    /// Whether a field block is incomplete.
    pub(crate) fn is_unfinished(&self) -> bool {
        self.unfinished.get().is_some()
    }

    /// How long a field block has been incomplete.
    pub(crate) fn unfinished_for(&self, now: Instant) -> Duration {
        self.unfinished.get().map_or(Duration::ZERO, |since| now - since)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, length: usize) -> Vec<u8> {
        let size = u32::try_from(length).unwrap().to_be_bytes();
        let mut bytes = vec![size[1], size[2], size[3], kind, flags, 0, 0, 0, 1];
        bytes.resize(HEADER + length, b'x');
        bytes
    }

    /// A guard that has received the connection preface.
    fn flood_guard() -> FloodGuard {
        let flood_guard = FloodGuard::new();
        flood_guard.received(&[0; PREFACE_BYTES]);
        flood_guard
    }

    #[test]
    fn frames_are_found_however_the_bytes_are_divided() {
        let mut bytes = Vec::new();
        for (kind, length) in [(kind::DATA, 100), (kind::PING, 8), (kind::DATA, 0), (kind::SETTINGS, 6)] {
            bytes.extend(frame(kind, 0, length));
        }
        for size in 1..bytes.len() {
            let mut frames = Frames::new(0, &[kind::DATA]);
            let mut seen = Vec::new();
            for piece in bytes.chunks(size) {
                frames.scan(piece, |event| {
                    if let Event::Frame(frame) = event {
                        seen.push((frame.kind, frame.length));
                    }
                });
            }
            assert_eq!(seen, [(0, 100), (6, 8), (0, 0), (4, 6)], "{size}");
            assert!(!frames.is_incomplete_head() && frames.bytes == 100);
        }
    }

    #[test]
    fn windows_are_read_however_the_bytes_are_divided() {
        let mut settings = frame(kind::SETTINGS, 0, 12);
        settings[HEADER..].copy_from_slice(&[0, 3, 0, 0, 0, 100, 0, 4, 0, 1, 0, 0]);
        let mut update = frame(kind::WINDOW_UPDATE, 0, 4);
        update[HEADER..].copy_from_slice(&[0x80, 0, 1, 1]);
        let bytes = [settings, update].concat();
        for size in 1..bytes.len() {
            let flood_guard = flood_guard();
            flood_guard.begin(1);
            bytes.chunks(size).for_each(|piece| flood_guard.received(piece));
            let granted = 65_536 + 257;
            assert!(!flood_guard.is_window_closed(1, granted - 1), "{size}");
            assert!(flood_guard.is_window_closed(1, granted), "{size}");
        }
    }

    #[test]
    fn a_flood_of_any_frame_exhausts_the_credit() {
        for (name, bytes) in [
            ("PING", frame(kind::PING, 0, 8)),
            ("PING that answers none", frame(kind::PING, 1, 8)),
            ("SETTINGS", frame(kind::SETTINGS, 0, 0)),
            ("empty DATA", frame(kind::DATA, 0, 0)),
            ("small DATA", frame(kind::DATA, 0, 1)),
            ("empty CONTINUATION", frame(kind::CONTINUATION, 0, 0)),
            ("CONTINUATION", frame(kind::CONTINUATION, 0, 1000)),
            ("PRIORITY", frame(kind::PRIORITY, 0, 5)),
            ("WINDOW_UPDATE", frame(kind::WINDOW_UPDATE, 0, 4)),
            ("unknown", frame(0xbe, 0, 3)),
        ] {
            let flood_guard = flood_guard();
            let count = (0..20_000).find(|_| {
                flood_guard.received(&bytes);
                flood_guard.is_exhausted.get()
            });
            assert!(count.is_some_and(|count| (40..10_500).contains(&count)), "{name}: {count:?}");
        }
    }

    #[test]
    fn requests_that_are_reset_run_out_of_credit() {
        let flood_guard = flood_guard();
        let both =
            [frame(kind::HEADERS, END_HEADERS | END_STREAM, 30), frame(kind::RST_STREAM, 0, 4)].concat();
        let count = (0..20_000).find(|_| {
            flood_guard.received(&both);
            flood_guard.is_exhausted.get()
        });
        assert!(count.is_some_and(|count| (300..400).contains(&count)), "{count:?}");
        // Also if the client makes the gateway reset the streams.
        let flood_guard = self::flood_guard();
        let count = (0..20_000).find(|_| {
            flood_guard.received(&frame(kind::HEADERS, END_HEADERS | END_STREAM, 30));
            flood_guard.received(&frame(kind::WINDOW_UPDATE, 0, 4));
            flood_guard.sent(&frame(kind::RST_STREAM, 0, 4));
            flood_guard.is_exhausted.get()
        });
        assert!(count.is_some_and(|count| (250..400).contains(&count)), "{count:?}");
    }

    #[test]
    fn a_connection_in_ordinary_use_is_never_closed() {
        let flood_guard = flood_guard();
        for _ in 0..10_000 {
            flood_guard.received(&frame(kind::HEADERS, END_HEADERS, 100));
            flood_guard.received(&frame(kind::DATA, 0, 1000));
            flood_guard.received(&frame(kind::DATA, END_STREAM, 10));
            flood_guard.sent(&frame(kind::HEADERS, END_HEADERS, 100));
            for _ in 0..3 {
                flood_guard.sent(&frame(kind::DATA, 0, 20));
                flood_guard.received(&frame(kind::WINDOW_UPDATE, 0, 4));
                flood_guard.received(&frame(kind::WINDOW_UPDATE, 0, 4));
            }
            flood_guard.sent(&frame(kind::DATA, END_STREAM, 0));
            flood_guard.relayed();
        }
        // The client leaves a page with two hundred pictures before any has been loaded.
        for _ in 0..200 {
            flood_guard.received(&frame(kind::HEADERS, END_HEADERS | END_STREAM, 100));
            flood_guard.received(&frame(kind::RST_STREAM, 0, 4));
        }
        assert!(!flood_guard.is_exhausted.get());
    }

    #[tokio::test(start_paused = true)]
    async fn time_restores_credit() {
        let flood_guard = flood_guard();
        for _ in 0..3_000 {
            flood_guard.received(&frame(kind::PING, 0, 8));
            tokio::time::advance(Duration::from_millis(600)).await;
        }
        assert!(!flood_guard.is_exhausted.get());
    }

    #[tokio::test(start_paused = true)]
    async fn the_age_of_an_incomplete_field_block_is_known() {
        let flood_guard = flood_guard();
        let later = || Instant::now() + Duration::from_secs(5);
        flood_guard.received(&frame(kind::HEADERS, 0, 10));
        assert_eq!(flood_guard.unfinished_for(later()).as_secs(), 5);
        flood_guard.received(&frame(kind::CONTINUATION, END_HEADERS, 10));
        assert_eq!(flood_guard.unfinished_for(later()).as_secs(), 0);
        flood_guard.received(&[0, 0]);
        assert_eq!(flood_guard.unfinished_for(later()).as_secs(), 5, "an incomplete frame header");
    }
}
