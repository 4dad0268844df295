//! The length of a message body (RFC 9112 section 6).

/// How the end of a body is determined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Length {
    /// In bytes. 0: there is no body.
    Known(u64),
    Chunked,
    /// Responses only: the end of the connection is the end of the body.
    UntilClose,
}
