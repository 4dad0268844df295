//! The flow-control windows that a client grants to the streams of its connection (RFC 9113 section 5.2).
//!
//! h2 does not say whether a response waits for the window of its stream or for that of the connection. A client that
//! keeps the window of a stream closed does not read this response, whatever it reads on other streams.

/// The window of a stream before the client has sent SETTINGS, in bytes (RFC 9113 section 6.9.2).
const DEFAULT_WINDOW: u32 = 65_535;

#[derive(Debug)]
pub(super) struct StreamWindows {
    /// SETTINGS_INITIAL_WINDOW_SIZE of the client. It applies to open streams, too (RFC 9113 section 6.9.2).
    initial: u32,
    /// The highest stream whose request has begun.
    last_begun: u32,
    streams: Vec<Window>,
}

#[derive(Debug)]
struct Window {
    stream: u32,
    /// Bytes granted by WINDOW_UPDATE frames.
    granted: u64,
    /// Its request has begun. A client may send WINDOW_UPDATE before that.
    has_begun: bool,
}

impl StreamWindows {
    pub(super) fn new() -> Self {
        Self { initial: DEFAULT_WINDOW, last_begun: 0, streams: Vec::new() }
    }

    pub(super) fn set_initial(&mut self, bytes: u32) {
        self.initial = bytes;
    }

    /// The request of a stream begins. Streams begin in ascending order, so earlier ones that have not begun never
    /// will.
    pub(super) fn begin(&mut self, stream: u32) {
        self.streams.retain(|window| window.has_begun || window.stream >= stream);
        self.entry(stream).has_begun = true;
        self.last_begun = stream;
    }

    pub(super) fn end(&mut self, stream: u32) {
        self.streams.retain(|window| window.stream != stream);
    }

    /// A WINDOW_UPDATE frame. Frames for streams that have ended are ignored.
    pub(super) fn grant(&mut self, stream: u32, bytes: u32) {
        if stream > self.last_begun || self.streams.iter().any(|window| window.stream == stream) {
            self.entry(stream).granted += u64::from(bytes);
        }
    }

    /// Whether a stream on which `sent` bytes of a response were sent must not send more.
    pub(super) fn is_closed(&self, stream: u32, sent: u64) -> bool {
        let window = self.streams.iter().find(|window| window.stream == stream);
        sent >= window.map_or(0, |window| window.granted) + u64::from(self.initial)
    }

    fn entry(&mut self, stream: u32) -> &mut Window {
        let found = self.streams.iter().position(|window| window.stream == stream);
        let index = found.unwrap_or_else(|| {
            self.streams.push(Window { stream, granted: 0, has_begun: false });
            self.streams.len() - 1
        });
        &mut self.streams[index]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_closed_when_all_that_was_granted_is_used() {
        let mut windows = StreamWindows::new();
        windows.grant(1, 100);
        windows.begin(1);
        assert!(!windows.is_closed(1, 65_634) && windows.is_closed(1, 65_635));
        windows.grant(1, 1);
        assert!(!windows.is_closed(1, 65_635));
        windows.set_initial(0);
        assert!(!windows.is_closed(1, 100) && windows.is_closed(1, 101));
    }

    #[test]
    fn streams_that_ended_or_never_began_are_forgotten() {
        let mut windows = StreamWindows::new();
        for stream in (1..2_001).step_by(2) {
            windows.grant(stream, 5);
            windows.grant(stream + 2, 5);
            if stream % 4 == 1 {
                windows.begin(stream);
                windows.end(stream);
                windows.grant(stream, 5);
            }
        }
        assert!(windows.streams.len() <= 2, "{windows:?}");
    }
}
