//! How long a message body is (RFC 9112 section 6).

/// How the end of a body is recognised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Length {
    /// Bytes; 0 for no body.
    Known(u64),
    Chunked,
    /// Responses only: the end of the connection is the end of the body.
    UntilClose,
}
