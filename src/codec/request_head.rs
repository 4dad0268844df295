//! A valid request head, independent of the protocol.

use http::HeaderMap;

use crate::codec::fields::{FieldAction, Fields};
use crate::codec::head::{Authority, Request};
use crate::codec::message::Length;

/// The header fields of a message, in order.
pub(crate) trait HeaderFields: Copy {
    /// Names and values.
    fn pairs(&self) -> impl Iterator<Item = (&str, &[u8])>;

    /// Writes the fields for which `action` returns `Keep`, as HTTP/1 lines.
    fn write(&self, out: &mut Vec<u8>, action: impl FnMut(&str) -> FieldAction);

    /// The value of the first field with this name.
    fn first(&self, name: &str) -> Option<&[u8]> {
        self.pairs().find(|(other, _)| other.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }
}

impl HeaderFields for Fields<'_, '_> {
    fn pairs(&self) -> impl Iterator<Item = (&str, &[u8])> {
        Fields::pairs(*self)
    }

    fn write(&self, out: &mut Vec<u8>, action: impl FnMut(&str) -> FieldAction) {
        Fields::write(*self, out, action);
    }
}

impl HeaderFields for &HeaderMap {
    fn pairs(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.iter().map(|(name, value)| (name.as_str(), value.as_bytes()))
    }

    fn write(&self, out: &mut Vec<u8>, mut action: impl FnMut(&str) -> FieldAction) {
        for (name, value) in self.pairs() {
            if action(name) == FieldAction::Keep {
                for part in [name.as_bytes(), b": ", value, b"\r\n"] {
                    out.extend_from_slice(part);
                }
            }
        }
    }
}

/// A valid request head.
pub(crate) struct RequestHead<'a, F> {
    pub(crate) method: &'a str,
    /// Path and query, or `*`.
    pub(crate) target: &'a str,
    /// The host that the request is for. Optional in HTTP/1.0.
    pub(crate) authority: Option<Authority<'a>>,
    /// `fields` contain a Host for the upstream.
    pub(crate) has_host: bool,
    pub(crate) fields: F,
    pub(crate) length: Length,
    /// `fields` contain the length.
    pub(crate) has_length: bool,
    /// The options of `Connection` other than `close` and `keep-alive`: names of hop-by-hop headers.
    pub(crate) named_by_connection: &'a [&'a str],
    pub(crate) wants_websocket: bool,
}

impl<'a, F> RequestHead<'a, F> {
    pub(crate) fn path(&self) -> &'a str {
        self.target.split_once('?').map_or(self.target, |(path, _)| path)
    }

    pub(crate) fn query(&self) -> &'a str {
        self.target.split_once('?').map_or("", |(_, query)| query)
    }
}

impl<'a> RequestHead<'a, Fields<'a, 'a>> {
    /// The head of an HTTP/1 request.
    pub(crate) fn of(request: &'a Request<'a, 'a>, wants_websocket: bool) -> Self {
        Self {
            method: request.method,
            target: &request.target,
            authority: request.authority,
            has_host: request.has_host,
            fields: request.fields,
            length: request.length,
            has_length: request.has_length,
            named_by_connection: &request.named_by_connection,
            wants_websocket,
        }
    }
}
