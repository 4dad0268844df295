//! The chunked transfer coding (RFC 9112 section 7.1), read strictly: one spelling of every size, CR LF at every end,
//! extensions and trailers looked at, dropped, and bounded in all.

use crate::codec::body_piece::{BodyError, Piece};

/// Extensions and trailers of one body, together, in bytes.
const MAX_ASIDE: u32 = 64 * 1024;
/// Hexadecimal digits of a size; 2^60 bytes are more than anybody sends.
const MAX_DIGITS: u8 = 15;

/// Where in a chunked body we are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Before a size.
    Start,
    Size,
    /// Blanks behind a size, before the `;` that has to follow (RFC 9112 section 7.1.1).
    SizeBlank,
    /// Behind `;`: a name has to follow.
    ExtensionStart,
    Extension,
    /// Inside a quoted string of an extension.
    Quoted,
    /// Behind a backslash in a quoted string.
    QuotedPair,
    SizeLf,
    Data,
    DataCr,
    DataLf,
    /// At the beginning of a trailer line, or of the empty line at the end.
    TrailerStart,
    TrailerName,
    TrailerValue,
    TrailerLf,
    EndLf,
    End,
}

/// Takes chunks apart.
#[derive(Debug)]
pub(crate) struct Chunked {
    state: State,
    /// Of the current chunk: its size while that is read, then what is left of its data.
    left: u64,
    digits: u8,
    aside: u32,
}

impl Chunked {
    pub(crate) fn new() -> Self {
        Self { state: State::Start, left: 0, digits: 0, aside: 0 }
    }

    pub(crate) fn is_over(&self) -> bool {
        self.state == State::End
    }

    /// Takes what `bytes` hold of the body. The data of all chunks in them is moved together.
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
                // The first data stays where it is.
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
            (State::Size | State::SizeBlank, b' ' | b'\t') => self.aside(State::SizeBlank)?,
            (State::ExtensionStart, b' ' | b'\t') => self.aside(State::ExtensionStart)?,
            (State::ExtensionStart, byte) if is_token(byte) => self.aside(State::Extension)?,
            (State::Extension, b'\r') => State::SizeLf,
            (State::Extension, b'"') => self.aside(State::Quoted)?,
            (State::Quoted, b'"') => self.aside(State::Extension)?,
            (State::Quoted, b'\\') => self.aside(State::QuotedPair)?,
            (State::Quoted | State::QuotedPair, byte) if is_text(byte) => self.aside(State::Quoted)?,
            (State::Extension, byte) if is_text(byte) => self.aside(State::Extension)?,
            (State::SizeLf, b'\n') if self.left == 0 => State::TrailerStart,
            (State::SizeLf, b'\n') => State::Data,
            (State::DataCr, b'\r') => State::DataLf,
            (State::DataLf, b'\n') => {
                self.digits = 0;
                State::Start
            }
            (State::TrailerStart, b'\r') => State::EndLf,
            (State::TrailerStart | State::TrailerName, byte) if is_token(byte) => {
                self.aside(State::TrailerName)?
            }
            (State::TrailerName, b':') => self.aside(State::TrailerValue)?,
            (State::TrailerValue, b'\r') => State::TrailerLf,
            (State::TrailerValue, byte) if is_text(byte) => self.aside(State::TrailerValue)?,
            (State::TrailerLf, b'\n') => State::TrailerStart,
            (State::EndLf, b'\n') => State::End,
            _ => return Err(BodyError::Chunks),
        };
        Ok(())
    }

    fn digit(&mut self, byte: u8) -> Result<State, BodyError> {
        if self.left == 0 {
            // Zeros in front mean nothing, and cost as much as an extension.
            self.digits = 0;
            self.aside(State::Size)?;
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

    fn aside(&mut self, next: State) -> Result<State, BodyError> {
        self.aside += 1;
        if self.aside > MAX_ASIDE { Err(BodyError::Chunks) } else { Ok(next) }
    }
}

/// `tchar` (RFC 9110 section 5.6.2).
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// What a field value or a quoted string may hold.
fn is_text(byte: u8) -> bool {
    byte == b'\t' || (byte >= b' ' && byte != 0x7f)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The data, and how many bytes the body took; fed in pieces of every size.
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
    fn well_formed_bodies_are_read_however_they_are_cut() {
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
    fn anything_else_is_refused() {
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
    fn a_body_that_ends_early_is_not_over() {
        for body in
            [&b"5\r\nhel"[..], b"5\r\nhello\r\n", b"5\r\nhello\r\n0\r\n", b"5\r\nhello\r\n0\r\n\r", b"5"]
        {
            assert_eq!(decoded(body), Err(BodyError::Truncated));
        }
    }

    #[test]
    fn extensions_and_trailers_are_bounded_in_all() {
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
