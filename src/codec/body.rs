//! The body of a message: how long it is, and its data without the framing (RFC 9112 section 6).

use crate::codec::chunked::Chunked;

/// How the end of a body is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Length {
    /// Bytes; 0 for no body.
    Known(u64),
    Chunked,
    /// Responses only: the end of the connection is the end of the body.
    UntilClose,
}

/// Why a body cannot be read on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BodyError {
    #[error("malformed chunks")]
    Chunks,
    #[error("the connection ended within the body")]
    Truncated,
}

/// What some bytes held of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Piece {
    /// The data stands in `start..end` of the bytes.
    pub(crate) start: usize,
    pub(crate) end: usize,
    /// Bytes that belong to the body, from the first one on.
    pub(crate) taken: usize,
}

/// Where in a body we are.
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

    /// Takes what `bytes` hold of the body.
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

    /// The connection has ended.
    pub(crate) fn end_of_connection(&mut self) -> Result<(), BodyError> {
        match self {
            Self::UntilClose => *self = Self::Over,
            Self::Over => {}
            Self::Known(_) | Self::Chunked(_) => return Err(BodyError::Truncated),
        }
        Ok(())
    }
}
