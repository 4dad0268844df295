//! An HTTP/2 client that sends what it is told, frame by frame, however wrong.

use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};

use super::gateway::TIMEOUT;
use super::{Browser, Client, SITE};

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const PRIORITY: u8 = 2;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;
pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;

/// A frame as it came.
#[derive(Debug, Clone)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

/// The bytes of a frame.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut bytes = vec![length[1], length[2], length[3], kind, flags];
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// A header block without compression (RFC 7541 section 6.2.2).
pub(crate) fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, value) in fields {
        bytes.push(0);
        for text in [name, value] {
            // Lengths of 127 and more take another byte or two.
            match text.len() {
                short @ 0..=126 => bytes.push(u8::try_from(short).unwrap()),
                long => {
                    bytes.push(127);
                    let mut rest = long - 127;
                    while rest >= 128 {
                        bytes.push(u8::try_from(rest % 128 + 128).unwrap());
                        rest /= 128;
                    }
                    bytes.push(u8::try_from(rest).unwrap());
                }
            }
            bytes.extend(text.as_bytes());
        }
    }
    bytes
}

/// A request's header block, with more fields behind the usual ones.
pub(crate) fn request(method: &str, path: &str, more: &[(&str, &str)]) -> Vec<u8> {
    let mut fields = vec![(":method", method), (":scheme", "https"), (":authority", SITE), (":path", path)];
    fields.extend(more);
    block(&fields)
}

/// SETTINGS of one value.
pub(crate) fn setting(id: u16, value: u32) -> Vec<u8> {
    frame(SETTINGS, 0, 0, &[&id.to_be_bytes()[..], &value.to_be_bytes()].concat())
}

/// A connection: what is sent and what is read, apart from each other.
pub(crate) struct Raw {
    pub(crate) writer: WriteHalf<Browser>,
    pub(crate) reader: Option<ReadHalf<Browser>>,
}

impl Raw {
    /// Connects and greets, with settings of its own.
    pub(crate) async fn connect(client: &Client, settings: &[u8]) -> Self {
        Self::greet(client.connect("h2").await, settings).await
    }

    /// The same on a connection that is there.
    pub(crate) async fn greet(stream: Browser, settings: &[u8]) -> Self {
        let (reader, mut writer) = tokio::io::split(stream);
        writer.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
        writer.write_all(settings).await.unwrap();
        Self { writer, reader: Some(reader) }
    }

    /// `false`: the peer has closed.
    pub(crate) async fn send(&mut self, bytes: &[u8]) -> bool {
        let sent = tokio::time::timeout(TIMEOUT, async {
            self.writer.write_all(bytes).await?;
            self.writer.flush().await
        });
        matches!(sent.await, Ok(Ok(())))
    }

    /// The next frame; none at the end.
    pub(crate) async fn next(&mut self) -> Option<Frame> {
        let reader = self.reader.as_mut().unwrap();
        tokio::time::timeout(TIMEOUT, read(reader)).await.ok()?
    }

    /// Reads on in a task of its own; the frames come when the connection has ended.
    pub(crate) fn read_to_end(&mut self) -> tokio::task::JoinHandle<Vec<Frame>> {
        let mut reader = self.reader.take().unwrap();
        tokio::spawn(async move {
            let mut frames = Vec::new();
            while let Some(frame) = read(&mut reader).await {
                frames.push(frame);
            }
            frames
        })
    }
}

/// The next frame; none at the end.
async fn read(reader: &mut ReadHalf<Browser>) -> Option<Frame> {
    let mut header = [0; 9];
    reader.read_exact(&mut header).await.ok()?;
    let [a, b, c, kind, flags, stream @ ..] = header;
    let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
    reader.read_exact(&mut payload).await.ok()?;
    Some(Frame { kind, flags, stream: u32::from_be_bytes(stream), payload })
}
