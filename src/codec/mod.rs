//! The HTTP/1.1 message format: heads, framing, bodies. Clients and iMIS use the same code, so a message has one
//! meaning.
//!
//! Ambiguous messages are refused, never repaired (RFC 9112 sections 2.2, 5.1, 6.3, 7.1). Field lines are forwarded
//! byte for byte. httparse splits heads into tokens.

pub(crate) mod body;
mod chunked;
pub(crate) mod fields;
pub(crate) mod message;
pub(crate) mod head;
pub(crate) mod request_head;
pub(crate) mod transfer;

pub(crate) use message::{Length, Version};
