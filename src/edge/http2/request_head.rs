//! The head of a request over HTTP/2 (RFC 9113 section 8.3).

use http::HeaderMap;
use http::header::{CONTENT_LENGTH, EXPECT, HOST};
use http::request::Parts;
use http::uri::Authority;

use crate::codec::Length;
use crate::codec::fields::{self, decimal};
use crate::codec::head::{self, is_refused};
use crate::codec::message::HeadError;
use crate::codec::request_head::RequestHead;
use crate::request::client_stream::Refusal;
use crate::request::error_page::Failure;

/// The authority from `:authority` or Host. If there are both, they must agree (RFC 9113 section 8.3.1).
pub(super) fn authority(request: &Parts) -> Option<Authority> {
    let mut lines = request.headers.get_all(HOST).iter();
    let from_host = match (lines.next(), lines.next()) {
        (None, _) => None,
        (Some(host), None) => Some(Authority::try_from(host.as_bytes()).ok()?),
        (Some(_), Some(_)) => return None,
    };
    match (request.uri.authority(), from_host) {
        (Some(target), Some(host)) if *target != host => None,
        (Some(target), _) => Some(target.clone()),
        (None, host) => host,
    }
}

/// Validates the head. `authority`: the result of `authority`.
pub(super) fn read<'a>(
    request: &'a Parts,
    authority: Option<&'a Authority>,
    has_body: bool,
) -> Result<RequestHead<'a, &'a HeaderMap>, Refusal> {
    let method = request.method.as_str();
    if is_refused(method) {
        return Err(Refusal::Page(Failure::Malformed(HeadError::Method)));
    }
    let authority = authority.and_then(|authority| head::Authority::parse(authority.as_str().as_bytes()));
    let authority = authority.ok_or(Refusal::Reset)?;
    let target = request.uri.path_and_query().map_or("/", |target| target.as_str());
    if !is_well_formed(request) || !head::is_path(method, target) {
        return Err(Refusal::Reset);
    }
    let content_length = content_length(request)?;
    let length = match (content_length, has_body) {
        (Some(bytes), true) => Length::Known(bytes),
        (None, true) => Length::Chunked,
        (Some(0) | None, false) => Length::Known(0),
        (Some(_), false) => return Err(Refusal::Page(Failure::BadRequest)),
    };
    Ok(RequestHead {
        method,
        target,
        authority: Some(authority),
        has_host: false,
        fields: &request.headers,
        length,
        has_length: content_length.is_some(),
        named_by_connection: &[],
        wants_websocket: false,
    })
}

/// Whether there is a scheme, no field name has a quotation mark (the http crate accepts it in addition to RFC 9110
/// section 5.6.2), and no value begins or ends with white space (RFC 9113 sections 8.2.1 and 8.3.1).
fn is_well_formed(request: &Parts) -> bool {
    let blank = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    let mut fields = request.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
    request.uri.scheme_str().is_none_or(|scheme| !scheme.is_empty())
        && fields.all(|(name, value)| !name.contains('"') && !blank(value.first()) && !blank(value.last()))
}

fn content_length(request: &Parts) -> Result<Option<u64>, Refusal> {
    let mut lines = request.headers.get_all(CONTENT_LENGTH).iter();
    let length = match (lines.next(), lines.next()) {
        (None, _) => return Ok(None),
        (Some(digits), None) => decimal(digits.as_bytes()),
        (Some(_), Some(_)) => None,
    };
    length.map(Some).ok_or(Refusal::Page(Failure::BadRequest))
}

/// Whether the client waits for `100 Continue` before it sends its body.
pub(super) fn expects_continue(request: &Parts) -> bool {
    request.headers.get_all(EXPECT).iter().any(|value| fields::expects_continue(value.as_bytes()))
}
