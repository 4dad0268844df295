//! A piece of a message body, and why there is none.

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
