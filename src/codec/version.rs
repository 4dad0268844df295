//! The HTTP/1 versions.

/// The two versions that are spoken here; both frame messages in the same way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Version {
    Http10,
    Http11,
}
