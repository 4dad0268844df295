//! A decoded piece of a message body.

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
