//! Response heads: from HTTP/1, as iMIS sends them, to HTTP/2.

use bytes::Bytes;
use http::header::{DATE, Entry, HeaderName, HeaderValue, LOCATION, SET_COOKIE, STRICT_TRANSPORT_SECURITY};
use http::{HeaderMap, Response, StatusCode, Version};

use crate::base::clock;
use crate::codec::fields::FieldAction;
use crate::codec::head;
use crate::codec::message::HeadError;
use crate::proxy::error::UpstreamError;
use crate::proxy::headers::{self, HeadChanges};

/// Converts an HTTP/1 response head. `bytes`: the head as it was received.
pub(super) fn convert(head: &head::Response<'_, '_>, bytes: &[u8]) -> Result<Response<()>, UpstreamError> {
    let shared = Bytes::copy_from_slice(bytes);
    let start = bytes.as_ptr().addr();
    let mut converted = new(StatusCode::from_u16(head.status).map_err(|_| malformed("the status"))?);
    let headers = converted.headers_mut();
    headers.reserve(head.fields.len());
    for (name, value) in head.fields.pairs() {
        if headers::action_in_response(name, &head.named_by_connection, head.status) == FieldAction::Keep {
            let from = value.as_ptr().addr() - start;
            let value = HeaderValue::from_maybe_shared(shared.slice(from..from + value.len()))
                .map_err(|_| malformed("a field"))?;
            let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| malformed("a field name"))?;
            headers.append(name, value);
        }
    }
    Ok(converted)
}

/// Applies the gateway's own changes, and adds a missing Date (RFC 9110 section 6.6.1).
pub(super) fn apply(changes: &HeadChanges<'_>, headers: &mut HeaderMap) -> Result<(), UpstreamError> {
    let field_value = |value, name| HeaderValue::from_str(value).map_err(|_| malformed(name));
    if let Entry::Vacant(date) = headers.entry(DATE) {
        date.insert(HeaderValue::try_from(clock::http_date()).map_err(|_| malformed("the date"))?);
    }
    if let Some(location) = changes.location {
        headers.insert(LOCATION, field_value(location, "Location")?);
    }
    if let Some(hsts) = changes.hsts
        && let Entry::Vacant(entry) = headers.entry(STRICT_TRANSPORT_SECURITY)
    {
        entry.insert(field_value(hsts, "Strict-Transport-Security")?);
    }
    for cookie in changes.set_cookies.iter().flatten() {
        headers.append(SET_COOKIE, field_value(cookie, "Set-Cookie")?);
    }
    Ok(())
}

fn malformed(what: &'static str) -> UpstreamError {
    UpstreamError::Malformed(HeadError::Malformed(what))
}

/// A response head of HTTP/2 without fields.
pub(super) fn new(status: StatusCode) -> Response<()> {
    let mut response = Response::new(());
    *response.status_mut() = status;
    *response.version_mut() = Version::HTTP_2;
    response
}
