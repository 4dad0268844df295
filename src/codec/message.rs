//! Version and body length of a message, and errors in its head.

/// The supported versions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Version {
    Http10,
    Http11,
}

/// How the end of a body is determined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Length {
    /// In bytes. 0: there is no body.
    Known(u64),
    Chunked,
    /// Responses only: the end of the connection is the end of the body.
    UntilClose,
}

/// Why a head is invalid. The messages never quote the head.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HeadError {
    #[error("malformed: {0}")]
    Malformed(&'static str),
    #[error("neither HTTP/1.0 nor HTTP/1.1")]
    Version,
    #[error("a transfer coding other than chunked")]
    Coding,
    #[error("a method that is not for here")]
    Method,
    #[error("the head is too large")]
    TooLarge,
    #[error("the request target is too long")]
    TargetTooLong,
}
