//! A strict decoder of the chunked transfer coding (RFC 9112 section 7.1). Lines must end in CR LF. Extensions and
//! trailers are validated and dropped, and their total size is limited.

/// Why a body is invalid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BodyError {
    #[error("malformed chunks")]
    Chunks,
    #[error("the connection ended within the body")]
    Truncated,
}

/// The part of a body in a buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Piece {
    /// The data is in `start..end` of the buffer.
    pub(crate) start: usize,
    pub(crate) end: usize,
    /// How many bytes at the start of the buffer belong to the body, including framing.
    pub(crate) taken: usize,
}

/// The maximum total size of the extensions and trailers of one body, in bytes.
const MAX_OVERHEAD: u32 = 64 * 1024;
/// The maximum number of hexadecimal digits of a chunk size, without leading zeros.
const MAX_DIGITS: u8 = 15;

/// The position in a chunked body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Before a size.
    Start,
    Size,
    /// White space after a size. A `;` must follow (RFC 9112 section 7.1.1).
    SizeBlank,
    /// After `;`. A name must follow.
    ExtensionStart,
    Extension,
    /// Inside a quoted string of an extension.
    Quoted,
    /// After a backslash in a quoted string.
    QuotedPair,
    SizeLf,
    Data,
    DataCr,
    DataLf,
    /// At the start of a trailer line or of the final empty line.
    TrailerStart,
    TrailerName,
    TrailerValue,
    TrailerLf,
    EndLf,
    End,
}

/// The decoder.
#[derive(Debug)]
pub(crate) struct Chunked {
    state: State,
    /// The size of the current chunk while it is read, then the remaining bytes of its data.
    left: u64,
    /// The number of digits of the size that have been read.
    digits: u8,
    /// The number of bytes of extensions, trailers and leading zeros.
    overhead: u32,
}

impl Chunked {
    pub(crate) fn new() -> Self {
        Self { state: State::Start, left: 0, digits: 0, overhead: 0 }
    }

    pub(crate) fn is_over(&self) -> bool {
        self.state == State::End
    }

    /// Decodes the part of the body at the start of `bytes`. Moves the data of all chunks together.
    pub(crate) fn decode(&mut self, bytes: &mut [u8]) -> Result<Piece, BodyError> {
        let (mut at, mut start, mut end) = (0, 0, 0);
        while at < bytes.len() && self.state != State::End {
            if self.state != State::Data {
                self.step(bytes[at])?;
                at += 1;
                continue;
            }
            let rest = bytes.len() - at;
            let here = usize::try_from(self.left).map_or(rest, |left| left.min(rest));
            if start == end {
                // The data of the first chunk is not moved.
                (start, end) = (at, at);
            }
            if end != at {
                bytes.copy_within(at..at + here, end);
            }
            end += here;
            at += here;
            self.left -= here as u64;
            if self.left == 0 {
                self.state = State::DataCr;
            }
        }
        Ok(Piece { start, end, taken: at })
    }

