//! Removes the framing of a message body (RFC 9112 section 6).

use crate::codec::chunked::{BodyError, Chunked, Piece};
use crate::codec::message::Length;

/// The position in a body.
#[derive(Debug)]
pub(crate) enum Decoder {
    Known(u64),
    Chunked(Chunked),
    UntilClose,
    Over,
}

impl Decoder {
    pub(crate) fn new(length: Length) -> Self {
        match length {
            Length::Known(0) => Self::Over,
            Length::Known(bytes) => Self::Known(bytes),
            Length::Chunked => Self::Chunked(Chunked::new()),
            Length::UntilClose => Self::UntilClose,
        }
    }

    pub(crate) fn is_over(&self) -> bool {
        matches!(self, Self::Over)
    }

    /// Decodes the part of the body at the start of `bytes`.
    pub(crate) fn decode(&mut self, bytes: &mut [u8]) -> Result<Piece, BodyError> {
        let piece = match self {
            Self::Over => Piece { start: 0, end: 0, taken: 0 },
            Self::UntilClose => Piece { start: 0, end: bytes.len(), taken: bytes.len() },
            Self::Known(left) => {
                let here = usize::try_from(*left).map_or(bytes.len(), |left| left.min(bytes.len()));
                *left -= here as u64;
                Piece { start: 0, end: here, taken: here }
            }
            Self::Chunked(chunked) => chunked.decode(bytes)?,
        };
        let over = match self {
            Self::Known(left) => *left == 0,
            Self::Chunked(chunked) => chunked.is_over(),
            Self::UntilClose | Self::Over => false,
        };
        if over {
            *self = Self::Over;
        }
        Ok(piece)
    }

    /// Ends the body at the end of the connection.
    pub(crate) fn end_of_connection(&mut self) -> Result<(), BodyError> {
        match self {
            Self::UntilClose => *self = Self::Over,
            Self::Over => {}
            Self::Known(_) | Self::Chunked(_) => return Err(BodyError::Truncated),
        }
        Ok(())
    }
}
