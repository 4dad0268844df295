//! Errors in message heads.

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
