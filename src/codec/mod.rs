//! HTTP/1.1 as bytes: heads, framing, bodies. Used towards clients and towards iMIS alike, so there is one meaning of a
//! message.
//!
//! Strict: what two readers could read in two ways is refused, never repaired (RFC 9112 sections 2.2, 5.1, 6.3, 7.1).
//! Field lines are kept as they came, so that they can go on byte for byte. Tokenising is httparse's.

pub(crate) mod body;
pub(crate) mod body_piece;
mod chunked;
pub(crate) mod fields;
pub(crate) mod length;
pub(crate) mod version;
pub(crate) mod head;
pub(crate) mod head_error;
pub(crate) mod request_head;
pub(crate) mod transfer;

pub(crate) use length::Length;
pub(crate) use version::Version;