    fn step(&mut self, byte: u8) -> Result<(), BodyError> {
        self.state = match (self.state, byte) {
            (State::Start | State::Size, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => self.digit(byte)?,
            (State::Size, b'\r') => State::SizeLf,
            (State::Size | State::SizeBlank, b';') => State::ExtensionStart,
            (State::Size | State::SizeBlank, b' ' | b'\t') => self.count_overhead(State::SizeBlank)?,
            (State::ExtensionStart, b' ' | b'\t') => self.count_overhead(State::ExtensionStart)?,
            (State::ExtensionStart, byte) if is_token(byte) => self.count_overhead(State::Extension)?,
            (State::Extension, b'\r') => State::SizeLf,
            (State::Extension, b'"') => self.count_overhead(State::Quoted)?,
            (State::Quoted, b'"') => self.count_overhead(State::Extension)?,
            (State::Quoted, b'\\') => self.count_overhead(State::QuotedPair)?,
            (State::Quoted | State::QuotedPair, byte) if is_text(byte) => {
                self.count_overhead(State::Quoted)?
            }
            (State::Extension, byte) if is_text(byte) => self.count_overhead(State::Extension)?,
            (State::SizeLf, b'\n') if self.left == 0 => State::TrailerStart,
            (State::SizeLf, b'\n') => State::Data,
            (State::DataCr, b'\r') => State::DataLf,
            (State::DataLf, b'\n') => {
                self.digits = 0;
                State::Start
            }
            (State::TrailerStart, b'\r') => State::EndLf,
            (State::TrailerStart | State::TrailerName, byte) if is_token(byte) => {
                self.count_overhead(State::TrailerName)?
            }
            (State::TrailerName, b':') => self.count_overhead(State::TrailerValue)?,
            (State::TrailerValue, b'\r') => State::TrailerLf,
            (State::TrailerValue, byte) if is_text(byte) => self.count_overhead(State::TrailerValue)?,
            (State::TrailerLf, b'\n') => State::TrailerStart,
            (State::EndLf, b'\n') => State::End,
            _ => return Err(BodyError::Chunks),
        };
        Ok(())
    }

    fn digit(&mut self, byte: u8) -> Result<State, BodyError> {
        if self.left == 0 {
            // Leading zeros count as overhead, not as digits.
            self.digits = 0;
            self.count_overhead(State::Size)?;
        }
        if self.digits == MAX_DIGITS {
            return Err(BodyError::Chunks);
        }
        let digit = match byte {
            b'0'..=b'9' => byte - b'0',
            _ => (byte | 0x20) - b'a' + 10,
        };
        self.digits += 1;
        self.left = self.left * 16 + u64::from(digit);
        Ok(State::Size)
    }

    fn count_overhead(&mut self, next: State) -> Result<State, BodyError> {
        self.overhead += 1;
        if self.overhead > MAX_OVERHEAD { Err(BodyError::Chunks) } else { Ok(next) }
    }
}

/// `tchar` (RFC 9110 section 5.6.2).
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Whether a byte is valid in a field value or a quoted string.
fn is_text(byte: u8) -> bool {
    byte == b'\t' || (byte >= b' ' && byte != 0x7f)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Decodes a body in pieces of every size. Returns the data and the length of the body.
    fn decoded(body: &[u8]) -> Result<(Vec<u8>, usize), BodyError> {
        let mut whole = None;
        for size in 1..=body.len() {
            let mut decoder = Chunked::new();
            let (mut data, mut taken) = (Vec::new(), 0);
            let mut run = || {
                for piece in body.chunks(size) {
                    let mut bytes = piece.to_vec();
                    let piece = decoder.decode(&mut bytes)?;
                    data.extend_from_slice(&bytes[piece.start..piece.end]);
                    taken += piece.taken;
                    if decoder.is_over() {
                        return Ok((std::mem::take(&mut data), taken));
                    }
                }
                Err(BodyError::Truncated)
            };
            let outcome = run();
            if let Some(before) = &whole {
                assert_eq!(before, &outcome, "in pieces of {size}: {:?}", String::from_utf8_lossy(body));
            }
            whole = Some(outcome);
        }
        whole.unwrap()
    }

    #[test]
    fn valid_bodies_are_decoded_in_pieces_of_any_size() {
        for (body, data, rest) in [
            (&b"0\r\n\r\n"[..], &b""[..], 0),
            (b"5\r\nhello\r\n0\r\n\r\n", b"hello", 0),
            (b"5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n", b"hello world", 0),
            (b"005\r\nhello\r\n000\r\n\r\n", b"hello", 0),
            (b"A\r\n0123456789\r\na\r\n0123456789\r\n0\r\n\r\n", b"01234567890123456789", 0),
            (b"1;a\r\nx\r\n0;b=c;d=\"e f\"\r\n\r\n", b"x", 0),
            (b"1;a=\"b\\\"c;\\\\\";d=\"\"\r\nx\r\n0\r\n\r\n", b"x", 0),
            (b"1 ;a\r\nx\r\n1\t; \ta = b\r\ny\r\n0\r\n\r\n", b"xy", 0),
            (b"00000000000000000001\r\nx\r\n0000000000000000\r\n\r\n", b"x", 0),
            (b"1\r\nx\r\n0\r\nX-T: 1\r\nY:\r\n\r\n", b"x", 0),
            (b"2\r\n\r\n\r\n0\r\n\r\nGET / HTTP/1.1\r\n", b"\r\n", 16),
        ] {
            let shown = String::from_utf8_lossy(body);
            assert_eq!(decoded(body), Ok((data.to_vec(), body.len() - rest)), "{shown:?}");
        }
    }

    #[test]
    fn invalid_bodies_are_refused() {
        for body in [
            &b"\r\n0\r\n\r\n"[..],
            b" 5\r\nhello\r\n0\r\n\r\n",
            b"5 \r\nhello\r\n0\r\n\r\n",
            b"5\t\r\nhello\r\n0\r\n\r\n",
            b"5 0;a\r\nhello\r\n0\r\n\r\n",
            b" ;a\r\n0\r\n\r\n",
            b"5; \r\nhello\r\n0\r\n\r\n",
            b"+5\r\nhello\r\n0\r\n\r\n",
            b"-5\r\nhello\r\n0\r\n\r\n",
            b"0x5\r\nhello\r\n0\r\n\r\n",
            b"5_\r\nhello\r\n0\r\n\r\n",
            b"g\r\nhello\r\n0\r\n\r\n",
            b"5\nhello\r\n0\r\n\r\n",
            b"5\rhello\r\n0\r\n\r\n",
            b"5\r\nhello\n0\r\n\r\n",
            b"5\r\nhello!\r\n0\r\n\r\n",
            b"5\r\nhello0\r\n\r\n",
            b"5;\r\nhello\r\n0\r\n\r\n",
            b"5;a\nhello\r\n0\r\n\r\n",
            b"5;a=\0\r\nhello\r\n0\r\n\r\n",
            b"5;a=\"b\r\nhello\r\n0\r\n\r\n",
            b"5;a=\"b\\\"\r\nhello\r\n0\r\n\r\n",
            b"5;a=\"b\\\r\nhello\r\n0\r\n\r\n",
            b"0\r\n\n",
            b"0\n\r\n",
            b"0\r\n\r\r",
            b"0\r\n X: 1\r\n\r\n",
            b"0\r\nX 1\r\n\r\n",
            b"0\r\nX : 1\r\n\r\n",
            b"0\r\n: 1\r\n\r\n",
            b"0\r\nX: 1\n\r\n",
            b"0\r\nX: \0\r\n\r\n",
            b"fffffffffffffffff\r\n",
        ] {
            assert_eq!(decoded(body), Err(BodyError::Chunks), "{:?}", String::from_utf8_lossy(body));
        }
    }

    #[test]
    fn a_truncated_body_is_not_complete() {
        for body in
            [&b"5\r\nhel"[..], b"5\r\nhello\r\n", b"5\r\nhello\r\n0\r\n", b"5\r\nhello\r\n0\r\n\r", b"5"]
        {
            assert_eq!(decoded(body), Err(BodyError::Truncated));
        }
    }

    #[test]
    fn the_total_size_of_extensions_and_trailers_is_limited() {
        let extension = format!("1;{}\r\nx\r\n", "a".repeat(1000));
        assert_eq!(decoded_whole(&format!("{}0\r\n\r\n", extension.repeat(66))), Err(BodyError::Chunks));
        assert_eq!(decoded_whole(&format!("{}0\r\n\r\n", extension.repeat(65))), Ok(65));
        let trailers = format!("0\r\n{}\r\n", "X-Trailer: abcdefghij\r\n".repeat(4000));
        assert_eq!(decoded_whole(&trailers), Err(BodyError::Chunks));
    }

    fn decoded_whole(body: &str) -> Result<usize, BodyError> {
        let mut bytes = body.as_bytes().to_vec();
        Chunked::new().decode(&mut bytes).map(|piece| piece.end - piece.start)
    }
}
